"""Weights of an earlier moment, which can stand in for the present ones."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor, nn

__all__ = ["WeightsCopy"]


class WeightsCopy:
    """A copy of a model's parameters and buffers on the CPU, which can stand in for the present ones.

    Of sharded tensors it holds this rank's part.

    Args:
        model: The model, which is not kept alive.

    Example:
        >>> import torch
        >>> model = nn.Linear(1, 1)
        >>> before = WeightsCopy(model)
        >>> with torch.no_grad():
        ...     _ = model.weight.fill_(7.0)
        ...     with before.installed():
        ...         print(float(model.weight) == 7)
        False
        >>> float(model.weight)
        7.0

    """

    def __init__(self, model: nn.Module) -> None:
        self.model = weakref.ref(model)
        self._copies = [_local(tensor).to("cpu", copy=True) for tensor in _tensors(model)]

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Within, the model has these weights; use it under ``torch.no_grad``."""
        model = self.model()
        assert model is not None
        present = [_local(tensor).clone() for tensor in _tensors(model)]
        try:
            self._write(model, self._copies)
            yield
        finally:
            self._write(model, present)

    def _write(self, model: nn.Module, values: Sequence[Tensor]) -> None:
        for tensor, value in zip(_tensors(model), values, strict=True):
            _local(tensor).copy_(value)


def _tensors(model: nn.Module) -> list[Tensor]:
    return [*model.parameters(), *model.buffers()]


def _local(tensor: Tensor) -> Tensor:
    """The part of a tensor that this rank holds, without its graph."""
    tensor = tensor.detach()
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor
