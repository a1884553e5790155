"""What a space of tasks is compared with: the linguist's grouping, and the vocabulary as a confound."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_interp.functional.alignment import same_group
from lightning_interp.tasks.pairs import Task

__all__ = ["lexical_overlap", "phenomenon_hypothesis"]

_WORD = re.compile(r"\w+(?:['’]\w+)*")


def lexical_overlap(tasks: Sequence[Task]) -> Tensor:
    r"""How much of their vocabulary two tasks share, :math:`|V_i \cap V_j| / |V_i \cup V_j|` (Jaccard).

    A vocabulary is the set of words in good and bad sentences, in lower case and without punctuation. In BLiMP the mean
    is .59 between paradigms of one phenomenon and .45 between others. Rare words count as much as frequent ones, which
    makes it an inexact measure of what a model's gradients share by vocabulary: as a control it leaves a remainder.

    Args:
        tasks: T tasks.

    Returns:
        (T, T) in float64, symmetric, with ones on the diagonal.

    Raises:
        ValueError: If there are no tasks, or one has no word.

    Example:
        >>> first = Task("a", "x", (("the king sleeps", "the king sleep"),))
        >>> lexical_overlap([first, Task("b", "x", (("the king walks", "the king walk"),))])[0, 1].item()
        0.3333333333333333

    """
    _check_some(tasks)
    vocabularies = [_words(task) for task in tasks]
    rows = [[len(a & b) / len(a | b) for b in vocabularies] for a in vocabularies]
    return torch.tensor(rows, dtype=torch.float64)


def phenomenon_hypothesis(tasks: Sequence[Task]) -> Tensor:
    """The hypothesised space: 1 where two tasks are of one phenomenon, else 0.

    Args:
        tasks: T tasks.

    Returns:
        (T, T) in float64, symmetric, with ones on the diagonal.

    Raises:
        ValueError: If there are no tasks.

    Example:
        >>> pair = (("he sleeps", "he sleep"),)
        >>> phenomenon_hypothesis([Task("a", "x", pair), Task("b", "x", pair), Task("c", "y", pair)]).tolist()
        [[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]]

    """
    _check_some(tasks)
    return same_group([task.phenomenon for task in tasks])


def _words(task: Task) -> set[str]:
    words = {word for pair in task.pairs for sentence in pair for word in _WORD.findall(sentence.lower())}
    if not words:
        raise ValueError(f"task {task.name!r} has no words, as {task.pairs[0].good!r}.")
    return words


def _check_some(tasks: Sequence[Task]) -> None:
    if not tasks:
        raise ValueError("`tasks` is empty.")
