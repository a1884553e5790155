"""Weights of words: slow loops on random input, what is undefined, errors."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference import ablation as plain

from lightning_interp.functional import (
    ablation_concentration,
    cue_first,
    cue_share,
    masked_word,
    prediction_scores,
    word_positions,
)


@given(seed=st.integers(0, 10**6), classes=st.integers(1, 5), kind=st.sampled_from(["log_prob", "log_odds"]))
def test_scores_are_those_of_a_loop(seed: int, classes: int, kind: Any) -> None:
    logits = 3 * torch.randn(4, classes, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    for target in range(max(2, classes)):
        expected = [plain.score(row, target, kind) for row in logits.tolist()]
        assert prediction_scores(logits, target, kind).tolist() == pytest.approx(expected, abs=1e-9)


@given(st.lists(st.integers(-1, 5), max_size=12))
def test_words_stand_where_a_loop_finds_them(words: list[int]) -> None:
    found = word_positions(torch.tensor(words, dtype=torch.int64))
    assert [row.nonzero().flatten().tolist() for row in found] == plain.positions(words)


@given(
    tokens=st.lists(st.tuples(st.integers(5, 7), st.integers(-1, 3)), max_size=9),
    masks=st.sets(st.integers(0, 8)),
    draw=st.floats(0, 1, exclude_max=True),
)
def test_masked_words_are_those_of_a_loop(tokens: list[tuple[int, int]], masks: set[int], draw: float) -> None:
    ids = [5 if place in masks else one + 1 for place, (one, _) in enumerate(tokens)]
    words = [word for _, word in tokens]
    found = masked_word(torch.tensor(ids, dtype=torch.int64), torch.tensor(words, dtype=torch.int64), 5, draw)
    assert tuple(one if isinstance(one, int) else one.tolist() for one in found) == plain.masked(ids, words, 5, draw)


@given(
    weights=st.lists(st.sampled_from([0.0, -2.0, 2.0, 0.5, 1e-3, -7.25]), min_size=1, max_size=8),
    seed=st.integers(0, 10**6),
)
def test_weights_are_spread_as_a_loop_says(weights: list[float], seed: int) -> None:
    w = torch.tensor(weights)
    cue = torch.rand(len(w), generator=torch.Generator().manual_seed(seed)) < 0.4
    same = {"nan_ok": True, "abs": 1e-7}
    assert ablation_concentration(w) == pytest.approx(plain.concentration(w.tolist()), **same)
    assert cue_share(w, cue) == pytest.approx(plain.share(w.tolist(), cue.tolist()), **same)
    assert cue_first(w, cue) == pytest.approx(plain.first(w.tolist(), cue.tolist()), **same)


def test_what_is_not_finite_is_undefined() -> None:
    cue = torch.tensor([True, False])
    for bad in (math.nan, math.inf):
        w = torch.tensor([1.0, bad])
        assert math.isnan(ablation_concentration(w))
        assert math.isnan(cue_share(w, cue))
        assert math.isnan(cue_first(w, cue))


def test_all_alike_and_one_alone() -> None:
    assert ablation_concentration(torch.tensor([2.0, -2.0, 2.0])) == pytest.approx(0, abs=1e-12)
    assert ablation_concentration(torch.tensor([0.0, 5.0, 0.0])) == 1


def test_arguments() -> None:
    with pytest.raises(ValueError, match=r"`score` must be one of \['log_prob', 'log_odds'\], got 'loss'"):
        prediction_scores(torch.zeros(2, 3), 0, "loss")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="`target` must be one of 3 classes, got 3"):
        prediction_scores(torch.zeros(2, 3), 3)
    with pytest.raises(ValueError, match=r"`words` must have one dimension, got shape \(1, 2\)"):
        word_positions(torch.zeros(1, 2, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"cue bool \(n,\), got \(2,\) and a cue torch.float32 \(2,\)"):
        cue_share(torch.ones(2), torch.ones(2))


def test_a_text_to_be_masked_is_a_row() -> None:
    with pytest.raises(ValueError, match=r"`ids` and `words` must both be \(T,\), got \(3,\) and \(2,\)"):
        masked_word(torch.zeros(3, dtype=torch.int64), torch.zeros(2, dtype=torch.int64), 2, 0.5)
