"""A map of tasks from their distances, and two maps laid over one another."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = [
    "Alignment",
    "TaskMap",
    "classical_mds",
    "cosine_distance",
    "cosine_map",
    "cosine_maps",
    "laid_over",
    "procrustes",
]


class TaskMap(NamedTuple):
    """Points whose distances approximate those given."""

    points: Tensor
    """Coordinates around their mean, (tasks, dims), in the unit of the distances; the first axis spreads most."""
    share: Tensor
    """What each axis shows of the spread, (dims,): its eigenvalue over the sum of the sizes of all eigenvalues."""


class Alignment(NamedTuple):
    """A map laid over a reference."""

    points: Tensor
    """The moved points, (tasks, dims)."""
    residual: float
    """Squared distance that is left, over that of the reference from its mean: 0 for the same shape."""


def cosine_distance(cosines: Tensor) -> Tensor:
    r"""Distance of two unit vectors from their cosine, :math:`d = \sqrt{2 (1 - c)}`.

    Args:
        cosines: Shape (tasks, tasks). Cosines corrected for noise may lie above 1 and count as 1; NaN stays NaN.

    Returns:
        Distances, 0 to 2 for plain cosines, with 0 on the diagonal whatever stands there.

    Raises:
        ValueError: If the shape is not square.

    Example:
        >>> cosine_distance(torch.tensor([[1.0, 0.5], [0.5, 1.0]]))
        tensor([[0., 1.],
                [1., 0.]])

    """
    if cosines.ndim != 2 or cosines.shape[0] != cosines.shape[1]:
        raise ValueError(f"`cosines` must be square (tasks, tasks), got shape {tuple(cosines.shape)}.")
    distances = (2 * (1 - cosines)).clamp_min(0).sqrt()
    # Rounding would leave √ε there, which is large.
    return distances.fill_diagonal_(0)


def classical_mds(distances: Tensor, dims: int = 2) -> TaskMap:
    r"""Classical multidimensional scaling (Torgerson 1952): principal axes of points known by their distances.

    With J the centring matrix, :math:`B = -\tfrac12 J D^{\circ 2} J = \sum_k \lambda_k v_k v_k^\top` and the points are
    :math:`\sqrt{\lambda_k} v_k` for the largest λ. Distances between points in so few dimensions are recovered exactly.
    Negative eigenvalues say that no points in any space have these distances; such an axis is 0 with a share of 0, and
    they count towards the total of which a share is a part (Mardia 1978).

    Args:
        distances: Symmetric, at least 0, with 0 on the diagonal, shape (tasks, tasks), such as from
            :func:`cosine_distance`.
        dims: Number of axes, 1 to tasks − 1.

    Returns:
        :class:`TaskMap`, float64 on the CPU. Each axis points to the side of its largest coordinate, the first of equal
        ones, so that one input gives one map; for maps over time use :func:`procrustes`. Axes of equal spread may be
        turned into one another.

    Raises:
        ValueError: If the distances are not such ones or ``dims`` does not fit; missing values are not supported.

    Cost: one symmetric eigendecomposition, O(tasks³).

    Example:
        >>> square = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 1.0], [2.0, 1.0]])
        >>> points, share = classical_mds(torch.cdist(square, square))
        >>> [round(value, 3) for value in share.tolist()]
        [0.8, 0.2]

    """
    _check_distances(distances)
    tasks = len(distances)
    if not 1 <= dims < tasks:
        raise ValueError(f"`dims` must lie between 1 and tasks - 1 = {tasks - 1}, got {dims}.")
    squared = distances.detach().cpu().double() ** 2
    squared = (squared + squared.T) / 2
    means = squared.mean(dim=0)
    product = -(squared - means - means[:, None] + means.mean()) / 2
    eigenvalues, vectors = torch.linalg.eigh(product)
    # An eigenvalue of rounding would be an axis of noise.
    rounding = tasks * torch.finfo(product.dtype).eps * eigenvalues.abs().max()
    kept = eigenvalues.flip(0)[:dims]
    kept = torch.where(kept > rounding, kept, 0.0)
    points = vectors.flip(1)[:, :dims] * kept.sqrt()
    total = eigenvalues.abs().sum()
    share = kept / total if total > 0 else torch.zeros_like(kept)
    return TaskMap(points * _signs(points), share)


def procrustes(points: Tensor, reference: Tensor, scaling: bool = False) -> Alignment:
    r"""Lay a map over a reference by moving, turning and mirroring it (Schönemann 1966).

    With both centred, :math:`X^\top Y = U S V^\top` and the turn :math:`R = U V^\top` minimises
    :math:`\|s X R - Y\|^2`; s is 1 or, with scaling, :math:`\operatorname{tr} S / \|X\|^2`.

    Args:
        points: Shape (tasks, dims).
        reference: The same tasks in the same order, the same shape.
        scaling: Whether the map may also be made larger or smaller as a whole. Without, a change of size shows.

    Returns:
        :class:`Alignment`, float64 on the CPU. With scaling the residual is at most 1.

    Raises:
        ValueError: If the shapes differ, a coordinate is not finite (missing tasks are not supported), or all points of
            the reference coincide.

    Example:
        >>> reference = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 1.0]])
        >>> mirrored = torch.tensor([[5.0, 5.0], [5.0, 3.0], [6.0, 5.0]])
        >>> aligned, residual = procrustes(mirrored, reference)
        >>> bool((aligned - reference).abs().max() < 1e-9), round(residual, 9)
        (True, 0.0)

    """
    if points.ndim != 2 or points.shape != reference.shape:
        raise ValueError(
            "`points` and `reference` must have one shape (tasks, dims), got "
            f"{tuple(points.shape)} and {tuple(reference.shape)}."
        )
    for name, value in (("points", points), ("reference", reference)):
        missing = int((~value.isfinite()).sum())
        if missing:
            raise ValueError(f"`{name}` has {missing} coordinates of {value.numel()} that are not finite.")
    x, y = points.detach().cpu().double(), reference.detach().cpu().double()
    centre = y.mean(dim=0)
    x, y = x - x.mean(dim=0), y - centre
    shape = (y**2).sum()
    if shape <= 1e-24 * (shape + len(y) * (centre**2).sum()):
        raise ValueError(f"`reference` has all its {len(y)} points in one place: there is no shape to lay a map over.")
    u, s, vh = torch.linalg.svd(x.T @ y)
    size = (x**2).sum()
    factor = s.sum() / size if scaling and size > 0 else 1.0
    turned = factor * x @ u @ vh
    return Alignment(turned + centre, float(((turned - y) ** 2).sum() / shape))


def laid_over(points: Tensor, reference: Tensor) -> Tensor:
    """Lay a map over a reference of which it shares some tasks: all points move as those do that both have.

    Args:
        points: Shape (tasks, dims), float64, NaN in the rows of tasks that have no place.
        reference: Likewise, the same tasks in the same order.

    Returns:
        The moved points, (tasks, dims); as they were where fewer than two tasks are in both, or those of the reference
        are in one place. See :func:`procrustes`.

    Raises:
        ValueError: If the shapes differ.

    Example:
        >>> reference = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 1.0], [math.nan, math.nan]]).double()
        >>> moved = torch.tensor([[5.0, 5.0], [7.0, 5.0], [5.0, 6.0], [7.0, 6.0]]).double()
        >>> laid_over(moved, reference)[3].round(decimals=6).tolist()
        [2.0, 1.0]

    """
    if points.shape != reference.shape:
        raise ValueError(
            f"`points` and `reference` must have one shape, got {tuple(points.shape)} and {tuple(reference.shape)}."
        )
    known = points[:, 0].isfinite()
    both = known & reference[:, 0].isfinite()
    there = reference[both].double()
    if int(both.sum()) < 2 or float((there - there.mean(0)).square().sum()) <= 0:
        return points
    moved = procrustes(points[both], there).points
    if bool((known == both).all()):
        return points.masked_scatter(known[:, None], moved)
    centre, turned = points[both].mean(0), moved - moved.mean(0)
    u, _, vh = torch.linalg.svd((points[both] - centre).T @ turned)
    whole: Tensor = (points - centre) @ u @ vh + moved.mean(0)
    return whole


def cosine_map(cosines: Tensor) -> Tensor:
    """A map of tasks from their cosines, (tasks, 2) in float64, by :func:`cosine_distance` and :func:`classical_mds`.

    Args:
        cosines: Shape (tasks, tasks); a task whose entry on the diagonal is not finite has no place, NaN.

    Example:
        >>> cosine_map(torch.tensor([[1.0, -1.0], [-1.0, 1.0]]))
        tensor([[ 1.,  0.],
                [-1.,  0.]], dtype=torch.float64)

    """
    known = cosines.diagonal().isfinite()
    points = torch.full((len(cosines), 2), math.nan, dtype=torch.float64)
    if int(known.sum()) > 1:
        distances = cosine_distance(cosines[known][:, known])
        found = classical_mds((distances + distances.T) / 2, dims=min(2, len(distances) - 1)).points
        points[known] = 0.0
        points[known, : found.shape[1]] = found
    return points


def cosine_maps(matrices: Sequence[Tensor]) -> list[Tensor]:
    """The :func:`cosine_map` of each matrix of a series, each :func:`laid_over` the one before."""
    maps: list[Tensor] = []
    for matrix in matrices:
        points = cosine_map(matrix)
        maps.append(laid_over(points, maps[-1]) if maps else points)
    return maps


def _signs(points: Tensor) -> Tensor:
    size = points.abs()
    rows = torch.arange(len(points))[:, None].expand_as(points)
    # Of coordinates that differ in rounding only the first decides.
    first = torch.where(size >= size.amax(dim=0) * (1 - 1e-9), rows, len(points)).amin(dim=0)
    return torch.where(points.gather(0, first[None]) < 0, -1.0, 1.0)


def _check_distances(distances: Tensor) -> None:
    if distances.ndim != 2 or distances.shape[0] != distances.shape[1]:
        raise ValueError(f"`distances` must be square (tasks, tasks), got shape {tuple(distances.shape)}.")
    missing = int((~distances.isfinite()).sum())
    if missing:
        raise ValueError(f"`distances` has {missing} values of {distances.numel()} that are not finite.")
    if distances.numel() and float(distances.min()) < 0:
        raise ValueError(f"`distances` must be at least 0, got {float(distances.min())}.")
    rounding = 1e-6 * float(distances.max()) if distances.numel() else 0.0
    if bool((distances.diagonal() > rounding).any()):
        raise ValueError(f"`distances` must be 0 on the diagonal, got {float(distances.diagonal().max())}.")
    apart = float((distances - distances.T).abs().max()) if distances.numel() else 0.0
    if apart > rounding:
        raise ValueError(f"`distances` must be symmetric, but differs from its transpose by {apart}.")
