"""Copies of what a module holds in its attributes, and the modules among it."""

from __future__ import annotations

import copy
import types
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils.data import DataLoader, Dataset, Sampler

from lightning_interp.compat import pl

__all__ = ["ATOMS", "copied", "modules_in"]

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
ATOMS = frozenset(_ATOMS)
"""The classes of nearly every attribute that there is, which hold nothing."""


def modules_in(value: Any, depth: int = 3) -> list[nn.Module]:
    """The modules that stand in a container or an object of the user's own, or are the value itself.

    Example:
        >>> modules_in({"a": [nn.Identity()], "b": 1})
        [Identity()]

    """
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
    return [module for item in items for module in modules_in(item, depth - 1)]


def copied(value: Any, memo: dict[int, Any]) -> Any:
    """A copy that shares nothing that can change, as far as a value is the user's own.

    Args:
        value: What to copy.
        memo: Copies by the id of what was copied, so that what is the same stays the same; the originals must live as
            long as it is used.

    Example:
        >>> own = [1]
        >>> twin = copied({"a": own, "b": own}, {})
        >>> twin["a"] is twin["b"], twin["a"] is own
        (True, False)

    """
    if type(value) in ATOMS or isinstance(value, (*_ATOMS, *_LEFT_ALONE)):
        return value
    key = id(value)
    if key not in memo:
        memo[key] = value  # what contains itself, and what cannot be copied
        memo[key] = _copier(value)(value, memo)
    return memo[key]


def _is_the_users(value: Any) -> bool:
    """Whether an object is of a class of the user's own, and may be copied."""
    library = type(value).__module__.partition(".")[0] in _LIBRARIES
    # An object that closes something when it goes away must not go away twice.
    return not library and hasattr(value, "__dict__") and not hasattr(value, "__del__")


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
    # One that waits for the first batch to be given a shape has nothing to copy.
    return tensor if is_lazy(tensor) else tensor.detach().clone()


def _copied_container(value: Any, memo: dict[int, Any]) -> Any:
    twin = copy.copy(value)  # a subclass keeps what it has besides its items
    memo[id(value)] = twin
    if isinstance(value, dict):
        for key, item in value.items():
            dict.__setitem__(twin, key, copied(item, memo))
    elif isinstance(value, list | deque):
        for index, item in enumerate(value):
            twin[index] = copied(item, memo)
    return twin


def _copied_tuple(value: Any, memo: dict[int, Any]) -> Any:
    items = [copied(item, memo) for item in value]
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
            vars(twin)[name] = copied(item, memo)
    return twin
