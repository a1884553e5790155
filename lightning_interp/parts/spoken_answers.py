"""A part: questions that a model is asked several times, with what it answers and how sure it says it is."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from lightning_interp.distributed import rank_in, world_size
from lightning_interp.distributed.sharding import refuse_sharded
from lightning_interp.functional.elicited import average_confidence, consistency, consistency_of_chance
from lightning_interp.isolation.guards import seed_at
from lightning_interp.language.batching import dealt
from lightning_interp.language.likelihood import eval_mode
from lightning_interp.language.templates import check_places, filled_template
from lightning_interp.parts.option_confidences import Chosen
from lightning_interp.reading.part import Part
from lightning_interp.tasks.loading import find_language_model
from lightning_interp.tasks.questions import Question

__all__ = ["SPOKEN_METHODS", "Answer", "SpokenAnswers", "SpokenMethod"]

Answer = Callable[[nn.Module, list[str]], Sequence[tuple[Any, Any]]]
"""(model, prompts) → for each prompt an answer and a confidence in it, each ``None`` where it could not be read."""
SpokenMethod = Literal["spoken", "consistency", "average_confidence"]
"""Ways of reading a confidence from what a model says."""
SPOKEN_METHODS = get_args(SpokenMethod)


class _Said(NamedTuple):
    """What was said to one question."""

    answers: Tensor
    """Which answer each is, int64 (M,); −1 where it could not be read."""
    confidences: Tensor
    """0 to 1, float64 (M,); NaN where it could not be read."""


class SpokenAnswers(Part):
    """Asks questions by a function of the user's, each several times, and reads confidences from what is said.

    Batches of questions are dealt over ranks, and each is asked under a seed of its own, so that what is drawn is the
    same at every reading and on any number of ranks. The model is in evaluation mode, without gradients and autocast,
    and left as it was.

    Args:
        questions: The questions.
        answer: See :data:`Answer`.
        methods: Of :data:`SPOKEN_METHODS`.
        model: Dotted name of the model that ``answer`` is called with.
        samples: How often each question is asked.
        prompts: How; of several the n-th answer is to the n-th, and again from the first.
        misleading: Whether all prompts but the first hold misleading hints.
        batch: Questions in a call of ``answer``.
        seed: Of what is drawn.

    Raises:
        TypeError: If ``answer`` cannot be called.
        ValueError: If an argument is out of range or a prompt has no place for the question; at a reading, if
            ``answer`` returns something else.

    """

    attached = ("_model",)

    def __init__(
        self,
        questions: Sequence[Question],
        answer: Answer,
        methods: Sequence[str],
        model: str = "",
        samples: int = 5,
        prompts: str | Sequence[str] = "{question}",
        misleading: bool = False,
        batch: int = 8,
        seed: int = 0,
    ) -> None:
        if not callable(answer):
            raise TypeError(f"`answer` must be a function of a model and a list of prompts, got {answer!r}.")
        for name, number in (("samples", samples), ("batch_questions", batch)):
            if number < 1:
                raise ValueError(f"`{name}` must be at least 1, got {number}.")
        self.prompts = [prompts] if isinstance(prompts, str) else list(prompts)
        if not self.prompts:
            raise ValueError("`prompts` is empty.")
        for one in self.prompts:
            check_places("prompts", one, ["question"])
        if misleading and (samples < 2 or len(self.prompts) < 2):
            raise ValueError(
                "`misleading` is of two prompts or more, the first without a hint, and of as many samples; there are "
                f"{len(self.prompts)} prompts and {samples} samples."
            )
        for question in questions:
            if len(_numbers(question)) < len(question.options):
                raise ValueError(
                    f"`questions` has options that differ in case, spaces or a full stop only, which are read as one: "
                    f"{list(question.options)} in {question.text!r}."
                )
        self.questions, self.answer, self.methods = questions, answer, methods
        self.name, self.samples, self.misleading, self.batch, self.seed = model, samples, misleading, batch, seed
        self._model: nn.Module | None = None

    def attach(self, model: nn.Module) -> None:
        """Find the model."""
        self._model = find_language_model(self.name, model)
        refuse_sharded(self._model, "questions")

    def detach(self) -> None:
        """Let go of the model."""
        self._model = None

    def chance(self, options: int) -> float:
        """The consistency of random answers among so many options."""
        return 1 / options if self.misleading else consistency_of_chance(options, self.samples)

    # ------------------------------------------------- reading

    def read(self, group: Any = None) -> dict[int, dict[str, Chosen]]:
        """Of each question of this rank, by its place, what each method says; option 0 is right of an open question."""
        assert self._model is not None
        places = list(range(len(self.questions)))
        batches = [places[at : at + self.batch] for at in range(0, len(places), self.batch)]
        own = dealt(batches, (rank_in(group), world_size(group)))
        found: dict[int, dict[str, Chosen]] = {}
        if own:
            with eval_mode(self._model):
                for batch in own:
                    said = zip(batch, self._ask(batch), strict=True)
                    found |= {place: self._confidences(one) for place, one in said}
        return found

    def _ask(self, batch: Sequence[int]) -> list[_Said]:
        some = [self.questions[place] for place in batch]
        # Whatever is said to an open question has a number: the right answer 0, others as they come.
        known: list[dict[str, int]] = [_numbers(one) for one in some]
        answers = torch.full((len(some), self.samples), -1, dtype=torch.int64)
        confidences = torch.full((len(some), self.samples), torch.nan, dtype=torch.float64)
        for sample in range(self.samples):
            template = self.prompts[sample % len(self.prompts)]
            prompts = [filled_template(template, question=one.text, options=", ".join(one.options)) for one in some]
            seed_at((batch[0] << 32) + sample, self.seed)
            for row, (said, sure) in enumerate(self._called(prompts)):
                answers[row, sample] = _number(said, some[row], known[row])
                confidences[row, sample] = _confidence(sure)
        return [_Said(*one) for one in zip(answers, confidences, strict=True)]

    def _called(self, prompts: list[str]) -> list[tuple[Any, Any]]:
        assert self._model is not None
        given: Any = self.answer(self._model, list(prompts))
        try:
            found = [(said, sure) for said, sure in given]
        except (TypeError, ValueError):
            found = []
        if len(found) != len(prompts):
            told = f"{len(given)} of them" if isinstance(given, Sequence) else type(given).__name__
            raise ValueError(
                f"`answer` must return a pair (answer, confidence) for each of {len(prompts)} prompts, and returned "
                f"{told}."
            )
        return found

    def _confidences(self, said: _Said) -> dict[str, Chosen]:
        answers, confidences = said
        first = confidences[0] if int(answers[0]) >= 0 else torch.tensor(torch.nan)
        found = {"spoken": Chosen(int(answers[0]), float(first))}
        agreed = consistency(answers[1:], answers[0]) if self.misleading else consistency(answers)
        found["consistency"] = Chosen(int(agreed.answer), float(agreed.share))
        average = average_confidence(answers, confidences)
        found["average_confidence"] = Chosen(int(average.answer), float(average.share))
        return {name: one for name, one in found.items() if name in self.methods}


def _plain(text: object) -> str:
    """An answer without what does not tell answers apart: case, spaces, a full stop."""
    return " ".join(str(text).casefold().split()).rstrip(". ")


def _numbers(question: Question) -> dict[str, int]:
    return {_plain(one): place for place, one in enumerate(question.options or (question.answer,))}


def _number(said: Any, question: Question, known: dict[str, int]) -> int:
    """Which answer it is, −1 for none."""
    if said is None or not _plain(said):
        return -1
    if question.options:
        return known.get(_plain(said), -1)
    return known.setdefault(_plain(said), len(known))


def _confidence(sure: Any) -> float:
    """A confidence, or the product of those of several steps; NaN for none."""
    if sure is None:
        return math.nan
    steps = sure if isinstance(sure, Sequence) and not isinstance(sure, str) else [sure]
    numbers = [float(one) for one in steps if isinstance(one, Real)]
    if not 0 < len(numbers) == len(steps) or not all(0 <= one <= 1 for one in numbers):
        raise ValueError(
            f"`answer` returned the confidence {sure!r}: it must lie between 0 and 1, be a list of such for several "
            "steps, or None where it could not be read."
        )
    return math.prod(numbers)
