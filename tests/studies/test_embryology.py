"""What becomes readable when, at a tiny size."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest
from example_files import load_study

pytest.importorskip("transformers")

TINY = [
    "--lr",
    "0.02",
    "--steps",
    "8",
    "--width",
    "16",
    "--layers",
    "2",
    "--sentences",
    "30",
    "--pairs",
    "2",
    "--people",
    "4",
]


@pytest.fixture(scope="module")
def example() -> ModuleType:
    return load_study("embryology")


@pytest.mark.slow
def test_two_seeds(example: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    runs = example.main([*TINY, "--places", "40", "--seeds", "2", "--logdir", str(tmp_path)])
    assert [run.seed for run in runs] == [0, 1]
    readings, things = runs[0].readings, runs[0].order.things
    assert readings.steps() == [1, 6, 8]
    assert list(runs[0].order.groups) == ["words", "phenomena", "relations", "probes", "shape"]
    assert {"NOUN", "NAME", "binding", "pet", "tree distance", "truth, mass_mean", "shape of layer_2"} <= set(things)
    assert all(example.keys_of(kind, readings) for kind in example.WATCHED)
    pairs = things["binding"]
    assert pairs.chance == 0.5
    assert pairs.baseline == readings.series("pairs_accuracy/binding")[1][0]
    trees = things["tree distance"]
    assert trees.curve.final == readings.last(f"uuas/{trees.site}")
    assert trees.baseline == max(readings.last(f"uuas_baseline/{site}") for site in ("embedding", "layer_1", "layer_2"))
    assert readings.last("cka/layer_2/last") == pytest.approx(1)
    assert list(example.lines_of(example.KINDS[3], runs[0])) == ["embedding", "layer_1", "layer_2"]
    assert list(readings) != list(runs[1].readings)
    for name in ("embryology.png", "order.png", "seed_0/embryology.png", "seed_1/embryology.png"):
        assert (tmp_path / name).stat().st_size > 10_000
    printed = capsys.readouterr().out
    assert "seed 1: when 90 % of the final rise was reached" in printed
    assert "phenomena: Kendall's W" in printed


@pytest.mark.parametrize("cities", [False, True])
def test_a_saved_model_on_lines_of_a_file(
    example: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cities: bool
) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    from lightning_interp.probing.treebank import grammar_treebank
    from lightning_interp.tasks import grammar_words

    treebank = grammar_treebank(40, seed=3)
    names = [f"{first}{second}" for first in "ABCDEF" for second in "abcde"]
    ids = {word: place for place, word in enumerate(["<unk>", "<pad>", *grammar_words(), *names, "<s>"])}
    plain = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    plain.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=plain, unk_token="<unk>", pad_token="<pad>", bos_token="<s>")
    tokenizer.save_pretrained(tmp_path / "model")
    shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=len(ids), **shape)).save_pretrained(tmp_path / "model")
    (tmp_path / "lines.txt").write_text("\n\n".join(map(str, treebank)))
    rows = [
        "".join(
            f"{place + 1}\t{word}\t_\t{tag}\t_\t_\t{head + 1}\t_\t_\t_\n"
            for place, (word, tag, head) in enumerate(zip(one.words, one.tags, one.heads, strict=True))
        )
        for one in treebank
    ]
    (tmp_path / "trees.conllu").write_text("\n".join(rows))
    pair = {"sentence_good": "the king sleeps .", "sentence_bad": "the king sleep .", "UID": "agreement_1"}
    (tmp_path / "agreement_1.jsonl").write_text(json.dumps(pair | {"linguistics_term": "agreement", "field": "x"}))
    if cities:
        from lightning_interp.probing import fact_statements, planted_facts, planted_places

        monkeypatch.setattr(example, "city_entities", lambda: planted_places(40))
        monkeypatch.setattr(example, "world_statements", lambda: fact_statements(planted_facts(topics=3, subjects=6)))
    monkeypatch.setattr(example.importlib.util, "find_spec", lambda name: object() if cities else None)

    files = ["--data", str(tmp_path / "lines.txt"), "--conllu", str(tmp_path / "trees.conllu")]
    arguments = [
        "--model",
        str(tmp_path / "model"),
        *files,
        "--lr",
        "0.02",
        "--steps",
        "8",
        "--pairs",
        "2",
        "--logdir",
        str(tmp_path),
    ]
    (run,) = example.main([*arguments, *(["--blimp", str(tmp_path / "agreement_1.jsonl")] if cities else [])])
    probes = set(run.order.groups["probes"])
    # AUROC of confidence is undefined where no prediction is right.
    assert probes - {"confidence"} == {"pos", "tree distance", *(["coordinates", "truth, mass_mean"] if cities else [])}
    assert {"band_1", "band_4", "agreement" if cities else "binding", "shape of embedding"} <= set(run.order.things)
    tags = run.order.things["pos"]
    assert tags.chance == run.readings.last(f"probe_chance/{tags.site}/pos")
    assert (tmp_path / "seed_0" / "embryology.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "gpt2"], "--model and --data go together"),
        (["--conllu", "ud.conllu"], "--blimp and --conllu need --model"),
    ],
)
def test_what_does_not_go_together(
    example: ModuleType, arguments: list[str], message: str, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit):
        example.main(arguments)
    assert message in capsys.readouterr().err
