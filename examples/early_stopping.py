"""When to stop: the same training stopped on its validation loss, stopped on robustness, and not stopped.

A small encoder–decoder learns to turn sentences into logical forms, as in ``two_phases.py``, three times from the same
seed:

- **loss**: Lightning's ``EarlyStopping`` on the validation loss, read after each epoch, with its usual settings;
- **robustness**: ``PhaseEarlyStopping`` on the robustness of exact match to noise at the output of the encoder, which
  starts to count when ``TrainingPhases`` has seen the second phase begin;
- **never**: all steps.

It prints at which step each stopped and how many new combinations of familiar words the model solved there. Several
seeds, and what each rule loses: ``benchmarks/studies/early_stopping.py``.

    python examples/early_stopping.py
    python examples/early_stopping.py --steps 1000
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, EarlyStopping

from lightning_interp import NoiseRobustness, PhaseEarlyStopping, TrainingPhases, ValidationSchedule
from lightning_interp.datasets import GrammarDataModule
from lightning_interp.models import Seq2SeqModule

RULES = ("loss", "robustness", "never")
VAL_LOSS, IN_DISTRIBUTION, OUT_OF_DISTRIBUTION = (
    "val_loss/dataloader_idx_0",
    "val_acc/dataloader_idx_0",
    "val_acc/dataloader_idx_1",
)


class Stop(NamedTuple):
    """Where a training ended."""

    seed: int
    rule: str
    steps: int
    in_distribution: float
    out_of_distribution: float
    seconds: float
    reason: str


def main(argv: Sequence[str] | None = None) -> list[Stop]:
    """Train with each rule."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="of data, weights and batches; default: %(default)s")
    parser.add_argument("--steps", type=int, default=4000, help="the most optimizer steps; default: %(default)s")
    args = parser.parse_args(argv)
    return each_rule(args.seed, args.steps)


def each_rule(seed: int, steps: int) -> list[Stop]:
    """Train with each rule from one seed, and print where it stopped."""
    for name in (".*does not have many workers.*", ".*smaller than the logging interval.*"):
        warnings.filterwarnings("ignore", name)
    torch.set_num_threads(1)  # a model this small gains nothing from a second thread
    stops = []
    for rule in RULES:
        stops.append(train(rule, seed, steps))
        print(line(stops[-1]), flush=True)
    return stops


def rule_callbacks(rule: str) -> list[Callback]:
    """What is added to the Trainer."""
    if rule == "loss":
        return [EarlyStopping(VAL_LOSS, mode="min")]
    if rule == "robustness":
        # Robustness to noise at the input rises to the end of a run, also because the embedding may outgrow the
        # positions that are added to it; noise at the output of the encoder asks what the decoder can still read.
        robust = "robustness/encoder/val_acc"
        sites, monitors = {"encoder": "model.encoder"}, {"val_acc": "score"}
        return [
            ValidationSchedule(steps="log", per_decade=24, start=10),
            NoiseRobustness(sites, monitors=monitors, draw_figures=False, write_csv=False),
            TrainingPhases(
                loss=VAL_LOSS,
                improving={robust: "max", OUT_OF_DISTRIBUTION: "max"},
                draw_figures=False,
                write_csv=False,
            ),
            PhaseEarlyStopping(robust, mode="max", write_csv=False),
        ]
    return []


def train(rule: str, seed: int, steps: int) -> Stop:
    """Train from a seed until the rule stops it."""
    pl.seed_everything(seed, verbose=False)
    # Four batches of each validation set: their spread tells the noise of a metric.
    data = GrammarDataModule(val_batch_size=100, seed=seed)
    model = Seq2SeqModule(len(data.source_vocabulary), len(data.target_vocabulary))
    callbacks = rule_callbacks(rule)
    trainer = pl.Trainer(
        max_steps=steps,
        callbacks=callbacks,
        accelerator="cpu",
        limit_val_batches=0.0 if rule == "never" else 1.0,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
    )
    started = time.perf_counter()
    trainer.fit(model, datamodule=data)
    seconds = time.perf_counter() - started
    # What the model can do where it stands, without the callbacks.
    judge = pl.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
    inside, outside = judge.validate(model, datamodule=data, verbose=False)
    return Stop(
        seed,
        rule,
        trainer.global_step,
        inside[IN_DISTRIBUTION],
        outside[OUT_OF_DISTRIBUTION],
        seconds,
        "".join(map(why, callbacks)),
    )


def why(callback: Callback) -> str:
    """Why a callback stopped the training, in words; nothing if it did not."""
    if isinstance(callback, EarlyStopping):
        return callback.stopping_reason_message or ""
    if isinstance(callback, PhaseEarlyStopping):
        return callback.stopping_reason or ""
    return ""


def line(stop: Stop) -> str:
    """One training in a line."""
    return (
        f"seed {stop.seed}  {stop.rule:10}  {stop.steps:5} steps  in-distribution {stop.in_distribution:.3f}  "
        f"out-of-distribution {stop.out_of_distribution:.3f}  {stop.seconds:4.0f} s  {stop.reason or 'not stopped'}"
    )


if __name__ == "__main__":
    main()
