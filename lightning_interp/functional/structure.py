"""Information, variation, regularity and disentanglement from one table of counts per label."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_interp.functional._numerics import plogp, wide_dtype
from lightning_interp.functional.binned import check_correction, miller_madow

__all__ = ["Families", "LabelTerms", "StructureMeasures", "check_average", "label_mean", "structure_measures"]

# Table entries that one step works on: few enough for a processor's cache.
_STEP = 1 << 18


class StructureMeasures(NamedTuple):
    """The measures of one label set; each a scalar in float64 (float32 where a device has none)."""

    information: Tensor
    """Entropy of all rows together."""
    variation: Tensor
    """Mean entropy within a label."""
    regularity: Tensor
    """Information about the label, beyond its parent where it has one."""
    disentanglement: Tensor
    """Mean divergence of a label from its complement, in nats; NaN where no label has a complement."""
    parent_variation: Tensor
    """Mean entropy within a parent; equal to information for labels without parents."""


def structure_measures(
    counts: Tensor,
    sizes: Tensor,
    parents: Tensor | None = None,
    average: str = "frequency",
    correction: str | None = None,
    normalize: bool = True,
) -> StructureMeasures:
    r"""The four measures of Conklin & Smith 2024 (arXiv 2406.02449) from per-label counts.

    With :math:`p_l` the distribution over bins within label l, p that of all rows and w the weights of labels:

    .. math::
        \text{information} = H(p), \quad \text{variation} = \sum_l w_l H(p_l), \quad
        \text{regularity} = \sum_l w_l KL(p_l \| p), \quad
        \text{disentanglement} = \sum_l w_l JS(p_l, p_{\neg l})

    where :math:`p_{\neg l}` pools the other labels. With frequency weights regularity is the mutual information
    :math:`I(Z; L)`, computed as what the sum of divergences comes to: information − variation. Where labels have
    parents (the bigrams of a token) each is compared within its parent: regularity is :math:`I(Z; L \mid parent)` =
    parent variation − variation, and the complement of a label is the rest of its parent. A label without a complement
    has no disentanglement and is left out of that mean.

    Args:
        counts: Counts per label and bin, shape (L, K), or (L, G, K) for G distributions a label (dimensions of the
            binned estimator), over which all measures are averaged. Soft counts are sums of assignments.
        sizes: Rows per label, shape (L,), positive.
        parents: Index of each label's parent, shape (L,); ``None`` where all labels stand beside each other.
        average: ``"frequency"`` weights labels by their rows (Conklin 2025); ``"plain"`` takes every label alike, for
            nested labels first within a parent and then over parents (Conklin & Smith 2024). Under ``"plain"``
            regularity is the difference of entropies, as published, and no longer a mutual information.
        correction: ``"miller_madow"`` corrects the entropies, and with them regularity; not the divergence.
        normalize: Divide entropies by log K; the divergence stays in nats.

    Returns:
        :class:`StructureMeasures`; all NaN where there is no label.

    Raises:
        ValueError: If shapes do not fit or an option is unknown.

    Example:
        >>> apart = torch.tensor([[4.0, 0.0], [0.0, 4.0]])
        >>> measures = structure_measures(apart, torch.tensor([4, 4]))
        >>> [round(value.item(), 4) for value in measures]
        [1.0, 0.0, 1.0, 0.6931, 1.0]

    """
    check_average(average)
    check_correction(correction)
    table = counts.unsqueeze(1) if counts.ndim == 2 else counts
    if table.ndim != 3 or sizes.shape != table.shape[:1]:
        raise ValueError(
            f"`counts` must be (labels, bins) or (labels, groups, bins) with one entry of `sizes` a label, got "
            f"{tuple(counts.shape)} and {tuple(sizes.shape)}."
        )
    if parents is not None and parents.shape != sizes.shape:
        raise ValueError(f"`parents` {tuple(parents.shape)} must have the shape of `sizes` {tuple(sizes.shape)}.")
    wide = wide_dtype(table.device)
    table = table if table.is_floating_point() else table.to(wide)
    num_labels, groups, bins = table.shape
    if num_labels == 0:
        return StructureMeasures(*(torch.full((), math.nan, dtype=wide, device=table.device) for _ in range(5)))
    parent = torch.zeros_like(sizes, dtype=torch.long) if parents is None else parents.long()
    family_counts = torch.zeros(int(parent.max()) + 1, groups, bins, dtype=wide, device=table.device)
    rows = max(1, _STEP // (groups * bins))
    for start in range(0, num_labels, rows):
        block = slice(start, start + rows)
        family_counts.index_add_(0, parent[block], table[block].to(wide))
    families = Families(family_counts, sizes.to(wide), parent, average, correction)
    return families.measures(families.terms(table, slice(0, num_labels)), normalize, nested=parents is not None)


class LabelTerms(NamedTuple):
    """What each label adds to the measures, (L,) in the widest dtype."""

    entropy: Tensor
    """Of the label's distribution, in nats, without correction."""
    divergence: Tensor
    """Jensen–Shannon, from the rest of its parent, in nats."""
    support: Tensor
    """Bins that are not empty, averaged over groups."""


