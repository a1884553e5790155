"""Two sizes compared, at a tiny size."""

from __future__ import annotations

from pathlib import Path

import pytest
from example_files import load


def test_a_curve_for_each_width_and_key(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    example = load("model_size")
    arguments = ["--widths", "8", "12", "--seeds", "1", "--steps", "10", "--logdir", str(tmp_path)]
    comparison = example.main(arguments)
    assert comparison.labels == ["width 8", "width 12"]
    assert comparison.keys == list(example.KEYS)
    assert comparison.curve("effective_rank/encoder", "width 8").steps == (10,)
    assert (tmp_path / "model_size.png").stat().st_size > 10_000
    assert len(list(tmp_path.rglob("readings.csv"))) == 2
    assert f"{comparison.table('information/encoder')[1]['mean']:8.3f}" in capsys.readouterr().out
