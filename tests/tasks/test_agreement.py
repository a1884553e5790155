"""What a space of tasks agrees with: planted spaces, and cases in which nothing can be said."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lightning_interp.functional import mantel, partial_mantel
from lightning_interp.tasks import Task, lexical_overlap, phenomenon_hypothesis
from lightning_interp.tasks.agreement import TaskHypotheses, stability

WORDS = ["red", "blue", "hot", "cold", "up", "down", "sweet", "sour", "old"]
TASKS = [
    Task(f"{phenomenon}{place}", phenomenon, ((f"{word} {phenomenon} is", f"{word} {phenomenon} are"),))
    for phenomenon, words in (("a", WORDS[:3]), ("b", WORDS[:3]), ("c", WORDS[6:]))
    for place, word in enumerate(words)
]
ALL = torch.arange(len(TASKS))


def symmetric(seed: int, number: int = len(TASKS)) -> Tensor:
    found = torch.rand(number, number, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    found = (found + found.T) / 2
    return found.fill_diagonal_(1.0)


def upper(matrix: Tensor) -> np.ndarray:
    return matrix.numpy()[np.triu_indices(len(matrix), 1)]


@given(seed=st.integers(0, 10**6), lost=st.sets(st.integers(0, 8), max_size=4))
def test_agreement_is_that_of_the_tests_over_the_tasks_that_are_known(seed: int, lost: set[int]) -> None:
    space = symmetric(seed)
    known = torch.tensor([place for place in range(9) if place not in lost])
    gone = torch.tensor(sorted(lost), dtype=torch.long)
    space[gone], space[:, gone] = math.nan, math.nan
    hypotheses = TaskHypotheses(TASKS)
    found = hypotheses.agreement(space, known, permutations=19, seed=2)
    part, phenomena, words = (
        one[known][:, known] for one in (space, phenomenon_hypothesis(TASKS), lexical_overlap(TASKS))
    )
    assert found["words"].statistic == pytest.approx(scipy.stats.spearmanr(upper(part), upper(words)).statistic)
    assert math.isnan(found["words"].p)
    expected = scipy.stats.spearmanr(upper(part), upper(phenomena)).statistic
    assert found["phenomena"].statistic == pytest.approx(expected)
    assert found["phenomena"] == mantel(part, phenomena, 19, 2)
    if "phenomena_given_words" in found:
        assert found["phenomena_given_words"] == partial_mantel(part, phenomena, words, 19, 2)


def test_a_space_of_phenomena_agrees_with_them_beyond_words() -> None:
    hypotheses = TaskHypotheses(TASKS)
    assert hypotheses.sides == ["within", "between"]
    assert hypotheses.comparisons == ["phenomena", "phenomena_given_words", "words"]
    found = hypotheses.agreement(hypotheses.phenomena + 0.01 * symmetric(0), ALL, permutations=99)
    assert found["phenomena"].statistic > 0.5
    assert found["phenomena_given_words"].p == 0.01
    # A space that is the vocabulary says nothing beyond it.
    assert "phenomena_given_words" not in hypotheses.agreement(hypotheses.lexical, ALL)


def test_what_cannot_be_compared_is_left_out() -> None:
    hypotheses = TaskHypotheses(TASKS)
    assert not hypotheses.agreement(torch.ones(9, 9), ALL)  # no pair is nearer than another
    assert not hypotheses.agreement(symmetric(1), ALL[:2])
    # Of one phenomenon, and all with as many words in common.
    alike = hypotheses.agreement(symmetric(1), ALL[:3])
    assert list(alike) == ["words"]
    assert math.isnan(alike["words"].statistic)
    assert TaskHypotheses(TASKS[:2]).comparisons == []
    assert TaskHypotheses(TASKS[:3]).sides == ["within"]
    assert TaskHypotheses([TASKS[0], TASKS[4], TASKS[8]]).sides == ["between"]
    assert "phenomena" not in TaskHypotheses([TASKS[0], TASKS[4], TASKS[8]]).comparisons


@given(seed=st.integers(0, 10**6))
def test_stability_is_over_the_tasks_that_both_have(seed: int) -> None:
    now, earlier = symmetric(seed), symmetric(seed + 1)
    now[1], now[:, 1] = math.nan, math.nan
    earlier[4], earlier[:, 4] = math.nan, math.nan
    both = [place for place in range(9) if place not in (1, 4)]
    expected = scipy.stats.spearmanr(upper(now[both][:, both]), upper(earlier[both][:, both])).statistic
    assert stability(now, earlier) == pytest.approx(expected)
    assert stability(now, now) == pytest.approx(1.0)
    assert math.isnan(stability(now, None))
    few = torch.full((9, 9), math.nan, dtype=torch.float64)
    few[:2, :2] = 1.0
    assert math.isnan(stability(now, few))
