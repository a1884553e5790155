"""What happens when: measures over one step axis, a panel each, with the phases of training shaded behind them."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from lightning_interp.figures._panels import (
    Line,
    Panels,
    checked_lines,
    draw_line,
    finish_panel,
    log_y_axis,
    positive,
)
from lightning_interp.figures._style import line_styles, log_step_axis

__all__ = ["training_phases"]

Phase: TypeAlias = tuple[float, float | None, str]
Knees: TypeAlias = Mapping[str, Mapping[str, Sequence[tuple[float, float, float]]]]

_SHADES = ("#F1F1F1", "#DEDEDE")
_UNSURE: dict[str, Any] = {"facecolor": "#F8F8F8", "edgecolor": "#D4D4D4", "hatch": "//", "linewidth": 0}
_LONE: dict[str, Any] = {"color": "#222222", "linestyle": "-", "marker": "o"}

# Large, since TensorBoard shows the figure at two fifths of its size; in points.
_TITLE, _SMALL, _NOTE = 12.5, 11.0, 12.0
_EM = 1 / 72
_LEFT, _RIGHT, _COLUMN_GAP, _FOOT = 0.82, 0.18, 0.82, 0.62  # Inches beside, between and below the panels.
_RISE = 12.0  # Of a phase's name above the panel where a line leads from it.
_LETTER = 0.52  # Of a font's size, about the width of a letter.


class _Layout(NamedTuple):
    """Where things are, in inches: fixed rather than fitted, which would cost as much as all the rest."""

    columns: int
    rows: int
    panel: tuple[float, float]
    """Width and height of a panel's axes."""
    head: float
    """From the top of the figure to the topmost axes."""
    row_gap: float

    @property
    def size(self) -> tuple[float, float]:
        across = _LEFT + self.columns * self.panel[0] + (self.columns - 1) * _COLUMN_GAP + _RIGHT
        return across, self.head + self.rows * self.panel[1] + (self.rows - 1) * self.row_gap + _FOOT


def training_phases(
    panels: Panels,
    phases: Sequence[Phase] = (),
    knees: Knees | None = None,
    title: str | None = None,
    note: str | None = None,
    log_y: Collection[str] = (),
    provisional: Phase | None = None,
) -> Figure:
    """Draw measures over a shared logarithmic step axis, a panel each, phases shaded behind them.

    Wider than high, in columns, the panels in rows from the top left; large enough in type to be read on a card of 330
    pixels. Each panel has its title above it and its legend in it, above its lines; words are never broken. A phase's
    name stands above every panel of the top row; where it is wider than its phase or had to give way to another, a thin
    line leads from it to the phase, and where the names have no room beside one another, they are numbers that a line
    under the heading explains. A label has the same colour, dash and marker in every panel; a line whose label is
    ``""`` is black and in no legend: its panel's title says what it is. A knee is a vertical tick on its line, the bar
    through it the interval; the first legend says so. A step 0 has a place of its own at the left of the axis. NaN and
    infinite values, on a logarithmic y axis also those that are not positive, leave a gap.

    Made for 1 to 9 panels of up to 4 lines and for up to 5 phases.

    Args:
        panels: Panel title → line label → (steps, values), steps increasing, in the order of reading.
        phases: (first step, last step, name) of each, in order and not overlapping; ``None`` for the last step means to
            the end of the axis. Where a phase ends and the next begins is marked by a thin line.
        knees: Panel title → line label → one (step, low, high) for each knee of that line, the 95 % interval from low
            to high; NaN for both where it is unknown.
        title: The heading of the figure.
        note: A sentence under the heading, such as ``"no second phase found"``.
        log_y: The titles of the panels with a logarithmic y axis.
        provisional: A phase after the others that is not certain yet, which is hatched. Where the last of the others
            goes on to the end, it ends there.

    Returns:
        A figure that pyplot does not know of: it is freed with its last reference.

    Raises:
        ValueError: If there is no panel, a line's steps do not increase or differ in number from its values, phases
            overlap or end before they start, a knee belongs to no line or lies outside its interval, or ``log_y``
            names no panel.

    Cost:
        10 ms a panel, and 30 ms more to render it to pixels (one slow core).

    Example:
        >>> steps = [1, 10, 100, 1000]
        >>> figure = training_phases(
        ...     {"loss": {"": (steps, [6.1, 4.0, 2.2, 2.1])}, "information": {"encoder": (steps, [2, 4, 3, 1])}},
        ...     phases=[(1, 100, "fitting"), (100, None, "compression")],
        ...     knees={"loss": {"": [(100, 60, 180)]}},
        ... )
        >>> [axes.get_title("left") for axes in figure.axes]
        ['loss', 'information']

    """
    if not panels:
        raise ValueError("panels={}: expected at least one panel, as {title: {label: (steps, values)}}.")
    lines = {panel: checked_lines(panel, given) for panel, given in panels.items()}
    spans = _with_provisional(phases, provisional)
    _check_phases(spans)
    _check_knees(knees or {}, lines)
    if unknown := [panel for panel in log_y if panel not in lines]:
        raise ValueError(f"log_y has {unknown}, which panels does not have; it has {list(lines)}.")
    labels = list(dict.fromkeys(label for panel in lines.values() for label in panel if label))
    styles = {**line_styles(labels), "": _LONE}

    columns = _columns(len(lines))
    width = _panel_width(columns)
    titles = {panel: _wrapped(f"{panel}, log scale" if panel in log_y else panel, width, _TITLE) for panel in lines}
    headings = [text for text, _ in titles.values()]
    spans, key = _numbered(spans, width)
    said = [(title, _TITLE + 1, "bold"), (note, _NOTE, "normal"), (key, _SMALL, "normal")]
    words = _heading(said, width * columns + _COLUMN_GAP * (columns - 1))
    layout = _layout(len(lines), columns, headings, words, named=bool(spans))
    figure = Figure(figsize=layout.size, dpi=100)
    grid = _axes(figure, layout, len(lines))
    steps = _steps_in_view(lines, spans)
    first = min(steps, default=0)
    x_label = log_step_axis(grid[0], steps, most_ticks=4)
    explained = False

    for index, (axes, (panel, given)) in enumerate(zip(grid, lines.items(), strict=True)):
        if panel in log_y:
            given = {label: (at, positive(values)) for label, (at, values) in given.items()}
        for order, (label, (at, values)) in enumerate(given.items()):
            draw_line(axes, at, values, styles[label], order=order, width=2.0)
        empty = all(np.isnan(values).all() for _, values in given.values())
        finish_panel(axes, empty)
        axes.tick_params(labelsize=_SMALL)
        if panel in log_y and not empty:
            log_y_axis(axes, np.concatenate([values for _, values in given.values()]))
        elif not empty:
            axes.yaxis.set_major_locator(MaxNLocator(nbins=3, steps=[1, 2, 2.5, 5, 10]))
        found = (knees or {}).get(panel, {})
        handles = [Line2D([], [], label=label, markersize=5, **styles[label]) for label in given if label]
        if not explained and any(found.values()):
            explained = True
            handles.append(_knee_handle([knee for each in found.values() for knee in each]))
        if handles and not empty:
            _legend(axes, handles, layout.panel)
        _shade(axes, spans, first, provisional)
        for label, at_steps in found.items():
            _mark_knees(axes, *given[label], at_steps, styles[label]["color"])
        rise = _name_phases(axes, spans, first, width) if index < columns else 0
        text, size = titles[panel]
        axes.set_title(text, loc="left", fontsize=size, pad=5 + rise)
        last = index + columns >= len(lines)
        axes.tick_params(labelbottom=last)
        if last:
            axes.set_xlabel(x_label, fontsize=_SMALL)
    _write(figure, words)
    return figure


