"""Delete-a-group standard errors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from reference.jackknife import standard_error

from lightning_interp.functional import jackknife_se


@pytest.mark.parametrize("groups", [2, 3, 17])
def test_equals_the_literal_formula(groups):
    rng = np.random.default_rng(groups)
    values, group = rng.standard_normal(groups * 4), [i % groups for i in range(groups * 4)]
    for statistic in (lambda rows: float(values[rows].mean()), lambda rows: float(np.log(values[rows].std()))):
        left_out = [statistic([i for i in range(len(values)) if group[i] != g]) for g in range(groups)]
        found = jackknife_se(torch.tensor(left_out, dtype=torch.float64))
        assert found.item() == pytest.approx(standard_error(statistic, group), rel=1e-12)


def test_of_a_mean_is_the_textbook_error():
    values = torch.randn(50, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = jackknife_se((values.sum(0) - values) / 49)
    torch.testing.assert_close(found, values.std(0) / 50**0.5)


def test_needs_two_groups():
    with pytest.raises(ValueError, match="got 1"):
        jackknife_se(torch.zeros(1))
