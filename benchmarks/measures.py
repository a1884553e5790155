"""How fast the measures are, beside the arithmetic that none of them can avoid and beside other implementations.

Every row compares two things that are timed in turn in one process, and gives the median of their ratio with the
smallest and the largest; times are medians. Representations come in batches of 2,000, as a validation run would hand
them over.

    python benchmarks/measures.py                  # all of it, some ten minutes on two cores
    python benchmarks/measures.py --only product   # against the bare product alone
"""

from __future__ import annotations

import argparse
import math
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from statistics import median

import numpy as np
import torch
from torch import Tensor

from lightning_interp.functional import reference_points, vmf_temperature
from lightning_interp.metrics import BinnedStructure, SoftStructure, SpectralGeometry
from lightning_interp.metrics.base import RepresentationMetric

LENGTH = 25
BATCH = 80
FLAT = ("token", "flat_bigram", "flat_trigram")
NESTED = ("token", "bigram", "trigram")


class Data:
    """Normal vectors over Zipf-distributed tokens, the same in every call."""

    def __init__(self, rows: int, dim: int, vocabulary: int = 2000, exponent: float = 1.0, batch: int = BATCH) -> None:
        self.batch = batch
        generator = torch.Generator().manual_seed(0)
        self.samples, self.dim = rows // LENGTH, dim
        chances = torch.arange(1, vocabulary + 1, dtype=torch.float64).pow(-exponent)
        drawn = torch.multinomial(chances, self.samples * LENGTH, replacement=True, generator=generator)
        self.tokens = drawn.view(self.samples, LENGTH)
        # One block of vectors is drawn and used again, so that a million rows need no memory of their own.
        self.block = torch.randn(min(self.samples, 4000), LENGTH, dim, generator=generator)

    def batches(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Vectors, tokens and positions."""
        for start in range(0, self.samples, self.batch):
            stop = min(start + self.batch, self.samples)
            here = start % len(self.block)
            yield self.block[here : here + stop - start], self.tokens[start:stop], torch.arange(start, stop)

    def read(self, metric: RepresentationMetric) -> dict[str, float]:
        """A whole reading."""
        for z, tokens, positions in self.batches():
            metric.update(z, labels={"token": tokens}, positions=positions)
        return {key: float(value) for key, value in metric.compute().items()}

    def product(self, points: Tensor) -> None:
        """The bare product of the same batches with the reference points."""
        for z, _, _ in self.batches():
            z.reshape(-1, self.dim) @ points.T

    def moments(self) -> Tensor:
        """The bare Σ z zᵀ of the same batches."""
        total = torch.zeros(self.dim, self.dim)
        for z, _, _ in self.batches():
            flat = z.reshape(-1, self.dim)
            total += flat.T @ flat
        return total


def seconds(work: Callable[[], object]) -> float:
    """Time of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def compare(
    name: str, ours: Callable[[], object], other: Callable[[], object], runs: int, invert: bool = False
) -> float:
    """Time both in turn and print a row; the median ratio."""
    ours()
    pairs = [(seconds(other), seconds(ours)) for _ in range(runs)]
    ratios = sorted(b / a if invert else a / b for b, a in pairs)
    times = [1e3 * median(column) for column in zip(*pairs, strict=True)]
    spread = f"{ratios[0]:.2f} to {ratios[-1]:.2f}"
    print(f"| {name} | {times[1]:,.0f} | {times[0]:,.0f} | {median(ratios):.2f} | {spread} |", flush=True)
    return median(ratios)


def head(title: str, other: str, ratio: str) -> None:
    """The head of a table."""
    print(f"\n{title}\n\n| | this, ms | {other}, ms | {ratio} | smallest to largest |\n|---|---|---|---|---|")


# ------------------------------------------------- against the product


def against_product(runs: int) -> None:
    """The soft measures beside one product with the reference points, the spectral ones beside Σzzᵀ."""
    data = Data(100_000, 512)
    points = reference_points(100, 512)
    head(
        "100,000 vectors, D = 512, 100 reference points; one shuffle, disentanglement included",
        "bare product",
        "this / product",
    )
    settings = [("information alone", (), 5)]
    settings += [
        (f"{kind} token, bigram, trigram, min_count={count}", labels, count)
        for kind, labels in (("flat", FLAT), ("nested", NESTED))
        for count in (5, 1)
    ]
    distinct: dict[str, float] = {}
    for name, labels, count in settings:

        def read(labels: Sequence[str] = labels, count: int = count) -> None:
            found = data.read(SoftStructure(labels, min_count=count, shuffles=1))
            distinct.update({key: value for key, value in found.items() if key.startswith("num_labels") and count == 1})

        compare(name, read, lambda: data.product(points), runs)
    kept = ", ".join(f"{key.split('/')[1]} {int(value):,}" for key, value in distinct.items())
    print(f"\nDistinct labels with min_count=1: {kept}")
    head("Spectral measures, 100,000 vectors, D = 512", "bare Σzzᵀ", "this / Σzzᵀ")
    compare("seven measures", lambda: data.read(SpectralGeometry()), data.moments, runs)


# ------------------------------------------------- against others


def against_package(runs: int) -> None:
    """The same values from the PyPI package of the soft estimator's author."""
    from soft_entropy import SoftEntropyAccumulator

    found: dict[str, float] = {}
    theirs: dict[str, float] = {}

    def package(data: Data, backend: str) -> None:
        accumulator = SoftEntropyAccumulator(d=512, n_bins=100, backend=backend)
        accumulator.w, accumulator.temp = reference_points(100, 512), vmf_temperature(512, 100)
        if backend == "numpy":
            accumulator.w = accumulator.w.numpy()
        for z, tokens, _ in data.batches():
            labels = {"token": tokens.flatten()}
            for n, name in ((2, "flat_bigram"), (3, "flat_trigram")):
                # Each n-gram that ends at a position; where none does, a label of its own that is not compared.
                window = torch.stack([tokens.roll(shift, 1) for shift in range(n)]).double()
                code = (window * torch.tensor([2000.0**k for k in range(n)])[:, None, None]).sum(0).long()
                code[:, : n - 1] = -1
                labels[name] = code.flatten()
            flat = z.reshape(-1, 512)
            if backend == "numpy":
                accumulator.update(flat.numpy(), labels={name: value.numpy() for name, value in labels.items()})
            else:
                accumulator.update(flat, labels=labels)
        conditional = accumulator.conditional_entropy()
        theirs["information"] = accumulator.entropy()
        for name, entropies in conditional.items():
            sizes = accumulator._label_n_samples[name]
            kept = [label for label in entropies if label != -1]
            weights = np.array([sizes[label] for label in kept], dtype=float)
            theirs[f"variation/{name}"] = float(np.average([entropies[label] for label in kept], weights=weights))

    def ours(data: Data) -> None:
        found.update(data.read(SoftStructure(FLAT, min_count=1, shuffles=0)))

    head("Against `soft-entropy` 0.1.5, same points, temperature and label sets", "package", "package / this")
    for batch in (BATCH, 400, 4000):
        data = Data(100_000, 512, batch=batch)
        for backend in ("numpy", "torch"):
            name = f"conditional entropies, batches of {LENGTH * batch:,}, its {backend} backend"
            compare(name, partial(ours, data), partial(package, data, backend), runs, invert=True)
    agree(found, theirs, 1e-5)


def against_transcription(runs: int) -> None:
    """The binned measures written down as published: a loop over labels and dimensions."""
    data = Data(10_000, 64, vocabulary=200)
    found: dict[str, float] = {}
    theirs: dict[str, float] = {}

    def published() -> None:
        z = torch.cat([part.reshape(-1, 64) for part, _, _ in data.batches()]).double().numpy()
        tokens = data.tokens.flatten().numpy()
        edges = [np.linspace(column.min(), column.max(), 21) for column in z.T]

        def distribution(rows: np.ndarray) -> list[np.ndarray]:
            counts = [np.histogram(rows[:, d], bins=edges[d])[0] for d in range(64)]
            return [count / count.sum() for count in counts]

        def entropy(distributions: list[np.ndarray]) -> float:
            return float(np.mean([-sum(p * math.log(p) for p in one if p > 0) for one in distributions]) / math.log(20))

        labels = np.unique(tokens)
        chosen = {label: z[tokens == label] for label in labels}
        weights = np.array([len(rows) for rows in chosen.values()], dtype=float)
        by_label = {label: distribution(rows) for label, rows in chosen.items()}
        apart = []
        for label in labels:
            rest = distribution(z[tokens != label])
            middle = [(p + q) / 2 for p, q in zip(by_label[label], rest, strict=True)]
            apart.append((entropy(middle) - (entropy(by_label[label]) + entropy(rest)) / 2) * math.log(20))
        theirs["binned_information"] = entropy(distribution(z))
        theirs["binned_variation/token"] = float(
            np.average([entropy(one) for one in by_label.values()], weights=weights)
        )
        theirs["binned_regularity/token"] = theirs["binned_information"] - theirs["binned_variation/token"]
        theirs["binned_disentanglement/token"] = float(np.average(apart, weights=weights))

    def ours() -> None:
        found.update(data.read(BinnedStructure(["token"], min_count=1, shuffles=0)))

    head(
        "Against a transcription of the published binned measures (10,000 vectors, D = 64, 200 tokens)",
        "transcription",
        "transcription / this",
    )
    compare("information, variation, regularity, disentanglement", ours, published, runs, invert=True)
    agree(found, theirs, 1e-6)


def agree(found: dict[str, float], expected: dict[str, float], tolerance: float) -> None:
    """End the run if two implementations differ."""
    worst = max(abs(found[key] - value) for key, value in expected.items())
    if not worst <= tolerance:
        sys.exit(f"Results differ by {worst:.2e}: {[(key, found[key], value) for key, value in expected.items()]}")
    print(f"\nSame values within {worst:.1e}: {', '.join(expected)}")


# ------------------------------------------------- scaling and limits


def scaling(runs: int) -> None:
    """Time against the number of vectors, dimensions and reference points, with the exponent of a power law."""
    print("\nTime of a reading (token and bigram, one shuffle) against one size at a time, else 100,000 × 512 × 100\n")
    print("| | sizes | ms | exponent |\n|---|---|---|---|")
    sizes: dict[str, Sequence[int]] = {
        "vectors": (10_000, 30_000, 100_000, 300_000, 1_000_000),
        "dimensions": (128, 256, 512, 1024, 2048),
        "reference points": (50, 100, 200, 400),
        "sites": (1, 2, 4, 8),
    }
    for what, values in sizes.items():
        times = []
        for value in values:
            size = {"vectors": 100_000, "dimensions": 512, "reference points": 100, "sites": 1, what: value}
            data = Data(size["vectors"], size["dimensions"])

            def read(data: Data = data, size: dict[str, int] = size) -> None:
                for _ in range(size["sites"]):
                    data.read(SoftStructure(["token", "bigram"], shuffles=1, num_points=size["reference points"]))

            read()
            times.append(median(seconds(read) for _ in range(runs)))
        slope = np.polyfit(np.log(values), np.log(times), 1)[0]
        cells = ", ".join(f"{1e3 * one:,.0f}" for one in times)
        print(f"| {what} | {', '.join(f'{value:,}' for value in values)} | {cells} | {slope:.2f} |", flush=True)


def limits(runs: int) -> None:
    """What the machine can do, and what the hot path does."""
    data = Data(100_000, 512)
    points, square = reference_points(100, 512), torch.randn(2048, 2048)
    source, target = torch.randn(1 << 26), torch.empty(1 << 26)
    square @ square
    target.copy_(source)
    peak = 2 * 2048**3 / median(seconds(lambda: square @ square) for _ in range(runs))
    copy = 8 * source.numel() / median(seconds(lambda: target.copy_(source)) for _ in range(runs))
    work = 2 * 100_000 * 512 * 100
    data.product(points)
    product = work / median(seconds(lambda: data.product(points)) for _ in range(runs))
    updated = SoftStructure()

    def update() -> None:
        for z, _, positions in data.batches():
            updated.update(z, positions=positions)

    update()
    updated.reset()
    taken = []
    for _ in range(runs):
        taken.append(seconds(update))
        updated.reset()
    hot = work / median(taken)
    read = 4 * 100_000 * 512 / median(taken)
    print(f"\nThe machine ({torch.get_num_threads()} threads, {torch.get_default_dtype()}):")
    print("\n| | GFLOP/s | of the peak | GB/s read | of a copy |\n|---|---|---|---|---|")
    print(f"| square product, 2,048 | {peak / 1e9:.0f} | 1 | | |")
    print(f"| copy of 256 MB | | | {copy / 2e9:.1f} | 1 |")
    print(f"| bare product with 100 points | {product / 1e9:.0f} | {product / peak:.2f} | | |")
    print(
        f"| `update` of information | {hot / 1e9:.0f} | {hot / peak:.2f} | {read / 1e9:.1f} | {2 * read / copy:.2f} |"
    )


# ------------------------------------------------- memory


def memory() -> None:
    """Peak resident memory of a reading beyond what was there before, each in a process of its own."""
    print("\n| reading | peak memory beyond the model's and the data's |\n|---|---|")
    for name, code in (
        ("100,000 vectors, flat token, bigram, trigram, min_count=1", "Data(100_000, 512), FLAT, 1"),
        ("100,000 vectors, nested token, bigram, trigram, min_count=1", "Data(100_000, 512), NESTED, 1"),
        ("100,000 vectors, nested token, bigram, trigram, min_count=5", "Data(100_000, 512), NESTED, 5"),
    ):
        call = f"from benchmarks.measures import *; print(peak_memory({code}))"
        found = subprocess.run([sys.executable, "-c", call], check=True, capture_output=True, text=True)
        print(f"| {name} | {float(found.stdout):.0f} MB |", flush=True)
    call = "from benchmarks.measures import *; print(language_model_memory())"
    found = subprocess.run([sys.executable, "-c", call], check=True, capture_output=True, text=True)
    print(f"| vocabulary of 256,000, 32 sites, 64,000 vectors each, token and bigram | {float(found.stdout):.0f} MB |")


class Peak(threading.Thread):
    """Watches the resident memory of this process."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.before = self.highest = resident()
        self.stop = threading.Event()

    def run(self) -> None:
        """Look until told to stop."""
        while not self.stop.wait(0.0005):
            self.highest = max(self.highest, resident())

    def done(self) -> float:
        """MB beyond what was there at the start."""
        self.stop.set()
        self.join()
        return (self.highest - self.before) / 1e6


def resident() -> int:
    """Bytes."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096


def peak_memory(data: Data, labels: Sequence[str], min_count: int) -> float:
    """Of one reading, after a small one has loaded what there is to load."""
    Data(4000, data.dim).read(SoftStructure(labels, min_count=min_count, shuffles=1))
    watch = Peak()
    watch.start()
    data.read(SoftStructure(labels, min_count=min_count, shuffles=1))
    return watch.done()


def language_model_memory() -> float:
    """32 sites of a model with 256,000 words, read at 2,000 sequences of 32, all waiting for the end of the reading."""
    data = Data(64_000, 512, vocabulary=256_000)
    sites = [SoftStructure(["token", "bigram"], shuffles=3) for _ in range(32)]
    Data(4000, 512).read(SoftStructure(["token", "bigram"], shuffles=1))
    watch = Peak()
    watch.start()
    for z, tokens, positions in data.batches():
        for site in sites:
            site.update(z, labels={"token": tokens}, positions=positions)
    for site in sites:
        site.compute()
        site.reset()
    return watch.done()


PARTS: dict[str, Callable[[int], None]] = {
    "product": against_product,
    "package": lambda runs: against_package(min(runs, 3)),
    "transcription": against_transcription,
    "scaling": scaling,
    "limits": limits,
    "memory": lambda _: memory(),
}


def main(argv: list[str] | None = None) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5, help="timed runs of each side; default: %(default)s")
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS))
    args = parser.parse_args(argv)
    torch.set_grad_enabled(False)
    for part in args.only:
        PARTS[part](args.runs)


if __name__ == "__main__":
    main()
