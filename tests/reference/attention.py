"""Measures of attention weights, one row after another, from nested lists."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean

from reference.entropy import entropy

Row = Sequence[float]


def row_measures(row: Row, keys: Sequence[int], place: int, first: int, last: int | None = None) -> dict[str, float]:
    """What one query at its place says with these visible keys; a measure that it has no part in is missing."""
    if len(keys) < 2:
        return {}
    total = math.fsum(row[key] for key in keys)
    if total == 0:
        return {}
    share = {key: row[key] / total for key in keys}
    nats = entropy(list(share.values()))
    found = {
        "attention_entropy": nats / math.log(len(keys)),
        "effective_keys": math.exp(nats),
        "attention_distance": math.fsum(share[key] * abs(place - key) for key in keys),
    }
    wanted = {"sink": first, "previous_token": place - 1, "next_token": place + 1, "self": place}
    found |= {name: share[key] for name, key in wanted.items() if key in share}
    if last is not None and place < last and last in share:
        found["sink_last"] = share[last]
    if len(keys) > 8 and place >= first and (place - first) % 8 == 7:
        found["top8_mass"] = math.fsum(sorted(share.values())[-8:])
    return found


def sums(
    weights, visible, queries, first, offset: int, names: Sequence[str], last=None
) -> list[list[tuple[float, int]]]:
    """Sum and number of rows of each measure for each head; all arguments of full shape."""
    heads = len(weights[0])
    values = [{name: [] for name in names} for _ in range(heads)]
    for b, sample in enumerate(weights):
        for h, head in enumerate(sample):
            for i, row in enumerate(head):
                if not queries[b][i]:
                    continue
                keys = [j for j in range(len(row)) if visible[b][h][i][j]]
                for name, value in row_measures(
                    row, keys, i + offset, first[b], None if last is None else last[b]
                ).items():
                    values[h][name].append(value)
    return [[(math.fsum(of[name]), len(of[name])) for name in names] for of in values]


def redundancy(weights, queries, visible=None) -> tuple[float, int]:
    """Sum and number of the divergences of the heads at all rows."""
    terms = []
    for b, sample in enumerate(weights):
        for i, real in enumerate(queries[b]):
            rows = []
            for h, head in enumerate(sample):
                keys = [j for j in range(len(head[i])) if visible is None or visible[b][h][i][j]]
                total = math.fsum(head[i][j] for j in keys) if real else 0.0
                if total and (visible is None or len(keys) > 1):
                    rows.append([head[i][j] / total if j in keys else 0.0 for j in range(len(head[i]))])
            if len(rows) == len(sample) > 1:
                mean = [math.fsum(column) / len(rows) for column in zip(*rows, strict=True)]
                terms.append(entropy(mean) - math.fsum(map(entropy, rows)) / len(rows))
    return math.fsum(terms), len(terms)


def rollout(layers) -> list[list[list[float]]]:
    """Abnar & Zuidema 2020, for each sample."""
    found = []
    for b in range(len(layers[0])):
        size = len(layers[0][b][0])
        reached = [[float(i == j) for j in range(size)] for i in range(size)]
        for layer in layers:
            mixed = []
            for i in range(size):
                row = [fmean(head[i][j] for head in layer[b]) / 2 + (i == j) / 2 for j in range(size)]
                mixed.append([value / math.fsum(row) for value in row])
            reached = [
                [math.fsum(mixed[i][k] * reached[k][j] for k in range(size)) for j in range(size)] for i in range(size)
            ]
        found.append(reached)
    return found
