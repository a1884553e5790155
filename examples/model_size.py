"""Two sizes of a model, compared over seeds: means with their 95 % intervals.

Encoder–decoders of two widths learn to turn sentences into logical forms, as in ``two_phases.py``, each from several
seeds. What each run read is one table; ``compare`` averages those of a width and draws both. Whether larger models
compress more, tested over sizes, seeds and data: ``benchmarks/studies/model_size.py``.

    python examples/model_size.py
    python examples/model_size.py --widths 32 64 128 --seeds 5 --steps 2000
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Sequence
from pathlib import Path

import pytorch_lightning as pl
import torch

from lightning_interp import Readings, RepresentationGeometry, RepresentationStructure, ValidationSchedule, compare
from lightning_interp.datasets import GrammarDataModule
from lightning_interp.models import Seq2SeqModule
from lightning_interp.offline.compare import Comparison

KEYS = {
    "val_loss/dataloader_idx_0": "validation loss",
    "val_acc/dataloader_idx_1": "exact match on new combinations",
    "information/encoder": "information",
    "effective_rank/encoder": "effective rank",
}


def main(argv: Sequence[str] | None = None) -> Comparison:
    """Train each width from each seed, then compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--widths", type=int, nargs="+", default=[32, 64], help="default: 32 and 64")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each width; default: %(default)s")
    parser.add_argument("--steps", type=int, default=1000, help="optimizer steps; default: %(default)s")
    parser.add_argument("--logdir", type=Path, default=Path("logs/compare_sizes"), help="default: %(default)s")
    args = parser.parse_args(argv)
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    torch.set_num_threads(1)  # a model this small gains nothing from a second thread

    runs = {
        f"width {width}": [train(width, seed, args.steps, args.logdir) for seed in range(args.seeds)]
        for width in args.widths
    }
    comparison = compare(runs, list(KEYS))
    for key, name in KEYS.items():
        print(f"\n{name} at the end")
        for label in comparison.labels:
            row = [one for one in comparison.table(key) if one["label"] == label][-1]
            print(f"  {label:10} {row['mean']:8.3f}   ({row['low']:.3f} to {row['high']:.3f})")
    picture = args.logdir / "model_size.png"
    comparison.plot(title="Two sizes of a small transformer").savefig(picture, dpi=110)
    print(f"\npicture: {picture}\nreadings: {args.logdir}/width_*_seed_*/**/readings.csv")
    return comparison


def train(width: int, seed: int, steps: int, logdir: Path) -> Readings:
    """One training; what it read."""
    pl.seed_everything(seed, verbose=False)
    data = GrammarDataModule(seed=seed)
    model = Seq2SeqModule(
        len(data.source_vocabulary), len(data.target_vocabulary), d_model=width, feedforward=4 * width
    )
    sites = {"encoder": "model.encoder"}
    readers = [
        RepresentationStructure(sites, labels=["token"], draw_figures=False),
        RepresentationGeometry(sites, draw_figures=False),
    ]
    trainer = pl.Trainer(
        max_steps=steps,
        callbacks=[ValidationSchedule(steps="log", per_decade=8, start=10), *readers],
        accelerator="cpu",
        default_root_dir=logdir / f"width_{width}_seed_{seed}",
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
    )
    trainer.fit(model, datamodule=data)
    return Readings.of(*readers)


if __name__ == "__main__":
    main()
