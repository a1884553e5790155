"""The checksum of what was read: the same for the same samples, however they are split, and another for any other."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_interp.batches.same_data import DataChecksum, Samples, sample_hashes
from lightning_interp.distributed import Selection, over_ranks


def checksum(parts: list[tuple[Any, list[int]]]) -> Samples:
    """Of batches, each with the numbers of its samples."""
    sums = DataChecksum()
    for batch, places in parts:
        at = torch.tensor(places)
        sums.add(batch, Selection(at, None, at))
    return over_ranks(sums.merge())


KINDS: dict[str, Any] = {
    "tokens": torch.randint(0, 50, (12, 7), generator=torch.Generator().manual_seed(0)),
    "floats": torch.randn(12, 3, 9, 9, generator=torch.Generator().manual_seed(1)),
    "halves": torch.randn(12, 400, generator=torch.Generator().manual_seed(2)).bfloat16(),
    "doubles": torch.randn(12, 4, generator=torch.Generator().manual_seed(2)).double(),
    "complex": torch.randn(12, 4, dtype=torch.complex64, generator=torch.Generator().manual_seed(2)),
    "bools": torch.rand(12, 40, generator=torch.Generator().manual_seed(3)) > 0.5,
    "numbers": torch.arange(12) ** 2,
    "texts": [f"sentence {number}" for number in range(12)],
}


def rows(kind: str, chosen: list[int]) -> Any:
    data = KINDS[kind]
    return [data[row] for row in chosen] if kind == "texts" else data[chosen]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("wrapped", [lambda x: x, lambda x: {"x": x}, lambda x: (x, torch.zeros(len(x)))])
def test_splitting_changes_nothing_and_content_does(kind: str, wrapped: Any) -> None:
    whole = checksum([(wrapped(rows(kind, list(range(12)))), list(range(12)))])
    split = [[3, 1, 2], [0, 11], [4, 5, 6, 7, 8, 9, 10]]
    assert checksum([(wrapped(rows(kind, part)), part) for part in split]) == whole
    # The same samples under other numbers.
    moved = checksum([(wrapped(rows(kind, [1, 0, *range(2, 12)])), list(range(12)))])
    assert moved.contents == whole.contents
    assert moved.places != whole.places
    # One sample is another.
    other = checksum([(wrapped(rows(kind, [1, *range(1, 12)])), list(range(12)))])
    assert other.number == whole.number
    assert other.contents != whole.contents
    assert other.places != whole.places


@given(
    data=st.lists(st.lists(st.integers(0, 3), min_size=4, max_size=4), min_size=2, max_size=6),
    row=st.integers(0, 5), column=st.integers(0, 3), value=st.integers(0, 3),
)  # fmt: skip
def test_any_change_of_one_number_shows(data: list[list[int]], row: int, column: int, value: int) -> None:
    one = torch.tensor(data)
    other = one.clone()
    other[row % len(one), column] = value
    places = list(range(len(one)))
    found, before = checksum([(other, places)]), checksum([(one, places)])
    assert (found == before) == torch.equal(one, other)


def test_what_columns_of_two_samples_exchange_shows() -> None:
    one, other = torch.tensor([[1, 2], [3, 4]]), torch.tensor([[1, 4], [3, 2]])
    assert checksum([(one, [0, 1])]).contents != checksum([(other, [0, 1])]).contents


@pytest.mark.parametrize("padding", [0, 9])
def test_padding_that_a_mask_tells_does_not_count(padding: int) -> None:
    def batch(width: int) -> dict[str, torch.Tensor]:
        ids = torch.full((2, width), padding)
        ids[:, :3] = torch.tensor([[1, 2, 3], [4, 5, padding]])
        mask = torch.zeros(2, width, dtype=torch.long)
        mask[0, :3] = mask[1, :2] = 1
        labels = torch.full((2, width), -100)
        labels[:, 1] = 7
        return {"input_ids": ids, "attention_mask": mask, "labels": labels}

    assert sample_hashes(batch(3), 2).tolist() == sample_hashes(batch(6), 2).tolist()


def test_only_selected_samples_count() -> None:
    data = torch.arange(8).view(4, 2)
    sums = DataChecksum()
    sums.add(data, Selection(torch.tensor([1, 3]), torch.tensor([1, 3]), torch.arange(4)))
    assert over_ranks(sums.merge()) == checksum([(data[[1, 3]], [1, 3])])
    assert over_ranks(sums.merge()).number == 2


def test_batches_without_a_row_a_sample_count_as_a_whole() -> None:
    def graphs(value: float) -> dict[str, torch.Tensor]:
        return {"nodes": torch.full((30, 2), value), "edges": torch.zeros(2, 50, dtype=torch.long)}

    def labelled(value: float) -> dict[str, torch.Tensor]:
        return {**graphs(value), "labels": torch.arange(5)}

    for make in (graphs, labelled):
        assert sample_hashes(make(1.0), 5).tolist() == sample_hashes(make(1.0), 5).tolist()
        assert sample_hashes(make(1.0), 5).tolist() != sample_hashes(make(2.0), 5).tolist()
        assert len(set(sample_hashes(make(1.0), 5).tolist())) == 5


def test_the_cost_is_bounded() -> None:
    """No more than 256 numbers a sample of a tensor are looked at, and these are spread over it."""
    data = torch.zeros(2, 10_000)
    data[1, 9_960] = 1.0
    assert sample_hashes(data, 2).diff() != 0
    data[1, 9_960], data[1, 9_961] = 0.0, 1.0
    assert sample_hashes(data, 2).diff() == 0
