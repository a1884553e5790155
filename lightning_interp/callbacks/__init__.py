"""What a user adds to the Trainer."""

from lightning_interp.callbacks.analysis import ValidationAnalysis
from lightning_interp.callbacks.geometry import RepresentationGeometry
from lightning_interp.callbacks.representation import RepresentationMetrics
from lightning_interp.callbacks.structure import RepresentationStructure
from lightning_interp.callbacks.validation_schedule import ValidationSchedule

__all__ = [
    "RepresentationStructure",
    "RepresentationGeometry",
    "RepresentationMetrics",
    "ValidationAnalysis",
    "ValidationSchedule",
]
