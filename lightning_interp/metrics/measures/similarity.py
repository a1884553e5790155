"""Measures of how alike readings are, and how far classes lie apart."""

from lightning_interp.metrics.measure import FULL, Headline, Measure

__all__ = ["CKA", "KNN_PURITY", "SAMPLED_ROWS", "SILHOUETTE", "SIMILARITY"]

_LEVEL = "Compare it with its value above chance."

CKA = Measure(
    "cka",
    "similarity (CKA)",
    "How alike representations of the same inputs are to those of an earlier reading, up to rotation and scale.",
    ("site", "reading"),
    unit="debiased CKA",
    none="1 where they are the same, about 0 where they are unrelated.",
    instead="",
    form="similarity (CKA) to the {rest} reading at {site}",
    common=True,
    rank=60,
    headline=Headline(6, "first"),
)
SILHOUETTE = Measure(
    "silhouette",
    "silhouette",
    "How much nearer representations lie to their own class than to the nearest other one, −1 to 1.",
    ("site", "labels"),
    level=FULL,
    better="higher",
    none=f"Below 0 for random labels of many classes. {_LEVEL}",
    common=True,
    detail_of="knn_purity",
)
KNN_PURITY = Measure(
    "knn_purity",
    "purity of neighbours",
    "Share of the nearest neighbours that are of the same class.",
    ("site", "labels"),
    unit="share",
    better="higher",
    none=f"The share of the class at chance. {_LEVEL}",
    rank=70,
)
SAMPLED_ROWS = Measure(
    "sampled_rows",
    "rows compared",
    "Positions that similarity and separation of classes are told from.",
    level=FULL,
    unit="rows",
    bookkeeping=True,
)

SIMILARITY = (CKA, SILHOUETTE, KNN_PURITY, SAMPLED_ROWS)
