"""A part's work: what a user says is a cue."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from lightning_interp.reporting.safe_keys import safe_keys

__all__ = ["are_ids", "checked_cues"]


def checked_cues(cues: object, ids: str = "token ids", patterns: bool = True) -> dict[str, Any]:
    """Cues by name, ids as lists.

    Args:
        cues: What was given.
        ids: What numbers in a list are, for messages.
        patterns: Whether a cue may be a pattern of text.

    Raises:
        ValueError: If it is no mapping, a name can be no part of a key, or a cue is neither ids nor a place in a batch
            nor a compiled pattern of text.

    Example:
        >>> checked_cues({"name": (3, 4), "marked": "is_cue"})
        {'name': [3, 4], 'marked': 'is_cue'}

    """
    kinds = f"a batch key, a list of {ids} or a compiled pattern" if patterns else f"a batch key or a list of {ids}"
    if cues is not None and not isinstance(cues, Mapping):
        raise ValueError(f"`cues` must map names to {kinds}, got {cues!r}.")
    found: dict[str, Any] = {}
    for name, cue in (cues or {}).items():
        if not isinstance(name, str) or "/" in name or safe_keys([name]) != {name: name}:
            raise ValueError(f"`cues` names {name!r}: letters, digits, '_', '-' and '.' make a part of a key.")
        listed = not isinstance(cue, str) and isinstance(cue, Sequence)
        key = (isinstance(cue, str | int) and not isinstance(cue, bool)) or callable(cue)
        pattern = patterns and isinstance(cue, re.Pattern) and isinstance(cue.pattern, str)
        if not (key or pattern or (listed and len(cue) and are_ids(cue))):
            raise ValueError(f"`cues` of {name!r} must be {kinds}, got {cue!r}.")
        found[name] = list(cue) if listed else cue
    return found


def are_ids(given: object) -> bool:
    """Whether it is a sequence of whole numbers from 0 on.

    Example:
        >>> are_ids((3, 4)), are_ids([-1]), are_ids(["3"])
        (True, False, False)

    """
    return isinstance(given, Sequence) and all(type(one) is int and one >= 0 for one in given)
