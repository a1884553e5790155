"""A run that is killed and resumed has the readings of the run that was not."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from lightning_interp import TrainingPhases, ValidationAnalysis
from tests import killed_run
from tests.toy import timeless

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[pl.Callback], Any, Path]:
    folder, chosen = tmp_path_factory.mktemp("whole"), killed_run.callbacks()
    pl.seed_everything(0, verbose=False)
    _, model = killed_run.fit(folder, chosen)
    return chosen, model, folder


@pytest.mark.parametrize("where", ["train", "validation"])
def test_a_killed_run_goes_on_as_if_it_had_not_been(tmp_path: Path, whole: tuple, where: str) -> None:
    expected, model, folder = whole
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "killed_run.py"), str(tmp_path), where],
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == -9, done.stderr[-2000:]
    chosen = killed_run.callbacks()
    _, resumed = killed_run.fit(tmp_path, chosen, tmp_path / "checkpoints" / "last.ckpt")
    assert all(torch.equal(*pair) for pair in zip(model.parameters(), resumed.parameters(), strict=True))
    for one, other in zip(expected, chosen, strict=True):
        if isinstance(one, ValidationAnalysis):
            assert timeless(other) == timeless(one)
        elif isinstance(one, TrainingPhases):
            assert {key: other.series(key) for key in one.followed()} == {
                key: one.series(key) for key in one.followed()
            }
    tables = []
    for place in (folder, tmp_path):
        with open(place / "lightning_interp_logs" / "readings.csv") as file:
            tables.append([{k: v for k, v in row.items() if "seconds" not in k} for row in csv.DictReader(file)])
    for one, other in zip(*tables, strict=True):
        # Lightning itself forgets what the training step logged before.
        assert {k: v for k, v in one.items() if k != "train_loss"} == {
            k: v for k, v in other.items() if k != "train_loss"
        }


def test_a_reading_that_was_lost_is_a_gap(tmp_path: Path) -> None:
    """A checkpoint from the middle of a validation, as one that a dying process leaves."""

    class Dies(pl.Callback):
        def on_validation_batch_end(self, trainer: pl.Trainer, *args: object) -> None:
            if trainer.global_step == 8 and not trainer.sanity_checking:
                trainer.save_checkpoint(tmp_path / "dying.ckpt")
                raise KeyboardInterrupt

    chosen = killed_run.callbacks()
    pl.seed_everything(0, verbose=False)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        killed_run.fit(tmp_path, [*chosen, Dies()])
    rest = killed_run.callbacks()
    killed_run.fit(tmp_path, rest, tmp_path / "dying.ckpt")
    for callback in rest:
        if isinstance(callback, ValidationAnalysis):
            steps, numbers = zip(*((one.step, one.index) for one in callback.history.readings), strict=True)
            assert len(set(steps)) == len(steps)
            assert list(numbers) == sorted(set(numbers))
            if 8 not in steps and callback.every_n_validations == 1:
                assert len(numbers) < numbers[-1] + 1
