"""Two and three real processes: every key is what one process gives on the same samples, on every rank."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
from pytorch_lightning.loggers import TensorBoardLogger
from torch.utils.data import DataLoader, Sampler
from torch.utils.tensorboard import SummaryWriter

from lightning_interp import RepresentationGeometry, RepresentationStructure
from lightning_interp.isolation.seen import Seen
from lightning_interp.reading.reading import Reading
from tests.toy import Sequences, Tagger, loader, trainer


def callbacks() -> list:
    return [
        RepresentationStructure(
            sites={"enc": "encoder", "emb": "embedding"},
            labels={"token": None, "bigram": None, "rare": "rare"},
            estimator="both",
            min_count=2,
            information_plane=["token", "next_token"],
            jackknife=3,
            max_examples=25,
            draw_figures=False,
        ),
        RepresentationGeometry(sites={"enc": "encoder"}, draw_figures=False),
    ]


class Rare(Sequences):
    """Label 7 occurs in the odd samples only: on two ranks, rank 1 alone sees it."""

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        item = super().__getitem__(index)
        return {**item, "rare": torch.tensor(7 if index % 2 else index % 3)}


def readings(strategy: str, number: int, batch_size: int) -> list[dict[str, float]]:
    world = dist.get_world_size() if dist.is_initialized() else 1
    chosen = callbacks()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        # The learning rate is zero: how the data are split must not change what the model computes.
        run = trainer(folder, chosen, strategy=strategy, devices=world, max_epochs=2)
        run.fit(Tagger(lr=0.0), loader(12), DataLoader(Rare(number, seed=1), batch_size=batch_size))
        ours = [
            str(one.message) for one in caught if any(name in str(one.message) for name in ("/enc", "/emb", "Repr"))
        ]
        assert not ours, ours
        logged = {key: float(value) for key, value in run.callback_metrics.items()}
    found = [{k: v for k, v in callback.reading.items() if "seconds" not in k} for callback in chosen]
    return [*found, {k: v for k, v in logged.items() if k.split("/")[0] in ("information", "rankme", "val_loss")}]


@pytest.fixture(scope="module")
def alone() -> list[dict[str, float]]:
    return readings("auto", 31, 8)


@pytest.mark.parametrize("batch_size", [4, 5])
def test_every_key_is_that_of_one_process(ranks: object, alone: list[dict[str, float]], batch_size: int) -> None:
    # 31 samples divide by neither 2 nor 3: the sampler pads, and the padding must not count.
    everywhere = ranks.run(readings, "ddp", 31, batch_size)
    for found in everywhere:
        for one, expected in zip(found[:2], alone[:2], strict=True):
            assert one.keys() == expected.keys()
            for key, value in expected.items():
                assert one[key] == pytest.approx(value, abs=1e-6, rel=1e-6), key
        assert found[2] == everywhere[0][2]


class Own(Sampler):
    """A sampler of the user's own: rank r reads a block of its own, without padding."""

    def __init__(self, number: int) -> None:
        self.indices = list(range(number))[dist.get_rank() :: dist.get_world_size()]

    def __iter__(self):
        return iter(self.indices[::-1])

    def __len__(self) -> int:
        return len(self.indices)


def own_sampler() -> tuple[dict[str, float], list[str]]:
    callback = RepresentationGeometry(sites={"enc": "encoder"}, max_examples=None, draw_figures=False)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run = trainer(folder, [callback], strategy="ddp", devices=dist.get_world_size(), use_distributed_sampler=False)
        data = Sequences(31, seed=1)
        run.fit(Tagger(lr=0.0), loader(12), DataLoader(data, batch_size=8, sampler=Own(31)))
    return callback.reading, [str(one.message) for one in caught]


def test_a_sampler_of_the_users_own_is_told_and_sums_are_right(two_ranks: object) -> None:
    (first, told), (second, _) = two_ranks.run(own_sampler)
    assert sum("does not tell which samples" in message for message in told) == 1
    assert first["rows/enc"] == second["rows/enc"] == Sequences(31, seed=1).mask.sum()
    assert first["rankme/enc"] == second["rankme/enc"]


class FailsOnOne(RepresentationGeometry):
    seen = -1

    def begin(self, reading: Reading) -> None:
        self.seen += 1
        super().begin(reading)

    def after_batch(self, seen: Seen) -> None:
        if self.seen == 2 and dist.get_rank() == 1:
            raise RuntimeError("planted on rank 1")
        super().after_batch(seen)


def one_rank_fails() -> tuple[list[int], float, list[str]]:
    callback = FailsOnOne(sites={"enc": "encoder"}, draw_figures=False)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run = trainer(folder, [callback], strategy="ddp", devices=dist.get_world_size(), max_epochs=3)
        run.fit(Tagger(), loader(12), loader(seed=1))
    told = [str(one.message) for one in caught if "dropped" in str(one.message)]
    return [r.step for r in callback.history.readings], float(run.callback_metrics["failed/FailsOnOne"]), told


def test_a_failure_on_one_rank_drops_the_reading_on_all(two_ranks: object) -> None:
    (steps, failed, told), (other_steps, other_failed, cause) = two_ranks.run(one_rank_fails)
    assert steps == other_steps == [1, 3]
    assert failed == other_failed == 1
    assert "Another rank failed" in told[0]
    assert "planted on rank 1" in cause[0]


class FailingLogger(TensorBoardLogger):
    """Takes scalars, and breaks at a picture."""

    @property
    def experiment(self) -> Any:
        writer = super().experiment
        if isinstance(writer, SummaryWriter):
            writer.add_image = self.refuse
        return writer

    def refuse(self, *args: object, **kwargs: object) -> None:
        raise OSError("planted in the logger")


class FailingFigures(RepresentationGeometry):
    """Its pictures break: drawing fails on the first rank, and the second is not to be asked for any."""

    def figures(self) -> dict[str, Any]:
        if dist.get_rank() == 1:
            raise RuntimeError("planted on rank 1")
        return {**super().figures(), "planted": lambda: 1 / 0}


def pictures_fail(callback: Callable[..., RepresentationGeometry] | None) -> dict[str, Any]:
    model = Tagger()
    chosen = [] if callback is None else [callback(sites={"enc": "encoder"}, figure_interval=0.0)]
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        logger = TensorBoardLogger(folder) if callback is FailingFigures else FailingLogger(folder)
        run = trainer(folder, chosen, strategy="ddp", devices=dist.get_world_size(), max_epochs=3, logger=logger)
        run.fit(model, loader(12), loader(seed=1))
    return {
        "weights": [value.tolist() for value in model.state_dict().values()],
        "steps": [reading.step for one in chosen for reading in one.history.readings],
        "told": [text for text in (str(one.message) for one in caught) if "planted" in text],
    }


@pytest.mark.parametrize("callback", [FailingFigures, RepresentationGeometry])
def test_a_picture_or_a_logger_that_fails_on_one_rank_costs_a_warning(two_ranks: Any, callback: type) -> None:
    plain, (first, second) = two_ranks.run(pictures_fail, None), two_ranks.run(pictures_fail, callback)
    assert first["weights"] == second["weights"] == plain[0]["weights"]
    assert first["steps"] == second["steps"] == [1, 2, 3]
    if callback is FailingFigures:
        assert len(first["told"]) == 1
        assert "planted" in first["told"][0]
        assert second["told"] == []
    else:
        assert len(first["told"]) == 1
        assert "planted in the logger" in first["told"][0]
        assert second["told"] == []
