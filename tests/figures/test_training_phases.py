"""Phases behind panels: where they are shaded, what their names lie on, where a knee sits, and what can be read."""

import numpy as np
import pytest
from matplotlib.colors import to_hex, to_rgb

from lightning_interp.decisions import log_spaced_steps
from lightning_interp.figures import training_phases

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
    return [line for line in axes.get_lines() if line.get_linewidth() == 2.0]


def titles(figure):
    return [axes.get_title("left").replace("\n", " ") for axes in figure.axes]


def legend(axes):
    """What the legend in a panel says."""
    return [] if axes.get_legend() is None else [text.get_text() for text in axes.get_legend().get_texts()]


def said(figure):
    return " ".join(figure.texts[-1].get_text().split())


def ticks_of_knees(axes):
    return [line for line in axes.get_lines() if line.get_marker() == "|"]


def bars_of_knees(axes):
    return [line for line in axes.get_lines() if line.get_alpha() == 0.4]


def texts(axes):
    return {text.get_text(): text for text in axes.texts}


def test_panels_stand_in_two_columns_over_one_step_axis():
    figure = training_phases(panels_of(5), title="Phases", note="a note")
    assert titles(figure) == list(NAMES)
    assert [text.get_text() for text in figure.texts] == ["Phases", "a note"]
    places = [axes.get_position() for axes in figure.axes]
    corners = zip(*[(place.y0, place.x0) for place in places], strict=True)
    rows, columns = (sorted({round(value, 6) for value in of}) for of in corners)
    assert (len(rows), len(columns)) == (3, 2)
    expected = [(rows[2 - at // 2], columns[at % 2]) for at in range(5)]
    assert [(round(p.y0, 6), round(p.x0, 6)) for p in places] == expected
    assert len({axes.get_xlim() for axes in figure.axes}) == 1
    assert [axes.get_xscale() for axes in figure.axes] == ["log"] * 5
    # The last of each column says what the axis is.
    assert [axes.get_xlabel() for axes in figure.axes] == ["", "", "", *["training step (log scale)"] * 2]
    figure.draw_without_rendering()
    shown = [any(label.get_text() and label.get_visible() for label in axes.get_xticklabels()) for axes in figure.axes]
    assert shown == [False, False, False, True, True]
    assert curves(figure.axes[0])[1].get_xdata().tolist() == STEPS
    assert [legend(axes) for axes in figure.axes] == [["layers.0", "layers.1"]] * 5


@pytest.mark.parametrize("count", range(1, 10))
def test_it_is_wider_than_high_with_few_ticks_in_large_type(count):
    figure = training_phases(panels_of(count), TWO, title="Phases", note="a note " * 25)
    width, height = figure.get_size_inches()
    assert width > height
    figure.draw_without_rendering()
    on_a_card = 330 / (100 * width)
    for axes in figure.axes:
        low, high = axes.get_ylim()
        assert 2 <= sum(low <= tick <= high for tick in axes.get_yticks()) <= 5
        assert len(axes.get_xticks()) <= 5
        texts_of = [*axes.get_yticklabels(), *axes.get_legend().get_texts(), axes.title, axes._left_title]
        if count <= 6:
            # Pixels on a card of TensorBoard, a letter's body.
            assert min(text.get_fontsize() * 100 / 72 * on_a_card for text in texts_of) > 5.5


def test_words_are_never_broken():
    title = "regularity_above_chance_of_something_with_a_very_long_name at the encoder of the whole model"
    note = "val_loss/dataloader_idx_0_which_is_long has its plateau there " * 6
    figure = training_phases({title: {"a": ([1, 10], [1, 2])}, "b": {"": ([1, 10], [1, 2])}}, note=note)
    first = figure.axes[0].get_title("left")
    assert first.split() == title.split()
    assert "\n" in first
    (text,) = figure.texts
    assert text.get_text().split() == note.split()
    figure.draw_without_rendering()
    right = figure.axes[1].get_tightbbox().x0
    assert figure.axes[0]._left_title.get_window_extent().x1 < right
    assert text.get_window_extent().x1 < figure.bbox.x1


def test_a_label_looks_the_same_in_every_panel_and_in_its_legend():
    lines = {"one": {"a": ([1], [1]), "b": ([1], [2])}, "two": {"b": ([1], [3])}, "three": {"": ([1], [3])}}
    figure = training_phases(lines)

    def look(drawn):
        return to_hex(drawn.get_color()), drawn.get_linestyle(), drawn.get_marker()

    def of_legend(axes):
        return {handle.get_label(): look(handle) for handle in axes.get_legend().get_lines()}

    one, two, three = figure.axes
    assert [look(line) for line in curves(one)] == list(of_legend(one).values())
    assert list(of_legend(one)) == ["a", "b"]
    assert of_legend(two) == {"b": of_legend(one)["b"]}
    assert [look(line) for line in curves(two)] == [of_legend(one)["b"]]
    # What a title says already has no legend, and no colour that means something elsewhere.
    assert three.get_legend() is None
    assert look(curves(three)[0])[0] not in {colour for colour, *_ in of_legend(one).values()}


def test_phases_are_shaded_in_every_panel_and_named_above_the_top_row():
    figure = training_phases(panels_of(3), [(1, 80, "fitting"), (80, 3000, "compression"), (3000, None, "late")])
    for axes in figure.axes:
        left, right = axes.get_xlim()
        assert shades(axes) == [(left, 80), (pytest.approx(80), 3000), (3000, pytest.approx(right))]
        colours = [to_hex(patch.get_facecolor()) for patch in axes.patches]
        assert colours[0] == colours[2] != colours[1]
        assert all(patch.get_zorder() < line.get_zorder() for patch in axes.patches for line in curves(axes))
    for axes in figure.axes[:2]:
        assert list(texts(axes)) == ["fitting", "compression", "late"]
    assert texts(figure.axes[2]) == {}


def test_a_phase_that_is_not_certain_is_hatched():
    figure = training_phases(panels_of(2), [(1, None, "fitting")], provisional=(80, None, "compression?"))
    for axes in figure.axes:
        left, right = axes.get_xlim()
        assert shades(axes) == [(left, 80), (80, pytest.approx(right))]
        sure, unsure = axes.patches
        assert sure.get_hatch() is None
        assert unsure.get_hatch()
        assert sum(to_rgb(unsure.get_facecolor())) > sum(to_rgb(sure.get_facecolor()))
        assert list(texts(axes)) == ["fitting", "compression?"]


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
    heading, note = (text.get_window_extent() for text in figure.texts[:2])
    if len("".join(name for *_, name in phases)) > 35:
        assert list(found) == [str(number + 1) for number in range(len(phases))]
        assert all(f"{number + 1} {name}" in said(figure) for number, (*_, name) in enumerate(phases))
    else:
        assert list(found) == [name for *_, name in phases]
    name = top._left_title.get_window_extent()
    assert len(found) == len(phases)
    boxes = [super(type(text), text).get_window_extent() for text in found.values()]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    for box, text, (low, high) in zip(boxes, found.values(), shades(top), strict=True):
        assert top.bbox.x0 - 2 <= box.x0
        assert box.x1 <= top.bbox.x1 + 2
        assert top.bbox.y1 < box.y0
        assert box.y1 < name.y0 + 1
        start, end = (top.transData.transform((edge, 1))[0] for edge in (low, high))
        within = start <= box.x0 + 3 and box.x1 - 3 <= end
        assert within or text.arrow_patch is not None
    assert name.y1 < note.y0
    assert note.y1 < heading.y0
    assert heading.y1 < figure.bbox.y1


def test_the_note_is_written_without_phases():
    figure = training_phases(panels_of(1), note="no second phase found")
    figure.draw_without_rendering()
    assert [text.get_text() for text in figure.texts] == ["no second phase found"]
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
    assert legend(axes) == ["a", "b", "knee, 95 % interval"]


def test_the_first_panel_with_knees_explains_them():
    lines = {name: {"": ([1, 10, 100], [3, 2, 1])} for name in ("a", "b", "c")}
    figure = training_phases(lines, knees={"b": {"": [(10, NAN, NAN)]}, "c": {"": [(10, 5, 20)]}})
    assert [legend(axes) for axes in figure.axes] == [[], ["knee (the curve bends)"], []]
    assert training_phases(lines, knees={"a": {"": []}}).axes[0].get_legend() is None


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
    assert titles(figure) == ["loss, log scale", "other"]
    figure.draw_without_rendering()
    low, high = loss.get_ylim()
    shown = [float(t.get_text()) for t in loss.get_yticklabels() if low <= t.get_position()[1] <= high]
    assert 1 <= len(shown) <= 7
    assert np.isnan(curves(loss)[0].get_ydata()).tolist() == [value <= 0 for value in values]


@pytest.mark.parametrize(("count", "lines"), [(1, 1), (1, 6), (2, 3), (4, 2), (5, 2), (6, 4), (9, 4)])
@pytest.mark.parametrize("log_y", [(), ["loss"]], ids=["linear", "log"])
def test_everything_fits_and_no_legend_lies_on_a_line(count, lines, log_y):
    knees = {"loss": {"layers.0": [(80, 40, 160)]}}
    figure = training_phases(panels_of(count, lines), TWO, knees, title="title", note="note " * 20, log_y=log_y)
    figure.draw_without_rendering()
    boxes = [axes.get_tightbbox() for axes in figure.axes]
    for box in [*boxes, *(text.get_window_extent() for text in figure.texts)]:
        assert box.x0 >= -1
        assert box.y0 >= -1
        assert box.x1 <= figure.bbox.x1 + 1
        assert box.y1 <= figure.bbox.y1 + 1
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    for axes in figure.axes:
        inside = axes.get_legend().get_window_extent()
        assert axes.bbox.x0 - 1 <= inside.x0
        assert inside.x1 <= axes.bbox.x1 + 1
        assert inside.y1 <= axes.bbox.y1 + 1
        for line in curves(axes):
            assert axes.transData.transform(line.get_xydata())[:, 1].max() < inside.y0 + 3
    assert min(axes.bbox.width for axes in figure.axes) >= 300
    assert min(axes.bbox.height for axes in figure.axes) > 125


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
    assert only_empty.axes[0].get_legend() is None


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
        (LINE, {"phases": [(5, None, "x")], "provisional": (2, None, "y")}, r"phases\[0\] is \(5, 2, 'x'\)"),
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
