"""Every value of the structure metrics against loops over rows, labels and dimensions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference.readings import (
    WORDS,
    Reading,
    assert_values,
    binned_rows,
    expected_values,
    random_reading,
    random_split,
    soft_rows,
)

from lightning_interp.functional import reference_points, vmf_temperature
from lightning_interp.metrics import BinnedStructure, SoftStructure

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
LABELS = (*WORDS, "tag", "language", "marks")

readings = st.builds(
    random_reading,
    seed=st.integers(0, 10**6),
    sequences=st.integers(1, 14),
    length=st.integers(1, 7),
    dim=st.sampled_from([2, 3, 8, 63, 64, 130]),
    vocabulary=st.integers(1, 5),
    dtype=st.sampled_from(DTYPES),
    effect=st.sampled_from([0.0, 1.0]),
    padding=st.booleans(),
    holes=st.booleans(),
)


def check(metric: Any, reading: Reading, split: list[list[int]], codes: Any, **options: Any) -> None:
    values = reading.feed(metric, split).compute()
    expected = expected_values(reading, LABELS, codes, **options)
    assert_values(values, expected)
    assert set(values) == set(expected)
    assert set(values) == set(metric.measures)
    assert all(value.ndim == 0 and value.device.type == "cpu" for value in values.values())


@pytest.mark.parametrize("average", ["frequency", "plain"])
@pytest.mark.parametrize("center", [False, True], ids=["", "centred"])
@given(
    reading=readings,
    split=st.integers(0, 100),
    min_count=st.integers(1, 6),
    points=st.integers(2, 20),
    temperature=st.sampled_from([None, 0.3]),
    parents=st.sampled_from([None, {"marks": "tag"}]),
    seed=st.integers(0, 3),
)
def test_soft(average, center, reading, split, min_count, points, temperature, parents, seed):
    if not reading.mask.any():
        return
    dim = reading.z.shape[2]
    used = vmf_temperature(dim, points) if temperature is None else temperature
    codes = soft_rows(reading, reference_points(points, dim, seed), used, center)
    options = {"parents": parents, "min_count": min_count, "average": average}
    metric = SoftStructure(
        LABELS, num_points=points, temperature=temperature, center=center, shuffles=0, seed=seed, **options
    )
    check(metric, reading, random_split(split, len(reading.words), 4), codes, **options)


@given(reading=readings, min_count=st.integers(1, 6))
def test_soft_floor_corrected(reading, min_count):
    if not reading.mask.any():
        return
    codes = soft_rows(reading, reference_points(12, reading.z.shape[2]), 0.1)
    metric = SoftStructure(
        LABELS, num_points=12, temperature=0.1, floor_corrected=True, shuffles=0, min_count=min_count
    )
    check(metric, reading, [list(range(len(reading.words)))], codes, floor_corrected=True, min_count=min_count)


@pytest.mark.parametrize("average", ["frequency", "plain"])
@pytest.mark.parametrize("correction", [None, "miller_madow"])
@given(
    reading=readings,
    split=st.integers(0, 100),
    min_count=st.integers(1, 6),
    bins=st.integers(2, 25),
    bounds=st.sampled_from([None, (-0.75, 1.125)]),
)
def test_binned(average, correction, reading, split, min_count, bins, bounds):
    if not reading.mask.any():
        return
    reading.z = reading.z[..., :9]
    options = {"average": average, "correction": correction, "min_count": min_count}
    metric = BinnedStructure(LABELS, bins=bins, bounds=bounds, shuffles=0, **options)
    codes = binned_rows(reading, bins, bounds)
    check(metric, reading, random_split(split, len(reading.words), 4), codes, prefix="binned_", **options)


@given(
    reading=readings,
    min_count=st.integers(1, 6),
    plane=st.sampled_from([("token", "next_token"), ("flat_bigram", "next_token"), ("tag", "language")]),
)
def test_information_plane(reading, min_count, plane):
    if not reading.mask.any():
        return
    reading.z = reading.z[..., :4]
    options = {"information_plane": plane, "min_count": min_count}
    codes = soft_rows(reading, reference_points(15, reading.z.shape[2]), vmf_temperature(reading.z.shape[2], 15))
    expected = expected_values(reading, (), codes, **options)
    if not expected["complexity"] > 1e-3:
        del expected["optimality"]  # a ratio of what is zero but for rounding means nothing
    found = reading.feed(SoftStructure(num_points=15, shuffles=0, **options)).compute()
    assert_values(found, expected)


def test_rows_without_sequences():
    """(N, D) with labels (N,): every row is its own sequence."""
    generator = torch.Generator().manual_seed(0)
    z, labels = torch.randn(90, 5, generator=generator), torch.randint(-1, 4, (90,), generator=generator)
    reading = Reading([[0]] * 90, z[:, None], {"word": labels})
    codes = soft_rows(reading, reference_points(100, 5), vmf_temperature(5, 100))
    metric = SoftStructure(["word"], shuffles=0)
    for part in (slice(0, 40), slice(40, 90)):
        metric.update(z[part], labels=labels[part])
    assert_values(metric.compute(), expected_values(reading, ["word"], codes, min_count=5))
    masked = SoftStructure(["word"], shuffles=0)
    masked.update(torch.cat([z, z * 7]), mask=torch.arange(180) < 90, labels=torch.cat([labels, labels + 9]))
    assert_values(masked.compute(), expected_values(reading, ["word"], codes, min_count=5))


def test_regularity_as_a_share_of_information():
    reading = random_reading(3, effect=1.0)
    codes = soft_rows(reading, reference_points(100, 4), vmf_temperature(4, 100))
    expected = expected_values(reading, ["token", "bigram"], codes, min_count=5)
    found = reading.feed(SoftStructure(["token", "bigram"], shuffles=0, regularity_unit="information")).compute()
    for name in ("token", "bigram"):
        share = expected[f"regularity/{name}"] / expected[f"information/{name}"]
        assert found[f"regularity/{name}"].item() == pytest.approx(share, abs=1e-6)
        assert found[f"variation/{name}"].item() == pytest.approx(expected[f"variation/{name}"], abs=1e-6)


def test_many_rows_keep_six_digits():
    """Sums over labels in float32 are off by 1e-5 at 20,000 rows and by 1e-3 at a million."""
    generator = torch.Generator().manual_seed(0)
    z, labels = torch.randn(60_000, 64, generator=generator), torch.randint(0, 3, (60_000,), generator=generator)
    points, temperature = reference_points(100, 64).double(), vmf_temperature(64, 100)
    cosine = torch.nn.functional.normalize(z.double(), dim=1) @ points.T
    assignment = torch.softmax(cosine / temperature, dim=1)

    def entropy(rows: torch.Tensor) -> float:
        p = rows.mean(0)
        return float(-(p * p.log()).sum() / torch.tensor(100.0, dtype=torch.float64).log())

    metric = SoftStructure(["word"], shuffles=0)
    for part in torch.arange(60_000).split(7000):
        metric.update(z[part], labels=labels[part], positions=part)
    values = metric.compute()
    variation = sum(entropy(assignment[labels == k]) * float((labels == k).double().mean()) for k in range(3))
    assert values["information"].item() == pytest.approx(entropy(assignment), abs=1e-6)
    assert values["variation/word"].item() == pytest.approx(variation, abs=1e-6)
    assert values["regularity/word"].item() == pytest.approx(entropy(assignment) - variation, abs=1e-6)


@pytest.mark.parametrize("metric", [SoftStructure, BinnedStructure])
def test_bf16_keeps_its_mass(metric):
    """20,000 equal rows in bf16: `soft-entropy` stops counting after some hundreds."""
    generator = torch.Generator().manual_seed(1)
    few = torch.randn(7, 32, generator=generator).to(torch.bfloat16)
    names = torch.arange(7)
    once, often = metric(["word"], min_count=1, shuffles=0), metric(["word"], min_count=1, shuffles=0)
    once.update(few, labels=names)
    for _ in range(20):
        often.update(few.repeat(1000, 1), labels=names.repeat(1000))
    expected = {key: float(value) for key, value in once.compute().items() if key not in ("rows", "correction")}
    assert_values(often.compute(), expected)
