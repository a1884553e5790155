"""Purity of nearest neighbours by brute force."""

from __future__ import annotations

from itertools import combinations
from statistics import fmean

import numpy as np


def knn_purity(z: np.ndarray, labels: list[int], k: int, units: list[int] | None = None) -> float:
    """Rows that tie for the last places are drawn in every possible way; rows of one's own unit are no neighbours."""
    found = []
    for i in range(len(z)):
        others = [j for j in range(len(z)) if (j != i if units is None else units[j] != units[i])]
        distance = {j: round(float(np.linalg.norm(z[i] - z[j])), 9) for j in others}
        last = sorted(distance.values())[k - 1]
        sure = [j for j in others if distance[j] < last]
        tied = [j for j in others if distance[j] == last]
        ways = [[*sure, *some] for some in combinations(tied, k - len(sure))]
        found.append(fmean(fmean(float(labels[j] == labels[i]) for j in way) for way in ways))
    return fmean(found)
