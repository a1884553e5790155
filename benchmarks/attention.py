"""What reading attention costs, beside the forward passes that are read.

    python benchmarks/attention.py
    python benchmarks/attention.py --runs 9 --samples 16

A GPT-2 of six layers × 256 with four heads, texts of 256 tokens; each row is a ratio to the plain forward passes, timed
in turn with them in one process: medians of ``--runs``, with the smallest and the largest. Then the memory beyond the
model and its plain forward pass, by ``max_tokens``: of two layers, four texts of 1,024 tokens.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
from collections.abc import Callable
from statistics import median

import torch
from forward_passes import VOCABULARY, batches, plain, ratios
from torch import Tensor, nn

from lightning_interp import AttentionStructure, analyze
from lightning_interp.models import small_gpt2
from lightning_interp.sites import resolve_sites
from lightning_interp.sites.attention_tap import AttentionTap


def model(layers: int, width: int, length: int) -> nn.Module:
    """The model."""
    torch.manual_seed(0)
    return small_gpt2(range(VOCABULARY), width, layers=layers, heads=4, length=length).eval()


def main(argv: list[str] | None = None) -> None:
    """Time, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--peak", type=int, default=None, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    lm, texts = model(args.layers, args.width, args.length), batches(args.samples, args.length, 4)
    if args.peak is not None:
        if args.peak:
            reading(lm, texts, max_tokens=args.peak)()
        else:
            plain(lm, texts)()
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
        return
    rows: dict[str, Callable[[], None]] = {
        "the tap, nothing computed": tapped(lm, texts, lambda site, call: None),
        "the tap, weights computed": tapped(lm, texts, lambda site, call: call.weights),
        "AttentionStructure": reading(lm, texts, value_weighted=False),
        "AttentionStructure, value-weighted too": reading(lm, texts),
    }
    print("| | ratio to the forward passes | smallest to largest |\n|---|---|---|")
    for name, work in rows.items():
        found = ratios(plain(lm, texts), work, args.runs)
        print(f"| {name} | {median(found):.2f} | {min(found):.2f} to {max(found):.2f} |")
    base = peak(0)
    print("\n| `max_tokens` | memory beyond a plain forward pass, MB |\n|---|---|")
    for most in (256, 1024, 4096):
        print(f"| {most} | {(peak(most) - base) / 1024:.0f} |")


def tapped(lm: nn.Module, texts: list[dict[str, Tensor]], handler: Callable[..., object]) -> Callable[[], None]:
    """The forward passes with a tap that tells a handler."""
    tap = AttentionTap(lm, resolve_sites(lm, "transformer.h.*.attn"))

    def work() -> None:
        with tap.reading(handler):  # type: ignore[arg-type]
            plain(lm, texts)()

    return work


def reading(lm: nn.Module, texts: list[dict[str, Tensor]], **kwargs: object) -> Callable[[], None]:
    """A reading of the finished model, forward passes included."""
    return lambda: void(analyze(lm, texts, AttentionStructure(max_examples=None, **kwargs), progress=False))  # type: ignore[arg-type]


def void(value: object) -> None:
    """Drop a value."""


def peak(most: int) -> int:
    """Peak memory of a process that reads once, in KB."""
    sizes = ["--samples=4", "--length=1024", "--layers=2"]
    done = subprocess.run(
        [sys.executable, __file__, "--peak", str(most), *sizes], capture_output=True, text=True, check=True
    )
    return int(done.stdout.split()[-1])


if __name__ == "__main__":
    main()
