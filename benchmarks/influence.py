"""Influence functions beside leaving examples out and training anew.

    python benchmarks/influence.py
    python benchmarks/influence.py --seeds 5

scikit-learn's digits 3, 5 and 8: multinomial logistic regression on 150 of them, with an L2 penalty of .01, trained to
its optimum, and again without each of the 150. A row is a method: over the training examples, the correlation of its
scores with what the loss of a query really rises by, the mean over 100 queries; with several seeds (other examples) the
mean of these, the smallest and the largest. Below it the slope of what losses really rise by over the exact scores:
without an example, and where it counts 1 % less, of which influence is the limit.

The second table is of what EK-FAC draws: a network of 16 hidden units, trained a little and to the end, on the same
digits; the correlation over all scores of two seeds of the draws with each other, and of the first with the exact ones.
The third is of time, as a ratio to one forward pass over the training texts: a GPT-2 of two layers × 128 with 64 texts
of 32 tokens and 16 queries, the median of --runs with the smallest and the largest.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from statistics import fmean, median
from typing import Any, NamedTuple

import torch
from forward_passes import VOCABULARY, batches, plain, ratios
from sklearn.datasets import load_digits
from torch import Tensor, nn

from lightning_interp import influence
from lightning_interp.functional import spearman
from lightning_interp.models import small_gpt2

WEIGHT_DECAY = 0.01
DIGITS = (3, 5, 8)


class Digits(NamedTuple):
    """Images as rows with a 1 at the end, classes 0 to 2."""

    x: Tensor
    y: Tensor
    query_x: Tensor
    query_y: Tensor


def main(argv: list[str] | None = None) -> None:
    """Compare, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--runs", type=int, default=5, help="of the third table; 0 for none")
    args = parser.parse_args(argv)
    retraining(args.seeds)
    drawn(digits(0))
    if args.runs:
        cost(args.runs)


# ------------------------------------------------- retraining


def retraining(seeds: int) -> None:
    """Print the first table."""
    found: dict[str, list[tuple[float, float]]] = {}
    slopes: list[tuple[float, float]] = []
    for seed in range(seeds):
        data = digits(seed)
        truth, scores = left_out(data), methods(data, seed)
        exact = next(iter(scores.values()))
        slopes.append((slope(exact, truth), slope(exact, counted_less(data, 0.01))))
        for name, one in scores.items():
            found.setdefault(name, []).append(agreement(one, truth))
    print("| | Pearson | smallest to largest | Spearman | smallest to largest |\n|---|---|---|---|---|")
    for name, values in found.items():
        cells = [f"{fmean(one):.3f} | {min(one):.3f} to {max(one):.3f}" for one in zip(*values, strict=True)]
        print(f"| {name} | {' | '.join(cells)} |")
    without, less = (", ".join(f"{one:.3f}" for one in row) for row in zip(*slopes, strict=True))
    print(f"\nslope over the exact scores: without an example {without}; where it counts 1 % less {less}")


def digits(seed: int, number: int = 150, queries: int = 100) -> Digits:
    """Some of the digits 3, 5 and 8, drawn by the seed."""
    images, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(images) / 16, torch.tensor(labels)
    kept = torch.isin(y, torch.tensor(DIGITS))
    x = torch.cat([x[kept], torch.ones(int(kept.sum()), 1)], 1).double()
    y = torch.searchsorted(torch.tensor(DIGITS), y[kept])
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    train, asked = order[:number], order[number : number + queries]
    return Digits(x[train], y[train], x[asked], y[asked])


def fitted(x: Tensor, y: Tensor, start: Tensor | None = None, counts: Tensor | None = None) -> Tensor:
    """The weights (3, D) of logistic regression with an L2 penalty, by Newton's method to the last digits.

    An example may count more or less than 1; it is the sum over as many that is divided by their number.
    """
    number, dim = x.shape
    count = torch.ones(number, 1, dtype=x.dtype) if counts is None else counts[:, None]
    weights = torch.zeros(len(DIGITS), dim, dtype=x.dtype) if start is None else start.clone()
    for _ in range(50):
        p = (x @ weights.T).softmax(1)
        gradient = (count * (p - nn.functional.one_hot(y, len(DIGITS)))).T @ x / number + WEIGHT_DECAY * weights
        if gradient.abs().max() < 1e-12:
            return weights
        blocks = torch.diag_embed(p) - p[:, :, None] * p[:, None]
        hessian = torch.einsum("nij,nk,nl->ikjl", blocks, count * x, x).reshape(weights.numel(), -1) / number
        hessian += WEIGHT_DECAY * torch.eye(len(hessian), dtype=x.dtype)
        weights = weights - torch.linalg.solve(hessian, gradient.flatten()).view_as(weights)
    raise RuntimeError("Newton's method did not converge.")


def left_out(data: Digits) -> Tensor:
    """By how much the loss of each query rises without each example, (queries, examples)."""
    weights, rises = fitted(data.x, data.y), []
    for one in range(len(data.x)):
        others = torch.arange(len(data.x)) != one
        rises.append(query_losses(data, fitted(data.x[others], data.y[others], weights)))
    return torch.stack(rises, 1) - query_losses(data, weights)[:, None]


