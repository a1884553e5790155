"""A measure: what a number is called, what it says, which way is better, and under which keys it is logged."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias, get_args

if TYPE_CHECKING:
    from lightning_interp.metrics.derived import Derived

__all__ = [
    "FULL",
    "SUMMARY",
    "UNRANKED",
    "Axes",
    "Better",
    "Headline",
    "KeyOf",
    "Measure",
    "as_measures",
    "expanded",
    "fallbacks",
    "keys_of",
]

SUMMARY = "summary"
FULL = "full"
UNRANKED = 1000

Better: TypeAlias = Literal["higher", "lower", "neither", "as the metric"]
Axes: TypeAlias = Mapping[str, Sequence[str]]
"""The values of each axis, such as the names of the sites, in the order in which they are logged."""


class Headline(NamedTuple):
    """How a measure stands in the overview of TensorBoard's page."""

    line: int
    """Its place. Of measures with one line the first that is logged is shown."""
    part: str | None = None
    """The one part behind the site that is shown; ``""`` for keys that have none, None for all keys."""
    beside: str = ""
    """The name of a measure that is drawn in the same chart."""


@dataclass(frozen=True)
class Measure:
    """A number that is logged, said once: keys, levels, fallbacks, charts, titles and descriptions follow from it.

    A key is the measure's name, a value of each of its axes and, where there is one, the end, with slashes between:
    ``regularity_chance/encoder/token/sd``.

    Args:
        name: The first part of its keys.
        title: What it is called where a person reads; by default the name with spaces.
        says: One sentence that says what it is.
        of: Names of its axes, in the order of a key's parts: ``("site", "labels")``. Which values they have, the
            analysis says in ``axes``.
        level: ``"summary"`` for what a person watches, else ``"full"``.
        unit: What its values are counted in, such as ``"nats"``.
        better: Which way is better, for what most people want of a model: ``"higher"``, ``"lower"``, ``"neither"``, or
            ``"as the metric"`` where it is a value of the model's own metric that one of the axes names.
        none: What it is where there is no effect, in a sentence: its level of chance, its bounds.
        chance: What its level of chance is the value of.
        instead: The name of the measure that a gate should monitor where this one may be undefined at a reading; with
            its end behind a slash where it has one (``"class_accuracy/mean"``). That measure has the same axes or some
            of them. ``""`` where it may be undefined and no other stands for it; None where it is always defined.
        beside_random: Whether it is also read with random weights.
        end: The last part of its keys, such as ``"mean"``.
        form: How the parts of a key behind its measure are said: a pattern of ``{site}``, the first of them,
            ``{first}``, which it is where it is no site, ``{last}``, ``{rest}``, what is left, and ``{all}``. Without
            one they are a site and what is read there.
        apart: Whether each ``{rest}`` has a scale of its own, so that no chart holds two of them.
        bookkeeping: Whether it says how readings were taken or what values are compared with, and not what was found.
        common: Whether others use its name for keys of their own: it counts only where a callback here logs it.
        shared: Whether it is a fact about what was read, which the first of several callbacks reports for all.
        detail_of: The name of a measure that says the same shorter: where it is there, this one is not watched.
        rank: Its place among what is watched, the smaller the earlier.
        headline: Its place in the overview of TensorBoard's page, where it has one.
        stands: Of several keys the last part of the one that stands for the others; ``""`` for the one without it.
        beside: Last parts of keys that ``stands`` does not stand for.
        root: The measure that this one is derived of, where it is.
        derived: What was made of that (:class:`~lightning_interp.metrics.derived.Derived`).

    Raises:
        ValueError: If an argument is none of those that there are.
        TypeError: If ``of`` is a string.

    Example:
        >>> entropy = Measure("prediction_entropy", says="Mean entropy of the predictions.", unit="nats")
        >>> entropy.title, entropy.key("head")
        ('prediction entropy', 'prediction_entropy/head')
        >>> entropy.at("site", "labels", level="full").key("head", "token")
        'prediction_entropy/head/token'

    """

    name: str
    title: str = ""
    says: str = ""
    of: tuple[str, ...] = ("site",)
    _: KW_ONLY
    level: str = SUMMARY
    unit: str = ""
    better: Better = "neither"
    none: str = ""
    chance: str = "labels dealt out at random"
    instead: str | None = None
    beside_random: bool = False
    end: str = ""
    form: str = ""
    apart: bool = False
    bookkeeping: bool = False
    common: bool = False
    shared: bool = False
    detail_of: str = ""
    rank: int = UNRANKED
    headline: Headline | None = None
    stands: str | None = None
    beside: tuple[str, ...] = ()
    root: Measure | None = None
    derived: tuple[Derived, ...] = ()

    def __post_init__(self) -> None:
        if not self.name:
            raise ValueError("`name` of a Measure is empty; it is the first part of its keys.")
        of: Any = self.of
        if isinstance(of, str):
            raise TypeError(f"`of` of {self.name!r} must be a tuple of names of axes, got the string {of!r}.")
        object.__setattr__(self, "of", tuple(self.of))
        if self.level not in (SUMMARY, FULL):
            raise ValueError(f"`level` of {self.name!r} must be 'summary' or 'full', got {self.level!r}.")
        if self.better not in get_args(Better):
            raise ValueError(f"`better` of {self.name!r} must be one of {get_args(Better)}, got {self.better!r}.")
        if not self.title:
            object.__setattr__(self, "title", self.name.replace("_", " "))

    def key(self, *at: str) -> str:
        """Its key at a value of each axis.

        Raises:
            ValueError: If there are more or fewer values than axes.

        """
        if len(at) != len(self.of):
            raise ValueError(f"{self.name!r} is of {list(self.of)}, got the values {list(at)}.")
        return "/".join([self.name, *at, *([self.end] if self.end else [])])

    def at(self, *of: str, end: str = "", **changes: Any) -> Measure:
        """The same measure of other axes, with another end, or with other arguments changed.

        Args:
            of: Names of its axes.
            end: The last part of its keys.
            changes: Further arguments of the measure.

        """
        return replace(self, of=of, end=end, **changes)

    @property
    def original(self) -> Measure:
        """The measure that it is derived of, or itself."""
        return self.root or self

    def called(self) -> str:
        """How ``instead`` names it."""
        return f"{self.name}/{self.end}" if self.end else self.name


