"""What a template makes of the readings so far: phases, where they begin, and why."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

from lightning_interp.decisions.curve import Boundary, Curve, boundaries
from lightning_interp.decisions.evidence import SHARE, Improvement, improvement, plateau, slowed
from lightning_interp.functional.student import t_upper_tail

__all__ = ["TEMPLATES", "PhaseReading", "judge"]

TEMPLATES: dict[str, tuple[str, ...]] = {
    "two_phase": ("phase one", "phase two"),
    "three_phase": ("warm-up collapse", "entropy-seeking", "compression-seeking"),
    "change": ("before the change", "the change", "after the change"),
    "none": (),
}
"""The names of the phases that a template knows."""
LOOKS = 5
"""As how many independent ones the tests at all readings of a run count. Each looks at the curve so far, most of which
the one before has seen; that so many keep the error of a whole run below its level is measured: ``benchmarks/knees.py``
"""


@dataclass(frozen=True)
class PhaseReading:
    """What a template makes of the readings so far, before it is confirmed.

    Args:
        boundaries: Beginnings of the second, third, … phase.
        fits: Whether nothing contradicts the template.
        reason: Why, in words.
        early: Beginnings to which the evidence points, these included; the same ones where it is not told.

    """

    boundaries: tuple[Boundary, ...]
    fits: bool
    reason: str
    early: tuple[Boundary, ...] | None = None

    @property
    def pointed_to(self) -> tuple[Boundary, ...]:
        """Beginnings to which the evidence points."""
        return self.boundaries if self.early is None else self.early


def judge(
    template: str,
    loss: tuple[str, Curve],
    improving: Mapping[str, Curve] | None = None,
    follow: tuple[str, Curve] | None = None,
    level: float = 0.05,
    share: float = SHARE,
    least: float = 0.0,
) -> PhaseReading:
    """What a template makes of the readings so far.

    - ``"two_phase"``: the second phase begins at the loss's :func:`~lightning_interp.decisions.plateau` if at least one
      of the ``improving`` keys shows :func:`~lightning_interp.decisions.improvement` after it that the loss does not
      share: its mirror image is no second phase. The level is that of a whole run, so each test has a fifth of it,
      divided by the number of keys. The evidence points to a second phase already where the loss has slowed down
      (:func:`~lightning_interp.decisions.slowed`) and a key improves so.
    - ``"three_phase"``: the followed key falls, rises, falls. A segment goes in a direction if its slope is
      significant; others belong to what came before. Contradicted by any other order or a fourth change.
    - ``"change"``: the followed key rises (falls, where less is better) in one piece of its course more than in all
      others together. The second phase is that piece, from its knee on, and the third begins where it ends.
    - ``"none"``: every knee of the loss begins a new phase.

    Args:
        template: One of the above.
        loss: Name and readings of the loss, or of a score.
        improving: Readings of what may improve after the plateau, by name.
        follow: Name and readings of the key whose shape ``"three_phase"`` or ``"change"`` describes.
        level: Of a whole run that is judged at every reading, for ``"two_phase"``; else of each test.
        share: See :func:`~lightning_interp.decisions.plateau`.
        least: How far the followed key must rise for ``"change"``.

    """
    if template == "two_phase":
        return _two_phase(*loss, improving or {}, level, share)
    if template == "three_phase":
        return _three_phase(*(follow or loss), level)
    if template == "change":
        return _change(*(follow or loss), level, least)
    if template == "none":
        found = boundaries(loss[1].fit)
        return PhaseReading(found, True, f"{loss[0]} has {len(found)} knee{'' if len(found) == 1 else 's'}")
    raise ValueError(f"template={template!r}: expected one of {list(TEMPLATES)}.")


def _two_phase(name: str, loss: Curve, improving: Mapping[str, Curve], level: float, share: float) -> PhaseReading:
    if loss.fit is None:
        return PhaseReading((), True, f"{name} has too few readings to look for a plateau ({len(loss.steps)})")
    settled, index = True, plateau(loss, level, share)
    if index is None:
        settled, index = False, slowed(loss)
    if index is None:
        return PhaseReading((), True, f"{name} has no plateau yet")
    start = boundaries(loss.fit)[index]
    seen = f"{name} {'has its plateau' if settled else 'has slowed down'}"
    at = f"{seen} from {start}"
    found = {
        key: improvement(track, start.step, loss, level / LOOKS / max(len(improving), 1), share)
        for key, track in improving.items()
    }
    best = [(key, one) for key, one in found.items() if one is not None and one.noticeable]
    if best:
        key, one = min(best, key=lambda pair: pair[1].p_value)
        others = f" ({len(best) - 1} more do)" if len(best) > 1 else ""
        text = f"{seen} there; {key} still improves by {one.gain:.3g} after it, {_p(one)}{others}"
        return PhaseReading((start,) if settled else (), True, text, early=(start,))
    if not settled:
        return PhaseReading((), True, f"{at}, and has no plateau yet")
    waiting = [key for key, one in found.items() if one is None]
    if waiting:
        return PhaseReading(
            (), True, f"{at}; too few readings of {', '.join(waiting)} to tell whether it still improves"
        )
    told = "; ".join(
        f"{key} changes by {one.gain:+.3g} for the better, {one.share:+.1%} of its range more than the loss "
        f"({_p(one)}, noise of a reading {one.noise:.2g})"
        for key, one in found.items()
        if one is not None
    )
    return PhaseReading((), False, f"{at}; nothing improves noticeably after it: {told or 'no key to look at'}")


def _p(one: Improvement) -> str:
    return f"p = {one.p_value:.2g}" if one.p_value >= 1e-4 else "p < 0.0001"


_THREE = (-1, 1, -1)
_WORD = {-1: "falls", 1: "rises"}


def _three_phase(name: str, track: Curve, level: float) -> PhaseReading:
    fit = track.fit
    if fit is None:
        return PhaseReading((), True, f"{name} has too few readings to look for phases ({len(track.steps)})")
    freedom = max(len(fit.fitted) - 2 - 2 * len(fit.knees), 1)
    runs: list[int] = []
    starts: list[Boundary] = []
    for start, slope, error in zip((None, *boundaries(fit)), fit.slopes, fit.slope_errors, strict=True):
        direction = int(math.copysign(1, slope)) if slope else 0
        if direction and error > 0 and 2 * t_upper_tail(abs(slope) / error, freedom) >= level:
            direction = 0
        if not direction or (runs and runs[-1] == direction):
            continue
        if runs and start is not None:
            starts.append(start)
        runs.append(direction)
    shape = ", ".join(_WORD[run] for run in runs) or "stays as it is"
    if tuple(runs) != _THREE[: len(runs)]:
        return PhaseReading((), False, f"{name} {shape}; expected: falls, rises, falls")
    where = " and ".join(str(start) for start in starts)
    return PhaseReading(tuple(starts), True, f"{name} {shape}{f', turning at {where}' if where else ''}")


def _change(name: str, track: Curve, level: float, least: float) -> PhaseReading:
    fit = track.fit
    if fit is None:
        return PhaseReading((), True, f"{name} has too few readings to look for a change ({len(track.steps)})")
    freedom = max(len(fit.fitted) - 2 - 2 * len(fit.knees), 1)
    edges = [math.log10(track.steps[0]), *fit.knees, math.log10(track.steps[-1])]
    at = [track.sign * float(value) for value in fit.predict(edges)]
    rises = [after - before for before, after in pairwise(at)]
    place = max(range(len(rises)), key=lambda one: track.sign * fit.slopes[one])
    rise, error, word = rises[place], fit.slope_errors[place], "rises" if track.sign > 0 else "falls"
    if rise <= least or (error > 0 and t_upper_tail(track.sign * fit.slopes[place] / error, freedom) >= level / 2):
        return PhaseReading((), True, f"{name} has not changed yet: at its steepest it {word} by {max(rise, 0.0):.3g}")
    if 2 * rise < sum(map(abs, rises)):
        return PhaseReading((), True, f"{name} {word} by {rise:.3g} at its steepest, and by as much elsewhere")
    if not place:
        return PhaseReading((), False, f"{name} {word} from the first reading on: no reading is of before the change")
    found = boundaries(fit)
    begins, ends = found[place - 1], found[place : place + 1]
    where = f"from {begins}" + (f" to {ends[0]}" if ends else " on")
    return PhaseReading((begins, *ends), True, f"{name} {word} by {rise:.3g} {where}")
