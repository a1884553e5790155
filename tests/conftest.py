"""Fixtures that several test modules share."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import one_thread  # noqa: F401
import pytest
from hypothesis import HealthCheck, settings
from ranks import Pool, RankGroup

# The same examples on every run; `--hypothesis-profile=search` looks further.
settings.register_profile("suite", deadline=None, max_examples=15, derandomize=True, print_blob=True)
settings.register_profile("search", deadline=None, max_examples=400, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")


_FROZEN: list[object] = []


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Keep what is there already out of garbage collections, file by file: else each of them takes seconds."""
    if [item.path] != _FROZEN:
        _FROZEN[:] = [item.path]
        gc.collect()
        gc.freeze()


@pytest.fixture(scope="session")
def rank_pool() -> Iterator[Pool]:
    """The processes behind the process groups, started by the first test that runs something on them."""
    pool = Pool()
    yield pool
    pool.close()


@pytest.fixture
def two_ranks(rank_pool: Pool) -> RankGroup:
    """A process group of two ranks; see ``tests/ranks.py``."""
    return rank_pool.group(2)


@pytest.fixture
def three_ranks(rank_pool: Pool) -> RankGroup:
    """A process group of three ranks; see ``tests/ranks.py``."""
    return rank_pool.group(3)


@pytest.fixture(params=[2, 3], ids=["two_ranks", "three_ranks"])
def ranks(request: pytest.FixtureRequest, rank_pool: Pool) -> RankGroup:
    """Each of the two groups in turn."""
    return rank_pool.group(request.param)
