"""What is tuned on minimal pairs and how: gradient differentials, and what they must be compared with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lightning_interp.language.encoding import EncodedPair
from lightning_interp.tasks.differential import squared_norm, top_entries

__all__ = ["METHODS", "Method", "Plan", "find_method"]

Gradient = Callable[[Sequence[EncodedPair], tuple[float, float]], dict[str, Tensor]]
"""Pairs and the weights of S(x⁺) and S(x⁻) → the gradient of the mean over pairs."""


@dataclass(frozen=True)
class Method:
    """A way of tuning on minimal pairs."""

    weights: tuple[float, float] = (1.0, -1.0)
    """Of S(x⁺) and S(x⁻) in the objective."""
    mask: Literal["differential", "random"] | None = "differential"
    """Which entries are updated: the largest of the differential, random ones, or all."""
    shuffled: bool = False
    """Whether acceptable and unacceptable change places in half of the pairs."""


METHODS: dict[str, Method] = {
    "ftgd": Method(),
    "ftgd_unmasked": Method(mask=None),
    "ftgd_random_mask": Method(mask="random"),
    "fine_tuning": Method(weights=(1.0, 0.0), mask=None),
    "fine_tuning_masked": Method(weights=(1.0, 0.0)),
    "shuffled": Method(shuffled=True),
}
"""By name; the sixth baseline, the untuned model, is the first entry of every history."""


@dataclass(frozen=True)
class Plan:
    """A method made ready for a task: the pairs as they are tuned on, the entries, the learning rate."""

    pairs: Sequence[EncodedPair]
    mask: Mapping[str, Tensor] | None
    learning_rate: float

    @classmethod
    def of(
        cls,
        method: Method,
        pairs: Sequence[EncodedPair],
        parameters: Mapping[str, Tensor],
        gradient: Gradient,
        *,
        fraction: float,
        threshold: Literal["model", "tensor"],
        step_gain: float,
        learning_rate: float | None,
        seed: int,
    ) -> Plan:
        """Choose the entries and the learning rate from the gradient over all pairs; see :func:`ftgd`."""
        generator = torch.Generator().manual_seed(seed)
        tuned_on = _half_swapped(pairs, generator) if method.shuffled else pairs
        mask: Mapping[str, Tensor] | None = None
        if method.mask == "differential":
            mask = top_entries(gradient(tuned_on, (1.0, -1.0)), fraction, threshold)
        elif method.mask == "random":
            mask = _random_entries(parameters, fraction, threshold, generator)
        if learning_rate is None:
            learning_rate = _rate(gradient(pairs, (1.0, 0.0)), step_gain)
        return cls(tuned_on, mask, learning_rate)


def find_method(name: str) -> Method:
    """The method of this name."""
    if name not in METHODS:
        raise ValueError(f"`method` must be one of {', '.join(map(repr, METHODS))}, got {name!r}.")
    return METHODS[name]


def _half_swapped(pairs: Sequence[EncodedPair], generator: torch.Generator) -> list[EncodedPair]:
    """Exactly half of the pairs, drawn at random, the other way round: then no majority is left to learn from."""
    swapped = set(torch.randperm(len(pairs), generator=generator)[: len(pairs) // 2].tolist())
    return [(bad, good) if place in swapped else (good, bad) for place, (good, bad) in enumerate(pairs)]


def _random_entries(
    like: Mapping[str, Tensor], fraction: float, threshold: Literal["model", "tensor"], generator: torch.Generator
) -> dict[str, Tensor]:
    """As many entries as the largest would be, drawn at random on the CPU: those with the largest lots."""
    lots = {name: torch.rand(value.shape, generator=generator) for name, value in like.items()}
    return {name: where.to(like[name].device) for name, where in top_entries(lots, fraction, threshold).items()}


def _rate(ordinary: Mapping[str, Tensor], step_gain: float) -> float:
    steepness = squared_norm(ordinary)
    if not steepness > 0:
        raise ValueError("the gradient of the acceptable sentences is zero, so no step has an effect.")
    return step_gain / steepness
