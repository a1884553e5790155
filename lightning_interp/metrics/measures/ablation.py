"""Measures of what a prediction loses without each word of its text, or each patch of its image."""

from lightning_interp.metrics.measure import FULL, Measure

__all__ = [
    "ABLATION",
    "ABLATION_CONCENTRATION",
    "ABLATION_STABILITY",
    "ABLATION_TEXTS",
    "ABLATION_TOTAL",
    "COMPREHENSIVENESS",
    "CUE",
    "CUE_FIRST",
    "CUE_SHARE",
    "DECISION_FLIP",
    "EXPLANATION_ACCURACY",
    "EXPLANATION_COST",
    "EXPLANATION_UNPARSED",
    "FAITHFULNESS",
    "FAITHFULNESS_TEXTS",
    "FLIP_FRACTION",
    "RANKING",
    "RANKING_LEVELS",
    "RANK_AGREEMENT",
    "SUFFICIENCY",
]

CUE = "cue"
"""The axis of measures of a cue."""
RANKING = "ranking"
"""The axis of measures of a ranking of words."""

_AS_MANY = "as many words or patches whatever they are"

ABLATION_CONCENTRATION = Measure(
    "ablation_concentration",
    "concentration on few words or patches",
    "How few words or patches a prediction hangs on: 1 less the entropy of what it loses without each, over its most.",
    (),
    unit="share",
    none="0 where all weigh alike, 1 where one has all; random weights are not at 0.",
    beside_random=True,
)
ABLATION_STABILITY = Measure(
    "ablation_stability",
    "stability of what words or patches weigh",
    "Rank correlation of what a prediction loses without each word or patch with that of the reading before.",
    (),
    none="0 for no agreement, 1 for the same order.",
    instead="",
)
ABLATION_TOTAL = Measure(
    "ablation_total",
    "what all words or patches weigh",
    "Sum over the words of a text, or patches of an image, of what its prediction loses or gains without each.",
    (),
    level=FULL,
    unit="nats",
    none="0 where nothing matters.",
    detail_of="ablation_concentration",
)
ABLATION_TEXTS = Measure(
    "ablation_texts",
    "texts or images read without parts",
    "How many texts or images were read without each of their words or patches.",
    (),
    level=FULL,
    unit="texts",
    none="0 for none.",
    bookkeeping=True,
)
CUE_SHARE = Measure(
    "cue_share",
    "share of a cue",
    "Share of what all words of a text, or patches of an image, weigh in its prediction that a cue does.",
    (CUE,),
    unit="share",
    none="The share of words or patches that are the cue.",
    chance=_AS_MANY,
    instead="",
    form="share of the cue {all}",
)
CUE_FIRST = Measure(
    "cue_first",
    "cue first",
    "Share of texts or images with a cue in which what weighs most belongs to it.",
    (CUE,),
    unit="share",
    none="The share of words or patches that are the cue.",
    chance=_AS_MANY,
    instead="",
    form="texts or images in which the cue {all} weighs most",
)

_NO_MORE = "What words in a random order give."

COMPREHENSIVENESS = Measure(
    "comprehensiveness",
    "comprehensiveness",
    "Probability of the predicted class that is lost without the words that a ranking puts first.",
    (RANKING,),
    unit="probability",
    better="higher",
    none=_NO_MORE,
    form="comprehensiveness of words by {all}",
)
SUFFICIENCY = Measure(
    "sufficiency",
    "sufficiency",
    "Probability of the predicted class that is lost with only the words that a ranking puts first.",
    (RANKING,),
    unit="probability",
    better="lower",
    none=_NO_MORE,
    form="sufficiency of words by {all}",
)
DECISION_FLIP = Measure(
    "decision_flip",
    "decisions that flip",
    "Share of texts whose predicted class changes without the word that a ranking puts first.",
    (RANKING,),
    unit="share",
    better="higher",
    none=_NO_MORE,
    form="decisions that flip without the first word by {all}",
)
FLIP_FRACTION = Measure(
    "flip_fraction",
    "words until a decision flips",
    "Smallest share of words, left out in the order of a ranking, that changes the predicted class.",
    (RANKING,),
    unit="share",
    better="lower",
    none=_NO_MORE,
    form="share of words until a decision flips by {all}",
)
RANK_AGREEMENT = Measure(
    "rank_agreement",
    "agreement with removals",
    "Rank correlation of a ranking with what the prediction loses without each word alone.",
    (RANKING,),
    better="higher",
    none="0 for no agreement, 1 for the same order.",
    instead="",
    form="agreement of words by {all} with removals",
)
FAITHFULNESS_TEXTS = Measure(
    "faithfulness_texts",
    "texts read by a ranking",
    "How many texts were read without the words that a ranking puts first.",
    (RANKING,),
    level=FULL,
    unit="texts",
    none="0 for none.",
    bookkeeping=True,
    form="texts read by {all}",
)
RANKING_LEVELS = Measure(
    "ranking_levels",
    "different scores of words",
    "How many different scores a ranking gives the words of a text, mean over texts.",
    (RANKING,),
    level=FULL,
    unit="scores",
    none="As many as words where no two are equal; equal ones are drawn.",
    detail_of="comprehensiveness",
    form="different scores of words by {all}",
)
EXPLANATION_UNPARSED = Measure(
    "explanation_unparsed",
    "explanations that could not be read",
    "Share of texts of which the model gave no scores that could be read; they are in no other measure.",
    (RANKING,),
    unit="share",
    better="lower",
    none="0 for none.",
    form="texts without an {all} that could be read",
)
EXPLANATION_ACCURACY = Measure(
    "explanation_accuracy",
    "accuracy with an explanation",
    "Share of texts whose class the model says rightly where it explains itself.",
    (RANKING,),
    level=FULL,
    unit="share",
    better="higher",
    none="One over the number of classes at chance.",
    instead="",
    detail_of="explanation_cost",
    form="accuracy with an {all}",
)
EXPLANATION_COST = Measure(
    "explanation_cost",
    "what explaining costs",
    "Accuracy of the model's own predictions less that of the classes that it says where it explains itself.",
    (RANKING,),
    unit="share",
    better="lower",
    none="0 where asking changes nothing.",
    instead="",
    form="accuracy that asking for an {all} costs",
)
FAITHFULNESS = (COMPREHENSIVENESS, SUFFICIENCY, DECISION_FLIP, FLIP_FRACTION, RANK_AGREEMENT)
"""What is read of a ranking."""

ABLATION = (
    *(ABLATION_CONCENTRATION, ABLATION_STABILITY, ABLATION_TOTAL, ABLATION_TEXTS, CUE_SHARE, CUE_FIRST),
    *(*FAITHFULNESS, FAITHFULNESS_TEXTS, RANKING_LEVELS),
    *(EXPLANATION_UNPARSED, EXPLANATION_ACCURACY, EXPLANATION_COST),
)
