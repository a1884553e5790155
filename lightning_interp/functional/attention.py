"""What attention weights look at: how spread, how far, on which keys, how unlike the heads of one layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from lightning_interp.functional._numerics import as_float, full_precision, wide_dtype

__all__ = [
    "MEASURES",
    "AttentionRows",
    "attention_sums",
    "carried_norms",
    "head_redundancy",
    "rollout",
    "uniform_sums",
    "value_weighted",
]

MEASURES: tuple[str, ...] = (
    "attention_entropy",
    "effective_keys",
    "attention_distance",
    "sink",
    "sink_last",
    "previous_token",
    "next_token",
    "self",
    "top8_mass",
)
"""Measures of :func:`attention_sums`, in the order in which it returns them."""

# A row with one visible key is 1 there whatever the model does, one with eight has all its mass on eight.
_FEWEST = 2
_TOP = 8


def attention_sums(
    weights: Tensor,
    visible: Tensor,
    queries: Tensor,
    first: Tensor,
    offset: int = 0,
    last: Tensor | None = None,
) -> Tensor:
    r"""Sums over queries, for each head, of what describes a row of attention weights.

    With :math:`A_{ij}` the weight of query i on key j, each row divided by its sum over the n keys that it may see:

    - ``attention_entropy``: :math:`-\sum_j A_{ij} \log A_{ij} / \log n`, 0 to 1 (Zhai et al. 2023, arXiv 2303.06296,
      without the division).
    - ``effective_keys``: :math:`\exp(-\sum_j A_{ij} \log A_{ij})`, in keys, 1 to n.
    - ``attention_distance``: :math:`\sum_j A_{ij} |i - j|`, in positions (Vig & Belinkov 2019, arXiv 1906.04284). Where
      no key after the query is visible, :math:`|i - j| = i - j`; otherwise keys on either side are far alike.
    - ``sink``: the weight on the first real key (Xiao et al. 2024, arXiv 2309.17453).
    - ``sink_last``: the weight on the last real key, of queries before it that see it, as in an encoder.
    - ``previous_token``, ``next_token``, ``self``: :math:`A_{i,i-1}`, :math:`A_{i,i+1}`, :math:`A_{ii}`. They and the
      distance say something only where queries and keys are positions of one sequence.
    - ``top8_mass``: the sum of the 8 largest weights, at every eighth query of a text, since it costs as much as all
      the rest: that which stands 7, 15, 23 … behind the first real key.

    A row counts where its query is real and sees at least two keys; for the weight on a certain key, where that key is
    visible too; for ``top8_mass``, where more than 8 keys are. A row without any weight on visible keys has no
    distribution and does not count. NaN is left out in rows that do not count, and shows where it is in one that does.

    Args:
        weights: Attention weights, (B, H, T, S), of any dtype; rows need not sum to 1.
        visible: Which keys each query may see, bool, of a shape that broadcasts to (B, H, T, S).
        queries: Which queries are real, bool (B, T).
        first: Position of the first real key of each sample, int64 (B,): 0 but for padding on the left.
        offset: Position of the first query; S − T where keys of a cache precede the queries. Keys stand at 0 to S − 1.
        last: Position of the last real key of each sample, int64 (B,); without, no row counts for ``sink_last``.

    Returns:
        Sum and number of rows of each of :data:`MEASURES`, float64 (H, 9, 2) (float32 on MPS). They add up over
        batches; sum over number is the mean, NaN where no row counts, as for ``next_token`` in a causal model. Nothing
        is read back from the device. Memory: about three times the weights in float32 (float64 for such weights).

    Raises:
        ValueError: If the shapes do not fit.

    Example:
        >>> weights = torch.tensor([[[[1.0, 0, 0], [1, 0, 0], [0, 1, 0]]]])
        >>> causal, real = torch.ones(3, 3, dtype=torch.bool).tril(), torch.ones(1, 3, dtype=torch.bool)
        >>> sums, number = attention_sums(weights, causal, real, torch.tensor([0]))[0].unbind(-1)
        >>> mean = dict(zip(MEASURES, (sums / number).tolist()))
        >>> mean["previous_token"], mean["sink"], mean["attention_distance"]
        (1.0, 0.5, 1.0)

    """
    return AttentionRows.of(weights, visible, queries, offset).sums(first, last)


@dataclass(frozen=True)
class AttentionRows:
    """Rows of attention weights as distributions, for what several functions here make of the same ones."""

    rows: Tensor
    """Over the keys that are seen, in float32 or wider, each divided by its sum, (B, H, T, S)."""
    has: Tensor
    """Which rows have any weight, bool (B, H, T)."""
    seen: Tensor
    """Which keys the real queries see, bool (B, H or 1, T, S)."""
    place: Tensor
    """Position of each query, int64 (B or 1, T)."""
    few: bool = False
    """Whether these are every eighth query already."""

    @classmethod
    def of(cls, weights: Tensor, visible: Tensor, queries: Tensor, offset: int = 0) -> AttentionRows:
        """Those of weights; arguments as for :func:`attention_sums`."""
        seen = _seen(weights, visible, queries)
        place = torch.arange(weights.shape[2], device=weights.device)[None] + offset
        return cls(*_distributions(weights, seen), seen, place)

    @cached_property
    def number(self) -> Tensor:
        """How many keys each query sees, (B, H or 1, T)."""
        number: Tensor = self.seen.sum(-1, dtype=self.rows.dtype)
        return number

    @cached_property
    def counted(self) -> Tensor:
        """Which rows count, bool (B, H, T)."""
        return self.has & (self.number >= _FEWEST)

    @cached_property
    def entropy(self) -> Tensor:
        """Of each row, in nats, (B, H, T)."""
        entropy: Tensor = torch.special.entr(self.rows).sum(-1)
        return entropy

    def every_eighth(self, first: Tensor) -> AttentionRows:
        """The queries 7, 15, 23 … behind the first real key of each sample, int64 (B,)."""
        if self.few:
            return self
        batch, heads, length, keys = self.rows.shape
        chosen = _every_eighth(first.long() - self.place[:, 0], length)
        inside = (chosen >= 0) & (chosen < length)
        at = chosen.clamp(0, length - 1)[:, None, :, None]

        def gathered(tensor: Tensor) -> Tensor:
            return tensor.gather(2, at.expand(-1, tensor.shape[1], -1, keys))

        has = self.has.gather(2, at[..., 0].expand(-1, heads, -1)) & inside[:, None]
        place = self.place.expand(batch, -1).gather(1, at[:, 0, :, 0])
        return AttentionRows(gathered(self.rows), has, gathered(self.seen), place, few=True)

    def weighted(self, norms: Tensor) -> AttentionRows:
        """The same by the size of what is carried; see :func:`value_weighted`."""
        rows = value_weighted(self.rows, norms)
        return replace(self, rows=rows, has=self.has & (rows.sum(-1) > 0))

    def sums(self, first: Tensor, last: Tensor | None = None) -> Tensor:
        """See :func:`attention_sums`."""
        rows, seen, number, counted, entropy = self.rows, self.seen, self.number, self.counted, self.entropy
        batch, keys = rows.shape[0], rows.shape[3]
        if first.shape != (batch,):
            raise ValueError(f"`first` must be (B,) = ({batch},), got shape {tuple(first.shape)}.")
        if last is not None and last.shape != first.shape:
            raise ValueError(f"`last` must be (B,) = ({batch},), got shape {tuple(last.shape)}.")
        place = self.place
        gap = (place[:, None, :, None] - torch.arange(keys, device=rows.device)).abs()
        of_rows = {
            "attention_entropy": (entropy / number.clamp_min(_FEWEST).log(), counted),
            "effective_keys": (entropy.exp(), counted),
            "attention_distance": (torch.linalg.vecdot(rows, gap.to(rows.dtype)), counted),
        }
        ends = {"sink": first.long()[:, None], "previous_token": place - 1, "next_token": place + 1, "self": place}
        for name, key in ends.items():
            weight, there = _on_key(rows, seen, key)
            of_rows[name] = weight, counted & there
        if last is None:
            weight, there = of_rows["sink"][0], torch.zeros_like(counted)
        else:
            weight, there = _on_key(rows, seen, last.long()[:, None])
            there = there & (place < last[:, None])[:, None]
        of_rows["sink_last"] = weight, counted & there
        few = self.every_eighth(first)
        largest = few.rows.topk(min(_TOP, keys)).values.sum(-1)
        of_rows["top8_mass"] = largest, few.counted & (few.number > _TOP)
        return torch.stack([_sum_and_number(*of_rows[name]) for name in MEASURES], dim=1)

    def redundancy(self, counted: Tensor | None = None) -> Tensor:
        """See :func:`head_redundancy`."""
        counted = self.counted if counted is None else counted
        all_count = counted.all(1, keepdim=True) & (self.rows.shape[1] > 1)
        of_mean = torch.special.entr(self.rows.mean(1, keepdim=True)).sum(-1)
        return _sum_and_number(of_mean - self.entropy.mean(1, keepdim=True), all_count)[0]


def uniform_sums(
    visible: Tensor, queries: Tensor, first: Tensor, offset: int = 0, last: Tensor | None = None
) -> Tensor:
    """The sums of :func:`attention_sums` for equal weights on all visible keys: the level of each measure.

    A head that looks everywhere alike has these means; a ratio to them, such as that of ``attention_distance``, is 1
    for it. For a query with n visible keys they are 1, n, the mean distance, 1/n five times, and 8/n.

    Args:
        visible: Which keys each query may see, bool, (S,) to (B, H, T, S), of a shape that broadcasts to it.
        queries: Which queries are real, bool (B, T).
        first: Position of the first real key of each sample, int64 (B,).
        offset: Position of the first query.
        last: Position of the last real key of each sample, int64 (B,).

    Returns:
        Sum and number of rows, float64 (H, 9, 2) (float32 on MPS); H is that of ``visible``, 1 where all heads see the
        same.

    Raises:
        ValueError: If the shapes do not fit.

    Example:
        >>> causal, real = torch.ones(3, 3, dtype=torch.bool).tril(), torch.ones(1, 3, dtype=torch.bool)
        >>> sums, number = uniform_sums(causal, real, torch.tensor([0]))[0].unbind(-1)
        >>> [round(value, 3) for value in (sums / number).tolist()[:4]]
        [1.0, 2.5, 0.75, 0.417]

    """
    if not 1 <= visible.ndim <= 4 or queries.ndim != 2:
        raise ValueError(
            f"`visible` must broadcast to (B, H, T, S) and `queries` be (B, T), got shapes {tuple(visible.shape)} and "
            f"{tuple(queries.shape)}."
        )
    heads = visible.shape[-3] if visible.ndim > 2 else 1
    batch, length = queries.shape
    shape = torch.empty(batch, heads, length, visible.shape[-1], device="meta")
    seen = _seen(shape, visible, queries)
    number = seen.sum(-1, dtype=torch.float32)
    counted = number >= _FEWEST
    place = torch.arange(length, device=seen.device) + offset
    gap = (place[:, None] - torch.arange(visible.shape[-1], device=seen.device)).abs().float()
    share = 1 / number.to(wide_dtype(seen.device)).clamp_min(1)
    far = torch.linalg.vecdot(seen.float(), gap) * share
    ends = {"sink": first.long()[:, None], "previous_token": place - 1, "next_token": place + 1, "self": place}
    of_rows = {
        "attention_entropy": (torch.ones_like(share), counted),
        "effective_keys": (number, counted),
        "attention_distance": (far, counted),
        **{name: (share, counted & _sees(seen, key)) for name, key in ends.items()},
    }
    there = torch.zeros_like(counted)
    if last is not None:
        there = _sees(seen, last.long()[:, None]) & (place < last[:, None])[:, None]
    of_rows["sink_last"] = share, counted & there
    few = (place - first[:, None]) % _TOP == _TOP - 1
    of_rows["top8_mass"] = _TOP * share, counted & (number > _TOP) & (few & (place >= first[:, None]))[:, None]
    return torch.stack([_sum_and_number(*of_rows[name]) for name in MEASURES], dim=1)


def value_weighted(weights: Tensor, norms: Tensor) -> Tensor:
    r"""Attention weights by the size of what they carry (Kobayashi et al. 2020, arXiv 2004.10102).

    .. math:: \frac{A_{ij} \|v_j W_O\|}{\sum_k A_{ik} \|v_k W_O\|}

    A sink whose value is nearly zero has much of the weight and adds nothing; here it has little.

    Args:
        weights: Attention weights, (B, H, T, S).
        norms: Length of each key's value after the head's part of the output projection, (B, H, S).

    Returns:
        (B, H, T, S) in float32 or wider, for the other functions. A key without weight has none, whatever its value;
        a row that carries nothing is 0 throughout.

    Raises:
        ValueError: If the shapes do not fit.

    Example:
        >>> value_weighted(torch.tensor([[[[0.75, 0.25]]]]), torch.tensor([[[1.0, 9.0]]])).flatten().tolist()
        [0.25, 0.75]

    """
    _check_weights(weights)
    batch, heads, _, keys = weights.shape
    if norms.shape != (batch, heads, keys):
        raise ValueError(
            f"`norms` must be (B, H, S) = {(batch, heads, keys)} for `weights` {tuple(weights.shape)}, got shape "
            f"{tuple(norms.shape)}."
        )
    rows = as_float(weights.detach())
    rows = torch.where(rows == 0, 0.0, rows * as_float(norms.detach())[:, :, None])
    total = rows.sum(-1, keepdim=True)
    return rows / torch.where(total == 0, 1.0, total)


def carried_norms(values: Tensor, projection: Tensor) -> Tensor:
    r"""Length of each key's value after its head's part of the output projection, for :func:`value_weighted`.

    .. math:: \|v_j W_O^h\|

    Args:
        values: Values, (B, H, S, d).
        projection: The output projection, (D, H·d).

    Returns:
        float32 or wider, (B, H, S).

    Raises:
        ValueError: If the shapes do not fit.

    Example:
        >>> carried_norms(torch.ones(1, 2, 3, 1), torch.tensor([[3.0, 0.0], [4.0, 1.0]]))[0, :, 0]
        tensor([5., 1.])

    """
    _, heads, _, width = values.shape
    if projection.ndim != 2 or projection.shape[1] != heads * width:
        raise ValueError(
            f"`projection` must be (D, H·d) = (D, {heads * width}) for `values` {tuple(values.shape)}, got shape "
            f"{tuple(projection.shape)}."
        )
    # By the Gram matrix of each head, which is d × d and not d × D.
    by_head = as_float(projection).reshape(projection.shape[0], heads, width).permute(1, 0, 2)
    gram = by_head.transpose(1, 2) @ by_head
    rows = as_float(values)
    return ((rows @ gram.to(rows.dtype)) * rows).sum(-1).clamp_min(0).sqrt()


def head_redundancy(weights: Tensor, queries: Tensor, visible: Tensor | None = None) -> Tensor:
    r"""Sum over rows of the Jensen–Shannon divergence of the weights of all heads, in nats (Lin 1991).

    .. math::
        \sum_{b, i} \left[
            \mathrm{H}\Big(\tfrac1H \sum_h A_{bhi}\Big) - \tfrac1H \sum_h \mathrm{H}(A_{bhi})
        \right]

    The mean is 0 where all heads of a layer look at the same, ln H where no two of them share a key. Of two heads it is
    :func:`~lightning_interp.functional.js_divergence` (Clark et al. 2019, arXiv 1906.04341, for pairs of heads).

    Args:
        weights: Attention weights of one layer, (B, H, T, S); rows need not sum to 1.
        queries: Which queries are real, bool (B, T).
        visible: Which keys each query may see, bool, of a shape that broadcasts to (B, H, T, S); with it only rows with
            at least two of them count, for with one all heads are alike whatever the model does.

    Returns:
        The sum and the number of rows, float64 (2,) (float32 on MPS), which add up over batches; a row counts where it
        does for every head, and none where there is one head. Nothing is read back from the device.

    Raises:
        ValueError: If the shapes do not fit.

    Example:
        >>> weights = torch.tensor([[[[1.0, 0.0]], [[0.0, 1.0]]]])
        >>> [round(value, 3) for value in head_redundancy(weights, torch.tensor([[True]])).tolist()]
        [0.693, 1.0]

    """
    everything = torch.ones(1, dtype=torch.bool, device=weights.device)
    rows = AttentionRows.of(weights, everything if visible is None else visible, queries)
    return rows.redundancy(rows.has if visible is None else None)


def rollout(weights: Sequence[Tensor], queries: Tensor | None = None) -> Tensor:
    r"""How much of each input position reaches each output position, were attention all there is.

    .. math:: R = \hat A_L \cdots \hat A_1, \quad \hat A_l = \tfrac12 \bar A_l + \tfrac12 I

    with :math:`\bar A_l` the mean over heads and the rows of :math:`\hat A_l` divided by their sum (Abnar & Zuidema
    2020, arXiv 2005.00928). It knows nothing of values and MLPs: for pictures.

    Args:
        weights: Self-attention weights of each layer, the first layer first, each (B, H, T, T).
        queries: Which queries are real, bool (B, T). The others stay where they are, so that NaN in their rows is
            neither shown nor passed on; without it all rows are taken as they are.

    Returns:
        Row i says where position i of the last layer came from, (B, T, T) in float32 or wider; rows sum to 1.

    Raises:
        ValueError: If there is no layer or the shapes do not fit.

    Example:
        >>> back = torch.tensor([[[[1.0, 0, 0], [1, 0, 0], [0, 1, 0]]]])
        >>> rollout([back, back])[0, 2].tolist()
        [0.25, 0.5, 0.25]

    """
    if not weights:
        raise ValueError("`weights` must have at least one layer, got none.")
    batch, length = weights[0].shape[0], weights[0].shape[-1]
    if queries is not None and queries.shape != (batch, length):
        raise ValueError(f"`queries` must be (B, T) = {(batch, length)}, got shape {tuple(queries.shape)}.")
    found = None
    for layer, some in enumerate(weights):
        if some.ndim != 4 or (some.shape[0], *some.shape[2:]) != (batch, length, length):
            raise ValueError(
                f"`weights[{layer}]` must be (B, H, T, T) with B = {batch} and T = {length}, got shape "
                f"{tuple(some.shape)}."
            )
        mean = as_float(some.detach()).mean(1)
        if queries is not None:
            mean = torch.where(queries.bool()[:, :, None], mean, 0.0)
        step = mean + torch.eye(length, dtype=mean.dtype, device=mean.device)
        step = step / step.sum(-1, keepdim=True)
        with full_precision(step.device):
            found = step if found is None else step @ found
    assert found is not None
    return found


def _seen(weights: Tensor, visible: Tensor, queries: Tensor) -> Tensor:
    """Which keys the real queries see, bool (B, H or 1, T, S)."""
    _check_weights(weights)
    batch, heads, length, keys = weights.shape
    if queries.shape != (batch, length):
        raise ValueError(
            f"`queries` must be (B, T) = {(batch, length)} for `weights` {tuple(weights.shape)}, got shape "
            f"{tuple(queries.shape)}."
        )
    whole = (1,) * (4 - visible.ndim) + tuple(visible.shape)
    if len(whole) != 4 or any(own not in (1, size) for own, size in zip(whole, weights.shape, strict=True)):
        raise ValueError(
            f"`visible` must broadcast to the shape of `weights`, {tuple(weights.shape)}, got shape "
            f"{tuple(visible.shape)}."
        )
    own_heads = heads if whole[1] == heads else 1
    return visible.bool().expand(batch, own_heads, length, keys) & queries.bool()[:, None, :, None]


def _distributions(weights: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
    """Rows over the keys that are seen, in float32 or wider, each divided by its sum, and which of them have any.

    What a query does not see, and all of one that is none, is 0 in them even where it was NaN.
    """
    rows = torch.where(seen, as_float(weights.detach()), 0.0)
    total = rows.sum(-1, keepdim=True)
    return rows / torch.where(total == 0, 1.0, total), total.squeeze(-1) != 0


def _every_eighth(first: Tensor, length: int) -> Tensor:
    """Of each sample the queries 7, 15, 23 … behind a position, as places among so many; some lie beyond them."""
    begin = (first + _TOP - 1) % _TOP
    # A text that begins behind the first of these queries has its seventh one later.
    begin = begin + _TOP * ((first + _TOP - 1 - begin).clamp_min(0) // _TOP)
    return begin[:, None] + _TOP * torch.arange(-(-length // _TOP), device=first.device)


def _on_key(rows: Tensor, seen: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
    """Weight of each row (B, H, T, S) on its key, (B, H, T), and whether it sees that key; keys (B, T) or the like."""
    index = key.clamp(0, rows.shape[-1] - 1).expand(rows.shape[0], rows.shape[2])[:, None, :, None]
    return rows.gather(-1, index.expand(-1, rows.shape[1], -1, -1)).squeeze(-1), _sees(seen, key)


def _sees(seen: Tensor, key: Tensor) -> Tensor:
    """Whether each query sees its key, (B, H or 1, T)."""
    last = seen.shape[-1] - 1
    index = key.clamp(0, last).expand(seen.shape[0], seen.shape[2])[:, None, :, None]
    there = seen.gather(-1, index.expand(-1, seen.shape[1], -1, -1)).squeeze(-1)
    return there & ((key >= 0) & (key <= last)).expand(seen.shape[0], seen.shape[2])[:, None]


def _sum_and_number(value: Tensor, counted: Tensor) -> Tensor:
    """Over samples and queries of (B, H, T), where counted: (H, 2)."""
    wide = wide_dtype(value.device)
    total = torch.where(counted, value, 0.0).sum((0, 2), dtype=wide)
    return torch.stack([total, counted.sum((0, 2)).to(wide)], dim=-1)


def _check_weights(weights: Tensor) -> None:
    if weights.ndim != 4 or weights.shape[3] == 0:
        raise ValueError(f"`weights` must be (B, H, T, S) with at least one key, got shape {tuple(weights.shape)}.")
