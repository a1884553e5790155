"""A language model whose second layer holds what a test plants, and whose first layer holds noise."""

from __future__ import annotations

import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader

from lightning_interp.tasks import WordTokenizer

SITES = {"noise": "lm.layers.0", "planted": "lm.layers.1"}


class Lookup(nn.Module):
    """Every layer is a table over the words; logits are the scores of a third one."""

    def __init__(self, noise: torch.Tensor, planted: torch.Tensor, logits: torch.Tensor) -> None:
        super().__init__()
        tables = [nn.Embedding.from_pretrained(table.float(), freeze=False) for table in (noise, planted, logits)]
        self.layers, self.head = nn.ModuleList(tables[:2]).requires_grad_(False), tables[2]

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            layer(input_ids)
        return self.head(input_ids)


class Planted(pl.LightningModule):
    """Trains its head alone, so that what is planted stays."""

    def __init__(
        self, words: list[str], planted: torch.Tensor, logits: torch.Tensor | None = None, seed: int = 0
    ) -> None:
        super().__init__()
        self.tokenizer = WordTokenizer(words)
        generator = torch.Generator().manual_seed(seed)
        rows = torch.randn(len(self.tokenizer), planted.shape[1], generator=generator)
        noise = torch.randn(rows.shape, generator=generator)
        places = torch.tensor([self.tokenizer.encode(word, add_special_tokens=False)[0] for word in words])
        rows[places] = planted.float()
        scores = torch.zeros(len(self.tokenizer), len(self.tokenizer)) if logits is None else logits
        self.lm = Lookup(noise, rows, scores)

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        return nn.functional.cross_entropy(self.lm(batch)[:, :-1].transpose(1, 2), batch[:, 1:])

    def validation_step(self, batch: torch.Tensor, batch_idx: int) -> None:
        self.log("val_loss", self.training_step(batch, batch_idx), sync_dist=True, batch_size=len(batch))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.lm.head.parameters(), lr=1e-3)


def loader(number: int = 8, batch_size: int = 4) -> DataLoader:
    return DataLoader(torch.arange(number * 3).view(number, 3) % 7, batch_size=batch_size)
