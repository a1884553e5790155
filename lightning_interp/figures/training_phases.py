"""What happens when: measures stacked over one step axis, with the phases of training shaded behind them."""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, NullLocator

from lightning_interp.figures._panels import Line, Panels, checked_lines, draw_line, finish_panel
from lightning_interp.figures._style import line_styles, log_step_axis, new_figure, shorten, shorten_all

__all__ = ["training_phases"]

Phase: TypeAlias = tuple[float, float | None, str]
Knees: TypeAlias = Mapping[str, Mapping[str, Sequence[tuple[float, float, float]]]]

_SHADES = ("#F1F1F1", "#DEDEDE")
_PANEL_WIDTH = 6.2
_LETTER = 0.078 / _PANEL_WIDTH  # How much of a panel's width a letter of a phase's name takes.


def training_phases(
    panels: Panels,
    phases: Sequence[Phase] = (),
    knees: Knees | None = None,
    title: str | None = None,
    note: str | None = None,
    log_y: Collection[str] = (),
) -> Figure:
    """Draw measures one above the other over a shared logarithmic step axis, phases shaded behind them.

    A phase's name stands once, above the topmost panel; where it is wider than its phase or had to give way to
    another, a thin line leads from it to the phase. A label has the same colour, dash and marker in every panel, and
    one legend beside the panels names them all. A knee is a vertical tick on its line, the bar through it the interval.
    A step 0 has a place of its own at the left of the axis. NaN and infinite values, on a logarithmic y axis also those
    that are not positive, leave a gap.

    Made for 1 to 8 panels of up to 6 lines and for up to 5 phases.

    Args:
        panels: Panel title → line label → (steps, values), steps increasing, from the top panel to the bottom one.
        phases: (first step, last step, name) of each, in order and not overlapping; ``None`` for the last step means to
            the end of the axis. Where a phase ends and the next begins is marked by a thin line.
        knees: Panel title → line label → one (step, low, high) for each knee of that line, the 95 % interval from low
            to high; NaN for both where it is unknown.
        title: The heading of the figure.
        note: A sentence under the heading, such as ``"no second phase found"``.
        log_y: The titles of the panels with a logarithmic y axis.

    Returns:
        A figure that pyplot does not know of: it is freed with its last reference.

    Raises:
        ValueError: If there is no panel, a line's steps do not increase or differ in number from its values, phases
            overlap or end before they start, a knee belongs to no line or lies outside its interval, or ``log_y``
            names no panel.

    Cost:
        50 ms for 5 panels of 2 lines with phases and knees, and 400 ms more to render them to pixels (one slow core).

    Example:
        >>> steps = [1, 10, 100, 1000]
        >>> figure = training_phases(
        ...     {"loss": {"loss": (steps, [6.1, 4.0, 2.2, 2.1])}, "information": {"encoder": (steps, [2, 4, 3, 1])}},
        ...     phases=[(1, 100, "fitting"), (100, None, "compression")],
        ...     knees={"loss": {"loss": [(100, 60, 180)]}},
        ... )
        >>> [axes.get_ylabel() for axes in figure.axes]
        ['loss', 'information']

    """
    if not panels:
        raise ValueError("panels={}: expected at least one panel, as {title: {label: (steps, values)}}.")
    lines = {panel: checked_lines(panel, given) for panel, given in panels.items()}
    _check_phases(phases)
    _check_knees(knees or {}, lines)
    if unknown := [panel for panel in log_y if panel not in lines]:
        raise ValueError(f"log_y has {unknown}, which panels does not have; it has {list(lines)}.")
    labels = list(dict.fromkeys(label for panel in lines.values() for label in panel))
    styles = line_styles(labels)

    handles = [
        Line2D([], [], label=name, markersize=4, **styles[label])
        for label, name in zip(labels, shorten_all(labels, 28), strict=True)
    ]
    if any(found for panel in (knees or {}).values() for found in panel.values()):
        handles.append(_knee_handle())
    legend_width = 1.1 + 0.085 * max(len(str(handle.get_label())) for handle in handles) if handles else 0
    width = 0.9 + _PANEL_WIDTH + legend_width
    figure = new_figure(width=width, height=max(0.9 + 1.5 * len(lines), 0.4 + 0.21 * len(handles)))
    grid = figure.subplots(len(lines), 1, sharex=True, squeeze=False)[:, 0]
    steps = _steps_in_view(lines, phases)
    first = min(steps, default=0)
    grid[-1].set_xlabel(log_step_axis(grid[0], steps, most_ticks=8), fontsize=9)

    for axes, (panel, given) in zip(grid, lines.items(), strict=True):
        if panel in log_y:
            given = {label: (at, _positive(values)) for label, (at, values) in given.items()}
        for label, (at, values) in given.items():
            draw_line(axes, at, values, styles[label], order=labels.index(label))
        empty = all(np.isnan(values).all() for _, values in given.values())
        finish_panel(axes, empty)
        axes.set_ylabel("\n".join(textwrap.wrap(shorten(panel, 36), 18)), fontsize=9)
        if panel in log_y and not empty:
            _log_y_axis(axes, np.concatenate([values for _, values in given.values()]))
        _shade(axes, phases, first)
        for label, found in (knees or {}).get(panel, {}).items():
            _mark_knees(axes, *given[label], found, styles[label]["color"])

    figure.align_ylabels()
    middle = (0.75 + _PANEL_WIDTH / 2) / width  # Of the panels, about, which the legend puts left of the figure's.
    height = _name_phases(grid[0], phases, first)
    if note:
        grid[0].annotate(
            textwrap.fill(note, 76),
            xy=(middle, 1),
            xytext=(0, 5 + height),
            xycoords=("figure fraction", "axes fraction"),
            textcoords="offset points",
            ha="center",
            fontsize=9,
            color="0.3",
        )
    if title:
        figure.suptitle(title, x=middle, fontsize=12)
    if handles:
        figure.legend(handles=handles, loc="outside right upper", fontsize=9, frameon=False, handlelength=2.6)
    return figure


