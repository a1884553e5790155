"""Induction heads: how a transformer comes to predict what it has seen once, and how suddenly.

Models of nothing but attention learn sequences that repeat a random segment of random length. Whoever finds the present
token earlier in the sequence knows what follows; it takes two layers to do that, a head that marks each token with the
one before it and a head that looks for the mark. With two layers the validation loss bends soon after step 100 and
falls from 3.9 to 2.2 within a hundred steps. With one layer, on the same sequences, it is 3.9 at the end: such a model
learns hardly more than which tokens are in the sequence at all.

    python examples/induction.py
    python examples/induction.py --seeds 3 --layers 2
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import TensorBoardLogger
from torch.utils.data import DataLoader

from lightning_interp import Readings, TrainingPhases, ValidationSchedule
from lightning_interp.datasets import RepeatedSegments
from lightning_interp.decisions import log_spaced_steps
from lightning_interp.models import AttentionOnly, CausalLM

IDS, BATCH = 64, 32


def main(argv: Sequence[str] | None = None) -> dict[str, TrainingPhases]:
    """Train each number of layers from each seed, one after the other, and print their losses beside each other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="of data and weights, the first; default: %(default)s")
    parser.add_argument("--seeds", type=int, default=1, help="how many, from there on; default: %(default)s")
    parser.add_argument("--steps", type=int, default=260, help="optimizer steps; default: %(default)s")
    parser.add_argument("--layers", type=int, nargs="+", default=[1, 2], help="of each model; default: 1 and 2")
    parser.add_argument("--logdir", type=Path, default=Path("logs/induction"), help="default: %(default)s")
    args = parser.parse_args(argv)
    for name in (".*does not have many workers.*", ".*smaller than the logging interval.*"):
        warnings.filterwarnings("ignore", name)
    torch.set_num_threads(1)  # a model this small gains nothing from a second thread
    runs = {}
    for seed in range(args.seed, args.seed + args.seeds):
        for layers in args.layers:
            name = f"layers_{layers}_seed_{seed}"
            started = time.perf_counter()
            runs[name] = train(args, layers, seed, name)
            print(f"{name}: {time.perf_counter() - started:.0f} s; {runs[name].conclusion}")
    print(f"\nvalidation loss, nats per token\n{table(runs)}\n")
    print(f"curves: tensorboard --logdir {args.logdir}")
    return runs


def callbacks(args: argparse.Namespace) -> list[pl.Callback]:
    """What watches a training. Readers of its heads belong here, between the schedule and the phases."""
    # At equal distances on a logarithmic axis, closer from 50 on: there the heads form.
    early, late = log_spaced_steps(6, stop=45), log_spaced_steps(30, start=50, stop=args.steps)
    return [
        ValidationSchedule(steps=[*early, *late]),
        TrainingPhases(loss="val_loss", template="none"),  # each knee of the loss begins a phase
    ]


def train(args: argparse.Namespace, layers: int, seed: int, name: str) -> TrainingPhases:
    """One training; what its phases are."""
    pl.seed_everything(seed, verbose=False)
    model = CausalLM(AttentionOnly(IDS, layers=layers), lr=3e-3)
    sequences = RepeatedSegments(BATCH * args.steps, ids=IDS, seed=2 * seed)
    held_out = RepeatedSegments(256, ids=IDS, seed=2 * seed + 1)
    watching = callbacks(args)
    trainer = pl.Trainer(
        max_steps=args.steps,
        callbacks=watching,
        logger=TensorBoardLogger(args.logdir, name=name, default_hp_metric=False),
        accelerator="cpu",
        devices=1,
        enable_checkpointing=False,
        enable_model_summary=False,
        log_every_n_steps=10,
    )
    trainer.fit(model, DataLoader(sequences, BATCH), DataLoader(held_out, 64))
    (phases,) = (one for one in watching if isinstance(one, TrainingPhases))
    return phases


def table(runs: dict[str, TrainingPhases]) -> str:
    """A line a step, a column a run."""
    series = {name: dict(zip(*phases.series("val_loss"), strict=True)) for name, phases in runs.items()}
    steps = sorted({step for losses in series.values() for step in losses})
    rows = [{"step": step, **{name: losses[step] for name, losses in series.items()}} for step in steps]
    return Readings(rows).table({name: name for name in series}, digits=2)


if __name__ == "__main__":
    main()
