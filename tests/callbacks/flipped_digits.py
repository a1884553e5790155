"""Digits of which a tenth of the labels are flipped, and a small network that learns them."""

from __future__ import annotations

import pytorch_lightning as pl
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

SHARE = 0.1


class Digits(Dataset):
    """Pictures of digits, their labels as given, and which of them were flipped; from ``start`` on in a fixed order."""

    def __init__(self, number: int = 1000, start: int = 0, flipped: float = SHARE, seed: int = 0) -> None:
        pictures, labels = load_digits(return_X_y=True)
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))[start : start + number]
        draw = torch.Generator().manual_seed(seed + 1)
        self.pictures = torch.tensor(pictures, dtype=torch.float32)[order] / 16
        self.right = torch.tensor(labels)[order]
        self.flipped = torch.rand(number, generator=draw) < flipped
        other = (self.right + torch.randint(1, 10, (number,), generator=draw)) % 10
        self.labels = torch.where(self.flipped, other, self.right)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {
            "x": self.pictures[index],
            "label": self.labels[index],
            "flipped": self.flipped[index],
            "number": torch.tensor(index),
        }


class Net(pl.LightningModule):
    """One hidden layer."""

    def __init__(self, rate: float = 0.5, seed: int = 0, optimizer: str = "SGD", dropout: float = 0.0) -> None:
        super().__init__()
        self.rate, self.optimizer_name = rate, optimizer
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.body = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Dropout(dropout))
            self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        return functional.cross_entropy(self(batch["x"]), batch["label"])

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
        self.log("val_loss", functional.cross_entropy(self(batch["x"]), batch["label"]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        kind: type[torch.optim.Optimizer] = getattr(torch.optim, self.optimizer_name)
        return kind(self.parameters(), lr=self.rate)  # type: ignore[call-arg]


def validation(number: int = 200) -> DataLoader:
    return DataLoader(Digits(number, start=1500, flipped=0.0), batch_size=100)
