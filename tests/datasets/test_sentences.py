"""Padded batches of sentences."""

from __future__ import annotations

import pytest
import torch

from lightning_interp.datasets import sentence_loader


def test_every_sentence_comes_once_with_its_mask() -> None:
    sentences = [list(range(1, 2 + place)) for place in range(7)]
    for shuffle in (False, True):
        found = []
        for batch in sentence_loader(sentences, 3, shuffle=shuffle, pad_token_id=99):
            ids, mask = batch["input_ids"], batch["attention_mask"]
            assert ids.dtype == mask.dtype == torch.int64
            assert bool((ids[mask == 0] == 99).all())
            assert ids.shape[1] == int(mask.sum(1).max())
            found += [row[: int(kept.sum())].tolist() for row, kept in zip(ids, mask, strict=True)]
        assert (found if not shuffle else sorted(found)) == sentences
    assert len(sentence_loader(sentences, 3, drop_last=True)) == 2


def test_errors() -> None:
    with pytest.raises(ValueError, match="`sentences` is empty"):
        sentence_loader([])
    with pytest.raises(ValueError, match=r"`sentences` has no ids at \[1\]"):
        sentence_loader([[1], []])
