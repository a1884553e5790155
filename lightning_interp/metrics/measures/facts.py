"""Measures of where in a model facts are found, and of facts that training puts in."""

from lightning_interp.metrics.measure import FULL, Measure

__all__ = [
    "FACTS",
    "GROUP",
    "TRACE_CLEAN",
    "TRACE_DEPTH",
    "TRACE_EARLY",
    "TRACE_FACTS",
    "TRACE_LATE",
    "TRACE_SKIPPED",
    "TRACE_TOTAL",
]

GROUP = "group"
"""The axis of measures of facts that are averaged together."""

_OTHER = "the states of a prompt with another answer"
_RESTORED = "0 where no state brings it back, 1 where one state does wholly."

TRACE_EARLY = Measure(
    "trace_early",
    "restored at the subject",
    "Share of what noise at the subject takes from the answer that the best state at its last token restores.",
    (GROUP,),
    unit="share",
    none=_RESTORED,
    chance=_OTHER,
    instead="",
    form="restored at the subject, {all}",
)
TRACE_LATE = Measure(
    "trace_late",
    "restored at the last token",
    "Share of what noise at the subject takes from the answer that the best state at the last token restores.",
    (GROUP,),
    unit="share",
    none=_RESTORED,
    chance=_OTHER,
    instead="",
    form="restored at the last token, {all}",
)
TRACE_DEPTH = Measure(
    "trace_depth",
    "layer that restores",
    "Mean number of the layers whose state restores the answer, weighted by how far each does.",
    (GROUP,),
    unit="layer",
    none="Half way between the first and the last layer where all restore alike.",
    instead="",
    form="layer that restores, {all}",
)
TRACE_TOTAL = Measure(
    "trace_total",
    "what noise at the subject takes",
    "Probability of the answer without noise less that with noise at the subject.",
    (GROUP,),
    unit="probability",
    none="0 where the answer does not hang on the subject.",
    form="what noise at the subject takes, {all}",
)
TRACE_CLEAN = Measure(
    "trace_clean",
    "probability of traced answers",
    "Mean probability of the traced answers without noise.",
    (GROUP,),
    level=FULL,
    unit="probability",
    none="What noise at the subject could take at most.",
    form="probability of traced answers, {all}",
    detail_of="trace_total",
)
TRACE_FACTS = Measure(
    "trace_facts",
    "traced facts",
    "How many facts were traced.",
    (GROUP,),
    level=FULL,
    unit="facts",
    none="0 for none.",
    bookkeeping=True,
    form="traced facts, {all}",
)
TRACE_SKIPPED = Measure(
    "trace_skipped",
    "facts not traced",
    "How many facts were not traced, since the model does not predict their answer.",
    (GROUP,),
    level=FULL,
    unit="facts",
    none="0 for none.",
    bookkeeping=True,
    form="facts not traced, {all}",
)

FACTS = (TRACE_EARLY, TRACE_LATE, TRACE_DEPTH, TRACE_TOTAL, TRACE_CLEAN, TRACE_FACTS, TRACE_SKIPPED)
