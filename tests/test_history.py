"""The readings of a callback."""

from __future__ import annotations

from collections import UserDict
from pathlib import Path

import numpy as np
import torch

from lightning_interp.history import History, Reading, merge_rows


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


def test_rows_of_several_callbacks_are_joined_by_step() -> None:
    rows = merge_rows([make({5: 0.1, 10: 0.25}), make({10: 7.0, 20: 1e-17}, key="b/x")])
    assert [row["step"] for row in rows] == [5, 10, 20]
    assert rows[1]["a/x"] == 0.25
    assert rows[1]["b/x"] == 7.0
    assert rows[1]["val_loss"] == 0.5


def test_what_is_noted_of_readings_can_be_held_by_a_checkpoint_whatever_it_was(tmp_path: Path) -> None:
    history = History()
    noted = {"scales": np.linspace(0, 1, 3), "map": UserDict(a=np.float32(0.5)), "left out": object(), "seed": 3}
    history.note(noted)
    history.note(noted)
    history.append(Reading(5, 0, 0, {"a/x": 1.0}))
    expected = {"scales": "[0.0, 0.5, 1.0]", "map": '{"a": 0.5}', "seed": 3}
    assert history.state_dict()["settings"] == [[0, expected]]
    torch.save(history.state_dict(), tmp_path / "state")
    other = History()
    other.load_state_dict(torch.load(tmp_path / "state", weights_only=True))
    assert other.settings(5) == expected