def _steps_in_view(lines: Mapping[str, Mapping[str, Line]], phases: Sequence[Phase]) -> list[int]:
    steps = {int(step) for panel in lines.values() for at, _ in panel.values() for step in at}
    return sorted(steps | {round(edge) for phase in phases for edge in phase[:2] if edge is not None and edge >= 1})


def _positive(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.where(values > 0, values, np.nan)


def _log_y_axis(axes: Axes, values: np.ndarray[Any, Any]) -> None:
    axes.set_yscale("log")
    decades = np.log10(np.nanmax(values) / np.nanmin(values))
    # Within a decade round numbers such as 2 and 4 tell more than the powers of ten, of which it holds one at most.
    powers = LogLocator(subs=(1, 3) if decades < 2.5 else (1,), numticks=6)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=4, steps=[1, 2, 5, 10]) if decades < 1 else powers)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_ylabel(f"{axes.get_ylabel()}\n(log scale)", fontsize=9)


def _shade(axes: Axes, phases: Sequence[Phase], first: int) -> None:
    for index, (low, high) in enumerate(_spans(axes, phases, first)):
        axes.axvspan(low, high, facecolor=_SHADES[index % 2], edgecolor="none", zorder=-1)
        if index:
            axes.axvline(low, color="0.55", linewidth=0.8, zorder=0)
    if phases:
        axes.grid(color="0.82", linewidth=0.6)


def _spans(axes: Axes, phases: Sequence[Phase], first: int) -> list[tuple[float, float]]:
    """From where to where each phase goes within the axis; one that starts with the first step has the margin too."""
    left, right = axes.get_xlim()
    return [(left if low <= first else low, right if high is None else min(high, right)) for low, high, _ in phases]


def _name_phases(axes: Axes, phases: Sequence[Phase], first: int) -> float:
    """Write the names in one row above the axes and return the height that they take, in points."""
    if not phases:
        return 0
    scale = axes.xaxis.get_transform()
    left, right = scale.transform(np.array(axes.get_xlim()))
    edges = scale.transform(np.array(_spans(axes, phases, first)).ravel())
    spans = (edges.reshape(-1, 2) - left) / (right - left)
    names = [name for _, _, name in phases]
    most = max(int(1 / _LETTER / len(names)) - 2, 3)
    if sum(len(name) + 2 for name in names) * _LETTER > 1:
        names = [shorten(name, most) for name in names]
    widths = np.array([len(name) * _LETTER for name in names])
    centres = spans.mean(1)
    places = _spread(centres, widths + 2 * _LETTER)
    leaders = (places - widths / 2 < spans[:, 0]) | (places + widths / 2 > spans[:, 1])
    rise = 14 if leaders.any() else 4
    line = {"arrowstyle": "-", "color": "0.45", "linewidth": 0.8, "shrinkA": 0, "shrinkB": 0, "relpos": (0.5, 0)}
    for name, place, centre, leads in zip(names, places, centres, leaders, strict=True):
        axes.annotate(
            name,
            xy=(centre, 1),
            xytext=(place, rise),
            xycoords="axes fraction",
            textcoords=("axes fraction", "offset points"),
            ha="center",
            va="bottom",
            fontsize=9,
            arrowprops=line if leads else None,
        )
    return rise + 13


