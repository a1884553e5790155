"""Accuracy against confidence, over training: the reliability diagram."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
from matplotlib.figure import Figure

from lightning_interp.figures._style import finite, new_figure, step_bar, step_colours

__all__ = ["reliability_diagram"]

Bins: TypeAlias = Sequence[tuple[int, Sequence[Sequence[float]] | np.ndarray[Any, Any]]]


def reliability_diagram(readings: Bins, title: str | None = None) -> Figure:
    """Draw accuracy against confidence, bin by bin, a line a reading (DeGroot & Fienberg 1983; Guo et al. 2017).

    On the diagonal confidence is what accuracy is; below it the model is over-confident. The last reading has a marker
    a bin, with a bar to the diagonal that shows the gap; below stand the shares of its predictions. Bins without
    predictions are left out.

    Args:
        readings: Step and sums of each reading, steps increasing: predictions, confidences and right ones by bin, shape
            (3, bins), as :class:`~lightning_interp.functional.CalibrationBins`.
        title: The heading of the figure.

    Returns:
        A figure that pyplot does not know of: it is freed with its last reference.

    Raises:
        ValueError: If there is no reading, steps do not increase, or shapes are others.

    Cost:
        30 ms, and 150 ms more to render it to pixels (one slow core).

    Example:
        >>> figure = reliability_diagram([(10, [[5, 5], [1.0, 4.5], [2, 3]])], "head")
        >>> figure.axes[0].get_ylabel(), figure.axes[1].get_xlabel()
        ('accuracy', 'confidence')

    """
    steps = [step for step, _ in readings]
    if not readings or any(after <= before for before, after in pairwise(steps)):
        raise ValueError(f"readings has the steps {steps}; expected at least one, and increasing steps.")
    sums = [finite(np.asarray(given)) for _, given in readings]
    wrong = [one.shape for one in sums if one.ndim != 2 or one.shape[0] != 3]
    if wrong:
        raise ValueError(f"readings has the shape {wrong[0]}; expected (3, bins).")
    figure = new_figure(width=4.6 if len(steps) == 1 else 5.2, height=5.4)
    above, below = figure.subplots(2, 1, height_ratios=(4, 1), sharex=True)
    above.plot([0, 1], [0, 1], color="0.6", linewidth=1, linestyle="--", zorder=1)
    colours = step_colours(steps)
    for step, one in zip(steps, sums, strict=True):
        confidence, accuracy = _means(one)
        last = step == steps[-1]
        there = ~np.isnan(confidence)
        above.plot(
            confidence[there],
            accuracy[there],
            color=colours.to_rgba(np.asarray(step)),
            linewidth=1.8 if last else 1.2,
            marker="o" if last or there.sum() == 1 else None,
            markersize=5 if last else 3.5,
            zorder=4 if last else 3,
        )
        if last:
            above.vlines(confidence, accuracy, confidence, color="#D55E00", linewidth=3, alpha=0.35, zorder=2)
    edges = np.linspace(0, 1, sums[-1].shape[1] + 1)
    total = sums[-1][0].sum()
    shares = sums[-1][0] / total if total > 0 else np.zeros(len(edges) - 1)
    below.bar(edges[:-1], shares, np.diff(edges), align="edge", color="0.7", edgecolor="white", linewidth=0.5)
    above.set_ylim(-0.02, 1.02)
    above.set_xlim(0, 1)
    above.set_ylabel("accuracy", fontsize=9)
    below.set_ylabel("share, last" if len(steps) > 1 else "share", fontsize=9)
    below.set_xlabel("confidence", fontsize=9)
    for axes in (above, below):
        axes.tick_params(labelsize=8)
        axes.grid(color="0.92", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    if len(steps) > 1:
        step_bar(figure, [above, below], colours, steps)
    if title:
        figure.suptitle(title, fontsize=11)
    return figure


def _means(sums: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    with np.errstate(invalid="ignore", divide="ignore"):
        return finite(sums[1] / sums[0]), finite(sums[2] / sums[0])
