"""Patterns of attention in repeated sequences and losses by place, one token after another, from nested lists."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean


def patterns(weights, tokens: Sequence[Sequence[int]]) -> list[dict[str, float]]:
    """For each head, from the tokens themselves: no length, no start token is told."""
    found = []
    for h in range(len(weights[0])):
        prefix, duplicate, previous = [], [], []
        for b, sequence in enumerate(tokens):
            for t, token in enumerate(sequence):
                row = weights[b][h][t]
                earlier = [s for s in range(t) if sequence[s] == token]
                if earlier:
                    prefix.append(math.fsum(row[s + 1] for s in earlier))
                    duplicate.append(math.fsum(row[s] for s in earlier))
                if t:
                    previous.append(row[t - 1])
        named = {"prefix_matching": prefix, "duplicate_token": duplicate, "previous_token": previous}
        found.append({name: fmean(values) for name, values in named.items()})
    return found


def losses_by_place(logits, ids, mask) -> tuple[list[float], list[int]]:
    """Sum and number of losses after 1, 2, … real tokens."""
    places = len(ids[0]) - 1
    values: list[list[float]] = [[] for _ in range(places)]
    for rows, sequence, real in zip(logits, ids, mask, strict=True):
        kept = [(row, token) for row, token, here in zip(rows, sequence, real, strict=True) if here]
        for place in range(len(kept) - 1):
            row, target = kept[place][0], kept[place + 1][1]
            if target < 0:
                continue
            largest = max(row)
            norm = largest + math.log(math.fsum(math.exp(value - largest) for value in row))
            values[place].append(norm - row[target])
    return [math.fsum(some) for some in values], [len(some) for some in values]


def gain(losses, tokens: Sequence[Sequence[int]]) -> float:
    """First copy less what can be known: a token whose predecessor stood before, and was followed by something."""
    first, later = [], []
    for own, sequence in zip(losses, tokens, strict=True):
        for place, loss in enumerate(own):
            seen = sequence[: place + 1]
            if sequence[place] in seen[:-1]:
                later.append(loss)
            elif sequence[place + 1] not in seen:
                first.append(loss)
    return fmean(first) - fmean(later)
