"""How well predicted coordinates match the true ones, in space or time."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from lightning_interp.functional._numerics import check_matrix

__all__ = ["EARTH_RADIUS", "Distance", "great_circle", "proximity_error", "r_squared"]

Distance = Literal["euclidean", "haversine"]
EARTH_RADIUS = 6371.0
"""Kilometres."""


def r_squared(predicted: Tensor, actual: Tensor) -> Tensor:
    r"""Share of each target's variance that is predicted, :math:`R^2 = 1 - \sum (y - \hat y)^2 / \sum (y - \bar y)^2`.

    With held-out predictions a probe that knows nothing is at or somewhat below 0, since it says the mean of the other
    folds: with whole blocks held out far below.

    Args:
        predicted: (N, T).
        actual: (N, T).

    Returns:
        (T,), float64 on the CPU, at most 1; NaN for a target that is constant.

    Raises:
        ValueError: If the shapes differ.

    Example:
        >>> r_squared(torch.tensor([[1.0], [2.0], [2.0]]), torch.tensor([[1.0], [2.0], [3.0]]))
        tensor([0.5000], dtype=torch.float64)

    """
    guess, truth = _checked(predicted, actual)
    left = (truth - guess).square().sum(0)
    total = (truth - truth.mean(0)).square().sum(0)
    return torch.where(total > 0, 1 - left / total, torch.nan)


def great_circle(a: Tensor, b: Tensor) -> Tensor:
    r"""Distance on the earth from every place in a to every one in b, by the haversine formula.

    .. math:: d = 2 R \arcsin \sqrt{\sin^2 \tfrac{\Delta\varphi}{2} +
        \cos\varphi_a \cos\varphi_b \sin^2 \tfrac{\Delta\lambda}{2}}

    Args:
        a: Latitude and longitude in degrees, (N, 2).
        b: (M, 2). A predicted latitude may lie beyond a pole; it counts as the pole.

    Returns:
        Kilometres on a sphere of radius 6371, (N, M), float64.

    Raises:
        ValueError: If the shapes do not fit.

    Example:
        >>> paris, sydney = torch.tensor([[48.857, 2.352]]), torch.tensor([[-33.869, 151.209]])
        >>> round(great_circle(paris, sydney).item())
        16960

    """
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != 2 or b.shape[1] != 2:
        raise ValueError(
            f"`a` and `b` must be (places, 2), latitude and longitude; got {tuple(a.shape)} and {tuple(b.shape)}."
        )
    (phi, lam), (phi_b, lam_b) = (one.detach().cpu().double().deg2rad().unbind(1) for one in (a, b))
    half = torch.pi / 2
    phi, phi_b = phi.clamp(-half, half)[:, None], phi_b.clamp(-half, half)
    h = ((phi - phi_b) / 2).sin() ** 2 + phi.cos() * phi_b.cos() * ((lam[:, None] - lam_b) / 2).sin() ** 2
    return 2 * EARTH_RADIUS * h.clamp(0, 1).sqrt().asin()


def proximity_error(predicted: Tensor, actual: Tensor, distance: Distance = "euclidean") -> float:
    r"""Mean share of the other entities that are predicted nearer to an entity's place than itself (Gurnee 2023).

    .. math:: \frac{1}{N (N - 1)} \sum_i \sum_{j \ne i}
        \mathbb{1}[d(\hat y_j, y_i) < d(\hat y_i, y_i)] + \tfrac12 \mathbb{1}[\ldots = \ldots]

    Unlike an error in kilometres it asks for more precision where there are more entities. Gurnee and Tegmark's code
    divides by N and counts no ties, so that a probe that says one place for all would be perfect; with ties it has .5,
    as has one that guesses.

    Args:
        predicted: Places, (N, T).
        actual: (N, T).
        distance: ``"euclidean"``, or ``"haversine"`` for latitude and longitude in degrees.

    Returns:
        0 where every entity is the nearest to its place, .5 at chance.

    Raises:
        ValueError: If the shapes differ, there are fewer than two entities or ``distance`` is something else.

    Cost: N² distances: 8 MB for 1,000 entities.

    Example:
        >>> proximity_error(torch.tensor([[0.0], [5.0], [2.5]]), torch.tensor([[0.0], [1.0], [2.0]]))
        0.3333333333333333

    """
    guess, truth = _checked(predicted, actual)
    number = len(guess)
    if number < 2:
        raise ValueError(f"`predicted` must have at least two rows, got {number}.")
    if distance == "euclidean":
        apart = torch.linalg.vector_norm(truth[:, None] - guess, dim=-1)
    elif distance == "haversine":
        apart = great_circle(truth, guess)
    else:
        raise ValueError(f"`distance` must be 'euclidean' or 'haversine', got {distance!r}.")
    own = apart.diagonal()[:, None]
    nearer, as_near = int((apart < own).sum()), int((apart == own).sum()) - number
    return (nearer + as_near / 2) / (number * (number - 1))


def _checked(predicted: Tensor, actual: Tensor) -> tuple[Tensor, Tensor]:
    check_matrix("predicted", predicted)
    if predicted.shape != actual.shape:
        raise ValueError(
            "`predicted` and `actual` must have one shape (entities, targets), got "
            f"{tuple(predicted.shape)} and {tuple(actual.shape)}."
        )
    return predicted.detach().cpu().double(), actual.detach().cpu().double()
