"""Which objects stand where in a model."""

from __future__ import annotations

from typing import Any

from torch import nn

from lightning_interp.isolation.module_state import all_modules
from lightning_interp.isolation.registries import REGISTRIES

_AROUND = ("_trainer", "_fabric")


def standing(model: nn.Module) -> list[Any]:
    """Every attribute, parameter, buffer, submodule and hook of every module: name and object, in order."""
    found: list[Any] = []
    for module in all_modules(model):
        own = vars(module)
        found.append((module, type(module), [name for name in own if name not in _AROUND]))
        found += [(module, name, own[name]) for name in own if name not in _AROUND]
        for name in sorted(REGISTRIES & set(own)):
            if isinstance(own[name], dict):
                found += [(module, name, key, one) for key, one in own[name].items()]
            elif isinstance(own[name], set):
                found.append((module, name, sorted(own[name])))
    return found


def same(one: list[Any], other: list[Any]) -> bool:
    """Whether two such lists are of the same objects; plain values and lists of names are compared by value."""
    return len(one) == len(other) and all(map(_same, one, other))


def _same(one: tuple[Any, ...], other: tuple[Any, ...]) -> bool:
    plain = (str, int, list, type(None))
    return len(one) == len(other) and all(
        a is b or (isinstance(a, plain) and isinstance(b, plain) and a == b) for a, b in zip(one, other, strict=True)
    )
