"""A direction and a threshold that tell two classes apart."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lightning_interp.functional._numerics import check_matrix

__all__ = ["LinearRule", "check_classes"]


class LinearRule(NamedTuple):
    """Says class 1 where the score is above 0."""

    weight: Tensor
    """(D,)"""
    bias: Tensor
    """()"""

    def score(self, x: Tensor) -> Tensor:
        """Scores of vectors (N, D): (N,), float64 on the CPU."""
        return x.detach().cpu().double() @ self.weight + self.bias


def check_classes(x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Vectors in float64 and labels as bool, on the CPU, or a ``ValueError`` that says what is wrong with them."""
    check_matrix("x", x)
    if labels.shape != (len(x),):
        raise ValueError(f"`labels` must be one a row of `x`, ({len(x)},); got shape {tuple(labels.shape)}.")
    missing = int((~x.isfinite()).sum())
    if missing:
        raise ValueError(f"`x` has {missing} values of {x.numel()} that are not finite.")
    values = torch.unique(labels.detach().cpu()).tolist()
    if len(values) != 2 or {float(value) for value in values} != {0.0, 1.0}:
        raise ValueError(f"`labels` must have both 0 and 1, or False and True, and nothing else; got {values[:5]}.")
    return x.detach().cpu().double(), labels.detach().cpu().to(torch.bool)
