"""Measures of how the mapping from labels to representations is structured."""

from lightning_interp.metrics.measure import FULL, Headline, Measure

__all__ = [
    "COMPLEXITY",
    "COVERAGE",
    "DISENTANGLEMENT",
    "EXPRESSIVITY",
    "FLOOR",
    "INFORMATION",
    "NUM_LABELS",
    "OPTIMALITY",
    "PARENT_VARIATION",
    "REGULARITY",
    "STRUCTURE",
    "VARIATION",
]

_NATS = "0 where both are alike, .693 (ln 2) where they share nothing."
_SHARE = "0 for none, 1 for all."
_LEVEL = "Compare it with its value above chance."

INFORMATION = Measure(
    "information",
    "information",
    "Entropy of the representations at a fixed resolution, as a share of its maximum: it falls where they cluster.",
    unit="share of log n",
    none="0 where all are in one place, 1 where they are spread evenly.",
    rank=20,
    headline=Headline(2, ""),
    stands="",
)
VARIATION = Measure(
    "variation",
    "variation",
    "Entropy of the representations that is left within a label, as a share of its maximum.",
    ("site", "labels"),
    level=FULL,
    unit="share of log n",
    none="Equal to the information where labels tell nothing.",
    detail_of="regularity",
)
PARENT_VARIATION = Measure(
    "parent_variation",
    "variation within the parent",
    "Entropy that is left within the parent of a nested label, on the same rows as the label's own variation.",
    ("site", "labels"),
    level=FULL,
    unit="share of log n",
    none="Equal to the label's variation where the label tells nothing beyond its parent.",
    detail_of="regularity",
)
REGULARITY = Measure(
    "regularity",
    "regularity",
    "What representations tell about the label: entropy without it, less the entropy within it.",
    ("site", "labels"),
    unit="share of log n",
    better="higher",
    none=f"Few rows a label look regular by accident. {_LEVEL}",
    rank=30,
    headline=Headline(3),
)
DISENTANGLEMENT = Measure(
    "disentanglement",
    "disentanglement",
    "How far representations of one label lie from those of the others: their Jensen–Shannon divergence, in nats.",
    ("site", "labels"),
    unit="nats",
    better="higher",
    none=f"{_NATS} Few rows a label look disentangled by accident. {_LEVEL}",
    rank=40,
    headline=Headline(4),
)
COMPLEXITY = Measure(
    "complexity",
    "complexity",
    "What representations keep of the input: information about the first label set of the plane.",
    unit="share of log n",
    none=f"0 for nothing. {_LEVEL}",
    common=True,
)
EXPRESSIVITY = Measure(
    "expressivity",
    "expressivity",
    "What representations keep of the output: information about the second label set of the plane.",
    unit="share of log n",
    better="higher",
    none=f"0 for nothing. {_LEVEL}",
)
OPTIMALITY = Measure(
    "optimality",
    "optimality",
    "Expressivity as a share of complexity: how much of what is kept of the input is about the output.",
    level=FULL,
    better="higher",
    none="0 for nothing; 1 is the bound for what depends on the output through the input alone.",
    instead="expressivity",
    detail_of="complexity",
)
COVERAGE = Measure(
    "coverage",
    "coverage",
    "Share of positions whose label is frequent enough to be read.",
    ("site", "labels"),
    level=FULL,
    unit="share",
    none=_SHARE,
    bookkeeping=True,
    common=True,
)
NUM_LABELS = Measure(
    "num_labels",
    "number of labels",
    "Labels that are frequent enough to be read.",
    ("site", "labels"),
    level=FULL,
    unit="labels",
    bookkeeping=True,
    common=True,
)
FLOOR = Measure(
    "floor",
    "floor of information",
    "Mean entropy of single representations, which the soft estimator spreads over several points.",
    level=FULL,
    unit="share of log n",
    none="Information cannot fall below it.",
    bookkeeping=True,
    common=True,
)

STRUCTURE = (
    INFORMATION,
    VARIATION,
    PARENT_VARIATION,
    REGULARITY,
    DISENTANGLEMENT,
    COMPLEXITY,
    EXPRESSIVITY,
    OPTIMALITY,
    COVERAGE,
    NUM_LABELS,
    FLOOR,
)
