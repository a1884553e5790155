"""Fine-tuning a transformers model, at a tiny size."""

from __future__ import annotations

from pathlib import Path

import pytest
from example_files import load

from lightning_interp.reading.history import read_rows, read_settings

pytest.importorskip("transformers")

TINY = ["--steps", "12", "--held-out", "40", "--batch-size", "8", "--lr", "0.003"]


def test_a_small_model_learns_grammar_layer_by_layer(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    example = load("finetune")
    found = example.main([*TINY, "--sentences", "240", "--pretrain", "12", "--logdir", str(tmp_path)])
    assert list(found) == ["0", "1", "2", "3"]
    for before, after in found.values():
        assert list(before) == list(after) == list(example.COLUMNS)
        assert before != after
    rows = read_rows(tmp_path / "version_0" / "readings.csv")
    assert [row["step"] for row in rows][-1] == 12
    assert rows[-1]["val_loss"] < rows[0]["val_loss"]
    assert "under_noise/embedding/val_loss" in rows[-1]
    assert read_settings(tmp_path / "version_0" / "readings.csv")["seed"] == "0"
    names = {path.parent.name: path.read_text().split() for path in tmp_path.rglob("metadata.tsv")}
    assert len(names) == 4
    assert all(set(words) <= set(example.grammar_words()) | {"<eos>"} for words in names.values())
    printed = capsys.readouterr().out
    assert f"{found['3'][0]['information']:.3f} → {found['3'][1]['information']:.3f}" in printed
    assert str(tmp_path / "version_0" / "readings.csv") in printed


def test_a_saved_model_on_lines_of_a_file(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    lines = [f"{first} {second} {third} ." for first in "abcdefgh" for second in "efgh" for third in "hij"]
    ids = {word: place for place, word in enumerate(["<unk>", *"abcdefghij."])}
    plain = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    plain.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=plain, unk_token="<unk>").save_pretrained(tmp_path / "model")
    shape = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=len(ids), **shape)).save_pretrained(tmp_path / "model")
    (tmp_path / "lines.txt").write_text("\n\n".join(lines))
    weights = (tmp_path / "model" / "model.safetensors").read_bytes()

    example = load("finetune")
    arguments = [*TINY, "--model", str(tmp_path / "model"), "--text", str(tmp_path / "lines.txt")]
    found = example.main([*arguments, "--length", "3", "--logdir", str(tmp_path / "logs")])
    assert list(found) == ["0", "1"]
    [words] = {path.read_text() for path in tmp_path.rglob("metadata.tsv")}
    # Of three tokens a line the first is skipped; the full stop, the fourth, is cut off.
    assert set(words.split()) <= set("efghij")
    assert (tmp_path / "model" / "model.safetensors").read_bytes() == weights


def test_text_needs_a_model(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        load("finetune").main(["--text", str(tmp_path / "lines.txt")])
    assert "--text needs --model" in capsys.readouterr().err