def _spread(centres: np.ndarray[Any, Any], widths: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Centres moved as far as it takes for intervals of these widths to lie side by side within 0 to 1."""
    # The mean of two arrangements that keep the distances keeps them too.
    to_the_right = _pushed(centres, widths)
    to_the_left = 1 - _pushed(1 - centres[::-1], widths[::-1])[::-1]
    return np.asarray((to_the_right + to_the_left) / 2)


def _pushed(centres: np.ndarray[Any, Any], widths: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    # Each is pushed to the right by the one before it, and back where the last one leaves the range.
    places, apart = centres.copy(), (widths[:-1] + widths[1:]) / 2
    places[0] = max(places[0], widths[0] / 2)
    for i in range(1, len(places)):
        places[i] = max(places[i], places[i - 1] + apart[i - 1])
    places[-1] = min(places[-1], 1 - widths[-1] / 2)
    for i in reversed(range(len(places) - 1)):
        places[i] = min(places[i], places[i + 1] - apart[i])
    return places


def _mark_knees(
    axes: Axes,
    steps: np.ndarray[Any, Any],
    values: np.ndarray[Any, Any],
    knees: Sequence[tuple[float, float, float]],
    colour: str,
) -> None:
    there = ~np.isnan(values)
    if not there.any():
        return
    # Between two readings the line is straight on the page, that is in the axes' scales.
    across, up = axes.xaxis.get_transform(), axes.yaxis.get_transform()
    halo = [withStroke(linewidth=3.5, foreground="white")]
    left, right = axes.get_xlim()
    for step, low, high in knees:
        at = np.interp(across.transform(np.array([step])), across.transform(steps[there]), up.transform(values[there]))
        height = float(up.inverted().transform(at)[0])
        if low == low and high == high:
            ends = [max(low, left), min(high, right)]
            axes.plot(ends, [height] * 2, color=colour, linewidth=5, alpha=0.4, solid_capstyle="butt", zorder=2.5)
        axes.plot([step], [height], "|", color=colour, markersize=13, markeredgewidth=2, zorder=3, path_effects=halo)


def _knee_handle() -> Line2D:
    return Line2D(
        [],
        [],
        color="0.6",
        linewidth=5,
        marker="|",
        markersize=11,
        markeredgewidth=2,
        markeredgecolor="0.25",
        solid_capstyle="butt",
        label="knee, 95 % interval",
    )


def _check_phases(phases: Sequence[Phase]) -> None:
    before = 0.0
    for index, (start, end, name) in enumerate(phases):
        if not before <= start < (np.inf if end is None else end):
            raise ValueError(
                f"phases[{index}] is {(start, end, name)}; expected a start from {before:g} on, where the phase before "
                "it ends, and an end after the start."
            )
        if end is None and index + 1 < len(phases):
            raise ValueError(
                f"phases[{index}] is {(start, end, name)}, to the end, but {len(phases)} phases are given."
            )
        before = start if end is None else end


def _check_knees(knees: Knees, lines: Mapping[str, Mapping[str, Line]]) -> None:
    for panel, given in knees.items():
        if panel not in lines:
            raise ValueError(f"knees has the panel {panel!r}, which panels does not have; it has {list(lines)}.")
        for label, found in given.items():
            if label not in lines[panel]:
                raise ValueError(
                    f"knees[{panel!r}] has the line {label!r}, which the panel does not have; it has "
                    f"{list(lines[panel])}."
                )
            for step, low, high in found:
                unknown = np.isnan(low) and np.isnan(high)
                if not (0 <= step < np.inf and (unknown or 0 <= low <= step <= high)):
                    raise ValueError(
                        f"knees[{panel!r}][{label!r}] has {(step, low, high)}; expected (step, low, high) with "
                        "0 ≤ low ≤ step ≤ high."
                    )