class KeyOf(NamedTuple):
    """What a key is: a measure at a value of each axis."""

    measure: Measure
    at: tuple[str, ...]

    @property
    def parts(self) -> tuple[str, ...]:
        """What stands behind the measure's name, without ``sd`` and ``se``."""
        ends = [one.end for one in self.measure.derived if one.end]
        end = self.measure.end.split("/") if self.measure.end else []
        return (*(part for one in self.at for part in one.split("/")), *end[: len(end) - len(ends)])


def expanded(measures: Sequence[Measure], axes: Axes) -> dict[str, KeyOf]:
    """Every key of these measures, and what it is.

    Measures that stand together and share their first axis stay together at each of its values: all of one site, then
    all of the next. Where a key is there twice, it has the place of the first and means the last.

    Args:
        measures: The measures.
        axes: Name of an axis → its values; they may hold slashes.

    Raises:
        ValueError: If a measure has an axis that is not among these.

    """
    found: dict[str, KeyOf] = {}
    for one in measures:
        missing = [axis for axis in one.of if axis not in axes]
        if missing:
            raise ValueError(f"{one.name!r} is of {missing[0]!r}, and the axes are {list(axes)}.")
    _expand(_tree(measures), (), axes, found)
    return found


class _Along(NamedTuple):
    """Measures that stand together at each value of an axis."""

    axis: str
    inside: list[Measure | _Along]


