"""Two processes, one set of values: a training under DDP whose readings are those of a single process.

Under DDP each process validates on its share of the data, and the sampler repeats an example where shares would be
unequal. The callbacks merge what the processes have read before anything is computed, leave repeated examples out, and
log the result on every rank. This trains on two processes on the CPU, then reads the finished model over all the data
in one process, and prints both.

    python examples/ddp.py
    python examples/ddp.py --devices 3 --steps 200
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Sequence

import pytorch_lightning as pl
import torch
from torch import distributed

from lightning_interp import RepresentationGeometry, RepresentationStructure, ValidationSchedule, analyze
from lightning_interp.datasets import GrammarDataModule
from lightning_interp.models import Seq2SeqModule


def main(argv: Sequence[str] | None = None) -> dict[str, float]:
    """Train under DDP, and print the last reading beside that of one process: the differences by key."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", type=int, default=2, help="processes; default: %(default)s")
    parser.add_argument("--steps", type=int, default=100, help="optimizer steps; default: %(default)s")
    args = parser.parse_args(argv)
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    torch.set_num_threads(1)  # a model this small gains nothing from a second thread
    pl.seed_everything(0)

    data = GrammarDataModule(val_examples=401)  # not to be divided by two: the sampler repeats one
    model = Seq2SeqModule(len(data.source_vocabulary), len(data.target_vocabulary))
    sites = {"encoder": "model.encoder"}
    files = {"write_csv": False, "draw_figures": False}
    readers = [
        RepresentationStructure(sites, labels=["token", "bigram"], **files),
        RepresentationGeometry(sites, **files),
    ]
    trainer = pl.Trainer(
        callbacks=[ValidationSchedule(steps="log", per_decade=4), *readers],
        max_steps=args.steps,
        accelerator="cpu",
        devices=args.devices,
        strategy="ddp",
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
    )
    trainer.fit(model, datamodule=data)

    # What every rank holds, apart from how long it took.
    held = {key: value for reader in readers for key, value in reader.reading.items() if "seconds/" not in key}
    by_rank = [held] * args.devices
    if args.devices > 1:
        distributed.all_gather_object(by_rank, held)
        distributed.destroy_process_group()  # from here on each process is alone
    alone = analyze(model, data.val_dataloader()[0], readers)

    # Of values above 1, such as ranks, the relative difference.
    differences = {key: abs(value - alone[key]) / max(1, abs(alone[key])) for key, value in held.items()}
    if trainer.is_global_zero:
        print(f"{'':45}  {args.devices} processes  one process")
        for key in (key for reader in readers for key in reader.logged_keys(model) if key in held):
            print(f"{key:45}  {held[key]:11.6f}  {alone[key]:11.6f}")
        same = all(values == held for values in by_rank)
        print(f"\nall {args.devices} ranks hold the same values: {'yes' if same else 'no'}")
        print(f"largest difference from one process, of {len(held)} values: {max(differences.values()):.1e}")
    return differences


if __name__ == "__main__":
    main()
