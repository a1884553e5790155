"""The heat map shows each value in its cell, in the given order, and says what is missing."""

from itertools import pairwise

import numpy as np
import pytest
from matplotlib.colors import to_hex

from lightning_interp.figures import site_heatmap
from lightning_interp.figures._style import GREY

NAN = float("nan")


def parts(figure):
    axes = figure.axes[0]
    return axes, axes.collections[0]


def test_rows_are_sites_from_the_top_and_columns_readings():
    values = [[0.1, 0.2, 0.3], [0.4, NAN, float("inf")]]
    figure = site_heatmap([1, 10, 100], ["embedding", "encoder"], values, title="information", label="bits")
    axes, mesh = parts(figure)
    assert mesh.get_array().tolist() == [[0.1, 0.2, 0.3], [0.4, None, None]]
    labels = {label.get_text(): label.get_position()[1] for label in axes.get_yticklabels()}
    assert labels == {"embedding": 0.5, "encoder": 1.5}
    assert axes.get_ylim()[0] > axes.get_ylim()[1]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "10", "100"]
    assert (axes.get_title(), figure.axes[1].get_ylabel()) == ("information", "bits")


def test_missing_values_are_grey_and_the_axis_says_so():
    axes, mesh = parts(site_heatmap([1], ["a", "b"], [[NAN], [0.5]], "t", "l"))
    assert to_hex(mesh.cmap.get_bad()) == GREY.lower()
    assert "grey: no reading" in axes.get_xlabel()
    axes, _ = parts(site_heatmap([1], ["a"], [[0.5]], "t", "l"))
    assert "grey" not in axes.get_xlabel()


def test_no_reading_at_all_has_no_colour_bar():
    figure = site_heatmap([1, 2], ["a"], [[NAN, NAN]], "t", "l")
    figure.draw_without_rendering()
    assert len(figure.axes) == 1


@pytest.mark.parametrize(("sites", "steps"), [(1, 1), (2, 3), (24, 35), (120, 300)])
def test_labels_do_not_overlap_and_all_fits(sites, steps):
    names = [f"model.decoder.layers.{i}.self_attention.output_projection" for i in range(sites)]
    at = [1_234_567 + step for step in range(steps)]
    figure = site_heatmap(at, names, np.ones((sites, steps)), "t", "l")
    figure.draw_without_rendering()
    axes = figure.axes[0]
    across = [label.get_window_extent() for label in axes.get_xticklabels()]
    down = [label.get_window_extent() for label in axes.get_yticklabels()]
    assert all(left.x1 < right.x0 for left, right in pairwise(across))
    assert all(upper.y0 > lower.y1 for upper, lower in pairwise(down))
    assert len({label.get_text() for label in axes.get_xticklabels()}) == len(across) >= min(steps, 3)
    assert len({label.get_text() for label in axes.get_yticklabels()}) == len(down) >= min(sites, 24)
    box = axes.get_tightbbox()
    assert box.x0 >= -1
    assert box.y0 >= -1
    assert box.x1 <= figure.bbox.x1 + 1
    assert axes.bbox.width > 150
    assert max(figure.get_size_inches()) <= 13


@pytest.mark.parametrize(
    ("steps", "sites", "values", "message"),
    [
        ([], ["a"], np.ones((1, 0)), "1 names and steps 0 numbers"),
        ([1], [], np.ones((0, 1)), "0 names"),
        ([2, 1], ["a"], [[1, 2]], "expected increasing steps"),
        ([1, 2], ["a"], [[1], [2]], r"shape \(2, 1\); expected \(sites, steps\) = \(1, 2\)"),
    ],
)
def test_bad_input_is_named(steps, sites, values, message):
    with pytest.raises(ValueError, match=message):
        site_heatmap(steps, sites, values, "t", "l")
