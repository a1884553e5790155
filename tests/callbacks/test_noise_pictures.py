"""What pictures of noise show and leave out: shares over a small gain, shares above 1, drift by its two sites."""

from __future__ import annotations

import math
from typing import Any

import pytest

from lightning_interp import NoiseRobustness
from lightning_interp.callbacks._noise_pictures import Learned, curve_panels, drift_panels, note_on_shares
from lightning_interp.reading.history import Reading

SCALES = (0.1, 1.0)


def planted(clean: dict[int, float], shares: dict[int, tuple[float, float]], width: float = 0.02) -> NoiseRobustness:
    """A callback with readings made by hand: accuracy starts at .1 and is known to within ``width``."""
    callback = NoiseRobustness({"input": "embedding"}, SCALES, {"val_acc": "score"}, drift={"out": "encoder"})
    callback.noisy.names, callback.drifted.names = {"input": "embedding"}, {"out": "encoder"}
    callback.start_values.values, callback.start_values.widths = {"val_acc": [0.1]}, {"val_acc": width}
    for index, (step, value) in enumerate(clean.items()):
        values = {"clean/val_acc": value, "under_noise/input/val_acc": value / 2}
        values |= {f"drift/input/out/{scale:g}": 0.001 * scale**2 for scale in SCALES}
        if step in shares:
            values |= {f"retention/input/val_acc/{s:g}": v for s, v in zip(SCALES, shares[step], strict=True)}
            values["robustness/input/val_acc"] = sum(shares[step]) / 2
        callback.history.append(Reading(step, 0, index, values, {}))
    return callback


def lines(axes: Any) -> list[list[float]]:
    return [list(line.get_ydata()) for line in axes.get_lines() if len(line.get_xdata()) == len(SCALES) + 1]


def test_shares_are_left_out_where_little_was_learned() -> None:
    # Gains .03 (1.5 half-widths), .07 (3.5), .09 (4.5) and .8.
    clean = {10: 0.13, 20: 0.17, 30: 0.19, 40: 0.9}
    shares = {10: (1.9, 0.5), 20: (1.3, 0.4), 30: (0.9, 0.3), 40: (0.99, 0.6)}
    callback = planted(clean, shares)
    figure = callback.figures()["noise/retention"]()
    assert lines(figure.axes[0]) == [[1.0, 0.9, 0.3], [1.0, 0.99, 0.6]]
    note = " ".join(figure.get_supxlabel().split())
    assert note == "Left out: 2 lines of readings by which less was learned than 4 times the metric's noise."
    share, under, *_ = callback.figures()["noise/robustness"]().axes
    assert (share.get_title(), under.get_title()) == ("robustness to noise: val_acc", "val_acc under noise")
    assert share.get_lines()[0].get_xdata().tolist() == [30, 40]
    # In their own units all readings are there.
    assert under.get_lines()[0].get_xdata().tolist() == [10, 20, 30, 40]
    # What is logged is not changed.
    assert callback.history.series("retention/input/val_acc/0.1")[0] == [10, 20, 30, 40]


@pytest.mark.parametrize(
    ("share", "said"),
    [
        (0.99, ""),
        (1.02, "Above 1 by no more than the noise of the metric."),
        (1.03, "Above 1 by more than its noise: the metric is better with noise than without."),
    ],
)
def test_a_share_above_one_is_explained(share: float, said: str) -> None:
    # The gain is .8 and known to within .02, so noise moves a share by .025.
    figure = planted({40: 0.9}, {40: (share, 0.6)}).figures()["noise/retention"]()
    assert " ".join(figure.get_supxlabel().split()) == said
    assert lines(figure.axes[0]) == [[1.0, share, 0.6]]


def test_a_level_of_chance_without_known_noise_leaves_nothing_out() -> None:
    learned = Learned({10: 0.001}, math.nan)
    assert learned.clear(10)
    assert learned.doubt(10) == 0
    assert learned.shown(([10, 20], [0.5, 0.6])) == ([10, 20], [0.5, 0.6])
    assert note_on_shares([(learned, 10, [])], 0) is None


def test_drift_has_a_panel_for_each_pair_of_sites_and_short_names() -> None:
    callback = planted({10: 0.2}, {})
    figure = callback.figures()["noise/drift"]()
    (axes,) = figure.axes
    assert axes.get_title() == "drift of out, noise at input"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["scale 0.1", "scale 1"]
    # No line lies on zero: each is well apart from the others on its axis.
    assert axes.get_yscale() == "log"
    low, high = (axes.transAxes.inverted().transform(axes.transData.transform((10, y)))[1] for y in (1e-5, 1e-3))
    assert high - low > 0.5
    keys = {f"drift/{site}/{down}/{scale:g}" for site in "ab" for down in "xy" for scale in SCALES}
    asked: list[str] = []

    def series(key: str) -> tuple[list[int], list[float]]:
        asked.append(key)
        return ([1], [0.5]) if "/a/" in key else ([], [])

    panels = drift_panels("ab", "xy", SCALES, series)
    assert set(asked) == keys
    assert list(panels) == ["drift of x, noise at a", "drift of y, noise at a"]


def test_a_site_without_a_reading_has_no_panel() -> None:
    assert curve_panels(["m"], ["a"], lambda key: ([], []), {}) == {}


def test_pictures_are_listed_where_there_is_something_to_draw() -> None:
    callback = planted({10: 0.2}, {10: (0.5, 0.5)})
    assert list(callback.figures()) == ["noise/retention", "noise/robustness", "noise/drift"]
    assert list(planted({10: 0.2}, {}).figures()) == ["noise/robustness", "noise/drift"]
    only_drift = NoiseRobustness({"input": "embedding"}, SCALES, drift={"out": "encoder"})
    only_drift.noisy.names, only_drift.drifted.names = {"input": "embedding"}, {"out": "encoder"}
    only_drift.history.append(Reading(1, 0, 0, {"drift/input/out/0.1": 0.5}, {}))
    assert list(only_drift.figures()) == ["noise/drift"]
    assert isinstance(only_drift.figures()["noise/drift"]().axes, list)


def test_values_in_place_of_shares_need_no_note() -> None:
    callback = planted({10: 0.2}, {})
    callback.start_values.start, callback.start_values.values = None, {}
    callback.history.readings[0].values.update({"noisy/input/val_acc/0.1": 0.2, "noisy/input/val_acc/1": 0.1})
    figure = callback.figures()["noise/retention"]()
    assert figure.get_suptitle() == "monitors under noise"
    assert figure.get_supxlabel() == ""
    assert lines(figure.axes[0]) == [[0.2, 0.2, 0.1]]
