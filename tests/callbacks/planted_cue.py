"""A classifier of texts in which one of two words is the class."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader

from tests.toy import trainer

CUES, LENGTH, WORDS = (3, 4), 12, 30


def cued(number: int, seed: int, shuffled: bool = False) -> list[dict[str, Tensor]]:
    """Texts of random words with one of two cues anywhere, which is the class unless labels are shuffled."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, WORDS, (number, LENGTH), generator=generator)
    label = torch.randint(0, 2, (number,), generator=generator)
    place = torch.randint(0, LENGTH, (number,), generator=generator)
    ids[torch.arange(number), place] = label + CUES[0]
    if shuffled:
        label = torch.randint(0, 2, (number,), generator=generator)
    mask = torch.ones(LENGTH, dtype=torch.long)
    marks = torch.isin(ids, torch.tensor(CUES))
    return [
        {"input_ids": row, "attention_mask": mask, "label": one, "is_cue": marked}
        for row, one, marked in zip(ids, label, marks, strict=True)
    ]


class Classifier(pl.LightningModule):
    """The class of a text by attention from a learned query."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(WORDS, width)
        self.look, self.carry, self.head = nn.Linear(width, 1), nn.Linear(width, width), nn.Linear(width, 2)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        x = self.embedding(input_ids)
        weights = self.look(x)[..., 0].masked_fill(attention_mask == 0, -1e9).softmax(1)
        return self.head((weights[..., None] * self.carry(x).relu()).sum(1))

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        return functional.cross_entropy(self(batch["input_ids"], batch["attention_mask"]), batch["label"])

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self.log("val_loss", self.training_step(batch, batch_idx))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=5e-3)


def trained(folder: Path, callbacks: list[Any], shuffled: bool = False, epochs: int = 20) -> Classifier:
    model = Classifier()
    rows = DataLoader(cued(320, 0, shuffled), batch_size=32)
    trainer(folder, callbacks, max_epochs=epochs, num_sanity_val_steps=0).fit(
        model, rows, DataLoader(cued(32, 1), batch_size=8)
    )
    return model
