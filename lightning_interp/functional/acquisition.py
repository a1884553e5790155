"""When something was learned, in which order, and whether it was lost again."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch

__all__ = ["Acquisition", "LearnedCurve", "acquisition_order", "acquisition_step", "forgetting_p", "reached"]

Curve = tuple[Sequence[int], Sequence[float]]
"""Steps, increasing, and the value at each."""


class Acquisition(NamedTuple):
    """When a curve came above a level; all NaN where it did not."""

    step: float
    """Estimate between two readings: where the line between them crosses the level, on a logarithmic scale of steps."""
    low: float
    """The last reading below the level; equal to ``high`` where the first reading is above it already."""
    high: float
    """The first reading at or above the level."""


_NEVER = Acquisition(math.nan, math.nan, math.nan)


def reached(steps: Sequence[int], values: Sequence[float], level: float, stays: bool = True) -> Acquisition:
    r"""When a curve came above a level.

    Between the readings i − 1, below the level, and i, at or above it, the step is estimated from

    .. math:: \log(1 + s) = \log(1 + s_{i-1}) + \frac{\ell - v_{i-1}}{v_i - v_{i-1}} \log\frac{1 + s_i}{1 + s_{i-1}}

    Args:
        steps: The step of each reading, increasing from 0 on.
        values: The value at each; NaN where there is none, which is passed over.
        level: The level ℓ.
        stays: Whether the curve must also have stayed there up to the last reading. Else its first visit counts.

    Returns:
        The step, and the readings it lies between.

    Raises:
        ValueError: If steps do not increase or differ in number from the values.

    Example:
        >>> reached([0, 9, 99], [0.0, 0.5, 0.9], level=0.7)
        Acquisition(step=30.6..., low=9.0, high=99.0)
        >>> reached([1, 2, 3, 4], [0.0, 0.8, 0.5, 0.8], level=0.7).high
        4.0
        >>> reached([1, 2, 3, 4], [0.0, 0.8, 0.5, 0.8], level=0.7, stays=False).high
        2.0

    """
    at, known = _known(steps, values)
    if math.isnan(level) or not known:
        return _NEVER
    above = [value >= level for value in known]
    if stays:
        below = [place for place, there in enumerate(above) if not there]
        place = below[-1] + 1 if below else 0
        if place == len(above):
            return _NEVER
    elif any(above):
        place = above.index(True)
    else:
        return _NEVER
    if place == 0:
        return Acquisition(float(at[0]), float(at[0]), float(at[0]))
    before, after = known[place - 1], known[place]
    share = (level - before) / (after - before) if math.isfinite(before) and math.isfinite(after) else 1.0
    low, high = math.log1p(at[place - 1]), math.log1p(at[place])
    return Acquisition(math.expm1(low + share * (high - low)), float(at[place - 1]), float(at[place]))


def acquisition_step(
    steps: Sequence[int],
    values: Sequence[float],
    share: float = 0.9,
    chance: float = 0.0,
    final: float | None = None,
    stays: bool = True,
) -> Acquisition:
    r"""When a curve came to a share of its final level (Chiang et al. 2020, arXiv 2010.02480, with 90 %).

    .. math:: v(s) \ge c + q \, (v_\mathrm{final} - c)

    with c the level of chance and q the share; from that reading on up to the last, so that a visit is not enough.

    Args:
        steps: The step of each reading, increasing from 0 on.
        values: The value at each, more is better; NaN where there is none.
        share: q, above 0 and at most 1.
        chance: c.
        final: The final level; by default the last value.
        stays: Whether the curve must have stayed there; see :func:`reached`.

    Returns:
        The step, and the readings it lies between; NaN where the final level is not above chance.

    Raises:
        ValueError: If ``share`` is out of range, steps do not increase or differ in number from the values.

    Example:
        >>> acquisition_step([1, 10, 100, 1000], [0.0, 0.5, 0.95, 1.0])
        Acquisition(step=77.9..., low=10.0, high=100.0)

    """
    if not 0 < share <= 1:
        raise ValueError(f"`share` must lie above 0 and not above 1, got {share}.")
    _, known = _known(steps, values)
    level = (known[-1] if known else math.nan) if final is None else final
    if not level > chance:
        return _NEVER
    return reached(steps, values, min(chance + share * (level - chance), level), stays)


class LearnedCurve(NamedTuple):
    """How one thing was learned."""

    name: str
    acquired: Acquisition
    """When it came to the share of its final level."""
    first: float
    """The value at the first reading."""
    best: float
    """The best value at any reading."""
    final: float
    """The value at the last reading."""


def acquisition_order(
    curves: Mapping[str, Curve], share: float = 0.9, chance: float | Mapping[str, float] = 0.0
) -> list[LearnedCurve]:
    """What was learned first: curves by their :func:`acquisition_step`, those never acquired last.

    Args:
        curves: Name → (steps, values).
        share: Of the final level above chance.
        chance: The level of chance, of all or by name.

    Raises:
        ValueError: As :func:`acquisition_step`; or if ``chance`` lacks a name.

    Example:
        >>> steps = [1, 10, 100]
        >>> found = acquisition_order({"noun": (steps, [0.0, 0.1, 0.8]), "article": (steps, [0.1, 0.9, 0.9])})
        >>> [one.name for one in found]
        ['article', 'noun']

    """
    found = []
    for name, (steps, values) in curves.items():
        if isinstance(chance, Mapping) and name not in chance:
            raise ValueError(f"`chance` has no level for {name!r}; it has {list(chance)}.")
        level = chance[name] if isinstance(chance, Mapping) else chance
        _, known = _known(steps, values)
        ends = (known[0], max(known), known[-1]) if known else (math.nan, math.nan, math.nan)
        found.append(LearnedCurve(name, acquisition_step(steps, values, share, level), *ends))
    # Sorting is stable: what came at one step keeps its order.
    return sorted(found, key=lambda one: math.inf if math.isnan(one.acquired.step) else one.acquired.step)


def forgetting_p(
    hits: int, count: int, best_hits: int, best_count: int, design: float = 1.0, best_design: float = 1.0
) -> float:
    r"""How surprising it is to do so badly now, were the model still as good as at its best: Fisher's exact test.

    With h of n right now and H of N at the best reading, one level for both makes the number right now hypergeometric
    given their sum:

    .. math:: p = \sum_{k \le h} \binom{n}{k} \binom{N}{h + H - k} \Big/ \binom{n + N}{h + H}

    The best of many readings is good by luck too, so p is to be held against a level divided by the number of readings
    and of things that are watched (Bonferroni). Readings of the same examples vary less than the test assumes, which
    makes it the more careful. Answers of one sample (words of a sentence, patches of an image) vary together, and more
    than it assumes: h and n are divided by their :func:`design_effect`, as are H and N (Rao & Scott 1992), and rounded
    to the side on which p is larger.

    Args:
        hits: h, right now.
        count: n, at least 1.
        best_hits: H, right at the best reading.
        best_count: N, at least 1.
        design: How many of the n count as one; 1 where they are independent.
        best_design: The same of the N.

    Returns:
        One-sided p: small where the level has fallen.

    Raises:
        ValueError: If a count is below 1, hits are not between 0 and the count, or a design effect is below 1.

    Example:
        >>> round(forgetting_p(10, 20, 19, 20), 5)
        0.00167
        >>> round(forgetting_p(19, 20, 19, 20), 2)
        0.76
        >>> round(forgetting_p(10, 20, 19, 20, design=4, best_design=4), 2)
        0.5

    """
    for what, number, of in (("hits", hits, count), ("best_hits", best_hits, best_count)):
        if of < 1 or not 0 <= number <= of:
            raise ValueError(f"`{what}` must be between 0 and its count, at least 1; got {number} of {of}.")
    for what, effect in (("design", design), ("best_design", best_design)):
        if not effect >= 1:
            raise ValueError(f"`{what}` must be at least 1, got {effect}.")
    count, best_count = _whole(count / design), _whole(best_count / best_design)
    hits, best_hits = min(-_floor(-hits / design), count), min(_floor(best_hits / best_design), best_count)
    total = hits + best_hits
    # Less than `total − best_count` right now cannot be, with so many right in all.
    right = torch.arange(max(0, total - best_count), min(count, total) + 1, dtype=torch.float64)
    log_p = _log_choose(count, right) + _log_choose(best_count, total - right)
    return float((log_p[right <= hits].logsumexp(0) - log_p.logsumexp(0)).exp().clamp(max=1.0))


def _whole(number: float) -> int:
    """At least one answer."""
    return max(1, _floor(number))


def _floor(number: float) -> int:
    # What is whole but for rounding errors counts as whole.
    return math.floor(number + 1e-6)


def _log_choose(n: int, k: torch.Tensor) -> torch.Tensor:
    return math.lgamma(n + 1) - torch.lgamma(k + 1) - torch.lgamma(n - k + 1)


def _known(steps: Sequence[int], values: Sequence[float]) -> tuple[list[int], list[float]]:
    """Those readings that have a value."""
    if len(steps) != len(values):
        raise ValueError(f"`steps` has {len(steps)} numbers and `values` {len(values)}; expected as many of each.")
    if any(after <= before for before, after in pairwise(steps)) or (len(steps) and steps[0] < 0):
        raise ValueError(f"`steps` is {list(steps)}; expected increasing steps from 0 on.")
    known = [(step, value) for step, value in zip(steps, values, strict=True) if not math.isnan(value)]
    return [step for step, _ in known], [value for _, value in known]
