"""Small multiples: what is drawn where, and what a reader must not stumble over."""

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from lightning_interp.decisions import log_spaced_steps
from lightning_interp.figures import measure_curves

STEPS = list(log_spaced_steps(8, stop=20_000))


def line(axes, label_index: int):
    return axes.get_lines()[label_index]


def panels_of(count: int, lines: int, steps=STEPS):
    curve = np.linspace(1, 0, len(steps))
    labels = [f"model.encoder.layers.{i}.attention" for i in range(lines)]
    return {f"measure {p}": {label: (steps, curve + i) for i, label in enumerate(labels)} for p in range(count)}


def panel_axes(figure: Figure):
    return [axes for axes in figure.axes if axes.get_title()]


def test_draws_the_readings_of_each_panel():
    figure = measure_curves(
        {"information": {"encoder": ([1, 10], [0.9, 0.5])}, "variation": {"decoder": ([2, 4, 8], [0.1, 0.2, 0.3])}},
        title="Structure",
    )
    information, variation = panel_axes(figure)
    assert figure.get_suptitle() == "Structure"
    assert [axes.get_title() for axes in (information, variation)] == ["information", "variation"]
    assert line(information, 0).get_xydata().tolist() == [[1, 0.9], [10, 0.5]]
    assert line(variation, 0).get_xydata().tolist() == [[2, 0.1], [4, 0.2], [8, 0.3]]
    assert information.get_xlim() == variation.get_xlim()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["encoder", "decoder"]


def test_a_label_looks_the_same_in_every_panel_and_in_the_legend():
    figure = measure_curves(
        {"one": {"a": ([1], [1]), "b": ([1], [2])}, "two": {"b": ([1], [3]), "c": ([1], [1]), "a": ([1], [2])}}
    )
    one, two = panel_axes(figure)

    def look(drawn):
        return to_hex(drawn.get_color()), drawn.get_linestyle(), drawn.get_marker()

    legend = {handle.get_label(): look(handle) for handle in figure.legends[0].get_lines()}
    assert [look(drawn) for drawn in one.get_lines()] == [legend["a"], legend["b"]]
    assert [look(drawn) for drawn in two.get_lines()] == [legend["b"], legend["c"], legend["a"]]
    assert len(set(legend.values())) == 3


@pytest.mark.parametrize(("steps", "scale"), [([1, 10, 100], "log"), ([0, 10, 100], "symlog")])
def test_the_axis_is_logarithmic_and_shows_step_zero(steps, scale):
    [axes] = panel_axes(measure_curves({"m": {"a": (steps, [1, 2, 3])}}))
    assert axes.get_xscale() == scale
    assert axes.get_xlim()[0] < steps[0]
    assert ("0 set apart" in axes.get_xlabel()) == (scale == "symlog")


def test_gaps_stay_open_and_lone_readings_are_marked():
    values = np.ones(40)
    values[[5, 6, 20, 22]] = [np.nan, np.inf, np.nan, -np.inf]
    [axes] = panel_axes(measure_curves({"m": {"a": (range(1, 41), values)}}))
    drawn = line(axes, 0)
    assert np.flatnonzero(np.isnan(drawn.get_ydata())).tolist() == [5, 6, 20, 22]
    assert 21 in drawn.get_markevery()
    assert len(drawn.get_markevery()) < 15


def test_few_readings_are_all_marked():
    [axes] = panel_axes(measure_curves({"m": {"a": ([1, 2, 3], [1, float("nan"), 2]), "b": ([7], [1])}}))
    assert set(line(axes, 0).get_markevery()) >= {0, 2}
    assert line(axes, 1).get_markevery() == [0]
    assert line(axes, 1).get_marker() not in ("", "None", None)


def test_bands_are_half_widths_or_two_curves():
    figure = measure_curves(
        {"m": {"a": ([1, 10], [0.5, 0.5]), "b": ([1, 10], [0.1, 0.2])}},
        bands={"m": {"a": [0.1, 0.2], "b": ([0.0, 0.1], [0.3, 0.4])}},
    )
    [axes] = panel_axes(figure)
    edges = [np.unique(np.round(band.get_paths()[0].vertices[:, 1], 6)).tolist() for band in axes.collections]
    assert edges == [[0.3, 0.4, 0.6, 0.7], [0.0, 0.1, 0.3, 0.4]]
    colours = [to_hex(band.get_facecolor()[0]) for band in axes.collections]
    assert colours == [to_hex(drawn.get_color()) for drawn in axes.get_lines()]


