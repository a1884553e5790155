"""What reading the influence of training data costs, beside a training step and a validation run.

    python benchmarks/influence_live.py
    python benchmarks/influence_live.py --readings 9 --layers 8

A GPT-2 of four layers × 128 with four heads, texts of 32 tokens, batches of 16, 256 validation texts and as many
training texts read. A row is a training with one callback: the median over ``--readings`` of the time of a reading, as
a ratio to the median training step and to the median validation run less its reading, of the same training, with the
smallest and the largest in brackets. For training batches every other one is read, and the median step of those is
compared with that of the others. On a machine that others use, numbers a fifth apart are the same.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from statistics import median
from tempfile import mkdtemp
from typing import Any

import pytorch_lightning as pl
import torch
from forward_passes import VOCABULARY
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader

from lightning_interp import SelfInfluence, SourceInfluence, ValidationAnalysis
from lightning_interp.models import small_gpt2

Row = dict[str, Tensor]


class Timed(pl.Callback):
    """Seconds of training steps and of validation runs, from where the clock was started."""

    def __init__(self) -> None:
        self.steps: list[float] = []
        self.runs: list[float] = []
        self.began = self.run = 0.0

    def on_train_batch_end(self, *args: Any) -> None:
        """A step is over."""
        self.steps.append(time.perf_counter() - self.began)

    def on_validation_end(self, *args: Any) -> None:
        """A run is over."""
        self.runs.append(time.perf_counter() - self.run)


class Model(pl.LightningModule):
    """A causal language model."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.lm = small_gpt2(range(VOCABULARY), 128, layers=layers, heads=4, length=32)

    def forward(self, input_ids: Tensor) -> Any:
        """Its output."""
        return self.lm(input_ids=input_ids)

    def training_step(self, batch: Row, batch_idx: int) -> Tensor:
        """Cross-entropy of the next token."""
        ids = batch["input_ids"]
        return functional.cross_entropy(self(ids).logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())

    def validation_step(self, batch: Row, batch_idx: int) -> None:
        """The same."""
        self.log("val_loss", self.training_step(batch, batch_idx))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW."""
        return torch.optim.AdamW(self.parameters(), lr=1e-4)


def texts(number: int, seed: int) -> list[Row]:
    """Random ones, of three sources."""
    ids = torch.randint(1, VOCABULARY, (number, 32), generator=torch.Generator().manual_seed(seed))
    return [
        {"input_ids": row, "source": torch.tensor(at % 3), "number": torch.tensor(at)} for at, row in enumerate(ids)
    ]


def trained(callbacks: list[pl.Callback], layers: int, readings: int) -> None:
    """A training with so many validation runs of ten steps each."""
    trainer = pl.Trainer(
        max_steps=10 * readings,
        val_check_interval=10,
        check_val_every_n_epoch=None,
        callbacks=callbacks,
        default_root_dir=mkdtemp(),
        logger=False,
        accelerator="cpu",
        devices=1,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
    )
    trainer.fit(Model(layers), DataLoader(texts(512, 0), 16, shuffle=True), DataLoader(texts(256, 1), 16))


def main(argv: list[str] | None = None) -> None:
    """Time, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--readings", type=int, default=5)
    parser.add_argument("--layers", type=int, default=4)
    args = parser.parse_args(argv)
    warnings.filterwarnings("ignore")
    how: dict[str, Any] = {"target": "input_ids", "shift": 1, "draw_figures": False, "write_csv": False}
    sources: dict[str, Any] = {"source": "source", "sources": ["a", "b", "c"], "max_examples": 256, **how}
    rows: dict[str, Callable[[], ValidationAnalysis]] = {
        "`SelfInfluence`": lambda: SelfInfluence("lm.lm_head", max_examples=256, **how),
        "`SourceInfluence`": lambda: SourceInfluence(**sources),
        "`SourceInfluence(effect=False)`": lambda: SourceInfluence(**sources, effect=False),
    }
    print("| | a reading over a training step | over a validation run |\n|---|---|---|")
    for name, make in rows.items():
        callback, timed = make(), Timed()
        trained([_Before(timed), callback, timed], args.layers, args.readings)
        _, seconds = callback.history.series(f"seconds/{type(callback).__name__}")
        runs = [whole - own for whole, own in zip(timed.runs[-len(seconds) :], seconds, strict=True)]
        found = [
            f"{median(seconds) / by:.1f} ({min(seconds) / by:.1f} to {max(seconds) / by:.1f})"
            for by in (median(timed.steps), median(runs))
        ]
        print(f"| {name} | {' | '.join(found)} |")
    timed = Timed()
    every_other = {"on": "batches", "ids": "number", "every_n_batches": 2, "max_examples": 256}
    trained([_Before(timed), SelfInfluence("lm.lm_head", **every_other, **how), timed], args.layers, args.readings)
    # An epoch has an even number of batches.
    ratio = median(timed.steps[::2]) / median(timed.steps[1::2])
    print(f"\n`SelfInfluence(on='batches')`: a step that is read takes {ratio:.2f} times as long.")


class _Before(pl.Callback):
    """Starts the clock before other callbacks do anything."""

    def __init__(self, timed: Timed) -> None:
        self.timed = timed

    def on_train_batch_start(self, *args: Any) -> None:
        """A step begins."""
        self.timed.began = time.perf_counter()

    def on_validation_start(self, *args: Any) -> None:
        """A run begins."""
        self.timed.run = time.perf_counter()


if __name__ == "__main__":
    main()
