"""What the figures share: colours that colour-blind readers can tell apart, step axes, short names."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from itertools import product
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, LogNorm, SymLogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

__all__ = [
    "GREY",
    "MARKERS",
    "finite",
    "in_two_lines",
    "line_styles",
    "log_step_axis",
    "new_figure",
    "shorten",
    "shorten_all",
    "step_bar",
    "step_colours",
    "step_label",
    "step_labels",
]

# Okabe and Ito's palette without its yellow, which is too pale for a line on white.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_DASHES = ("-", "--", ":", "-.")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
GREY = "#D9D9D9"


def new_figure(width: float, height: float) -> Figure:
    """An empty figure that no global list holds on to, in inches."""
    return Figure(figsize=(width, height), dpi=100, layout="constrained")


def line_styles(labels: Sequence[str]) -> dict[str, dict[str, Any]]:
    """A colour, dash and marker for each label; the first seven differ in colour, the next in dash as well."""
    looks = list(product(_DASHES, _COLOURS))
    styles: dict[str, dict[str, Any]] = {}
    for index, label in enumerate(labels):
        dash, colour = looks[index % len(looks)]
        styles[label] = {"color": colour, "linestyle": dash, "marker": MARKERS[index % len(MARKERS)]}
    return styles


def finite(values: Sequence[float] | np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The values as float64 with NaN in place of infinities, so that they leave a gap."""
    array = np.array(values, dtype=np.float64)
    array[~np.isfinite(array)] = np.nan
    return array


def shorten(name: str, length: int) -> str:
    """The name with its middle left out where it is too long."""
    if len(name) <= length:
        return name
    tail = (length - 1) // 2
    return f"{name[: length - 1 - tail]}…{name[-tail:]}"


def in_two_lines(title: str, length: int) -> str:
    """A title in at most two lines of whole words; what is too long even so has its middle left out."""
    first, *rest = textwrap.wrap(title, length, break_long_words=False, break_on_hyphens=False) or [""]
    return "\n".join(shorten(line, length) for line in (first, " ".join(rest)) if line)


def shorten_all(names: Sequence[str], length: int) -> list[str]:
    """Names of at most ``length`` characters that still differ: what dotted names share at their ends goes first.

    Where a shorter form would make two names equal, all keep their full length.
    """
    if all(len(name) <= length for name in names):
        return list(names)
    parts = [name.split(".") for name in names]
    shared_head = _shared(parts)
    shared_tail = min(_shared([part[::-1] for part in parts]), min(map(len, parts)) - shared_head)
    if len(names) == 1:
        shared_head = shared_tail = 0
    # One shared part may stay on the left: in "layers.3" it says what the 3 counts.
    for head in (max(shared_head - 1, 0), shared_head):
        cut = [_without_ends(part, head, shared_tail) for part in parts]
        if all(len(name) <= length for name in cut):
            break
    short = [shorten(name, length) for name in cut]
    return short if len(set(short)) == len(set(names)) else list(names)


def _without_ends(parts: Sequence[str], head: int, tail: int) -> str:
    middle = ".".join(parts[head : len(parts) - tail])
    return ("…" if head else "") + middle + ("…" if tail else "")


def _shared(parts: Sequence[Sequence[str]]) -> int:
    # How many leading parts all have in common, the last part of the shortest one excepted.
    shortest = min(map(len, parts)) - 1
    return next((i for i in range(shortest) if len({part[i] for part in parts}) > 1), shortest)


