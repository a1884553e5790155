"""What the hooks of an analysis are called with, checked where a class is defined."""

from __future__ import annotations

import inspect

__all__ = ["check_hooks"]

_TAKES = {
    "begin": "reading",
    "before_batch": "seen",
    "after_batch": "seen",
    "collect": "reading",
    "merge": "reading",
    "finish": "reading",
    "commit": "reading",
}


def check_hooks(kind: type) -> None:
    """Refuse a class whose hooks could not be called, at once and not in the middle of a run.

    Raises:
        TypeError: If one takes something else than it is called with.

    Example:
        >>> class Old:
        ...     def after_batch(self, batch, selection): ...
        >>> check_hooks(Old)  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        TypeError: `Old.after_batch` is called with (seen), and takes (batch, selection). What was batch and ...

    """
    for name, argument in _TAKES.items():
        own = vars(kind).get(name)
        if not inspect.isfunction(own):
            continue
        signature = inspect.signature(own)
        try:
            signature.bind(None, None)
        except TypeError:
            takes = ", ".join(list(signature.parameters)[1:])
            raise TypeError(
                f"`{kind.__name__}.{name}` is called with ({argument}), and takes ({takes}). What was batch and "
                "selection is `seen.batch` and `seen.selection`; what is known of the moment is in `reading`."
            ) from None