class Families:
    """Labels that belong to parents, and what all labels of a parent hold together.

    Args:
        counts: Counts of each parent's labels together, (F, G, K), in the widest dtype.
        sizes: Rows per label, (L,), in the widest dtype. Labels without rows have no part in any measure.
        parent: Parent of each label, int64 (L,), 0 … F−1.
        average: As for :func:`structure_measures`.
        correction: As for :func:`structure_measures`.

    """

    def __init__(
        self, counts: Tensor, sizes: Tensor, parent: Tensor, average: str = "frequency", correction: str | None = None
    ) -> None:
        self.counts = counts
        self._cast = {counts.dtype: counts}
        self.correction = correction
        self.means = _FamilyMeans(sizes, parent, average, len(counts))

    def terms(self, table: Tensor, labels: slice, known: Tensor | None = None) -> LabelTerms:
        """Terms of a run of labels, from their counts (labels, G, K).

        Elementwise work is done in the dtype of the table. Of labels with one row each, whose table is the rows,
        Σ p·log p (labels, G) may be ``known``.
        """
        wide = self.counts.dtype
        size, parent = self.means.label_size[labels], self.means.parent[labels]
        rest = self.means.size[parent] - size
        p_log_p, q_log_q, s_log_s = table.new_empty(3, len(table), table.shape[1])
        support = torch.zeros_like(size)
        # Where an option does not ask for it, a whole pass over the table is saved.
        counts_support = self.correction is not None
        if table.dtype not in self._cast:
            self._cast[table.dtype] = self.counts.to(table.dtype)
        counts = self._cast[table.dtype]
        rows = max(1, _STEP // max(1, table[:1].numel()))
        work = table.new_empty(3, min(rows, len(table)), *table.shape[1:])
        for start in range(0, len(table), rows):
            block = slice(start, min(start + rows, len(table)))
            p, q, log = work[:, : block.stop - block.start]
            if known is None:
                weight = size[block].clamp_min(1).reciprocal().to(table.dtype)[:, None, None]
                torch.mul(table[block], weight, out=p)
                _plogp_sums(p, log, p_log_p[block])
            weight = rest[block].clamp_min(1).reciprocal().to(table.dtype)[:, None, None]
            if len(counts) == 1:
                torch.sub(counts, table[block], out=q)
            else:
                torch.index_select(counts, 0, parent[block], out=q).sub_(table[block])
            _plogp_sums(q.mul_(weight), log, q_log_q[block])
            _plogp_sums(q.add_(table[block] if known is not None else p), log, s_log_s[block])
            if counts_support:
                support[block] = (table[block] > 0).sum(-1).to(wide).mean(-1)
        p_log_p = p_log_p if known is None else known
        # The mean of p and q is half their sum s, whose entries add up to 2.
        divergence = ((p_log_p + q_log_q - s_log_s) / 2).to(wide).mean(-1) + math.log(2)
        return LabelTerms(-p_log_p.to(wide).mean(-1), divergence.clamp_min_(0), support)

    def measures(self, terms: LabelTerms, normalize: bool = True, nested: bool = True) -> StructureMeasures:
        """The measures of all labels together."""
        means, size = self.means, self.means.label_size
        pool, family_p = self.counts.sum(0) / size.sum(), self.counts / means.size.clamp_min(1)[:, None, None]
        information = -plogp(pool).sum(-1).mean(-1)
        family_entropy = -plogp(family_p).sum(-1).mean(-1)
        entropy = terms.entropy
        if self.correction == "miller_madow":
            wide = pool.dtype
            information = miller_madow(information, (pool > 0).sum(-1).to(wide).mean(-1), size.sum())
            filled = (family_p > 0).sum(-1).to(wide).mean(-1)
            family_entropy = miller_madow(family_entropy, filled, means.size.clamp_min(1))
            entropy = miller_madow(entropy, terms.support, size.clamp_min(1))
        has_rows, has_rest = size > 0, means.size[means.parent] > size
        unit = math.log(self.counts.shape[-1]) if normalize else 1.0
        return StructureMeasures(
            information / unit,
            means.mean(entropy, where=has_rows) / unit,
            means.mean(family_entropy[means.parent] - entropy, where=has_rows) / unit,
            means.mean(terms.divergence, where=has_rows & has_rest),
            (means.mean_of_families(family_entropy) if nested else information) / unit,
        )


def _plogp_sums(p: Tensor, log: Tensor, out: Tensor) -> None:
    """Σ p·log p over the last dimension with 0·log 0 = 0; negative rounding in p becomes 0, ``log`` is room to work."""
    torch.log(p.clamp_min_(torch.finfo(p.dtype).tiny), out=log)
    torch.linalg.vecdot(p, log, out=out)


def label_mean(values: Tensor, sizes: Tensor, parents: Tensor | None = None, average: str = "frequency") -> Tensor:
    """Mean of a value per label with the weights of :func:`structure_measures`.

    Example:
        >>> label_mean(torch.tensor([0.0, 1.0]), torch.tensor([1, 3]))
        tensor(0.7500, dtype=torch.float64)

    """
    check_average(average)
    wide = wide_dtype(values.device)
    parent = torch.zeros_like(sizes, dtype=torch.long) if parents is None else parents.long()
    return _FamilyMeans(sizes.to(wide), parent, average, int(parent.max()) + 1).mean(values.to(wide))


def check_average(average: str) -> None:
    """Refuse an averaging convention that does not exist."""
    if average not in ("frequency", "plain"):
        raise ValueError(f"`average` must be 'frequency' or 'plain', got {average!r}.")


class _FamilyMeans:
    """Weighted means over labels that belong to parents."""

    def __init__(self, size: Tensor, parent: Tensor, average: str, number: int) -> None:
        self.parent = parent
        self.plain = average == "plain"
        self.label_size = size
        self.size = torch.zeros(number, dtype=size.dtype, device=size.device).index_add_(0, parent, size)

    def mean(self, values: Tensor, where: Tensor | None = None) -> Tensor:
        """Mean over labels, over those of ``where`` only, NaN where there are none."""
        keep = torch.ones_like(values) if where is None else where.to(values.dtype)
        weight = keep if self.plain else keep * self.label_size
        if self.plain:
            in_family = torch.zeros_like(self.size).index_add_(0, self.parent, keep)
            weight = weight / in_family.clamp_min(1)[self.parent]
        return (weight * values).sum() / weight.sum()

    def mean_of_families(self, values: Tensor) -> Tensor:
        """Mean over parents, with the weights that their labels have together."""
        weight = (self.size > 0).to(values.dtype) if self.plain else self.size
        return (weight * values.nan_to_num()).sum() / weight.sum()
