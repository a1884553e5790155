"""One layer beside two: a few steps of both, and, slower, what the example says."""

from __future__ import annotations

from pathlib import Path

import pytest
from example_files import load
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from lightning_interp.models import small_gpt2


def test_what_it_prints_and_leaves(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    runs = load("induction").main(["--steps", "12", "--seed", "3", "--logdir", str(tmp_path)])
    assert list(runs) == ["1 layer, seed 3", "2 layers, seed 3"]
    printed = capsys.readouterr().out
    for name, (heads, phases) in runs.items():
        steps, best = heads.history.series("prefix_matching/max")
        assert steps == [1, 2, 3, 5, 7, 10, 12]
        assert max(best) < 0.1
        assert phases.current == 1
        assert f"{best[-1]:.2f}" in printed.split(f"\n{name}\n")[1]
        assert printed.count("no induction head; ") == 2
    folder = tmp_path / "layers_2_seed_3" / "version_0"
    assert (folder / "readings.csv").is_file()
    events = EventAccumulator(str(folder), {"tensors": 0}).Reload().Tags()["scalars"]
    assert {"prefix_matching/max", "icl_score", "attention_entropy/0", "phase/current"} <= set(events)
    assert {path.name for path in tmp_path.glob("*.png")} == {
        *("induction_heads.png", "induction_loss_by_position.png"),
        *("heads_prefix_matching.png", "heads_repeated_previous_token.png"),
    }


def test_a_finished_model(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    model = small_gpt2(range(300), 12, heads=3, length=128)
    model.save_pretrained(tmp_path)
    vocabulary = {f"<{place}>": place for place in range(300)}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<0>"))
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<0>").save_pretrained(tmp_path)
    assert load("induction").main(["--model", str(tmp_path)]) == {}
    printed = capsys.readouterr().out
    assert "prefix matching, the best of 6 heads: " in printed
    assert "heads above .3: 0.000\n" in printed
    assert "uniform attention: 0.031\n" in printed


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_two_layers_change_where_one_does_not(tmp_path: Path, seed: int) -> None:
    runs = load("induction").main(["--logdir", str(tmp_path), "--seed", str(seed)])
    heads, phases = runs[f"2 layers, seed {seed}"]
    begins, ends = phases.standing.boundaries
    formed = heads.reading["formed_step/prefix_matching"]
    assert begins.low < formed < ends.high
    assert begins.step < formed < ends.step
    _, score = heads.history.series("icl_score")
    _, best = heads.history.series("prefix_matching/max")
    first = next(at for at, value in enumerate(score) if value < -0.3)
    assert best[first] < 0.15, "the text moves before any head forms"
    bends = [10**knee for knee in phases.fit("val_loss").knees]
    assert any(90 < step < 160 for step in bends), "and the loss bends where heads form"
    heads, phases = runs[f"1 layer, seed {seed}"]
    assert heads.reading["prefix_matching/max"] < 0.15
    assert phases.current == 1
