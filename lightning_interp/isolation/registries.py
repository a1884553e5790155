"""Where a module registers its parameters, buffers, submodules and hooks, and how these are put back."""

from __future__ import annotations

from typing import Any

from torch import nn

__all__ = ["REGISTRIES", "contents", "put_back"]

REGISTRIES = frozenset(name for name, one in vars(nn.Module()).items() if isinstance(one, dict | set))
"""The attributes of every module that are such registries.

Others hold on to the very objects (a hook's handle, what a compiler guards on), so they are never exchanged: what they
contain is put back into them.
"""


def contents(registry: Any) -> Any:
    """What a registry contains now; ``None`` for nothing."""
    if not registry:
        return None
    return set(registry) if isinstance(registry, set) else dict(registry.items())


def put_back(registry: Any, before: Any) -> bool:
    """Let a registry contain the very objects of before in their order; nothing is written where it does.

    Returns:
        Whether anything was another.

    Example:
        >>> model = nn.Linear(1, 1)
        >>> before = contents(model._forward_hooks)
        >>> handle = model.register_forward_hook(print)
        >>> put_back(model._forward_hooks, before), len(model._forward_hooks)
        (True, 0)

    """
    if not registry and not before:
        return False
    before = before or {}
    if isinstance(registry, set):
        same = registry == set(before)
    else:
        # Never by ==, which compares tensors entry by entry.
        pairs = zip(registry.items(), before.items(), strict=False)
        same = len(registry) == len(before) and all(a == b and one is other for (a, one), (b, other) in pairs)
    if not same:
        registry.clear()
        registry.update(before)
    return not same
