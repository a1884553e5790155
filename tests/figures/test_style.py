"""What the figures share: names that stay apart, ticks that can be read."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from lightning_interp.figures._style import line_styles, log_step_axis, shorten_all, step_label, step_labels

LONG = [f"model.decoder.layers.{i}.self_attention.output_projection" for i in range(12)]


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        (["encoder", "decoder"], ["encoder", "decoder"]),
        (LONG[:2], ["…layers.0…", "…layers.1…"]),
        (["a_module_without_any_dots_in_its_long_name"], ["a_module_wit…ts_long_name"]),
        ([LONG[0], "embedding"], ["model.decode…t_projection", "embedding"]),
        (LONG[:1], ["model.decode…t_projection"]),
        ([], []),
    ],
)
def test_long_names_are_shortened(names, wanted):
    assert shorten_all(names, 25) == wanted


@given(
    st.lists(st.lists(st.sampled_from(["a", "layers", "x" * 9, "0", "11"]), min_size=1, max_size=5), unique_by=tuple)
)
def test_short_names_never_coincide(parts):
    names = [".".join(part) for part in parts]
    assert len(set(shorten_all(names, 12))) == len(set(names))


@pytest.mark.parametrize(
    ("step", "wanted"), [(0, "0"), (7, "7"), (999, "999"), (1000, "1k"), (1500, "1.5k"), (2e6, "2M"), (3e9, "3G")]
)
def test_step_label(step, wanted):
    assert step_label(step) == wanted


def test_step_labels_differ():
    assert step_labels([1000, 2000, 10_000]) == ["1k", "2k", "10k"]
    assert step_labels([1_000_000, 1_000_500]) == ["1M", "1.0005M"]


def test_more_lines_than_colours_still_differ():
    styles = line_styles([str(i) for i in range(24)])
    assert len({(style["color"], style["linestyle"], style["marker"]) for style in styles.values()}) == 24
    assert len({style["color"] for style in list(styles.values())[:7]}) == 7


RANGES = [
    [1],
    [0],
    [0, 1],
    [5, 6],
    [1, 40],
    [900, 1100],
    [1000, 4000],
    [0, 1000, 3000],
    [1, 10**6],
    [0, 7, 10**9],
    [10**6, 10**6 + 900],
]


@pytest.mark.parametrize("steps", RANGES, ids=str)
def test_step_ticks_are_few_inside_and_apart(steps):
    figure = Figure(figsize=(3, 2), dpi=100)
    axes = figure.subplots()
    label = log_step_axis(axes, steps)
    axes.tick_params(labelsize=8)
    figure.draw_without_rendering()
    low, high = axes.get_xlim()
    ticks = axes.get_xticks()
    assert 1 <= len(ticks) <= 7
    assert all(low < tick < high for tick in [*ticks, *steps])
    if len(steps) > 1:
        assert len(ticks) >= 2
    texts = [tick for tick in axes.get_xticklabels() if tick.get_text()]
    assert len({text.get_text() for text in texts}) == len(ticks)
    extents = [text.get_window_extent() for text in texts]
    assert all(left.x1 < right.x0 for left, right in pairwise(extents))
    assert ("0 set apart" in label) == (0 in steps and len(steps) > 1)


def test_zero_is_left_of_the_first_step_and_decades_are_equally_wide():
    axes = Figure().subplots()
    log_step_axis(axes, [0, 10, 100, 1000])
    positions = axes.transData.transform(np.array([[s, 0] for s in (0, 10, 100, 1000)]))[:, 0]
    gaps = np.diff(positions)
    assert gaps[0] > 0
    assert gaps[1] == pytest.approx(gaps[2])
    assert gaps[0] == pytest.approx(0.4 * gaps[1], rel=0.15)
