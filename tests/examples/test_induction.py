"""One layer beside two, a few steps long."""

from __future__ import annotations

from pathlib import Path

import pytest
from example_files import load


def test_one_column_a_run(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    example = load("induction")
    runs = example.main(["--steps", "12", "--seed", "3", "--seeds", "2", "--logdir", str(tmp_path)])
    assert list(runs) == [f"layers_{layers}_seed_{seed}" for seed in (3, 4) for layers in (1, 2)]
    printed = capsys.readouterr().out
    for name, phases in runs.items():
        steps, losses = phases.series("val_loss")
        assert steps == [1, 2, 3, 5, 7, 10, 12]
        assert 4 < losses[-1] < losses[0] < 4.6
        assert (tmp_path / name / "version_0" / "readings.csv").is_file()
    header, *lines = example.table(runs).splitlines()
    assert header.split() == ["step", *runs]
    assert lines[-1].split() == ["12", *(f"{phases.series('val_loss')[1][-1]:.2f}" for phases in runs.values())]
    assert "\n".join([header, *lines]) in printed


@pytest.mark.slow
def test_two_layers_bend_where_one_goes_on(tmp_path: Path) -> None:
    runs = load("induction").main(["--logdir", str(tmp_path)])
    losses = {layers: dict(zip(*runs[f"layers_{layers}_seed_0"].series("val_loss"), strict=True)) for layers in (1, 2)}
    assert losses[2][100] > 3.7
    assert losses[2][260] < 2.2
    assert losses[1][260] > 3.7
