"""Decisions from readings alone, without a Trainer: which phase a run is in, whether to stop, and why."""

from lightning_interp.decisions.evidence import Improvement, improvement, plateau, slowed
from lightning_interp.decisions.patience import PatienceRule
from lightning_interp.decisions.phase_tracker import PhaseTracker, Standing, describe
from lightning_interp.decisions.schedule import StepSchedule, log_spaced_steps
from lightning_interp.decisions.templates import TEMPLATES, Verdict, judge
from lightning_interp.decisions.track import Boundary, Track, boundaries, lag

__all__ = [
    "Improvement",
    "improvement",
    "plateau",
    "slowed",
    "PatienceRule",
    "PhaseTracker",
    "Standing",
    "describe",
    "StepSchedule",
    "log_spaced_steps",
    "TEMPLATES",
    "Verdict",
    "judge",
    "Boundary",
    "Track",
    "boundaries",
    "lag",
]
