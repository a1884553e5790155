"""Minimal pairs: planted accuracies, models of transformers, untouched training, ranks, resuming, arguments."""

from __future__ import annotations

import math
import tempfile
import warnings
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import torch.distributed as dist
from pytorch_lightning.loggers import TensorBoardLogger
from tasks.test_scoring import bert, gpt2
from tasks.toy_lm import ToyLM
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_interp import MinimalPairs, TaskSpace, analyze
from lightning_interp.functional import binomial_se
from lightning_interp.language import encode_sentences, pad_right, sentence_log_probs
from lightning_interp.tasks import Scorer, Task, WordTokenizer, grammar_tasks, grammar_words
from tests.toy import timeless, trainer

WORDS = WordTokenizer(grammar_words())
TASKS = grammar_tasks(pairs=12, paradigms=["agreement_simple", "agreement_auxiliary", "anaphor_number", "npi_ever"])
CORPUS = encode_sentences(WORDS, [good for task in TASKS for good, _ in task.pairs])


class LanguageModel(pl.LightningModule):
    def __init__(self, lr: float = 1e-2) -> None:
        super().__init__()
        self.lr = lr
        self.lm = ToyLM(len(WORDS), length=32)
        self.lm.unused.requires_grad_(False)  # DDP waits for every gradient
        self.tokenizer = WORDS

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return -sentence_log_probs(self.lm, *batch).mean()

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.log("val_loss", -sentence_log_probs(self.lm, *batch).mean(), sync_dist=True, batch_size=len(batch[0]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=self.lr)


def sentences(number: int = 48, **kwargs: Any) -> DataLoader:
    return DataLoader(CORPUS[:number], batch_size=8, collate_fn=pad_right, **kwargs)


def fit(folder: Path, callbacks: list[pl.Callback], model: pl.LightningModule, **kwargs: Any) -> pl.Trainer:
    pl.seed_everything(3, verbose=False)
    path = kwargs.pop("ckpt_path", None)
    run = trainer(folder, callbacks, **kwargs)
    run.fit(model, sentences(shuffle=True), sentences(16), ckpt_path=path)
    return run


# ------------------------------------------------- what is logged


def test_every_key_is_logged_and_is_what_a_scorer_says(tmp_path: Path) -> None:
    callback, model = MinimalPairs(TASKS, model="lm", log="full", standard_errors=True), LanguageModel()
    other = TaskSpace(TASKS, model="lm", buckets=256, permutations=9)  # no key in common
    run = fit(tmp_path, [callback, other], model, logger=TensorBoardLogger(tmp_path), max_epochs=3)
    keys, conditional = callback.logged_keys(model), callback.conditional_keys(model)
    assert keys == callback.logged_keys()
    assert set(keys) - set(conditional) <= set(run.callback_metrics)
    assert {"pairs_accuracy/npi_licensing/npi_ever", "pairs_accuracy/npi_licensing/se"} <= set(keys)
    values = callback.reading
    found = {}
    for task in TASKS:
        margins = Scorer(model.lm, WORDS).score_task(task)
        found[task.name] = Scorer(model.lm, WORDS).accuracy(task)
        name = f"{task.phenomenon}/{task.name}"
        assert values[f"pairs_margin/{name}"] == pytest.approx(float(margins.mean()), abs=1e-5)
        assert values[f"pairs_accuracy/{name}"] == found[task.name]
    agreement = [found["agreement_simple"], found["agreement_auxiliary"]]
    assert values["pairs_accuracy/subject_verb_agreement"] == pytest.approx(sum(agreement) / 2)
    assert values["pairs_accuracy/mean"] == pytest.approx(sum(found.values()) / 4)
    assert values["pairs_accuracy/subject_verb_agreement/se"] == pytest.approx(binomial_se(agreement, [12, 12]))
    assert values["nonfinite/pairs"] == 0
    assert len(callback.summary().splitlines()) == 1 + 3
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(next(tmp_path.rglob("events*")).parent), size_guidance={"images": 0})
    events.Reload()
    assert {"pairs/accuracy", "pairs/order"} <= set(events.Tags()["images"])


