"""A sentence's gold tree above its words and a predicted one below."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lightning_interp.figures._style import new_figure

__all__ = ["dependency_tree"]

_Dash = Literal["-", "--"]

_RIGHT, _WRONG, _GOLD = "#0072B2", "#D55E00", "#555555"


def dependency_tree(words: Sequence[str], gold: Sequence[int], predicted: Sequence[int], title: str) -> Figure:
    """Draw both trees as arcs without direction, the gold one above the words, the predicted one below.

    Predicted arcs that the gold tree has are solid, others dashed.

    Args:
        words: The words.
        gold: Place of each word's head, counted from 0, −1 for the root.
        predicted: For each word a word it is linked to, −1 for none, as
            :func:`~lightning_interp.functional.minimum_spanning_tree` gives it.
        title: The heading.

    Returns:
        A figure that pyplot does not know of: it is freed with its last reference.

    Raises:
        ValueError: If there is no word, or the numbers of words and links differ.

    Example:
        >>> figure = dependency_tree(["the", "king", "sleeps"], [1, 2, -1], [2, -1, 1], "layer 1")
        >>> len(figure.axes[0].lines)
        4

    """
    if not len(words) or not len(words) == len(gold) == len(predicted):
        raise ValueError(
            f"got {len(words)} words, {len(gold)} gold and {len(predicted)} predicted links; expected one of each."
        )
    edges = {frozenset((word, head)) for word, head in enumerate(gold) if head >= 0}
    # Words are as far apart as the longest two neighbours need.
    widths = [0.085 * len(word) + 0.12 for word in words]
    places = np.concatenate([[0.0], np.cumsum([(a + b) / 2 for a, b in pairwise(widths)])])
    span = max((abs(places[a] - places[b]) for a, b in _links(gold) + _links(predicted)), default=1.0)
    height = 0.55 + 0.35 * min(span, 6.0)
    figure = new_figure(width=max(places[-1] + 1.5, 5.0), height=2 * height + 0.9)
    axes = figure.subplots()
    for place, word in zip(places, words, strict=True):
        axes.text(place, 0, word, ha="center", va="center", fontsize=9)
    for one, other in _links(gold):
        _arc(axes, places[one], places[other], span, height, _GOLD, "-")
    for one, other in _links(predicted):
        right = frozenset((one, other)) in edges
        _arc(axes, places[one], places[other], span, -height, _RIGHT if right else _WRONG, "-" if right else "--")
    lowest = min((float(np.min(line.get_ydata())) for line in axes.lines), default=0.0)
    axes.set_ylim(min(lowest, -0.3) - 0.1, height + 0.1)
    axes.set_xlim(places[0] - 0.6, places[-1] + 0.6)
    axes.axis("off")
    axes.set_title(title, fontsize=11)
    looks: dict[str, tuple[str, _Dash]] = {
        "gold": (_GOLD, "-"),
        "predicted, right": (_RIGHT, "-"),
        "predicted, wrong": (_WRONG, "--"),
    }
    handles = [Line2D([], [], color=colour, linestyle=dash, label=name) for name, (colour, dash) in looks.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    return figure


def _links(heads: Sequence[int]) -> list[tuple[int, int]]:
    return [(word, head) for word, head in enumerate(heads) if head >= 0]


def _arc(axes: Axes, one: float, other: float, span: float, height: float, colour: str, dash: _Dash) -> None:
    """Half an ellipse, the higher the longer; from just above the words, or just below."""
    turn = np.linspace(0, np.pi, 40)
    sign = 1.0 if height > 0 else -1.0
    tall = (abs(height) - 0.15) * (0.15 + 0.85 * abs(one - other) / span)
    middle, half = (one + other) / 2, abs(one - other) / 2
    axes.plot(middle + half * np.cos(turn), sign * (0.15 + tall * np.sin(turn)), color=colour, linestyle=dash, lw=1.3)
