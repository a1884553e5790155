"""A part's work: measures of what predictions lose without the words, or the patches, of what was read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from math import isnan
from typing import Any

import torch
from torch import Tensor, nn

from lightning_interp.distributed import Collective, Sums
from lightning_interp.functional.ablation import ablation_concentration, cue_first, cue_share
from lightning_interp.metrics.derived import ABOVE_CHANCE, CHANCE, with_random
from lightning_interp.metrics.measure import Measure
from lightning_interp.metrics.measures.ablation import (
    ABLATION_CONCENTRATION,
    ABLATION_STABILITY,
    ABLATION_TEXTS,
    ABLATION_TOTAL,
    CUE_FIRST,
    CUE_SHARE,
)
from lightning_interp.parts.baseline import Baseline, beside_random
from lightning_interp.parts.word_weights import WordWeights, mean_defined
from lightning_interp.reading.reading import Reading

__all__ = ["ablation_measured", "ablation_measures", "summed"]


def ablation_measures(baseline: Baseline) -> list[Measure]:
    """How weight is spread, with random weights beside it, whether it stays, and what cues have of it."""
    spread = [ABLATION_CONCENTRATION]
    return [
        *(with_random(spread) if baseline.wanted else spread),
        *(ABLATION_STABILITY, CUE_SHARE, CHANCE.of(CUE_SHARE), ABOVE_CHANCE.of(CUE_SHARE)),
        *(CUE_FIRST, CHANCE.of(CUE_FIRST), ABLATION_TOTAL, ABLATION_TEXTS),
    ]


def ablation_measured(
    name: str,
    model: nn.Module,
    read: Sequence[Any],
    losses: Callable[[], list[Tensor]],
    cues: Iterable[str],
    kept: WordWeights,
    baseline: Baseline,
    reading: Reading,
) -> Collective[dict[str, float]]:
    """What :func:`ablation_measures` names.

    Args:
        name: Of the callback, for messages.
        model: What gets random weights.
        read: What was read, each with ``cues``, bool (cues, n), and ``first_ids``, (n,).
        losses: Gives what the prediction of each loses without each of its n parts, (n,), 0 for those of another rank.
        cues: Their names.
        kept: Weights of readings before.
        baseline: Random weights.
        reading: The reading that is being taken.

    """
    if reading.changed is not None or not reading.counts:
        baseline.values = {}  # of other texts
    yield from baseline.read(model, name, losses, _concentration)
    weights = yield from summed(losses())
    values = {ABLATION_CONCENTRATION.key(): mean_defined([ablation_concentration(w) for w in weights])}
    values |= baseline.beside(values, beside_random([ABLATION_CONCENTRATION], {}))
    values[ABLATION_TOTAL.key()] = mean_defined([float(w.abs().sum()) for w in weights])
    values[ABLATION_TEXTS.key()] = float(len(read))
    for place, cue in enumerate(cues):
        values |= _of_cue(cue, weights, [one.cues[place] for one in read])
    # Outside a fit there is no reading before.
    anew = reading.changed is not None or reading.step is None
    values[ABLATION_STABILITY.key()] = kept.take(read, weights, anew)
    if not reading.counts:
        baseline.values = {}
    return values


def summed(own: Sequence[Tensor]) -> Collective[list[Tensor]]:
    """Rows of all ranks, float64, each 0 but on the rank that read it."""
    (whole,) = yield Sums([torch.cat([torch.zeros(0, dtype=torch.float64), *own])])
    return list(torch.split(whole, [len(one) for one in own]))


def _concentration(own: Sequence[Tensor]) -> Collective[dict[str, float]]:
    """What stands beside random weights."""
    weights = yield from summed(own)
    return {ABLATION_CONCENTRATION.key(): mean_defined([ablation_concentration(w) for w in weights])}


def _of_cue(cue: str, weights: Sequence[Tensor], marked: Sequence[Tensor]) -> Mapping[str, float]:
    shares = [cue_share(w, one) for w, one in zip(weights, marked, strict=True)]
    # Of the same texts.
    by_chance = [float(one.double().mean()) for one, share in zip(marked, shares, strict=True) if not isnan(share)]
    share, chance = mean_defined(shares), mean_defined(by_chance)
    return {
        CUE_SHARE.key(cue): share,
        CHANCE.of(CUE_SHARE).key(cue): chance,
        ABOVE_CHANCE.of(CUE_SHARE).key(cue): share - chance,
        CUE_FIRST.key(cue): mean_defined([cue_first(w, one) for w, one in zip(weights, marked, strict=True)]),
        CHANCE.of(CUE_FIRST).key(cue): chance,
    }
