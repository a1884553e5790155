"""One call of attention: its weights, which keys a query may see, and scores, from what the call was given."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["AttentionCall", "of_multi_head", "of_scaled_dot_product", "of_softmax", "of_weights"]

_FAR_BELOW = -1e4
"""What is added to the score of a key that a query may not see is below this, whatever number a model writes there."""


@dataclass(eq=False)
class AttentionCall:
    """One call of attention over B samples, H heads, T queries and S keys.

    Weights and scores are computed when they are first asked for, in float32 and without gradients.
    """

    query: Tensor | None = None
    """(B, H, T, d); ``None`` where a model computes its scores itself."""
    key: Tensor | None = None
    """(B, H, S, d), keys of grouped queries repeated."""
    value: Tensor | None = None
    """(B, H, S, d), likewise."""
    bias: Tensor | None = None
    """What is added to scaled scores, -inf where a query does not see a key, broadcastable to (B, H, T, S)."""
    only_hides: bool = False
    """Whether that is 0 wherever a key is seen."""
    scale: float = 1.0
    """Of the scores."""
    own_weights: Tensor | None = None
    """The weights, where the model computed them, (B, H, T, S)."""
    own_scores: Tensor | None = None
    """Likewise the scores with what was added to them."""

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """B, H, T and S."""
        if self.own_weights is not None:
            batch, heads, queries, keys = self.own_weights.shape
            return batch, heads, queries, keys
        assert self.query is not None
        assert self.key is not None
        batch, heads, queries, _ = self.query.shape
        return batch, heads, queries, self.key.shape[-2]

    @cached_property
    def visible(self) -> Tensor:
        """Which keys each query may see, bool, broadcastable to (B, H, T, S)."""
        if self.own_scores is not None:
            scores = self.own_scores.detach()
            top = scores.amax(-1, keepdim=True)
            return (scores > top + _FAR_BELOW) & top.isfinite()
        if self.own_weights is not None:
            return self.own_weights > 0
        if self.bias is None:
            _, _, queries, keys = self.shape
            return torch.ones(1, 1, queries, keys, dtype=torch.bool, device=self.device)
        return self.bias.detach() > _FAR_BELOW

    @cached_property
    def scores(self) -> Tensor | None:
        """Scaled scores before anything is added to them, float32 (B, H, T, S); ``None`` where they are not known.

        Of a model that computes its softmax itself they are those that it takes it of.
        """
        if self.own_scores is not None:
            return self.own_scores.detach().float()
        if self.query is None or self.key is None:
            return None
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            return (self.query.detach().float() * self.scale) @ self.key.detach().float().transpose(-1, -2)

    @cached_property
    def weights(self) -> Tensor:
        """Float32 (B, H, T, S); the row of a query that sees no key is 0."""
        with torch.no_grad():
            if self.own_weights is not None:
                return self.own_weights.detach().float().nan_to_num(0.0)
            scores = self._seen_scores
            assert scores is not None
            if self.bias is not None and not self.only_hides:
                scores = scores + self.bias.detach().float()
            return scores.softmax(-1).nan_to_num(0.0)

    @cached_property
    def _seen_scores(self) -> Tensor | None:
        """Scores, -inf where a query does not see a key."""
        if self.scores is None or (self.bias is None and self.own_scores is None):
            return self.scores
        return self.scores.masked_fill(~self.visible, -math.inf)

    def largest_score(self, queries: Tensor) -> Tensor | None:
        """The largest score of a key that its query sees, float32 (H,); ``None`` where scores are not known.

        Args:
            queries: Which queries are real, bool (B, T).

        """
        if self._seen_scores is None:
            return None
        return self._seen_scores.amax(-1).masked_fill(~queries[:, None], -math.inf).amax((0, 2))

    def live_weights(self) -> Tensor:
        """The weights with their graph, in the dtype of the model."""
        if self.own_weights is not None:
            return self.own_weights
        assert self.query is not None
        assert self.key is not None
        scores = (self.query * self.scale) @ self.key.transpose(-1, -2)
        if self.bias is not None:
            scores = (scores + self.bias).masked_fill(~self.visible, -math.inf)
        return scores.softmax(-1).nan_to_num(0.0)

    def part(self, samples: slice = slice(None), queries: slice = slice(None)) -> AttentionCall:
        """The same of some samples and queries, for which less memory is needed."""

        def cut(tensor: Tensor | None, at: slice | None = None) -> Tensor | None:
            if tensor is None:
                return None
            if tensor.shape[0] > 1:
                tensor = tensor[samples]
            return tensor if at is None or tensor.shape[-2] == 1 else tensor[..., at, :]

        return AttentionCall(
            cut(self.query, queries),
            cut(self.key),
            cut(self.value),
            cut(self.bias, queries),
            self.only_hides,
            self.scale,
            cut(self.own_weights, queries),
            cut(self.own_scores, queries),
        )

    def of_samples(self, rows: Tensor) -> AttentionCall:
        """The same of these samples only, by their places."""
        tensors = (self.query, self.key, self.value, self.bias, self.own_weights, self.own_scores)
        query, key, value, bias, weights, scores = (
            one if one is None or one.shape[0] == 1 else one[rows.to(one.device)] for one in tensors
        )
        return AttentionCall(query, key, value, bias, self.only_hides, self.scale, weights, scores)

    @property
    def device(self) -> torch.device:
        """Where it is."""
        tensor = self.query if self.own_weights is None else self.own_weights
        assert tensor is not None
        return tensor.device


def of_scaled_dot_product(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> AttentionCall:
    """That of ``torch.nn.functional.scaled_dot_product_attention``, whose arguments these are.

    Raises:
        ValueError: If there are other dimensions than (B, H, T, d) or (B, T, d).

    Example:
        >>> q = torch.zeros(1, 4, 3, 8)
        >>> of_scaled_dot_product(q, q[:, :2], q[:, :2], is_causal=True, enable_gqa=True).weights[0, 0].tolist()[1]
        [0.5, 0.5, 0.0]

    """
    query, key, value = (_four(one, name) for one, name in ((query, "query"), (key, "key"), (value, "value")))
    bias = None if attn_mask is None else _bias(attn_mask)
    if bias is not None and bias.dim() == 3 and query.shape[1] == 1:
        bias = bias[:, None]  # of what has no heads
    if is_causal:
        # The triangle is aligned to the upper left, also where there are more keys than queries.
        queries, keys = query.shape[-2], key.shape[-2]
        hidden = torch.ones(queries, keys, dtype=torch.bool, device=query.device).triu(1)
        causal = torch.zeros(queries, keys, device=query.device).masked_fill(hidden, -math.inf)
        bias = causal if bias is None else bias + causal
    heads = query.shape[1]
    return AttentionCall(
        query,
        _repeated(key, heads),
        _repeated(value, heads),
        None if bias is None else bias[(None,) * (4 - bias.dim())],
        attn_mask is None or attn_mask.dtype == torch.bool,
        1 / math.sqrt(query.shape[-1]) if scale is None else float(scale),
    )


def of_softmax(scores: Tensor, weights: Tensor, dim: int) -> AttentionCall:
    """That of a model that takes a softmax over scores (B, H, T, S), or over the third dimension of (B, H, S, T)."""
    if dim % 4 == 2:
        scores, weights = scores.transpose(-1, -2), weights.transpose(-1, -2)
    return AttentionCall(own_weights=weights, own_scores=scores)


def of_weights(weights: Tensor) -> AttentionCall:
    """That of a module that returns its weights (B, H, T, S)."""
    return AttentionCall(own_weights=weights)


def of_multi_head(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    embed_dim_to_check: int,
    num_heads: int,
    in_proj_weight: Tensor | None,
    in_proj_bias: Tensor | None,
    bias_k: Tensor | None,
    bias_v: Tensor | None,
    add_zero_attn: bool,
    dropout_p: float,
    out_proj_weight: Tensor,
    out_proj_bias: Tensor | None,
    training: bool = True,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    use_separate_proj_weight: bool = False,
    q_proj_weight: Tensor | None = None,
    k_proj_weight: Tensor | None = None,
    v_proj_weight: Tensor | None = None,
    static_k: Tensor | None = None,
    static_v: Tensor | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> AttentionCall:
    """That of ``torch.nn.functional.multi_head_attention_forward``, whose arguments these are.

    Raises:
        ValueError: If keys or values are given that are projected already.

    """
    if static_k is not None or static_v is not None:
        raise ValueError("`static_k` and `static_v` are not read.")
    one = query.dim() == 2
    query, key, value = (part[:, None] if one else part for part in (query, key, value))  # (T, B, E)
    batch = query.shape[1]
    if use_separate_proj_weight:
        projections: Any = (q_proj_weight, k_proj_weight, v_proj_weight)
    else:
        assert in_proj_weight is not None
        projections = in_proj_weight.chunk(3)
    biases = (None, None, None) if in_proj_bias is None else in_proj_bias.chunk(3)
    q, k, v = (
        functional.linear(part, weight, bias)
        for part, weight, bias in zip((query, key, value), projections, biases, strict=True)
    )
    added = 0
    if bias_k is not None and bias_v is not None:
        k, v = (torch.cat([part, own.expand(1, batch, -1)]) for part, own in ((k, bias_k), (v, bias_v)))
        added += 1
    if add_zero_attn:
        k, v = (functional.pad(part, (0, 0, 0, 0, 0, 1)) for part in (k, v))
        added += 1
    q, k, v = (part.view(*part.shape[:2], num_heads, -1).permute(1, 2, 0, 3) for part in (q, k, v))
    # Here True is what is not seen.
    bias = torch.zeros(1, 1, 1, 1, device=query.device)
    if attn_mask is not None:
        own = _bias(~attn_mask if attn_mask.dtype == torch.bool else attn_mask)
        own = own[None, None] if own.dim() == 2 else own.view(-1, num_heads, *own.shape[1:])
        bias = bias + functional.pad(own, (0, added))
    if key_padding_mask is not None:
        own = _bias(~key_padding_mask if key_padding_mask.dtype == torch.bool else key_padding_mask)
        bias = bias + functional.pad(own if own.dim() == 2 else own[None], (0, added))[:, None, None]
    if is_causal and attn_mask is None:
        bias = bias + torch.full((q.shape[2], k.shape[2]), -math.inf, device=query.device).triu(1)
    nothing = attn_mask is None and key_padding_mask is None and not is_causal
    return AttentionCall(q, k, v, None if nothing else bias, scale=1 / math.sqrt(q.shape[-1]))


def _bias(mask: Tensor) -> Tensor:
    """What is added to scores, of a mask that is True where a key is seen, or is that already."""
    if mask.dtype != torch.bool:
        return mask
    return torch.zeros(mask.shape, device=mask.device).masked_fill(~mask, -math.inf)


def _four(tensor: Tensor, name: str) -> Tensor:
    if tensor.dim() not in (3, 4) or tensor.is_nested:
        kind = "nested" if tensor.is_nested else tuple(tensor.shape)
        raise ValueError(f"the {name} of attention is {kind}; (B, H, T, d) is read.")
    return tensor[:, None] if tensor.dim() == 3 else tensor


def _repeated(tensor: Tensor, heads: int) -> Tensor:
    """Keys or values of grouped queries, once for each query head."""
    return tensor if tensor.shape[1] == heads else tensor.repeat_interleave(heads // tensor.shape[1], 1)
