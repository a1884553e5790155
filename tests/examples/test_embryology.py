"""What becomes readable when, at a tiny size; and its rules on readings whose answer is known."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import ModuleType

import pytest
from example_files import load

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
    return load("embryology")


def test_two_seeds(example: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    runs = example.main([*TINY, "--places", "40", "--seeds", "2", "--logdir", str(tmp_path)])
    assert [run.seed for run in runs] == [0, 1]
    assert [row["step"] for row in runs[0].rows] == [1, 6, 8]
    groups = {one.group for one in runs[0].found.values()}
    assert groups == {"words", "phenomena", "relations", "probes", "shape"}
    assert {"NOUN", "NAME", "binding", "pet", "tree distance", "truth", "shape of layer_2"} <= set(runs[0].found)
    assert {kind.title for kind in example.KINDS if not example.labels_of(kind, runs[0].rows)} == set()
    pairs = runs[0].found["binding"]
    assert pairs.chance == 0.5
    assert pairs.baseline == runs[0].rows[0]["pairs_accuracy/binding"]
    trees = runs[0].found["tree distance"]
    assert trees.curve.final == runs[0].rows[-1][f"uuas/{trees.site}"]
    assert trees.baseline == max(
        runs[0].rows[-1][f"uuas_baseline/{site}"] for site in ("embedding", "layer_1", "layer_2")
    )
    assert runs[0].rows[-1]["cka/layer_2/last"] == pytest.approx(1)
    assert runs[0].rows != runs[1].rows
    for name in ("embryology.png", "order.png", "seed_0/embryology.png", "seed_1/embryology.png"):
        assert (tmp_path / name).stat().st_size > 10_000
    printed = capsys.readouterr().out
    assert "seed 1: when 90 % of the final rise was reached" in printed
    assert "phenomena: Kendall's W" in printed


def rows_of(values: dict[str, list[float]], steps: tuple[int, ...] = (1, 10, 100, 1000)) -> list[dict[str, float]]:
    return [{"step": step} | {key: of[place] for key, of in values.items()} for place, step in enumerate(steps)]


def test_what_is_learned_and_forgotten(example: ModuleType) -> None:
    words = example.KINDS[0]
    rows = rows_of(
        {
            "class_accuracy/lm/mean": [0.0, 0.9, 0.9, 0.9, 0.9, 0.9],
            "class_accuracy/lm/NOUN": [0.0, 0.1, 0.8, 0.8, 0.8, 0.8],
            "class_accuracy/lm/DET": [0.1, 0.9, 0.9, 0.9, 0.9, 0.9],
            "class_accuracy/lm/ADJ": [0.20, 0.21, 0.22, 0.23, 0.23, 0.24],
            "class_accuracy/lm/NAME": [0.0, 0.9, 0.9, 0.9, 0.1, 0.0],
            "class_loss/lm/DET": [3.0, 2.0, 1.0, 0.0, 0.0, 0.0],
        },
        (1, 10, 100, 1000, 2000, 3000),
    )
    found = example.judged(words, rows)
    assert list(found) == ["NOUN", "DET", "ADJ", "NAME"]
    assert found["DET"].curve.acquired.high == 10
    # 90 % of the rise above the first reading: .1 + .9 × .8.
    assert found["DET"].baseline == 0.1
    assert found["NOUN"].curve.acquired.low == 10 < found["NOUN"].curve.acquired.high == 100
    assert not found["ADJ"].learned
    assert math.isnan(found["ADJ"].curve.acquired.step)
    assert [name for name, one in found.items() if one.forgotten] == ["NAME"]


def test_the_best_site_is_held_against_the_best_of_random_weights(example: ModuleType) -> None:
    (trees,) = [kind for kind in example.KINDS if kind.thing == "tree distance"]
    rows = rows_of(
        {
            "uuas/a": [0.5, 0.5, 0.5, 0.5],
            "uuas/b": [0.4, 0.6, 0.8, 0.8],
            "uuas_above_chain/a": [0.1] * 4,
            "uuas_above_chain/b": [0.0, 0.2, 0.4, 0.4],
            "uuas_baseline/a": [0.6] * 4,
            "uuas_baseline/b": [0.3] * 4,
        }
    )
    one = example.judged(trees, rows)["tree distance"]
    assert (one.site, one.baseline, one.chance) == ("b", 0.6, pytest.approx(0.4))
    assert one.curve.acquired.high == 100


def test_a_probe_is_held_against_dealt_labels_and_not_against_the_most_frequent_one(example: ModuleType) -> None:
    (tags,) = [kind for kind in example.KINDS if kind.thing == "part of speech"]
    rows = rows_of(
        {
            "probe_accuracy/a/pos": [0.2, 0.3, 0.5, 0.5],
            "probe_chance/a/pos": [0.25] * 4,
            "probe_majority/a/pos": [0.6] * 4,
            "probe_baseline/a/pos": [0.2] * 4,
        }
    )
    one = example.judged(tags, rows)["part of speech"]
    assert one.chance == 0.25
    assert one.learned
    assert one.curve.acquired.high == 100


def test_facts_are_held_against_what_knows_how_common_answers_are(example: ModuleType) -> None:
    (facts,) = [kind for kind in example.KINDS if kind.group == "relations"]
    levels = {"cloze_majority/pet": [0.2] * 4, "cloze_frequency/pet": [0.5] * 4, "cloze_chance/pet": [0.25] * 4}
    one = example.judged(facts, rows_of({"cloze_accuracy/pet": [0.25, 0.4, 0.52, 0.52]} | levels))["pet"]
    assert one.chance == 0.5
    assert not one.learned


def test_orders_that_agree_and_one_that_is_never_learned(example: ModuleType) -> None:
    runs = []
    for seed in range(3):
        at = {"DET": 1, "NOUN": 2, "VERB": 3, "ADJ": 9}
        curves = {
            f"class_accuracy/lm/{name}": [0.9 * (place >= first) for place in range(5)] for name, first in at.items()
        }
        rows = rows_of(curves, (1, 10, 100, 1000, 10_000))
        runs.append(example.Run(seed, rows, example.judged(example.KINDS[0], rows)))
    printed = example.over_seeds(runs)
    assert "words: Kendall's W 1.00 (p = 0.0" in printed
    order = [line.split()[0] for line in printed.splitlines() if line.startswith("  ") and line.split()[0].isupper()]
    assert order == ["DET", "NOUN", "VERB", "ADJ"]
    never = next(line for line in printed.splitlines() if "ADJ" in line)
    assert "4.0 ± 0.0" in never
    assert never.endswith("0, 0")
    assert "not there" in example.table(runs[0])


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
    probes = {name for name, one in run.found.items() if one.group == "probes"}
    # AUROC of confidence is undefined where no prediction is right.
    assert probes - {"confidence"} == {"part of speech", "tree distance", *(["coordinates", "truth"] if cities else [])}
    assert {"band_1", "band_4", "agreement" if cities else "binding", "shape of embedding"} <= set(run.found)
    tags = run.found["part of speech"]
    assert tags.chance == run.rows[-1][f"probe_chance/{tags.site}/pos"]
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
