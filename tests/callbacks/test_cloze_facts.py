"""Cloze facts: planted knowledge, a world that is learned, models of transformers, ranks, resuming, arguments."""

from __future__ import annotations

import math
import random
import tempfile
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import torch.distributed as dist
from reference.acquisition import ranked
from tasks.test_scoring import bert
from tasks.toy_lm import ToyLM
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_interp import ClozeFacts
from lightning_interp.functional import binomial_se
from lightning_interp.language import encode_sentences, pad_right, sentence_log_probs
from lightning_interp.models import small_gpt2
from lightning_interp.tasks import Fact, Scorer, WordTokenizer, fact_world
from lightning_interp.tasks.cloze import mask_cloze
from lightning_interp.tasks.facts import frequency_share, majority_share, with_candidates
from tests.toy import timeless, trainer

WORLD = fact_world(people=12, relations=["pet", "birthplace"], answers=4)
WORDS = WordTokenizer(WORLD.words)
CORPUS = encode_sentences(WORDS, WORLD.sentences)


class Reader(pl.LightningModule):
    def __init__(self, lr: float = 2e-2, lm: nn.Module | None = None) -> None:
        super().__init__()
        self.lr = lr
        if lm is None:
            lm = ToyLM(len(WORDS), length=12)
            lm.unused.requires_grad_(False)  # DDP waits for every gradient
        self.lm = lm
        self.tokenizer = WORDS

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return -sentence_log_probs(self.lm, *batch).mean()

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        pass

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=self.lr)


def text(number: int = 48, **kwargs: Any) -> DataLoader:
    return DataLoader(CORPUS[:number], batch_size=8, collate_fn=pad_right, **kwargs)


def fit(folder: Path, callbacks: list[pl.Callback], model: pl.LightningModule, **kwargs: Any) -> pl.Trainer:
    pl.seed_everything(3, verbose=False)
    run = trainer(folder, callbacks, **kwargs)
    run.fit(model, text(shuffle=True), text(8))
    return run


# ------------------------------------------------- what is logged


def test_every_key_is_logged_and_is_what_scores_of_sentences_say(tmp_path: Path) -> None:
    facts = [*WORLD.facts, *(Fact("own", f"{name} is ___ .", "a", ("the", "pet of")) for name in WORLD.words[:3])]
    callback, model = ClozeFacts(facts, model="lm", log="full", standard_errors=True), Reader()
    run = fit(tmp_path, [callback], model, max_epochs=3)
    keys, conditional = callback.logged_keys(model), callback.conditional_keys(model)
    assert keys == callback.logged_keys()
    assert set(keys) - set(conditional) <= set(run.callback_metrics)
    values, scorer = callback.reading, Scorer(model.lm, WORDS)
    for relation in ("pet", "birthplace", "own"):
        of = [fact for fact in facts if fact.relation == relation]
        found = [
            ranked(scorer.score_sentences([fact.filled(one) for one in fact.candidates]).tolist(), 0) for fact in of
        ]
        for what, numbers in zip(("accuracy", "mrr", "margin"), zip(*found, strict=True), strict=True):
            assert values[f"cloze_{what}/{relation}"] == pytest.approx(sum(numbers) / len(of), abs=1e-5), what
        p = values[f"cloze_accuracy/{relation}"]
        assert values[f"cloze_accuracy/{relation}/se"] == pytest.approx(binomial_se([p], [len(of)]))
        assert values[f"cloze_majority/{relation}"] == majority_share(of)
    assert values["cloze_chance/pet"] == 1 / 4
    assert values["cloze_chance/own"] == pytest.approx(1 / 3)
    means = [values[f"cloze_accuracy/{relation}"] for relation in ("pet", "birthplace", "own")]
    assert values["cloze_accuracy/mean"] == pytest.approx(sum(means) / 3)
    for draw in callback.figures().values():
        draw().draw_without_rendering()


