"""`torchmetrics.Metric` classes: what is kept of a batch, how ranks merge, and the measures that come out."""

from lightning_interp.metrics.base import RepresentationMetric
from lightning_interp.metrics.binned import BinnedStructure
from lightning_interp.metrics.calibration import ConfidenceMetric
from lightning_interp.metrics.geometry import SpectralGeometry
from lightning_interp.metrics.linear_probe import LinearProbe
from lightning_interp.metrics.measure import Measure
from lightning_interp.metrics.projected import Projected
from lightning_interp.metrics.separation import ClassSeparation
from lightning_interp.metrics.soft import SoftStructure
from lightning_interp.metrics.structure import StructureMetric

__all__ = [
    "LinearProbe",
    "SoftStructure",
    "BinnedStructure",
    "SpectralGeometry",
    "StructureMetric",
    "RepresentationMetric",
    "Measure",
    "Projected",
    "ClassSeparation",
    "ConfidenceMetric",
]
