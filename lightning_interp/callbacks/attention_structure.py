"""What a model's attention heads look at while it trains."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Unpack

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from lightning_interp.batches.contents import Key
from lightning_interp.distributed import Collective
from lightning_interp.figures import attention_grid, head_map, measure_curves, site_heatmap
from lightning_interp.functional.attention import MEASURES as NAMES
from lightning_interp.functional.evenly_spread import evenly_spread
from lightning_interp.isolation.seen import Seen
from lightning_interp.metrics.derived import CHANCE, WEIGHTED
from lightning_interp.metrics.measure import FULL, SUMMARY, Measure
from lightning_interp.metrics.measures.attention import (
    ATTENTION_DISTANCE,
    ATTENTION_ENTROPY,
    EFFECTIVE_KEYS,
    HEAD_REDUNDANCY,
    HEADS_COLLAPSED,
    MAX_LOGIT,
    NEXT_TOKEN,
    PREVIOUS_TOKEN,
    SELF_ATTENTION,
    SINK,
    SINK_LAST,
    TOP8_MASS,
)
from lightning_interp.parts.attention_heads import AttentionHeads, HeadMeans
from lightning_interp.parts.head_axes import checked_heads, head_axes, of_heads
from lightning_interp.parts.kept import Kept
from lightning_interp.parts.words import Words
from lightning_interp.reading.analysis import Draw, ValidationAnalysis
from lightning_interp.reading.arguments import LoaderArgs
from lightning_interp.reading.grids import site_grid
from lightning_interp.reading.reading import Reading
from lightning_interp.reporting.plain_values import Settings
from lightning_interp.reporting.titles import measure_title

__all__ = ["AttentionStructure"]

_SHARES = (SINK, SINK_LAST, PREVIOUS_TOKEN, NEXT_TOKEN, SELF_ATTENTION, TOP8_MASS)
_OF_ROWS = (ATTENTION_ENTROPY, EFFECTIVE_KEYS, ATTENTION_DISTANCE, *_SHARES)
_BY_NAME = {one.name: one for one in _OF_ROWS}
_ORDERED = [_BY_NAME[name] for name in NAMES]
_WITH_LEVEL = (EFFECTIVE_KEYS, *_SHARES)
_EXTREMES = [NAMES.index(one.name) for one in (ATTENTION_ENTROPY, SINK, PREVIOUS_TOKEN)]
_COLLAPSED = 0.05
_MOST_READINGS, _COLUMNS, _ROWS = 16, 5, 6
_DRAWN = (ATTENTION_ENTROPY, SINK, PREVIOUS_TOKEN)


class AttentionStructure(ValidationAnalysis):
    r"""Reads what each attention head looks at, in the validation run itself and without switching its implementation.

    Weights are recomputed from queries and keys as the model calls attention
    (:class:`~lightning_interp.sites.attention_tap.AttentionTap`), and reduced there to sums over queries. A query
    counts where it is real and sees two keys or more; its row A is a distribution over the n keys that it sees.

    ==========================================  =======  =============================================================
    key                                         level    what it is
    ==========================================  =======  =============================================================
    ``attention_entropy/<site>``                summary  :math:`-\sum A \log A / \log n`, mean over heads; 1 for uniform
                                                         attention, 0 where each query looks at one key
    ``sink/<site>``                             summary  A on the first real key: the sink of causal models, [CLS]
    ``heads_collapsed``                         summary  share of heads with an entropy below .05
    ``sink/max``, ``previous_token/max``        summary  of the head with most of it
    ``max_logit/max``                           summary  largest scaled score of a query and a key that it sees, over
                                                         all queries and heads: it grows before training diverges
    ``effective_keys/<site>``                   full     keys that weights are spread over, :math:`\exp` of the entropy
    ``attention_distance/<site>``               full     :math:`\sum A |i - j|` over that of uniform attention
    ``previous_token/<site>``                   full     A on the position before
    ``self/<site>``                             full     A on itself
    ``next_token/<site>``                       full     A on the position behind (conditional: of models that see it)
    ``sink_last/<site>``                        full     A on the last real key: [SEP] (conditional: of models that see
                                                         it)
    ``top8_mass/<site>``                        full     of the 8 largest weights, at every eighth query
                                                         (conditional: of those that see more keys)
    ``max_logit/<site>``                        full     as above, by site (conditional: where scores are known)
    ``head_redundancy/<site>``                  full     Jensen–Shannon divergence of the heads, nats: 0 where all look
                                                         alike, :math:`\log H` where no two share a key (conditional:
                                                         of several heads)
    ``<measure>_chance/<site>``                 full     what uniform attention has; it is 1 of entropy and distance,
                                                         and has no key there
    ``next_token_chance/<site>``                full     conditional, as above; ``sink_last_chance/<site>`` too,
                                                         ``top8_mass_chance/<site>`` too
    ``value_weighted_<measure>/<site>``         full     the same with :math:`A_{ij} \|v_j W_O\|`, renormalised: what is
                                                         carried (Kobayashi et al. 2020), at every eighth query
                                                         (conditional: where values are known)
    ``<measure>/<site>/h<k>``                   full     of one head
    ``next_token/<site>/h<k>``                  full     conditional, as above; ``sink_last/<site>/h<k>`` too,
                                                         ``top8_mass/<site>/h<k>`` too, ``max_logit/<site>/h<k>`` too,
                                                         ``value_weighted_<measure>/<site>/h<k>`` too
    ==========================================  =======  =============================================================

    Attention is not importance: a sink whose value is nearly zero has much of the weight and adds nothing, which the
    value-weighted forms show. What a model needs is read by leaving it out.

    Args:
        sites: Modules that call attention once in a forward pass; by default all whose class is named after attention.
        track: Heads to watch, ``{"layers.17": [4]}``: their values stand in the summary, and a picture shows what they
            look at in the first text that is read, over time.
        value_weighted: Whether the value-weighted forms are read.
        tokens, mask, padding_idx, ignore_tokens, skip_positions: Which queries are real; see
            :class:`~lightning_interp.callbacks.RepresentationMetrics`.
        max_examples: Samples to read; ``None`` for all.
        max_tokens: Queries whose weights are held at a time: some five times heads · max_tokens · keys · 4 bytes.
        kwargs: Arguments of :class:`~lightning_interp.callbacks.ValidationAnalysis`.

    Raises:
        ValueError: If an argument is out of range, a name matches no module or ``track`` names what is not there; in
            the sanity check, if no attention is seen at a site, or several calls of it.

    Cost: weights of the samples read, computed once more, and their entropies; ``benchmarks/attention.py`` measures it
        beside the forward passes.

    Example:
        >>> callback = AttentionStructure({"0": "lm.transformer.h.0.attn"}, track={"0": [1]})
        >>> callback.logged_keys()[:3]
        ['heads_collapsed', 'attention_entropy/0', 'sink/0']

    """

    told_apart = ("sites", "track", "dataloader_idx", "prefix")

    def __init__(
        self,
        sites: str | Sequence[str] | Mapping[str, str] | None = None,
        track: Mapping[str, Sequence[int]] | None = None,
        value_weighted: bool = True,
        tokens: Key | Mapping[str, Key] | None = None,
        mask: Key | None = None,
        padding_idx: int | None = None,
        ignore_tokens: Sequence[int] = (),
        skip_positions: int = 0,
        max_examples: int | None = 128,
        max_tokens: int = 2048,
        **kwargs: Unpack[LoaderArgs],
    ) -> None:
        super().__init__(max_examples=max_examples, **kwargs)
        self.sites = sites
        self.track = checked_heads(track)
        self.value_weighted = value_weighted
        self.heads = AttentionHeads(sites, value_weighted, max_tokens, self.track)
        self.text = Kept(_MOST_READINGS)
        """Weights of heads to watch on the first text, of evenly spread readings."""
        self.words = Words(tokens, mask, padding_idx, ignore_tokens, skip_positions, self.batch_size, asked=True)

    # ------------------------------------------------- keys

    def declares(self) -> list[Measure]:
        """Means over heads with their levels, extremes, and every head."""
        of_sites = list(_ORDERED)
        weighted = [replace(WEIGHTED.of(one, FULL), instead="") for one in _ORDERED] if self.value_weighted else []
        return [
            HEADS_COLLAPSED,
            *of_sites,
            *(CHANCE.of(one) for one in _WITH_LEVEL),
            *weighted,
            *(HEAD_REDUNDANCY, MAX_LOGIT),
            *(one.at(end="max", level=SUMMARY, instead=None) for one in (SINK, PREVIOUS_TOKEN, MAX_LOGIT)),
            *of_heads([*_ORDERED, MAX_LOGIT, *weighted]),
        ]

    def axes(self, model: nn.Module | None = None) -> dict[str, Sequence[str]]:
        """The sites, and their heads."""
        return {"site": self.heads.short_names(model), **head_axes(self.heads.heads_of(model), self.track)}

    # ------------------------------------------------- reading

    def resolve(self, model: nn.Module) -> None:
        """Find the sites, and see that heads to watch are there."""
        super().resolve(model)
        self.heads.check(self.track)

    def before_batch(self, seen: Seen) -> None:
        """Read attention as the batch goes through the model."""
        super().before_batch(seen)
        self.heads.read(seen, self.words.of(seen, self.heads.names))

    def merge(self, reading: Reading) -> Collective[Mapping[str, Tensor | float]]:
        """Add up over ranks, and divide."""
        found = yield from self.heads.means()
        values: dict[str, Tensor | float] = {}
        for site, means in found.items():
            values |= self._of_site(site, means)
        heads = torch.cat([means.heads for means in found.values()])
        entropy, sink, previous = heads[:, _EXTREMES].unbind(1)
        told = entropy[~entropy.isnan()]
        values[HEADS_COLLAPSED.key()] = float((told < _COLLAPSED).double().mean())
        scores = torch.cat([means.largest for means in found.values()])
        for one, by_head in ((SINK, sink), (PREVIOUS_TOKEN, previous), (MAX_LOGIT, scores)):
            told = by_head[~by_head.isnan()]
            values[one.at(end="max").key()] = float(told.max()) if len(told) else math.nan
        self.text.now = dict(self.heads.text) or None
        return values

    def _of_site(self, site: str, means: HeadMeans) -> dict[str, float]:
        found: dict[str, float] = {HEAD_REDUNDANCY.key(site): means.redundancy}
        found[MAX_LOGIT.key(site)] = float(means.largest.max())
        for head, largest in enumerate(means.largest.tolist()):
            found[f"{MAX_LOGIT.name}/{site}/h{head}"] = largest
        for place, one in enumerate(_ORDERED):
            level = float(means.uniform[place])
            over = level if one is ATTENTION_DISTANCE else 1.0
            if one in _WITH_LEVEL:
                found[CHANCE.of(one).key(site)] = level
            kinds = [(one, means.heads)]
            if self.value_weighted:
                kinds.append((WEIGHTED.of(one), means.weighted))
            for measure, values in kinds:
                of_heads = (values[:, place] / over).tolist()
                found[measure.key(site)] = sum(of_heads) / len(of_heads)
                found |= {f"{measure.name}/{site}/h{head}": value for head, value in enumerate(of_heads)}
        return found

    def settings(self) -> Settings:
        """How readings are taken."""
        return {**super().settings(), "sites": ", ".join(self.heads.names.values())}

    # ------------------------------------------------- pictures

    def figures(self) -> Mapping[str, Draw]:
        """Maps of layers and heads at the last reading, of layers over time, and curves of heads to watch."""
        if not len(self.history):
            return {}
        pictures: dict[str, Draw] = {}
        for one in _DRAWN:
            pictures[f"heads/{one.name}"] = partial(self._map_of_heads, one)
            if len(self.heads.names) > 1:
                pictures[f"sites/{one.name}"] = partial(self._map_of_sites, one)
        if any(self.track.values()):
            pictures["heads/tracked"] = self._tracked
        if len(self.text):
            pictures["heads/text"] = self._text
        return pictures

    def _map_of_heads(self, measure: Measure) -> Figure:
        last = self.history.readings[-1]
        values = {
            site: [last.values[self.full_key(f"{measure.name}/{site}/{head}")] for head in heads]
            for site, heads in self.heads.heads_of().items()
        }
        return head_map(values, f"{measure_title(measure.name)}, step {last.step}", measure.unit)

    def _map_of_sites(self, measure: Measure) -> Figure:
        keys = {site: self.full_key(measure.key(site)) for site in self.heads.names}
        return site_heatmap(*site_grid(self.history, keys), measure_title(measure.name), measure.unit)

    def _text(self) -> Figure:
        places = evenly_spread(len(self.text), _COLUMNS)
        names = list(self.text.values[-1])[:_ROWS]
        maps = {name: [self.text.values[place][name].float().numpy() for place in places] for name in names}
        return attention_grid([self.text.steps[place] for place in places], maps, "attention in the first text")

    def _tracked(self) -> Figure:
        heads = [f"{site}/h{head}" for site, some in self.track.items() for head in some]
        return measure_curves(
            {
                measure_title(one.name): {
                    head: self.history.series(self.full_key(f"{one.name}/{head}")) for head in heads
                }
                for one in _DRAWN
            }
        )
