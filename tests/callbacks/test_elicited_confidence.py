"""Elicited confidence: models that know how often they are right, ways of asking by hand, ranks, what is refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_interp import ElicitedConfidence, analyze
from lightning_interp.functional import auroc
from lightning_interp.models import small_gpt2
from lightning_interp.tasks import Question, WordTokenizer, read_questions
from tests.toy import trainer, validated

OPTIONS = ("red", "blue", "green", "pink")
NAMES = [f"q{number}" for number in range(80)]
WORDS = WordTokenizer([*OPTIONS, "dark", "yes", "no", "answer", *NAMES])
LEVELS = (0.65, 0.75, 0.85, 0.95)
"""Confidences, of twenty questions each; as many of these are answered rightly."""
RIGHT = [place % 20 < round(20 * LEVELS[place // 20]) for place in range(80)]
SURE = [LEVELS[place // 20] for place in range(80)]


def ids(*words: str) -> list[int]:
    return [WORDS.encode(word, add_special_tokens=False)[0] for word in words]


class Table(pl.LightningModule):
    """What comes next hangs on the last word alone: a table of probabilities of the next word.

    Behind a question .8 goes to the options, of which the model takes one for right with the probability ``sure``, and
    .2 to "yes" and "no", as sure of the first.
    """

    def __init__(self, sure: list[float], before: list[float] | None = None) -> None:
        super().__init__()
        self.tokenizer = WORDS
        p = torch.full((len(WORDS), len(WORDS)), 1e-7)
        for place, confidence in enumerate(sure):
            row = p[ids(NAMES[place])[0]]
            row[ids(*OPTIONS)] = 0.8 * (1 - confidence) / 3
            row[ids(OPTIONS[place % 4])] = 0.8 * confidence
            row[ids("yes", "no")] = torch.tensor([0.2 * confidence, 0.2 * (1 - confidence)])
        if before is not None:
            p[WORDS.bos_token_id, ids(*OPTIONS)] = torch.tensor(before)
        self.table = nn.Embedding.from_pretrained(p.log(), freeze=False)

    def forward(self, ids: Tensor) -> Tensor:
        return self.table(ids)

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        pass


def questions(right: list[bool] = RIGHT) -> list[Question]:
    """The model answers with the option of a question's place; where it is wrong, the next one is right."""
    return [Question(NAMES[at], OPTIONS[(at + (not one)) % 4], OPTIONS) for at, one in enumerate(right)]


def elicited(given: list[Question] | None = None, methods: Any = None, **kwargs: Any) -> ElicitedConfidence:
    asks = {"p_true_template": "{question} {option} {question} {word}", "p_true_words": ("yes", "no")}
    return ElicitedConfidence(
        questions() if given is None else given,
        methods,
        **{"max_questions": None, "draw_figures": False, "log": "full", "every_n_validations": 1, **asks, **kwargs},
    )


def read(callback: ElicitedConfidence, model: pl.LightningModule | None = None) -> dict[str, float]:
    return analyze(Table(SURE) if model is None else model, DataLoader(torch.zeros(2, 1)), callback)


# ------------------------------------------------- planted


def test_a_model_that_knows_how_often_it_is_right_has_no_calibration_error() -> None:
    found = read(elicited(methods=["options_sum", "p_true"]))
    expected = auroc(torch.tensor(SURE), torch.tensor(RIGHT))
    for method in ("options_sum", "p_true"):
        assert found[f"ece/{method}"] == pytest.approx(0, abs=1e-6)
        assert found[f"accuracy/{method}"] == pytest.approx(0.8)
        assert found[f"auroc_confidence/{method}"] == pytest.approx(expected, abs=1e-12)
        brier = sum((sure - one) ** 2 for sure, one in zip(SURE, RIGHT, strict=True)) / 80
        assert found[f"brier/{method}"] == pytest.approx(brier, abs=1e-6)
        assert found[f"distinct_confidences/{method}"] >= 4
        assert found[f"ece_control/{method}"] > 0.05
    assert 0.6 < expected < 0.75
    assert found["guessed_accuracy"] == 0.25


@pytest.mark.parametrize("method", ["options_sum", "p_true"])
def test_one_that_is_always_as_sure_is_as_wrong_as_that(method: str) -> None:
    found = read(elicited(methods=[method]), Table([0.9] * 80))
    assert found[f"ece/{method}"] == pytest.approx(0.1, abs=1e-6)
    assert found[f"overconfidence/{method}"] == pytest.approx(0.1, abs=1e-6)
    assert found[f"auroc_confidence/{method}"] == 0.5
    assert found[f"ece_control/{method}"] == pytest.approx(0.1, abs=1e-6)


