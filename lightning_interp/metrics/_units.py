"""To what a label belongs, a sample, a word or a position, and how labels are dealt out anew among these."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["UNITS", "Unit", "check_units", "count_units", "dealt_rows", "is_constant", "unit_of"]

UNITS = ("sample", "word", "position")


class Unit(NamedTuple):
    """What the labels of one set belong to."""

    name: str
    """``"sample"``, ``"word"`` or ``"position"``."""
    of: Tensor | None
    """The unit of each row, int64 (N,); ``None`` where each row is one of its own."""


def check_units(units: Mapping[str, str] | None, names: Sequence[str], built_in: Sequence[str] = ()) -> dict[str, str]:
    """The units that a user gave, or an error that says what is wrong with them."""
    given = dict(units or {})
    for name, unit in given.items():
        if name not in names:
            raise ValueError(f"`units` names {name!r}, which is not among the label sets {list(names)}.")
        if unit not in UNITS:
            raise ValueError(f"`units[{name!r}]` must be one of {list(UNITS)}, got {unit!r}.")
        if name in built_in and unit != "position":
            raise ValueError(f"`units[{name!r}]` is {unit!r}, but {name!r} is formed at each position: leave it out.")
    return given


def unit_of(
    name: str,
    labels: Tensor,
    has: Tensor,
    samples: Tensor,
    words: Tensor | None,
    given: str | None = None,
    numbers: bool = False,
) -> Unit:
    """What the labels of a set belong to: as the user says, else told from the rows of all ranks.

    Labels that are the same at all rows of a sample belong to samples, where some sample has several rows. Else labels
    that are the same wherever a word type occurs belong to words, where types recur and some label has several of them:
    with one label a type the set is the words themselves, unless labels are numbers. Where each sample holds one type,
    words decide. All others belong to positions. With one row a sample, that is the sample.

    Args:
        name: Of the label set, for errors.
        labels: What each row has, (N, M), of any dtype.
        has: Which rows have a label, bool (N,); the others say nothing.
        samples: Sample of each row, int64 (N,).
        words: Word type of each row, int64 (N,), negative where there is none; ``None`` where types are not known.
        given: The unit that the user says.
        numbers: Whether labels are numbers, of which each word may have its own.

    Raises:
        ValueError: If labels are not constant within the unit that the user says, or words are not known.

    """
    sub, place = labels[has], torch.unique(samples[has], return_inverse=True)[1]
    rows = len(sub)
    several = rows > 0 and int(place.max()) + 1 < rows
    if given == "position":
        return Unit("position", None)
    if given == "sample":
        if not is_constant(sub, place):
            raise ValueError(
                f"`units[{name!r}]` is 'sample', but {name!r} differs between positions of one sample: it is 'position'"
                ", or 'word' where it depends on the word alone."
            )
        return Unit("sample", samples if several else None)
    known = words is not None and rows > 0 and bool((words[has] >= 0).all())
    if given == "word" and not known and rows:
        raise ValueError(f"`units[{name!r}]` is 'word', and there are rows with a label but without a word.")
    of_sample = several and is_constant(sub, place)
    if known and words is not None and (given == "word" or not of_sample or is_constant(words[has], place)):
        types = torch.unique(words[has], return_inverse=True)[1]
        number = int(types.max()) + 1
        constant = is_constant(sub, types)
        if given == "word" and not constant:
            raise ValueError(
                f"`units[{name!r}]` is 'word', but {name!r} differs between occurrences of one word: it is 'position'."
            )
        shared = numbers or len(torch.unique(sub, dim=0)) < number
        if constant and (given == "word" or (number < rows and shared)):
            return Unit("word", words)
    if of_sample:
        return Unit("sample", samples)
    if given == "word":
        return Unit("word", words)
    return Unit("position" if several else "sample", None)


def is_constant(values: Tensor, place: Tensor) -> bool:
    """Whether rows of one place, 0 … U−1 (N,), have the same values (N, …)."""
    return not len(values) or bool((values == values[_first(place)[place]]).all())


def count_units(labels: Tensor, units: Tensor, number: int) -> Tensor:
    """How many units have each label, int64 (number,).

    Args:
        labels: A label, 0 … number−1, for each time that a row has one, int64 (R,).
        units: The unit of each, int64 (R,).
        number: How many labels there are.

    """
    distinct, place = torch.unique(units, return_inverse=True)
    pairs = torch.unique(labels * max(1, len(distinct)) + place)
    return torch.bincount(pairs // max(1, len(distinct)), minlength=number)


def dealt_rows(units: Tensor | None, rows: int, generator: torch.Generator, strata: Tensor | None = None) -> Tensor:
    """Deal labels out anew: for each row the row whose label it gets, int64 (N,).

    All rows of a unit get the label of one other unit, drawn without replacement: one permutation of units, copied to
    their rows. As many units as before have each label.

    Args:
        units: Unit of each row, whose labels are constant within it, int64 (N,); ``None`` for one of its own.
        rows: N.
        generator: Of the permutation.
        strata: Within which units are exchanged, constant within each, int64 (N,).

    """
    place = torch.arange(rows) if units is None else torch.unique(units, return_inverse=True)[1]
    first = place if units is None else _first(place)
    order = torch.randperm(len(first), generator=generator)
    if strata is not None:
        here = strata[first].argsort(stable=True)
        there = order[strata[first][order].argsort(stable=True)]
        order = torch.empty_like(order)
        order[here] = there
    return first[order][place]


def _first(place: Tensor) -> Tensor:
    """The first row of each place, 0 … U−1: (N,) → (U,)."""
    number = int(place.max()) + 1 if len(place) else 0
    first = torch.full((number,), len(place), dtype=torch.long)
    return first.scatter_reduce_(0, place, torch.arange(len(place)), "amin")
