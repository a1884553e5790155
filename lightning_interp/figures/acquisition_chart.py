"""When each of several things was acquired, one row a thing, on a logarithmic scale of steps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from lightning_interp.figures._style import log_step_axis, new_figure, shorten_all
from lightning_interp.functional.acquisition import Acquisition

__all__ = ["acquisition_chart"]

_DOT = "#0072B2"


def acquisition_chart(
    acquired: Mapping[str, Sequence[Acquisition]], title: str | None = None, steps: Sequence[int] = ()
) -> Figure:
    """Draw a row for each thing, the earliest at the top: a dot where it was acquired, a bar over the readings between.

    Several acquisitions of one thing, such as those of several seeds, are several dots in its row; rows are ordered by
    their median. What was never acquired is at the bottom, and its row says so.

    Args:
        acquired: Name → its acquisitions, from :func:`lightning_interp.functional.acquisition_step`; NaN for never.
        title: The heading.
        steps: Steps that the axis must hold, such as those of the readings.

    Returns:
        A figure that pyplot does not know of: it is freed with its last reference.

    Raises:
        ValueError: If there is no row, or a row without an acquisition.

    Cost:
        40 ms, and 150 ms more to render 20 rows to pixels (one slow core).

    Example:
        >>> noun, verb = Acquisition(80.0, 50.0, 100.0), Acquisition(20.0, 10.0, 30.0)
        >>> figure = acquisition_chart({"noun": [noun], "verb": [verb]})
        >>> [tick.get_text() for tick in figure.axes[0].get_yticklabels()]
        ['verb', 'noun']

    """
    if not acquired or not all(acquired.values()):
        raise ValueError(f"`acquired` must have a row, and each an acquisition; it is {dict(acquired)}.")
    names = sorted(acquired, key=lambda name: _median(acquired[name]))
    labels = shorten_all(names, 32)
    figure = new_figure(
        width=min(5.0 + 0.075 * max(map(len, labels)), 13), height=min(1.3 + 0.26 * max(len(names), 3), 14)
    )
    axes = figure.subplots()
    within = [float(step) for step in steps]
    for row, name in enumerate(names):
        known = [one for one in acquired[name] if not math.isnan(one.step)]
        never = len(acquired[name]) - len(known)
        spread = [row + 0.3 * (place / max(len(known) - 1, 1) - 0.5) * (len(known) > 1) for place in range(len(known))]
        axes.hlines(
            spread, [one.low for one in known], [one.high for one in known], color=_DOT, alpha=0.35, linewidth=4
        )
        axes.plot([one.step for one in known], spread, "o", color=_DOT, markersize=5, markeredgewidth=0)
        within += [step for one in known for step in (one.low, one.high)]
        if never:
            text = "never" if not known else f"never in {never} of {len(acquired[name])}"
            axes.annotate(
                text, (1, row), (4, 0), ("axes fraction", "data"), "offset points",
                ha="left", va="center", fontsize=7.5, color="0.35",
            )  # fmt: skip
    axes.set_xlabel(log_step_axis(axes, [round(step) for step in within]), fontsize=9)
    every = math.ceil(len(names) / 60)
    axes.set_yticks(range(0, len(names), every), labels[::every], fontsize=8)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(axis="x", color="0.92", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=2, labelsize=8)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    if title:
        axes.set_title(title, fontsize=11)
    return figure


def _median(acquired: Sequence[Acquisition]) -> float:
    """The median step, never counting as infinity."""
    steps = sorted(math.inf if math.isnan(one.step) else one.step for one in acquired)
    middle = len(steps) // 2
    return steps[middle] if len(steps) % 2 else (steps[middle - 1] + steps[middle]) / 2
