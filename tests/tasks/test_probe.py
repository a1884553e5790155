"""The task space of a finished model: what was planted is found, and the model is left alone."""

from __future__ import annotations

import json
import math
import random
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from tasks.toy_lm import ToyLM
from torch import nn

from lightning_interp.language import encode_sentences, pad_right
from lightning_interp.models import small_gpt2
from lightning_interp.tasks import (
    Task,
    WordTokenizer,
    generate_corpus,
    grammar_tasks,
    grammar_words,
    load_causal_lm,
    task_space,
)
from lightning_interp.tasks.space import TaskRecord, TaskSpaceResult
from lightning_interp.tasks.transfer import transfer_probe

PARADIGMS = [
    *("agreement_simple", "agreement_auxiliary", "agreement_prepositional"),
    *("npi_ever", "npi_any", "intransitive", "transitive", "determiner_noun_1", "determiner_noun_2"),
]


def letters(sentence: str) -> list[int]:
    return [ord(letter) - 96 for letter in sentence]


def planted(per_phenomenon: int = 3, pairs: int = 7) -> list[Task]:
    """After x comes y, not z, in all tasks of a phenomenon: a row of a bigram table is all that they are about."""
    draw = random.Random(0)
    tasks = []
    for phenomenon in "abc":
        for number in range(per_phenomenon):
            starts = {"".join(draw.choices("ghijklmnop", k=4)) for _ in range(3 * pairs)}
            chosen = sorted(starts)[:pairs]
            found = tuple((f"{start}{phenomenon}y", f"{start}{phenomenon}z") for start in chosen)
            tasks.append(Task(f"{phenomenon}{number}", phenomenon, found))
    return tasks


def bigrams() -> nn.Module:
    table = 0.1 * torch.randn(27, 27, generator=torch.Generator().manual_seed(0))
    return nn.Embedding.from_pretrained(table, freeze=False)


@pytest.fixture(scope="module")
def small() -> tuple[nn.Module, WordTokenizer]:
    """A GPT-2 that has begun to learn the grammar."""
    words = WordTokenizer(grammar_words())
    torch.manual_seed(0)
    model = small_gpt2(words, 32, heads=2, dropout=0.1)
    ids = encode_sentences(words, generate_corpus(6400))
    optimizer = torch.optim.AdamW(model.parameters(), 4e-3)
    for start in range(0, len(ids), 32):
        batch, mask = pad_right(ids[start : start + 32])
        optimizer.zero_grad()
        model(batch, attention_mask=mask, labels=batch.masked_fill(mask == 0, -100)).loss.backward()
        optimizer.step()
    optimizer.zero_grad()
    return model.train(), words


def quick(**changes: object) -> TaskSpaceResult:
    arguments = {"buckets": 512, "fraction": 2 / 729, "progress": False}
    return task_space(bigrams(), planted(), letters, **{**arguments, **changes})


def test_planted_structure_is_in_the_gradients() -> None:
    space = quick()
    assert space.phenomena == ["a"] * 3 + ["b"] * 3 + ["c"] * 3
    within, between = space.within_between("alignment")
    assert (within, between) == pytest.approx((1, 0), abs=1e-6)
    assert space.within_between("alignment_disattenuated") == pytest.approx((1, 0), abs=1e-6)
    assert space.within_between("overlap") == (1, 0)
    found = space.test("phenomenon")
    # Not 1: what is 1 and what is 0 has ranks of its own by rounding.
    assert found.statistic > 0.7
    assert found.p < 0.01
    # Removing the mean leaves three directions at 120°.
    assert space.within_between("alignment_centred").between == pytest.approx(-0.5, abs=1e-6)


