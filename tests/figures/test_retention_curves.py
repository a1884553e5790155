"""Curves under noise: which reading is which, what outliers do to the axis, and what a reader is told about them."""

import numpy as np
import pytest
from matplotlib.colors import to_hex

from lightning_interp.decisions import log_spaced_steps
from lightning_interp.figures import retention_curves

NAN = float("nan")
SCALES = [0.0, 0.1, 0.25, 0.5, 1.0]
TITLE = "val_acc under noise at encoder"


def readings_of(count, lowest=0.1):
    steps = [0, *log_spaced_steps(24, stop=10**9)][:count]
    return [(step, SCALES, np.linspace(1, lowest + 0.001 * i, 5)) for i, step in enumerate(steps)]


def curves(axes):
    """The readings, without reference lines and arrowheads."""
    return [line for line in axes.get_lines() if line.get_marker() == "o"]


def arrows(axes):
    return {line.get_marker(): line for line in axes.get_lines() if line.get_marker() in "v^"}


def references(axes):
    return [line.get_ydata()[0] for line in axes.get_lines() if line.get_marker() == "None"]


def lightness(line):
    red, green, blue, _ = line.get_color()
    return 0.2 * red + 0.7 * green + 0.1 * blue


def test_each_reading_is_a_line_over_the_scales():
    figure = retention_curves({TITLE: [(10, SCALES, [1, 0.9, 0.5, 0.2, 0]), (100, [0, 2], [1, 0.8])]}, title="Noise")
    axes, bar = figure.axes
    assert figure.get_suptitle() == "Noise"
    assert (axes.get_title(), axes.get_xlabel(), axes.get_ylabel()) == (TITLE, "noise scale", "retention")
    assert [line.get_xdata().tolist() for line in curves(axes)] == [SCALES, [0, 2]]
    assert [line.get_ydata().tolist() for line in curves(axes)] == [[1, 0.9, 0.5, 0.2, 0], [1, 0.8]]
    assert axes.get_xscale() == "linear"
    assert bar.get_ylabel() == "training step"


@pytest.mark.parametrize("steps", [[1, 10, 100], [0, 10, 100]], ids=["from 1", "from 0"])
def test_steps_are_colours_from_dark_to_light_on_a_log_scale(steps):
    figure = retention_curves({TITLE: [(step, SCALES, np.ones(5)) for step in steps]})
    axes, bar = figure.axes
    light = [lightness(line) for line in curves(axes)]
    assert light == sorted(light)
    assert len({to_hex(line.get_color()) for line in curves(axes)}) == 3
    assert light[-1] < 0.8
    figure.draw_without_rendering()
    ticks = {label.get_text(): label.get_window_extent().y0 for label in bar.get_yticklabels()}
    assert {str(step) for step in steps} - {"1"} <= set(ticks)
    assert list(ticks.values()) == sorted(ticks.values())


def test_a_step_has_the_same_colour_in_every_panel_and_one_bar_serves_all():
    figure = retention_curves({"a": [(1, [0], [1]), (10, [0], [1])], "b": [(10, [0], [1]), (1000, [0], [1])]})
    a, b, bar = figure.axes
    assert curves(a)[1].get_color() == curves(b)[0].get_color()
    assert [label.get_text() for label in bar.get_yticklabels()] == ["1", "10", "100", "1k"]


@pytest.mark.parametrize("step", [0, 250])
def test_one_reading_has_one_colour(step):
    figure = retention_curves({TITLE: [(step, SCALES, [1, 0.9, 0.8, 0.5, 0.2])]})
    figure.draw_without_rendering()
    axes, bar = figure.axes
    assert [label.get_text() for label in bar.get_yticklabels()] == [str(step)]
    [line] = curves(axes)
    assert line.get_color()[3] == 1
    assert bar.collections[-1].cmap.N == 1


def test_reference_lines_are_in_view():
    axes, _ = retention_curves({TITLE: [(1, [0, 1], [1, 0.97])]}).axes
    assert references(axes) == [0, 1]
    assert axes.get_ylim()[0] < 0 < 1 < axes.get_ylim()[1]
    axes, _ = retention_curves({TITLE: [(1, [0, 1], [1, 0.97])]}, reference=(1.0,)).axes
    assert references(axes) == [1]
    assert axes.get_ylim()[0] > 0.9
    axes, _ = retention_curves({TITLE: [(1, [0, 1], [3.0, 3.5])]}, reference=(), y="val_loss").axes
    assert references(axes) == []
    assert axes.get_ylabel() == "val_loss"


def test_gaps_stay_open_and_lone_values_are_dots():
    values = [1, NAN, 0.5, float("-inf"), 0.2]
    many = [*readings_of(30), (10**6, SCALES, values)]
    for given in ([(7, SCALES, values)], many):
        line = curves(retention_curves({TITLE: given}).axes[0])[-1]
        assert np.isnan(line.get_ydata()).tolist() == [False, True, False, True, False]
        assert line.get_markevery() == [0, 2, 4]
    assert curves(retention_curves({TITLE: many}).axes[0])[0].get_markevery() == []


