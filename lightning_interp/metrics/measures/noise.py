"""Measures of a model's metrics and representations under noise."""

from lightning_interp.metrics.measure import FULL, Headline, Measure

__all__ = ["CLEAN", "DRIFT", "HALF_SCALE", "NOISE", "NOISY", "RETENTION", "ROBUSTNESS", "UNDER_NOISE"]

_NOISE = "1 where noise does nothing, 0 where all that was learned is lost."

UNDER_NOISE = Measure(
    "under_noise",
    "under noise",
    "The model's own metric while noise is added, averaged over scales, in the metric's units.",
    ("site", "monitor"),
    better="as the metric",
    none="Equal to the metric itself where noise does nothing.",
    form="{rest} under noise at {site}",
    apart=True,
    rank=1010,
)
ROBUSTNESS = Measure(
    "robustness",
    "robustness to noise",
    "Share of what the metric gained since training began that survives noise, averaged over scales.",
    ("site", "monitor"),
    unit="share",
    better="higher",
    none=f"{_NOISE} Not logged while the model is no better than before training.",
    instead="under_noise",
    form="robustness of {rest} to noise at {site}",
    apart=True,
    rank=10,
    headline=Headline(1),
)
RETENTION = Measure(
    "retention",
    "share kept under noise",
    "Share of what the metric gained since training began that survives noise of one scale.",
    ("site", "monitor", "scale"),
    level=FULL,
    unit="share",
    better="higher",
    none=_NOISE,
    instead="under_noise",
    form="share of {rest} kept under noise {last} at {site}",
    apart=True,
    bookkeeping=True,
    detail_of="robustness",
)
HALF_SCALE = Measure(
    "half_scale",
    "noise that halves what was learned",
    "Scale of the noise under which half of what the metric gained is lost.",
    ("site", "monitor"),
    level=FULL,
    better="higher",
    none="Not logged where more than half survives the largest scale.",
    instead="under_noise",
    form="noise at {site} that halves {rest}",
    apart=True,
    bookkeeping=True,
    detail_of="robustness",
)
NOISY = Measure(
    "noisy",
    "under noise of one scale",
    "The model's own metric while noise of one scale is added, in the metric's units.",
    ("site", "monitor", "scale"),
    level=FULL,
    better="as the metric",
    none="Equal to the metric itself where noise does nothing.",
    form="{rest} under noise {last} at {site}",
    apart=True,
    bookkeeping=True,
    common=True,
    detail_of="under_noise",
)
DRIFT = Measure(
    "drift",
    "drift under noise",
    "How far noise turns representations downstream of it: 1 less the cosine with those without noise.",
    ("site", "downstream site", "scale"),
    unit="1 − cosine",
    better="lower",
    none="0 where noise does nothing, 1 where nothing is left of their direction.",
    form="drift of {rest} under noise {last} at {site}",
    apart=True,
    common=True,
    rank=1020,
    stands="mean",
)
CLEAN = Measure(
    "clean",
    "without noise",
    "The model's own metric without noise, on the examples that are read with it.",
    ("monitor",),
    level=FULL,
    better="as the metric",
    none="In the metric's units.",
    form="{all} without noise",
    apart=True,
    bookkeeping=True,
    common=True,
    detail_of="under_noise",
)

NOISE = (UNDER_NOISE, ROBUSTNESS, RETENTION, HALF_SCALE, NOISY, DRIFT, CLEAN)
