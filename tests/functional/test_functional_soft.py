"""The soft estimator: its temperature, its points, its assignments and its entropy."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference import entropy as plain
from reference.sphere import vmf_divergence, vmf_divergence_by_quadrature
from scipy import stats

from lightning_interp.functional import reference_points, soft_assignment, soft_entropy, vmf_temperature

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


# ---------------------------------------------------------------- temperature


@pytest.mark.parametrize("dim", [2, 3, 4, 5, 7, 16, 64, 128, 512, 1000, 4096, 16_384])
@pytest.mark.parametrize("points", [2, 3, 10, 100, 10_000])
def test_divergence_at_the_temperature_is_log_of_the_points(dim, points):
    temperature = vmf_temperature(dim, points)
    assert vmf_divergence(dim, temperature) == pytest.approx(math.log(points), abs=1e-9)


@given(dim=st.integers(2, 16_384), points=st.integers(2, 10_000))
def test_divergence_at_the_temperature_in_between(dim, points):
    assert vmf_divergence(dim, vmf_temperature(dim, points)) == pytest.approx(math.log(points), abs=1e-8)


@pytest.mark.parametrize(("dim", "points"), [(2, 100), (3, 2), (16, 100), (512, 100), (16_384, 10_000)])
def test_two_references_for_the_divergence_agree(dim, points):
    temperature = vmf_temperature(dim, points)
    assert vmf_divergence_by_quadrature(dim, temperature) == pytest.approx(vmf_divergence(dim, temperature), abs=1e-8)


@pytest.mark.parametrize(
    ("dim", "points", "root", "digits"),
    [
        (2, 100, 0.00023112, 8),
        (4, 100, 0.0201, 4),
        (16, 100, 0.0540, 4),
        (128, 100, 0.02761, 5),
        (512, 100, 0.0143677, 7),
        (16_384, 10_000, 0.00181874, 8),
    ],
)
def test_known_roots(dim, points, root, digits):
    assert round(vmf_temperature(dim, points), digits) == root


def test_leading_order_is_near_in_many_dimensions():
    assert vmf_temperature(4096, 100) == pytest.approx(1 / math.sqrt(2 * 4096 * math.log(100)), rel=0.01)


@pytest.mark.parametrize("dim", [2, 3, 10])
def test_very_many_points_are_no_trouble(dim):
    temperatures = [vmf_temperature(dim, 10**power) for power in range(1, 13)]
    assert all(after < before for before, after in itertools.pairwise(temperatures))
    # On a small cap the sphere is flat: a normal of variance ε in d − 1 dimensions, whose divergence grows by
    # −(d − 1)/2 log ε.
    assert math.log(temperatures[-2] / temperatures[-1]) == pytest.approx(2 * math.log(10) / (dim - 1), rel=0.01)


@pytest.mark.parametrize(
    ("dim", "points", "message"), [(1, 100, "`dim` must be at least 2.* 1"), (4, 1, "`num_points`.* 1")]
)
@pytest.mark.parametrize("function", [vmf_temperature, lambda dim, points: reference_points(points, dim)])
def test_too_few_dimensions_or_points(function, dim, points, message):
    with pytest.raises(ValueError, match=message):
        function(dim, points)


# ---------------------------------------------------------------- points


@pytest.mark.parametrize("dim", [2, 3, 16, 512])
def test_points_are_uniform_on_the_sphere(dim):
    points = reference_points(2000, dim, seed=5)
    assert points.dtype == torch.float32
    torch.testing.assert_close(points.norm(dim=1), torch.ones(2000))
    # The cosine with any fixed direction, scaled to [0, 1], is Beta((d−1)/2, (d−1)/2).
    for axis in (0, dim - 1):
        cosines = points[:, axis].double().numpy()
        assert stats.kstest((cosines + 1) / 2, stats.beta((dim - 1) / 2, (dim - 1) / 2).cdf).pvalue > 1e-3
    mean = points.mean(0).norm().item()
    assert mean < 4 / math.sqrt(2000)


def test_points_depend_on_the_seed_and_on_nothing_else():
    reference_points.cache_clear()
    state = torch.random.get_rng_state()
    first = reference_points(50, 8, seed=1).clone()
    assert torch.equal(torch.random.get_rng_state(), state), "the global random stream was used"
    reference_points.cache_clear()
    torch.manual_seed(123)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        again = reference_points(50, 8, seed=1)
    finally:
        torch.set_default_dtype(before)
    assert torch.equal(first, again)
    assert again.dtype == torch.float32
    assert not torch.equal(first, reference_points(50, 8, seed=2))


def test_points_are_not_the_first_embedding_of_a_model_with_the_same_seed():
    """One generator, one seed: the first 100 words would each be a reference point."""
    for seed in (0, 1, 42):
        torch.manual_seed(seed)
        words = torch.nn.functional.normalize(torch.nn.Embedding(1000, 128).weight.detach(), dim=-1)
        assert (words @ reference_points(100, 128, seed).T).max() < 0.7


def test_points_do_not_depend_on_the_default_device():
    reference_points.cache_clear()
    expected = reference_points(20, 6).clone()
    reference_points.cache_clear()
    with torch.device("meta"):
        found = reference_points(20, 6)
    assert torch.equal(found, expected)


def test_points_drawn_under_inference_mode_serve_a_backward_pass_later():
    reference_points.cache_clear()
    with torch.inference_mode():
        reference_points(20, 6)
    z = torch.randn(10, 6, requires_grad=True)
    soft_entropy(z, reference_points(20, 6)).backward()
    assert z.grad is not None
    assert z.grad.isfinite().all()


# ---------------------------------------------------------------- assignment and entropy


@given(
    rows=st.integers(1, 40),
    dim=st.integers(2, 130),
    points=st.integers(2, 40),
    dtype=st.sampled_from(DTYPES),
    temperature=st.sampled_from([None, 0.02, 1.0]),
    scale=st.sampled_from([1e-3, 1.0, 100.0]),
    seed=st.integers(0, 10**6),
)
def test_equal_the_reference(rows, dim, points, dtype, temperature, scale, seed):
    z = (torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed)) * scale).to(dtype)
    w = reference_points(points, dim, seed=seed % 7)
    used = vmf_temperature(dim, points) if temperature is None else temperature
    values, plain_points = z.double().numpy(), w.double().numpy()
    assignment = soft_assignment(z, w, used)
    assert assignment.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    # A single entry carries the rounding of a float32 cosine over the temperature; their entropy does not.
    np.testing.assert_allclose(
        assignment.double().numpy(), plain.soft_codes(values, plain_points, used)[:, 0], atol=2e-5
    )
    for normalize in (True, False):
        for corrected in (True, False):
            found = soft_entropy(z, w, temperature, normalize=normalize, floor_corrected=corrected)
            expected = plain.soft_entropy(values, plain_points, used, normalize, corrected)
            assert found.item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("dim", [2, 3, 5, 16])
def test_few_dimensions_and_so_a_small_temperature_cost_no_digits(dim):
    z = torch.randn(50, dim, generator=torch.Generator().manual_seed(dim))
    w, temperature = reference_points(100, dim), vmf_temperature(dim, 100)
    expected = plain.soft_codes(z.double().numpy(), w.double().numpy(), temperature)[:, 0]
    np.testing.assert_allclose(soft_assignment(z, w, temperature).numpy(), expected, atol=2e-7)


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_sum_to_one_and_zero_vectors_fall_evenly(dtype):
    z = torch.randn(50, 70, generator=torch.Generator().manual_seed(0)).to(dtype)
    z[7] = 0
    assignment = soft_assignment(z, reference_points(30, 70), vmf_temperature(70, 30))
    torch.testing.assert_close(assignment.sum(1).double(), torch.ones(50, dtype=torch.float64), atol=1e-6, rtol=0)
    torch.testing.assert_close(
        assignment[7].double(), torch.full((30,), 1 / 30, dtype=torch.float64), atol=1e-7, rtol=0
    )


@pytest.mark.parametrize("dim", [2, 3, 8, 64, 512])
@pytest.mark.parametrize("scale", [1e-38, 1e-25, 1e-12, 1e-3, 1e6, 1e12])
def test_length_does_not_matter(dim, scale):
    z = torch.randn(40, dim, generator=torch.Generator().manual_seed(0))
    w = reference_points(25, dim)
    temperature = vmf_temperature(dim, 25)
    # A float32 scale moves the directions by their rounding, which a small temperature magnifies.
    z = z.double() if dim < 4 else z
    torch.testing.assert_close(
        soft_assignment(z * scale, w, temperature), soft_assignment(z, w, temperature), atol=2e-5, rtol=0
    )


@pytest.mark.parametrize("dim", [2, 5, 64, 200])
def test_turning_the_space_and_the_points_together_changes_nothing(dim):
    generator = torch.Generator().manual_seed(dim)
    z = torch.randn(60, dim, generator=generator, dtype=torch.float64)
    turn = torch.linalg.qr(torch.randn(dim, dim, generator=generator, dtype=torch.float64))[0]
    w = reference_points(30, dim).double()
    assert soft_entropy(z @ turn, w @ turn).item() == pytest.approx(soft_entropy(z, w).item(), abs=1e-9)


def test_one_repeated_point_scores_above_zero_but_not_after_the_floor():
    z = torch.randn(1, 128, generator=torch.Generator().manual_seed(0)).repeat(500, 1)
    w = reference_points(100, 128)
    assert soft_entropy(z, w).item() > 0.3
    assert soft_entropy(z, w, floor_corrected=True).item() == pytest.approx(0, abs=1e-6)


def test_an_even_spread_scores_one():
    w = reference_points(40, 256)
    assert soft_entropy(w, w, temperature=1e-3).item() == pytest.approx(1.0, abs=1e-6)
    assert soft_entropy(w, w, temperature=1e-3, normalize=False).item() == pytest.approx(math.log(40), abs=1e-5)


def test_autocast_does_not_reach_the_product():
    z = torch.randn(60, 96, generator=torch.Generator().manual_seed(0))
    w = reference_points(50, 96)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = soft_entropy(z, w)
    assert inside.dtype == torch.float32
    assert inside.item() == soft_entropy(z, w).item()


def test_bf16_keeps_its_mass():
    """`soft-entropy` sums in bf16, where 5,000 × 0.64 ends at 256."""
    z = torch.randn(1, 64, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16).repeat(20_000, 1)
    w = reference_points(100, 64)
    assignment = soft_assignment(z, w, vmf_temperature(64, 100))
    assert assignment.sum(dtype=torch.float64).item() == pytest.approx(20_000, rel=1e-6)
    one = plain.soft_entropy(z[:1].double().numpy(), w.double().numpy(), vmf_temperature(64, 100))
    assert soft_entropy(z, w).item() == pytest.approx(one, abs=1e-6)


def test_gradients_reach_the_representations():
    z = torch.randn(6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    w = reference_points(7, 5).double()
    assert torch.autograd.gradcheck(lambda value: soft_entropy(value, w, 0.3), (z,))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.zeros(3), reference_points(4, 3), 1.0), r"`z` .*\(3,\)"),
        ((torch.zeros(0, 3), reference_points(4, 3), 1.0), r"`z` .*\(0, 3\)"),
        ((torch.zeros(2, 5), reference_points(4, 3), 1.0), r"\(2, 5\) and .* \(4, 3\)"),
        ((torch.zeros(2, 3), reference_points(4, 3), 0.0), "`temperature` must be positive, got 0.0"),
        ((torch.zeros(2, 3), reference_points(4, 3), math.nan), "`temperature` must be positive, got nan"),
    ],
)
def test_errors_say_what_was_given(arguments, message):
    with pytest.raises(ValueError, match=message):
        soft_assignment(*arguments)
    with pytest.raises(ValueError, match=message):
        soft_entropy(*arguments)
