"""The space of tasks at a tiny size."""

from __future__ import annotations

from pathlib import Path

import pytest
from example_files import load

pytest.importorskip("transformers")


def test_readings_and_the_space_at_the_end(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    tiny = ["--steps", "12", "--width", "8", "--sentences", "200", "--pairs", "4", "--tuning-steps", "1"]
    paradigms = ["agreement_simple", "agreement_auxiliary", "npi_ever", "npi_any"]
    readings, space = load("task_space").main([*tiny, "--paradigms", *paradigms, "--logdir", str(tmp_path)])
    assert readings.steps() == [10, 12]
    assert space.names == paradigms
    for kind in ("heatmap", "map"):
        assert (tmp_path / "version_0" / f"{kind}.png").stat().st_size > 5_000
    printed = capsys.readouterr().out
    assert f"{readings.last('task_accuracy/mean'):.3f}" in printed
    assert "transfer goes with phenomena, given words: " in printed
