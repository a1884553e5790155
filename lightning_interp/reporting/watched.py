"""Which of many keys a person watches, and how they are put into panels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from lightning_interp.metrics.derived import ABOVE, ABOVE_BASELINE, BINNED, WEIGHTED
from lightning_interp.metrics.measure import UNRANKED
from lightning_interp.reporting.measure_words import ParsedKey, display_name, is_bookkeeping, parse_key

__all__ = ["MOST_PANELS", "Place", "left_out", "places_of", "titles_of", "watched"]

MOST_PANELS = 12
"""So many panels of a figure are readable."""

# What a row says of itself.
_OF_THE_ROW = frozenset({"step", "epoch"})


def watched(keys: Iterable[str]) -> list[str]:
    """Of these keys those that a person watches, what is looked at first before the rest.

    That is what the model logs of its own validation, and then of this library's measures each at its best: above
    chance where there is that, the mean over scales where there is one, the first of two estimators. Not how readings
    were taken (rows, coverage, seconds), and not what values are compared with (levels of chance, random weights,
    controls).

    Example:
        >>> watched(["step", "regularity_above_chance/enc/token", "regularity/enc/token", "rows/enc", "val_loss"])
        ['val_loss', 'regularity_above_chance/enc/token']

    """
    parsed = _parsed(list(keys))
    ours: dict[str, list[ParsedKey]] = {}
    for one in parsed.values():
        if one is not None:
            ours.setdefault(one.measure, []).append(one)
    found = [
        key
        for key, one in parsed.items()
        if key not in _OF_THE_ROW and (one is None or not (is_bookkeeping(one) or _said_better(one, ours)))
    ]
    return sorted(found, key=lambda key: _place(key, parsed[key]))


def _parsed(keys: Sequence[str]) -> dict[str, ParsedKey | None]:
    """Keys taken apart; the prefix that one of them shows is looked for in the others, of which some need it."""
    found = {key: parse_key(key) for key in keys}
    prefixes = {one.prefix for one in found.values() if one is not None and one.prefix}
    for key, one in found.items():
        if one is None:
            behind = (parse_key(key, prefix) for prefix in sorted(prefixes) if key.startswith(prefix))
            found[key] = next((other for other in behind if other is not None), None)
    return found


def _place(key: str, found: ParsedKey | None) -> int:
    if found is None:
        # What is logged of training batches says less than what is of the validation, and comes after our own.
        return UNRANKED if key.lower().startswith("train") else -1
    return found.words.rank


def _said_better(key: ParsedKey, ours: Mapping[str, Sequence[ParsedKey]]) -> bool:
    """Whether another of the keys, by measure, says the same and is rather watched."""
    if key.words.detail_of in ours:
        return True
    return any(one.prefix == key.prefix and _is_better(one, key) for one in ours[key.measure])


def _is_better(one: ParsedKey, key: ParsedKey) -> bool:
    """Whether of two values of a measure the first is above chance and the second is not, and so on."""
    theirs, mine = {*one.derived}, {*key.derived}
    if one.parts != key.parts or one.loader != key.loader:
        return theirs == mine and _stands_for(one, key)
    above = bool(theirs - mine) and theirs - mine <= ABOVE and mine <= theirs | {BINNED} and not mine & ABOVE
    return (
        above
        or any(form in mine and theirs == mine - {form} for form in (BINNED, WEIGHTED))
        or (ABOVE_BASELINE in theirs and bool(mine & (ABOVE - {ABOVE_BASELINE})))
    )


def _stands_for(one: ParsedKey, key: ParsedKey) -> bool:
    """Whether of two values of a measure that differ in place alone the first stands for the second and its like."""
    last = key.words.stands
    if last is None or key.loader != one.loader or key.parts[-1:] in [(other,) for other in key.words.beside]:
        return False
    # What stands for the parts of a place, and what stands for all places, as the largest over sites and heads.
    return one.parts in ((*key.parts[:-1], *([last] if last else [])), (last,))


class Place(NamedTuple):
    """Where a key is drawn."""

    panel: str
    line: str


def places_of(keys: Iterable[str]) -> dict[str, Place]:
    """The panel and the line of each key: a panel holds one measure, for all sites and label sets, or one metric.

    No two keys have one place.

    Example:
        >>> places = places_of(["regularity_above_chance/encoder/token", "val/loss", "val_loss/dataloader_idx_1"])
        >>> places["regularity_above_chance/encoder/token"]
        Place(panel='regularity, above chance', line='token at encoder')
        >>> places["val/loss"], places["val_loss/dataloader_idx_1"]
        (Place(panel='val/loss', line='val/loss'), Place(panel='val_loss', line='loader 1'))
        >>> list(places_of(["under_noise/input/val_acc", "own/rankme/encoder"]).values())
        [Place(panel='val_acc under noise', line='input'), Place(panel='RankMe, own', line='encoder')]

    """
    places = {key: _place_of(key, one) for key, one in _parsed(list(keys)).items()}
    often = Counter(places.values())
    return {key: place if often[place] == 1 else Place(place.panel, key) for key, place in places.items()}


def _place_of(key: str, found: ParsedKey | None) -> Place:
    base, _, number = key.rpartition("/dataloader_idx_")
    loader = f"loader {number}" if base else ""
    if found is None:
        return Place(base or key, loader or key)
    form, parts = found.words.form, found.parts
    title, site, rest = found.words.title, parts[0] if parts else "", "/".join(parts[1:])
    if found.words.apart and "{all}" not in form:
        of = "/".join(parts[1:-1] if "{last}" in form else parts[1:])
        title = form.replace(" at {site}", "").replace("at {site} ", "").replace(" {last}", "").format(rest=of)
        rest = parts[-1] if "{last}" in form else ""
    elif "{all}" in form:
        site, rest = "/".join(parts), ""
    line = site if not rest else f"{site}, {rest}" if form else f"{rest} at {site}"
    behind = [one.name for one in found.derived] + [found.prefix.strip("/_.-")] * bool(found.prefix)
    return Place(", ".join([title, *behind]), ", ".join(one for one in (line or title, loader) if one))


def titles_of(keys: Iterable[str]) -> dict[str, str]:
    """A title for each key that a person can read, no two of them the same.

    Example:
        >>> titles_of(["rankme/encoder", "val_loss/dataloader_idx_0"])
        {'rankme/encoder': 'RankMe at encoder', 'val_loss/dataloader_idx_0': 'val_loss, loader 0'}

    """
    parsed = _parsed(list(keys))
    names = {key: display_name(key, prefix="" if one is None else one.prefix) for key, one in parsed.items()}
    often = Counter(names.values())
    return {key: name if often[name] == 1 else key for key, name in names.items()}


def left_out(shown: int, there: int, how: str) -> str:
    """What a figure says that shows not all there is; empty where it does.

    Example:
        >>> left_out(12, 30, "name others by `keys=`")
        '12 of 30 panels; name others by `keys=`'

    """
    return f"{shown} of {there} panels; {how}" if shown < there else ""
