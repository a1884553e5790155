"""Keys, levels, fallbacks, charts and descriptions of an analysis: they follow from the measures that it declares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from torch import nn

from lightning_interp.metrics.measure import FULL, SUMMARY, Axes, KeyOf, Measure, as_measures, expanded, fallbacks
from lightning_interp.reporting.measure_words import describe, parsed, title_of_chart, told_of_key

__all__ = ["Declares", "charts_of", "conditional_keys_of", "declared", "descriptions_of", "direction", "measures_of"]


class Declares(Protocol):
    """What has keys: an analysis, as far as its keys are concerned."""

    log_level: str

    def declares(self) -> Sequence[Measure]:
        """Its measures."""

    def axes(self, model: nn.Module | None) -> Axes:
        """The values of their axes."""

    def measures(self, model: nn.Module | None = None) -> dict[str, str]:
        """Every key with its level."""

    def full_key(self, key: str) -> str:
        """The key with prefix and loader."""

    def metric_improves(self, metric: str) -> str | None:
        """Which way a metric of the model improves."""


def measures_of(analysis: Declares, model: nn.Module | None) -> dict[str, str]:
    """Every key that the measures and axes of an analysis make, with its level.

    Raises:
        NotImplementedError: If it declares none.

    """
    measures = analysis.declares()
    if not measures:
        raise NotImplementedError(
            f"{type(analysis).__name__} declares no measures: fill in `declares()` and, where they are of sites or "
            "labels, `axes()`; or `measures()`, every key with its level."
        )
    return {key: one.measure.level for key, one in expanded(measures, analysis.axes(model)).items()}


def conditional_keys_of(analysis: Declares, model: nn.Module | None) -> dict[str, str]:
    """Whole keys that may be undefined at a reading, each with the one to monitor instead."""
    found = fallbacks(analysis.declares(), analysis.axes(model))
    return {analysis.full_key(key): analysis.full_key(other) if other else "" for key, other in found.items()}


def declared(analysis: Declares, model: nn.Module | None) -> dict[str, KeyOf]:
    """What every key of an analysis is; a key that it does not declare is told from its name.

    Args:
        analysis: The analysis; where it has ``measures`` of its own, these say which keys there are, at which level.
        model: The model; without it, keys hold patterns.

    """
    declares = analysis.declares()
    known = expanded(declares, analysis.axes(model)) if declares else {}
    found: dict[str, KeyOf] = {}
    for key, level in analysis.measures(model).items():
        one = known.get(key) or KeyOf(as_measures({key: level})[0], ())
        if not one.measure.says:
            one = told_of_key(key) or one
        found[key] = one if one.measure.level == level else one._replace(measure=replace(one.measure, level=level))
    return found


def charts_of(analysis: Declares, model: nn.Module | None) -> dict[str, list[str]]:
    """Which measures share a chart: all sites and label sets of a measure, of those that loggers are shown."""
    found: dict[str, list[str]] = {}
    for key, one in declared(analysis, model).items():
        shown = one.measure.level == SUMMARY or analysis.log_level == FULL
        if shown and not one.measure.bookkeeping:
            found.setdefault(title_of_chart(parsed(one)), []).append(key)
    return found


def descriptions_of(analysis: Declares, model: nn.Module | None) -> dict[str, str]:
    """What each whole key is, in Markdown; empty where nothing is said of it."""
    return {
        analysis.full_key(key): describe(one.measure) if one.measure.says else ""
        for key, one in declared(analysis, model).items()
    }


def direction(analysis: Declares, one: KeyOf) -> str | None:
    """``"max"`` or ``"min"``: which way is better of a key; None where neither is, or nobody can know."""
    if one.measure.better == "as the metric":
        metrics = [value for axis, value in zip(one.measure.of, one.at, strict=True) if axis.endswith("monitor")]
        return analysis.metric_improves(metrics[0]) if metrics else None
    return {"higher": "max", "lower": "min"}.get(one.measure.better)
