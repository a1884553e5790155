"""Tuples, lists, mappings and dataclasses, as batches and outputs of modules are made of."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

__all__ = ["items", "mapped", "rebuilt"]


def items(container: Any) -> list[tuple[str, Any]]:
    """The parts of a container, with the step that leads to each; none of what is no container.

    Example:
        >>> items({"x": 1, "y": [2]}), items((3,)), items("text")
        ([("['x']", 1), ("['y']", [2])], [('[0]', 3)], [])

    """
    if isinstance(container, PackedSequence):
        return []
    if isinstance(container, Mapping):
        return [(f"[{key!r}]", value) for key, value in container.items()]
    if isinstance(container, tuple | list):
        return [(f"[{place}]", value) for place, value in enumerate(container)]
    if dataclasses.is_dataclass(container) and not isinstance(container, type):
        return [(f".{field.name}", getattr(container, field.name)) for field in dataclasses.fields(container)]
    return []


def rebuilt(container: Any, parts: Sequence[Any]) -> Any:
    """The same container with other parts, in the order of :func:`items`; the given one stays as it is.

    Example:
        >>> rebuilt({"x": 1, "y": 2}, [3, 4])
        {'x': 3, 'y': 4}

    """
    if isinstance(container, tuple | list):
        return type(container)(*parts) if hasattr(container, "_fields") else type(container)(parts)
    twin = copy.copy(container)
    if isinstance(container, Mapping):
        for key, part in zip(container, parts, strict=True):
            twin[key] = part
        return twin
    for field, part in zip(dataclasses.fields(container), parts, strict=True):
        object.__setattr__(twin, field.name, part)  # past a frozen class, of which this is a copy
    return twin


def mapped(value: Any, change: Callable[[Tensor], Tensor], other: Callable[[Any], Any] = lambda thing: thing) -> Any:
    """The same nest of containers with every tensor changed.

    Args:
        value: A tensor, a container, or anything else.
        change: What becomes of a tensor.
        other: What becomes of what is neither; it is handed on by default.

    Example:
        >>> import torch
        >>> mapped({"x": (torch.ones(2), None)}, torch.neg)
        {'x': (tensor([-1., -1.]), None)}

    """
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, PackedSequence):
        return PackedSequence(change(value.data), value.batch_sizes, value.sorted_indices, value.unsorted_indices)
    parts = items(value)
    return rebuilt(value, [mapped(part, change, other) for _, part in parts]) if parts else other(value)
