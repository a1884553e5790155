"""Noise robustness on two and three real processes."""

from __future__ import annotations

import tempfile
import warnings
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import torch.distributed as dist
from torch import nn
from torch.utils.data import DataLoader, Sampler

from lightning_interp import NoiseRobustness
from tests.toy import Sequences, Tagger, loader, run_again, trainer


def score(model: nn.Module, batch: dict) -> dict:
    logits, mask = model(batch["input_ids"]), batch["attention_mask"].bool()
    loss = nn.functional.cross_entropy(logits.transpose(1, 2), batch["tags"], reduction="none")
    return {"loss": ((loss * mask).sum(1), mask.sum(1)), "exact": ((logits.argmax(-1) == batch["tags"]) | ~mask).all(1)}


def callbacks() -> list[NoiseRobustness]:
    common = {"sites": {"emb": "embedding"}, "draw_figures": False, "log": "full", "max_examples": 25}
    return [
        NoiseRobustness(
            **common,
            monitors={"loss": "loss", "exact": "score"},
            score=score,
            drift={"enc": "encoder"},
            start={"loss": 2.0},
            prefix="score/",
        ),
        NoiseRobustness(**common, monitors={"val_acc": "score", "val_loss": "loss", "val_loss_collected": "loss"}),
    ]


def readings(strategy: str, number: int, batch_size: int, lr: float) -> list[dict[str, float]]:
    world = dist.get_world_size() if dist.is_initialized() else 1
    chosen = callbacks()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        pl.seed_everything(0)
        run = trainer(folder, chosen, strategy=strategy, devices=world, max_epochs=3)
        run.fit(Tagger(lr=lr), loader(12), DataLoader(Sequences(number, seed=1), batch_size=batch_size))
        ours = [str(one.message) for one in caught if "/emb" in str(one.message) or "Noise" in str(one.message)]
        assert not ours, ours
        logged = {key: float(value) for key, value in run.callback_metrics.items() if "/emb/" in key}
    return [*({k: v for k, v in one.reading.items() if "seconds" not in k} for one in chosen), logged]


def test_scores_and_drift_are_those_of_one_process(ranks: object) -> None:
    # 31 samples divide by neither 2 nor 3; the learning rate is zero, since splitting the data changes the training.
    alone = readings("auto", 31, 8, 0.0)
    for batch_size in (4, 5):
        everywhere = ranks.run(readings, "ddp", 31, batch_size, 0.0)
        for found in everywhere:
            assert found[0].keys() == alone[0].keys()
            for key, value in alone[0].items():
                assert found[0][key] == pytest.approx(value, abs=1e-6, rel=1e-6), key
            assert found == everywhere[0]


def test_monitors_of_the_step_are_those_of_one_process_where_batches_divide(two_ranks: object) -> None:
    # Each of these batches holds the samples of two of one process's, so that no weight differs.
    alone = readings("auto", 32, 8, 0.0)
    for found in two_ranks.run(readings, "ddp", 32, 4, 0.0):
        for scale in ("0.1", "1"):
            key = f"noisy/emb/val_acc/{scale}"
            assert found[1][key] == pytest.approx(alone[1][key], abs=1e-6)
        assert found[1]["clean/val_acc"] == pytest.approx(alone[1]["clean/val_acc"], abs=1e-6)


def test_training_ranks_agree(ranks: object) -> None:
    everywhere = ranks.run(readings, "ddp", 31, 5, 0.05)
    assert all(found == everywhere[0] for found in everywhere)
    assert "under_noise/emb/val_loss_collected" in everywhere[0][2]


class Uneven(Sampler):
    """The first rank reads more batches than the others."""

    def __iter__(self):
        return iter(range(16) if dist.get_rank() == 0 else range(16, 24))

    def __len__(self) -> int:
        return 16 if dist.get_rank() == 0 else 8


class Counted(Tagger):
    """Counts its validation steps; every one of them communicates, as a sharded model's would."""

    steps = 0

    def validation_step(self, batch: dict, batch_idx: int, dataloader_idx: int = 0) -> None:
        if run_again(self):
            Counted.steps += 1
            dist.all_reduce(torch.ones(1))
        super().validation_step(batch, batch_idx)


def uneven() -> tuple[int, dict[str, float]]:
    Counted.steps = 0
    settings = {"max_examples": None, "start": None, "draw_figures": False, "log": "full"}
    callback = NoiseRobustness({"emb": "embedding"}, (0.5,), {"val_acc": "score"}, **settings)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        settings = {"use_distributed_sampler": False, "num_sanity_val_steps": 0, "max_epochs": 1}
        run = trainer(folder, [callback], strategy="ddp", devices=2, **settings)
        data = Sequences(24, seed=1)
        run.fit(Counted(lr=0.0), loader(12), DataLoader(data, batch_size=4, sampler=Uneven()))
    return Counted.steps, callback.reading


def test_ranks_make_the_same_number_of_passes(two_ranks: object) -> None:
    (steps, reading), (other_steps, other) = two_ranks.run(uneven)
    assert steps == other_steps == 4
    data = Sequences(24, seed=1)
    model = Tagger(lr=0.0).eval()
    with torch.no_grad():
        hits = (model(data.ids).argmax(-1) == data.tags)[data.mask]
    assert reading["clean/val_acc"] == other["clean/val_acc"] == pytest.approx(float(hits.float().mean()))


class FailsOnOne(NoiseRobustness):
    def merge(self, reading: Any) -> Any:
        if len(self.history) == 1 and dist.get_rank() == 1:
            raise RuntimeError("planted on rank 1")
        return (yield from super().merge(reading))


def one_rank_fails() -> tuple[int, int, list[str]]:
    callback = FailsOnOne({"emb": "embedding"}, (0.5,), {"val_acc": "score"}, draw_figures=False)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run = trainer(folder, [callback], strategy="ddp", devices=2, max_epochs=3)
        run.fit(Tagger(), loader(12), loader(seed=1))
    told = [str(one.message) for one in caught if "dropped" in str(one.message)]
    return len(callback.history), callback.failed, told


def test_a_failure_on_one_rank_drops_the_reading_on_all(two_ranks: object) -> None:
    for readings_taken, failed, told in two_ranks.run(one_rank_fails):
        assert (readings_taken, failed, len(told)) == (1, 2, 1)
