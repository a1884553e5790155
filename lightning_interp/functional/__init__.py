"""Pure functions on tensors: each formula once, with its source, shapes and units."""

from lightning_interp.functional.ablation import (
    ablation_concentration,
    cue_first,
    cue_share,
    masked_word,
    prediction_scores,
    word_positions,
)
from lightning_interp.functional.acquisition import (
    Acquisition,
    LearnedCurve,
    acquisition_order,
    acquisition_step,
    forgetting_p,
    reached,
)
from lightning_interp.functional.alignment import (
    WithinBetween,
    cosine_matrix,
    disattenuate,
    reliability,
    same_group,
    within_between,
)
from lightning_interp.functional.attention import attention_sums, head_redundancy, rollout, uniform_sums, value_weighted
from lightning_interp.functional.attention_budget import kept_keys, renormalised
from lightning_interp.functional.auroc import auroc, auroc_chance_sd, best_threshold, permuted_auroc
from lightning_interp.functional.binned import bin_indices, binned_entropy
from lightning_interp.functional.binomial import binomial_se
from lightning_interp.functional.bootstrap import bootstrap_interval
from lightning_interp.functional.calibration import (
    CalibrationBins,
    adaptive_calibration_error,
    area_under_risk_coverage,
    calibration_bins,
    expected_calibration_error,
    multiclass_brier,
    permuted_calibration_error,
    selective_accuracy,
)
from lightning_interp.functional.causal_trace import noise_scale, normalised_effect, state_window, token_classes
from lightning_interp.functional.cka import debiased_cka, linear_cka, unbiased_hsic
from lightning_interp.functional.codelength import Codelength, multinomial_logistic, online_codelength
from lightning_interp.functional.counter_noise import counter_normal, counter_uniform
from lightning_interp.functional.damped_solve import damped_solve
from lightning_interp.functional.design_effect import design_effect, effective_count, sample_sums
from lightning_interp.functional.directions import covariance_directions, mean_direction, projections
from lightning_interp.functional.divergence import js_divergence
from lightning_interp.functional.drawn_labels import drawn_labels
from lightning_interp.functional.ekfac import (
    KroneckerSums,
    eigenbasis,
    ekfac_inverse_product,
    kronecker_sums,
    rotated,
)
from lightning_interp.functional.elicited import (
    Agreed,
    average_confidence,
    consistency,
    consistency_of_chance,
    distinct_levels,
    option_probabilities,
    p_true,
)
from lightning_interp.functional.example_gradients import (
    example_gradients,
    example_squared_norms,
    gradient_products,
    squared_gradient_sum,
)
from lightning_interp.functional.fact_tracking import add_decay, kl_divergence, retainability, retention_decay
from lightning_interp.functional.faithfulness import (
    comprehensiveness,
    decision_flip,
    flip_fraction,
    fractions_kept,
    leading_tokens,
    rank_agreement,
    removal_orders,
    sufficiency,
)
from lightning_interp.functional.folds import block_folds, random_folds
from lightning_interp.functional.frequency_bands import frequency_bands
from lightning_interp.functional.geography import great_circle, proximity_error, r_squared
from lightning_interp.functional.group_means import GroupMeans, group_means
from lightning_interp.functional.holm import holm
from lightning_interp.functional.induction import (
    icl_score,
    loss_by_position,
    pattern_chance,
    pattern_sums,
    repeat_gain,
    repeated_sequences,
)
from lightning_interp.functional.input_similarity import input_products
from lightning_interp.functional.jackknife import jackknife_se
from lightning_interp.functional.knees import KneeFit, fit_knees
from lightning_interp.functional.label_anchors import (
    LabelFlow,
    attention_saliency,
    head_importance,
    label_flow,
    label_match,
)
from lightning_interp.functional.last_layer import error_norm, last_layer_norm, last_layer_products, output_errors
from lightning_interp.functional.layers import best_layer, centre_of_gravity
from lightning_interp.functional.lens import LensRows, agreement_by_chance, constant_loss, lens_rows
from lightning_interp.functional.linear_probe import LinearMap, ProbeMoments, held_out_probes
from lightning_interp.functional.linear_rule import LinearRule
from lightning_interp.functional.logistic import logistic
from lightning_interp.functional.mantel import MantelTest, mantel, partial_mantel
from lightning_interp.functional.mass_mean import mass_mean
from lightning_interp.functional.mds import Alignment, TaskMap, classical_mds, cosine_distance, procrustes
from lightning_interp.functional.neurons import (
    LookUp,
    context_churn,
    lookup_scores,
    lookup_sums,
    pearson,
    top_contexts,
)
from lightning_interp.functional.ngrams import next_token_labels, ngram_labels
from lightning_interp.functional.optimizer_step import adam_scale, first_order_change
from lightning_interp.functional.overlap import OverlapAboveNull, overlap_above_null, overlap_matrix
from lightning_interp.functional.patches import marked_patches, patch_edges, patch_index
from lightning_interp.functional.principal import principal_axes
from lightning_interp.functional.projection import random_projection
from lightning_interp.functional.rank_correlation import Concordance, kendall_w, matrix_correlation, spearman
from lightning_interp.functional.ranking import RankingMeasures, ranking_measures
from lightning_interp.functional.ridge import HeldOut, RidgeFit, held_out_ridge, ridge
from lightning_interp.functional.robustness import area_under_noise, cosine_drift_sums, half_scale, retention
from lightning_interp.functional.separation import euclidean_distances, knn_purity, knn_purity_chance, silhouette
from lightning_interp.functional.sketch import add_to_sketch, count_sketch, hashed_sample
from lightning_interp.functional.soft import reference_points, soft_assignment, soft_entropy, vmf_temperature
from lightning_interp.functional.spectral import (
    SpectralMeasures,
    anisotropy,
    covariance_from_sums,
    curvature_sums,
    spectral_measures,
)
from lightning_interp.functional.stratified_ranks import RankTest, rank_test, stratified_spearman
from lightning_interp.functional.structural_probe import (
    StructuralProbeFit,
    depth_probe_loss,
    distance_probe_loss,
    fit_depth_probe,
    fit_distance_probe,
    probe_depths,
    probe_distances,
)
from lightning_interp.functional.structure import StructureMeasures, structure_measures
from lightning_interp.functional.student import mean_interval, t_quantile, t_upper_tail
from lightning_interp.functional.top_mass import top_mass, top_mass_chance
from lightning_interp.functional.trees import (
    TreeScores,
    chain_scores,
    minimum_spanning_tree,
    tree_depths,
    tree_distances,
    tree_scores,
)
from lightning_interp.functional.truth import TopicScores, likelihood_rule, score_by_topic, unseen_topic_scores

