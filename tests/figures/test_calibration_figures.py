"""Reliability diagram and selective accuracy: what is drawn, and what is refused."""

from __future__ import annotations

import math

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from lightning_interp.figures import reliability_diagram, selective_accuracy_curve

EARLY = [[10, 0, 10], [2.0, 0, 8.0], [4, 0, 5]]
LATE = [[5, 5, 10], [1.0, 2.5, 9.0], [1, 2, 9]]


def test_points_are_mean_confidence_and_accuracy_of_bins_that_have_any() -> None:
    figure = reliability_diagram([(1, EARLY), (100, LATE)], "head")
    above, below = figure.axes[:2]
    diagonal, early, late = above.lines
    assert early.get_xdata().tolist() == [0.2, 0.8]
    assert early.get_ydata().tolist() == [0.4, 0.5]
    assert late.get_xdata().tolist() == [0.2, 0.5, 0.9]
    assert diagonal.get_xdata().tolist() == diagonal.get_ydata().tolist() == [0, 1]
    assert [bar.get_height() for bar in below.patches] == [0.25, 0.25, 0.5]
    assert figure.get_suptitle() == "head"
    FigureCanvasAgg(figure).draw()


def test_a_reading_without_predictions_is_an_empty_diagram() -> None:
    figure = reliability_diagram([(0, [[0, 0], [0, 0], [0, 0]])])
    FigureCanvasAgg(figure).draw()
    assert len(figure.axes[0].lines[1].get_xdata()) == 0


def test_curves_run_over_coverage() -> None:
    figure = selective_accuracy_curve([(0, [1.0, 0.5]), (10, [1.0, math.nan, 0.9, 0.8])], "head")
    first, second = figure.axes[0].lines
    assert first.get_xdata().tolist() == [0.5, 1.0]
    assert second.get_xdata().tolist() == [0.25, 0.5, 0.75, 1.0]
    FigureCanvasAgg(figure).draw()


def test_bad_input_is_refused() -> None:
    for draw, one in ((reliability_diagram, LATE), (selective_accuracy_curve, [0.5])):
        with pytest.raises(ValueError, match="expected at least one"):
            draw([])
        with pytest.raises(ValueError, match="increasing steps"):
            draw([(5, one), (5, one)])
    with pytest.raises(ValueError, match=r"expected \(3, bins\)"):
        reliability_diagram([(1, LATE[:2])])
    with pytest.raises(ValueError, match=r"expected \(coverages,\)"):
        selective_accuracy_curve([(1, [])])