def test_pairs_that_come_several_times_count_once_in_standard_errors() -> None:
    pairs = [(f"he {number}", f"him {number}") for number in range(24)]
    scores = torch.tensor([-1.0 if number % 3 else -3.0 for number in range(24)], dtype=torch.float64)
    both = torch.stack([scores, torch.full_like(scores, -2.0)], 1)
    found = []
    for times in (1, 4):
        tasks = [Task("one", "a", tuple(pairs * times)), Task("other", "b", tuple(pairs))]
        callback = MinimalPairs(tasks, WORDS, standard_errors=True)
        found.append(callback.from_scores(torch.cat([*[both] * times, both]).flatten()))
    assert found[0]["pairs_accuracy/a"] == found[1]["pairs_accuracy/a"] == 16 / 24
    for name in ("a", "b", "mean"):
        assert found[1][f"pairs_accuracy/{name}/se"] == pytest.approx(found[0][f"pairs_accuracy/{name}/se"], rel=1e-12)
    assert found[0]["pairs_accuracy/a/se"] == binomial_se([16 / 24], [24])


# ------------------------------------------------- planted

NUMBER = 10
SCRIPT = {"early": [2, 8, 9, 10, 10, 10], "late": [5, 5, 5, 6, 7, 10], "lost": [3, 9, 10, 9, 4, 5]}
"""Pairs right at steps 1 to 6, of ten."""
PLANTED = [
    Task(name, name, tuple((f"{name}{pair} good", f"{name}{pair} bad") for pair in range(NUMBER))) for name in SCRIPT
]
NAMES = WordTokenizer(["good", "bad", *(f"{name}{pair}" for name in SCRIPT for pair in range(NUMBER))])


class Clock(pl.LightningModule):
    """Counts steps; what it knows is in the script."""

    def __init__(self) -> None:
        super().__init__()
        self.number = nn.Parameter(torch.zeros(()))
        self.tokenizer = NAMES

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return self.number.square()

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        pass

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def scripted(model: nn.Module, ids: Tensor, mask: Tensor) -> Tensor:
    """After the name of pair p, "good" is e times as probable as "bad" if p is among those that are known."""
    logits = torch.zeros(*ids.shape, len(NAMES))
    good, bad = NAMES.encode("good bad", add_special_tokens=False)
    place = min(max(model.global_step, 1), 6) - 1
    for name, right in SCRIPT.items():
        for pair in range(NUMBER):
            (word,) = NAMES.encode(f"{name}{pair}", add_special_tokens=False)
            logits[..., good if pair < right[place] else bad] += (ids == word).float()
    return logits


def test_planted_accuracies_give_the_planted_steps(tmp_path: Path) -> None:
    callback, model = MinimalPairs(PLANTED, forward=scripted, log="full"), Clock()
    data = DataLoader(TensorDataset(torch.zeros(6)), batch_size=1)
    run = trainer(tmp_path, [callback], max_epochs=1, val_check_interval=1)
    run.fit(model, data, DataLoader(TensorDataset(torch.zeros(1))))
    for name, right in SCRIPT.items():
        steps, values = callback.history.series(f"pairs_accuracy/{name}")
        assert steps == [1, 2, 3, 4, 5, 6]
        assert values == [one / 10 for one in right]
        # One of e times the probability: each pair's margin is 1 nat or −1.
        assert callback.history.series(f"pairs_margin/{name}")[1] == pytest.approx([one / 5 - 1 for one in right])
    assert callback.history.series("pairs_acquired/early") == ([2, 3, 4, 5, 6], [2.0] * 5)
    assert callback.history.series("pairs_acquired/late") == ([6], [6.0])
    # Acquired at step 2, and not any more at step 5.
    assert callback.history.series("pairs_acquired/lost") == ([2, 3, 4], [2.0] * 3)
    assert callback.history.series("phenomena_acquired")[1] == [0.0, 2.0, 2.0, 2.0, 1.0, 2.0]
    assert "pairs_acquired/late" not in callback.history.readings[0].values
    # By the final level: 90 % of the way from chance to it. "lost" ends at chance.
    order = callback.order()
    assert [one.name for one in order] == ["early", "late", "lost"]
    early, late, lost = (one.acquired for one in order)
    assert (early.low, early.high) == (3.0, 4.0)
    assert early.step == pytest.approx(math.expm1((math.log(4) + math.log(5)) / 2))
    assert (late.low, late.high) == (5.0, 6.0)
    assert math.isnan(lost.step)
    assert "never" in callback.summary().splitlines()[-1]
    for draw in callback.figures().values():
        draw().draw_without_rendering()


