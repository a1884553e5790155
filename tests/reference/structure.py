"""The four measures from coded rows and lists of labels."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from reference.entropy import Array, distribution, entropy, js, kl, spread

Labels = Sequence[Sequence[Hashable | None]]


@dataclass
class Occurrences:
    """Which rows carry which kept label; a row that carries a label twice is listed twice."""

    rows_of: dict[Hashable, list[int]]
    parent_of: dict[Hashable, Hashable]
    total: int

    @property
    def pool(self) -> list[int]:
        """Rows of all kept labels."""
        return [row for rows in self.rows_of.values() for row in rows]

    @property
    def coverage(self) -> float:
        """Share of all rows that have a kept label."""
        return len(set(self.pool)) / self.total

    def family(self, label: Hashable) -> list[int]:
        """Rows of all kept labels under the same parent."""
        mine = self.parent_of[label]
        return [row for other, rows in self.rows_of.items() if self.parent_of[other] == mine for row in rows]

    def rest(self, label: Hashable) -> list[int]:
        """Rows of the other kept labels under the same parent."""
        mine = self.parent_of[label]
        return [
            row
            for other, rows in self.rows_of.items()
            if other != label and self.parent_of[other] == mine
            for row in rows
        ]


def occurrences(
    labels: Labels,
    parents: Sequence[Hashable | None] | None = None,
    min_count: int = 1,
    units: Sequence[Hashable] | None = None,
) -> Occurrences:
    """Labels of at least ``min_count`` units (rows by default); a nested label is the pair of its parent and itself."""
    found: dict[Hashable, list[int]] = {}
    parent_of: dict[Hashable, Hashable] = {}
    for row, mine in enumerate(labels):
        for label in mine:
            parent = None if parents is None else parents[row]
            if label is None or (parents is not None and parent is None):
                continue
            key = label if parents is None else (parent, label)
            found.setdefault(key, []).append(row)
            parent_of[key] = parent
    number = {label: len(rows) if units is None else len({units[row] for row in rows}) for label, rows in found.items()}
    kept = {label: rows for label, rows in found.items() if number[label] >= min_count}
    return Occurrences(kept, {label: parent_of[label] for label in kept}, len(labels))


def label_weights(there: Occurrences, average: str, among: Sequence[Hashable]) -> dict[Hashable, float]:
    """Weights of some labels: by rows, or alike within a parent and parents alike."""
    if average == "frequency":
        raw = {label: float(len(there.rows_of[label])) for label in among}
    else:
        families: dict[Hashable, int] = {}
        for label in among:
            families[there.parent_of[label]] = families.get(there.parent_of[label], 0) + 1
        raw = {label: 1 / families[there.parent_of[label]] for label in among}
    total = math.fsum(raw.values())
    return {label: weight / total for label, weight in raw.items()}


def measures(
    codes: Array,
    labels: Labels,
    parents: Sequence[Hashable | None] | None = None,
    min_count: int = 1,
    average: str = "frequency",
    correction: str | None = None,
    normalize: bool = True,
    units: Sequence[Hashable] | None = None,
) -> dict[str, float]:
    """All measures of one label set; entropies over log bins, disentanglement in nats, NaN where undefined."""
    there = occurrences(labels, parents, min_count, units)
    return measures_of(codes, there, average, correction, normalize)


def measures_of(
    codes: Array,
    there: Occurrences,
    average: str = "frequency",
    correction: str | None = None,
    normalize: bool = True,
) -> dict[str, float]:
    """The same from occurrences."""
    names = ("information", "variation", "regularity", "disentanglement", "parent_variation", "floor")
    counts = {"coverage": there.coverage, "num_labels": float(len(there.rows_of))}
    if not there.rows_of:
        return dict.fromkeys(names, math.nan) | counts
    kept = list(there.rows_of)
    weight = label_weights(there, average, kept)
    unit = math.log(codes.shape[2]) if normalize else 1.0
    information = spread(codes, correction, there.pool)
    variation = math.fsum(weight[label] * spread(codes, correction, there.rows_of[label]) for label in kept)
    parent_variation = math.fsum(weight[label] * spread(codes, correction, there.family(label)) for label in kept)
    if average == "frequency" and correction is None:
        regularity = math.fsum(
            weight[label] * _over_dims(kl, codes, there, label, there.family(label)) for label in kept
        )
    elif all(parent is None for parent in there.parent_of.values()):
        regularity = information - variation
    else:
        regularity = parent_variation - variation
    with_rest = [label for label in kept if there.rest(label)]
    among_rest = label_weights(there, average, with_rest) if with_rest else {}
    disentanglement = (
        math.fsum(among_rest[label] * _over_dims(js, codes, there, label, there.rest(label)) for label in with_rest)
        if with_rest
        else math.nan
    )
    floor = math.fsum(
        weight[label] * math.fsum(entropy(codes[row, 0]) for row in there.rows_of[label]) / len(there.rows_of[label])
        for label in kept
    )
    return {
        "information": information / unit,
        "variation": variation / unit,
        "regularity": regularity / unit,
        "disentanglement": disentanglement,
        "parent_variation": parent_variation / unit,
        "floor": floor / unit,
    } | counts


def _over_dims(divergence, codes: Array, there: Occurrences, label: Hashable, other: list[int]) -> float:
    """A divergence of a label's rows from other rows, averaged over dimensions."""
    mine = there.rows_of[label]
    dims = range(codes.shape[1])
    return math.fsum(divergence(distribution(codes, d, mine), distribution(codes, d, other)) for d in dims) / len(dims)


def plane(
    codes: Array,
    first: Labels,
    second: Labels,
    min_count: int = 1,
    units: Sequence[Sequence[Hashable] | None] = (None, None),
) -> dict[str, float]:
    """Complexity, expressivity and optimality: over the rows that have a kept label in both flat sets."""
    one, two = (occurrences(labels, None, min_count, own) for labels, own in zip((first, second), units, strict=True))
    both = set(one.pool) & set(two.pool)
    values = {}
    for name, there in (("complexity", one), ("expressivity", two)):
        left = {label: [row for row in rows if row in both] for label, rows in there.rows_of.items()}
        left = {label: rows for label, rows in left.items() if rows}
        kept = Occurrences(left, dict.fromkeys(left), there.total)
        values[name] = measures_of(codes, kept)["regularity"]
    ratio = values["expressivity"] / values["complexity"] if values["complexity"] > 0 else math.nan
    return values | {"optimality": ratio}
