"""Attention with several heads."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["MultiheadAttention"]


class MultiheadAttention(nn.Module):
    """Scaled dot-product attention with several heads.

    Its parameters are those of :class:`torch.nn.MultiheadAttention`, by name and layout: a state dict fits both.

    Args:
        d_model: Width D of the vectors.
        heads: Number of heads H; D must be a multiple of it.
        dropout: Share of attention weights that are dropped in training.

    Shapes:
        - ``queries``: (B, T, D).
        - ``context``: (B, S, D), what keys and values are made from.
        - ``mask``: boolean, broadcast to (B, H, T, S), true where a query may attend.
        - result: (B, T, D).

    Example:
        >>> attention = MultiheadAttention(d_model=8, heads=2, dropout=0.0)
        >>> attention(torch.zeros(3, 4, 8), torch.zeros(3, 5, 8), torch.ones(3, 1, 1, 5, dtype=torch.bool)).shape
        torch.Size([3, 4, 8])

    """

    def __init__(self, d_model: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = nn.Dropout(dropout)
        self.in_proj_weight = nn.Parameter(torch.empty(3 * d_model, d_model))
        self.in_proj_bias = nn.Parameter(torch.empty(3 * d_model))
        self.out_proj = nn.Linear(d_model, d_model)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the projections anew, without biases."""
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.in_proj_bias)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, queries: Tensor, context: Tensor, mask: Tensor) -> Tensor:
        """What each query gathers from the context."""
        width = queries.shape[-1]
        if queries is context:
            q, k, v = functional.linear(queries, self.in_proj_weight, self.in_proj_bias).chunk(3, -1)
        else:
            q = functional.linear(queries, self.in_proj_weight[:width], self.in_proj_bias[:width])
            k, v = functional.linear(context, self.in_proj_weight[width:], self.in_proj_bias[width:]).chunk(2, -1)
        q, k, v = (x.view(*x.shape[:2], self.heads, -1).transpose(1, 2) for x in (q, k, v))
        # Keys before queries: a softmax over any dimension but the last is several times faster for short sequences.
        scores = k @ (q * q.shape[-1] ** -0.5).transpose(-1, -2)
        weights = self.dropout(scores.masked_fill(~mask.transpose(-1, -2), -math.inf).softmax(-2))
        joined: Tensor = self.out_proj((weights.transpose(-1, -2) @ v).transpose(1, 2).flatten(2))
        return joined
