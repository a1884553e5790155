"""The task spaces at a tiny size, run as a user would."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from example_files import load_study

from lightning_interp import Readings
from lightning_interp.models import small_gpt2
from lightning_interp.tasks import grammar_words
from lightning_interp.tasks.space import TaskSpaceResult

TINY = ["--steps", "12", "--middle", "8", "--sentences", "200", "--max-pairs", "4", "--tuning-steps", "1"]
TINY += ["--buckets", "256", "--layers", "1", "--no-progress", "--paradigms"]
TINY += ["agreement_simple", "agreement_auxiliary", "npi_ever", "npi_any"]


def test_tables_pictures_and_verdicts(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    example = load_study("task_space")
    (run,) = example.main([*TINY, "--sizes", "8", "--seed", "3", "--logdir", str(tmp_path)])
    assert [row["step"] for row in run.rows] == [10, 12]
    assert (run.size, run.seed) == (8, 3)
    assert sorted(run.methods) == sorted(example.METHODS)
    assert run.middle.names == run.end.names == TINY[-4:]
    assert not torch.equal(run.middle.matrices["margin_transfer"], run.end.matrices["margin_transfer"])
    folder = tmp_path / "task_space_width_8" / "seed_3"
    for name in ("end", "step_8"):
        assert (folder / f"{name}_heatmap.png").stat().st_size > 5_000
        assert (folder / f"{name}_map.png").stat().st_size > 5_000
    saved = TaskSpaceResult.load(folder / "end.npz")
    assert torch.equal(saved.matrices["margin_transfer"], run.end.matrices["margin_transfer"])
    printed = capsys.readouterr().out
    assert "R1 larger models generalise better and share more: not decidable (sizes: 1 of 3)" in printed
    for finding in ("R2", "R3", "R4", "R5"):
        (line,) = (line for line in printed.splitlines() if line.startswith(f"{finding} ") and "not decidable" in line)
        assert "seeds" in line
    assert "MB of memory" in printed


def test_verdicts_follow_from_the_numbers(tmp_path: Path) -> None:
    example = load_study("task_space")
    (run,) = example.main([*TINY, "--sizes", "8", "--logdir", str(tmp_path)])

    def made(size: int, seed: int, strength: float) -> object:
        """A run whose tasks of one phenomenon are the more alike, the stronger."""
        same = run.end.matrix("phenomenon")
        steps = torch.arange(16.0).view(4, 4) / 100
        near = strength * same + steps + steps.T + 0.001 * seed
        names = ("margin_transfer", "alignment_disattenuated", "alignment", "predicted_transfer")
        space = dataclasses.replace(run.end, matrices={**run.end.matrices, **dict.fromkeys(names, near)})
        rows = []
        for step in (1, 10, 100, 1000):
            row = {"step": float(step), "stability/previous": 0.9 + 0.01 * seed}
            for name in (example.RAW, example.CLEAN, example.ABOVE):
                row |= {f"{name}/within": strength * step * (1 + 0.1 * seed), f"{name}/between": 0.0}
            rows.append(row)
        tuned = {
            "ftgd": (0.4, 0.01),
            "fine_tuning": (0.4 + 0.01 * seed, 0.1 + 0.01 * seed),
            "shuffled": (0.01 * seed, 0.0),
        }
        methods = {name: example.Tuned(gain, gain, cost) for name, (gain, cost) in tuned.items()}
        return run._replace(size=size, seed=seed, rows=Readings(rows), middle=space, end=space, methods=methods)

    def judged(strengths: dict[int, float], seeds: int) -> list[str]:
        runs = [made(size, seed, strength) for size, strength in strengths.items() for seed in range(seeds)]
        return [one.verdict for one in example.verdicts(runs)]

    *rest, words = judged({8: 0.1, 16: 0.5, 32: 1.0}, 3)
    assert rest == ["confirmed"] * 4
    assert words in ("confirmed", "not confirmed")
    assert judged({8: 1.0, 16: 0.5, 32: 0.1}, 3)[0] == "not confirmed"
    assert judged({8: 0.1, 32: 1.0}, 3)[0] == "not decidable (sizes: 2 of 3)"
    assert judged({8: 0.1, 16: 0.5, 32: 1.0}, 2) == ["not decidable (seeds: 2 of 3)"] * 5


def test_a_pretrained_model_on_pairs_in_the_format_of_blimp(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    example = load_study("task_space")
    marks = ["<pad>", "<bos>", "<eos>", "<unk>"]
    ids = {word: place for place, word in enumerate([*marks, *grammar_words()])}
    plain = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    plain.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {f"{mark[1:-1]}_token": mark for mark in marks}
    PreTrainedTokenizerFast(tokenizer_object=plain, **special).save_pretrained(tmp_path / "model")
    small_gpt2(ids, 8, layers=1, heads=2).save_pretrained(tmp_path / "model")
    pairs = tmp_path / "pairs"
    pairs.mkdir()
    for task in example.grammar_tasks(6, paradigms=TINY[-4:]):
        shared = {"UID": task.name, "linguistics_term": task.phenomenon}
        rows = [{"sentence_good": good, "sentence_bad": bad, **shared} for good, bad in task.pairs]
        (pairs / f"{task.name}.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    arguments = ["--model", str(tmp_path / "model"), "--pairs", str(pairs), "--max-pairs", "4", "--buckets", "256"]
    space = example.main([*arguments, "--logdir", str(tmp_path), "--no-progress"])
    assert [record.pairs for record in space.records] == [4] * 4
    assert (tmp_path / "task_space_pretrained" / "space_heatmap.png").exists()
    printed = capsys.readouterr().out
    assert "npi_licensing                         2" in printed
    assert "Mantel, rank correlation (p)" in printed
    example.main([*arguments, "--phenomena", "npi_licensing", "--logdir", str(tmp_path), "--no-progress"])
    assert "undefined for 2 tasks: " in capsys.readouterr().out


def test_what_does_not_belong_together_is_said(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    example = load_study("task_space")
    with pytest.raises(SystemExit):
        example.main(["--model", "gpt2"])
    assert "--model and --pairs belong together" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        example.main(["--steps", "10", "--middle", "11"])
    assert "--middle 11 comes after the last of 10 steps" in capsys.readouterr().err