def test_of_several_readings_at_one_step_the_last_counts(tmp_path: Path) -> None:
    callback = MinimalPairs(PLANTED, forward=scripted, draw_figures=False)
    data = DataLoader(TensorDataset(torch.zeros(8)), batch_size=1)
    run = trainer(tmp_path, [callback], max_epochs=1, val_check_interval=1, accumulate_grad_batches=2)
    run.fit(Clock(), data, DataLoader(TensorDataset(torch.zeros(1))))
    assert callback.failed == 0
    assert [reading.step for reading in callback.history.readings] == [0, 1, 1, 2, 2, 3, 3, 4]
    assert callback.reading["pairs_acquired/early"] == 2.0


def test_validate_and_analyze_know_no_step(tmp_path: Path) -> None:
    callback, model = MinimalPairs(PLANTED, forward=scripted, draw_figures=False), Clock()
    data = DataLoader(TensorDataset(torch.zeros(2)))
    run = trainer(tmp_path, [callback], max_epochs=1)
    run.fit(model, data, data)
    assert "pairs_acquired/early" in callback.reading
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.filterwarnings("ignore", ".*does not have many workers.*")
        run.validate(model, data, verbose=False)
    assert "pairs_acquired/early" not in callback.reading
    assert "phenomena_acquired" not in callback.reading
    assert len(callback.history) == 1
    callback = MinimalPairs(TASKS, model="lm", draw_figures=False)
    model = LanguageModel()
    fit(tmp_path, [callback], model)
    assert "phenomena_acquired" in callback.reading
    found = analyze(model, sentences(8), callback)
    assert found["pairs_accuracy/mean"] == callback.reading["pairs_accuracy/mean"]
    assert not [key for key in found if "acquired" in key]


def test_pairs_without_a_score_are_counted(tmp_path: Path) -> None:
    def forward(model: nn.Module, ids: Tensor, mask: Tensor) -> Tensor:
        bad = (ids == WORDS.encode("ever", add_special_tokens=False)[0]).any(1)
        return model(ids) * torch.where(bad, torch.nan, 1.0)[:, None, None]

    callback = MinimalPairs(TASKS, model="lm", forward=forward, standard_errors=True, draw_figures=False)
    with pytest.warns(UserWarning, match=r"pairs_accuracy/npi_licensing.* cannot be told"):
        run = fit(tmp_path, [callback], LanguageModel())
    assert callback.reading["nonfinite/pairs"] == run.callback_metrics["nonfinite/pairs"] == 12
    assert "pairs_accuracy/npi_licensing" not in callback.reading
    known = [callback.reading[f"pairs_accuracy/{task.phenomenon}/{task.name}"] for task in TASKS[:3]]
    assert callback.reading["pairs_accuracy/mean"] == pytest.approx(sum(known) / 3)
    assert callback.failed == 0


# ------------------------------------------------- models of transformers


