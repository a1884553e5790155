"""The pictures of an analysis that has none of its own: heat maps of its measures over steps."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from functools import partial
from typing import Protocol

from matplotlib.figure import Figure

from lightning_interp.figures import site_heatmap
from lightning_interp.metrics.measure import SUMMARY, Measure
from lightning_interp.reading.grids import site_grid
from lightning_interp.reading.history import History
from lightning_interp.reading.keys import Declares

__all__ = ["heat_maps"]


class Drawn(Declares, Protocol):
    """An analysis with readings."""

    history: History


def heat_maps(analysis: Drawn) -> dict[str, Callable[[], Figure]]:
    """Of each summary measure of which several values were read, a heat map over its last axis and steps.

    Where the last axis has one value it is the first. What the other axes are, the tag says:
    ``attention_entropy/encoder`` has the heads of that site.

    Args:
        analysis: The analysis; its ``axes`` without a model are asked for.

    """
    found: dict[str, Callable[[], Figure]] = {}
    axes = analysis.axes(None)
    for measure in analysis.declares():
        if measure.level != SUMMARY or measure.bookkeeping:
            continue
        along = next((axis for axis in (*measure.of[-1:], *measure.of[:1]) if len(axes[axis]) > 1), None)
        if along is None:
            continue
        for at in itertools.product(*(axes[axis] if axis != along else [""] for axis in measure.of)):
            rows = {value: analysis.full_key(_key(measure, at, along, value)) for value in axes[along]}
            if sum(bool(analysis.history.series(key)[0]) for key in rows.values()) > 1:
                others = {axis: value for axis, value in zip(measure.of, at, strict=True) if axis != along}
                tag = "/".join([measure.name, *others.values(), *([measure.end] if measure.end else [])])
                found[tag] = partial(_drawn, analysis.history, measure, others, along, rows)
    return found


def _key(measure: Measure, at: tuple[str, ...], along: str, value: str) -> str:
    return measure.key(*(value if axis == along else one for axis, one in zip(measure.of, at, strict=True)))


def _drawn(
    history: History, measure: Measure, others: Mapping[str, str], along: str, rows: Mapping[str, str]
) -> Figure:
    # A number alone does not say what it is of.
    said = [f"{axis} {value}" if value.isdecimal() else value for axis, value in others.items()]
    title = ", ".join([measure.title, *said])
    figure = site_heatmap(*site_grid(history, rows), title=title, label=measure.unit or measure.title)
    figure.axes[0].set_ylabel(along)
    return figure
