"""Gradients of cross entropy at a last linear layer by automatic differentiation, one example at a time."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def gradient(h: Tensor, target: Tensor, counted: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Of the summed loss of one example, h (T, D) and target (T,), with respect to weight (C, D) and bias, as one."""
    leaves = [one.detach().clone().requires_grad_() for one in (weight, bias) if one is not None]
    loss = torch.zeros((), dtype=h.dtype)
    for position in range(len(h)):
        if counted[position]:
            logits = functional.linear(h[position], *leaves)
            right = target[position]
            if len(weight) == 1:
                loss = loss + functional.binary_cross_entropy_with_logits(logits[0], right.to(h.dtype))
            else:
                loss = loss + functional.cross_entropy(logits, right)
    if not loss.requires_grad:
        return torch.zeros(sum(one.numel() for one in leaves), dtype=h.dtype)
    return torch.cat([one.flatten() for one in torch.autograd.grad(loss, leaves)])