def test_sequence_is_the_probability_itself_and_options_without_their_question_are_read_apart() -> None:
    leak = [Question(NAMES[place], "green", OPTIONS) for place in range(80)]
    found = read(elicited(leak), Table(SURE, before=[0.1, 0.2, 0.4, 0.1]))
    assert found["confidence/sequence"] == pytest.approx(0.8 * 0.8, rel=1e-5)
    # Options alone tell the answer to whoever sees none of the questions.
    assert found["no_question_accuracy"] == 1
    assert found["accuracy/options_sum"] == 0.25
    # Contrasted, the option that is probable anyway has to be more probable than that.
    odds = [
        [(s if k == at % 4 else (1 - s) / 3) / p for k, p in enumerate((0.1, 0.2, 0.4, 0.1))]
        for at, s in enumerate(SURE)
    ]
    expected = sum(max(one) / sum(one) for one in odds) / 80
    assert found["confidence/options_contrast"] == pytest.approx(expected, rel=1e-5)
    right = sum(one.index(max(one)) == 2 for one in odds) / 80
    assert found["accuracy/options_contrast"] == pytest.approx(right)


def test_options_of_several_words_are_read_by_sum_and_by_mean() -> None:
    """Ways of reading by hand, from the table."""
    model = Table(SURE)
    p = model.table.weight.log_softmax(-1).double()
    given = [Question("q0", "red", ("red", "dark dark blue", "green pink"))]
    found = read(elicited(given, ["options_sum", "options_mean", "sequence"]), model)
    logs = []
    for option in given[0].options:
        path = ids("q0", *option.split())
        logs.append([float(p[a, b]) for a, b in pairwise(path)])
    total = torch.tensor([sum(one) for one in logs]).softmax(0)
    mean = torch.tensor([sum(one) / len(one) for one in logs]).softmax(0)
    assert found["confidence/options_sum"] == pytest.approx(float(total.max()), rel=1e-5)
    assert found["confidence/options_mean"] == pytest.approx(float(mean.max()), rel=1e-5)
    assert found["confidence/sequence"] == pytest.approx(math.exp(max(sum(one) for one in logs)), rel=1e-4)
    assert total.max() > mean.max() + 0.05


def test_the_order_of_options_that_are_as_probable_tells_nothing() -> None:
    class Even(Table):
        def forward(self, ids: Tensor) -> Tensor:
            return torch.zeros(*ids.shape, len(WORDS)) + 0 * self.table.weight[0, 0]

    # The right one always stands first.
    given = [Question(name, "red", OPTIONS) for name in NAMES]
    found = read(elicited(given), Even(SURE))
    for method in ("options_sum", "options_mean", "options_contrast", "sequence", "p_true"):
        assert 0.1 < found[f"accuracy/{method}"] < 0.4  # .25, standard error .05
    assert 0.1 < found["no_question_accuracy"] < 0.4


# ------------------------------------------------- what is said


def by_place(say: Callable[[int, int], tuple[Any, Any]]) -> Callable[[nn.Module, list[str]], list[tuple[Any, Any]]]:
    """Answers by the place of a question and how often it was asked."""
    asked: dict[str, int] = {}

    def answer(model: nn.Module, prompts: list[str]) -> list[tuple[Any, Any]]:
        assert not model.training
        found = []
        for prompt in prompts:
            name = prompt.split()[-1]
            asked[name] = asked.get(name, -1) + 1
            found.append(say(NAMES.index(name), asked[name]))
        return found

    return answer


def test_what_is_spoken_has_the_metrics_of_its_confidence() -> None:
    answer = by_place(lambda place, time: (f" {OPTIONS[place % 4].upper()}.", SURE[place]))
    found = read(elicited(answer=answer, methods=["spoken", "consistency"]))
    assert found["ece/spoken"] == pytest.approx(0, abs=1e-6)
    assert found["auroc_confidence/spoken"] == pytest.approx(auroc(torch.tensor(SURE), torch.tensor(RIGHT)))
    assert found["distinct_confidences/spoken"] == 4
    assert found["unparsed/spoken"] == 0
    # Whoever always says the same agrees with himself, and that says nothing.
    assert found["confidence/consistency"] == 1
    assert found["ece/consistency"] == pytest.approx(0.2)
    assert found["auroc_confidence/consistency"] == 0.5


def test_answers_that_differ_are_weighed() -> None:
    # Three times the answer of the model, once the next one, once nothing that can be read.
    said = [(0, 0.5), (1, 0.8), (0, None), (0, 0.3), (None, 1.0)]

    def say(place: int, time: int) -> tuple[Any, Any]:
        which, sure = said[time]
        return (None if which is None else OPTIONS[(place + which) % 4]), sure

    found = read(elicited(answer=by_place(say), methods=["spoken", "consistency", "average_confidence"]))
    assert found["confidence/spoken"] == pytest.approx(0.5)
    assert found["confidence/consistency"] == pytest.approx(3 / 5)
    assert found["accuracy/consistency"] == found["accuracy/average_confidence"] == pytest.approx(0.8)
    # (.5 + .3) of (.5 + .8 + .3); of equal ones the one that was said first.
    assert found["confidence/average_confidence"] == pytest.approx(0.5)
    assert found["guessed_consistency"] == pytest.approx(0.5, abs=0.01)


