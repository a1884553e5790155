"""A transformer of nothing but attention, small enough to see induction heads form within seconds."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["AttentionOnly"]


class RelativeAttention(nn.Module):
    r"""Causal attention with a learned bias for each head and distance, zero at first.

    .. math:: A_{hij} = \mathrm{softmax}_{j \le i}\left(q_{hi} \cdot k_{hj} / \sqrt{d} + b_{h,i-j}\right)

    Args:
        width: Width D of the vectors.
        heads: Number of heads H.
        head_width: Width d of each head's queries, keys and values.
        max_length: Number of distances that have a bias.

    Shapes:
        - ``x``: (B, T, D).
        - ``hidden``: boolean, broadcast to (B, 1, T, T), true where a query may not attend.
        - result: (B, T, D).

    """

    def __init__(self, width: int, heads: int, head_width: int, max_length: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj = nn.Linear(width, 3 * heads * head_width, bias=False)
        self.out_proj = nn.Linear(heads * head_width, width, bias=False)
        self.distance_bias = nn.Parameter(torch.empty(heads, max_length))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Forget what was learned of distances; the projections draw themselves anew."""
        nn.init.zeros_(self.distance_bias)

    def forward(self, x: Tensor, hidden: Tensor) -> Tensor:
        """What each position gathers from itself and those before it."""
        q, k, v = (one.unflatten(-1, (self.heads, -1)).transpose(1, 2) for one in self.in_proj(x).chunk(3, -1))
        places = torch.arange(x.shape[1], device=x.device)
        bias = self.distance_bias[:, (places.unsqueeze(1) - places).clamp(min=0)]
        bias = bias.to(q.dtype).masked_fill(hidden, -torch.inf)
        gathered = functional.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        joined: Tensor = self.out_proj(gathered.transpose(1, 2).flatten(2))
        return joined


class AttentionLayer(nn.Module):
    """Adds to each vector what attention gathers from the normalised ones (pre-LN): (B, T, D) → (B, T, D)."""

    def __init__(self, width: int, heads: int, head_width: int, max_length: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attention = RelativeAttention(width, heads, head_width, max_length)

    def forward(self, x: Tensor, hidden: Tensor) -> Tensor:
        """The next layer's input; ``hidden`` is true where a query may not attend."""
        following: Tensor = x + self.attention(self.norm(x), hidden)
        return following


class AttentionOnly(nn.Module):
    """A causal language model without feed-forward parts: what it can do, its attention does.

    Two layers are the fewest that can learn induction: to find where the present token stood before, and to predict
    what followed it there (Elhage et al. 2021, Olsson et al. 2022). Order is known from the bias of each distance
    alone, there are no absolute positions, and the projections have no biases. Attention is
    :func:`torch.nn.functional.scaled_dot_product_attention` with the biases as its ``attn_mask``. With 64 ids and the
    defaults it has 78,208 parameters. The places where representations are read:

    ======================  ============================================================
    ``embedding``           (B, T, D), tokens
    ``layers.0``            (B, T, D), after the first layer, and so on for every layer
    ``layers.0.attention``  (B, T, D), what its heads add
    ``norm``                (B, T, D), after the final LayerNorm
    ``output``              (B, T, V), logits
    ======================  ============================================================

    Args:
        vocabulary: Number V of ids.
        layers: Number of layers.
        heads: Attention heads of each layer.
        width: Width D of the residual stream.
        head_width: Width of each head's queries, keys and values.
        max_length: Longest sequence. The bias of distances longer than those that it is trained on stays zero.

    Raises:
        ValueError: If a size is below 1, or a sequence longer than ``max_length``.

    Example:
        >>> model = AttentionOnly(vocabulary=64)
        >>> model(torch.zeros(2, 5, dtype=torch.long)).shape
        torch.Size([2, 5, 64])
        >>> sum(one.numel() for one in model.parameters())
        78208

    """

    def __init__(
        self,
        vocabulary: int,
        layers: int = 2,
        heads: int = 4,
        width: int = 64,
        head_width: int = 32,
        max_length: int = 512,
    ) -> None:
        super().__init__()
        sizes = {
            "vocabulary": vocabulary,
            "layers": layers,
            "heads": heads,
            "width": width,
            "head_width": head_width,
            "max_length": max_length,
        }
        for name, size in sizes.items():
            if size < 1:
                raise ValueError(f"`{name}` is {size}; it must be at least 1.")
        self.max_length = max_length
        self.embedding = nn.Embedding(vocabulary, width)
        self.layers = nn.ModuleList(AttentionLayer(width, heads, head_width, max_length) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.output = nn.Linear(width, vocabulary, bias=False)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Ids and their mask, non-zero at tokens, both (B, T) → logits of the next token (B, T, V)."""
        length = input_ids.shape[1]
        if length > self.max_length:
            raise ValueError(f"a sequence has {length} tokens; `max_length` is {self.max_length}.")
        hidden = torch.ones(length, length, dtype=torch.bool, device=input_ids.device).triu(1)
        if attention_mask is not None:
            # Padding sees itself: a row that sees nothing would not be a number.
            itself = torch.eye(length, dtype=torch.bool, device=input_ids.device)
            hidden = hidden | ((attention_mask == 0)[:, None, None, :] & ~itself)
        x = self.embedding(input_ids)
        for layer in self.layers:
            x = layer(x, hidden)
        logits: Tensor = self.output(self.norm(x))
        return logits