def test_facts_of_one_prompt_count_once_in_standard_errors() -> None:
    facts = [Fact("pet", f"{number} has ___ .", "a", ("b",)) for number in range(12)]
    scores = torch.tensor([[-1.0, -2.0] if number % 3 else [-2.0, -1.0] for number in range(12)], dtype=torch.float64)
    found = []
    for times in (1, 4):
        callback = ClozeFacts(facts * times, WORDS, standard_errors=True)
        found.append(callback.from_scores(scores.repeat(times, 1).flatten()))
    assert found[0]["cloze_accuracy/pet"] == found[1]["cloze_accuracy/pet"] == 8 / 12
    for name in ("pet", "mean"):
        assert found[1][f"cloze_accuracy/{name}/se"] == pytest.approx(found[0][f"cloze_accuracy/{name}/se"], rel=1e-12)
    assert found[0]["cloze_accuracy/pet/se"] == binomial_se([8 / 12], [12])


def test_what_the_text_tells_is_learned_and_what_it_does_not_is_not(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    told = [fact for fact in WORLD.facts if fact.relation == "pet"]
    # The same people, other pets.
    turn = dict(zip(told[0].candidates, told[0].candidates[1:] + told[0].candidates[:1], strict=True))
    wrong = [Fact("wrong", fact.prompt, turn[fact.answer], fact.candidates) for fact in told]
    callback = ClozeFacts([*WORLD.facts, *wrong], model="lm", draw_figures=False, log="full")
    lines = encode_sentences(WORDS, [fact.filled(fact.answer) for fact in told])
    pl.seed_everything(3, verbose=False)
    run = trainer(tmp_path, [callback], max_epochs=120, check_val_every_n_epoch=20)
    model = Reader(2e-3, small_gpt2(WORDS, 48, heads=2, length=16))
    run.fit(model, DataLoader(lines, 6, shuffle=True, collate_fn=pad_right), text(8))
    found = callback.reading
    assert found["cloze_accuracy/pet"] == found["cloze_mrr/pet"] == 1
    assert found["cloze_margin/pet"] > 1
    assert callback.history.series("cloze_accuracy/pet")[1][0] < 0.5
    assert found["cloze_accuracy/wrong"] == 0
    # Birthplaces are not told.
    assert found["cloze_accuracy/birthplace"] <= callback.acquisition.chance_levels()["birthplace"]
    assert found["relations_acquired"] == 1
    assert found["cloze_acquired/pet"] < run.global_step
    assert not {"cloze_acquired/wrong", "cloze_acquired/birthplace"} & set(found)
    assert callback.order()[0].name == "pet"


# ------------------------------------------------- planted

SCRIPT = {"early": [0, 4, 5, 5, 5], "late": [1, 1, 3, 3, 5], "lost": [0, 5, 5, 2, 1]}
"""Facts right at steps 1 to 5, of five."""
ANSWERS = ["red", "blue", "green", "pink"]
PLANTED = [
    Fact(name, f"{name}{place} ___", "red" if place < 3 else "blue", tuple(ANSWERS))
    for name in SCRIPT
    for place in range(5)
]
NAMES = WordTokenizer([*ANSWERS, *(f"{name}{place}" for name in SCRIPT for place in range(5))])


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
    """The answer is first of the facts that are known, and third of the others."""
    logits = torch.zeros(*ids.shape, len(NAMES))
    place = min(max(model.global_step, 1), 5) - 1
    for name, right in SCRIPT.items():
        for number in range(5):
            (word,) = NAMES.encode(f"{name}{number}", add_special_tokens=False)
            answer = "red" if number < 3 else "blue"
            better = [] if number < right[place] else [one for one in ANSWERS if one != answer][:2]
            rise = torch.zeros(len(NAMES))
            rise[NAMES.encode(answer, add_special_tokens=False)] = 1.0
            for one in better:
                rise[NAMES.encode(one, add_special_tokens=False)] = 3.0
            logits += (ids == word)[..., None] * rise
    return logits


def test_planted_knowledge_gives_the_planted_steps(tmp_path: Path) -> None:
    callback = ClozeFacts(PLANTED, forward=scripted, log="full")
    data = DataLoader(TensorDataset(torch.zeros(5)), batch_size=1)
    run = trainer(tmp_path, [callback], max_epochs=1, val_check_interval=1)
    run.fit(Clock(), data, DataLoader(TensorDataset(torch.zeros(1))))
    for name, right in SCRIPT.items():
        series = {what: callback.history.series(f"cloze_{what}/{name}")[1] for what in ("accuracy", "mrr", "margin")}
        assert series["accuracy"] == pytest.approx([one / 5 for one in right])
        assert series["mrr"] == pytest.approx([(one + (5 - one) / 3) / 5 for one in right])
        assert series["margin"] == pytest.approx([(one - 2 * (5 - one)) / 5 for one in right])
    # The baseline is the majority, 3 of 5: half way to 1 is 4 of 5.
    assert callback.reading["cloze_majority/early"] == 0.6
    assert callback.acquisition.chance_levels()["late"] == 0.6
    assert callback.history.series("cloze_acquired/early") == ([2, 3, 4, 5], [2.0] * 4)
    assert callback.history.series("cloze_acquired/late") == ([5], [5.0])
    assert callback.history.series("cloze_acquired/lost") == ([2, 3], [2.0] * 2)
    assert callback.history.series("relations_acquired")[1] == [0.0, 2.0, 2.0, 1.0, 2.0]
    assert [(one.name, one.acquired.high) for one in callback.order()[:2]] == [("early", 3.0), ("late", 5.0)]
    assert math.isnan(callback.order()[2].acquired.step)


def zipf_facts(answers: int = 200, facts: int = 600) -> list[Fact]:
    """Answers by Zipf's law, which say nothing of who a fact is about."""
    found = random.Random(0).choices(range(answers), [1 / (rank + 1) for rank in range(answers)], k=facts)
    return [Fact("home", f"{number} lives in ___", f"town{answer}") for number, answer in enumerate(found)]


@pytest.mark.parametrize("number", [None, 100])
def test_the_baseline_is_what_knows_how_common_answers_are(number: int | None) -> None:
    facts = zipf_facts()
    words = WordTokenizer(["lives", "in", *map(str, range(600)), *(f"town{n}" for n in range(200))])
    callback = ClozeFacts(facts, words, candidates=20, max_facts=number)
    common = Counter(fact.answer for fact in facts)
    right = []
    for fact in callback.facts:
        most = max(common[one] for one in fact.candidates)
        best = [one for one in fact.candidates if common[one] == most]
        right.append((fact.answer in best) / len(best))
    expected = sum(right) / len(right)
    assert expected > 1.9 * max(majority_share(callback.facts), 1 / 20)
    assert callback.acquisition.chance_levels() == {"home": pytest.approx(expected)}
    # Where all answers are candidates it is the majority's share, as ever.
    everything = ClozeFacts(facts, words, candidates=None, max_facts=number)
    assert everything.acquisition.chance_levels() == {"home": majority_share(everything.facts)}


def test_answers_that_are_equally_common_leave_a_draw() -> None:
    facts = with_candidates([Fact("home", f"{name} lives in ___", f"town{name}") for name in "abcdef"], 3)
    assert frequency_share(facts) == pytest.approx(1 / 3)
    with pytest.raises(ValueError, match="`facts` is empty"):
        frequency_share([])


# ------------------------------------------------- masked


def test_a_masked_model_of_transformers(tmp_path: Path) -> None:
    lm, tokenizer = bert()

    class Wrapped(Clock):
        def __init__(self) -> None:
            super().__init__()
            self.lm, self.tokenizer = lm, tokenizer

    facts = [
        Fact("verb", "the king ___ .", "sleeps", ("sleep", "king")),
        Fact("verb", "the ___ sleep .", "kings", ("king",)),
    ]
    callback = ClozeFacts(facts, model="lm", kind="masked", draw_figures=False, log="full")
    data = DataLoader(TensorDataset(torch.zeros(2)))
    trainer(tmp_path, [callback]).fit(Wrapped(), data, data)
    lm.eval()
    scores = torch.zeros(5)
    for row in mask_cloze(tokenizer, with_candidates(facts)):
        with torch.no_grad():
            scores[row.sentence] += lm(row.ids[None]).logits[0, row.position].log_softmax(-1)[row.target]
    found = [ranked(scores[:3].tolist(), 0), ranked(scores[3:].tolist(), 0)]
    for what, numbers in zip(("accuracy", "mrr", "margin"), zip(*found, strict=True), strict=True):
        assert callback.reading[f"cloze_{what}/verb"] == pytest.approx(sum(numbers) / 2, abs=1e-5), what


# ------------------------------------------------- training


def left_behind(folder: Path, callbacks: list[pl.Callback]) -> list[Any]:
    model = Reader()
    run = fit(folder, callbacks, model)
    moments = [value for state in run.optimizers[0].state_dict()["state"].values() for value in state.values()]
    return [
        *(value.tolist() for value in (*model.state_dict().values(), *moments)),
        [module.training for module in model.modules()],
        torch.get_rng_state().tolist(),
    ]


def test_training_is_bit_identical(tmp_path: Path) -> None:
    assert left_behind(tmp_path, [ClozeFacts(WORLD.facts, model="lm")]) == left_behind(tmp_path, [])


def readings(strategy: str) -> list[dict[str, float]]:
    callback = ClozeFacts(WORLD.facts, model="lm", batch_tokens=100, candidates=3, draw_figures=False)
    world = dist.get_world_size() if dist.is_initialized() else 1
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # The learning rate is zero: how the data are split must not change what the model computes.
        fit(Path(folder), [callback], Reader(lr=0.0), strategy=strategy, devices=world)
    return [
        {key: value for key, value in one.values.items() if "seconds" not in key and "acquired/" not in key}
        for one in callback.history.readings
    ]


def test_ranks_read_what_one_process_reads(ranks: Any) -> None:
    alone = readings("auto")
    for found in ranks.run(readings, "ddp"):
        for one, expected in zip(found, alone, strict=True):
            assert one == pytest.approx(expected, abs=1e-9)


def test_a_resumed_run_has_the_readings_of_one_that_was_not_stopped(tmp_path: Path) -> None:
    data = DataLoader(TensorDataset(torch.zeros(2)), batch_size=1)

    def run(folder: str, epochs: int, path: Path | None = None) -> ClozeFacts:
        callback = ClozeFacts(PLANTED, forward=scripted, draw_figures=False)
        keep = pl.callbacks.ModelCheckpoint(tmp_path / folder, save_last=True)
        going = trainer(tmp_path, [callback, keep], max_epochs=epochs, val_check_interval=1, enable_checkpointing=True)
        going.fit(Clock(), data, DataLoader(TensorDataset(torch.zeros(1))), ckpt_path=path)
        return callback

    whole = run("whole", 2)
    run("first", 1)
    resumed = run("second", 2, tmp_path / "first" / "last.ckpt")
    assert timeless(resumed) == timeless(whole)


# ------------------------------------------------- arguments


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_facts": 0}, "`max_facts` must be at least 1, or None for all, got 0"),
        ({"candidates": 1}, "`candidates` must be at least 2, or None for all, got 1"),
        ({"threshold": 1.5}, "`threshold` must lie above 0 and not above 1, got 1.5"),
        ({"kind": "encoder"}, "`kind` must be 'causal' or 'masked', got 'encoder'"),
        ({"facts": []}, "at least one, got none"),
        ({"facts": ["Paris"]}, "must hold Fact objects, got str"),
        ({"facts": "no.such.function"}, "`facts` is 'no.such.function'; it must be a path that exists"),
        ({"facts": [Fact("mean", "a ___", "b", ("c",))]}, "`facts` has the relation 'mean'"),
        ({"facts": [Fact("r", "a ___", "b")]}, "relation 'r' has the one answer 'b' and no candidates"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ClozeFacts(**{"facts": WORLD.facts, **arguments})


def test_facts_from_a_file_and_a_function(tmp_path: Path) -> None:
    (tmp_path / "capital.tsv").write_text("prompt\tanswer\nfrance ___\tparis\nitaly ___\trome\n")
    assert ClozeFacts(tmp_path / "capital.tsv").acquisition.keys == {"capital": "cloze_accuracy/capital"}
    assert len(ClozeFacts(lambda: WORLD.facts, max_facts=5).facts) == 10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tokenizer": WordTokenizer(["has"])}, "the tokenizer gives the same ids to the candidates"),
        ({"kind": "masked"}, "ToyLM takes no `attention_mask`"),
    ],
)
def test_what_does_not_fit_the_model_stops_the_run_before_it_starts(
    tmp_path: Path, arguments: dict[str, Any], message: str
) -> None:
    model = Reader()
    with pytest.raises(ValueError, match=message):
        fit(tmp_path, [ClozeFacts(**{"facts": WORLD.facts, "model": "lm", **arguments})], model)
    assert model.global_step == 0
