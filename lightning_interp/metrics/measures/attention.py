"""Measures of what attention heads look at, and of what is learned in context."""

from lightning_interp.metrics.measure import FULL, Measure

__all__ = [
    "ANCHOR_MATCH",
    "ANCHOR_READ",
    "ANCHOR_WRITE",
    "ATTENTION",
    "ATTENTION_DISTANCE",
    "ATTENTION_ENTROPY",
    "BUDGET",
    "BUDGET_LOSS",
    "BUDGET_LOSS_FULL",
    "BUDGET_TEXTS",
    "DUPLICATE_TOKEN",
    "EFFECTIVE_KEYS",
    "FEW_SHOT_ACCURACY",
    "FEW_SHOT_GAIN",
    "FORMED_STEP",
    "HEADS_COLLAPSED",
    "HEAD_EFFECT",
    "HEAD_EFFECT_RANDOM",
    "HEAD_IMPORTANCE",
    "HEAD_REDUNDANCY",
    "ICL_SCORE",
    "INDUCTION_HEADS",
    "KEPT_MASS",
    "LOYALTY",
    "LOYALTY_RANDOM",
    "MAX_LOGIT",
    "NEXT_TOKEN",
    "PREFIX_MATCHING",
    "PREVIOUS_TOKEN",
    "REPEATED_PREVIOUS_TOKEN",
    "REPEAT_GAIN",
    "REPEAT_LOSS",
    "SALIENCY_PQ",
    "SALIENCY_WP",
    "SALIENCY_WW",
    "SELF_ATTENTION",
    "SINK",
    "SINK_LAST",
    "TOP8_MASS",
    "ZERO_SHOT_ACCURACY",
]

_UNIFORM = "What uniform attention has stands beside it."
_EVEN = "uniform attention to the keys that a query sees"

