"""A rank that fails wherever it can leaves together with the others: a dropped reading, and no wait for a time-out."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Mapping
from functools import partial
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torchmetrics

from lightning_interp import RepresentationGeometry, RepresentationMetrics, ValidationAnalysis
from lightning_interp.distributed import Sum, over_ranks
from tests.callbacks.recipes import ANALYSES, analysis
from tests.toy import Norm, Tagger, loader, trainer

EPOCHS = 3


def fitted(callbacks: list[Any], rank: int) -> tuple[list[int], int, float]:
    world = dist.get_world_size()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run_ = trainer(folder, callbacks, strategy="ddp", devices=world, max_epochs=EPOCHS)
        run_.fit(Tagger(), loader(24), loader(24, seed=1))
    first = callbacks[0]
    weight = float(run_.lightning_module.head.weight.sum())
    return [reading.index for reading in first.history.readings], first.failed, round(weight, 5)


def failing(name: str, places: tuple[str, ...], rank: int) -> tuple[list[int], int, float]:
    callback = analysis(name)

    def fails(works: Any, *args: Any, **kwargs: Any) -> Any:
        if dist.get_rank() == rank and len(callback.history) == 1 and callback.failed == 0:
            raise torch.OutOfMemoryError("planted")
        return works(*args, **kwargs)

    for where in places:
        setattr(callback, where, partial(fails, getattr(callback, where)))
    return fitted([callback], rank)


PLACES = ("begin", "after_batch", "finish", "full_key")


@pytest.mark.parametrize("where", PLACES)
@pytest.mark.parametrize("name", ANALYSES)
def test_a_failure_drops_the_reading_on_all_ranks(two_ranks: Any, name: str, where: str) -> None:
    if where == "after_batch" and not analysis(name).reads_batches:
        pytest.skip("reads no validation batch")
    first, second = two_ranks.run(failing, name, (where,), 1)
    assert first == second
    assert first[:2] == ([0, 2], 1)


AFTER = ("settings", "commit", "logged_keys")


@pytest.mark.parametrize("name", ANALYSES)
def test_a_failure_after_the_reading_costs_no_reading(two_ranks: Any, name: str) -> None:
    (first, failed, weight), (second, other_failed, other_weight) = two_ranks.run(failing, name, AFTER, 1)
    assert first == second == [0, 1, 2]
    assert failed == other_failed == 0
    assert weight == other_weight


class Own(ValidationAnalysis):
    """Fails on one rank before, between or after its exchanges."""

    def __init__(self, rank: int, when: int) -> None:
        super().__init__(draw_figures=False)
        self.rank, self.when = rank, when

    def measures(self, model: Any = None) -> dict[str, str]:
        return {"own": "summary"}

    def resolve(self, model: Any) -> None:
        """Nothing to find."""

    def begin(self, reading: Any) -> None:
        self.rows = 0.0

    def after_batch(self, seen: Any) -> None:
        self.rows += len(seen.selection)

    def _maybe(self, when: int) -> None:
        if when == self.when and dist.get_rank() == self.rank and len(self.history) == 1 and not self.failed:
            raise Frozen("planted")

    def finish(self, reading: Any) -> Mapping[str, float]:
        self._maybe(0)

        def steps() -> Any:
            self._maybe(1)
            total = yield Sum(torch.tensor(self.rows))
            self._maybe(2)
            again = yield Sum(torch.tensor(self.rows))
            self._maybe(3)
            return float(total + again)

        found = over_ranks(steps())
        self._maybe(4)
        return {"own": found + over_ranks(steps())}


class Frozen(RuntimeError):
    """Takes no attribute, as a frozen dataclass."""

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(name)


def own(rank: int, when: int) -> tuple[list[int], int, float]:
    return fitted([Own(rank, when), RepresentationGeometry({"enc": "encoder"}, draw_figures=False)], rank)


@pytest.mark.parametrize("when", range(5))
@pytest.mark.parametrize("rank", [0, 1])
def test_an_analysis_of_ones_own_fails_between_its_exchanges(ranks: Any, rank: int, when: int) -> None:
    found = ranks.run(own, rank, when)
    assert all(one == found[0] for one in found)
    assert found[0][:2] == ([0, 2], 1)


class Failing(Norm):
    """A metric of another package that fails on one rank, in its update or its compute."""

    where = ""
    history: Any = ()

    def update(self, representations: torch.Tensor, mask: torch.Tensor) -> None:
        self._maybe("update")
        super().update(representations, mask)

    def compute(self) -> torch.Tensor:
        self._maybe("compute")
        return super().compute()

    def _maybe(self, where: str) -> None:
        if where == self.where and dist.get_rank() == 1 and Failing.reading() == 1:
            raise FloatingPointError("planted")

    @staticmethod
    def reading() -> int:
        return len(Failing.callback.history) + Failing.callback.failed  # type: ignore[attr-defined]


def foreign(where: str) -> tuple[list[int], int, float]:
    metric = Failing()
    metric.where = where
    callback = RepresentationMetrics({"norm": metric}, {"enc": "encoder"}, draw_figures=False)
    Failing.callback = callback  # type: ignore[attr-defined]
    return fitted([callback], 1)


@pytest.mark.parametrize("where", ["update", "compute"])
def test_a_metric_of_another_package_fails_on_one_rank(two_ranks: Any, where: str) -> None:
    first, second = two_ranks.run(foreign, where)
    assert first == second
    assert first[:2] == ([0, 2], 1)


class Seen(torchmetrics.Metric):
    """Keeps vectors, of which a rank may have none."""

    def __init__(self) -> None:
        super().__init__()
        self.add_state("vectors", [], dist_reduce_fx="cat")

    def update(self, representations: torch.Tensor, mask: torch.Tensor) -> None:
        if dist.get_rank() == 0:
            self.vectors.append(representations[mask])

    def compute(self) -> dict[str, torch.Tensor]:
        return {"rows_seen": torch.tensor(len(self.vectors)), "norm_seen": self.vectors.norm()}


def one_sided() -> dict[str, float]:
    callback = RepresentationMetrics({"seen": Seen()}, {"enc": "encoder"}, draw_figures=False)
    fitted([callback], 0)
    return {key: value for key, value in callback.reading.items() if "seen" in key}


def test_a_metric_that_one_rank_alone_fed(two_ranks: Any) -> None:
    first, second = two_ranks.run(one_sided)
    assert first == second
    assert first["rows_seen/enc"] > 10


def other_arguments(**differing: tuple[Any, Any]) -> str:
    rank = dist.get_rank()
    given = {name: values[rank] for name, values in differing.items()}
    try:
        fitted([RepresentationGeometry({"enc": "encoder"}, **{"draw_figures": False, **given})], rank)
    except ValueError as error:
        return str(error)
    return ""


def with_other(name: str, values: tuple[Any, Any]) -> str:
    return other_arguments(**{name: values})


def other_callbacks() -> str:
    callbacks: list[Any] = [RepresentationGeometry({"enc": "encoder"}, draw_figures=False)]
    if dist.get_rank():
        callbacks.append(RepresentationMetrics({"norm": Norm()}, {"enc": "encoder"}, draw_figures=False))
    try:
        fitted(callbacks, 0)
    except ValueError as error:
        return str(error)
    return ""


def test_arguments_that_differ_between_ranks_are_told_at_the_start(two_ranks: Any) -> None:
    told = two_ranks.run(with_other, "max_examples", (100, 200))
    said = "`max_examples` of RepresentationGeometry is 100 on rank 0 and 200 on rank 1: give all ranks the same."
    assert told == [said, said]
    told = two_ranks.run(other_callbacks)
    assert told[0] == told[1]
    assert "rank 1 ['RepresentationGeometry', 'RepresentationMetrics']" in told[0]
    # Files and pictures are made on one rank.
    assert two_ranks.run(with_other, "write_csv", (True, False)) == ["", ""]
