from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_interp.tasks import MinimalPair, Task, remove_shared


def task(name: str, *pairs: tuple[str, str]) -> Task:
    return Task(name, "x", tuple(MinimalPair(*pair) for pair in pairs))


def test_pairs_are_removed_from_all() -> None:
    first = task("a", ("1", "2"), ("1", "3"), ("1", "2"), ("8", "9"))
    second = task("b", ("1", "2"), ("2", "1"), ("9", "7"))
    kept, removed = remove_shared([first, second])
    assert kept == [task("a", ("1", "3"), ("8", "9")), task("b", ("2", "1"), ("9", "7"))]
    assert removed == 3


def test_sentences_good_or_bad() -> None:
    first, second = task("a", ("1", "2"), ("3", "4"), ("5", "6")), task("b", ("7", "1"), ("4", "8"), ("9", "10"))
    kept, removed = remove_shared([first, second], by="sentence")
    assert kept == [task("a", ("5", "6")), task("b", ("9", "10"))]
    assert removed == 4
    assert remove_shared([first, second]) == ([first, second], 0)


@given(st.lists(st.sets(st.integers(0, 12), min_size=1), min_size=1, max_size=5), st.permutations(range(5)))
def test_the_order_of_tasks_does_not_matter(numbers: list[set[int]], order: list[int]) -> None:
    # Each task has a pair of its own, so that none is left empty.
    tasks = [
        task(f"task {i}", (f"own {i}", "bad"), *((f"good {n}", f"bad {n}") for n in some))
        for i, some in enumerate(numbers)
    ]
    kept, removed = remove_shared(tasks)
    permuted = [tasks[i] for i in order if i < len(tasks)]
    again, removed_again = remove_shared(permuted)
    assert removed == removed_again == sum(map(len, tasks)) - sum(map(len, kept))
    assert sorted(again, key=lambda task: task.name) == kept
    assert remove_shared(kept) == (kept, 0)
    seen = [pair for task in kept for pair in task.pairs]
    assert len(seen) == len(set(seen))


def test_errors() -> None:
    one = task("a", ("1", "2"))
    with pytest.raises(ValueError, match="more than one task named 'a'"):
        remove_shared([one, one])
    with pytest.raises(ValueError, match="task 'a' would be left without pairs: other tasks share all of its 1"):
        remove_shared([one, task("b", ("1", "2"), ("3", "4"))])
    with pytest.raises(ValueError, match="`by` is 'word'; it must be 'pair' or 'sentence'"):
        remove_shared([one], by="word")
    assert remove_shared([]) == ([], 0)
