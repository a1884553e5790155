"""A model that trains a single number and logs curves that are known beforehand, so that the right answer is known."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_interp import ValidationSchedule
from tests.toy import trainer

Curve = Callable[[int], float | None]

PLATEAU = 40
STEPS = 400


def noise(step: int, size: float, seed: int = 0) -> float:
    """The same pseudo-random number between -1.7 and 1.7 times ``size``, for each step: uniform, sd ``size``."""
    bits = math.sin(step * 12.9898 + seed * 78.233) * 43758.5453
    return size * math.sqrt(12) * (bits - math.floor(bits) - 0.5)


def falling_loss(step: int) -> float:
    """Falls by 2 a decade of steps until the plateau, where it stays."""
    return 3.0 - 2 * math.log10(min(step, PLATEAU)) + noise(step, 0.03)


def rising(step: int) -> float:
    """Rises by .2 a decade until the plateau, and by .3 after it."""
    late = max(math.log10(step / PLATEAU), 0.0)
    return 0.1 + 0.2 * math.log10(min(step, PLATEAU)) + 0.3 * late + noise(step, 0.01, 1)


def saturating(step: int) -> float:
    """Rises with the loss and stays where it is."""
    return 0.1 + 0.2 * math.log10(min(step, PLATEAU)) + noise(step, 0.01, 1)


def rising_until(last: int, then: float = 0.0) -> Curve:
    """Rises until a step and then changes by so much a decade."""

    def curve(step: int) -> float:
        return rising(min(step, last)) + then * max(math.log10(step / last), 0.0)

    return curve


class Scripted(pl.LightningModule):
    """Logs each curve's value at the present step at the end of every validation; nothing where it gives ``None``."""

    def __init__(self, curves: Mapping[str, Curve], per_rank: float = 0.0) -> None:
        super().__init__()
        self.curves, self.per_rank = dict(curves), per_rank
        self.number = nn.Parameter(torch.zeros(()))
        self.dropout = nn.Dropout(0.5)

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        return self.dropout(self.number - batch[0]).square().mean()

    def validation_step(self, batch: list[torch.Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
        pass

    def on_validation_epoch_end(self) -> None:
        for key, curve in self.curves.items():
            value = curve(max(self.global_step, 1))
            if value is not None:
                self.log(key, value + self.per_rank * self.global_rank, add_dataloader_idx=False)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 1e-3)


def data(number: int = 40) -> DataLoader:
    return DataLoader(TensorDataset(torch.arange(number) / number), batch_size=2, shuffle=False)


def run(
    folder: object,
    callbacks: list[pl.Callback],
    curves: Mapping[str, Curve] | Scripted,
    ckpt_path: object = None,
    per_decade: int = 12,
    **kwargs: object,
) -> pl.Trainer:
    """A fit with validations at log-spaced steps."""
    schedule = ValidationSchedule(per_decade=per_decade, start=3)
    settings = {"max_steps": STEPS, "max_epochs": -1, "num_sanity_val_steps": 0, **kwargs}
    fit = trainer(folder, [schedule, *callbacks], **settings)
    model = curves if isinstance(curves, Scripted) else Scripted(curves)
    fit.fit(model, data(), data(2), ckpt_path=ckpt_path)
    return fit