def counted_less(data: Digits, by: float) -> Tensor:
    """The rise of the same losses where each example in turn counts less by a share, over that share."""
    weights, rises = fitted(data.x, data.y), []
    for one in range(len(data.x)):
        counts = torch.ones(len(data.x), dtype=data.x.dtype)
        counts[one] -= by
        rises.append(query_losses(data, fitted(data.x, data.y, weights, counts)))
    return (torch.stack(rises, 1) - query_losses(data, weights)[:, None]) / by


def query_losses(data: Digits, weights: Tensor) -> Tensor:
    """Of each query, in nats."""
    return nn.functional.cross_entropy(data.query_x @ weights.T, data.query_y, reduction="none")


def model_of(data: Digits) -> nn.Module:
    """The trained model."""
    model = nn.Linear(data.x.shape[1], len(DIGITS), bias=False, dtype=data.x.dtype)
    model.weight.data = fitted(data.x, data.y)
    return model


def methods(data: Digits, seed: int) -> Mapping[str, Tensor]:
    """Scores (queries, examples) by method."""
    model = model_of(data)

    def of(method: str, **how: Any) -> Any:
        given = {"method": method, "seed": seed, "query_batch": 100, "progress": False, **how}
        return influence(model, [(data.x, data.y)], [(data.query_x, data.query_y)], **given)

    exact = of("exact", damping=WEIGHT_DECAY)
    return {
        "`exact`, damping the weight decay": exact.scores,
        "`exact`, damping by default": of("exact").scores,
        "`ekfac`, damping the weight decay": of("ekfac", damping=WEIGHT_DECAY).scores,
        "`ekfac`, damping the weight decay, one draw": of("ekfac", damping=WEIGHT_DECAY, draws=1).scores,
        "`ekfac`, damping by default": of("ekfac").scores,
        "`gradient_dot`": of("gradient_dot").scores,
        "`cosine`": of("cosine").scores,
        "nearest inputs of the same label": exact.nearest,
        "random scores": exact.random,
    }


def agreement(scores: Tensor, truth: Tensor) -> tuple[float, float]:
    """Pearson's and Spearman's correlation over examples, the mean over queries."""
    rows = list(zip(scores.double(), truth, strict=True))
    return fmean(map(_pearson, *zip(*rows, strict=True))), fmean(float(spearman(one, other)) for one, other in rows)


def slope(scores: Tensor, truth: Tensor) -> float:
    """Least squares through 0."""
    return float((scores * truth).sum() / scores.square().sum())


def _pearson(one: Tensor, other: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([one, other]))[0, 1])


# ------------------------------------------------- draws


def drawn(data: Digits) -> None:
    """Print the second table."""
    print("\n| | draws | two seeds | with the exact scores |\n|---|---|---|---|")
    x, y, query_x, query_y = data.x.float(), data.y, data.query_x.float(), data.query_y
    for steps in (20, 100):
        model = trained(x, y, steps)
        loss = float(nn.functional.cross_entropy(model(x), y))

        def of(model: nn.Module = model, **how: Any) -> Tensor:
            return influence(model, [(x, y)], [(query_x, query_y)], damping=1e-3, progress=False, **how).scores

        exact = of(method="exact")
        for draws in (1, 4, 16, 64):
            one, other = (of(draws=draws, seed=seed) for seed in (0, 1))
            agree = _pearson(one.flatten(), other.flatten()), _pearson(one.flatten(), exact.flatten())
            print(f"| loss {loss:.3f} | {draws} | {agree[0]:.3f} | {agree[1]:.3f} |")


def trained(x: Tensor, y: Tensor, steps: int) -> nn.Module:
    """A network of 16 hidden units after so many steps of AdamW."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(x.shape[1], 16), nn.ReLU(), nn.Linear(16, len(DIGITS)))
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model


# ------------------------------------------------- cost


def cost(runs: int) -> None:
    """Print the third table."""
    torch.manual_seed(0)
    lm = small_gpt2(range(VOCABULARY), 128, layers=2, heads=4, length=32).eval()
    train, queries = batches(64, 32, 16), batches(16, 32, 16)

    def of(method: str, **how: Any) -> Callable[[], None]:
        def work() -> None:
            influence(lm, train, queries, method=method, target="input_ids", shift=1, progress=False, **how)

        return work

    print("\n| | time as a ratio to a forward pass | smallest to largest |\n|---|---|---|")
    works = {"`gradient_dot`": of("gradient_dot"), "`cosine`": of("cosine")}
    works |= {"`ekfac`, one draw": of("ekfac", draws=1), "`ekfac`, four draws": of("ekfac", draws=4)}
    for name, work in works.items():
        found = ratios(plain(lm, train), work, runs)
        print(f"| {name} | {median(found):.0f} | {min(found):.0f} to {max(found):.0f} |")


if __name__ == "__main__":
    main()
