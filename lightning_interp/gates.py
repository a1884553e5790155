"""Where a run stands and whether it should stop: decisions from readings alone, without a Trainer."""

from lightning_interp.decisions.evidence import Improvement, improvement, plateau, slowed
from lightning_interp.decisions.patience import PatienceRule
from lightning_interp.decisions.phase_tracker import PhaseTracker, Standing, describe
from lightning_interp.decisions.templates import TEMPLATES, Verdict, judge
from lightning_interp.decisions.track import Boundary, Track, boundaries, lag

__all__ = [
    "TEMPLATES",
    "Boundary",
    "Improvement",
    "PatienceRule",
    "PhaseTracker",
    "Standing",
    "Track",
    "Verdict",
    "boundaries",
    "describe",
    "improvement",
    "judge",
    "lag",
    "plateau",
    "slowed",
]
