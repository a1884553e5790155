"""Names for a person to read, of keys that are logged: ours, and the model's own."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import NamedTuple

from lightning_interp.metrics.derived import DERIVED, Derived
from lightning_interp.metrics.measure import KeyOf, Measure
from lightning_interp.metrics.measures import MEASURES
from lightning_interp.metrics.measures.costs import COSTS

__all__ = [
    "ParsedKey",
    "chart_title",
    "describe",
    "describe_key",
    "display_name",
    "is_bookkeeping",
    "is_measure",
    "measure_words",
    "parse_key",
    "parsed",
    "split_loader",
    "title_of_chart",
    "told_of_key",
]

_LOADER = re.compile(r"(?P<key>.+)/dataloader_idx_(?P<number>\d+)")


_PREFIXES = [one for one in DERIVED if one.prefix]
_SUFFIXES = [one for one in DERIVED if one.suffix]
_ENDS = {one.end: one for one in DERIVED if one.end}
_WITH_SECOND = {name.partition("/")[0] for name in MEASURES if "/" in name}
_OWN_WITH_SECOND = {name.partition("/")[0] for name, one in MEASURES.items() if "/" in name and not one.common}


class ParsedKey(NamedTuple):
    """A key taken apart."""

    prefix: str
    words: Measure
    """The measure, without what is derived of it."""
    derived: tuple[Derived, ...]
    parts: tuple[str, ...]
    """What follows the measure, without ``sd``, ``se`` and the loader."""
    loader: int | None

    @property
    def measure(self) -> str:
        """The first part without what is derived of it; with its second for ``phase/…`` and others of two."""
        return self.words.name

    @property
    def title(self) -> str:
        """The measure with what is derived of it: ``"regularity, above chance"``."""
        return ", ".join([self.words.title, *(one.name for one in self.derived)])


def parsed(key: KeyOf, prefix: str = "", loader: int | None = None) -> ParsedKey:
    """A key that an analysis declares, taken apart."""
    return ParsedKey(prefix, key.measure.original, key.measure.derived, key.parts, loader)


def parse_key(key: str, prefix: str = "", sites: Collection[str] | None = None) -> ParsedKey | None:
    """Take a key of ours apart.

    Args:
        key: The key as it is logged.
        prefix: What a callback puts before its keys, where that is known. Otherwise it is told from a measure that
            nobody else has in its second part.
        sites: Names of sites, where they are known: a key that says nothing of one of them, though its measure is read
            at sites, is somebody else's.

    Returns:
        The key's parts, or ``None`` where it is none of ours.

    Example:
        >>> found = parse_key("own/binned_regularity_above_chance/encoder/token")
        >>> found.prefix, found.measure, found.title, found.parts
        ('own/', 'regularity', 'regularity, binned, above chance', ('encoder', 'token'))
        >>> parse_key("val/loss") is None
        True

    """
    key, loader = split_loader(key)
    if prefix and not key.startswith(prefix):
        return None
    found = _parse(key.removeprefix(prefix), prefix, loader)
    if found is None and not prefix and "/" in key:
        first, rest = key.split("/", 1)
        found = _parse(rest, f"{first}/", loader)
        if found is not None and (_is_common(rest.split("/")[0]) or not found.parts):
            found = None
    if found is None or sites is None or not _read_at_site(found):
        return found
    return found if found.parts[0] in sites else None


def _read_at_site(key: ParsedKey) -> bool:
    return bool(key.parts) and (not key.words.form or "{site}" in key.words.form)


def _parse(key: str, prefix: str, loader: int | None) -> ParsedKey | None:
    first, *parts = key.split("/")
    if first in _WITH_SECOND and parts:
        first = f"{first}/{parts.pop(0)}"
    derived: list[Derived] = []
    while before := [one for one in _PREFIXES if first.startswith(one.prefix) and one not in derived]:
        first = first.removeprefix(before[0].prefix)
        derived.append(before[0])
    if first not in MEASURES:
        behind = [one for one in _SUFFIXES if first.endswith(one.suffix) and first.removesuffix(one.suffix) in MEASURES]
        if not behind:
            return None
        first = first.removesuffix(behind[0].suffix)
        derived.append(behind[0])
    words = MEASURES[first]
    if not parts and (words.of or words.end):
        return None
    if len(parts) > 1 and parts[-1] in _ENDS:
        derived.append(_ENDS[parts.pop()])
    return ParsedKey(prefix, words, tuple(derived), tuple(parts), loader)


def _is_common(first: str) -> bool:
    return first in MEASURES and MEASURES[first].common


def split_loader(key: str) -> tuple[str, int | None]:
    """A key without what Lightning puts behind it of several validation loaders, and the loader's number.

    Example:
        >>> split_loader("val/loss/dataloader_idx_1"), split_loader("val/loss")
        (('val/loss', 1), ('val/loss', None))

    """
    matched = _LOADER.fullmatch(key)
    return (key, None) if matched is None else (matched["key"], int(matched["number"]))


def is_measure(first: str) -> bool:
    """Whether the first part of a key is this library's alone, whichever callbacks are present.

    Example:
        >>> is_measure("regularity_chance"), is_measure("accuracy"), is_measure("val")
        (True, False, False)

    """
    if _is_common(first) or first in {one.name for one in COSTS}:
        return False
    return first in _OWN_WITH_SECOND or _parse(f"{first}/<site>", "", None) is not None


def is_bookkeeping(key: ParsedKey) -> bool:
    """Whether a key says how a reading was taken, or what its values are compared with, and not what was found.

    Example:
        >>> [is_bookkeeping(parse_key(key)) for key in ("seconds/TaskSpace", "regularity_chance/encoder/token")]
        [True, True]

    """
    return key.words.bookkeeping or any(one.compared for one in key.derived)


def measure_words(key: str, prefix: str = "") -> Measure | None:
    """The measure that a key of ours is of, with what is derived of it.

    Args:
        key: The key.
        prefix: As for :func:`parse_key`.

    Returns:
        The measure; ``None`` for a key of others.

    Example:
        >>> measure_words("regularity_above_chance/encoder/token").none
        '0 where there is nothing but chance.'
        >>> measure_words("regularity_chance/encoder/token").better
        'neither'

    """
    found = parse_key(key, prefix)
    if found is None:
        return None
    words = found.words
    before = [one for one in found.derived if one.prefix]
    for one in [*found.derived[len(before) :], *reversed(before)]:
        words = one.of(words)
    return words


def told_of_key(key: str) -> KeyOf | None:
    """What a key of ours is, where nobody declares it; ``None`` for a key of others."""
    measure = measure_words(key)
    if measure is None:
        return None
    return KeyOf(measure.at(end=key.removeprefix(measure.name).removeprefix("/")), ())


def describe_key(key: str, prefix: str = "") -> str:
    """What a key of ours is, which way is better and what chance is, in Markdown; empty for a key of others.

    Example:
        >>> print(describe_key("effective_rank/encoder"))
        **effective rank**: How many dimensions are used, told from the eigenvalues of the covariance.
        <BLANKLINE>
        Neither way is better. From 1, where all vectors lie on one line, to the number of dimensions.

    """
    words = measure_words(key, prefix)
    return "" if words is None else describe(words)


def describe(measure: Measure) -> str:
    """What a measure is, which way is better and what chance is, in Markdown."""
    way = {
        "higher": "Higher is better.",
        "lower": "Lower is better.",
        "neither": "Neither way is better.",
        "as the metric": "Better the way the metric is.",
    }
    return f"**{measure.title}**: {measure.says}\n\n{way[measure.better]} {measure.none}".rstrip()


def display_name(
    key: str, loaders: Sequence[str] | None = None, sites: Collection[str] | None = None, prefix: str = ""
) -> str:
    """A key as a person reads it.

    Args:
        key: A key that is logged, ours or the model's.
        loaders: Names of the validation loaders, in their order; see
            :func:`~lightning_interp.reading.loader_names.loader_names`. A loader without one is called by its number.
        sites: As for :func:`parse_key`.
        prefix: As for :func:`parse_key`.

    Returns:
        Words. A key of the model's own stays as it is, but for the loader. One name may stand for two keys where two
        callbacks differ in nothing but their prefix: it is named behind.

    Example:
        >>> display_name("regularity_above_chance/encoder/token")
        'regularity of token at encoder, above chance'
        >>> display_name("robustness/input/val_acc")
        'robustness of val_acc to noise at input'
        >>> display_name("val_loss/dataloader_idx_1"), display_name("val/loss")
        ('val_loss, loader 1', 'val/loss')
        >>> display_name("val_loss/dataloader_idx_1", loaders=["in distribution", "out of distribution"])
        'val_loss, out of distribution'

    """
    found = parse_key(key, prefix, sites)
    if found is None:
        base, loader = split_loader(key)
        return base if loader is None else f"{base}, {_loader(loader, loaders)}"
    return ", ".join([_said(found, loaders), *_behind(found, loaders)])


def chart_title(key: str, prefix: str = "", loaders: Sequence[str] | None = None) -> str:
    """What a chart is called that holds a key's measure for all sites and label sets.

    Args:
        key: The key. Of one that is none of ours it is the first part.
        prefix: As for :func:`parse_key`.
        loaders: As for :func:`display_name`.

    Example:
        >>> chart_title("regularity_above_chance/encoder/token")
        'regularity, above chance'
        >>> chart_title("drift/input/encoder/0.25"), chart_title("robustness/input/val_acc")
        ('drift of encoder under noise', 'robustness of val_acc to noise')

    """
    found = parse_key(key, prefix)
    return key.removeprefix(prefix).split("/")[0] if found is None else title_of_chart(found, loaders)


def title_of_chart(found: ParsedKey, loaders: Sequence[str] | None = None) -> str:
    """What a chart is called that holds the measure of a key for all sites and label sets."""
    title = found.words.title
    if found.words.apart and found.parts:
        title = found.words.form.replace(" at {site}", "").replace(" {last}", "").format(**_rest(found))
    return ", ".join([title, *_behind(found, loaders)])


def _behind(key: ParsedKey, loaders: Sequence[str] | None) -> list[str]:
    """What stands behind a measure's name: what is derived of it, the loader, the prefix."""
    said = [one.name for one in key.derived]
    if key.loader is not None:
        said.append(_loader(key.loader, loaders))
    return [*said, key.prefix.strip("/_.-")] if key.prefix else said


def _said(key: ParsedKey, loaders: Sequence[str] | None) -> str:
    words, parts = key.words, list(key.parts)
    if key.measure == "phase/lag":
        return f"lag of {display_name('/'.join(parts), loaders)} behind the phase"
    if not parts:
        return words.title
    site = _site(parts[0])
    if not words.form:
        return f"{words.title} at {site}" if len(parts) == 1 else f"{words.title} of {'/'.join(parts[1:])} at {site}"
    form = words.form if parts[-1] != "mean" else words.form.replace(" {last}", "")  # over all noise
    return form.format(site=site, **_rest(key))


def _rest(key: ParsedKey) -> dict[str, str]:
    """What a form can say of a key beside its site."""
    rest = key.parts[1:-1] if "{last}" in key.words.form else key.parts[1:]
    return {"first": key.parts[0], "last": key.parts[-1], "rest": "/".join(rest), "all": "/".join(key.parts)}


def _site(name: str) -> str:
    # The last parts of names that a glob found are often numbers.
    return f"site {name}" if name.isdecimal() else name


def _loader(number: int, loaders: Sequence[str] | None) -> str:
    return loaders[number] if loaders is not None and number < len(loaders) else f"loader {number}"
