"""The heat map and the map of tasks show what they are given, and fit with 67 tasks in 13 phenomena."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_hex

from lightning_interp.figures._style import GREY
from lightning_interp.figures.task_heatmap import task_heatmap
from lightning_interp.figures.task_map import task_map

NAN = float("nan")
SIZES = [8, 2, 2, 7, 8, 6, 2, 5, 4, 2, 7, 7, 7]
PHENOMENA = [f"phenomenon_number_{group}_of_them" for group, size in enumerate(SIZES) for _ in range(size)]
TASKS = [f"paradigm_of_minimal_pairs_with_long_name_{task}" for task in range(67)]


def fits(figure: Any) -> bool:
    figure.draw_without_rendering()
    box = figure.get_tightbbox()
    width, height = figure.get_size_inches()
    return box.x0 > -0.05 and box.y0 > -0.05 and box.x1 < width + 0.05 and box.y1 < height + 0.05 and width < 15


def test_tasks_of_one_phenomenon_stand_together_and_the_diagonal_is_blank() -> None:
    matrix = [[1.0, 0.1, 0.7], [0.1, 1.0, NAN], [0.7, NAN, 1.0]]
    figure = task_heatmap(matrix, ["plural", "wh", "singular"], ["agreement", "islands", "agreement"], "title", "cos")
    axes, bar = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["plural", "singular", "wh"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["agreement", "islands"]
    mesh = axes.collections[0]
    assert mesh.get_array().tolist() == [[None, 0.7, 0.1], [0.7, None, None], [0.1, None, None]]
    assert (mesh.norm.vmin, mesh.norm.vmax) == (-0.7, 0.7)
    assert to_hex(mesh.cmap.get_bad()) == GREY.lower()
    lines = [line.get_ydata()[0] for line in axes.lines if line.get_ydata()[0] == line.get_ydata()[1]]
    assert lines == [2]
    assert (axes.get_title(), bar.get_ylabel()) == ("title", "cos")


def test_heat_map_of_67_tasks_is_legible() -> None:
    matrix = np.random.default_rng(0).normal(size=(67, 67))
    figure = task_heatmap(matrix, TASKS, PHENOMENA, "alignment")
    assert fits(figure)
    axes = figure.axes[0]
    down = [label.get_window_extent() for label in axes.get_yticklabels()]
    assert len(down) == 67
    assert all(upper.y0 >= lower.y1 - 1 for upper, lower in pairwise(down))
    assert len(axes.get_xticklabels()) == 13


def test_a_heat_map_without_values_and_of_one_task() -> None:
    for matrix, names in (([[NAN, NAN], [NAN, NAN]], ["a", "b"]), ([[1.0]], ["a"])):
        figure = task_heatmap(matrix, names, ["x"] * len(names), "title")
        figure.draw_without_rendering()
        assert len(figure.axes) == 1


def test_map_panels_share_one_scale_and_leave_out_what_is_missing() -> None:
    maps = [(10, [[0.0, 1.0], [1.0, 0.0], [NAN, NAN]]), (1000, [[0.0, 2.0], [-4.0, 0.0], [1.0, 1.0]])]
    figure = task_map(maps, ["plural", "wh", "singular"], ["agreement", "islands", "agreement"], "title")
    first, second = figure.axes
    assert [axes.get_title() for axes in figure.axes] == ["step 10", "step 1k"]
    assert first.get_xlim() == second.get_xlim()
    assert first.get_xlim()[1] - first.get_xlim()[0] == pytest.approx(first.get_ylim()[1] - first.get_ylim()[0])
    points = {line.get_label(): line.get_xydata().tolist() for line in second.lines if line.get_marker() != "None"}
    assert points == {"agreement": [[0.0, 2.0], [1.0, 1.0]], "islands": [[-4.0, 0.0]]}
    assert [[text.get_text() for text in axes.texts] for axes in figure.axes] == [["1", "2"], ["1", "2", "3"]]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.texts] == [
        "1 plural (agreement)",
        "2 wh (islands)",
        "3 singular (agreement)",
    ]


def test_map_of_67_tasks_is_legible() -> None:
    generator = np.random.default_rng(0)
    figure = task_map([(10**power, generator.normal(size=(67, 2))) for power in range(6)], TASKS, PHENOMENA, "tasks")
    assert fits(figure)
    lines = [line for line in figure.axes[0].lines if line.get_marker() != "None"]
    looks = {(line.get_color(), line.get_marker(), line.get_markerfacecolor()) for line in lines}
    assert len(looks) == len(figure.legends[0].texts) == 13
    assert figure.axes[0].bbox.width > 200


@pytest.mark.parametrize(
    ("maps", "message"),
    [
        ([], r"maps has the steps \[\]; expected at least one reading"),
        ([(2, [[0, 0]]), (1, [[0, 0]])], r"maps has the steps \[2, 1\]; .*increasing"),
        ([(1, [[0, 0, 0]])], r"shapes \[\(1, 3\)\] for 1 tasks and 1 phenomena"),
        ([(1, [[0, 0], [0, 0]])], r"shapes \[\(2, 2\)\] for 1 tasks"),
    ],
)
def test_bad_maps_are_named(maps: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        task_map(maps, ["a"], ["x"])


@pytest.mark.parametrize(("matrix", "tasks"), [([[1.0, 0.0]], ["a"]), (np.ones((2, 2)), ["a"]), (np.ones((0, 0)), [])])
def test_bad_matrices_are_named(matrix: Any, tasks: list[str]) -> None:
    with pytest.raises(ValueError, match="matrix has the shape"):
        task_heatmap(matrix, tasks, ["x"] * len(tasks), "title")
