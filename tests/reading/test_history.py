"""The readings of a callback."""

from __future__ import annotations

import sys
from collections import UserDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from lightning_interp.reading.history import History, Reading, merge_rows, read_rows, read_settings


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


# ------------------------------------------------- the ways out


def run() -> History:
    """What a run leaves: two loaders, two sites, levels of chance, upkeep; the second key begins late."""
    history = History()
    history.note({"seed": 3})
    for index, step in enumerate((0, 1, 10, 100)):
        values = {
            "regularity/encoder/token": 0.5,
            "regularity_chance/encoder/token": 0.4,
            "regularity_above_chance/encoder/token": 0.1 * index,
            "regularity_above_chance/decoder/token": 0.2 * index,
            "rows/encoder": 64.0,
            "coverage/encoder/token": 1.0,
            "seconds/RepresentationStructure": 0.01,
        }
        if step >= 10:
            values["robustness/input/val/acc"] = 0.9
        context = {"val/loss/dataloader_idx_0": 1.0 / (1 + index), "val/loss/dataloader_idx_1": 2.0, "val/acc": 0.5}
        history.append(Reading(step, index // 2, index, values, context))
    return history


def test_readings_are_got_at_like_those_of_a_list() -> None:
    history = run()
    assert len(history) == 4
    assert [reading.step for reading in history] == [0, 1, 10, 100] == history.steps
    assert history[0].step == 0
    assert history[-1].step == history[np.int64(3)].step == 100
    assert [reading.step for reading in history[1:3]] == [1, 10]
    with pytest.raises(IndexError):
        history[4]
    with pytest.raises(TypeError, match=r"indexed by number; a key has history.series\('val/acc'\)"):
        history["val/acc"]
    assert list(history) == history.readings


def test_steps_are_those_of_series_where_a_step_was_read_twice() -> None:
    history = make({5: 1.0, 10: 2.0})
    history.append(Reading(10, 1, 2, {"a/x": 3.0}))
    history.append(Reading(7, 1, 3, {"a/x": 4.0}))
    assert history.steps == history.series("a/x")[0] == [5, 7, 10]


@pytest.mark.parametrize(
    ("history", "said"),
    [
        (History(), "History(no readings)"),
        (make({5: 1.0}), "History(1 reading of 1 key, step 5)"),
        (run(), "History(4 readings of 8 keys, steps 0 to 100)"),
    ],
)
def test_it_says_in_a_line_what_it_holds(history: History, said: str) -> None:
    assert repr(history) == said


def test_a_file_has_what_the_callbacks_write(tmp_path: Path) -> None:
    history = run()
    history.write_csv(tmp_path / "new" / "readings.csv")
    assert read_rows(tmp_path / "new" / "readings.csv") == merge_rows([history])
    assert read_settings(tmp_path / "new" / "readings.csv") == {"seed": "3"}


def test_a_table_of_pandas() -> None:
    pytest.importorskip("pandas")
    history = run()
    frame = history.to_pandas()
    assert list(frame.index) == history.steps
    assert frame.index.name == "step"
    assert list(frame.columns[:4]) == ["epoch", "val/loss/dataloader_idx_0", "val/loss/dataloader_idx_1", "val/acc"]
    assert frame["epoch"].tolist() == [0, 0, 1, 1]
    for key in (*history.keys, "val/acc"):
        steps, values = history.series(key)
        assert frame[key].dropna().index.tolist() == steps
        assert frame[key].dropna().tolist() == values
    assert frame.attrs == {"settings": {"seed": 3}}
    assert History().to_pandas().empty


def test_without_pandas_it_says_what_to_install_and_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match=r"pip install pandas, or .*lightning-interp\[pandas\].*history.series"):
        run().to_pandas()


def lines(figure: Figure) -> dict[str, dict[int, tuple[list[float], list[float]]]]:
    """The curves of each panel, by its title and their number."""
    return {
        axes.get_title(): {
            number: (line.get_xdata().tolist(), line.get_ydata().tolist())
            for number, line in enumerate(axes.get_lines())
        }
        for axes in figure.axes
    }


def test_a_picture_shows_what_a_person_watches_measure_by_measure() -> None:
    history = run()
    found = lines(history.plot(title="a run"))
    assert list(found) == ["val/loss", "val/acc", "robustness of val/acc to noise", "regularity, above chance"]
    for number, site in enumerate(("encoder", "decoder")):
        assert found["regularity, above chance"][number] == history.series(f"regularity_above_chance/{site}/token")
    for number in range(2):
        assert found["val/loss"][number] == history.series(f"val/loss/dataloader_idx_{number}")
    assert found["robustness of val/acc to noise"][0] == ([10, 100], [0.9, 0.9])
    figure = history.plot(title="a run")
    assert figure.get_suptitle() == "a run"
    assert figure.get_supxlabel() == ""
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["loader 0", "loader 1", "val/acc", "input", "token at encoder", "token at decoder"]


def test_a_picture_of_keys_that_are_named() -> None:
    history = run()
    assert list(lines(history.plot("rows/encoder"))) == ["rows read"]
    both = lines(history.plot(["regularity/encoder/token", "regularity_chance/encoder/token"]))
    assert list(both) == ["regularity", "regularity, chance level"]
    with pytest.raises(ValueError, match=r"No reading has 'val/ac'; nearest are \['val/acc'\]"):
        history.plot("val/ac")
    with pytest.raises(
        ValueError, match=r"No reading has 'val/loss'; nearest are \['val/loss/dataloader_idx_0', 'val/"
    ):
        history.plot("val/loss")
    with pytest.raises(ValueError, match="`keys` is empty: name at least one key"):
        history.plot([])
    with pytest.raises(ValueError, match="no reading to draw yet"):
        History().plot()
    upkeep = History()
    upkeep.append(Reading(1, 0, 0, {"rows/encoder": 3.0}))
    assert list(lines(upkeep.plot())) == ["rows read"]  # rather than nothing


def test_of_many_panels_it_draws_twelve_and_says_so() -> None:
    history = History()
    history.append(Reading(1, 0, 0, {f"own_{number}": 1.0 for number in range(30)}))
    figure = history.plot()
    assert [axes.get_title() for axes in figure.axes] == [f"own_{number}" for number in range(12)]
    assert figure.get_supxlabel() == "12 of 30 panels; name what to draw by plot(keys=...)"
    assert len(history.plot(history.keys).axes) == 30


def test_the_state_of_checkpoints_of_before_is_taken() -> None:
    state: dict[str, Any] = run().state_dict()
    del state["settings"]
    history = History()
    history.load_state_dict(state)
    assert list(history) == list(run())
    assert history.settings(10) == {}
    assert set(state["readings"][0]) == {"step", "epoch", "index", "values", "context"}
