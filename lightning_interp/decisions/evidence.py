"""What readings show: a plateau of the loss, and whether something else improves after it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from lightning_interp.decisions.curve import Curve
from lightning_interp.functional.student import t_upper_tail

__all__ = ["SHARE", "SLOWED", "TAIL", "Improvement", "improvement", "plateau", "slowed"]

SHARE = 0.05
"""An improvement below this share of all that was gained is none: for a plateau, per decade of steps."""
SLOWED = 0.25
"""A loss that falls at less than this share of its steepest rate has slowed down."""
TAIL = 4
"""Readings after a plateau's beginning, from which it is told whether another key still improves."""
_RECENT = 6  # readings at the end of a curve, from which it is told whether it still improves


@dataclass(frozen=True)
class Improvement:
    """How a key went on after a step; see :func:`improvement`."""

    gain: float
    share: float
    p_value: float
    noise: float
    noticeable: bool


def improvement(
    track: Curve, since: float, loss: Curve | None = None, level: float = 0.05, share: float = SHARE
) -> Improvement | None:
    r"""Whether a key still improves after a step, beyond its noise and beyond what the loss gains there.

    The gain is the mean of the later half of the readings after the step, less that of the first of them (three, or
    half of them where they are fewer than six). It is a line :math:`a^\top y` of the readings, so its variance is
    :math:`a^\top C a` with the covariance C of the noise that the key's fit believes in
    (:attr:`~lightning_interp.functional.knees.KneeFit.covariance`): neighbouring readings resemble each other, and late
    ones may be less noisy than early ones. Both curves are measured as shares of their range over the readings that
    the key has, so that the mirror image of the loss gains what the loss gains. It improves noticeably if

    - a one-sided t-test of the key's share less the loss's rejects at ``level``, and
    - this difference is at least ``share``: a curve that has nearly ended its rise still rises significantly where
      readings have little noise.

    The readings after the step begin where the loss has made all but ``share`` of its gains over the readings that the
    key has: a key that exists only from a late step on is compared with what the loss did from there.

    Args:
        track: The readings, with a fit.
        since: The step.
        loss: The loss, or whatever has its plateau from that step on; with ``None`` the key is looked at alone.
        level: Of the test.
        share: Of the range.

    Returns:
        The improvement, or ``None`` where fewer than four readings lie there or the key has no fit yet.

    """
    fit = track.fit
    if fit is None:
        return None
    x = np.log10(np.asarray(track.steps, dtype=np.float64))
    y = track.sign * np.asarray(track.values, dtype=np.float64)
    there = x >= math.log10(since) - 1e-9
    known = np.zeros_like(x)
    if loss is not None:
        at = np.log10(np.asarray(loss.steps, dtype=np.float64))
        known = loss.sign * np.interp(x, at, np.asarray(loss.values, dtype=np.float64))
        there &= known >= known.max(initial=-np.inf) - share * np.ptp(known)
    if not there.any():
        return None
    start = int(there.argmax())
    count = len(x) - start
    if count < TAIL:
        return None
    first, last = min(3, count // 2), (count + 1) // 2
    contrast = np.zeros_like(x)
    contrast[start : start + first] -= 1 / first
    contrast[-last:] += 1 / last
    spread, whole = float(np.ptp(y)), float(np.ptp(known))
    gain, error = float(contrast @ y), math.sqrt(float(contrast @ fit.covariance @ contrast))
    behind = max(float(contrast @ known), 0.0) / whole if whole else 0.0
    excess = gain / spread - behind if spread else 0.0
    freedom = max(len(x) - 2 - 2 * len(fit.knees), 1)
    p_value = t_upper_tail(excess * spread / error, freedom) if error > 0 else float(excess <= 0)
    return Improvement(gain, excess, p_value, fit.noise, bool(p_value < level and excess >= share))


def plateau(track: Curve, level: float = 0.05, share: float = SHARE) -> int | None:
    """The knee at which a key's plateau begins: from there on no segment improves noticeably, and the one before does.

    A segment improves noticeably if its slope is significantly in the right direction and is at least ``share`` of all
    that was gained so far, per decade of steps: with the default, where training ten times as long would bring less
    than another twentieth, that is a plateau. The last segment does where its slope is that large, unless the curve has
    slowed down there (:func:`slowed`) and a line through its last six readings, four at least, shows no improvement: a
    curve that bends smoothly into its plateau leaves the segment as a whole too steep. This is judged on the values
    themselves, not on their logarithm: a loss that falls from .006 to .001 is on its plateau. A loss that rises later
    (overfitting) keeps the plateau before it.

    Args:
        track: The readings, with a fit.
        level: Of the one-sided test of a slope.
        share: Of the largest gain between two ends of segments.

    Returns:
        Index into ``track.fit.knees``, or ``None``.

    """
    fit = track.fit
    if fit is None or not fit.knees:
        return None
    gained = _gained(track)
    freedom = max(len(fit.fitted) - 2 - 2 * len(fit.knees), 1)
    improving = [
        _improves(track.sign * slope, error, freedom, share * gained, level)
        for slope, error in zip(fit.slopes, fit.slope_errors, strict=True)
    ]
    improving[-1] = track.sign * fit.slopes[-1] >= share * gained > 0 and (
        slowed(track) is None or _still_improves(track, float(fit.knees[-1]), share * gained, level)
    )
    last = max((index for index, yes in enumerate(improving) if yes), default=None)
    return last if last is not None and last < len(fit.knees) else None


def slowed(track: Curve, ratio: float = SLOWED) -> int | None:
    """The knee from which on a key improves at less than a share of the steepest rate that a segment before it had.

    Args:
        track: The readings, with a fit.
        ratio: The share.

    Returns:
        Index into ``track.fit.knees`` of the first such knee, or ``None``.

    """
    fit = track.fit
    if fit is None:
        return None
    rates = track.sign * np.asarray(fit.slopes)
    for index in range(len(fit.knees)):
        steepest = float(rates[: index + 1].max())
        if steepest > 0 and (rates[index + 1 :] < ratio * steepest).all():
            return index
    return None


def _gained(track: Curve) -> float:
    """The largest gain of the fit between two ends of its segments."""
    assert track.fit is not None
    ends = np.log10([track.steps[0], track.steps[-1]])
    heights = track.sign * np.asarray(track.fit.predict(np.array([ends[0], *track.fit.knees, ends[1]])))
    return float(np.max(heights - np.minimum.accumulate(heights)))


def _improves(rate: float, error: float, freedom: float, least: float, level: float) -> bool:
    return rate > 0 and rate >= least and (not error > 0 or t_upper_tail(rate / error, freedom) < level)


def _still_improves(track: Curve, knee: float, least: float, level: float) -> bool:
    """Whether the last readings improve, by a line through them."""
    x = np.log10(np.asarray(track.steps, dtype=np.float64))
    size = min(int((x >= knee).sum()), _RECENT)
    if size < TAIL:
        return True
    x, y = x[-size:], np.asarray(track.values, dtype=np.float64)[-size:]
    x = x - x.mean()
    spread = float(x @ x)
    slope = float(x @ y) / spread
    left = y - y.mean() - slope * x
    error = math.sqrt(float(left @ left) / (size - 2) / spread)
    return _improves(track.sign * slope, error, size - 2, least, level)
