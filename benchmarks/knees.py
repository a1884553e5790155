"""How often `fit_knees` finds knees that are not there, finds those that are, and covers them; the same of phases.

Prints Markdown tables; every share has its 95 % binomial (Wilson) interval. Run i of a cell has the seed (N, 100 φ, i),
a run of the tables of phases (i, number of the curve, number of the noise).

    python benchmarks/knees.py --runs 400 --tables lines uneven smooth one two cut
    python benchmarks/knees.py --runs 100 --tables none second
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_interp.decisions import Curve, PhaseTracker, judge, plateau, slowed
from lightning_interp.functional import KneeFit, fit_knees

Array = NDArray[np.float64]
PHIS = (0.0, 0.3, 0.5, 0.7)
SIZES = (12, 20, 30, 60)


def readings(size: int) -> Array:
    """Positions from 0 to 4: log10 of steps 1 to 10,000, evenly spaced as a schedule with `steps="log"` has them."""
    return np.linspace(0.0, 4.0, size)


def noise(size: int, phi: float, run: int) -> Array:
    """Stationary AR(1) noise of unit variance."""
    draws = np.random.default_rng([size, round(100 * phi), run]).standard_normal(size)
    for t in range(1, size):
        draws[t] = phi * draws[t - 1] + np.sqrt(1 - phi * phi) * draws[t]
    return draws


def share(hits: int, of: int) -> str:
    """A percentage and its Wilson interval."""
    if not of:
        return "–"
    z, p = 1.96, hits / of
    middle, half = p + z * z / (2 * of), z * np.sqrt(p * (1 - p) / of + z * z / (4 * of * of))
    low, high = (100 * max(0.0, middle - half) / (1 + z * z / of), 100 * min(2.0, middle + half) / (1 + z * z / of))
    return f"{100 * p:.1f} [{low:.1f}, {high:.1f}]"


def fits(truth: Callable[[Array], Array], size: int, phi: float, runs: int, intervals: bool) -> Iterator[KneeFit]:
    """One fit per run."""
    x = readings(size)
    for run in range(runs):
        yield fit_knees(x, truth(x) + noise(size, phi, run), seed=run, intervals=intervals)


def sup_f(x: Array, y: Array) -> float:
    """The largest F of one added knee at a reading, as if readings were independent."""

    def squares(*columns: Array) -> float:
        design = np.stack([np.ones_like(x), x, *columns], 1)
        return float(((y - design @ np.linalg.lstsq(design, y, rcond=None)[0]) ** 2).sum())

    least = min(squares(np.maximum(x - knee, 0)) for knee in x[2:-2])
    return (squares() / least - 1) * (len(x) - 4)


def row(*cells: object) -> None:
    print("| " + " | ".join(str(cell) for cell in cells) + " |", flush=True)


def head(title: str, *cells: str) -> None:
    print(f"\n### {title}\n")
    row(*cells)
    row(*("---" for _ in cells))


def lines(runs: int) -> None:
    """False knees on straight lines."""
    head("False knees on straight lines, % of runs", "N", "φ", "fit_knees", "ordinary sup-F", "ms per call")
    for size in SIZES:
        x = readings(size)
        critical = np.quantile([sup_f(x, noise(size, 0.0, 10**6 + run)) for run in range(1000)], 0.95)
        for phi in PHIS:
            start = time.process_time()
            false = sum(len(fit.knees) > 0 for fit in fits(lambda x: 0 * x, size, phi, runs, True))
            seconds = time.process_time() - start
            ordinary = sum(sup_f(x, noise(size, phi, run)) > critical for run in range(runs))
            row(size, phi, share(false, runs), share(ordinary, runs), f"{1000 * seconds / runs:.0f}")


UNEVEN = ("falls tenfold", "rises tenfold", "falls tenfold, φ = 0.5", "mean of three in a row")


def uneven_noise(kind: str, size: int, run: int) -> Array:
    """Noise that is not of one size, or not AR(1)."""
    if kind == "mean of three in a row":
        draws = np.random.default_rng([size, 3, run]).standard_normal(size + 2)
        return np.convolve(draws, np.full(3, 3**-0.5), "valid")
    change = np.logspace(-1, 0, size) if kind == "rises tenfold" else np.logspace(0, -1, size)
    return noise(size, 0.5 if "φ" in kind else 0.0, run) * change


def uneven(runs: int) -> None:
    """False knees on straight lines whose noise changes, as that of losses and accuracies does."""
    head("False knees on straight lines with other noise, % of runs", "noise", *(f"N = {size}" for size in SIZES[:3]))
    for kind in UNEVEN:
        cells = []
        for size in SIZES[:3]:
            x = readings(size)
            fitted = (fit_knees(x, uneven_noise(kind, size, run), seed=run, intervals=False) for run in range(runs))
            cells.append(share(sum(len(fit.knees) > 0 for fit in fitted), runs))
        row(kind, *cells)


def smooth(runs: int) -> None:
    """Knees found in curves without any; heights in standard deviations of the noise."""
    curves: dict[str, Callable[[Array], Array]] = {
        "quadratic, 0.5 off its chord": lambda x: 0.5 * (x / 2 - 1) ** 2,
        "quadratic, 1 off its chord": lambda x: (x / 2 - 1) ** 2,
        "log(1 + x), 10 high": lambda x: 10 * np.log1p(x) / np.log(5),
        "exponential decay, 10 high": lambda x: 10 * np.exp(-x),
        "sigmoid, 10 high": lambda x: 10 / (1 + np.exp(-4 * (x - 2))),
    }
    head("Knees found in smooth curves, % of runs", "curve", "N", "φ", "any knee", "two or more")
    for name, curve in curves.items():
        for size in (20, 30, 60):
            for phi in (0.0, 0.5):
                found = [len(fit.knees) for fit in fits(curve, size, phi, runs, False)]
                row(name, size, phi, share(sum(k > 0 for k in found), runs), share(sum(k > 1 for k in found), runs))


def planted(title: str, knees: tuple[float, ...], values: Array, heights: Sequence[float], runs: int) -> None:
    head(title, "N", "φ", "height / noise", "number right", "too many", "knees covered", "median width")
    nodes = np.array([0.0, *knees, 4.0])
    for size in (20, 30, 60):
        for phi in (0.0, 0.5):
            for height in heights:
                found = list(fits(lambda x, h=height: h * np.interp(x, nodes, values), size, phi, runs, True))
                right = [fit for fit in found if len(fit.knees) == len(knees)]
                pairs = [
                    (low, knee, high) for fit in right for (low, high), knee in zip(fit.intervals, knees, strict=True)
                ]
                row(
                    size,
                    phi,
                    height,
                    share(len(right), runs),
                    share(sum(len(fit.knees) > len(knees) for fit in found), runs),
                    share(sum(low <= knee <= high for low, knee, high in pairs), len(pairs)),
                    f"{np.median([high - low for low, _, high in pairs]):.2f}" if pairs else "–",
                )


def one(runs: int) -> None:
    """A plateau, then a slope."""
    planted("One knee, at 1.9 of 0 to 4", (1.9,), np.array([0.0, 0.0, 1.0]), (4, 8, 16), runs)


def two(runs: int) -> None:
    """A drop between two plateaus."""
    planted("Two knees, at 1.3 and 2.7 of 0 to 4", (1.3, 2.7), np.array([0.0, 0.0, 1.0, 1.0]), (8, 16), runs)


def cut(runs: int) -> None:
    """The first case when the run has only just bent: slope of 2 or 4 standard deviations of noise per reading."""
    head("Runs cut short, 30 readings", "readings after the knee", "φ", "slope per reading / noise", "found within one")
    size = 30
    step = 4 / (size - 1)
    for after in (2, 3, 4, 6):
        knee = readings(size)[size - 1 - after]
        for phi in (0.0, 0.5):
            for slope in (1, 2, 4):
                bent = fits(lambda x, k=knee, s=slope: s * np.maximum(x - k, 0) / step, size, phi, runs, False)
                near = sum(any(abs(found - knee) <= 1.01 * step for found in fit.knees) for fit in bent)
                row(after, phi, slope, share(near, runs))


# ------------------------------------------------- phases, reading by reading

PER_DECADE = 24
TIMES = np.linspace(1.0, 3.3, round(2.3 * PER_DECADE) + 1)  # log10 of steps 10 to 2,000
U = (TIMES - TIMES[0]) / (TIMES[-1] - TIMES[0])
BEGINS = 0.6  # of U: where the loss of the planted second phases ends its fall
NOISES = ("white", "φ = 0.5", "falls tenfold", "falls tenfold, φ = 0.5")
SIZES_OF_NOISE = ((0.01, 0.03), (0.05, 0.1))  # of the loss and of the key, as shares of what each gains

# Loss and key without a second phase: the key improves with the loss, or not at all.
WITHOUT: dict[str, tuple[Array, Array]] = {
    "both straight": (1 - U, U),
    "loss straight, key flat": (1 - U, 0 * U),
    "loss straight, key rises late": (1 - U, np.maximum(U - 0.6, 0) / 0.4),
    "both saturate slowly": (np.exp(-4 * U), 1 - np.exp(-4 * U)),
    "both end at a knee": (1 - np.minimum(U / 0.6, 1), np.minimum(U / 0.6, 1)),
    "loss ends at a knee, key flat": (1 - np.minimum(U / 0.6, 1), 0 * U),
    "both sigmoid": (1 / (1 + np.exp(12 * (U - 0.4))), 1 / (1 + np.exp(-12 * (U - 0.4)))),
}
# With one: the key goes on after the loss has ended.
WITH: dict[str, tuple[Array, Array]] = {
    "loss ends at a knee, key goes on": (1 - np.minimum(U / BEGINS, 1), U),
    "loss ends smoothly, key goes on": (1 / (1 + np.exp(16 * (U - 0.45))), U),
    "loss ends at a knee, key soon after": (1 - np.minimum(U / BEGINS, 1), np.clip((U - 0.4) / 0.4, 0, 1)),
}


def noise_of(kind: str, seed: tuple[int, ...]) -> tuple[Array, Array]:
    """Noise of unit variance at the first reading, for loss and key."""
    generator = np.random.default_rng(seed)
    draws = generator.standard_normal((2, len(TIMES)))
    phi = 0.5 if "φ" in kind else 0.0
    for t in range(1, len(TIMES)):
        draws[:, t] = phi * draws[:, t - 1] + np.sqrt(1 - phi * phi) * draws[:, t]
    loss, key = draws * (np.logspace(0, -1, len(TIMES)) if "falls" in kind else 1.0)
    return loss, key


def told_at(loss: Array, key: Array) -> tuple[int | None, int | None]:
    """Numbers of the readings that first point to a second phase and that confirm it, as ``TrainingPhases`` does."""
    tracker = PhaseTracker()
    steps = [round(1000 * 10**at) for at in TIMES]
    pointed: int | None = None
    for size in range(8, len(TIMES) + 1):
        fit = fit_knees(TIMES[:size], loss[:size], intervals=False)
        followed = Curve(steps[:size], loss[:size].tolist(), "min", fit)
        improving = {}
        if slowed(followed) is not None or plateau(followed) is not None:
            fit = fit_knees(TIMES[:size], key[:size], intervals=False)
            improving = {"key": Curve(steps[:size], key[:size].tolist(), "max", fit)}
        standing = tracker.update(size, judge("two_phase", ("loss", followed), improving))
        pointed = size if pointed is None and standing.provisional is not None else pointed
        if standing.index:
            return pointed, size
    return pointed, None


def phases_of(loss: Array, key: Array, kind: str, sizes: tuple[float, float], seed: tuple[int, ...]) -> Any:
    """What is told of one run."""
    on_loss, on_key = noise_of(kind, seed)
    return told_at(loss + sizes[0] * on_loss, key + sizes[1] * on_key)


def none(runs: int) -> None:
    """Second phases told at any reading of a run that has none."""
    head(
        f"Second phases in runs without one, {len(TIMES)} readings, told at any of them, % of runs",
        *("curves", "noise", "of what size", "provisional", "confirmed"),
    )
    every = []
    for number, (name, (loss, key)) in enumerate(WITHOUT.items()):
        for which, kind in enumerate(NOISES):
            for sizes in SIZES_OF_NOISE:
                found = [phases_of(loss, key, kind, sizes, (run, number, which)) for run in range(runs)]
                every += found
                pointed, sure = (sum(one[at] is not None for one in found) for at in range(2))
                row(name, kind, "{} and {}".format(*sizes), share(pointed, runs), share(sure, runs))
    pointed, sure = (sum(one[at] is not None for one in every) for at in range(2))
    row("all", "", "", share(pointed, len(every)), share(sure, len(every)))


def second(runs: int) -> None:
    """Second phases found, and how many readings after their beginning."""
    begins = int(np.searchsorted(U, BEGINS)) + 1
    head(
        f"Second phases in runs with one, {len(TIMES)} readings, {PER_DECADE} a decade",
        *("curves", "noise", "of what size", "provisional, %", "confirmed, %"),
        *("readings until provisional, median and 90 %", "until confirmed"),
    )
    for number, (name, (loss, key)) in enumerate(WITH.items()):
        for which, kind in enumerate(NOISES):
            for sizes in SIZES_OF_NOISE:
                found = [phases_of(loss, key, kind, sizes, (run, number, which)) for run in range(runs)]
                cells = []
                for at in range(2):
                    late = [one[at] - begins for one in found if one[at] is not None]
                    cells.append((share(len(late), runs), late))
                waits = ("{:.0f}, {:.0f}".format(*np.quantile(late, (0.5, 0.9))) if late else "–" for _, late in cells)
                row(name, kind, "{} and {}".format(*sizes), *(cell for cell, _ in cells), *waits)


TABLES: dict[str, Callable[[int], None]] = {
    "lines": lines,
    "uneven": uneven,
    "smooth": smooth,
    "one": one,
    "two": two,
    "cut": cut,
    "none": none,
    "second": second,
}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=400, help="per cell")
    parser.add_argument("--tables", nargs="+", choices=list(TABLES), default=list(TABLES))
    options = parser.parse_args(argv)
    print(
        f"{options.runs} runs per cell, level 0.05, seeds (N, 100 φ, 0 … {options.runs - 1}), numpy {np.__version__}."
    )
    for name in options.tables:
        TABLES[name](options.runs)


if __name__ == "__main__":
    main()
