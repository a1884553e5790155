"""Words by how frequent they are."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["frequency_bands"]


def frequency_bands(counts: Tensor, bands: int) -> Tensor:
    r"""The frequency band of every word, such that each band holds about an equal share of the text.

    With words ordered from frequent to rare, n_k the count of the k-th and N the sum of all, word k is in band

    .. math:: b_k = \lfloor B \, (n_1 + \dots + n_{k-1} + n_k / 2) / N \rfloor

    so band 0 has few frequent words and the last many rare ones. Words of one count are ordered by their number. A word
    that is more frequent than a whole band leaves bands empty. Words that do not occur are in the last band.

    Args:
        counts: How often each word occurs, (V,).
        bands: B, at least 1.

    Returns:
        Bands from 0 on, int64 (V,).

    Raises:
        ValueError: If ``bands`` is below 1, or counts are not one-dimensional, negative, or all 0.

    Example:
        >>> frequency_bands(torch.tensor([1, 8, 1, 2, 4, 0]), bands=2)
        tensor([1, 0, 1, 1, 1, 1])

    """
    if bands < 1:
        raise ValueError(f"`bands` must be at least 1, got {bands}.")
    if counts.ndim != 1 or bool((counts < 0).any()) or not bool((counts > 0).any()):
        raise ValueError(f"`counts` must be numbers from 0 on, (V,), not all 0; got shape {tuple(counts.shape)}.")
    amounts = counts.cpu().double()
    order = amounts.argsort(descending=True, stable=True)
    ordered = amounts[order]
    middle = ordered.cumsum(0) - ordered / 2
    found = (bands * middle / ordered.sum()).long().clamp(max=bands - 1)
    found[ordered == 0] = bands - 1
    result = torch.empty_like(found)
    result[order] = found
    return result
