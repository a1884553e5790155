"""Accuracy on what a model is most confident of, over training."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
from matplotlib.figure import Figure

from lightning_interp.figures._style import finite, new_figure, step_bar, step_colours

__all__ = ["selective_accuracy_curve"]

Curves: TypeAlias = Sequence[tuple[int, Sequence[float] | np.ndarray[Any, Any]]]


def selective_accuracy_curve(curves: Curves, title: str | None = None) -> Figure:
    """Draw accuracy against the share of predictions that are answered, the most confident first, a line a reading.

    A curve that falls to the right says that confidence tells right from wrong; a flat one, that it does not. At the
    right end stands plain accuracy.

    Args:
        curves: Step and accuracies of each reading, steps increasing: at coverages 1/C, 2/C, … 1, shape (C,).
        title: The heading of the figure.

    Returns:
        A figure that pyplot does not know of: it is freed with its last reference.

    Raises:
        ValueError: If there is no curve, steps do not increase, or a curve is empty.

    Cost:
        25 ms, and 100 ms more to render it to pixels (one slow core).

    Example:
        >>> figure = selective_accuracy_curve([(10, [1.0, 0.9, 0.8, 0.7])])
        >>> figure.axes[0].lines[0].get_xdata().tolist()
        [0.25, 0.5, 0.75, 1.0]

    """
    steps = [step for step, _ in curves]
    if not curves or any(after <= before for before, after in pairwise(steps)):
        raise ValueError(f"curves has the steps {steps}; expected at least one, and increasing steps.")
    lines = [finite(np.asarray(given)) for _, given in curves]
    if any(one.ndim != 1 or not len(one) for one in lines):
        raise ValueError(f"curves has the shapes {[one.shape for one in lines]}; expected (coverages,).")
    figure = new_figure(width=4.6 if len(steps) == 1 else 5.2, height=3.6)
    axes = figure.subplots()
    colours = step_colours(steps)
    for step, line in zip(steps, lines, strict=True):
        last = step == steps[-1]
        at = np.arange(1, len(line) + 1) / len(line)
        axes.plot(
            at, line, color=colours.to_rgba(np.asarray(step)), linewidth=2 if last else 1.2, zorder=3 if last else 2
        )
    axes.set_xlim(0, 1.01)
    axes.set_xlabel("coverage (share answered, most confident first)", fontsize=9)
    axes.set_ylabel("accuracy", fontsize=9)
    axes.tick_params(labelsize=8)
    axes.grid(color="0.92", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    if len(steps) > 1:
        step_bar(figure, [axes], colours, steps)
    if title:
        axes.set_title(title, fontsize=11)
    return figure
