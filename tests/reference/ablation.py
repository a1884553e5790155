"""Weights of words, one after another, from lists."""

from __future__ import annotations

import math
from collections.abc import Sequence


def score(logits: Sequence[float], target: int, kind: str) -> float:
    """log p of the target, or its log-odds."""
    z = [0.0, *logits] if len(logits) == 1 else list(logits)
    p = math.exp(z[target]) / math.fsum(math.exp(one) for one in z)
    rest = math.fsum(math.exp(one) for k, one in enumerate(z) if k != target) / math.fsum(math.exp(one) for one in z)
    return math.log(p) if kind == "log_prob" else math.log(p) - math.log(rest)


def positions(words: Sequence[int]) -> list[list[int]]:
    """Places of each word, in the order in which words begin."""
    found: dict[int, list[int]] = {}
    for place, word in enumerate(words):
        if word >= 0:
            found.setdefault(word, []).append(place)
    return list(found.values())


def masked(ids: Sequence[int], words: Sequence[int], mask: int, draw: float) -> tuple[list[int], list[int], int]:
    """Where a masked word is, or one that is masked whole where none is."""
    found, own = list(ids), list(words)
    if mask not in found and positions(words):
        rows = positions(words)
        for place in rows[int(draw * len(rows))]:
            found[place] = mask
    starts: list[int] = []
    seen: set[int] = set()
    for place, one in enumerate(found):
        if one == mask:
            if words[place] < 0 or words[place] not in seen:
                starts.append(place)
            seen.add(words[place])
            own[place] = -1
    return found, own, starts[int(draw * len(starts))] if starts else -1


def concentration(weights: Sequence[float]) -> float:
    """1 less the entropy of what words weigh, over its maximum."""
    total = math.fsum(abs(w) for w in weights)
    if len(weights) < 2 or not total:
        return math.nan
    shares = [abs(w) / total for w in weights]
    return 1 + math.fsum(a * math.log(a) for a in shares if a) / math.log(len(weights))


def share(weights: Sequence[float], cue: Sequence[bool]) -> float:
    """What words of the cue weigh, of all."""
    total = math.fsum(abs(w) for w in weights)
    if not any(cue) or not total:
        return math.nan
    return math.fsum(abs(w) for w, one in zip(weights, cue, strict=True) if one) / total


def first(weights: Sequence[float], cue: Sequence[bool]) -> float:
    """Whether the word that weighs most is one of the cue."""
    most = max(abs(w) for w in weights)
    top = [one for w, one in zip(weights, cue, strict=True) if abs(w) == most]
    return sum(top) / len(top) if any(cue) and most else math.nan
