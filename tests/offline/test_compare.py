"""Several seeds' readings with intervals."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_interp.functional.student import mean_interval
from lightning_interp.offline.compare import Comparison, compare
from lightning_interp.reading.history import History, Reading, merge_rows
from lightning_interp.reading.readings_table import write_rows


def history(values: dict[int, float], key: str = "rankme/encoder") -> History:
    made = History()
    for index, (step, value) in enumerate(values.items()):
        made.append(Reading(step, 0, index, {key: value, "seconds/Geometry": 0.1}, {"val_loss": value / 2}))
    return made


SMALL = [history({1: 1.0, 10: 2.0}), history({1: 2.0, 10: 2.5}), history({1: 4.0, 10: 3.5, 20: 1.0})]
LARGE = [history({5: 1.0}), history({5: 1.0})]


def test_mean_and_interval_at_the_steps_that_all_seeds_share() -> None:
    found = compare({"small": SMALL, "large": LARGE})
    assert found.keys == ["rankme/encoder", "val_loss"]
    assert found.labels == ["small", "large"]
    curve = found.curve("rankme/encoder", "small")
    assert (curve.steps, curve.seeds, curve.left_out) == ((1, 10), 3, 1)
    mean, half = mean_interval([1.0, 2.0, 4.0])
    assert (curve.means[0], curve.halves[0]) == (mean, half)
    rows = found.table("rankme/encoder")
    assert [(row["label"], row["step"], row["seeds"]) for row in rows] == [
        ("small", 1, 3),
        ("small", 10, 3),
        ("large", 5, 2),
    ]
    assert rows[0] == {"label": "small", "step": 1, "mean": mean, "low": mean - half, "high": mean + half, "seeds": 3}
    assert rows[2]["low"] == rows[2]["high"] == 1.0
    narrow = compare({"small": SMALL}, "val_loss", level=0.5).curve("val_loss", "small")
    assert narrow.halves[0] == mean_interval([0.5, 1.0, 2.0], 0.5)[1]


def test_histories_callbacks_and_files_are_read_alike(tmp_path: Path) -> None:
    paths = []
    for number, one in enumerate(SMALL):
        paths.append(tmp_path / str(number) / "readings.csv")
        write_rows(paths[-1], merge_rows([one]))
    by_history = compare({"small": SMALL})
    assert by_history == compare({"small": paths}) == compare({"small": [str(path) for path in paths]})
    assert by_history == compare({"small": [SimpleNamespace(history=SMALL[0]), SMALL[1], paths[2]]})


def test_values_that_are_not_finite_count_as_lacking() -> None:
    one, other = history({1: math.nan, 2: 3.0, 3: math.inf}), history({1: 1.0, 2: 3.0, 3: 2.0})
    curve = compare({"a": [one, other]}).curve("rankme/encoder", "a")
    assert (curve.steps, curve.left_out) == ((2,), 2)


finite = st.floats(-1e6, 1e6)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.dictionaries(st.integers(0, 4), finite, min_size=1).map(lambda d: {9: 0.0, **d}), min_size=2, max_size=5
    ),
    st.randoms(use_true_random=False),
)
def test_the_order_of_seeds_does_not_matter(seeds: list[dict[int, float]], random: object) -> None:
    sources = [history(values) for values in seeds]
    shuffled = list(sources)
    random.shuffle(shuffled)
    found = compare({"a": sources})
    assert found == compare({"a": shuffled})
    curve = found.curve("rankme/encoder", "a")
    assert set(curve.steps) == set.intersection(*map(set, seeds))
    assert len(curve.steps) + curve.left_out == len(set().union(*seeds))
    for step, mean, half in zip(curve.steps, curve.means, curve.halves, strict=True):
        values = [seed[step] for seed in seeds]
        assert min(values) - 1e-9 <= mean <= max(values) + 1e-9
        assert half >= 0
        # Two seeds' interval, the widest for its spread, has t = 12.7; more seeds have less.
        assert half <= 12.71 * (max(values) - min(values)) + 1e-9


def test_the_figure_has_a_panel_a_key_and_a_band_a_label() -> None:
    found = compare({"small": SMALL, "large": LARGE})
    figure = found.plot(["val_loss", "rankme/encoder"], title="Width")
    assert [axes.get_title() for axes in figure.axes] == ["val_loss", "RankMe at encoder"]
    assert figure.get_suptitle() == "Width"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["small (n = 3)", "large (n = 2)"]
    assert figure.axes[1].get_lines()[0].get_xydata()[:, 0].tolist() == [1, 10]
    assert len(found.plot().axes) == 2
    assert len(found.plot("val_loss").axes) == 1
    with pytest.raises(ValueError, match=r"'val_los' is not compared; nearest are \['val_loss'\]"):
        found.plot("val_los")


def test_errors(tmp_path: Path) -> None:
    def refuse(match: str, runs: object, error: type[Exception] = ValueError, **kwargs: object) -> Comparison:
        with pytest.raises(error, match=match):
            compare(runs, **kwargs)

    refuse("`runs` is empty", {})
    refuse("`level` must lie", {"a": SMALL}, level=95)
    refuse(r"runs\['a'\] has no source", {"a": []})
    refuse("one source twice, at 0 and 2", {"a": [*SMALL[:2], SMALL[0]]})
    refuse("expected a list", {"a": "readings.csv"}, TypeError)
    refuse(r"runs\['a'\]\[1\] is a int", {"a": [SMALL[0], 3]}, TypeError)
    refuse("is a SimpleNamespace", {"a": [SMALL[0], SimpleNamespace(history=[1.0])]}, TypeError)
    refuse(r"\['b'\]\[0\] has no finite value of 'rankme/encodr'.*rankme/encoder", {"b": SMALL}, keys="rankme/encodr")
    refuse("`keys` is empty", {"b": SMALL}, keys=[])
    refuse(
        r"share no step of 'val_loss'; their first steps are \[\[1\], \[2\]\]",
        {"a": [history({1: 1.0}), history({2: 1.0})]},
        keys=["val_loss"],
    )
    refuse("No key is common", {"a": [history({1: 1.0}), history({2: 1.0})]})
    path = tmp_path / "readings.csv"
    path.write_text("epoch,loss\n1,2\n")
    refuse("no column 'step'", {"a": [path, SMALL[0]]})
    path.write_text("step,loss\n1,2\n3,much\n")
    refuse("line 3: could not convert", {"a": [path, SMALL[0]]})
    path.write_text("step,loss\n,2\n")
    refuse("without a step", {"a": [path, SMALL[0]]})
    found = compare({"a": SMALL})
    with pytest.raises(ValueError, match="no runs 'b'"):
        found.curve("val_loss", "b")
    with pytest.raises(ValueError, match="'x' is not compared; available are"):
        found.table("x")


# ------------------------------------------------- single runs, few seeds, files that are not there


def test_a_single_run_is_a_line_without_an_interval(tmp_path: Path) -> None:
    write_rows(tmp_path / "one.csv", merge_rows([SMALL[0]]))
    alone = compare({"alone": [tmp_path / "one.csv"]})
    curve = alone.curve("rankme/encoder", "alone")
    assert (curve.steps, curve.means, curve.seeds, curve.left_out) == ((1, 10), (1.0, 2.0), 1, 0)
    assert all(map(math.isnan, curve.halves))
    row = alone.table("rankme/encoder")[1]
    assert math.isnan(row["low"])
    assert math.isnan(row["high"])
    assert {key: row[key] for key in ("label", "step", "mean", "seeds")} == {
        "label": "alone",
        "step": 10,
        "mean": 2.0,
        "seeds": 1,
    }
    legend = alone.plot("rankme/encoder").legends[0]
    assert [text.get_text() for text in legend.get_texts()] == ["alone (one run)"]
    assert legend.get_title().get_text() == ""

    beside = compare({"alone": [SMALL[0]], "small": SMALL})
    assert beside.curve("rankme/encoder", "small") == compare({"small": SMALL}).curve("rankme/encoder", "small")
    figure = beside.plot("rankme/encoder")
    assert figure.axes[0].get_lines()[0].get_xydata().tolist() == [[1, 1.0], [10, 2.0]]
    assert figure.legends[0].get_title().get_text() == "mean and\n95 % interval"
    band = [tuple(part.get_paths()[0].get_extents().bounds) for part in figure.axes[0].collections if part.get_paths()]
    assert len([bounds for bounds in band if np.isfinite(bounds).all()]) == 1


def test_two_seeds_are_warned_of_and_do_not_stretch_the_axes() -> None:
    two, three = SMALL[:2], SMALL
    with pytest.warns(
        UserWarning, match=r"\['two'\] of `runs` have 2 seeds. The 95 % .* ± 12.7 .*\(± 4.3 of 3 seeds\)"
    ):
        both = compare({"two": two, "three": three, "one": SMALL[:1]})
    with pytest.warns(UserWarning, match=r"The 50 % interval of their mean is ± 1.0 standard errors"):
        compare({"two": two}, level=0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compare({"three": three, "one": SMALL[:1]})
    low, high = both.plot("rankme/encoder").axes[0].get_ylim()
    wide, kept = both.curve("rankme/encoder", "two"), both.curve("rankme/encoder", "three")
    assert wide.means[0] - wide.halves[0] < low  # its band goes beyond
    assert low < min(mean - half for mean, half in zip(kept.means, kept.halves, strict=True))
    assert high > max(mean + half for mean, half in zip(kept.means, kept.halves, strict=True))
    with pytest.warns(UserWarning, match="have 2 seeds"):
        alone = compare({"two": two})
    low, high = alone.plot("rankme/encoder").axes[0].get_ylim()
    assert low < min(wide.means) < max(wide.means) < high
    assert high - low < 1.2 * (max(wide.means) - min(wide.means))


def test_a_file_that_is_not_there_is_told_before_all_else(tmp_path: Path) -> None:
    (tmp_path / "run" / "seed_0").mkdir(parents=True)
    (tmp_path / "run" / "seed_0" / "readings.csv").write_text("step,loss\n1,much\n")
    there = tmp_path / "run" / "seed_0" / "readings.csv"

    def refused(*sources: Path | str) -> str:
        with pytest.raises(FileNotFoundError) as error:
            compare({"a": [there, there], "b": sources})
        return str(error.value)

    said = refused(tmp_path / "run" / "seed_0" / "reading.csv")
    assert said.startswith(f"No such file: '{tmp_path}/run/seed_0/reading.csv', runs['b'][0]; expected a readings.csv.")
    assert said.endswith(f"'{tmp_path}/run/seed_0' has ['readings.csv'].")
    assert refused(there, str(tmp_path / "run")).endswith("It is a folder with ['seed_0/readings.csv'].")
    assert f"'{tmp_path}/run' has ['seed_0']" in refused(tmp_path / "run" / "seed_1" / "readings.csv")
    (tmp_path / "empty").mkdir()
    assert refused(tmp_path / "empty").endswith("It is a folder without *.csv.")
    with pytest.raises(ValueError, match="one source twice"):
        compare({"a": [there, there]})


# ------------------------------------------------- what is drawn where nothing is named


def many(keys: int) -> History:
    made = History()
    made.append(Reading(1, 0, 0, {f"own_{number:02}": 1.0 for number in range(keys)}))
    return made


def test_it_draws_what_a_person_watches() -> None:
    upkeep = {"rows/enc": 64.0, "coverage/enc/token": 1.0, "nonfinite/enc": 0.0, "num_labels/enc/token": 9.0}
    levels = {"floor/enc": 0.1, "regularity_chance/enc/token": 0.1, "regularity_chance/enc/token/sd": 0.01}
    shown = {"information/enc": 0.5, "regularity_above_chance/enc/token": 0.4}
    seeds = []
    for seed in range(3):
        values = {key: value + seed / 100 for key, value in {**upkeep, **levels, **shown}.items()}
        seeds.append(History())
        seeds[-1].append(Reading(1, 0, 0, {**values, "regularity/enc/token": 0.5}, {"val/loss": 1.0 + seed}))
    found = compare({"a": seeds})
    assert {*upkeep, *levels, *shown, "regularity/enc/token", "val/loss"} == {*found.keys}
    drawn = [axes.get_title() for axes in found.plot().axes]
    assert drawn == ["val/loss", "information at enc", "regularity of token at enc, above chance"]
    assert found.plot().get_supxlabel() == ""
    only = compare({"a": seeds}, list(upkeep))
    assert len(only.plot().axes) == len(upkeep)  # rather than nothing
    with pytest.raises(ValueError, match="`keys` is empty: name at least one key"):
        found.plot([])


def test_of_many_keys_it_draws_twelve_and_says_so() -> None:
    found = compare({"a": [many(30)]})
    figure = found.plot()
    assert [axes.get_title() for axes in figure.axes] == [f"own_{number:02}" for number in range(12)]
    assert figure.get_supxlabel() == "12 of 30 panels; name what to draw by plot(keys=...); .keys has all"
    assert len(found.plot(found.keys).axes) == 30
