"""Phases behind stacked panels: where they are shaded, what their names lie on, and where a knee sits."""

import numpy as np
import pytest
from matplotlib.colors import to_hex

from lightning_interp.figures import training_phases
from lightning_interp.schedule import log_spaced_steps

NAN = float("nan")
STEPS = list(log_spaced_steps(8, stop=20_000))
TWO = [(1, 80, "fitting"), (80, None, "compression")]
NAMES = "loss", "robustness", "information", "regularity", "generalisation"


def panels_of(count, lines=2):
    falling = np.linspace(3, 1, len(STEPS))
    return {
        (NAMES[i] if i < 5 else f"measure {i}"): {f"layers.{j}": (STEPS, falling + j) for j in range(lines)}
        for i in range(count)
    }


def shades(axes):
    return [(patch.get_x(), patch.get_x() + patch.get_width()) for patch in axes.patches]


def curves(axes):
    """The lines of readings, without boundaries of phases, knees and their bars."""
    return [line for line in axes.get_lines() if line.get_linewidth() == 1.5]


def ticks_of_knees(axes):
    return [line for line in axes.get_lines() if line.get_marker() == "|"]


def bars_of_knees(axes):
    return [line for line in axes.get_lines() if line.get_alpha() == 0.4]


def texts(axes):
    return {text.get_text(): text for text in axes.texts}


def test_panels_are_stacked_over_one_step_axis():
    figure = training_phases(panels_of(3), title="Phases")
    assert [axes.get_ylabel() for axes in figure.axes] == ["loss", "robustness", "information"]
    assert figure.get_suptitle() == "Phases"
    tops = [axes.get_position().y0 for axes in figure.axes]
    assert tops == sorted(tops, reverse=True)
    assert len({axes.get_xlim() for axes in figure.axes}) == 1
    assert [axes.get_xscale() for axes in figure.axes] == ["log"] * 3
    assert [axes.get_xlabel() for axes in figure.axes] == ["", "", "training step (log scale)"]
    assert curves(figure.axes[0])[1].get_xdata().tolist() == STEPS
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["layers.0", "layers.1"]


def test_a_label_looks_the_same_in_every_panel_and_in_the_legend():
    figure = training_phases({"one": {"a": ([1], [1]), "b": ([1], [2])}, "two": {"b": ([1], [3])}})

    def look(drawn):
        return to_hex(drawn.get_color()), drawn.get_linestyle(), drawn.get_marker()

    legend = {handle.get_label(): look(handle) for handle in figure.legends[0].get_lines()}
    one, two = figure.axes
    assert [look(line) for line in curves(one)] == [legend["a"], legend["b"]]
    assert [look(line) for line in curves(two)] == [legend["b"]]


def test_phases_are_shaded_in_every_panel_and_named_once():
    figure = training_phases(panels_of(2), [(1, 80, "fitting"), (80, 3000, "compression"), (3000, None, "late")])
    for axes in figure.axes:
        left, right = axes.get_xlim()
        assert shades(axes) == [(left, 80), (pytest.approx(80), 3000), (3000, pytest.approx(right))]
        colours = [to_hex(patch.get_facecolor()) for patch in axes.patches]
        assert colours[0] == colours[2] != colours[1]
        assert all(patch.get_zorder() < line.get_zorder() for patch in axes.patches for line in curves(axes))
    assert list(texts(figure.axes[0])) == ["fitting", "compression", "late"]
    assert texts(figure.axes[1]) == {}


def test_a_phase_may_leave_steps_without_one():
    [axes] = training_phases(panels_of(1), [(10, 80, "a"), (200, 1000, "b")]).axes
    assert shades(axes) == [(10, 80), (200, 1000)]


def test_phases_beyond_the_readings_are_in_view():
    [axes] = training_phases({"loss": {"a": ([10, 100], [2, 1])}}, [(0, 500, "a"), (500.5, 2000, "b")]).axes
    left, right = axes.get_xlim()
    assert left < 10
    assert right > 2000
    assert shades(axes) == [(left, 500), (500.5, 2000)]


