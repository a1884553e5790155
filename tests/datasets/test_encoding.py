from __future__ import annotations

import random

import pytest
import torch
from torch.utils.data import DataLoader, Subset

from lightning_interp.datasets import BOS_ID, EOS_ID, PAD_ID, EncodedPairs, Pair, Vocabulary
from lightning_interp.datasets.encoding import as_batch


@pytest.fixture
def pairs() -> list[Pair]:
    source = random.Random(0)

    def words(shortest: int) -> tuple[str, ...]:
        return tuple(source.choice("abcde") for _ in range(source.randint(shortest, 9)))

    return [(words(1), words(0)) for _ in range(50)]


def encoded(pairs: list[Pair]) -> EncodedPairs:
    vocabulary = Vocabulary("abcde")
    return EncodedPairs(pairs, vocabulary, vocabulary)


def test_batch_equals_padding_by_hand(pairs: list[Pair]) -> None:
    positions = [7, 3, 40, 3]
    batch = encoded(pairs).__getitems__(positions)
    vocabulary = Vocabulary("abcde")
    sources = [vocabulary.encode(pairs[position][0]) for position in positions]
    targets = [vocabulary.encode(pairs[position][1]) for position in positions]
    width = max(map(len, sources))
    length = max(map(len, targets)) + 1

    def pad(row: list[int], size: int, value: int) -> list[int]:
        return row + [value] * (size - len(row))

    assert batch["input_ids"].tolist() == [pad(row, width, PAD_ID) for row in sources]
    assert batch["attention_mask"].tolist() == [pad([1] * len(row), width, 0) for row in sources]
    assert batch["labels"].tolist() == [pad([*row, EOS_ID], length, -100) for row in targets]
    assert batch["decoder_input_ids"].tolist() == [pad([BOS_ID, *row], length, PAD_ID) for row in targets]
    assert all(tensor.dtype == torch.int64 for tensor in batch.values())


def test_round_trip(pairs: list[Pair]) -> None:
    vocabulary = Vocabulary("abcde")
    for item, (source, target) in zip(encoded(pairs), pairs, strict=True):
        assert tuple(vocabulary.decode(item["input_ids"].tolist())) == source
        assert tuple(vocabulary.decode(item["labels"].tolist())) == target
        assert len(item["labels"]) == len(target) + 1


@pytest.mark.parametrize("workers", [0, 1])
def test_loader_and_subset_cut_the_same_batches(pairs: list[Pair], workers: int) -> None:
    data = encoded(pairs)
    loader = DataLoader(Subset(data, range(10, 30)), batch_size=8, collate_fn=as_batch, num_workers=workers)
    for start, batch in zip((10, 18, 26), loader, strict=True):
        expected = data.__getitems__(range(start, min(start + 8, 30)))
        assert all(torch.equal(batch[key], expected[key]) for key in expected)


def test_positions(pairs: list[Pair]) -> None:
    data = encoded(pairs)
    assert torch.equal(data[-1]["input_ids"], data[len(data) - 1]["input_ids"])
    with pytest.raises(IndexError, match="position 50 of a data set with 50 examples"):
        data[50]


def test_errors() -> None:
    with pytest.raises(ValueError, match="`pairs` is empty"):
        encoded([])
    with pytest.raises(ValueError, match=r"`pairs\[1\]` has an empty source"):
        encoded([(["a"], ["b"]), ([], ["c"])])
