"""Repeated sequences, heads that look back in them, and losses by place: definitions and planted heads."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference import induction as plain
from torch import Tensor

from lightning_interp.functional import (
    icl_score,
    induction,
    loss_by_position,
    pattern_chance,
    pattern_sums,
    repeat_gain,
    repeated_sequences,
)

COPIES = {"length": st.integers(2, 6), "repeats": st.integers(2, 4), "started": st.booleans()}


def drawn(length: int, repeats: int, started: bool, seed: int = 0, sequences: int = 3) -> Tensor:
    return repeated_sequences(range(40), length, repeats, sequences, start=99 if started else None, seed=seed)


@given(**COPIES, seed=st.integers(0, 10**6))
def test_sequences_are_copies_of_distinct_ids(length: int, repeats: int, started: bool, seed: int) -> None:
    found = drawn(length, repeats, started, seed)
    assert found.dtype == torch.long
    assert found.shape == (3, started + length * repeats)
    assert (found[:, :started] == 99).all()
    copies = found[:, started:].unflatten(1, (repeats, length))
    assert (copies == copies[:, :1]).all()
    assert all(len(set(sequence)) == length for sequence in copies[:, 0].tolist())
    assert set(copies.flatten().tolist()) <= set(range(40))


def test_sequences_are_the_same_for_ever_and_move_no_random_stream() -> None:
    before = torch.get_rng_state()
    found = repeated_sequences(range(1000), 3, 2, 2)
    assert found.tolist() == [[208, 265, 617] * 2, [47, 350, 936] * 2]
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(repeated_sequences(torch.arange(1000).flip(0).repeat(2), 3, 2, 5)[:2], found)
    assert not torch.equal(repeated_sequences(range(1000), 3, 2, 2, seed=1), found)


def test_every_id_is_as_likely_at_every_place_and_the_start_token_is_none_of_them() -> None:
    found = repeated_sequences(range(5), 4, 2, sequences=4000, start=2)[:, 1:5]
    counts = torch.stack([(found == token).float().mean(0) for token in (0, 1, 3, 4)])
    torch.testing.assert_close(counts, torch.full((4, 4), 0.25), atol=0.03, rtol=0)
    assert not (found == 2).any()
    # A start token of id 0 is one.
    assert repeated_sequences(range(5), 2, 2, 1, start=0).shape == (1, 5)


@given(**COPIES, seed=st.integers(0, 10**6))
def test_patterns_are_those_found_by_comparing_tokens(length: int, repeats: int, started: bool, seed: int) -> None:
    tokens = drawn(length, repeats, started, seed)
    size = tokens.shape[1]
    scores = torch.randn(3, 2, size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    causal = torch.ones(size, size, dtype=torch.bool).tril()
    weights = (3 * scores).masked_fill(~causal, -math.inf).softmax(-1)
    found = pattern_sums(weights, length, int(started))
    expected = plain.patterns(weights.tolist(), tokens.tolist())
    for name, values in found.items():
        assert values.dtype == torch.float64
        assert values.tolist() == pytest.approx([head[name] for head in expected], abs=1e-12)
    narrow = pattern_sums((weights * 0.998).bfloat16(), length, int(started))
    for name, values in narrow.items():
        torch.testing.assert_close(values, found[name], atol=0.01, rtol=0)
    halves = [pattern_sums(part, length, int(started)) for part in (weights[:1], weights[1:])]
    for name, values in found.items():
        torch.testing.assert_close((halves[0][name] + 2 * halves[1][name]) / 3, values)


@given(**COPIES)
def test_chance_is_what_equal_weights_give(length: int, repeats: int, started: bool) -> None:
    size = started + length * repeats
    equal = torch.ones(size, size, dtype=torch.float64).tril()
    chance = pattern_chance(length, repeats, int(started))
    found = pattern_sums(equal.expand(2, 3, size, size), length, int(started))
    assert found.keys() == chance.keys()
    for name, values in found.items():
        assert values.tolist() == pytest.approx([chance[name]] * 3, abs=1e-12)


def test_chance_of_known_lengths() -> None:
    assert pattern_chance(25, 4)["prefix_matching"] == pytest.approx(0.0307, abs=5e-5)
    assert pattern_chance(15, 4)["duplicate_token"] == pytest.approx(0.0503, abs=5e-5)


def test_random_scores_are_near_chance() -> None:
    scores = torch.randn(16, 8, 101, 101, generator=torch.Generator().manual_seed(0))
    causal = torch.ones(101, 101, dtype=torch.bool).tril()
    found = pattern_sums(scores.masked_fill(~causal, -math.inf).softmax(-1), 25)
    for name, chance in pattern_chance(25, 4).items():
        torch.testing.assert_close(found[name], torch.full((8,), chance, dtype=torch.float64), atol=0.004, rtol=0)


def planted(tokens: Tensor, beta: float = 50.0) -> tuple[Tensor, Tensor, Tensor]:
    """Two attention layers by hand: a previous-token head, an induction head on what it wrote, and their logits."""
    vocabulary, size = int(tokens.max()) + 1, tokens.shape[1]
    token = torch.nn.functional.one_hot(tokens, vocabulary).double()
    later = ~torch.ones(size, size, dtype=torch.bool).tril()
    # The key of position j is where its follower looks.
    follower = torch.eye(size, dtype=torch.float64).roll(1, 0)
    before = (beta * follower).masked_fill(later, -math.inf).softmax(-1).expand(len(tokens), -1, -1)
    came_before = before @ token
    match = (beta * token @ came_before.mT).masked_fill(later, -math.inf).softmax(-1)
    return before[:, None], match[:, None], beta * match @ token


def test_a_model_built_by_hand_has_both_heads_and_learns_from_the_first_copy() -> None:
    tokens = repeated_sequences(range(64), 15, 4, 8, start=64)
    before, match, logits = planted(tokens)
    first, second = pattern_sums(before, 15), pattern_sums(match, 15)
    assert first["previous_token"].item() == pytest.approx(1, abs=1e-12)
    assert second["prefix_matching"].item() == pytest.approx(1, abs=1e-12)
    assert first["prefix_matching"].item() == pytest.approx(0, abs=1e-12)
    assert second["duplicate_token"].item() == pytest.approx(0, abs=1e-12)
    sums, number = loss_by_position(logits, tokens, torch.ones_like(tokens, dtype=torch.bool))
    losses = sums / number
    # The first token of the second copy, entry 15, is the last that nobody can know.
    assert losses[:16].min() > 2
    assert losses[16:].max() < 1e-9
    assert repeat_gain(losses[None], 15) == pytest.approx(losses[:15].mean().item(), abs=1e-9)
    right = logits[:, :-1].argmax(-1) == tokens[:, 1:]
    assert right[:, 16:].all()
    assert not right[:, :15].any()


def test_a_head_that_spreads_over_occurrences_scores_as_one_that_picks_one() -> None:
    tokens = drawn(5, 4, True, sequences=1)
    size = tokens.shape[1]
    same = (tokens[0][:, None] == tokens[0]).tril(-1)
    after = same.roll(1, 1).double() + 1e-9 * torch.eye(size, dtype=torch.float64)
    found = pattern_sums(after[None, None], 5)
    assert found["prefix_matching"].item() == pytest.approx(1, abs=1e-6)
    assert pattern_sums(same.double()[None, None] + 1e-9, 5)["duplicate_token"].item() == pytest.approx(1, abs=1e-6)


@given(st.integers(0, 10**6), st.integers(2, 7), st.sampled_from(["left", "right"]))
def test_losses_by_place_are_those_of_a_loop(seed: int, length: int, side: str) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = 4 * torch.randn(4, length, 9, generator=generator)
    ids = torch.randint(0, 9, (4, length), generator=generator)
    ids[torch.rand(4, length, generator=generator) < 0.1] = -100
    mask = torch.arange(length) < torch.randint(0, length + 1, (4, 1), generator=generator)
    mask = mask.flip(1) if side == "left" else mask
    logits[~mask] = math.nan
    sums, number = loss_by_position(logits, ids, mask)
    assert sums.dtype == number.dtype == torch.float64
    expected = plain.losses_by_place(logits.double().tolist(), ids.tolist(), mask.tolist())
    assert sums.tolist() == pytest.approx(expected[0], abs=1e-9)
    assert number.tolist() == expected[1]


def test_losses_in_small_blocks_and_of_parts_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 8, 11, generator=generator).bfloat16()
    ids, mask = torch.randint(0, 11, (3, 8), generator=generator), torch.ones(3, 8, dtype=torch.bool)
    whole = torch.stack(loss_by_position(logits, ids, mask))
    flat = torch.nn.functional.cross_entropy(
        logits[:, :-1].double().flatten(0, 1), ids[:, 1:].flatten(), reduction="none"
    )
    torch.testing.assert_close(whole[0], flat.view(3, 7).sum(0))
    monkeypatch.setattr(induction, "_BLOCK", 25)
    torch.testing.assert_close(torch.stack(loss_by_position(logits, ids, mask)), whole)
    parts = [torch.stack(loss_by_position(logits[p], ids[p], mask[p])) for p in (slice(1), slice(1, 3), slice(0))]
    torch.testing.assert_close(sum(parts), whole)


def test_a_token_that_cannot_be_costs_without_end_and_others_nothing() -> None:
    logits = torch.tensor([[[0.0, -math.inf], [0.0, -math.inf], [0.0, 0.0]]])
    sums, _ = loss_by_position(logits, torch.tensor([[0, 0, 1]]), torch.ones(1, 3, dtype=torch.bool))
    assert sums.tolist() == [0, math.inf]


def test_icl_score_is_the_difference_of_two_windows() -> None:
    sums = torch.arange(20.0).square()
    counts = torch.arange(1.0, 21.0)
    early, late = sums[2:5].sum() / counts[2:5].sum(), sums[14:17].sum() / counts[14:17].sum()
    assert icl_score(sums, counts, 3, 15, 1) == pytest.approx(float(late - early), rel=1e-6)
    assert icl_score(sums, counts, 0, 19, 0) == pytest.approx(361 / 20)
    assert math.isnan(icl_score(sums, counts, 3, 19, 1))
    assert math.isnan(icl_score(sums, counts, 0, 15, 1))
    assert math.isnan(icl_score(sums, counts))
    counts[16] = 0
    assert math.isnan(icl_score(sums, counts, 3, 15, 1))
    assert not math.isnan(icl_score(sums, counts, 3, 14, 1))


def test_icl_score_of_a_loss_that_falls_with_the_log_of_the_place() -> None:
    places = torch.arange(1, 512, dtype=torch.float64)
    found = icl_score((6 - 0.3 * places.log()) * 7, torch.full((511,), 7.0))
    assert found == pytest.approx(-0.3 * math.log(501 / 51), abs=2e-3)


@given(**COPIES, seed=st.integers(0, 10**6))
def test_repeat_gain_is_that_found_by_comparing_tokens(length: int, repeats: int, started: bool, seed: int) -> None:
    tokens = drawn(length, repeats, started, seed)
    losses = torch.rand(3, tokens.shape[1] - 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    found = repeat_gain(losses, length, int(started))
    assert found == pytest.approx(plain.gain(losses.tolist(), tokens.tolist()), abs=1e-12)
    assert repeat_gain(torch.full_like(losses, 2.5), length, int(started)) == 0


def test_nothing_is_read_back_from_the_device() -> None:
    # A tensor without data cannot be.
    square = torch.ones(2, 3, 9, 9, device="meta")
    assert all(values.shape == (3,) for values in pattern_sums(square, 4).values())
    ids = torch.ones(2, 4, dtype=torch.long, device="meta")
    assert loss_by_position(torch.ones(2, 4, 5, device="meta"), ids, ids > 0)[0].shape == (3,)


def test_errors_name_the_argument_and_its_value() -> None:
    square = torch.ones(1, 1, 9, 9)
    logits, ids = torch.zeros(2, 4, 5), torch.zeros(2, 4, dtype=torch.long)
    for call, match in [
        (lambda: repeated_sequences(range(9), length=1), "`length`.*got 1"),
        (lambda: repeated_sequences(range(9), length=2, repeats=1), "`repeats`.*got 1"),
        (lambda: repeated_sequences(range(9), length=2, sequences=0), "`sequences`.*got 0"),
        (lambda: repeated_sequences(range(9), length=9, start=3), "`ids`.*9 ids besides `start`, got 8"),
        (lambda: repeated_sequences([-1, 4], length=2), "`ids`.*got -1 to 4"),
        (lambda: repeated_sequences([], length=2), "`ids`.*got 0"),
        (lambda: pattern_sums(square[0], 4), r"`weights`.*\(1, 9, 9\)"),
        (lambda: pattern_sums(square, 4, first=0), "`weights`.*`first` = 0 and n = `length` = 4; got 9"),
        (lambda: pattern_sums(square, 8), "`weights`.*`length` = 8; got 9"),
        (lambda: pattern_sums(square, 4, first=2), "`first`.*got 2"),
        (lambda: pattern_chance(4, 1), "`repeats`.*got 1"),
        (lambda: loss_by_position(logits, ids, ids[:, :2]), r"\(2, 4, 5\), \(2, 4\) and \(2, 2\)"),
        (lambda: loss_by_position(logits[:, :1], ids[:, :1], ids[:, :1]), r"two positions.*\(2, 1, 5\)"),
        (lambda: icl_score(torch.ones(4), torch.ones(3)), r"\(4,\) and \(3,\)"),
        (lambda: icl_score(torch.ones(4), torch.ones(4), half_width=-1), "`half_width`.*got -1"),
        (lambda: icl_score(torch.ones(4), torch.ones(4), 3, 3), "`early`.*got 3 and 3"),
        (lambda: repeat_gain(torch.ones(7), 4), r"`losses`.*\(7,\)"),
        (lambda: repeat_gain(torch.ones(2, 9), 4), "`losses`.*`length` = 4; got 9"),
    ]:
        with pytest.raises(ValueError, match=match):
            call()
