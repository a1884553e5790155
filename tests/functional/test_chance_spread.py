"""The spread of value − chance from a few draws of labels that carry nothing."""

from __future__ import annotations

import math

import pytest
import torch

from lightning_interp.functional._chance import chance_spread


@pytest.mark.parametrize("shuffles", [2, 3, 5, 12])
def test_it_is_that_of_the_difference_on_average(shuffles: int) -> None:
    draws = torch.randn(20_000, shuffles + 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    above = draws[:, 0] - draws[:, 1:].mean(1)
    said = torch.stack([chance_spread(levels) for levels in draws[:, 1:]])
    assert float(above.std() / said.mean()) == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize("shuffles", [1, 2, 3, 12])
def test_where_the_level_is_known_its_error_is_none(shuffles: int) -> None:
    draws = torch.randn(20_000, shuffles, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 5
    said = torch.stack([chance_spread(levels, torch.tensor(5.0)) for levels in draws])
    assert float(said.mean()) == pytest.approx(1.0, abs=0.02)


def test_too_few_draws_say_nothing() -> None:
    assert math.isnan(chance_spread(torch.ones(1)))
    assert math.isnan(chance_spread(torch.ones(0), torch.tensor(0.0)))
