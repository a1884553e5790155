"""`torchmetrics.Metric` classes: what is kept of a batch, how ranks merge, and the measures that come out."""

from lightning_interp.metrics.base import RepresentationMetric
from lightning_interp.metrics.binned import BinnedStructure
from lightning_interp.metrics.geometry import SpectralGeometry
from lightning_interp.metrics.soft import SoftStructure
from lightning_interp.metrics.structure import StructureMetric

__all__ = ["SoftStructure", "BinnedStructure", "SpectralGeometry", "StructureMetric", "RepresentationMetric"]
