"""Directions: loops, what random ones share with the data, what is refused."""

from __future__ import annotations

import math

import pytest
import torch

from lightning_interp.functional.directions import covariance_directions, mean_direction, projections
from tests.reference import directions as reference


def data(seed: int, number: int = 12, width: int = 5) -> torch.Tensor:
    return torch.randn(number, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 3 + 1


@pytest.mark.parametrize("seed", range(4))
def test_directions_and_projections_are_those_of_loops(seed: int) -> None:
    h, labels = data(seed), torch.arange(12) % 3 == 0
    v = mean_direction(h, labels)
    assert v.tolist() == pytest.approx(reference.difference(h[labels].tolist(), h[~labels].tolist()))
    found = projections(h, torch.stack([v, -v]))
    for row, values in zip(h.tolist(), found.tolist(), strict=True):
        assert values[0] == -values[1] == pytest.approx(reference.projection(row, v.tolist()))


def test_a_projection_knows_no_scale() -> None:
    h, v = data(0), torch.eye(5)[:2]
    assert torch.allclose(projections(h * 100, v), projections(h, v))
    assert projections(torch.eye(5)[:1], v).tolist() == [[pytest.approx(math.sqrt(5)), 0]]
    assert projections(torch.zeros(1, 5), v).tolist() == [[0, 0]]


def test_random_directions_vary_as_data_do_within_groups() -> None:
    scales = torch.tensor([10.0, 3.0, 1.0, 0.0])
    x = torch.randn(400, 4, generator=torch.Generator().manual_seed(0)) * scales
    groups = torch.arange(400) % 2
    x[:, 3] += 1000.0 * groups
    found = covariance_directions(x, groups, 2000, seed=1)
    assert torch.allclose(found.norm(dim=1), torch.ones(2000, dtype=torch.float64))
    drawn = torch.nn.functional.normalize(torch.randn(20_000, 4) * scales, dim=1)
    assert found.square().mean(0).tolist() == pytest.approx(drawn.square().mean(0).tolist(), abs=0.03)
    assert float(found[:, 3].abs().max()) < 1e-6, "what tells groups apart is in none of them"
    assert torch.equal(found[:5], covariance_directions(x, groups, 2000, seed=1)[:5])
    assert not torch.equal(found[:5], covariance_directions(x, groups, 2000, seed=2)[:5])


def test_what_does_not_vary_has_no_direction() -> None:
    assert covariance_directions(torch.ones(4, 2), torch.zeros(4)).isnan().all()
    assert mean_direction(torch.ones(4, 2), torch.arange(4) % 2).isnan().all()


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`directions` must be \(K, 5\), as wide as `h`, got \(1, 4\)"):
        projections(data(0), torch.zeros(1, 4))
    with pytest.raises(ValueError, match=r"`groups` must be one a row of `x`, \(12,\); got shape \(3,\)"):
        covariance_directions(data(0), torch.zeros(3))
    with pytest.raises(ValueError, match="`number` must be at least 1, got 0"):
        covariance_directions(data(0), torch.zeros(12), 0)