@pytest.mark.parametrize(
    ("count", "lines"), [(1, 1), (1, 12), (2, 12), (3, 1), (4, 12), (5, 2), (7, 1), (9, 1), (12, 12)]
)
def test_everything_fits_and_the_legend_covers_no_panel(count, lines):
    figure = measure_curves(panels_of(count, lines), title="title")
    figure.draw_without_rendering()
    whole = figure.bbox
    legend = figure.legends[0].get_window_extent()
    assert len(panel_axes(figure)) == len(figure.axes) == count
    boxes = [axes.get_tightbbox() for axes in figure.axes]
    for box in [legend, *boxes]:
        assert box.x0 >= whole.x0 - 1
        assert box.y0 >= whole.y0 - 1
        assert box.x1 <= whole.x1 + 1
        assert box.y1 <= whole.y1 + 1
    assert not any(box.overlaps(legend) for box in boxes)
    assert min(axes.bbox.width for axes in figure.axes) > 200
    assert min(axes.bbox.height for axes in figure.axes) > 120
    first = figure.axes[0].get_xticklabels()
    assert len([label for label in first if label.get_text()]) >= 4


def test_panels_without_readings_say_so():
    nan = float("nan")
    figure = measure_curves({"all nan": {"a": ([1, 2], [nan, nan])}, "none": {}, "some": {"a": ([1], [1.0])}})
    said = [[text.get_text() for text in axes.texts] for axes in panel_axes(figure)]
    assert said == [["no readings"], ["no readings"], []]
    figure.draw_without_rendering()
    only_empty = measure_curves({"none": {}})
    only_empty.draw_without_rendering()
    assert only_empty.legends == []


def test_close_values_are_labelled_in_full():
    [axes] = panel_axes(measure_curves({"m": {"a": ([1, 2], [0.99001, 0.99003])}}))
    axes.figure.draw_without_rendering()
    assert axes.yaxis.get_offset_text().get_text() == ""
    assert any(label.get_text().startswith("0.990") for label in axes.get_yticklabels())


@pytest.mark.parametrize(
    ("panels", "bands", "message"),
    [
        ({}, None, "at least one panel"),
        ({"m": {"a": ([1, 2], [1.0])}}, None, r"panels\['m'\]\['a'\] has 2 steps and 1 values"),
        ({"m": {"a": ([2, 1], [1.0, 1.0])}}, None, "expected increasing steps"),
        ({"m": {"a": ([-1, 1], [1.0, 1.0])}}, None, "expected increasing steps from 0 on"),
        ({"m": {"a": ([1], [1.0])}}, {"n": {"a": [1]}}, r"panel 'n'.*it has \['m'\]"),
        ({"m": {"a": ([1], [1.0])}}, {"m": {"b": [1]}}, r"line 'b'.*it has \['a'\]"),
        ({"m": {"a": ([1], [1.0])}}, {"m": {"a": [1, 2]}}, "2 widths for 1 values"),
    ],
)
def test_bad_input_is_named(panels, bands, message):
    with pytest.raises(ValueError, match=message):
        measure_curves(panels, bands=bands)


def test_a_logarithmic_y_axis_shows_what_differs_by_powers_of_ten():
    panels = {"drift": {"small": ([1, 10], [1e-4, 2e-4]), "large": ([1, 10], [0.1, 0.2]), "none": ([1, 10], [0, -1])}}
    figure = measure_curves(panels, log_y=["drift"])
    (axes,) = figure.axes
    assert axes.get_yscale() == "log"
    assert axes.get_ylabel() == "log scale"
    assert [np.isnan(line.get_ydata()).all() for line in axes.get_lines()] == [False, False, True]
    with pytest.raises(ValueError, match=r"log_y has \['x'\].*it has \['drift'\]"):
        measure_curves(panels, log_y=["x"])
