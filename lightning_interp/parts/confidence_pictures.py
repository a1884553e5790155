"""A part: what confidences were at some readings of a fit, and pictures of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from matplotlib.figure import Figure

from lightning_interp.figures.reliability_diagram import reliability_diagram
from lightning_interp.figures.selective_accuracy_curve import selective_accuracy_curve
from lightning_interp.metrics.calibration import ConfidenceMetric
from lightning_interp.parts.kept import Kept

__all__ = ["ConfidencePictures"]

_KEPT = 6


class ConfidencePictures(Kept):
    """Reliability and selective accuracy of up to six readings, by the name of what they are of."""

    def __init__(self) -> None:
        super().__init__(_KEPT)

    @staticmethod
    def seen(metric: ConfidenceMetric) -> Mapping[str, Any]:
        """What pictures need of a metric that has computed."""
        assert metric.reliability is not None
        found = {"bins": torch.stack(metric.reliability)}
        return found if metric.curve is None else {**found, "curve": metric.curve}

    def diagrams(self, names: Sequence[str], folder: str) -> dict[str, Callable[[], Figure]]:
        """For each name its reliability diagram and selective accuracy.

        Args:
            names: Of what confidences are.
            folder: The first part of the pictures' names.

        """
        pictures: dict[str, Callable[[], Figure]] = {}
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
