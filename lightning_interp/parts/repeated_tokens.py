"""A part: random tokens that repeat, what the heads of a model look at in them, and how well they are predicted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lightning_interp.distributed import Collective, Maximum, Sums
from lightning_interp.functional.induction import loss_by_position, pattern_chance, pattern_sums, repeated_sequences
from lightning_interp.language.context_length import context_length
from lightning_interp.language.likelihood import Forward
from lightning_interp.parts.head_sites import HeadSites
from lightning_interp.parts.id_sequences import IdSequences
from lightning_interp.reporting.plain_values import Settings
from lightning_interp.sites.attention_call import AttentionCall
from lightning_interp.sites.attention_tap import Rewrite

__all__ = ["PATTERNS", "Patterns", "RepeatedTokens"]

PATTERNS = ("prefix_matching", "duplicate_token", "previous_token")


@dataclass(frozen=True)
class Patterns:
    """What repeated tokens gave: of one rank sums over sequences, of all ranks means."""

    number: float
    """Sequences."""
    scores: dict[str, Tensor]
    """Site → (3, H), in the order of :data:`PATTERNS`."""
    put_out: dict[str, Tensor]
    """Site → what each head puts out, over all positions, (H, d); without sites where that is not seen."""
    losses: Tensor
    """Next-token losses by position, nats, (T − 1,)."""


class RepeatedTokens(IdSequences):
    """Fixed sequences [start, s, s, …, s] of random tokens, for a language model in the module that is trained.

    Args:
        ids: Ids to draw from; by default those between a fiftieth and half of the vocabulary, or all where these are
            fewer than 4 · ``length``.
        length: Tokens of s.
        repeats: How often s comes.
        sequences: How many sequences.
        start_token: Id in front; by default the ``bos_token_id`` of the model's ``config``, else the first of ``ids``.
        seed: Of the draw.
        model, forward, batch_tokens: See :class:`~lightning_interp.parts.id_sequences.IdSequences`.

    Raises:
        ValueError: If an argument is out of range; when attached, if the name matches nothing, parameters are sharded,
            there are too few ids, or the model's context is shorter than a sequence.

    """

    def __init__(
        self,
        ids: Sequence[int] | None = None,
        length: int = 25,
        repeats: int = 4,
        sequences: int = 16,
        start_token: int | None = None,
        seed: int = 0,
        model: str = "",
        forward: Forward | None = None,
        batch_tokens: int = 4096,
    ) -> None:
        super().__init__(model, forward, batch_tokens)
        pattern_chance(length, repeats)  # checks them
        if sequences < 1:
            raise ValueError(f"`sequences` must be at least 1, got {sequences}.")
        self.ids = None if ids is None else [int(one) for one in ids]
        self.length, self.repeats, self.sequences = length, repeats, sequences
        self.start_token, self.seed = start_token, seed
        self._drawn: Tensor | None = None

    @property
    def total(self) -> int:
        """Tokens of a sequence."""
        return 1 + self.length * self.repeats

    def attach(self, model: nn.Module) -> None:
        """Find the language model, and draw the sequences for its vocabulary."""
        super().attach(model)
        pool = _common_ids(self.model, 4 * self.length) if self.ids is None else self.ids
        told = getattr(getattr(self.model, "config", None), "bos_token_id", None)
        start = next(one for one in (self.start_token, told, pool[0]) if one is not None)
        longest = context_length(self.model)
        if longest is not None and self.total > longest:
            raise ValueError(
                f"a sequence of 1 + `length` · `repeats` = {self.total} tokens is longer than the model's context of "
                f"{longest}."
            )
        self._drawn = repeated_sequences(pool, self.length, self.repeats, self.sequences, int(start), self.seed)

    def settings(self) -> Settings:
        """The start token, which may be the model's."""
        return {} if self._drawn is None else {"start_token": int(self._drawn[0, 0])}

    def patterns(self, heads: HeadSites, group: Any = None, rewrite: Rewrite | None = None) -> Patterns:
        """What this rank's sequences give, as the model is now.

        Args:
            heads: The heads to read.
            group: The process group over which sequences are dealt.
            rewrite: Changes what heads put out; then heads are not read.

        """
        assert self._drawn is not None
        scores: dict[str, Tensor] = {}
        put_out: dict[str, Tensor] = {}
        number, total = 0.0, torch.zeros(self.total - 1, dtype=torch.float64)

        def take(site: str, call: AttentionCall) -> None:
            heads.saw(site, call.shape[1])
            found = pattern_sums(call.weights, self.length)
            here = torch.stack([found[name] for name in PATTERNS]).double().cpu() * call.shape[0]
            scores[site] = scores[site] + here if site in scores else here
            if call.value is not None:
                out = torch.einsum("bhs,bhsd->hd", call.weights.sum(2), call.value.float()).double().cpu()
                put_out[site] = put_out[site] + out if site in put_out else out

        def losses(ids: Tensor, logits: Tensor) -> None:
            nonlocal number, total
            number += len(ids)
            total = total + loss_by_position(logits, ids, torch.ones_like(ids, dtype=torch.bool))[0].double().cpu()

        def reading(work: Callable[[], object]) -> None:
            with heads.tap.reading(None if rewrite is not None else take, rewrite=rewrite):
                work()

        self.run(self._drawn, losses, group, reading)
        return Patterns(number, scores, put_out, total)

    def merged(self, own: Patterns, heads: HeadSites) -> Collective[Patterns]:
        """The same over all ranks, as means."""
        numbers = yield from heads.numbers()
        widest: Tensor = yield Maximum(torch.tensor([_width(own.put_out, site) for site in numbers]))
        widths = dict(zip(numbers, map(int, widest.tolist()), strict=True))
        scores = [_or_nothing(own.scores, site, (len(PATTERNS), heads_)) for site, heads_ in numbers.items()]
        put_out = [_or_nothing(own.put_out, site, (heads_, widths[site])) for site, heads_ in numbers.items()]
        number = torch.tensor(own.number, dtype=torch.float64)
        total, losses, *others = yield Sums([number, own.losses, *scores, *put_out])
        places = float(total) * self.total
        return Patterns(
            float(total),
            {site: one / total for site, one in zip(numbers, others, strict=False)},
            {site: one / places for site, one in zip(numbers, others[len(numbers) :], strict=True) if widths[site]},
            losses / total,
        )


def _width(put_out: dict[str, Tensor], site: str) -> int:
    return put_out[site].shape[1] if site in put_out else 0


def _or_nothing(given: dict[str, Tensor], site: str, shape: tuple[int, int]) -> Tensor:
    return given[site] if site in given else torch.zeros(shape, dtype=torch.float64)


def _common_ids(model: nn.Module, least: int) -> list[int]:
    """Ids of tokens that are neither the most common nor rare, as far as their order says so."""
    told = getattr(model, "get_input_embeddings", None)
    table: object = told() if callable(told) else None
    if table is None:
        table = next((one for one in model.modules() if isinstance(one, nn.Embedding)), None)
    number = getattr(table, "num_embeddings", None)
    if not isinstance(number, int):
        raise ValueError(f"{type(model).__name__} does not tell its vocabulary: give `ids`.")
    chosen = range(number // 50, number // 2)
    return list(chosen if len(chosen) >= least else range(number))
