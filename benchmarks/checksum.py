"""What the checksum of a batch costs by which callbacks notice that validation data changed, beside a forward pass.

python benchmarks/checksum.py
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from lightning_interp.batches.same_data import DataChecksum
from lightning_interp.distributed import Selection


def seconds(work: Callable[[], Any], times: int) -> float:
    """Median of several runs."""
    found = []
    for _ in range(times):
        started = time.perf_counter()
        work()
        found.append(time.perf_counter() - started)
    return statistics.median(found)


def transformer(width: int, layers: int) -> nn.Module:
    """An encoder of token ids."""
    layer = nn.TransformerEncoderLayer(width, 4, 4 * width, batch_first=True)
    return nn.Sequential(nn.Embedding(30_000, width), nn.TransformerEncoder(layer, layers, enable_nested_tensor=False))


def main() -> None:
    """Print a line for each model."""
    torch.set_num_threads(1)
    ids, images = torch.randint(0, 30_000, (32, 128)), torch.randn(32, 3, 64, 64)
    text = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids.clone()}
    convolutions = nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 64, 3, stride=2), nn.ReLU(), nn.Conv2d(64, 64, 3)
    )
    places = torch.arange(32)
    for name, model, given, batch in (
        ("2 layers of 128, 32 sentences of 128 tokens", transformer(128, 2), ids, text),
        ("6 layers of 512, 32 sentences of 128 tokens", transformer(512, 6), ids, text),
        ("3 convolutions, 32 images of 64 x 64", convolutions, images, (images, torch.zeros(32))),
    ):
        model.eval()
        sums, selection = DataChecksum(), Selection(places, None, places)
        with torch.no_grad():
            own = seconds(lambda sums=sums, batch=batch, at=selection: sums.add(batch, at), 200)
            forward = seconds(lambda model=model, given=given: model(given), 5)
        print(f"{name}: {own * 1e3:.2f} ms a batch, {own / forward:.2%} of {forward * 1e3:.0f} ms")


if __name__ == "__main__":
    main()
