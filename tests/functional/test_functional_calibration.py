"""Calibration errors, selective accuracy and Brier score: definitions, ties, bounds, planted miscalibration."""

from __future__ import annotations

import math
from itertools import permutations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference import calibration as reference
from sklearn.metrics import roc_auc_score

from lightning_interp.functional import (
    CalibrationBins,
    adaptive_calibration_error,
    area_under_risk_coverage,
    auroc,
    auroc_chance_sd,
    calibration_bins,
    expected_calibration_error,
    multiclass_brier,
    permuted_calibration_error,
    selective_accuracy,
)

CONFIDENCES = st.one_of(st.floats(0, 1, width=32), st.sampled_from([0.0, 0.1, 0.2, 0.5, 0.8, 1.0]))
ROWS = st.lists(st.tuples(CONFIDENCES, st.booleans()), min_size=1, max_size=40)


def tensors(rows: list[tuple[float, bool]]) -> tuple[torch.Tensor, torch.Tensor]:
    confidence, correct = zip(*rows, strict=True)
    return torch.tensor(confidence, dtype=torch.float64), torch.tensor(correct)


@given(ROWS, st.integers(1, 20))
def test_ece_is_its_definition(rows: list[tuple[float, bool]], bins: int) -> None:
    confidence, correct = tensors(rows)
    found = expected_calibration_error(calibration_bins(confidence, correct, bins))
    assert float(found) == pytest.approx(reference.ece(confidence.tolist(), correct.tolist(), bins), abs=1e-9)


def test_a_confidence_of_one_is_in_the_last_bin_and_none_in_the_first() -> None:
    found = calibration_bins(torch.tensor([1.0, 0.95, 0.0, 0.1]), torch.tensor([1, 0, 0, 1]), bins=10)
    assert found.number.tolist() == [2, 0, 0, 0, 0, 0, 0, 0, 0, 2]
    two = calibration_bins(torch.tensor([1.0, 0.95]), torch.tensor([0.0, 1.0]), bins=10)
    # In bins of their own, as in torchmetrics, it would be (1 + .05) / 2 = .525.
    assert float(expected_calibration_error(two)) == pytest.approx(0.475)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_edges_belong_to_the_bin_below(dtype: torch.dtype) -> None:
    edges = torch.arange(1, 11, dtype=dtype) / 10
    assert calibration_bins(edges, torch.ones(10), bins=10).number.tolist() == [1] * 10


@given(ROWS, st.integers(0, 40))
def test_sums_of_two_parts_are_those_of_the_whole(rows: list[tuple[float, bool]], cut: int) -> None:
    confidence, correct = tensors(rows)
    parts = [calibration_bins(confidence[part], correct[part]) for part in (slice(cut), slice(cut, None))]
    whole = calibration_bins(confidence, correct)
    added = CalibrationBins(*(one + other for one, other in zip(*parts, strict=True)))
    for one, other in zip(whole, added, strict=True):
        torch.testing.assert_close(one, other)
    counted = torch.arange(len(confidence)) < cut
    for one, other in zip(parts[0], calibration_bins(confidence, correct, counted=counted), strict=True):
        torch.testing.assert_close(one, other)


