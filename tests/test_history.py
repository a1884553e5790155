"""History and its file."""

from __future__ import annotations

import csv
from pathlib import Path

import torch

from lightning_interp.history import CsvLog, History, Reading, merge_rows


def make(values: dict[int, float], key: str = "a/x") -> History:
    history = History()
    for index, (step, value) in enumerate(values.items()):
        history.append(Reading(step, 0, index, {key: value}, {"val_loss": value * 2}))
    return history


def test_series_of_measured_and_logged_keys() -> None:
    history = make({5: 1.0, 10: 2.0})
    history.append(Reading(10, 1, 2, {"a/x": 3.0}))
    assert history.series("a/x") == ([5, 10], [1.0, 3.0])
    assert history.series("val_loss") == ([5, 10], [2.0, 4.0])
    assert history.series("none") == ([], [])
    assert history.keys == ["a/x"]


def test_state_survives_a_weights_only_checkpoint(tmp_path: Path) -> None:
    history = make({5: 0.1, 10: float("inf")})
    torch.save(history.state_dict(), tmp_path / "state")
    other = History()
    other.load_state_dict(torch.load(tmp_path / "state", weights_only=True))
    assert other.readings == history.readings


def test_rows_of_several_callbacks_are_joined_by_step(tmp_path: Path) -> None:
    rows = merge_rows([make({5: 0.1, 10: 0.25}), make({10: 7.0, 20: 1e-17}, key="b/x")])
    assert [row["step"] for row in rows] == [5, 10, 20]
    assert rows[1]["a/x"] == 0.25
    assert rows[1]["b/x"] == 7.0
    assert rows[1]["val_loss"] == 0.5
    CsvLog(tmp_path / "new" / "readings.csv").write(rows)
    with open(tmp_path / "new" / "readings.csv") as file:
        read = list(csv.DictReader(file))
    assert [row["b/x"] for row in read] == ["", "7", "1e-17"]
    assert float(read[0]["a/x"]) == 0.1
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["readings.csv"]


def test_a_file_that_grows_line_by_line_is_the_one_written_at_once(tmp_path: Path) -> None:
    first, second = make({5: 0.1, 10: 0.25, 30: 0.5}), make({10: 7.0, 20: 1e-17}, key="b/x")
    whole, growing = CsvLog(tmp_path / "whole.csv"), CsvLog(tmp_path / "growing.csv")
    growing.path.write_text("left by another run")
    whole.write(merge_rows([first, second]))
    for step in (5, 10, 20, 30):
        rows = merge_rows([first, second], after=growing.last_step)
        growing.write([row for row in rows if row["step"] == step])
        growing.write([])
    read = []
    for log in (whole, growing):
        with log.path.open() as file:
            read.append([{key: value for key, value in row.items() if value} for row in csv.DictReader(file)])
    assert read[0] == read[1]
    assert len(read[0]) == 4
    assert growing.last_step == 30
