"""The task space: what is logged, planted structure, untouched training, ranks, resuming, arguments."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import pytorch_lightning as pl
import torch
import torch.distributed as dist
from pytorch_lightning.loggers import TensorBoardLogger
from tasks.toy_lm import ToyLM
from torch import nn
from torch.utils.data import DataLoader

from lightning_interp import TaskSpace, analyze
from lightning_interp.language import encode_sentences, pad_right, sentence_log_probs
from lightning_interp.tasks import Task, WordTokenizer, generate_corpus, grammar_tasks, grammar_words
from tests.toy import timeless, trainer

WORDS = WordTokenizer(grammar_words())
CORPUS = encode_sentences(WORDS, [line for line in generate_corpus(200) if len(line.split()) < 20])
TASKS = grammar_tasks(
    pairs=8, paradigms=["agreement_simple", "agreement_auxiliary", "anaphor_number", "anaphor_gender", "npi_ever"]
)
SMALL: dict[str, Any] = {"buckets": 1024, "permutations": 99, "model": "lm"}


class LanguageModel(pl.LightningModule):
    def __init__(self, lr: float = 1e-2) -> None:
        super().__init__()
        self.lr = lr
        self.lm = ToyLM(len(WORDS), length=32)
        self.lm.unused.requires_grad_(False)  # DDP waits for every gradient
        self.tokenizer = WORDS

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], batch_idx: int) -> torch.Tensor:
        return -sentence_log_probs(self.lm, *batch).mean()

    def validation_step(self, batch: tuple[torch.Tensor, torch.Tensor], batch_idx: int) -> None:
        self.log("val_loss", -sentence_log_probs(self.lm, *batch).mean(), sync_dist=True, batch_size=len(batch[0]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=self.lr)


def sentences(number: int = 48, **kwargs: Any) -> DataLoader:
    return DataLoader(CORPUS[:number], batch_size=8, collate_fn=pad_right, **kwargs)


def fit(folder: Path, callbacks: list[pl.Callback], model: pl.LightningModule, **kwargs: Any) -> pl.Trainer:
    pl.seed_everything(3, verbose=False)
    run = trainer(folder, callbacks, **kwargs)
    run.fit(model, sentences(shuffle=True), sentences(16), ckpt_path=kwargs.pop("ckpt_path", None))
    return run


def test_every_key_is_logged_where_it_is_defined(tmp_path: Path) -> None:
    callback, model = TaskSpace(TASKS, log="full", **SMALL), LanguageModel()
    run = fit(tmp_path, [callback], model, logger=TensorBoardLogger(tmp_path), max_epochs=3)
    keys = callback.logged_keys(model)
    assert set(keys) <= set(run.callback_metrics)
    assert "alignment/within/embedding" in keys
    assert "alignment/between/<group>" in callback.logged_keys()
    first, *later = callback.history.readings
    assert set(keys) - set(first.values) == {"stability/previous", "stability/first"}
    assert all(set(keys) == set(reading.values) for reading in later)
    assert later[0].values["stability/previous"] == later[0].values["stability/first"] < 1
    values, matrices = callback.reading, callback.matrices
    alignment = matrices["alignment"]
    phenomena = [task.phenomenon for task in TASKS]
    within = [alignment[i, j] for i in range(5) for j in range(i) if phenomena[i] == phenomena[j]]
    assert values["alignment/within"] == pytest.approx(float(sum(within) / len(within)))
    assert values["phenomenon_accuracy/anaphor_agreement"] == pytest.approx(float(matrices["accuracy"][2:4].mean()))
    assert values["overlap_above_null/between"] == pytest.approx(
        values["overlap/between"] - values["overlap_null/between"], abs=1e-6
    )
    torch.testing.assert_close(callback.alignments[-1][1], alignment.float())
    assert [step for step, _ in callback.alignments] == [6, 12, 18]
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(next(tmp_path.rglob("events*")).parent), size_guidance={"images": 0})
    events.Reload()
    assert set(keys) <= set(events.Tags()["scalars"])
    assert {"tasks/alignment", "tasks/map", "tasks/curves"} <= set(events.Tags()["images"])


def test_margins_and_alignment_are_those_of_whole_gradients(tmp_path: Path) -> None:
    from lightning_interp.functional import cosine_matrix
    from lightning_interp.tasks.differential import gradient_differential
    from lightning_interp.tasks.scoring import Scorer

    model = LanguageModel()
    found = analyze(model, sentences(8), TaskSpace(TASKS, **{**SMALL, "buckets": 1 << 20}))
    gradients = []
    for task in TASKS:
        ids = encode_sentences(WORDS, [one for pair in task.pairs for one in pair])
        whole = gradient_differential(model.lm, list(zip(ids[::2], ids[1::2], strict=True)))
        gradients.append(torch.cat([one.flatten() for one in whole.values()]))
        margins = Scorer(model.lm, WORDS).score_task(task)
        assert found[f"task_margin/{task.name}"] == pytest.approx(float(margins.mean()), abs=1e-5)
    exact = cosine_matrix(torch.stack(gradients))
    assert found["alignment/within"] == pytest.approx(float((exact[0, 1] + exact[2, 3]) / 2), abs=2e-3)
    assert "stability/previous" not in found


# ------------------------------------------------- planted structure

NAMES = [["liam", "noah", "omar"], ["emma", "mia", "ada"], ["king", "queen", "monk"]]
RULES = {"first": ("red", "blue"), "second": ("hot", "cold"), "third": ("up", "down")}
PLANTED = WordTokenizer([word for words in (*NAMES, *RULES.values()) for word in words] + ["sees", "likes"])


def planted(by_rule: bool) -> list[Task]:
    """Each rule with each set of names: tasks of one rule share no name, tasks with the same names no rule."""
    tasks = []
    for rule, (good, bad) in RULES.items():
        for place, names in enumerate(NAMES):
            pairs = [
                (f"{one} {verb} {two} {good}", f"{one} {verb} {two} {bad}")
                for one in names
                for two in names
                for verb in ("sees", "likes")
            ]
            tasks.append(Task(f"{rule}_{place}", rule if by_rule else f"names_{place}", tuple(pairs)))
    return tasks


def test_tasks_that_share_a_rule_align_and_those_that_share_words_do_not() -> None:
    model = ToyLM(len(PLANTED), length=8)
    model.embedding.weight.data.mul_(0.5)
    found = {
        by_rule: analyze(
            model, [torch.ones(2, 4, dtype=torch.long)], TaskSpace(planted(by_rule), PLANTED, buckets=16_384)
        )
        for by_rule in (True, False)
    }
    assert found[True]["alignment/within"] > found[True]["alignment/between"] + 0.3
    assert found[True]["overlap_above_null/within"] > found[True]["overlap_above_null/between"] + 0.1
    assert found[True]["agreement_p/phenomena"] < 0.01
    assert found[True]["agreement_p/phenomena_given_words"] < 0.01
    assert found[False]["alignment/within"] < found[True]["alignment/within"] - 0.3
    assert found[False]["agreement_p/phenomena"] > 0.1
    assert found[False]["agreement_p/phenomena_given_words"] > 0.1


def test_general_text_as_the_null() -> None:
    model, batches = LanguageModel(), sentences(8)
    text = generate_corpus(16, seed=5)
    one, other = (
        analyze(model, batches, TaskSpace(TASKS, log="full", null=null, **SMALL)) for null in ("swapped", text)
    )
    assert other["overlap/within"] == one["overlap/within"]
    assert 0 < other["overlap_null/within"] != one["overlap_null/within"]


# ------------------------------------------------- training


def left_behind(folder: Path, callbacks: list[pl.Callback], **kwargs: Any) -> list[Any]:
    model = LanguageModel()
    run = fit(folder, callbacks, model, **kwargs)
    moments = [value for state in run.optimizers[0].state_dict()["state"].values() for value in state.values()]
    return [
        *(value.tolist() for value in (*model.state_dict().values(), *moments)),
        [parameter.grad is None for parameter in model.parameters()],
        [module.training for module in model.modules()],
        torch.get_rng_state().tolist(),
    ]


def test_training_is_bit_identical(tmp_path: Path) -> None:
    plain = left_behind(tmp_path, [])
    assert left_behind(tmp_path, [TaskSpace(TASKS, **SMALL)]) == plain


def trained_on_ranks(watched: bool) -> list[Any]:
    with tempfile.TemporaryDirectory() as folder:
        chosen = [TaskSpace(TASKS, **SMALL, draw_figures=False)] if watched else []
        return left_behind(Path(folder), chosen, strategy="ddp", devices=2)


def test_training_on_two_ranks_is_bit_identical(two_ranks: Any) -> None:
    assert two_ranks.run(trained_on_ranks, True) == two_ranks.run(trained_on_ranks, False)


def readings(strategy: str) -> tuple[dict[str, float], list[Any], list[str]]:
    callback = TaskSpace(TASKS, **SMALL, log="full", null=generate_corpus(9, seed=5), draw_figures=False)
    world = dist.get_world_size() if dist.is_initialized() else 1
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        # The learning rate is zero: how the data are split must not change what the model computes.
        fit(Path(folder), [callback], LanguageModel(lr=0.0), strategy=strategy, devices=world)
        told = [str(one.message) for one in caught if "TaskSpace" in str(one.message) or "/within" in str(one.message)]
    values = {key: value for key, value in callback.reading.items() if "seconds" not in key}
    return values, [matrix.tolist() for matrix in callback.matrices.values()], told


def test_ranks_read_what_one_process_reads(ranks: Any) -> None:
    alone = readings("auto")
    assert alone[0]["stability/previous"] == pytest.approx(1.0)
    for values, matrices, told in ranks.run(readings, "ddp"):
        assert not told, told
        assert values == pytest.approx(alone[0], abs=1e-6)
        for one, other in zip(matrices, alone[1], strict=True):
            torch.testing.assert_close(torch.tensor(one), torch.tensor(other), atol=1e-6, rtol=1e-6, equal_nan=True)


def test_a_resumed_run_has_the_readings_of_one_that_was_not_stopped(tmp_path: Path) -> None:
    def callbacks(folder: str) -> list[pl.Callback]:
        keep = pl.callbacks.ModelCheckpoint(tmp_path / folder, save_last=True)
        return [TaskSpace(TASKS, **SMALL, draw_figures=False), keep]

    def run(chosen: list[pl.Callback], epochs: int, path: Path | None = None) -> None:
        pl.seed_everything(3, verbose=False)
        going = trainer(tmp_path, chosen, max_epochs=epochs, enable_checkpointing=True)
        going.fit(LanguageModel(), sentences(), sentences(16), ckpt_path=path)

    # ToyLM has dropout, whose random state a checkpoint does not hold.
    dropout = nn.Dropout.forward
    nn.Dropout.forward = lambda self, x: x
    try:
        whole, first, second = callbacks("whole"), callbacks("first"), callbacks("second")
        run(whole, 4)
        run(first, 2)
        last = tmp_path / "first" / "last.ckpt"
        torch.load(last, weights_only=True)
        run(second, 4, last)
    finally:
        nn.Dropout.forward = dropout
    assert timeless(second[0]) == timeless(whole[0])
    assert [step for step, _ in second[0].alignments] == [6, 12, 18, 24]
    for (_, one), (_, other) in zip(whole[0].alignments, second[0].alignments, strict=True):
        assert torch.equal(one, other)


def test_validate_reads_and_keeps_no_history(tmp_path: Path) -> None:
    callback, model = TaskSpace(TASKS, **SMALL, draw_figures=False), LanguageModel()
    run = fit(tmp_path, [callback], model)
    kept, last = len(callback.alignments), dict(callback.reading)
    run.validate(model, sentences(16), verbose=False)
    assert len(callback.alignments) == kept == 2
    assert "stability/first" in last
    assert "stability/first" not in callback.reading
    assert callback.reading["alignment/within"] == pytest.approx(last["alignment/within"], abs=1e-6)


# ------------------------------------------------- arguments

BAD: list[tuple[dict[str, Any], str]] = [
    ({"max_pairs": 1}, "`max_pairs` must be at least 2, got 1"),
    ({"fraction": 0.0}, "`fraction` must lie above 0 and not above 1, got 0.0"),
    ({"null": "text"}, "`null` must be 'swapped' or sentences of general text, got 'text'"),
    ({"null": ["one"]}, "`null` must have at least 8 sentences, got 1"),
    ({"tasks": "no/such/file"}, "`tasks` is 'no/such/file'; it must be 'grammar', a path that exists"),
    ({"tasks": "lightning_interp.tasks.no_such"}, "the dotted name of a function that can be imported"),
    ({"tasks": TASKS[:1]}, r"`tasks` must have at least 2 tasks to compare, got \['agreement_simple'\]"),
    ({"tasks": ["agreement", "binding"]}, "`tasks` must hold Task objects, got str"),
    ({"tasks": [TASKS[0], TASKS[0]]}, "more than one task named 'agreement_simple'"),
    ({"tasks": [*TASKS, Task("mean", "x", TASKS[0].pairs)]}, "a task named 'mean'"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD)
def test_bad_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TaskSpace(**{"tasks": TASKS, **arguments})


UNFIT: list[tuple[dict[str, Any], str]] = [
    ({"model": "gpt"}, r"`model` is 'gpt', but LanguageModel has no such module; it has \['lm'\]"),
    (
        {"tokenizer": "lm.width"},
        "`tokenizer` is 'lm.width', which is neither 'grammar' nor an attribute of LanguageModel",
    ),
    ({"tokenizer": "lr"}, "`tokenizer` is 'lr', and that attribute is a float"),
    (
        {"tokenizer": WordTokenizer(["the"])},
        "gives the same ids to both sentences of a pair of task 'agreement_simple'",
    ),
]


@pytest.mark.parametrize(("arguments", "message"), UNFIT)
def test_what_does_not_fit_the_model_stops_the_run_before_it_starts(
    tmp_path: Path, arguments: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    transformers = pytest.importorskip("transformers")
    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", mock.Mock(side_effect=OSError("no such name")))
    model = LanguageModel()
    with pytest.raises(ValueError, match=message):
        fit(tmp_path, [TaskSpace(**{"tasks": TASKS, **SMALL, **arguments})], model)
    assert model.global_step == 0


def as_table(folder: Path) -> Path:
    table = folder / "pairs.csv"
    rows = [f"{task.name},{task.phenomenon},{good},{bad}" for task in TASKS for good, bad in task.pairs]
    table.write_text("\n".join(["task,phenomenon,good,bad", *rows]))
    return table


def test_tasks_from_a_table_a_function_and_the_grammar(tmp_path: Path) -> None:
    table = as_table(tmp_path)
    assert (
        TaskSpace(str(table)).tasks
        == TaskSpace(table).tasks
        == TaskSpace(TASKS).tasks
        == TaskSpace(lambda: TASKS).tasks
        == TASKS
    )
    assert len(TaskSpace("grammar").tasks) == len(TaskSpace("lightning_interp.tasks.grammar_tasks").tasks) == 30
    drawn = TaskSpace(TASKS, max_pairs=4).tasks
    assert all(len(task) == 4 and set(task.pairs) < set(TASKS[i].pairs) for i, task in enumerate(drawn))
    assert drawn == TaskSpace(TASKS[::-1], max_pairs=4).tasks[::-1]


CONFIG = """
callback:
  class_path: lightning_interp.TaskSpace
  init_args: {tasks: %s, tokenizer: grammar, model: lm, max_pairs: 4, groups: false}