def _tree(measures: Sequence[Measure], depth: int = 0) -> list[Measure | _Along]:
    tree: list[Measure | _Along] = []
    for axis, group in itertools.groupby(measures, lambda one: one.of[depth] if len(one.of) > depth else None):
        together = list(group)
        tree += together if axis is None else [_Along(axis, _tree(together, depth + 1))]
    return tree


def _expand(tree: Sequence[Measure | _Along], at: tuple[str, ...], axes: Axes, found: dict[str, KeyOf]) -> None:
    for one in tree:
        if isinstance(one, Measure):
            found[one.key(*at)] = KeyOf(one, at)
        else:
            for value in axes[one.axis]:
                _expand(one.inside, (*at, value), axes, found)


def keys_of(measures: Sequence[Measure], axes: Axes) -> dict[str, str]:
    """Every key of these measures with its level.

    Example:
        >>> both = [Measure("loss"), Measure("accuracy", of=("site", "class"), level="full")]
        >>> keys_of(both, {"site": ["a", "b"], "class": ["x"]})
        {'loss/a': 'summary', 'accuracy/a/x': 'full', 'loss/b': 'summary', 'accuracy/b/x': 'full'}

    """
    return {key: one.measure.level for key, one in expanded(measures, axes).items()}


def fallbacks(measures: Sequence[Measure], axes: Axes) -> dict[str, str]:
    """Keys that may be undefined at a reading, each with the one to monitor instead; ``""`` where there is none.

    Raises:
        ValueError: If ``instead`` names no measure among these that has the same axes or some of them.

    Example:
        >>> share = Measure("share", of=("site", "scale"), instead="value")
        >>> fallbacks([share, Measure("value")], {"site": ["a"], "scale": ["1", "2"]})
        {'share/a/1': 'value/a', 'share/a/2': 'value/a'}

    """
    found: dict[str, str] = {}
    stand_ins = {id(one): _stand_in(one, measures) for one in measures if one.instead}
    for key, (one, at) in expanded(measures, axes).items():
        if one.instead is None:
            continue
        other = stand_ins.get(id(one))
        places = dict(zip(one.of, at, strict=True))
        found[key] = "" if other is None else other.key(*(places[axis] for axis in other.of))
    return found


def _stand_in(measure: Measure, measures: Sequence[Measure]) -> Measure:
    """The measure that ``instead`` means: of those with that name and no other axes the one with the most of them."""
    named = [one for one in measures if measure.instead in (one.name, one.called()) and one is not measure]
    fitting = [one for one in named if set(one.of) <= set(measure.of) and one.instead is None]
    if not fitting:
        raise ValueError(
            f"`instead` of {measure.name!r} is {measure.instead!r}, and no measure of that name is always defined and "
            f"has the axes {list(measure.of)} or some of them; there are {sorted({one.called() for one in measures})}."
        )
    # The plain value before what is derived of it.
    return max(fitting, key=lambda one: (len(one.of), -len(one.derived)))


def as_measures(
    keys: Mapping[str, str],
    conditional: Mapping[str, str] | None = None,
    of: Sequence[str] = (),
    known: Mapping[str, KeyOf] | None = None,
) -> list[Measure]:
    """Measures of keys that are given one by one.

    Args:
        keys: Key → level.
        conditional: Keys that may be undefined → the one to monitor instead.
        of: Axes that stand between the first part of a key and the rest of it.
        known: Of keys that are declared, what they are.

    Example:
        >>> keys_of(as_measures({"norm/mean": "full"}, of=("site",)), {"site": ["encoder"]})
        {'norm/encoder/mean': 'full'}

    """
    found = []
    for key, level in keys.items():
        name = key.partition("/")[0]
        declared = known[key].measure if known is not None and key in known else Measure(name, title=name)
        end = key.removeprefix(declared.name).removeprefix("/")
        instead = None if conditional is None else conditional.get(key)
        found.append(declared.at(*of, end=end, level=level, instead=instead))
    return found
