"""Pure functions on tensors: each formula once, with its source, shapes and units."""

from lightning_interp.functional.binned import bin_indices, binned_entropy
from lightning_interp.functional.divergence import js_divergence
from lightning_interp.functional.jackknife import jackknife_se
from lightning_interp.functional.ngrams import next_token_labels, ngram_labels
from lightning_interp.functional.soft import reference_points, soft_assignment, soft_entropy, vmf_temperature
from lightning_interp.functional.spectral import (
    SpectralMeasures,
    anisotropy,
    covariance_from_sums,
    curvature_sums,
    spectral_measures,
)
from lightning_interp.functional.structure import StructureMeasures, structure_measures

__all__ = [
    "binned_entropy",
    "soft_assignment",
    "soft_entropy",
    "vmf_temperature",
    "js_divergence",
    "reference_points",
    "bin_indices",
    "structure_measures",
    "StructureMeasures",
    "spectral_measures",
    "SpectralMeasures",
    "covariance_from_sums",
    "anisotropy",
    "curvature_sums",
    "ngram_labels",
    "next_token_labels",
    "jackknife_se",
]
