"""Noise by counter, and what is made of a metric under noise."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from lightning_interp import NoiseRobustness
from lightning_interp.functional.counter_noise import counter_normal, counter_uniform
from lightning_interp.functional.robustness import (
    area_under_noise,
    checked_scales,
    cosine_drift_sums,
    differs,
    half_scale,
    retention,
)
from tests.reference.counter_noise import splitmix_normal, splitmix_uniform


@given(st.integers(0, 2**62), st.integers(0, 2**40), st.integers(1, 9))
def test_numbers_are_those_of_the_reference(counter: int, seed: int, dim: int) -> None:
    counters = torch.tensor([counter, counter + 1])
    expected = [splitmix_uniform(int(one), seed) for one in counters]
    assert counter_uniform(counters, seed).tolist() == pytest.approx(expected, abs=1e-7)
    found = counter_normal(counters, dim, seed)
    for row, one in zip(found.tolist(), counters.tolist(), strict=True):
        assert row == pytest.approx(splitmix_normal(one, dim, seed), abs=2e-5)


def test_numbers_are_normal_and_independent() -> None:
    z = counter_normal(torch.arange(4000), 65, seed=3)
    assert stats.kstest(z.flatten().numpy()[::7], "norm").pvalue > 0.01
    for matrix, number in ((z.T @ z, 4000), (z @ z.T, 65)):
        correlation = matrix / number
        off = correlation[~torch.eye(len(correlation), dtype=torch.bool)]
        assert float(off.std()) == pytest.approx(number**-0.5, rel=0.02)
        assert float(off.abs().max()) < 6.5 * number**-0.5
    other = counter_normal(torch.arange(4000), 65, seed=4)
    assert abs(float((z * other).mean())) < 4 / math.sqrt(z.numel())
    u = counter_uniform(torch.arange(100_000))
    assert stats.kstest(u.numpy(), "uniform").pvalue > 0.01


def test_the_largest_uniform_number_is_below_one() -> None:
    # The first counter whose 24 bits are all ones.
    assert 0.999 < float(counter_uniform(torch.tensor([26_683_239]))) < 1


def test_a_vector_depends_on_its_counter_only_and_no_stream_is_moved() -> None:
    before = torch.random.get_rng_state()
    many = counter_normal(torch.arange(60_000).view(300, 200), 16)
    assert many.shape == (300, 200, 16)
    one = counter_normal(torch.tensor([[12_345]]), 16)
    assert torch.equal(many.flatten(0, 1)[12_345], one[0, 0])
    assert torch.equal(torch.random.get_rng_state(), before)
    with pytest.raises(ValueError, match="`dim` must be at least 1, got 0"):
        counter_normal(torch.arange(3), 0)


scales = st.lists(st.floats(0.01, 5), min_size=1, max_size=6, unique=True).map(sorted)


@given(scales, st.data())
def test_the_area_is_the_trapezoid_rule(at: list[float], data: st.DataObject) -> None:
    values = data.draw(st.lists(st.floats(-5, 5), min_size=len(at), max_size=len(at)))
    expected = np.trapezoid([0.5, *values], [0.0, *at]) / at[-1]
    assert area_under_noise(at, values, 0.5) == pytest.approx(expected, abs=1e-9)


@given(scales, st.data())
def test_robustness_is_under_noise_on_the_scale_of_what_was_learned(at: list[float], data: st.DataObject) -> None:
    values = data.draw(st.lists(st.floats(-5, 5), min_size=len(at), max_size=len(at)))
    clean, start = 2.0, -1.0
    kept = [retention(value, clean, start) for value in values]
    whole = area_under_noise(at, values, clean)
    assert area_under_noise(at, kept, 1.0) == pytest.approx(retention(whole, clean, start), abs=1e-9)


def test_retention_and_half_scale() -> None:
    assert retention(3.0, clean=1.0, start=5.0) == 0.5
    assert retention(7.0, clean=1.0, start=5.0) == -0.5
    assert math.isnan(retention(1.0, clean=2.0, start=2.0))
    assert half_scale([1.0, 2.0], [0.9, 0.1]) == pytest.approx(1.5)
    assert half_scale([1.0], [-1.0]) == pytest.approx(0.25)
    assert half_scale([1.0, 2.0, 3.0], [0.4, 0.9, 0.1]) < 1
    assert math.isnan(half_scale([1.0], [0.6]))


def test_scales_may_be_an_array_or_a_tensor() -> None:
    for scales in (np.linspace(0.5, 1.0, 2), torch.tensor([0.5, 1.0]), (np.float32(0.5), 1)):
        assert checked_scales(scales) == (0.5, 1.0)
        assert area_under_noise(scales, [0.5, 0.0], clean=1.0) == 0.5
        assert NoiseRobustness("emb", scales, {"val_loss": "loss"}).scales == (0.5, 1.0)
    for scales in (0.5, np.float64(0.5), [[1.0, 2.0]], np.eye(2), "log"):
        with pytest.raises(ValueError, match="`scales` must be a list of numbers, got"):
            checked_scales(scales)


@pytest.mark.parametrize("bad", [[], [0.0], [1.0, 0.5], [1.0, 1.0], [1.0, math.inf], [-1.0]])
def test_scales_are_checked(bad: list[float]) -> None:
    with pytest.raises(ValueError, match="`scales` must be finite, increasing and at least 0"):
        area_under_noise(bad, bad, 1.0)
    with pytest.raises(ValueError, match="entries for 2 scales"):
        half_scale([1.0, 2.0], [0.1])


def test_the_half_width_is_that_of_a_t_test() -> None:
    generator = np.random.default_rng(0)
    for groups in (2, 3, 8):
        one, other = generator.normal(size=(2, groups))
        paired = stats.ttest_rel(one, other).confidence_interval(0.95)
        assert differs(list(one), list(other)) == pytest.approx((paired.high - paired.low) / 2, rel=1e-3)
    assert math.isnan(differs([1.0], [2.0]))
    assert differs([1.0, 2.0], [0.0]) == pytest.approx(differs([1.0, 2.0], [0.0, 0.0]))
    assert differs([1.0, 2.0, 3.0], [0.0, 1.0]) > 0


@given(st.integers(0, 10_000), st.integers(1, 6), st.integers(1, 9))
def test_drift_is_one_minus_the_cosine(seed: int, rows: int, dim: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    clean, noisy = torch.randn(2, rows, dim, generator=generator, dtype=torch.float64)
    mask = torch.rand(rows, generator=generator) < 0.7
    expected = sum(
        1 - float(a @ b) / float(a.norm() * b.norm()) for a, b, one in zip(clean, noisy, mask, strict=True) if one
    )
    total, count, left_out = cosine_drift_sums(clean.float(), noisy.float(), mask).tolist()
    assert (count, left_out) == (int(mask.sum()), 0)
    assert total == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("scale", [1e-38, 1e-25, 1e15])
def test_drift_does_not_depend_on_length(scale: float) -> None:
    clean, noisy = torch.randn(2, 50, 8, generator=torch.Generator().manual_seed(0))
    everything = torch.ones(50, dtype=torch.bool)
    total, count, left_out = cosine_drift_sums(clean * scale, noisy, everything).tolist()
    assert (count, left_out) == (50, 0)
    assert total == pytest.approx(float(cosine_drift_sums(clean, noisy, everything)[0]), rel=1e-5)


def test_drift_leaves_out_what_has_no_direction() -> None:
    clean = torch.tensor([[1.0, 0.0], [0.0, 0.0], [float("nan"), 1.0], [1.0, 1.0]])
    total, count, left_out = cosine_drift_sums(clean, clean.clone(), torch.tensor([1, 1, 1, 0]).bool()).tolist()
    assert (total, count, left_out) == (0, 1, 1)
    close = clean[:1] + torch.tensor([[0.0, 1e-6]])
    assert float(cosine_drift_sums(clean[:1], close, torch.ones(1).bool())[0]) == pytest.approx(5e-13, rel=1e-3)