class Wrapped(pl.LightningModule):
    def __init__(self, lm: nn.Module, tokenizer: Any) -> None:
        super().__init__()
        self.lm, self.tokenizer = lm, tokenizer

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        ids = torch.tensor([[5, 6, 7, 9]])
        return self.lm(input_ids=ids, labels=ids).loss

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        pass

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), 1e-3)


@pytest.mark.parametrize("within_word", [False, True])
def test_a_masked_model(tmp_path: Path, within_word: bool) -> None:
    lm, tokenizer = bert()
    pairs = (("the king sleeps .", "the king sleep ."), ("the kings sleep .", "the kings sleeps ."))
    tasks = [Task("plain", "agreement", pairs)]
    callback = MinimalPairs(tasks, model="lm", kind="masked", within_word=within_word, draw_figures=False)
    data = DataLoader(TensorDataset(torch.zeros(3)))
    model = Wrapped(lm, tokenizer)
    trainer(tmp_path, [callback], max_epochs=2).fit(model, data, data)
    margins = Scorer(lm, tokenizer, kind="masked", within_word=within_word).score_task(tasks[0])
    assert callback.reading["pairs_margin/agreement"] == pytest.approx(float(margins.mean()), abs=1e-5)
    unknown = MinimalPairs([Task("t", "p", (("the emu .", "the yak ."),))], model="lm", kind="masked")
    with pytest.raises(ValueError, match="same ids to both sentences of a pair, 'the emu"):
        trainer(tmp_path, [unknown], max_epochs=2).fit(model, data, data)


def test_a_causal_model_of_transformers(tmp_path: Path) -> None:
    words = WordTokenizer(["a", "b", "c", "d", "e", "f"])
    lm = gpt2(len(words))
    task = Task("t", "p", (("a b c", "a b d"), ("e f", "e a")))
    callback = MinimalPairs([task], words, model="lm", draw_figures=False)
    data = DataLoader(TensorDataset(torch.zeros(3)))
    trainer(tmp_path, [callback]).fit(Wrapped(lm, words), data, data)
    margins = Scorer(lm, words).score_task(task)
    assert callback.reading["pairs_margin/p"] == pytest.approx(float(margins.mean()), abs=1e-5)


# ------------------------------------------------- training


def left_behind(folder: Path, callbacks: list[pl.Callback], **kwargs: Any) -> list[Any]:
    model = LanguageModel()
    run = fit(folder, callbacks, model, **kwargs)
    moments = [value for state in run.optimizers[0].state_dict()["state"].values() for value in state.values()]
    return [
        *(value.tolist() for value in (*model.state_dict().values(), *moments)),
        [module.training for module in model.modules()],
        torch.get_rng_state().tolist(),
    ]


def test_training_is_bit_identical(tmp_path: Path) -> None:
    # ToyLM has dropout: a reading in training mode would draw.
    assert left_behind(tmp_path, [MinimalPairs(TASKS, model="lm")]) == left_behind(tmp_path, [])


class Training(LanguageModel):
    """Validates in training mode, dropout and all."""

    def on_validation_model_eval(self) -> None:
        pass


def test_a_module_that_validates_in_training_mode_is_read_in_evaluation_mode(tmp_path: Path) -> None:
    found = []
    for watched in (True, False):
        callback, model = MinimalPairs(TASKS, model="lm", draw_figures=False), Training()
        fit(tmp_path, [callback] * watched, model)
        found.append([*(value.tolist() for value in model.state_dict().values()), torch.get_rng_state().tolist()])
        if watched:
            margins = torch.cat([Scorer(model.lm, WORDS).score_task(task) for task in TASKS])
            assert callback.reading["pairs_margin/mean"] == pytest.approx(float(margins.mean()), abs=1e-5)
            assert model.lm.dropout.training
    assert found[0] == found[1]


