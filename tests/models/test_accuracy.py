from __future__ import annotations

import pytest
import torch

from lightning_interp.models import ExactMatch, TokenAccuracy


def data() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 3, (200, 6), generator=generator)
    predictions = torch.where(torch.rand(200, 6, generator=generator) < 0.9, labels, 7)
    lengths = torch.randint(1, 7, (200, 1), generator=generator)
    return predictions, labels.masked_fill(torch.arange(6) >= lengths, -100)


def test_equal_counting_by_hand() -> None:
    predictions, labels = data()
    exact, right, total = 0, 0, 0
    for row, expected in zip(predictions.tolist(), labels.tolist(), strict=True):
        hits = [a == b for a, b in zip(row, expected, strict=True) if b != -100]
        exact, right, total = exact + all(hits), right + sum(hits), total + len(hits)
    assert float(ExactMatch()(predictions, labels)) == pytest.approx(exact / 200)
    assert float(TokenAccuracy()(predictions, labels)) == pytest.approx(right / total)


@pytest.mark.parametrize("kind", [ExactMatch, TokenAccuracy])
def test_uneven_shares_merge_to_the_whole(kind: type[ExactMatch | TokenAccuracy]) -> None:
    predictions, labels = data()
    whole, first, second = kind(), kind(), kind()
    whole.update(predictions, labels)
    first.update(predictions[:30], labels[:30])
    second.update(predictions[30:90], labels[30:90])
    second.update(predictions[90:], labels[90:])
    first.merge_state(second)
    assert torch.equal(first.compute(), whole.compute())
    assert {state: str(reduction) for state, reduction in whole._reductions.items()}.keys() == {"correct", "total"}


def test_rows_of_padding_are_not_counted() -> None:
    metric = ExactMatch()
    metric.update(torch.tensor([[1, 2], [3, 4]]), torch.tensor([[1, 2], [-100, -100]]))
    assert (int(metric.correct), int(metric.total)) == (1, 1)


def test_ignore_index() -> None:
    metric = TokenAccuracy(ignore_index=0)
    metric.update(torch.tensor([[1, 2, 3]]), torch.tensor([[1, 0, 4]]))
    assert float(metric.compute()) == 0.5


@pytest.mark.parametrize("kind", [ExactMatch, TokenAccuracy])
def test_shapes(kind: type[ExactMatch | TokenAccuracy]) -> None:
    with pytest.raises(ValueError, match=r"must both be \(B, T\); they are \(2, 3\) and \(2, 4\)"):
        kind().update(torch.zeros(2, 3), torch.zeros(2, 4))
