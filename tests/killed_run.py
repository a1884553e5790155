"""A training that kills its own process: ``python killed_run.py FOLDER train|validation``."""

from __future__ import annotations

import os
import signal
import sys
import warnings
from pathlib import Path

import pytorch_lightning as pl
from torch import nn

from lightning_interp import NoiseRobustness, RepresentationGeometry, RepresentationStructure, TrainingPhases
from tests.toy import Tagger, loader, trainer

EPOCHS = 4


class Exact(Tagger):
    """Without dropout a training goes on from the end of an epoch as if it had never stopped."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder[2] = nn.Identity()


def callbacks() -> list[pl.Callback]:
    """Two of one class among them."""
    return [
        RepresentationStructure({"enc": "encoder"}, ["token"], min_count=2, draw_figures=False),
        RepresentationGeometry({"enc": "encoder"}, draw_figures=False),
        RepresentationGeometry({"emb": "embedding"}, every_n_validations=2, draw_figures=False),
        NoiseRobustness({"emb": "embedding"}, monitors={"val_loss": "loss"}, scales=(0.5,), draw_figures=False),
        TrainingPhases(improving={"val_acc": "max"}, draw_figures=False),
    ]


class Kill(pl.Callback):
    """SIGKILL in the middle of the third epoch, or of the validation in it."""

    def __init__(self, where: str) -> None:
        self.where = where

    def on_train_batch_end(self, trainer: pl.Trainer, *args: object) -> None:
        if self.where == "train" and trainer.global_step == 12:
            os.kill(os.getpid(), signal.SIGKILL)

    def on_validation_batch_end(self, trainer: pl.Trainer, *args: object) -> None:
        if self.where == "validation" and trainer.global_step == 13:
            os.kill(os.getpid(), signal.SIGKILL)


def fit(folder: Path, chosen: list[pl.Callback], ckpt_path: Path | None = None) -> tuple[pl.Trainer, Exact]:
    """A checkpoint at the end of every epoch, and a validation in the middle of it."""
    save = pl.callbacks.ModelCheckpoint(folder / "checkpoints", save_last=True, save_on_train_epoch_end=True)
    run = trainer(
        folder,
        [*chosen, save],
        max_epochs=EPOCHS,
        enable_checkpointing=True,
        val_check_interval=3,
        num_sanity_val_steps=1,
    )
    model = Exact()
    run.fit(model, loader(), loader(seed=1), ckpt_path=ckpt_path, weights_only=None if ckpt_path is None else True)
    return run, model


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    pl.seed_everything(0, verbose=False)
    fit(Path(sys.argv[1]), [*callbacks(), Kill(sys.argv[2])])
