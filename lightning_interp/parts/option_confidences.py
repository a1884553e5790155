"""A part: questions with options, and how sure a language model is of what it takes for the right one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from lightning_interp.distributed import rank_in, world_size
from lightning_interp.distributed.sharding import refuse_sharded
from lightning_interp.functional.counter_noise import counter_hash
from lightning_interp.functional.elicited import option_probabilities, p_true
from lightning_interp.language.batching import dealt, length_batches
from lightning_interp.language.context_length import context_length
from lightning_interp.language.continuations import Continuations, encode_continuations
from lightning_interp.language.encoding import Tokenizer
from lightning_interp.language.id_range import check_ids
from lightning_interp.language.likelihood import eval_mode
from lightning_interp.language.scores import encoded_log_probs
from lightning_interp.language.templates import check_places, filled_template
from lightning_interp.parts.language_model import LanguageModel
from lightning_interp.reading.part import Part
from lightning_interp.tasks.questions import Question

__all__ = ["OPTION_METHODS", "Chosen", "OptionConfidences", "OptionMethod"]

OptionMethod = Literal["options_sum", "options_mean", "options_contrast", "sequence", "p_true"]
"""Ways of reading a confidence from the log-probabilities of options."""
OPTION_METHODS = get_args(OptionMethod)


class Chosen(NamedTuple):
    """What a model takes for the right option, and how sure it is."""

    option: int
    confidence: float


class _Encoded(NamedTuple):
    """A question as ids."""

    options: Continuations
    alone: Continuations
    """The options without the question."""
    asked: Sequence[Continuations]
    """Of each option whether it is right, in all spellings; empty where that is not asked."""


class OptionConfidences(Part):
    """Reads confidences in options from a causal language model, without generation.

    Whole batches of questions are dealt over ranks, each computed as by one process. The model runs in evaluation mode,
    without gradients and autocast, and is left as it was.

    Args:
        questions: Questions with options.
        methods: Of :data:`OPTION_METHODS`.
        lm: The language model.
        template: How question and option are said.
        asks: Of ``"p_true"``, how it is asked whether an option is right, and how the answer is said.
        words: Of ``"p_true"``, how "yes" is spelled, and how "no" is.
        seed: Of the choice among options that are as probable.
        add_bos: Whether the start token is put in front; by default where there is one.

    Raises:
        ValueError: If a template lacks a place; when attached, if a name matches nothing, the tokenizer cannot tell two
            options apart, an id is none of the model's, a question is too long, or parameters are sharded over ranks.

    """

    attached = ("_model", "_encoded", "_padding")

    def __init__(
        self,
        questions: Sequence[Question],
        methods: Sequence[str],
        lm: LanguageModel,
        template: str,
        asks: str,
        words: tuple[Sequence[str], Sequence[str]],
        seed: int = 0,
        add_bos: bool | None = None,
    ) -> None:
        self.questions, self.methods, self.lm, self.seed = questions, methods, lm, seed
        self.template, self.asks, self.words = template, asks, words
        check_places("template", template, ["question"], "option")
        check_places("p_true_template", asks, ["question", "option"], "word")
        self.add_bos = lm.starts_with_bos(add_bos)
        self._model: nn.Module | None = None
        self._encoded: Sequence[_Encoded] | None = None
        self._padding: int | None = None

    def keeps(self) -> Sequence[object]:
        """What keeps arguments of the callback: itself, and the language model."""
        return self, self.lm

    def attach(self, model: nn.Module) -> None:
        """Find the language model and its tokenizer, and turn questions into ids."""
        lm, tokenizer, self._padding = self.lm.find(model)
        refuse_sharded(lm, "questions")
        self._model = lm
        self._encoded = [self._encode(tokenizer, one) for one in self.questions]
        ids = [ids for one in self._encoded for each in (one.options, one.alone, *one.asked) for ids in each.ids]
        check_ids(lm, ids)
        most, longest = max(map(len, ids)), context_length(lm)
        if longest is not None and most > longest:
            raise ValueError(
                f"`questions`: the longest has {most} tokens with its template, and {type(lm).__name__} takes up to "
                f"{longest}."
            )

    def detach(self) -> None:
        """Let go of the model."""
        self._model = self._encoded = self._padding = None

    # ------------------------------------------------- reading

    def read(self, group: Any = None) -> dict[int, dict[str, Chosen]]:
        """Of each question of this rank, by its place, what each method says; under ``""`` without the question."""
        assert self._model is not None
        assert self._encoded is not None
        sizes = [len(one.options.ids) * max(map(len, one.options.ids)) for one in self._encoded]
        batches = length_batches(sizes, self.lm.batch_tokens)
        own = dealt(batches, (rank_in(group), world_size(group)))
        found: dict[int, dict[str, Chosen]] = {}
        if own:
            with eval_mode(self._model):
                for batch in own:
                    found |= dict(zip(batch, self._read(batch), strict=True))
        return found

    def _read(self, batch: Sequence[int]) -> list[dict[str, Chosen]]:
        assert self._encoded is not None
        encoded = [self._encoded[place] for place in batch]
        said = self._log_probs([one.options for one in encoded])
        prior = self._log_probs([one.alone for one in encoded])
        found: list[dict[str, Chosen]] = []
        for place, own, given, before in zip(batch, encoded, said, prior, strict=True):
            of: dict[str, Tensor] = {
                "options_sum": option_probabilities(given),
                "options_mean": option_probabilities(given, lengths=torch.tensor(own.options.lengths)),
                "options_contrast": option_probabilities(given, prior=before),
                "sequence": given.exp(),
                "": option_probabilities(before),
            }
            found.append({name: self._chosen(place, p) for name, p in of.items() if not name or name in self.methods})
        if "p_true" in self.methods:
            best = [self._chosen(place, given).option for place, given in zip(batch, said, strict=True)]
            asked = [own.asked[option] for own, option in zip(encoded, best, strict=True)]
            number = len(self.words[0])
            for own_found, option, words in zip(found, best, self._log_probs(asked), strict=True):
                yes, no = (one.logsumexp(0) for one in (words[:number], words[number:]))
                own_found["p_true"] = Chosen(option, float(p_true(yes, no)))
        return found

    def _log_probs(self, some: Sequence[Continuations]) -> list[Tensor]:
        """Of each text of each of them, in nats, float64."""
        assert self._model is not None
        lm, ids = self.lm, [one for each in some for one in each.ids]
        first = torch.tensor([each.first for each in some for _ in each.ids])
        scores = encoded_log_probs(self._model, ids, lm.batch_tokens, lm.forward, self._padding or 0, first=first)
        return list(torch.split(scores, [len(each.ids) for each in some]))

    def _chosen(self, place: int, values: Tensor) -> Chosen:
        """The largest of them; of equal ones one drawn by the question's place, since the order may tell the answer."""
        most = values.max()
        if bool(most.isnan()):
            return Chosen(0, float(most))
        tied = (values == most).nonzero()[:, 0]
        drawn = counter_hash((torch.tensor(place) << 32) + torch.arange(len(values)), self.seed)
        return Chosen(int(tied[drawn[tied].argmax()]), float(most))

    # ------------------------------------------------- text

    def _encode(self, tokenizer: Tokenizer, question: Question) -> _Encoded:
        options = question.options
        asked = [self._asked(tokenizer, question, one) for one in options] if "p_true" in self.methods else []
        return _Encoded(self._options(tokenizer, question.text, options), self._options(tokenizer, "", options), asked)

    def _options(self, tokenizer: Tokenizer, question: str, options: Sequence[str]) -> Continuations:
        before = filled_template(self.template.partition("{option}")[0], question=question)
        whole = [filled_template(self.template, question=question, option=one) for one in options]
        return self._continued(tokenizer, before, whole)

    def _asked(self, tokenizer: Tokenizer, question: Question, option: str) -> Continuations:
        """Both answers in all spellings, "yes" before "no"."""
        parts = {"question": question.text, "option": option}
        before = filled_template(self.asks.partition("{word}")[0], **parts)
        words = [word for some in self.words for word in some]
        return self._continued(tokenizer, before, [filled_template(self.asks, **parts, word=word) for word in words])

    def _continued(self, tokenizer: Tokenizer, before: str, texts: Sequence[str]) -> Continuations:
        # Where the question is taken away, what is left may begin with the space behind it.
        whole = [one.strip() for one in texts]
        return encode_continuations(tokenizer, before.lstrip(), whole, self.add_bos, self.lm.bos_token_id)
