"""The configuration file, cut short."""

from __future__ import annotations

from pathlib import Path

import pytest
from example_files import EXAMPLES, load

pytest.importorskip("jsonargparse")


def test_the_file_trains_and_what_it_names_is_read(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    readings = load("cli/main").main(
        [
            "fit",
            f"--config={EXAMPLES / 'cli' / 'config.yaml'}",
            f"--trainer.logger.init_args.save_dir={tmp_path}",
            "--trainer.max_steps=12",
            "--trainer.enable_progress_bar=false",
        ]
    )
    assert readings.steps() == [10, 11, 12]
    folder = tmp_path / "cli" / "version_0"
    assert (folder / "config.yaml").exists()
    assert (folder / "readings.csv").exists()
    printed = capsys.readouterr().out
    assert f"{readings.last('under_noise/input/val_loss'):.4f}" in printed
    assert "regularity_above_chance/encoder/bigram" in printed
    assert "phase one goes on: val_loss has too few readings" in printed
    assert f"tensorboard --logdir {folder}" in printed
