"""What benchmarks share that compare a reading with the plain forward passes over its texts."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

VOCABULARY = 1000


def batches(samples: int, length: int, size: int) -> list[dict[str, Tensor]]:
    """Random texts, so many a batch."""
    ids = torch.randint(1, VOCABULARY, (samples, length), generator=torch.Generator().manual_seed(0))
    return [{"input_ids": some, "attention_mask": torch.ones_like(some)} for some in ids.split(size)]  # type: ignore[no-untyped-call]


def plain(lm: nn.Module, texts: list[dict[str, Tensor]]) -> Callable[[], None]:
    """The forward passes alone."""

    def work() -> None:
        with torch.no_grad():
            for batch in texts:
                lm(**batch)

    return work


def ratios(without: Callable[[], None], work: Callable[[], None], runs: int) -> list[float]:
    """Time of some work over that of the plain one, timed in turn, after a run of both that warms up."""
    pairs = [(timed(without), timed(work)) for _ in range(runs + 1)]
    return [with_ / alone for alone, with_ in pairs[1:]]


def timed(work: Callable[[], None]) -> float:
    """Seconds."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
