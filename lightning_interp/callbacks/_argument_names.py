"""Arguments that a callback does not have, told in the name of its own class, with what it has instead."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterable
from functools import cache

__all__ = ["refuse_unknown_arguments"]


def refuse_unknown_arguments(kind: type, unknown: Iterable[str]) -> None:
    """Refuse names of arguments that came through to the base of a class.

    Where arguments are handed on as ``**kwargs``, Python's own error names the class at the end of the chain, which the
    user never wrote, and nothing that is like the name.

    Raises:
        TypeError: If there is one; it names the nearest that there are.

    Example:
        >>> class Base:
        ...     def __init__(self, folds=1, **unknown):
        ...         refuse_unknown_arguments(type(self), unknown)
        >>> class Probe(Base):
        ...     def __init__(self, sites, **kwargs):
        ...         super().__init__(**kwargs)
        >>> Probe(["enc"], fold=3)
        Traceback (most recent call last):
        TypeError: Probe has no argument `fold`. Nearest: `folds`. It has: `sites`, `folds`.

    """
    names = _names(kind)
    for name in unknown:
        near = difflib.get_close_matches(name, names, n=3)
        nearest = f" Nearest: {_listed(near)}." if near else ""
        raise TypeError(f"{kind.__name__} has no argument `{name}`.{nearest} It has: {_listed(names)}.")


@cache
def _names(kind: type) -> tuple[str, ...]:
    found: dict[str, None] = {}
    for base in kind.__mro__:
        own = vars(base).get("__init__")
        if own is None:
            continue
        parameters = list(inspect.signature(own).parameters.values())[1:]
        found |= {one.name: None for one in parameters if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)}
        if not any(one.kind is one.VAR_KEYWORD for one in parameters):
            break
    return tuple(found)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)
