"""The main job over recipes and seeds: tiny runs, and the summary of readings whose answer is known."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest
from example_files import load_study

from lightning_interp import Readings


def test_delays_are_counted_in_readings(capsys: pytest.CaptureFixture) -> None:
    example = load_study("two_phases")
    rows = [{"step": float(step)} for step in (10, 20, 30, 40, 50, 60)]
    runs = [
        example.Run(Readings(rows), "", 25.0, 40, 60),
        example.Run(Readings(rows), "", 25.0, 50, None),
        example.Run(Readings(rows), "", None, None, None),
    ]
    assert example.delays(runs)[1:] == [
        "  began    25  provisional    40 (reading 2)  confirmed    60 (reading 4)",
        "  began    25  provisional    50 (reading 3)",
        "  none",
        "  median of readings until it was known: provisional 2.5, confirmed 4",
    ]


@pytest.mark.slow
def test_several_seeds_are_summarised(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    runs = load_study("two_phases").main(["--steps", "12", "--seeds", "2", "--logdir", str(tmp_path)])
    assert len(runs) == 2
    assert runs[0].rows.series("information/encoder") != runs[1].rows.series("information/encoder")
    printed = capsys.readouterr().out
    assert "mean ± sd over 2 seeds" in printed
    assert "reached in 0 of 2 runs" in printed


def test_a_changed_recipe_has_its_own_folder(tmp_path: Path) -> None:
    example = load_study("two_phases")
    example.main(["--steps", "10", "--dropout", "0", "--weight-decay", "0.5", "--logdir", str(tmp_path)])
    assert (tmp_path / "two_phases_grammar_dropout_0_decay_0.5" / "seed_0" / "version_0" / "readings.csv").exists()


def test_the_summary_follows_phase_two() -> None:
    example = load_study("two_phases")

    def run(late: float) -> NamedTuple:
        rows = []
        for step, inside, outside in ((10, 0.0, 0.0), (100, 1.0, 0.85), (1000, 1.0, late), (2000, 1.0, 0.9)):
            task = {example.IN_DISTRIBUTION: inside, example.OUT_OF_DISTRIBUTION: outside}
            rows.append({"step": step, **dict.fromkeys(example.CHANGES.values(), step / 1000), **task})
        return example.Run(Readings(rows), f"phase two began at {late}", 100.0, None, None)

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
    (run,) = load_study("two_phases").main(["--dataset", "scan", "--steps", "10", "--logdir", str(tmp_path)])
    assert run.rows.series("regularity/encoder/token")[1][0] > 0


def test_a_missing_folder_is_said(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        load_study("two_phases").main(["--dataset", "cogs", "--logdir", str(tmp_path)])
    assert "needs --data-dir" in capsys.readouterr().err
