"""A model in half precision computes in float32, from copies of its values that stand in for a moment."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["float32_copies", "with_tensors"]

_HALF = (torch.float16, torch.bfloat16)


def float32_copies(model: nn.Module) -> dict[str, Tensor]:
    """Float32 copies of the parameters, and of the buffers, that are in half precision, by name; no others.

    Buffers only where a parameter is: none, where the model is in float32 itself.

    Example:
        >>> list(float32_copies(nn.Linear(1, 1).bfloat16())), list(float32_copies(nn.Linear(1, 1)))
        (['weight', 'bias'], [])

    """
    copies: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        if parameter.dtype in _HALF:
            copies[name] = parameter.detach().float().requires_grad_(parameter.requires_grad)
    if copies:
        copies |= {name: buffer.float() for name, buffer in model.named_buffers() if buffer.dtype in _HALF}
    return copies


def with_tensors(model: nn.Module, tensors: Mapping[str, Tensor], work: Callable[[], None]) -> None:
    """Run with these in place of the model's own; all of it, since a checkpointed forward runs again in backward.

    Raises:
        ValueError: If there are any, and the model has a recurrent module, whose weights cannot be stood in for.

    Example:
        >>> model = nn.Linear(1, 1).bfloat16()
        >>> with_tensors(model, float32_copies(model), lambda: print(model(torch.zeros(1, 1)).dtype))
        torch.float32

    """
    if not tensors:
        work()
        return
    recurrent = [name for name, module in model.named_modules() if isinstance(module, nn.RNNBase)]
    if recurrent:
        raise ValueError(
            f"{recurrent[0]!r} is a recurrent module in half precision, whose weights cannot be stood in for: train it "
            "in float32 or mixed precision."
        )
    torch.func.functional_call(_Around(model), {f"model.{name}": value for name, value in tensors.items()}, (work,))


class _Around(nn.Module):
    """A module to call with what is to happen while its weights are others."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, work: Callable[[], Any]) -> None:
        work()
