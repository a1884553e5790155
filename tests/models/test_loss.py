from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy

from lightning_interp.models import TokenLoss


def test_uneven_shares_merge_to_the_mean_over_tokens() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(20, 5, 7, generator=generator)
    labels = torch.randint(0, 7, (20, 5), generator=generator)
    labels[::3, 2:] = -100
    first, second = TokenLoss(), TokenLoss()
    first.update(logits[:3], labels[:3])
    second.update(logits[3:], labels[3:])
    first.merge_state(second)
    assert torch.allclose(first.compute(), cross_entropy(logits.flatten(0, 1), labels.flatten()))


def test_a_loss_that_is_not_a_number_stays_one() -> None:
    metric = TokenLoss()
    metric.update(torch.full((1, 2, 3), torch.nan), torch.tensor([[1, 2]]))
    assert metric.compute().isnan()


def test_shapes() -> None:
    with pytest.raises(ValueError, match=r"they are \(2, 3, 4\) and \(2, 4\)"):
        TokenLoss().update(torch.zeros(2, 3, 4), torch.zeros(2, 4, dtype=torch.long))