def test_planted_structure_is_in_the_transfers() -> None:
    space = quick(method="transfer", tuning={"max_steps": 4, "step_gain": 0.01})
    transfer = space.matrices["margin_transfer"]
    same = space.matrix("phenomenon").bool()
    assert bool((transfer[same] > 0).all())
    assert bool((transfer[~same] == 0).all())
    # A bigram table's margin is linear in its weights, so the first order is all there is.
    torch.testing.assert_close(space.matrices["predicted_transfer"], transfer, rtol=1e-4, atol=1e-5)
    assert space.link().across > 0.5
    assert space.test().p < 0.01
    for record in space.records:
        assert (record.pairs, record.tested, record.reliability) == (3, 4, None)
        assert (record.tuning.stopped_by, record.tuning.steps, record.tuning.entries) == ("steps", 4, 2)
        assert record.tuning.margin > record.margin
        assert math.isnan(record.tuning.perplexity_change)


def test_predicted_and_measured_transfers_agree_in_a_small_model(small: tuple[nn.Module, WordTokenizer]) -> None:
    model, words = small
    tasks = grammar_tasks(48, paradigms=PARADIGMS)
    space = task_space(model, tasks, words, "both", tuning={"max_steps": 5}, buckets=8192, progress=False)
    own = space.matrices["margin_transfer"].diagonal()
    assert int((own > 0).sum()) >= 8
    assert float(own.mean()) > 1
    link = space.link()
    assert min(link.across, link.within_rows, link.alignment) > 0.3
    assert space.groups == ["embedding", "layers.0", "layers.1", "other"]
    assert bool((space.matrices["overlap"].diagonal() == 1).all())
    torch.testing.assert_close(
        space.matrices["overlap_above"], space.matrices["overlap"] - space.matrices["overlap_null"]
    )
    assert float(space.margins.mean()) == pytest.approx(float(np.mean([one.margin for one in space.records])))


def test_swapped_pairs_have_no_structure() -> None:
    """With good and bad exchanged in half of the pairs, nothing is left that tasks could share."""
    tasks = planted(pairs=8)
    swapped = [
        Task(
            task.name, task.phenomenon, tuple(pair[:: 1 if place < 4 else -1] for place, pair in enumerate(task.pairs))
        )
        for task in tasks
    ]
    space = task_space(ToyLM(vocabulary=27), swapped, letters, buckets=512, progress=False)
    honest = task_space(ToyLM(vocabulary=27), tasks, letters, buckets=512, progress=False)
    assert honest.test(permutations=999).p < 0.01 < 0.05 < space.test(permutations=999).p
    assert float(np.mean([one.reliability for one in honest.records])) > 0.8
    assert float(np.mean([one.reliability for one in space.records])) < 0.3


