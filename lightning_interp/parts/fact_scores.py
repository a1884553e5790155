"""A part: facts with every candidate, scored by what a causal language model makes of the candidate alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lightning_interp.distributed import Collective, Maximum, Sums, rank_in, world_size
from lightning_interp.distributed.sharding import refuse_sharded
from lightning_interp.functional.evenly_spread import evenly_spread
from lightning_interp.language.continuations import Continuations, encode_continuations
from lightning_interp.language.digest import ids_digest
from lightning_interp.language.encoding import encode_sentences
from lightning_interp.language.id_range import check_ids
from lightning_interp.language.likelihood import eval_mode
from lightning_interp.language.scores import encoded_log_probs, last_log_probs
from lightning_interp.parts.language_model import LanguageModel
from lightning_interp.reading.part import Part
from lightning_interp.tasks.facts import BLANK, Fact

__all__ = ["FactScores", "Scored"]


@dataclass(frozen=True)
class Scored:
    """What a model makes of sets of facts, and of what comes behind texts."""

    log_probs: Mapping[str, Tensor]
    """By set, the summed log-probability of each candidate's tokens, float64 (N, K); −inf where a fact has fewer."""
    means: Mapping[str, Tensor]
    """The same over the number of tokens."""
    next_tokens: Mapping[str, Tensor]
    """By name of texts, log-probabilities of the token behind each, float32 (M, V)."""


@dataclass(frozen=True, eq=False)
class _Attached:
    """The language model of a module, and facts and texts as it takes them."""

    model: nn.Module
    padding: int
    told: Mapping[str, Sequence[Continuations]]
    texts: Mapping[str, Sequence[Tensor]]

    @property
    def ids(self) -> list[Tensor]:
        """All of them."""
        facts = [ids for some in self.told.values() for one in some for ids in one.ids]
        return [*facts, *(one for some in self.texts.values() for one in some)]


class FactScores(Part):
    """Scores what fills the blank of facts, given what stands before it; whole batches are dealt over ranks.

    What stands behind the blank is left out. The model runs in evaluation mode, without gradients and autocast, and is
    left as it was.

    Args:
        facts: By name of a set, facts with their candidates.
        lm: The language model.
        stays: Sets of facts whose text before the blank is read for what comes next.
        texts: By name, texts that are read for the same.
        most: Of each of these, how many, evenly spread.

    Raises:
        ValueError: If an argument is out of range; when attached, if a name matches nothing, the tokenizer cannot tell
            candidates apart, or parameters are sharded over ranks.

    Cost: a forward pass over facts × candidates sentences, and over the texts.

    Example:
        >>> from lightning_interp.distributed import over_ranks
        >>> letters = lambda text: [ord(letter) - 96 for letter in text]
        >>> scores = FactScores({"facts": [Fact("r", "ab___", "c", ("d",))]}, LanguageModel(letters))
        >>> scores.attach(nn.Embedding.from_pretrained(torch.zeros(5, 5)))
        >>> over_ranks(scores.read()).means["facts"]
        tensor([[-1.6094, -1.6094]], dtype=torch.float64)

    """

    attached = ("_found",)

    def __init__(
        self,
        facts: Mapping[str, Sequence[Fact]],
        lm: LanguageModel = LanguageModel(),  # noqa: B008 - it is frozen
        stays: Sequence[str] = (),
        texts: Mapping[str, Sequence[str]] | None = None,
        most: int = 32,
    ) -> None:
        if most < 1:
            raise ValueError(f"`most` must be at least 1, got {most}.")
        lm.starts_with_bos()
        self.facts, self.lm, self.stays, self.texts, self.most = facts, lm, stays, texts or {}, most
        self._found: _Attached | None = None

    def attach(self, model: nn.Module) -> None:
        """Find the language model and its tokenizer, and turn facts and texts into ids."""
        lm, tokenizer, padding = self.lm.find(model)
        refuse_sharded(lm, "facts")
        start = self.lm.starts_with_bos(), self.lm.bos_token_id

        def encoded(fact: Fact) -> Continuations:
            before = fact.prompt.partition(BLANK)[0]
            return encode_continuations(tokenizer, before, [before + one for one in fact.candidates], *start)

        told = {name: [encoded(fact) for fact in facts] for name, facts in self.facts.items()}
        texts: dict[str, Sequence[Tensor]] = {}
        for name in self.stays:
            texts[name] = self._spread([one.ids[0][: one.first] for one in told[name]])
        for name, own in self.texts.items():
            texts[name] = self._spread(encode_sentences(tokenizer, own, *start))
        self._found = _Attached(lm, padding, told, texts)
        check_ids(lm, self._found.ids)

    def _spread(self, texts: Sequence[Tensor]) -> list[Tensor]:
        return [texts[place] for place in evenly_spread(len(texts), self.most)]

    def detach(self) -> None:
        """Let go of the model."""
        self._found = None

    def keeps(self) -> Sequence[object]:
        """What keeps arguments of the callback: itself, and the language model."""
        return self, self.lm

    @property
    def digest(self) -> bytes:
        """What tells facts and texts from others."""
        assert self._found is not None
        sizes = [len(one) for one in (*self._found.told.values(), *self._found.texts.values())]
        return ids_digest(self._found.ids, sizes)

    def read(self, group: Any = None) -> Collective[Scored]:
        """Score the batches of this rank, and merge.

        Args:
            group: The process group over which batches are dealt.

        """
        found, lm = self._found, self.lm
        assert found is not None
        share = rank_in(group), world_size(group)
        told = [one for facts in found.told.values() for one in facts]
        encoded = [ids for one in told for ids in one.ids]
        first = torch.tensor([one.first for one in told for _ in one.ids])
        texts = [one for some in found.texts.values() for one in some]
        how = lm.batch_tokens, lm.forward, found.padding, share
        with eval_mode(found.model):
            scores = encoded_log_probs(found.model, encoded, *how, first)
            behind = last_log_probs(found.model, texts, *how) if texts else {}
        words: Tensor = yield Maximum(torch.tensor(max(map(len, behind.values()), default=0)))
        table = torch.zeros(len(texts), int(words))
        for place, row in behind.items():
            table[place] = row
        # Each rank has its own batches, and zeros elsewhere.
        scores, table = yield Sums([scores, table])
        sizes = [len(one.ids) for one in told]
        valid = torch.arange(max(sizes)) < torch.tensor(sizes)[:, None]
        lengths = torch.tensor([length for one in told for length in one.lengths], dtype=torch.float64)
        sums, means = (
            torch.full(valid.shape, -torch.inf, dtype=torch.float64).masked_scatter(valid, one)
            for one in (scores, scores / lengths)
        )
        cuts = [len(facts) for facts in found.told.values()]
        by_set = [dict(zip(found.told, torch.split(one, cuts), strict=True)) for one in (sums, means)]
        rows = torch.split(table, [len(some) for some in found.texts.values()])
        return Scored(by_set[0], by_set[1], dict(zip(found.texts, rows, strict=True)))
