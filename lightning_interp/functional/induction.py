"""Induction heads and learning from the context: repeated sequences, where heads look in them, and losses by place."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_interp.functional._numerics import as_float, wide_dtype
from lightning_interp.functional.counter_noise import counter_hash

__all__ = ["icl_score", "loss_by_position", "pattern_chance", "pattern_sums", "repeat_gain", "repeated_sequences"]

# Numbers of logits that one step works on.
_BLOCK = 1 << 22


def repeated_sequences(
    ids: Tensor | Sequence[int],
    length: int = 25,
    repeats: int = 4,
    sequences: int = 16,
    start: int | None = None,
    seed: int = 0,
) -> Tensor:
    r"""Random tokens, over and over: sequences :math:`[\mathrm{start}, s, s, \dots, s]` (Olsson et al. 2022).

    No token says anything about the next one until s has been read once; then all of them are known to whoever looks
    back. Each s holds distinct ids, drawn without regard to their order in ``ids``.

    Args:
        ids: Ids to draw from, 0 to 2³¹ − 1, such as those between two ranks of frequency; doubles count once and the
            start token is left out.
        length: Number n of tokens in s.
        repeats: How often s occurs, R.
        sequences: How many sequences.
        start: Id of a token before the first s, as the model knows it; none by default.
        seed: Of the draw. The same ids and seed give the same sequences for ever; more sequences begin with the fewer.

    Returns:
        int64 (sequences, nR), or (sequences, 1 + nR) with a start token, on the CPU. No random stream is read or moved.

    Raises:
        ValueError: If ``length`` or ``repeats`` is below 2, ``sequences`` below 1, an id is out of range, or there are
            fewer ids than ``length``.

    Example:
        >>> found = repeated_sequences(range(100, 200), length=3, repeats=2, sequences=2, start=7)
        >>> found.shape, found[:, 0].tolist(), torch.equal(found[:, 1:4], found[:, 4:])
        (torch.Size([2, 7]), [7, 7], True)

    """
    _check_length(length)
    _check_repeats(repeats)
    if sequences < 1:
        raise ValueError(f"`sequences` must be at least 1, got {sequences}.")
    pool = torch.unique(torch.as_tensor(ids, device="cpu").long())
    if len(pool) and not 0 <= int(pool[0]) <= int(pool[-1]) < 1 << 31:
        raise ValueError(f"`ids` must lie between 0 and 2³¹ − 1, got {int(pool[0])} to {int(pool[-1])}.")
    if start is not None:
        pool = pool[pool != start]
    if len(pool) < length:
        raise ValueError(f"`ids` must hold at least `length` = {length} ids besides `start`, got {len(pool)}.")
    # One number for each sequence and id, and no two alike: their order is a draw that hangs on no random stream.
    order = [
        counter_hash((number << 32) + pool, operator.index(seed)).argsort()[:length] for number in range(sequences)
    ]
    copies = pool[torch.stack(order)].repeat(1, repeats)
    return copies if start is None else torch.nn.functional.pad(copies, (1, 0), value=start)


def pattern_sums(weights: Tensor, length: int, first: int = 1) -> dict[str, Tensor]:
    r"""Weight of each head on the keys that make it an induction, a duplicate-token or a previous-token head.

    In sequences of :func:`repeated_sequences` with s at the positions from ``first`` on, a query at t whose token
    occurred :math:`k_t = \lfloor (t - \mathrm{first}) / n \rfloor` times before:

    .. math::
        \mathrm{prefix\_matching} = \operatorname*{mean}_{t :\, k_t \ge 1} \sum_{r=1}^{k_t} A_{t,\, t - rn + 1}, \quad
        \mathrm{duplicate\_token} = \operatorname*{mean}_{t :\, k_t \ge 1} \sum_{r=1}^{k_t} A_{t,\, t - rn}, \quad
        \mathrm{previous\_token} = \operatorname*{mean}_{t \ge 1} A_{t,\, t - 1}

    Prefix matching is attention to the tokens that came after the earlier occurrences (Olsson et al. 2022, arXiv
    2209.11895, as its erratum has it). Summed over occurrences: a head that spreads over three of them scores as one
    that picks the last. The mean over entries, or the part of all the attention there is, are other numbers.

    Args:
        weights: Self-attention weights, (B, H, T, T) with T = first + nR; each row is divided by its sum.
        length: Number n of tokens in s.
        first: Number of start tokens, 0 or 1.

    Returns:
        ``prefix_matching``, ``duplicate_token`` and ``previous_token``: means over sequences and queries, 0 to 1, each
        float64 (H,) (float32 on MPS). Every sequence has as many queries, so that means of batches, weighted by their
        sequences, are those of the whole. Nothing is read back from the device.

    Raises:
        ValueError: If the shapes do not fit.

    Example:
        >>> keys = torch.tensor([0, 0, 1, 2, 2, 3, 4])  # what each query looks at in start, a, b, c, a, b, c
        >>> found = pattern_sums(torch.eye(7)[keys][None, None], length=3)
        >>> found["prefix_matching"].tolist(), found["duplicate_token"].tolist()
        ([1.0], [0.0])

    """
    _check_length(length)
    _check_first(first)
    if weights.ndim != 4 or weights.shape[2] != weights.shape[3]:
        raise ValueError(f"`weights` must be (B, H, T, T), got shape {tuple(weights.shape)}.")
    _check_total("`weights` must have T", weights.shape[2], weights.shape[2], length, first)
    wide = wide_dtype(weights.device)
    rows = as_float(weights.detach())
    rows = rows / rows.sum(-1, keepdim=True)
    place = torch.arange(weights.shape[2], device=weights.device)
    back = place[:, None] - place
    inside = (place - first)[:, None]

    def mean(targets: Tensor, queries: int) -> Tensor:
        total: Tensor = torch.where(targets, rows, 0.0).sum((0, 2, 3), dtype=wide)
        return total / (weights.shape[0] * queries)

    def occurrences(distance: Tensor) -> Tensor:
        return (distance % length == 0) & (distance >= length) & (distance <= inside)

    later = len(place) - first - length
    return {
        "prefix_matching": mean(occurrences(back + 1), later),
        "duplicate_token": mean(occurrences(back), later),
        "previous_token": mean(back == 1, len(place) - 1),
    }


def pattern_chance(length: int, repeats: int, first: int = 1) -> dict[str, float]:
    r"""What :func:`pattern_sums` gives for causal attention that is equal over all keys up to the query.

    .. math::
        \operatorname*{mean}_{t :\, k_t \ge 1} \frac{k_t}{t + 1}, \qquad
        \operatorname*{mean}_{t \ge 1} \frac{1}{t + 1}

    with :math:`k_t = \lfloor (t - \mathrm{first}) / n \rfloor`: prefix matching and duplicate token have as many
    targets and so the same chance; the second is that of the previous token.

    Args:
        length: Number n of tokens in s.
        repeats: How often s occurs, R.
        first: Number of start tokens, 0 or 1.

    Returns:
        ``prefix_matching``, ``duplicate_token`` and ``previous_token``.

    Raises:
        ValueError: If ``length`` or ``repeats`` is below 2 or ``first`` is neither 0 nor 1.

    Example:
        >>> [round(pattern_chance(length, repeats=4)["prefix_matching"], 4) for length in (25, 15)]
        [0.0307, 0.0503]

    """
    _check_length(length)
    _check_first(first)
    _check_repeats(repeats)
    total = first + length * repeats
    later = [(t - first) // length / (t + 1) for t in range(first + length, total)]
    pattern = math.fsum(later) / len(later)
    previous = math.fsum(1 / (t + 1) for t in range(1, total)) / (total - 1)
    return {"prefix_matching": pattern, "duplicate_token": pattern, "previous_token": previous}


def loss_by_position(logits: Tensor, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    r"""Next-token cross-entropy by the place of the token in its context.

    .. math:: \ell_p = -\log \operatorname{softmax}(z_p)_{x_{p+1}}

    with z and x counted from the first real token of each sequence, whichever side is padded: entry p is the loss of
    the token that p + 1 real ones precede. A pair counts where both its tokens are real; a negative id, such as −100,
    is none.

    Args:
        logits: (B, T, V); −inf for a token is allowed.
        ids: Token ids, (B, T).
        mask: Which positions hold a real token, bool (B, T). Sequences without a gap are meant; pairs across a gap do
            not count and those after it keep their place. To compare places over the same texts, leave out all of a
            text that is too short: ``mask & (mask.sum(1, keepdim=True) > last)``.

    Returns:
        Sums in nats and numbers of pairs, float64 (T − 1,) each (float32 on MPS), which add up over batches of one
        length. Logits are worked on in blocks; nothing is read back from the device.

    Raises:
        ValueError: If the shapes do not fit.

    Example:
        >>> ids, mask = torch.tensor([[9, 1, 0]]), torch.tensor([[False, True, True]])
        >>> sums, number = loss_by_position(torch.zeros(1, 3, 10), ids, mask)
        >>> [round(value, 3) for value in sums.tolist()], number.tolist()
        ([2.303, 0.0], [1.0, 0.0])

    """
    if logits.ndim != 3 or ids.shape != logits.shape[:2] or mask.shape != ids.shape:
        raise ValueError(
            f"`logits` must be (B, T, V) and `ids` and `mask` (B, T), got shapes {tuple(logits.shape)}, "
            f"{tuple(ids.shape)} and {tuple(mask.shape)}."
        )
    batch, length, vocabulary = logits.shape
    if length < 2 or not vocabulary:
        raise ValueError(f"`logits` must be of at least two positions and one token, got shape {tuple(logits.shape)}.")
    wide = wide_dtype(logits.device)
    real = mask.bool()
    targets = ids[:, 1:].long()
    counted = real[:, 1:] & real[:, :-1] & (targets >= 0)
    wanted = torch.nn.functional.pad(targets.clamp_min(0), (0, 1)).flatten()
    rows = logits.detach().flatten(0, 1)
    step = max(1, _BLOCK // vocabulary)
    parts = [torch.zeros(0, dtype=wide, device=logits.device)]
    for begin in range(0, len(rows), step):
        some = rows[begin : begin + step].to(wide)
        right = some.gather(-1, wanted[begin : begin + step, None]).squeeze(-1)
        parts.append(some.logsumexp(-1) - right)
    losses = torch.cat(parts).view(batch, length)[:, :-1]
    # The first real token to the first place. A gather, not a scatter: sums on a GPU then have one order.
    place = real.int().argmax(1, keepdim=True) + torch.arange(length - 1, device=logits.device)
    counted = counted.gather(1, place.clamp_max(length - 2)) & (place < length - 1)
    losses = losses.gather(1, place.clamp_max(length - 2))
    return torch.where(counted, losses, 0.0).sum(0), counted.sum(0).to(wide)


def icl_score(sums: Tensor, counts: Tensor, early: int = 50, late: int = 500, half_width: int = 5) -> float:
    r"""In-context learning: loss late in the context less that early in it, in nats (Olsson et al. 2022).

    .. math:: \bar\ell(\mathrm{late} \pm w) - \bar\ell(\mathrm{early} \pm w)

    with :math:`\bar\ell` the mean over all pairs of the 2w + 1 places. More negative is more learning from the context.
    Place p is that of :func:`loss_by_position`: the token that p + 1 others precede. With w = 0 this is the published
    score.

    Args:
        sums: Sum of losses at each place, (T − 1,), added up over batches.
        counts: How many there are, (T − 1,).
        early: The early place.
        late: The late place.
        half_width: Places on either side of each that are taken in, w.

    Returns:
        The score; NaN where a place of either window is outside the context or has no loss.

    Raises:
        ValueError: If shapes differ, ``half_width`` is negative or ``early`` is not before ``late``.

    Example:
        >>> icl_score(torch.tensor([8.0, 8, 4, 2]), torch.tensor([2, 2, 2, 2]), early=0, late=3, half_width=0)
        -3.0

    """
    if sums.ndim != 1 or sums.shape != counts.shape:
        raise ValueError(
            f"`sums` and `counts` must both be (T − 1,), got shapes {tuple(sums.shape)} and {tuple(counts.shape)}."
        )
    if half_width < 0:
        raise ValueError(f"`half_width` must not be negative, got {half_width}.")
    if not early < late:
        raise ValueError(f"`early` must be before `late`, got {early} and {late}.")
    if early - half_width < 0 or late + half_width >= len(sums):
        return math.nan
    means = []
    for centre in (late, early):
        window = slice(centre - half_width, centre + half_width + 1)
        number = counts[window].detach().cpu().double()
        if not bool((number > 0).all()):
            return math.nan
        means.append(float(sums[window].detach().cpu().double().sum() / number.sum()))
    return means[0] - means[1]


def repeat_gain(losses: Tensor, length: int, first: int = 1) -> float:
    r"""How much better the tokens of a sequence are predicted when they come again, in nats.

    .. math:: \operatorname{mean}_{u < n} \ell(u) - \operatorname{mean}_{u > n} \ell(u)

    with :math:`\ell(u)` the loss of token u of the copies of :func:`repeated_sequences`, counted from 0 without the
    start token. The first copy are the tokens u < n: with a start token all n of them, without one all but u = 0, which
    nothing predicts. The later copies are u > n. The token u = n belongs to neither: that s begins again nobody can
    know before it has, whereas the first tokens of the third copy and on are predicted like the others. Tokens u > n
    are predicted by the very queries of prefix matching in :func:`pattern_sums`, all but the last of them.

    Args:
        losses: Next-token losses, (sequences, T − 1) with T = first + nR: entry p is the loss of token p + 1.
        length: Number n of tokens in s.
        first: Number of start tokens, 0 or 1.

    Returns:
        Mean over sequences and tokens; 0 for a model that makes no use of what it read.

    Raises:
        ValueError: If the shapes do not fit.

    Example:
        >>> repeat_gain(torch.tensor([[5.0, 5.0, 6.0, 1.0]]), length=2)
        4.0

    """
    _check_length(length)
    _check_first(first)
    if losses.ndim != 2 or not len(losses):
        raise ValueError(f"`losses` must be (sequences, T − 1) with a sequence, got shape {tuple(losses.shape)}.")
    _check_total("`losses` must have T − 1 entries, T", losses.shape[1], losses.shape[1] + 1, length, first)
    wide = losses.detach().cpu().double()
    again = length + first - 1  # The entry of u = n.
    return float(wide[:, :again].mean() - wide[:, again + 1 :].mean())


def _check_length(length: int) -> None:
    if length < 2:
        raise ValueError(f"`length` must be at least 2, got {length}.")


def _check_repeats(repeats: int) -> None:
    if repeats < 2:
        raise ValueError(f"`repeats` must be at least 2, got {repeats}.")


def _check_first(first: int) -> None:
    if first not in (0, 1):
        raise ValueError(f"`first` must be 0 or 1, got {first}.")


def _check_total(name: str, size: int, total: int, length: int, first: int) -> None:
    """Refuse what is not of start tokens and two or more whole copies, T in all."""
    copies = total - first
    if copies < 2 * length or copies % length:
        raise ValueError(
            f"{name} = first + nR with R at least 2, for `first` = {first} and n = `length` = {length}; got {size}."
        )