__all__ = [
    "ProbeMoments",
    "LinearMap",
    "held_out_probes",
    "multinomial_logistic",
    "online_codelength",
    "Codelength",
    "LookUp",
    "lookup_sums",
    "lookup_scores",
    "pearson",
    "top_contexts",
    "context_churn",
    "mean_direction",
    "projections",
    "covariance_directions",
    "lens_rows",
    "LensRows",
    "agreement_by_chance",
    "constant_loss",
    "best_layer",
    "centre_of_gravity",
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
    "kendall_w",
    "Concordance",
    "acquisition_step",
    "acquisition_order",
    "reached",
    "forgetting_p",
    "design_effect",
    "effective_count",
    "sample_sums",
    "Acquisition",
    "LearnedCurve",
    "binomial_se",
    "frequency_bands",
    "ranking_measures",
    "RankingMeasures",
    "mantel",
    "partial_mantel",
    "MantelTest",
    "classical_mds",
    "TaskMap",
    "procrustes",
    "Alignment",
    "cosine_distance",
    "random_projection",
    "bootstrap_interval",
    "holm",
    "stratified_spearman",
    "rank_test",
    "RankTest",
    "TreeScores",
    "chain_scores",
    "minimum_spanning_tree",
    "tree_depths",
    "tree_distances",
    "tree_scores",
    "StructuralProbeFit",
    "depth_probe_loss",
    "distance_probe_loss",
    "fit_depth_probe",
    "fit_distance_probe",
    "probe_depths",
    "probe_distances",
    "ridge",
    "RidgeFit",
    "held_out_ridge",
    "HeldOut",
    "random_folds",
    "block_folds",
    "r_squared",
    "proximity_error",
    "great_circle",
    "mass_mean",
    "logistic",
    "LinearRule",
    "auroc",
    "auroc_chance_sd",
    "best_threshold",
    "permuted_auroc",
    "unseen_topic_scores",
    "likelihood_rule",
    "score_by_topic",
    "TopicScores",
    "debiased_cka",
    "linear_cka",
    "unbiased_hsic",
    "euclidean_distances",
    "silhouette",
    "knn_purity",
    "knn_purity_chance",
    "principal_axes",
    "calibration_bins",
    "CalibrationBins",
    "expected_calibration_error",
    "permuted_calibration_error",
    "adaptive_calibration_error",
    "selective_accuracy",
    "area_under_risk_coverage",
    "multiclass_brier",
    "attention_sums",
    "uniform_sums",
    "value_weighted",
    "head_redundancy",
    "rollout",
    "kept_keys",
    "renormalised",
    "repeated_sequences",
    "pattern_sums",
    "pattern_chance",
    "loss_by_position",
    "LabelFlow",
    "attention_saliency",
    "head_importance",
    "label_flow",
    "label_match",
    "icl_score",
    "repeat_gain",
    "removal_orders",
    "fractions_kept",
    "leading_tokens",
    "comprehensiveness",
    "sufficiency",
    "decision_flip",
    "flip_fraction",
    "rank_agreement",
    "Agreed",
    "consistency",
    "average_confidence",
    "consistency_of_chance",
    "option_probabilities",
    "p_true",
    "distinct_levels",
    "prediction_scores",
    "word_positions",
    "masked_word",
    "ablation_concentration",
    "cue_share",
    "cue_first",
    "patch_edges",
    "patch_index",
    "marked_patches",
    "example_gradients",
    "example_squared_norms",
    "gradient_products",
    "squared_gradient_sum",
    "KroneckerSums",
    "kronecker_sums",
    "eigenbasis",
    "rotated",
    "ekfac_inverse_product",
    "damped_solve",
    "drawn_labels",
    "GroupMeans",
    "group_means",
    "input_products",
    "output_errors",
    "error_norm",
    "last_layer_norm",
    "last_layer_products",
    "top_mass",
    "top_mass_chance",
    "adam_scale",
    "first_order_change",
    "add_decay",
    "kl_divergence",
    "retainability",
    "retention_decay",
    "noise_scale",
    "normalised_effect",
    "state_window",
    "token_classes",
]