def test_step_zero_is_set_apart():
    figure = training_phases({"loss": {"a": ([0, 10, 100], [3, 2, 1])}}, [(0, 10, "a"), (10, None, "b")])
    [axes] = figure.axes
    assert axes.get_xscale() == "symlog"
    assert "0 set apart" in axes.get_xlabel()
    assert shades(axes)[0] == (axes.get_xlim()[0], 10)


@pytest.mark.parametrize(
    "phases",
    [
        TWO,
        [(1, 80, "fitting"), (80, 90, "a narrow phase"), (90, 15_000, "compression"), (15_000, None, "generalisation")],
        [(1, 2, "the first phase"), (2, 3, "the second phase"), (3, 4, "the third phase"), (4, None, "the rest")],
        [(1, 19_000, "a"), (19_000, None, "a name of many words that is far too long for its place")],
    ],
    ids=len,
)
def test_names_do_not_collide_and_stay_over_the_panel(phases):
    figure = training_phases(panels_of(2), phases, title="title", note="note")
    figure.draw_without_rendering()
    top = figure.axes[0]
    found = texts(top)
    note = found.pop("note").get_window_extent()
    assert len(found) == len(phases)
    boxes = [super(type(text), text).get_window_extent() for text in found.values()]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    for box, text, (low, high) in zip(boxes, found.values(), shades(top), strict=True):
        assert top.bbox.x0 - 2 <= box.x0
        assert box.x1 <= top.bbox.x1 + 2
        assert top.bbox.y1 < box.y0
        assert box.y1 < note.y0 + 1
        start, end = (top.transData.transform((edge, 1))[0] for edge in (low, high))
        within = start <= box.x0 + 3 and box.x1 - 3 <= end
        assert within or text.arrow_patch is not None
    assert note.y1 < figure.bbox.y1 - 10


def test_the_note_is_written_without_phases():
    figure = training_phases(panels_of(1), note="no second phase found")
    figure.draw_without_rendering()
    assert list(texts(figure.axes[0])) == ["no second phase found"]
    assert shades(figure.axes[0]) == []


@pytest.mark.parametrize("log_y", [(), ["m"]], ids=["linear", "log"])
def test_knees_lie_on_the_drawn_line(log_y):
    lines = {"a": ([0, 1, 100, 10_000], [8.0, 4.0, 1.0, NAN]), "b": ([1, 100], [1.0, 2.0])}
    knees = {"m": {"a": [(10, 4, 40), (100, NAN, NAN)]}}
    figure = training_phases({"m": lines}, knees=knees, log_y=log_y)
    [axes] = figure.axes
    first, second = ticks_of_knees(axes)
    height = 2.0 if log_y else 2.5
    assert first.get_xydata().tolist() == [[10, pytest.approx(height)]]
    assert second.get_xydata().tolist() == [[100, pytest.approx(1)]]
    [bar] = bars_of_knees(axes)
    assert bar.get_xydata().tolist() == [[4, pytest.approx(height)], [40, pytest.approx(height)]]
    assert first.get_color() == bar.get_color() == curves(axes)[0].get_color()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b", "knee, 95 % interval"]


def test_intervals_end_at_the_axis_and_knees_of_empty_lines_are_left_out():
    lines = {"a": ([1, 100], [1.0, 2.0]), "b": ([1, 100], [NAN, NAN])}
    [axes] = training_phases({"m": lines}, knees={"m": {"a": [(10, 0, float("inf"))], "b": [(10, 5, 20)]}}).axes
    [bar] = bars_of_knees(axes)
    assert tuple(bar.get_xdata()) == axes.get_xlim()
    assert len(ticks_of_knees(axes)) == 1


