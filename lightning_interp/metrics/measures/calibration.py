"""Measures of confidence."""

from lightning_interp.metrics.measure import FULL, Headline, Measure

__all__ = [
    "ACCURACY",
    "ADAPTIVE_ECE",
    "AURC",
    "AUROC_CONFIDENCE",
    "BRIER",
    "CALIBRATION",
    "CONFIDENCE",
    "DISTINCT_CONFIDENCES",
    "ECE",
    "ELICITED",
    "GUESSED_ACCURACY",
    "GUESSED_CONSISTENCY",
    "NO_QUESTION_ACCURACY",
    "OVERCONFIDENCE",
    "PREDICTIONS",
    "SAMPLED_PREDICTIONS",
    "SELECTIVE_ACCURACY",
    "UNPARSED",
]


ECE = Measure(
    "ece",
    "calibration error (ECE)",
    "Mean gap between confidence and accuracy, over bins of equal width.",
    unit="share",
    better="lower",
    none="0 for perfect calibration; below √(bins / predictions) / 2 it is noise.",
    common=True,
    rank=190,
    headline=Headline(16),
)
ADAPTIVE_ECE = Measure(
    "adaptive_ece",
    "calibration error, equal bins",
    "Mean gap between confidence and accuracy, over bins of equally many predictions.",
    level=FULL,
    unit="share",
    better="lower",
    none="0 for perfect calibration; below √(bins / predictions) / 2 it is noise.",
    common=True,
    detail_of="ece",
)
BRIER = Measure(
    "brier",
    "Brier score",
    "Mean squared error of the predicted probabilities.",
    level=FULL,
    better="lower",
    none="0 at best, at most 2; at most 1 for a confidence that is spoken.",
    common=True,
    detail_of="ece",
)
AUROC_CONFIDENCE = Measure(
    "auroc_confidence",
    "confidence tells right from wrong",
    "How often a right prediction is more confident than a wrong one.",
    unit="AUROC",
    better="higher",
    none="At chance .5.",
    instead="ece",
)
OVERCONFIDENCE = Measure(
    "overconfidence",
    "over-confidence",
    "Mean confidence less accuracy: above 0 where the model is too sure, below 0 where it is not sure enough.",
    unit="share",
    none="0 is best.",
    common=True,
)
ACCURACY = Measure(
    "accuracy",
    "accuracy",
    "Share of right predictions.",
    level=FULL,
    unit="share",
    better="higher",
    none="One over the number of classes at chance.",
    common=True,
    detail_of="ece",
)
AURC = Measure(
    "aurc",
    "risk over coverage",
    "Error rate among the most confident predictions, averaged over all shares of them.",
    level=FULL,
    unit="share",
    better="lower",
    none="Equal to the error rate where confidence tells nothing.",
    common=True,
    detail_of="ece",
)
SELECTIVE_ACCURACY = Measure(
    "selective_accuracy",
    "accuracy of the most confident",
    "Accuracy on the most confident share of predictions.",
    ("site", "share"),
    level=FULL,
    unit="share",
    better="higher",
    none="Equal to the accuracy where confidence tells nothing.",
    form="accuracy of the most confident {rest} at {site}",
    common=True,
    detail_of="ece",
)
CONFIDENCE = Measure(
    "confidence",
    "confidence",
    "Mean confidence of the predictions.",
    level=FULL,
    unit="share",
    none="Compare it with the accuracy.",
    common=True,
    detail_of="ece",
)
PREDICTIONS = Measure(
    "predictions",
    "predictions read",
    "Predictions that were read.",
    level=FULL,
    unit="predictions",
    bookkeeping=True,
    common=True,
)
SAMPLED_PREDICTIONS = Measure(
    "sampled_predictions",
    "predictions sampled",
    "Predictions that the measures of ranks are told from.",
    level=FULL,
    unit="predictions",
    bookkeeping=True,
)

UNPARSED = Measure(
    "unparsed",
    "questions without an answer",
    "Share of questions of which no answer, or no confidence in it, could be read.",
    unit="share",
    better="lower",
    none="0 for none.",
    form="questions without an answer by {all}",
)
DISTINCT_CONFIDENCES = Measure(
    "distinct_confidences",
    "different confidences",
    "How many different values confidences have: spoken ones are rounded to few.",
    level=FULL,
    unit="values",
    none="1 for one that is always the same.",
    detail_of="ece",
    form="different confidences by {all}",
)
GUESSED_ACCURACY = Measure(
    "guessed_accuracy",
    "accuracy of a random option",
    "Accuracy of options chosen at random: the mean over questions of one over how many there are.",
    (),
    level=FULL,
    unit="share",
    bookkeeping=True,
)
NO_QUESTION_ACCURACY = Measure(
    "no_question_accuracy",
    "accuracy without the question",
    "Accuracy of the options that are most probable where the question is taken away.",
    (),
    level=FULL,
    unit="share",
    none="What a random option has, where options alone tell nothing.",
    detail_of="ece",
)
GUESSED_CONSISTENCY = Measure(
    "guessed_consistency",
    "consistency of random answers",
    "Share of the commonest of as many answers drawn at random, mean over questions.",
    (),
    level=FULL,
    unit="share",
    bookkeeping=True,
)

ELICITED = (UNPARSED, DISTINCT_CONFIDENCES, GUESSED_ACCURACY, NO_QUESTION_ACCURACY, GUESSED_CONSISTENCY)
"""Of answers that a model is asked for, beside those of their confidence."""

CALIBRATION = (
    ECE,
    ADAPTIVE_ECE,
    BRIER,
    AUROC_CONFIDENCE,
    OVERCONFIDENCE,
    ACCURACY,
    AURC,
    SELECTIVE_ACCURACY,
    CONFIDENCE,
    PREDICTIONS,
    SAMPLED_PREDICTIONS,
)
