"""Positions of samples against what the samplers really deliver."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import lightning.fabric.utilities.distributed as unified
import lightning_fabric.utilities.distributed as fabric
import pytest
import pytorch_lightning.overrides.distributed as overrides
import torch
from hypothesis import given
from hypothesis import strategies as st
from pytorch_lightning.utilities import CombinedLoader
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from lightning_interp.distributed import SamplePositions

NUMBER = 21
DATA = range(NUMBER)  # a sample is its own place


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
    # The same ones in whatever order they come, and on any number of ranks.
    alone, _ = delivered(number, 3, 0, 1, False, max_examples=max_examples)
    assert kept == sorted(alone)


def test_selection_is_spread_evenly() -> None:
    kept, _ = delivered(100, 10, 0, 1, False, max_examples=10)
    assert kept == list(range(9, 100, 10))


@pytest.mark.parametrize("how", [{"num_batches": 2}, {"num_batches": None}])
def test_limited_batches_still_give_the_whole_number(how: dict[str, Any]) -> None:
    positions = SamplePositions(DataLoader(range(100), batch_size=10), max_examples=5, **how)
    number = sum(len(positions.select(10)) for _ in range(2 if how["num_batches"] else 10))
    assert number == 5


def test_batches_that_are_dropped_are_not_counted_on() -> None:
    loader = DataLoader(range(15), batch_size=8, drop_last=True)
    assert len(SamplePositions(loader, max_examples=5).select(8)) == 5


# ------------------------------------------------- which loaders tell


class Own(Sampler):
    """Any order, always the same."""

    def __init__(self, indices: list[int]) -> None:
        self.indices = indices

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[int]:
        return iter(self.indices)


class OwnBatches(Sampler):
    def __len__(self) -> int:
        return 3

    def __iter__(self) -> Iterator[list[int]]:
        return iter([list(range(20, 13, -1)), list(range(13, 6, -1)), list(range(6, -1, -1))])


class Buckets(BatchSampler):
    def __iter__(self) -> Iterator[list[int]]:
        return reversed(list(super().__iter__()))


class Backwards(SequentialSampler):
    def __iter__(self) -> Iterator[int]:
        return iter(range(len(self.data_source) - 1, -1, -1))


class Chunks(DistributedSampler):
    """Each rank has a piece of its own."""

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.rank * self.num_samples, min(len(self.dataset), (self.rank + 1) * self.num_samples)))


class Loader(DataLoader):
    def __iter__(self) -> Iterator[Any]:
        return reversed(list(super().__iter__()))


class Stream(IterableDataset):
    def __iter__(self) -> Iterator[int]:
        return iter(DATA)


def distributed(kind: Callable[..., Sampler], *given: Any, **how: Any) -> Callable[[int, int], Sampler]:
    return lambda rank, world: kind(*(given or (DATA,)), num_replicas=world, rank=rank, **{"shuffle": False, **how})


def one_more(rank: int, world: int) -> Sampler:
    """Deals out to more ranks than there are."""
    return DistributedSampler(DATA, world + 1, rank, False)


def sampled(make: Callable[[int, int], Any], **how: Any) -> Callable[[int, int], Any]:
    return lambda rank, world: DataLoader(DATA, batch_size=4, sampler=make(rank, world), **how)


def batched(sampler: Any, kind: type[BatchSampler] = BatchSampler) -> Callable[[int, int], Any]:
    return lambda rank, world: DataLoader(DATA, batch_sampler=kind(sampler, 4, False))


def plainly(**how: Any) -> Callable[[int, int], Any]:
    return lambda rank, world: DataLoader(DATA, **{"batch_size": 4, **how})


BACK = list(range(20, -1, -1))
# By name: the loader, and whether it tells which samples it gives on one process, and on each of two or three.
LOADERS: dict[str, tuple[Callable[[int, int], Any], bool, bool]] = {
    "plain": (plainly(), True, False),
    "plain, drop_last": (plainly(drop_last=True), True, False),
    "plain, workers": (plainly(num_workers=2), True, False),
    "plain, collate": (plainly(collate_fn=torch.tensor), True, False),
    "BatchSampler, plain": (batched(SequentialSampler(DATA)), True, False),
    "BatchSampler, listed": (batched(BACK), True, False),
    "BatchSampler, shuffled": (batched(RandomSampler(DATA)), False, False),
    "BatchSampler, own": (batched(Own(BACK)), False, False),
    "batches, listed": (plainly(batch_size=1, batch_sampler=[[3, 1], [20, 5, 7], [0]]), True, False),
    "batches, twice": (plainly(batch_size=1, batch_sampler=[[3, 1], [3, 5, 7], [0]]), False, False),
    "batches, own": (plainly(batch_size=1, batch_sampler=OwnBatches()), False, False),
    "batches, subclass": (batched(SequentialSampler(DATA), Buckets), False, False),
    "sampler, listed": (plainly(sampler=BACK), True, False),
    "sampler, range": (plainly(sampler=range(4, 20)), True, False),
    "sampler, twice": (plainly(sampler=[0, 1, 1, 2]), False, False),
    "sampler, own": (plainly(sampler=Own(BACK)), False, False),
    "sampler, subclass": (plainly(sampler=Backwards(DATA)), False, False),
    "shuffle": (plainly(shuffle=True), False, False),
    "SubsetRandomSampler": (plainly(sampler=SubsetRandomSampler(DATA)), False, False),
    "WeightedRandomSampler": (plainly(sampler=WeightedRandomSampler([1.0] * 21, 9)), False, False),
    "distributed": (sampled(distributed(DistributedSampler)), True, True),
    "distributed, drop_last": (sampled(distributed(DistributedSampler, drop_last=True)), True, True),
    "distributed, shuffled": (sampled(distributed(DistributedSampler, shuffle=True)), True, True),
    "distributed, subclass": (sampled(distributed(Chunks)), False, False),
    "distributed, another rank": (sampled(one_more), True, False),
    "unrepeated": (sampled(distributed(overrides.UnrepeatedDistributedSampler)), True, True),
    "unrepeated, shuffled": (sampled(distributed(overrides.UnrepeatedDistributedSampler, shuffle=True)), True, True),
    "unrepeated, wrapped": (sampled(distributed(overrides.UnrepeatedDistributedSamplerWrapper, BACK)), True, True),
    "wrapped, plain": (sampled(distributed(fabric.DistributedSamplerWrapper, SequentialSampler(DATA))), True, True),
    "wrapped, listed": (sampled(distributed(fabric.DistributedSamplerWrapper, BACK, shuffle=True)), True, True),
    "wrapped, other package": (sampled(distributed(unified.DistributedSamplerWrapper, BACK)), True, True),
    "wrapped, own": (sampled(distributed(fabric.DistributedSamplerWrapper, Own(BACK))), False, False),
    "wrapped, shuffled": (sampled(distributed(fabric.DistributedSamplerWrapper, RandomSampler(DATA))), False, False),
    "subset": (lambda rank, world: DataLoader(Subset(DATA, range(21)), batch_size=4), True, False),
    "several": (lambda rank, world: DataLoader(ConcatDataset([range(5), range(5, 21)]), batch_size=4), True, False),
    "stream": (lambda rank, world: DataLoader(Stream(), batch_size=4), False, False),
    "loader, subclass": (lambda rank, world: Loader(DATA, batch_size=4), False, False),
    "combined": (lambda rank, world: CombinedLoader([DataLoader(DATA, batch_size=4)]), False, False),
    "list of batches": (lambda rank, world: [torch.arange(4), torch.arange(4, 21)], True, False),
    "generator of batches": (lambda rank, world: (torch.arange(4) for _ in range(3)), False, False),
}  # fmt: skip
SHUFFLED = {"shuffle", "SubsetRandomSampler", "WeightedRandomSampler", "BatchSampler, shuffled", "wrapped, shuffled"}


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("name", LOADERS)
def test_what_is_told_of_a_loader_is_what_it_gives(name: str, world: int) -> None:
    make, alone, together = LOADERS[name]
    told, kept, steps = [], [], []
    for rank in range(world):
        loader = make(rank, world)
        positions = SamplePositions(loader, rank=rank, world=world)
        assert positions.exact == (alone if world == 1 else together), positions.why
        assert (positions.why is None) == positions.exact
        assert positions.shuffled == (name in SHUFFLED)
        if name == "combined":
            iter(loader)
        for batch in loader:
            batch = batch[0][0] if name == "combined" else batch
            selection = positions.select(len(batch))
            if positions.exact:
                assert torch.equal(selection.batch, batch)
                assert torch.equal(selection.positions, selection.of(batch))
            told += selection.positions.tolist()
            kept += selection.of(batch).tolist()
            steps.append(len(batch))
        assert positions.exact == (alone if world == 1 else together)
        assert positions.num_samples == (NUMBER if positions.exact and name != "list of batches" else None)
    assert len(told) == len(set(told))  # no number twice over all ranks
    if together or name.startswith("wrapped, own"):
        assert len(kept) == len(set(kept))  # and no sample where padding can be told
    if not positions.exact and "wrapped" not in name:
        assert len(kept) == sum(steps)


def test_a_sampler_is_not_iterated_to_learn_its_order() -> None:
    class Counted(Own):
        asked = 0

        def __iter__(self) -> Iterator[int]:
            Counted.asked += 1
            return super().__iter__()

    state = torch.get_rng_state()
    for sampler in (Counted(BACK), RandomSampler(DATA)):
        SamplePositions(DataLoader(DATA, batch_size=4, sampler=sampler), max_examples=3).select(4)
    assert not Counted.asked
    assert torch.equal(state, torch.get_rng_state())


# ------------------------------------------------- rows that are not the items


class Packs(Dataset):
    """Items that are batches, of 3, 4, 5, … rows; a row says its item and which of it."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __len__(self) -> int:
        return self.number

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.tensor([[index, row] for row in range(3 + index)])


