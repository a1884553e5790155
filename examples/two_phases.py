"""The main job: watch what a transformer's representations do while it learns a compositional task.

A small encoder–decoder learns to turn sentences into logical forms. It is validated on sentences like those it was
trained on and on new combinations of familiar words. At log-spaced steps the callbacks read how its encoder represents
words and how much of what it has learned survives noise at its input, and tell when the second phase of training
begins; everything is in TensorBoard, in ``readings.csv`` and in one picture.

    python examples/two_phases.py
    python examples/two_phases.py --seeds 5
    python examples/two_phases.py --seeds 5 --dropout 0
    python examples/two_phases.py --seeds 5 --weight-decay 0.5
    python examples/two_phases.py --dataset scan --steps 1600 --seed 1
    python examples/two_phases.py --dataset cogs --data-dir path/to/cogs
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import NamedTuple

import pytorch_lightning as pl
import torch
from matplotlib.figure import Figure
from pytorch_lightning.loggers import TensorBoardLogger

from lightning_interp import (
    NoiseRobustness,
    RepresentationGeometry,
    RepresentationStructure,
    TrainingPhases,
    ValidationAnalysis,
    ValidationSchedule,
)
from lightning_interp.datasets import CogsDataModule, GrammarDataModule, ScanDataModule, Seq2SeqDataModule
from lightning_interp.figures import training_phases
from lightning_interp.history import merge_rows
from lightning_interp.models import Seq2SeqModule
from lightning_interp.schedule import log_spaced_steps

Rows = list[dict[str, float]]


class Run(NamedTuple):
    """What is left of a training."""

    rows: Rows
    """The readings, a row a validation."""
    conclusion: str
    """Which phase it ended in, since when, and why."""
    began: float | None
    """The step at which phase two began."""


VAL_LOSS, IN_DISTRIBUTION, OUT_OF_DISTRIBUTION = (
    "val_loss/dataloader_idx_0",
    "val_acc/dataloader_idx_0",
    "val_acc/dataloader_idx_1",
)
ROBUSTNESS = "robustness/input/val_acc"
DRIFT = "drift/input/encoder/0.25"

# Column of the table → key of the reading.
COLUMNS = {
    "val loss": VAL_LOSS,
    "in-dist": IN_DISTRIBUTION,
    "out-of-d": OUT_OF_DISTRIBUTION,
    "robust": ROBUSTNESS,
    "drift": DRIFT,
    "H(Z)": "information/encoder",
    "H binned": "binned_information/encoder",
    "reg token": "regularity_above_chance/encoder/token",
    "reg bigram": "regularity_above_chance/encoder/bigram",
    "dis token": "disentanglement_above_chance/encoder/token",
    "eff rank": "effective_rank/encoder",
}

# What the summary of several seeds follows through the second phase.
CHANGES = {
    "out-of-distribution": OUT_OF_DISTRIBUTION,
    "robustness, input": ROBUSTNESS,
    "robustness, embedding": "robustness/embedding/val_acc",
    "exact match under noise": "under_noise/input/val_acc",
    "drift .25, input": DRIFT,
    "drift .25, embedding": "drift/embedding/encoder/0.25",
    "H(Z) soft": "information/encoder",
    "H(Z) binned": "binned_information/encoder",
    "variation token": "variation/encoder/token",
    "regularity token": "regularity_above_chance/encoder/token",
    "regularity bigram": "regularity_above_chance/encoder/bigram",
    "disentanglement token": "disentanglement_above_chance/encoder/token",
    "disentanglement bigram": "disentanglement_above_chance/encoder/bigram",
    "effective rank": "effective_rank/encoder",
    "anisotropy": "anisotropy/encoder",
    "curvature": "curvature/encoder",
}


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Command line → settings."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--dataset", choices=("grammar", "scan", "cogs"), default="grammar", help="default: %(default)s"
    )
    parser.add_argument("--data-dir", type=Path, help="folder with the files of COGS or SLOG")
    parser.add_argument("--seed", type=int, default=0, help="of data, weights and batches; default: %(default)s")
    parser.add_argument("--seeds", type=int, default=1, help="runs, from --seed on; default: %(default)s")
    parser.add_argument("--steps", type=int, default=2000, help="optimizer steps; default: %(default)s")
    parser.add_argument("--dropout", type=float, default=0.1, help="default: %(default)s")
    parser.add_argument("--weight-decay", type=float, default=0.0, help="of AdamW; default: %(default)s, which is Adam")
    parser.add_argument("--devices", type=int, default=1, help="processes, under DDP if several; default: %(default)s")
    parser.add_argument("--accelerator", default="cpu", help="as for Trainer; default: %(default)s")
    parser.add_argument("--logdir", type=Path, default=Path("logs"), help="default: %(default)s")
    args = parser.parse_args(argv)
    if args.dataset == "cogs" and args.data_dir is None:
        parser.error("--dataset cogs needs --data-dir, the folder that holds train.tsv, dev.tsv and gen.tsv")
    return args


def load_data(args: argparse.Namespace, seed: int) -> Seq2SeqDataModule:
    """The data module of the chosen task."""
    if args.dataset == "scan":
        return ScanDataModule(data_dir=args.data_dir, seed=seed)
    if args.dataset == "cogs":
        # Validating on all 24,000 sentences at every reading would take far longer than the training.
        return CogsDataModule(args.data_dir, max_target_length=100, val_examples=500, ood_examples=1050, seed=seed)
    # Four batches of each validation set: their spread tells the noise of a metric.
    return GrammarDataModule(val_batch_size=100, seed=seed)


def main(argv: Sequence[str] | None = None) -> list[Run]:
    """Train once for each seed."""
    args = parse(argv)
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    # A model this small gains nothing from a second thread, and loses much where the other core is busy.
    torch.set_num_threads(1)
    runs = [train(args, seed) for seed in range(args.seed, args.seed + args.seeds)]
    if args.seeds > 1:
        print(summary(runs))
    return runs


def make_readers() -> list[ValidationAnalysis]:
    """What is read: the output of the encoder, one vector a word, and what noise at the input does to it."""
    sites = {"encoder": "model.encoder"}
    return [
        RepresentationStructure(
            sites, labels=["token", "bigram"], estimator="both", information_plane=["token", "next_token"], shuffles=2
        ),
        RepresentationGeometry(sites),
        NoiseRobustness(
            # Words with their positions, and words alone: an embedding that outgrows the positions is more robust at
            # the first site without having become so at the second.
            {"input": "model.source_input", "embedding": "model.source_embedding"},
            scales=(0.1, 0.25, 0.5, 1.0),
            monitors={"val_loss": "loss", "val_acc": "score"},
            drift=sites,
            every_n_validations=2,
        ),
    ]


def reading_steps(last: int) -> list[int]:
    """Steps at equal distances on a logarithmic axis, closer from 200 on: there accuracy goes from 0 to 1."""
    return [
        *log_spaced_steps(per_decade=12, start=10, stop=190),
        *log_spaced_steps(per_decade=32, start=200, stop=last),
    ]


def make_phases() -> TrainingPhases:
    """Tells when the second phase begins."""
    return TrainingPhases(
        loss=VAL_LOSS,
        improving={ROBUSTNESS: "max", OUT_OF_DISTRIBUTION: "max"},
        keys=["information/encoder", "regularity_above_chance/encoder/token", "regularity_above_chance/encoder/bigram"],
    )


def train(args: argparse.Namespace, seed: int) -> Run:
    """One training with its readings, its picture and its table."""
    pl.seed_everything(seed)
    data = load_data(args, seed)
    model = Seq2SeqModule(
        len(data.source_vocabulary),
        len(data.target_vocabulary),
        dropout=args.dropout,
        weight_decay=args.weight_decay,
    )
    readers, phases = make_readers(), make_phases()
    trainer = pl.Trainer(
        max_steps=args.steps,
        callbacks=[ValidationSchedule(steps=reading_steps(args.steps)), *readers, phases],
        logger=TensorBoardLogger(args.logdir, name=name_of(args), version=f"seed_{seed}", default_hp_metric=False),
        accelerator=args.accelerator,
        devices=args.devices,
        strategy="ddp" if args.devices > 1 else "auto",
        enable_checkpointing=False,
        enable_model_summary=False,
        log_every_n_steps=10,
    )
    started = time.perf_counter()
    trainer.fit(model, datamodule=data)
    seconds = time.perf_counter() - started

    rows = merge_rows(reader.history for reader in readers)
    if trainer.is_global_zero:
        print(table(rows))
        folder = Path(trainer.logger.log_dir)
        picture = folder / "two_phases.png"
        what = f"{name_of(args).removeprefix('two_phases_')}, seed {seed}"
        curves(rows, phases, f"A small transformer while it learns ({what})").savefig(picture, dpi=110)
        spent = sum(value for row in rows for key, value in row.items() if key.startswith("seconds/"))
        print(f"\n{phases.conclusion}")
        print(f"\n{args.steps} steps in {seconds:.0f} s; {len(rows)} readings took {spent:.1f} s of them")
        print(f"picture:  {picture}\nreadings: {folder / 'readings.csv'}\ncurves:   tensorboard --logdir {args.logdir}")
    begun = phases.standing.boundaries
    return Run(rows, phases.conclusion, begun[0].step if begun else None)


def name_of(args: argparse.Namespace) -> str:
    """The folder of a run: the data, and what differs from the usual recipe."""
    recipe = {"dropout": (args.dropout, 0.1), "decay": (args.weight_decay, 0.0)}
    changed = [f"{name}_{given:g}" for name, (given, usual) in recipe.items() if given != usual]
    return "_".join(["two_phases", args.dataset, *changed])


def table(rows: Rows) -> str:
    """The readings as text, a line a validation."""
    lines = ["  ".join(["  step", *(f"{name:>10}" for name in COLUMNS)])]
    for row in rows:
        cells = (f"{row[key]:10.4f}" if key in row else f"{'':>10}" for key in COLUMNS.values())
        lines.append("  ".join([f"{row['step']:6.0f}", *cells]))
    return "\n".join(lines)


def summary(runs: list[Run]) -> str:
    """Mean ± standard deviation over seeds, a line a validation, and what held in how many of them."""
    lines = ["", f"mean ± sd over {len(runs)} seeds", "  ".join(["  step", *(f"{name:>15}" for name in COLUMNS)])]
    for same in zip(*(run.rows for run in runs), strict=True):
        cells = []
        for key in COLUMNS.values():
            found = [row[key] for row in same if key in row]
            cells.append(f"{mean(found):.3f} ± {stdev(found):.3f}" if len(found) > 1 else "")
        lines.append("  ".join([f"{same[0]['step']:6.0f}", *(f"{cell:>15}" for cell in cells)]))
    lines += ["", "where phase two began, as the readings of the run tell it", *(f"  {run.conclusion}" for run in runs)]

    lines.append("\nfrom in-distribution exact match of .99 to the end")
    solved = [later for run in runs if (later := [row for row in run.rows if row[IN_DISTRIBUTION] >= 0.99])]
    lines.append(
        f"reached in {len(solved)} of {len(runs)} runs, at steps {[int(later[0]['step']) for later in solved]}"
    )
    best = [max(row[OUT_OF_DISTRIBUTION] for row in later) - 0.02 for later in solved]
    settled = [
        int(next(row["step"] for row in later if row[OUT_OF_DISTRIBUTION] >= level))
        for later, level in zip(solved, best, strict=True)
    ]
    lines.append(f"out-of-distribution exact match comes within .02 of its best at steps {settled}")
    for name, key in CHANGES.items():
        read = [[row[key] for row in later if key in row] for later in solved]
        ends = [(values[0], values[-1]) for values in read if values]
        if len(ends) > 1:
            changes = [last - first for first, last in ends]
            shares = [100 * (last / first - 1) for first, last in ends]
            spread = f"{mean(changes):+.4f} ± {stdev(changes):.4f}"
            rises = f"rises in {sum(change > 0 for change in changes)} of {len(changes)}"
            each = " ".join(f"{change:+.3f}" for change in changes)
            lines.append(f"  {name:24} {spread:18} {mean(shares):+7.1f} %   {rises}   ({each})")
    # Accuracy on new combinations wanders from reading to reading: the second half of the run on the log axis is
    # steadier than its last reading.
    late = [
        [row[OUT_OF_DISTRIBUTION] for row in later if row["step"] ** 2 >= later[0]["step"] * later[-1]["step"]]
        for later in solved
    ]
    rise = [mean(values) - later[0][OUT_OF_DISTRIBUTION] for values, later in zip(late, solved, strict=True)]
    drift = [[row[DRIFT] for row in later if DRIFT in row] for later in solved]
    fall = [1 - values[-1] / values[0] for values in drift if values]
    each = " ".join(f"{one:+.3f}" for one in rise)
    lines.append(f"out-of-distribution exact match, mean of the second half (log steps) less the beginning: {each}")
    lines.append(f"it rises by .1 or more in {sum(one >= 0.1 for one in rise)} of {len(rise)} runs")
    lines.append(f"drift falls by 20 % or more in {sum(one >= 0.2 for one in fall)} of {len(fall)} runs")
    return "\n".join(lines)


def curves(rows: Rows, phases: TrainingPhases, title: str) -> Figure:
    """One picture: task, robustness and structure over log-scaled steps, phases shaded."""
    panels = {
        "validation loss": {"familiar combinations": VAL_LOSS, "new combinations": "val_loss/dataloader_idx_1"},
        "exact match, share of sentences": {
            "familiar combinations": IN_DISTRIBUTION,
            "new combinations": OUT_OF_DISTRIBUTION,
        },
        "share kept under noise at the input": {"": ROBUSTNESS},
        "words in the encoder, above chance": {
            "regularity": "regularity_above_chance/encoder/token",
            "disentanglement": "disentanglement_above_chance/encoder/token",
        },
    }
    drawn = {
        panel: {label: series(rows, key) for label, key in lines.items() if series(rows, key)[0]}
        for panel, lines in panels.items()
    }
    begun = phases.standing.boundaries
    starts = [rows[0]["step"], *(at.step for at in begun)]
    shaded = list(zip(starts, [*starts[1:], None], phases.names, strict=False))
    return training_phases(
        {panel: lines for panel, lines in drawn.items() if lines},
        phases=shaded,
        title=title,
        note=f"phase two begins on the plateau of the loss, at {begun[0]}" if begun else "no second phase was found",
        log_y=["validation loss"],
    )


def series(rows: Rows, key: str) -> tuple[list[int], list[float]]:
    """Steps and values of a key, where it was read."""
    return [int(row["step"]) for row in rows if key in row], [row[key] for row in rows if key in row]


if __name__ == "__main__":
    main()
