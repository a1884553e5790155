"""New facts in a small model: what the example prints, leaves and says."""

from __future__ import annotations

from pathlib import Path

import pytest
from example_files import load

pytest.importorskip("transformers")


def test_what_it_prints_and_leaves(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    rows, said = load("facts").main(["--steps", "3", "--tuning", "3", "--logdir", str(tmp_path)])
    assert rows.steps() == [1, 2, 3]
    assert said.startswith("not stopped: fact_success_local was most at step ")
    printed = capsys.readouterr().out
    assert said in printed
    assert f"{rows.last('fact_locality'):.2f}" in printed.split("\n     3")[1].split("\n")[0]
    assert {path.name for path in tmp_path.rglob("*.png")} >= {"facts_followed.png", "trace_blocks.png"}
    assert (tmp_path / "seed_0" / "version_0" / "readings.csv").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_new_facts_are_learned_and_the_gate_stops_where_others_change(tmp_path: Path, seed: int) -> None:
    rows, said = load("facts").main(["--logdir", str(tmp_path), "--seed", str(seed)])
    steps, success = rows.series("fact_success/facts")
    assert said.startswith(f"stopped at step {steps[-1]}: fact_success_local was most at step ")
    assert success[0] < 0.5 < success[-1]
    locality, both = rows.series("fact_locality")[1], rows.series("fact_success_local")[1]
    assert locality[0] == 1
    assert locality[-1] < 0.9
    assert both[-1] == 0
    assert all((one == 0) == (stay < 0.9 or told == 0) for one, stay, told in zip(both, locality, success, strict=True))
    assert rows.series("fact_paraphrase")[1][-1] > rows.series("fact_paraphrase")[1][0]
    assert rows.last("trace_facts/old") >= 4
