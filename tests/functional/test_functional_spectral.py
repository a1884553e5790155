"""Measures of a spectrum against an explicit singular value decomposition."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from reference import spectral as plain

from lightning_interp.functional import anisotropy, covariance_from_sums, curvature_sums, spectral_measures


def cloud(seed: int, rows: int, dim: int, decay: float, offset: float = 0.0) -> torch.Tensor:
    z = torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    turn = torch.linalg.qr(torch.randn(dim, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))[0]
    return z * torch.arange(1, dim + 1, dtype=torch.float64) ** -decay @ turn + offset


def assert_spectral(found, expected: dict[str, float], tolerance: float = 1e-6) -> None:
    for name, value in found._asdict().items():
        assert value.item() == pytest.approx(expected[name], abs=tolerance, rel=tolerance, nan_ok=True), name


@given(
    seed=st.integers(0, 10**6),
    dim=st.integers(1, 130),
    more=st.integers(2, 100),
    decay=st.sampled_from([0.0, 0.5, 1.0]),
    offset=st.sampled_from([0.0, 3.0]),
)
def test_equal_the_reference(seed, dim, more, decay, offset):
    z = cloud(seed, dim + more, dim, decay, offset)
    covariance = covariance_from_sums(z.T @ z, z.sum(0), len(z))
    np.testing.assert_allclose(covariance.numpy(), np.cov(z.numpy().T, bias=True).reshape(dim, dim), atol=1e-9)
    spectrum = plain.spectrum(z.numpy())
    assume(spectrum[-1] > 1e-6 * spectrum[0])  # smaller eigenvalues may count as zero
    found = spectral_measures(covariance, len(z), centred=True)
    assert_spectral(found, plain.of_spectrum(spectrum, len(z), dim, center=True))
    scaled = spectral_measures(covariance * 1e6, len(z), centred=True)
    assert_spectral(scaled, {name: value.item() for name, value in found._asdict().items()})


@given(seed=st.integers(0, 10**6), rows=st.integers(3, 20), dim=st.integers(21, 60))
def test_fewer_rows_than_dimensions(seed, rows, dim):
    z = cloud(seed, rows, dim, 0.3)
    expected = plain.of_spectrum(plain.spectrum(z.numpy(), center=False), rows, dim)
    assert_spectral(spectral_measures(z.T @ z / rows, rows), expected)


def test_equal_directions_score_their_number():
    for dim in (1, 2, 5, 64):
        found = spectral_measures(torch.eye(dim) * 3, 1000)
        assert found.rankme.item() == pytest.approx(dim)
        assert found.effective_rank.item() == pytest.approx(dim)
        assert found.participation_ratio.item() == pytest.approx(dim)
        if dim > 1:
            assert found.matrix_entropy.item() == pytest.approx(1)
        if dim >= 40:
            assert found.alpha.item() == pytest.approx(0, abs=1e-9)
            assert found.alpha_r2.item() == pytest.approx(1)


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_a_power_law_is_found(power):
    found = spectral_measures(torch.diag(torch.arange(1.0, 101.0, dtype=torch.float64) ** -power), 1000)
    assert found.alpha.item() == pytest.approx(power, abs=1e-9)
    assert found.alpha_r2.item() == pytest.approx(1, abs=1e-9)


def planted_power_law(rows: int, dim: int, power: float, seed: int = 0) -> float:
    """α of Gaussian rows, the eigenvalues of whose distribution follow a power law."""
    scale = torch.arange(1, dim + 1, dtype=torch.float64) ** (-power / 2)
    z = torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * scale
    z -= z.mean(0)
    return spectral_measures(z.T @ z / rows, rows, centred=True).alpha.item()


@pytest.mark.parametrize("power", [0.7, 1.0, 1.5])
@pytest.mark.parametrize(("rows", "dim"), [(300, 256), (1000, 768), (3000, 768), (10000, 256), (1000, 128), (1000, 64)])
def test_alpha_hardly_moves_with_rows_and_width(rows: int, dim: int, power: float) -> None:
    # Over all eigenvalues, without weights, it is 1.54 instead of 1 for 1,000 rows of 768 dimensions.
    assert planted_power_law(rows, dim, power) == pytest.approx(power, abs=0.1)


def test_alpha_is_that_of_its_authors_code() -> None:
    """Stringer's normal equations, as reptrix 0.1.0 has them."""
    eigenvalues = np.sort(np.random.default_rng(0).gamma(1.0, size=300))[::-1]
    ranks = np.arange(11, 101)
    x = np.stack([-np.log(ranks), np.ones(90)], 1)
    w = (1.0 / ranks)[:, None]
    expected = np.linalg.solve(x.T @ (x * w), (w * x).T @ np.log(eigenvalues[10:100])[:, None])[0, 0]
    found = spectral_measures(torch.diag(torch.from_numpy(eigenvalues.copy())), 1000).alpha.item()
    assert found == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(("dim", "defined"), [(39, False), (40, True)])
def test_alpha_needs_forty_eigenvalues(dim: int, defined: bool) -> None:
    found = spectral_measures(torch.diag(torch.arange(1.0, dim + 1) ** -1.0), 1000)
    assert math.isfinite(found.alpha) is math.isfinite(found.alpha_r2) is defined
    assert math.isfinite(found.rankme)


def test_a_point_is_the_least_there_can_be() -> None:
    found = spectral_measures(torch.zeros(4, 4), 10)
    assert [float(value) for value in found[:4]] == [1, 1, 1, 0]
    assert all(math.isnan(value) for value in found[4:])
    line = torch.outer(torch.arange(4.0), torch.arange(4.0))
    assert [round(float(value), 5) for value in spectral_measures(line, 10)[:4]] == [1, 1, 1, 0]


