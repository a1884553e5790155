"""Silhouette and purity of neighbours, against scikit-learn and brute force."""

from __future__ import annotations

from itertools import permutations
from statistics import fmean

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from reference import separation as reference
from sklearn.metrics import silhouette_score
from sklearn.neighbors import NearestNeighbors

from lightning_interp.functional import (
    euclidean_distances,
    knn_purity,
    knn_purity_chance,
    principal_axes,
    silhouette,
)


def classes(rows: int, number: int, seed: int, apart: float = 1.0, dim: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(number, (rows,), generator=generator)
    labels[:number] = torch.arange(number)
    centres = torch.randn(number, dim, generator=generator)
    return apart * centres[labels] + torch.randn(rows, dim, generator=generator), labels


@given(st.integers(0, 500), st.integers(6, 60), st.integers(2, 5), st.floats(0, 5))
def test_silhouette_is_that_of_scikit_learn(seed: int, rows: int, number: int, apart: float) -> None:
    z, labels = classes(rows, number, seed, apart)
    labels[labels == number - 1] = 0
    labels[0] = 77  # a class of one row
    found = float(silhouette(euclidean_distances(z), labels))
    assert found == pytest.approx(silhouette_score(z.double().numpy(), labels.numpy()), abs=1e-7)


def test_silhouette_of_several_ways_to_deal_labels_out() -> None:
    z, labels = classes(40, 3, 0)
    distances = euclidean_distances(z)
    shuffled = labels[torch.randperm(40, generator=torch.Generator().manual_seed(1))]
    both = silhouette(distances, torch.stack([labels, shuffled]))
    assert both.tolist() == [float(silhouette(distances, labels)), float(silhouette(distances, shuffled))]


def test_copies_of_one_vector_have_a_silhouette_of_zero() -> None:
    distances = euclidean_distances(torch.ones(6, 3))
    assert float(silhouette(distances, torch.tensor([0, 0, 0, 1, 1, 1]))) == 0


def test_more_rows_than_a_block() -> None:
    z, labels = classes(1500, 4, 3)
    distances = euclidean_distances(z)
    assert float(silhouette(distances, labels)) == pytest.approx(silhouette_score(z.numpy(), labels.numpy()), abs=1e-6)
    neighbours = NearestNeighbors(n_neighbors=11).fit(z.double().numpy()).kneighbors(return_distance=False)[:, :10]
    expected = np.mean(labels.numpy()[neighbours] == labels.numpy()[:, None])
    assert float(knn_purity(distances, labels, 10)) == pytest.approx(expected, abs=1e-9)


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 1)), min_size=3, max_size=7), st.data())
def test_purity_is_that_of_brute_force_with_ties(rows: list[tuple[int, int]], data: st.DataObject) -> None:
    k = data.draw(st.integers(1, len(rows) - 1))
    labels = data.draw(st.lists(st.integers(0, 2), min_size=len(rows), max_size=len(rows)))
    z = np.array(rows, dtype=np.float64)
    found = float(knn_purity(euclidean_distances(torch.from_numpy(z)), torch.tensor(labels), k))
    assert found == pytest.approx(reference.knn_purity(z, labels, k), abs=1e-9)


def test_rounding_decides_no_neighbour() -> None:
    # Ten copies of each of two vectors, which differ by rounding only: purity is that of labels within the copies.
    z = torch.tensor([[1.0, 2.0, 3.0], [-1.0, 0.5, 1.0]]).repeat_interleave(10, 0)
    labels = torch.arange(20) % 2
    exact = float(knn_purity(euclidean_distances(z), labels, 3))
    assert exact == pytest.approx(4 / 9)
    for seed in range(5):
        noise = 1e-7 * torch.randn(20, 3, generator=torch.Generator().manual_seed(seed))
        assert float(knn_purity(euclidean_distances(z + noise), labels, 3)) == pytest.approx(exact, abs=1e-9)


def test_chance_is_the_mean_over_all_ways_to_deal_labels_out() -> None:
    z, _ = classes(5, 2, 4)
    labels = torch.tensor([0, 0, 0, 1, 2])
    distances = euclidean_distances(z)
    for k in (1, 3):
        every = [float(knn_purity(distances, labels[list(order)], k)) for order in permutations(range(5))]
        assert fmean(every) == pytest.approx(float(knn_purity_chance(labels)))


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 1), st.integers(0, 3)), min_size=4, max_size=7), st.data())
def test_rows_of_the_own_unit_are_no_neighbours(rows: list[tuple[int, int, int]], data: st.DataObject) -> None:
    units = [row[2] for row in rows]
    most = len(rows) - max(units.count(unit) for unit in units)
    assume(most > 0)
    k = data.draw(st.integers(1, most))
    labels = data.draw(st.lists(st.integers(0, 2), min_size=len(rows), max_size=len(rows)))
    z = np.array([row[:2] for row in rows], dtype=np.float64)
    distances = euclidean_distances(torch.from_numpy(z))
    found = float(knn_purity(distances, torch.tensor(labels), k, torch.tensor(units)))
    assert found == pytest.approx(reference.knn_purity(z, labels, k, units), abs=1e-9)


