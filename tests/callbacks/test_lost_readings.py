"""What is read after a restart are the steps that would have been read, with a gap where a reading was lost."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint

from lightning_interp import RepresentationGeometry, ValidationSchedule
from tests.toy import Sequences, Tagger, loader, trainer


class Resumable:
    """Ten batches, which go on where a checkpoint left off."""

    def __init__(self) -> None:
        self.data, self.at = Sequences(40), 0

    def __len__(self) -> int:
        return 10

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        self.at %= 10
        for batch in range(self.at, 10):
            self.at = batch + 1
            yield torch.utils.data.default_collate([self.data[4 * batch + place] for place in range(4)])

    def state_dict(self) -> dict[str, int]:
        return {"at": self.at}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.at = state["at"]


class Stop(pl.Callback):
    """The process dies: after a training batch, or in the middle of a validation run."""

    def __init__(self, epoch: int, batch: int, validating: bool = False) -> None:
        self.place, self.validating = (epoch, batch), validating
        self.now = (0, 0)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.now = (trainer.current_epoch, batch_idx)
        if self.now == self.place and not self.validating:
            raise KeyError("planted")

    def on_validation_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        if self.now >= self.place and self.validating and not trainer.sanity_checking:
            raise KeyError("planted")


HOW: dict[str, tuple[list[Any], dict[str, Any]]] = {
    "schedule": ([ValidationSchedule([1, 2, 3, 5, 6, 7, 9, 10, 12, 15])], {"accumulate_grad_batches": 3}),
    "batches": ([], {"val_check_interval": 2}),
    "batches over epochs": ([], {"val_check_interval": 3, "check_val_every_n_epoch": None}),
    "epochs": ([], {}),
}


def run(
    folder: Path, how: str, every: int, stop: Stop | None = None, resume: Path | None = None
) -> list[tuple[int, int]]:
    others, settings = HOW[how]
    callback = RepresentationGeometry({"enc": "encoder"}, every_n_validations=every, draw_figures=False)
    save = ModelCheckpoint(folder / "saved", every_n_train_steps=1, save_top_k=-1, filename="{step:03d}")
    chosen = [*others, callback, save, *([stop] if stop else [])]
    fit = trainer(folder, chosen, max_epochs=4, enable_checkpointing=True, **settings)
    pl.seed_everything(1, verbose=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            more = {} if resume is None else {"ckpt_path": resume, "weights_only": True}
            fit.fit(Tagger(), Resumable(), loader(16, seed=1), **more)
        except KeyError:
            assert stop is not None
    return [(reading.step, reading.index) for reading in callback.history.readings]


@lru_cache
def whole(folder: Path, how: str, every: int) -> list[tuple[int, int]]:
    return run(folder / f"whole {how} {every}", how, every)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("whole")


@pytest.mark.parametrize("validating", [False, True])
@pytest.mark.parametrize("every", [1, 2, 3])
@pytest.mark.parametrize("how", HOW)
def test_a_restart_reads_the_steps_of_the_whole_run(
    tmp_path: Path, base: Path, how: str, every: int, validating: bool
) -> None:
    expected = whole(base, how, every)
    assert len(expected) > 1
    before = run(tmp_path, how, every, Stop(1, 5, validating))
    last = max((tmp_path / "saved").glob("*.ckpt"))
    found = run(tmp_path / "again", how, every, resume=last)
    assert set(before) < set(expected)
    assert set(found) <= set(expected)
    # At most the reading that the restart passes over is lost.
    assert len(expected) - len(found) <= 1
    if every > 1:
        assert len({index for _, index in found}) == len(found)