def step_label(step: float, digits: int = 3) -> str:
    """A number of steps in few characters: ``250``, ``1.5k``, ``20k``, ``3M``."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(step) >= size:
            return f"{step / size:.{digits}g}{unit}"
    return f"{step:g}"


def step_labels(steps: Sequence[float]) -> list[str]:
    """The labels of different steps, with as many digits as it takes to tell them apart."""
    for digits in range(3, 16):
        labels = [step_label(step, digits) for step in steps]
        if len(set(labels)) == len(labels):
            return labels
    return [f"{step:g}" for step in steps]


def log_step_axis(axes: Axes, steps: Sequence[int] | np.ndarray[Any, Any], most_ticks: int = 6) -> str:
    """Make the x axis logarithmic over these steps and return its label.

    A step 0 gets a place of its own at the left, 0.4 of a decade before the first positive step.
    """
    positive = sorted({int(step) for step in steps if step > 0})
    has_zero = any(step == 0 for step in steps)
    if not positive:
        axes.set_xlim(-1, 1)
        axes.set_xticks([0])
        return "training step"
    low, high = positive[0], positive[-1]
    if has_zero:
        axes.set_xscale("symlog", linthresh=low, linscale=0.4)
        axes.set_xlim(-0.25 * low, high * 1.15)
    else:
        axes.set_xscale("log")
        margin = (high / low) ** 0.04 if high > low else 1.5
        axes.set_xlim(low / margin, high * margin)
    ticks = _step_ticks(low, high, most_ticks - has_zero)
    ticks = [0, *ticks] if has_zero else ticks
    axes.set_xticks(ticks, step_labels(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    return "training step (log scale, 0 set apart)" if has_zero else "training step (log scale)"


def step_colours(steps: Sequence[int]) -> ScalarMappable:
    """Colours of steps on a logarithmic scale, dark to light; ``to_rgba`` gives a step's.

    Viridis without its last tenth, which is too pale for a line on white. A step 0 has the first colour, 0.4 of a
    decade before the first positive step; a single step has one colour.
    """
    colours = ListedColormap(matplotlib.colormaps["viridis"](np.linspace(0, 0.9, 256)))
    positive = sorted({step for step in steps if step > 0}) or [1]
    low, high = positive[0], positive[-1]
    if len(set(steps)) <= 1:
        # A logarithm knows no 0, so that a lone step 0 would count as a bad value.
        one = ListedColormap(colours([0.0])).with_extremes(bad=colours(0.0))
        return ScalarMappable(LogNorm(low / 2, low * 2), one)
    if min(steps) == 0:
        return ScalarMappable(SymLogNorm(linthresh=low, linscale=0.4, vmin=0, vmax=high), colours)
    return ScalarMappable(LogNorm(low, high), colours)


def step_bar(figure: Figure, panels: Sequence[Axes], colours: ScalarMappable, steps: Sequence[int]) -> None:
    """A colour bar right of the panels for what :func:`step_colours` gave for these steps."""
    bar = figure.colorbar(colours, ax=list(panels), pad=0.02, aspect=8 * figure.get_figheight())
    bar.set_label("training step", fontsize=9)
    positive = [step for step in steps if step > 0]
    ticks = _step_ticks(min(positive), max(positive), 8) if positive else [1.0]
    if positive and 0 in steps:
        ticks = [0.0, *ticks]
    bar.set_ticks(ticks, labels=step_labels(ticks) if positive else ["0"])
    bar.ax.tick_params(labelsize=8)
    bar.ax.yaxis.set_minor_locator(NullLocator())


def _step_ticks(low: int, high: int, most: int) -> list[float]:
    # The roundest numbers of which at least three lie in the range, then those that have room on the axis.
    decades = [10.0**power for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)]
    grids = [[m * decade for decade in decades for m in mantissas] for mantissas in ((1,), (1, 2, 5), range(1, 10))]
    grids.append([float(tick) for tick in MaxNLocator(nbins=4, integer=True).tick_values(low, high)])
    for grid in grids:
        inside = [tick for tick in grid if low <= tick <= high]
        if len(inside) >= 3:
            return _with_room(inside, math.log(high / low) / most)
    return [float(low)] if low == high else [float(low), float(high)]


def _with_room(ticks: Sequence[float], distance: float) -> list[float]:
    kept = [ticks[0]]
    for tick in ticks[1:]:
        if math.log(tick / kept[-1]) >= distance * 0.99:
            kept.append(tick)
    return kept
