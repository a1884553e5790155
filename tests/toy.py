"""A small model and data that train in a second: sequences with padding, a tagging loss, dropout, torchmetrics."""

from __future__ import annotations

import tempfile

import pytorch_lightning as pl
import torch
import torch.distributed as dist
import torchmetrics
from torch import nn
from torch.utils.data import DataLoader, Dataset

from lightning_interp import ValidationAnalysis

VOCABULARY = 12


class Sequences(Dataset):
    """Random sequences of unequal length; the tag of a position is a function of it and its neighbour."""

    def __init__(self, number: int, length: int = 7, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.ids = torch.randint(1, VOCABULARY, (number, length), generator=generator)
        lengths = torch.randint(2, length + 1, (number,), generator=generator)
        self.mask = torch.arange(length) < lengths[:, None]
        self.ids = self.ids * self.mask
        self.tags = (self.ids + self.ids.roll(1, 1)) % 3

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {
            "input_ids": self.ids[index],
            "attention_mask": self.mask[index].long(),
            "tags": self.tags[index],
            "sentence": torch.tensor(index % 4),
        }


class Attention(nn.Module):
    """Attention without weights of its own, whose result goes nowhere: something to be seen."""

    def forward(self, x: torch.Tensor) -> None:
        heads = x.detach().unflatten(-1, (1, -1)).transpose(1, 2)
        nn.functional.scaled_dot_product_attention(heads, heads, heads, is_causal=True)


class Embedding(nn.Embedding):
    """One that looks at what it returns, in every model that calls it."""

    def __init__(self, number: int, width: int) -> None:
        super().__init__(number, width)
        self.attention = Attention()

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        embedded = super().forward(ids)
        self.attention(embedded)
        return embedded


class Tagger(pl.LightningModule):
    def __init__(self, width: int = 8, lr: float = 1e-2, seed: int = 0) -> None:
        super().__init__()
        self.save_hyperparameters()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.embedding = Embedding(VOCABULARY, width)
            self.encoder = nn.Sequential(nn.Linear(width, width), nn.ReLU(inplace=True), nn.Dropout(0.2))
            self.head = nn.Linear(width, 3)
        self.accuracy = torchmetrics.MeanMetric()
        self.collected: list[float] = []

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.encoder(self.embedding(input_ids)))

    def _loss(self, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        logits, mask = self(batch["input_ids"]), batch["attention_mask"].bool()
        hit = (logits.argmax(-1) == batch["tags"])[mask].float()
        return nn.functional.cross_entropy(logits[mask], batch["tags"][mask]), hit

    def training_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        loss, _ = self._loss(batch)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: dict[str, torch.Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
        loss, hit = self._loss(batch)
        self.accuracy.update(hit)
        self.collected.append(loss.item())
        self.log("val_loss", loss, sync_dist=True, batch_size=len(batch["input_ids"]))
        self.log("val_acc", self.accuracy)

    def on_validation_epoch_end(self) -> None:
        self.log("val_loss_collected", sum(self.collected) / len(self.collected), sync_dist=True)
        self.collected.clear()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=self.hparams["lr"])


def loader(number: int = 40, batch_size: int = 8, seed: int = 0, **kwargs: object) -> DataLoader:
    return DataLoader(Sequences(number, seed=seed), batch_size=batch_size, **kwargs)


def trainer(folder: object, callbacks: list[pl.Callback], **kwargs: object) -> pl.Trainer:
    settings: dict[str, object] = {
        "max_epochs": 2,
        "accelerator": "cpu",
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
        "default_root_dir": str(folder),
    }
    return pl.Trainer(callbacks=callbacks, **{**settings, **kwargs})


def run_again(module: pl.LightningModule) -> bool:
    """Whether a step of the module is not the Trainer's own: what it logs goes elsewhere."""
    return "collector" in getattr(vars(module).get("log"), "__qualname__", "")


class Norm(torchmetrics.MeanMetric):
    """Mean length of the vectors that count: a metric of another package."""

    def update(self, representations: torch.Tensor, mask: torch.Tensor) -> None:
        super().update(representations.norm(dim=-1)[mask])


def timeless(callback: ValidationAnalysis) -> list[tuple[int, int, int, dict[str, float]]]:
    """The readings without how long they took."""
    return [
        (one.step, one.epoch, one.index, {key: value for key, value in one.values.items() if "seconds/" not in key})
        for one in callback.history.readings
    ]


def validated(callback: ValidationAnalysis, model: pl.LightningModule, data: DataLoader) -> dict[str, float]:
    """What a callback reads in a validation run over the ranks that there are, without how long it took."""
    several = {"devices": dist.get_world_size(), "strategy": "ddp"} if dist.is_initialized() else {}
    trainer(tempfile.mkdtemp(), [callback], **several).validate(model, data, verbose=False)
    return {key: value for key, value in callback.reading.items() if "seconds" not in key}
