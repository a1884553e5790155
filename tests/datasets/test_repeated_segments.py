"""Repeated segments: what they are of, and that any process draws the same ones."""

from __future__ import annotations

import pickle
from collections import Counter

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_interp.datasets import RepeatedSegments


def period(ids: Tensor) -> int:
    return next(p for p in range(1, len(ids) + 1) if torch.equal(ids[p:], ids[:-p] if p < len(ids) else ids[:0]))


def test_each_is_a_segment_again_and_again() -> None:
    sequences = RepeatedSegments(500, seed=3)
    samples = [sequences[index] for index in range(len(sequences))]
    for sample in samples:
        assert sample.keys() == {"input_ids", "attention_mask"}
        assert {tensor.dtype for tensor in sample.values()} == {torch.int64}
        assert {tensor.shape for tensor in sample.values()} == {(64,)}
        assert bool((sample["attention_mask"] == 1).all())
    periods = Counter(period(sample["input_ids"]) for sample in samples)
    assert periods.keys() == set(range(10, 33))
    assert max(periods.values()) < 45  # 22 expected
    ids = torch.stack([sample["input_ids"][:10] for sample in samples])
    counts = torch.bincount(ids.flatten(), minlength=64)
    assert counts.shape == (64,)
    assert int(counts.min()) > 40  # 78 expected
    assert int(counts.max()) < 120


def test_any_process_and_order_draws_the_same() -> None:
    sequences = RepeatedSegments(12, length=20, ids=9, segment=(3, 5), seed=7)
    backwards = {index: sequences[index]["input_ids"].tolist() for index in reversed(range(12))}
    torch.manual_seed(99)
    again = pickle.loads(pickle.dumps(RepeatedSegments(12, length=20, ids=9, segment=(3, 5), seed=7)))
    in_workers = torch.cat([batch["input_ids"] for batch in DataLoader(again, 5, num_workers=2)])
    assert in_workers.tolist() == [backwards[index] for index in range(12)]
    # A longer set begins with a shorter one of the same seed; another seed has others.
    assert RepeatedSegments(99, length=20, ids=9, segment=(3, 5), seed=7)[11]["input_ids"].tolist() == backwards[11]
    other = RepeatedSegments(12, length=20, ids=9, segment=(3, 5), seed=8)
    assert not {*map(tuple, backwards.values())} & {
        tuple(one["input_ids"].tolist()) for one in map(other.__getitem__, range(12))
    }


def test_no_random_state_is_touched() -> None:
    before = torch.get_rng_state()
    RepeatedSegments(3)[0]
    assert torch.equal(torch.get_rng_state(), before)


def test_places() -> None:
    sequences = RepeatedSegments(4)
    assert len(sequences) == len([*sequences]) == 4
    assert torch.equal(sequences[-1]["input_ids"], sequences[3]["input_ids"])
    with pytest.raises(IndexError):
        sequences[4]


def test_a_segment_may_be_as_long_as_the_sequence() -> None:
    assert len(RepeatedSegments(1, length=6, segment=(6, 6))[0]["input_ids"]) == 6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"number": 0}, "`number` is 0; it must be at least 1"),
        ({"length": 0}, "`length` is 0"),
        ({"ids": 0}, "`ids` is 0"),
        ({"seed": -1}, "`seed` is -1; it must not be negative"),
        ({"segment": (0, 3)}, r"`segment` is \(0, 3\); expected the shortest and the longest length, from 1"),
        ({"segment": [5, 4]}, r"`segment` is \(5, 4\)"),
        ({"length": 8, "segment": (3, 9)}, "from 1 to `length`, which is 8"),
    ],
)
def test_errors(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RepeatedSegments(**{"number": 2, **arguments})
