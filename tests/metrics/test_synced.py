"""A metric of another package over ranks: what its own way gives, and no rank that waits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
import torchmetrics
from torchmetrics import Metric

from lightning_interp.distributed import over_ranks
from lightning_interp.metrics._synced import synced


def product(parts: torch.Tensor) -> torch.Tensor:
    return parts.prod(0)


class Every(Metric):
    """A state of every kind."""

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.zeros(2), dist_reduce_fx="sum")
        self.add_state("mean", torch.zeros(()), dist_reduce_fx="mean")
        self.add_state("highest", torch.full((), -9.0, dtype=torch.float64), dist_reduce_fx="max")
        self.add_state("lowest", torch.full((), 9, dtype=torch.int32), dist_reduce_fx="min")
        self.add_state("apart", torch.zeros(3, dtype=torch.bfloat16), dist_reduce_fx=None)
        self.add_state("own", torch.zeros(2), dist_reduce_fx=product)
        self.add_state("seen", [], dist_reduce_fx="cat")
        self.add_state("rows", [], dist_reduce_fx=None)

    def update(self, values: torch.Tensor) -> None:
        self.total += values[:2]
        self.mean = values.mean()
        self.highest = torch.maximum(self.highest, values.max().double())
        self.lowest = torch.minimum(self.lowest, values.min().int())
        self.apart = values[:3].bfloat16()
        self.own = values[:2]
        self.seen.append(values)
        self.rows.append(values[None] > 0)

    def compute(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self._reductions}


def both(metric: Metric, updates: list[list[torch.Tensor]]) -> tuple[Any, Any]:
    rank = dist.get_rank()
    ours = metric.clone()
    for one in (metric, ours):
        for values in updates[rank]:
            one.update(values)
    expected = metric.compute()
    over_ranks(synced(ours))
    return ours.compute(), expected


def listed(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: listed(one) for name, one in value.items()}
    return [one.tolist() for one in value] if isinstance(value, list) else (str(value.dtype), value.tolist())


def lowest_and_highest() -> Metric:
    """A metric within a metric."""
    return torchmetrics.MinMaxMetric(torchmetrics.SumMetric())


@pytest.mark.parametrize("make", [Every, torchmetrics.MeanMetric, torchmetrics.CatMetric, lowest_and_highest])
def test_states_are_reduced_as_by_the_metric_itself(ranks: Any, make: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    updates = [[torch.randn(5, generator=generator) for _ in range(2)] for _ in range(ranks.size)]
    metric = make()
    for found, expected in ranks.run(both, metric, updates):
        assert listed(found) == listed(expected)


def unequal() -> list[list[float]]:
    metric = torchmetrics.CatMetric()
    for value in range(dist.get_rank() * 2):
        metric.update(torch.tensor([float(value)]))
    over_ranks(synced(metric))
    return metric.compute().tolist()


def test_ranks_may_hold_other_numbers_of_tensors(three_ranks: Any) -> None:
    assert three_ranks.run(unequal) == [[0.0, 1.0, 0.0, 1.0, 2.0, 3.0]] * 3


def test_what_cannot_be_sent_is_named() -> None:
    metric = torchmetrics.CatMetric()
    metric.update(torch.zeros(1))
    metric.value = [torch.zeros((1,) * 9)]
    with pytest.raises(ValueError, match=r"float32 .* cannot be sent"):
        over_ranks(synced(metric))


def test_alone_it_is_what_it_was() -> None:
    metric = torchmetrics.MeanMetric()
    metric.update(torch.tensor([1.0, 2.0]))
    over_ranks(synced(metric))
    assert metric.compute() == 1.5
