"""Rows kept by their keys: the same whatever the batches, the ranks and the values."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st

from lightning_interp.distributed import over_ranks
from lightning_interp.metrics.keyed_rows import KeyedRows

KEYS = torch.arange(100) * 7919
COUNTED = torch.arange(100) % 3 > 0
COLUMNS = [torch.arange(200.0).view(100, 2), torch.arange(100)[:, None]]


def take(size: int, parts: list[torch.Tensor], seed: int = 0) -> tuple[torch.Tensor, list[torch.Tensor]]:
    rows = KeyedRows(size, (torch.float32, torch.int64), seed)
    for part in parts:
        rows.add(KEYS[part], COUNTED[part], [column[part] for column in COLUMNS])
    return over_ranks(rows.merge())


@given(st.permutations(range(100)), st.integers(1, 60), st.integers(1, 120))
def test_the_choice_does_not_depend_on_batches(order: list[int], batch: int, size: int) -> None:
    keys, columns = take(size, [torch.arange(100)])
    others, other_columns = take(size, list(torch.tensor(order).split(batch)))
    assert torch.equal(keys, others)
    assert all(map(torch.equal, columns, other_columns))
    assert len(keys) == min(size, int(COUNTED.sum()))
    assert bool((keys.diff() > 0).all())
    place = keys // 7919
    assert bool(COUNTED[place].all())
    assert torch.equal(columns[0], COLUMNS[0][place])
    assert torch.equal(columns[1][:, 0], place)


def test_another_seed_keeps_others_and_a_larger_size_the_same_and_more() -> None:
    few, more = take(10, [torch.arange(100)])[0], take(20, [torch.arange(100)])[0]
    assert set(few.tolist()) < set(more.tolist())
    assert set(take(10, [torch.arange(100)], seed=1)[0].tolist()) != set(few.tolist())


def test_memory_is_bounded() -> None:
    rows = KeyedRows(10, (torch.float32,))
    for start in range(0, 3000, 30):
        rows.add(torch.arange(start, start + 30), torch.ones(30, dtype=torch.bool), [torch.zeros(30, 2)])
        assert sum(len(part[0]) for part in rows._parts) <= 20


def shared(size: int, shares: list[list[int] | None]) -> tuple[torch.Tensor, list[torch.Tensor]]:
    mine = shares[dist.get_rank()]
    return take(size, [] if mine is None else [torch.tensor(part) for part in (mine[:5], mine[5:]) if part])


@pytest.mark.parametrize("size", [7, 200])
def test_ranks_keep_what_one_process_keeps(two_ranks: object, three_ranks: object, size: int) -> None:
    everything = list(range(100))
    keys, columns = take(size, [torch.arange(100)])
    for group, shares in (
        (two_ranks, [everything[:80], everything[80:]]),
        (two_ranks, [None, everything]),
        (three_ranks, [everything[2::3], None, everything[::3] + everything[1::3]]),
    ):
        for found, found_columns in group.run(shared, size, shares):
            assert torch.equal(found, keys)
            assert all(map(torch.equal, found_columns, columns))


def nobody() -> tuple[torch.Tensor, list[torch.Tensor]]:
    return over_ranks(KeyedRows(3, (torch.float32, torch.int64)).merge())


def test_nothing_given_keeps_nothing(two_ranks: object) -> None:
    for keys, columns in (nobody(), *two_ranks.run(nobody)):
        assert keys.shape == (0,)
        assert [column.shape for column in columns] == [(0, 0), (0, 0)]


def unlike() -> None:
    rows = KeyedRows(3, (torch.float32,))
    rows.add(torch.arange(2), torch.ones(2, dtype=torch.bool), [torch.zeros(2, 1 + dist.get_rank())])
    over_ranks(rows.merge())


def test_rows_of_unlike_width_are_refused(two_ranks: object) -> None:
    found = two_ranks.outcomes(unlike)
    assert "[1] columns here and [2]" in str(found[0])


def test_nothing_is_read_back_from_a_device() -> None:
    rows = KeyedRows(4, (torch.float32,))
    for _ in range(5):
        rows.add(
            torch.arange(3, device="meta"), torch.ones(3, device="meta").bool(), [torch.zeros(3, 2, device="meta")]
        )
    assert rows._parts[0][2].device.type == "meta"
