"""Language models that attend, with data, for tests of what reads attention."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_interp.models import CausalLM, small_gpt2

LAYERS = {f"layer_{layer}": f"lm.transformer.h.{layer}.attn" for layer in range(2)}


def texts(number: int = 11, seed: int = 0) -> list[list[int]]:
    """Ids of unequal length."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(2, 30, (number,), generator=generator).tolist()
    return [torch.randint(1, 27, (length,), generator=generator).tolist() for length in lengths]


def padded(rows: list[list[int]], left: bool = False) -> dict[str, Tensor]:
    longest = max(map(len, rows))
    gaps = [[0] * (longest - len(row)) for row in rows]
    ids = torch.tensor([gap + row if left else row + gap for row, gap in zip(rows, gaps, strict=True)])
    return {"input_ids": ids, "attention_mask": (ids != 0).long()}


def padded_left(rows: list[list[int]]) -> dict[str, Tensor]:
    return padded(rows, left=True)


def loader(rows: list[list[int]] | None = None, left: bool = False, batch_size: int = 4) -> DataLoader[Any]:
    return DataLoader(
        texts() if rows is None else rows,  # type: ignore[arg-type]
        batch_size=batch_size,
        collate_fn=padded_left if left else padded,
    )


class Letters(CausalLM):
    """A small GPT-2 whose heads are sharper than those that a model starts with."""

    def __init__(self, seed: int = 0, **config: Any) -> None:
        torch.manual_seed(seed)
        super().__init__(small_gpt2(range(27), 12, heads=3, length=32, dropout=0.1, **config), lr=1e-2)
        with torch.no_grad():
            for block in self.lm.transformer.h:
                block.attn.c_attn.weight.mul_(20)


class Wrapped(pl.LightningModule):
    """Validates a language model that does not train."""

    def __init__(self, lm: nn.Module) -> None:
        super().__init__()
        self.lm = lm

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.lm(input_ids)  # type: ignore[no-any-return]
