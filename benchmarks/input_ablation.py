"""What reading texts without their words costs, beside plain forward passes.

    python benchmarks/input_ablation.py
    python benchmarks/input_ablation.py --runs 9 --length 64

A GPT-2 of four layers × 128 with four heads, texts of 32 tokens. A row is a reading of the finished model: how many
forward passes over a text it takes, counted, with the pass in which the texts are gathered, and its time as a ratio to
one plain forward pass over the same texts in batches of 16, timed in turn with it in one process: the median of
``--runs``, with the smallest and the largest. Random weights are read once in a training, and are not in here.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from lightning_interp import Faithfulness, InputAblation, ValidationAnalysis, analyze
from lightning_interp.models import small_gpt2

VOCABULARY = 1000
Build = Callable[[], ValidationAnalysis]


def batches(samples: int, length: int) -> list[dict[str, Tensor]]:
    """Texts, sixteen a batch."""
    ids = torch.randint(1, VOCABULARY, (samples, length), generator=torch.Generator().manual_seed(0))
    return [{"input_ids": some, "attention_mask": torch.ones_like(some)} for some in ids.split(16)]  # type: ignore[no-untyped-call]


def main(argv: list[str] | None = None) -> None:
    """Time, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--length", type=int, default=32)
    args = parser.parse_args(argv)
    torch.manual_seed(0)
    lm = small_gpt2(range(VOCABULARY), 128, layers=4, heads=4, length=args.length).eval()
    texts = batches(args.samples, args.length)
    given: dict[str, Any] = {"max_examples": None, "draw_figures": False}
    ablation: dict[str, Any] = {"baseline": False, **given}
    rows: dict[str, Callable[[], ValidationAnalysis]] = {
        **{
            f"`InputAblation({way!r})`": partial(InputAblation, way, **ablation)
            for way in ("hide", "delete", "resample")
        },
        **{
            f"`Faithfulness({rank!r})`": partial(Faithfulness, rank, "hide", **given)
            for rank in ("ablation", "gradient")
        },
    }
    print("| | forward passes of a text | time as a ratio to one | smallest to largest |\n|---|---|---|---|")
    for name, callback in rows.items():
        work = reading(lm, texts, callback)
        passes = counted(lm, work) / args.samples
        ratios = []
        for _ in range(args.runs):
            without, with_ = timed(plain(lm, texts)), timed(work)
            ratios.append(with_ / without)
        print(f"| {name} | {passes:.1f} | {median(ratios):.1f} | {min(ratios):.1f} to {max(ratios):.1f} |")


def counted(lm: nn.Module, work: Callable[[], None]) -> int:
    """Rows that go through the model."""
    rows = 0

    def count(module: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        nonlocal rows
        rows += len(named["input_ids"] if "input_ids" in named else given[0])

    handle = lm.register_forward_pre_hook(count, with_kwargs=True)
    work()
    handle.remove()
    return rows


def plain(lm: nn.Module, texts: list[dict[str, Tensor]]) -> Callable[[], None]:
    """The forward passes alone."""

    def work() -> None:
        with torch.no_grad():
            for batch in texts:
                lm(**batch)

    return work


def reading(
    lm: nn.Module, texts: list[dict[str, Tensor]], callback: Callable[[], ValidationAnalysis]
) -> Callable[[], None]:
    """A reading of the finished model, its pass over the texts included."""

    def work() -> None:
        analyze(lm, texts, callback(), progress=False)

    return work


def timed(work: Callable[[], None]) -> float:
    """Seconds."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
