"""A hand-wired model of four blocks that knows facts: looked up at the subject in block 1, moved to the end in block 2.

Vectors are [one-hot of the token | slots of the answer | role]. The role is added by token id beside the embedding, so
that noise on the embedding leaves it clear where the subject ends.
"""

from __future__ import annotations

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader

from lightning_interp.tasks import Fact, WordTokenizer

FIRST = ("ada", "bo", "cy")
LAST = ("ash", "birch", "cedar", "elm", "fir", "gum")
TOWNS = ("ulm", "rom", "york")
WORDS = WordTokenizer([*FIRST, *LAST, *TOWNS, "lives", "in", "now", "."])
ROLE = 1e3


def town(name: str) -> str:
    return TOWNS[LAST.index(name) % len(TOWNS)]


FACTS = [
    Fact("home", f"{FIRST[place % 3]} {name} lives in ___ .", town(name), TOWNS, f"{FIRST[place % 3]} {name}")
    for place, name in enumerate(LAST)
]


def ids(*words: str) -> list[int]:
    return [WORDS.encode(word, add_special_tokens=False)[0] for word in words]


class Mover(nn.Module):
    """Copies the slots of the last position whose role is to end a name to the positions behind it."""

    def __init__(self, slots: slice) -> None:
        super().__init__()
        self.slots = slots

    def forward(self, x: Tensor) -> Tensor:
        at = x[..., -1].argmax(1)
        found = torch.zeros_like(x)
        own = x[torch.arange(len(x)), at][:, self.slots]
        behind = torch.arange(x.shape[1]) > at[:, None]
        found[..., self.slots] = torch.where(behind[..., None], own[:, None] - x[..., self.slots], 0)
        return found


class LookUp(nn.Module):
    """Puts the town of each name that is there into the slots, by a threshold; at other positions nothing."""

    def __init__(self, slots: slice, table: Tensor) -> None:
        super().__init__()
        self.slots = slots
        self.register_buffer("table", table)

    def forward(self, x: Tensor) -> Tensor:
        is_name = (x[..., : len(self.table)] > 0.5).float()
        found = torch.zeros_like(x)
        ends_name = (x[..., -1:] > ROLE / 2).float()
        found[..., self.slots] = ends_name * (is_name @ self.table)
        return found


class Emptied(nn.Module):
    """Takes away the noise that the embedding has left in the slots."""

    def __init__(self, slots: slice) -> None:
        super().__init__()
        self.slots = slots

    def forward(self, x: Tensor) -> Tensor:
        found = torch.zeros_like(x)
        found[..., self.slots] = -x[..., self.slots]
        return found


class Nothing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)


class Block(nn.Module):
    """Returns a tuple, as many models do."""

    def __init__(self, attention: nn.Module | None = None, mlp: nn.Module | None = None) -> None:
        super().__init__()
        self.attn, self.mlp = attention or Nothing(), mlp or Nothing()

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        x = x + self.attn(x)
        return x + self.mlp(x), None


class Planted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        size, slots = len(WORDS), slice(len(WORDS), len(WORDS) + len(TOWNS))
        width = size + len(TOWNS) + 1
        self.words = nn.Embedding.from_pretrained(torch.eye(size, width), freeze=False)
        role = torch.zeros(size, width)
        role[ids(*LAST), -1] = ROLE
        self.register_buffer("role", role)
        table = torch.zeros(size, len(TOWNS))
        for name in LAST:
            table[ids(name), TOWNS.index(town(name))] = 1.0
        self.blocks = nn.ModuleList(
            [Block(Emptied(slots)), Block(mlp=LookUp(slots, table)), Block(attention=Mover(slots)), Block()]
        )
        self.slots, self.towns = slots, ids(*TOWNS)

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.words(input_ids) + self.role[input_ids]
        for block in self.blocks:
            x, _ = block(x)
        logits = x.new_zeros(*input_ids.shape, len(WORDS))
        logits[..., self.towns] = 8 * x[..., self.slots]
        return logits


class Small(nn.Module):
    """A causal transformer of random weights, whose blocks return tensors."""

    def __init__(self, width: int = 16, layers: int = 5, seed: int = 0) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(len(WORDS), width), nn.Embedding(len(WORDS), width)
        self.blocks = nn.ModuleList(SmallBlock(width) for _ in range(layers))
        self.head = nn.Linear(width, len(WORDS))
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for one in self.parameters():
                one.copy_(torch.randn(one.shape, generator=generator) / (1 if one.ndim < 2 else one.shape[-1] ** 0.5))

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.words(input_ids) + self.places.weight[: input_ids.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.head(x)


class Mix(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.mix = nn.Linear(width, 3 * width)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.mix(x).chunk(3, -1)
        return functional.scaled_dot_product_attention(query, key, value, is_causal=True)


class SmallBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.attn, self.dropout = Mix(width), nn.Dropout(0.3)
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.Tanh())

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.dropout(x))
        return x + self.mlp(x)


class Reader(pl.LightningModule):
    """Trains a language model on sentences, each a batch item of one length."""

    def __init__(self, lm: nn.Module, lr: float = 1e-2) -> None:
        super().__init__()
        self.lm, self.lr, self.tokenizer = lm, lr, WORDS

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        output = self.lm(batch)
        logits = getattr(output, "logits", output)
        return functional.cross_entropy(logits[:, :-1].flatten(0, 1), batch[:, 1:].flatten())

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.log("val_loss", self.training_step(batch, batch_idx))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=self.lr)


def sentences(batch_size: int = 3, **kwargs: object) -> DataLoader:
    rows = [torch.tensor([WORDS.bos_token_id, *ids(*fact.filled(fact.answer).split())]) for fact in FACTS]
    return DataLoader(rows, batch_size=batch_size, **kwargs)
