"""Minimising a convex function of many numbers."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from torch import Tensor

__all__ = ["minimise"]

_MEMORY = 10
_SMALLEST = 2.0**-30
_ROUNDING = 1e-14


def minimise(
    start: Tensor,
    evaluate: Callable[[Tensor], tuple[Tensor, Tensor]],
    precondition: Callable[[Tensor], Tensor],
    tolerance: float = 1e-10,
    max_steps: int = 500,
) -> Tensor:
    r"""L-BFGS (Nocedal & Wright 2006, algorithm 7.5) with halved steps.

    It ends where half the squared gradient in the metric of the preconditioner, about what is left to gain, is below
    ``tolerance`` times the value, or ``tolerance`` where that is below 1.

    Args:
        start: Where to start, any shape, float64.
        evaluate: The function's value and gradient at a point.
        precondition: About the inverse Hessian times a gradient: symmetric and positive.
        tolerance: When to end.
        max_steps: Steps at most.

    Returns:
        The minimum.

    Raises:
        RuntimeError: If it does not converge.

    Example:
        >>> import torch
        >>> def squares(x):
        ...     return (x - 3).square().sum() + 1, 2 * (x - 3)
        >>> minimise(torch.zeros(2, dtype=torch.float64), squares, lambda gradient: gradient)
        tensor([3., 3.], dtype=torch.float64)

    """
    point = start
    value, gradient = evaluate(point)
    pairs: deque[tuple[Tensor, Tensor]] = deque(maxlen=_MEMORY)
    for _ in range(max_steps):
        left = float((gradient * precondition(gradient)).sum()) / 2
        if left <= tolerance * max(abs(float(value)), 1.0):
            return point
        direction = -_two_loops(gradient, pairs, precondition)
        slope = float((gradient * direction).sum())
        size = 1.0
        while True:
            new = point + size * direction
            new_value, new_gradient = evaluate(new)
            # Rounding of the value must not forbid the last steps.
            if float(new_value) <= float(value) + 1e-4 * size * slope + _ROUNDING * abs(float(value)):
                break
            size /= 2
            if size < _SMALLEST:
                raise RuntimeError(f"no step decreases the function any more, with {left:.3g} left to gain.")
        step, change = new - point, new_gradient - gradient
        if float((step * change).sum()) > 0:
            pairs.append((step, change))
        point, value, gradient = new, new_value, new_gradient
    raise RuntimeError(f"not converged in {max_steps} steps.")


def _two_loops(
    gradient: Tensor, pairs: deque[tuple[Tensor, Tensor]], precondition: Callable[[Tensor], Tensor]
) -> Tensor:
    direction = gradient
    shares = []
    for step, change in reversed(pairs):
        share = (step * direction).sum() / (step * change).sum()
        direction = direction - share * change
        shares.append(share)
    direction = precondition(direction)
    if pairs:
        step, change = pairs[-1]
        direction = direction * ((step * change).sum() / (change * precondition(change)).sum())
    for (step, change), share in zip(pairs, reversed(shares), strict=True):
        direction = direction + step * (share - (change * direction).sum() / (step * change).sum())
    return direction
