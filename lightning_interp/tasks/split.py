"""Pairs in two parts, without a sentence in both: to tune on and to test on, or two halves to compare."""

from __future__ import annotations

import hashlib
import random
from collections import Counter

from lightning_interp.tasks.pairs import MinimalPair, Task

__all__ = ["draw_pairs", "halves_of_pairs", "sentence_groups", "split_pairs"]


def split_pairs(task: Task, held_out: float = 0.5, seed: int = 0) -> tuple[Task, Task]:
    """Split a task in two by pair.

    Pairs that share a sentence, directly or by way of others, stay together. On which side they come depends on the
    seed, the task's name and their sentences alone: not on other tasks, nor on the order of the pairs.

    Args:
        task: The task.
        held_out: Share of the pairs for the second half, more than 0 and less than 1. What stays together may make it a
            little less; at least one pair is on each side.
        seed: Same seed, same halves.

    Returns:
        The rest and the held-out half, both with the task's name and the pairs in its order.

    Raises:
        ValueError: If ``held_out`` is not between 0 and 1, or all pairs share sentences with one another, so that there
            is no such split.

    Example:
        >>> pairs = [(f"{noun} sleeps", f"{noun} sleep") for noun in ("she", "he", "it", "one")]
        >>> tune, test = split_pairs(Task("agreement", "agreement", tuple(pairs)), held_out=0.25)
        >>> len(tune), len(test)
        (3, 1)

    """
    if not 0 < held_out < 1:
        raise ValueError(f"`held_out` must lie between 0 and 1, got {held_out}.")
    groups = _groups(task.pairs)
    if len(groups) < 2:
        raise ValueError(
            f"task {task.name!r} cannot be split: its {len(task)} pairs all share sentences, as {task.pairs[0].good!r}."
        )
    groups.sort(key=lambda group: min(_digest(seed, task.name, pair) for pair in group))
    target = round(held_out * len(task))
    chosen: set[MinimalPair] = set()
    size = 0
    # The last group is always left for the other side.
    for group in groups[:-1]:
        # Repeated pairs count as often as they occur.
        if size + len(group) <= target:
            chosen |= set(group)
            size += len(group)
    if not chosen:
        smallest = min(groups, key=len)
        chosen = set(smallest)
    rest = tuple(pair for pair in task.pairs if pair not in chosen)
    return (
        Task(task.name, task.phenomenon, rest),
        Task(task.name, task.phenomenon, tuple(pair for pair in task.pairs if pair in chosen)),
    )


def draw_pairs(task: Task, number: int | None, seed: int = 0) -> Task:
    """A task with so many of its pairs, in its order.

    Args:
        task: The task.
        number: How many; all where it has no more, or for ``None``.
        seed: Which pairs depends on it and on the task's name, not on other tasks.

    Example:
        >>> task = Task("t", "p", tuple((f"a {word}", f"b {word}") for word in "uvwxyz"))
        >>> drawn = draw_pairs(task, 2)
        >>> len(drawn), set(drawn.pairs) < set(task.pairs)
        (2, True)

    """
    if number is None or number >= len(task):
        return task
    places = sorted(random.Random(f"{seed} {task.name}").sample(range(len(task)), number))
    return Task(task.name, task.phenomenon, tuple(task.pairs[place] for place in places))


def sentence_groups(task: Task) -> list[int]:
    """The number of each pair's group, where pairs that share a sentence, also by way of others, are one group.

    Example:
        >>> pairs = (("he sleeps", "he sleep"), ("it is", "it are"), ("he sleeps", "he slept"))
        >>> sentence_groups(Task("t", "p", pairs))
        [0, 1, 0]

    """
    of = {pair: number for number, group in enumerate(_groups(task.pairs)) for pair in group}
    return [of[pair] for pair in task.pairs]


def halves_of_pairs(task: Task) -> list[int]:
    """The half, 0 or 1, to which each pair of a task belongs, so that what two halves agree on is the task.

    Pairs that share a sentence, also by way of others, are in one half: in both it would carry its noise into both,
    and pure noise would look reliable. The largest group first, each comes to the half that is smaller by then, so that
    pairs which share nothing take turns.

    Raises:
        ValueError: If one of the halves would have less than a third of the pairs, as most of them share sentences.

    Example:
        >>> pairs = (("he sleeps", "he sleep"), ("it is", "it are"), ("he sleeps", "he slept"), ("I am", "I is"))
        >>> halves_of_pairs(Task("t", "p", pairs))
        [0, 1, 0, 1]

    """
    groups = sentence_groups(task)
    home: dict[int, int] = {}
    sizes = [0, 0]
    for group, size in Counter(groups).most_common():
        home[group] = int(sizes[1] < sizes[0])
        sizes[home[group]] += size
    if 3 * min(sizes) < len(task):
        raise ValueError(
            f"task {task.name!r} has no two halves without a sentence in both: {max(sizes)} of its {len(task)} pair(s) "
            f"share sentences, as {task.pairs[0].good!r}. Give it pairs of more different sentences."
        )
    return [home[group] for group in groups]


def _digest(seed: int, name: str, pair: MinimalPair) -> bytes:
    # Python's own hash of a string differs from process to process.
    return hashlib.sha256("\0".join((str(seed), name, *pair)).encode()).digest()


def _groups(pairs: tuple[MinimalPair, ...]) -> list[list[MinimalPair]]:
    """The pairs by connected component, where two are connected if they share a sentence (union–find)."""
    parents: dict[str, str] = {}

    def root(sentence: str) -> str:
        while (parent := parents.setdefault(sentence, sentence)) != sentence:
            parents[sentence] = parents[parent]
            sentence = parents[sentence]
        return sentence

    for pair in pairs:
        parents[root(pair.good)] = root(pair.bad)
    groups: dict[str, list[MinimalPair]] = {}
    for pair in pairs:
        groups.setdefault(root(pair.good), []).append(pair)
    return list(groups.values())
