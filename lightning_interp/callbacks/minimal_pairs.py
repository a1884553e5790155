"""Whether a language model tells acceptable from unacceptable sentences, by phenomenon, and since when."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Unpack

from torch import Tensor, nn

from lightning_interp.distributed import Collective
from lightning_interp.functional.acquisition import LearnedCurve
from lightning_interp.functional.binomial import binomial_se
from lightning_interp.functional.design_effect import effective_count
from lightning_interp.language.encoding import Tokenizer
from lightning_interp.language.likelihood import Forward
from lightning_interp.metrics.derived import STANDARD_ERROR
from lightning_interp.metrics.measure import FULL, SUMMARY, Measure
from lightning_interp.metrics.measures.geometry import NONFINITE
from lightning_interp.metrics.measures.tasks import PAIRS_ACCURACY, PAIRS_ACQUIRED, PAIRS_MARGIN, PHENOMENA_ACQUIRED
from lightning_interp.parts.acquisition import Acquisition
from lightning_interp.parts.language_model import LanguageModel, one_language_model
from lightning_interp.parts.sentence_scores import Kind, SentenceScores
from lightning_interp.reading.analysis import Draw, ValidationAnalysis
from lightning_interp.reading.argument_names import refuse_unknown_arguments
from lightning_interp.reading.arguments import AnalysisArgs
from lightning_interp.reading.reading import Reading
from lightning_interp.tasks.loading import Tasks, load_tasks
from lightning_interp.tasks.pair_sentences import encode_tasks, mask_tasks
from lightning_interp.tasks.pairs import Task
from lightning_interp.tasks.scoring import margin_accuracy
from lightning_interp.tasks.split import draw_pairs, sentence_groups

__all__ = ["MinimalPairs"]

_RESERVED = ("mean", "se")


class MinimalPairs(ValidationAnalysis):
    r"""Reads how often a language model finds the acceptable sentence of a minimal pair more probable, by phenomenon.

    Warstadt et al. 2020 (BLiMP, arXiv 1912.00582), followed through training as by Liu et al. 2021 (arXiv 2104.07885).
    A causal model's score is the log-probability of the sentence (:func:`sentence_log_probs`), a masked model's its
    pseudo-log-likelihood (:func:`pseudo_log_likelihoods`, Salazar et al. 2020). Of task t with pairs b

    .. math:: a_t = \frac{1}{n_t} \sum_b [s(x^+_b) > s(x^-_b)], \quad
        m_t = \frac{1}{n_t} \sum_b s(x^+_b) - s(x^-_b)

    ties counting half, so that chance is 1/2; a phenomenon's values are means over its tasks. Nothing is read of the
    validation batches; each reading takes the same pairs.

    =======================================  =======  ================================================================
    key                                      level    what it is
    =======================================  =======  ================================================================
    ``pairs_accuracy/<phenomenon>``          summary  a, mean over the tasks of the phenomenon
    ``pairs_margin/<phenomenon>``            full     m in nats, the same
    ``pairs_accuracy/mean``                  summary  mean over all tasks; ``pairs_margin/mean`` too
    ``phenomena_acquired``                   summary  phenomena that are acquired now; conditional
    ``pairs_acquired/<phenomenon>``          full     first step from which on a was at least ``threshold`` at every
                                                      reading up to now; conditional
    ``pairs_accuracy/<phenomenon>/<task>``   full     of one task; ``pairs_margin/…`` too
    ``pairs_accuracy/<phenomenon>/se``       full     standard error of the pairs drawn (:func:`binomial_se`), if
                                                      ``standard_errors``; ``pairs_accuracy/mean/se`` too. Pairs that
                                                      share a sentence count by their :func:`effective_count`
    ``nonfinite/pairs``                      full     pairs without a score; they leave their task's values undefined
    =======================================  =======  ================================================================

    Conditional keys are undefined outside a fit, and ``pairs_acquired`` while the accuracy is below the threshold: one
    that is logged and then missing was lost again. :meth:`order` has the acquisition by the final level, the
    90 % of Chiang et al. 2020, with the readings it lies between, :meth:`summary` the same as text.

    Args:
        tasks: Tasks with their minimal pairs; ``"grammar"`` for the built-in ones; the path of BLiMP or data in its
            format (:func:`read_blimp`) or of a table (:func:`read_pairs`); or a function that returns tasks, or its
            dotted name.
        tokenizer: Of the language model: what :func:`encode_sentences` takes; the dotted name of an attribute of the
            module; ``"grammar"`` for the words of the built-in grammar; or a name or folder for ``transformers``.
        model: Dotted name of the language model in the module; ``""`` for the module itself.
        kind: ``"causal"`` or ``"masked"``; a masked model needs a tokenizer of transformers with a mask token.
        forward: Calls that model in its stead: ``forward(model, input_ids, attention_mask)`` → logits (B, T, V).
        max_pairs: Pairs to read of each task, drawn once from the seed; all where a task has no more, or ``None``.
        threshold: The accuracy from which on a phenomenon counts as acquired while training runs; .75 is half way from
            chance.
        standard_errors: Whether standard errors are read too.
        seed: Of the pairs drawn.
        batch_tokens: Tokens in a forward pass, padding included.
        add_bos: Of causal models, whether a start token is put in front; by default where the tokenizer has one.
        bos_token_id: The start token; the tokenizer's own by default. That of a chat model is no start of a sentence.
        within_word: Of masked models, whether the rest of a word is masked with each of its tokens.
        lm: Instead of ``tokenizer``, ``model``, ``forward``, ``batch_tokens`` and ``bos_token_id``, all of them.
        kwargs: Arguments of :class:`~lightning_interp.callbacks.ValidationAnalysis`, except ``max_examples``,
            ``dataloader_idx`` and ``batch_size``.

    Raises:
        ValueError: If an argument is out of range, a name matches nothing, two tasks have one name, a name has a slash
            or is ``mean`` or ``se``, the tokenizer cannot tell the sentences of a pair apart, or parameters are sharded
            over ranks.

    Cost: a forward pass over both sentences of every pair; of a masked model, over a copy of each for each of its
        tokens. Over ranks whole batches are dealt out, so that each is computed as one process would.

    Example:
        >>> callback = MinimalPairs("grammar", tokenizer="grammar", model="lm", max_pairs=16)
        >>> callback.logged_keys()[:3]
        ['pairs_accuracy/mean', 'pairs_margin/mean', 'phenomena_acquired']

    """

    def __init__(
        self,
        tasks: Tasks,
        tokenizer: str | Path | Tokenizer = "tokenizer",
        model: str = "",
        kind: Kind = "causal",
        forward: Forward | None = None,
        max_pairs: int | None = 100,
        threshold: float = 0.75,
        standard_errors: bool = False,
        seed: int = 0,
        batch_tokens: int = 4096,
        add_bos: bool | None = None,
        bos_token_id: int | None = None,
        within_word: bool = False,
        lm: LanguageModel | None = None,
        **kwargs: Unpack[AnalysisArgs],
    ) -> None:
        refuse_unknown_arguments(type(self), kwargs, AnalysisArgs)
        super().__init__(max_examples=None, dataloader_idx=0, batch_size=None, **kwargs)
        if max_pairs is not None and max_pairs < 1:
            raise ValueError(f"`max_pairs` must be at least 1, or None for all, got {max_pairs}.")
        if not 0 < threshold <= 1:
            raise ValueError(f"`threshold` must lie above 0 and not above 1, got {threshold}.")
        if within_word and kind == "causal":
            raise ValueError("`within_word` belongs to kind='masked'; a causal model reads words from the left anyway.")
        self.threshold = threshold
        self.standard_errors = standard_errors
        self.seed = seed
        self.within_word = within_word
        self.tasks = [draw_pairs(task, max_pairs, seed) for task in _checked(load_tasks(tasks))]
        """The tasks with the pairs that are read."""
        self._phenomena = list(dict.fromkeys(task.phenomenon for task in self.tasks))
        self.scores = SentenceScores(
            one_language_model(
                lm,
                tokenizer=tokenizer,
                model=model,
                forward=forward,
                batch_tokens=batch_tokens,
                bos_token_id=bos_token_id,
            ),
            partial(encode_tasks, tasks=self.tasks),
            partial(mask_tasks, tasks=self.tasks, within_word=within_word),
            kind,
            add_bos,
        )
        """Both sentences of every pair in turn, and their scores."""
        self.acquisition = Acquisition(
            {name: f"pairs_accuracy/{name}" for name in self._phenomena}, 0.5, "pairs", "share of pairs (chance 0.5)"
        )
        """When each phenomenon was acquired."""

    def identity(self) -> dict[str, Any]:
        """Tells instances apart by what they read."""
        return {
            "tasks": [task.name for task in self.tasks],
            "model": self.scores.lm.model,
            "seed": self.seed,
            "prefix": self.prefix,
        }

    # ------------------------------------------------- keys

    def declares(self) -> list[Measure]:
        """Accuracy, margin and acquisition over all, of phenomena and of tasks."""
        mean = [PAIRS_ACCURACY.at(end="mean"), PAIRS_MARGIN.at(end="mean", level=SUMMARY)]
        of_tasks = [PAIRS_ACCURACY.at("task", level=FULL), PAIRS_MARGIN.at("task")]
        errors = [STANDARD_ERROR.of(one) for one in (mean[0], PAIRS_ACCURACY)] if self.standard_errors else []
        return [
            *(*mean, PHENOMENA_ACQUIRED, PAIRS_ACCURACY, PAIRS_MARGIN, PAIRS_ACQUIRED),
            *(*of_tasks, *errors, NONFINITE.at(end="pairs")),
        ]

    def axes(self, model: nn.Module | None = None) -> dict[str, Sequence[str]]:
        """The phenomena, and the tasks behind theirs."""
        return {"phenomenon": self._phenomena, "task": [f"{task.phenomenon}/{task.name}" for task in self.tasks]}

    # ------------------------------------------------- reading

    def merge(self, reading: Reading) -> Collective[Mapping[str, Tensor | float]]:
        """Score the sentences, and compute."""
        return self.from_scores((yield from self.scores.read(reading)))

    def from_scores(self, scores: Tensor) -> Mapping[str, float]:
        """Accuracies and margins of tasks and phenomena, and since when phenomena are known.

        Args:
            scores: Of good and bad sentence of every pair in turn, in nats, float64 (2 · pairs,).

        """
        whole = scores[0::2] - scores[1::2]
        margins: Sequence[Tensor] = whole.split([len(task) for task in self.tasks])  # type: ignore[no-untyped-call]
        accuracy = [math.nan if bool(one.isnan().any()) else margin_accuracy(one) for one in margins]
        found = {"accuracy": accuracy, "margin": [float(one.mean()) for one in margins]}
        values = {"nonfinite/pairs": float(sum(int(one.isnan().sum()) for one in margins))}
        for what, numbers in found.items():
            values[f"pairs_{what}/mean"] = _mean(numbers)
            for task, number in zip(self.tasks, numbers, strict=True):
                values[f"pairs_{what}/{task.phenomenon}/{task.name}"] = number
            for name in self._phenomena:
                values[f"pairs_{what}/{name}"] = _mean([numbers[place] for place in self._places(name)])
        if self.standard_errors:
            for name in ("mean", *self._phenomena):
                values[f"pairs_accuracy/{name}/se"] = self._standard_error(accuracy, margins, self._places(name))
        if self.step is not None:
            since = self.acquisition.since(self, values, dict.fromkeys(self._phenomena, self.threshold))
            values |= {f"pairs_acquired/{name}": step for name, step in since.items()}
            values["phenomena_acquired"] = float(sum(not math.isnan(step) for step in since.values()))
        return values

    def _places(self, phenomenon: str) -> Sequence[int]:
        """Which tasks belong to a phenomenon, or to the mean."""
        return [place for place, task in enumerate(self.tasks) if phenomenon in (task.phenomenon, "mean")]

    def _standard_error(self, accuracy: Sequence[float], margins: Sequence[Tensor], places: Sequence[int]) -> float:
        known = [place for place in places if not math.isnan(accuracy[place])]
        # Pairs that share a sentence are not independent.
        counts = [effective_count((margins[at].sign() + 1) / 2, sentence_groups(self.tasks[at])) for at in known]
        return binomial_se([accuracy[at] for at in known], counts) if known else math.nan

    # ------------------------------------------------- what was acquired when

    def order(self, share: float = 0.9) -> list[LearnedCurve]:
        """The phenomena by when they were acquired; see :meth:`lightning_interp.parts.acquisition.Acquisition.order`.

        Args:
            share: Of the final level above chance.

        """
        return self.acquisition.order(self, share)

    def summary(self, share: float = 0.9) -> str:
        """:meth:`order` as a table of text, a line each.

        Args:
            share: Of the final level above chance.

        """
        return self.acquisition.summary(self, share)

    def figures(self) -> Mapping[str, Draw]:
        """The accuracies as a heat map, and when each phenomenon was acquired."""
        return self.acquisition.figures(self)


def _mean(numbers: Sequence[float]) -> float:
    """The mean of those that are known."""
    known = [number for number in numbers if not math.isnan(number)]
    return math.fsum(known) / len(known) if known else math.nan


def _checked(tasks: Sequence[Task]) -> Sequence[Task]:
    if not tasks:
        raise ValueError("`tasks` is empty.")
    names = [task.name for task in tasks]
    for task in tasks:
        for name in (task.name, task.phenomenon):
            if "/" in name or name in _RESERVED:
                raise ValueError(
                    f"`tasks` has {name!r}, which becomes part of a key: it can have no '/' and not be one of "
                    f"{list(_RESERVED)}; rename it."
                )
        if names.count(task.name) > 1:
            raise ValueError(f"`tasks` has more than one task named {task.name!r}.")
    return tasks
