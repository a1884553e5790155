"""Merging over ranks: reductions, unequal lengths, and failures that leave nobody waiting."""

from __future__ import annotations

import os
import time

import pytest
import torch
import torch.distributed as dist
from ranks import RankError

from lightning_interp.distributed import (
    Collective,
    Gather,
    Maximum,
    Minimum,
    PeerError,
    Sum,
    Sums,
    all_ranks,
    over_ranks,
    world_size,
)


def everything(rank: int, length: int) -> Collective[dict[str, object]]:
    mine = torch.arange(4.0).reshape(2, 2) * (1 if rank % 2 else -1) + rank
    before = mine.clone()
    total = yield Sum(mine)
    low = yield Minimum(mine)
    high = yield Maximum(mine)
    rows = yield Gather(torch.full((length, 2), rank))
    counted = yield Sum(torch.tensor(2**40 + rank))
    several = yield Sums([mine, mine[:0], mine[1]])
    return {
        "total": total,
        "several": several,
        "low": low,
        "high": high,
        "rows": rows,
        "counted": counted,
        "untouched": bool((mine == before).all()),
    }


def exchange_everything(lengths: list[int]) -> tuple[dict[str, object], int, str]:
    rank = dist.get_rank()
    return over_ranks(everything(rank, lengths[rank])), world_size(), os.environ["LOCAL_RANK"]


def plain_everything(lengths: list[int]) -> dict[str, object]:
    tensors = [torch.arange(4.0).reshape(2, 2) * (1 if rank % 2 else -1) + rank for rank in range(len(lengths))]
    stacked = torch.stack(tensors)
    return {
        "total": stacked.sum(0),
        "several": [stacked.sum(0), torch.zeros(0, 2), stacked.sum(0)[1]],
        "low": stacked.amin(0),
        "high": stacked.amax(0),
        "rows": [torch.full((length, 2), rank) for rank, length in enumerate(lengths)],
        "counted": torch.tensor(len(lengths) * 2**40 + sum(range(len(lengths)))),
        "untouched": True,
    }


def assert_same(found: dict[str, object], expected: dict[str, object]) -> None:
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=0, atol=0, msg=lambda text, key=key: f"{key}: {text}")


@pytest.mark.parametrize("lengths", [[3, 0, 5], [0, 0, 0], [0, 0, 1], [2, 2, 2]])
def test_exchanges_equal_the_plain_result_on_every_rank(ranks, lengths):
    lengths = lengths[: ranks.size]
    for rank, (found, size, local_rank) in enumerate(ranks.run(exchange_everything, lengths)):
        assert_same(found, plain_everything(lengths))
        assert (size, local_rank) == (ranks.size, str(rank))


def test_without_a_process_group_every_exchange_is_what_this_process_has():
    assert not dist.is_initialized()
    assert world_size() == 1
    assert_same(over_ranks(everything(0, 3)), plain_everything([3]))


def gather_dtypes() -> list[list[torch.Tensor]]:
    rank = dist.get_rank()

    def steps() -> Collective[list[list[torch.Tensor]]]:
        found = []
        for value in (
            torch.tensor([True, False]),
            torch.tensor([2**62 + rank]),
            torch.ones(rank, 0),
            torch.ones(1, 2).T,
        ):
            found.append((yield Gather(value)))
        return found

    return over_ranks(steps())


def test_gather_keeps_dtype_and_shape(three_ranks):
    for found in three_ranks.run(gather_dtypes):
        flags, numbers, empty, strided = found
        assert [part.tolist() for part in flags] == [[True, False]] * 3
        assert [part.tolist() for part in numbers] == [[2**62], [2**62 + 1], [2**62 + 2]]
        assert [tuple(part.shape) for part in empty] == [(0, 0), (1, 0), (2, 0)]
        assert [part.tolist() for part in strided] == [[[1.0], [1.0]]] * 3


def share_agreement(who_fails: int) -> tuple[bool, bool]:
    return all_ranks(dist.get_rank() != who_fails), all_ranks(True)


def test_agree_needs_every_rank(ranks):
    assert ranks.run(share_agreement, -1) == [(True, True)] * ranks.size
    for rank in range(ranks.size):
        assert ranks.run(share_agreement, rank) == [(False, True)] * ranks.size


class NobodyExpectsError(Exception):
    pass


def fail_at(failing: int, step: int, closed: list[int]) -> Collective[str]:
    rank = dist.get_rank()
    try:
        for here in range(4):
            if rank == failing and here == step:
                raise NobodyExpectsError(f"step {here}")
            yield Sum(torch.ones(3))
        if rank == failing and step == 4:
            raise NobodyExpectsError("at the end")
        return "done"
    finally:
        closed.append(rank)


def run_to_failure(failing: int, step: int) -> tuple[str, list[int], float]:
    closed: list[int] = []
    started = time.monotonic()
    try:
        outcome = over_ranks(fail_at(failing, step, closed))
    except NobodyExpectsError as error:
        outcome = f"own: {error}"
    except PeerError:
        outcome = "peer"
    return outcome, closed, time.monotonic() - started


@pytest.mark.parametrize("step", range(5))
def test_a_failure_on_one_rank_ends_the_work_on_all(ranks, step):
    for failing in range(ranks.size):
        found = ranks.run(run_to_failure, failing, step)
        for rank, (outcome, closed, seconds) in enumerate(found):
            if rank == failing:
                assert outcome == ("own: at the end" if step == 4 else f"own: step {step}")
            else:
                assert outcome == "peer"
            assert closed == [rank], "the generator was left open"
            assert seconds < 20
    assert_same(
        ranks.run(exchange_everything, [1, 2, 3][: ranks.size])[0][0], plain_everything([1, 2, 3][: ranks.size])
    )


def two_groups() -> tuple[list[float], int]:
    part = dist.new_group([0, 1])
    rank = dist.get_rank()
    if rank == 2:
        return [], world_size()

    def steps() -> Collective[list[float]]:
        total = yield Sum(torch.tensor(float(rank + 1)))
        parts = yield Gather(torch.tensor([float(rank)]))
        return [float(total), *(float(part) for part in parts)]

    return over_ranks(steps(), part), world_size(part)


def test_a_given_group_is_the_one_that_is_used(three_ranks):
    assert three_ranks.run(two_groups) == [([3.0, 0.0, 1.0], 2), ([3.0, 0.0, 1.0], 2), ([], 3)]


# ---------------------------------------------------------------- the helpers themselves


def fail_on(failing: int) -> int:
    rank = dist.get_rank()
    if rank == failing:
        raise NobodyExpectsError("of this rank alone")
    return rank


def hang_on(failing: int) -> int:
    if dist.get_rank() == failing:
        time.sleep(300)
    return 0


def test_helper_brings_exceptions_back_with_their_traceback(two_ranks):
    with pytest.raises(RankError, match="of this rank alone") as caught:
        two_ranks.run(fail_on, 1)
    assert "in fail_on" in str(caught.value)
    assert isinstance(caught.value.errors[1], NobodyExpectsError)
    assert two_ranks.outcomes(fail_on, 1)[0] == 0


def test_helper_kills_what_hangs_and_starts_afresh(three_ranks):
    with pytest.raises(RankError, match="in hang_on") as caught:
        three_ranks.run(hang_on, 2, timeout=2)
    assert isinstance(caught.value.errors[2], TimeoutError)
    assert three_ranks.run(share_agreement, -1) == [(True, True)] * 3
