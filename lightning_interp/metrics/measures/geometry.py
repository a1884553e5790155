"""Measures of the geometry of representations, and facts about what was read."""

from lightning_interp.metrics.measure import FULL, Headline, Measure

__all__ = [
    "ALPHA",
    "ALPHA_R2",
    "ANISOTROPY",
    "CURVATURE",
    "EFFECTIVE_RANK",
    "GEOMETRY",
    "MATRIX_ENTROPY",
    "NONFINITE",
    "PARTICIPATION_RATIO",
    "RANKME",
    "ROWS",
]

_RANK = "From 1, where all vectors lie on one line, to the number of dimensions."

RANKME = Measure(
    "rankme",
    "RankMe",
    "How many dimensions are used, told from singular values about zero.",
    level=FULL,
    unit="dimensions",
    none=_RANK,
    detail_of="effective_rank",
)
EFFECTIVE_RANK = Measure(
    "effective_rank",
    "effective rank",
    "How many dimensions are used, told from the eigenvalues of the covariance.",
    unit="dimensions",
    none=_RANK,
    rank=50,
    headline=Headline(5),
)
PARTICIPATION_RATIO = Measure(
    "participation_ratio",
    "participation ratio",
    "How many dimensions carry most of the variance; large eigenvalues count more than in the effective rank.",
    level=FULL,
    unit="dimensions",
    none=_RANK,
    detail_of="effective_rank",
)
MATRIX_ENTROPY = Measure(
    "matrix_entropy",
    "matrix entropy",
    "Entropy of the spectrum about zero, as a share of its maximum.",
    level=FULL,
    unit="share",
    none="0 where one direction holds all, 1 where all directions are alike.",
    detail_of="effective_rank",
)
ALPHA = Measure(
    "alpha",
    "decay of the spectrum (α)",
    "How fast eigenvalues fall with their rank: the exponent of a power law.",
    level=FULL,
    none="0 where all directions are alike; around 1 in many networks that generalise.",
    instead="effective_rank",
    common=True,
    detail_of="effective_rank",
)
ALPHA_R2 = Measure(
    "alpha_r2",
    "fit of the decay (R²)",
    "How well a power law describes the eigenvalues that α is told from.",
    level=FULL,
    unit="R²",
    better="higher",
    none="Near 1 for a power law; α means nothing where it is low.",
    instead="effective_rank",
    bookkeeping=True,
)
ANISOTROPY = Measure(
    "anisotropy",
    "anisotropy",
    "Mean cosine of two representations: how far all point the same way.",
    unit="cosine",
    none="0 where directions are random, 1 where all are the same.",
)
CURVATURE = Measure(
    "curvature",
    "curvature",
    "Mean angle between successive steps along a sequence, in radians.",
    level=FULL,
    unit="radians",
    none="0 for a straight path, π/2 for independent steps, 2π/3 for independent positions.",
    instead="effective_rank",
    common=True,
    detail_of="effective_rank",
)
ROWS = Measure(
    "rows",
    "rows read",
    "Positions that were read.",
    level=FULL,
    unit="rows",
    bookkeeping=True,
    common=True,
    shared=True,
)
NONFINITE = Measure(
    "nonfinite",
    "left out as not finite",
    "What was left out since it is not finite.",
    level=FULL,
    better="lower",
    none="0 for nothing.",
    bookkeeping=True,
    common=True,
    shared=True,
)

GEOMETRY = (
    RANKME,
    EFFECTIVE_RANK,
    PARTICIPATION_RATIO,
    MATRIX_ENTROPY,
    ALPHA,
    ANISOTROPY,
    CURVATURE,
    ALPHA_R2,
    ROWS,
    NONFINITE,
)
