"""Names of label sets: which are built in, which are nested under which, and what a name may be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

__all__ = ["BUILT_IN_LABELS", "BUILT_IN_PARENTS", "check_names", "check_parents", "check_plane"]

BUILT_IN_LABELS = ("token", "bigram", "trigram", "flat_bigram", "flat_trigram", "next_token")
BUILT_IN_PARENTS = {"bigram": "token", "trigram": "token"}


def check_names(labels: Sequence[str]) -> tuple[str, ...]:
    """Label sets as a tuple, or an error that says what is wrong with a name."""
    if isinstance(labels, str):
        raise ValueError(f"`labels` must be a list of names, got the string {labels!r}.")
    names = tuple(labels)
    for name in names:
        if not name or "/" in name or name in ("sd", "se"):
            raise ValueError(
                f"`labels` holds {name!r}; a name becomes part of a key and has no slash, nor is it sd or se."
            )
    if len(set(names)) != len(names):
        raise ValueError(f"`labels` names a set twice: {list(names)}.")
    return names


def check_plane(plane: Sequence[str] | None) -> tuple[str, ...]:
    """The two label sets (X, Y) of the information plane, or none."""
    if plane is None or len(plane) == 0:
        return ()
    names = check_names(plane)
    if len(names) != 2:
        raise ValueError(f"`information_plane` must name two label sets (X, Y), got {list(names)}.")
    return names


def check_parents(parents: Mapping[str, str], names: Sequence[str], plane: Sequence[str]) -> dict[str, str]:
    """The parent of every nested label set in use."""
    used = {name: parent for name, parent in parents.items() if name in names}
    for name in plane:
        if name in used:
            raise ValueError(
                f"`information_plane` takes flat label sets; {name!r} is nested under {used[name]!r}. "
                f"Flat ones are {[n for n in BUILT_IN_LABELS if n not in BUILT_IN_PARENTS]}."
            )
    unknown = [name for name in parents if name not in names and name not in BUILT_IN_PARENTS]
    if unknown:
        raise ValueError(f"`parents` names {unknown}, which are not in `labels` {list(names)}.")
    return used