"""


@pytest.mark.parametrize("source", ["grammar", "lightning_interp.tasks.grammar_tasks", "a table"])
def test_a_yaml_file_holds_the_arguments(tmp_path: Path, source: str) -> None:
    jsonargparse = pytest.importorskip("jsonargparse")
    if source == "a table":
        source = str(as_table(tmp_path))
    parser = jsonargparse.ArgumentParser()
    # As in a Trainer of LightningCLI.
    parser.add_class_arguments(Holder, sub_configs=True)
    printed = parser.dump(parser.parse_string(CONFIG % source))
    config = parser.parse_string(printed)
    callback = (parser.instantiate if hasattr(parser, "instantiate") else parser.instantiate_classes)(config).callback
    assert "tokenizer: grammar" in printed
    assert {len(task) for task in callback.tasks} == {4}
    callback.resolve(LanguageModel())
    callback.release()


class Holder:
    def __init__(self, callback: pl.Callback) -> None:
        self.callback = callback


def test_shared_pairs_are_left_out_with_a_warning() -> None:
    doubled = Task("twin", "npi_licensing", (*TASKS[0].pairs[:2], *grammar_tasks(4, paradigms=["npi_any"])[0].pairs))
    with pytest.warns(UserWarning, match="TaskSpace left out 4 pairs that several tasks have"):
        callback = TaskSpace([TASKS[0], doubled])
    assert [len(task) for task in callback.tasks] == [6, 4]


def test_keys_that_the_tasks_leave_undefined_are_not_listed() -> None:
    keys = TaskSpace(TASKS[:2]).logged_keys()
    assert "alignment/within" in keys
    assert not [key for key in keys if "between" in key or key.startswith(("agreement", "stability"))]


def test_a_broken_task_is_left_out_and_counted(tmp_path: Path) -> None:
    def forward(model: nn.Module, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        # The word "ever" breaks the model.
        bad = (ids == WORDS.encode("ever", add_special_tokens=False)[0]).any(1)
        return model(ids) * torch.where(bad, torch.nan, 1.0)[:, None, None]

    callback = TaskSpace(TASKS, **SMALL, forward=forward)
    with pytest.warns(UserWarning, match="cannot be told"):
        run = fit(tmp_path, [callback], LanguageModel())
    assert callback.failed == 0
    assert callback.reading["nonfinite/tasks"] == run.callback_metrics["nonfinite/tasks"] == 1
    assert callback.matrices["alignment"].isnan().any(1).sum() == 5
    assert callback.matrices["alignment"].isfinite().sum() == 16
    assert "phenomenon_accuracy/npi_licensing" not in callback.reading
    assert 0 < callback.reading["agreement_p/phenomena"] <= 1
    assert -1 <= callback.reading["stability/first"] <= 1
    for draw in callback.figures().values():
        draw()


def test_sentences_start_with_the_token_that_is_asked_for() -> None:
    model = LanguageModel()
    found = []
    for start in ({}, {"add_bos": False}, {"bos_token_id": 3}):
        callback = TaskSpace(TASKS, **SMALL, **start)
        callback.resolve(model)
        found.append([ids.tolist() for ids in callback.gradients.pairs[0][0]])
    own, none, other = found
    for with_own, without, with_other in zip(own, none, other, strict=True):
        assert with_own[1:] == without == with_other[1:]
        assert with_own[0] != with_other[0] == 3
