"""What neurons did on all ranks, site by site: how a look-up explains them, their shape, and where they fire most."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_interp.distributed import Collective, Gather, Maximum, Sums
from lightning_interp.functional.neurons import LookUp, lookup_scores, lookup_sums, top_contexts
from lightning_interp.parts.neuron_texts import NeuronTokens, Recorded

__all__ = ["NeuronMeans", "merged_neurons", "merged_residuals"]

_DEAD = 1e-6


@dataclass(frozen=True, eq=False)
class NeuronMeans:
    """Of the neurons of a site, float64 (n,) each; NaN where there is nothing to tell them from."""

    scores: Tensor
    """Correlation with the look-up by token, told from one half and scored on the other."""
    permuted: Tensor
    """The same with tokens dealt to other places."""
    kurtosis: Tensor
    fires: Tensor
    """Share of tokens above 0."""
    dead: Tensor
    """1 where it never fires."""
    contexts: Tensor
    """Places where it fires most, int64 (n, k), −1 for none."""
    peaks: Tensor
    """Its activations there, (n, k)."""


def merged_neurons(tokens: NeuronTokens, own: Recorded, site: str, number: int = 20) -> Collective[NeuronMeans]:
    """What the neurons of one site did on all ranks.

    Args:
        tokens: All tokens, the same on all ranks.
        own: What this rank recorded.
        site: The site.
        number: How many contexts.

    """
    recorded = own.activations.get(site)
    width: Tensor = yield Maximum(torch.tensor(0 if recorded is None else recorded.shape[1]))
    a = torch.zeros(0, int(width)) if recorded is None else recorded
    looked_up = yield from _look_ups(tokens, a, own.places)
    halves = looked_up[:2]
    count = float(len(tokens)) or math.nan
    mean = (halves[0].sums.sum(0) + halves[1].sums.sum(0)) / count
    square = (halves[0].squares + halves[1].squares) / count
    away = a.double() - mean
    moments = torch.stack([away.square().sum(0), away.pow(4).sum(0), (a > 0).double().sum(0)])
    (moments,) = yield Sums([moments])
    second, fourth, above = moments / count
    sizes = a.double().abs().amax(0) if len(a) else torch.zeros(int(width), dtype=torch.float64)
    largest: Tensor = yield Maximum(sizes)
    rms = square.mean().sqrt()
    dead = torch.where(rms.isnan(), math.nan, (largest <= _DEAD * rms).double())
    contexts, peaks = yield from _contexts(a, own.places, number)
    return NeuronMeans(
        lookup_scores(*halves),
        lookup_scores(*looked_up[2:]),
        torch.where(second > 1e-12 * square, fourth / second.square(), math.nan),
        above,
        dead,
        contexts,
        peaks,
    )


def _look_ups(tokens: NeuronTokens, a: Tensor, places: Tensor) -> Collective[list[LookUp]]:
    """Of the half that explains and the one that is scored, with their own tokens and with permuted ones."""
    held_out = tokens.held_out[places]
    found: list[LookUp] = []
    for types in (tokens.types, tokens.permuted):
        halves = [lookup_sums(a[held_out == half], types[places][held_out == half], tokens.number) for half in (0, 1)]
        merged = yield Sums([part for half in halves for part in half])
        found += [LookUp(*merged[:3]), LookUp(*merged[3:])]
    return found


def _contexts(a: Tensor, places: Tensor, number: int) -> Collective[tuple[Tensor, Tensor]]:
    """Where each neuron fires most, over all ranks."""
    own = torch.full((a.shape[1], number), -1), torch.zeros(a.shape[1], number)
    if len(a):
        own = top_contexts(a, places, number)
    where: list[Tensor] = yield Gather(own[0][None])
    peaks: list[Tensor] = yield Gather(own[1][None])
    if not a.shape[1]:
        return own
    candidates = torch.cat(list(torch.cat(peaks)), 1).T, torch.cat(list(torch.cat(where)), 1).T
    return top_contexts(*candidates, number)


def merged_residuals(own: Mapping[str, Tensor], sites: Sequence[str]) -> Collective[dict[str, float]]:
    """Of each site the largest size of a residual over the median of its texts' medians; NaN where none is known."""
    found: dict[str, float] = {}
    for site in sites:
        tables: list[Tensor] = yield Gather(own.get(site, torch.zeros(0, 3, dtype=torch.float64)))
        table = torch.cat(tables)
        median = float(table[:, 2].median()) if len(table) else math.nan
        found[site] = float(table[:, 1].max()) / median if median > 0 else math.nan
    return found
