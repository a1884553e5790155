"""The main job at a tiny size, run as a user would, and its event file read back."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import NamedTuple

import pytest
from example_files import load
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_interp.models import Seq2SeqModule


def test_event_file_table_and_picture(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    example = load("two_phases")
    ((rows, conclusion, began),) = example.main(["--steps", "40", "--logdir", str(tmp_path), "--seed", "3"])
    assert [row["step"] for row in rows] == [10, 12, 15, 18, 22, 26, 32, 38, 40]
    folder = tmp_path / "two_phases_grammar" / "seed_3"
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    model = Seq2SeqModule(8, 8)
    readers = example.make_readers()
    conditional = {key for reader in readers for key in reader.conditional_keys(model)}
    keys = [key for reader in readers for key in reader.logged_keys(model) if key not in conditional]
    task = [f"{name}/dataloader_idx_{index}" for name in ("val_loss", "val_acc") for index in (0, 1)]
    assert len(keys) > 10
    for key in [*keys, *task]:
        logged = [event.value for event in events.Scalars(key)]
        assert logged == pytest.approx([row[key] for row in rows if key in row], rel=1e-6), key
    assert len(events.Scalars("train_loss")) == 4
    # A page that a person can take in, with all that is undefined as yet.
    later = {key for one in (*readers, example.make_phases()) for key in one.logged_keys(model)}
    curves = later | set(events.Tags()["scalars"])
    assert len(curves) <= 30, sorted(curves)
    seconds = [float(row["seconds/RepresentationStructure"]) for row in rows]
    assert min(seconds) > 0  # what is not logged is in the readings
    assert "structure/token" in events.Tags()["images"]
    with open(folder / "readings.csv") as file:
        lines = list(csv.DictReader(file))
    assert [float(line["information/encoder"]) for line in lines] == [row["information/encoder"] for row in rows]
    noisy = "under_noise/input/val_acc"
    assert [float(line[noisy]) for line in lines if line[noisy]] == [row[noisy] for row in rows if noisy in row]
    assert sum(noisy in row for row in rows) == (len(rows) + 1) // 2
    assert (folder / "two_phases.png").stat().st_size > 20_000
    printed = capsys.readouterr().out
    assert f"tensorboard --logdir {tmp_path}" in printed
    assert f"{rows[-1]['information/encoder']:.4f}" in printed
    assert began is None
    assert conclusion == "phase one goes on: val_loss/dataloader_idx_0 has no plateau yet"
    assert conclusion in printed
    assert events.Scalars("phase/current")[-1].value == 0


@pytest.mark.slow
def test_several_seeds_are_summarised(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    runs = load("two_phases").main(["--steps", "12", "--seeds", "2", "--logdir", str(tmp_path)])
    assert len(runs) == 2
    assert runs[0].rows[0]["information/encoder"] != runs[1].rows[0]["information/encoder"]
    printed = capsys.readouterr().out
    assert "mean ± sd over 2 seeds" in printed
    assert "reached in 0 of 2 runs" in printed


def test_a_changed_recipe_has_its_own_folder(tmp_path: Path) -> None:
    example = load("two_phases")
    example.main(["--steps", "10", "--dropout", "0", "--weight-decay", "0.5", "--logdir", str(tmp_path)])
    assert (tmp_path / "two_phases_grammar_dropout_0_decay_0.5" / "seed_0" / "readings.csv").exists()


def test_the_summary_follows_phase_two() -> None:
    example = load("two_phases")

    def run(late: float) -> NamedTuple:
        rows = []
        for step, inside, outside in ((10, 0.0, 0.0), (100, 1.0, 0.85), (1000, 1.0, late), (2000, 1.0, 0.9)):
            task = {example.IN_DISTRIBUTION: inside, example.OUT_OF_DISTRIBUTION: outside}
            rows.append({"step": step, **dict.fromkeys(example.CHANGES.values(), step / 1000), **task})
        return example.Run(rows, f"phase two began at {late}", 100.0)

    printed = example.summary([run(0.6), run(0.89)])
    assert "reached in 2 of 2 runs, at steps [100, 100]" in printed
    assert "within .02 of its best at steps [2000, 1000]" in printed
    assert "phase two began at 0.89" in printed
    assert "+0.0500 ± 0.0000      +5.9 %   rises in 2 of 2   (+0.050 +0.050)" in printed  # out of distribution
    assert "+1.9000 ± 0.0000   +1900.0 %   rises in 2 of 2" in printed
    # The second half on the log axis is from step 447 on: (late + .9) / 2 − .85.
    assert "less the beginning: -0.100 +0.045\n" in printed
    assert "it rises by .1 or more in 0 of 2 runs" in printed
    assert "drift falls by 20 % or more in 0 of 2 runs" in printed


@pytest.mark.slow
def test_scan(tmp_path: Path) -> None:
    (run,) = load("two_phases").main(["--dataset", "scan", "--steps", "10", "--logdir", str(tmp_path)])
    assert run.rows[0]["regularity/encoder/token"] > 0


def test_a_missing_folder_is_said(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        load("two_phases").main(["--dataset", "cogs", "--logdir", str(tmp_path)])
    assert "needs --data-dir" in capsys.readouterr().err