def _with_provisional(phases: Sequence[Phase], provisional: Phase | None) -> list[Phase]:
    found = list(phases)
    if provisional is not None:
        if found and found[-1][1] is None:
            found[-1] = (found[-1][0], provisional[0], found[-1][2])
        found.append(provisional)
    return found


# ------------------------------------------------- where things are


def _columns(panels: int) -> int:
    return 1 if panels == 1 else 2 if panels <= 6 else 3


def _panel_width(columns: int) -> float:
    return {1: 6.2, 2: 3.3}.get(columns, 3.15)


def _layout(
    panels: int, columns: int, titles: Sequence[str], words: Sequence[tuple[str, float, str]], named: bool
) -> _Layout:
    rows = math.ceil(panels / columns)
    height = {1: 2.4, 2: 1.75}.get(rows, 1.3)
    lines = [max(text.count("\n") + 1 for text in titles[at : at + columns]) for at in range(0, panels, columns)]
    line = 1.25 * _TITLE * _EM
    above = sum(size * _EM * 1.3 * (text.count("\n") + 1) + 0.06 for text, size, _ in words)
    names = (_RISE + 1.3 * _SMALL) * _EM if named else 0.0
    head = 0.12 + above + lines[0] * line + names + 0.1
    return _Layout(columns, rows, (_panel_width(columns), height), head, 0.22 + line * max([1, *lines[1:]]))


def _axes(figure: Figure, layout: _Layout, number: int) -> list[Axes]:
    across, up = layout.size
    wide, high = layout.panel
    grid: list[Axes] = []
    for index in range(number):
        row, column = divmod(index, layout.columns)
        left = _LEFT + column * (wide + _COLUMN_GAP)
        bottom = up - layout.head - (row + 1) * high - row * layout.row_gap
        place = (left / across, bottom / up, wide / across, high / up)
        grid.append(figure.add_axes(place, sharex=grid[0] if grid else None))
    return grid


def _wrapped(text: str, width: float, size: float) -> tuple[str, float]:
    """A text in lines of whole words and the size at which it fits the width, smaller where a word is too long."""
    room = int(width / (_LETTER * size * _EM))
    longest = max((len(word) for word in text.split()), default=1)
    size = min(size, size * room / longest)
    found = textwrap.wrap(text, max(room, longest), break_long_words=False, break_on_hyphens=False)
    return "\n".join(found), size


