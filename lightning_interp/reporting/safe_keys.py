"""Names for keys that hold other people's words: what every logger takes as it is."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable, Iterator
from itertools import count

__all__ = ["LONGEST", "PLACEHOLDERS", "safe_keys"]

PLACEHOLDERS = frozenset({"<site>", "<downstream site>", "<group>"})
"""Parts of a key that stand for names which only the model tells."""

LONGEST = 250
"""Bytes of a key in UTF-8: what MLflow takes, and a file system as a file's name."""

_SAFE = re.compile(r"(?!\.\.|\./|\.\Z)[\w.-]+(?:/(?!\.{1,2}(?:/|\Z))[\w.-]+)*")
_OTHER = re.compile(r"[^\w.-]")


def safe_keys(keys: Iterable[str], placeholders: Collection[str] = PLACEHOLDERS) -> dict[str, str]:
    r"""The key under which each of these is logged.

    Letters and digits of any script, ``_``, ``-``, ``.`` and single slashes between nonempty parts stay, every other
    character becomes ``_``; so does a part that is empty, ``.`` or ``..``, and the first of two dots at the beginning.
    What is longer than :data:`LONGEST` is cut off and ends in a number that stands for the whole. Keys that need no
    change keep their name; of others that would be like one that is there, later ones get ``_2``, ``_3``, … at the end.

    MLflow (``^[/\w.\- :]*$`` in a normal form of a path) and TensorBoard take these as they are.

    Args:
        keys: Keys as they are made of names; one that is there twice counts once.
        placeholders: Parts that stay as they are. Give none where all names are known: a class may be called so.

    Example:
        >>> list(safe_keys(["loss/head/PRP$", "loss/head/PRP_", "loss/head/''", "loss/<site>/.."]).values())
        ['loss/head/PRP__2', 'loss/head/PRP_', 'loss/head/__', 'loss/<site>/_']

    """
    found = dict.fromkeys(keys, "")
    is_safe = _SAFE.fullmatch
    changed = []
    for key in found:
        if is_safe(key) and (len(key) <= LONGEST // 4 or len(key.encode()) <= LONGEST):
            found[key] = key
        else:
            changed.append(key)
    if changed:
        taken = set(found.values())
        numbers: dict[str, Iterator[int]] = {}
        for key in changed:
            name = safe = _safe(key, placeholders)
            while name in taken:
                end = f"_{next(numbers.setdefault(safe, count(2)))}"
                name = _cut(safe, safe, room=len(end)) + end
            taken.add(name)
            found[key] = name
    return found


def _safe(key: str, placeholders: Collection[str]) -> str:
    name = "/".join(part if part in placeholders else _safe_part(part) for part in key.split("/"))
    return _cut("_" + name[1:] if name.startswith("..") else name, key)


def _safe_part(part: str) -> str:
    return "_" if part in ("", ".", "..") else _OTHER.sub("_", part)


def _cut(name: str, key: str, room: int = 0) -> str:
    """A name with room for some more characters behind it; a cut one ends in a number that stands for the key."""
    if len(name.encode()) + room <= LONGEST:
        return name
    end = "-" + hashlib.sha256(key.encode("utf-8", "backslashreplace")).hexdigest()[:8]
    start = name.encode()[: LONGEST - len(end) - room].decode("utf-8", "ignore")
    return start.rstrip("/") + end
