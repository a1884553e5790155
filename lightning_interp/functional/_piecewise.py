"""Continuous piecewise-linear least squares: designs, search on a grid, refinement, autocorrelated noise."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["PHIS", "GridSearch", "NoiseKinds", "fit_pieces", "hinges", "refine", "solve", "tangents", "whitening"]

Array = NDArray[np.float64]
Ints = NDArray[np.int64]

PHIS: Array = np.array([0.0, 0.2, 0.4, 0.6, 0.75, 0.9])
"""Lag-1 autocorrelations that are considered."""
TRENDS: Array = np.array([-1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5])
"""Changes of the noise that are considered: log10 of its standard deviation at the last reading over the first."""
CANDIDATES = 16
"""Most positions in the grid, so that triples stay near a thousand whatever the number of readings."""


def hinges(x: Array, knees: Array) -> Array:
    """Columns 1, x, (x − τ₁)₊, …; shape (..., N, 2 + k) for knees of shape (..., k)."""
    bends = np.maximum(x[:, None] - knees[..., None, :], 0.0)
    flat = np.broadcast_to(np.stack([np.ones_like(x), x], 1), (*bends.shape[:-1], 2))
    return np.concatenate([flat, bends], -1)


def tangents(x: Array, knees: Array) -> Array:
    """The columns of :func:`hinges` and the derivative of each bend by its knee, −1[x > τ]; shape (..., N, 2 + 2k)."""
    return np.concatenate([hinges(x, knees), -1.0 * (x[:, None] > knees[..., None, :])], -1)


def solve(design: Array, y: Array) -> tuple[Array, Array]:
    """Least-squares coefficients (..., p) and residual sums of squares (...)."""
    q, r = np.linalg.qr(design)
    tiny = 1e-13 * np.abs(r).max((-2, -1), keepdims=True) * np.eye(r.shape[-1])
    r = np.where((tiny > 0) & (np.abs(r) < tiny), tiny, r)  # a column without support of its own gets no say
    coefficients = np.linalg.solve(r, np.swapaxes(q, -1, -2) @ y[..., None])
    left = y - (design @ coefficients)[..., 0]
    return coefficients[..., 0], (left * left).sum(-1)


def has_room(x: Array, knees: Array, min_points: int) -> NDArray[np.bool_]:
    """Whether every piece holds enough readings, a reading at a knee counted on both of its sides; (..., k) → (...)."""
    slack = 1e-9
    low = np.searchsorted(x, knees - slack)
    high = np.searchsorted(x, knees + slack)
    starts = np.concatenate([np.zeros_like(low[..., :1]), low], -1)
    ends = np.concatenate([high, np.full_like(high[..., :1], len(x))], -1)
    return np.asarray((ends - starts >= min_points).all(-1))


def refine(x: Array, y: Array, knees: Array, min_points: int, steps: int) -> tuple[Array, Array]:
    """Gauss–Newton from several starts (Muggeo 2003), each step halved until it improves.

    Within one choice of intervals between readings a full step is exact: it is where the free lines of neighbouring
    pieces meet.

    Args:
        x: Positions (N,), from 0 to 1.
        y: One curve per start, shape (S, N).
        knees: Starts, shape (S, k), increasing.
        min_points: Fewest readings in a piece.
        steps: Number of steps tried.

    Returns:
        Knees (S, k) and their residual sums of squares (S,).

    """
    _, rss = solve(hinges(x, knees), y)
    damping = np.ones_like(rss)
    count = knees.shape[-1]
    for _ in range(steps):
        coefficients, _ = solve(tangents(x, knees), y)
        bend, jump = coefficients[:, 2 : 2 + count], coefficients[:, 2 + count :]
        move = np.clip(jump / np.where(np.abs(bend) < 1e-12, 1e-12, bend), -1.0, 1.0)
        trial = knees + damping[:, None] * move
        allowed = (np.diff(trial, axis=-1) > 0).all(-1) & (trial[:, 0] > 0) & (trial[:, -1] < 1)
        allowed &= has_room(x, trial, min_points)
        trial = np.where(allowed[:, None], trial, knees)
        _, reached = solve(hinges(x, trial), y)
        better = allowed & (reached < rss)
        knees, rss = np.where(better[:, None], trial, knees), np.where(better, reached, rss)
        damping = np.where(better, np.minimum(1.0, 4 * damping), damping / 2)
    return knees, rss


def best_between(x: Array, y: Array, others: Array, min_points: int) -> tuple[float, float] | None:
    """The best knee beside others, exactly: readings, and the stationary point of each interval between two of them.

    In an interval the bend is (s − τd) with s = x·1[x > τ], d = 1[x > τ], so that what it explains is a ratio of two
    quadratics in τ with one maximum.
    """
    design = hinges(x, others)
    q, _ = np.linalg.qr(design)
    right = np.triu(np.ones((len(x), len(x))), 1)  # row i: readings after reading i
    s, d = right * x, right
    s, d = s - (s @ q) @ q.T, d - (d @ q) @ q.T
    a, b = s @ y, d @ y
    p, u, r = (s * s).sum(1), (s * d).sum(1), (d * d).sum(1)
    below = b * u - a * r
    inside = np.divide(b * p - a * u, below, out=np.full_like(a, np.nan), where=below != 0)[:-1]
    inside = inside[(inside > x[:-1]) & (inside < x[1:])]
    positions = np.concatenate([x[1:-1], inside])
    every = np.sort(np.concatenate([np.broadcast_to(others, (len(positions), len(others))), positions[:, None]], 1), 1)
    every = every[(np.diff(every, axis=1) > 0).all(1)]
    every = every[has_room(x, every, min_points)]
    if not len(every):
        return None
    _, rss = solve(hinges(x, every), np.broadcast_to(y, (len(every), len(x))))
    best = int(rss.argmin())
    (new,) = set(every[best].tolist()) - set(others.tolist())
    return new, float(rss[best])


def fit_pieces(x: Array, y: Array, starts: Array, min_points: int) -> tuple[Array, float]:
    """The best knees reached from several starts (S, k): Gauss–Newton, then one knee at a time until nothing is gained.

    Returns:
        Knees (k,) and the residual sum of squares.

    """
    found, rss = refine(x, np.broadcast_to(y, (len(starts), len(x))), starts, min_points, 12)
    order = np.argsort(rss)[:3]
    best, least = found[order[0]], float(rss[order[0]])
    for start in found[order]:
        knees, reached = start, np.inf
        for _ in range(10):
            before = reached
            for index in range(len(knees)):
                others = np.delete(knees, index)
                moved = best_between(x, y, others, min_points)
                if moved is not None and moved[1] < reached:
                    knees, reached = np.sort(np.append(others, moved[0])), moved[1]
            polished, rest = refine(x, y[None], knees[None], min_points, 4)
            if rest[0] < reached:
                knees, reached = polished[0], float(rest[0])
            if len(knees) == 1 or not reached < before * (1 - 1e-9):
                break
        if reached < least:
            best, least = knees, reached
    return best, least


def whitening(size: int) -> Array:
    """The matrices that turn AR(1) noise into independent innovations, one per entry of PHIS: (P, N, N)."""
    matrices = np.eye(size) - PHIS[:, None, None] * np.eye(size, k=-1)
    matrices[:, 0, 0] = np.sqrt(1 - PHIS * PHIS)
    return matrices


class NoiseKinds:
    """Every noise that is considered: AR(1) of PHIS and the mean of three in a row, each growing or shrinking.

    Args:
        x: Positions (N,), from 0 to 1: the logarithm of the standard deviation is a line over them.

    """

    def __init__(self, x: Array) -> None:
        size = len(x)
        lag = np.abs(np.subtract.outer(np.arange(size), np.arange(size)))
        correlations = np.stack([*(phi**lag for phi in PHIS), np.maximum(1 - lag / 3, 0.0)])
        root = np.linalg.cholesky(correlations)
        profile = 10 ** (TRENDS[:, None] * (x - x.mean()))
        self.factors: Array = (root[:, None] * profile[:, :, None]).reshape(-1, size, size)
        """Kind k of noise is factors[k] @ independent draws: (K, N, N)."""
        self.whitening: Array = (np.linalg.inv(root)[:, None] / profile[:, None, :]).reshape(-1, size, size)
        """Their inverses."""
        # The profile is of geometric mean 1.
        self.volume: Array = np.repeat(np.log(np.diagonal(root, axis1=1, axis2=2)).sum(1), len(TRENDS))
        """Logarithms of the determinants of the factors."""
        prior = np.outer([*(1.0 for _ in PHIS), 0.5], np.exp(-np.abs(TRENDS) / 0.6)).ravel()
        self.prior: Array = np.log(prior / prior.sum())
        """Logarithms of how likely each is thought before the readings are seen."""
        self.lag_one: Array = np.repeat(correlations[:, 0, 1], len(TRENDS))
        """Correlation of neighbouring readings."""

    def noise(self, which: Ints, draws: Array) -> Array:
        """Noise (R, N) of kinds (R,) from independent draws (R, N)."""
        out = np.empty_like(draws)
        for kind in np.unique(which):
            out[which == kind] = draws[which == kind] @ self.factors[kind].T
        return out


class GridSearch:
    """Likelihoods of many curves at once under every choice of knees from a grid and every autocorrelation.

    A bend that is orthogonal to the bends before it adds the square of its product with the curve to what is explained,
    so that a level of the search is one product of matrices.

    Args:
        x: Positions (N,), from 0 to 1.
        min_points: Fewest readings in a piece.
        depth: Most knees.
        extra: Positions beside the grid.

    """

    def __init__(self, x: Array, min_points: int, depth: int, extra: Array) -> None:
        first, last = min_points - 1, len(x) - min_points
        span = np.linspace(first, last, min(CANDIDATES, last - first + 1))
        middle = (first + last) / 2  # rounded towards the middle on either side: no direction is preferred
        index = np.where(span < middle, np.ceil(span - 1e-9), np.floor(span + 1e-9)).astype(np.int64)
        if (depth + 1) * min_points > len(x) // 2:  # little room: even pieces fit whatever the grid leaves out
            even = [j * (len(x) - 1) // (k + 1) for k in range(1, depth + 1) for j in range(1, k + 1)]
            index = np.append(index, even)
        self.positions = np.unique(np.concatenate([x[index], extra]))
        self.size = len(x)
        self.tuples: list[Ints] = [np.zeros((1, 0), np.int64)]
        self.parents: list[Ints] = []
        for _ in range(depth):
            shorter = self.tuples[-1]
            parent, new = np.meshgrid(np.arange(len(shorter)), np.arange(len(self.positions)), indexing="ij")
            longer = np.concatenate([shorter[parent.ravel()], new.reshape(-1, 1)], 1)
            rising = np.flatnonzero((np.diff(longer, axis=1) > 0).all(1))
            rising = rising[has_room(x, self.positions[longer[rising]], min_points)]
            self.tuples.append(longer[rising])
            self.parents.append(parent.ravel()[rising])
        self.lines: list[Array] = []
        self.bends: list[list[Array]] = []
        self.whitening = whitening(len(x))
        for white in self.whitening:
            q, _ = np.linalg.qr(white @ hinges(x, np.empty(0)))
            single = white @ np.maximum(x[:, None] - self.positions, 0.0)
            single = (single - q @ (q.T @ single)).T
            self.lines.append(q)
            self.bends.append(self._orthogonal(single))

    def _orthogonal(self, single: Array) -> list[Array]:
        levels: list[Array] = []
        for level, parents in enumerate(self.parents):
            bend = single[self.tuples[level + 1][:, -1]]
            ancestor = parents
            for above in range(level - 1, -1, -1):
                unit = levels[above][ancestor]
                bend = bend - np.einsum("tn,tn->t", bend, unit)[:, None] * unit
                ancestor = self.parents[above][ancestor]
            length = np.sqrt(np.einsum("tn,tn->t", bend, bend))
            levels.append(bend * np.where(length > 1e-10, 1 / np.maximum(length, 1e-10), 0.0)[:, None])
        return levels

    def explained(self, y: Array, which: int) -> tuple[Array, list[Array]]:
        """Squares left by a line (R,), and what each choice of 1, 2, … knees explains of them, each (T, R)."""
        left = self.whitening[which] @ y.T
        left = left - self.lines[which] @ (self.lines[which].T @ left)
        gains: list[Array] = []
        for bends, parents in zip(self.bends[which], self.parents, strict=True):
            gain = bends @ left
            gain *= gain
            if gains:
                gain += gains[-1][parents]
            gains.append(gain)
        return (left * left).sum(0), gains

    def likelihoods(self, y: Array, floor: float) -> Array:
        """Log-likelihood of curves (R, N) at the best knees, noise and autocorrelation: (R, depth + 1) by knees."""
        best = np.full((len(y), len(self.tuples)), -np.inf)
        for which, phi in enumerate(PHIS):
            total, gains = self.explained(y, which)
            for count in range(len(self.tuples)):
                rss = total - gains[count - 1].max(0, initial=0.0) if count else total
                fit = -0.5 * self.size * np.log(np.maximum(rss, floor)) + 0.5 * np.log1p(-phi * phi)
                np.maximum(best[:, count], fit, out=best[:, count])
        return best

    def starts(self, y: Array, count: int, number: int) -> Array:
        """The best choices of knees from the grid for one curve (N,) with white noise, (number or fewer, count)."""
        _, gains = self.explained(y[None], 0)
        order = np.argsort(-gains[count - 1][:, 0], kind="stable")[:number]
        return self.positions[self.tuples[count][order]]

    def best(self, y: Array, count: int) -> Array:
        """The best choice of knees from the grid for each of many curves (R, N) with white noise, (R, count)."""
        _, gains = self.explained(y, 0)
        best: Array = self.positions[self.tuples[count][gains[count - 1].argmax(0)]]
        return best
