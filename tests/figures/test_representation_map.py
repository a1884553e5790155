"""Maps of representations: panels, classes, missing points."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from lightning_interp.figures import representation_map

POINTS = np.random.default_rng(0).normal(size=(60, 2))


def test_a_panel_a_reading_and_a_colour_a_class() -> None:
    classes = ["b"] * 30 + ["a"] * 20 + [""] * 10
    figure = representation_map([(1, POINTS), (10, 3 * POINTS), (100, POINTS)], classes, "enc")
    assert [axes.get_title() for axes in figure.axes] == ["step 1", "step 10", "step 100"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b", "others"]
    rest, first, second = figure.axes[0].lines
    assert [len(line.get_xdata()) for line in (rest, first, second)] == [10, 20, 30]
    assert first.get_color() != second.get_color()
    FigureCanvasAgg(figure).draw()


def test_the_largest_classes_are_shown_in_the_order_of_their_numbers() -> None:
    classes = [str(n) for n in range(12) for _ in range(n + 1)]
    figure = representation_map([(0, np.zeros((len(classes), 2)))], classes)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [*map(str, range(5, 12)), "others"]
    FigureCanvasAgg(figure).draw()


def test_points_that_are_missing_and_maps_without_classes() -> None:
    some = POINTS.copy()
    some[:5] = np.nan
    figure = representation_map([(1, some), (2, np.full((60, 2), np.nan))])
    assert figure.legends == []
    FigureCanvasAgg(figure).draw()


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one reading"):
        representation_map([])
    with pytest.raises(ValueError, match="increasing steps"):
        representation_map([(2, POINTS), (1, POINTS)])
    with pytest.raises(ValueError, match=r"expected \(points, 2\) = \(59, 2\)"):
        representation_map([(1, POINTS)], ["a"] * 59)
