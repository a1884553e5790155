"""What a user adds to the Trainer."""

from lightning_interp.callbacks.analysis import ValidationAnalysis
from lightning_interp.callbacks.geometry import RepresentationGeometry
from lightning_interp.callbacks.noise import NoiseRobustness
from lightning_interp.callbacks.phase_early_stopping import PhaseEarlyStopping
from lightning_interp.callbacks.representation import RepresentationMetrics
from lightning_interp.callbacks.structure import RepresentationStructure
from lightning_interp.callbacks.task_space import TaskSpace
from lightning_interp.callbacks.training_phases import TrainingPhases
from lightning_interp.callbacks.validation_schedule import ValidationSchedule

__all__ = [
    "RepresentationStructure",
    "RepresentationGeometry",
    "RepresentationMetrics",
    "NoiseRobustness",
    "TaskSpace",
    "TrainingPhases",
    "PhaseEarlyStopping",
    "ValidationAnalysis",
    "ValidationSchedule",
]
