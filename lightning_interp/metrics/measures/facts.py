"""Measures of where in a model facts are found, and of facts that training puts in."""

from lightning_interp.metrics.measure import FULL, Measure

__all__ = [
    "FACTS",
    "FACT_DECAY",
    "FACT_EFFECTIVITY",
    "FACT_KL",
    "FACT_LOCALITY",
    "FACT_LOG_PROB",
    "FACT_PARAPHRASE",
    "FACT_PORTABILITY",
    "FACT_RETENTION",
    "FACT_SUCCESS",
    "FACT_SUCCESS_LOCAL",
    "GROUP",
    "SET",
    "TEXTS",
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

SET, TEXTS = "set of facts", "texts that should stay"
"""Axes of measures of facts that are followed."""

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

_CANDIDATE = "a random candidate"
_AT_CHANCE = "One over the number of candidates at chance."

FACT_SUCCESS = Measure(
    "fact_success",
    "facts told rightly",
    "Share of facts whose answer is the most probable of its candidates.",
    (SET,),
    unit="share",
    better="higher",
    none=_AT_CHANCE,
    chance=_CANDIDATE,
    form="facts told rightly, {all}",
)
FACT_PARAPHRASE = Measure(
    "fact_paraphrase",
    "paraphrases told rightly",
    "Share of facts in other words whose answer is the most probable of its candidates.",
    (),
    unit="share",
    better="higher",
    none=_AT_CHANCE,
    chance=_CANDIDATE,
)
FACT_PORTABILITY = Measure(
    "fact_portability",
    "implied facts told rightly",
    "Share of facts that follow from those that are told whose answer is the most probable of its candidates.",
    (),
    unit="share",
    better="higher",
    none=_AT_CHANCE,
    chance=_CANDIDATE,
)
FACT_LOCALITY = Measure(
    "fact_locality",
    "neighbours that are answered as before",
    "Share of facts that should stay whose most probable candidate is that of the first reading.",
    (),
    unit="share",
    better="higher",
    none="1 where nothing has changed, one over the number of candidates where nothing is left.",
    chance=_CANDIDATE,
)
FACT_SUCCESS_LOCAL = Measure(
    "fact_success_local",
    "facts told rightly while neighbours stay",
    "Share of facts told rightly, and 0 where too few neighbours are answered as at the first reading.",
    (),
    unit="share",
    better="higher",
    none="0 where neighbours have changed, one over the number of candidates at chance.",
)
FACT_KL = Measure(
    "fact_kl_to_start",
    "change of predictions",
    "Divergence of the next token's distribution from that of the first reading, mean over texts that should stay.",
    (TEXTS,),
    unit="nats",
    better="lower",
    none="0 where nothing has changed.",
    form="change of predictions, {all}",
)
FACT_LOG_PROB = Measure(
    "fact_log_prob",
    "log-probability of answers",
    "Sum over the tokens of a fact's answer of their log-probability, mean over facts.",
    (SET,),
    level=FULL,
    unit="nats",
    better="higher",
    none="Minus the logarithm of the number of words for each token where nothing is known.",
    form="log-probability of answers, {all}",
    detail_of="fact_success",
)
FACT_EFFECTIVITY = Measure(
    "fact_effectivity",
    "gain of answers",
    "Most that the log-probability of a fact's answer has been, less that of the first reading, mean over facts.",
    (SET,),
    unit="nats",
    better="higher",
    none="0 where nothing was learned.",
    form="gain of answers, {all}",
)
FACT_RETENTION = Measure(
    "fact_retention",
    "what is left of the gain",
    "Share of the most that a fact's answer had gained in log-probability that is left, mean over facts that gained.",
    (SET,),
    unit="share",
    better="higher",
    none="1 where nothing is forgotten, 0 where all is.",
    instead="fact_success",
    form="what is left of the gain, {all}",
)
FACT_DECAY = Measure(
    "fact_decay",
    "forgetting",
    "What is lost of the gain each time that the steps since it was most grow by a factor e, mean over facts.",
    (SET,),
    unit="share per e-fold of steps",
    better="lower",
    none="0 where nothing is forgotten.",
    instead="fact_success",
    form="forgetting, {all}",
)

FACTS = (
    *(TRACE_EARLY, TRACE_LATE, TRACE_DEPTH, TRACE_TOTAL, TRACE_CLEAN, TRACE_FACTS, TRACE_SKIPPED),
    *(FACT_SUCCESS, FACT_PARAPHRASE, FACT_PORTABILITY, FACT_LOCALITY, FACT_SUCCESS_LOCAL, FACT_KL),
    *(FACT_LOG_PROB, FACT_EFFECTIVITY, FACT_RETENTION, FACT_DECAY),
)
