"""What is my model learning, and when: Lightning callbacks that read representations while a model trains."""

import importlib
import sys

from lightning_interp.callbacks import (
    AcquisitionByClass,
    AttentionBudget,
    AttentionStructure,
    CausalTrace,
    ClozeFacts,
    ConfidenceCalibration,
    CoordinateProbe,
    DirectionTracker,
    ElicitedConfidence,
    FactTracker,
    Faithfulness,
    InductionHeads,
    InputAblation,
    LabelAnchors,
    LanguageModel,
    LayerLens,
    LayerProbe,
    MinimalPairs,
    NeuronTable,
    NoiseRobustness,
    PatchAblation,
    PhaseEarlyStopping,
    RepresentationDrift,
    RepresentationGeometry,
    RepresentationMetrics,
    RepresentationStructure,
    SelfInfluence,
    SourceInfluence,
    StructuralProbe,
    TaskSpace,
    TrainingPhases,
    TruthProbe,
    ValidationAnalysis,
    ValidationSchedule,
)
from lightning_interp.offline.acquisition_order import acquisition, acquisition_agreement
from lightning_interp.offline.analyze import analyze
from lightning_interp.offline.checkpoints import analyze_checkpoints
from lightning_interp.offline.compare import compare
from lightning_interp.offline.influence import influence
from lightning_interp.offline.influence_scores import Influence
from lightning_interp.offline.readings import Readings
from lightning_interp.tasks.probe import task_space

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
    "LayerLens",
    "StructuralProbe",
    "CoordinateProbe",
    "TruthProbe",
    "DirectionTracker",
    "RepresentationDrift",
    "AttentionStructure",
    "InductionHeads",
    "AttentionBudget",
    "LabelAnchors",
    "CausalTrace",
    "FactTracker",
    "NeuronTable",
    "InputAblation",
    "PatchAblation",
    "Faithfulness",
    "ElicitedConfidence",
    "SelfInfluence",
    "SourceInfluence",
    "ConfidenceCalibration",
    "TrainingPhases",
    "PhaseEarlyStopping",
    "ValidationAnalysis",
    "ValidationSchedule",
    "LanguageModel",
    "analyze",
    "analyze_checkpoints",
    "compare",
    "influence",
    "Influence",
    "Readings",
    "acquisition",
    "acquisition_agreement",
    "task_space",
]

# Modules that were documented at another place before they had a folder. They are the same modules, not copies.
_OLD_PATHS = {
    "analyze": "offline.analyze",
    "checkpoints": "offline.checkpoints",
    "compare": "offline.compare",
    "gates": "decisions",
    "history": "reading.history",
    "labels": "batches.reader",
    "positions": "distributed.positions",
    "predictions": "batches.predictions",
    "probing.random_weights": "isolation.random_weights",
    "probing.words": "language.words",
    "schedule": "decisions.schedule",
    "site_rows": "batches.site_rows",
    "task_space": "tasks.probe",
    "tasks.batching": "language.batching",
    "tasks.encoding": "language.encoding",
    "tasks.likelihood": "language.likelihood",
}
for _old, _new in _OLD_PATHS.items():
    _module = importlib.import_module(f"{__name__}.{_new}")
    sys.modules[f"{__name__}.{_old}"] = _module
    _folder, _, _last = f"{__name__}.{_old}".rpartition(".")
    if not hasattr(sys.modules[_folder], _last):  # some are the name of a function there
        setattr(sys.modules[_folder], _last, _module)
