"""Sentence pairs as ids, encoded once, and the batches that are cut from them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from lightning_interp.datasets.vocabulary import BOS_ID, EOS_ID, PAD_ID, Vocabulary

__all__ = ["Batch", "EncodedPairs", "Pair"]

Pair = tuple[Sequence[str], Sequence[str]]
Batch = dict[str, Tensor]

IGNORE_INDEX = -100


class _Ragged:
    """Sequences of different lengths in one flat tensor, so that no sequence pays for the longest one."""

    def __init__(self, sequences: Sequence[Sequence[int]]) -> None:
        self.lengths = torch.tensor([len(sequence) for sequence in sequences])
        self.starts = self.lengths.cumsum(0) - self.lengths
        self.values = torch.tensor(list(chain.from_iterable(sequences)))

    def rows(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """The chosen sequences side by side, (B, longest), and which of the entries are theirs, boolean."""
        lengths = self.lengths[positions].unsqueeze(1)
        columns = torch.arange(int(lengths.max())).unsqueeze(0)
        inside = columns < lengths
        return self.values[(self.starts[positions].unsqueeze(1) + columns) * inside], inside


class EncodedPairs(Dataset[Batch]):
    """Pairs of a source and a target sentence as a data set of ids.

    An item is a dictionary of one-dimensional tensors. ``DataLoader`` asks for a whole batch at once
    (``__getitems__``), which is cut from flat tensors and padded to its own longest sentence; the loader's
    ``collate_fn`` has nothing left to do and must be :func:`as_batch`.

    Args:
        pairs: Source words and target words of each example.
        source_vocabulary: Ids of the source words.
        target_vocabulary: Ids of the target words.

    Raises:
        ValueError: If there is no pair, or one with an empty source.

    A batch of B pairs with up to S source words and up to T − 1 target words has

    - ``input_ids`` (B, S): source ids, padded with ``PAD_ID``, nothing around them;
    - ``attention_mask`` (B, S): 1 at source words, 0 at padding;
    - ``labels`` (B, T): target ids and ``EOS_ID``, padded with -100;
    - ``decoder_input_ids`` (B, T): ``BOS_ID`` and target ids, padded with ``PAD_ID``.

    Example:
        >>> pairs = [(["amelia", "slept"], ["slept", "agent", "amelia"]), (["go"], ["go"])]
        >>> source, target = (Vocabulary.from_sentences(side) for side in zip(*pairs))
        >>> batch = EncodedPairs(pairs, source, target).__getitems__([0, 1])
        >>> batch["input_ids"].tolist(), batch["attention_mask"].tolist()
        ([[4, 6], [5, 0]], [[1, 1], [1, 0]])
        >>> batch["labels"].tolist()
        [[7, 4, 5, 2], [6, 2, -100, -100]]
        >>> batch["decoder_input_ids"].tolist()
        [[1, 7, 4, 5], [1, 6, 0, 0]]

    """

    def __init__(self, pairs: Sequence[Pair], source_vocabulary: Vocabulary, target_vocabulary: Vocabulary) -> None:
        if not pairs:
            raise ValueError("`pairs` is empty; a data set needs at least one (source words, target words) pair.")
        empty = next((number for number, (source, _) in enumerate(pairs) if not source), None)
        if empty is not None:
            raise ValueError(f"`pairs[{empty}]` has an empty source; its target is {pairs[empty][1]!r}.")
        self._sources = _Ragged([source_vocabulary.encode(source) for source, _ in pairs])
        self._labels = _Ragged([[*target_vocabulary.encode(target), EOS_ID] for _, target in pairs])

    def __len__(self) -> int:
        return len(self._sources.lengths)

    def __getitem__(self, position: int) -> Batch:
        # Python's iteration over a sequence ends at this error.
        if not -len(self) <= position < len(self):
            raise IndexError(f"position {position} of a data set with {len(self)} examples")
        return {key: rows[0] for key, rows in self.__getitems__([position % len(self)]).items()}

    def __getitems__(self, positions: Iterable[int]) -> Batch:
        """The batch of the examples at these positions."""
        chosen = torch.as_tensor(list(positions))
        source, inside_source = self._sources.rows(chosen)
        labels, inside_labels = self._labels.rows(chosen)
        decoder_input = torch.full_like(labels, BOS_ID)
        decoder_input[:, 1:] = labels[:, :-1]
        return {
            "input_ids": source.masked_fill_(~inside_source, PAD_ID),
            "attention_mask": inside_source.long(),
            "labels": labels.masked_fill_(~inside_labels, IGNORE_INDEX),
            "decoder_input_ids": decoder_input.masked_fill_(~inside_labels, PAD_ID),
        }


def as_batch(batch: Any) -> Any:
    """The batch as it is: :class:`EncodedPairs` has assembled it already."""
    return batch
