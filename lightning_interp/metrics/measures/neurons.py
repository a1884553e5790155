"""Measures of the neurons of a model."""

from lightning_interp.metrics.measure import FULL, Measure

__all__ = [
    "ACTIVATION_KURTOSIS",
    "ACTIVATION_SHARE",
    "DEAD_NEURONS",
    "EXPLANATION_SCORE",
    "LOOKUP_SCORE",
    "LOOKUP_SHARE",
    "MASSIVE_ACTIVATION",
    "NEURONS",
    "NEURON_CHURN",
    "NEURON_TOKENS",
]

LOOKUP_SCORE = Measure(
    "lookup_score",
    "neurons that a token explains",
    "Mean correlation of neurons with their mean activation on the present token, told from other text.",
    unit="r",
    none="About 0 where neurons do not hang on the present token; random weights have some of it in early layers.",
    instead="",
    beside_random=True,
    stands="",
)
LOOKUP_SHARE = Measure(
    "lookup_share",
    "share of neurons that are token detectors",
    "Share of neurons whose activation is explained by the present token with a correlation of .8 or more.",
    level=FULL,
    unit="share",
    none="0 for none.",
    instead="",
    beside_random=True,
    detail_of="lookup_score",
)
DEAD_NEURONS = Measure(
    "dead_neurons",
    "dead neurons",
    "Share of neurons that never fire on the text.",
    unit="share",
    better="lower",
    none="0 for none.",
)
ACTIVATION_KURTOSIS = Measure(
    "activation_kurtosis",
    "kurtosis of neurons",
    "How heavy the tails of a neuron's activations are, median over neurons.",
    level=FULL,
    none="3 for a normal distribution.",
    instead="",
    beside_random=True,
    detail_of="lookup_score",
)
ACTIVATION_SHARE = Measure(
    "activation_share",
    "share of tokens on which neurons fire",
    "Share of tokens on which a neuron is above 0, mean over neurons.",
    level=FULL,
    unit="share",
    none=".5 where signs are dealt at random.",
    detail_of="dead_neurons",
)
NEURON_CHURN = Measure(
    "neuron_churn",
    "change of what neurons fire on",
    "How far the contexts in which neurons fire most are others than at the reading before.",
    unit="1 − Jaccard",
    none="0 for the same contexts, 1 for none in common.",
    instead="",
)
MASSIVE_ACTIVATION = Measure(
    "massive_activation",
    "largest activation over the median",
    "The largest entry of the residual behind a layer over the median of their sizes.",
    unit="ratio",
    none="About 7 for normal entries of a million tokens and dimensions; hundreds and more are massive activations.",
    instead="",
)
EXPLANATION_SCORE = Measure(
    "explanation_score",
    "score of explanations",
    "Correlation of neurons to watch with what an explanation in words lets a reader say of them, on other text.",
    (),
    unit="r",
    better="higher",
    none="About 0 where an explanation says nothing of its neuron; that of another neuron stands beside it.",
    instead="",
    stands="mean",
)
NEURON_TOKENS = Measure(
    "neuron_tokens",
    "tokens that neurons are read on",
    "How many tokens neurons were read on.",
    (),
    level=FULL,
    unit="tokens",
    none="0 for none.",
    bookkeeping=True,
)

NEURONS = (
    LOOKUP_SCORE,
    LOOKUP_SHARE,
    DEAD_NEURONS,
    ACTIVATION_KURTOSIS,
    ACTIVATION_SHARE,
    NEURON_CHURN,
    MASSIVE_ACTIVATION,
    EXPLANATION_SCORE,
    NEURON_TOKENS,
)
