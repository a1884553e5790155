"""A causal language model of a few hundred parameters, with dropout, tied embeddings, and attention to the left."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class ToyLM(nn.Module):
    def __init__(self, vocabulary: int = 11, width: int = 8, length: int = 12, seed: int = 0) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(length, width)
        self.mix = nn.Linear(width, 3 * width)
        self.dropout = nn.Dropout(0.3)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary)
        self.head.weight = self.embedding.weight
        self.unused = nn.Parameter(torch.zeros(2))
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / 2)

    def forward(self, ids: Tensor) -> Tensor:
        length = ids.shape[1]
        x = self.embedding(ids) + self.positions.weight[:length]
        query, key, value = self.mix(self.dropout(x)).chunk(3, -1)
        scores = query @ key.mT / math.sqrt(query.shape[-1])
        future = torch.ones(length, length, dtype=torch.bool, device=ids.device).triu(1)
        x = x + scores.masked_fill(future, -torch.inf).softmax(-1) @ value
        return self.head(self.norm(x))


def random_pairs(number: int, seed: int, longest: int = 10, vocabulary: int = 11) -> list[tuple[Tensor, Tensor]]:
    """Pairs with a shared prefix of at least one token, and endings of any length from one token on."""
    generator = torch.Generator().manual_seed(seed)

    def draw(low: int, high: int) -> int:
        return int(torch.randint(low, high, (), generator=generator))

    pairs = []
    for _ in range(number):
        prefix = torch.randint(vocabulary, (draw(1, longest - 3),), generator=generator)
        good, bad = (torch.randint(vocabulary, (draw(1, longest - len(prefix)),), generator=generator) for _ in "+-")
        pairs.append((torch.cat([prefix, good]), torch.cat([prefix, bad])))
    return pairs
