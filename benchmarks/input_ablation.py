"""What it costs to read inputs without their parts, and to ask a model how sure it is, beside plain forward passes.

    python benchmarks/input_ablation.py
    python benchmarks/input_ablation.py --runs 9 --length 64

A GPT-2 of four layers × 128 with four heads, texts of 32 tokens. A row is a reading of the finished model: how many
forward passes over a text it takes, counted, with the pass in which the texts are gathered, and its time as a ratio to
one plain forward pass over the same texts in batches of 16, timed in turn with it in one process: the median of
``--runs``, with the smallest and the largest. Random weights are read once in a training, and are not in here.

Images are 3 × 32 × 32, through four convolutions, in patches of 8 × 8. Questions have nearly as many tokens
as texts, with one of four options, and their row is beside one forward pass over each question with one option.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from statistics import median
from typing import Any

import torch
from forward_passes import VOCABULARY, batches, plain, ratios
from torch import Tensor, nn

from lightning_interp import (
    ElicitedConfidence,
    Faithfulness,
    InputAblation,
    PatchAblation,
    ValidationAnalysis,
    analyze,
)
from lightning_interp.models import small_gpt2
from lightning_interp.tasks import Question

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
    print("| | forward passes of an input | time as a ratio to one | smallest to largest |\n|---|---|---|---|")
    for name, callback in rows.items():
        row(name, lm, reading(lm, texts, callback), plain(lm, texts), args.samples, args.runs)
    net = convolutions().eval()
    images = list(torch.randn(args.samples, 3, 32, 32).split(16))
    for way in ("mean", "resample"):
        patches = partial(PatchAblation, 8, way, **ablation)
        row(
            f"`PatchAblation(8, {way!r})`",
            net,
            reading(net, images, patches),
            seen(net, images),
            args.samples,
            args.runs,
        )
    asked, spelled = questions(args.samples, args.length)
    for methods in (["options_sum"], ["p_true"]):
        asks = partial(
            ElicitedConfidence,
            asked,
            methods,
            p_true_template="{question} {option} {word}",
            p_true_words=(["1"], ["2"]),
            tokenizer=lambda text: [int(one) for one in text.split()],
            bos_token_id=0,
            batch_tokens=16 * 4 * args.length,
            draw_figures=False,
        )
        nothing = [{"input_ids": torch.ones(1, 2, dtype=torch.long)}]
        row(
            f"`ElicitedConfidence({methods})`",
            lm,
            reading(lm, nothing, asks),
            plain(lm, spelled),
            args.samples,
            args.runs,
        )


def row(
    name: str, model: nn.Module, work: Callable[[], None], without: Callable[[], None], samples: int, runs: int
) -> None:
    """Print what a reading takes beside plain forward passes."""
    passes, found = counted(model, work) / samples, ratios(without, work, runs)
    print(f"| {name} | {passes:.1f} | {median(found):.1f} | {min(found):.1f} to {max(found):.1f} |")


def convolutions() -> nn.Sequential:
    """A small classifier of images."""
    sizes = [3, 32, 64, 64, 64]
    layers = [(nn.Conv2d(a, b, 3, 2, 1), nn.ReLU()) for a, b in pairwise(sizes)]
    return nn.Sequential(*(one for pair in layers for one in pair), nn.Flatten(), nn.Linear(256, 10))


def seen(net: nn.Module, images: list[Tensor]) -> Callable[[], None]:
    """The forward passes alone."""

    def work() -> None:
        with torch.no_grad():
            for batch in images:
                net(batch)

    return work


def questions(number: int, length: int) -> tuple[list[Question], list[dict[str, Tensor]]]:
    """Questions of random tokens with four options of two, and each with one option as ids."""
    ids = torch.randint(1, VOCABULARY, (number, length - 4), generator=torch.Generator().manual_seed(0))
    options = ("10 11", "12 13", "14 15", "16 17")
    asked = [Question(" ".join(map(str, one)), options[0], options) for one in ids.tolist()]
    spelled = torch.cat([torch.zeros(number, 1, dtype=torch.long), ids, torch.full((number, 2), 10)], 1)
    return asked, [{"input_ids": some} for some in spelled.split(16)]  # type: ignore[no-untyped-call]


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


def reading(lm: nn.Module, texts: list[Any], callback: Build) -> Callable[[], None]:
    """A reading of the finished model, its pass over the texts included."""

    def work() -> None:
        analyze(lm, texts, callback(), progress=False)

    return work


if __name__ == "__main__":
    main()
