"""Facts by what a callback is given: themselves, a file, or a function."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from lightning_interp.tasks.facts import Fact, read_facts
from lightning_interp.tasks.loading import all_of_kind, loaded

__all__ = ["Facts", "load_facts"]

# Text first: jsonargparse takes the first kind that fits. With a Path among them it leaves the file to us.
Facts = str | Path | Sequence[Fact] | Callable[[], Sequence[Fact]]
"""Facts, the path of a table, a function that returns facts, or its dotted name."""


def load_facts(facts: Facts, argument: str = "facts", reserved: Collection[str] = ()) -> list[Fact]:
    """The facts that an argument stands for.

    Args:
        facts: See :data:`Facts`.
        argument: What errors call it.
        reserved: What no relation may be called.

    Raises:
        ValueError: If there are none, they are something else, or the name of a relation cannot be part of a key.

    Example:
        >>> load_facts(lambda: [Fact("pet", "ada has a ___ .", "cat")])[0].answer
        'cat'

    """
    found = all_of_kind(argument, loaded(argument, facts, read_facts), Fact)
    if not found:
        raise ValueError(f"`{argument}` must hold Fact objects, at least one, got none.")
    for fact in found:
        if "/" in fact.relation or fact.relation in reserved:
            not_one = f" and not be one of {list(reserved)}" if reserved else ""
            raise ValueError(
                f"`{argument}` has the relation {fact.relation!r}, which becomes part of a key: it can have no "
                f"'/'{not_one}; rename it."
            )
    return found
