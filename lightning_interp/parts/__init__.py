"""What a callback is made of: each part attaches to the model, forgets a reading or commits it, and has its state."""

from lightning_interp.parts.acquisition import Acquisition
from lightning_interp.parts.baseline import Baseline
from lightning_interp.parts.class_tally import ClassTally
from lightning_interp.parts.example_sums import ExampleSums
from lightning_interp.parts.gradients import Gradients
from lightning_interp.parts.kept import Kept
from lightning_interp.parts.language_model import LanguageModel
from lightning_interp.parts.last_layer import LastLayer
from lightning_interp.parts.loss_gradients import LossGradients
from lightning_interp.parts.noisy_sites import NoisySites
from lightning_interp.parts.prediction_sites import OutputSite, PredictionSites
from lightning_interp.parts.probe_set import ProbeSet
from lightning_interp.parts.projector import Projector
from lightning_interp.parts.replayed import Replayed
from lightning_interp.parts.sentence_scores import SentenceScores
from lightning_interp.parts.sentences import Sentences
from lightning_interp.parts.site_drift import SiteDrift
from lightning_interp.parts.site_maps import SiteMaps
from lightning_interp.parts.site_metrics import SiteMetrics
from lightning_interp.parts.start_values import StartValues
from lightning_interp.parts.training_examples import TrainingExamples
from lightning_interp.parts.validation_sites import ValidationSites
from lightning_interp.parts.words import Words

__all__ = [
    "Acquisition",
    "Baseline",
    "ClassTally",
    "ExampleSums",
    "Gradients",
    "Kept",
    "LanguageModel",
    "LastLayer",
    "LossGradients",
    "NoisySites",
    "OutputSite",
    "PredictionSites",
    "ProbeSet",
    "Projector",
    "Replayed",
    "SentenceScores",
    "Sentences",
    "SiteDrift",
    "SiteMaps",
    "SiteMetrics",
    "StartValues",
    "TrainingExamples",
    "ValidationSites",
    "Words",
]
