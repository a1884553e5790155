"""Causal tracing one copy, one layer and one token at a time, with plain forward hooks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

Hook = Callable[[nn.Module, object, Tensor], Tensor]


def run(model: nn.Module, ids: Tensor, hooks: Sequence[tuple[nn.Module, Hook]]) -> Tensor:
    """Probabilities of the next token, (V,)."""
    handles = [module.register_forward_hook(hook) for module, hook in hooks]
    with torch.no_grad():
        found = model(ids[None])[0, -1].double().softmax(-1)
    for handle in handles:
        handle.remove()
    return found


def states(model: nn.Module, ids: Tensor, modules: Sequence[nn.Module]) -> list[Tensor]:
    """What each module returns of a text, (T, D)."""
    kept: list[Tensor] = [torch.zeros(0)] * len(modules)

    def keep(place: int) -> Hook:
        def hook(module: nn.Module, args: object, output: Tensor) -> Tensor:
            kept[place] = output[0].clone()
            return output

        return hook

    run(model, ids, [(module, keep(place)) for place, module in enumerate(modules)])
    return kept


def traced(
    model: nn.Module,
    embedding: nn.Module,
    ids: Tensor,
    start: int,
    noise: Tensor,
    target: int,
    restored: Sequence[tuple[nn.Module, int, Tensor]],
) -> float:
    """Mean probability of a token over copies with noise (copies, n, D), with states (D,) of modules put at tokens."""
    total = 0.0
    for copy in noise:

        def noisy(module: nn.Module, args: object, output: Tensor, copy: Tensor = copy) -> Tensor:
            changed = output.clone()
            changed[0, start : start + len(copy)] += copy
            return changed

        def put(token: int, state: Tensor) -> Hook:
            def hook(module: nn.Module, args: object, output: Tensor) -> Tensor:
                changed = output.clone()
                changed[0, token] = state
                return changed

            return hook

        hooks: list[tuple[nn.Module, Hook]] = [(embedding, noisy)]
        hooks += [(module, put(token, state)) for module, token, state in restored]
        total += float(run(model, ids, hooks)[target])
    return total / len(noise)
