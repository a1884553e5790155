"""Copies of callbacks, pickled ones too, which belong to no model and no Trainer."""

from __future__ import annotations

from typing import Any

__all__ = ["unattached"]

# Lightning puts these on every callback: bound methods of the module.
_OF_LIGHTNING = ("log", "log_dict")


def unattached(owner: object) -> dict[str, Any]:
    """What a copy of an object starts with: its attributes, with None for those that its classes name ``attached``.

    Example:
        >>> class Reader:
        ...     attached = ("model",)
        ...     def __init__(self):
        ...         self.model, self.sites = object(), ["enc"]
        >>> unattached(Reader())
        {'model': None, 'sites': ['enc']}

    """
    dropped = {name for kind in type(owner).__mro__ for name in vars(kind).get("attached", ())}
    held = {name: value for name, value in vars(owner).items() if name not in _OF_LIGHTNING}
    return {name: None if name in dropped else value for name, value in held.items()}
