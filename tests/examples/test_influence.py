"""Sources of training data and wrong labels: what the example prints, leaves and says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from example_files import load


def test_what_it_prints_and_leaves(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    rows, said = load("influence").main(["--steps", "6", "--logdir", str(tmp_path)])
    assert rows.steps() == [2, 3, 4, 5, 6]
    assert said.startswith("of the 20 examples with most self-influence ")
    out = capsys.readouterr().out
    last = out.split("\n     6")[1].split("\n")[0]
    for key in ("val_loss", "source_influence/clean/validation", "flag_auroc/self_influence", "flag_auroc/loss"):
        assert f"{rows.last(key):.2f}" in last, key
    assert {path.name for path in tmp_path.rglob("*.png")} >= {"influence.png", "misread.png"}
    for kind in ("proponents", "opponents"):
        (line,) = re.findall(rf"^{kind}: (.*)$", out, re.MULTILINE)
        assert all(re.fullmatch(r"\d (clean|random|shifted)( \(wrong\))?", one) for one in line.split(", ")), line
        assert line.count(", ") == 4
    assert (tmp_path / "seed_0" / "version_0" / "readings.csv").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", [["SGD", "0.15"], ["AdamW", "0.002"]])
@pytest.mark.parametrize("seed", range(3))
def test_clean_data_help_random_labels_harm_and_wrong_ones_are_found(
    tmp_path: Path, seed: int, optimizer: list[str]
) -> None:
    kind, rate = optimizer
    arguments = ["--logdir", str(tmp_path), "--seed", str(seed), "--optimizer", kind, "--rate", rate]
    rows, said = load("influence").main(arguments)
    clean, dealt, chance = (
        rows.series(f"source_influence{name}/validation")[1] for name in ("/clean", "/random", "_control/clean")
    )
    assert min(clean) > 0.7
    assert dealt[0] > 0
    assert min(dealt) < -0.3
    assert min(chance) < -0.2
    for score in ("self_influence", "loss"):
        assert rows.last(f"flag_auroc/{score}") > 0.9
        assert abs(rows.last(f"flag_auroc_control/{score}") - 0.5) < 0.05
    assert int(said.split("self-influence ")[1].split()[0]) >= 17
