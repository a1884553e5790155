"""Measures of what a layer already says of the next token."""

from lightning_interp.metrics.measure import FULL, Measure

__all__ = ["LENS", "LENS_AGREEMENT", "LENS_ENTROPY", "LENS_LOSS"]

_THROUGH = "of a layer's residual, read through the model's final norm and head"

LENS_LOSS = Measure(
    "lens_loss",
    "loss of the logit lens",
    f"Loss {_THROUGH}.",
    unit="nats",
    better="lower",
    none="That of token frequencies stands beside it; it is the model's own at the last layer.",
    chance="token frequencies",
    beside_random=True,
    stands="",
)
LENS_AGREEMENT = Measure(
    "lens_agreement",
    "agreement of the logit lens",
    "Share of positions where a layer's residual, read through the final norm and head, has the model's own top token.",
    unit="share",
    none="1 at the last layer; what layers would agree by chance stands beside it.",
    chance="top tokens dealt to other positions",
    beside_random=True,
    stands="",
)
LENS_ENTROPY = Measure(
    "lens_entropy",
    "entropy of the logit lens",
    f"Entropy of the prediction {_THROUGH}.",
    level=FULL,
    unit="nats",
    none="The logarithm of the number of tokens for a uniform prediction, 0 for a certain one.",
    beside_random=True,
    detail_of="lens_loss",
)

LENS = (LENS_LOSS, LENS_AGREEMENT, LENS_ENTROPY)
