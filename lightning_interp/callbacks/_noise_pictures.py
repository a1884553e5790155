"""What pictures of noise show: shares of what was learned where enough was learned, and drift by its two sites."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from lightning_interp.reporting.titles import measure_title

__all__ = ["CLEAR", "Learned", "curve_panels", "drift_panels", "note_on_shares"]

CLEAR = 4.0
"""A difference of so many half-widths of its noise is clear."""

Line: TypeAlias = tuple[Sequence[int], Sequence[float]]
Lines: TypeAlias = Mapping[str, Line]
Series: TypeAlias = Callable[[str], Line]


@dataclass(frozen=True)
class Learned:
    """What a monitor had gained at each reading, and how much of that its noise makes.

    A share of what was learned is a difference over this gain. Where the gain is small, a share above 1 or below 0 is
    the noise of a small number, so shares are shown from ``CLEAR`` half-widths on.

    Args:
        gains: Step → the monitor without noise less its start, positive where it is better.
        width: The half-width of the 95 % interval of a gain; NaN where it is not known.

    Example:
        >>> learned = Learned({10: 0.03, 20: 0.5}, width=0.02)
        >>> learned.clear(10), learned.clear(20), round(learned.doubt(20), 2)
        (False, True, 0.04)

    """

    gains: Mapping[int, float]
    width: float

    def clear(self, step: int) -> bool:
        """Whether a share says something at a step."""
        return step not in self.gains or math.isnan(self.width) or self.gains[step] >= CLEAR * self.width

    def doubt(self, step: int) -> float:
        """By how much noise alone may move a share there."""
        gain = self.gains.get(step, math.inf)
        return self.width / gain if gain > 0 and self.width == self.width else 0.0

    def shown(self, line: Line) -> Line:
        """The part of a line of shares that says something."""
        kept = [(step, value) for step, value in zip(*line, strict=True) if self.clear(step)]
        return [step for step, _ in kept], [value for _, value in kept]


def note_on_shares(shares: Sequence[tuple[Learned, int, Sequence[float]]], left_out: int) -> str | None:
    """Say what was left out, and what a share above 1 means.

    Args:
        shares: What was learned, step and shares of each reading that is shown.
        left_out: How many readings are not.

    Example:
        >>> learned = Learned({10: 1.0}, width=0.1)
        >>> note_on_shares([(learned, 10, [1.0, 1.05])], 0)
        'Above 1 by no more than the noise of the metric.'
        >>> note_on_shares([(learned, 10, [1.0, 1.2])], 0)
        'Above 1 by more than its noise: the metric is better with noise than without.'

    """
    said = []
    if left_out:
        lines = "1 line" if left_out == 1 else f"{left_out} lines"
        said.append(f"Left out: {lines} of readings by which less was learned than {CLEAR:g} times the metric's noise.")
    above = [(learned.doubt(step), max(values)) for learned, step, values in shares if values and max(values) > 1]
    if any(value > 1 + doubt for doubt, value in above):
        said.append("Above 1 by more than its noise: the metric is better with noise than without.")
    elif above:
        said.append("Above 1 by no more than the noise of the metric.")
    return " ".join(said) or None


def curve_panels(
    monitors: Sequence[str], sites: Sequence[str], series: Series, learned: Mapping[str, Learned]
) -> dict[str, dict[str, Line]]:
    """For each monitor the share that survives and its value under noise, a line a site.

    Args:
        monitors: Names of monitors.
        sites: Where noise is added.
        series: Key → steps and values.
        learned: Monitor → what it had gained, where that is known.

    """
    panels: dict[str, dict[str, Line]] = {}
    for monitor in monitors:
        shares = {site: series(f"robustness/{site}/{monitor}") for site in sites}
        if monitor in learned:
            shares = {site: learned[monitor].shown(line) for site, line in shares.items()}
        panels[f"{measure_title('robustness')}: {monitor}"] = shares
        under = {site: series(f"under_noise/{site}/{monitor}") for site in sites}
        panels[f"{monitor} under noise"] = under
    return with_readings(panels)


def drift_panels(
    sites: Sequence[str], downstream: Sequence[str], scales: Sequence[float], series: Series
) -> dict[str, dict[str, Line]]:
    """How far representations turn, a panel for where noise is added and where it is read, a line a scale."""
    return with_readings(
        {
            f"drift of {down}, noise at {site}": {
                f"scale {scale:g}": series(f"drift/{site}/{down}/{scale:g}") for scale in scales
            }
            for down in downstream
            for site in sites
        }
    )


def with_readings(panels: Mapping[str, Lines]) -> dict[str, dict[str, Line]]:
    """Panels in which there is something."""
    return {panel: dict(lines) for panel, lines in panels.items() if any(len(at) for at, _ in lines.values())}
