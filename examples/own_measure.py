"""A measure of your own, in ten lines: any torchmetrics ``Metric`` whose ``update`` takes representations and mask.

``Sparsity`` is the share of a layer's activations that are close to zero. ``RepresentationMetrics`` keeps a copy of it
for every site, hands it the representations (B, T, D) and which positions are words (B, T), and logs what ``compute``
returns under ``sparsity/<site>``. Its states are sums that are summed over processes too, so that under DDP each of
them logs the value that one process gives for all samples.

    python examples/own_measure.py
    python examples/own_measure.py --devices 2
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Sequence

import pytorch_lightning as pl
import torch
from torch import Tensor
from torchmetrics import Metric

from lightning_interp import RepresentationMetrics
from lightning_interp.datasets import GrammarDataModule
from lightning_interp.models import Seq2SeqModule

SITES = {
    "embedding": "model.source_embedding",
    "layer_1": "model.encoder.layers.0",
    "layer_2": "model.encoder.layers.1",
}


class Sparsity(Metric):
    """Share of activations whose size is below a tenth of their vector's root-mean-square."""

    full_state_update = False  # what a batch adds does not depend on the batches before it

    def __init__(self) -> None:
        super().__init__()
        self.add_state("small", torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("seen", torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, representations: Tensor, mask: Tensor) -> None:
        """Count in the positions that are words; padding must not count."""
        words = mask[..., None]
        scale = representations.square().mean(-1, keepdim=True).sqrt()
        self.small += ((representations.abs() < scale / 10) & words).sum()
        self.seen += words.sum() * representations.shape[-1]

    def compute(self) -> Tensor:
        """A number, or a dict of numbers by name."""
        return self.small / self.seen


def main(argv: Sequence[str] | None = None) -> list[tuple[int, dict[str, float]]]:
    """Train, and print the measure at each site after each epoch."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=8, help="default: %(default)s")
    parser.add_argument("--batches", type=int, default=100, help="of an epoch; default: %(default)s")
    parser.add_argument("--devices", type=int, default=1, help="processes, under DDP if several; default: %(default)s")
    args = parser.parse_args(argv)
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    torch.set_num_threads(1)  # a model this small gains nothing from a second thread
    pl.seed_everything(0)

    data = GrammarDataModule()
    model = Seq2SeqModule(len(data.source_vocabulary), len(data.target_vocabulary))
    reader = RepresentationMetrics({"sparsity": Sparsity()}, sites=SITES, write_csv=False, draw_figures=False)
    trainer = pl.Trainer(
        callbacks=[reader],
        max_epochs=args.epochs,
        limit_train_batches=args.batches,
        accelerator="cpu",
        devices=args.devices,
        strategy="ddp" if args.devices > 1 else "auto",
        logger=False,  # with a logger the values are charts beside the loss
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
    )
    trainer.fit(model, datamodule=data)

    readings = [(reading.step, dict(reading.values)) for reading in reader.history.readings]
    if trainer.is_global_zero:
        keys = [key for key in reader.logged_keys(model) if key.startswith("sparsity/")]
        print("  ".join(["  step", *(f"{key:>24}" for key in keys)]))
        for step, values in readings:
            print("  ".join([f"{step:6}", *(f"{values[key]:24.6f}" for key in keys)]))
    return readings


if __name__ == "__main__":
    main()
