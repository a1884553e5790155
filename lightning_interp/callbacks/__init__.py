"""What a user adds to the Trainer."""

from lightning_interp.callbacks.acquisition_by_class import AcquisitionByClass
from lightning_interp.callbacks.attention_budget import AttentionBudget
from lightning_interp.callbacks.attention_structure import AttentionStructure
from lightning_interp.callbacks.causal_trace import CausalTrace
from lightning_interp.callbacks.cloze_facts import ClozeFacts
from lightning_interp.callbacks.confidence_calibration import ConfidenceCalibration
from lightning_interp.callbacks.coordinate_probe import CoordinateProbe
from lightning_interp.callbacks.direction_tracker import DirectionTracker
from lightning_interp.callbacks.elicited_confidence import ElicitedConfidence
from lightning_interp.callbacks.fact_tracker import FactTracker
from lightning_interp.callbacks.faithfulness import Faithfulness
from lightning_interp.callbacks.induction_heads import InductionHeads
from lightning_interp.callbacks.input_ablation import InputAblation
from lightning_interp.callbacks.label_anchors import LabelAnchors
from lightning_interp.callbacks.layer_lens import LayerLens
from lightning_interp.callbacks.layer_probe import LayerProbe
from lightning_interp.callbacks.minimal_pairs import MinimalPairs
from lightning_interp.callbacks.neuron_table import NeuronTable
from lightning_interp.callbacks.noise_robustness import NoiseRobustness
from lightning_interp.callbacks.patch_ablation import PatchAblation
from lightning_interp.callbacks.phase_early_stopping import PhaseEarlyStopping
from lightning_interp.callbacks.representation_drift import RepresentationDrift
from lightning_interp.callbacks.representation_geometry import RepresentationGeometry
from lightning_interp.callbacks.representation_metrics import RepresentationMetrics
from lightning_interp.callbacks.representation_structure import RepresentationStructure
from lightning_interp.callbacks.self_influence import SelfInfluence
from lightning_interp.callbacks.sentence_probe import Probed, ProbedSite, SentenceProbe
from lightning_interp.callbacks.source_influence import SourceInfluence
from lightning_interp.callbacks.structural_probe import StructuralProbe
from lightning_interp.callbacks.task_space import TaskSpace
from lightning_interp.callbacks.training_phases import TrainingPhases
from lightning_interp.callbacks.truth_probe import TruthProbe
from lightning_interp.callbacks.validation_schedule import ValidationSchedule
from lightning_interp.parts.language_model import LanguageModel
from lightning_interp.reading.analysis import ValidationAnalysis

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
    "SentenceProbe",
    "Probed",
    "ProbedSite",
    "LanguageModel",
]