PACKED = {
    "no batches": {"batch_size": None},
    "one a batch": {"batch_size": 1, "collate_fn": lambda items: items[0]},
    "two a batch": {"batch_size": 2, "collate_fn": torch.cat},
}


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("how", PACKED.values(), ids=list(PACKED))
@pytest.mark.parametrize("number", [4, 7])
def test_rows_that_are_not_items_are_all_read_and_never_taken_for_padding(
    how: dict[str, Any], world: int, number: int
) -> None:
    rows, numbers = [], []
    for rank in range(world):
        sampler = DistributedSampler(Packs(number), num_replicas=world, rank=rank, shuffle=False)
        loader = DataLoader(Packs(number), sampler=sampler, **how)
        positions = SamplePositions(loader, rank=rank, world=world)
        for batch in loader:
            selection = positions.select(len(batch))
            rows += map(tuple, selection.of(batch).tolist())
            numbers += selection.positions.tolist()
        assert not positions.exact
        assert positions.num_samples is None
    assert len(numbers) == len(set(numbers))
    wanted = {(item, row) for item in range(number) for row in range(3 + item)}
    assert set(rows) == wanted
    if how["batch_size"] != 2 or number % world == 0:
        assert len(rows) == len(wanted)  # an item that fills up the last round is known by its place


