"""Readings whose fit is planted."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from lightning_interp.decisions import Curve

STEPS = [round(10 ** (k / 8)) for k in range(6, 30)]


@dataclass
class Fit:
    """The fields of a KneeFit that decisions use, with planted values."""

    knees: tuple[float, ...]
    slopes: tuple[float, ...]
    start: float = 0.0
    noise: float = 0.01
    autocorrelation: float = 0.0
    intervals: tuple[tuple[float, float], ...] = ()
    slope_errors: tuple[float, ...] = ()
    fitted: np.ndarray = field(default_factory=lambda: np.zeros(0))
    covariance: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))

    def __post_init__(self) -> None:
        self.slope_errors = self.slope_errors or (0.01,) * len(self.slopes)
        self.intervals = self.intervals or tuple((knee - 0.1, knee + 0.1) for knee in self.knees)
        self.fitted = self.predict(np.log10(STEPS))
        apart = np.abs(np.subtract.outer(np.arange(len(STEPS)), np.arange(len(STEPS))))
        self.covariance = self.noise**2 * self.autocorrelation**apart

    def predict(self, x: np.ndarray) -> np.ndarray:
        x = np.asarray(x)
        value = self.start + self.slopes[0] * (x - math.log10(STEPS[0]))
        for knee, before, after in zip(self.knees, self.slopes, self.slopes[1:], strict=False):
            value = value + (after - before) * np.maximum(x - knee, 0)
        return value


def track(fit: Fit, mode: str = "min", size: float = 0.0, seed: int = 0) -> Curve:
    jitter = size * np.random.default_rng(seed).standard_normal(len(STEPS))
    return Curve(STEPS, list(fit.fitted + jitter), mode, fit)
