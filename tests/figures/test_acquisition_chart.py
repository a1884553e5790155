"""A row for each thing, the earliest on top, with a dot and a bar for each acquisition."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest

from lightning_interp.figures import acquisition_chart
from lightning_interp.functional import Acquisition

NEVER = Acquisition(math.nan, math.nan, math.nan)


def rows(figure) -> list[str]:
    return [tick.get_text() for tick in figure.axes[0].get_yticklabels()]


def test_rows_are_in_the_order_of_acquisition() -> None:
    noun, verb = Acquisition(80.0, 50.0, 100.0), Acquisition(20.0, 10.0, 30.0)
    figure = acquisition_chart({"noun": [noun], "none": [NEVER], "verb": [verb]}, "order", steps=[1, 1000])
    assert rows(figure) == ["verb", "noun", "none"]
    axes = figure.axes[0]
    assert [line.get_xdata().tolist() for line in axes.lines] == [[20.0], [80.0], []]
    assert [line.get_ydata().tolist() for line in axes.lines] == [[0.0], [1.0], []]
    bars = [bar.get_segments() for bar in axes.collections]
    assert [[segment.tolist() for segment in bar] for bar in bars[:2]] == [[[[10, 0], [30, 0]]], [[[50, 1], [100, 1]]]]
    assert [text.get_text() for text in axes.texts] == ["never"]
    assert axes.get_ylim()[0] > axes.get_ylim()[1]
    low, high = axes.get_xlim()
    assert low <= 1 < 1000 <= high
    assert axes.get_title() == "order"


def test_several_seeds_are_ordered_by_their_median() -> None:
    def at(*steps: float) -> list[Acquisition]:
        return [Acquisition(step, step / 2, step * 2) for step in steps]

    figure = acquisition_chart({"late": [*at(100, 200), NEVER], "early": at(300, 10, 20), "never": [NEVER] * 3})
    assert rows(figure) == ["early", "late", "never"]
    assert [text.get_text() for text in figure.axes[0].texts] == ["never in 1 of 3", "never"]
    heights = figure.axes[0].lines[0].get_ydata()
    assert len(set(heights)) == 3
    assert max(map(abs, heights)) < 0.5


def test_step_0_and_nothing_acquired_have_an_axis() -> None:
    acquisition_chart({"a": [Acquisition(0.0, 0.0, 0.0)], "b": [Acquisition(5.0, 0.0, 10.0)]}).draw_without_rendering()
    acquisition_chart({"a": [NEVER]}).draw_without_rendering()


@pytest.mark.parametrize("number", [1, 12, 64, 200])
def test_labels_do_not_overlap_and_all_fits(number: int) -> None:
    places = [10.0 * n + 5 for n in range(number)]
    named = {f"a_phenomenon_with_a_long_name_{at:g}": [Acquisition(at, at - 4, at + 4)] for at in places}
    figure = acquisition_chart({**named, "none": [NEVER]})
    figure.draw_without_rendering()
    axes = figure.axes[0]
    down = [label.get_window_extent() for label in axes.get_yticklabels()]
    assert all(upper.y0 > lower.y1 - 0.5 for upper, lower in pairwise(down))
    assert len(down) >= min(number, 30)
    across = [label.get_window_extent() for label in axes.get_xticklabels()]
    assert all(left.x1 < right.x0 for left, right in pairwise(across))
    assert max(figure.get_size_inches()) <= 14
    assert axes.get_tightbbox().x0 >= -1
    assert axes.get_tightbbox().x1 <= figure.bbox.x1 + 1


@pytest.mark.parametrize("acquired", [{}, {"a": []}])
def test_bad_input_is_named(acquired) -> None:
    with pytest.raises(ValueError, match="`acquired` must have a row, and each an acquisition"):
        acquisition_chart(acquired)
