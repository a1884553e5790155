"""The main job: watch what a transformer's representations do while it learns a compositional task.

A small encoder–decoder learns to turn sentences into logical forms. It is validated on sentences like those it was
trained on and on new combinations of familiar words. At log-spaced steps the callbacks read how its encoder represents
words; everything is in TensorBoard, in ``readings.csv`` and in one picture.

    python examples/two_phases.py
    python examples/two_phases.py --seeds 5
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

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import TensorBoardLogger

from lightning_interp import RepresentationGeometry, RepresentationStructure, ValidationAnalysis, ValidationSchedule
from lightning_interp.datasets import CogsDataModule, GrammarDataModule, ScanDataModule, Seq2SeqDataModule
from lightning_interp.figures import measure_curves
from lightning_interp.history import merge_rows
from lightning_interp.models import Seq2SeqModule

Rows = list[dict[str, float]]

# Column of the table → key of the reading.
COLUMNS = {
    "val loss": "val_loss/dataloader_idx_0",
    "in-dist": "val_acc/dataloader_idx_0",
    "out-of-d": "val_acc/dataloader_idx_1",
    "H(Z)": "information/encoder",
    "H binned": "binned_information/encoder",
    "reg token": "regularity_above_chance/encoder/token",
    "reg bigram": "regularity_above_chance/encoder/bigram",
    "dis token": "disentanglement_above_chance/encoder/token",
    "eff rank": "effective_rank/encoder",
}


IN_DISTRIBUTION, OUT_OF_DISTRIBUTION = "val_acc/dataloader_idx_0", "val_acc/dataloader_idx_1"

# What the summary of several seeds follows through the second phase.
CHANGES = {
    "out-of-distribution": OUT_OF_DISTRIBUTION,
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
    return GrammarDataModule(seed=seed)


def main(argv: Sequence[str] | None = None) -> list[Rows]:
    """Train once for each seed, and return the readings of each run, a row a validation."""
    args = parse(argv)
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    # A model this small gains nothing from a second thread, and loses much where the other core is busy.
    torch.set_num_threads(1)
    runs = [run(args, seed) for seed in range(args.seed, args.seed + args.seeds)]
    if args.seeds > 1:
        print(summary(runs))
    return runs


def make_readers() -> list[ValidationAnalysis]:
    """What is read: the output of the encoder, one vector a word."""
    sites = {"encoder": "model.encoder"}
    return [
        RepresentationStructure(
            sites, labels=["token", "bigram"], estimator="both", information_plane=["token", "next_token"], shuffles=2
        ),
        RepresentationGeometry(sites),
    ]


def run(args: argparse.Namespace, seed: int) -> Rows:
    """One training with its readings, its picture and its table."""
    pl.seed_everything(seed)
    data = load_data(args, seed)
    model = Seq2SeqModule(len(data.source_vocabulary), len(data.target_vocabulary))
    readers = make_readers()
    trainer = pl.Trainer(
        max_steps=args.steps,
        callbacks=[ValidationSchedule(steps="log", per_decade=10, start=10), *readers],
        logger=TensorBoardLogger(args.logdir, name=f"two_phases_{args.dataset}", version=f"seed_{seed}"),
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
        curves(rows, f"{args.dataset}, seed {seed}").savefig(picture, dpi=110)
        spent = sum(value for row in rows for key, value in row.items() if key.startswith("seconds/"))
        print(f"\n{args.steps} steps in {seconds:.0f} s; {len(rows)} readings took {spent:.1f} s of them")
        print(f"picture:  {picture}\nreadings: {folder / 'readings.csv'}\ncurves:   tensorboard --logdir {args.logdir}")
    return rows


def table(rows: Rows) -> str:
    """The readings as text, a line a validation."""
    lines = ["  ".join(["  step", *(f"{name:>10}" for name in COLUMNS)])]
    for row in rows:
        cells = (f"{row[key]:10.4f}" if key in row else f"{'':>10}" for key in COLUMNS.values())
        lines.append("  ".join([f"{row['step']:6.0f}", *cells]))
    return "\n".join(lines)


def summary(runs: list[Rows]) -> str:
    """Mean ± standard deviation over seeds, a line a validation, and what held in how many of them."""
    lines = ["", f"mean ± sd over {len(runs)} seeds", "  ".join(["  step", *(f"{name:>15}" for name in COLUMNS)])]
    for same in zip(*runs, strict=True):
        cells = []
        for key in COLUMNS.values():
            found = [row[key] for row in same if key in row]
            cells.append(f"{mean(found):.3f} ± {stdev(found):.3f}" if len(found) > 1 else "")
        lines.append("  ".join([f"{same[0]['step']:6.0f}", *(f"{cell:>15}" for cell in cells)]))
    lines.append("\nphase two: from in-distribution exact match of .99 to the end")
    solved = [later for rows in runs if (later := [row for row in rows if row[IN_DISTRIBUTION] >= 0.99])]
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
        changes = [later[-1][key] - later[0][key] for later in solved]
        if len(changes) > 1:
            rises = sum(change > 0 for change in changes)
            spread = f"{mean(changes):+.4f} ± {stdev(changes):.4f}"
            lines.append(f"  {name:24} {spread:18} rises in {rises} of {len(changes)}")
    return "\n".join(lines)


def curves(rows: Rows, title: str) -> object:
    """One picture: task, information, and structure over log-scaled steps."""
    panels = {
        "validation loss": {
            "in distribution": "val_loss/dataloader_idx_0",
            "out of distribution": "val_loss/dataloader_idx_1",
        },
        "exact match": {
            "in distribution": "val_acc/dataloader_idx_0",
            "out of distribution": "val_acc/dataloader_idx_1",
        },
        "information H(Z), share of maximum": {"soft": "information/encoder", "binned": "binned_information/encoder"},
        "regularity above chance": {name: f"regularity_above_chance/encoder/{name}" for name in ("token", "bigram")},
        "disentanglement above chance, nats": {
            name: f"disentanglement_above_chance/encoder/{name}" for name in ("token", "bigram")
        },
        "effective rank": {"covariance": "effective_rank/encoder", "RankMe": "rankme/encoder"},
    }
    drawn = {
        panel: {
            label: ([int(row["step"]) for row in rows if key in row], [row[key] for row in rows if key in row])
            for label, key in lines.items()
        }
        for panel, lines in panels.items()
    }
    return measure_curves(drawn, title)


if __name__ == "__main__":
    main()
