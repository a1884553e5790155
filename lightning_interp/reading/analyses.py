"""What the analyses of one Trainer are to one another: their names, the keys that they share, what others logged."""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import nn

from lightning_interp.compat import pl
from lightning_interp.reading.keys import declared

if TYPE_CHECKING:
    from lightning_interp.reading.analysis import ValidationAnalysis

__all__ = [
    "analyses",
    "check_twins",
    "clashes",
    "compared_by_lightning",
    "silence_sync_warning",
    "unique_name",
]


def analyses(trainer: pl.Trainer) -> list[ValidationAnalysis]:
    """The analyses in a Trainer, in its order."""
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    return [callback for callback in callbacks if getattr(type(callback), "is_analysis", False)]


def unique_name(analysis: ValidationAnalysis, trainer: pl.Trainer) -> str:
    """The class name; the second and later ones of a class are numbered."""
    twins = [other for other in analyses(trainer) if type(other) is type(analysis)]
    place = next((index for index, other in enumerate(twins) if other is analysis), 0)
    return type(analysis).__name__ + (f"_{place + 1}" if place else "")


def clashes(analysis: ValidationAnalysis, model: nn.Module, owners: Mapping[str, Any]) -> frozenset[str]:
    """Facts that an earlier analysis reports; any other key in common is an error.

    Args:
        analysis: The analysis.
        model: What it is attached to.
        owners: The analysis that has a key, by whole key.

    Raises:
        ValueError: If they have another key in common.

    """
    mine = {analysis.full_key(key): one.measure.original for key, one in declared(analysis, model).items()}
    shared = mine.keys() & owners.keys()
    facts = {key for key in shared if mine[key].shared}
    clash = sorted(shared - facts)
    if clash:
        raise ValueError(
            f"{type(owners[clash[0]]).__name__} and {type(analysis).__name__} would both log {clash[:3]}"
            f"{' and more' if len(clash) > 3 else ''}: give one of them another `prefix`."
        )
    return frozenset(facts)


def check_twins(analysis: ValidationAnalysis, trainer: pl.Trainer) -> None:
    """Refuse two analyses whose states a checkpoint would hold under one name, so that one of them got the other's."""
    for other in analyses(trainer):
        if other is analysis:
            return
        if type(other) is type(analysis) and other.state_key == analysis.state_key:
            name, given = type(analysis).__name__, analysis.identity()
            what = f"{', '.join(f'{key}={value!r}' for key, value in given.items())}" or "`identity()` tells nothing"
            raise ValueError(
                f"Two {name} are not told apart in a checkpoint ({what}): give one of them another "
                f"{'`prefix`' if 'prefix' in given else '`identity()`'}."
            )


def compared_by_lightning() -> bool:
    """Whether the property that asks was asked by Lightning while it looks for callbacks with equal states.

    It does so as the Trainer is made, before any hook, and its error does not say what two of them have in common.
    """
    return sys._getframe(2).f_code.co_name == "_validate_callbacks_list"


def silence_sync_warning(keys: Sequence[str]) -> None:
    """Our values are merged before they are logged; the advice to average them does not apply."""
    for key in keys:
        warnings.filterwarnings(
            "ignore", re.escape(f"It is recommended to use `self.log({key!r}, ..., sync_dist=True)`")
        )
