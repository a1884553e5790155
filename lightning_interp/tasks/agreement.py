"""What a space of tasks agrees with: the linguist's grouping, the vocabulary, and the space at another time."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from lightning_interp.functional.mantel import MantelTest, beyond_control, mantel, partial_mantel
from lightning_interp.functional.rank_correlation import matrix_correlation, off_diagonal
from lightning_interp.tasks.hypotheses import lexical_overlap, phenomenon_hypothesis
from lightning_interp.tasks.pairs import Task

__all__ = ["TaskHypotheses", "stability", "submatrix"]


class TaskHypotheses:
    """What the space of some tasks may look like, and how far one agrees with it.

    Args:
        tasks: T tasks.

    Example:
        >>> import torch
        >>> tasks = [Task(name, name[0], ((f"{name} is", f"{name} are"),)) for name in ("a1", "a2", "b1", "b2")]
        >>> hypotheses = TaskHypotheses(tasks)
        >>> hypotheses.sides, hypotheses.comparisons
        (['within', 'between'], ['phenomena'])
        >>> hypotheses.agreement(hypotheses.phenomena, torch.arange(4))["phenomena"].statistic
        1.0

    """

    def __init__(self, tasks: Sequence[Task]) -> None:
        self.phenomena = phenomenon_hypothesis(tasks)
        """1 where two tasks are of one phenomenon, float64 (T, T)."""
        self.lexical = lexical_overlap(tasks)
        """How much of their vocabulary two tasks share, float64 (T, T)."""

    @property
    def sides(self) -> list[str]:
        """What can be averaged over: pairs ``within`` a phenomenon, and ``between`` two."""
        same = off_diagonal(self.phenomena)
        return [side for side, there in (("within", same.any()), ("between", (same == 0).any())) if there]

    @property
    def comparisons(self) -> list[str]:
        """What a space can be compared with: ``phenomena``, ``phenomena_given_words``, ``words``; needs three tasks."""
        if len(self.phenomena) < 3:
            return []
        found = ["phenomena"] if _ordered(self.phenomena) else []
        if _ordered(self.lexical):
            given = bool(found) and beyond_control(self.phenomena, self.lexical)
            found += ["phenomena_given_words"] * given + ["words"]
        return found

    def agreement(self, space: Tensor, known: Tensor, permutations: int = 999, seed: int = 0) -> dict[str, MantelTest]:
        """Spearman's correlations of a space with what it can be compared with.

        Args:
            space: Over all tasks, (T, T).
            known: The places of the tasks that have all their values in it.
            permutations: Of the tests.
            seed: Of the permutations.

        Returns:
            By name of :attr:`comparisons` the correlation and its p, NaN for ``words``, which are not tested; of
            ``phenomena_given_words`` the partial one (:func:`partial_mantel`). What cannot be tested is left out.

        """
        space, phenomena, words = (submatrix(one, known) for one in (space, self.phenomena, self.lexical))
        found: dict[str, MantelTest] = {}
        if len(known) < 3 or not _ordered(space):
            return found
        for name in self.comparisons:
            if name == "words":
                found[name] = MantelTest(matrix_correlation(space, words), math.nan)
            elif name == "phenomena" and _ordered(phenomena):
                found[name] = mantel(space, phenomena, permutations, seed)
            elif name == "phenomena_given_words" and _beyond(space, phenomena, words):
                found[name] = partial_mantel(space, phenomena, words, permutations, seed)
        return found


def stability(now: Tensor, earlier: Tensor | None) -> float:
    """Spearman's correlation of a space with an earlier one, over the tasks that both have; NaN for fewer than three.

    Args:
        now: Shape (T, T), NaN on the diagonal where a task has no place.
        earlier: Likewise; ``None`` where there is none.

    Example:
        >>> import torch
        >>> space = torch.tensor([[1.0, 0.5, 0.1], [0.5, 1.0, 0.2], [0.1, 0.2, 1.0]])
        >>> stability(space, space), stability(space, None)
        (1.0, nan)

    """
    if earlier is None:
        return math.nan
    both = (now.diagonal().isfinite() & earlier.diagonal().isfinite()).nonzero().squeeze(1)
    return matrix_correlation(submatrix(now, both), submatrix(earlier, both)) if len(both) > 2 else math.nan


def submatrix(matrix: Tensor, tasks: Tensor) -> Tensor:
    """The rows and columns of some tasks."""
    return matrix[tasks[:, None], tasks]


def _beyond(space: Tensor, phenomena: Tensor, words: Tensor) -> bool:
    """Whether the vocabulary leaves anything to compare."""
    ordered = _ordered(phenomena) and _ordered(words)
    return ordered and all(beyond_control(one, words) for one in (space, phenomena))


def _ordered(matrix: Tensor) -> bool:
    """Whether the pairs of tasks differ at all."""
    entries = off_diagonal(matrix)
    return bool((entries != entries[0]).any())
