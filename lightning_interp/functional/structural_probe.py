"""Structural probes: linear maps under which squared distances are tree distances, and squared lengths depths."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

__all__ = [
    "StructuralProbeFit",
    "depth_probe_loss",
    "distance_probe_loss",
    "fit_depth_probe",
    "fit_distance_probe",
    "probe_depths",
    "probe_distances",
]

_CELLS = 1 << 18
"""Most entries of the matrices of one batch."""
_RIDGE = 1e-2
"""Of the mean eigenvalue, added to all of them before whitening."""
_EVERY = 5
"""Steps between two looks at the dev sentences."""
_RATE = 0.03
_SMALLEST_RATE = 1e-3


class StructuralProbeFit(NamedTuple):
    """A fitted probe."""

    matrix: Tensor
    """B, float32 of shape (rank, D)."""
    loss: float
    """Its loss on the dev sentences."""
    steps: int
    """Gradient steps that were made."""


def probe_distances(matrix: Tensor, words: Tensor) -> Tensor:
    """Squared distances under the probe, d(i, j) = ‖B(h_i − h_j)‖² (Hewitt & Manning 2019, N19-1419).

    Args:
        matrix: B, shape (rank, D).
        words: Representations h of a sentence, shape (n, D).

    Returns:
        Shape (n, n), symmetric, 0 on the diagonal.

    Example:
        >>> probe_distances(torch.eye(2), torch.tensor([[0.0, 0.0], [1.0, 1.0]]))
        tensor([[0., 2.],
                [2., 0.]])

    """
    return _squared_distances(words.to(matrix.dtype) @ matrix.T)


def probe_depths(matrix: Tensor, words: Tensor) -> Tensor:
    """Squared lengths under the probe, ‖Bh_i‖² (Hewitt & Manning 2019, N19-1419).

    Args:
        matrix: B, shape (rank, D).
        words: Representations h of a sentence, shape (n, D).

    Returns:
        Shape (n,).

    Example:
        >>> probe_depths(torch.eye(2), torch.tensor([[0.0, 0.0], [1.0, 1.0]]))
        tensor([0., 2.])

    """
    return (words.to(matrix.dtype) @ matrix.T).square().sum(-1)


def distance_probe_loss(matrix: Tensor, words: Sequence[Tensor], distances: Sequence[Tensor]) -> Tensor:
    r"""L1 loss of the distance probe, :math:`\frac1S \sum_s |s|^{-2} \sum_{ij} |d_{ij} - \|B(h_i - h_j)\|^2|`.

    Args:
        matrix: B, shape (rank, D).
        words: Representations h of each sentence, shape (n, D).
        distances: Tree distances d of each sentence, shape (n, n).

    Returns:
        A scalar.

    Raises:
        ValueError: If there is no sentence or shapes do not fit together.

    Example:
        >>> words = torch.tensor([[0.0], [1.0], [3.0]])
        >>> distances = torch.tensor([[0, 1, 2], [1, 0, 1], [2, 1, 0]])
        >>> round(float(distance_probe_loss(torch.eye(1), [words], [distances])), 4)  # 2 · (0 + 7 + 3) / 9
        2.2222

    """
    return _loss(matrix, words, distances, _Distances)


def depth_probe_loss(matrix: Tensor, words: Sequence[Tensor], depths: Sequence[Tensor]) -> Tensor:
    r"""L1 loss of the depth probe, :math:`\frac1S \sum_s |s|^{-1} \sum_i |d_i - \|B h_i\|^2|`.

    Args:
        matrix: B, shape (rank, D).
        words: Representations h of each sentence, shape (n, D).
        depths: Depths d of each sentence, shape (n,).

    Returns:
        A scalar.

    Raises:
        ValueError: If there is no sentence or shapes do not fit together.

    Example:
        >>> float(depth_probe_loss(torch.eye(1), [torch.tensor([[0.0], [1.0], [3.0]])], [torch.tensor([0, 1, 1])]))
        2.6666667461395264

    """
    return _loss(matrix, words, depths, _Depths)


def fit_distance_probe(
    words: Sequence[Tensor],
    distances: Sequence[Tensor],
    dev_words: Sequence[Tensor],
    dev_distances: Sequence[Tensor],
    rank: int = 64,
    start: Tensor | None = None,
    max_steps: int = 500,
    patience: int = 6,
    seed: int = 0,
) -> StructuralProbeFit:
    """Fit a distance probe by :func:`distance_probe_loss`, stopped by its loss on other sentences.

    Adam on the gradient over all sentences, in coordinates in which the words' covariance is the identity, so that the
    scale and the correlations of the representations do not matter. The dev loss is taken every 5 steps; when it has
    not fallen for ``patience`` of these, the step size is quartered and the search goes on from the best matrix, until
    the steps are a thirtieth of the first ones.

    Args:
        words: Representations of each training sentence, shape (n, D).
        distances: Tree distances of each, shape (n, n).
        dev_words: Representations of the sentences that say when to stop.
        dev_distances: Their tree distances.
        rank: Rows k of B; no more than D are used.
        start: Where to start, shape (k, D). By default from small random numbers.
        max_steps: Most gradient steps.
        patience: Looks at the dev loss without progress before steps become smaller.
        seed: Of the random start. Same input, same probe.

    Returns:
        :class:`StructuralProbeFit`. Cost: a step is two products (words, D) × (D, k) and, for each sentence, two of
        (n, n) × (n, k).

    Raises:
        ValueError: If there are no sentences, shapes do not fit together, representations are not finite, or a number
            is out of range.

    Example:
        >>> from lightning_interp.functional.trees import tree_distances
        >>> gold = tree_distances(torch.tensor([1, 2, -1, 2]))
        >>> words = torch.tensor([[1.0, 1, 0], [0, 1, 0], [0, 0, 0], [0, 0, 1]])
        >>> fit_distance_probe([words], [gold], [words], [gold]).loss < 0.02
        True

    """
    train, dev = _Distances(words, distances), _Distances(dev_words, dev_distances)
    return _fit(train, dev, rank, start, max_steps, patience, seed)


def fit_depth_probe(
    words: Sequence[Tensor],
    depths: Sequence[Tensor],
    dev_words: Sequence[Tensor],
    dev_depths: Sequence[Tensor],
    rank: int = 64,
    start: Tensor | None = None,
    max_steps: int = 500,
    patience: int = 6,
    seed: int = 0,
) -> StructuralProbeFit:
    """Fit a depth probe by :func:`depth_probe_loss`, as :func:`fit_distance_probe` does.

    Args:
        words: Representations of each training sentence, shape (n, D).
        depths: Depths of each, shape (n,).
        dev_words: Representations of the sentences that say when to stop.
        dev_depths: Their depths.
        rank: Rows k of B; no more than D are used.
        start: Where to start, shape (k, D).
        max_steps: Most gradient steps.
        patience: Looks at the dev loss without progress before steps become smaller.
        seed: Of the random start.

    Returns:
        :class:`StructuralProbeFit`.

    Raises:
        ValueError: As :func:`fit_distance_probe`.

    Example:
        >>> words = torch.tensor([[1.0, 1, 0], [0, 1, 0], [0, 0, 0], [0, 0, 1]])
        >>> depths = torch.tensor([2, 1, 0, 1])
        >>> fit_depth_probe([words], [depths], [words], [depths]).loss < 0.02
        True

    """
    train, dev = _Depths(words, depths), _Depths(dev_words, dev_depths)
    return _fit(train, dev, rank, start, max_steps, patience, seed)


# ------------------------------------------------- sentences in padded batches


class _Batch(NamedTuple):
    """Sentences of about one length."""

    places: Tensor
    """Rows of their words among those of all sentences, (S, n)."""
    gold: Tensor
    """(S, n, n) or (S, n)."""
    weight: Tensor
    """What each entry counts in the loss, 0 for padding."""


class _Problem:
    """All sentences: their words below one another, and batches that say which rows belong together."""

    shape: Callable[[int], tuple[int, ...]]

    def __init__(self, words: Sequence[Tensor], gold: Sequence[Tensor]) -> None:
        if not len(words) or len(words) != len(gold):
            raise ValueError(f"expected as many sentences with words as with trees, got {len(words)} and {len(gold)}.")
        for place, (one, tree) in enumerate(zip(words, gold, strict=True)):
            if one.ndim != 2 or one.shape[1] != words[0].shape[1] or tuple(tree.shape) != self.shape(len(one)):
                raise ValueError(
                    f"sentence {place} has words of shape {tuple(one.shape)} and a tree of shape {tuple(tree.shape)}; "
                    f"expected (n, {words[0].shape[-1]}) and {self.shape(len(one))}."
                )
        self.words = torch.cat([one if one.dtype == torch.float64 else one.float() for one in words])
        starts = torch.tensor([0, *(len(one) for one in words)]).cumsum(0)
        order = sorted(range(len(words)), key=lambda place: len(words[place]))
        self.batches: list[_Batch] = []
        chosen: list[int] = []
        for place in order:
            n = len(words[place])
            # Sorted by length, so that little is padded; a long sentence makes a batch of its own.
            if chosen and ((len(chosen) + 1) * n * n > _CELLS or n > 1.25 * len(words[chosen[0]]) + 1):
                self.batches.append(self._batch(chosen, gold, starts))
                chosen = []
            chosen.append(place)
        self.batches.append(self._batch(chosen, gold, starts))

    def _batch(self, chosen: Sequence[int], gold: Sequence[Tensor], starts: Tensor) -> _Batch:
        n = max(len(gold[place]) for place in chosen)
        places = torch.zeros(len(chosen), n, dtype=torch.long)
        shape = (len(chosen), *self.shape(n))
        trees, weight = self.words.new_zeros(shape), self.words.new_zeros(shape)
        for row, place in enumerate(chosen):
            length = len(gold[place])
            part: tuple[Any, ...] = (row, *(slice(length) for _ in shape[1:]))
            places[row, :length] = starts[place] + torch.arange(length)
            trees[part] = gold[place].to(trees)
            weight[part] = 1 / (len(starts) - 1) / gold[place].numel()
        device = self.words.device
        return _Batch(places.to(device), trees, weight)

    def loss(self, mapped: Tensor, gradient: Tensor | None = None) -> Tensor:
        """The loss of mapped words (N, k); its gradient with respect to them is added to ``gradient``."""
        raise NotImplementedError

    def second_moment(self) -> Tensor:
        """What whitening makes the identity, (D, D)."""
        raise NotImplementedError


class _Distances(_Problem):
    @staticmethod
    def shape(n: int) -> tuple[int, ...]:
        return (n, n)

    def loss(self, mapped: Tensor, gradient: Tensor | None = None) -> Tensor:
        total = mapped.new_zeros(())
        for places, gold, weight in self.batches:
            x = mapped[places]
            error = _squared_distances(x) - gold
            total = total + (error.abs() * weight).sum()
            if gradient is not None:
                # Both (i, j) and (j, i) are in the sum: d loss / d x_i = 4 Σ_j s_ij (x_i − x_j).
                signed = error.sign_().mul_(weight)
                slope = 4 * (signed.sum(-1, keepdim=True) * x - signed @ x)
                gradient.index_add_(0, places.flatten(), slope.flatten(0, 1))
        return total

    def second_moment(self) -> Tensor:
        centred = self.words - self.words.mean(0)
        return centred.T @ centred / len(centred)


class _Depths(_Problem):
    @staticmethod
    def shape(n: int) -> tuple[int, ...]:
        return (n,)

    def loss(self, mapped: Tensor, gradient: Tensor | None = None) -> Tensor:
        total = mapped.new_zeros(())
        for places, gold, weight in self.batches:
            x = mapped[places]
            error = x.square().sum(-1) - gold
            total = total + (error.abs() * weight).sum()
            if gradient is not None:
                slope = 2 * (error.sign() * weight)[..., None] * x
                gradient.index_add_(0, places.flatten(), slope.flatten(0, 1))
        return total

    def second_moment(self) -> Tensor:
        return self.words.T @ self.words / len(self.words)


def _squared_distances(x: Tensor) -> Tensor:
    """Of (..., n, k): (..., n, n)."""
    # Lengths from the same product, so that the distance of a word to itself is 0 but for rounding.
    product = x @ x.mT
    squares = product.diagonal(dim1=-2, dim2=-1)
    return (squares[..., :, None] + squares[..., None, :] - 2 * product).clamp(min=0)


def _loss(matrix: Tensor, words: Sequence[Tensor], gold: Sequence[Tensor], kind: type[_Problem]) -> Tensor:
    problem = kind(words, gold)
    if matrix.ndim != 2 or matrix.shape[1] != problem.words.shape[1]:
        raise ValueError(f"`matrix` must be (rank, {problem.words.shape[1]}), got shape {tuple(matrix.shape)}.")
    return problem.loss(problem.words @ matrix.to(problem.words.dtype).T)


# ------------------------------------------------- the search


@torch.no_grad()
def _fit(
    train: _Problem, dev: _Problem, rank: int, start: Tensor | None, max_steps: int, patience: int, seed: int
) -> StructuralProbeFit:
    for name, value in (("rank", rank), ("max_steps", max_steps), ("patience", patience)):
        if value < 1:
            raise ValueError(f"`{name}` must be at least 1, got {value}.")
    dim = train.words.shape[1]
    if dev.words.shape[1] != dim:
        raise ValueError(f"training words have {dim} dimensions, those of the dev sentences {dev.words.shape[1]}.")
    rank = min(rank, dim)
    if start is not None and start.shape != (rank, dim):
        raise ValueError(f"`start` must be {(rank, dim)}, got shape {tuple(start.shape)}.")
    if not bool(train.words.isfinite().all() & dev.words.isfinite().all()):
        raise ValueError("representations must be finite.")

    whiten, unwhiten = _whitening(train.second_moment())
    inputs, dev_inputs = train.words @ whiten, dev.words @ whiten
    if start is None:
        generator = torch.Generator().manual_seed(operator.index(seed))
        weight = torch.randn(rank, dim, generator=generator).to(inputs) * 0.3 / math.sqrt(rank)
    else:
        weight = start.to(inputs) @ unwhiten
    best, best_loss = weight.clone(), float(dev.loss(dev_inputs @ weight.T))
    first, second = torch.zeros_like(weight), torch.zeros_like(weight)
    rate, waited, since, steps = _RATE, 0, 0, 0
    for steps in range(1, max_steps + 1):
        slope = torch.zeros(len(inputs), rank).to(inputs)
        train.loss(inputs @ weight.T, slope)
        gradient = slope.T @ inputs
        since += 1
        first.lerp_(gradient, 0.1)
        second.lerp_(gradient.square(), 0.01)
        corrected = (second / (1 - 0.99**since)).sqrt_().add_(1e-12)
        weight = weight - rate / (1 - 0.9**since) * first / corrected
        if steps % _EVERY and steps < max_steps:
            continue
        loss = float(dev.loss(dev_inputs @ weight.T))
        if loss < best_loss * (1 - 1e-4):
            best, best_loss, waited = weight.clone(), loss, 0
            continue
        waited += 1
        if waited == patience:
            rate, waited, since = rate / 4, 0, 0
            if rate < _SMALLEST_RATE:
                break
            weight = best.clone()
            first.zero_()
            second.zero_()
    return StructuralProbeFit((best @ whiten.T).float(), best_loss, steps)


def _whitening(moment: Tensor) -> tuple[Tensor, Tensor]:
    """The symmetric W with W·moment·W ≈ 1, and its inverse; directions without spread are left small."""
    values, vectors = torch.linalg.eigh(moment.double().cpu())
    values = values.clamp(min=0)
    mean = float(values.mean())
    if mean <= 0:
        return torch.eye(len(moment)).to(moment), torch.eye(len(moment)).to(moment)
    roots = (values + _RIDGE * mean).sqrt()
    return ((vectors / roots) @ vectors.T).to(moment), ((vectors * roots) @ vectors.T).to(moment)
