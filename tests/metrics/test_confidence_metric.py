"""Calibration of a stream: planted temperatures, batches and ranks, devices, bounded memory."""

from __future__ import annotations

import math

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from reference.readings import random_split
from scipy.integrate import quad

from lightning_interp.functional import adaptive_calibration_error, auroc, selective_accuracy
from lightning_interp.metrics import ConfidenceMetric


def values(metric: ConfidenceMetric) -> dict[str, float]:
    return {key: float(value) for key, value in metric.compute().items()}


def predictions(number: int = 40, length: int = 5, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Confidences, many of which are equal, whether each is right, and which count."""
    generator = torch.Generator().manual_seed(seed)
    confidence = torch.rand(number, length, generator=generator)
    confidence = torch.where(confidence < 0.4, (10 * confidence).round() / 10, confidence)
    correct = torch.rand(number, length, generator=generator) < confidence
    return confidence, correct, torch.rand(number, length, generator=generator) < 0.8


def fed(metric: ConfidenceMetric, batches: list[list[int]], seed: int = 0) -> ConfidenceMetric:
    confidence, correct, mask = predictions(seed=seed)
    for rows in batches:
        where = torch.tensor(rows, dtype=torch.long)
        metric.update(confidence[where], correct[where], None, mask[where], where)
    return metric


def test_values_are_those_of_all_predictions_where_all_are_kept() -> None:
    confidence, correct, mask = predictions()
    c, y = confidence[mask], correct[mask]
    found = values(fed(ConfidenceMetric(bins=10), [list(range(40))]))
    assert found["accuracy"] == pytest.approx(float(y.float().mean()), abs=1e-6)
    assert found["overconfidence"] == pytest.approx(float(c.double().mean() - y.double().mean()), abs=1e-9)
    assert found["brier"] == pytest.approx(float((c - y.float()).square().mean()), abs=1e-6)
    assert found["auroc_confidence"] == pytest.approx(auroc(c, y), abs=1e-4)
    assert found["adaptive_ece"] == pytest.approx(float(adaptive_calibration_error(c, y, 10)), abs=1e-3)
    shares = torch.tensor([0.5, 0.8, 0.9], dtype=torch.float64)
    expected = selective_accuracy(c, y, shares)
    for share, value in zip((0.5, 0.8, 0.9), expected.tolist(), strict=True):
        assert found[f"selective_accuracy/{share}"] == pytest.approx(value, abs=1e-3)
    assert found["predictions"] == found["sampled_predictions"] == int(mask.sum())


@pytest.mark.parametrize("sharpness", [0.5, 1.0, 2.0, 3.0])
def test_a_planted_temperature_is_recovered(sharpness: float) -> None:
    # A prediction that is right with probability q, uniform over [1/2, 1], is given with log-odds times `sharpness`.
    number = 400_000
    generator = torch.Generator().manual_seed(0)
    q = 0.5 + torch.rand(number, generator=generator, dtype=torch.float64) / 2
    confidence = (sharpness * q.logit()).sigmoid()
    correct = torch.rand(number, generator=generator, dtype=torch.float64) < q
    metric = ConfidenceMetric(max_rows=number)
    metric.update(confidence, correct)
    found = values(metric)

    def sharp(p: float) -> float:
        return p**sharpness / (p**sharpness + (1 - p) ** sharpness)

    # Every prediction is as far from the diagonal in one direction, so both errors are the mean distance.
    gap = 2 * quad(lambda p: sharp(p) - p, 0.5, 1)[0]
    error = math.sqrt(0.25 / number)
    assert found["overconfidence"] == pytest.approx(gap, abs=4 * error)
    for key in ("ece", "adaptive_ece"):
        # The noise of each bin adds √(2/π) of its standard error where there is no gap.
        assert found[key] == pytest.approx(abs(gap), abs=4 * error if sharpness != 1 else math.sqrt(15) * error)
    brier = 2 * quad(lambda p: p * (1 - sharp(p)) ** 2 + (1 - p) * sharp(p) ** 2, 0.5, 1)[0]
    assert found["brier"] == pytest.approx(brier, abs=8 * error)
    # The order is the same whatever the temperature: P(q > q') for densities 8q/3 and 8(1 − q) on [1/2, 1].
    right = 2 * quad(lambda p: 2 * p * quad(lambda r: 8 * (1 - r), 0.5, p)[0] * 2 / 3, 0.5, 1)[0]
    assert found["auroc_confidence"] == pytest.approx(right, abs=0.004)
    # The most confident half: q over [3/4, 1].
    assert found["selective_accuracy/0.5"] == pytest.approx(7 / 8, abs=0.003)
    assert found["accuracy"] == pytest.approx(0.75, abs=4 * error)


@given(st.integers(0, 100), st.integers(0, 100), st.integers(1, 300))
def test_batches_mean_nothing(seed: int, split: int, max_rows: int) -> None:
    whole = values(fed(ConfidenceMetric(max_rows=max_rows), [list(range(40))], seed))
    parts = values(fed(ConfidenceMetric(max_rows=max_rows), random_split(split, 40, 6), seed))
    assert parts == pytest.approx(whole, abs=1e-9, nan_ok=True)
    assert whole["sampled_predictions"] == min(max_rows, whole["predictions"])


def test_rounding_decides_no_order() -> None:
    confidence, correct, _ = predictions(200, 1)
    confidence = (20 * confidence).round() / 20
    found = []
    for seed in range(4):
        noise = 1 + 1e-7 * torch.randn(confidence.shape, generator=torch.Generator().manual_seed(seed))
        metric = ConfidenceMetric()
        metric.update((confidence * noise).clamp(0, 1), correct)
        found.append({key: value for key, value in values(metric).items() if key not in ("ece", "ece_control")})
    for one in found[1:]:
        assert one == pytest.approx(found[0], abs=1e-6)


def test_what_is_not_finite_is_left_out_and_counted() -> None:
    metric = ConfidenceMetric()
    metric.update(
        torch.tensor([0.5, math.nan, 1.0, math.inf]),
        torch.tensor([1, 1, 0, 1]),
        torch.tensor([0.5, math.nan, 1.5, math.nan]),
        nonfinite=torch.tensor(3),
    )
    found = values(metric)
    assert found["nonfinite"] == 5
    assert found["predictions"] == 2
    assert found["brier"] == 1.0


@pytest.mark.parametrize("right", [0, 1])
def test_what_is_undefined_is_nan(right: int) -> None:
    metric = ConfidenceMetric()
    metric.update(torch.tensor([0.5, 0.7]), torch.tensor([right, right]))
    found = values(metric)
    assert [key for key, value in found.items() if math.isnan(value)] == ["auroc_confidence", "auroc_confidence/sd"]
    nothing = values(ConfidenceMetric())
    assert nothing["predictions"] == nothing["nonfinite"] == 0
    assert all(math.isnan(value) for key, value in nothing.items() if "predictions" not in key and key != "nonfinite")


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="`bins` must be at least 1, got 0"):
        ConfidenceMetric(bins=0)
    with pytest.raises(ValueError, match=r"`coverages` must lie between 0 and 1, got 1\.0"):
        ConfidenceMetric(coverages=(0.5, 1.0))
    with pytest.raises(ValueError, match="twice"):
        ConfidenceMetric(coverages=(0.5, 0.5))
    with pytest.raises(ValueError, match="'correct'"):
        ConfidenceMetric().update(torch.zeros(3), torch.zeros(4))
    metric = ConfidenceMetric()
    metric.update(torch.tensor([20.0, 95.0]), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="between 0 and 1, got values from 20 to 95"):
        metric.compute()


def share(shares: list[list[list[int]] | None], max_rows: int) -> dict[str, float]:
    return values(fed(ConfidenceMetric(max_rows=max_rows), shares[dist.get_rank()] or []))


@pytest.mark.parametrize("max_rows", [50, 10_000])
def test_ranks_give_what_one_process_gives(two_ranks: object, three_ranks: object, max_rows: int) -> None:
    everything = list(range(40))
    expected = values(fed(ConfidenceMetric(max_rows=max_rows), [everything]))
    for group, shares in (
        (two_ranks, [[everything[::2]], [everything[1:8:2], everything[9::2]]]),
        (two_ranks, [None, [everything]]),
        (three_ranks, [[[0]], [everything[1:7]], [[], everything[7:]]]),
    ):
        for found in group.run(share, shares, max_rows):
            assert found == pytest.approx(expected, abs=1e-9)


def test_update_reads_nothing_back() -> None:
    metric = ConfidenceMetric(max_rows=10)
    confidence, correct, mask = (one.to("meta") for one in predictions())
    for _ in range(3):
        metric.update(confidence, correct, confidence, mask, torch.arange(40), torch.zeros((), device="meta"))
    assert metric.sums.device.type == metric.nonfinite.device.type == "meta"
