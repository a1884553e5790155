from __future__ import annotations

import random
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_interp.functional import reliability
from lightning_interp.tasks import MinimalPair, Task, grammar_tasks, split_pairs
from lightning_interp.tasks.split import halves_of_pairs, sentence_groups

# Few sentences, so that many pairs share one.
PAIRS = st.lists(
    st.tuples(st.integers(0, 30), st.integers(0, 30)).filter(lambda pair: pair[0] != pair[1]), min_size=2, max_size=30
).map(lambda pairs: tuple(MinimalPair(f"sentence {good}", f"sentence {bad}") for good, bad in pairs))


def sentences(task: Task) -> set[str]:
    return {sentence for pair in task.pairs for sentence in pair}


def connected(pairs: tuple[MinimalPair, ...]) -> bool:
    """Whether whatever contains the first pair contains all."""
    found = set(pairs[0])
    for _ in pairs:
        found |= {sentence for pair in pairs if found & set(pair) for sentence in pair}
    return all(set(pair) <= found for pair in pairs)


@given(pairs=PAIRS, held_out=st.floats(0.05, 0.95), seed=st.integers(0, 5))
def test_every_pair_is_on_one_side_and_no_sentence_on_both(
    pairs: tuple[MinimalPair, ...], held_out: float, seed: int
) -> None:
    task = Task("a", "x", pairs)
    if connected(pairs):
        with pytest.raises(ValueError, match="cannot be split"):
            split_pairs(task, held_out, seed)
        return
    tune, test = split_pairs(task, held_out, seed)
    assert sorted(tune.pairs + test.pairs) == sorted(pairs)
    assert sentences(tune).isdisjoint(sentences(test))
    assert {tune.name, test.name, tune.phenomenon, test.phenomenon} == {"a", "x"}


@given(pairs=PAIRS.filter(lambda pairs: not connected(pairs)), order=st.integers(0, 1000), seed=st.integers(0, 5))
def test_the_order_of_pairs_does_not_matter(pairs: tuple[MinimalPair, ...], order: int, seed: int) -> None:
    shuffled = list(pairs)
    random.Random(order).shuffle(shuffled)
    one, other = (split_pairs(Task("a", "x", tuple(some)), 0.5, seed) for some in (pairs, shuffled))
    assert [set(half.pairs) for half in one] == [set(half.pairs) for half in other]


@pytest.mark.parametrize(("held_out", "count"), [(0.5, 50), (0.25, 25), (0.001, 1), (0.999, 99)])
def test_sizes(held_out: float, count: int) -> None:
    task = Task("a", "x", tuple(MinimalPair(f"good {i}", f"bad {i}") for i in range(100)))
    tune, test = split_pairs(task, held_out)
    assert (len(tune), len(test)) == (100 - count, count)
    # Each half keeps the order of the task.
    assert list(test.pairs) == [pair for pair in task.pairs if pair in test.pairs]


def test_seed_and_name_decide() -> None:
    pairs = tuple(MinimalPair(f"good {i}", f"bad {i}") for i in range(40))
    halves = split_pairs(Task("a", "x", pairs), seed=1)
    assert split_pairs(Task("a", "x", pairs), seed=1) == halves
    assert split_pairs(Task("a", "x", pairs), seed=2) != halves
    assert split_pairs(Task("b", "x", pairs), seed=1)[1].pairs != halves[1].pairs


def test_a_large_group_leaves_the_smallest_for_the_other_side() -> None:
    star = [MinimalPair("the same", f"bad {i}") for i in range(9)]
    tune, test = split_pairs(Task("a", "x", (*star, MinimalPair("good", "bad"))), held_out=0.5)
    assert {len(tune), len(test)} == {9, 1}


def test_errors() -> None:
    task = Task("star", "x", (MinimalPair("the same", "bad 1"), MinimalPair("the same", "bad 2")))
    with pytest.raises(ValueError, match="task 'star' cannot be split: its 2 pairs all share sentences, as 'the same'"):
        split_pairs(task)
    for held_out in (0.0, 1.0, float("nan")):
        with pytest.raises(ValueError, match="`held_out` must lie between 0 and 1"):
            split_pairs(task, held_out)


@given(pairs=PAIRS)
def test_no_sentence_is_in_both_halves(pairs: tuple[MinimalPair, ...]) -> None:
    task = Task("a", "x", pairs)
    if 3 * max(Counter(sentence_groups(task)).values()) > 2 * len(task):
        with pytest.raises(ValueError, match="no two halves"):
            halves_of_pairs(task)
        return
    halves = halves_of_pairs(task)
    chosen = [[pair for pair, its in zip(pairs, halves, strict=True) if its == half] for half in (0, 1)]
    parts = [Task("a", "x", tuple(some)) for some in chosen]
    assert sentences(parts[0]).isdisjoint(sentences(parts[1]))
    assert 3 * min(map(len, parts)) >= len(pairs)


def test_pairs_that_share_nothing_take_turns() -> None:
    task = Task("a", "x", tuple(MinimalPair(f"good {i}", f"bad {i}") for i in range(5)))
    assert halves_of_pairs(task) == [0, 1, 0, 1, 0]


def test_a_task_of_one_sentence_has_no_halves() -> None:
    task = Task("a", "x", tuple(MinimalPair(f"good {i}", "bad") for i in range(5)))
    with pytest.raises(ValueError, match=r"task 'a' has no two halves.* 5 of its 5 .* as 'good 0'"):
        halves_of_pairs(task)


@pytest.mark.parametrize("name", ["intransitive", "selected_subject"])
def test_noise_of_sentences_is_not_reliable(name: str) -> None:
    (task,) = grammar_tasks(pairs=200, paradigms=[name])
    words = sorted(sentences(task))
    generator = torch.Generator().manual_seed(0)
    found: dict[str, list[float]] = {"by group": [], "by turns": []}
    for _ in range(40):
        noise = dict(zip(words, torch.randn(len(words), 64, generator=generator), strict=True))
        each = torch.stack([noise[good] - noise[bad] for good, bad in task.pairs])
        for how, halves in (("by group", halves_of_pairs(task)), ("by turns", [i % 2 for i in range(200)])):
            which = torch.tensor(halves, dtype=torch.bool)
            # The cosine itself, whose mean is 0 for noise; what is made of it is skewed.
            trust = reliability(each[~which].sum(0)[None], each[which].sum(0)[None]).item()
            found[how].append(trust / (2 - trust))
    means = {how: sum(one) / len(one) for how, one in found.items()}
    # One of 40 means of cosines in 64 dimensions has the standard error 1 / sqrt(64 * 40) = .02.
    assert abs(means["by group"]) < 0.06
    assert means["by turns"] > 0.1
