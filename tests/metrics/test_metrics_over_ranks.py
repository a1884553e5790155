"""N processes log what one process logs for the same samples: every metric, every key, the same on all ranks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
from reference.readings import Reading, differences, random_reading

from lightning_interp.distributed import PeerError
from lightning_interp.metrics import BinnedStructure, SoftStructure, SpectralGeometry

LABELS = ("token", "bigram", "trigram", "flat_bigram", "next_token", "tag", "language", "marks")
METRICS: dict[str, tuple[type, dict[str, Any]]] = {
    "soft": (
        SoftStructure,
        {"labels": LABELS, "shuffles": 2, "jackknife": 3, "information_plane": ("token", "next_token")},
    ),
    "soft plain centred": (
        SoftStructure,
        {"labels": LABELS, "shuffles": 2, "average": "plain", "center": True, "floor_corrected": True, "min_count": 3},
    ),
    "soft without labels": (SoftStructure, {"num_points": 9}),
    "soft nested elsewhere": (SoftStructure, {"labels": ["marks"], "parents": {"marks": "language"}, "min_count": 1}),
    "binned": (
        BinnedStructure,
        {"labels": LABELS, "shuffles": 2, "jackknife": 3, "information_plane": ("tag", "token")},
    ),
    "binned plain": (
        BinnedStructure,
        {
            "labels": LABELS,
            "shuffles": 1,
            "average": "plain",
            "correction": "miller_madow",
            "bounds": (-1.5, 2.0),
            "bins": 7,
        },
    ),
    "geometry": (SpectralGeometry, {}),
    "geometry about zero": (SpectralGeometry, {"center": False}),
}
# Samples of each rank in batches; `None` for a rank that never calls update.
Shares = list[list[list[int]] | None]
SPLITS: dict[str, dict[int, Shares]] = {
    "even": {3: [[list(range(0, 20, 3))], [list(range(1, 20, 3))], [list(range(2, 20, 3))]]},
    "uneven batches": {
        2: [[[0], [5, 3], [], list(range(10, 20))], [[1, 2], [4, 6, 7, 8, 9]]],
        3: [[[0]], [[5, 3], [1], [7, 6]], [[2, 4], [8, 9], list(range(10, 20))]],
    },
    "a rank without samples": {
        2: [None, [list(range(20))]],
        3: [[list(range(12, 20)), [11]], None, [list(range(11))]],
    },
    "a rank with an empty batch": {3: [[[]], [[], []], [list(range(20))]]},
    "nobody has samples": {3: [None, [[]], None]},
}


def reading_of_all() -> Reading:
    reading = random_reading(11, sequences=20, length=6, dim=6, vocabulary=3, effect=0.7, holes=True)
    # Words that only the first or the last samples have, and rows that do not count.
    reading.words[0] = [7, 8, 7, 8, 7, 8]
    reading.words[1] = [8, 7, 8, 7, 8, 7]
    reading.words[19] = [9] * 6
    reading.words[4] = [None] * 6
    reading.z[2, 0] = float("nan")
    reading.z[9, 0, 1] = float("inf")
    return reading


def values_of_rank(name: str, options: dict[str, Any], reading: Reading, shares: Shares) -> dict[str, float]:
    kind = {"soft": SoftStructure, "binned": BinnedStructure, "geometry": SpectralGeometry}[name.split()[0]]
    metric = kind(**options)
    share = shares[dist.get_rank()]
    if share is not None:
        reading.feed(metric, share)
    return {key: float(value) for key, value in metric.compute().items()}


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
@pytest.mark.parametrize(
    ("size", "split"), [(3, split) for split in SPLITS] + [(2, "uneven batches"), (2, "a rank without samples")]
)
@pytest.mark.parametrize("name", METRICS)
def test_equals_one_process(rank_pool, name, size, split):
    reading, ranks = reading_of_all(), rank_pool.group(size)
    shares = SPLITS[split][size]
    found = ranks.run(values_of_rank, name, METRICS[name][1], reading, shares)
    kind, options = METRICS[name]
    alone = kind(**options)
    if any(share for share in shares):
        reading.feed(alone, [batch for share in shares for batch in share or []])
    expected = {key: float(value) for key, value in alone.compute().items()}
    assert set(expected) == set(alone.measures)
    if split != "nobody has samples":
        assert expected["rows"] == int(reading.mask.sum()) - 2
        assert expected["nonfinite"] == 2
    for rank, values in enumerate(found):
        assert values.keys() == expected.keys()
        wrong = list(differences(values, expected))
        assert not wrong, f"rank {rank}: " + "\n".join(wrong)
        assert str(values) == str(found[0]), "ranks hold different values"


def by_arrival(reading: Reading, options: dict[str, Any]) -> dict[str, float]:
    rank, size = dist.get_rank(), dist.get_world_size()
    mine = list(range(rank, len(reading.words), size))
    metric = SoftStructure(**options)
    reading.feed(metric, [mine[:3], mine[3:]], positions=False)
    return {key: float(value) for key, value in metric.compute().items()}


def test_without_positions_a_distributed_sampler_is_assumed(ranks):
    reading = reading_of_all()
    options = {"labels": ["token", "bigram"], "shuffles": 3, "jackknife": 4}
    expected = reading.feed(SoftStructure(**options), positions=False).compute()
    for values in ranks.run(by_arrival, reading, options):
        assert not list(differences(values, {key: float(value) for key, value in expected.items()}))


def many_rows(rows: int) -> dict[str, float]:
    generator = torch.Generator().manual_seed(3)
    z, labels = torch.randn(rows, 64, generator=generator), torch.randint(0, 40, (rows,), generator=generator)
    rank, size = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    metric = SoftStructure(["word"], shuffles=1)
    for part in torch.arange(rows)[rank::size].split(4000):
        metric.update(z[part], labels=labels[part], positions=part)
    return {key: float(value) for key, value in metric.compute().items()}


def test_many_rows_do_not_drift_with_the_order_of_summing(three_ranks):
    expected = many_rows(30_000)
    for values in three_ranks.run(many_rows, 30_000):
        assert not list(differences(values, expected))


# ---------------------------------------------------------------- failures


class NoMemoryError(RuntimeError):
    pass


def fail_everywhere(reading: Reading, failing: int, options: dict[str, Any]) -> tuple[int, list[str], dict[str, float]]:
    """Let one rank fail before every exchange of a computation in turn; then let it be."""
    rank, size = dist.get_rank(), dist.get_world_size()
    metric = SoftStructure(**options)
    reading.feed(metric, [list(range(rank, len(reading.words), size))])
    whole = metric.merge

    def broken(at: int) -> Any:
        steps, answer, count = whole(), None, 0
        while True:
            if count == at and rank == failing:
                raise NoMemoryError(f"at {at}")
            try:
                answer = yield steps.send(answer)
            except StopIteration as stop:
                return stop.value
            count += 1

    def number_of_exchanges() -> int:
        steps, count = whole(), 0
        answer = None
        from lightning_interp.distributed.merging import _exchange

        while True:
            try:
                answer = _exchange(steps.send(answer), None)
            except StopIteration:
                return count
            count += 1

    total = number_of_exchanges()
    outcomes = []
    for at in range(total + 1):
        metric.merge = lambda at=at: broken(at)  # type: ignore[method-assign]
        try:
            metric.compute()
            outcomes.append("value")
        except NoMemoryError as error:
            outcomes.append(str(error))
        except PeerError:
            outcomes.append("peer")
    metric.merge = whole  # type: ignore[method-assign]
    return total, outcomes, {key: float(value) for key, value in metric.compute().items()}


def test_a_failure_anywhere_leaves_all_ranks_together(three_ranks):
    reading = reading_of_all()
    options = {"labels": ["token", "bigram"], "shuffles": 1, "jackknife": 2}
    expected = {key: float(value) for key, value in reading.feed(SoftStructure(**options)).compute().items()}
    for rank, (total, outcomes, values) in enumerate(three_ranks.run(fail_everywhere, reading, 1, options)):
        assert total > 5
        assert outcomes == ([f"at {k}" for k in range(total + 1)] if rank == 1 else ["peer"] * (total + 1))
        assert not list(differences(values, expected))


def disagree(what: str) -> dict[str, float]:
    rank = dist.get_rank()
    generator = torch.Generator().manual_seed(rank)
    if what == "columns":
        metric: Any = SoftStructure(["marks"])
        metric.update(torch.randn(4, 3, 5), labels=torch.zeros(4, 3, 1 + rank, dtype=torch.long))
    else:
        metric = {"soft": SoftStructure, "binned": BinnedStructure, "geometry": SpectralGeometry}[what]()
        metric.update(torch.randn(8, 4 + rank, generator=generator))
    return {key: float(value) for key, value in metric.compute().items()}


def test_ranks_with_other_numbers_of_labels_are_told(two_ranks):
    first, second = two_ranks.outcomes(disagree, "columns", timeout=20)
    assert isinstance(first, ValueError)
    assert "1 labels a position here and 2 on another rank" in str(first)
    assert isinstance(second, PeerError)


@pytest.mark.parametrize("what", ["soft", "binned", "geometry"])
def test_ranks_with_other_dimensions_are_told(two_ranks, what):
    outcomes = two_ranks.outcomes(disagree, what, timeout=20)
    assert any(isinstance(outcome, ValueError) for outcome in outcomes)
    assert all(isinstance(outcome, (ValueError, PeerError)) for outcome in outcomes)