def _numbered(phases: list[Phase], width: float) -> tuple[list[Phase], str | None]:
    """Numbers in place of names that do not fit beside one another, and what they mean."""
    if sum(len(name) + 2 for _, _, name in phases) * _LETTER * _SMALL * _EM <= width:
        return phases, None
    names = [f"{number} {name}" for number, (_, _, name) in enumerate(phases, 1)]
    return [(low, high, str(at)) for at, (low, high, _) in enumerate(phases, 1)], f"phases: {'; '.join(names)}"


def _heading(given: Sequence[tuple[str | None, float, str]], width: float) -> list[tuple[str, float, str]]:
    """What stands above the panels: text, size and weight."""
    return [(*_wrapped(text, width, size), weight) for text, size, weight in given if text]


def _write(figure: Figure, words: Sequence[tuple[str, float, str]]) -> None:
    across, up = figure.get_size_inches()
    y = up - 0.12
    for text, size, weight in words:
        left = _LEFT / across
        figure.text(left, y / up, text, fontsize=size, fontweight=weight, va="top", color="0.15", linespacing=1.25)
        y -= size * _EM * 1.3 * (text.count("\n") + 1) + 0.06


def _legend(axes: Axes, handles: Sequence[Line2D], panel: tuple[float, float]) -> None:
    """The legend in the panel, in a strip above its lines."""
    widths = [0.45 + len(str(handle.get_label())) * _LETTER * _SMALL * _EM for handle in handles]
    fits = [n for n in range(1, len(handles) + 1) if sum(map(max, np.array_split(widths, n))) <= panel[0]]
    columns = max(fits, default=1)
    rows = math.ceil(len(handles) / columns)
    share = min((0.06 + rows * 1.3 * _SMALL * _EM) / panel[1], 0.6)
    scale = axes.yaxis.get_transform()
    low, high = scale.transform(np.array(axes.get_ylim()))
    top = scale.inverted().transform(np.array([low + (high - low) / (1 - share)]))[0]
    axes.set_ylim(top=float(top))
    axes.legend(
        handles=list(handles),
        loc="upper left",
        ncols=columns,
        fontsize=_SMALL,
        frameon=False,
        handlelength=1.5,
        handletextpad=0.4,
        columnspacing=0.9,
        borderaxespad=0.1,
        borderpad=0.1,
        labelspacing=0.15,
    )


# ------------------------------------------------- what is drawn


def _steps_in_view(lines: Mapping[str, Mapping[str, Line]], phases: Sequence[Phase]) -> list[int]:
    steps = {int(step) for panel in lines.values() for at, _ in panel.values() for step in at}
    return sorted(steps | {round(edge) for phase in phases for edge in phase[:2] if edge is not None and edge >= 1})


def _shade(axes: Axes, phases: Sequence[Phase], first: int, provisional: Phase | None) -> None:
    for index, (low, high) in enumerate(_spans(axes, phases, first)):
        sure = provisional is None or index + 1 < len(phases)
        look = {"facecolor": _SHADES[index % 2], "edgecolor": "none"} if sure else _UNSURE
        axes.axvspan(low, high, zorder=-1, **look)
        if index:
            axes.axvline(low, color="0.55", linewidth=0.8, linestyle="-" if sure else "--", zorder=0)
    if phases:
        axes.grid(color="0.82", linewidth=0.6)


def _spans(axes: Axes, phases: Sequence[Phase], first: int) -> list[tuple[float, float]]:
    """From where to where each phase goes within the axis; one that starts with the first step has the margin too."""
    left, right = axes.get_xlim()
    return [(left if low <= first else low, right if high is None else min(high, right)) for low, high, _ in phases]


def _name_phases(axes: Axes, phases: Sequence[Phase], first: int, width: float) -> float:
    """Write the names in one row above the axes and return the height that they take, in points."""
    if not phases:
        return 0
    letter = _LETTER * _SMALL * _EM / width
    scale = axes.xaxis.get_transform()
    left, right = scale.transform(np.array(axes.get_xlim()))
    edges = scale.transform(np.array(_spans(axes, phases, first)).ravel())
    spans = (edges.reshape(-1, 2) - left) / (right - left)
    names = [name for _, _, name in phases]
    widths = np.array([len(name) * letter for name in names])
    centres = spans.mean(1)
    places = _spread(centres, widths + 2 * letter)
    leaders = (places - widths / 2 < spans[:, 0]) | (places + widths / 2 > spans[:, 1])
    rise = _RISE if leaders.any() else 3.0
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
            fontsize=_SMALL,
            color="0.25",
            arrowprops=line if leads else None,
        )
    return rise + 1.3 * _SMALL


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


def _knee_handle(knees: Sequence[tuple[float, float, float]]) -> Line2D:
    known = any(low == low and high == high for _, low, high in knees)
    return Line2D(
        [],
        [],
        color="0.6",
        linewidth=5 if known else 0,
        marker="|",
        markersize=11,
        markeredgewidth=2,
        markeredgecolor="0.25",
        solid_capstyle="butt",
        label="knee, 95 % interval" if known else "knee (the curve bends)",
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
