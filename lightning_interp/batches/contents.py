"""What a batch holds, and how many samples, whatever it is made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from lightning_interp.isolation.containers import items

__all__ = ["BatchSize", "Key", "batch_size", "describe_batch", "has", "look_up", "parts_of", "tensors_of"]

Key = str | int | Callable[[Any], Any]
BatchSize = int | str | Callable[[Any], Any]
# Batches of graphs, and tensors in dictionaries, say it themselves.
_COUNTS = ("num_graphs", "batch_size")
_LISTED = 12


def batch_size(batch: Any, said: BatchSize | None = None) -> int:
    """The number of samples in a batch.

    Unless it is said, it is the length of ``input_ids``, what an object tells under ``num_graphs`` or ``batch_size``,
    or the one number on which all parts of the batch agree: a tensor's first dimension, the length of a list of texts
    or of other objects, and either of both for a list of tensors. At the top a list of tensors is inputs beside
    targets, as loaders make them, unless there are three or more of one shape.

    Args:
        batch: What the loader gave.
        said: How many: a number, the key, index or attribute of a part of the batch that is the number or is as long,
            or a callable on the batch that returns one of these.

    Raises:
        ValueError: If it cannot be told, or what is said leads to no number.

    Example:
        >>> import torch
        >>> batch_size({"x": torch.zeros(3, 2), "text": ["a", "b", "c"]})
        3
        >>> batch_size({"frames": torch.zeros(7, 3), "lengths": torch.tensor([3, 4])}, "lengths")
        2

    """
    if said is not None:
        return _said(batch, said)
    ids = getattr(batch, "input_ids", None) if not isinstance(batch, Mapping) else batch.get("input_ids")
    if isinstance(ids, Tensor) and ids.ndim:
        return ids.shape[0]
    if not isinstance(batch, Tensor | Mapping | tuple | list):
        for name in _COUNTS:
            found = getattr(batch, name, None)
            if isinstance(found, Sequence) and len(found) == 1:
                (found,) = found
            if isinstance(found, int):
                return found
    possible = _possible(batch, outermost=True)
    if possible is not None and len(possible) == 1:
        return next(iter(possible))
    why = "" if not possible else f" (it could be {' or '.join(map(str, sorted(possible)))})"
    raise ValueError(
        f"How many samples the batch has cannot be told{why}: it is {describe_batch(batch)}. Say it with "
        "`batch_size=`: a number, the key, index or attribute of a part that is as long, or a callable on the batch."
    )


def _said(batch: Any, said: BatchSize) -> int:
    found = said if isinstance(said, int | np.integer) else look_up(batch, said, "batch_size")
    if isinstance(found, Tensor):
        found = int(found) if found.ndim == 0 else found.shape[0]
    elif not isinstance(found, int | np.integer) and hasattr(found, "__len__") and not isinstance(found, str):
        found = len(found)
    if not isinstance(found, int | np.integer) or isinstance(found, bool) or found < 1:
        raise ValueError(
            f"`batch_size` leads to {_describe(found)}: expected a number of samples of at least 1, or something of "
            f"that length; the batch is {describe_batch(batch)}."
        )
    return int(found)


def _possible(value: Any, outermost: bool = False) -> frozenset[int] | None:
    """The numbers of samples that a part of a batch agrees with; ``None`` where it says nothing."""
    if isinstance(value, PackedSequence):
        return frozenset({int(value.batch_sizes[0])})
    if isinstance(value, Tensor):
        return frozenset({value.size(0)}) if value.dim() else None
    if hasattr(value, "shape"):  # an array of NumPy
        return frozenset({int(value.shape[0])}) if len(value.shape) else None
    parts = [part for _, part in parts_of(value)]
    if not parts:
        return None
    told = [found for found in map(_possible, parts) if found is not None]
    agreed: frozenset[int] | None = told[0].intersection(*told[1:]) if told else None
    if not isinstance(value, tuple | list):
        return agreed
    one_kind = len({type(part) for part in parts}) == 1
    if agreed is None:
        return frozenset({len(parts)}) if one_kind or not outermost else None
    # Inputs and targets side by side are as many as they are; a list of things of one kind may be one of samples.
    side_by_side = not one_kind or (outermost and (isinstance(value, tuple) or isinstance(parts[0], Tensor)))
    return agreed if side_by_side and not _alike(value) else agreed | {len(parts)}


def _alike(value: Any) -> bool:
    """Whether a list holds three tensors or more of one shape: rather samples, not stacked, than inputs and targets."""
    if not isinstance(value, list) or len(value) < 3 or not all(isinstance(one, Tensor) for one in value):
        return False
    return len({(one.shape, one.dtype) for one in value}) == 1


def parts_of(batch: Any) -> list[tuple[str, Any]]:
    """The parts of a container or an object, with the step that leads to each.

    Example:
        >>> parts_of({"x": 1}), parts_of((2, 3))
        ([("['x']", 1)], [('[0]', 2), ('[1]', 3)])

    """
    found = items(batch)
    if found or isinstance(batch, Tensor | PackedSequence | str | bytes | int | float | tuple | list | Mapping | None):
        return found
    held = getattr(batch, "__dict__", None)
    if not held or callable(batch):
        return []
    # A graph keeps its tensors one floor below.
    for inner in (held, *held.values()):
        own = {key: part for key, part in inner.items() if isinstance(key, str)} if isinstance(inner, Mapping) else {}
        if any(isinstance(part, Tensor) for part in own.values()):
            return [(f".{key}", part) for key, part in own.items()]
    return []


def tensors_of(batch: Any) -> list[Tensor]:
    """Every tensor of a batch, however deep.

    Example:
        >>> import torch
        >>> [one.shape[0] for one in tensors_of({"x": torch.zeros(3), "more": [torch.zeros(2), "text"]})]
        [3, 2]

    """
    if isinstance(batch, PackedSequence):
        return [batch.data]
    if isinstance(batch, Tensor):
        return [batch]
    return [tensor for _, part in parts_of(batch) for tensor in tensors_of(part)]


def describe_batch(batch: Any) -> str:
    """What a batch holds, for error messages.

    Example:
        >>> import torch
        >>> describe_batch({"x": torch.zeros(3, 2)})
        "a dict with 'x': float32 (3, 2)"

    """
    parts = parts_of(batch)
    if not parts:
        return _describe(batch)
    kind = type(batch).__name__
    shown = [f"{step.strip('[].')}: {_describe(part)}" for step, part in parts[:_LISTED]]
    more = f" and {len(parts) - _LISTED} more" if len(parts) > _LISTED else ""
    return f"{'an' if kind[0] in 'AEIOU' else 'a'} {kind} with " + ", ".join(shown) + more


def _describe(value: Any) -> str:
    if isinstance(value, Tensor):
        shape = "nested" if value.is_nested else tuple(value.shape)
        return f"{str(value.dtype).removeprefix('torch.')} {shape}"
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)}"
    return f"a {type(value).__name__}"


def has(batch: Any, key: str) -> bool:
    """Whether a batch has something under a name."""
    return key in batch if isinstance(batch, Mapping) else any(step == f".{key}" for step, _ in parts_of(batch))


def look_up(batch: Any, where: Key, argument: str) -> Any:
    """What a batch holds at a key, an index or an attribute, or what a callable on it returns.

    Raises:
        ValueError: If there is nothing; it names the argument.

    """
    if callable(where):
        return where(batch)
    try:
        if isinstance(batch, Mapping):
            return batch[where]
        if isinstance(where, int) and isinstance(batch, Sequence):
            return batch[where]
    except (KeyError, IndexError):
        pass
    if isinstance(where, str) and not isinstance(batch, Tensor | Mapping) and hasattr(batch, where):
        return getattr(batch, where)
    raise ValueError(f"`{argument}` points to {where!r}, which is not in the batch: it is {describe_batch(batch)}.")
