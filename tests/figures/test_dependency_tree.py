"""Arcs of a gold and a predicted tree."""

from __future__ import annotations

import pytest

from lightning_interp.figures import dependency_tree


def test_arcs_join_their_words_and_wrong_ones_are_dashed() -> None:
    words = ["the", "king", "who", "sleeps", "."]
    figure = dependency_tree(words, [1, -1, 3, 1, 1], [1, -1, 1, 1, -1], "title")
    (axes,) = figure.axes
    at = {text.get_text(): text.get_position()[0] for text in axes.texts}
    assert list(at) == words
    assert list(at.values()) == sorted(at.values())
    arcs = [(line.get_xdata(), line.get_ydata(), line.get_linestyle()) for line in axes.lines]
    ends = [{min(x), max(x)} for x, _, _ in arcs]
    expected = [("the", "king"), ("who", "sleeps"), ("sleeps", "king"), (".", "king")]
    expected += [("the", "king"), ("who", "king"), ("sleeps", "king")]
    assert [sorted(one) for one in ends] == [pytest.approx(sorted((at[a], at[b]))) for a, b in expected]
    assert [min(y) > 0 for _, y, _ in arcs] == [True] * 4 + [False] * 3
    assert [max(y) < 0 for _, y, _ in arcs] == [False] * 4 + [True] * 3
    assert [dash for _, _, dash in arcs] == ["-"] * 4 + ["-", "--", "-"]
    assert axes.get_title() == "title"


@pytest.mark.parametrize("number", [1, 2, 40])
def test_any_length_fits(number: int) -> None:
    heads = [-1, *range(number - 1)]
    figure = dependency_tree(["word"] * number, heads, heads, "title")
    figure.draw_without_rendering()
    box = figure.get_tightbbox()
    width, height = figure.get_size_inches()
    assert box.x0 > -0.05
    assert box.y0 > -0.05
    assert box.x1 < width + 0.05
    assert box.y1 < height + 0.05


def test_lists_of_other_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="got 2 words, 1 gold and 2 predicted links"):
        dependency_tree(["a", "b"], [-1], [-1, 0], "title")
