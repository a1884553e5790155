"""From the gradients of tasks to matrices over them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_interp.functional.alignment import cosine_matrix, disattenuate, reliability
from lightning_interp.functional.overlap import overlap_above_null

__all__ = ["alignment_matrices", "known_matrix", "overlap_matrices"]


def alignment_matrices(sketches: Sequence[Tensor], groups: Sequence[str]) -> tuple[dict[str, Tensor], Tensor]:
    """Cosines of the tasks' gradients, raw and centred, each also without what noise takes away.

    Args:
        sketches: Of each task, sums over one half of its pairs and over the other, (groups, 2, buckets).
        groups: What the groups are called; the first is the whole model.

    Returns:
        Matrices (tasks, tasks) by name, ``alignment``, ``alignment_centred`` and both with ``_disattenuated``, and the
        same under ``<name>/<group>`` for all groups but the first; and the reliability of the whole, (tasks,). A group
        in which a task has no gradient has NaN in that row and column. See :func:`cosine_matrix`, :func:`disattenuate`.

    Raises:
        ValueError: If there is not one name a group.

    Example:
        >>> sketches = [torch.tensor([[[1.0, 0.0], [1.0, 0.0]]]), torch.tensor([[[1.0, 1.0], [1.0, 1.0]]])]
        >>> matrices, reliable = alignment_matrices(sketches, ["all"])
        >>> round(matrices["alignment"][0, 1].item(), 4), [round(one, 4) for one in reliable.tolist()]
        (0.7071, [1.0, 1.0])

    """
    wrong = [tuple(one.shape) for one in sketches if one.ndim != 3 or one.shape[:2] != (len(groups), 2)]
    if wrong:
        raise ValueError(
            f"`sketches` must be ({len(groups)}, 2, buckets) for the groups {list(groups)}, got {wrong[0]}."
        )
    matrices: dict[str, Tensor] = {}
    for place, group in enumerate(groups):
        # One group at a time: all of them in float64 would be large.
        first, second = (torch.stack([one[place, half] for one in sketches]) for half in (0, 1))
        for centred in (False, True):
            name = "alignment_centred" if centred else "alignment"
            end = f"/{group}" if place else ""
            cosines = cosine_matrix(first + second, centred)
            matrices[name + end] = cosines
            matrices[f"{name}_disattenuated{end}"] = disattenuate(cosines, reliability(first, second, centred))
    first, second = (torch.stack([one[0, half] for one in sketches]) for half in (0, 1))
    return matrices, reliability(first, second)


def overlap_matrices(samples: Tensor, null: Tensor, fraction: float, matched: bool = True) -> dict[str, Tensor]:
    """Overlap of the tasks' largest coordinates, and its null.

    The null gradient of a task is by default that of its own pairs with the sentences of half of them swapped, which
    costs no further pass: one half's sum less the other's. That this is the null is this library's choice.

    Args:
        samples: The gradients at a sample of coordinates, (tasks, sample).
        null: Their nulls, or gradients of general text at the same coordinates, (draws, sample).
        fraction: Share of the coordinates in a set.
        matched: Whether row i of the null belongs to task i.

    Returns:
        ``overlap``, ``overlap_null`` and ``overlap_above``, (tasks, tasks); see :func:`overlap_above_null`.

    Example:
        >>> scale = torch.tensor([9.0, 8.0, 1.0, 1.0])
        >>> samples = torch.stack([scale, 2 * scale])
        >>> found = overlap_matrices(samples, samples.roll(1, dims=1), fraction=0.5)
        >>> {name: matrix[0, 1].item() for name, matrix in found.items()}
        {'overlap': 1.0, 'overlap_null': 1.0, 'overlap_above': 0.0}

    """
    found = overlap_above_null(samples, null, fraction, matched)
    return {"overlap": found.overlap, "overlap_null": found.null, "overlap_above": found.above}


def known_matrix(matrix: Tensor, known: Tensor, tasks: int) -> Tensor:
    """A matrix over all tasks from one over some of them; NaN for the others.

    Args:
        matrix: Shape (known, known), or (known,) for a vector.
        known: The places of the tasks that it is of, rising.
        tasks: How many there are in all.

    Example:
        >>> known_matrix(torch.tensor([[1.0, 0.5], [0.5, 1.0]]), torch.tensor([0, 2]), 3)[0]
        tensor([1.0000,    nan, 0.5000])

    """
    whole = torch.full((tasks,) * matrix.ndim, math.nan, dtype=matrix.dtype)
    whole[(known[:, None], known) if matrix.ndim == 2 else known] = matrix
    return whole
