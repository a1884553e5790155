"""Minimal pairs: an acceptable sentence and an unacceptable one that differ in little else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeGuard

__all__ = ["MinimalPair", "Task", "is_pair"]


class MinimalPair(NamedTuple):
    """Two sentences of which a language model that knows the rule finds the first more probable.

    Example:
        >>> MinimalPair("the king sleeps .", "the king sleep .").good
        'the king sleeps .'

    """

    good: str
    bad: str


@dataclass(frozen=True)
class Task:
    """Minimal pairs that test one thing, such as one paradigm of BLiMP.

    Args:
        name: What the task is called; every task of a run needs its own.
        phenomenon: The rule that it belongs to, shared with related tasks.
        pairs: The pairs, at least one; anything that holds two sentences each is made a :class:`MinimalPair`.

    Raises:
        TypeError: If a pair is not two strings.
        ValueError: If a name is empty, there are no pairs, a sentence is empty or blank, or both sentences of a pair
            are the same.

    Example:
        >>> task = Task("simple", "agreement", (("the king sleeps .", "the king sleep ."),))
        >>> len(task), task.pairs[0].bad
        (1, 'the king sleep .')

    """

    name: str
    phenomenon: str
    pairs: tuple[MinimalPair, ...]

    def __post_init__(self) -> None:
        for field in ("name", "phenomenon"):
            if not getattr(self, field):
                raise ValueError(f"`{field}` is empty in the task {self.name!r} of {self.phenomenon!r}.")
        pairs = tuple(self._checked(index, pair) for index, pair in enumerate(self.pairs))
        if not pairs:
            raise ValueError(f"task {self.name!r} has no pairs.")
        # The only way to set a field of a frozen dataclass.
        object.__setattr__(self, "pairs", pairs)

    def _checked(self, index: int, pair: object) -> MinimalPair:
        if not is_pair(pair):
            raise TypeError(f"task {self.name!r}, pair {index}: expected two sentences, got {pair!r}.")
        good, bad = pair
        for side, sentence in (("good", good), ("bad", bad)):
            if not sentence.strip():
                raise ValueError(f"task {self.name!r}, pair {index}: the {side} sentence is {sentence!r}.")
        if good == bad:
            raise ValueError(f"task {self.name!r}, pair {index}: good and bad are both {good!r}.")
        return MinimalPair(good, bad)

    def __len__(self) -> int:
        return len(self.pairs)


def is_pair(pair: object) -> TypeGuard[Sequence[str]]:
    """Whether something is two sentences; a text of two characters, which would unpack into two, is not.

    Example:
        >>> is_pair(["the king sleeps", "the king sleep"]), is_pair("ab")
        (True, False)

    """
    if not isinstance(pair, Sequence) or isinstance(pair, str) or len(pair) != 2:
        return False
    return all(isinstance(text, str) for text in pair)
