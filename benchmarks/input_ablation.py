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
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

import torch
from forward_passes import VOCABULARY, batches, plain, ratios
from torch import Tensor, nn

from lightning_interp import Faithfulness, InputAblation, ValidationAnalysis, analyze
from lightning_interp.models import small_gpt2

Build = Callable[[], ValidationAnalysis]


def main(argv: list[str] | None = None) -> None:
    """Time, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--length", type=int, default=32)
    args = parser.parse_args(argv)
    torch.manual_seed(0)
    lm = small_gpt2(range(VOCABULARY), 128, layers=4, heads=4, length=args.length).eval()
    texts = batches(args.samples, args.length, 16)
    given: dict[str, Any] = {"max_examples": None, "draw_figures": False}
    ablation: dict[str, Any] = {"baseline": False, **given}
    rows: dict[str, Build] = {
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
        found = ratios(plain(lm, texts), work, args.runs)
        print(f"| {name} | {passes:.1f} | {median(found):.1f} | {min(found):.1f} to {max(found):.1f} |")


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


def reading(lm: nn.Module, texts: list[dict[str, Tensor]], callback: Build) -> Callable[[], None]:
    """A reading of the finished model, its pass over the texts included."""

    def work() -> None:
        analyze(lm, texts, callback(), progress=False)

    return work


if __name__ == "__main__":
    main()
