"""Sentences scored by a language model: what one callback scores no other scores again, and what is refused."""

from __future__ import annotations

import copy
import pickle
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from tasks.test_scoring import bert
from tasks.toy_lm import ToyLM
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_interp import ClozeFacts, MinimalPairs, analyze
from lightning_interp.distributed import over_ranks
from lightning_interp.language.masked import MaskedToken
from lightning_interp.parts.language_model import LanguageModel
from lightning_interp.parts.sentence_scores import SentenceScores
from lightning_interp.reading.reading import Reading
from lightning_interp.tasks import Fact, Scorer, Task, WordTokenizer, encode_sentences, grammar_tasks, grammar_words
from tests.parts.counted import Counted
from tests.toy import trainer

WORDS = WordTokenizer(grammar_words())
TASKS = grammar_tasks(pairs=8, paradigms=["agreement_simple", "npi_ever"])
FACTS = [Fact("sings", f"the {one} ___ .", "sings", ("sing",)) for one in ("king", "queen")]
DATA = DataLoader(TensorDataset(torch.zeros(2)))


class Trained(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.lm, self.tokenizer = ToyLM(len(WORDS), length=32), WORDS

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        ids = encode_sentences(WORDS, [TASKS[0].pairs[0].good])[0][None]
        return nn.functional.cross_entropy(self.lm(ids)[0, :-1], ids[0, 1:])

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        pass

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def pairs(forward: Any, **kwargs: Any) -> MinimalPairs:
    return MinimalPairs(TASKS, **{"model": "lm", "forward": forward, "draw_figures": False, "log": "full", **kwargs})


def fitted(folder: Path, *callbacks: MinimalPairs | ClozeFacts) -> list[list[dict[str, float]]]:
    """The readings of each, without the time they took, by keys without the prefix."""
    pl.seed_everything(3, verbose=False)
    trainer(folder, list(callbacks), max_epochs=3).fit(Trained(), DATA, DATA)
    return [
        [
            {key.removeprefix(one.prefix): value for key, value in row.values.items() if "seconds" not in key}
            for row in one.history.readings
        ]
        for one in callbacks
    ]


def test_the_same_sentences_go_through_the_model_once_a_validation(tmp_path: Path) -> None:
    alone, both = Counted(), Counted()
    (expected,) = fitted(tmp_path, pairs(alone, threshold=0.9))
    first, second = fitted(tmp_path, pairs(both, threshold=0.9), pairs(both, threshold=0.6, prefix="easy/"))
    assert alone.calls == both.calls > 0
    assert first == expected  # to the last bit
    whole = [{key: value for key, value in row.items() if "acquired" not in key} for row in second]
    assert whole == [{key: value for key, value in row.items() if "acquired" not in key} for row in expected]
    # What was scored at one validation is not taken for the next.
    assert len({row["pairs_margin/mean"] for row in expected}) == len(expected) == 3


@pytest.mark.parametrize(
    "other", [{"max_pairs": 4}, {"batch_tokens": 200}, {"add_bos": False}], ids=["sentences", "batches", "start"]
)
def test_what_differs_is_scored_by_itself(tmp_path: Path, other: dict[str, Any]) -> None:
    forward = Counted()
    for kwargs in ({}, other):
        fitted(tmp_path, pairs(forward, **kwargs))
    calls, forward.calls = forward.calls, 0
    fitted(tmp_path, pairs(forward), pairs(forward, **other, prefix="other/"))
    assert forward.calls == calls > 0


def test_another_way_to_call_the_model_is_scored_by_itself(tmp_path: Path) -> None:
    one, other = Counted(), Counted()
    fitted(tmp_path, pairs(one), pairs(other, prefix="other/"))
    assert one.calls == other.calls > 0


def test_analyze_scores_them_once_too() -> None:
    model, forward = Trained(), Counted()
    one = analyze(model, DATA, pairs(forward), progress=False)
    calls, forward.calls = forward.calls, 0
    found = analyze(model, DATA, [pairs(forward), pairs(forward, prefix="again/")], progress=False)
    assert forward.calls == calls > 0
    assert found == one | {f"again/{key}": value for key, value in one.items()}


LETTERS = "abcdefgh"


def letters(sentence: str) -> list[int]:
    return [LETTERS.index(letter) for letter in sentence]


def test_sentences_are_told_apart_by_where_they_end() -> None:
    model, forward = nn.Embedding(8, 8), Counted()
    reading = Reading(model)
    for sentences in (["abc", "def"], ["abcd", "ef"], ["abc", "def"]):
        part = SentenceScores(LanguageModel(letters, forward=forward), partial(encode_sentences, sentences=sentences))
        part.attach(model)
        found = over_ranks(part.read(reading))
        assert torch.equal(found.float(), Scorer(model, letters, forward=forward).score_sentences(sentences))
    assert len(reading.shared) == 2


def test_masked_tokens_are_told_apart_by_what_is_predicted() -> None:
    model, shared = nn.Embedding(8, 8), Reading(nn.Identity()).shared

    def score(position: int, target: int) -> float:
        def mask(tokenizer: Any) -> list[MaskedToken]:
            return [MaskedToken(0, torch.tensor([1, 2, 3]), position, target)]

        lm = LanguageModel(letters, forward=forward)
        part = SentenceScores(lm, partial(encode_sentences, sentences=[]), mask, "masked")
        part.attach(model)
        return float(over_ranks(part.read(Reading(model, shared=shared))))

    forward = Counted()
    found = [score(*place) for place in ((1, 4), (2, 4), (1, 5), (1, 4))]
    assert forward.calls == 3
    expected = [model.weight.detach()[[1, 2, 3][at]].log_softmax(0)[target] for at, target in ((1, 4), (2, 4), (1, 5))]
    assert found == pytest.approx([*map(float, expected), float(expected[0])], abs=1e-6)


def test_a_model_of_another_module_is_scored_by_itself() -> None:
    forward, shared = Counted(), Reading(nn.Identity()).shared
    part = SentenceScores(LanguageModel(letters, forward=forward), partial(encode_sentences, sentences=["abc"]))
    found = []
    for model in (nn.Embedding(8, 8), nn.Embedding(8, 8)):
        part.attach(model)
        found.append(float(over_ranks(part.read(Reading(model, shared=shared)))))
    assert forward.calls == 2
    assert found[0] != found[1]


# ------------------------------------------------- how the model is said


@pytest.mark.parametrize("kind", [MinimalPairs, ClozeFacts])
@pytest.mark.parametrize("start", [{}, {"special_tokens": "none"}, {"bos_token_id": 3}])
def test_a_language_model_says_what_its_parts_would_say_one_by_one(kind: type[Any], start: dict[str, Any]) -> None:
    model, given = Trained(), TASKS if kind is MinimalPairs else FACTS
    flat = {"add_bos": False} if "special_tokens" in start else start
    one = kind(given, WORDS, model="lm", batch_tokens=64, **flat)
    other = kind(given, lm=LanguageModel(WORDS, "lm", batch_tokens=64, **start))
    plain = analyze(model, DATA, kind(given, model="lm"), progress=False)
    found = [analyze(model, DATA, callback, progress=False) for callback in (one, other)]
    assert found[0] == found[1]
    assert (found[0] == pytest.approx(plain, abs=1e-5)) == (not start)
    assert one.state_key == other.state_key
    assert {"model": "lm", "kind": "causal", "batch_tokens": 64}.items() <= one.settings().items()
    assert one.settings().items() - other.settings().items() <= {("add_bos", False)}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lm": LanguageModel(), "model": "lm"}, "`model='lm'` is said beside `lm`"),
        ({"lm": LanguageModel(), "batch_tokens": 8}, "`batch_tokens=8` is said beside `lm`"),
        ({"lm": LanguageModel(special_tokens="own")}, "`special_tokens='own'` is not for causal models"),
        (
            {"lm": LanguageModel(special_tokens="none"), "kind": "masked"},
            "`special_tokens='none'` is for kind='causal'",
        ),
        ({"lm": LanguageModel(bos_token_id=1), "kind": "masked"}, "`bos_token_id` belong to kind='causal'"),
        ({"lm": LanguageModel(special_tokens="none"), "add_bos": True}, "`add_bos=True` contradicts"),
    ],
)
def test_what_contradicts_is_refused(arguments: dict[str, Any], message: str) -> None:
    for kind, given in ((MinimalPairs, TASKS), (ClozeFacts, FACTS)):
        with pytest.raises(ValueError, match=message):
            kind(given, **arguments)


