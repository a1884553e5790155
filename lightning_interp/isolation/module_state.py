"""What running a model may change besides its weights, held apart so that it can be exchanged."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from lightning_interp.distributed.sharding import exchanged_by_sharding
from lightning_interp.isolation.copied import ATOMS, copied, modules_in
from lightning_interp.isolation.registries import REGISTRIES, contents, put_back

__all__ = ["ModuleState", "all_modules"]

# What stands around the model, and what compiled it.
_NOT_HELD = frozenset({"_compiled_call_impl", "_trainer", "_fabric"})
# A ScriptModule keeps the others itself, and hands out views of them.
_OF_SCRIPTS = REGISTRIES - {"_parameters", "_buffers", "_modules"}


class ModuleState:
    """What a model and all its submodules, torchmetrics among them, hold, except for the values of parameters.

    That is, for each module: its attributes, its buffers, which parameters and submodules stand under which names, and
    its hooks. Made from a model it holds what the model holds, without copying: :meth:`install` puts that very state
    back, the same objects under the same names in the same order, whatever has appeared, vanished or been replaced
    since. A :meth:`copy` shares nothing that can change but parameters, submodules and hooks; installed, the model
    lives on it until another state is installed.

    Copied are buffers, and in attributes lists, dicts, sets, deques, tensors, arrays, random generators, and objects of
    the user's own classes, inside one another too. Modules that stand only in a container or object of the model (a
    teacher, metrics in a plain dict) are part of the state. Left alone are functions, data sets, loaders, callbacks,
    and objects of libraries (tokenizers, configurations); what a parameter is while a model is sharded is left to what
    shards it.

    Args:
        model: The model.

    Example:
        >>> model = nn.BatchNorm1d(2)
        >>> model.outputs = [1]
        >>> state = ModuleState(model)
        >>> state.copy().install()
        >>> model.outputs.append(2)
        >>> _ = model.register_forward_hook(print)
        >>> model.child = nn.Identity()
        >>> state.install()
        >>> model.outputs, len(model._forward_hooks), hasattr(model, "child")
        ([1], 0, False)

    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self.refresh()

    def refresh(self) -> None:
        """Take over what the model holds now, modules that are new among it, without copying."""
        self._held = [_Held(module) for module in all_modules(self._model)]

    def copy(self) -> ModuleState:
        """The same state in objects of its own."""
        twin = object.__new__(ModuleState)
        twin._model = self._model
        memo: dict[int, Any] = {}
        # The originals live in self meanwhile, so that an id in memo cannot be given to another object.
        twin._held = [held.copy(memo) for held in self._held]
        return twin

    def install(self) -> None:
        """Let the model hold this state."""
        for held in self._held:
            held.install()


class _Held:
    """What one module holds."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.kind = type(module)  # a parametrization changes it
        own = vars(module)
        self.order = list(own)
        self.attributes = {name: value for name, value in own.items() if name not in _NOT_HELD}
        script = module if isinstance(module, torch.jit.ScriptModule) else None
        self.registries = _OF_SCRIPTS if script is not None else REGISTRIES
        # Nearly all are empty.
        self.registered = {name: contents(own[name]) for name in self.registries if own.get(name)}
        self.scripted = {} if script is None else _script_values(script)

    def copy(self, memo: dict[int, Any]) -> _Held:
        twin = object.__new__(_Held)
        twin.module, twin.kind, twin.order, twin.registries = self.module, self.kind, self.order, self.registries
        twin.attributes = {
            name: value if name in REGISTRIES else copied(value, memo) for name, value in self.attributes.items()
        }
        twin.registered = self.registered
        if "_buffers" in self.registered:
            twin.registered = {**self.registered, "_buffers": _copied_values(self.registered["_buffers"], memo)}
        twin.scripted = _copied_values(self.scripted, memo)
        return twin

    def install(self) -> None:
        if type(self.module) is not self.kind:
            self.module.__class__ = self.kind
        own = vars(self.module)
        if list(own) == self.order:
            own.update(self.attributes)
        else:
            for name in [name for name in own if name not in _NOT_HELD]:
                del own[name]
            own.update(self.attributes)
        for name in self.registries:
            registry, before = own.get(name), self.registered.get(name)
            if registry or before:
                put_back(registry, _unsharded(registry, before) if name == "_parameters" else before)
        for name, value in self.scripted.items():
            if getattr(self.module, name) is not value:
                setattr(self.module, name, value)


def _copied_values(held: dict[str, Any], memo: dict[int, Any]) -> dict[str, Any]:
    return {name: copied(value, memo) for name, value in held.items()}


def _unsharded(present: Any, before: Any) -> Any:
    """The parameters of before, but for those that sharding has exchanged, which it alone may exchange back."""
    return {
        name: present[name] if exchanged_by_sharding(present.get(name), parameter) else parameter
        for name, parameter in (before or {}).items()
    }


def _script_values(module: torch.jit.ScriptModule) -> dict[str, Any]:
    """Buffers and attributes, its mode among them, that a ScriptModule keeps outside of Python."""
    names = [*module._buffers.keys(), *module._concrete_type.get_attributes()]
    values = {name: getattr(module, name) for name in names if hasattr(module, name)}
    return {name: value for name, value in values.items() if value is not None}


def all_modules(model: nn.Module) -> Iterator[nn.Module]:
    """The model's modules, and those that it holds in plain containers, whose parameters it does not know of.

    Example:
        >>> model = nn.Sequential(nn.Identity())
        >>> model.teacher = [nn.Flatten()]
        >>> [type(module).__name__ for module in all_modules(model)]
        ['Sequential', 'Flatten', 'Identity']

    """
    seen: set[int] = set()
    waiting = [model]
    while waiting:
        module = waiting.pop()
        if id(module) in seen:
            continue
        seen.add(id(module))
        yield module
        waiting += [child for child in module._modules.values() if child is not None]
        for name, value in vars(module).items():
            if type(value) not in ATOMS and name not in REGISTRIES and name not in _NOT_HELD:
                waiting += modules_in(value)
