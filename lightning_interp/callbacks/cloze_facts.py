"""Whether a language model fills the blank of a fact rightly, by relation, and since when."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Unpack

import torch
from torch import Tensor, nn

from lightning_interp.distributed import Collective
from lightning_interp.functional.acquisition import LearnedCurve
from lightning_interp.functional.binomial import binomial_se
from lightning_interp.functional.design_effect import effective_count
from lightning_interp.functional.ranking import ranking_measures
from lightning_interp.language.encoding import Tokenizer
from lightning_interp.language.likelihood import Forward
from lightning_interp.metrics.derived import STANDARD_ERROR
from lightning_interp.metrics.measure import SUMMARY, Measure
from lightning_interp.metrics.measures.geometry import NONFINITE
from lightning_interp.metrics.measures.tasks import (
    CLOZE_ACCURACY,
    CLOZE_ACQUIRED,
    CLOZE_CHANCE,
    CLOZE_FREQUENCY,
    CLOZE_MAJORITY,
    CLOZE_MARGIN,
    CLOZE_MRR,
    RELATIONS_ACQUIRED,
)
from lightning_interp.parts.acquisition import Acquisition
from lightning_interp.parts.language_model import LanguageModel, one_language_model
from lightning_interp.parts.sentence_scores import Kind, SentenceScores
from lightning_interp.reading.analysis import Draw, ValidationAnalysis
from lightning_interp.reading.argument_names import refuse_unknown_arguments
from lightning_interp.reading.arguments import AnalysisArgs
from lightning_interp.reading.reading import Reading
from lightning_interp.tasks.cloze import encode_cloze, mask_cloze
from lightning_interp.tasks.facts import Fact, draw_facts, frequency_share, majority_share, with_candidates
from lightning_interp.tasks.load_facts import Facts, load_facts

__all__ = ["ClozeFacts"]

_RESERVED = ("mean", "se")
_MEASURES = ("accuracy", "mrr", "margin")


class ClozeFacts(ValidationAnalysis):
    r"""Reads which of several candidates a language model puts into the blank of a fact, by relation.

    The cloze facts of Petroni et al. 2019 (LAMA, arXiv 1909.01066), over candidates instead of the whole vocabulary,
    followed through training as by Liu et al. 2021 (arXiv 2104.07885). A candidate's score s is

    * of a causal model, the log-probability of the filled sentence. What stands before the blank is the same for all
      candidates, so they are ranked by Σ log p of their own tokens and of those that follow the blank;
    * of a masked model, Σ log p of the candidate's tokens, each predicted while it and the candidate's later tokens are
      masked (:func:`mask_cloze`).

    Both are sums, so of candidates of unequal length the shorter has an advantage. For each fact, with a the answer,

    .. math:: \mathrm{P@1} = [s(a) > \max_{c \ne a} s(c)], \quad \mathrm{RR} = 1 / \mathrm{rank}(a), \quad
        m = s(a) - \max_{c \ne a} s(c)

    where ties count as a random order of the tied would (:func:`ranking_measures`). Nothing is read of the validation
    batches; each reading takes the same facts and candidates.

    ==================================  =======  =====================================================================
    key                                 level    what it is
    ==================================  =======  =====================================================================
    ``cloze_accuracy/<relation>``       summary  P@1, mean over the facts of the relation
    ``cloze_mrr/<relation>``            full     mean reciprocal rank
    ``cloze_margin/<relation>``         full     m in nats, mean
    ``cloze_accuracy/mean``             summary  mean over relations; ``cloze_margin/mean`` too
    ``cloze_mrr/mean``                  full     mean over relations
    ``relations_acquired``              summary  relations that are acquired now; conditional
    ``cloze_acquired/<relation>``       full     first step from which P@1 was at least half way from the baseline to 1
                                                 at every reading up to now (``threshold``); conditional
    ``cloze_majority/<relation>``       full     P@1 of the most frequent answer of the relation
    ``cloze_frequency/<relation>``      full     P@1 of the most frequent of a fact's candidates, by how often each is
                                                 an answer of the relation (:func:`frequency_share`)
    ``cloze_chance/<relation>``         full     P@1 of a random candidate
    ``cloze_accuracy/<relation>/se``    full     standard error of the facts drawn (:func:`binomial_se`), if
                                                 ``standard_errors``; ``cloze_accuracy/mean/se`` too. Facts of one
                                                 prompt count by their :func:`effective_count`
    ``nonfinite/facts``                 full     facts without a score; they leave their relation's values undefined
    ==================================  =======  =====================================================================

    The baseline is what knows nothing of who a fact is about: the largest of majority, frequency and chance. Where
    candidates are drawn, the most frequent answer is often not among them, and a common answer among drawn ones is
    usually the commonest, so that frequency is far above majority; where all answers are candidates they are equal.
    Conditional keys are undefined outside a fit, and
    ``cloze_acquired`` while the accuracy is below its level. :meth:`order` has the acquisition by the final level, with
    the readings it lies between, :meth:`summary` the same as text.

    Args:
        facts: Facts; the path of a table (:func:`read_facts`); or a function that returns facts, or its dotted name.
        tokenizer: As for :class:`~lightning_interp.MinimalPairs`; for a masked model a fast one of transformers.
        model: Dotted name of the language model in the module; ``""`` for the module itself.
        kind: ``"causal"`` or ``"masked"``.
        forward: Calls that model in its stead: ``forward(model, input_ids, attention_mask)`` → logits (B, T, V).
        max_facts: Facts to read of each relation, drawn once from the seed; all where there are no more, or
            for ``None``.
        candidates: Candidates of a fact that comes without, its answer among them, drawn once from the answers of its
            relation; all of them for ``None``.
        threshold: The share of the way from the baseline to 1 from which on a relation counts as acquired.
        standard_errors: Whether standard errors are read too.
        seed: Of what is drawn.
        batch_tokens: Tokens in a forward pass, padding included.
        add_bos: Of causal models, whether a start token is put in front; by default where the tokenizer has one.
        bos_token_id: The start token; the tokenizer's own by default.
        lm: Instead of ``tokenizer``, ``model``, ``forward``, ``batch_tokens`` and ``bos_token_id``, all of them.
        kwargs: Arguments of :class:`~lightning_interp.callbacks.ValidationAnalysis`, except ``max_examples``,
            ``dataloader_idx`` and ``batch_size``.

    Raises:
        ValueError: If an argument is out of range, a name matches nothing, a relation has one answer and no candidates,
            a name has a slash or is ``mean`` or ``se``, the tokenizer cannot tell two candidates apart, or parameters
            are sharded over ranks.

    Cost: a forward pass over facts × candidates sentences; of a masked model, over one for each token of each
        candidate. Over ranks whole batches are dealt out, so that each is computed as one process would.

    Example:
        >>> from lightning_interp.tasks import WordTokenizer, fact_world
        >>> world = fact_world(people=10, relations=["pet"])
        >>> callback = ClozeFacts(world.facts, WordTokenizer(world.words), model="lm")
        >>> callback.logged_keys()[:4]
        ['cloze_accuracy/mean', 'cloze_margin/mean', 'relations_acquired', 'cloze_accuracy/pet']

    """

    def __init__(
        self,
        facts: Facts,
        tokenizer: str | Path | Tokenizer = "tokenizer",
        model: str = "",
        kind: Kind = "causal",
        forward: Forward | None = None,
        max_facts: int | None = 100,
        candidates: int | None = 20,
        threshold: float = 0.5,
        standard_errors: bool = False,
        seed: int = 0,
        batch_tokens: int = 4096,
        add_bos: bool | None = None,
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
        if not 0 < threshold <= 1:
            raise ValueError(f"`threshold` must lie above 0 and not above 1, got {threshold}.")
        self.threshold = threshold
        self.standard_errors = standard_errors
        self.seed = seed
        found = with_candidates(load_facts(facts, reserved=_RESERVED), candidates, seed)
        self.facts = draw_facts(found, max_facts, seed)
        """The facts that are read, with their candidates, relation by relation."""
        self._of: dict[str, list[Fact]] = {}
        for fact in self.facts:
            self._of.setdefault(fact.relation, []).append(fact)
        self._baselines = {
            name: {
                "majority": majority_share(of),
                "chance": math.fsum(1 / len(fact.candidates) for fact in of) / len(of),
                "frequency": frequency_share(of, [fact for fact in found if fact.relation == name]),
            }
            for name, of in self._of.items()
        }
        self.scores = SentenceScores(
            one_language_model(
                lm,
                tokenizer=tokenizer,
                model=model,
                forward=forward,
                batch_tokens=batch_tokens,
                bos_token_id=bos_token_id,
            ),
            partial(encode_cloze, facts=self.facts),
            partial(mask_cloze, facts=self.facts),
            kind,
            add_bos,
        )
        """Every fact with every candidate, and their scores."""
        self.acquisition = Acquisition(
            {name: f"cloze_accuracy/{name}" for name in self._of},
            {name: max(levels.values()) for name, levels in self._baselines.items()},
            "facts",
            "P@1",
        )
        """When each relation was acquired; its level of chance is the largest of majority, frequency and chance."""

    def identity(self) -> dict[str, Any]:
        """Tells instances apart by what they read."""
        return {"relations": list(self._of), "model": self.scores.lm.model, "seed": self.seed, "prefix": self.prefix}

    # ------------------------------------------------- keys

    def declares(self) -> list[Measure]:
        """Accuracy, rank, margin and acquisition over all and of relations, and what knows nothing."""
        mean = CLOZE_ACCURACY.at(end="mean")
        errors = [STANDARD_ERROR.of(one) for one in (mean, CLOZE_ACCURACY)] if self.standard_errors else []
        return [
            *(mean, CLOZE_MRR.at(end="mean"), CLOZE_MARGIN.at(end="mean", level=SUMMARY), RELATIONS_ACQUIRED),
            *(CLOZE_ACCURACY, CLOZE_MRR, CLOZE_MARGIN, CLOZE_ACQUIRED),
            *(CLOZE_MAJORITY, CLOZE_FREQUENCY, CLOZE_CHANCE, *errors, NONFINITE.at(end="facts")),
        ]

    def axes(self, model: nn.Module | None = None) -> dict[str, Sequence[str]]:
        """The relations."""
        return {"relation": list(self._of)}

    # ------------------------------------------------- reading

    def merge(self, reading: Reading) -> Collective[Mapping[str, Tensor | float]]:
        """Score the sentences, and compute."""
        return self.from_scores((yield from self.scores.read(reading)))

    def from_scores(self, scores: Tensor) -> Mapping[str, float]:
        """Accuracies, ranks and margins of relations, and since when they are known.

        Args:
            scores: Of every fact with every candidate, fact by fact, in nats, float64 (sentences,).

        """
        sizes = [len(fact.candidates) for fact in self.facts]
        valid = torch.arange(max(sizes)) < torch.tensor(sizes)[:, None]
        table = torch.zeros(valid.shape, dtype=torch.float64).masked_scatter(valid, scores.cpu())
        answers = torch.tensor([fact.candidates.index(fact.answer) for fact in self.facts])
        found = ranking_measures(table, answers, valid)
        counts = [len(of) for of in self._of.values()]
        parts: list[Sequence[Tensor]] = [one.split(counts) for one in found]  # type: ignore[no-untyped-call]
        by_relation = [[float(part.mean()) for part in one] for one in parts]
        values = {"nonfinite/facts": float(found.first.isnan().sum())}
        for what, numbers in zip(_MEASURES, by_relation, strict=True):
            values[f"cloze_{what}/mean"] = float(torch.tensor(numbers, dtype=torch.float64).nanmean())
            values |= {f"cloze_{what}/{name}": number for name, number in zip(self._of, numbers, strict=True)}
        for name, levels in self._baselines.items():
            values |= {f"cloze_{what}/{name}": level for what, level in levels.items()}
        if self.standard_errors:
            # Facts of one prompt are not independent.
            known = [
                (name, share, effective_count(right, [fact.prompt for fact in of]))
                for (name, of), share, right in zip(self._of.items(), by_relation[0], parts[0], strict=True)
                if not math.isnan(share)
            ]
            values |= {f"cloze_accuracy/{name}/se": binomial_se([share], [count]) for name, share, count in known}
            if known:
                _, shares, numbers_read = zip(*known, strict=True)
                values["cloze_accuracy/mean/se"] = binomial_se(shares, numbers_read)
        if self.step is not None:
            chance = self.acquisition.chance_levels()
            levels = {name: low + self.threshold * (1 - low) for name, low in chance.items()}
            since = self.acquisition.since(self, values, levels)
            values |= {f"cloze_acquired/{name}": step for name, step in since.items()}
            values["relations_acquired"] = float(sum(not math.isnan(step) for step in since.values()))
        return values

    # ------------------------------------------------- what was acquired when

    def order(self, share: float = 0.9) -> list[LearnedCurve]:
        """The relations by when they were acquired; see :meth:`lightning_interp.parts.acquisition.Acquisition.order`.

        Args:
            share: Of the final level above the baseline.

        """
        return self.acquisition.order(self, share)

    def summary(self, share: float = 0.9) -> str:
        """:meth:`order` as a table of text, a line each.

        Args:
            share: Of the final level above the baseline.

        """
        return self.acquisition.summary(self, share)

    def figures(self) -> Mapping[str, Draw]:
        """P@1 as a heat map, and when each relation was acquired."""
        return self.acquisition.figures(self)