@pytest.mark.parametrize("world", [1, 2])
def test_max_examples_counts_the_rows_of_batches(world: int) -> None:
    number = 0
    for rank in range(world):
        sampler = DistributedSampler(Packs(8), num_replicas=world, rank=rank, shuffle=False)
        positions = SamplePositions(DataLoader(Packs(8), None, sampler=sampler), rank, world, max_examples=10)
        number += sum(len(positions.select(len(batch))) for batch in DataLoader(Packs(8), None, sampler=sampler))
    assert number == 10


def test_a_batch_of_another_size_than_its_sampler_named_ends_what_is_known() -> None:
    def first_four(items: list[int]) -> torch.Tensor:
        return torch.tensor([item for item in items if item < 10])

    loader = DataLoader(DATA, batch_size=8, collate_fn=first_four)
    positions = SamplePositions(loader)
    sizes, known = [], []
    for batch in loader:
        sizes.append(len(batch))
        positions.select(len(batch))
        known.append(positions.exact)
    assert sizes == [8, 2, 0]
    assert known == [True, False, False]
    assert positions.why == "batch 1 has 2 samples where its sampler named 8"


@pytest.mark.parametrize("world", [1, 2])
def test_numbers_stay_apart_when_a_batch_is_short_after_shuffled_ones(world: int) -> None:
    numbers = []
    for rank in range(world):
        sampler = DistributedSampler(DATA, num_replicas=world, rank=rank)
        positions = SamplePositions(DataLoader(DATA, batch_size=4, sampler=sampler), rank, world, max_examples=15)
        for size in (4, 3, 4, 4, 4):
            numbers += positions.select(size).positions.tolist()
    assert len(numbers) == len(set(numbers))
    assert len(numbers) <= 15


# ------------------------------------------------- lengths that are claimed


class Claims(IterableDataset):
    """Ten samples, and any length."""

    def __init__(self, claimed: int) -> None:
        self.claimed = claimed

    def __len__(self) -> int:
        return self.claimed

    def __iter__(self) -> Iterator[int]:
        return iter(range(10))


@pytest.mark.parametrize("world", [1, 2])
@pytest.mark.parametrize("claimed", [1, 9, 10, 1000, 10**9])
@pytest.mark.filterwarnings("ignore:Length of IterableDataset")
def test_a_stream_is_read_whatever_length_it_claims(claimed: int, world: int) -> None:
    loader = DataLoader(Claims(claimed), batch_size=4)
    kept = []
    for rank in range(world):
        positions = SamplePositions(loader, rank=rank, world=world, max_examples=6, num_batches=claimed)
        for batch in loader:
            kept += positions.select(len(batch)).positions.tolist()
    assert sorted(kept) == list(range(6))


CLAIMS = [(8, 6, False), (10, 6, False), (12, 5, True), (30, 2, True), (400, 0, True)]


@pytest.mark.parametrize(("claimed", "number", "short"), CLAIMS)
def test_a_sampler_that_claims_a_length_gives_no_more_than_asked(claimed: int, number: int, short: bool) -> None:
    class Claiming(Own):
        def __len__(self) -> int:
            return claimed

    loader = DataLoader(range(100), batch_size=5, sampler=Claiming(list(range(10))))
    positions = SamplePositions(loader, max_examples=6)
    assert sum(len(positions.select(len(batch))) for batch in loader) == number
    assert positions.short == short


def test_a_stream_is_numbered_as_it_comes() -> None:
    first = SamplePositions(DataLoader(Stream(), batch_size=4), rank=1, world=2, max_examples=6)
    assert first.select(4).positions.tolist() == [1, 3, 5]
    assert not first.exact
    assert first.why == "its data set is a stream, Stream"
