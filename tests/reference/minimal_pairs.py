"""Log-probabilities, gradient differentials and the largest entries by loops, in float64, one sentence at a time."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def log_prob(model: nn.Module, ids: Tensor, first: int = 1) -> Tensor:
    """Σ log p(x_t | x_<t) over the tokens from `first` on, of a float64 model that maps (1, T) ids to logits."""
    total = torch.zeros((), dtype=torch.float64)
    for t in range(first, len(ids)):
        # The model sees the prefix only, so nothing to the right can leak in.
        logits = model(ids[None, :t])
        total = total + logits[0, -1].log_softmax(-1)[ids[t]]
    return total


def shared_prefix(good: Tensor, bad: Tensor) -> int:
    """How many tokens the two begin with in common."""
    shared = 0
    while shared < min(len(good), len(bad)) and good[shared] == bad[shared]:
        shared += 1
    return shared


def differential(
    model: nn.Module, pairs: Sequence[tuple[Tensor, Tensor]], skip_shared: bool = False
) -> dict[str, Tensor]:
    """D, pair by pair; with `skip_shared` from the tokens after the shared prefix alone."""
    parameters = dict(model.named_parameters())
    total = {name: torch.zeros_like(one) for name, one in parameters.items()}
    for good, bad in pairs:
        first = max(1, shared_prefix(good, bad)) if skip_shared else 1
        for sign, ids in ((-1, good), (1, bad)):
            if first < len(ids):
                score = log_prob(model, ids, first)
                gradients = torch.autograd.grad(score, list(parameters.values()), allow_unused=True)
                for name, gradient in zip(parameters, gradients, strict=True):
                    if gradient is not None:
                        total[name] += sign * gradient / len(pairs)
    return total


def largest(values: dict[str, Tensor], count: int) -> dict[str, list[int]]:
    """Positions of the `count` largest entries over all tensors, of equal ones the first."""
    entries = [
        (-abs(value), order, name, place)
        for order, (name, tensor) in enumerate(values.items())
        for place, value in enumerate(tensor.flatten().tolist())
    ]
    chosen = sorted(entries, key=lambda entry: (entry[0], entry[1], entry[3]))[:count]
    return {name: sorted(place for _, _, owner, place in chosen if owner == name) for name in values}