def readings(strategy: str) -> tuple[list[dict[str, float]], list[str]]:
    callback = MinimalPairs(TASKS, model="lm", log="full", batch_tokens=64, standard_errors=True, draw_figures=False)
    world = dist.get_world_size() if dist.is_initialized() else 1
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        # The learning rate is zero: how the data are split must not change what the model computes.
        fit(Path(folder), [callback], LanguageModel(lr=0.0), strategy=strategy, devices=world)
        told = [str(one.message) for one in caught if "pairs" in str(one.message) or "Minimal" in str(one.message)]
    first, *later = (
        {key: value for key, value in one.values.items() if "seconds" not in key and "acquired/" not in key}
        for one in callback.history.readings
    )
    return [first, *later], told


def test_ranks_read_what_one_process_reads(ranks: Any) -> None:
    alone, _ = readings("auto")
    for found, told in ranks.run(readings, "ddp"):
        assert not told, told
        for one, expected in zip(found, alone, strict=True):
            assert one == pytest.approx(expected, abs=1e-9)


def test_a_resumed_run_has_the_readings_of_one_that_was_not_stopped(tmp_path: Path) -> None:
    data = DataLoader(TensorDataset(torch.zeros(3)), batch_size=1)

    def run(folder: str, epochs: int, path: Path | None = None) -> MinimalPairs:
        callback = MinimalPairs(PLANTED, forward=scripted, draw_figures=False)
        keep = pl.callbacks.ModelCheckpoint(tmp_path / folder, save_last=True)
        going = trainer(tmp_path, [callback, keep], max_epochs=epochs, val_check_interval=1, enable_checkpointing=True)
        going.fit(Clock(), data, DataLoader(TensorDataset(torch.zeros(1))), ckpt_path=path)
        return callback

    whole = run("whole", 2)
    run("first", 1)
    resumed = run("second", 2, tmp_path / "first" / "last.ckpt")
    assert timeless(resumed) == timeless(whole)
    assert resumed.reading["pairs_acquired/early"] == 2.0


# ------------------------------------------------- arguments


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_pairs": 0}, "`max_pairs` must be at least 1, or None for all, got 0"),
        ({"threshold": 0.0}, "`threshold` must lie above 0 and not above 1, got 0.0"),
        ({"batch_tokens": 0}, "`batch_tokens` must be at least 1, got 0"),
        ({"kind": "encoder"}, "`kind` must be 'causal' or 'masked', got 'encoder'"),
        ({"within_word": True}, "`within_word` belongs to kind='masked'"),
        ({"kind": "masked", "add_bos": True}, "`add_bos` and `bos_token_id` belong to kind='causal'"),
        ({"tasks": []}, "`tasks` is empty"),
        ({"tasks": "no/such/file"}, "`tasks` is 'no/such/file'; it must be 'grammar', a path that exists"),
        ({"tasks": [TASKS[0], TASKS[0]]}, "more than one task named 'agreement_simple'"),
        ({"tasks": [Task("t", "mean", TASKS[0].pairs)]}, "`tasks` has 'mean', which becomes part of a key"),
        ({"tasks": [Task("a/b", "p", TASKS[0].pairs)]}, "`tasks` has 'a/b'"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MinimalPairs(**{"tasks": TASKS, **arguments})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": "gpt"}, r"`model` is 'gpt', but LanguageModel has no such module; it has \['lm'\]"),
        ({"tokenizer": WordTokenizer(["the"])}, "gives the same ids to both sentences"),
        ({"kind": "masked"}, "ToyLM takes no `attention_mask`"),
    ],
)
def test_what_does_not_fit_the_model_stops_the_run_before_it_starts(
    tmp_path: Path, arguments: dict[str, Any], message: str
) -> None:
    model = LanguageModel()
    with pytest.raises(ValueError, match=message):
        fit(tmp_path, [MinimalPairs(**{"tasks": TASKS, "model": "lm", **arguments})], model)
    assert model.global_step == 0
