"""Weights of an earlier moment, which can stand in for the present ones."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lightning_interp.distributed.sharding import hold_parts

__all__ = ["WeightsCopy"]


class WeightsCopy:
    """A copy of a model's parameters and buffers on the CPU, which can stand in for the present ones, by name.

    What has no name in the copy, since it was registered later, stays as it is; what the model no longer has is left
    out. Of sharded tensors the copy holds this rank's part.

    Args:
        model: The model, which is not kept alive.

    Example:
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
        hold_parts(model)
        made: dict[int, Tensor] = {}
        self._copies: dict[str, Tensor] = {}
        for name, _, tensor in _tensors(model):
            # One tensor under several names is copied once.
            if id(tensor) not in made:
                made[id(tensor)] = _local(tensor).to("cpu", copy=True)
            self._copies[name] = made[id(tensor)]

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Within, the model has these weights; use it under ``torch.no_grad``.

        Where shapes are the same, they are written into the tensors that are there. Of another shape (a table that has
        grown), a buffer is exchanged for another, and a parameter is given other data. Afterwards the same objects
        stand where they stood.

        Raises:
            ValueError: If a sharded tensor has another shape than in the copy.

        """
        model = self.model()
        assert model is not None
        hold_parts(model)
        undo: list[Callable[[], Any]] = []
        written: set[int] = set()
        try:
            for name, module, tensor in list(_tensors(model)):
                copy = self._copies.get(name)
                if copy is None:
                    continue
                if _fits(_local(tensor), copy):
                    if id(tensor) not in written:
                        undo.append(_write(_local(tensor), copy))
                elif hasattr(tensor, "to_local"):
                    found = f"{tuple(_local(tensor).shape)} of {name!r}; it had {tuple(copy.shape)}"
                    raise ValueError(f"this rank's part of a sharded tensor has another shape than before: {found}.")
                elif not isinstance(tensor, nn.Parameter):
                    undo.append(_exchange_buffer(module, name.rpartition(".")[2], tensor, copy))
                elif id(tensor) not in written:
                    undo.append(_exchange_data(tensor, copy))
                written.add(id(tensor))
            yield
        finally:
            for one in reversed(undo):
                one()
            # What is whole after a forward pass was made of the other weights.
            hold_parts(model)


def _tensors(model: nn.Module) -> Iterator[tuple[str, nn.Module, Tensor]]:
    """Name, module and tensor of all parameters and buffers, one that has several names under each."""
    for path, module in model.named_modules():
        for own in (module.named_parameters, module.named_buffers):
            for name, tensor in own(recurse=False, remove_duplicate=False):
                # One that waits for the first batch to be given a shape has no weights yet.
                if not is_lazy(tensor):
                    yield f"{path}.{name}" if path else name, module, tensor


def _local(tensor: Tensor) -> Tensor:
    """The part of a tensor that this rank holds, without its graph."""
    tensor = tensor.detach()
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def _fits(tensor: Tensor, copy: Tensor) -> bool:
    """Whether values can be written into a tensor: not where several entries are one place in memory."""
    if tensor.shape != copy.shape or tensor.layout != copy.layout:
        return False
    if tensor.layout != torch.strided or not tensor.numel():
        return True
    places = 1 + sum((size - 1) * step for size, step in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.numel() <= places


def _write(tensor: Tensor, copy: Tensor) -> Callable[[], Any]:
    before = tensor.clone()
    tensor.copy_(copy)
    return partial(tensor.copy_, before)


def _exchange_buffer(module: nn.Module, name: str, buffer: Tensor, copy: Tensor) -> Callable[[], Any]:
    other = _like(buffer, copy)
    if isinstance(module, torch.jit.ScriptModule):
        setattr(module, name, other)
        return partial(setattr, module, name, buffer)
    registry = module._buffers
    registry[name] = other
    return lambda: registry.update({name: buffer})


def _exchange_data(parameter: nn.Parameter, copy: Tensor) -> Callable[[], Any]:
    data = parameter.data
    parameter.data = _like(parameter, copy)
    return partial(setattr, parameter, "data", data)


def _like(tensor: Tensor, copy: Tensor) -> Tensor:
    # A parameter takes no data that were made in inference mode.
    with torch.inference_mode(False):
        return copy.to(tensor.device, tensor.dtype, copy=True)
