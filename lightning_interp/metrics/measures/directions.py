"""Measures of how far a model's representations lie along chosen directions."""

from lightning_interp.metrics.measure import FULL, Measure

__all__ = [
    "DIRECTION_AUROC",
    "DIRECTION_DRIFT",
    "DIRECTIONS",
    "PROJECTION",
    "PROJECTION_OVER_SPREAD",
    "PROJECTION_RANDOM",
    "PROJECTION_SHIFT",
    "PROJECTION_SPREAD",
]

_AXES = ("site", "direction")

PROJECTION = Measure(
    "projection",
    "projection",
    "How far fixed prompts lie along a direction, in units of the size of a dimension of theirs.",
    _AXES,
    unit="rms",
    none="Random directions of the same data stand beside it.",
    form="projection on {rest} at {site}",
)
PROJECTION_OVER_SPREAD = Measure(
    "projection_over_spread",
    "projection over the spread of random ones",
    "How far fixed prompts lie along a direction beyond random ones of the same data, in their standard deviations.",
    _AXES,
    unit="standard deviations",
    none="Within about ±2 for a direction that is like random ones.",
    form="projection on {rest} over the spread of random ones at {site}",
)
PROJECTION_SHIFT = Measure(
    "projection_shift",
    "shift of the projection",
    "How far prompts moved along a direction since it was fitted, beyond random ones, in their standard deviations.",
    _AXES,
    unit="standard deviations",
    none="Within about ±2 for a direction along which prompts move as along random ones.",
    instead="projection",
    form="shift of the projection on {rest} at {site}",
)
PROJECTION_RANDOM = Measure(
    "projection_random",
    "projection on random directions",
    "Mean over random directions of the same data of how far fixed prompts lie along them.",
    level=FULL,
    unit="rms",
    none="What projections are compared with.",
    bookkeeping=True,
)
PROJECTION_SPREAD = Measure(
    "projection_spread",
    "spread of random projections",
    "Standard deviation over random directions of the same data of how far fixed prompts lie along them.",
    level=FULL,
    unit="rms",
    none="What projections are compared with.",
    bookkeeping=True,
)
DIRECTION_AUROC = Measure(
    "direction_auroc",
    "order along a direction",
    "How often a held-out prompt of the one kind lies further along a direction than one of the other.",
    _AXES,
    unit="AUROC",
    better="higher",
    none="At chance .5.",
    beside_random=True,
    form="order along {rest} at {site}",
)
DIRECTION_DRIFT = Measure(
    "direction_drift",
    "cosine with the first direction",
    "Cosine of a direction that is fitted anew with the one that was fitted first.",
    _AXES,
    unit="cosine",
    none="1 for no change; about 0 for directions that have nothing to do with each other.",
    form="cosine of {rest} with the first one at {site}",
)

DIRECTIONS = (
    PROJECTION,
    PROJECTION_OVER_SPREAD,
    PROJECTION_SHIFT,
    PROJECTION_RANDOM,
    PROJECTION_SPREAD,
    DIRECTION_AUROC,
    DIRECTION_DRIFT,
)
