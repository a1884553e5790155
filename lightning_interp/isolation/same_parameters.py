"""Whether a reading has left the parameters of a model where they stood."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lightning_interp.distributed.sharding import exchanges_parameters
from lightning_interp.isolation.registries import contents, put_back

__all__ = ["SameParameters", "with_same_parameters"]

T = TypeVar("T")


class SameParameters:
    """Which parameters of a model stand under which names now, and in which memory their values are.

    An optimizer trains the very objects that it was given: one that another has taken the place of is trained no more,
    and nothing says so. Made at the beginning of a reading, and asked at its end. Nothing is copied, and values are not
    compared. Left out is what is sharded, whose parameters are exchanged while it runs.

    Args:
        model: The model.

    Cost: a few microseconds a parameter.

    Example:
        >>> model = nn.Sequential(nn.Linear(1, 1))
        >>> weight = model[0].weight
        >>> same = SameParameters(model)
        >>> model[0].weight = nn.Parameter(torch.ones(1, 1))
        >>> same.restore(), model[0].weight is weight
        (['0.weight'], True)
        >>> same.restore()
        []

    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        found = list(_whole_modules(model))
        self._registries = [
            (registry, contents(registry))
            for _, module in found
            if not isinstance(module, torch.jit.ScriptModule)
            for registry in (module._parameters, module._modules)
        ]
        self._before = {name: _Place(one) for name, one in _named(found)}

    def restore(self) -> list[str]:
        """Put back the parameters, and the submodules that hold them, that others stand in the place of.

        Returns:
            The names under which another parameter stood, one was gone, one was new, or one had its values elsewhere;
            none where all is as it was.

        """
        now = dict(_named(_whole_modules(self._model)))
        changed = [name for name, place in self._before.items() if now.get(name) is not place.parameter or place.moved]
        changed += [name for name in now if name not in self._before]
        if changed:
            for registry, before in self._registries:
                put_back(registry, before)
            for place in self._before.values():
                if place.moved:
                    place.parameter.data = place.data
        return changed


class _Place:
    """A parameter, and where its values are."""

    def __init__(self, parameter: Tensor) -> None:
        self.parameter = parameter
        # One that waits for the first batch to be given a shape has none yet. DeepSpeed gives and takes the memory.
        self.fixed = not is_lazy(parameter) and not hasattr(parameter, "ds_tensor")
        # These keep the memory, should the parameter be given another.
        self.data = parameter.data if self.fixed else parameter
        self.address = _address(parameter) if self.fixed else 0

    @property
    def moved(self) -> bool:
        return self.fixed and _address(self.parameter) != self.address


def with_same_parameters(model: nn.Module, work: Callable[[], T]) -> T:
    """Do what may run a model, and see that its parameters are where they were; else they are put back.

    Raises:
        RuntimeError: If they are not, and the work itself raised nothing.

    Example:
        >>> model = nn.Linear(1, 1)
        >>> with_same_parameters(model, lambda: setattr(model, "bias", None))
        Traceback (most recent call last):
        RuntimeError: the model had other parameters at ['bias'] afterwards; they were put back.

    """
    same = SameParameters(model)
    try:
        found = work()
    except Exception:
        same.restore()
        raise
    others = same.restore()
    if others:
        raise RuntimeError(f"the model had other parameters at {others[:3]} afterwards; they were put back.")
    return found


def _whole_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Name and module of all that is not sharded."""
    sharded = {id(within) for one in model.modules() if exchanges_parameters(one) for within in one.modules()}
    for name, module in model.named_modules(remove_duplicate=False):
        if id(module) not in sharded:
            yield name, module


def _named(modules: Iterable[tuple[str, nn.Module]]) -> Iterator[tuple[str, Tensor]]:
    for path, module in modules:
        for name, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            yield f"{path}.{name}" if path else name, parameter


def _address(parameter: Tensor) -> int:
    try:
        return parameter.data_ptr()
    except (RuntimeError, NotImplementedError):  # a kind of tensor that holds several, or none
        return 0
