"""What one reading sends between ranks and holds in memory, from 8 to 4,096 of them.

The bytes are measured: the metrics' own exchanges are carried out over made-up representations and Zipf-distributed
tokens, and every tensor that would be sent is counted. Time in a network is not measured but computed: a sum over ranks
is a ring all-reduce, labels are an all-gather, and every exchange is preceded by an all-reduce of a flag:

    all-reduce of b bytes over P ranks: 2 (P − 1) / P · b / bandwidth + 2 ⌈log₂ P⌉ · latency
    all-gather of b bytes in all:         (P − 1) / P · b / bandwidth +   ⌈log₂ P⌉ · latency

    python benchmarks/communication.py
    python benchmarks/communication.py --samples 500 --bandwidth 1.25e9 --latency 5e-5
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lightning_interp.distributed import Gather, Sums
from lightning_interp.metrics import SoftStructure, SpectralGeometry
from lightning_interp.metrics import _merge as merging
from lightning_interp.metrics.base import RepresentationMetric

RANKS = (8, 64, 512, 4096)
VOCABULARIES = (2_000, 32_000, 256_000)


@dataclass
class Traffic:
    """What one metric at one site exchanges in a reading."""

    reduced: list[int] = field(default_factory=list)
    gathered: list[int] = field(default_factory=list)
    """Bytes of all ranks together."""
    held: int = 0
    """Bytes of rows that wait for the end of the reading, of all ranks together."""
    fixed: int = 0
    """Bytes of sums that each rank keeps, however many there are."""
    largest: int = 0
    """Bytes of the largest tensor that is summed: a table, held twice while it is."""

    def seconds(self, ranks: int, bandwidth: float, latency: float) -> float:
        """Time in the network by the model above."""
        share, hops = (ranks - 1) / ranks, math.ceil(math.log2(ranks))
        flags = len(self.reduced) + len(self.gathered) + 1
        summed = 2 * share * sum(self.reduced) / bandwidth + 2 * hops * latency * (len(self.reduced) + flags)
        return summed + share * sum(self.gathered) / bandwidth + hops * latency * len(self.gathered)

    def once(self) -> int:
        """Bytes on one rank that are there once, whatever the number of sites: labels of all ranks, a table twice."""
        return sum(self.gathered) + 2 * self.largest


def carry_out(metric: RepresentationMetric) -> Traffic:
    """Go through the exchanges of ``compute`` and count."""
    # As on several ranks, where blocks of tables are larger than those that one rank makes for itself.
    merging.world_size = lambda group=None: 2  # type: ignore[assignment]
    states = list(metric.metric_state.values())
    rows, sums = ([one for one in states if isinstance(one, list) is kind] for kind in (True, False))
    traffic = Traffic(held=sum(map(_bytes, rows)), fixed=sum(map(_bytes, sums)))
    steps, result = metric.merge(), None
    while True:
        try:
            request = steps.send(result)
        except StopIteration:
            return traffic
        size = _bytes(request.tensor)
        (traffic.gathered if isinstance(request, Gather) else traffic.reduced).append(size)
        traffic.largest = max(traffic.largest, 0 if isinstance(request, Gather) else size)
        if isinstance(request, Sums):
            result = list(request.tensors)
        else:
            result = [request.tensor] if isinstance(request, Gather) else request.tensor


def _bytes(value: Tensor | list[Tensor]) -> int:
    return sum(map(_bytes, value)) if isinstance(value, list) else value.numel() * value.element_size()


def reading(metric: RepresentationMetric, samples: int, length: int, width: int, vocabulary: int) -> Traffic:
    """Traffic of a metric that read so many samples of a language with that vocabulary."""
    generator = torch.Generator().manual_seed(0)
    chances = 1.0 / torch.arange(1, vocabulary + 1, dtype=torch.float64)
    tokens = torch.multinomial(chances, samples * length, replacement=True, generator=generator).view(samples, length)
    for start in range(0, samples, 100):
        batch = tokens[start : start + 100]
        z = torch.randn(*batch.shape, width, generator=generator)
        metric.update(z, labels={"token": batch}, positions=torch.arange(start, start + len(batch)))
    return carry_out(metric)


def number(size: float, unit: str) -> str:
    """Three digits and a prefix."""
    for prefix in ("", "k", "M", "G"):
        if size < 1000:
            return f"{size:.3g} {prefix}{unit}"
        size /= 1000
    return f"{size:.3g} T{unit}"


def main(argv: list[str] | None = None) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=2000, help="max_examples of the callbacks; default: %(default)s")
    parser.add_argument("--length", type=int, default=32, help="words a sample; default: %(default)s")
    parser.add_argument("--width", type=int, default=512, help="D; default: %(default)s")
    parser.add_argument("--sites", type=int, default=100, help="default: %(default)s")
    parser.add_argument("--bandwidth", type=float, default=1e10, help="bytes a second of a rank; default: %(default)s")
    parser.add_argument("--latency", type=float, default=2e-5, help="seconds a hop; default: %(default)s")
    args = parser.parse_args(argv)
    size = {"samples": args.samples, "length": args.length, "width": args.width}
    print(f"{args.samples} samples of {args.length} words, D = {args.width}; one site\n")
    print("| | vocabulary | exchanges | summed | gathered, all ranks | rows held, all ranks | sums held, each rank |")
    print("|---|---|---|---|---|---|---|")
    found: dict[tuple[str, int], Traffic] = {}
    for vocabulary in VOCABULARIES:
        kinds: dict[str, RepresentationMetric] = {
            "structure: token": SoftStructure(labels=["token"]),
            "structure: token, bigram, trigram": SoftStructure(labels=["token", "bigram", "trigram"]),
        }
        if vocabulary == VOCABULARIES[0]:
            kinds["geometry"] = SpectralGeometry()
        for name, metric in kinds.items():
            traffic = found[name, vocabulary] = reading(metric, vocabulary=vocabulary, **size)
            cells = [sum(traffic.reduced), sum(traffic.gathered), traffic.held, traffic.fixed]
            exchanges = len(traffic.reduced) + len(traffic.gathered)
            given = "any" if name == "geometry" else f"{vocabulary:,}"
            print(f"| {name} | {given} | {exchanges} | {' | '.join(number(cell, 'B') for cell in cells)} |")
    print(f"\n{args.sites} sites, {number(args.bandwidth, 'B/s')} a rank, {1e6 * args.latency:g} µs a hop: seconds in")
    print("the network, and bytes on one rank (rows of all sites wait, tables come one after another)\n")
    print(f"| | vocabulary | {' | '.join(f'{ranks:,} ranks' for ranks in RANKS)} |")
    print("|---|---|" + "---|" * len(RANKS))
    for (name, vocabulary), traffic in found.items():
        cells = []
        for ranks in RANKS:
            seconds = args.sites * traffic.seconds(ranks, args.bandwidth, args.latency)
            memory = args.sites * (traffic.held // ranks + traffic.fixed) + traffic.once()
            cells.append(f"{seconds:.2g} s, {number(memory, 'B')}")
        print(f"| {name} | {'any' if name == 'geometry' else f'{vocabulary:,}'} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
