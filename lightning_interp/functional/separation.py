"""How far classes lie apart in a cloud of representations, and what labels at random would show."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lightning_interp.functional._numerics import check_matrix, full_precision, wide_dtype

__all__ = ["euclidean_distances", "knn_purity", "knn_purity_chance", "silhouette"]

# Entries of a block of distances: few enough for a processor's cache.
_BLOCK = 1 << 20
# Distances closer than this share of the cloud's size count as equal: vectors of one word differ by rounding.
_TIE = 1e-6


def euclidean_distances(z: Tensor) -> Tensor:
    """Distances of all pairs of rows, with an exact 0 on the diagonal.

    Args:
        z: Representations, (N, D).

    Returns:
        (N, N), float64 (float32 on MPS).

    Raises:
        ValueError: If ``z`` is no non-empty matrix.

    Cost: one product, N²·D multiplications; 8·N² bytes.

    Example:
        >>> euclidean_distances(torch.tensor([[0.0, 0.0], [3.0, 4.0]]))
        tensor([[0., 5.],
                [5., 0.]], dtype=torch.float64)

    """
    check_matrix("z", z)
    centred = z.detach().to(wide_dtype(z.device))
    centred = centred - centred.mean(0)
    squared = centred.square().sum(1)
    with full_precision(z.device):
        distances = centred @ centred.T
    distances.mul_(-2).add_(squared).add_(squared[:, None]).clamp_min_(0).sqrt_()
    return distances.fill_diagonal_(0)


def silhouette(distances: Tensor, labels: Tensor) -> Tensor:
    r"""Mean silhouette of labelled rows (Rousseeuw 1987).

    .. math:: s_i = \frac{b_i - a_i}{\max(a_i, b_i)}

    with :math:`a_i` the mean distance to the other rows of the own class and :math:`b_i` that to the rows of the
    nearest other class; :math:`s_i = 0` where the class has one row, or both are 0.

    Args:
        distances: (N, N), from :func:`euclidean_distances` or any other distance.
        labels: Class of each row, integers (N,), 2 to N − 1 different ones. Or (S, N): S ways to deal them out.

    Returns:
        −1 to 1, scalar or (S,), in the dtype of the distances.

    Raises:
        ValueError: If the shapes do not fit, or the number of classes does not.

    Cost: S·N² additions.

    Example:
        >>> d = euclidean_distances(torch.tensor([[0.0], [1.0], [10.0], [11.0]]))
        >>> round(float(silhouette(d, torch.tensor([0, 0, 1, 1]))), 3)
        0.9

    """
    rows = _check(distances, labels)
    dealt = labels if labels.ndim == 2 else labels[None]
    found = []
    for one in dealt.to(distances.device):
        classes, ids, counts = torch.unique(one, return_inverse=True, return_counts=True)
        number = len(classes)
        if not 2 <= number < rows:
            raise ValueError(f"`labels` must have 2 to {rows - 1} classes for {rows} rows, got {number}.")
        found.append(_silhouettes(distances, ids, counts.to(distances.dtype)).mean())
    return torch.stack(found) if labels.ndim == 2 else found[0]


def _silhouettes(distances: Tensor, ids: Tensor, counts: Tensor) -> Tensor:
    rows = len(distances)
    values = torch.empty_like(distances[0])
    step = max(1, _BLOCK // rows)
    for start in range(0, rows, step):
        block, own = distances[start : start + step], ids[start : start + step, None]
        sums = block.new_zeros(len(block), len(counts)).index_add_(1, ids, block)
        others = counts[own] - 1
        within = sums.gather(1, own) / others.clamp_min(1)
        between = (sums / counts).scatter(1, own, torch.inf).amin(1, keepdim=True)
        size = torch.maximum(within, between)
        score = torch.where((others > 0) & (size > 0), (between - within) / size, 0.0)
        values[start : start + step] = score.squeeze(1)
    return values


def knn_purity(distances: Tensor, labels: Tensor, k: int = 10, units: Tensor | None = None) -> Tensor:
    r"""Share of a row's k nearest neighbours, itself left out, that are of its class, averaged over rows.

    Where a class belongs to a unit of several rows (the positions of one sample), other rows of the unit are no
    neighbours: they are of its class by construction. Of rows that tie for the last places each counts in part, as the
    mean over all orders of them: copies of one vector have no order. Distances closer than a millionth of the mean
    count as tied.

    Args:
        distances: (N, N), from :func:`euclidean_distances` or any other distance.
        labels: Class of each row, integers (N,). Or (S, N): S ways to deal them out.
        k: Neighbours, 1 to N less the rows of the largest unit.
        units: Unit of each row, integers (N,); each row is one of its own by default.

    Returns:
        0 to 1, scalar or (S,), in the dtype of the distances; compare with :func:`knn_purity_chance`.

    Raises:
        ValueError: If the shapes do not fit or ``k`` is out of range.

    Cost: a ``topk`` of N² numbers, and N² comparisons for each way to deal the classes out.

    Example:
        >>> d = euclidean_distances(torch.tensor([[0.0], [1.0], [10.0], [11.0]]))
        >>> float(knn_purity(d, torch.tensor([0, 0, 1, 1]), k=1)), float(knn_purity(d, torch.tensor([0, 1, 0, 1]), k=1))
        (1.0, 0.0)
        >>> float(knn_purity(d, torch.tensor([0, 0, 1, 1]), k=1, units=torch.tensor([0, 0, 1, 1])))
        0.0

    """
    rows = _check(distances, labels)
    dealt = labels.to(distances.device)
    dealt = dealt if labels.ndim == 2 else dealt[None]
    owner = None if units is None else _owners(units, rows).to(distances.device)
    most = rows - (1 if owner is None else int(owner.bincount().max()))
    if not 1 <= k <= most:
        beside = "" if owner is None else ", the rows outside the largest unit"
        raise ValueError(f"`k` must lie between 1 and N - {rows - most} = {most}{beside}, got {k}.")
    tie = _TIE * distances.mean()
    total = distances.new_zeros(len(dealt))
    step = max(1, _BLOCK // rows)
    for start in range(0, rows, step):
        block = distances[start : start + step].clone()
        if owner is None:
            place = torch.arange(len(block), device=block.device)
            block[place, place + start] = torch.inf
        else:
            block.masked_fill_(owner[start : start + step, None] == owner, torch.inf)
        last = block.kthvalue(k, dim=1, keepdim=True).values
        closer, tied = block < last - tie, (block - last).abs() <= tie
        left = k - closer.sum(1)
        share = left.to(block.dtype) / tied.sum(1)
        for way, one in enumerate(dealt):
            same = one[start : start + step, None] == one
            total[way] += ((same & closer).sum(1) + share * (same & tied).sum(1)).sum()
    found = total / (k * rows)
    return found if labels.ndim == 2 else found[0]


def knn_purity_chance(labels: Tensor, units: Tensor | None = None) -> Tensor:
    r"""What :func:`knn_purity` gives on average over all ways to deal the same labels out, whatever k.

    .. math:: \sum_c \frac{n_c (n_c - 1)}{U (U - 1)}

    with U units, of which :math:`n_c` are of class c: neighbours are rows of two units, whatever their sizes.

    Args:
        labels: Class of each row, integers (N,).
        units: Unit of each row, of one class each, integers (N,), at least 2 different ones; each row is one of its own
            by default.

    Returns:
        0 to 1, float64 scalar.

    Raises:
        ValueError: If there are fewer than two rows or units, or a unit has several classes.

    Example:
        >>> float(knn_purity_chance(torch.tensor([0, 0, 0, 1])))
        0.5

    """
    rows = len(labels)
    if labels.ndim != 1 or rows < 2:
        raise ValueError(f"`labels` must be (N,) with N at least 2, got shape {tuple(labels.shape)}.")
    classes = labels.cpu()
    if units is not None:
        owner = _owners(units, rows).cpu()
        pairs = torch.unique(torch.stack([owner, torch.unique(classes, return_inverse=True)[1]]), dim=1)
        rows, classes = int(owner.max()) + 1, pairs[1]
        if rows < 2 or len(classes) != rows:
            raise ValueError(f"`units` must be 2 or more of one class each, got {rows} with {len(classes)} classes.")
    counts = torch.unique(classes, return_counts=True)[1].double()
    chance: Tensor = (counts * (counts - 1)).sum() / (rows * (rows - 1))
    return chance


def _owners(units: Tensor, rows: int) -> Tensor:
    """Units numbered from 0 on."""
    if units.shape != (rows,) or units.is_floating_point():
        raise ValueError(
            f"`units` must be integers, one for each of {rows} rows, got {units.dtype} {tuple(units.shape)}."
        )
    place: Tensor = torch.unique(units, return_inverse=True)[1]
    return place


def _check(distances: Tensor, labels: Tensor) -> int:
    check_matrix("distances", distances)
    rows = len(distances)
    if distances.shape[1] != rows:
        raise ValueError(f"`distances` must be square (N, N), got shape {tuple(distances.shape)}.")
    if labels.is_floating_point() or labels.ndim not in (1, 2) or labels.shape[-1] != rows:
        raise ValueError(
            f"`labels` must be integers, one for each of {rows} rows, got {labels.dtype} {tuple(labels.shape)}."
        )
    if not math.isfinite(float(distances.sum())):
        raise ValueError("`distances` has values that are not finite.")
    return rows
