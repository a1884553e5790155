from __future__ import annotations

import pytest

from lightning_interp.tasks import MinimalPair, Task

PAIR = ("he sleeps", "he sleep")


def test_pairs_are_named() -> None:
    task = Task("a", "x", (PAIR, ["she sleeps", "she sleep"]))  # type: ignore[arg-type]
    assert task.pairs == (MinimalPair(*PAIR), MinimalPair("she sleeps", "she sleep"))
    assert (task.pairs[0].good, task.pairs[0].bad) == PAIR
    assert len(task) == 2
    assert task == Task("a", "x", task.pairs)
    assert hash(task) == hash(Task("a", "x", task.pairs))


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ((), "task 'a' has no pairs"),
        ((PAIR, ("", "he sleep")), "task 'a', pair 1: the good sentence is ''"),
        ((("he sleeps", " \t"),), r"task 'a', pair 0: the bad sentence is ' \\t'"),
        ((PAIR, ("it is", "it is")), "task 'a', pair 1: good and bad are both 'it is'"),
    ],
)
def test_bad_values(pairs: tuple[MinimalPair, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Task("a", "x", pairs)


@pytest.mark.parametrize("pair", ["ab", ("a",), ("a", "b", "c"), ("a", 1), None])
def test_pairs_of_something_else(pair: object) -> None:
    with pytest.raises(TypeError, match="task 'a', pair 0: expected two sentences, got"):
        Task("a", "x", (pair,))  # type: ignore[arg-type]


def test_names_are_needed() -> None:
    with pytest.raises(ValueError, match="`name` is empty"):
        Task("", "x", (PAIR,))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="`phenomenon` is empty in the task 'a'"):
        Task("a", "", (PAIR,))  # type: ignore[arg-type]
