"""Which of many keys a person watches, and how they are put into panels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from lightning_interp._measure_words import ParsedKey, display_name, is_bookkeeping, parse_key

__all__ = ["MOST_PANELS", "Place", "left_out", "places_of", "titles_of", "watched"]

MOST_PANELS = 12
"""So many panels of a figure are readable."""

# What a row says of itself.
_OF_THE_ROW = frozenset({"step", "epoch"})
# What another measure tells shorter, by that measure: where it is there too, these are not watched.
_DETAILS = {
    "robustness": ("retention", "half_scale"),
    "under_noise": ("noisy", "clean"),
    "effective_rank": ("rankme", "participation_ratio", "matrix_entropy", "alpha", "curvature"),
    "regularity": ("variation", "parent_variation"),
    "complexity": ("optimality",),
    "probe": ("probe_seen", "selectivity", "codelength", "compression"),
    "uuas": ("root_accuracy", "distance_loss"),
    "dspr": ("nspr", "depth_loss"),
    "coordinate_r2": ("coordinate_spearman", "proximity_error"),
    "coordinate_r2_blocked": ("coordinate_spearman_blocked", "proximity_error_blocked"),
    "truth_accuracy": ("truth_negated", "truth_auroc", "truth_negated_auroc"),
    "ece": ("adaptive_ece", "brier", "accuracy", "aurc", "selective_accuracy", "confidence"),
    "knn_purity": ("silhouette",),
    "alignment_disattenuated": ("alignment", "alignment_centred", "overlap", "overlap_above_null", "reliability"),
    "task_accuracy": ("task_margin",),
    "phenomenon_accuracy": ("phenomenon_margin",),
    "pairs_accuracy": ("pairs_margin", "pairs_acquired"),
    "cloze_accuracy": ("cloze_mrr", "cloze_margin", "cloze_acquired"),
    "class_accuracy": ("class_loss", "class_known", "class_acquired", "class_forgotten"),
}
_INSTEAD = {detail: measure for measure, details in _DETAILS.items() for detail in details}
# Of these each thing that is measured has a scale of its own.
_APART = frozenset({"under_noise", "robustness", "retention", "half_scale", "noisy", "drift"})
# In this order they are shown, then what is not among them; last what belongs to each scale of noise or each class.
_FIRST = (
    *("robustness", "information", "regularity", "disentanglement", "effective_rank", "cka", "knn_purity", "probe"),
    *("probe_accuracy", "probe_r2", "uuas", "dspr", "coordinate_r2", "truth_accuracy", "pairs_accuracy"),
    *("cloze_accuracy", "task_accuracy", "alignment_disattenuated", "ece", "phase/current"),
)
_LAST = ("under_noise", "drift")
_ABOVE = frozenset({"above chance", "above random weights", "above the chain"})


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
        return len(_FIRST) if key.lower().startswith("train") else -1
    if found.measure in _LAST:
        return len(_FIRST) + 1 + _LAST.index(found.measure)
    return _FIRST.index(found.measure) if found.measure in _FIRST else len(_FIRST)


def _said_better(key: ParsedKey, ours: Mapping[str, Sequence[ParsedKey]]) -> bool:
    """Whether another of the keys, by measure, says the same and is rather watched."""
    if _INSTEAD.get(key.measure) in ours:
        return True
    return any(one.prefix == key.prefix and _is_better(one, key) for one in ours[key.measure])


def _is_better(one: ParsedKey, key: ParsedKey) -> bool:
    """Whether of two values of a measure the first is above chance and the second is not, and so on."""
    theirs, mine = {what.name for what in one.derived}, {what.name for what in key.derived}
    if one.parts != key.parts or one.loader != key.loader:
        return theirs == mine and _is_summary(one, key)
    above = bool(theirs - mine) and theirs - mine <= _ABOVE and mine <= theirs | {"binned"} and not mine & _ABOVE
    untrained = "above random weights"
    return (
        above
        or ("binned" in mine and theirs == mine - {"binned"})
        or (untrained in theirs and bool(mine & (_ABOVE - {untrained})))
    )


def _is_summary(one: ParsedKey, key: ParsedKey) -> bool:
    """Whether of two values of a measure that differ in place alone the first stands for the second and its like."""
    mean, whole = one.parts == (*key.parts[:-1], "mean"), one.parts == key.parts[:-1]
    if key.loader != one.loader:
        return False
    return {
        "drift": mean,  # over scales
        "task_accuracy": mean,
        "information": whole,  # on the rows of a label set
        "pairs_accuracy": whole,  # of a task
        "stability": one.parts == ("previous",),
        # Of several probes the first.
        **dict.fromkeys(("truth_accuracy", "truth_overall"), one.parts == (*key.parts[:-1], "mass_mean")),
        "truth_likelihood": one.parts == ("accuracy",) and key.parts != ("overall",),
    }.get(key.measure, False)


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
    if found.measure in _APART:
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
