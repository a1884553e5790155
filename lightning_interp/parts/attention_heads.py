"""A part: what the heads of attention modules look at in the batches of a validation run, as sums over queries."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lightning_interp.batches.reader import ReadBatch
from lightning_interp.batches.site_rows import refuse_unknown_padding
from lightning_interp.distributed import Collective, Maximum, Sums
from lightning_interp.functional.attention import (
    MEASURES,
    attention_sums,
    head_redundancy,
    uniform_sums,
    value_weighted,
)
from lightning_interp.isolation.seen import Seen
from lightning_interp.reading.part import Part
from lightning_interp.reading.reading import Reading
from lightning_interp.sites import resolve_sites, short_names
from lightning_interp.sites.attention_call import AttentionCall
from lightning_interp.sites.attention_modules import attention_modules, head_projection, number_of_heads
from lightning_interp.sites.attention_tap import AttentionTap
from lightning_interp.sites.recorder import CaptureError

__all__ = ["AttentionHeads", "HeadMeans"]

Sites = str | Sequence[str] | Mapping[str, str]


@dataclass(frozen=True)
class HeadMeans:
    """What the heads of a site look at, means over queries, NaN where there were none."""

    heads: Tensor
    """Float64 (H, number of measures)."""
    uniform: Tensor
    """The same for uniform attention, (number of measures,)."""
    weighted: Tensor
    """The same with weights by the size of what they carry, (H, number of measures); NaN where it is not known."""
    redundancy: float
    """Mean Jensen–Shannon divergence between heads, nats."""
    largest: Tensor
    """Largest score, (H,); NaN where it is not known."""


class _Sums:
    """What is added up at one site."""

    def __init__(self, heads: int, device: torch.device) -> None:
        number = len(MEASURES)
        self.heads = torch.zeros(heads, number, 2, dtype=torch.float64, device=device)
        self.uniform = torch.zeros(number, 2, dtype=torch.float64, device=device)
        self.weighted = torch.zeros_like(self.heads)
        self.redundancy = torch.zeros(2, dtype=torch.float64, device=device)
        self.largest = torch.full((heads,), -math.inf, dtype=torch.float64, device=device)

    def add(self, call: AttentionCall, queries: Tensor, ends: tuple[Tensor, Tensor], offset: int) -> None:
        """Take in a part of a call."""
        weights, visible = call.weights, call.visible
        self.heads += attention_sums(weights, visible, queries, *ends, offset=offset)
        # Heads that see different keys have levels of their own, of which this is the mean.
        self.uniform += uniform_sums(visible, queries, *ends, offset=offset).mean(0)
        self.redundancy += head_redundancy(weights, queries, visible)
        largest = call.largest_score()
        self.largest = torch.maximum(self.largest, math.nan if largest is None else largest.double())  # type: ignore[arg-type]


class AttentionHeads(Part):
    """Reads the attention of a model's modules while a validation batch goes through it.

    Args:
        sites: Modules that call attention once in a forward pass; ``None`` for all that the model has
            (:func:`~lightning_interp.sites.attention_modules.attention_modules`).
        weighted: Whether weights are also read by the size of what they carry.
        max_tokens: Queries whose weights are held at a time: H·max_tokens·S·4 bytes.

    Raises:
        ValueError: If an argument is out of range; when attached, if a name matches no module.

    Example:
        >>> from lightning_interp.models import small_gpt2
        >>> heads = AttentionHeads()
        >>> heads.attach(small_gpt2(range(27), 12, heads=3))
        >>> heads.names, heads.number
        ({'0': 'transformer.h.0.attn', '1': 'transformer.h.1.attn'}, {'0': 3, '1': 3})
        >>> heads.detach()

    """

    attached = ("_model", "_tap")

    def __init__(self, sites: Sites | None = None, weighted: bool = True, max_tokens: int = 2048) -> None:
        if max_tokens < 1:
            raise ValueError(f"`max_tokens` must be at least 1, got {max_tokens}.")
        self.sites, self.weighted, self.max_tokens = sites, weighted, max_tokens
        self.names: dict[str, str] = {}
        """Short name of each site → dotted name, once the model is known."""
        self.number: dict[str, int | None] = {}
        """How many heads each site has, where that is known."""
        self._model: nn.Module | None = None
        self._tap: AttentionTap | None = None
        self.forget()

    def short_names(self, model: nn.Module | None = None) -> list[str]:
        """What keys call the sites; ``<site>`` where they cannot be known without the model."""
        if self.sites is not None:
            return short_names(self.sites, model, self.names, "<site>")
        found = list(self.names) or ([] if model is None else list(resolve_sites(model, [*attention_modules(model)])))
        return found or ["<site>"]

    def heads_of(self, model: nn.Module | None = None) -> dict[str, list[str]]:
        """What keys call the heads of each site; ``h<k>`` where it is not known how many there are."""
        numbers = dict(self.number)
        if model is not None and not numbers:
            sites = self.sites if self.sites is not None else [*attention_modules(model)]
            numbers = {
                site: number_of_heads(model.get_submodule(name)) for site, name in resolve_sites(model, sites).items()
            }
        named = {site: numbers.get(site) for site in self.short_names(model)}
        return {
            site: ["h<k>"] if number is None else [f"h{k}" for k in range(number)] for site, number in named.items()
        }

    def attach(self, model: nn.Module) -> None:
        """Find the sites."""
        self._model = model
        sites = self.sites if self.sites is not None else [*attention_modules(model)]
        self.names = resolve_sites(model, sites)
        self._tap = AttentionTap(model, self.names)
        told = {site: number_of_heads(module) for site, module in self._tap.modules.items()}
        self.number = {site: self.number.get(site) or number for site, number in told.items()}

    def detach(self) -> None:
        """Let go of the model."""
        if self._tap is not None:
            self._tap.stop()
        self._model = self._tap = None

    def begin(self, reading: Reading) -> None:
        """A reading starts."""
        self.forget()

    def forget(self) -> None:
        """The reading is over, or given up."""
        if self._tap is not None:
            self._tap.stop()
        self._sums: dict[str, _Sums] = {}
        self._projections: dict[str, Tensor | None] = {}

    # ------------------------------------------------- batches

    def read(self, seen: Seen, words: Mapping[str, ReadBatch]) -> None:
        """Read the batch that is about to go through the model.

        Args:
            seen: The batch.
            words: What it says of its positions, by site.

        """
        assert self._tap is not None
        rows = None if seen.selection.rows is None else seen.selection.rows
        size = len(seen.selection.batch)

        def take(site: str, call: AttentionCall) -> None:
            if call.shape[0] != size:
                raise CaptureError(
                    f"site {site!r} calls attention for {call.shape[0]} samples, and the batch has {size}: name a site "
                    "that attends within samples"
                )
            self._take(site, call if rows is None else call.of_samples(rows), words[site].of_samples(rows))

        self._tap.start(take)

    def after_batch(self, seen: Seen) -> None:
        """It went through."""
        assert self._tap is not None
        self._tap.finish()

    def _take(self, site: str, call: AttentionCall, mask: Tensor | None) -> None:
        batch, heads, length, _ = call.shape
        if site not in self._sums:
            told = self.number.get(site)
            if told is not None and told != heads:
                raise CaptureError(
                    f"site {site!r} attends with {heads} heads and says that it has {told}: heads that lie on several "
                    "ranks are not read"
                )
            self.number[site] = heads
            self._sums[site] = _Sums(heads, call.device)
        ...


def _ends(visible: Tensor, queries: Tensor) -> tuple[Tensor, Tensor]:
    """The first and the last key that any real query of a sample sees, int64 (B,)."""
    raise NotImplementedError
