"""Whether two readings saw the same samples, by a checksum of what was in the batches."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_interp.batches.contents import tensors_of
from lightning_interp.distributed import Collective, Sum
from lightning_interp.distributed.positions import Selection
from lightning_interp.functional.counter_noise import counter_hash

__all__ = ["DataChecksum", "Samples", "sample_hashes"]

_TENSORS = 4  # of a batch that are looked at, with a row a sample and without
_NUMBERS = 256  # of a sample in each of them
_LETTERS = 4096  # of a text
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class Samples(NamedTuple):
    """What identifies the samples of a reading, over all ranks."""

    number: int
    """How many there were."""
    contents: int
    """Checksum of what is in them, in whatever order."""
    places: int
    """Checksum of what is in them and of the number under which each was read."""


class DataChecksum:
    r"""Adds up a checksum of the samples of a reading: the same for the same samples on any number of ranks.

    .. math:: \sum_i h_i, \quad \sum_i (2 p_i + 1)\, h_i \pmod{2^{64}}

    with h a hash of what is in sample i (:func:`sample_hashes`) and p the number under which it is read. Nothing is
    read back from the device before the reading ends.

    Cost: a product and a sum over at most 1,024 numbers a sample. Between ranks: three numbers.

    Example:
        >>> from lightning_interp.distributed import over_ranks
        >>> one, other = DataChecksum(), DataChecksum()
        >>> one.add(torch.arange(6).view(3, 2), Selection(torch.arange(3), None, torch.arange(3)))
        >>> other.add(torch.tensor([[4, 5], [0, 1], [2, 3]]), Selection(torch.arange(3), None, torch.arange(3)))
        >>> first, second = over_ranks(one.merge()), over_ranks(other.merge())
        >>> first.contents == second.contents, first.places == second.places
        (True, False)

    """

    def __init__(self) -> None:
        self._number = 0
        self._sums: Tensor | None = None

    def add(self, batch: Any, selection: Selection) -> None:
        """Take in the selected samples of a batch."""
        if not len(selection):
            return
        hashes = selection.of(sample_hashes(batch, len(selection.batch)))
        places = selection.positions.to(hashes.device)
        sums = torch.stack([hashes.sum(), (hashes * (2 * places + 1)).sum()])
        self._sums = sums if self._sums is None else self._sums + sums
        self._number += len(selection)

    def merge(self) -> Collective[Samples]:
        """The checksum over all ranks."""
        sums = torch.zeros(2, dtype=torch.int64) if self._sums is None else self._sums.cpu()
        merged: Tensor = yield Sum(torch.cat([torch.tensor([self._number]), sums]))
        return Samples(*merged.tolist())


def sample_hashes(batch: Any, size: int) -> Tensor:
    r"""A number for each sample of a batch that is the same for the same content.

    .. math:: h = \mathrm{splitmix64}\Big(\sum_k w_k x_k \bmod 2^{64}\Big)

    over the sample's numbers x, up to 256 evenly spread ones in each of the first four tensors that have a row a
    sample, with fixed random odd weights w. Integers below 0 and what ``attention_mask`` leaves out count as 0, so that
    it mostly does not matter how far a batch is padded. Texts count by their letters. Where no tensor has more than a
    number a sample (graphs, packed sequences), the others count as a whole, for every sample.

    Args:
        batch: What the loader gave.
        size: Number of its samples.

    Returns:
        int64 (size,), on the device of the batch.

    Example:
        >>> short, long = torch.tensor([[3, 4]]), torch.tensor([[3, 4, 0], [3, 4, 1]])
        >>> bool(sample_hashes(short, 1)[0] == sample_hashes(long, 2)[0]), bool(sample_hashes(long, 2).diff() == 0)
        (True, False)

    """
    tensors = [one for one in tensors_of(batch) if one.ndim and one.numel() and not one.is_nested and not one.is_sparse]
    rows = [one for one in tensors if one.shape[0] == size][:_TENSORS]
    alone = any(one.ndim > 1 for one in rows)
    others = [] if alone else [one.reshape(1, -1) for one in tensors if one.shape[0] != size][:_TENSORS]
    mask = batch.get("attention_mask") if isinstance(batch, Mapping) else None
    total: Tensor | None = None
    for number, one in enumerate([*rows, *others]):
        own = mask if isinstance(mask, Tensor) and mask.shape == one.shape else None
        found = _weighted(one, own, number)
        total = found if total is None else total + found.to(total.device)
    texts = torch.tensor(_texts(batch, size), dtype=torch.int64)
    if total is None:
        return counter_hash(texts)
    if not rows:
        total = total + torch.arange(size, device=total.device)  # apart, though they share what is in them
    return counter_hash(total + texts.to(total.device) if bool(texts.any()) else total)


def _weighted(tensor: Tensor, mask: Tensor | None, number: int) -> Tensor:
    """Σ w x for each row."""
    values = tensor.detach().reshape(len(tensor), -1)
    stride = -(-values.shape[1] // _NUMBERS)
    if values.is_complex():
        values = values.real
    values = values[:, ::stride]
    if values.is_floating_point():
        values = values.contiguous().view(_BITS[values.element_size()])
        numbers = values.long()
    else:
        numbers = values.long().clamp_min(0)
    if mask is not None:
        numbers = numbers * mask.reshape(len(tensor), -1)[:, ::stride].bool()
    return (numbers * _weights(number, numbers.device)[: numbers.shape[1]]).sum(1)


@cache
def _weights(number: int, device: torch.device) -> Tensor:
    # Usable in and out of inference mode, whichever asks first.
    with torch.inference_mode(False):
        counters = torch.arange(number * _NUMBERS, (number + 1) * _NUMBERS)
        return (counter_hash(counters) | 1).to(device)


def _texts(batch: Any, size: int) -> list[int]:
    """A checksum of the texts of each sample, 0 where there are none."""
    found = [0] * size
    for texts in _lists_of_texts(batch):
        if len(texts) == size:
            pairs = zip(texts, found, strict=True)
            found = [zlib.crc32(text[:_LETTERS].encode(errors="replace"), old) for text, old in pairs]
    return found


def _lists_of_texts(batch: Any) -> list[Sequence[str]]:
    if isinstance(batch, Mapping):
        return [one for value in batch.values() for one in _lists_of_texts(value)]
    if isinstance(batch, list | tuple):
        if batch and all(isinstance(one, str) for one in batch):
            return [batch]
        if batch and isinstance(batch[0], Mapping | list | tuple):
            return [one for value in batch for one in _lists_of_texts(value)]
    return []
