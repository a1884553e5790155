"""An induction circuit set by hand: what a measure of induction heads must find in it is known without training.

The residual stream has three blocks, [token | previous token | position], and each block names one of its entries.

- Head 1 asks at position i for the key of i − 1 and copies the token found there into the block of the previous token.
- Head 2 asks for positions whose previous token is the present one, and copies their token to the logits.

The token of a sequence's first position must occur nowhere else in it: position 0 attends to itself, so it looks as if
it had preceded itself.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class SetHead(nn.Module):
    """One causal head that moves blocks: (B, T, D) → (B, T, D). Scores are q · k · ``sharpness``."""

    def __init__(self, query: Tensor, key: Tensor, value: Tensor, sharpness: float) -> None:
        super().__init__()
        self.query, self.key, self.value = _linear(query), _linear(key), _linear(value)
        self.sharpness = sharpness

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part(x).unsqueeze(1) for part in (self.query, self.key, self.value))
        return functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=self.sharpness).squeeze(1)


class InductionCircuit(nn.Module):
    """Predicts what followed the present token before; its heads are ``heads.0`` and ``heads.1``.

    Args:
        vocabulary: Number V of ids.
        length: Longest sequence T; the width is 2V + T.
        sharpness: Of each head's scores; 0 makes its attention uniform.
        scale: Of the logits.
    """

    def __init__(
        self, vocabulary: int, length: int, sharpness: tuple[float, float] = (50.0, 50.0), scale: float = 50.0
    ) -> None:
        super().__init__()
        width = 2 * vocabulary + length
        self.vocabulary, self.scale = vocabulary, scale
        token, previous, position = 0, vocabulary, 2 * vocabulary

        def moves(number: int, start: int, to: int) -> Tensor:
            """What puts ``number`` entries from ``start`` where ``to`` is, and drops all others: (to, from)."""
            matrix, entries = torch.zeros(width, width), torch.arange(number)
            matrix[to + entries, start + entries] = 1.0
            return matrix

        self.embedding = nn.Embedding(vocabulary, width, _weight=torch.eye(width)[:vocabulary])
        self.positions = nn.Embedding(length, width, _weight=torch.eye(width)[position:])
        self.heads = nn.ModuleList(
            [
                SetHead(
                    query=moves(length, position, position),
                    key=moves(length - 1, position, position + 1),
                    value=moves(vocabulary, token, previous),
                    sharpness=sharpness[0],
                ),
                SetHead(
                    query=moves(vocabulary, token, token),
                    key=moves(vocabulary, previous, token),
                    value=moves(vocabulary, token, token),
                    sharpness=sharpness[1],
                ),
            ]
        )
        self.requires_grad_(False)

    def forward(self, input_ids: Tensor) -> Tensor:
        """Ids (B, T) → logits of the next token (B, T, V)."""
        x = self.embedding(input_ids) + self.positions.weight[: input_ids.shape[1]]
        x = x + self.heads[0](x)
        return self.scale * self.heads[1](x)[..., : self.vocabulary]


def repeated_copies(sequences: int, segment: int, copies: int, vocabulary: int, seed: int = 0) -> Tensor:
    """[0, s, s, …], s of distinct ids from 1 on, drawn for each sequence: (sequences, 1 + segment · copies)."""
    generator = torch.Generator().manual_seed(seed)
    drawn = [1 + torch.randperm(vocabulary - 1, generator=generator)[:segment] for _ in range(sequences)]
    return functional.pad(torch.stack(drawn).repeat(1, copies), (1, 0))


def _linear(weight: Tensor) -> nn.Linear:
    linear = nn.Linear(*weight.T.shape, bias=False)
    linear.weight.data.copy_(weight)
    return linear
