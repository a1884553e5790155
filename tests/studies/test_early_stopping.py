"""The comparison of three ways to stop over seeds."""

from __future__ import annotations

from pathlib import Path

import pytest
from example_files import load_study


@pytest.mark.slow
def test_the_table_has_a_row_for_each_rule(
    capsys: pytest.CaptureFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    study = load_study("early_stopping")
    stops = study.main(["--steps", "33", "--seeds", "2", "--seed", "4"])
    assert [(stop.seed, stop.rule, stop.steps) for stop in stops] == [
        (seed, rule, 33) for seed in (4, 5) for rule in study.RULES
    ]
    printed = capsys.readouterr().out
    assert "| robustness | 33 ± 0 | " in printed
    assert printed.count("not stopped") == 6


def test_the_table_gives_means_intervals_and_what_was_lost() -> None:
    example = load_study("early_stopping")
    stops = [
        example.Stop(seed, rule, steps, 1.0, outside, 1.0, "")
        for rule, ends in {
            "loss": [(700, 0.5), (900, 0.6)],
            "robustness": [(1500, 0.8), (1700, 0.8)],
            "never": [(4000, 0.8), (4000, 0.9)],
        }.items()
        for seed, (steps, outside) in enumerate(ends)
    ]
    table = example.summary(stops)
    # Half the interval of two values that differ by d is 12.706 · d / 2.
    assert "| loss | 800 ± 1271 | 1.000 ± 0.000 | 0.550 ± 0.635 | 0.300 ± 0.000 |" in table
    assert "| robustness | 1600 ± 1271 | 1.000 ± 0.000 | 0.800 ± 0.000 | 0.050 ± 0.635 |" in table
    assert "| never | 4000 ± 0 | 1.000 ± 0.000 | 0.850 ± 0.635 |  |" in table
