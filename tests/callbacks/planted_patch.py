"""A classifier of noisy images in which the brightness of a corner is the class."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader

from tests.toy import trainer

SIDE, PATCH = 16, 4
CORNER = slice(12, 16)
"""Rows and columns of the corner."""


def images(number: int, seed: int, shuffled: bool = False) -> list[dict[str, Tensor]]:
    """Noise with a corner that is bright or dark by the class, unless labels are shuffled."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randn(number, 3, SIDE, SIDE, generator=generator)
    label = torch.randint(0, 2, (number,), generator=generator)
    pixels[:, :, CORNER, CORNER] += 1.5 * (2 * label - 1).view(-1, 1, 1, 1)
    if shuffled:
        label = torch.randint(0, 2, (number,), generator=generator)
    marks = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    marks[CORNER, CORNER] = True
    return [{"pixels": one, "label": own, "is_cue": marks} for one, own in zip(pixels, label, strict=True)]


class Convolutional(pl.LightningModule):
    """The class of an image by a convolution and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Conv2d(3, 8, 4, stride=4), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 2))

    def forward(self, pixels: Tensor) -> Tensor:
        return self.net(pixels)  # type: ignore[no-any-return]

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        return functional.cross_entropy(self(batch["pixels"]), batch["label"])

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self.log("val_loss", self.training_step(batch, batch_idx))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=3e-3, weight_decay=0.1)


def trained(folder: Path, callbacks: list[Any], shuffled: bool = False, epochs: int = 12) -> Convolutional:
    model = Convolutional()
    rows = DataLoader(images(640, 0, shuffled), batch_size=32)
    trainer(folder, callbacks, max_epochs=epochs, num_sanity_val_steps=0).fit(
        model, rows, DataLoader(images(32, 1), batch_size=8)
    )
    return model
