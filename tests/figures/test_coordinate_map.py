"""The map of predicted coordinates: what stands where, in which colour."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lightning_interp.figures import coordinate_map

TRUE = [[0.0, 0.0], [1.0, 2.0], [2.0, 4.0]]


def offsets(axes: object) -> np.ndarray:
    return axes.collections[0].get_offsets()  # type: ignore[attr-defined]


def test_a_map_has_the_truth_first_and_the_last_coordinate_to_the_right() -> None:
    figure = coordinate_map([(1, [[0.5, 1.0]] * 3), (10, TRUE)], TRUE, ["latitude", "longitude"], title="cities")
    true, first, last, _ = figure.axes
    assert [axes.get_title() for axes in (true, first, last)] == ["true", "step 1", "step 10"]
    assert offsets(true).tolist() == offsets(last).tolist() == [[0.0, 0.0], [2.0, 1.0], [4.0, 2.0]]
    assert offsets(first).tolist() == [[1.0, 0.5]] * 3
    for axes in (true, first, last):
        assert axes.collections[0].get_array().tolist() == [0.0, 2.0, 4.0]
    assert (true.get_ylabel(), figure.get_suptitle()) == ("latitude", "cities")


def test_a_time_line_has_predictions_over_the_truth() -> None:
    figure = coordinate_map([(5, [[1905.0], [1930.0]])], [[1900.0], [1950.0]], ["year"])
    assert figure.axes[0].get_title() == "step 5"
    assert offsets(figure.axes[0]).tolist() == [[1900.0, 1905.0], [1950.0, 1930.0]]
    assert figure.axes[0].get_ylabel() == "predicted year"


def test_every_column_has_its_label_though_the_last_row_is_short() -> None:
    figure = coordinate_map([(step, [[1905.0], [1930.0]]) for step in range(1, 6)], [[1900.0], [1950.0]], ["year"])
    labels = [axes.get_xlabel() for axes in figure.axes[:5]]
    assert labels == ["", "", "true year", "true year", "true year"]


def test_far_points_lie_at_the_edge_and_missing_ones_nowhere() -> None:
    figure = coordinate_map([(1, [[9.0, 99.0], [math.nan, math.nan], [0.0, 0.0]])], TRUE, ["y", "x"])
    axes = figure.axes[1]
    right, top = axes.get_xlim()[1], axes.get_ylim()[1]
    assert offsets(axes)[0].tolist() == [right, top]
    assert bool(np.ma.getmaskarray(offsets(axes))[1].all() or np.isnan(np.asarray(offsets(axes))[1]).all())
    figure.canvas.draw()


@pytest.mark.parametrize(
    ("maps", "told"),
    [
        ([], r"steps \[\]; expected at least one reading"),
        ([(2, TRUE), (2, TRUE)], "increasing steps"),
        ([(1, [[0.0, 0.0]])], r"shapes \[\(1, 2\), \(3, 2\)\] for 2 coordinates"),
    ],
)
def test_refusals(maps: list, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        coordinate_map(maps, TRUE, ["y", "x"])