def test_confidences_of_steps_are_multiplied_and_what_cannot_be_read_is_counted() -> None:
    def say(place: int, time: int) -> tuple[Any, Any]:
        if place % 4 == 3:
            return ("purple", 0.5) if place % 8 == 3 else (OPTIONS[3], None)
        return OPTIONS[place % 4], [0.9, 0.5, 1]

    found = read(elicited(answer=by_place(say), methods=["spoken", "average_confidence"], samples=1))
    assert found["unparsed/spoken"] == found["unparsed/average_confidence"] == 0.25
    assert found["predictions/spoken"] == 60
    assert found["confidence/spoken"] == pytest.approx(0.45)
    assert found["confidence/average_confidence"] == 1
    assert found["nonfinite/spoken"] == 0


def test_open_questions_are_right_by_their_text() -> None:
    given = [Question(name, "Two  words") for name in NAMES[:8]]
    said = ["two words.", "TWO WORDS", "else", "two words", "other", "two words"]
    found = read(elicited(given, answer=by_place(lambda place, time: (said[place % 2 * 2 + time % 2], 0.5)), samples=2))
    assert set(found) >= {"accuracy/spoken", "accuracy/consistency"}
    assert not {"guessed_accuracy", "no_question_accuracy", "accuracy/options_sum"} & set(found)
    assert found["accuracy/spoken"] == 0.5
    assert found["confidence/consistency"] == pytest.approx((1 + 0.5) / 2)


def test_misleading_hints_count_by_the_answer_without() -> None:
    prompts = ["say {question}", "is it red? {question}", "is it blue ? {question}"]
    answer = by_place(lambda place, time: (OPTIONS[place % 4] if time != 1 else "red", None))
    found = read(elicited(answer=answer, methods=["consistency"], prompts=prompts, misleading=True, samples=3))
    # With the first hint all say red, which is right of a quarter; the second moves none.
    assert found["confidence/consistency"] == pytest.approx(0.25 * 1 + 0.75 * 0.5)
    assert found["guessed_consistency"] == 0.25


def test_random_answers_agree_as_often_as_random_answers_do() -> None:
    def answer(model: nn.Module, prompts: list[str]) -> list[tuple[str, None]]:
        return [(OPTIONS[int(one)], None) for one in torch.randint(4, (len(prompts),))]

    state = torch.random.get_rng_state()
    found, again = (read(elicited(answer=answer, methods=["consistency"])) for _ in range(2))
    assert torch.equal(state, torch.random.get_rng_state())
    assert found["confidence/consistency"] == pytest.approx(found["guessed_consistency"], abs=0.06)
    assert found["unparsed/consistency"] == 0
    assert {k: v for k, v in found.items() if "seconds" not in k} == {
        k: v for k, v in again.items() if "seconds" not in k
    }


# ------------------------------------------------- a real model, ranks


def text() -> DataLoader:
    return DataLoader(torch.zeros(6, 1), 2)


def drawn(model: nn.Module, prompts: list[str]) -> list[tuple[Any, Any]]:
    """What hangs on chance and on the model."""
    chance = torch.rand(len(prompts), 2).tolist()
    weight = float(next(model.parameters()).detach().abs().mean()) % 1
    return [(OPTIONS[int(4 * a)], b * weight if b < 0.9 else None) for a, b in chance]


def asked_over_ranks() -> dict[str, float]:
    torch.manual_seed(0)
    lm = small_gpt2(WORDS, 24, heads=2, length=12)
    module = Table(SURE)
    module.lm = lm
    return validated(elicited(answer=drawn, model="lm", batch_tokens=64), module, text())


def test_ranks_share_questions_and_give_what_one_process_gives(two_ranks: Any, three_ranks: Any) -> None:
    pytest.importorskip("transformers")
    expected = asked_over_ranks()
    assert expected["ece/p_true"] > 0
    for group in (two_ranks, three_ranks):
        for found in group.run(asked_over_ranks):
            assert found == pytest.approx(expected, abs=1e-6, nan_ok=True)


