"""Confidence that is asked for: slow loops, chance by every sequence, answers that could not be read."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference import elicited as plain

from lightning_interp.functional import (
    auroc,
    average_confidence,
    calibration_bins,
    consistency,
    consistency_of_chance,
    distinct_levels,
    expected_calibration_error,
    option_probabilities,
    p_true,
)

ANSWERS = st.integers(1, 6).flatmap(
    lambda m: st.lists(st.lists(st.integers(-1, 3), min_size=m, max_size=m), min_size=1, max_size=4)
)
LOGS = st.floats(-20, 0)


@given(ANSWERS)
def test_consistency_is_that_of_a_loop(rows: list[list[int]]) -> None:
    found = consistency(torch.tensor(rows))
    for row, answer, share in zip(rows, found.answer.tolist(), found.share.tolist(), strict=True):
        expected, most = plain.consistency(row)
        assert answer == expected
        assert share == pytest.approx(most, nan_ok=True)
        if expected >= 0:
            assert consistency(torch.tensor(row), torch.tensor(expected)).share.item() == pytest.approx(most)
    assert consistency(torch.tensor(rows)[:, None]).share.shape == (len(rows), 1)


@given(ANSWERS, st.data())
def test_average_confidence_is_that_of_a_loop(rows: list[list[int]], data: st.DataObject) -> None:
    one = st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0, math.nan])
    stated = [data.draw(st.lists(one, min_size=len(row), max_size=len(row))) for row in rows]
    found = average_confidence(torch.tensor(rows), torch.tensor(stated))
    for row, confidences, answer, share in zip(rows, stated, found.answer.tolist(), found.share.tolist(), strict=True):
        expected = plain.average_confidence(row, confidences)
        if not expected:
            assert answer == -1
            assert math.isnan(share)
        elif math.isnan(next(iter(expected.values()))):
            assert answer == next(iter(expected))
            assert math.isnan(share)
        else:
            assert answer == max(expected, key=expected.__getitem__)  # of equal ones the first
            assert share == pytest.approx(expected[answer])


@given(ANSWERS, st.floats(0.01, 1))
def test_equal_confidences_are_consistency_of_what_was_read(rows: list[list[int]], stated: float) -> None:
    answers = torch.tensor(rows).clamp_min(0)
    one, other = average_confidence(answers, torch.full(answers.shape, stated)), consistency(answers)
    assert torch.equal(one.answer, other.answer)
    torch.testing.assert_close(one.share, other.share)


def test_answers_under_hints_are_compared_with_the_one_without() -> None:
    answers = torch.tensor([[1, 1, 0, -1], [2, 2, 2, 2], [-1, -1, -1, -1], [0, 1, 2, 3]])
    found = consistency(answers, torch.tensor([0, 2, 1, -1]))
    assert found.answer.tolist() == [0, 2, 1, -1]
    assert found.share.tolist() == pytest.approx([0.25, 1.0, math.nan, math.nan], nan_ok=True)


def test_any_number_below_zero_is_no_answer() -> None:
    found = consistency(torch.tensor([[-5, -5, -2], [-5, -5, 1]]))
    assert found.answer.tolist() == [-1, 1]
    assert found.share.tolist() == pytest.approx([math.nan, 1 / 3], nan_ok=True)


@pytest.mark.parametrize(
    ("options", "answers", "expected"), [(2, 5, 0.69), (4, 5, 0.50), (4, 10, 0.42), (4, 20, 0.37), (10, 5, 0.36)]
)
def test_chance_is_the_table(options: int, answers: int, expected: float) -> None:
    assert round(consistency_of_chance(options, answers), 2) == expected


@pytest.mark.parametrize("options", range(1, 6))
@pytest.mark.parametrize("answers", range(1, 6))
def test_chance_is_the_mean_over_every_sequence(options: int, answers: int) -> None:
    assert consistency_of_chance(options, answers) == pytest.approx(
        plain.consistency_of_chance(options, answers), abs=1e-12
    )


def test_chance_is_what_random_answers_have() -> None:
    drawn = torch.randint(0, 4, (20_000, 7), generator=torch.Generator().manual_seed(0))
    share = consistency(drawn).share
    assert float(share.mean()) == pytest.approx(consistency_of_chance(4, 7), abs=4 * float(share.std()) / 20_000**0.5)


def test_chance_at_the_ends() -> None:
    assert consistency_of_chance(1, 9) == consistency_of_chance(9, 1) == 1
    assert consistency_of_chance(10**6, 2) == pytest.approx(0.5 + 0.5e-6)
    falling = [consistency_of_chance(3, m) for m in (1, 2, 4, 8, 16, 32, 64)]
    assert falling == sorted(falling, reverse=True)
    assert 1 / 3 < falling[-1] < 0.41


@given(st.lists(LOGS, min_size=1, max_size=5), st.data())
def test_options_are_those_of_a_loop(logs: list[float], data: st.DataObject) -> None:
    size = {"min_size": len(logs), "max_size": len(logs)}
    lengths, prior = data.draw(st.lists(st.integers(1, 9), **size)), data.draw(st.lists(LOGS, **size))
    given_logs = torch.tensor(logs, dtype=torch.float64)
    means = [log / length for log, length in zip(logs, lengths, strict=True)]
    contrasts = [log - other for log, other in zip(logs, prior, strict=True)]
    for found, expected in (
        (option_probabilities(given_logs), logs),
        (option_probabilities(given_logs, lengths=torch.tensor(lengths)), means),
        (option_probabilities(given_logs, prior=torch.tensor(prior, dtype=torch.float64)), contrasts),
    ):
        assert found.tolist() == pytest.approx(plain.softmax(expected), rel=1e-9)


def test_options_that_are_not_there() -> None:
    logs, none = torch.tensor([-1.0, -torch.inf, -2.0]), torch.tensor([1.0, 0.0, 2.0])
    two = torch.tensor([-1.0, -2.0])
    for given_for, kept in (({}, {}), ({"lengths": none}, {"lengths": none[[0, 2]]})):
        found = option_probabilities(logs, **given_for)
        assert found[1] == 0
        torch.testing.assert_close(found[[0, 2]], option_probabilities(two, **kept))
    contrasted = option_probabilities(logs, prior=logs)
    assert contrasted.tolist() == [0.5, 0.0, 0.5]
    assert option_probabilities(torch.full((2, 3), -torch.inf)).isnan().all()
    assert option_probabilities(torch.zeros(2, 3, dtype=torch.bfloat16)).dtype == torch.float32


def test_an_option_that_is_likely_without_the_question_gains_nothing_by_it() -> None:
    """Logs = log of what the question says + log of how common the text is: the contrast leaves the first."""
    says = torch.tensor([0.7, 0.2, 0.1]).double()
    common = torch.tensor([0.01, 0.5, 0.2]).double()
    logs = says.log() + common.log()
    assert int(option_probabilities(logs).argmax()) == 1
    torch.testing.assert_close(option_probabilities(logs, prior=common.log()), says)


@given(LOGS, LOGS)
def test_p_true_is_its_formula(yes: float, no: float) -> None:
    found = p_true(*torch.tensor([yes, no], dtype=torch.float64))
    assert float(found) == pytest.approx(math.exp(yes) / (math.exp(yes) + math.exp(no)), rel=1e-9)
    assert float(found) + float(p_true(*torch.tensor([no, yes], dtype=torch.float64))) == pytest.approx(1)


def test_p_true_at_the_ends() -> None:
    infinite = torch.tensor([-torch.inf, 0.0, -torch.inf])
    assert p_true(infinite, torch.tensor([0.0, -torch.inf, -torch.inf])).tolist() == pytest.approx(
        [0.0, 1.0, math.nan], nan_ok=True
    )


@given(st.lists(st.sampled_from([0.5, 0.8, 0.85, 0.9, 1.0, math.nan, -math.inf]), max_size=12))
def test_levels_are_those_of_a_set(values: list[float]) -> None:
    expected = len({value for value in values if not math.isnan(value)})
    for dtype in (torch.float32, torch.float64):
        assert int(distinct_levels(torch.tensor(values, dtype=dtype))) == expected
    rows = torch.tensor(values).expand(3, -1)
    assert distinct_levels(rows).tolist() == [expected] * 3
    assert distinct_levels(rows, torch.zeros_like(rows)).tolist() == [0] * 3
    some = torch.arange(len(values)) % 2 == 0
    assert int(distinct_levels(torch.tensor(values), some)) == len({v for v in values[::2] if not math.isnan(v)})


def test_levels_of_whole_numbers() -> None:
    assert int(distinct_levels(torch.tensor([3, 1, 3]))) == 2


def test_a_model_that_knows_how_often_it_is_right_is_calibrated() -> None:
    """Half of the questions right nine times in ten, half six times in ten: C over many answers says so."""
    generator = torch.Generator().manual_seed(1)
    questions, answers = 1000, 150
    right = torch.tensor([0.9, 0.6]).repeat(questions // 2)
    drawn = (torch.rand(questions, answers, generator=generator) >= right[:, None]).long()
    share = consistency(drawn).share
    correct = torch.rand(questions, generator=generator) < right
    ece = float(expected_calibration_error(calibration_bins(share, correct)))
    assert ece < 0.06
    # Two levels with as many questions each: 1/2 + (.9 · .4 − .6 · .1) / (4 · .75 · .25) = .7.
    levels = share.gt(0.75).double()
    assert auroc(levels, correct) == pytest.approx(0.7, abs=0.05)
    always = torch.full((questions,), 0.95)
    assert auroc(always, correct) == 0.5
    assert float(expected_calibration_error(calibration_bins(always, correct))) == pytest.approx(0.2, abs=0.045)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: consistency(torch.zeros(2, 0).long()),
            r"`answers` must be \(…, M\), at least one, got shape \(2, 0\)",
        ),
        (lambda: consistency(torch.zeros(2, 3)), "`answers` must be whole numbers, .* got torch.float32"),
        (lambda: consistency(torch.ones(2, 3).long(), torch.ones(3)), r"`expected` must be \(2,\), got shape \(3,\)"),
        (lambda: average_confidence(torch.ones(3).long(), torch.ones(2)), r"one shape, got \(3,\) and \(2,\)"),
        (lambda: average_confidence(torch.ones(1).long(), torch.tensor([90.0])), r"between 0 and 1, got \[90.0\]"),
        (lambda: consistency_of_chance(0, 5), "`options` must be at least 1, got 0"),
        (lambda: consistency_of_chance(5, 0), "`answers` must be at least 1, got 0"),
        (lambda: option_probabilities(torch.tensor(1.0)), r"`log_probs` must be \(…, K\), got shape \(\)"),
        (lambda: option_probabilities(torch.ones(2), torch.ones(2), torch.ones(2)), "`lengths` or `prior`, not both"),
        (lambda: option_probabilities(torch.ones(2), torch.ones(3)), r"`lengths` must .* \(2,\), got \(3,\)"),
        (lambda: option_probabilities(torch.ones(2), torch.tensor([1, 0])), r"`lengths` must be at least 1, got \[0\]"),
        (lambda: option_probabilities(torch.ones(1), prior=-torch.ones(1) / 0), r"`prior` must be finite, got \[-inf"),
        (lambda: p_true(torch.ones(2), torch.ones(3)), r"one shape, got \(2,\) and \(3,\)"),
        (lambda: distinct_levels(torch.tensor(1.0)), r"`confidences` must be \(…, N\), got shape \(\)"),
        (lambda: distinct_levels(torch.ones(2), torch.ones(3)), r"`mask` must have .* \(2,\), got \(3,\)"),
    ],
)
def test_arguments(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
