"""The information plane: axes, paths in time, and the bound."""

import numpy as np
import pytest

from lightning_interp.figures import information_plane

NAN = float("nan")


def paths(axes):
    return [line for line in axes.get_lines() if line.get_linestyle() == "-"]


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_one_site_is_a_path_coloured_by_step():
    figure = information_plane([3.0, 2.5, 2.0], [1.0, 1.5, 1.8], [1, 10, 100], unit="bits", x="trigram")
    axes, bar = figure.axes
    assert axes.get_xlabel() == "complexity I(X;Z), X = trigram (bits)"
    assert axes.get_ylabel() == "expressivity I(Y;Z) (bits)"
    [path] = paths(axes)
    assert path.get_xydata().tolist() == [[3.0, 1.0], [2.5, 1.5], [2.0, 1.8]]
    [points] = axes.collections
    assert points.get_array().tolist() == [1, 10, 100]
    assert points.norm([1, 10, 100]).tolist() == pytest.approx([0, 0.5, 1])
    assert "log scale" in bar.get_ylabel()
    assert legend(figure) == ["bound I(Y;Z) = I(X;Z)"]


def test_sites_are_paths_with_markers_of_their_own():
    complexity = [[3, 2], [4, 3], [5, 4]]
    figure = information_plane(complexity, [[1, 1.5]] * 3, [0, 10], labels=["a", "b", "c"])
    axes = figure.axes[0]
    assert [path.get_xdata().tolist() for path in paths(axes)] == complexity
    shapes = [points.get_paths()[0].vertices.tobytes() for points in axes.collections]
    assert len(set(shapes)) == 3
    assert legend(figure)[1:] == ["a", "b", "c"]
    markers = [handle.get_marker() for handle in figure.legends[0].get_lines()[1:]]
    assert len(set(markers)) == 3


def test_step_zero_and_missing_readings():
    figure = information_plane([3.0, NAN, 2.0], [1.0, 1.5, 1.8], [0, 10, 100])
    axes = figure.axes[0]
    [path] = paths(axes)
    assert np.isnan(path.get_xdata()).tolist() == [False, True, False]
    colours = axes.collections[0].norm([0, 10, 100])
    assert colours[0] == 0
    assert 0 < colours[1] < colours[2] == 1
    figure.draw_without_rendering()


@pytest.mark.parametrize(
    ("complexity", "expressivity", "wanted"),
    [
        ([3.0, 2.0], [1.0, 1.8], "bound I(Y;Z) = I(X;Z)"),
        ([12.0, 11.9], [2.0, 2.1], "bound I(Y;Z) = I(X;Z) (above this view)"),
        ([2.0, 2.1], [12.0, 11.9], "bound I(Y;Z) = I(X;Z) (below this view)"),
    ],
)
def test_the_bound_is_in_view_or_said_to_be_outside(complexity, expressivity, wanted):
    figure = information_plane(complexity, expressivity, [1, 2])
    axes = figure.axes[0]
    [left, right], [bottom, top] = axes.get_xlim(), axes.get_ylim()
    in_view = max(left, bottom) < min(right, top)
    assert legend(figure) == [wanted]
    assert in_view == ("view" not in wanted)
    assert all(left < x < right for x in complexity)
    assert all(bottom < y < top for y in expressivity)
    [bound] = [line for line in axes.get_lines() if line.get_linestyle() == "--"]
    assert bound.get_slope() == 1
    assert bound.get_xy1()[0] == bound.get_xy1()[1]


@pytest.mark.parametrize("values", [[2.0], [NAN]], ids=["one reading", "no reading"])
def test_little_data_still_draws(values):
    figure = information_plane(values, values, [5])
    figure.draw_without_rendering()
    assert [text.get_text() for text in figure.axes[0].texts] == (["no readings"] if np.isnan(values[0]) else [])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1, 2], [1], [1, 2]), r"shape \(1, 2\) and expressivity \(1, 1\)"),
        (([1, 2], [1, 2], [1]), "steps has 1 numbers for 2 readings"),
        (([], [], []), "steps has 0 numbers"),
        (([[1], [2]], [[1], [2]], [1]), "labels=None for 2 sites"),
        (([[1], [2]], [[1], [2]], [1], ["a"]), r"labels=\['a'\] for 2 sites"),
    ],
)
def test_bad_input_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        information_plane(*arguments)
