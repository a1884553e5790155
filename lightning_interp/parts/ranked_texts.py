"""A part: texts of a validation run, run again without the words that a ranking puts first."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from numbers import Integral
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from lightning_interp.distributed import Collective
from lightning_interp.functional.ablation import prediction_scores
from lightning_interp.functional.attention import rollout
from lightning_interp.functional.elicited import distinct_levels
from lightning_interp.functional.faithfulness import (
    comprehensiveness,
    decision_flip,
    flip_fraction,
    fractions_kept,
    leading_tokens,
    rank_agreement,
    removal_orders,
    sufficiency,
)
from lightning_interp.isolation.guards import seed_at
from lightning_interp.language.likelihood import eval_mode, model_device
from lightning_interp.parts.ablated_texts import SITE, AblatedText, AblatedTexts, Around, Without
from lightning_interp.parts.ablation_measures import summed
from lightning_interp.parts.head_sites import HeadSites

__all__ = ["FOUND", "Explain", "Rank", "Ranked", "RankedTexts"]

Rank = Literal["ablation", "gradient", "rollout", "explanation"] | Callable[[nn.Module, Tensor, Tensor], Tensor]
"""By what words are ranked: removal, gradient × input, rollout, what the model says of itself, or a function of (model,
ids (B, T), mask (B, T)) → scores (B, T)."""
Explain = Callable[[nn.Module, list[str]], tuple[Sequence[float] | None, int | None]]
"""(model, words of a text) → a score of each word, ``None`` where none could be read, and the class that the model says
where it is asked so, ``None`` where it says none."""
FOUND = ("comprehensiveness", "sufficiency", "decision_flip", "flip_fraction", "rank_agreement")
"""What is found of each text, in the order of columns."""
_NAMES = ("ablation", "gradient", "rollout", "explanation")


class Ranked(NamedTuple):
    """What is found of a text by its ranking."""

    faithful: Tensor
    """What :data:`FOUND` names, of the ranking and of random orders, float64 (2, 5)."""
    levels: float = math.nan
    """How many different scores its words have."""
    own: int = -1
    """The class that the model predicts."""
    said: int = -1
    """The class that it says with its explanation, −1 for none."""
    unread: bool = False
    """Whether its explanation could not be read."""

    @property
    def row(self) -> Tensor:
        """All of it, float64 (14,)."""
        rest = torch.tensor([self.levels, self.own, self.said, self.unread], dtype=torch.float64)
        return torch.cat([self.faithful.flatten(), rest])

    @classmethod
    def of(cls, row: Tensor) -> Ranked:
        """From such a row."""
        levels, own, said, unread = row[-4:].tolist()
        return cls(row[:-4].view(2, -1), levels, int(own), int(said), bool(unread))


class RankedTexts(AblatedTexts):
    """Takes words from texts in the order of a ranking, and in random orders.

    Args:
        rank: The ranking.
        orders: How many orders are drawn: of words with equal scores, and at random.
        rollout_from: The position whose rollout is taken; by default that of the token that is predicted, and the mean
            over all of a classifier.
        explain: Of ``"explanation"``, asks the model.
        without: How words are left out; ``how``: see :class:`~lightning_interp.parts.ablated_texts.AblatedTexts`.

    Raises:
        ValueError: If an argument is out of range, also of
            :class:`~lightning_interp.parts.ablated_texts.AblatedTexts`.

    """

    attached = (*AblatedTexts.attached, "_heads")

    def __init__(
        self,
        rank: Rank,
        orders: int,
        without: Without,
        rollout_from: int | None = None,
        explain: Explain | None = None,
        **how: Any,
    ) -> None:
        if not callable(rank) and rank not in _NAMES:
            raise ValueError(
                f"`rank` must be one of {list(_NAMES)}, or a function of (model, input_ids, attention_mask), got "
                f"{rank!r}."
            )
        if orders < 1:
            raise ValueError(f"`orders` must be at least 1, got {orders}.")
        if rollout_from is not None and (rank != "rollout" or type(rollout_from) is not int):
            raise ValueError(
                f"`rollout_from` is the position of rank='rollout': it is {rollout_from!r}, and `rank` is {rank!r}."
            )
        if (rank == "explanation") != callable(explain):
            raise ValueError(
                "`explain` is the function of rank='explanation' that asks the model, called with the model and the "
                f"words of a text: it is {explain!r}, and `rank` is {rank!r}."
            )
        super().__init__(without, **how, embeds=rank == "gradient")
        if explain is not None and self.decode is None:
            raise ValueError("rank='explanation' asks for words as text: give `decode`, token ids → text.")
        self.rank, self.orders, self.rollout_from, self.explain = rank, orders, rollout_from, explain
        self._heads: HeadSites | None = None

    def attach(self, model: nn.Module) -> None:
        """Find the model, and what embeds or attends in it."""
        super().attach(model)
        if self.rank == "rollout":
            name = type(self.model).__name__
            if getattr(getattr(self.model, "config", None), "is_encoder_decoder", False):
                raise ValueError(
                    f"rank='rollout' is of one stack of self-attention, and {name} has an encoder and a decoder: give "
                    "a function."
                )
            self._heads = HeadSites()
            try:
                self._heads.attach(self.model)
            except ValueError as error:
                raise ValueError(
                    f"rank='rollout' is of attention, and no module of {name} is named after it: give a function."
                ) from error

    def detach(self) -> None:
        """Let go of the model."""
        if self._heads is not None:
            self._heads.detach()
        self._heads = None
        super().detach()

    def measured(self, texts: Sequence[AblatedText], group: Any = None) -> Collective[list[Ranked]]:
        """What is found of each text, the same on all ranks.

        It is not a number for a text whose scores or probabilities are none.
        """
        found = [torch.zeros(2 * len(FOUND) + 4, dtype=torch.float64) for _ in texts]
        for place, one in self.dealt(texts, self._measured, group).items():
            found[place] = one.row
        return [Ranked.of(row) for row in (yield from summed(found))]

    def _measured(self, text: AblatedText, around: Around) -> Ranked:
        n = len(text.words)
        full, single = self._probabilities(text, text.words, around)
        target = int(full.argmax())
        drops = full[target] - single[:, target]
        said: int | None = None
        given: Tensor | None = drops
        if self.rank == "explanation":
            given, said = self._explained(text, around.place)
        elif self.rank != "ablation":
            given = self._scores(text, target)
        scores = torch.full_like(drops, torch.nan) if given is None else given
        levels = math.nan if given is None else float(distinct_levels(given))
        of_text = (levels, target, -1 if said is None else said, given is None)
        if not bool(torch.cat([full, scores, drops]).isfinite().all()):
            return Ranked(torch.full((2, len(FOUND)), torch.nan, dtype=torch.float64), *of_text)
        draw = partial(removal_orders, draws=self.orders, seed=self.seed, samples=torch.tensor([around.place]))
        orders = torch.cat([draw(scores), draw(torch.zeros(n))])
        counts = fractions_kept(n)
        # Without the first 1 to n − 1, and with only so many; of nothing there would be no prediction.
        removed, kept = leading_tokens(orders, torch.arange(1, n)), leading_tokens(orders, counts)
        sets = torch.cat([removed, ~kept], 1)
        different, which = torch.unique(sets.flatten(0, 1), dim=0, return_inverse=True)
        gone = (different[:, :, None] & text.words).any(1)
        _, found = self._probabilities(text, gone, around)
        p, classes = (one[which].view(sets.shape[:2]) for one in (found[:, target], found.argmax(1)))
        decision = torch.full((len(orders), 1), target)
        # Spearman of one order's places is that of a ranking without ties.
        agreement = rank_agreement(-orders.argsort(-1).double(), drops.expand(len(orders), n))
        agreement[: self.orders] = rank_agreement(scores, drops)
        columns = [
            comprehensiveness(full[target], p[:, counts - 1]),
            sufficiency(full[target], p[:, n - 1 :]),
            decision_flip(decision[:, 0], classes[:, 0]),
            # All removed is a share of 1, flip or not.
            flip_fraction(torch.cat([decision, classes[:, : n - 1], decision], 1)),
            agreement,
        ]
        faithful = torch.stack([one.double() for one in columns], -1).view(2, self.orders, -1).mean(1)
        return Ranked(faithful, *of_text)

    def _probabilities(self, text: AblatedText, gone: Tensor, around: Around) -> tuple[Tensor, Tensor]:
        """Of the classes with the whole text, (C,), and without each set of positions, (R, C), mean over draws."""
        full, found = torch.zeros(0), torch.zeros(0)
        for which, logits in self.outcomes(text, gone, around):
            p = _two_or_more(logits).double().softmax(-1).cpu()
            if which[0] < 0:
                full, which, p = p[0], which[1:], p[1:]
                found = torch.zeros(len(gone), len(full), dtype=p.dtype)
            found.index_add_(0, which, p)
        return full, found / self.runs

    def _scores(self, text: AblatedText, target: int) -> Tensor:
        """Of each word what the ranking gives its positions, added up, float64 (n,)."""
        with eval_mode(self.model, gradients=True):
            # What was made in inference mode could be no part of a graph.
            ids = text.ids.clone()[None].to(model_device(self.model))
            mask = torch.ones_like(ids)
            if callable(self.rank):
                scores = self.rank(self.model, ids, mask)
            elif self.rank == "rollout":
                scores = self._rollout(ids, mask, text.at)
            else:
                scores = self._gradient_times_input(ids, mask, torch.tensor([text.at]), target)
        if not isinstance(scores, Tensor) or scores.shape != ids.shape:
            told = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
            raise ValueError(f"`rank` must return scores (B, T) = {tuple(ids.shape)}, and returned {told}.")
        return text.words.double() @ scores[0].detach().double().cpu()

    def _explained(self, text: AblatedText, place: int) -> tuple[Tensor | None, int | None]:
        """Of each word what the model says, float64 (n,), and the class that it says."""
        assert self.explain is not None
        assert self.decode is not None
        words = [self.decode(text.ids[word].tolist()).strip() for word in text.words]
        # The same at every reading and on any number of ranks.
        seed_at(place, self.seed)
        with torch.no_grad():
            given: Any = self.explain(self.model, words)
        if not isinstance(given, tuple) or len(given) != 2:
            raise ValueError(f"`explain` must return a pair (scores, class), and returned {type(given).__name__}.")
        scores, said = given
        if said is not None and (isinstance(said, bool) or not isinstance(said, Integral) or int(said) < 0):
            raise ValueError(f"`explain` must return the number of a class or None, and returned {said!r}.")
        if scores is not None:
            scores = torch.as_tensor(scores).detach().double().cpu()
            if scores.shape != (len(words),) or not bool(scores.isfinite().all()):
                raise ValueError(
                    f"`explain` must return a finite score of each of {len(words)} words, or None where they could not "
                    f"be read, and returned {scores.tolist()}."
                )
        return scores, None if said is None else int(said)

    def _rollout(self, ids: Tensor, mask: Tensor, at: int) -> Tensor:
        """Of each position how much of it reaches the position that predicts, (1, T)."""
        assert self._heads is not None
        weights: list[Tensor] = []  # in the order in which layers attend
        with self._heads.tap.reading(lambda site, call: weights.append(call.weights)), torch.no_grad():
            logits = self.logits(ids, mask)
        rows, position = rollout(weights), self.rollout_from
        if position is None and logits.dim() == 2:
            return rows.mean(1)
        position = at if position is None else position
        if not -ids.shape[1] <= position < ids.shape[1]:
            raise ValueError(f"`rollout_from` is {position}, and a text has {ids.shape[1]} tokens.")
        return rows[:, position]

    def _gradient_times_input(self, ids: Tensor, mask: Tensor, at: Tensor, target: int) -> Tensor:
        leaves: list[Tensor] = []

        def leaf(embedded: Tensor) -> Tensor:
            leaves.append(embedded.detach().requires_grad_())
            return leaves[-1]

        assert self._edit is not None
        with self._edit.changing(SITE, leaf, call=0):
            logits = self.prediction(ids, mask, at)
        self._check_embedded(leaves[0], ids)
        (gradient,) = torch.autograd.grad(prediction_scores(_two_or_more(logits), target).sum(), leaves[:1])
        return (gradient * leaves[0].detach()).sum(-1)


def _two_or_more(logits: Tensor) -> Tensor:
    """One logit is that of class 1 over class 0."""
    return torch.cat([torch.zeros_like(logits), logits], -1) if logits.shape[-1] == 1 else logits
