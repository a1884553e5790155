"""To what labels belong, and labels dealt out anew among these, one by one."""

from __future__ import annotations

import random
from collections.abc import Hashable, Sequence

Labels = Sequence[Sequence[Hashable | None]]


def unit_of_rows(
    labels: Labels,
    samples: Sequence[int],
    words: Sequence[Hashable] | None,
    parents: Sequence[Hashable | None] | None = None,
) -> tuple[str, list[Hashable] | None]:
    """The unit that the labels tell, and that of every row, ``None`` for one of its own."""
    found: dict[str, dict[Hashable, set[Hashable]]] = {"sample": {}, "word": {}}
    words_of: dict[int, set[Hashable]] = {}
    rows = 0
    for row, mine in enumerate(labels):
        if all(label is None for label in mine) or (parents is not None and parents[row] is None):
            continue
        rows += 1
        found["sample"].setdefault(samples[row], set()).add(tuple(mine))
        if words is not None:
            found["word"].setdefault(words[row], set()).add(tuple(mine))
            words_of.setdefault(samples[row], set()).add(words[row])
    several = len(found["sample"]) < rows
    of_sample = several and all(len(one) == 1 for one in found["sample"].values())
    distinct = {label for one in found["word"].values() for label in one}
    of_word = (
        words is not None
        and len(found["word"]) < rows
        and all(len(one) == 1 for one in found["word"].values())
        and len(distinct) < len(found["word"])
    )
    one_word_each = all(len(one) == 1 for one in words_of.values())
    if of_word and words is not None and (not of_sample or one_word_each):
        return "word", list(words)
    if of_sample:
        return "sample", list(samples)
    return "position" if several else "sample", None


def exchanged(labels: Labels, units: Sequence[Hashable], draw: random.Random, strata: Sequence[Hashable]) -> Labels:
    """Labels of units exchanged among the units of one stratum, those of one kind of stratum after the other.

    All rows have labels, which are the same in all rows of a unit.
    """
    own = dict(zip(units, labels, strict=True))
    stratum = dict(zip(units, strata, strict=True))
    new: dict[Hashable, Sequence[Hashable | None]] = {}
    for here in dict.fromkeys(strata):
        those = [unit for unit in own if stratum[unit] == here]
        others = list(those)
        draw.shuffle(others)
        for unit, other in zip(those, others, strict=True):
            new[unit] = own[other]
    return [new[unit] for unit in units]
