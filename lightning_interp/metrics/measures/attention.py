"""Measures of what attention heads look at, and of what is learned in context."""

from lightning_interp.metrics.measure import FULL, Measure

__all__ = [
    "ATTENTION",
    "ATTENTION_DISTANCE",
    "ATTENTION_ENTROPY",
    "EFFECTIVE_KEYS",
    "HEADS_COLLAPSED",
    "HEAD_REDUNDANCY",
    "MAX_LOGIT",
    "NEXT_TOKEN",
    "PREVIOUS_TOKEN",
    "SELF_ATTENTION",
    "SINK",
    "SINK_LAST",
    "TOP8_MASS",
]

_UNIFORM = "What uniform attention has stands beside it."
_EVEN = "uniform attention to the keys that a query sees"

ATTENTION_ENTROPY = Measure(
    "attention_entropy",
    "attention entropy",
    "Entropy of a query's weights, as a share of the highest that the keys it sees allow.",
    unit="share",
    none="1 for uniform attention, 0 where each query looks at one key.",
)
EFFECTIVE_KEYS = Measure(
    "effective_keys",
    "keys in use",
    "How many keys a query's weights are spread over: the exponential of their entropy.",
    level=FULL,
    unit="keys",
    none=_UNIFORM,
    chance=_EVEN,
    detail_of="attention_entropy",
)
ATTENTION_DISTANCE = Measure(
    "attention_distance",
    "attention distance",
    "How far off the keys lie that are looked at, over the same for uniform attention.",
    level=FULL,
    unit="ratio",
    none="1 for uniform attention, 0 where each query looks at itself.",
)
SINK = Measure(
    "sink",
    "attention to the first key",
    "Share of attention that goes to the first real key: the sink of causal models, [CLS] of encoders.",
    unit="share",
    none=_UNIFORM,
    chance=_EVEN,
)
SINK_LAST = Measure(
    "sink_last",
    "attention to the last key",
    "Share of attention that goes to the last real key, of models that see it: [SEP] of encoders.",
    level=FULL,
    unit="share",
    none=_UNIFORM,
    chance=_EVEN,
    instead="",
)
PREVIOUS_TOKEN = Measure(
    "previous_token",
    "attention to the previous token",
    "Share of attention that goes to the position before.",
    level=FULL,
    unit="share",
    none=_UNIFORM,
    chance=_EVEN,
)
NEXT_TOKEN = Measure(
    "next_token",
    "attention to the next token",
    "Share of attention that goes to the position behind, of models that see it.",
    level=FULL,
    unit="share",
    none=_UNIFORM,
    chance=_EVEN,
    instead="",
)
SELF_ATTENTION = Measure(
    "self",
    "attention to itself",
    "Share of attention that a position pays to itself.",
    level=FULL,
    unit="share",
    none=_UNIFORM,
    chance=_EVEN,
)
TOP8_MASS = Measure(
    "top8_mass",
    "share of the 8 largest weights",
    "Share of attention that goes to the 8 keys looked at most, of queries that see more than 8.",
    level=FULL,
    unit="share",
    none=_UNIFORM,
    chance=_EVEN,
    instead="",
)
HEAD_REDUNDANCY = Measure(
    "head_redundancy",
    "difference of heads",
    "Mean Jensen–Shannon divergence between the heads of a layer.",
    level=FULL,
    unit="nats",
    none="0 where all heads look alike, log 2 = .69 where no two look at the same.",
    instead="",
)
MAX_LOGIT = Measure(
    "max_logit",
    "largest attention score",
    "The largest scaled score of a query and a key that it sees, before anything is added, over the reading.",
    level=FULL,
    unit="score",
    better="lower",
    none="Scores that grow without bound come before a training diverges.",
    instead="",
)
HEADS_COLLAPSED = Measure(
    "heads_collapsed",
    "heads that look at one key",
    "Share of heads with an attention entropy below .05.",
    (),
    unit="share",
    better="lower",
    none="0 for none.",
)

ATTENTION = (
    *(ATTENTION_ENTROPY, EFFECTIVE_KEYS, ATTENTION_DISTANCE, SINK, SINK_LAST, PREVIOUS_TOKEN, NEXT_TOKEN),
    *(SELF_ATTENTION, TOP8_MASS, HEAD_REDUNDANCY, MAX_LOGIT, HEADS_COLLAPSED),
)
