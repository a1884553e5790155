"""Keys of any words become names that every logger takes as they are, and no two become one."""

from __future__ import annotations

import posixpath
import re
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lightning_interp.reporting.safe_keys import LONGEST, PLACEHOLDERS, safe_keys

TREEBANK = [
    "''",
    "``",
    "PRP$",
    "WP$",
    "-LRB-",
    ",",
    ".",
    ":",
    "$",
    "#",
    "NN",
    "NN|NNS",
    "<unk>",
    "<pad>",
    "(",
    "é",
    "名詞",
]
WORDS = (
    st.text() | st.sampled_from(TREEBANK) | st.text("a_./$ ", max_size=6) | st.from_regex(r"[\w.-]+", fullmatch=True)
)
KEYS = st.lists(WORDS, max_size=4).map("/".join)


def mlflow_takes(key: str) -> bool:
    """As mlflow.utils.validation has it, for the name of a metric."""
    is_path = posixpath.normpath(key) == key and key != "." and not key.startswith(("..", "/"))
    return bool(re.match(r"^[/\w.\- :]*$", key)) and is_path and 0 < len(key) <= 250


def tensorboard_writes(key: str) -> str:
    """As tensorboard and torch cleaned tags."""
    return re.sub(r"[^-/\w\.]", "_", key).lstrip("/")


def files_can_be_called(key: str) -> bool:
    return all(0 < len(part.encode()) <= 255 for part in key.split("/"))


@given(st.lists(KEYS, max_size=30))
@example(["a b", "a_b", "a$b", "a_b_2", "a\tb"])
@example(["$" * 400, "_" * 400, "%" * 400, "&" * 400])
@example(["a/" * 200, "名" * 90, "名" * 90 + "$"])
@example(["", "/", "//", "_/_", ".", "..", "../a", "a/..", "a/./b", "a//b", "a/", "/a", "a\n", "a/\n"])
@example(["..a", "a..", "...", "a/...", "-", "\ud800"])
def test_every_logger_takes_every_key_and_no_two_become_one(keys: list[str]) -> None:
    found = safe_keys(keys, placeholders=())
    assert list(found) == list(dict.fromkeys(keys))
    assert len(set(found.values())) == len(found)
    for name in found.values():
        assert mlflow_takes(name), name
        assert tensorboard_writes(name) == name
        assert re.fullmatch(r"[\w./-]+", name)
        assert files_can_be_called(name)
        assert len(name.encode()) <= LONGEST
    # What they become needs no further change, in any order, and what needs none has its name whatever else is there.
    assert safe_keys(reversed(found.values())) == {name: name for name in reversed(found.values())}
    assert {key: name for key, name in found.items() if safe_keys([key])[key] == key} == {
        key: key for key in found if safe_keys([key])[key] == key
    }
    assert safe_keys(keys, placeholders=()) == found


@given(st.lists(st.from_regex(r"\w[\w.-]*", fullmatch=True), min_size=1, max_size=4).map("/".join))
def test_what_a_logger_takes_stays(key: str) -> None:
    if len(key.encode()) <= LONGEST:
        assert safe_keys([key]) == {key: key}


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("recall/head/PRP$", "recall/head/PRP_"),
        ("recall/head/''", "recall/head/__"),
        ("recall/head/``", "recall/head/__"),
        ("recall/head/<unk>", "recall/head/_unk_"),
        ("recall/head/.", "recall/head/_"),
        ("recall/head/", "recall/head/_"),
        ("recall//a", "recall/_/a"),
        ("/recall", "_/recall"),
        ("../recall", "_/recall"),
        ("recall/../../a", "recall/_/_/a"),
        ("recall/...", "recall/..."),
        ("...", "_.."),
        ("..a/..b", "_.a/..b"),
        ("", "_"),
        ("filler–gap dependency", "filler_gap_dependency"),
        ("größe/名詞/स", "größe/名詞/स"),
        ("information/<site>", "information/<site>"),
        ("drift/<site>/<downstream site>/0.1", "drift/<site>/<downstream site>/0.1"),
        ("a/<sites>", "a/_sites_"),
        ("a/x<site>", "a/x_site_"),
        ("a\n", "a_"),
    ],
)
def test_what_becomes_of_a_key(key: str, name: str) -> None:
    assert safe_keys([key]) == {key: name}


def test_later_ones_of_a_name_are_numbered() -> None:
    assert list(safe_keys(["a''", "a``", "a$#"]).values()) == ["a__", "a___2", "a___3"]
    assert safe_keys(["x$", "x_", "x#", "x__2"]) == {"x$": "x__3", "x_": "x_", "x#": "x__4", "x__2": "x__2"}
    assert safe_keys(["''", "''"]) == {"''": "__"}


def test_a_class_may_be_called_as_a_placeholder_is() -> None:
    for part in PLACEHOLDERS:
        assert "<" not in safe_keys([f"a/{part}"], placeholders=())[f"a/{part}"]


def test_a_thousand_keys_that_stay_take_no_time() -> None:
    keys = [f"regularity_above_chance/encoder.layers.{number}/bigram/dataloader_idx_1" for number in range(1000)]
    best = min(_seconds(keys) for _ in range(20))
    assert best < 3e-3  # measured: 0.6 ms


def _seconds(keys: list[str]) -> float:
    began = time.perf_counter()
    assert len(safe_keys(keys)) == len(keys)
    return time.perf_counter() - began


def test_many_alike_are_told_apart_in_good_time() -> None:
    began = time.perf_counter()
    arrows = [chr(number) for number in range(0x2190, 0x2300)]
    found = safe_keys([f"a{one}{other}" for one in arrows for other in arrows[:20]])
    assert list(found.values()) == ["a__", *(f"a___{number}" for number in range(2, len(found) + 1))]
    assert len(set(safe_keys([f"b{'$' * 300}{number}" for number in range(2000)]).values())) == 2000
    assert time.perf_counter() - began < 2
