"""A part: what confidences were at some readings of a fit, and pictures of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from matplotlib.figure import Figure

from lightning_interp.figures import measure_curves
from lightning_interp.figures.reliability_diagram import reliability_diagram
from lightning_interp.figures.selective_accuracy_curve import selective_accuracy_curve
from lightning_interp.metrics.calibration import ConfidenceMetric
from lightning_interp.parts.kept import Kept

__all__ = ["ConfidencePictures"]

Line = tuple[list[int], list[float]]

_KEPT = 6
_PANELS = {
    "calibration error": {"equal width": "ece", "equal mass": "adaptive_ece"},
    "Brier score": {"": "brier"},
    "AUROC of confidence": {"": "auroc_confidence"},
    "accuracy and confidence": {"accuracy": "accuracy", "confidence": "confidence"},
    "over-confidence": {"": "overconfidence"},
}


class ConfidencePictures(Kept):
    """Reliability and selective accuracy of up to six readings, by the name of what they are of.

    Args:
        coverages: The shares of predictions whose accuracy is drawn over time.

    """

    def __init__(self, coverages: Sequence[float]) -> None:
        super().__init__(_KEPT)
        self.coverages = coverages

    @staticmethod
    def seen(metric: ConfidenceMetric) -> Mapping[str, Any]:
        """What pictures need of a metric that has computed."""
        assert metric.reliability is not None
        found = {"bins": torch.stack(metric.reliability)}
        return found if metric.curve is None else {**found, "curve": metric.curve}

    def draws(
        self, names: Sequence[str], series: Callable[[str], Line], folder: str
    ) -> dict[str, Callable[[], Figure]]:
        """Curves of the measures, and for each name its reliability diagram and selective accuracy.

        Args:
            names: Of what confidences are.
            series: Gives steps and values of a key.
            folder: The first part of the pictures' names.

        """
        pictures: dict[str, Callable[[], Figure]] = {f"{folder}/curves": partial(self._curves, names, series)}
        for name in names:
            if bins := self._of(name, "bins"):
                draw = partial(reliability_diagram, bins, f"Reliability, {name}")
                pictures[f"{folder}/reliability/{name}"] = draw
            if curves := self._of(name, "curve"):
                draw = partial(selective_accuracy_curve, curves, f"Selective accuracy, {name}")
                pictures[f"{folder}/selective_accuracy/{name}"] = draw
        return pictures

    def _of(self, name: str, what: str) -> list[tuple[int, Any]]:
        return [(step, one[name][what].numpy()) for step, one in self.readings if what in one.get(name, {})]

    def _curves(self, names: Sequence[str], series: Callable[[str], Line]) -> Figure:
        panels: dict[str, dict[str, Line]] = {}
        for panel, lines in _PANELS.items():
            found = {
                ", ".join(part for part in (name if len(names) > 1 or not label else "", label) if part): (
                    series(f"{key}/{name}")
                )
                for name in names
                for label, key in lines.items()
            }
            panels[panel] = {label: line for label, line in found.items() if line[0]}
        shares = {
            f"{name}, coverage {share:g}" if len(names) > 1 else f"coverage {share:g}": series(
                f"selective_accuracy/{name}/{share:g}"
            )
            for name in names
            for share in self.coverages
        }
        if shares:
            panels["accuracy at coverage"] = {label: line for label, line in shares.items() if line[0]}
        return measure_curves(panels, "Confidence")