@pytest.mark.parametrize(("count", "centred"), [(0, False), (0, True), (1, True)])
def test_what_too_few_vectors_cannot_show_is_undefined(count: int, centred: bool) -> None:
    assert all(math.isnan(value) for value in spectral_measures(torch.zeros(4, 4), count, centred))


def test_matrix_entropy_reaches_one_with_as_many_directions_as_there_can_be() -> None:
    z = torch.eye(4, 9, dtype=torch.float64)
    assert spectral_measures(z.T @ z / 4, 4).matrix_entropy.item() == pytest.approx(1)
    centred = z - z.mean(0)
    assert spectral_measures(centred.T @ centred / 4, 4, centred=True).matrix_entropy.item() == pytest.approx(1)


def test_error_names_the_shape():
    with pytest.raises(ValueError, match=r"\(3, 4\)"):
        spectral_measures(torch.zeros(3, 4), 10)


# ---------------------------------------------------------------- anisotropy, curvature


@given(seed=st.integers(0, 10**6), rows=st.integers(2, 25), dim=st.integers(1, 40), offset=st.sampled_from([0.0, 5.0]))
def test_anisotropy_is_the_mean_cosine_of_pairs(seed, rows, dim, offset):
    z = cloud(seed, rows, dim, 0.0, offset)
    total = torch.nn.functional.normalize(z, dim=1).sum(0)
    assert anisotropy(total, rows).item() == pytest.approx(plain.anisotropy(z.numpy()), abs=1e-9)
    assert anisotropy(total.float(), torch.tensor(rows)).item() == pytest.approx(plain.anisotropy(z.numpy()), abs=1e-5)


@pytest.mark.parametrize("count", [0, 1])
def test_anisotropy_needs_two_rows(count):
    total = torch.nn.functional.normalize(torch.ones(7), dim=0) * count
    assert math.isnan(anisotropy(total, count))


@given(
    seed=st.integers(0, 10**6),
    batch=st.integers(0, 4),
    length=st.integers(0, 8),
    dim=st.integers(1, 130),
    dtype=st.sampled_from([torch.float64, torch.float32, torch.bfloat16, torch.float16]),
    stops=st.booleans(),
)
def test_curvature_is_the_sum_of_angles(seed, batch, length, dim, dtype, stops):
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(batch, length, dim, generator=generator, dtype=torch.float64).to(dtype)
    mask = torch.rand(batch, length, generator=generator) > 0.2
    if stops and length > 3:
        z[:, 2] = z[:, 1]  # a step of no length has no direction
    found, number = curvature_sums(z, mask)
    angles = [angle for b in range(batch) for angle in plain.angles(z[b].double().numpy(), mask[b].tolist())]
    assert number.item() == len(angles)
    # In one dimension a step keeps its direction or turns round: the sum grows with the number of angles.
    assert found.item() == pytest.approx(math.fsum(angles), abs=1e-6 * max(1, len(angles)))


@pytest.mark.parametrize("dim", [2, 64])
@pytest.mark.parametrize("angle", [1e-4, 1e-3, 1e-2, math.pi - 1e-3])
def test_small_and_large_angles_keep_their_digits(dim, angle):
    """An arc cosine in float32 reads 1e-4 as 1.9e-5 or 2.9e-4."""
    frame = torch.linalg.qr(torch.randn(dim, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64))[0].T
    turns = torch.arange(20, dtype=torch.float64)[:, None] * angle
    z = (turns.cos() * frame[0] + turns.sin() * frame[1]).cumsum(0)[None].float()
    total, number = curvature_sums(z, torch.ones(1, 20, dtype=torch.bool))
    expected = plain.curvature(z.double().numpy(), np.ones((1, 20), dtype=bool))
    assert (total / number).item() == pytest.approx(expected, abs=1e-6)
    assert expected == pytest.approx(angle, abs=1e-5)


def test_known_curvatures():
    straight = torch.arange(5.0)[None, :, None] * torch.tensor([1.0, 2.0])
    back_and_forth = torch.tensor([0.0, 1.0, 0.0, 1.0])[None, :, None]
    circle = torch.tensor([[[math.cos(k * 0.3), math.sin(k * 0.3)] for k in range(9)]], dtype=torch.float64)
    for path, angle in ((straight, 0.0), (back_and_forth, math.pi), (circle, 0.3)):
        total, number = curvature_sums(path, torch.ones(path.shape[:2], dtype=torch.bool))
        assert number.item() == path.shape[1] - 2
        assert (total / number).item() == pytest.approx(angle, abs=1e-6)
    generator = torch.Generator().manual_seed(0)
    positions = torch.randn(4, 500, 1000, generator=generator)
    total, number = curvature_sums(positions, torch.ones(4, 500, dtype=torch.bool))
    assert (total / number).item() == pytest.approx(2 * math.pi / 3, abs=0.01)
    total, number = curvature_sums(positions.cumsum(1), torch.ones(4, 500, dtype=torch.bool))
    assert (total / number).item() == pytest.approx(math.pi / 2, abs=0.01)


def test_length_of_vectors_does_not_matter_to_angles():
    z = torch.randn(2, 7, 16, generator=torch.Generator().manual_seed(0))
    mask = torch.ones(2, 7, dtype=torch.bool)
    expected = curvature_sums(z, mask)[0].item()
    for scale in (1e-38, 1e-15, 1e-6, 1e15, 1e18):
        assert curvature_sums(z * scale, mask)[0].item() == pytest.approx(expected, abs=1e-4)