def test_curves_over_a_fit_and_pictures(tmp_path: Path) -> None:
    class Trained(Table):
        def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
            return -self.table(torch.tensor(ids(*NAMES))).log_softmax(-1)[:, ids("red")].mean()

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=20)

    callback = elicited(answer=drawn)
    run = trainer(tmp_path, [callback], max_epochs=8)
    run.fit(Trained(SURE), text(), text())
    steps, accuracies = callback.history.series("accuracy/options_sum")
    assert len(steps) == 8
    # All answers become red, which is right of a quarter.
    assert accuracies[0] > 0.5
    assert accuracies[-1] == pytest.approx(0.25, abs=0.06)
    pictures = callback.figures()
    assert {"elicited/curves", "elicited/reliability/p_true"} <= set(pictures)
    for draw in pictures.values():
        draw().draw_without_rendering()


# ------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"methods": ["p_false"]}, r"`methods` must be some of \['options_sum'.*got \['p_false'\]"),
        ({"methods": ["spoken"]}, "'spoken', which is of what the model says: give `answer`"),
        ({"given": [Question("q0", "red")], "methods": ["p_true"], "answer": drawn}, "of options, and 'q0' has none"),
        ({"given": [Question("q0", "red")]}, "`methods` is empty: give questions with options, or `answer`"),
        ({"methods": []}, "`methods` is empty"),
        ({"given": []}, "`questions` must hold Question objects, at least one"),
        ({"methods": ["p_true"], "answer": drawn}, "`answer` is given, and `methods` has none of"),
        ({"max_questions": 0}, "`max_questions` must be at least 1, or None for all, got 0"),
        ({"answer": drawn, "samples": 0}, "`samples` must be at least 1, got 0"),
        ({"answer": drawn, "batch_questions": 0}, "`batch_questions` must be at least 1, got 0"),
        ({"answer": drawn, "prompts": ["{question}", "what?"]}, r"`prompts` must have '\{question\}', got 'what\?'"),
        ({"answer": drawn, "misleading": True}, "`misleading` is of two prompts or more"),
        ({"template": "{option} {question}"}, r"`template` must have '\{question\}' and behind it, once, '\{option\}'"),
        ({"p_true_template": "{option} {word}"}, r"`p_true_template` must have '\{question\}' and '\{option\}'"),
        ({"p_true_words": ("yes",)}, "`p_true_words` must be spellings of 'yes' and of 'no', two lists"),
        ({"bins": 0}, "`bins` must be at least 1"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        elicited(**arguments)


def test_what_cannot_be_called_is_refused() -> None:
    with pytest.raises(TypeError, match="`answer` must be a function"):
        elicited(answer="ask")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (lambda model, prompts: ["red"] * len(prompts), r"must return a pair \(answer, confidence\) for each of 8"),
        (lambda model, prompts: [("red", 0.5)], "1 of them"),
        (lambda model, prompts: None, "NoneType"),
        (lambda model, prompts: [("red", 85)] * len(prompts), "the confidence 85: it must lie between 0 and 1"),
        (lambda model, prompts: [("red", "high")] * len(prompts), "the confidence 'high'"),
        (lambda model, prompts: [("red", [])] * len(prompts), r"the confidence \[\]"),
    ],
)
def test_what_is_no_answer_is_refused(given: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read(elicited(answer=given))


def test_words_that_the_tokenizer_does_not_know_are_told() -> None:
    with pytest.raises(ValueError, match=r"the same ids to .* it does not know the words that differ"):
        read(elicited(p_true_words=("correct", "wrong")))
    with pytest.raises(ValueError, match="the same ids to"):
        read(elicited([Question("q0", "rome", ("rome", "ulm"))]))


def test_questions_that_are_too_long_are_told() -> None:
    pytest.importorskip("transformers")
    module = Table(SURE)
    module.lm = small_gpt2(WORDS, 24, heads=2, length=5)
    with pytest.raises(
        ValueError, match="the longest has 6 tokens with its template, and GPT2LMHeadModel takes up to 5"
    ):
        read(elicited(p_true_template="{question} {question} {question} {option} {word}", model="lm"), module)


def test_options_that_an_answer_cannot_tell_apart_are_refused() -> None:
    with pytest.raises(ValueError, match=r"differ in case, spaces or a full stop only.*\['Red', 'red\.'\]"):
        elicited([Question("q0", "Red", ("Red", "red."))], answer=drawn)


def test_questions_are_drawn_once_and_read_from_files(tmp_path: Path) -> None:
    file = tmp_path / "questions.jsonl"
    file.write_text('{"question": "q1", "answer": "red", "options": ["blue", "red"]}\n')
    assert read_questions(file) == [Question("q1", "red", ("blue", "red"))]
    assert elicited(str(file)).questions == read_questions(file)
    one, two = (elicited(max_questions=10, seed=3).questions for _ in range(2))
    assert one == two
    assert len(one) == 10
    with pytest.raises(ValueError, match=r"two or more different ones with the answer 'red' among them"):
        Question("q1", "red", ("blue", "green"))
