"""Whatever an argument is, it comes out as a number, a text, JSON of these, or not at all."""

from __future__ import annotations

import enum
import json
import re
from collections import OrderedDict, UserDict, UserList, deque
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from lightning_interp.reporting.plain_values import MOST_ENTRIES, MOST_TEXT, plain_value


class Config(Mapping[Any, Any]):
    """A mapping that shares nothing with ``dict``, as configuration libraries have them."""

    def __init__(self, held: dict[Any, Any]) -> None:
        self.held = held

    def __getitem__(self, key: Any) -> Any:
        return self.held[key]

    def __iter__(self) -> Iterator[Any]:
        return iter(self.held)

    def __len__(self) -> int:
        return len(self.held)


class Values(Sequence[Any]):
    def __init__(self, *held: Any) -> None:
        self.held = held

    def __getitem__(self, place: Any) -> Any:
        return self.held[place]

    def __len__(self) -> int:
        return len(self.held)


class Mode(enum.Enum):
    FAST = "fast"
    ODD = object()


class Word(str, enum.Enum):  # noqa: UP042  (as people wrote it before there was StrEnum)
    GOOD = "good"


class Pair(NamedTuple):
    a: int
    b: str


class Text(str):
    def __str__(self) -> str:
        return "something else"


class Spiteful:
    def __repr__(self) -> str:
        raise RuntimeError("no")

    __str__ = __len__ = __iter__ = __bool__ = __eq__ = __hash__ = __repr__  # type: ignore[assignment]


class Liar(Values):
    def __iter__(self) -> Iterator[Any]:
        raise OSError("no such disk")


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (3, 3),
        (0, 0),
        (False, False),
        (0.5, 0.5),
        ("text", "text"),
        (Text("text"), "text"),
        (np.str_("é"), "é"),
        (np.bool_(True), True),
        (np.int8(-3), -3),
        (np.uint64(2**64 - 1), 2**64 - 1),
        (np.float32(0.5), 0.5),
        (np.float64(0.1), 0.1),
        (np.longdouble(0.5), 0.5),
        (np.array(2), 2),
        (torch.tensor(2), 2),
        (torch.tensor(0.5, dtype=torch.bfloat16), 0.5),
        (torch.tensor(True), True),
        (nn.Parameter(torch.tensor(0.25)), 0.25),
        (Fraction(1, 4), 0.25),
        (torch.float16, "torch.float16"),
        (torch.device("cpu"), "cpu"),
        (Path("a") / "b", "a/b"),
        (Mode.FAST, "fast"),
        (Mode.ODD, "ODD"),
        (Word.GOOD, "good"),
        (json.dumps, "json.dumps"),
        (nn.Linear, "torch.nn.modules.linear.Linear"),
        (len, "builtins.len"),
        (re.compile("a b", re.I), "re.compile('a b', re.IGNORECASE|re.UNICODE)"),
    ],
)
def test_one_value_is_one_of_python(value: object, plain: object) -> None:
    found = plain_value(value)
    assert found == plain
    assert type(found) is type(plain)


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        ([1, "a", None, [0.5]], [1, "a", None, [0.5]]),
        (Pair(1, "b"), [1, "b"]),
        (Values(1, Values(2)), [1, [2]]),
        (UserList([1]), [1]),
        (deque([1, 2]), [1, 2]),
        (range(3), [0, 1, 2]),
        (torch.Size([2, 3]), [2, 3]),
        ({3, 1, 2}, [1, 2, 3]),
        (frozenset("ba"), ["a", "b"]),
        (Config({"a": Config({"b": Values(np.float32(0.5))})}), {"a": {"b": [0.5]}}),
        (MappingProxyType({"enc": "encoder"}), {"enc": "encoder"}),
        (UserDict(a=1), {"a": 1}),
        (OrderedDict(a=Word.GOOD), {"a": "good"}),
        ({0: "a", True and 7: "b"}, {"0": "a", "7": "b"}),
        ({Word.GOOD: 1, Path("p"): 2, np.int64(4): 3, None: 4}, {"good": 1, "p": 2, "4": 3, "null": 4}),
        ({"loss": "loss", "score": json.dumps}, {"loss": "loss", "score": "json.dumps"}),
        (np.linspace(0, 1, 3), [0.0, 0.5, 1.0]),
        (np.array(["a", 2], dtype=object), ["a", 2]),
        (np.eye(2, dtype=int), [[1, 0], [0, 1]]),
        (torch.arange(MOST_ENTRIES), list(range(MOST_ENTRIES))),
    ],
)
def test_many_values_are_json(value: object, plain: object) -> None:
    found = plain_value(value)
    assert isinstance(found, str)
    assert json.loads(found) == plain


def endless() -> list[Any]:
    value: list[Any] = []
    value += [value, value]
    return value


@pytest.mark.parametrize(
    "value",
    [
        None,
        "",
        [],
        (),
        {},
        Config({}),
        Values(),
        np.array([]),
        torch.empty(0),
        object(),
        nn.Linear(1, 1),
        lambda: 0,
        b"bytes",
        1j,
        np.complex64(1),
        torch.tensor(1j),
        np.arange(MOST_ENTRIES + 1),
        torch.zeros(MOST_ENTRIES + 1),
        torch.zeros(2, device="meta"),
        "a" * (MOST_TEXT + 1),
        range(10**15),
        ["word"] * MOST_TEXT,
        10**5000,
        {"a": 1, "b": object()},
        [1, lambda: 0],
        {1: "a", "1": "b"},
        {(1, 2): "a"},
        Spiteful(),
        [Spiteful()],
        {"a": Spiteful()},
        Liar(1),
        endless(),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_says_nothing_or_cannot_be_looked_at_is_left_out(value: object) -> None:
    assert plain_value(value) is None


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
        max_leaves=20,
    )
)
def test_what_is_plain_stays_what_it_is_under_any_type(value: Any) -> None:
    found = plain_value(value)
    assert found == plain_value(disguised(value))
    if isinstance(value, list | dict):
        assert found is None if not value else json.loads(str(found)) == value
    else:
        assert found == (value if value != "" else None)


def disguised(value: Any) -> Any:
    if isinstance(value, dict):
        return Config({key: disguised(one) for key, one in value.items()})
    if isinstance(value, list):
        return Values(*map(disguised, value))
    if isinstance(value, float):
        return np.float64(value)
    return Text(value) if isinstance(value, str) else value