@pytest.mark.parametrize("method", ["gradient", "both"])
def test_the_model_is_the_same_bits_afterwards(method: str) -> None:
    model = ToyLM(vocabulary=27).train()
    model.norm.eval()
    model.mix.weight.grad = torch.ones_like(model.mix.weight)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    streams = torch.random.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    with torch.inference_mode():
        task_space(model, planted(), letters, method, tuning={"max_steps": 2} if method == "both" else None, buckets=64)
    assert [name for name, value in model.state_dict().items() if not torch.equal(value, before[name])] == []
    assert (model.training, model.norm.training) == (True, False)
    assert [name for name, one in model.named_parameters() if one.grad is not None] == ["mix.weight"]
    assert torch.equal(torch.random.get_rng_state(), streams[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == streams[1:]


def test_an_error_in_the_middle_restores_the_weights() -> None:
    model = bigrams()
    before = model.weight.detach().clone()
    tasks, calls = planted(), []

    def forward(one: nn.Module, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        if len(calls) > 12:
            raise RuntimeError("enough")
        return one(ids)

    with pytest.raises(RuntimeError, match="enough"):
        task_space(model, tasks, letters, "transfer", forward=forward, progress=False)
    assert torch.equal(model.weight, before)


def test_ordinary_fine_tuning_has_no_prediction() -> None:
    space = quick(method="transfer", tuning={"max_steps": 1, "method": "fine_tuning"})
    assert "predicted_transfer" not in space.matrices
    assert bool((space.matrices["margin_transfer"].diagonal() > 0).all())


def same(one: TaskSpaceResult, other: TaskSpaceResult) -> bool:
    equal = {
        name: torch.equal(one.matrices[name].nan_to_num(9), other.matrices[name].nan_to_num(9)) for name in one.matrices
    }
    return (
        repr(one.records) == repr(other.records) and list(one.matrices) == list(other.matrices) and all(equal.values())
    )


def test_a_seed_gives_one_result() -> None:
    tuning = {"max_steps": 2, "batch_size": 2}
    found = [quick(method="both", tuning=tuning, max_pairs=6, seed=seed) for seed in (3, 3, 4)]
    assert same(found[0], found[1])
    assert found[0].settings == found[1].settings
    assert not same(found[0], found[2])


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    space = quick(method="both", tuning={"max_steps": 1})
    path = space.save(tmp_path / "space.npz")
    again = TaskSpaceResult.load(path)
    assert same(space, again)
    assert again.settings == space.settings
    assert again.names == space.names
    with np.load(path, allow_pickle=False) as archive:
        assert archive["margin_transfer"].shape == (9, 9)
    with zipfile.ZipFile(path) as archive:
        assert json.loads(archive.read("settings.json"))["settings"]["seed"] == 0


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", a=np.zeros(2))
    (tmp_path / "text.npz").write_text("text")
    for name in ("other.npz", "text.npz"):
        with pytest.raises(ValueError, match=f"`path` is .*{name}.*which `TaskSpaceResult.save` did not write"):
            TaskSpaceResult.load(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        TaskSpaceResult.load(tmp_path / "missing.npz")


def test_shared_pairs_are_removed_first() -> None:
    tasks = planted()
    tasks[1] = Task("a1", "a", (*tasks[1].pairs, tasks[0].pairs[0]))
    space = task_space(bigrams(), tasks, letters, buckets=64, progress=False)
    assert space.settings["shared_pairs_removed"] == 2
    assert [record.pairs for record in space.records[:3]] == [6, 7, 7]


def test_pictures_and_tables() -> None:
    space = quick(method="both", tuning={"max_steps": 1})
    for matrix in (None, "alignment", "overlap_above", "alignment/other"):
        figures = space.plot(matrix)
        assert sorted(figures) == ["heatmap", "map"]
    assert figures["map"].axes[0].get_title() == "tasks by their alignment/other"
    text = space.summary()
    assert all(name in text for name in (*space.names, "margin_transfer", "stopped by"))
    assert repr(space).startswith("TaskSpaceResult(9 tasks of 3 phenomena, matrices: alignment,")


def test_tasks_without_a_value_are_named_and_can_be_left_out() -> None:
    matrix = torch.rand(5, 5, generator=torch.Generator().manual_seed(0))
    matrix[3] = matrix[:, 3] = math.nan
    records = [TaskRecord(f"t{place}", "ab"[place % 2], 4, 4, 0.5, 0.0) for place in range(5)]
    space = TaskSpaceResult(records, {"alignment": matrix}, {})
    with pytest.raises(ValueError, match=r"'alignment' has NaN in the rows of \['t3'\].*select"):
        space.test()
    assert space.known() == ["t0", "t1", "t2", "t4"]
    rest = space.select(space.known())
    assert -1 <= rest.test(permutations=9).statistic <= 1
    assert rest.matrix()[3, 0] == matrix[4, 0]
    assert len(space.plot()) == 2
    with pytest.raises(ValueError, match=r"'t9', which is no task; available: \['t0'"):
        space.select(["t9"])
    with pytest.raises(ValueError, match=r"no matrix 'margin'; available: \['alignment', 'phenomenon'\]"):
        space.matrix("margin")
    with pytest.raises(ValueError, match="no matrix 'predicted_transfer'"):
        space.link()


def test_what_does_not_fit_is_said() -> None:
    model, tasks = bigrams(), planted()
    with pytest.raises(ValueError, match="`method` must be 'gradient', 'transfer' or 'both', got 'grad'"):
        task_space(model, tasks, letters, "grad")
    with pytest.raises(ValueError, match=r"`tasks` must be at least two, got \['a0'\]"):
        task_space(model, tasks[:1], letters)
    with pytest.raises(ValueError, match="`max_pairs` must be at least 2, got 1"):
        task_space(model, tasks, letters, max_pairs=1)
    with pytest.raises(ValueError, match="`tuning` belongs to method='transfer' or 'both'"):
        task_space(model, tasks, letters, tuning={"max_steps": 1})
    with pytest.raises(ValueError, match="`tuning` has 'fraction'; give it as an argument of its own"):
        task_space(model, tasks, letters, "both", tuning={"fraction": 0.1})
    with pytest.raises(ValueError, match="`tokenizer` is None, but `model` is a Embedding: give the tokenizer itself"):
        task_space(model, tasks)
    with pytest.raises(ValueError, match=r"`gguf_file` is 'a.gguf', but `model` is a Embedding"):
        task_space(model, tasks, letters, gguf_file="a.gguf")
    with pytest.raises(ValueError, match=r"task 'a0' has 1 pair\(s\) to read"):
        task_space(model, tasks, letters, "both", max_pairs=2)
    with pytest.raises(
        ValueError, match=r"`tokenizer` gives both sentences of a pair of task 'a0' the same ids, '.{4}ay'"
    ):
        task_space(model, tasks, lambda sentence: [1] * len(sentence))
    with pytest.raises(ValueError, match="`method` must be one of 'ftgd'"):
        task_space(model, tasks, letters, "transfer", tuning={"method": "adam"})
    with pytest.raises(ValueError, match="`tuned_on` and `held_out` must be the same tasks"):
        transfer_probe(model, tasks, tasks[1:], letters)
    record = TaskRecord("a", "a", 2, 2, 0.5, 0.0)
    with pytest.raises(ValueError, match="each with a name of its own"):
        TaskSpaceResult([record, record], {}, {})
    with pytest.raises(ValueError, match=r"'alignment' of shape \(2, 2\); for 1 tasks"):
        TaskSpaceResult([record], {"alignment": torch.zeros(2, 2)}, {})


def test_progress_is_shown_on_request(capsys: pytest.CaptureFixture) -> None:
    quick(max_pairs=2)
    assert capsys.readouterr().err == ""
    quick(method="both", max_pairs=4, tuning={"max_steps": 1}, progress=True)
    shown = capsys.readouterr().err
    assert "gradients: 100%" in shown
    assert "tuning: 100%" in shown


def test_a_model_by_name_is_loaded(small: tuple[nn.Module, WordTokenizer], tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    model, words = small
    ids = {"<pad>": 0, "<bos>": 1, "<eos>": 2, "<unk>": 3}
    ids |= {word: words.encode(word, add_special_tokens=False)[0] for word in grammar_words()}
    plain = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    plain.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=plain, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>", unk_token="<unk>"
    )
    fast.save_pretrained(tmp_path)
    model.save_pretrained(tmp_path)
    tasks = grammar_tasks(4, paradigms=PARADIGMS[:3])
    options = {"buckets": 512, "sample": 1000, "progress": False}
    found, given = task_space(tmp_path, tasks, **options), task_space(model, tasks, words, **options)
    torch.testing.assert_close(found.matrices["alignment"], given.matrices["alignment"])
    assert found.settings["model"] == str(tmp_path)
    own = task_space(str(tmp_path), tasks, words, **options)
    torch.testing.assert_close(own.matrices["alignment"], given.matrices["alignment"])


def test_without_transformers_a_name_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match=r"`model` is the name 'gpt2', .*lightning-interp\[transformers\]"):
        load_causal_lm("gpt2")


def test_a_transfer_says_which_task_was_tuned_on() -> None:
    records = [TaskRecord(name, name, 4, 4, 0.5, 0.0) for name in "abc"]
    matrix = torch.rand(3, 3, generator=torch.Generator().manual_seed(0))
    space = TaskSpaceResult(records, {"margin_transfer": matrix, "lexical": matrix}, {})
    axes = {name: space.plot(name)["heatmap"].axes[0] for name in space.matrices}
    assert (axes["margin_transfer"].get_ylabel(), axes["margin_transfer"].get_xlabel()) == (
        "task tuned on",
        "task scored",
    )
    assert (axes["lexical"].get_ylabel(), axes["lexical"].get_xlabel()) == ("", "")
