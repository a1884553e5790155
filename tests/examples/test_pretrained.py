"""Layers of a finished model, at a tiny size."""

from __future__ import annotations

from pathlib import Path

import pytest
from example_files import load

pytest.importorskip("transformers")


def test_layers_of_a_random_model(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    example = load("pretrained")
    picture = tmp_path / "new" / "layers.png"
    found = example.main(["--sentences", "200", "--output", str(picture)])
    assert list(found) == ["0", "1", "2", "3", "4", "5"]
    assert all(list(row) == list(example.COLUMNS) for row in found.values())
    assert found["0"]["regularity by token"] > 0
    assert picture.stat().st_size > 10_000
    printed = capsys.readouterr().out
    assert "GPT-2 with random weights: 200 lines, " in printed
    assert f"{found['5']['curvature']:.4f}" in printed
    assert str(picture) in printed


def test_a_saved_model_on_lines_of_a_file(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    lines = [f"{first} {second} {third} ." for first in "abcd" for second in "efg" for third in "hi"]
    ids = {word: place for place, word in enumerate(["<unk>", *"abcdefghi."])}
    plain = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    plain.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=plain, unk_token="<unk>").save_pretrained(tmp_path / "model")
    shape = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=len(ids), **shape)).save_pretrained(tmp_path / "model")
    (tmp_path / "lines.txt").write_text("\n\n".join(lines))

    example = load("pretrained")
    arguments = ["--model", str(tmp_path / "model"), "--text", str(tmp_path / "lines.txt")]
    arguments += ["--output", str(tmp_path / "layers.png"), "--batch-size", "5"]
    assert list(example.main(arguments)) == ["0", "1"]
    assert "24 lines, 96 tokens" in capsys.readouterr().out
    assert list(example.main([*arguments, "--sites", "model.embed_tokens", "model.norm"])) == ["embed_tokens", "norm"]


def test_what_is_missing_is_said(capsys: pytest.CaptureFixture) -> None:
    example = load("pretrained")
    with pytest.raises(SystemExit):
        example.main(["--gguf-file", "model.gguf"])
    assert "--gguf-file needs --model" in capsys.readouterr().err
