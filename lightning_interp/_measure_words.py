"""Names for a person to read, of keys that are logged: ours, and the model's own."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import NamedTuple

from lightning_interp._measure_table import COMMON, MEASURES, PHASE, Words

__all__ = [
    "Derived",
    "ParsedKey",
    "chart_title",
    "describe_key",
    "display_name",
    "is_bookkeeping",
    "is_measure",
    "measure_words",
    "parse_key",
    "split_loader",
]

_LOADER = re.compile(r"(?P<key>.+)/dataloader_idx_(?P<number>\d+)")


class Derived(NamedTuple):
    """What is made of a measure and has a key of its own."""

    name: str
    """Behind the name of the measure in a title."""
    what: str
    none: str
    better: bool
    """Whether better is what is better of the measure."""


_SUFFIXES: dict[str, Derived] = {
    "_above_chance": Derived(
        "above chance", "Its value less that of labels dealt out at random.", "0 where labels tell nothing.", True
    ),
    "_above_baseline": Derived(
        "above random weights", "Its value less that of the same model with random weights.", "0 for no gain.", True
    ),
    "_above_chain": Derived(
        "above the chain", "Its value less that of linking each word to the next.", "0 for no gain.", True
    ),
    "_chance": Derived(
        "chance level", "Its value for labels dealt out at random.", "What the measure is compared with.", False
    ),
    "_baseline": Derived(
        "random weights", "Its value with random weights.", "What the measure is compared with.", False
    ),
    "_control": Derived(
        "control", "Its value for labels dealt to others at random.", "What the measure is compared with.", False
    ),
}
_ENDS: dict[str, Derived] = {
    "sd": Derived(
        "spread of chance", "Standard deviation of its value above chance, where labels tell nothing.", "", False
    ),
    "se": Derived("standard error", "Its standard error.", "", False),
}
_PREFIXES: dict[str, Derived] = {
    "binned_": Derived("binned", "Told from bins of each dimension, not from points on the sphere.", "", True),
    "projected_": Derived("projected", "Read in a random subspace, to compare models of different widths.", "", True),
}
# Keys of one part.
_ALONE = ("phenomena_acquired", "relations_acquired")


# Measures that say how readings were taken, what they cost, or one of many details that a summary stands for.
_BOOKS = frozenset(
    {
        *("seconds", "failed", "rows", "sampled_rows", "nonfinite", "coverage", "num_labels", "floor", "predictions"),
        *(
            "sampled_predictions",
            "retention",
            "half_scale",
            "noisy",
            "clean",
            "alpha_r2",
            "probe_rows",
            "probe_classes",
        ),
        *(
            "probe_classes",
            "probe_coverage",
            "probe_majority",
            "class_count",
            "class_effective",
            "class_named",
            "distance_loss",
        ),
        *("depth_loss", "cloze_majority", "cloze_frequency", "cloze_chance", "overlap_null", "agreement_p"),
        *("phase/boundary_step", "phase/lag"),
    }
)
_COMPARED = frozenset({"chance level", "random weights", "control", "spread of chance", "standard error"})


class ParsedKey(NamedTuple):
    """A key taken apart."""

    prefix: str
    measure: str
    """The first part without what is derived of it; with its second for ``phase/…``."""
    words: Words
    derived: tuple[Derived, ...]
    parts: tuple[str, ...]
    """What follows the measure, without ``sd``, ``se`` and the loader."""
    loader: int | None

    @property
    def title(self) -> str:
        """The measure with what is derived of it: ``"regularity, above chance"``."""
        return ", ".join([self.words.title, *(one.name for one in self.derived)])


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
        if found is not None and (rest.split("/")[0] in COMMON or not found.parts):
            found = None
    if found is None or sites is None or not _read_at_site(found):
        return found
    return found if found.parts[0] in sites else None


def _read_at_site(key: ParsedKey) -> bool:
    return bool(key.parts) and (not key.words.form or "{site}" in key.words.form)


def _parse(key: str, prefix: str, loader: int | None) -> ParsedKey | None:
    first, *parts = key.split("/")
    if first == "phase":
        if not parts or parts[0] not in PHASE:
            return None
        return ParsedKey(prefix, f"phase/{parts[0]}", PHASE[parts[0]], (), tuple(parts[1:]), loader)
    derived: list[Derived] = []
    for start, what in _PREFIXES.items():
        if first.startswith(start):
            first = first.removeprefix(start)
            derived.append(what)
    measure = first
    if measure not in MEASURES:
        for end, what in _SUFFIXES.items():
            if first.endswith(end) and first.removesuffix(end) in MEASURES:
                measure = first.removesuffix(end)
                derived.append(what)
                break
        else:
            return None
    if not parts and measure not in _ALONE:
        return None
    if len(parts) > 1 and parts[-1] in _ENDS:
        derived.append(_ENDS[parts.pop()])
    return ParsedKey(prefix, measure, MEASURES[measure], tuple(derived), tuple(parts), loader)


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
    if first in COMMON or first in ("seconds", "failed"):
        return False
    return _parse(f"{first}/<site>", "", None) is not None


def is_bookkeeping(key: ParsedKey) -> bool:
    """Whether a key says how a reading was taken, or what its values are compared with, and not what was found.

    Example:
        >>> [is_bookkeeping(parse_key(key)) for key in ("seconds/TaskSpace", "regularity_chance/encoder/token")]
        [True, True]

    """
    return key.measure in _BOOKS or any(one.name in _COMPARED for one in key.derived)


def measure_words(key: str, prefix: str = "") -> Words | None:
    """What a key of ours is, in words.

    Args:
        key: The key.
        prefix: As for :func:`parse_key`.

    Returns:
        Its words with what is derived of them; ``None`` for a key of others.

    Example:
        >>> measure_words("regularity_above_chance/encoder/token").none
        '0 where labels tell nothing.'
        >>> measure_words("regularity_chance/encoder/token").better
        'neither'

    """
    found = parse_key(key, prefix)
    if found is None:
        return None
    words = replace(found.words, title=found.title)
    for one in found.derived:
        better = words.better if one.better else "neither"
        words = replace(words, what=f"{words.what} {one.what}", better=better, none=one.none or words.none)
    return words


def describe_key(key: str, prefix: str = "") -> str:
    """What a key of ours is, which way is better and what chance is, in Markdown; empty for a key of others.

    Example:
        >>> print(describe_key("effective_rank/encoder"))
        **effective rank**: How many dimensions are used, told from the eigenvalues of the covariance.
        <BLANKLINE>
        Neither way is better. From 1, where all vectors lie on one line, to the number of dimensions.

    """
    words = measure_words(key, prefix)
    if words is None:
        return ""
    way = {
        "higher": "Higher is better.",
        "lower": "Lower is better.",
        "neither": "Neither way is better.",
        "as the metric": "Better the way the metric is.",
    }
    return f"**{words.title}**: {words.what}\n\n{way[words.better]} {words.none}".rstrip()


def display_name(
    key: str, loaders: Sequence[str] | None = None, sites: Collection[str] | None = None, prefix: str = ""
) -> str:
    """A key as a person reads it.

    Args:
        key: A key that is logged, ours or the model's.
        loaders: Names of the validation loaders, in their order; see
            :func:`~lightning_interp._loader_names.loader_names`. A loader without one is called by its number.
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
    if found is None:
        return key.removeprefix(prefix).split("/")[0]
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
    return {"last": key.parts[-1], "rest": "/".join(rest), "all": "/".join(key.parts)}


def _site(name: str) -> str:
    # The last parts of names that a glob found are often numbers.
    return f"site {name}" if name.isdecimal() else name


def _loader(number: int, loaders: Sequence[str] | None) -> str:
    return loaders[number] if loaders is not None and number < len(loaders) else f"loader {number}"
