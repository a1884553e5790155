"""The main job at a tiny size, run as a user would, and its event file read back."""

from __future__ import annotations

import csv
import signal
from pathlib import Path

import pytest
import torch
from example_files import load
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_interp.models import Seq2SeqModule


def test_event_file_table_and_picture(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    example = load("two_phases")
    rows, phases = example.main(["--steps", "40", "--logdir", str(tmp_path), "--seed", "3"])
    assert [row["step"] for row in rows] == [10, 12, 15, 18, 22, 26, 32, 38, 40]
    folder = tmp_path / "two_phases_grammar" / "seed_3" / "version_0"
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
    later = {key for one in (*readers, phases) for key in one.logged_keys(model)}
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
    assert f"{rows.last('information/encoder'):.4f}" in printed
    assert phases.standing.boundaries == ()
    assert phases.conclusion == "phase one goes on: val_loss/dataloader_idx_0 has no plateau yet"
    assert phases.conclusion in printed
    assert events.Scalars("phase/current")[-1].value == 1
    assert lines[-1]["phase/reason"] == phases.conclusion
    assert f"go to {folder}" in printed
    # A second run of the same command is a run of its own.
    example.main(["--steps", "12", "--logdir", str(tmp_path), "--seed", "3"])
    assert sorted(path.name for path in folder.parent.iterdir()) == ["version_0", "version_1"]
    assert len(list(folder.glob("events.*"))) == 1


def test_ctrl_c_shows_what_there_is(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    example = load("two_phases")

    class Interrupted(Seq2SeqModule):
        def training_step(self, batch: dict, batch_idx: int) -> torch.Tensor:
            if self.global_step == 20:
                raise KeyboardInterrupt
            return super().training_step(batch, batch_idx)

    monkeypatch.setattr(example, "Seq2SeqModule", Interrupted)
    handler = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(SystemExit):
            example.main(["--steps", "40", "--logdir", str(tmp_path)])
    finally:
        signal.signal(signal.SIGINT, handler)  # which Lightning ignores from then on
    printed = capsys.readouterr().out
    assert "20 steps\n" in printed
    assert "phase one goes on" in printed
    assert list(tmp_path.rglob("two_phases.png"))