ATTENTION_ENTROPY = Measure(
    "attention_entropy",
    "attention entropy",
    "Entropy of a query's weights, as a share of the highest that the keys it sees allow.",
    unit="share",
    none="1 for uniform attention, 0 where each query looks at one key.",
    stands="",
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
    detail_of="attention_entropy",
)
SINK = Measure(
    "sink",
    "attention to the first key",
    "Share of attention that goes to the first real key: the sink of causal models, [CLS] of encoders.",
    unit="share",
    none=_UNIFORM,
    chance=_EVEN,
    stands="",
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
    detail_of="attention_entropy",
)
PREVIOUS_TOKEN = Measure(
    "previous_token",
    "attention to the previous token",
    "Share of attention that goes to the position before.",
    level=FULL,
    unit="share",
    none=_UNIFORM,
    chance=_EVEN,
    stands="max",
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
    detail_of="attention_entropy",
)
SELF_ATTENTION = Measure(
    "self",
    "attention to itself",
    "Share of attention that a position pays to itself.",
    level=FULL,
    unit="share",
    none=_UNIFORM,
    chance=_EVEN,
    detail_of="attention_entropy",
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
    detail_of="attention_entropy",
)
HEAD_REDUNDANCY = Measure(
    "head_redundancy",
    "difference of heads",
    "Mean Jensen–Shannon divergence of the heads of a layer.",
    level=FULL,
    unit="nats",
    none="0 where all heads look alike, the logarithm of their number where no two look at the same.",
    instead="",
    detail_of="attention_entropy",
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
    stands="max",
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

_REPEATED = "on sequences that repeat random tokens"

PREFIX_MATCHING = Measure(
    "prefix_matching",
    "induction (prefix matching)",
    f"Share of attention that goes to what followed a token where it stood before, {_REPEATED}.",
    level=FULL,
    unit="share",
    better="higher",
    none=_UNIFORM,
    chance=_EVEN,
    beside_random=True,
    stands="max",
)
DUPLICATE_TOKEN = Measure(
    "duplicate_token",
    "attention to the same token",
    f"Share of attention that goes to where a token stood before, {_REPEATED}.",
    level=FULL,
    unit="share",
    none=_UNIFORM,
    chance=_EVEN,
    beside_random=True,
    detail_of="prefix_matching",
)
REPEATED_PREVIOUS_TOKEN = Measure(
    "repeated_previous_token",
    "attention to the previous token",
    f"Share of attention that goes to the position before, {_REPEATED}.",
    level=FULL,
    unit="share",
    none=_UNIFORM,
    chance=_EVEN,
    beside_random=True,
    stands="max",
)
INDUCTION_HEADS = Measure(
    "induction_heads",
    "induction heads",
    "How many heads have a prefix matching above .3.",
    (),
    unit="heads",
    better="higher",
    none="0 for none; random weights have none.",
)
REPEAT_GAIN = Measure(
    "repeat_gain",
    "gain from repetition",
    "Loss on random tokens that come for the first time, less the loss on the same ones when they come again.",
    (),
    unit="nats",
    better="higher",
    none="0 where nothing is learned from the context.",
    beside_random=True,
)
REPEAT_LOSS = Measure(
    "repeat_loss",
    "loss on repeated tokens",
    "Loss on random tokens that come for the first time, or again.",
    (),
    level=FULL,
    unit="nats",
    better="lower",
    none="About the logarithm of the number of tokens where they come for the first time.",
    detail_of="repeat_gain",
)
ICL_SCORE = Measure(
    "icl_score",
    "in-context learning score",
    "Loss late in a text, less the loss early in it, on the validation text.",
    (),
    unit="nats",
    better="lower",
    none="0 where what was read before does not help. It falls before any induction head forms.",
    instead="",
)
HEAD_EFFECT = Measure(
    "head_effect",
    "effect of a head",
    "Rise of the loss on tokens that come again where what heads put out is replaced by its mean.",
    (),
    level=FULL,
    unit="nats",
    none="That of as many random heads of the same layers stands beside it.",
    instead="",
)
HEAD_EFFECT_RANDOM = Measure(
    "head_effect_random",
    "effect of random heads",
    "The same of as many random heads of the same layers.",
    (),
    level=FULL,
    unit="nats",
    none="What heads are compared with.",
    instead="",
    bookkeeping=True,
)
FORMED_STEP = Measure(
    "formed_step",
    "step at which it formed",
    "Step at which it came to half of its maximum so far, above its level of chance, and stayed there.",
    (),
    unit="steps",
    none="Undefined until then.",
    instead="",
)

BUDGET = "policy and number of keys"
"""The axis of measures of attention on a budget; its values have a slash between the two."""

BUDGET_LOSS = Measure(
    "budget_loss",
    "rise in loss on a budget of keys",
    "Rise of the next-token loss late in a text where each query keeps only some keys, over the loss with all of them.",
    (BUDGET,),
    unit="nats",
    none="0 where what is left out is not needed; the same number of random keys is a policy too.",
    beside_random=True,
    form="rise in loss with the keys of {all}",
)
BUDGET_LOSS_FULL = Measure(
    "budget_loss_full",
    "loss with all keys",
    "Next-token loss late in a text with all keys, which budgets are compared with.",
    (),
    level=FULL,
    unit="nats",
    better="lower",
    none="The logarithm of the number of tokens where nothing is learned.",
    detail_of="budget_loss",
)
KEPT_MASS = Measure(
    "kept_mass",
    "attention kept on a budget of keys",
    "Share of the model's own attention that goes to the keys of a budget, of queries late in a text.",
    (BUDGET,),
    level=FULL,
    unit="share",
    none="1 where all is kept. Much may be kept and the loss rise all the same.",
    chance="as many keys whatever their weights",
    detail_of="budget_loss",
    form="attention kept by the keys of {all}",
)
BUDGET_TEXTS = Measure(
    "budget_texts",
    "texts read on a budget",
    "How many texts were long enough to be read on a budget of keys.",
    (),
    level=FULL,
    unit="texts",
    none="0 for none.",
    bookkeeping=True,
)

_NO_PROOF = "About 1 without an effect; high ones do not mean that examples are used."

ANCHOR_READ = Measure(
    "anchor_read",
    "reading from label words",
    "Saliency of the attention of the last position to label words, over that to other words.",
    unit="ratio",
    none=_NO_PROOF,
    instead="",
    beside_random=True,
)
ANCHOR_WRITE = Measure(
    "anchor_write",
    "gathering in label words",
    "Saliency of the attention of label words to what is before them, over that of the words just before.",
    unit="ratio",
    none=_NO_PROOF,
    instead="",
    beside_random=True,
)
ANCHOR_MATCH = Measure(
    "anchor_match",
    "reading from the right label words",
    "Share of the last position's attention to label words that goes to those of the right answer.",
    unit="share",
    better="higher",
    none="One over the number of labels.",
    chance="a label at random",
    instead="",
)
FEW_SHOT_GAIN = Measure(
    "few_shot_gain",
    "gain from demonstrations",
    "Accuracy among the label words with demonstrations, less that without.",
    (),
    unit="share",
    better="higher",
    none="0 where demonstrations do not help.",
)
FEW_SHOT_ACCURACY = Measure(
    "few_shot_accuracy",
    "accuracy with demonstrations",
    "Share of queries whose label is the most probable of the label words, behind demonstrations.",
    (),
    level=FULL,
    unit="share",
    better="higher",
    none="One over the number of labels, or that of the commonest.",
    detail_of="few_shot_gain",
)
ZERO_SHOT_ACCURACY = Measure(
    "zero_shot_accuracy",
    "accuracy without demonstrations",
    "Share of queries whose label is the most probable of the label words, without demonstrations.",
    (),
    level=FULL,
    unit="share",
    better="higher",
    none="One over the number of labels, or that of the commonest.",
    detail_of="few_shot_gain",
)
_LAST_LAYER = "In the last layer only the last position has any."

SALIENCY_WP = Measure(
    "saliency_wp",
    "saliency from words to labels",
    "Mean saliency of the attention of label words to what is before them (S_wp).",
    level=FULL,
    none=_LAST_LAYER,
    detail_of="anchor_write",
)
SALIENCY_PQ = Measure(
    "saliency_pq",
    "saliency from labels to the last position",
    "Mean saliency of the attention of the last position to label words (S_pq).",
    level=FULL,
    none="That of its attention to other words.",
    detail_of="anchor_read",
)
SALIENCY_WW = Measure(
    "saliency_ww",
    "saliency of the rest",
    "Mean saliency of all other attention (S_ww).",
    level=FULL,
    none=_LAST_LAYER,
    detail_of="anchor_read",
)
HEAD_IMPORTANCE = Measure(
    "head_importance",
    "importance of a head",
    "By how much the loss of few-shot prompts would change with the head, to first order.",
    level=FULL,
    unit="nats",
    none="0 where the loss does not hang on it.",
    detail_of="anchor_read",
)
LOYALTY = Measure(
    "loyalty",
    "loyalty without gathering in labels",
    "Share of prompts with the same answer where label words see nothing before them, in some layers.",
    (),
    level=FULL,
    unit="share",
    none="1 where nothing hangs on it; that of random positions stands beside it.",
    detail_of="anchor_write",
)
LOYALTY_RANDOM = Measure(
    "loyalty_random",
    "loyalty without gathering at random positions",
    "The same of as many random positions that are no labels.",
    (),
    level=FULL,
    unit="share",
    none="What label words are compared with.",
    instead="",
    bookkeeping=True,
)

ATTENTION = (
    *(ATTENTION_ENTROPY, EFFECTIVE_KEYS, ATTENTION_DISTANCE, SINK, SINK_LAST, PREVIOUS_TOKEN, NEXT_TOKEN),
    *(SELF_ATTENTION, TOP8_MASS, HEAD_REDUNDANCY, MAX_LOGIT, HEADS_COLLAPSED),
    *(PREFIX_MATCHING, DUPLICATE_TOKEN, REPEATED_PREVIOUS_TOKEN, INDUCTION_HEADS, REPEAT_GAIN, REPEAT_LOSS),
    *(ICL_SCORE, HEAD_EFFECT, HEAD_EFFECT_RANDOM, FORMED_STEP),
    *(BUDGET_LOSS, BUDGET_LOSS_FULL, KEPT_MASS, BUDGET_TEXTS),
    *(ANCHOR_READ, ANCHOR_WRITE, ANCHOR_MATCH, FEW_SHOT_GAIN, FEW_SHOT_ACCURACY, ZERO_SHOT_ACCURACY),
    *(SALIENCY_WP, SALIENCY_PQ, SALIENCY_WW, HEAD_IMPORTANCE, LOYALTY, LOYALTY_RANDOM),
)
