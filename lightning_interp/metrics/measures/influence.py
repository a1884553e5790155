"""Measures of what training examples do to the weights."""

from lightning_interp.metrics.measure import FULL, Measure

__all__ = [
    "FLAG_AUROC",
    "INFLUENCE",
    "SCORE",
    "SELF_INFLUENCE_EXAMPLES",
    "SELF_INFLUENCE_STABILITY",
    "SELF_INFLUENCE_TOP",
]

SCORE = "score"
"""The axis of what examples are ordered by."""

SELF_INFLUENCE_TOP = Measure(
    "self_influence/top1_mass",
    "self-influence of the top hundredth",
    "Share of the self-influence of all training examples read that the hundredth with most of it has.",
    (),
    unit="share",
    none="The share of examples that are in the hundredth.",
    chance="examples that all have the same",
)
SELF_INFLUENCE_STABILITY = Measure(
    "self_influence/rank_stability",
    "stability of self-influence",
    "Rank correlation of the examples' self-influence at this reading alone with that at the reading before.",
    (),
    none="0 for no agreement, 1 for the same order.",
    instead="",
)
SELF_INFLUENCE_EXAMPLES = Measure(
    "self_influence/examples",
    "examples with self-influence",
    "How many training examples were read so far.",
    (),
    level=FULL,
    unit="examples",
    none="0 for none.",
    bookkeeping=True,
)
FLAG_AUROC = Measure(
    "flag_auroc",
    "flagged examples found",
    "Area under the ROC curve of finding flagged training examples by a score that is summed over training.",
    (SCORE,),
    better="higher",
    none="0.5 for a score that has nothing to do with the flags.",
    instead="",
    form="flagged examples found by {all}",
)

INFLUENCE = (SELF_INFLUENCE_TOP, SELF_INFLUENCE_STABILITY, SELF_INFLUENCE_EXAMPLES, FLAG_AUROC)