@pytest.mark.parametrize("values", [[6, 3, 2.1], [1000, 10, 0.1], [5e-5, 3e-5, 2e-5], [2, 2, 2], [3, 0, -1]], ids=str)
def test_a_logarithmic_y_axis_has_readable_ticks(values):
    figure = training_phases({"loss": {"a": ([1, 10, 100], values)}, "other": {"a": ([1], [1])}}, log_y=["loss"])
    loss, other = figure.axes
    assert (loss.get_yscale(), other.get_yscale()) == ("log", "linear")
    assert loss.get_ylabel() == "loss\n(log scale)"
    figure.draw_without_rendering()
    low, high = loss.get_ylim()
    shown = [float(t.get_text()) for t in loss.get_yticklabels() if low <= t.get_position()[1] <= high]
    assert 1 <= len(shown) <= 7
    assert np.isnan(curves(loss)[0].get_ydata()).tolist() == [value <= 0 for value in values]


@pytest.mark.parametrize(("count", "lines"), [(1, 1), (1, 6), (2, 3), (5, 2), (8, 6), (1, 12)])
def test_everything_fits_and_the_legend_covers_no_panel(count, lines):
    knees = {"loss": {"layers.0": [(80, 40, 160)]}}
    figure = training_phases(panels_of(count, lines), TWO, knees, title="title", note="n" * 85)
    figure.draw_without_rendering()
    legend = figure.legends[0].get_window_extent()
    boxes = [axes.get_tightbbox() for axes in figure.axes]
    for box in [legend, *boxes]:
        assert box.x0 >= -1
        assert box.y0 >= -1
        assert box.x1 <= figure.bbox.x1 + 1
        assert box.y1 <= figure.bbox.y1 + 1
    assert not any(box.overlaps(legend) for box in boxes)
    assert min(axes.bbox.width for axes in figure.axes) > 500
    assert min(axes.bbox.height for axes in figure.axes) > 90


def test_panels_without_readings_say_so():
    figure = training_phases(
        {
            "all nan": {"a": ([1, 2], [NAN, NAN])},
            "none": {},
            "negative": {"a": ([1], [-1.0])},
            "some": {"a": ([1], [1])},
        },
        log_y=["negative", "none"],
    )
    figure.draw_without_rendering()
    assert [list(texts(axes)) for axes in figure.axes] == [["no readings"]] * 3 + [[]]
    only_empty = training_phases({"none": {}}, TWO)
    only_empty.draw_without_rendering()
    assert only_empty.legends == []


LINE = {"m": {"a": ([1, 2], [1.0, 1.0])}}


@pytest.mark.parametrize(
    ("panels", "arguments", "message"),
    [
        ({}, {}, "at least one panel"),
        ({"m": {"a": ([1, 2], [1.0])}}, {}, r"panels\['m'\]\['a'\] has 2 steps and 1 values"),
        ({"m": {"a": ([2, 1], [1.0, 1.0])}}, {}, "expected increasing steps"),
        (LINE, {"phases": [(5, 5, "x")]}, r"phases\[0\] is \(5, 5, 'x'\)"),
        (LINE, {"phases": [(-1, 5, "x")]}, r"phases\[0\].*from 0 on"),
        (LINE, {"phases": [(1, 5, "x"), (4, 8, "y")]}, r"phases\[1\] is \(4, 8, 'y'\).*from 5 on"),
        (LINE, {"phases": [(1, None, "x"), (4, 8, "y")]}, r"phases\[0\].*to the end, but 2 phases"),
        (LINE, {"phases": [(NAN, None, "x")]}, r"phases\[0\]"),
        (LINE, {"knees": {"n": {}}}, r"panel 'n'.*it has \['m'\]"),
        (LINE, {"knees": {"m": {"b": []}}}, r"line 'b'.*it has \['a'\]"),
        (LINE, {"knees": {"m": {"a": [(2, 3, 4)]}}}, r"has \(2, 3, 4\); expected"),
        (LINE, {"knees": {"m": {"a": [(NAN, 1, 2)]}}}, r"has \(nan, 1, 2\)"),
        (LINE, {"knees": {"m": {"a": [(2, 1, NAN)]}}}, r"has \(2, 1, nan\)"),
        (LINE, {"log_y": ["n"]}, r"log_y has \['n'\].*it has \['m'\]"),
    ],
)
def test_bad_input_is_named(panels, arguments, message):
    with pytest.raises(ValueError, match=message):
        training_phases(panels, **arguments)
