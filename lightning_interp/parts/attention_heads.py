"""A part: what the heads of attention modules look at in the batches of a validation run, as sums over queries."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_interp.batches.reader import ReadBatch
from lightning_interp.batches.site_rows import refuse_unknown_padding
from lightning_interp.distributed import Collective, Maximum, Sums
from lightning_interp.functional._numerics import wide_dtype
from lightning_interp.functional.attention import (
    MEASURES,
    AttentionRows,
    carried_norms,
    uniform_sums,
)
from lightning_interp.isolation.seen import Seen
from lightning_interp.parts.head_sites import HeadSites, Sites
from lightning_interp.reading.reading import Reading
from lightning_interp.sites.attention_call import AttentionCall
from lightning_interp.sites.attention_modules import head_projection
from lightning_interp.sites.recorder import CaptureError

__all__ = ["AttentionHeads", "HeadMeans"]

_SHOWN = 32
"""Tokens of a text whose weights are kept for pictures."""


@dataclass(frozen=True)
class HeadMeans:
    """What the heads of a site look at, means over queries, NaN where there were none."""

    heads: Tensor
    """Float64 (H, number of measures)."""
    uniform: Tensor
    """The same for uniform attention, (number of measures,)."""
    weighted: Tensor
    """The same with weights by the size of what they carry, at every eighth query, (H, number of measures); NaN where
    it is not known."""
    redundancy: float
    """Mean Jensen–Shannon divergence of the heads, nats."""
    largest: Tensor
    """Largest score, (H,); NaN where it is not known."""


class _Sums:
    """What is added up at one site, on its device."""

    def __init__(self, heads: int, device: torch.device) -> None:
        self.heads = torch.zeros(heads, len(MEASURES), 2, dtype=wide_dtype(device), device=device)
        self.uniform = torch.zeros_like(self.heads[0])
        self.weighted = torch.zeros_like(self.heads)
        self.redundancy = torch.zeros_like(self.heads[0, 0])
        self.largest = torch.full_like(self.heads[:, 0, 0], -math.inf)

    def add(
        self,
        call: AttentionCall,
        queries: Tensor,
        ends: tuple[Tensor, Tensor],
        offset: int,
        norms: Tensor | None = None,
    ) -> None:
        """Take in some queries of a call.

        Args:
            call: Those queries of it.
            queries: Which of them are real.
            ends: First and last real key of each sample.
            offset: Position of the first query.
            norms: Size of what each key carries.

        """
        first, last = ends
        rows = AttentionRows.of(call.weights, call.visible, queries, offset)
        self.heads += rows.sums(first, last)
        # Of heads that see different keys it is the mean.
        self.uniform += uniform_sums(call.visible, queries, first, offset, last).mean(0)
        self.redundancy += rows.redundancy()
        largest = call.largest_score(queries)
        unknown = torch.full_like(self.largest, math.nan)
        self.largest = torch.maximum(self.largest, unknown if largest is None else largest.to(unknown))
        if norms is not None:
            self.weighted += rows.every_eighth(first).weighted(norms).sums(first, last)

    def summed(self) -> list[Tensor]:
        """What ranks add up."""
        return [one.double().cpu() for one in (self.heads, self.uniform, self.weighted, self.redundancy)]


class AttentionHeads(HeadSites):
    """Reads the attention of a model's modules while validation batches go through it.

    Args:
        sites: See :class:`~lightning_interp.parts.head_sites.HeadSites`.
        weighted: Whether weights are also read by the size of what they carry.
        max_tokens: Queries whose weights are held at a time: H·max_tokens·S·4 bytes.
        shown: Heads of which the weights of one text are kept for pictures, by site.

    Raises:
        ValueError: If an argument is out of range; when attached, if a name matches no module.

    """

    reads_batches = True

    def __init__(
        self,
        sites: Sites | None = None,
        weighted: bool = True,
        max_tokens: int = 2048,
        shown: Mapping[str, Sequence[int]] | None = None,
    ) -> None:
        if max_tokens < 1:
            raise ValueError(f"`max_tokens` must be at least 1, got {max_tokens}.")
        super().__init__(sites)
        self.weighted, self.max_tokens, self.shown = weighted, max_tokens, dict(shown or {})
        self.forget()

    def begin(self, reading: Reading) -> None:
        """A reading starts."""
        self.forget()

    def forget(self) -> None:
        """The reading is over, or given up."""
        super().forget()
        self._sums: dict[str, _Sums] = {}
        self._projections: dict[str, Tensor | None] = {}
        self.text: dict[str, Tensor] = {}
        """Head → its weights on the first text that this rank read, (T, T), of heads that are shown."""

    # ------------------------------------------------- batches

    def read(self, seen: Seen, words: Mapping[str, ReadBatch]) -> None:
        """Read the batch that is about to go through the model, until :meth:`after_batch`.

        Args:
            seen: The batch.
            words: What it says of its positions, by site.

        """
        size, rows = len(seen.selection.batch), seen.selection.rows

        def take(site: str, call: AttentionCall) -> None:
            if call.shape[0] != size:
                raise CaptureError(
                    f"site {site!r} attends in {call.shape[0]} samples, and the batch has {size}: name sites that "
                    "attend within its samples"
                )
            queries = _queries(site, call, words[site])
            if rows is not None:
                call, queries = call.of_samples(rows), queries[rows.to(queries.device)]
            self._take(site, call, queries)

        self.tap.start(take)

    def after_batch(self, seen: Seen) -> None:
        """It went through."""
        self.tap.finish()

    def _take(self, site: str, call: AttentionCall, queries: Tensor) -> None:
        batch, heads, length, keys = call.shape
        self.saw(site, heads)
        sums = self._sums.setdefault(site, _Sums(heads, call.device))
        projection = self._projection(site, call)
        for head in self.shown.get(site, ()):
            if f"{site}/h{head}" not in self.text:
                weights = call.part(slice(0, 1)).weights[0, head]
                real = queries[0].nonzero()[:_SHOWN, 0]
                self.text[f"{site}/h{head}"] = weights[real][:, real].half().cpu()
        for samples, some in _parts(batch, length, self.max_tokens):
            part, real = call.part(samples, some), queries[samples, some]
            whole = call.visible if call.visible.shape[0] == 1 else call.visible[samples]
            ends = _ends(whole, queries[samples], (real.shape[0], keys))
            norms = None
            if projection is not None:
                assert part.value is not None
                norms = carried_norms(part.value, projection)
            sums.add(part, real, ends, some.start, norms)

    def _projection(self, site: str, call: AttentionCall) -> Tensor | None:
        """What joins the heads, where it is asked for and known."""
        if not self.weighted or call.value is None:
            return None
        if site not in self._projections:
            assert self._model is not None
            width = call.value.shape[1] * call.value.shape[3]
            self._projections[site] = head_projection(self._model, self.names[site], width)
        return self._projections[site]

    # ------------------------------------------------- what came of it

    def means(self) -> Collective[dict[str, HeadMeans]]:
        """What the heads of each site look at, over all ranks."""
        numbers = yield from self.numbers()
        nothing = torch.device("cpu")
        sums = {site: self._sums.get(site) or _Sums(number, nothing) for site, number in numbers.items()}
        summed = [one for site in sums.values() for one in site.summed()]
        merged: list[Tensor] = yield Sums(summed)
        largest = torch.cat([one.largest.double().cpu() for one in sums.values()])
        # What is not known on one rank is not known.
        unknown: Tensor = yield Maximum(largest.isnan().double())
        top: Tensor = yield Maximum(largest.nan_to_num(-math.inf, neginf=-math.inf))
        top = torch.where((unknown > 0) | (top == -math.inf), math.nan, top)
        found: dict[str, HeadMeans] = {}
        begin = 0
        for place, site in enumerate(sums):
            of_site = merged[4 * place : 4 * place + 4]
            heads, uniform, weighted, redundancy = (one[..., 0] / one[..., 1] for one in of_site)
            end = begin + len(heads)
            found[site] = HeadMeans(heads, uniform, weighted, float(redundancy), top[begin:end])
            begin = end
        return found


def _queries(site: str, call: AttentionCall, words: ReadBatch) -> Tensor:
    """Which queries are real, bool (B, T)."""
    batch, _, length, _ = call.shape
    if words.mask is not None and words.mask.shape == (batch, length):
        return words.mask.to(call.device)
    if words.mask is None:
        refuse_unknown_padding(site, length, words)
    return torch.ones(batch, length, dtype=torch.bool, device=call.device)


def _parts(batch: int, length: int, most: int) -> Iterator[tuple[slice, slice]]:
    """Samples and queries, so many at a time."""
    samples = max(1, most // length)
    queries = min(length, most)
    for sample in range(0, batch, samples):
        for query in range(0, length, queries):
            yield slice(sample, sample + samples), slice(query, min(query + queries, length))


def _ends(visible: Tensor, queries: Tensor, shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """The first and the last key that any real query of a sample sees, int64 (B,)."""
    seen = (visible & queries[:, None, :, None]).any(1).any(1).expand(shape)
    place = torch.arange(shape[1], device=seen.device)
    return torch.where(seen, place, shape[1]).amin(1).clamp_max(shape[1] - 1), torch.where(seen, place, -1).amax(1)
