"""What a probe is to read from which rows, and which are held out together: the same on every rank."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_interp.functional.counter_noise import counter_hash, counter_uniform
from lightning_interp.functional.linear_probe import indicators

__all__ = ["ProbeTask", "class_task", "control_of", "folds_of", "target_task"]


@dataclass(frozen=True)
class ProbeTask:
    """One thing to be read, over the rows of all ranks in a common order."""

    name: str
    rows: Tensor
    """Rows that have it, bool (N,)."""
    classes: Tensor | None
    """Class of each of these, 0 … C−1, int64 (R,); ``None`` for a target."""
    y: Tensor
    """What a linear map is fitted to, float64 (R, M): a column for each class, or standardised targets."""

    @property
    def same_rows(self) -> bytes:
        """Tasks with the same rows have this alike."""
        return self.rows.numpy().tobytes()


def class_task(name: str, labels: Tensor, min_count: int, max_classes: int) -> ProbeTask:
    """A label set as a task; labels with fewer rows than ``min_count`` are left out.

    Raises:
        ValueError: If more than ``max_classes`` are left.

    """
    distinct, ids, sizes = torch.unique(labels, return_inverse=True, return_counts=True)
    kept = (distinct >= 0) & (sizes >= min_count)
    number = int(kept.sum())
    if number > max_classes:
        raise ValueError(
            f"`labels[{name!r}]` has {number} classes with at least {min_count} rows, and `max_classes` is "
            f"{max_classes}: a probe has a column of weights for each. Raise `min_count`, or `max_classes`."
        )
    renumber = torch.where(kept, kept.cumsum(0) - 1, -1)
    classes = renumber[ids] if len(labels) else labels
    rows = classes >= 0
    return ProbeTask(name, rows, classes[rows], indicators(classes[rows], number))


def target_task(name: str, values: Tensor) -> ProbeTask:
    """Targets (N, M) as a task, each in units of its spread; rows with one that is not finite are left out."""
    rows = values.isfinite().all(1)
    y = values[rows]
    if not len(y):
        return ProbeTask(name, rows, None, y)
    centred = y - y.mean(0)
    spread = centred.square().mean(0).sqrt()
    # What differs by less than its own rounding does not differ.
    return ProbeTask(name, rows, None, torch.where(spread > 1e-12 * y.abs().amax(0), centred / spread, 0.0))


def control_of(task: ProbeTask, types: Tensor, seed: int) -> ProbeTask:
    """The same task with what is read drawn for each word type, from what the rows of the task have.

    A type's draw depends on its id, the task's name and the seed; the shares that it is drawn from are those of the
    rows, in the order of classes or values.

    Args:
        task: The task.
        types: Type of each row of the task, int64 (R,).
        seed: Of the draws.

    """
    salt = zlib.crc32(f"{seed}/{task.name}".encode())
    number = len(task.y)
    if task.classes is not None:
        order = task.classes.argsort(stable=True)
    else:
        order = torch.arange(number)
        for column in reversed(task.y.unbind(1)):
            order = order[column[order].argsort(stable=True)]
    drawn = order[(counter_uniform(types, salt).double() * number).long().clamp_max(max(number - 1, 0))]
    classes = None if task.classes is None else task.classes[drawn]
    return ProbeTask(task.name, task.rows, classes, task.y[drawn])


def folds_of(units: Tensor, folds: int, seed: int) -> tuple[Tensor, int]:
    """The fold of each row, where rows of one unit are held out together, and how many folds there are.

    Units take turns in the order of a hash: which fold one is in does not depend on the model.
    """
    distinct, place = torch.unique(units, return_inverse=True)
    number = min(folds, len(distinct))
    turn = torch.empty_like(distinct)
    turn[counter_hash(distinct, seed).argsort()] = torch.arange(len(distinct))
    return turn[place] % max(number, 1), number
