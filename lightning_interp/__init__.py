"""What is my model learning, and when: Lightning callbacks that read representations while a model trains."""

from lightning_interp.analyze import analyze
from lightning_interp.callbacks import (
    AcquisitionByClass,
    ClozeFacts,
    ConfidenceCalibration,
    CoordinateProbe,
    LanguageModel,
    LayerProbe,
    MinimalPairs,
    NoiseRobustness,
    PhaseEarlyStopping,
    RepresentationDrift,
    RepresentationGeometry,
    RepresentationMetrics,
    RepresentationStructure,
    StructuralProbe,
    TaskSpace,
    TrainingPhases,
    TruthProbe,
    ValidationAnalysis,
    ValidationSchedule,
)
from lightning_interp.checkpoints import analyze_checkpoints
from lightning_interp.compare import compare
from lightning_interp.task_space import task_space

__version__ = "0.1.0"

__all__ = [
    "RepresentationStructure",
    "RepresentationGeometry",
    "RepresentationMetrics",
    "NoiseRobustness",
    "TaskSpace",
    "MinimalPairs",
    "ClozeFacts",
    "AcquisitionByClass",
    "LayerProbe",
    "StructuralProbe",
    "CoordinateProbe",
    "TruthProbe",
    "RepresentationDrift",
    "ConfidenceCalibration",
    "TrainingPhases",
    "PhaseEarlyStopping",
    "ValidationAnalysis",
    "ValidationSchedule",
    "LanguageModel",
    "analyze",
    "analyze_checkpoints",
    "compare",
    "task_space",
]
