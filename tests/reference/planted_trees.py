"""Representations that embed trees: every edge a direction of its own, so that squared distance is tree distance."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from reference.structural_probe import path_to_root


def pythagorean(heads: Sequence[int], directions: int, generator: torch.Generator) -> Tensor:
    """Words at the sum of the unit vectors of the edges above them (Reif et al. 2019): ‖x_i − x_j‖² = d_ij."""
    order = torch.randperm(directions, generator=generator)
    points = torch.zeros(len(heads), directions)
    for word in range(len(heads)):
        for above in path_to_root(heads, word)[:-1]:
            points[word, order[above]] += 1
    return points


def planted(
    trees: Sequence[Sequence[int]], dim: int, noise: float, seed: int = 0, directions: int = 24
) -> list[Tensor]:
    """These points of each sentence behind one random map into ``dim`` dimensions, away from 0, with noise."""
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(directions, dim, generator=generator)
    found = []
    for heads in trees:
        points = pythagorean(heads, directions, generator) @ hidden
        found.append(points + 5 + noise * torch.randn(len(heads), dim, generator=generator))
    return found
