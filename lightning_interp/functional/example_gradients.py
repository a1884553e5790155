"""Gradients of single examples with respect to a linear layer, from what it was given and what came back to it."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

__all__ = ["example_gradients", "example_squared_norms", "gradient_products", "squared_gradient_sum"]

_NUMBERS = 1 << 25  # of gradients that exist at a time


def example_gradients(inputs: Tensor, errors: Tensor) -> Tensor:
    r"""The gradient of each example's loss with respect to the weight of a layer that gives W a at each position.

    .. math:: G_z = \sum_t \delta_{z,t} \, a_{z,t}^\top

    where δ is the gradient of the loss with respect to what the layer gives. A bias is a weight for an input of 1.

    Args:
        inputs: What the layer was given, a, of shape (B, T, I): at T positions of each of B examples.
        errors: δ, of shape (B, T, O).

    Returns:
        (B, O, I).

    Raises:
        ValueError: If shapes do not fit.

    Example:
        >>> example_gradients(torch.tensor([[[1.0, 2.0], [0.0, 1.0]]]), torch.tensor([[[3.0], [1.0]]]))
        tensor([[[3., 7.]]])

    """
    _check(inputs, errors)
    return errors.transpose(1, 2) @ inputs


def example_squared_norms(inputs: Tensor, errors: Tensor) -> Tensor:
    r"""The squared length of each example's gradient, without the gradient.

    .. math:: \|G_z\|^2 = \sum_{t,s} (\delta_{z,t} \cdot \delta_{z,s}) \, (a_{z,t} \cdot a_{z,s})

    Args:
        inputs: (B, T, I), as in :func:`example_gradients`.
        errors: (B, T, O).

    Returns:
        (B,).

    Cost: two products T × T an example.

    Example:
        >>> example_squared_norms(torch.tensor([[[1.0, 2.0], [0.0, 1.0]]]), torch.tensor([[[3.0], [1.0]]]))
        tensor([58.])

    """
    _check(inputs, errors)
    return ((errors @ errors.transpose(1, 2)) * (inputs @ inputs.transpose(1, 2))).sum((1, 2)).clamp_min(0)


def gradient_products(vectors: Tensor, inputs: Tensor, errors: Tensor) -> Tensor:
    r"""Inner products of some matrices with the gradients of examples.

    .. math:: \langle V_q, G_z \rangle = \sum_{o,i} V_{q,oi} G_{z,oi}

    Args:
        vectors: (Q, O, I).
        inputs: (B, T, I), as in :func:`example_gradients`.
        errors: (B, T, O).

    Returns:
        (Q, B).

    Raises:
        ValueError: If shapes do not fit.

    Cost: gradients of so many examples at a time as have 33 million numbers, at least one.

    Example:
        >>> inputs, errors = torch.tensor([[[1.0, 2.0], [0.0, 1.0]]]), torch.tensor([[[3.0], [1.0]]])
        >>> gradient_products(torch.tensor([[[1.0, 1.0]]]), inputs, errors)
        tensor([[10.]])

    """
    _check(inputs, errors)
    shape = errors.shape[-1], inputs.shape[-1]
    if vectors.ndim != 3 or tuple(vectors.shape[1:]) != shape:
        raise ValueError(f"`vectors` must be (Q, {shape[0]}, {shape[1]}), got shape {tuple(vectors.shape)}.")
    flat = vectors.flatten(1)
    found = [flat @ part.flatten(1).T for part in _gradients(inputs, errors)]
    return torch.cat(found, 1) if found else flat.new_zeros(len(flat), 0)


def squared_gradient_sum(inputs: Tensor, errors: Tensor) -> Tensor:
    r"""The squares of all entries of the gradients, summed over examples: :math:`\sum_z G_z \odot G_z`.

    Args:
        inputs: (B, T, I), as in :func:`example_gradients`.
        errors: (B, T, O).

    Returns:
        (O, I).

    Example:
        >>> squared_gradient_sum(torch.tensor([[[1.0, 2.0], [0.0, 1.0]]]), torch.tensor([[[3.0], [1.0]]]))
        tensor([[ 9., 49.]])

    """
    _check(inputs, errors)
    if inputs.shape[1] == 1:
        return errors[:, 0].square().T @ inputs[:, 0].square()
    total = inputs.new_zeros(errors.shape[-1], inputs.shape[-1])
    for part in _gradients(inputs, errors):
        total += part.square().sum(0)
    return total


def _gradients(inputs: Tensor, errors: Tensor) -> Iterator[Tensor]:
    at_once = max(1, _NUMBERS // max(1, inputs.shape[-1] * errors.shape[-1]))
    for start in range(0, len(inputs), at_once):
        yield example_gradients(inputs[start : start + at_once], errors[start : start + at_once])


def _check(inputs: Tensor, errors: Tensor) -> None:
    if inputs.ndim != 3 or errors.ndim != 3 or inputs.shape[:2] != errors.shape[:2]:
        raise ValueError(
            f"`inputs` and `errors` must be (B, T, I) and (B, T, O), got shapes {tuple(inputs.shape)} and "
            f"{tuple(errors.shape)}."
        )
