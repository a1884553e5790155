"""Weights over images: what is shown where, one scale, frames, errors."""

from __future__ import annotations

import numpy as np
import pytest

from lightning_interp.figures import patch_maps

EDGES = ([0, 4, 6], [0, 4, 8, 9])


def drawn(**kwargs: object) -> object:
    weights = np.zeros((2, 2, 3))
    weights[1, 0, 1], weights[1, 1, 2], weights[0, 1, 0] = 3, -1.5, np.nan
    given = {"steps": [1, 10], "pictures": [np.eye(6, 9)], "weights": [weights], "edges": EDGES, **kwargs}
    return patch_maps(**given, title="a title", label="nats")  # type: ignore[arg-type]


def test_weights_are_coloured_where_they_are() -> None:
    figure = drawn(marked=[np.array([[False, True, False], [False, False, False]])])
    picture, before, after, bar = figure.axes  # type: ignore[attr-defined]
    assert [one.get_title() for one in (picture, before, after)] == ["image", "step 1", "step 10"]
    assert not picture.collections
    assert before.collections[0].get_array()[..., 3].max() == 0, "nothing weighs anything, or is no number"
    colours = after.collections[0].get_array().reshape(6, 4)
    assert [at for at, one in enumerate(colours) if one[3] > 0] == [1, 5]
    assert colours[1][0] > colours[1][2], "red: what the prediction loses"
    assert colours[5][2] > colours[5][0]
    assert colours[1][3] > colours[5][3]
    assert bar.get_ylim() == (-3, 3)
    for axes in (picture, before, after):
        (line,) = axes.lines
        assert (min(line.get_xdata()), max(line.get_xdata())) == (4, 8)
        assert (min(line.get_ydata()), max(line.get_ydata())) == (0, 4)


def test_colour_images_and_weights_of_nothing_are_drawn() -> None:
    figure = drawn(pictures=[np.zeros((6, 9, 3), dtype=np.uint8)], weights=[np.full((2, 2, 3), np.nan)])
    assert len(figure.axes) == 4  # type: ignore[attr-defined]
    figure.canvas.draw()  # type: ignore[attr-defined]


def test_what_does_not_fit_is_told() -> None:
    with pytest.raises(ValueError, match="there are 0 steps and 1 images"):
        drawn(steps=[])
    with pytest.raises(ValueError, match=r"`weights` must be \(2, 2, 3\) for each of 1 images, got \[\(2, 3, 2\)\]"):
        drawn(weights=[np.zeros((2, 3, 2))])
