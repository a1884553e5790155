"""Maps of tokens and layers: rows, one scale over readings, gaps, errors."""

from __future__ import annotations

import math

import pytest

from lightning_interp.figures import trace_maps


def test_readings_stand_side_by_side_on_one_scale() -> None:
    maps = [(1, {"a": [0.0, 0.2], "b": [0.1, math.nan]}), (100, {"a": [1.5, 0.0], "b": [-0.5, 0.0]})]
    figure = trace_maps(maps, [0, 7], "title", "share")
    first, second, bar = figure.axes
    assert [one.get_title() for one in (first, second)] == ["step 1", "step 100"]
    assert [tick.get_text() for tick in first.get_yticklabels()] == ["a", "b"]
    assert [tick.get_text() for tick in second.get_xticklabels()] == ["0", "7"]
    assert {one.collections[0].get_clim() for one in (first, second)} == {(-0.5, 1.5)}
    assert bar.get_ylabel() == "share"
    cells = first.collections[0].get_array()
    assert cells.mask.tolist() == [[False, False], [False, True]]
    figure.draw_without_rendering()


def test_nothing_known_is_drawn_too() -> None:
    trace_maps([(1, {"a": [math.nan]})], [0], "title", "share").draw_without_rendering()


@pytest.mark.parametrize(
    ("maps", "message"),
    [
        ([], "at least one reading"),
        ([(2, {"a": [0.0]}), (1, {"a": [0.0]})], "increasing steps"),
        ([(1, {})], "0 tokens"),
        ([(1, {"a": [0.0, 1.0]})], "expected 1 values for each"),
        ([(1, {"a": [0.0]}), (2, {"b": [0.0]})], "maps of step 2"),
    ],
)
def test_errors(maps: list[tuple[int, dict[str, list[float]]]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        trace_maps(maps, [0], "title", "share")
