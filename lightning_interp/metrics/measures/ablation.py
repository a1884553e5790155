"""Measures of what a prediction loses without each word of its text."""

from lightning_interp.metrics.measure import FULL, Measure

__all__ = [
    "ABLATION",
    "ABLATION_CONCENTRATION",
    "ABLATION_STABILITY",
    "ABLATION_TEXTS",
    "ABLATION_TOTAL",
    "CUE",
    "CUE_FIRST",
    "CUE_SHARE",
]

CUE = "cue"
"""The axis of measures of a cue."""

_AS_MANY = "as many words whatever they are"

ABLATION_CONCENTRATION = Measure(
    "ablation_concentration",
    "concentration on few words",
    "How few words a prediction hangs on: 1 less the entropy of what it loses without each, over its maximum.",
    (),
    unit="share",
    none="0 where all words weigh alike, 1 where one has all; random weights are not at 0.",
    beside_random=True,
)
ABLATION_STABILITY = Measure(
    "ablation_stability",
    "stability of what words weigh",
    "Rank correlation of what a prediction loses without each word with that of the reading before.",
    (),
    none="0 for no agreement, 1 for the same order.",
    instead="",
)
ABLATION_TOTAL = Measure(
    "ablation_total",
    "what all words weigh",
    "Sum over the words of a text of what its prediction loses or gains without each.",
    (),
    level=FULL,
    unit="nats",
    none="0 where no word matters.",
    detail_of="ablation_concentration",
)
ABLATION_TEXTS = Measure(
    "ablation_texts",
    "texts read without words",
    "How many texts were read without each of their words.",
    (),
    level=FULL,
    unit="texts",
    none="0 for none.",
    bookkeeping=True,
)
CUE_SHARE = Measure(
    "cue_share",
    "share of a cue",
    "Share of what all words of a text weigh in its prediction that a cue does.",
    (CUE,),
    unit="share",
    none="The share of words that are the cue.",
    chance=_AS_MANY,
    instead="",
    form="share of the cue {all}",
)
CUE_FIRST = Measure(
    "cue_first",
    "cue first",
    "Share of texts with a cue in which the word that weighs most belongs to it.",
    (CUE,),
    unit="share",
    none="The share of words that are the cue.",
    chance=_AS_MANY,
    instead="",
    form="texts in which the cue {all} weighs most",
)

ABLATION = (ABLATION_CONCENTRATION, ABLATION_STABILITY, ABLATION_TOTAL, ABLATION_TEXTS, CUE_SHARE, CUE_FIRST)
