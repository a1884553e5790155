"""A part: texts of a validation run, run again while each query of attention keeps only some of its keys."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import groupby
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_interp.batches.contents import Key, look_up
from lightning_interp.batches.reader import ReadBatch
from lightning_interp.distributed import Collective, Sums, rank_in, world_size
from lightning_interp.functional.attention_budget import POLICIES, kept_keys, renormalised
from lightning_interp.functional.induction import loss_by_position
from lightning_interp.isolation.seen import Seen
from lightning_interp.language.batching import dealt
from lightning_interp.language.id_range import check_predicted
from lightning_interp.language.likelihood import Forward, eval_mode, model_device, model_logits
from lightning_interp.parts.head_sites import HeadSites
from lightning_interp.parts.id_sequences import IdSequences, gathered_texts
from lightning_interp.reading.reading import Reading
from lightning_interp.sites.attention_call import AttentionCall

__all__ = ["Budget", "BudgetedTexts", "Found", "Texts", "checked_budgets"]

_SHORTEST = 3  # tokens of a text whose later half has a next token

Texts = list[Tensor]
"""Ids, and whether each is marked, int64 (T, 2): texts in their order in the data set."""


class Budget(NamedTuple):
    """How many keys a query keeps, and by what they are chosen."""

    policy: str
    k: int

    @property
    def name(self) -> str:
        """What keys call it."""
        return f"{self.policy}/{self.k}"


class Found(NamedTuple):
    """What budgets gave: of one rank sums, of all ranks means; not numbers where there is no text."""

    losses: Tensor
    """Without a budget and with each, nats a token, (1 + budgets,)."""
    mass: Tensor
    """Share of attention that is kept, of the model as it is, (budgets,)."""
    keys: Tensor
    """Share of keys that are kept, likewise."""
    number: Tensor
    """Of losses, and of rows of attention, (2,)."""


class BudgetedTexts(IdSequences):
    """Runs texts of the validation run through a language model with its attention on a budget.

    Texts are gathered from all ranks and dealt in batches of one length, so that nothing is padded and each batch is
    computed as by one process.

    Args:
        budgets: What queries keep.
        first: How many first keys ``recent_first`` keeps.
        anchors: Where a batch marks positions, bool (B, T).
        min_length: Texts of fewer tokens are left out.
        seed: Of random keys.
        model, forward, batch_tokens: See :class:`~lightning_interp.parts.id_sequences.IdSequences`.

    Raises:
        ValueError: If an argument is out of range; when attached, if the name matches nothing or parameters are sharded
            over ranks.

    """

    reads_batches = True

    def __init__(
        self,
        budgets: Sequence[Budget],
        first: int = 1,
        anchors: Key | None = None,
        min_length: int = _SHORTEST,
        seed: int = 0,
        model: str = "",
        forward: Forward | None = None,
        batch_tokens: int = 4096,
    ) -> None:
        super().__init__(model, forward, batch_tokens)
        if first < 1:
            raise ValueError(f"`first` must be at least 1, got {first}.")
        if min_length < _SHORTEST:
            raise ValueError(f"`min_length` must be at least {_SHORTEST}, got {min_length}.")
        if (anchors is not None) != any(one.policy == "anchors" for one in budgets):
            raise ValueError(
                f"`anchors` says which positions the policy 'anchors' keeps: both are given or none; got {anchors!r} "
                f"and the policies {sorted({one.policy for one in budgets})}."
            )
        self.budgets, self.first, self.anchors = list(budgets), first, anchors
        self.min_length, self.seed = min_length, seed
        self.forget()

    def begin(self, reading: Reading) -> None:
        """A reading starts."""
        self.forget()

    def forget(self) -> None:
        """The reading is over, or given up."""
        self._own: list[tuple[int, Tensor]] = []

    # ------------------------------------------------- texts

    def read(self, seen: Seen, words: ReadBatch) -> None:
        """Keep the selected texts of a batch that are long enough.

        Raises:
            ValueError: If the batch does not say its token ids, which of them are padding, or which are marked.

        """
        ids, real = words.text()
        marked = torch.zeros_like(ids)
        if self.anchors is not None:
            given = look_up(seen.batch, self.anchors, "anchors")
            if not isinstance(given, Tensor) or given.shape != ids.shape:
                told = tuple(given.shape) if isinstance(given, Tensor) else type(given).__name__
                raise ValueError(f"`anchors` must lead to a mask (B, T) = {tuple(ids.shape)}, got {told}.")
            marked = given.bool()
        columns = (seen.selection.of(one).cpu() for one in (ids, marked, real))
        for position, text, marks, here in zip(seen.selection.positions.tolist(), *columns, strict=True):
            if int(here.sum()) >= self.min_length:
                self._own.append((position, torch.stack([text[here].long(), marks[here].long()], 1)))

    def texts(self) -> Collective[Texts]:
        """Those of all ranks, in their order in the data set."""
        return (yield from gathered_texts(self._own, 2))

    # ------------------------------------------------- running them

    def sums(self, texts: Texts, heads: HeadSites, group: Any = None) -> Found:
        """What this rank's share of the texts gives, as the model is now."""
        model, number = self.model, len(self.budgets)
        found = Found(*(torch.zeros(size, dtype=torch.float64) for size in (1 + number, number, number, 2)))
        own = dealt(list(self._batches(texts)), (rank_in(group), world_size(group)))
        if own:
            with eval_mode(model):
                for batch in own:
                    ids, marked = batch.to(model_device(model)).unbind(-1)
                    self._run(ids, marked.bool(), heads, found)
        return found

    def means(self, own: Found) -> Collective[Found]:
        """The same over all ranks."""
        losses, mass, keys, number = yield Sums(own)
        return Found(losses / number[0], mass / number[1], keys / number[1], number)

    def _batches(self, texts: Texts) -> Iterator[Tensor]:
        """Texts of one length, side by side: (B, T, 2)."""
        for length, alike in groupby(sorted(texts, key=len), len):
            yield from torch.split(torch.stack(list(alike)), max(1, self.batch_tokens // length))

    def _run(self, ids: Tensor, marked: Tensor, heads: HeadSites, found: Found) -> None:
        """Add what one batch gives, without a budget and with each."""
        late = slice(ids.shape[1] // 2, ids.shape[1] - 1)

        def loss() -> Tensor:
            logits = model_logits(self.model, ids, torch.ones_like(ids), self.forward)
            check_predicted(ids, logits, self.name)
            sums, _ = loss_by_position(logits, ids, torch.ones_like(ids, dtype=torch.bool))
            return sums[late].sum().double().cpu()

        def weigh(site: str, call: AttentionCall) -> None:
            weights, seen = call.weights[:, :, late], self._seen(call)[:, :, late]
            rows = seen.any(-1)
            found.number[1] += rows.sum().cpu()
            for place, budget in enumerate(self.budgets):
                kept = keep(budget, site, call)[:, :, late]
                for total, of in ((found.mass, torch.where(seen, weights, 0.0)), (found.keys, seen.float())):
                    share = (of * kept).sum(-1) / of.sum(-1)
                    total[place] += share[rows].double().sum().cpu()

        def keep(budget: Budget, site: str, call: AttentionCall) -> Tensor:
            if call.shape[2] != call.shape[3] or call.shape[0] != len(ids):
                raise ValueError(
                    f"site {site!r} attends with {call.shape[2]} queries of {call.shape[0]} texts to {call.shape[3]} "
                    f"keys, where {len(ids)} texts of one length attend to themselves: leave it out of `sites`."
                )
            seed = (self.seed << 16) + list(heads.names).index(site)
            return kept_keys(call.weights, call.visible, *budget, self.first, marked, seed=seed)

        def replace(budget: Budget, site: str, call: AttentionCall) -> Tensor | None:
            kept = keep(budget, site, call)
            # Where nothing is left out the model's own computation goes on, to the last digit.
            return None if torch.equal(kept, self._seen(call)) else renormalised(call.weights, kept)

        with heads.tap.reading(weigh):
            found.losses[0] += loss()
        found.number[0] += len(ids) * (late.stop - late.start)
        for place, budget in enumerate(self.budgets):
            replaces: Callable[[str, AttentionCall], Tensor | None] = partial(replace, budget)
            with heads.tap.reading(replace=replaces):
                found.losses[1 + place] += loss()

    @staticmethod
    def _seen(call: AttentionCall) -> Tensor:
        return call.visible.expand(call.shape)


def checked_budgets(policies: object) -> list[Budget]:
    """Budgets of policies, ``{"top": [8]}``.

    Raises:
        ValueError: If it is no mapping from policies to lists of numbers from 1 on, or there is none.

    Example:
        >>> [one.name for one in checked_budgets({"top": [8, 32], "random": [8]})]
        ['top/8', 'top/32', 'random/8']

    """
    if not isinstance(policies, Mapping) or not policies:
        raise ValueError(f"`policies` must map policies to numbers of keys, {{'top': [8]}}; got {policies!r}.")
    found: list[Budget] = []
    for policy, numbers in policies.items():
        if policy not in POLICIES:
            raise ValueError(f"`policies` names {policy!r}; there are {list(POLICIES)}.")
        whole = isinstance(numbers, list | tuple) and all(type(k) is int and k >= 1 for k in numbers)
        if not whole or not numbers:
            raise ValueError(f"`policies` must list numbers of keys from 1 on for {policy!r}, got {numbers!r}.")
        found += [Budget(policy, k) for k in dict.fromkeys(numbers)]
    return found
