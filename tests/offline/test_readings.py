"""The table of a run: whatever its sources, what a plain loop over rows finds."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_interp.functional import mean_interval
from lightning_interp.offline.compare import compare
from lightning_interp.offline.readings import Readings, mean_curve
from lightning_interp.reading.history import History, Reading, merge_rows
from lightning_interp.reading.readings_table import write_rows


def history(values: dict[int, dict[str, float]], context: dict[str, float] | None = None) -> History:
    found = History()
    for index, (step, of) in enumerate(values.items()):
        found.append(Reading(step=step, epoch=0, index=index, values=of, context=context or {}))
    return found


STRUCTURE = history({1: {"information/a": 0.9}, 10: {"information/a": 0.8}}, {"val_loss": 2.0})
NOISE = history({10: {"robustness/a/val_acc": 0.5}, 30: {"robustness/a/val_acc": 0.25}})


def test_callbacks_histories_files_and_tables_stand_side_by_side(tmp_path: Path) -> None:
    expected = merge_rows([STRUCTURE, NOISE])
    write_rows(tmp_path / "readings.csv", merge_rows([NOISE]))
    callback = SimpleNamespace(history=STRUCTURE)
    for sources in (
        (STRUCTURE, NOISE),
        (callback, tmp_path / "readings.csv"),
        (Readings.of(STRUCTURE), str(tmp_path / "readings.csv")),
    ):
        run = Readings.of(*sources)
        assert list(run) == expected
        assert len(run) == 3
    assert run.keys == ["val_loss", "information/a", "robustness/a/val_acc"]
    assert run.steps() == [1, 10, 30]
    assert run.steps("robustness/a/val_acc") == [10, 30]
    assert run.series("information/a") == ([1, 10], [0.9, 0.8])
    assert run.last("val_loss") == 2.0
    assert run.until(10).steps() == [1, 10]
    assert run.series("nothing") == ([], [])
    assert repr(run) == "Readings(3 rows of 3 keys, steps 1 to 30)"
    assert repr(Readings([])) == "Readings(no rows)"


@given(
    st.lists(
        st.fixed_dictionaries({"step": st.integers(0, 9)}, optional={"a": st.floats(), "b": st.floats()}), max_size=12
    )
)
def test_a_series_is_what_a_loop_over_the_rows_finds(rows: list[dict[str, float]]) -> None:
    last: dict[int, float] = {}
    for row in rows:
        if "a" in row:
            last[row["step"]] = row["a"]
    steps, values = Readings(rows).series("a")
    assert steps == sorted(last) == Readings(rows).steps("a")
    assert [str(value) for value in values] == [str(last[step]) for step in steps]


def test_runs_of_one_file(tmp_path: Path) -> None:
    rows = [{"width": w, "seed": s, "step": step, "a": w + s + step} for w in (1, 2) for s in (0, 1) for step in (5, 9)]
    write_rows(tmp_path / "runs.csv", rows)
    found = Readings.runs(tmp_path / "runs.csv", by=["width", "seed"])
    assert list(found) == [(1, 0), (1, 1), (2, 0), (2, 1)]
    assert found[2, 1].series("a") == ([5, 9], [8, 12])
    write_rows(tmp_path / "runs.csv", [*rows, {"width": 3, "step": 5}])
    with pytest.raises(ValueError, match=r"row without \['seed'\], step 5"):
        Readings.runs(tmp_path / "runs.csv", by=["width", "seed"])


def test_the_mean_over_seeds_is_that_of_compare() -> None:
    seeds = [
        Readings([{"step": 1, "a": one}, {"step": 2, "a": math.nan if one == 3 else one}, {"step": 3}])
        for one in (1.0, 2.0, 3.0)
    ]
    curve = mean_curve(seeds, "a")
    assert curve == compare({"x": seeds}, keys="a").curve("a", "x")
    assert (curve.steps, curve.seeds, curve.left_out) == ((1,), 3, 1)
    assert (curve.means[0], curve.halves[0]) == mean_interval([1.0, 2.0, 3.0])
    assert math.isnan(mean_curve(seeds[:1], "a").halves[0])


def test_a_data_frame_has_a_row_a_step() -> None:
    pytest.importorskip("pandas")
    frame = Readings.of(STRUCTURE, NOISE).to_pandas()
    assert list(frame.index) == [1, 10, 30]
    assert frame["robustness/a/val_acc"].isna().tolist() == [True, False, False]
    assert str(frame["epoch"].dtype) == "int64"
    assert list(Readings([{"step": 4, "a": 1.0}]).to_pandas().columns) == ["a"]


def test_a_table_and_panels_leave_blank_what_was_not_read() -> None:
    run = Readings.of(STRUCTURE, NOISE)
    keys = {"information": "information/a", "robust": "robustness/a/val_acc", "nothing": "nothing"}
    lines = run.table(keys, digits=2).splitlines()
    assert [line.split() for line in lines] == [
        ["step", *keys],
        ["1", "0.90"],
        ["10", "0.80", "0.50"],
        ["30", "0.25"],
    ]
    # Numbers end where their heading ends.
    assert lines[0].index("robust") + len("robust") == len(lines[2]) == len(lines[3])
    assert run.panels({"x": keys, "y": {"nothing": "nothing"}}) == {
        "x": {"information": ([1, 10], [0.9, 0.8]), "robust": ([10, 30], [0.5, 0.25])}
    }


def test_errors() -> None:
    with pytest.raises(ValueError, match="`sources` is empty"):
        Readings.of()
    with pytest.raises(TypeError, match="a source is a int"):
        Readings.of(STRUCTURE, 3)
    with pytest.raises(ValueError, match=r"No reading has 'information/b'; nearest are \['information/a'"):
        Readings.of(STRUCTURE).last("information/b")
    with pytest.raises(ValueError, match="`seeds` is empty"):
        mean_curve([], "a")
    with pytest.raises(ValueError, match="level"):
        mean_curve([Readings([{"step": 1, "a": 1.0}])] * 2, "a", level=2)
    with pytest.raises(TypeError, match="is one source"):
        compare({"a": Readings.of(STRUCTURE)})
