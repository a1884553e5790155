"""The main job over seeds and recipes: what holds in the second phase of training.

``examples/two_phases.py`` with other data, other recipes, several processes, and several seeds, over which it is told
when phase two begins and what changes in it.

    python benchmarks/studies/two_phases.py --seeds 5
    python benchmarks/studies/two_phases.py --seeds 5 --dropout 0
    python benchmarks/studies/two_phases.py --seeds 5 --weight-decay 0.5
    python benchmarks/studies/two_phases.py --dataset scan --steps 1600 --seed 1
    python benchmarks/studies/two_phases.py --dataset cogs --data-dir path/to/cogs
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, median, stdev
from typing import NamedTuple

import pytorch_lightning as pl
import torch

from lightning_interp import Readings
from lightning_interp.datasets import CogsDataModule, GrammarDataModule, ScanDataModule, Seq2SeqDataModule
from lightning_interp.models import Seq2SeqModule

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
from two_phases import COLUMNS, DRIFT, IN_DISTRIBUTION, OUT_OF_DISTRIBUTION, ROBUSTNESS
from two_phases import train as train_example


class Run(NamedTuple):
    """What is left of a training."""

    rows: Readings
    """The readings, a row a validation."""
    conclusion: str
    """Which phase it ended in, since when, and why."""
    began: float | None
    """The step at which phase two began, as all readings tell it."""
    pointed_at: int | None
    """The step of the reading from which on it was provisional."""
    confirmed_at: int | None
    """The step of the reading that confirmed it."""


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
    # A model this small gains nothing from a second thread, and loses much where the other core is busy.
    torch.set_num_threads(1)
    runs = [train(args, seed) for seed in range(args.seed, args.seed + args.seeds)]
    if args.seeds > 1:
        print(summary(runs))
    return runs


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
    readings, phases = train_example(
        model,
        data,
        args.steps,
        args.logdir,
        f"{name_of(args)}/seed_{seed}",
        accelerator=args.accelerator,
        devices=args.devices,
        strategy="ddp" if args.devices > 1 else "auto",
    )
    found = phases.standing
    return Run(
        readings,
        phases.conclusion,
        next((at.step for at in found.boundaries), None),
        next(iter(found.pointed_at), None),
        next(iter(found.confirmed_at), None),
    )


def name_of(args: argparse.Namespace) -> str:
    """The folder of a run: the data, and what differs from the usual recipe."""
    recipe = {"dropout": (args.dropout, 0.1), "decay": (args.weight_decay, 0.0)}
    changed = [f"{name}_{given:g}" for name, (given, usual) in recipe.items() if given != usual]
    return "_".join(["two_phases", args.dataset, *changed])


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
    lines += ["", *delays(runs)]

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


def delays(runs: list[Run]) -> list[str]:
    """When each run was known to be in phase two, and how long after it began."""
    lines = ["phase two: began at step, provisional at, confirmed at, and how many readings after it began"]
    waits: dict[str, list[int]] = {"provisional": [], "confirmed": []}
    for run in runs:
        if run.began is None:
            lines.append("  none")
            continue
        cells = [f"  began {run.began:5.0f}"]
        for (name, found), known in zip(waits.items(), (run.pointed_at, run.confirmed_at), strict=True):
            if known is not None:
                found.append(sum(run.began < row["step"] <= known for row in run.rows))
                cells.append(f"{name} {known:5d} (reading {found[-1]})")
        lines.append("  ".join(cells))
    told = (f"{name} {median(found):g}" for name, found in waits.items() if found)
    return [*lines, f"  median of readings until it was known: {', '.join(told)}"]


if __name__ == "__main__":
    main()
