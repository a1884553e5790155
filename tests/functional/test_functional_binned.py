"""The binned estimator against exact arithmetic."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference import entropy as plain

from lightning_interp.functional import bin_indices, binned_entropy

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


@given(
    rows=st.integers(1, 60),
    dim=st.sampled_from([1, 2, 3, 9, 33, 130]),
    bins=st.integers(2, 40),
    dtype=st.sampled_from(DTYPES),
    correction=st.sampled_from([None, "miller_madow"]),
    normalize=st.booleans(),
    seed=st.integers(0, 10**6),
)
def test_equals_the_reference(rows, dim, bins, dtype, correction, normalize, seed):
    z = torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed)).to(dtype)
    found = binned_entropy(z, bins, correction=correction, normalize=normalize)
    expected = plain.binned_entropy(z.double().numpy(), bins, correction=correction, normalize=normalize)
    assert found.item() == pytest.approx(expected, abs=1e-6)
    assert found.ndim == 0
    assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


@given(seed=st.integers(0, 10**6), scalar=st.booleans(), bins=st.integers(2, 256))
def test_given_bounds_take_outer_values_into_the_outer_bins(seed, scalar, bins):
    rng = np.random.default_rng(seed)
    z = rng.standard_normal((60, 5))
    low, high = (-0.7, 0.9) if scalar else (rng.uniform(-1, 0, 5), rng.uniform(0, 1, 5))
    found = binned_entropy(
        torch.from_numpy(z), bins, bounds=(low, high) if scalar else tuple(map(torch.from_numpy, (low, high)))
    )
    bounds = (np.broadcast_to(low, 5), np.broadcast_to(high, 5))
    assert found.item() == pytest.approx(plain.binned_entropy(z, bins, bounds), abs=1e-6)


@given(
    values=st.lists(st.integers(-300, 300), min_size=1, max_size=60), bins=st.integers(2, 256), power=st.integers(-8, 8)
)
def test_values_on_an_edge_belong_to_the_bin_that_starts_there(values, bins, power):
    z = torch.tensor(values, dtype=torch.float32)[:, None] * 2.0**power
    found = bin_indices(z, bins, z.amin(0), z.amax(0)).flatten().tolist()
    numbers = z.flatten().tolist()
    assert found == [plain.bin_of(value, min(numbers), max(numbers), bins) for value in numbers]


@pytest.mark.parametrize("bins", [7, 20, 100])
def test_whole_numbers_over_every_width(bins):
    """Multiplied by a reciprocal, 9 of 0 … 12 falls into bin 14 of 20 in place of 15."""
    for width in range(1, 150):
        z = torch.arange(width + 1.0)[:, None]
        found = bin_indices(z, bins, z.amin(0), z.amax(0)).flatten().tolist()
        assert found == [min(value * bins // width, bins - 1) for value in range(width + 1)], width


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_bin_is_used_and_the_maximum_is_in_the_last(dtype):
    z = torch.arange(256).to(dtype)[:, None]
    indices = bin_indices(z, 256, z.amin(0), z.amax(0))
    assert indices.dtype == torch.uint8
    assert indices.flatten().tolist() == [min(255, i * 256 // 255) for i in range(256)]
    assert binned_entropy(z, 2).item() == pytest.approx(1.0)


@pytest.mark.parametrize("rows", [1, 2, 1000])
def test_a_constant_dimension_has_no_entropy(rows):
    assert binned_entropy(torch.full((rows, 3), 0.1)).item() == 0
    half = torch.stack([torch.full((rows,), 7.0), torch.arange(float(rows))], dim=1)
    assert binned_entropy(half).item() == pytest.approx(binned_entropy(half[:, 1:]).item() / 2)
    corrected = binned_entropy(torch.full((rows, 3), 0.1), correction="miller_madow")
    assert corrected.item() == 0


def test_a_dimension_too_narrow_to_divide_still_counts():
    z = torch.tensor([[0.0], [1e-45]])  # the smallest number of float32
    assert binned_entropy(z, 2).item() == pytest.approx(1.0)
    tiny = torch.tensor([[0.0], [1e-310]], dtype=torch.float64)
    assert binned_entropy(tiny, 2).item() == pytest.approx(1.0)


def test_shifting_and_scaling_dimensions_changes_nothing():
    z = torch.randn(300, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    scale = torch.tensor([1e-6, 0.3, 1.0, 7.0, 1e3, 1e6, -2.0], dtype=torch.float64)
    moved = z * scale + torch.linspace(-50, 50, 7, dtype=torch.float64)
    # Turning a dimension round exchanges its bins; only a value on an edge could change, and there is none inside.
    assert binned_entropy(moved).item() == pytest.approx(binned_entropy(z).item(), abs=1e-9)


def test_many_rows_or_dimensions_are_worked_off_in_steps():
    # More entries than one step takes, tall and wide; NumPy's own histogram as reference.
    for rows, dim in ((2_200_000, 2), (30, 150_000)):
        z = torch.rand(rows, dim, generator=torch.Generator().manual_seed(0))
        few = z[:, :: max(1, dim // 50)]
        by_numpy = [np.histogram(column, 20)[0] / rows for column in few.double().numpy().T]
        expected = np.mean([plain.entropy(p) for p in by_numpy]) / math.log(20)
        assert binned_entropy(few).item() == pytest.approx(expected, abs=1e-6)
        if dim > 50:
            parts = [binned_entropy(part).item() * part.shape[1] for part in z.split(5000, dim=1)]
            assert binned_entropy(z).item() == pytest.approx(sum(parts) / dim, abs=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"z": torch.zeros(3)}, r"shape \(3,\)"),
        ({"z": torch.zeros(0, 3)}, r"shape \(0, 3\)"),
        ({"z": torch.zeros(2, 3), "bins": 1}, "got 1"),
        ({"z": torch.zeros(2, 3), "bins": 257}, "got 257"),
        ({"z": torch.zeros(2, 3), "correction": "jackknife"}, "'jackknife'"),
        ({"z": torch.zeros(2, 3), "bounds": (1.0, 0.0)}, "lower ≤ upper"),
        ({"z": torch.zeros(2, 3), "bounds": (0.0, math.nan)}, "lower ≤ upper"),
    ],
)
def test_errors_say_what_was_given(arguments, message):
    with pytest.raises(ValueError, match=message):
        binned_entropy(**arguments)
