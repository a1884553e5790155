"""Work whose failure costs a warning, not the training."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TypeVar

__all__ = ["attempt", "cause"]

T = TypeVar("T")


def attempt(name: str, said: set[str], what: str, work: Callable[[], T]) -> T | None:
    """Do what a training does not depend on; where it fails, that is said once.

    Args:
        name: Whose work it is.
        said: What was said already; it grows.
        what: What is done, as in "could not …".
        work: What to do.

    Returns:
        What the work gives; ``None`` where it failed.

    Example:
        >>> said = set()
        >>> with warnings.catch_warnings(record=True) as caught:
        ...     warnings.simplefilter("always")
        ...     attempt("Probe", said, "draw", lambda: 1 / 0), attempt("Probe", said, "draw", lambda: 1 / 0)
        (None, None)
        >>> [str(one.message) for one in caught]
        ['Probe could not draw: ZeroDivisionError: division by zero. Training goes on; this is said once.']

    """
    try:
        return work()
    except Exception as error:
        if what not in said:
            said.add(what)
            warnings.warn(
                f"{name} could not {what}: {cause(error)}. Training goes on; this is said once.", stacklevel=3
            )
        return None


def cause(error: BaseException) -> str:
    """An error in words.

    Example:
        >>> cause(KeyError("site"))
        "KeyError: 'site'"

    """
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
