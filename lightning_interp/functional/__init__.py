"""Pure functions on tensors: each formula once, with its source, shapes and units."""

from lightning_interp.functional.alignment import (
    WithinBetween,
    cosine_matrix,
    disattenuate,
    reliability,
    same_group,
    within_between,
)
from lightning_interp.functional.binned import bin_indices, binned_entropy
from lightning_interp.functional.counter_noise import counter_normal, counter_uniform
from lightning_interp.functional.divergence import js_divergence
from lightning_interp.functional.jackknife import jackknife_se
from lightning_interp.functional.knees import KneeFit, fit_knees
from lightning_interp.functional.mantel import MantelTest, mantel, partial_mantel
from lightning_interp.functional.mds import Alignment, TaskMap, classical_mds, cosine_distance, procrustes
from lightning_interp.functional.ngrams import next_token_labels, ngram_labels
from lightning_interp.functional.overlap import OverlapAboveNull, overlap_above_null, overlap_matrix
from lightning_interp.functional.rank_correlation import matrix_correlation, spearman
from lightning_interp.functional.robustness import area_under_noise, cosine_drift_sums, half_scale, retention
from lightning_interp.functional.sketch import add_to_sketch, count_sketch, hashed_sample
from lightning_interp.functional.soft import reference_points, soft_assignment, soft_entropy, vmf_temperature
from lightning_interp.functional.spectral import (
    SpectralMeasures,
    anisotropy,
    covariance_from_sums,
    curvature_sums,
    spectral_measures,
)
from lightning_interp.functional.structure import StructureMeasures, structure_measures
from lightning_interp.functional.student import mean_interval, t_quantile, t_upper_tail

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
    "area_under_noise",
    "retention",
    "half_scale",
    "cosine_drift_sums",
    "counter_normal",
    "counter_uniform",
    "fit_knees",
    "KneeFit",
    "mean_interval",
    "t_quantile",
    "t_upper_tail",
    "count_sketch",
    "add_to_sketch",
    "hashed_sample",
    "cosine_matrix",
    "reliability",
    "disattenuate",
    "same_group",
    "within_between",
    "WithinBetween",
    "overlap_matrix",
    "overlap_above_null",
    "OverlapAboveNull",
    "spearman",
    "matrix_correlation",
    "mantel",
    "partial_mantel",
    "MantelTest",
    "classical_mds",
    "TaskMap",
    "procrustes",
    "Alignment",
    "cosine_distance",
]
