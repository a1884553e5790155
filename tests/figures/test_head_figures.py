"""Maps of heads: what is drawn where, and what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lightning_interp.figures import attention_grid, head_map


def test_a_map_has_a_row_a_module_and_a_column_a_head() -> None:
    figure = head_map({"0": [0.1, 0.9, math.nan], "1": [0.3, math.inf]}, "previous token", "share")
    axes, bar = figure.axes
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["0", "1"]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["0", "1", "2"]
    assert axes.get_title() == "previous token"
    assert bar.get_ylabel() == "share"
    cells = axes.collections[0].get_array()
    assert cells.filled(-1).ravel().tolist() == pytest.approx([0.1, 0.9, -1, 0.3, -1, -1])


def test_many_heads_and_modules_are_labelled_here_and_there() -> None:
    figure = head_map({str(layer): [0.5] * 64 for layer in range(90)}, "t", "l")
    axes = figure.axes[0]
    assert len(axes.get_xticklabels()) <= 24
    assert len(axes.get_yticklabels()) <= 40
    with pytest.raises(ValueError, match="expected at least one head"):
        head_map({}, "t", "l")


def test_a_grid_has_a_row_a_head_and_a_column_a_reading() -> None:
    maps = {"0/h1": [np.eye(3), np.full((3, 3), 1 / 3)], "1/h0": [np.zeros((3, 3)), np.full((3, 3), math.nan)]}
    figure = attention_grid([1, 100], maps, "a text")
    *four, bar = figure.axes
    assert [axes.get_title() for axes in four] == ["step 1", "step 100", "", ""]
    assert [axes.get_ylabel() for axes in four] == ["0/h1", "", "1/h0", ""]
    assert bar.get_ylabel() == "attention weight"
    assert four[0].images[0].get_array().tolist() == np.eye(3).tolist()
    assert four[0].images[0].get_clim() == (0, 1)
    for steps, heads in (([], maps), ([1, 2], {}), ([1], maps)):
        with pytest.raises(ValueError, match="expected"):
            attention_grid(steps, heads, "t")