def test_chance_over_units_is_the_mean_over_all_ways_to_deal_their_labels_out() -> None:
    z, _ = classes(9, 2, 4)
    units = torch.tensor([4, 4, 4, 7, 0, 0, 2, 9, 9])
    distances = euclidean_distances(z)
    of_unit = dict(zip([4, 7, 0, 2, 9], [0, 0, 1, 1, 1], strict=True))
    dealt = [dict(zip(of_unit, order, strict=True)) for order in permutations(of_unit.values())]
    ways = torch.tensor([[one[unit] for unit in units.tolist()] for one in dealt])
    for k in (1, 4, 6):
        every = knn_purity(distances, ways, k, units)
        assert float(every.mean()) == pytest.approx(float(knn_purity_chance(ways[0], units)))
        assert float(every[3]) == pytest.approx(float(knn_purity(distances, ways[3], k, units)))
    assert float(knn_purity_chance(ways[0], units)) == pytest.approx((2 * 1 + 3 * 2) / (5 * 4))


def test_units_that_do_not_fit_are_refused() -> None:
    distances = euclidean_distances(torch.randn(6, 2))
    labels = torch.tensor([0, 0, 0, 1, 1, 1])
    with pytest.raises(ValueError, match=r"`k` must lie between 1 and N - 4 = 2, the rows outside the largest unit"):
        knn_purity(distances, labels, 3, torch.tensor([0, 0, 0, 0, 1, 2]))
    with pytest.raises(ValueError, match=r"`units` must be integers, one for each of 6 rows, got torch.int64 \(5,\)"):
        knn_purity(distances, labels, 3, torch.arange(5))
    with pytest.raises(ValueError, match="2 or more of one class each, got 2 with 3 classes"):
        knn_purity_chance(labels, torch.tensor([0, 0, 1, 1, 1, 1]))


def test_classes_far_apart_are_pure() -> None:
    z, labels = classes(200, 4, 0, apart=100)
    distances = euclidean_distances(z)
    assert float(knn_purity(distances, labels, 10)) == 1
    assert float(silhouette(distances, labels)) > 0.9
    shuffled = labels[torch.randperm(200, generator=torch.Generator().manual_seed(0))]
    assert abs(float(knn_purity(distances, shuffled, 10)) - float(knn_purity_chance(labels))) < 0.05


@given(st.integers(0, 300))
def test_the_order_of_rows_means_nothing(seed: int) -> None:
    z, labels = classes(30, 3, seed)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(seed))
    one, other = euclidean_distances(z), euclidean_distances(z[order])
    assert float(silhouette(one, labels)) == pytest.approx(float(silhouette(other, labels[order])), abs=1e-9)
    assert float(knn_purity(one, labels, 4)) == pytest.approx(float(knn_purity(other, labels[order], 4)), abs=1e-9)


def test_bad_input_is_refused() -> None:
    distances = euclidean_distances(torch.randn(6, 2))
    with pytest.raises(ValueError, match="2 to 5 classes for 6 rows, got 1"):
        silhouette(distances, torch.zeros(6, dtype=torch.long))
    with pytest.raises(ValueError, match="2 to 5 classes for 6 rows, got 6"):
        silhouette(distances, torch.arange(6))
    with pytest.raises(ValueError, match="`k` must lie between 1 and N - 1 = 5, got 6"):
        knn_purity(distances, torch.zeros(6, dtype=torch.long), 6)
    with pytest.raises(ValueError, match="must be square"):
        silhouette(distances[:3], torch.zeros(3, dtype=torch.long))
    with pytest.raises(ValueError, match="one for each of 6 rows"):
        silhouette(distances, torch.zeros(5, dtype=torch.long))
    with pytest.raises(ValueError, match="not finite"):
        knn_purity(distances.fill_diagonal_(torch.nan), torch.zeros(6, dtype=torch.long), 2)


@pytest.mark.parametrize(("rows", "dim"), [(40, 6), (6, 40)])
def test_principal_axes_are_those_of_the_singular_vectors(rows: int, dim: int) -> None:
    z = torch.randn(rows, dim, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 5
    mean, axes = principal_axes(z, 3)
    expected = torch.linalg.svd(z - z.mean(0))[2][:3].T
    torch.testing.assert_close(mean, z.mean(0))
    torch.testing.assert_close((axes * expected).sum(0).abs(), torch.ones(3, dtype=torch.float64))
    torch.testing.assert_close(axes.T @ axes, torch.eye(3, dtype=torch.float64))


def test_axes_that_there_are_not_are_zero() -> None:
    assert principal_axes(torch.tensor([[1.0], [3.0]]))[1].tolist() == [[1.0, 0.0]]
    assert principal_axes(torch.ones(5, 3))[1].tolist() == [[0.0, 0.0]] * 3
