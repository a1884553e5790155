"""What running a model may change besides its weights, held apart so that it can be exchanged."""

from __future__ import annotations

import copy
import types
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler

from lightning_interp.compat import pl

__all__ = ["ModuleState"]

_INTERNAL = frozenset(vars(nn.Module())) - {"training"} | {"_compiled_call_impl", "_trainer", "_fabric"}
# Their objects are taken for configuration: nothing that a validation step changes is kept in one.
_LIBRARIES = frozenset(
    {
        *("torch", "torchmetrics", "numpy", "transformers", "tokenizers", "datasets", "jsonargparse", "omegaconf"),
        *("lightning", "pytorch_lightning", "lightning_fabric", "lightning_utilities", "lightning_interp"),
    }
)
_LEFT_ALONE = (
    *(type, types.ModuleType, types.FunctionType, types.MethodType, types.BuiltinFunctionType, torch.dtype),
    *(torch.device, Dataset, DataLoader, Sampler, pl.Callback, pl.LightningDataModule, nn.Module, nn.Parameter),
)
_ATOMS = (type(None), bool, int, float, complex, str, bytes)


class ModuleState:
    """The attributes and buffers of a model and all its submodules, torchmetrics among them, but not its parameters.

    Made from a model it holds what the model holds, without copying: :meth:`install` puts that very state back, however
    the model has changed since. A :meth:`copy` shares nothing that can change; installed, the model lives on it until
    another state is installed.

    Copied are lists, dicts, sets, deques, tensors, arrays, random generators, and objects of the user's own classes,
    inside one another too. Modules that stand only in a container or object of the model (a teacher, metrics in a plain
    dict) are part of the state. Left alone are functions, data sets, loaders, callbacks, and objects of libraries
    (tokenizers, configurations).

    Args:
        model: The model.

    Example:
        >>> model = nn.BatchNorm1d(2)
        >>> model.outputs = [1]
        >>> state = ModuleState(model)
        >>> state.copy().install()
        >>> model.outputs.append(2)
        >>> _ = model(torch.ones(4, 2))
        >>> state.install()
        >>> model.outputs, int(model.num_batches_tracked)
        ([1], 0)

    """

    def __init__(self, model: nn.Module) -> None:
        # Lists, since the hash of a torchmetrics.Metric changes with its state.
        self._modules = list(_all_modules(model))
        self.refresh()

    def refresh(self) -> None:
        """Take over what the model holds now, without copying."""
        self._attributes = [_plain(module) for module in self._modules]
        self._buffers = [dict(module._buffers) for module in self._modules]

    def copy(self) -> ModuleState:
        """The same state in objects of its own."""
        twin = object.__new__(ModuleState)
        twin._modules = self._modules
        memo: dict[int, Any] = {}
        # The originals live in self meanwhile, so that an id in memo cannot be given to another object.
        twin._attributes = [_copied_values(held, memo) for held in self._attributes]
        twin._buffers = [_copied_values(held, memo) for held in self._buffers]
        return twin

    def install(self) -> None:
        """Let the model hold this state."""
        for module, held, buffers in zip(self._modules, self._attributes, self._buffers, strict=True):
            own = vars(module)
            for name in [name for name in own if name not in held and name not in _INTERNAL]:
                del own[name]
            own.update(held)
            if isinstance(module, torch.jit.ScriptModule):
                # It keeps its buffers itself, and always the same ones.
                for name, buffer in buffers.items():
                    setattr(module, name, buffer)
            elif buffers or module._buffers:
                module._buffers.clear()
                module._buffers.update(buffers)


def _plain(module: nn.Module) -> dict[str, Any]:
    return {name: value for name, value in vars(module).items() if name not in _INTERNAL}


def _copied_values(held: dict[str, Any], memo: dict[int, Any]) -> dict[str, Any]:
    return {name: _copied(value, memo) for name, value in held.items()}


def _all_modules(model: nn.Module) -> Iterator[nn.Module]:
    """The model's modules, and those that it holds in plain containers, whose parameters it does not know of."""
    seen: set[int] = set()
    waiting = [model]
    while waiting:
        for module in waiting.pop().modules():
            if id(module) not in seen:
                seen.add(id(module))
                yield module
                for name, value in vars(module).items():
                    if name not in _INTERNAL:
                        waiting += _modules_in(value, depth=3)


def _modules_in(value: Any, depth: int) -> list[nn.Module]:
    if isinstance(value, nn.Module):
        return [value]
    if not depth or isinstance(value, (*_ATOMS, Tensor, *_LEFT_ALONE)):
        return []
    if isinstance(value, dict):
        items: Iterable[Any] = list(value.values())
    elif isinstance(value, list | tuple | deque):
        items = list(value)
    elif _is_the_users(value):
        items = list(vars(value).values())
    else:
        return []
    return [module for item in items for module in _modules_in(item, depth - 1)]


def _is_the_users(value: Any) -> bool:
    """Whether an object is of a class of the user's own, and may be copied."""
    library = type(value).__module__.partition(".")[0] in _LIBRARIES
    # An object that closes something when it goes away must not go away twice.
    return not library and hasattr(value, "__dict__") and not hasattr(value, "__del__")


def _copied(value: Any, memo: dict[int, Any]) -> Any:
    if isinstance(value, (*_ATOMS, *_LEFT_ALONE)):
        return value
    key = id(value)
    if key not in memo:
        memo[key] = value  # what contains itself, and what cannot be copied
        memo[key] = _copier(value)(value, memo)
    return memo[key]


def _copier(value: Any) -> Callable[[Any, dict[int, Any]], Any]:
    if isinstance(value, Tensor):
        return _copied_tensor
    if isinstance(value, list | dict | set | deque):
        return _copied_container
    if isinstance(value, tuple):
        return _copied_tuple
    if isinstance(value, np.ndarray | np.random.Generator | np.random.RandomState):
        return lambda one, _: copy.deepcopy(one)
    if isinstance(value, torch.Generator):
        return lambda one, _: one.clone_state()
    return _copied_object if _is_the_users(value) else lambda one, _: one


def _copied_tensor(tensor: Tensor, memo: dict[int, Any]) -> Tensor:
    return tensor.detach().clone()


def _copied_container(value: Any, memo: dict[int, Any]) -> Any:
    twin = copy.copy(value)  # a subclass keeps what it has besides its items
    memo[id(value)] = twin
    if isinstance(value, dict):
        for key, item in value.items():
            dict.__setitem__(twin, key, _copied(item, memo))
    elif isinstance(value, list | deque):
        for index, item in enumerate(value):
            twin[index] = _copied(item, memo)
    return twin


def _copied_tuple(value: Any, memo: dict[int, Any]) -> Any:
    items = [_copied(item, memo) for item in value]
    if all(new is old for new, old in zip(items, value, strict=True)):
        return value
    return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)


def _copied_object(value: Any, memo: dict[int, Any]) -> Any:
    try:
        twin = copy.copy(value)
    except Exception:  # it does not let itself be copied: a file, a connection
        return value
    memo[id(value)] = twin
    if twin is not value and type(twin) is type(value):
        for name, item in vars(value).items():
            vars(twin)[name] = _copied(item, memo)
    return twin
