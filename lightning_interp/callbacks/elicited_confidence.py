"""How sure a model is of its answers where it is asked, by several ways of asking."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Unpack, get_args

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from lightning_interp.distributed import Collective, Sum, alone
from lightning_interp.figures import measure_curves
from lightning_interp.functional.elicited import distinct_levels
from lightning_interp.language.encoding import Tokenizer
from lightning_interp.language.likelihood import Forward
from lightning_interp.metrics.calibration import ConfidenceMetric
from lightning_interp.metrics.measure import Measure
from lightning_interp.metrics.measures.calibration import (
    DISTINCT_CONFIDENCES,
    GUESSED_ACCURACY,
    GUESSED_CONSISTENCY,
    NO_QUESTION_ACCURACY,
    UNPARSED,
)
from lightning_interp.parts.confidence_pictures import ConfidencePictures
from lightning_interp.parts.language_model import LanguageModel, one_language_model
from lightning_interp.parts.option_confidences import OPTION_METHODS, Chosen, OptionConfidences, OptionMethod
from lightning_interp.parts.site_metrics import site_key
from lightning_interp.parts.spoken_answers import SPOKEN_METHODS, Answer, SpokenAnswers, SpokenMethod
from lightning_interp.reading.analysis import Draw, ValidationAnalysis
from lightning_interp.reading.argument_names import refuse_unknown_arguments
from lightning_interp.reading.arguments import AnalysisArgs
from lightning_interp.reading.reading import Reading
from lightning_interp.tasks.loading import all_of_kind, loaded
from lightning_interp.tasks.questions import Question, draw_questions, read_questions

__all__ = ["ConfidenceMethod", "ElicitedConfidence"]

# Text first: jsonargparse takes the first kind that fits. With a Path among them it leaves the file to us.
Questions = str | Path | Sequence[Question] | Callable[[], Sequence[Question]]
ConfidenceMethod = Literal[OptionMethod, SpokenMethod]
"""Ways of reading a confidence."""
_PANELS = {
    "calibration error": "ece",
    "AUROC of confidence, chance .5": "auroc_confidence",
    "Brier score": "brier",
    "accuracy": "accuracy",
    "over-confidence": "overconfidence",
    "without an answer": "unparsed",
}
_METHOD, _SAID = "method", "method of what is said"
_SELDOM = 5  # validations


class ElicitedConfidence(ValidationAnalysis):
    r"""Reads how sure a language model is of its answers to questions of your own, and whether that tells right ones.

    Xiong et al. 2024 (arXiv 2306.13063) compare ways of asking; each is a ``<method>`` here. Without generation, from
    log-probabilities of options (:func:`~lightning_interp.functional.option_probabilities`):

    * ``options_sum``, ``options_mean``, ``options_contrast``: softmax over the options of their summed log-probability,
      of its mean over tokens, and of it less that without the question; the largest is the answer's confidence.
    * ``sequence``: the probability of the option that is most probable, not compared with others.
    * ``p_true``: of that option, p(yes) / (p(yes) + p(no)) where the model is asked whether it is right (Kadavath et
      al. 2022, arXiv 2207.05221).

    With ``answer``, a function that lets the model generate, each question is asked several times:

    * ``spoken``: the confidence that was stated with the first answer.
    * ``consistency``: the share of the commonest answer; with ``misleading`` hints, of that without a hint.
    * ``average_confidence``: answers weighted by the confidences stated with them.

    The metrics are those of :class:`~lightning_interp.ConfidenceCalibration`, with the Brier score of one probability,
    (confidence − right)², 0 to 1, for all methods, so that they compare.

    ==========================================  =======  ===========================================================
    key                                         level    what it is
    ==========================================  =======  ===========================================================
    ``ece/<method>``                            summary  expected calibration error
    ``ece_control/<method>``                    full     … expected where confidences are dealt to other questions
    ``adaptive_ece/<method>``                   full     … over bins of equally many questions
    ``brier/<method>``                          full     Brier score
    ``auroc_confidence/<method>``               summary  confidence of right against wrong answers, .5 at chance, and
                                                         for a confidence that is always the same; conditional
    ``auroc_confidence/<method>/sd``            full     one standard deviation of it by chance; conditional
    ``selective_accuracy/<method>/<coverage>``  full     accuracy on that share of questions, the most confident
    ``aurc/<method>``                           full     error rate averaged over all coverages
    ``overconfidence/<method>``                 summary  mean confidence − accuracy; its size is the ECE of a
                                                         confidence that is always its mean
    ``accuracy/<method>``                       full     share of right answers; those of one method may differ from
                                                         those of another
    ``confidence/<method>``                     full     mean confidence
    ``predictions/<method>``                    full     questions with an answer and a confidence
    ``sampled_predictions/<method>``            full     the same
    ``nonfinite/<method>``                      full     questions whose confidence is not finite
    ``unparsed/<method>``                       summary  share of questions whose answer or confidence could not be
                                                         read; of methods with ``answer``
    ``distinct_confidences/<method>``           full     how many different confidences there are
    ``guessed_accuracy``                        full     accuracy of a random option
    ``no_question_accuracy``                    full     accuracy where the question is taken away: what options alone
                                                         tell
    ``guessed_consistency``                     full     consistency of random answers, which is far above one over
                                                         the number of options
    ==========================================  =======  ===========================================================

    The same questions are read every time, and what is sampled is drawn from the seed. Of options that are equally
    probable one is drawn: their order tells nothing. With 64 questions an AUROC of .6 is chance: look at its ``/sd``.

    Args:
        questions: Questions with options, or open ones for ``answer``; the path of a table
            (:func:`~lightning_interp.tasks.read_questions`); or a function that returns them, or its dotted name.
        methods: Which; by default all that can be: without generation where all questions have options, the others
            where ``answer`` is given.
        answer: ``answer(model, prompts)`` returns for each prompt a pair: the answer, ``None`` where it could not be
            read, and the stated confidence, 0 to 1, a list of those of several steps, whose product counts, or
            ``None``. An answer is one of the options, or right where it is that of an open question, whatever its case,
            spaces and full stop. Pad on the left to generate in batches.
        samples: How often each question is asked.
        prompts: How ``answer`` is asked: one text or several, with ``{question}`` and, if you like, ``{options}``. The
            n-th answer is to the n-th of them, and again from the first: paraphrases.
        misleading: Whether all prompts but the first hold misleading hints.
        template: How methods without generation say question and option; ``{option}`` is the last of it that counts.
        p_true_template: How ``p_true`` asks, with ``{question}``, ``{option}`` and at the end ``{word}``.
        p_true_words: Spellings of "yes" and of "no", as they stand for ``{word}``; their probabilities are added.
        max_questions: Questions to read, drawn once from the seed; all where there are no more, or for ``None``.
        batch_questions: Questions in a call of ``answer``.
        bins: Bins of the calibration errors.
        coverages: Shares of questions at which selective accuracy is logged.
        seed: Of what is drawn.
        tokenizer: As for :class:`~lightning_interp.MinimalPairs`; not needed for ``answer`` alone.
        model: Dotted name of the language model in the module; ``""`` for the module itself. ``answer`` gets it.
        forward: Calls that model in its stead: ``forward(model, input_ids, attention_mask)`` → logits (B, T, V).
        batch_tokens: Tokens in a forward pass, padding included.
        add_bos: Whether a start token is put in front; by default where the tokenizer has one.
        bos_token_id: The start token; the tokenizer's own by default.
        lm: Instead of ``tokenizer``, ``model``, ``forward``, ``batch_tokens`` and ``bos_token_id``, all of them.
        kwargs: Arguments of :class:`~lightning_interp.callbacks.ValidationAnalysis`, except ``max_examples``,
            ``dataloader_idx`` and ``batch_size``. ``every_n_validations`` is 5 by default with ``answer``.

    Raises:
        ValueError: If an argument is out of range, a method needs options or ``answer``, a name matches nothing, the
            tokenizer cannot tell options or "yes" and "no" apart, or parameters are sharded over ranks; at a reading,
            if ``answer`` returns something else.
        TypeError: If ``answer`` cannot be called.

    Cost: without generation two forward passes over each question with each option, one of them without the question,
        and with ``p_true`` one for each spelling; ``samples`` calls of ``answer`` for each question.

    Example:
        >>> from lightning_interp.tasks import Question, WordTokenizer
        >>> questions = [Question("which city lies on the tiber ?", "rome", ("ulm", "rome"))]
        >>> words = WordTokenizer("which city lies on the tiber ? ulm rome".split())
        >>> callback = ElicitedConfidence(questions, ["options_sum"], tokenizer=words, model="lm")
        >>> callback.logged_keys()
        ['ece/options_sum', 'auroc_confidence/options_sum', 'overconfidence/options_sum']

    """

    told_apart = ("language_model", "methods", "prefix")

    def __init__(
        self,
        questions: Questions,
        methods: Sequence[ConfidenceMethod] | None = None,
        answer: Answer | None = None,
        samples: int = 5,
        prompts: str | Sequence[str] = "{question}",
        misleading: bool = False,
        template: str = "{question} {option}",
        p_true_template: str = "{question} {option} Is this answer correct? {word}",
        p_true_words: tuple[Sequence[str], Sequence[str]] = (("Yes", "yes"), ("No", "no")),
        max_questions: int | None = 64,
        batch_questions: int = 8,
        bins: int = 10,
        coverages: Sequence[float] = (0.5, 0.8),
        seed: int = 0,
        tokenizer: str | Path | Tokenizer = "tokenizer",
        model: str = "",
        forward: Forward | None = None,
        batch_tokens: int = 4096,
        add_bos: bool | None = None,
        bos_token_id: int | None = None,
        lm: LanguageModel | None = None,
        **kwargs: Unpack[AnalysisArgs],
    ) -> None:
        refuse_unknown_arguments(type(self), kwargs, AnalysisArgs)
        kwargs.setdefault("every_n_validations", 1 if answer is None else _SELDOM)
        super().__init__(max_examples=None, dataloader_idx=0, batch_size=None, **kwargs)
        if max_questions is not None and max_questions < 1:
            raise ValueError(f"`max_questions` must be at least 1, or None for all, got {max_questions}.")
        given = all_of_kind("questions", loaded("questions", questions, read_questions), Question)
        if not given:
            raise ValueError("`questions` must hold Question objects, at least one, got none.")
        self.questions = draw_questions(given, max_questions, seed)
        """The questions that are read."""
        self.seed = seed
        self.methods = _methods(methods, given, answer is not None)
        """How confidence is read."""
        lm = one_language_model(
            lm,
            tokenizer=tokenizer,
            model=model,
            forward=forward,
            batch_tokens=batch_tokens,
            bos_token_id=bos_token_id,
        )
        self.language_model = lm.model
        self.options: OptionConfidences | None = None
        """Questions with options, by their log-probabilities."""
        if read := [one for one in self.methods if one in OPTION_METHODS]:
            words = _spellings(p_true_words)
            self.options = OptionConfidences(self.questions, read, lm, template, p_true_template, words, seed, add_bos)
        self.said: SpokenAnswers | None = None
        """What the model says."""
        if answer is not None and (spoken := [one for one in self.methods if one in SPOKEN_METHODS]):
            self.said = SpokenAnswers(
                self.questions, answer, spoken, lm.model, samples, prompts, misleading, batch_questions, seed
            )
        self.metric = ConfidenceMetric(bins=bins, coverages=coverages, max_rows=len(self.questions), seed=seed)
        self.kept = ConfidencePictures()
        """What the diagrams show, by method."""

    # ------------------------------------------------- keys

    def declares(self) -> list[Measure]:
        """What the metric gives of each method, what could not be read, and what knows nothing."""
        found = [*self.metric.measures_at(_METHOD), DISTINCT_CONFIDENCES.at(_METHOD), UNPARSED.at(_SAID)]
        if all(one.options for one in self.questions):
            found += [GUESSED_ACCURACY, *([NO_QUESTION_ACCURACY] if self.options else [])]
            found += [GUESSED_CONSISTENCY] if "consistency" in self.methods else []
        return found

    def axes(self, model: nn.Module | None = None) -> dict[str, Sequence[str]]:
        """The methods, and the shares of questions."""
        return {
            _METHOD: self.methods,
            _SAID: [one for one in self.methods if one in SPOKEN_METHODS],
            **self.metric.axes,
        }

    # ------------------------------------------------- reading

    def merge(self, reading: Reading) -> Collective[Mapping[str, Tensor | float]]:
        """Ask the questions, and compute."""
        # Whether there is an answer and a confidence, whether it is right, and the confidence.
        rows = torch.zeros(len(self.questions), 1 + len(self.methods), 3, dtype=torch.float64)
        for part in (self.options, self.said):
            for place, found in part.read(reading.group).items() if part is not None else ():
                for name, chosen in found.items():
                    rows[place, self._column(name)] = self._row(place, chosen)
        # Each rank has its own questions, and zeros elsewhere.
        rows = yield Sum(rows)
        return self._values(rows)

    def _column(self, method: str) -> int:
        return self.methods.index(method) if method else len(self.methods)

    def _row(self, place: int, chosen: Chosen) -> Tensor:
        of_options = chosen.option >= 0
        right = float(of_options and chosen.option == self.questions[place].right)
        return torch.tensor([float(of_options), right, chosen.confidence], dtype=torch.float64)

    def _values(self, rows: Tensor) -> dict[str, Tensor | float]:
        values: dict[str, Tensor | float] = {}
        pictures: dict[str, Mapping[str, Any]] = {}
        for column, method in enumerate(self.methods):
            answered, right, confidence = rows[:, column].unbind(1)
            read = answered > 0
            if method in SPOKEN_METHODS:
                # There what is no number was not said; elsewhere it is one that is not finite.
                read = read & ~confidence.isnan()
                values[UNPARSED.key(method)] = float((~read).double().mean())
            self.metric.reset()
            self.metric.update(confidence, right, mask=read)
            # Every rank has all questions.
            values |= {site_key(key, method): value for key, value in alone(self.metric.merge()).items()}
            pictures[method] = self.kept.seen(self.metric)
            values[DISTINCT_CONFIDENCES.key(method)] = float(distinct_levels(confidence, read))
        self.metric.reset()
        sizes = [len(one.options) for one in self.questions]
        if all(sizes):
            values[GUESSED_ACCURACY.key()] = math.fsum(1 / size for size in sizes) / len(sizes)
            if self.options is not None:
                alone_right, finite = rows[:, -1, 1], rows[:, -1, 2].isfinite()
                values[NO_QUESTION_ACCURACY.key()] = float(torch.where(finite, alone_right, torch.nan).mean())
            if "consistency" in self.methods and self.said is not None:
                by_chance = [self.said.chance(size) for size in sizes]
                values[GUESSED_CONSISTENCY.key()] = math.fsum(by_chance) / len(sizes)
        self.kept.now = pictures
        return values

    # ------------------------------------------------- pictures

    def figures(self) -> Mapping[str, Draw]:
        """Curves of the methods side by side, and of each its reliability diagram and selective accuracy."""
        pictures = self.kept.diagrams(self.methods, "elicited")
        return {"elicited/curves": self._curves, **pictures} if pictures else {}

    def _curves(self) -> Figure:
        panels = {title: self._lines(name) for title, name in _PANELS.items()}
        beside = {"random option": GUESSED_ACCURACY, "without the question": NO_QUESTION_ACCURACY}
        for label, measure in beside.items():
            panels["accuracy"][label] = self.history.series(self.full_key(measure.key()))
        drawn = {title: {label: line for label, line in of.items() if line[0]} for title, of in panels.items()}
        return measure_curves({title: of for title, of in drawn.items() if of}, "Confidence by how it is asked for")

    def _lines(self, name: str) -> dict[str, tuple[list[int], list[float]]]:
        return {method: self.history.series(self.full_key(site_key(name, method))) for method in self.methods}


def _methods(methods: Sequence[str] | None, questions: Sequence[Question], asked: bool) -> list[str]:
    """The methods that are read, in their order, or an error that says what is missing."""
    there = all(one.options for one in questions)
    can_be = [*(OPTION_METHODS if there else ()), *(SPOKEN_METHODS if asked else ())]
    known = get_args(ConfidenceMethod)
    if isinstance(methods, str) or any(one not in known for one in methods or ()):
        raise ValueError(f"`methods` must be some of {list(known)}, got {methods!r}.")
    missing = [one for one in methods or () if one not in can_be]
    if missing and missing[0] in SPOKEN_METHODS:
        raise ValueError(f"`methods` has {missing[0]!r}, which is of what the model says: give `answer`.")
    if missing:
        open_one = next(one.text for one in questions if not one.options)
        raise ValueError(f"`methods` has {missing[0]!r}, which is of options, and {open_one!r} has none.")
    if not can_be or (methods is not None and not methods):
        raise ValueError("`methods` is empty: give questions with options, or `answer`.")
    if asked and methods is not None and not any(one in SPOKEN_METHODS for one in methods):
        raise ValueError(f"`answer` is given, and `methods` has none of {list(SPOKEN_METHODS)}, got {list(methods)}.")
    return [one for one in known if one in (can_be if methods is None else methods)]


def _spellings(words: Any) -> tuple[Sequence[str], Sequence[str]]:
    pair = [[one] if isinstance(one, str) else list(one) for one in words] if isinstance(words, Sequence) else []
    texts = [one for some in pair for one in some]
    if len(pair) != 2 or not all(pair) or not all(isinstance(one, str) and one.strip() for one in texts):
        raise ValueError(f"`p_true_words` must be spellings of 'yes' and of 'no', two lists of texts, got {words!r}.")
    return pair[0], pair[1]
