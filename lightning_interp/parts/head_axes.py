"""Heads of attention modules as axes of measures, whatever number of heads each module has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lightning_interp.metrics.measure import FULL, SUMMARY, Measure

__all__ = ["TRACKED", "checked_heads", "head_axes", "of_heads"]

_HEAD, TRACKED = "head of a site", "tracked head"
"""Their values are a site and a head, with a slash between."""


def head_axes(heads: Mapping[str, Sequence[str]], tracked: Mapping[str, Sequence[int]]) -> dict[str, Sequence[str]]:
    """The axes of measures of heads.

    Args:
        heads: Short name of a site → what keys call its heads.
        tracked: Site → numbers of the heads to watch.

    Example:
        >>> head_axes({"0": ["h0", "h1"], "1": ["h0"]}, {"1": [0]})
        {'head of a site': ['0/h0', '0/h1', '1/h0'], 'tracked head': ['1/h0']}

    """
    return {
        _HEAD: [f"{site}/{head}" for site, some in heads.items() for head in some],
        TRACKED: [f"{site}/h{head}" for site, some in tracked.items() for head in some],
    }


def of_heads(measures: Sequence[Measure]) -> list[Measure]:
    """These measures of every head, and in the summary those of heads that are watched.

    Example:
        >>> [(one.of, one.level) for one in of_heads([Measure("sink")])]
        [(('head of a site',), 'full'), (('tracked head',), 'summary')]

    """
    return [*(one.at(_HEAD, level=FULL) for one in measures), *(one.at(TRACKED, level=SUMMARY) for one in measures)]


def checked_heads(tracked: Mapping[str, Sequence[int]] | None) -> dict[str, list[int]]:
    """Heads to watch, by site.

    Raises:
        ValueError: If it is no mapping from sites to lists of numbers from 0 on.

    Example:
        >>> checked_heads({"0": [4]}), checked_heads(None)
        ({'0': [4]}, {})

    """
    if tracked is None:
        return {}
    if not isinstance(tracked, Mapping):
        raise ValueError(f"`track` must map sites to numbers of heads, {{'0': [4]}}; got {tracked!r}.")
    for site, some in tracked.items():
        if isinstance(some, str | int) or not all(isinstance(head, int) and head >= 0 for head in some):
            raise ValueError(f"`track` must list numbers of heads from 0 on for site {site!r}, got {some!r}.")
    return {str(site): list(some) for site, some in tracked.items()}
