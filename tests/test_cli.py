"""A YAML file: every exported callback is configured by LightningCLI, printed, read back, and trains."""

from __future__ import annotations

import contextlib
import io
import sys
from pathlib import Path
from unittest import mock

import pytest

pytest.importorskip("jsonargparse")
import pytorch_lightning as pl
from pytorch_lightning.cli import LightningCLI

from tests.toy import Tagger, loader

CONFIG = """
trainer:
  max_steps: 10
  accelerator: cpu
  logger: false
  enable_checkpointing: false
  enable_progress_bar: false
  callbacks:
    - class_path: lightning_interp.ValidationSchedule
      init_args: {steps: [2, 5], last: false}
    - class_path: lightning_interp.RepresentationStructure
      init_args:
        sites: {enc: encoder}
        labels: [token, bigram]
        estimator: both
        min_count: 2
        information_plane: [token, next_token]
    - class_path: lightning_interp.RepresentationGeometry
      init_args: {sites: [encoder.0, embedding], log: full}
    - class_path: lightning_interp.RepresentationMetrics
      init_args:
        sites: encoder
        metrics: {own: {class_path: lightning_interp.metrics.SpectralGeometry, init_args: {center: false}}}
        prefix: own/
    - class_path: lightning_interp.NoiseRobustness
      init_args:
        sites: {emb: embedding}
        scales: [0.25, 1.0]
        monitors: {val_loss: loss, val_acc: score}
        drift: {enc: encoder}
        start: {val_acc: 0.1}
        draw_figures: false
    - class_path: lightning_interp.TrainingPhases
      init_args:
        loss: val_loss
        improving: {val_acc: max}
        keys: [information/enc, own/effective_rank/encoder]
        names: [before, after]
    - class_path: lightning_interp.PhaseEarlyStopping
      init_args: {monitor: val_acc, patience_steps: 100, min_delta: 1.0, delta: se}
"""


class Data(pl.LightningDataModule):
    def train_dataloader(self) -> object:
        return loader()

    def val_dataloader(self) -> object:
        return loader(seed=1)


def test_print_config_round_trips_and_trains(tmp_path: Path) -> None:
    (tmp_path / "first.yaml").write_text(CONFIG)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), pytest.raises(SystemExit):
        run(["fit", "--config", str(tmp_path / "first.yaml"), "--print_config"])
    (tmp_path / "second.yaml").write_text(printed.getvalue())
    cli = run(["fit", "--config", str(tmp_path / "second.yaml"), f"--trainer.default_root_dir={tmp_path}"])
    structure, geometry, own, noise = cli.trainer.callbacks[1:5]
    for callback in (structure, geometry, own, noise):
        assert [reading.step for reading in callback.history.readings] == [2, 5]
    above = "expressivity_above_chance/enc"
    assert structure.reading[above] == pytest.approx(cli.trainer.callback_metrics[above].item())
    assert "alpha_r2/encoder.0" not in structure.reading
    assert any(key.startswith("alpha_r2/") for key in geometry.logged_keys())
    assert "own/effective_rank/encoder" in own.reading
    assert "under_noise/emb/val_loss" in noise.reading
    phases, stop = cli.trainer.callbacks[5:7]
    assert all(phases.series(key)[0] == [2, 5] for key in phases.followed())
    assert phases.conclusion.startswith("before goes on: val_loss has too few readings")
    assert (stop.patience_steps, stop.min_delta, stop.delta) == (100, 1.0, "se")


def run(argv: list[str]) -> LightningCLI:
    with mock.patch.object(sys, "argv", ["prog", *argv]):
        return LightningCLI(Tagger, Data)