@given(st.integers(0, 500), st.integers(1, 6), st.integers(1, 8))
def test_adaptive_ece_is_its_definition(seed: int, bins: int, size: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    confidence = torch.rand(bins * size, generator=generator, dtype=torch.float64)
    correct = torch.rand(bins * size, generator=generator) < 0.5
    found = float(adaptive_calibration_error(confidence, correct, bins))
    assert found == pytest.approx(reference.adaptive_ece(confidence.tolist(), correct.tolist(), bins), abs=1e-9)


@given(ROWS, st.integers(1, 7), st.randoms(use_true_random=False))
def test_the_order_of_predictions_means_nothing(rows: list[tuple[float, bool]], bins: int, draw: object) -> None:
    shuffled = list(rows)
    draw.shuffle(shuffled)
    shares = torch.tensor([0.3, 0.8, 1.0])
    one, other = tensors(rows), tensors(shuffled)
    assert float(adaptive_calibration_error(*one, bins)) == pytest.approx(
        float(adaptive_calibration_error(*other, bins)), abs=1e-9
    )
    torch.testing.assert_close(selective_accuracy(*one, shares), selective_accuracy(*other, shares))
    torch.testing.assert_close(area_under_risk_coverage(*one), area_under_risk_coverage(*other))


@given(st.lists(st.tuples(st.sampled_from([0.2, 0.5, 0.9]), st.booleans()), min_size=1, max_size=5))
def test_selective_accuracy_is_the_mean_over_all_orders_of_ties(rows: list[tuple[float, bool]]) -> None:
    confidence, correct = tensors(rows)
    given_ = confidence.tolist(), correct.tolist()
    for share in (0.2, 0.5, 0.9, 1.0):
        found = float(selective_accuracy(confidence, correct, torch.tensor([share])))
        assert found == pytest.approx(reference.selective_accuracy(*given_, share), abs=1e-9)
    assert float(area_under_risk_coverage(confidence, correct)) == pytest.approx(reference.aurc(*given_), abs=1e-9)


def test_a_coverage_is_rounded_up_to_whole_predictions() -> None:
    confidence, correct = torch.arange(10, 0, -1) / 10, torch.arange(10) < 8
    found = selective_accuracy(confidence, correct, torch.tensor([0.8, 0.81, 1e-6], dtype=torch.float64))
    torch.testing.assert_close(found, torch.tensor([1, 8 / 9, 1], dtype=torch.float64))


@given(ROWS)
def test_auroc_is_that_of_scikit_learn_with_ties(rows: list[tuple[float, bool]]) -> None:
    confidence, correct = tensors([*rows, (0.5, True), (0.5, False)])
    assert auroc(confidence, correct) == pytest.approx(roc_auc_score(correct, confidence), abs=1e-9)


def test_confidence_that_orders_nothing_and_one_that_orders_all() -> None:
    correct = torch.arange(100) % 4 > 0
    assert float(area_under_risk_coverage(torch.full((100,), 0.7), correct)) == pytest.approx(0.25)
    best = float(area_under_risk_coverage(correct.double(), correct))
    # Geifman et al. 2019: with all errors last, e + (1 - e) ln(1 - e) as rows grow.
    assert best == pytest.approx(0.25 + 0.75 * math.log(0.75), abs=5e-3)


@given(st.integers(0, 500), st.integers(2, 9))
def test_brier_is_the_squared_distance_to_the_right_class(seed: int, classes: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = 5 * torch.randn(20, classes, generator=generator, dtype=torch.float64)
    logits[0, 0] = -torch.inf
    targets = torch.randint(classes, (20,), generator=generator)
    right = torch.nn.functional.one_hot(targets, classes)
    expected = (logits.softmax(-1) - right).square().sum(-1)
    torch.testing.assert_close(multiclass_brier(logits, targets), expected)
    torch.testing.assert_close(multiclass_brier(logits, targets, logits.logsumexp(-1)), expected)


def test_brier_of_half_precision_and_of_more_than_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = torch.randn(50, 7, generator=torch.Generator().manual_seed(0))
    targets = torch.arange(50) % 7
    whole = multiclass_brier(logits, targets)
    monkeypatch.setattr("lightning_interp.functional.calibration._BLOCK", 20)
    torch.testing.assert_close(multiclass_brier(logits, targets), whole)
    assert multiclass_brier(logits.half(), targets).dtype == torch.float32
    assert multiclass_brier(logits[:0], targets[:0]).shape == (0,)


def test_no_predictions_have_no_calibration() -> None:
    nothing = torch.zeros(0), torch.zeros(0)
    assert math.isnan(float(expected_calibration_error(calibration_bins(*nothing))))
    assert math.isnan(float(adaptive_calibration_error(*nothing)))
    assert math.isnan(float(area_under_risk_coverage(*nothing)))
    assert bool(selective_accuracy(*nothing, torch.tensor([0.5])).isnan().all())


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match=r"got \(3,\) and \(2,\)"):
        calibration_bins(torch.zeros(3), torch.zeros(2))
    with pytest.raises(ValueError, match="`bins` must be at least 1, got 0"):
        adaptive_calibration_error(torch.zeros(3), torch.zeros(3), 0)
    with pytest.raises(ValueError, match="`coverages` must lie above 0"):
        selective_accuracy(torch.zeros(3), torch.zeros(3), torch.tensor([0.0]))
    with pytest.raises(ValueError, match=r"`logits` must be \(N, C\)"):
        multiclass_brier(torch.zeros(3), torch.zeros(3))


# ------------------------------------------------- what chance gives

FEW = st.lists(st.tuples(CONFIDENCES, st.booleans()), min_size=1, max_size=6)


@given(FEW, st.integers(1, 10))
def test_dealt_confidences_have_the_error_that_all_ways_of_dealing_have(
    rows: list[tuple[float, bool]], bins: int
) -> None:
    confidence, correct = tensors(rows)
    ways = [
        float(expected_calibration_error(calibration_bins(confidence, torch.tensor(one), bins)))
        for one in permutations(correct.tolist())
    ]
    found = permuted_calibration_error(calibration_bins(confidence, correct, bins))
    assert float(found) == pytest.approx(math.fsum(ways) / len(ways), abs=1e-9)


def test_dealt_confidences_of_many_predictions() -> None:
    generator = torch.Generator().manual_seed(0)
    confidence = torch.rand(200_000, generator=generator, dtype=torch.float64)
    correct = torch.rand(200_000, generator=generator) < confidence
    bins = calibration_bins(confidence, correct)
    dealt = [
        float(expected_calibration_error(calibration_bins(confidence, correct[order])))
        for order in (torch.randperm(200_000, generator=generator) for _ in range(20))
    ]
    assert float(expected_calibration_error(bins)) < 0.01
    assert float(permuted_calibration_error(bins)) == pytest.approx(math.fsum(dealt) / 20, rel=1e-3)


@given(FEW)
def test_the_spread_of_auroc_is_that_of_all_ways_of_dealing(rows: list[tuple[float, bool]]) -> None:
    scores, labels = tensors(rows)
    if len(set(labels.tolist())) < 2:
        return
    ways = torch.tensor([auroc(scores, torch.tensor(one)) for one in permutations(labels.tolist())]).double()
    assert auroc_chance_sd(scores, labels) == pytest.approx(float(ways.std(correction=0)), abs=1e-6)


@pytest.mark.parametrize("bins", [10, 15, 20])
def test_rounding_cuts_no_confidence_in_two(bins: int) -> None:
    for edge in range(1, bins):
        noise = torch.linspace(-2e-7, 2e-7, 11, dtype=torch.float64)
        for dtype in (torch.float32, torch.float64):
            number = calibration_bins((edge / bins + noise).to(dtype), torch.ones(11), bins).number
            assert number.tolist() == [11.0 if place == edge - 1 else 0.0 for place in range(bins)]
