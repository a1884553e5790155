"""What an optimizer makes of a gradient that comes in: the factor of each coordinate at a learning rate of 1."""

from __future__ import annotations

from torch import Tensor

from lightning_interp.functional._numerics import as_float

__all__ = ["adam_scale", "first_order_change"]


def adam_scale(second_moment: Tensor, step: float, beta2: float, eps: float) -> Tensor:
    r"""What Adam (Kingma & Ba 2015) and AdamW multiply each coordinate of their first moment by.

    .. math:: \frac{1}{\sqrt{v / (1 - \beta_2^t)} + \epsilon}

    The first moment is a mean of gradients over steps: all that a gradient moves, by the time it has faded, is this
    factor times the gradient, as long as v stays.

    Args:
        second_moment: v, as the optimizer holds it; of AMSGrad its maximum.
        step: How many steps the optimizer has made, t, at least 1.
        beta2: The decay of v.
        eps: What is added to the root.

    Returns:
        Of the shape of v, at least float32.

    Raises:
        ValueError: If there was no step.

    Example:
        >>> import torch
        >>> adam_scale(torch.tensor([0.001, 0.0]), step=1, beta2=0.999, eps=0.5)
        tensor([0.6667, 2.0000])

    """
    if step < 1:
        raise ValueError(f"`step` must be at least 1, got {step}.")
    root: Tensor = (as_float(second_moment) / (1 - beta2**step)).sqrt()
    return (root + eps).reciprocal()


def first_order_change(gradient: Tensor, moved_by: Tensor) -> float:
    r"""How a loss changes, to first order, for each unit of learning rate: :math:`-g \cdot P g'`.

    Args:
        gradient: Of the loss, g, or a sketch of it, (D,).
        moved_by: What the optimizer makes of the gradient that moves the weights, P g', or a sketch of it, (D,).

    Returns:
        Below 0 where the loss falls; NaN where a value is not finite.

    Example:
        >>> import torch
        >>> first_order_change(torch.tensor([1.0, 2.0]), torch.tensor([3.0, -1.0]))
        -1.0

    """
    return -float(as_float(gradient) @ as_float(moved_by))
