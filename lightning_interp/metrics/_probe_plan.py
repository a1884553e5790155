"""What a probe is to read from which rows, and which are held out together: the same on every rank."""

from __future__ import annotations

import operator
import zlib
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lightning_interp.functional.counter_noise import counter_hash, counter_uniform
from lightning_interp.functional.linear_probe import indicators
from lightning_interp.metrics._units import count_units, dealt_rows

__all__ = ["ProbeTask", "check_readable", "class_task", "control_of", "dealt_task", "folds_of", "target_task"]


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
    units: Tensor | None = None
    """Sample or word of each of these, to which what is read belongs, int64 (R,); ``None`` for one of its own."""
    by_sample: bool = False
    """Whether samples are held out, in place of word types."""

    @property
    def held_out(self) -> tuple[bytes, bool]:
        """Tasks with the same rows and folds have this alike."""
        return self.rows.numpy().tobytes(), self.by_sample


def class_task(
    name: str,
    labels: Tensor,
    min_count: int,
    max_classes: int,
    units: Tensor | None = None,
    by_sample: bool = False,
) -> ProbeTask:
    """A label set as a task; labels of fewer units than ``min_count`` are left out.

    Args:
        name: Of the set.
        labels: Label of each row, negative where there is none, int64 (N,).
        min_count: See above.
        max_classes: Labels that the set may have.
        units: Sample or word of each row, within which labels are constant, int64 (N,).
        by_sample: Whether samples are held out.

    Raises:
        ValueError: If more than ``max_classes`` are left.

    """
    distinct, ids, sizes = torch.unique(labels, return_inverse=True, return_counts=True)
    if units is not None:
        sizes = count_units(ids, units, len(distinct))
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
    own = None if units is None else units[rows]
    return ProbeTask(name, rows, classes[rows], indicators(classes[rows], number), own, by_sample)


def target_task(name: str, values: Tensor, units: Tensor | None = None, by_sample: bool = False) -> ProbeTask:
    """Targets (N, M) as a task, each in units of its spread; rows with one that is not finite are left out."""
    rows = values.isfinite().all(1)
    own = None if units is None else units[rows]
    return ProbeTask(name, rows, None, _standardised(values[rows]), own, by_sample)


def _standardised(y: Tensor) -> Tensor:
    if not len(y):
        return y
    centred = y - y.mean(0)
    spread = centred.square().mean(0).sqrt()
    # What differs by less than its own rounding does not differ.
    return torch.where(spread > 1e-12 * y.abs().amax(0), centred / spread, 0.0)


def check_readable(task: ProbeTask, labels: Tensor, types: Tensor, types_name: str) -> None:
    """Refuse a label set of which each label has one word type: it is never there where that type is held out.

    Args:
        task: The set, types of which are held out.
        labels: Label of each row, negative where there is none, int64 (N,).
        types: Word type of each row, int64 (N,).
        types_name: What types are called.

    Raises:
        ValueError: If each label has one type.

    """
    if task.by_sample or task.y.shape[1] < 2:
        return
    pairs = torch.unique(torch.stack([labels, types])[:, labels >= 0], dim=1)
    number = len(torch.unique(pairs[0]))
    if pairs.shape[1] == number and len(torch.unique(pairs[1])) > 2:
        raise ValueError(
            f"Each of the {number} labels of {task.name!r} has one type of {types_name!r}: labels equal types, and "
            "where a type is held out its label was never seen, so that accuracy is 0 by construction. With "
            "`types=None` samples are held out."
        )


def dealt_task(task: ProbeTask, seed: int) -> ProbeTask:
    """The same task with what is read dealt out anew among samples, words or rows, to which it belongs."""
    source = dealt_rows(task.units, len(task.y), torch.Generator().manual_seed(operator.index(seed)))
    if task.classes is None:
        return replace(task, y=_standardised(task.y[source]))
    return replace(task, classes=task.classes[source], y=task.y[source])


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
    return replace(task, classes=classes, y=task.y[drawn])


def folds_of(units: Tensor, folds: int, seed: int) -> tuple[Tensor, int]:
    """The fold of each row, where rows of one unit are held out together, and how many folds there are.

    Units take turns in the order of a hash: which fold one is in does not depend on the model.
    """
    distinct, place = torch.unique(units, return_inverse=True)
    number = min(folds, len(distinct))
    turn = torch.empty_like(distinct)
    turn[counter_hash(distinct, seed).argsort()] = torch.arange(len(distinct))
    return turn[place] % max(number, 1), number
