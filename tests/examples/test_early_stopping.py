"""The comparison of three ways to stop, at a tiny size."""

from __future__ import annotations

from pathlib import Path

import pytest
from example_files import load


@pytest.mark.parametrize("seeds", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_each_rule_trains_and_the_table_has_a_row_each(
    capsys: pytest.CaptureFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seeds: int
) -> None:
    monkeypatch.chdir(tmp_path)
    example = load("early_stopping")
    stops = example.main(["--steps", "33", "--seeds", str(seeds), "--seed", "4"])
    chosen = range(4, 4 + seeds)
    assert [(stop.seed, stop.rule, stop.steps) for stop in stops] == [
        (seed, rule, 33) for seed in chosen for rule in example.RULES
    ]
    for seed in chosen:
        # Whatever watches it, the training is the same.
        assert len({stop[3:5] for stop in stops if stop.seed == seed}) == 1
    printed = capsys.readouterr().out
    assert ("| robustness | 33 ± 0 | " in printed) == (seeds > 1)
    assert printed.count("not stopped") == 3 * seeds
    assert not list(tmp_path.iterdir())


def test_the_usual_rule_stops_where_the_loss_stops_improving() -> None:
    example = load("early_stopping")
    (stopping,) = example.rule_callbacks("loss")
    assert (stopping.monitor, stopping.mode, stopping.patience) == ("val_loss/dataloader_idx_0", "min", 3)
    assert example.rule_callbacks("never") == []


def test_the_table_gives_means_intervals_and_what_was_lost() -> None:
    example = load("early_stopping")
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
