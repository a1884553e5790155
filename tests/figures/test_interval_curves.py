"""Means over seeds with bands: what is drawn."""

from __future__ import annotations

import sys

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.colors import to_rgb

from lightning_interp.figures.interval_curves import interval_curves

DEEP = ([1, 10, 100], [2.0, 3.0, 5.0], [0.5, 0.2, 0.1])


def test_each_mean_has_a_band_of_its_colour() -> None:
    figure = interval_curves(
        {"rankme": {"deep": DEEP, "wide": ([2, 20], [1.0, 1.0], [0.0, 0.3])}, "alpha": {}}, "Title"
    )
    rankme, alpha = figure.axes
    assert rankme.get_xscale() == "log"
    assert [axes.get_title() for axes in figure.axes] == ["rankme", "alpha"]
    assert figure.get_suptitle() == "Title"
    for line, band in zip(rankme.get_lines(), rankme.collections, strict=True):
        assert isinstance(band, PolyCollection)
        assert tuple(band.get_facecolor()[0][:3]) == to_rgb(line.get_color())
    edge = rankme.collections[0].get_paths()[0].vertices
    assert edge[edge[:, 0] == 1, 1].min() == 1.5
    assert edge[edge[:, 0] == 1, 1].max() == 2.5
    assert rankme.get_lines()[0].get_xydata().tolist() == [[1, 2], [10, 3], [100, 5]]
    assert [text.get_text() for text in alpha.texts] == ["no readings"]


def test_a_line_of_one_step_has_a_bar() -> None:
    figure = interval_curves({"rankme": {"deep": DEEP, "end": ([100], [4.0], [0.5])}})
    [bar] = [drawn for drawn in figure.axes[0].collections if isinstance(drawn, LineCollection)]
    assert bar.get_segments()[0].tolist() == [[100, 3.5], [100, 4.5]]
    assert tuple(bar.get_color()[0][:3]) == to_rgb(figure.axes[0].get_lines()[1].get_color())


def test_the_legend_says_what_the_band_is_and_the_figure_is_not_of_pyplot() -> None:
    figure = interval_curves({"rankme": {"deep": DEEP}}, level=0.9)
    assert figure.legends[0].get_title().get_text() == "mean and\n90 % interval"
    FigureCanvasAgg(figure).draw()
    if "matplotlib.pyplot" in sys.modules:
        assert not sys.modules["matplotlib.pyplot"].get_fignums()


def test_errors() -> None:
    with pytest.raises(ValueError, match="at least one panel"):
        interval_curves({})
    with pytest.raises(ValueError, match=r"\['rankme'\]\['deep'\] has half-widths .*below 0"):
        interval_curves({"rankme": {"deep": ([1], [2.0], [-0.1])}})
    with pytest.raises(ValueError, match="2 widths for 1 values"):
        interval_curves({"rankme": {"deep": ([1], [2.0], [0.1, 0.2])}})
    with pytest.raises(ValueError, match="increasing steps"):
        interval_curves({"rankme": {"deep": ([2, 1], [2.0, 3.0], [0.1, 0.2])}})


def test_bands_may_go_beyond_axes_that_follow_the_rest() -> None:
    wide = ([1, 10, 100], [2.0, 3.0, 5.0], [40.0, 40.0, 40.0])
    lines = {"wide": wide, "narrow": ([1, 10, 100], [1.0, 2.0, 6.0], [0.5, 0.5, 0.5])}
    axes = interval_curves({"rankme": lines}, beyond=["wide"]).axes[0]
    assert axes.get_ylim() == pytest.approx((0.5 - 0.3, 6.5 + 0.3))
    assert interval_curves({"rankme": lines}).axes[0].get_ylim()[0] < -38
    alone = interval_curves(
        {"one": {"wide": ([5], [2.0], [9.0])}, "other": {"narrow": lines["narrow"]}}, beyond=["wide"]
    )
    assert alone.axes[0].get_ylim() == pytest.approx((1.9, 2.1))
    with pytest.raises(ValueError, match=r"beyond has \['deep'\]; the lines are \['wide', 'narrow'\]"):
        interval_curves({"rankme": lines}, beyond=["deep"])


def test_a_line_without_an_interval_has_no_band_and_the_legend_says_nothing_of_one() -> None:
    nan = float("nan")
    figure = interval_curves({"rankme": {"one run": ([1, 10], [2.0, 3.0], [nan, nan])}})
    assert figure.legends[0].get_title().get_text() == ""
    assert len(figure.axes[0].get_lines()) == 1
