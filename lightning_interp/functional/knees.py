"""Where a curve bends: knees of a continuous piecewise-linear fit, tested against autocorrelated noise."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

from lightning_interp.functional._piecewise import (
    Array,
    GridSearch,
    NoiseKinds,
    fit_pieces,
    hinges,
    refine,
    solve,
    tangents,
)

__all__ = ["KneeFit", "fit_knees"]

PENALTY = 1.5  # of a knee, in log N: the modified BIC of Zhang & Siegmund (2007)


@dataclass(frozen=True)
class KneeFit:
    """A continuous piecewise-linear fit; positions in units of x, slopes in units of y per unit of x."""

    knees: tuple[float, ...]
    """Positions, increasing; empty if none is significant."""
    intervals: tuple[tuple[float, float], ...]
    """One per knee, at 1 − level; equal ends where the curve has no noise; empty if they were not asked for."""
    p_values: tuple[float, ...]
    """Of each step of the selection, the first that is not significant included."""
    slopes: tuple[float, ...]
    """Of each piece, one more than knees."""
    slope_errors: tuple[float, ...]
    """Standard errors, with autocorrelation and the uncertainty of the knees accounted for."""
    fitted: Array
    """The fit at the readings, float64 (N,)."""
    noise: float
    """Standard deviation of a reading around the fit, in units of y."""
    autocorrelation: float
    """Lag-1 autocorrelation of the noise, 0 to 0.9: mean of its restricted likelihood, which has no small-sample bias
    to first order."""
    covariance: Array = field(repr=False, compare=False)
    """Of the noise of the readings, float64 (N, N), in units of y squared: its size, and how alike neighbours are,
    averaged over the kinds of noise that are believed. The diagonal falls where readings grow less noisy."""
    anchor: tuple[float, float] = (math.nan, math.nan)
    """A point on the first piece: the first x and the fit there."""

    def predict(self, x: ArrayLike) -> Array:
        """The fit at any x, of the shape of x; beyond the readings the outer pieces go on.

        Args:
            x: Positions, any shape.

        Returns:
            Values, float64.

        """
        at = np.asarray(x, dtype=np.float64)
        value = self.anchor[1] + self.slopes[0] * (at - self.anchor[0])
        for knee, before, after in zip(self.knees, self.slopes[:-1], self.slopes[1:], strict=True):
            value = value + (after - before) * np.maximum(at - knee, 0.0)
        return np.asarray(value)


@dataclass(frozen=True)
class _Noise:
    """What is believed of the noise: a weight and a standard deviation for each kind."""

    kinds: NoiseKinds
    weights: Array
    deviations: Array

    def spread_over(self, count: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        """Indices of kinds, each as often among ``count`` as its weight says."""
        share = np.cumsum(self.weights) / self.weights.sum()
        return np.searchsorted(share, (np.arange(count) + 0.5) / count).clip(max=len(share) - 1)


def fit_knees(
    x: ArrayLike,
    y: ArrayLike,
    max_knees: int = 3,
    level: float = 0.05,
    min_points: int = 3,
    replicates: int = 199,
    seed: int = 0,
    intervals: bool = True,
) -> KneeFit:
    r"""Knees of a curve: a continuous piecewise-linear least-squares fit with as many knees as a test finds.

    .. math::
        y_i = a + b x_i + \sum_{j=1}^{k} c_j (x_i - \tau_j)_+ + u_i, \qquad u_i = \varphi u_{i-1} + e_i

    Starting at k = 0, the step from k knees to more is taken while its p-value is at most ``level``. Its statistic is
    the largest penalised gain in log-likelihood over all m > k and all positions of all knees,
    :math:`\max_m \{\ell_m - \ell_k - \tfrac32 (m - k) \log N\}`, with :math:`\ell` maximised over φ as well: a sup-F
    test (Andrews 1993; Bai & Perron 1998, whose double maximum sees a drop between two plateaus, which one knee hardly
    improves) in whitened readings. Its critical values are simulated from the k-knee fit with noise like that of the
    readings, since ordinary ones find a false knee in every third line at φ = 0.5. Its kind is AR(1) or the mean of
    three in a row, of a standard deviation that grows or shrinks by up to a factor of 30 along x, as that of losses and
    accuracies does. It cannot be known from a dozen readings, so the replicates draw it from its restricted likelihood
    (times a prior that prefers noise of one size), averaged over the fits with k and more knees by the modified BIC
    (Zhang & Siegmund 2007): the residuals of too few knees look autocorrelated, those of too many look white. Positions
    are refined between readings (Muggeo 2003).

    Intervals are percentiles over refits to block-bootstrapped noise (Künsch 1989), post-blackened (Davison & Hinkley
    1997, section 8.2): residuals are whitened, resampled in circular blocks of :math:`N^{1/3}/2`, rounded, and given
    back their kind, drawn as above. Blocks of the residuals themselves covered 54 to 79 % at N = 20
    and 30 with φ = 0.5.

    Measured at ``level=0.05`` (``benchmarks/knees.py``; 150 to 200 runs a cell): false knees on straight lines with
    φ = 0 in 0, 0 and 1 % of runs at N = 12, 20 and 30; with φ = 0.5 in 2, 2 and 6 %; with φ = 0.7 in 4, 5 and 7 %.
    Where the noise falls tenfold from the first reading to the last, in 2, 5 and 4 % (7, 16 and 29 % with critical
    values for noise of one size); where it rises, in 3, 4 and 7 %. The price is paid where readings are few: a knee of
    a rise of 8 standard deviations is found in 10 and 45 % of runs at N = 12 and 20. Ordinary critical values give 26
    to 33 % at φ = 0.5. Intervals of 95 % held a planted knee in 85 to 100 % of runs, least after autocorrelated noise
    and least for two knees that are barely found (75 %), when only AR(1) noise of one size was considered.

    A curve that bends smoothly by more than its noise has knees here: they are where straight pieces follow it best.

    Args:
        x: Positions, such as log10 of the training step, shape (N,), strictly increasing, N at least 4.
        y: Readings, shape (N,), in any unit.
        max_knees: Most knees, 0 to 3. Few readings allow fewer: k need 4 + 2k and 1 + (k + 1)(min_points − 1).
        level: Of each test, and one minus that of the intervals.
        min_points: Fewest readings in a piece, at least 3; a reading at a knee counts for both of its pieces.
        replicates: Simulated curves per test and refits for the intervals, at least 1 / level − 1.
        seed: Of a generator of its own; the same input gives the same result.
        intervals: Whether to compute them.

    Returns:
        :class:`KneeFit`. Cost on one core: 10, 15 and 25 ms at N = 12, 30 and 60 where there is no knee; 35, 60 and
        80 ms with two knees and their intervals; 240 ms at N = 200.

    Raises:
        ValueError: If an argument is out of its range, lengths differ, x does not increase or a value is not finite.

    Example:
        >>> x = np.linspace(0, 4, 30)
        >>> fit = fit_knees(x, np.maximum(x - 2.5, 0) + 0.01 * np.sin(40 * x))
        >>> [round(knee, 1) for knee in fit.knees], [round(slope, 1) for slope in fit.slopes]
        ([2.5], [0.0, 1.0])
        >>> fit_knees(x, 3 - x).knees
        ()

    """
    at, curve = _checked(x, y)
    _check_options(max_knees, level, min_points, replicates)
    size = len(at)
    origin, span = at[0], at[-1] - at[0]
    unit = (at - origin) / span
    middle, largest = curve.mean(), np.abs(curve).max()
    scale = np.abs(curve - middle).max()
    rounding = 64 * np.finfo(np.float64).eps * largest
    if scale <= rounding:
        scale = 0.0
    elif curve[-1] < curve[0]:
        scale = -scale
    values = (curve - middle) / scale if scale else np.zeros(size)
    floor = size * max(1e-10, rounding / abs(scale) if scale else 0.0) ** 2  # squares that are nothing but rounding
    generator = np.random.default_rng(seed)

    most = max(0, min(max_knees, (size - 1) // (min_points - 1) - 1, (size - 4) // 2))
    knees, p_values = _select(unit, values, most, level, min_points, replicates, floor, generator)
    design = hinges(unit, knees)
    coefficients, rss = solve(design, values)
    fitted = design @ coefficients
    belief = _belief(unit, values, [knees], floor)
    exact = bool(rss <= floor)
    phi = 0.0 if exact else float(belief.weights @ belief.kinds.lag_one)
    covariance, errors = _errors(unit, knees, float(rss), belief)
    spans: Array = np.empty((0, 2))
    if intervals and len(knees):
        ends = np.array([level / 2, 1 - level / 2])
        spans = np.stack([knees, knees], 1)
        if not exact:
            noisy = fitted + _resampled(values - fitted, belief, replicates, generator)
            search = GridSearch(unit, min_points, len(knees), knees)
            moved, _ = refine(unit, noisy, search.best(noisy, len(knees)), min_points, 6)
            spans = np.quantile(moved, ends, axis=0).T
    return KneeFit(
        knees=tuple((origin + span * knees).tolist()),
        intervals=tuple((low, high) for low, high in (origin + span * spans).tolist()),
        p_values=tuple(p_values),
        slopes=tuple((np.cumsum(coefficients[1:]) * scale / span).tolist()),
        slope_errors=tuple((errors * abs(scale) / span).tolist()),
        fitted=middle + scale * fitted,
        noise=float(math.sqrt(np.trace(covariance) / size) * abs(scale)),
        autocorrelation=phi,
        covariance=covariance * scale**2,
        anchor=(float(origin), float(middle + scale * fitted[0])),
    )


def _checked(x: ArrayLike, y: ArrayLike) -> tuple[Array, Array]:
    at, curve = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if at.ndim != 1 or at.shape != curve.shape:
        raise ValueError(f"`x` and `y` must be of one length, shape (N,), got {at.shape} and {curve.shape}.")
    if len(at) < 4:
        raise ValueError(f"`x` needs at least 4 readings, got {len(at)}.")
    for name, array in (("x", at), ("y", curve)):
        if not np.isfinite(array).all():
            index = int(np.argmin(np.isfinite(array)))
            raise ValueError(f"`{name}` must be finite, got {array[index]} at index {index}.")
    if not (np.diff(at) > 0).all():
        index = int(np.argmin(np.diff(at) > 0))
        raise ValueError(f"`x` must increase, got {at[index]} before {at[index + 1]} at index {index}.")
    return at, curve


def _check_options(max_knees: int, level: float, min_points: int, replicates: int) -> None:
    if max_knees not in range(4):
        raise ValueError(f"`max_knees` must be 0, 1, 2 or 3, got {max_knees}.")
    if not 0 < level < 1:
        raise ValueError(f"`level` must lie between 0 and 1, got {level}.")
    if min_points != int(min_points) or min_points < 3:
        raise ValueError(f"`min_points` must be an integer of at least 3, since two fix a line, got {min_points}.")
    if replicates != int(replicates) or replicates + 1 < 1 / level - 1e-9:
        least = math.ceil(1 / level - 1e-9) - 1
        raise ValueError(f"`replicates` must be an integer of at least {least} for level {level}, got {replicates}.")


def _select(
    x: Array,
    y: Array,
    most: int,
    level: float,
    min_points: int,
    replicates: int,
    floor: float,
    generator: np.random.Generator,
) -> tuple[Array, list[float]]:
    """Knees that are significant one step after another, and the p-values."""
    knees: Array = np.empty(0)
    p_values: list[float] = []
    for count in range(most):
        design = hinges(x, knees)
        coefficients, rss = solve(design, y)
        if rss <= floor:
            return knees, [*p_values, 1.0]
        search = GridSearch(x, min_points, most, knees)
        richer = []
        for more in range(count + 1, most + 1):
            starts = search.starts(y, more, 3)
            found, left = refine(x, np.broadcast_to(y, (len(starts), len(x))), starts, min_points, 6)
            richer.append(found[left.argmin()])
        belief = _belief(x, y, [knees, *richer], floor)
        which = belief.spread_over(replicates)
        noise = belief.kinds.noise(which, generator.standard_normal((replicates, len(x))))
        curves = design @ coefficients + belief.deviations[which, None] * noise
        fits = search.likelihoods(np.concatenate([y[None], curves]), floor)[:, count:]
        gains = fits[:, 1:] - fits[:, :1] - PENALTY * math.log(len(x)) * np.arange(1, most - count + 1)
        statistic = gains.max(1)
        p_values.append((1 + int((statistic[1:] >= statistic[0]).sum())) / (replicates + 1))
        if p_values[-1] > level:
            break
        knees, _ = fit_pieces(x, y, search.starts(y, count + 1, 6), min_points)
    return knees, p_values


def _belief(x: Array, y: Array, models: list[Array], floor: float) -> _Noise:
    """Weights of kinds of noise, over fits with one knee more each; deviations under the first of them.

    Within a fit by restricted likelihood, which counts slopes and knees as estimated; fits by modified BIC.
    """
    size = len(x)
    kinds = NoiseKinds(x)
    curve = kinds.whitening @ y
    likelihoods, posteriors, deviations = [], [], []
    for more, knees in enumerate(models):
        q, r = np.linalg.qr(kinds.whitening @ tangents(x, knees))
        bends, free = 2 + len(knees), size - 2 - 2 * len(knees)
        along = np.einsum("pni,pn->pi", q, curve)
        total = (curve * curve).sum(1)
        left = np.maximum(total - (along[:, :bends] ** 2).sum(1), floor)
        least = np.maximum(total - (along * along).sum(1), floor)
        volume = np.log(np.maximum(np.abs(np.diagonal(r, axis1=1, axis2=2)), 1e-12)).sum(1)
        best = (kinds.prior - kinds.volume - 0.5 * size * np.log(left)).max()
        likelihoods.append(best - PENALTY * more * math.log(size))
        restricted = kinds.prior - kinds.volume - 0.5 * free * np.log(least) - volume
        posterior = np.exp(restricted - restricted.max())
        posteriors.append(posterior / posterior.sum())
        deviations.append(np.sqrt(least / free))
    trust = np.exp(np.array(likelihoods) - max(likelihoods))
    return _Noise(kinds, trust @ np.array(posteriors) / trust.sum(), deviations[0])


def _resampled(residuals: Array, belief: _Noise, count: int, generator: np.random.Generator) -> Array:
    """Noise (count, N) from residuals (N,): whitened, in circular blocks, with its kind given back."""
    size = len(residuals)
    fresh = belief.kinds.whitening @ residuals
    fresh -= fresh.mean(1, keepdims=True)
    fresh *= belief.deviations[:, None] / np.sqrt((fresh * fresh).mean(1, keepdims=True))
    length = max(1, round(size ** (1 / 3) / 2))
    starts = generator.integers(0, size, (count, -(-size // length)))
    index = ((starts[:, :, None] + np.arange(length)) % size).reshape(count, -1)[:, :size]
    which = belief.spread_over(count)
    return belief.kinds.noise(which, fresh[which[:, None], index])


def _errors(x: Array, knees: Array, rss: float, belief: _Noise) -> tuple[Array, Array]:
    """Covariance of the noise (N, N), and standard errors of the slopes: a sandwich of the kinds of noise."""
    columns = tangents(x, knees)
    inverse = np.linalg.pinv(columns)
    into_slopes = np.cumsum(inverse[1 : 2 + len(knees)], 0)
    covariance: Array = np.zeros((len(x), len(x)))
    for weight, factor in zip(belief.weights, belief.kinds.factors, strict=True):
        if weight < 1e-6:
            continue
        noise = factor @ factor.T
        left = np.trace(noise) - np.einsum("pn,nm,mp->", inverse, noise, columns)  # expected squares of residuals
        covariance += weight * rss / left * noise
    return covariance, np.sqrt(np.einsum("pn,nm,pm->p", into_slopes, covariance, into_slopes))
