"""The geometry of a stream against a singular value decomposition of all of it."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference import spectral as plain
from reference.entropy import Array
from reference.readings import Reading, assert_values, random_reading, random_split

from lightning_interp.metrics import SpectralGeometry


def of_cloud(rows: Array, center: bool | None) -> dict[str, float]:
    """As published where ``center`` is None: RankMe and matrix entropy of the rows, the others of their covariance."""
    either = {one: plain.of_spectrum(plain.spectrum(rows, one), *rows.shape, one) for one in (True, False)}
    if center is not None:
        return either[center]
    return either[True] | {key: either[False][key] for key in ("rankme", "matrix_entropy")}


def expected_geometry(reading: Reading, center: bool | None = None) -> dict[str, float]:
    rows = reading.rows()
    return of_cloud(rows, center) | {
        "anisotropy": plain.anisotropy(rows),
        "curvature": plain.curvature(reading.z.double().numpy(), reading.mask.numpy()),
        "rows": float(len(rows)),
        "nonfinite": 0.0,
    }


def scaled(expected: dict[str, float]) -> dict[str, float]:
    """Ranks count directions, up to D of them: compare them as shares."""
    return {
        key: value / 130 if key in ("rankme", "effective_rank", "participation_ratio") else value
        for key, value in expected.items()
    }


@pytest.mark.parametrize("center", [None, True, False])
@given(
    seed=st.integers(0, 10**6),
    dim=st.sampled_from([1, 2, 3, 10, 33, 130]),
    length=st.integers(1, 6),
    split=st.integers(0, 1000),
    dtype=st.sampled_from([torch.float64, torch.float32, torch.bfloat16, torch.float16]),
    offset=st.sampled_from([0.0, 2.0]),
)
def test_equals_the_reference(center, seed, dim, length, split, dtype, offset):
    sequences = (3 * dim + 12) // length + 2
    reading = random_reading(seed, sequences, length, dim, padding=False, holes=True)
    reading.z = (reading.z * torch.logspace(0, -1, dim) + offset).to(dtype)
    metric = reading.feed(SpectralGeometry(center=center), random_split(split, sequences, 4))
    found = {key: float(value) for key, value in metric.compute().items()}
    assert set(found) == set(metric.measures)
    assert_values(scaled(found), scaled(expected_geometry(reading, center)), 2e-6 if dim > 100 else 1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_mean_far_from_zero_costs_no_digits(dtype):
    reading = random_reading(0, sequences=100, length=5, dim=12)
    reading.z = (reading.z + 300.0).to(dtype)
    found = reading.feed(SpectralGeometry(), [list(range(k, k + 10)) for k in range(0, 100, 10)]).compute()
    expected = expected_geometry(reading)
    # Angles are those of float32 steps between numbers near 300, a step of which is 3e-5.
    assert_values(scaled({k: float(v) for k, v in found.items()}), scaled(expected), 2e-6)


@pytest.mark.xfail(strict=True, reason="eigenvalues below 1.2e-7 of the largest count as zero, also in float64")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_dimension_of_massive_activations_does_not_hide_the_others(dtype):
    """Language models have dimensions some thousand times as large as the rest."""
    z = torch.randn(2000, 64, generator=torch.Generator().manual_seed(0), dtype=dtype)
    z[:, 0] *= 4000
    metric = SpectralGeometry()
    for part in z.split(200):
        metric.update(part)
    assert_values(metric.compute(), of_cloud(z.double().numpy(), None), 1e-4)


def test_rankme_is_of_the_vectors_themselves() -> None:
    """Garrido et al. 2023 take no mean out; under a common mean theirs is about half of the covariance's."""
    z = torch.randn(500, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 3
    singular = torch.linalg.svdvals(z)
    share = singular / singular.sum()
    published = float((-(share * share.log()).sum()).exp())
    found = {}
    for center in (None, True, False):
        metric = SpectralGeometry(center=center)
        metric.update(z)
        found[center] = metric.compute()
    assert float(found[None]["rankme"]) == pytest.approx(published, abs=1e-6) == float(found[False]["rankme"])
    assert float(found[True]["rankme"]) > 1.7 * published
    for key in ("effective_rank", "participation_ratio", "alpha"):
        assert found[None][key].equal(found[True][key])


@pytest.mark.parametrize("scale", [1e-38, 1e-25, 1e-12, 1e12, 1e18])
@pytest.mark.parametrize("batch", [7, 100])
def test_vectors_of_any_size_have_the_same_shape(scale: float, batch: int) -> None:
    # In float32 the squares of such rows, or the sums of these over rows, overflow or vanish.
    z = torch.randn(100, 6, 48, generator=torch.Generator().manual_seed(0)) + 0.5
    usual, metric = SpectralGeometry(), SpectralGeometry()
    usual.update(z)
    for part in (z * scale).split(batch):
        metric.update(part)
    assert_values(metric.compute(), {key: float(value) for key, value in usual.compute().items()}, 1e-5)


def test_a_power_of_two_changes_no_digit() -> None:
    z = torch.randn(50, 3, 20, generator=torch.Generator().manual_seed(0)) + 0.5
    usual, large = SpectralGeometry(), SpectralGeometry()
    usual.update(z)
    large.update(z * 2.0**50)
    found, expected = large.compute(), usual.compute()
    assert all(found[key].equal(expected[key]) for key in ("rankme", "effective_rank", "anisotropy", "curvature"))


def test_matrix_entropy_of_fewer_rows_than_dimensions():
    reading = random_reading(1, sequences=4, length=5, dim=40, padding=False)
    found = reading.feed(SpectralGeometry()).compute()
    assert found["matrix_entropy"].item() == pytest.approx(expected_geometry(reading)["matrix_entropy"], abs=1e-6)


def test_anisotropy_of_zero_vectors_is_that_of_the_others():
    z = torch.randn(30, 5, generator=torch.Generator().manual_seed(0))
    metric, clean = SpectralGeometry(), SpectralGeometry()
    metric.update(torch.cat([z, torch.zeros(10, 5)]))
    clean.update(z)
    assert metric.compute()["anisotropy"].item() == pytest.approx(clean.compute()["anisotropy"].item(), abs=1e-6)


def test_rows_without_sequences_have_no_curvature():
    metric = SpectralGeometry()
    metric.update(torch.randn(50, 4, generator=torch.Generator().manual_seed(0)))
    values = metric.compute()
    assert math.isnan(values["curvature"])
    assert math.isfinite(values["rankme"])


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_few_rows(rows):
    reading = random_reading(2, sequences=rows, length=1, dim=6, padding=False)
    found = {key: float(value) for key, value in reading.feed(SpectralGeometry()).compute().items()}
    if rows == 1:
        assert found.pop("rankme") == pytest.approx(1)  # one vector is one direction
        assert all(math.isnan(value) for key, value in found.items() if key not in ("rows", "nonfinite"))
        return
    assert_values(found, expected_geometry(reading))


def test_equal_vectors_have_a_direction_and_no_spread():
    metric = SpectralGeometry()
    metric.update(torch.full((20, 3), 0.1))
    values = metric.compute()
    assert values["anisotropy"].item() == pytest.approx(1, abs=1e-6)
    assert values["rankme"].item() == pytest.approx(1)
    assert values["matrix_entropy"].item() == pytest.approx(0, abs=1e-6)
    # A point is the least that there can be; where a spectrum falls off is then no question.
    for key in ("effective_rank", "participation_ratio"):
        assert values[key] == 1, key
    for key in ("alpha", "alpha_r2"):
        assert math.isnan(values[key]), key


def test_memory_does_not_grow_with_rows():
    metric = SpectralGeometry()
    sizes = set()
    for _ in range(5):
        metric.update(torch.randn(100, 7))
        sizes.add(
            sum(
                getattr(metric, state).numel()
                for state in ("count", "mean", "scatter", "unit_total", "angle", "angles")
            )
        )
    assert sizes == {7 * 7 + 2 * 7 + 3}


@pytest.mark.parametrize("value", [1e-3, 0.1, 7.3, 12345.678])
def test_a_constant_cloud_has_no_spread(value: float) -> None:
    metric = SpectralGeometry(center=True)
    for rows in (3, 700, 2001):
        metric.update(torch.full((rows, 8), value) * torch.linspace(0.1, 1, 8))
    found = metric.compute()
    assert [float(found[key]) for key in ("rankme", "participation_ratio", "matrix_entropy")] == [1, 1, 0]
    assert float(found["anisotropy"]) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("length", [1, 2, 7])
def test_above_so_many_dimensions_rows_are_thinned_by_place(length: int) -> None:
    reading = random_reading(3, sequences=40, length=length, dim=12)
    metric = SpectralGeometry(thin_above=5)
    for start in range(0, 40, 8):
        part = slice(start, start + 8)
        metric.update(reading.z[part], mask=reading.mask[part], positions=torch.arange(start, start + 8))
    # One position in three, which one depending on the sample.
    place = torch.arange(length)[None] % 3 == torch.arange(40)[:, None] % 3
    alone = SpectralGeometry(thin_above=None)
    alone.update(reading.z, mask=reading.mask & place)
    everything = SpectralGeometry(thin_above=None)
    everything.update(reading.z, mask=reading.mask)
    found, expected = metric.compute(), {**alone.compute(), "curvature": everything.compute()["curvature"]}
    assert_values(found, {key: float(value) for key, value in expected.items()})


def test_thinning_is_checked() -> None:
    with pytest.raises(ValueError, match="`thin_above` must be at least 1, or None for no thinning, got 0"):
        SpectralGeometry(thin_above=0)
