"""What is made of a measure and has a key of its own: its level of chance, what is above it, its standard error."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from lightning_interp.metrics.measure import FULL, Measure

__all__ = [
    "ABOVE",
    "ABOVE_BASELINE",
    "ABOVE_CHAIN",
    "ABOVE_CHANCE",
    "ABOVE_RANDOM",
    "BASELINE",
    "BINNED",
    "CHANCE",
    "CONTROL",
    "DERIVED",
    "PROJECTED",
    "RANDOM_ORDER",
    "SPREAD",
    "STANDARD_ERROR",
    "WEIGHTED",
    "Derived",
    "with_random",
]


@dataclass(frozen=True)
class Derived:
    """What is made of a measure, whichever it is.

    Example:
        >>> regularity = Measure("regularity", of=("site", "labels"), better="higher")
        >>> ABOVE_CHANCE.of(regularity).key("encoder", "token")
        'regularity_above_chance/encoder/token'
        >>> SPREAD.of(CHANCE.of(regularity)).key("encoder", "token")
        'regularity_chance/encoder/token/sd'

    """

    name: str
    """Behind the name of the measure in a title."""
    says: str
    """What it is; ``{chance}`` stands for what the measure calls chance."""
    none: str = ""
    """What it is where there is no effect; by default what that is of the measure."""
    better: bool = False
    """Whether better is what is better of the measure."""
    prefix: str = ""
    """Before the measure's name in a key."""
    suffix: str = ""
    """Behind the measure's name in a key."""
    end: str = ""
    """At the end of a key."""
    compared: bool = False
    """Whether it is what values are compared with, and no finding itself."""

    def of(self, measure: Measure, level: str | None = None) -> Measure:
        """What it is of this measure.

        Args:
            measure: The measure.
            level: Its level; by default that of the measure, and ``"full"`` for what values are compared with.

        """
        original = measure.original
        derived = (self, *measure.derived) if self.prefix else (*measure.derived, self)
        instead = f"{self.prefix}{measure.instead}" if measure.instead else measure.instead
        return replace(
            measure,
            name=f"{self.prefix}{measure.name}{self.suffix}",
            title=", ".join([original.title, *(one.name for one in derived)]),
            says=" ".join([original.says, *(one.says.format(chance=original.chance) for one in derived)]),
            none=next((one.none for one in reversed(derived) if one.none), original.none),
            better=original.better if all(one.better for one in derived) else "neither",
            level=level or (FULL if self.compared else measure.level),
            instead=instead,
            beside_random=False,
            end="/".join(one for one in (measure.end, self.end) if one),
            bookkeeping=measure.bookkeeping or self.compared,
            common=False,
            root=original,
            derived=derived,
        )


_COMPARED = "What the measure is compared with."

ABOVE_CHANCE = Derived(
    "above chance",
    "Its value less that of {chance}.",
    "0 where there is nothing but chance.",
    better=True,
    suffix="_above_chance",
)
ABOVE_BASELINE = Derived(
    "above random weights",
    "Its value less that of the same model with random weights.",
    "0 for no gain.",
    better=True,
    suffix="_above_baseline",
)
ABOVE_CHAIN = Derived(
    "above the chain",
    "Its value less that of linking each word to the next.",
    "0 for no gain.",
    better=True,
    suffix="_above_chain",
)
ABOVE_RANDOM = Derived(
    "above a random order",
    "Its value less that of words in a random order.",
    "0 for a ranking that says no more than a random order.",
    better=True,
    suffix="_above_random",
)
CHANCE = Derived("chance level", "Its value for {chance}.", _COMPARED, suffix="_chance", compared=True)
BASELINE = Derived("random weights", "Its value with random weights.", _COMPARED, suffix="_baseline", compared=True)
RANDOM_ORDER = Derived(
    "random order", "Its value for words in a random order.", _COMPARED, suffix="_random", compared=True
)
CONTROL = Derived("control", "Its value for {chance}.", _COMPARED, suffix="_control", compared=True)
SPREAD = Derived(
    "spread of chance",
    "Standard deviation of its value above chance, where labels tell nothing.",
    end="sd",
    compared=True,
)
STANDARD_ERROR = Derived("standard error", "Its standard error.", end="se", compared=True)
BINNED = Derived(
    "binned", "Told from bins of each dimension, not from points on the sphere.", better=True, prefix="binned_"
)
PROJECTED = Derived(
    "projected", "Read in a random subspace, to compare models of different widths.", better=True, prefix="projected_"
)

WEIGHTED = Derived(
    "by what is carried", "Weights by the size of the values that they carry.", better=True, prefix="value_weighted_"
)

ABOVE = frozenset({ABOVE_CHANCE, ABOVE_BASELINE, ABOVE_CHAIN, ABOVE_RANDOM})
"""A value less what it is compared with."""
DERIVED = (
    *(ABOVE_CHANCE, ABOVE_BASELINE, ABOVE_CHAIN, ABOVE_RANDOM),
    *(CHANCE, BASELINE, RANDOM_ORDER, CONTROL, SPREAD, STANDARD_ERROR),
    *(BINNED, PROJECTED, WEIGHTED),
)


def with_random(measures: Iterable[Measure]) -> list[Measure]:
    """These measures, and behind them what is read with random weights of those that stand beside it.

    Example:
        >>> [one.name for one in with_random([Measure("uuas", beside_random=True), Measure("distance_loss")])]
        ['uuas', 'distance_loss', 'uuas_baseline', 'uuas_above_baseline']

    """
    given = list(measures)
    beside = [one for one in given if one.beside_random]
    return [*given, *(made.of(one) for one in beside for made in (BASELINE, ABOVE_BASELINE))]
