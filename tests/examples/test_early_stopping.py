"""Three ways to stop, at a tiny size."""

from __future__ import annotations

from pathlib import Path

import pytest
from example_files import load


def test_each_rule_trains(capsys: pytest.CaptureFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    example = load("early_stopping")
    stops = example.main(["--steps", "33", "--seed", "4"])
    assert [(stop.seed, stop.rule, stop.steps) for stop in stops] == [(4, rule, 33) for rule in example.RULES]
    # Whatever watches it, the training is the same.
    assert len({stop[3:5] for stop in stops}) == 1
    assert capsys.readouterr().out.count("not stopped") == 3
    assert not list(tmp_path.iterdir())


def test_the_usual_rule_stops_where_the_loss_stops_improving() -> None:
    example = load("early_stopping")
    (stopping,) = example.rule_callbacks("loss")
    assert (stopping.monitor, stopping.mode, stopping.patience) == ("val_loss/dataloader_idx_0", "min", 3)
    assert example.rule_callbacks("never") == []