def test_values_far_below_are_cut_marked_counted_and_told():
    given = [(1, SCALES, [1, 0.5, -0.8, -8, -30.25]), (10, SCALES, [1, 0.9, 0.7, 0.4, -2])]
    figure = retention_curves({"val_loss": given})
    axes = figure.axes[0]
    low, high = axes.get_ylim()
    assert low == -1
    assert 1 < high < 1.2
    marks = [line for line in axes.get_lines() if line.get_marker() == "v"]
    assert [mark.get_xdata().tolist() for mark in marks] == [[0.5, 1.0], [1.0]]
    assert [set(mark.get_ydata()) for mark in marks] == [{-1}, {-1}]
    assert [mark.get_color() for mark in marks] == [line.get_color() for line in curves(axes)]
    assert [text.get_text() for text in axes.texts] == ["▼ 3 below the axis, lowest −30.2"]
    # The line itself is cut by the axis alone: its values are the given ones.
    assert curves(axes)[0].get_ydata().tolist() == [1, 0.5, -0.8, -8, -30.25]


def test_both_sides_are_told():
    axes = retention_curves({"m": [(1, [0, 1, 2], [1, -5, 7])]}).axes[0]
    assert axes.get_ylim() == (-1, 2)
    assert set(arrows(axes)) == {"v", "^"}
    assert [text.get_text() for text in axes.texts] == ["▼ 1 below the axis, lowest −5; ▲ 1 above the axis, highest 7"]


def test_values_within_the_margin_are_not_cut():
    axes = retention_curves({"m": [(1, [0, 1, 2], [1, -1, 2])]}).axes[0]
    assert arrows(axes) == {}
    assert not axes.texts
    assert axes.get_ylim()[0] < -1 < 2 < axes.get_ylim()[1]


def test_without_references_the_middle_half_decides():
    values = [3.0, 3.1, 3.2, 3.3, 3.4, 3.5, 3.6, 100.0]
    axes = retention_curves({"m": [(1, range(8), values)]}, reference=()).axes[0]
    assert 3.6 < axes.get_ylim()[1] < 5
    assert [text.get_text() for text in axes.texts] == ["▲ 1 above the axis, highest 100"]
    flat = retention_curves({"m": [(1, range(8), [2.0] * 7 + [9.0])]}, reference=()).axes[0]
    assert flat.get_ylim()[1] > 9


@pytest.mark.parametrize(("panels", "readings"), [(1, 1), (1, 25), (1, 60), (2, 25), (4, 25), (7, 3), (8, 60)])
@pytest.mark.parametrize("lowest", [0.1, -40], ids=["in view", "cut"])
def test_everything_fits_and_nothing_overlaps(panels, readings, lowest):
    given = {f"val_acc under noise at layers.{i}": readings_of(readings, lowest) for i in range(panels)}
    figure = retention_curves(given, title="title")
    figure.draw_without_rendering()
    *used, bar = figure.axes
    assert len(used) == panels
    boxes = [axes.get_tightbbox() for axes in used]
    for box in [*boxes, bar.get_tightbbox()]:
        assert box.x0 >= -1
        assert box.y0 >= -1
        assert box.x1 <= figure.bbox.x1 + 1
        assert box.y1 <= figure.bbox.y1 + 1
    assert not any(box.overlaps(bar.get_tightbbox()) for box in boxes)
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    assert min(axes.bbox.width for axes in used) > 200
    assert min(axes.bbox.height for axes in used) > 120
    labels = [label.get_window_extent() for label in bar.get_yticklabels() if label.get_text()]
    assert len(labels) >= min(readings, 4)
    assert not any(a.overlaps(b) for i, a in enumerate(labels) for b in labels[:i])


def test_panels_without_readings_say_so():
    figure = retention_curves({"all nan": [(1, [0, 1], [NAN, NAN])], "none": [], "some": [(1, [0, 1], [1, 0.5])]})
    figure.draw_without_rendering()
    said = [[text.get_text() for text in axes.texts] for axes in figure.axes[:3]]
    assert said == [["no readings"], ["no readings"], []]
    only_empty = retention_curves({"none": []})
    only_empty.draw_without_rendering()
    assert len(only_empty.axes) == 1


@pytest.mark.parametrize(
    ("panels", "reference", "message"),
    [
        ({}, (), "at least one panel"),
        ({"m": [(1, [0, 1], [1.0])]}, (), r"panels\['m'\] at step 1 has 2 scales and 1 values"),
        ({"m": [(1, [1, 0], [1.0, 1.0])]}, (), "at step 1 has the scales.*expected increasing scales from 0 on"),
        ({"m": [(1, [-1, 0], [1.0, 1.0])]}, (), "expected increasing scales from 0 on"),
        ({"m": [(1, [0, NAN], [1.0, 1.0])]}, (), "expected increasing scales from 0 on"),
        ({"m": [(2, [0], [1.0]), (1, [0], [1.0])]}, (), r"has the steps \[2, 1\]; expected increasing steps"),
        ({"m": [(-1, [0], [1.0])]}, (), "expected increasing steps from 0 on"),
        ({"m": []}, (NAN,), r"reference=\[nan\]"),
    ],
)
def test_bad_input_is_named(panels, reference, message):
    with pytest.raises(ValueError, match=message):
        retention_curves(panels, reference=reference)


def test_a_note_stands_under_the_panels_in_whole_words():
    note = "Above 1 by no more than the noise of the metric. " * 4
    figure = retention_curves({"a": [(1, [0.0, 1.0], [1.0, 0.5])]}, title="title", note=note)
    figure.draw_without_rendering()
    assert figure.get_supxlabel().split() == note.split()
    box = figure._supxlabel.get_window_extent()
    assert box.x0 >= 0
    assert box.x1 <= figure.bbox.x1
    assert box.y0 >= 0
    assert box.y1 <= min(axes.get_tightbbox().y0 for axes in figure.axes) + 1
