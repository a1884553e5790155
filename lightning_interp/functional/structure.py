"""Information, variation, regularity and disentanglement from one table of counts per label."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_interp.functional._numerics import plogp, wide_dtype
from lightning_interp.functional.binned import check_correction, miller_madow

__all__ = ["StructureMeasures", "check_average", "label_mean", "structure_measures"]

# Table entries that one step works on, so that memory beside the table is bounded.
_STEP = 1 << 21


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
    :math:`I(Z; L)`, computed on its own path, so that information = variation + regularity is a check and not a
    definition. Where labels have parents (the bigrams of a token) each is compared within its parent: regularity is
    :math:`I(Z; L \mid parent)` = parent variation − variation, and the complement of a label is the rest of its parent.
    A label without a complement has no disentanglement and is left out of that mean.

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

    size = sizes.to(wide)
    parent = torch.zeros_like(sizes, dtype=torch.long) if parents is None else parents.long()
    family = _Families(size, parent, average)
    family_counts = torch.zeros(family.number, groups, bins, dtype=wide, device=table.device)
    rows = max(1, _STEP // (groups * bins))
    blocks = [slice(start, start + rows) for start in range(0, num_labels, rows)]
    for block in blocks:
        family_counts.index_add_(0, parent[block], table[block].to(wide))
    family_p = family_counts / family.size[:, None, None]
    family_entropy = -plogp(family_p).sum(-1).mean(-1)
    pool = family_counts.sum(0) / size.sum()
    information = -plogp(pool).sum(-1).mean(-1)

    # Elementwise work in the dtype of the table, sums over labels in the widest there is.
    family_log = family_p.clamp_min(torch.finfo(wide).tiny).log().to(table.dtype)
    entropy, divergence, shift, js = (torch.empty(num_labels, dtype=wide, device=table.device) for _ in range(4))
    for block in blocks:
        p = table[block] / sizes[block, None, None].to(table.dtype)
        p_log_p = plogp(p)
        entropy[block] = -p_log_p.sum(-1).mean(-1, dtype=wide)
        log_parent = family_log[parent[block]]
        divergence[block] = (p_log_p - p * log_parent).sum(-1).mean(-1, dtype=wide)
        if average == "plain":
            offset = p - family_p[parent[block]].to(table.dtype)
            shift[block] = (offset * log_parent).sum(-1).mean(-1, dtype=wide)
        rest = (family.size[parent[block]] - size[block]).clamp_min(1)[:, None, None].to(table.dtype)
        q = ((family_counts[parent[block]].to(table.dtype) - table[block]) / rest).clamp_min_(0)
        middle = -plogp((p + q) / 2).sum(-1)
        js[block] = (middle + (p_log_p.sum(-1) + plogp(q).sum(-1)) / 2).mean(-1, dtype=wide)
    if average == "plain":
        divergence += shift

    if correction == "miller_madow":
        plug_in = (information, family_entropy, entropy)
        information = miller_madow(information, (pool > 0).sum(-1).to(wide).mean(-1), size.sum())
        family_entropy = miller_madow(family_entropy, (family_p > 0).sum(-1).to(wide).mean(-1), family.size)
        entropy = torch.cat(
            [miller_madow(entropy[b], (table[b] > 0).sum(-1).to(wide).mean(-1), size[b]) for b in blocks]
        )
        divergence += (family_entropy - plug_in[1])[parent] - (entropy - plug_in[2])

    variation = family.mean(entropy)
    regularity = family.mean(divergence)
    parent_variation = information if parents is None else family.mean_of_families(family_entropy)
    has_rest = family.size[parent] > size
    unit = math.log(bins) if normalize else 1.0
    return StructureMeasures(
        information / unit,
        variation / unit,
        regularity / unit,
        family.mean(js.clamp_min(0), where=has_rest),
        parent_variation / unit,
    )


def label_mean(values: Tensor, sizes: Tensor, parents: Tensor | None = None, average: str = "frequency") -> Tensor:
    """Mean of a value per label with the weights of :func:`structure_measures`.

    Example:
        >>> label_mean(torch.tensor([0.0, 1.0]), torch.tensor([1, 3]))
        tensor(0.7500, dtype=torch.float64)

    """
    check_average(average)
    wide = wide_dtype(values.device)
    parent = torch.zeros_like(sizes, dtype=torch.long) if parents is None else parents.long()
    return _Families(sizes.to(wide), parent, average).mean(values.to(wide))


def check_average(average: str) -> None:
    """Refuse an averaging convention that does not exist."""
    if average not in ("frequency", "plain"):
        raise ValueError(f"`average` must be 'frequency' or 'plain', got {average!r}.")


class _Families:
    """Weighted means over labels that belong to parents."""

    def __init__(self, size: Tensor, parent: Tensor, average: str) -> None:
        self.number = int(parent.max()) + 1
        self.parent = parent
        self.plain = average == "plain"
        self.label_size = size
        self.size = torch.zeros(self.number, dtype=size.dtype, device=size.device).index_add_(0, parent, size)

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
