"""Influence the long way: a backward pass for each example, matrices of all parameters, sums one by one."""

from __future__ import annotations

import random
from collections.abc import Callable, Hashable, Mapping, Sequence
from statistics import fmean, pstdev

import torch
from torch import Tensor, nn


def gradients(losses: Sequence[Callable[[], Tensor]], parameters: Sequence[Tensor]) -> Tensor:
    """The gradient of each loss, flattened, a row each; where it does not depend on a parameter, zeros."""
    rows = []
    for loss in losses:
        found = torch.autograd.grad(loss(), list(parameters), allow_unused=True, materialize_grads=True)
        rows.append(torch.cat([one.flatten() for one in found]))
    return torch.stack(rows)


def example_gradient(inputs: Tensor, errors: Tensor) -> Tensor:
    """Outer products, position by position, of one example: (T, I) and (T, O) → (O, I)."""
    total = torch.zeros(errors.shape[-1], inputs.shape[-1], dtype=inputs.dtype)
    for a, d in zip(inputs, errors, strict=True):
        total = total + torch.outer(d, a)
    return total


def ekfac_matrix(inputs: Sequence[Tensor], errors: Sequence[Tensor]) -> Tensor:
    """The whole matrix of a layer, (O·I, O·I), as EK-FAC has it; a (T, I) and a (T, O) for each example."""
    kept = [(a, d) for one, other in zip(inputs, errors, strict=True) for a, d in zip(one, other, strict=True)]
    kept = [(a, d) for a, d in kept if bool(d.any())]
    A, S = sum(torch.outer(a, a) for a, _ in kept), sum(torch.outer(d, d) for _, d in kept)
    (_, Q_A), (_, Q_S) = torch.linalg.eigh(A), torch.linalg.eigh(S)
    basis = torch.kron(Q_S, Q_A)  # rows of a flattened (O, I) matrix
    grads = [example_gradient(a, d).flatten() for a, d in zip(inputs, errors, strict=True)]
    eigenvalues = sum((basis.T @ g) ** 2 for g in grads) / len(grads)
    return basis @ torch.diag(eigenvalues) @ basis.T


def gauss_newton(logits: Callable[[], Tensor], parameters: Sequence[Tensor]) -> Tensor:
    """Σ over rows of Jᵀ (diag p − p pᵀ) J, with J the Jacobian of a row's logits (R, C)."""
    z = logits()
    total = torch.zeros((), dtype=z.dtype)
    for row in range(len(z)):
        jacobian = gradients([lambda row=row, c=c: logits()[row, c] for c in range(z.shape[1])], parameters)
        p = z[row].detach().softmax(-1)
        total = total + jacobian.T @ (torch.diag(p) - torch.outer(p, p)) @ jacobian
    return total


def permuted_means(
    values: Sequence[float], groups: Sequence[Hashable], draws: int, seed: int
) -> Mapping[Hashable, tuple[float, float]]:
    """Mean and standard deviation of each group's mean over random permutations of the groups."""
    shuffled, rng = list(groups), random.Random(seed)
    found: dict[Hashable, list[float]] = {name: [] for name in groups}
    for _ in range(draws):
        rng.shuffle(shuffled)
        for name, means in found.items():
            means.append(fmean(x for x, one in zip(values, shuffled, strict=True) if one == name))
    return {name: (fmean(means), pstdev(means)) for name, means in found.items()}


def parameters_of(model: nn.Module, names: Sequence[str]) -> list[Tensor]:
    """Parameters by name, in that order."""
    own = dict(model.named_parameters(remove_duplicate=False))
    return [own[name] for name in names]
