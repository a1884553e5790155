"""What an object says of itself in a table or a checkpoint: a number, a text, or JSON of these."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence, Set
from enum import Enum
from numbers import Integral, Real
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["MOST_ENTRIES", "MOST_TEXT", "Plain", "Settings", "plain_value"]

Plain: TypeAlias = str | int | float | bool

Settings: TypeAlias = dict[str, Plain]


MOST_ENTRIES = 64
"""Numbers of an array or tensor that is written out."""

MOST_TEXT = 30_000
"""Characters that are written out; a cell of a spreadsheet holds 32,767."""


def plain_value(value: object) -> Plain | None:
    """A value that every table and a ``weights_only`` checkpoint can hold, whatever it is given; it never raises.

    Numbers of any library come out as Python's own, members of an enumeration as their value, paths, ``torch.dtype``,
    devices and compiled patterns as text; any mapping, sequence or set of these, and a small array or tensor, as JSON;
    a function or class that has a name of its own as that.

    Returns:
        ``None`` for what says nothing: ``None`` itself, what is empty, more than :data:`MOST_ENTRIES` numbers of an
        array, what would take more than :data:`MOST_TEXT` characters, other objects, and what cannot be looked at.

    Example:
        >>> plain_value(np.float64(0.1)), plain_value(torch.tensor([1, 2])), plain_value({"enc": torch.float16})
        (0.1, '[1, 2]', '{"enc": "torch.float16"}')
        >>> plain_value(json.dumps), plain_value(lambda: 0), plain_value([])
        ('json.dumps', None, None)

    """
    # Objects of other people: their iteration, their conversion and their comparison may do anything.
    try:
        found = _plain(value, _Room(MOST_TEXT))
        if isinstance(found, list | dict):
            found = json.dumps(found, ensure_ascii=False) if found else None
        return found if found is not None and 0 < len(str(found)) <= MOST_TEXT else None
    except Exception:
        return None


class _Room:
    """Characters that are left, so that what is large or contains itself is given up early."""

    def __init__(self, left: int) -> None:
        self.left = left

    def take(self, number: int) -> None:
        self.left -= number
        if self.left < 0:
            raise ValueError(f"more than {MOST_TEXT} characters")


def _plain(value: Any, room: _Room) -> Any:
    room.take(1)
    if isinstance(value, Enum):
        try:
            return _plain(value.value, room)
        except TypeError:
            return value.name
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        room.take(len(value))
        return str.__str__(value)  # of a subclass too
    if isinstance(value, np.bool_):
        return bool(value)
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value)
    if isinstance(value, os.PathLike):
        return _plain(os.fspath(value), room)
    if isinstance(value, torch.dtype | torch.device):
        return str(value)
    if isinstance(value, re.Pattern):
        # Its own text is cut at 200 characters.
        return _plain(f"re.compile({value.pattern!r}, {re.RegexFlag(value.flags)!r})", room)
    if isinstance(value, np.ndarray) or type(value) in (Tensor, nn.Parameter):  # others may communicate
        if (value.numel() if isinstance(value, Tensor) else value.size) > MOST_ENTRIES:
            raise TypeError("many numbers")
        return _plain(value.tolist(), room)
    if isinstance(value, Mapping):
        return _plain_mapping(value, room)
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray | memoryview):
        room.take(len(value))
        return [_plain(one, room) for one in value]
    if isinstance(value, Set):
        room.take(len(value))
        return sorted((_plain(one, room) for one in value), key=repr)
    return _name(value)


def _plain_mapping(value: Mapping[Any, Any], room: _Room) -> dict[str, Any]:
    room.take(len(value))
    found: dict[str, Any] = {}
    for key in value:
        plain = _plain(key, room)
        if isinstance(plain, list | dict):
            raise TypeError("a key of several values")
        name = plain if isinstance(plain, str) else json.dumps(plain)
        if name in found:
            raise TypeError(f"two keys are {name} in JSON")
        found[name] = _plain(value[key], room)
    return found


def _name(value: Any) -> str:
    if isinstance(value, FunctionType | BuiltinFunctionType | MethodType | type):
        name = ".".join(filter(None, (value.__module__, value.__qualname__)))
        if "<" not in name:  # "<lambda>" and "<locals>" say nothing
            return name
    raise TypeError(f"{type(value).__name__} is not plain")
