"""α of samples whose true α is known, by number of rows and of dimensions.

Rows are Gaussian and the eigenvalues of their covariance i^-α. "Here" is `spectral_measures`; "ranks 11 to 100" is the
estimator of α-ReQ's group as published, undefined below 100 dimensions; "all ranks" is a line through all of them.

    python benchmarks/alpha.py --draws 10
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from statistics import fmean, stdev

import torch
from torch import Tensor

from lightning_interp.functional import spectral_measures

SIZES = (
    *((74, 64), (128, 64), (300, 64), (1000, 64), (3000, 64)),
    *((138, 128), (300, 128), (1000, 128), (300, 256), (1000, 256), (20000, 256)),
    *((300, 768), (1000, 768), (3000, 768)),
)
ALPHAS = (0.7, 1.0, 1.5)


def line(eigenvalues: Tensor, first: int, last: int, weighted: bool) -> float:
    """Minus the slope of log λ on log rank."""
    ranks = torch.arange(first, last + 1, dtype=torch.float64)
    weight = 1 / ranks if weighted else torch.ones_like(ranks)
    x, y = ranks.log(), eigenvalues[first - 1 : last].log()
    x, y = x - (weight * x).sum() / weight.sum(), y - (weight * y).sum() / weight.sum()
    return -float((weight * x * y).sum() / (weight * x * x).sum())


def draw(rows: int, dim: int, alpha: float, seed: int) -> tuple[float, float, float, float]:
    """α here, its R², α of ranks 11 to 100, and of all ranks."""
    scale = torch.arange(1, dim + 1, dtype=torch.float64) ** (-alpha / 2)
    z = torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * scale
    z -= z.mean(0)
    covariance = z.T @ z / rows
    found = spectral_measures(covariance, rows, centred=True)
    known = min(rows - 1, dim)
    eigenvalues = torch.linalg.eigvalsh(covariance).flip(0)
    published = line(eigenvalues, 11, 100, True) if known >= 100 else math.nan
    return float(found.alpha), float(found.alpha_r2), published, line(eigenvalues, 1, known, False)


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=10, help="of each cell, at least 2; default: %(default)s")
    draws = parser.parse_args(argv).draws
    print("| rows | dimensions | true α | here | R² | ranks 11 to 100 | all ranks |")
    print("|---|---|---|---|---|---|---|")
    for rows, dim in SIZES:
        for alpha in ALPHAS:
            here, r2, published, every = zip(*(draw(rows, dim, alpha, seed) for seed in range(draws)), strict=True)
            cells = [f"{fmean(here):.2f} ± {stdev(here):.2f}", f"{fmean(r2):.3f}"]
            cells += [f"{fmean(one):.2f}" if one[0] == one[0] else "" for one in (published, every)]
            print(f"| {rows:,} | {dim} | {alpha} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
