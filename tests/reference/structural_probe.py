"""Trees and structural probes, with walks, loops over pairs and scipy's rank correlation."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from scipy import stats
from scipy.sparse.csgraph import minimum_spanning_tree

from reference.entropy import Array


def path_to_root(heads: Sequence[int], word: int) -> list[int]:
    path = [word]
    while heads[path[-1]] >= 0:
        path.append(heads[path[-1]])
    return path


def depth(heads: Sequence[int], word: int) -> int:
    return len(path_to_root(heads, word)) - 1


def distance(heads: Sequence[int], one: int, other: int) -> int:
    up, down = path_to_root(heads, one), path_to_root(heads, other)
    meeting = next(word for word in up if word in down)
    return up.index(meeting) + down.index(meeting)


def distance_loss(matrix: Array, words: Sequence[Array], heads: Sequence[Sequence[int]]) -> float:
    total = 0.0
    for h, tree in zip(words, heads, strict=True):
        n = len(tree)
        for i in range(n):
            for j in range(n):
                total += abs(distance(tree, i, j) - np.sum((matrix @ (h[i] - h[j])) ** 2)) / n**2
    return total / len(words)


def depth_loss(matrix: Array, words: Sequence[Array], heads: Sequence[Sequence[int]]) -> float:
    total = 0.0
    for h, tree in zip(words, heads, strict=True):
        for i in range(len(tree)):
            total += abs(depth(tree, i) - np.sum((matrix @ h[i]) ** 2)) / len(tree)
    return total / len(words)


def shortest_edges(tree: Sequence[int], words: Sequence[int]) -> set[frozenset[int]]:
    """As the paper's reporter: pairs of kept words by gold distance, each taken that joins two parts."""
    parts, found = [{word} for word in words], set()
    pairs = [(i, j) for i in words for j in words if i < j]
    for i, j in sorted(pairs, key=lambda pair: distance(tree, *pair)):
        one, other = (next(part for part in parts if word in part) for word in (i, j))
        if one is not other:
            parts = [part for part in parts if part not in (one, other)] + [one | other]
            found.add(frozenset((i, j)))
    return found


def scores(
    distances: Sequence[Array], depths: Sequence[Array], heads: Sequence[Sequence[int]], keep: Sequence[Sequence[bool]]
) -> tuple[float, float, float, float]:
    """UUAS, DSpr, root accuracy, NSpr."""
    right = edges = rooted = 0
    per_word, per_sentence = defaultdict(list), defaultdict(list)
    for d, h, tree, kept in zip(distances, depths, heads, keep, strict=True):
        words = [i for i in range(len(tree)) if kept[i]]
        # Distances above zero: scipy takes a zero for a missing edge.
        rows, columns = minimum_spanning_tree(d[np.ix_(words, words)] + 1 - np.eye(len(words))).nonzero()
        found = {frozenset((words[i], words[j])) for i, j in zip(rows, columns, strict=True)}
        gold = shortest_edges(tree, words)
        right += len(found & gold)
        edges += len(gold)
        rooted += tree[min(words, key=lambda i: h[i])] == -1
        for i in range(len(tree)):
            per_word[len(tree)].append(_spearman(d[i], [distance(tree, i, j) for j in range(len(tree))]))
        per_sentence[len(tree)].append(_spearman(h, [depth(tree, i) for i in range(len(tree))]))
    return (
        right / edges,
        float(np.mean([np.mean(per_word[n]) for n in per_word if 5 <= n <= 50])),
        rooted / len(heads),
        float(np.mean([np.mean(per_sentence[n]) for n in per_sentence if 5 <= n <= 50])),
    )


def _spearman(one: Sequence[float], other: Sequence[float]) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return float(np.nan_to_num(stats.spearmanr(one, other).statistic))