@pytest.mark.parametrize("special_tokens", ["bos", "own"])
def test_a_masked_model_is_read_with_the_special_tokens_of_its_tokenizer(special_tokens: Any) -> None:
    model, tokenizer = bert()
    task = Task("plain", "agreement", (("the king sleeps .", "the king sleep ."),))
    lm = LanguageModel(tokenizer, special_tokens=special_tokens)
    found = analyze(model, DATA, MinimalPairs([task], kind="masked", lm=lm), forward=lambda *_: None, progress=False)
    expected = Scorer(model, tokenizer, kind="masked").score_task(task)
    assert found["pairs_margin/agreement"] == pytest.approx(float(expected.mean()), abs=1e-5)


def test_a_masked_model_needs_predicted_tokens() -> None:
    with pytest.raises(ValueError, match="`mask` is needed for kind='masked'"):
        SentenceScores(LanguageModel(), encode_sentences, kind="masked")


def test_a_copy_is_attached_to_no_model() -> None:
    callback, model = pairs(None), Trained()
    expected = analyze(model, DATA, callback, progress=False)
    callback.resolve(model)
    for other in (copy.deepcopy(callback), pickle.loads(pickle.dumps(callback)), callback.fresh()):
        assert vars(other.scores)["_found"] is None
        assert analyze(model, DATA, other, progress=False) == expected
    assert vars(callback.scores)["_found"] is not None
    callback.release()
    assert vars(callback.scores)["_found"] is None
