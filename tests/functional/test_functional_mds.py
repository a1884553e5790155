"""Maps from distances, which must give the distances back, and maps laid over maps."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial import procrustes as scipy_procrustes

from lightning_interp.functional import classical_mds, cosine_distance, cosine_matrix, procrustes
from lightning_interp.functional.mds import cosine_map, cosine_maps, laid_over

seeds = st.integers(0, 10**6)


def cloud(seed: int, tasks: int, dim: int) -> torch.Tensor:
    return torch.randn(tasks, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def turn(seed: int, dim: int) -> torch.Tensor:
    return torch.linalg.qr(cloud(seed, dim, dim))[0]


def distances(points: torch.Tensor) -> torch.Tensor:
    return torch.linalg.vector_norm(points[:, None] - points, dim=-1)


@given(seed=seeds, tasks=st.integers(4, 9), dim=st.integers(1, 3))
def test_distances_come_back_and_axes_are_principal(seed: int, tasks: int, dim: int) -> None:
    points = cloud(seed, tasks, dim)
    found = classical_mds(distances(points), dims=dim)
    torch.testing.assert_close(distances(found.points), distances(points), atol=1e-6, rtol=0)
    assert float(found.share.sum()) == pytest.approx(1, abs=1e-6)
    singular = np.linalg.svd((points - points.mean(0)).numpy(), compute_uv=False)
    np.testing.assert_allclose(found.share.numpy(), singular**2 / (singular**2).sum(), atol=1e-6)
    assert float(found.points.mean(0).abs().max()) < 1e-9
    largest = found.points.gather(0, found.points.abs().argmax(0)[None])
    assert (largest > 0).all()


@given(seed=seeds, tasks=st.integers(4, 9))
def test_a_map_depends_on_distances_alone(seed: int, tasks: int) -> None:
    points = cloud(seed, tasks, 3) * torch.tensor([3.0, 2.0, 1.0])
    found = classical_mds(distances(points)).points
    moved = classical_mds(distances(points @ turn(seed + 1, 3) + 5)).points
    torch.testing.assert_close(moved, found, atol=1e-6, rtol=0)
    order = torch.randperm(tasks, generator=torch.Generator().manual_seed(seed))
    other = classical_mds(distances(points)[order][:, order]).points
    torch.testing.assert_close(other, found[order], atol=1e-6, rtol=0)
    bigger = classical_mds(2 * distances(points)).points
    torch.testing.assert_close(bigger, 2 * found, atol=1e-6, rtol=0)


def test_equal_coordinates_leave_the_sign_to_the_first() -> None:
    line = torch.tensor([[-1.0], [1.0], [0.0]])
    assert classical_mds(distances(line), dims=1).points[0, 0].item() == pytest.approx(1)


def test_distances_of_no_space_have_empty_axes() -> None:
    # A point a half away from three points that are 2 apart: no two of those could be more than 1 apart.
    impossible = torch.tensor([[0.0, 2, 2, 0.5], [2, 0, 2, 0.5], [2, 2, 0, 0.5], [0.5, 0.5, 0.5, 0]])
    points, share = classical_mds(impossible, dims=3)
    assert share[2].item() == 0
    assert (points[:, 2] == 0).all()
    assert float(share.sum()) < 1
    assert classical_mds(torch.zeros(3, 3)).share.tolist() == [0.0, 0.0]


def test_cosine_distance_is_that_of_unit_vectors() -> None:
    z = cloud(0, 6, 4)
    unit = z / z.norm(dim=1, keepdim=True)
    torch.testing.assert_close(cosine_distance(cosine_matrix(z)), distances(unit))
    corrected = torch.tensor([[1.0, 1.2], [1.2, math.nan]])
    assert cosine_distance(corrected).tolist() == [[0.0, 0.0], [0.0, 0.0]]
    assert cosine_distance(cosine_matrix(z.float()).float()).diagonal().eq(0).all()
    assert classical_mds(cosine_distance(cosine_matrix(z)), dims=4).share.sum() > 0.9


@given(seed=seeds, tasks=st.integers(3, 8), dim=st.integers(1, 3), size=st.floats(0.1, 9))
def test_a_moved_shape_is_laid_over_itself(seed: int, tasks: int, dim: int, size: float) -> None:
    reference = cloud(seed, tasks, dim)
    moved = reference @ turn(seed + 1, dim) + cloud(seed + 2, 1, dim)
    aligned, residual = procrustes(moved, reference)
    torch.testing.assert_close(aligned, reference)
    assert residual == pytest.approx(0, abs=1e-12)
    aligned, residual = procrustes(size * moved, reference, scaling=True)
    torch.testing.assert_close(aligned, reference)
    assert residual == pytest.approx(0, abs=1e-12)
    assert procrustes(size * moved, reference).residual == pytest.approx((size - 1) ** 2, abs=1e-9)


@given(seed=seeds, tasks=st.integers(3, 8), dim=st.integers(1, 3))
def test_residual_is_that_of_scipy_and_the_least(seed: int, tasks: int, dim: int) -> None:
    reference, points = cloud(seed, tasks, dim), cloud(seed + 1, tasks, dim)
    expected = scipy_procrustes(reference.numpy(), points.numpy())[2]
    scaled = procrustes(points, reference, scaling=True)
    assert scaled.residual == pytest.approx(expected, abs=1e-9)
    aligned, residual = procrustes(points, reference)
    assert scaled.residual <= residual + 1e-12
    torch.testing.assert_close(distances(aligned), distances(points))
    spread = float(((reference - reference.mean(0)) ** 2).sum())
    for other in range(5):
        turned = (points - points.mean(0)) @ turn(seed + other, dim) + reference.mean(0)
        assert residual <= float(((turned - reference) ** 2).sum()) / spread + 1e-9


def test_points_that_coincide_are_laid_on_the_mean() -> None:
    aligned, residual = procrustes(torch.ones(3, 2), cloud(0, 3, 2), scaling=True)
    torch.testing.assert_close(aligned, cloud(0, 3, 2).mean(0).expand(3, 2))
    assert residual == pytest.approx(1)


@given(seed=seeds, tasks=st.integers(5, 9), lost=st.integers(0, 2), new=st.integers(0, 2))
def test_a_map_with_other_tasks_too_moves_as_those_do_that_both_have(
    seed: int, tasks: int, lost: int, new: int
) -> None:
    whole = cloud(seed, tasks, 2)
    moved = whole @ turn(seed + 1, 2) + cloud(seed + 2, 1, 2)
    reference, points = whole.clone(), moved.clone()
    points[:lost], reference[tasks - new :] = math.nan, math.nan
    if tasks - lost - new < 3:  # two points have no side
        return
    found = laid_over(points, reference)
    assert found[:lost].isnan().all()
    torch.testing.assert_close(found[lost:], whole[lost:])


def test_a_map_stays_where_there_is_nothing_to_lay_it_over() -> None:
    points, nothing = cloud(0, 4, 2), torch.full((4, 2), math.nan).double()
    for reference in (nothing, torch.ones(4, 2).double(), torch.cat([cloud(1, 1, 2), nothing[1:]])):
        assert torch.equal(laid_over(points, reference), points)
    with pytest.raises(ValueError, match=r"one shape, got \(4, 2\) and \(3, 2\)"):
        laid_over(points, nothing[:3])


def test_maps_of_cosines_over_time_keep_their_side_and_leave_out_what_has_no_place() -> None:
    matrices = [cosine_matrix(cloud(0, 6, 9) + 0.01 * cloud(seed, 6, 9)) for seed in range(1, 5)]
    missing = matrices[2].clone()
    missing[1], missing[:, 1] = math.nan, math.nan
    maps = cosine_maps([*matrices[:2], missing, matrices[3]])
    assert maps[2][1].isnan().all()
    for one, matrix in zip(maps, [*matrices[:2], missing, matrices[3]], strict=True):
        known = one[:, 0].isfinite()
        torch.testing.assert_close(distances(one[known]), distances(cosine_map(matrix)[known]))
    assert float((maps[3] - maps[0]).norm()) < 0.1 * float(maps[0].norm())


GOOD = torch.tensor([[0.0, 1.0], [1.0, 0.0]])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: classical_mds(torch.ones(2, 3)), r"must be square \(tasks, tasks\), got shape \(2, 3\)"),
        (lambda: classical_mds(GOOD, dims=2), "`dims` must lie between 1 and tasks - 1 = 1, got 2"),
        (lambda: classical_mds(GOOD / 0), "`distances` has 4 values of 4 that are not finite"),
        (lambda: classical_mds(-GOOD), "`distances` must be at least 0, got -1.0"),
        (lambda: classical_mds(GOOD + 1), "`distances` must be 0 on the diagonal, got 1.0"),
        (lambda: classical_mds(GOOD.triu()), "must be symmetric, but differs from its transpose by 1.0"),
        (lambda: cosine_distance(torch.ones(3)), r"`cosines` must be square .* got shape \(3,\)"),
        (lambda: procrustes(GOOD, torch.ones(3, 2)), r"one shape \(tasks, dims\), got \(2, 2\) and \(3, 2\)"),
        (lambda: procrustes(GOOD, torch.full((2, 2), 0.1)), "`reference` has all its 2 points in one place"),
        (lambda: procrustes(GOOD, GOOD * math.nan), "`reference` has 4 coordinates of 4 that are not finite"),
    ],
)
def test_bad_input_is_said(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
