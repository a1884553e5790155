"""The arguments that callbacks hand on which read sites, typed, so that an editor completes them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypedDict, cast

from lightning_interp.batches.forward import Forward
from lightning_interp.batches.reader import Key
from lightning_interp.batches.site_rows import Pooling, ReadSite
from lightning_interp.parts.projector import Names
from lightning_interp.reading.arguments import BatchArgs, LoaderArgs
from lightning_interp.sites import Call, Layout, OutputKey

__all__ = ["ReadArgs", "ReplayArgs", "SiteArgs", "split_site_args", "split_words"]


class ReadArgs(TypedDict, total=False):
    """How batches and sites are read; see :class:`~lightning_interp.callbacks.RepresentationMetrics`."""

    tokens: Key | Mapping[str, Key] | None
    mask: Key | None
    padding_idx: int | None
    ignore_tokens: Sequence[int]
    skip_positions: int
    layout: Layout | Mapping[str, Layout] | None
    call: Call
    output: OutputKey | Mapping[str, OutputKey] | None
    read: ReadSite | Mapping[str, ReadSite] | None
    pooling: Pooling | None


class SiteArgs(BatchArgs, ReadArgs, total=False):
    """Arguments of analyses that read sites; see :class:`~lightning_interp.callbacks.RepresentationMetrics`."""

    data: Iterable[Any] | None
    forward: Forward | None
    projector: int | None
    label_names: Names | Mapping[str, Names] | None


class ReplayArgs(LoaderArgs, ReadArgs, total=False):
    """Arguments of analyses that run whole batches again and read sites in them."""


def split_site_args(given: SiteArgs | ReplayArgs) -> tuple[dict[str, Any], BatchArgs]:
    """Those of sites, and those of any analysis that reads batches; unknown ones stay among the latter.

    Example:
        >>> split_site_args({"layout": "BTD", "prefix": "own/"})
        ({'layout': 'BTD'}, {'prefix': 'own/'})

    """
    own = SiteArgs.__annotations__.keys() - BatchArgs.__annotations__.keys()
    of_sites = {name: value for name, value in given.items() if name in own}
    return of_sites, cast(BatchArgs, {name: value for name, value in given.items() if name not in own})


_OF_WORDS = ("tokens", "mask", "padding_idx", "ignore_tokens", "skip_positions")


def split_words(given: dict[str, Any]) -> dict[str, Any]:
    """Take out the arguments that say which positions of a batch are words.

    Example:
        >>> given = {"layout": "BTD", "padding_idx": 0}
        >>> split_words(given), given
        ({'padding_idx': 0}, {'layout': 'BTD'})

    """
    return {name: given.pop(name) for name in _OF_WORDS if name in given}
