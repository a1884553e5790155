"""Measures of predictions by class."""

from lightning_interp.metrics.measure import FULL, Headline, Measure

__all__ = [
    "CLASSES",
    "CLASSES_FORGOTTEN",
    "CLASS_ACCURACY",
    "CLASS_ACQUIRED",
    "CLASS_COUNT",
    "CLASS_EFFECTIVE",
    "CLASS_FORGOTTEN",
    "CLASS_KNOWN",
    "CLASS_LOSS",
    "CLASS_NAMED",
]


CLASS_ACCURACY = Measure(
    "class_accuracy",
    "accuracy by class",
    "Share of right predictions among the rows of one class.",
    ("site", "class"),
    unit="share",
    better="higher",
    none="One over the number of targets at chance.",
    form="accuracy on {rest} at {site}",
    headline=Headline(13, "mean"),
)
CLASS_LOSS = Measure(
    "class_loss",
    "loss by class",
    "Mean cross-entropy of the rows of one class, in nats.",
    ("site", "class"),
    level=FULL,
    unit="nats",
    better="lower",
    none="The logarithm of the number of targets at chance.",
    form="loss on {rest} at {site}",
    detail_of="class_accuracy",
)
CLASS_COUNT = Measure(
    "class_count",
    "rows of a class",
    "Rows of one class.",
    ("site", "class"),
    level=FULL,
    unit="rows",
    form="rows of {rest} at {site}",
    bookkeeping=True,
)
CLASS_EFFECTIVE = Measure(
    "class_effective",
    "independent rows of a class",
    "How many independent rows those of one class are as good as.",
    ("site", "class"),
    level=FULL,
    unit="rows",
    instead="class_accuracy",
    form="independent rows of {rest} at {site}",
    bookkeeping=True,
)
CLASS_NAMED = Measure(
    "class_named",
    "predictions of a class",
    "Rows for which one class is predicted, right or not.",
    ("site", "class"),
    level=FULL,
    unit="rows",
    form="predictions of {rest} at {site}",
    bookkeeping=True,
)
CLASS_KNOWN = Measure(
    "class_known",
    "class known",
    "1 where a class is named among its own rows more often than among others, beyond chance.",
    ("site", "class"),
    level=FULL,
    better="higher",
    none="0 for not known.",
    instead="class_accuracy",
    form="{rest} known at {site}",
    detail_of="class_accuracy",
)
CLASS_ACQUIRED = Measure(
    "class_acquired",
    "step of acquisition of a class",
    "First step at which the accuracy on a class came near its best so far.",
    ("site", "class"),
    level=FULL,
    unit="steps",
    better="lower",
    none="Not logged for a class that was never predicted rightly.",
    instead="class_accuracy",
    form="step when {rest} was acquired at {site}",
    detail_of="class_accuracy",
)
CLASS_FORGOTTEN = Measure(
    "class_forgotten",
    "class forgotten",
    "1 where the accuracy on a class has fallen below its best, beyond chance.",
    ("site", "class"),
    level=FULL,
    better="lower",
    none="0 for not forgotten.",
    instead="class_accuracy",
    form="{rest} forgotten at {site}",
    detail_of="class_accuracy",
)
CLASSES_FORGOTTEN = Measure(
    "classes_forgotten",
    "classes forgotten",
    "How many classes are forgotten now.",
    unit="classes",
    better="lower",
    none="0 for none.",
    instead="class_accuracy/mean",
)

CLASSES = (
    CLASS_ACCURACY,
    CLASS_LOSS,
    CLASS_COUNT,
    CLASS_EFFECTIVE,
    CLASS_NAMED,
    CLASS_KNOWN,
    CLASS_ACQUIRED,
    CLASS_FORGOTTEN,
    CLASSES_FORGOTTEN,
)
