"""The information plane: what a representation keeps of its input against what it says about the target."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, SymLogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lightning_interp.figures._style import MARKERS, finite, new_figure, shorten_all, step_label

__all__ = ["information_plane"]


def information_plane(
    complexity: Sequence[float] | Sequence[Sequence[float]] | np.ndarray[Any, Any],
    expressivity: Sequence[float] | Sequence[Sequence[float]] | np.ndarray[Any, Any],
    steps: Sequence[int],
    labels: Sequence[str] | None = None,
    title: str | None = None,
    x: str | None = None,
    y: str | None = None,
    unit: str = "",
) -> Figure:
    r"""Draw expressivity :math:`I(Y;Z)` against complexity :math:`I(X;Z)`, one path per site through training.

    Points are readings, joined in time and coloured by their step. The dashed line is the bound
    :math:`I(Y;Z) = I(X;Z)`, which no path crosses if Z depends on Y through X alone. With X the current token only, and
    Z a contextual representation, a path may cross it: say with ``x`` what X is.

    Args:
        complexity: :math:`I(X;Z)` of each reading, of shape (steps,), or (sites, steps) for several sites.
        expressivity: :math:`I(Y;Z)`, of the same shape and unit.
        steps: The step of each reading, increasing.
        labels: The name of each site; needed where there are several.
        title: The heading.
        x: What X is, such as ``"token"``.
        y: What Y is, such as ``"next token"``.
        unit: The unit of both axes, such as ``"bits"`` or ``"fraction of log n"``.

    Returns:
        A figure that pyplot does not know of: it is freed with its last reference.

    Raises:
        ValueError: If shapes, steps and labels do not fit together.

    Cost:
        35 ms, and 200 ms more to render 3 sites × 35 readings to pixels (one slow core).

    Example:
        >>> figure = information_plane(
        ...     [4.0, 3.5, 2.0], [0.5, 1.2, 1.6], steps=[1, 10, 100], x="token", y="next token", unit="bits"
        ... )
        >>> figure.axes[0].get_xlabel()
        'complexity I(X;Z), X = token (bits)'

    """
    xs, ys = np.atleast_2d(finite(np.asarray(complexity))), np.atleast_2d(finite(np.asarray(expressivity)))
    _check(xs, ys, steps, labels)
    figure = new_figure(width=6.4, height=4.8)
    axes = figure.subplots()
    norm = _step_colours(steps)
    points = None
    for row, (across, up) in enumerate(zip(xs, ys, strict=True)):
        axes.plot(across, up, color="0.6", linewidth=1, zorder=1)
        points = axes.scatter(
            across,
            up,
            c=list(steps),
            norm=norm,
            cmap="viridis",
            marker=MARKERS[row % len(MARKERS)],
            s=34,
            edgecolors="0.3",
            linewidths=0.4,
            zorder=2,
        )
    bound = _draw_bound(axes, xs, ys)

    axes.set_xlabel(_axis_label("complexity I(X;Z)", "X", x, unit), fontsize=10)
    axes.set_ylabel(_axis_label("expressivity I(Y;Z)", "Y", y, unit), fontsize=10)
    axes.tick_params(labelsize=8)
    axes.grid(color="0.92", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if title:
        axes.set_title(title, fontsize=11)
    assert points is not None
    bar = figure.colorbar(points, ax=axes, pad=0.02)
    bar.set_label("training step (log scale)", fontsize=9)
    bar.ax.yaxis.set_major_formatter(lambda step, _: step_label(step))
    bar.ax.tick_params(labelsize=8)
    bar.ax.minorticks_off()
    handles = [Line2D([], [], color="0.2", linestyle="--", linewidth=1, label=bound)]
    handles += [
        Line2D([], [], color="0.4", marker=MARKERS[row % len(MARKERS)], linestyle="", label=name)
        for row, name in enumerate(shorten_all(labels or [], 32))
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(3, len(handles)), fontsize=8, frameon=False)
    return figure


def _axis_label(measure: str, symbol: str, meaning: str | None, unit: str) -> str:
    return measure + (f", {symbol} = {meaning}" if meaning else "") + (f" ({unit})" if unit else "")


def _step_colours(steps: Sequence[int]) -> LogNorm | SymLogNorm:
    positive = [step for step in steps if step > 0] or [1]
    if min(steps) == 0:
        return SymLogNorm(linthresh=min(positive), linscale=0.4, vmin=0, vmax=max(positive))
    return LogNorm(vmin=min(positive), vmax=max(max(positive), min(positive) * 1.01))


def _draw_bound(axes: Axes, xs: np.ndarray[Any, Any], ys: np.ndarray[Any, Any]) -> str:
    name = "bound I(Y;Z) = I(X;Z)"
    there = ~np.isnan(xs) & ~np.isnan(ys)
    if not there.any():
        axes.text(0.5, 0.5, "no readings", transform=axes.transAxes, ha="center", color="0.5")
        return name
    across, up = xs[there], ys[there]
    gaps = across - up
    closest = np.abs(gaps).argmin()
    reach = max(np.ptp(across), np.ptp(up))
    near = abs(gaps[closest]) <= 2 * reach
    # The view takes in the nearest point of the bound, unless the data would shrink to a corner of it.
    centre = [(across[closest] + up[closest]) / 2] if near else []
    for set_limits, data in ((axes.set_xlim, across), (axes.set_ylim, up)):
        low, high = min([*data, *centre]), max([*data, *centre])
        margin = 0.06 * (high - low or abs(high) or 1)
        set_limits(low - margin, high + margin)
    axes.axline((across[closest], across[closest]), slope=1, color="0.2", linestyle="--", linewidth=1, zorder=0)
    side = "above" if gaps[closest] > 0 else "below"
    return name if near else f"{name} ({side} this view)"


def _check(
    xs: np.ndarray[Any, Any], ys: np.ndarray[Any, Any], steps: Sequence[int], labels: Sequence[str] | None
) -> None:
    if xs.shape != ys.shape or xs.ndim != 2:
        raise ValueError(
            f"complexity has the shape {xs.shape} and expressivity {ys.shape}; expected (sites, steps) of both."
        )
    if not len(steps) or xs.shape[1] != len(steps):
        raise ValueError(
            f"steps has {len(steps)} numbers for {xs.shape[1]} readings; expected one for each, and at least one."
        )
    if labels is None and len(xs) > 1:
        raise ValueError(f"labels=None for {len(xs)} sites; expected the name of each.")
    if labels is not None and len(labels) != len(xs):
        raise ValueError(f"labels={list(labels)!r} for {len(xs)} sites; expected the name of each.")
