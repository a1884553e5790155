"""Decisions from readings alone, without a Trainer: which phase a run is in, whether to stop, and why."""

from lightning_interp.decisions.curve import Boundary, Curve, boundaries, lag
from lightning_interp.decisions.evidence import Improvement, improvement, plateau, slowed
from lightning_interp.decisions.patience import PatienceRule
from lightning_interp.decisions.phase_tracker import PhaseState, PhaseTracker, describe
from lightning_interp.decisions.schedule import StepSchedule, log_spaced_steps
from lightning_interp.decisions.templates import TEMPLATES, PhaseReading, judge

__all__ = [
    "Improvement",
    "improvement",
    "plateau",
    "slowed",
    "PatienceRule",
    "PhaseTracker",
    "PhaseState",
    "describe",
    "StepSchedule",
    "log_spaced_steps",
    "TEMPLATES",
    "PhaseReading",
    "judge",
    "Boundary",
    "Curve",
    "boundaries",
    "lag",
]
