"""A module that knows nothing of the callbacks, at a tiny size."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from example_files import load


def test_last_readings_and_where_the_curves_are(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    example = load("own_module")
    last = example.main(["--epochs", "2", "--examples", "200", "--logdir", str(tmp_path)])
    assert {
        "information/encoder",
        "regularity_above_chance/encoder/token",
        "regularity_above_chance/encoder/class",
        "effective_rank/encoder",
        "under_noise/encoder/val_acc",
    } <= set(last)
    folder = tmp_path / "own_module" / "version_0"
    with open(folder / "readings.csv") as file:
        lines = list(csv.DictReader(file))
    assert [line["step"] for line in lines] == ["4", "8"]
    assert float(lines[-1]["information/encoder"]) == pytest.approx(last["information/encoder"], rel=1e-6)
    assert list(folder.glob("events.*"))
    printed = capsys.readouterr().out
    assert f"tensorboard --logdir {tmp_path / 'own_module'}" in printed
    assert str(folder / "readings.csv") in printed
    assert f"{last['effective_rank/encoder']:.4f}" in printed


def test_not_turns_the_next_word_round() -> None:
    example = load("own_module")
    for words, label in example.reviews(50, seed=3):
        spelled = [example.WORDS[word] for word in words]
        signs = [
            ((word in example.GOOD) - (word in example.BAD)) * (-1 if before == "not" else 1)
            for before, word in zip(["", *spelled], spelled, strict=False)
        ]
        assert (sum(signs) > 0) == bool(label)
