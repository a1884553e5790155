"""The tasks of a space, so that what two of them share is no pair of sentences."""

from __future__ import annotations

from lightning_interp.compat import pl
from lightning_interp.tasks.loading import Tasks, load_tasks
from lightning_interp.tasks.pairs import Task
from lightning_interp.tasks.shared import remove_shared
from lightning_interp.tasks.split import draw_pairs

__all__ = ["comparable_tasks"]


def comparable_tasks(tasks: Tasks, max_pairs: int, seed: int = 0, who: str = "TaskSpace") -> list[Task]:
    """At least two tasks with at least two pairs each, of which no two tasks have the same; a warning where they had.

    Args:
        tasks: See :func:`load_tasks`.
        max_pairs: Pairs of each task, drawn from those that are left; all where there are no more.
        seed: Of the pairs drawn.
        who: Whom the warning names.

    Raises:
        ValueError: If there are fewer, or one is called ``mean``.

    Example:
        >>> tasks = comparable_tasks("grammar", max_pairs=8)
        >>> len(tasks), len(tasks[0])
        (30, 8)

    """
    found = load_tasks(tasks)
    if len(found) < 2:
        raise ValueError(f"`tasks` must have at least 2 tasks to compare, got {[task.name for task in found]}.")
    if any(task.name == "mean" for task in found):
        raise ValueError("`tasks` has a task named 'mean', under which the mean over tasks is logged: rename it.")
    unshared, removed = remove_shared(found)
    if removed:
        pl.utilities.rank_zero_warn(f"{who} left out {removed} pairs that several tasks have.")
    few = [task for task in unshared if len(task) < 2]
    if few:
        raise ValueError(f"task {few[0].name!r} has one pair that no other task has; at least 2 are needed.")
    return [draw_pairs(task, max_pairs, seed) for task in unshared]
