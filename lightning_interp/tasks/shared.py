"""Pairs that several tasks have: to be removed before anything is called transfer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from lightning_interp.tasks.pairs import MinimalPair, Task

__all__ = ["remove_shared"]


def remove_shared(tasks: Sequence[Task], by: str = "pair") -> tuple[list[Task], int]:
    """Remove what several tasks share from all of them.

    Removing it from all is the strict choice: left in one task, a shared pair would still have been trained on when
    that task is tuned, and which task keeps it would depend on their order. In BLiMP one pair is in two paradigms
    (``regular_plural_subject_verb_agreement_2`` and its irregular twin), and 33 sentences are.

    Args:
        tasks: The tasks.
        by: ``"pair"`` removes pairs of which another task has both sentences, as the same pair; ``"sentence"`` pairs of
            which another task has either sentence, good or bad.

    Returns:
        The tasks in their order, and how many pairs were removed, counted in every task that had them.

    Raises:
        ValueError: If two tasks have one name, a task would be left without pairs, or ``by`` is something else.

    Example:
        >>> both, own = ("he sleeps", "he sleep"), ("she sleeps", "she sleep")
        >>> tasks, removed = remove_shared([Task("a", "x", (both, own)), Task("b", "x", (both, ("it is", "it are")))])
        >>> removed, [len(task) for task in tasks]
        (2, [1, 1])

    """
    if by not in ("pair", "sentence"):
        raise ValueError(f"`by` is {by!r}; it must be 'pair' or 'sentence'.")
    repeated = [name for name, count in Counter(task.name for task in tasks).items() if count > 1]
    if repeated:
        raise ValueError(f"`tasks` has more than one task named {repeated[0]!r}.")

    def keys(pair: MinimalPair) -> set[MinimalPair] | set[str]:
        return {pair} if by == "pair" else set(pair)

    owners = Counter(key for task in tasks for key in {key for pair in task.pairs for key in keys(pair)})
    kept, removed = [], 0
    for task in tasks:
        pairs = tuple(pair for pair in task.pairs if all(owners[key] == 1 for key in keys(pair)))
        if not pairs:
            raise ValueError(
                f"task {task.name!r} would be left without pairs: other tasks share all of its {len(task)}."
            )
        removed += len(task) - len(pairs)
        kept.append(Task(task.name, task.phenomenon, pairs))
    return kept, removed
