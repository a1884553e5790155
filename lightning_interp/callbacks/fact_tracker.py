"""Whether training puts facts into a language model, what follows from them, what is lost by it, and what is kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Unpack

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from lightning_interp.distributed import Collective
from lightning_interp.figures.measure_curves import measure_curves
from lightning_interp.functional.fact_tracking import kl_divergence
from lightning_interp.functional.ranking import ranking_measures
from lightning_interp.language.encoding import Tokenizer
from lightning_interp.language.likelihood import Forward
from lightning_interp.metrics.derived import CHANCE
from lightning_interp.metrics.measure import Measure
from lightning_interp.metrics.measures.facts import (
    FACT_DECAY,
    FACT_EFFECTIVITY,
    FACT_KL,
    FACT_LOCALITY,
    FACT_LOG_PROB,
    FACT_PARAPHRASE,
    FACT_PORTABILITY,
    FACT_RETENTION,
    FACT_SUCCESS,
    FACT_SUCCESS_LOCAL,
    SET,
    TEXTS,
)
from lightning_interp.parts.fact_memory import FactMemory
from lightning_interp.parts.fact_scores import FactScores, Scored
from lightning_interp.parts.language_model import LanguageModel, one_language_model
from lightning_interp.reading.analysis import Draw, ValidationAnalysis
from lightning_interp.reading.argument_names import refuse_unknown_arguments
from lightning_interp.reading.arguments import AnalysisArgs
from lightning_interp.reading.reading import Reading
from lightning_interp.tasks.facts import draw_facts, with_candidates
from lightning_interp.tasks.load_facts import Facts, load_facts

__all__ = ["FactTracker"]

_FACTS, _NEVER, _PARAPHRASES, _IMPLIED, _NEIGHBOURS = "facts", "never_shown", "paraphrases", "implied", "neighbours"
_GENERIC = "texts"
_OF_SET = {_PARAPHRASES: FACT_PARAPHRASE, _IMPLIED: FACT_PORTABILITY}


class FactTracker(ValidationAnalysis):
    r"""Follows facts that training is meant to put into a language model, and what else changes with them.

    For fine-tuning and continued pre-training, with the measures of knowledge editing (Zhang et al. 2024, EasyEdit,
    arXiv 2401.01286) and of how facts are gained and forgotten (Chang et al. 2024, arXiv 2406.11813). The score of a
    candidate is the mean log-probability of its tokens, given what stands before the blank; what stands behind is left
    out. A fact is told rightly where its answer has the highest score of its candidates: with the new and the old
    answer as candidates that is NLL(new) < NLL(old). Ties count as a random order of the tied would. With ℓ the summed
    log-probability of the answer's tokens,

    .. math::
        \mathrm{effectivity} = \ell_{best} - \ell_{first}, \quad
        \mathrm{retention} = \frac{\ell_{now} - \ell_{first}}{\ell_{best} - \ell_{first}}, \quad
        \mathrm{kl\_to\_start} = KL(p_{first} \| p_{now})

    where "first" is the first reading of the fit and "best" the reading with the largest ℓ so far. Read before training
    changes anything: with a validation at the first steps, or else "first" is after the first epoch. Nothing is read of
    the validation batches.

    ==================================  =======  =====================================================================
    key                                 level    what it is
    ==================================  =======  =====================================================================
    ``fact_success/<set>``              summary  share told rightly, of ``facts`` and of ``never_shown``
    ``fact_paraphrase``                 summary  … of paraphrases
    ``fact_portability``                summary  … of implied facts
    ``fact_locality``                   summary  share of neighbours whose best candidate is that of the first reading
    ``fact_success_local``              summary  success of ``facts``, and 0 where locality is below ``min_locality``
    ``fact_kl_to_start/<texts>``        summary  divergence of what comes next from that of the first reading, nats,
                                                 behind neighbours' text before the blank, and behind ``texts``
    ``fact_effectivity/<set>``          summary  mean over facts, nats
    ``fact_retention/<set>``            summary  mean over facts that gained .1 nats or more; at most 1 (conditional)
    ``fact_decay/<set>``                summary  slope by which retention falls with ln of the steps since the best
                                                 reading, mean over facts with two readings after it (conditional)
    ``fact_log_prob/<set>``             full     mean of ℓ, nats
    ``fact_success_chance/<set>``       full     success of a random candidate, mean of 1 / K
    ``fact_paraphrase_chance``          full     of paraphrases; ``fact_portability_chance`` too
    ``fact_locality_chance``            full     1 / K of neighbours
    ==================================  =======  =====================================================================

    The control is ``never_shown``: facts of the same kind that are in no training text. What rises there, too, is no
    knowledge of the facts: a model learns what kind of word answers, and the most of many readings lies above the first
    one even where ℓ only wanders. Chang et al. count from the batch that shows a fact, which is not known here.

    ``fact_success_local`` is made to be gated on: with ``EarlyStopping("fact_success_local", mode="max")`` training
    stops once success no longer rises or neighbours have changed, and a checkpoint of its maximum is the best that left
    them alone. A model that stands still has locality 1, divergence 0, effectivity 0.

    Args:
        facts: Facts that training shows; the path of a table (:func:`read_facts`); or a function that returns facts, or
            its dotted name. So are the other sets.
        paraphrases: They in other words.
        implied: What follows from them.
        neighbours: Facts that should stay as they are: of the same relation, with other subjects.
        never_shown: Facts of the same kind that training does not show.
        texts: Texts that have nothing to do with them; what comes behind each is compared.
        tokenizer: As for :class:`~lightning_interp.MinimalPairs`.
        model: Dotted name of the language model in the module; ``""`` for the module itself.
        min_locality: From which locality on success counts in ``fact_success_local``.
        max_facts: Facts to read of each relation and set, drawn once from the seed; all where there are no more, or for
            ``None``.
        candidates: Candidates of a fact that comes without, its answer among them, drawn once from the answers of its
            relation in all sets; all of them for ``None``.
        max_texts: Texts, and neighbours, behind which what comes next is compared: a checkpoint holds that many
            distributions over the vocabulary of each.
        seed: Of what is drawn.
        forward: Calls the model in its stead: ``forward(model, input_ids, attention_mask)`` → logits (B, T, V).
        batch_tokens: Tokens in a forward pass, padding included.
        bos_token_id: The start token; the tokenizer's own by default.
        lm: Instead of ``tokenizer``, ``model``, ``forward``, ``batch_tokens`` and ``bos_token_id``, all of them.
        kwargs: Arguments of :class:`~lightning_interp.callbacks.ValidationAnalysis`, except ``max_examples``,
            ``dataloader_idx`` and ``batch_size``.

    Raises:
        ValueError: If an argument is out of range, a name matches nothing, a relation has one answer and no candidates,
            the tokenizer cannot tell two candidates apart, or parameters are sharded over ranks.

    Cost: a forward pass over facts × candidates of all sets, and over the texts. Whole batches are dealt over ranks.

    Example:
        >>> from lightning_interp.tasks import WordTokenizer, fact_world
        >>> world = fact_world(people=10, relations=["pet"])
        >>> new, old = world.facts[:5], world.facts[5:]
        >>> callback = FactTracker(new, neighbours=old, tokenizer=WordTokenizer(world.words), model="lm")
        >>> callback.logged_keys()[:3]
        ['fact_success/facts', 'fact_effectivity/facts', 'fact_retention/facts']

    """

    told_apart = ("relations", "language_model", "prefix")

    def __init__(
        self,
        facts: Facts,
        paraphrases: Facts | None = None,
        implied: Facts | None = None,
        neighbours: Facts | None = None,
        never_shown: Facts | None = None,
        texts: Sequence[str] | None = None,
        tokenizer: str | Path | Tokenizer = "tokenizer",
        model: str = "",
        min_locality: float = 0.9,
        max_facts: int | None = 100,
        candidates: int | None = 20,
        max_texts: int = 32,
        seed: int = 0,
        forward: Forward | None = None,
        batch_tokens: int = 4096,
        bos_token_id: int | None = None,
        lm: LanguageModel | None = None,
        **kwargs: Unpack[AnalysisArgs],
    ) -> None:
        refuse_unknown_arguments(type(self), kwargs, AnalysisArgs)
        super().__init__(max_examples=None, dataloader_idx=0, batch_size=None, **kwargs)
        if max_facts is not None and max_facts < 1:
            raise ValueError(f"`max_facts` must be at least 1, or None for all, got {max_facts}.")
        if candidates is not None and candidates < 2:
            raise ValueError(f"`candidates` must be at least 2, or None for all, got {candidates}.")
        if max_texts < 1:
            raise ValueError(f"`max_texts` must be at least 1, got {max_texts}.")
        if not 0 <= min_locality <= 1:
            raise ValueError(f"`min_locality` must lie between 0 and 1, got {min_locality}.")
        if isinstance(texts, str) or (texts is not None and not texts):
            raise ValueError(f"`texts` must be a list of texts, at least one, got {texts!r}.")
        self.min_locality, self.seed = min_locality, seed
        asked = {
            _FACTS: facts,
            _NEVER: never_shown,
            _PARAPHRASES: paraphrases,
            _IMPLIED: implied,
            _NEIGHBOURS: neighbours,
        }
        given = {name: load_facts(one, name) for name, one in asked.items() if one is not None}
        whole = iter(with_candidates([fact for some in given.values() for fact in some], candidates, seed))
        self.facts = {name: draw_facts([next(whole) for _ in some], max_facts, seed) for name, some in given.items()}
        """By name of a set, the facts that are read, with their candidates."""
        self.relations = list(dict.fromkeys(fact.relation for fact in self.facts[_FACTS]))
        self.sets = [name for name in (_FACTS, _NEVER) if name in self.facts]
        """Those that are followed."""
        read = one_language_model(
            lm, tokenizer=tokenizer, model=model, forward=forward, batch_tokens=batch_tokens, bos_token_id=bos_token_id
        )
        self.language_model = read.model
        self.stays = [name for name in (_NEIGHBOURS,) if name in self.facts]
        self.scores = FactScores(self.facts, read, self.stays, {} if texts is None else {_GENERIC: texts}, max_texts)
        """Every fact with every candidate, and their scores."""
        self.memory = FactMemory()
        """What was at the first reading, and at the best of each fact."""

    # ------------------------------------------------- keys

    def declares(self) -> list[Measure]:
        """How facts are learned and kept, and what else changes."""
        of_sets = [measure for name, measure in _OF_SET.items() if name in self.facts]
        stays = [FACT_LOCALITY, FACT_SUCCESS_LOCAL] if self.stays else []
        return [
            *(FACT_SUCCESS, FACT_EFFECTIVITY, FACT_RETENTION, FACT_DECAY, *of_sets, *stays, FACT_KL),
            *(FACT_LOG_PROB, CHANCE.of(FACT_SUCCESS)),
            *(CHANCE.of(one) for one in [*of_sets, *stays[:1]]),
        ]

    def axes(self, model: nn.Module | None = None) -> dict[str, Sequence[str]]:
        """Sets of facts, and what should stay."""
        return {SET: self.sets, TEXTS: [*self.stays, *self.scores.texts]}

    # ------------------------------------------------- reading

    def merge(self, reading: Reading) -> Collective[Mapping[str, Tensor | float]]:
        """Score the facts, and compute."""
        found = yield from self.scores.read(reading.group)
        answers = torch.cat([self._answers(name, found.log_probs[name]) for name in self.sets])
        tops = {name: found.means[name].argmax(1) for name in self.stays}
        now = {**{f"top/{name}": one for name, one in tops.items()}, **found.next_tokens}
        self.memory.take(self.scores.digest, now, answers, reading.step)
        return {**self._of_sets(found), **self._of_stays(found, tops)}

    def _answers(self, name: str, log_probs: Tensor) -> Tensor:
        """Log-probability of the answer of each fact of a set, (N,)."""
        return log_probs.gather(1, self._right(name)[:, None]).squeeze(1)

    def _right(self, name: str) -> Tensor:
        return torch.tensor([fact.candidates.index(fact.answer) for fact in self.facts[name]])

    def _success(self, name: str, found: Scored) -> tuple[float, float]:
        """Share of a set that is told rightly, and that of random candidates."""
        valid = torch.arange(found.means[name].shape[1]) < self._sizes(name)[:, None]
        first = ranking_measures(found.means[name], self._right(name), valid).first
        return float(first.mean()), self._chance(name)

    def _sizes(self, name: str) -> Tensor:
        return torch.tensor([len(fact.candidates) for fact in self.facts[name]])

    def _chance(self, name: str) -> float:
        return float((1 / self._sizes(name).double()).mean())

    def _of_sets(self, found: Scored) -> dict[str, Tensor | float]:
        """Of facts that are shown and never shown, of paraphrases and of what is implied."""
        values: dict[str, Tensor | float] = {}
        cuts = [len(self.facts[name]) for name in self.sets]
        memory = self.memory
        gains, kept, decays = (torch.split(one, cuts) for one in (memory.gain, memory.retained, memory.decay))
        for place, name in enumerate(self.sets):
            values[FACT_SUCCESS.key(name)], values[CHANCE.of(FACT_SUCCESS).key(name)] = self._success(name, found)
            values[FACT_LOG_PROB.key(name)] = float(self._answers(name, found.log_probs[name]).mean())
            values[FACT_EFFECTIVITY.key(name)] = float(gains[place].mean())
            values[FACT_RETENTION.key(name)] = float(kept[place].nanmean())
            values[FACT_DECAY.key(name)] = float(decays[place].nanmean())
        for name, measure in _OF_SET.items():
            if name in self.facts:
                values[measure.key()], values[CHANCE.of(measure).key()] = self._success(name, found)
        return values

    def _of_stays(self, found: Scored, tops: Mapping[str, Tensor]) -> dict[str, float]:
        """Of what should stay as it was at the first reading."""
        start, values = self.memory.start, dict[str, float]()
        for name, top in tops.items():
            locality = float((top == start[f"top/{name}"]).double().mean())
            success, _ = self._success(_FACTS, found)
            values[FACT_LOCALITY.key()], values[CHANCE.of(FACT_LOCALITY).key()] = locality, self._chance(name)
            values[FACT_SUCCESS_LOCAL.key()] = success if locality >= self.min_locality else 0.0
        for name, log_p in found.next_tokens.items():
            values[FACT_KL.key(name)] = float(kl_divergence(start[name], log_p).mean())
        return values

    # ------------------------------------------------- pictures

    def figures(self) -> Mapping[str, Draw]:
        """What is told rightly, what stays, and what is left of what was gained."""
        return {"facts/followed": self._curves} if len(self.history) else {}

    def _curves(self) -> Figure:
        told = {name.replace("_", " "): FACT_SUCCESS.key(name) for name in self.sets}
        told |= {name: one.key() for name, one in _OF_SET.items() if name in self.facts}
        told["a random candidate"] = CHANCE.of(FACT_SUCCESS).key(_FACTS)
        panels = {
            "told rightly (share)": told,
            "as at the first reading (share)": {_NEIGHBOURS: FACT_LOCALITY.key()},
            FACT_KL.title: {name: FACT_KL.key(name) for name in self.axes()[TEXTS]},
            FACT_EFFECTIVITY.title: {name.replace("_", " "): FACT_EFFECTIVITY.key(name) for name in self.sets},
            FACT_RETENTION.title: {name.replace("_", " "): FACT_RETENTION.key(name) for name in self.sets},
        }
        lines = {
            title: {label: self.history.series(self.full_key(key)) for label, key in of.items()}
            for title, of in panels.items()
        }
        drawn = {title: {label: line for label, line in of.items() if line[0]} for title, of in lines.items()}
        return measure_curves({title: of for title, of in drawn.items() if of}, "Facts that training puts in")
