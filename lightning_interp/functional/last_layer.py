"""The gradient of an example's cross entropy at the last linear layer, in closed form: its length and its products."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_interp.functional._numerics import as_float, norms

__all__ = ["error_norm", "last_layer_norm", "last_layer_products", "output_errors"]


def output_errors(logits: Tensor, targets: Tensor, counted: Tensor | None = None) -> Tensor:
    r"""The gradient of cross entropy with respect to the logits.

    .. math:: \delta = \mathrm{softmax}(\ell) - \mathrm{onehot}(y)

    and for one logit a target, of class 1, :math:`\delta = \mathrm{sigmoid}(\ell) - y`.

    Args:
        logits: (…, C).
        targets: The right classes, integers (…); 0 or 1 where C is 1.
        counted: Which of them count, bool (…): δ is 0 at the others. All by default.

    Returns:
        (…, C), at least float32.

    Raises:
        ValueError: If the shapes do not fit.

    Example:
        >>> output_errors(torch.zeros(2, 4), torch.tensor([1, 3])).tolist()
        [[0.25, -0.75, 0.25, 0.25], [0.25, 0.25, 0.25, -0.75]]

    """
    if logits.ndim < 1 or logits.shape[:-1] != targets.shape:
        raise ValueError(
            f"`logits` must be (…, C) for `targets` (…), got {tuple(logits.shape)} and {tuple(targets.shape)}."
        )
    if counted is not None and counted.shape != targets.shape:
        raise ValueError(
            f"`counted` must have the shape of `targets`, {tuple(targets.shape)}, got {tuple(counted.shape)}."
        )
    wide = as_float(logits)
    if wide.shape[-1] == 1:
        found = wide.sigmoid() - targets[..., None].to(wide.dtype)
    else:
        right = targets if counted is None else targets.masked_fill(~counted, 0)
        found = wide.softmax(-1)
        found = found.scatter_add(-1, right.long()[..., None], -torch.ones_like(found[..., :1]))
    # Not a product: logits that do not count may be no numbers.
    return found if counted is None else found.masked_fill(~counted[..., None], 0)


def error_norm(errors: Tensor) -> Tensor:
    r"""The length of the error, of a sequence the sum over its positions: :math:`\sum_t \|\delta_t\|`.

    The EL2N score of Paul et al. 2021 (arXiv 2107.07075), there a mean over several models early in training.

    Args:
        errors: From :func:`output_errors`, (B, C) or (B, T, C).

    Returns:
        (B,).

    Example:
        >>> round(error_norm(output_errors(torch.zeros(1, 4), torch.tensor([1]))).item(), 4)
        0.866

    """
    lengths = norms(errors)
    return lengths.sum(-1) if errors.ndim > 2 else lengths


def last_layer_norm(errors: Tensor, inputs: Tensor, bias: bool = True) -> Tensor:
    r"""Squared length of the gradient of an example's cross entropy at the last linear layer.

    With logits W h + b the gradient is :math:`\delta h^\top` at W and δ at b, so that

    .. math:: \|\nabla\|^2 = \|\delta\|^2 (\|h\|^2 + 1), \qquad
        \Big\|\sum_t \nabla_t\Big\|^2 = \sum_{t,s} (\delta_t \cdot \delta_s)(h_t \cdot h_s + 1)

    for a sequence whose loss is the sum over its positions: two products T × T, never a matrix of the size of W. It is
    the self-influence of TracIn (Pruthi et al. 2020, arXiv 2002.08484) at one point of training, for this layer alone.

    Args:
        errors: From :func:`output_errors`, (B, C) or (B, T, C).
        inputs: What the layer is given, h, (B, D) or (B, T, D).
        bias: Whether it has a bias; without one there is no 1.

    Returns:
        (B,), at least float32.

    Raises:
        ValueError: If the shapes do not fit.

    Cost: for sequences B · T² · (C + D) products.

    Example:
        >>> errors = output_errors(torch.zeros(1, 4), torch.tensor([1]))
        >>> round(last_layer_norm(errors, torch.tensor([[1.0, 2.0]])).item(), 4)
        4.5

    """
    errors, inputs = _fitting(errors, inputs)
    if errors.ndim == 2:
        return errors.square().sum(-1) * (inputs.square().sum(-1) + bias)
    return ((errors @ errors.mT) * (inputs @ inputs.mT + bias)).sum((-1, -2))


def last_layer_products(
    errors: Tensor, inputs: Tensor, other_errors: Tensor, other_inputs: Tensor, bias: bool = True
) -> Tensor:
    r"""Inner products of gradients at the last linear layer, of each example with each other one.

    .. math:: \nabla_a \cdot \nabla_b = \sum_{t,s} (\delta_{at} \cdot \delta_{bs})(h_{at} \cdot h_{bs} + 1)

    Args:
        errors: From :func:`output_errors`, (A, C) or (A, T, C).
        inputs: What the layer is given, (A, D) or (A, T, D).
        other_errors: Of the others, (B, C) or (B, S, C).
        other_inputs: (B, D) or (B, S, D).
        bias: Whether the layer has a bias.

    Returns:
        (A, B), at least float32.

    Raises:
        ValueError: If the shapes do not fit.

    Cost: A · B · T · S · (C + D) products; memory of B · T · S numbers.

    Example:
        >>> errors = output_errors(torch.zeros(2, 2), torch.tensor([0, 1]))
        >>> last_layer_products(errors, torch.ones(2, 3), errors, torch.ones(2, 3)).tolist()
        [[2.0, -2.0], [-2.0, 2.0]]

    """
    first, second = _fitting(errors, inputs), _fitting(other_errors, other_inputs)
    if first[0].shape[-1] != second[0].shape[-1] or first[1].shape[-1] != second[1].shape[-1]:
        raise ValueError(
            f"`errors` {tuple(errors.shape)} and `inputs` {tuple(inputs.shape)} are of another layer than "
            f"`other_errors` {tuple(other_errors.shape)} and `other_inputs` {tuple(other_inputs.shape)}."
        )
    if errors.ndim == other_errors.ndim == 2:
        return (first[0] @ second[0].mT) * (first[1] @ second[1].mT + bias)
    mine, others = ([one if one.ndim == 3 else one[:, None] for one in pair] for pair in (first, second))
    rows = [((delta @ others[0].mT) * (h @ others[1].mT + bias)).sum((-1, -2)) for delta, h in zip(*mine, strict=True)]
    return torch.stack(rows) if rows else first[0].new_zeros(0, len(other_errors))


def _fitting(errors: Tensor, inputs: Tensor) -> tuple[Tensor, Tensor]:
    if errors.ndim not in (2, 3) or inputs.shape[:-1] != errors.shape[:-1]:
        raise ValueError(
            "`errors` and `inputs` must be (B, C) and (B, D) or (B, T, C) and (B, T, D), got shapes "
            f"{tuple(errors.shape)} and {tuple(inputs.shape)}."
        )
    errors, inputs = as_float(errors), as_float(inputs)
    dtype = torch.promote_types(errors.dtype, inputs.dtype)
    # What a position without an error is given does not count, whatever it is.
    there = errors.any(-1, keepdim=True)
    return errors.to(dtype), inputs.to(dtype).where(there, 0)
