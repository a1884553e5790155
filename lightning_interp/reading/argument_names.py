"""Arguments that a callback does not have, told in the name of its own class, with what it has instead."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterable
from functools import cache
from typing import Any, Unpack, get_args, get_origin, is_typeddict

__all__ = ["argument_names", "refuse_unknown_arguments"]

_RENAMED = {"limit_examples": "max_examples", "pairs_per_task": "max_pairs", "facts_per_relation": "max_facts"}
"""Arguments that had another name before 0.1.0."""


def refuse_unknown_arguments(kind: type, given: Iterable[str], known: type | None = None) -> None:
    """Refuse names of arguments that came through to a base of a class.

    Where arguments are handed on as ``**kwargs``, Python's own error names the class at the end of the chain, which the
    user never wrote, and nothing that is like the name.

    Args:
        kind: The class that the user wrote.
        given: The names that came through.
        known: A ``TypedDict`` of those that may, where any may.

    Raises:
        TypeError: If there is one that may not; it names the nearest that there are.

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
    for name in given:
        if known is not None and name in known.__annotations__:
            continue
        names = argument_names(kind)
        near = difflib.get_close_matches(name, names, n=3)
        nearest = f" Nearest: {_listed(near)}." if near else ""
        if _RENAMED.get(name) in names:
            nearest = f" It is called `{_RENAMED[name]}` now."
        raise TypeError(f"{kind.__name__} has no argument `{name}`.{nearest} It has: {_listed(names)}.")


@cache
def argument_names(kind: type) -> tuple[str, ...]:
    """The arguments of a class, also those that it hands on: to its base, or as ``**kwargs: Unpack[…]`` says.

    Example:
        >>> from lightning_interp.callbacks import TruthProbe
        >>> [name in argument_names(TruthProbe) for name in ("probes", "pooling", "log", "max_examples")]
        [True, True, True, False]

    """
    found: dict[str, None] = {}
    for base in kind.__mro__:
        own = vars(base).get("__init__")
        if own is None:
            continue
        parameters = list(inspect.signature(own).parameters.values())[1:]
        found |= {one.name: None for one in parameters if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)}
        rest = next((one for one in parameters if one.kind is one.VAR_KEYWORD), None)
        told = None if rest is None else _unpacked(rest.annotation, own)
        found |= dict.fromkeys(() if told is None else told.__annotations__)
        if rest is None or told is not None:
            break
    return tuple(found)


def _unpacked(annotation: Any, owner: Any) -> type | None:
    """The ``TypedDict`` of an annotation ``Unpack[…]``."""
    if isinstance(annotation, str):
        try:
            annotation = eval(annotation, getattr(owner, "__globals__", {}))
        except Exception:  # of names that only a type checker sees
            return None
    (told,) = get_args(annotation) if get_origin(annotation) is Unpack else (None,)
    return told if is_typeddict(told) else None


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)
