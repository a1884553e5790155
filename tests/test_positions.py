"""Positions of samples against what the samplers really deliver."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import BatchSampler, DataLoader, DistributedSampler, IterableDataset, SequentialSampler

from lightning_interp.positions import SamplePositions


def delivered(number: int, batch_size: int, rank: int, world: int, shuffle: bool, **kwargs: object) -> tuple:
    sampler = DistributedSampler(range(number), num_replicas=world, rank=rank, shuffle=shuffle, seed=3)
    sampler.set_epoch(2)
    loader = DataLoader(range(number), batch_size=batch_size, sampler=sampler)
    positions = SamplePositions(loader, rank=rank, world=world, **kwargs)
    kept, seen = [], []
    for batch in loader:
        selection = positions.select(len(batch))
        assert torch.equal(selection.batch, batch)
        kept += selection.of(batch).tolist()
        assert selection.positions.tolist() == selection.of(batch).tolist()
        seen += batch.tolist()
    assert positions.exact
    return kept, seen


@given(
    number=st.integers(1, 40), batch_size=st.integers(1, 9), world=st.integers(1, 5), shuffle=st.booleans(),
    max_examples=st.one_of(st.none(), st.integers(1, 50)),
)  # fmt: skip
def test_every_selected_sample_is_read_once_over_all_ranks(
    number: int, batch_size: int, world: int, shuffle: bool, max_examples: int | None
) -> None:
    parts = [delivered(number, batch_size, rank, world, shuffle, max_examples=max_examples) for rank in range(world)]
    kept = sorted(sample for part, _ in parts for sample in part)
    assert len(kept) == len(set(kept)) == min(number, max_examples or number)
    if not shuffle:
        alone, _ = delivered(number, 3, 0, 1, False, max_examples=max_examples)
        assert kept == sorted(alone)


def test_selection_is_spread_evenly() -> None:
    kept, _ = delivered(100, 10, 0, 1, False, max_examples=10)
    assert kept == list(range(9, 100, 10))


def test_limited_batches_still_give_the_whole_number() -> None:
    positions = SamplePositions(DataLoader(range(100), batch_size=10), max_examples=5, num_batches=2)
    assert len(positions.select(10)) + len(positions.select(10)) == 5


def test_a_stream_is_numbered_as_it_comes() -> None:
    class Stream(IterableDataset):
        def __iter__(self):
            return iter(range(10))

    first = SamplePositions(DataLoader(Stream(), batch_size=4), rank=1, world=2, max_examples=6)
    assert first.select(4).positions.tolist() == [1, 3, 5]
    assert not first.exact
    assert SamplePositions(DataLoader(Stream(), batch_size=4)).exact


@pytest.mark.parametrize("world", [1, 2])
def test_what_hides_positions_says_so(world: int) -> None:
    shuffled = SamplePositions(DataLoader(range(10), shuffle=True), world=world)
    assert not shuffled.exact

    class Own(BatchSampler):
        pass

    own = DataLoader(range(10), batch_sampler=Own(SequentialSampler(range(10)), 2, False))
    assert SamplePositions(own, world=world).exact == (world == 1)
