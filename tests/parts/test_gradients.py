"""Gradients of tasks as a part: those of one model, whichever rank reads them, and which of them count."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from tasks.toy_lm import ToyLM
from torch import Tensor

from lightning_interp import TaskSpace
from lightning_interp.distributed import Gather, over_ranks
from lightning_interp.language.encoding import encode_pairs, encode_sentences
from lightning_interp.parts.gradients import Gradients, TaskRows
from lightning_interp.parts.language_model import LanguageModel
from lightning_interp.reading.reading import Reading
from lightning_interp.tasks import WordTokenizer, generate_corpus, grammar_tasks, grammar_words
from lightning_interp.tasks.gradients import GradientReader
from lightning_interp.tasks.split import halves_of_pairs

WORDS = WordTokenizer(grammar_words())
TASKS = grammar_tasks(pairs=6, paradigms=["agreement_simple", "anaphor_number", "npi_ever"])
SMALL: dict[str, Any] = {"buckets": 128, "sample": 500, "seed": 3}


def model() -> ToyLM:
    torch.manual_seed(0)
    return ToyLM(len(WORDS), length=32)


def test_rows_are_what_a_reader_gives_task_by_task() -> None:
    lm, text = model(), generate_corpus(9, seed=1)
    gradients = Gradients(LanguageModel(WORDS), TASKS, null=text, **SMALL)
    gradients.attach(lm)
    found = over_ranks(gradients.read(Reading(lm)))
    reader = GradientReader(lm, **SMALL)
    for place, task in enumerate(TASKS):
        one = reader.read(encode_pairs(WORDS, task.pairs), halves_of_pairs(task))
        assert torch.equal(found.halves[place], one.sketches[0].float())
        assert torch.equal(found.groups[place], one.sketches[1:].sum(1).float())
        assert torch.equal(found.sample[place], one.sample.float())
        assert torch.equal(found.swapped[place], one.swapped.float())
        assert torch.equal(found.margins[place], one.margins.float())
    assert list(found.names) == list(reader.names[1:])
    # Nine sentences for eight gradients: the first has two of them.
    ids = encode_sentences(WORDS, text)
    assert found.text is not None
    assert torch.equal(found.text[0], reader.read_text([ids[0], ids[8]]).float())
    assert len(found.text) == 8


def test_ranks_deal_tasks_and_have_the_rows_of_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    lm, text = model(), generate_corpus(9, seed=1)
    gradients = Gradients(LanguageModel(WORDS), TASKS, null=text, **SMALL)
    gradients.attach(lm)
    alone = over_ranks(gradients.read(Reading(lm)))
    ranks = [0, 1]
    monkeypatch.setattr("lightning_interp.parts.gradients.world_size", lambda group: 2)
    monkeypatch.setattr("lightning_interp.parts.gradients.rank_in", lambda group: ranks[group])
    steps = [gradients.read(Reading(lm, group=rank)) for rank in ranks]
    found: list[TaskRows] = []
    told: Any = None
    read = [0, 0]
    while len(found) < 2:
        asked = []
        for one in steps:
            try:
                asked.append(one.send(told))
            except StopIteration as stop:
                found.append(stop.value)
        assert all(isinstance(request, Gather) for request in asked)
        told = [request.tensor for request in asked]
        read = [number + len(rows) for number, rows in zip(read, told or [[], []], strict=True)]
    assert read == [2 + 4, 1 + 4]  # of three tasks and eight draws
    for one in found:
        for name in ("halves", "groups", "sample", "swapped", "text"):
            assert torch.equal(getattr(one, name), getattr(alone, name))
        assert all(map(torch.equal, one.margins, alone.margins))


def rows(halves: Tensor) -> TaskRows:
    number = len(halves)
    rest = torch.arange(number * 4.0).view(number, 4)
    return TaskRows(
        halves, rest[:, None], ["a"], rest, -rest, None, [torch.full((2,), float(n)) for n in range(number)]
    )


def test_tasks_without_a_gradient_are_not_known_and_are_left_out() -> None:
    halves = torch.ones(5, 2, 3)
    halves[1] = 0.0  # no gradient
    halves[2, 0, 0], halves[4, 1, 2] = torch.nan, torch.inf
    found = rows(halves)
    assert found.known().tolist() == [0, 3]
    some = found.of(found.known())
    assert torch.equal(some.sample, found.sample[[0, 3]])
    assert torch.equal(some.groups, found.groups[[0, 3]])
    assert [float(one[0]) for one in some.margins] == [0.0, 3.0]
    whole = rows(torch.ones(5, 2, 3))
    assert whole.of(whole.known()) is whole
    # Halves that cancel are no gradient of the whole.
    assert rows(torch.tensor([[[1.0], [-1.0]], [[1.0], [1.0]]])).known().tolist() == [1]


def test_a_language_model_says_what_its_parts_would_say_one_by_one() -> None:
    one = TaskSpace(TASKS, WORDS, model="lm", batch_tokens=64, add_bos=False)
    other = TaskSpace(TASKS, lm=LanguageModel(WORDS, "lm", batch_tokens=64, special_tokens="none"))
    assert one.state_key == other.state_key
    assert {"model": "lm", "batch_tokens": 64, "buckets": 65_536}.items() <= other.settings().items()
    holder = torch.nn.Module()
    holder.lm = model()
    for callback in (one, other):
        callback.resolve(holder)
    for task, same in zip(one.gradients.pairs, other.gradients.pairs, strict=True):
        for (good, bad), (also_good, also_bad) in zip(task, same, strict=True):
            assert torch.equal(good, also_good)
            assert torch.equal(bad, also_bad)
    with pytest.raises(ValueError, match="`model='lm'` is said beside `lm`"):
        TaskSpace(TASKS, model="lm", lm=LanguageModel())
    with pytest.raises(ValueError, match="`special_tokens='own'` is not for causal models"):
        TaskSpace(TASKS, lm=LanguageModel(special_tokens="own"))


def test_a_copy_is_attached_to_no_model() -> None:
    callback = TaskSpace(TASKS, WORDS, **SMALL)
    callback.resolve(model())
    for other in (copy.deepcopy(callback), pickle.loads(pickle.dumps(callback)), callback.fresh()):
        assert vars(other.gradients)["_reader"] is None
        assert other.gradients is not callback.gradients
    assert vars(callback.gradients)["_reader"] is not None
    callback.release()
    assert vars(callback.gradients)["_reader"] is None
