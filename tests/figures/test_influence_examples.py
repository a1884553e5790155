"""Pictures of what helped a query and what hurt it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from matplotlib import pyplot

from lightning_interp.figures.influence_examples import ShownExample, influence_examples


def test_images_and_texts_in_two_rows() -> None:
    colours = ShownExample("colours", torch.rand(3, 5, 5))
    grey = ShownExample("grey", np.zeros((1, 5, 4)))
    text = ShownExample("text", "the price is $5 or $6, " * 40)
    figure = influence_examples(grey, [colours, text], [grey], "what helped")
    figure.canvas.draw()
    assert [axes.get_title() for axes in figure.axes] == ["grey", "colours", "text", "grey"]
    assert [len(axes.images) for axes in figure.axes] == [1, 1, 0, 1]
    assert figure.axes[1].images[0].get_array().shape == (5, 5, 3)
    assert figure.axes[0].images[0].get_array().shape == (5, 4)
    (shown,) = figure.axes[2].texts
    assert shown.get_text().startswith("the price is $5 or $6,")
    assert shown.get_text().endswith("…")
    assert [axes.get_ylabel() for axes in figure.axes] == ["", "helped", "", "hurt"]
    assert not pyplot.get_fignums()


def test_vectors_are_no_images() -> None:
    figure = influence_examples(ShownExample("q", torch.zeros(3)), [ShownExample("z", "text")], [])
    assert not any(axes.images for axes in figure.axes)


def test_nothing_to_show() -> None:
    with pytest.raises(ValueError, match="neither a proponent nor an opponent"):
        influence_examples(ShownExample("q", "text"), [], [])
