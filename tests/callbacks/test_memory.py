"""A long run: hundreds of readings leave nothing behind but their numbers."""

from __future__ import annotations

import gc
import os
import warnings
from pathlib import Path

import pytest
import pytorch_lightning as pl

from lightning_interp import ValidationAnalysis
from tests.callbacks.recipes import everything
from tests.toy import Tagger, loader, trainer

READINGS = 300


def resident() -> float:
    """Megabytes of this process."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


class Measure(pl.Callback):
    def __init__(self) -> None:
        self.sizes: dict[int, float] = {}

    def on_train_batch_end(self, trainer: pl.Trainer, *args: object) -> None:
        if trainer.global_step % 10 == 0:
            self.sizes[trainer.global_step] = resident()


def fit(folder: Path, steps: int, measure: Measure) -> None:
    # Phases are told from few readings: with hundreds of them their fits, not their memory, are what costs.
    analyses = [one for one in everything(draw=True) if isinstance(one, ValidationAnalysis)]
    for one in analyses:
        one.figure_interval = 5.0
    run = trainer(
        folder,
        [*analyses, measure],
        max_steps=steps,
        max_epochs=-1,
        val_check_interval=1,
        logger=pl.loggers.TensorBoardLogger(folder),
    )
    run.fit(Tagger(), loader(16), loader(16, seed=1))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc")
def test_memory_does_not_grow_with_readings(tmp_path: Path) -> None:
    measure = Measure()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # The first pictures load fonts and fill caches.
        fit(tmp_path / "first", 2, measure)
        fit(tmp_path / "long", READINGS + 20, measure)
    assert measure.sizes[READINGS + 20] - measure.sizes[20] < 20
    import matplotlib.pyplot as plt

    assert plt.get_fignums() == []
