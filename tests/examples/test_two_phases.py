"""The main job at a tiny size, run as a user would, and its event file read back."""

from __future__ import annotations

import csv
import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_interp.models import Seq2SeqModule

EXAMPLES = Path(__file__).parents[2] / "examples"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_event_file_table_and_picture(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    example = load("two_phases")
    (rows,) = example.main(["--steps", "40", "--logdir", str(tmp_path), "--seed", "3"])
    assert [row["step"] for row in rows] == [10, 13, 16, 20, 25, 32, 40]
    folder = tmp_path / "two_phases_grammar" / "seed_3"
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    model = Seq2SeqModule(8, 8)
    keys = [key for reader in example.make_readers() for key in reader.logged_keys(model)]
    task = [f"{name}/dataloader_idx_{index}" for name in ("val_loss", "val_acc") for index in (0, 1)]
    assert len(keys) > 20
    for key in [*keys, *task]:
        logged = [event.value for event in events.Scalars(key)]
        assert logged == pytest.approx([row[key] for row in rows], rel=1e-6), key
    assert len(events.Scalars("train_loss")) == 4
    assert "structure/token" in events.Tags()["images"]
    with open(folder / "readings.csv") as file:
        assert [float(line["information/encoder"]) for line in csv.DictReader(file)] == [
            row["information/encoder"] for row in rows
        ]
    assert (folder / "two_phases.png").stat().st_size > 20_000
    printed = capsys.readouterr().out
    assert f"tensorboard --logdir {tmp_path}" in printed
    assert f"{rows[-1]['information/encoder']:.4f}" in printed


def test_several_seeds_are_summarised(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    runs = load("two_phases").main(["--steps", "12", "--seeds", "2", "--logdir", str(tmp_path)])
    assert len(runs) == 2
    assert runs[0][0]["information/encoder"] != runs[1][0]["information/encoder"]
    printed = capsys.readouterr().out
    assert "mean ± sd over 2 seeds" in printed
    assert "reached in 0 of 2 runs" in printed


def test_the_summary_follows_phase_two() -> None:
    example = load("two_phases")

    def run(late: float) -> list[dict[str, float]]:
        rows = []
        for step, inside, outside in ((10, 0.0, 0.0), (100, 1.0, 0.5), (1000, 1.0, late), (2000, 1.0, 0.9)):
            task = {example.IN_DISTRIBUTION: inside, example.OUT_OF_DISTRIBUTION: outside}
            rows.append({"step": step, **dict.fromkeys(example.CHANGES.values(), step / 1000), **task})
        return rows

    printed = example.summary([run(0.6), run(0.89)])
    assert "reached in 2 of 2 runs, at steps [100, 100]" in printed
    assert "within .02 of its best at steps [2000, 1000]" in printed
    assert "+0.4000 ± 0.0000" in printed  # out of distribution
    assert "+1.9000 ± 0.0000   rises in 2 of 2" in printed


def test_scan(tmp_path: Path) -> None:
    (rows,) = load("two_phases").main(["--dataset", "scan", "--steps", "10", "--logdir", str(tmp_path)])
    assert rows[0]["regularity/encoder/token"] > 0


def test_a_missing_folder_is_said(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        load("two_phases").main(["--dataset", "cogs", "--logdir", str(tmp_path)])
    assert "needs --data-dir" in capsys.readouterr().err
