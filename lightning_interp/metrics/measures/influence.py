"""Measures of what training examples do to the weights."""

from lightning_interp.metrics.measure import FULL, Measure

__all__ = [
    "FLAG_AUROC",
    "INFLUENCE",
    "SCORE",
    "SELF_INFLUENCE_EXAMPLES",
    "SELF_INFLUENCE_STABILITY",
    "SELF_INFLUENCE_TOP",
    "SOURCE",
    "SOURCE_EFFECT",
    "SOURCE_INFLUENCE",
    "STEP_EFFECT",
    "STEP_EFFECT_MEASURED",
    "QUERY",
]

SCORE = "score"
"""The axis of what examples are ordered by."""
SOURCE = "source"
"""The axis of the sources of a mixture of training data."""
QUERY = "query"
"""The axis of what is watched: losses."""

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

_DEALT = "the same examples with labels dealt to one another"

SOURCE_INFLUENCE = Measure(
    "source_influence",
    "influence of a source",
    "Cosine of the mean gradient of a source of the training data with that of a loss that is watched.",
    (SOURCE, QUERY),
    none="0 for a source that neither helps nor harms; above 0 it helps.",
    chance=_DEALT,
    form="influence of {first} on {rest}",
)
SOURCE_EFFECT = Measure(
    "source_effect",
    "effect of a source",
    "Change of a loss that is watched, to first order, for each unit of learning rate on a source's mean gradient.",
    (SOURCE, QUERY),
    level=FULL,
    none="0 for a source that does nothing to it; below 0 the loss falls.",
    chance=_DEALT,
    instead="",
    detail_of="source_influence",
    form="effect of {first} on {rest}",
)
STEP_EFFECT = Measure(
    "step_effect",
    "effect of the step taken",
    "Change of a loss that is watched, to first order, by the optimizer step after the reading before.",
    (QUERY,),
    none="0 for a step that does nothing to it; below 0 the loss falls.",
    instead="",
    form="effect of the step taken on {all}",
)
STEP_EFFECT_MEASURED = Measure(
    "step_effect_measured",
    "measured effect of the step taken",
    "Change of a loss that is watched by the optimizer step after the reading before, as it was measured.",
    (QUERY,),
    none="0 for a step that does nothing to it; below 0 the loss falls.",
    instead="",
    form="measured effect of the step taken on {all}",
)

INFLUENCE = (
    *(SELF_INFLUENCE_TOP, SELF_INFLUENCE_STABILITY, SELF_INFLUENCE_EXAMPLES, FLAG_AUROC),
    *(SOURCE_INFLUENCE, SOURCE_EFFECT, STEP_EFFECT, STEP_EFFECT_MEASURED),
)
