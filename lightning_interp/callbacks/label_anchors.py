"""Whether label words of few-shot prompts gather what is before them, and whether the answer is read from them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Unpack

import torch
from torch import Tensor, nn

from lightning_interp.distributed import Collective
from lightning_interp.isolation.random_weights import Reinit
from lightning_interp.metrics.derived import CHANCE, with_random
from lightning_interp.metrics.measure import Measure
from lightning_interp.metrics.measures.attention import (
    ANCHOR_MATCH,
    ANCHOR_READ,
    ANCHOR_WRITE,
    FEW_SHOT_ACCURACY,
    FEW_SHOT_GAIN,
    HEAD_IMPORTANCE,
    LOYALTY,
    LOYALTY_RANDOM,
    SALIENCY_PQ,
    SALIENCY_WP,
    SALIENCY_WW,
    ZERO_SHOT_ACCURACY,
)
from lightning_interp.parts.baseline import Baseline, beside_random
from lightning_interp.parts.few_shot_prompts import FewShotPrompts, Flows, LabelledTexts
from lightning_interp.parts.head_axes import head_axes, of_heads
from lightning_interp.parts.head_sites import HeadSites
from lightning_interp.parts.language_model import LanguageModel
from lightning_interp.reading.analysis import ValidationAnalysis
from lightning_interp.reading.argument_names import refuse_unknown_arguments
from lightning_interp.reading.arguments import AnalysisArgs
from lightning_interp.reading.reading import Reading

__all__ = ["LabelAnchors"]

_BLOCKED = 5
_RATIOS = [ANCHOR_READ, ANCHOR_WRITE]
_OF_CHANCE = CHANCE.of(ANCHOR_MATCH.at("site", instead=None))


class LabelAnchors(ValidationAnalysis):
    r"""Reads how much flows into the label words of few-shot prompts, and from them to where the answer is predicted.

    Label words gather what stands before them in shallow layers, and the answer is read from them in deep ones (Wang et
    al. 2023, arXiv 2305.14160). With L the loss of the right label at the last position q and the labels of the
    demonstrations at p, the saliency of attention in a layer is

    .. math:: I = \Big| \sum_h A_h \odot \frac{\partial L}{\partial A_h} \Big|

    with a diagonal of 0. The published means over (p, j < p), (q, p) and all the rest are large or small in any model,
    also with random weights. What is watched is therefore read beside rows and columns that differ in nothing but the
    label (:func:`~lightning_interp.functional.label_flow`):

    .. math::
        \mathrm{anchor\_read} = \frac{\operatorname{mean}_p I_{qp}}{\operatorname{mean}_{j \text{ no label}} I_{qj}},
        \quad \mathrm{anchor\_write} =
        \frac{\operatorname{mean}_{p,\,j} I_{pj}}{\operatorname{mean}_{p,\,j,\,r \in \{p - 1,\, p - 2\}} I_{rj}}

    ====================================  =======  ===================================================================
    key                                   level    what it is
    ====================================  =======  ===================================================================
    ``anchor_read/<site>``                summary  the answer is read from labels; conditional: the loss may not hang
                                                   on it, or be 0
    ``anchor_write/<site>``               summary  labels gather what is before them; conditional: in the last layer
                                                   nothing does
    ``anchor_match/<site>``               summary  share of q's attention to labels that goes to those of the right
                                                   answer; conditional: they may get none
    ``few_shot_gain``                     summary  accuracy with demonstrations less that without, among the labels
    ``anchor_match_chance/<site>``        full     one over the number of labels
    ``<measure>_baseline/<site>``         full     both ratios with random weights; conditional
    ``<measure>_above_baseline/<site>``   summary  what training adds; conditional
    ``few_shot_accuracy``                 full     with demonstrations; ``zero_shot_accuracy`` too
    ``saliency_wp/<site>``                full     mean of I at (p, j < p); of the last layer 0
    ``saliency_pq/<site>``                full     at (q, p)
    ``saliency_ww/<site>``                full     at all other (i, j < i)
    ``head_importance/<site>/h<k>``       full     :math:`|\sum_{ij} A \odot \partial L / \partial A|` of a head
    ``loyalty/first``                     full     share of prompts with the same answer where labels see nothing
                                                   before them in the first layers, if ``blocking``; ``loyalty/last``
                                                   too
    ``loyalty_random/first``              full     the same of as many random positions; ``loyalty_random/last`` too;
                                                   conditional: there may be too few
    ====================================  =======  ===================================================================

    High ratios do not mean that a model learns from its context: one that answers with any of the labels that it was
    shown has them as well. That takes ``anchor_match`` above its chance and a ``few_shot_gain`` above 0.

    Means over prompts are taken before ratios. Few labels are few tokens: small models with random weights have ratios
    of .85 to 1.15 with 8 labels and of .5 to 1.5 with 2, whatever the number of prompts. Of the accuracies, labels of
    one logit count as a random one would.

    Args:
        examples: Pairs of a text and its label, from which demonstrations are drawn; or a function that returns them,
            or its dotted name.
        queries: Such pairs that are asked; what is in both can be looked up.
        template: A demonstration, with ``{text}`` and ``{label}``. Each label is one token behind what stands before it
            there, and no two are the same.
        shots: Demonstrations of each label, drawn once for each query, in a random order.
        lm: The causal language model and its tokenizer. Prompts go through it one by one.
        sites: Its attention modules, from the first layer to the last; by default all of it whose class is named after
            attention.
        blocking: Whether to read loyalty.
        blocked_layers: In how many of the first and of the last sites attention is blocked.
        baseline: Random weights; see :class:`~lightning_interp.callbacks.LayerProbe`.
        seed: Of demonstrations, random positions and random weights.
        kwargs: Arguments of :class:`~lightning_interp.callbacks.ValidationAnalysis`, except ``max_examples``,
            ``dataloader_idx`` and ``batch_size``.

    Raises:
        ValueError: If an argument is out of range, a name matches nothing, a label is several tokens or the same as
            another, a prompt is too long, ``blocked_layers`` are more than sites, or parameters are sharded over ranks.

    Cost: a forward and a backward pass over each prompt and a forward pass over its query alone, at the first reading
        with random weights too; five more forward passes with ``blocking``. In memory some four times H·T² numbers for
        each site at once.

    Example:
        >>> from lightning_interp.tasks import WordTokenizer
        >>> texts = [("a fine film", "good"), ("a dull film", "bad")]
        >>> lm = LanguageModel(WordTokenizer(["a", "fine", "dull", "film", "label:", "good", "bad"]), model="lm")
        >>> callback = LabelAnchors(texts, texts, lm=lm, sites={"0": "lm.transformer.h.0.attn"})
        >>> [key for key in callback.logged_keys() if "baseline" not in key]
        ['anchor_read/0', 'anchor_write/0', 'anchor_match/0', 'few_shot_gain']

    """

    told_apart = ("language_model", "sites", "template", "shots", "prefix")

    def __init__(
        self,
        examples: LabelledTexts,
        queries: LabelledTexts,
        template: str = "{text}\nlabel: {label}\n",
        shots: int = 1,
        lm: LanguageModel | None = None,
        sites: str | Sequence[str] | Mapping[str, str] | None = None,
        blocking: bool = False,
        blocked_layers: int = _BLOCKED,
        baseline: bool | Reinit | None = None,
        seed: int = 0,
        **kwargs: Unpack[AnalysisArgs],
    ) -> None:
        refuse_unknown_arguments(type(self), kwargs, AnalysisArgs)
        super().__init__(max_examples=None, dataloader_idx=0, batch_size=None, **kwargs)
        if blocked_layers < 1:
            raise ValueError(f"`blocked_layers` must be at least 1, got {blocked_layers}.")
        if blocked_layers != _BLOCKED and not blocking:
            raise ValueError(f"`blocked_layers={blocked_layers}` is for blocking=True, and `blocking` is False.")
        lm = lm or LanguageModel()
        self.language_model, self.sites = lm.model, sites
        self.template, self.shots, self.seed = template, shots, seed
        self.blocking, self.blocked_layers = blocking, blocked_layers
        self.prompts = FewShotPrompts(examples, queries, template, shots, lm, seed)
        self.heads = HeadSites(sites, within=lm.model)
        self.baseline = Baseline(baseline, seed, of=lm.model)

    # ------------------------------------------------- keys

    def declares(self) -> list[Measure]:
        """Ratios with what they are compared with, accuracies, the published means, heads and loyalty."""
        ratios = with_random(_RATIOS) if self.baseline.wanted else _RATIOS
        loyalty = [one.at(end=end) for one in (LOYALTY, LOYALTY_RANDOM) for end in ("first", "last")]
        return [
            *(*ratios, ANCHOR_MATCH, _OF_CHANCE, SALIENCY_WP, SALIENCY_PQ, SALIENCY_WW),
            *(FEW_SHOT_GAIN, FEW_SHOT_ACCURACY, ZERO_SHOT_ACCURACY, *of_heads([HEAD_IMPORTANCE])),
            *(loyalty if self.blocking else ()),
        ]

    def axes(self, model: nn.Module | None = None) -> dict[str, Sequence[str]]:
        """The sites, and the heads of each."""
        return {"site": self.heads.short_names(model), **head_axes(self.heads.heads_of(model), {})}

    def resolve(self, model: nn.Module) -> None:
        """See that there are layers enough."""
        super().resolve(model)
        sites = list(self.heads.names)
        if self.blocking and self.blocked_layers > len(sites):
            raise ValueError(f"`blocked_layers` is {self.blocked_layers}, and there are {len(sites)} sites: {sites}.")

    # ------------------------------------------------- reading

    def merge(self, reading: Reading) -> Collective[Mapping[str, Tensor | float]]:
        """Run the prompts, with random weights too where that is due, and with attention blocked."""
        sites, run = list(self.heads.names), partial(self.prompts.flows, self.heads, reading.group)
        yield from self.baseline.read(self.prompts.model, type(self).__name__, run, self._ratios)
        found = yield from self.prompts.merged(run(), self.heads)
        values = self._of(found)
        _, few, zero = found.right.tolist()
        values |= {FEW_SHOT_ACCURACY.key(): few, ZERO_SHOT_ACCURACY.key(): zero, FEW_SHOT_GAIN.key(): few - zero}
        values |= self.baseline.beside(values, beside_random(_RATIOS, {"site": sites}))
        if self.blocking:
            ends = {"first": sites[: self.blocked_layers], "last": sites[-self.blocked_layers :]}
            loyal = yield from self.prompts.loyalties(self.heads, ends, reading.group)
            for end, (own, other) in loyal.items():
                values |= {LOYALTY.at(end=end).key(): own, LOYALTY_RANDOM.at(end=end).key(): other}
        return values

    def _ratios(self, own: Flows) -> Collective[Mapping[str, float]]:
        """What stands beside random weights."""
        values = self._of((yield from self.prompts.merged(own, self.heads)))
        return {key: values[key] for site in self.heads.names for key in (one.key(site) for one in _RATIOS)}

    def _of(self, found: Flows) -> dict[str, float]:
        """What each site has."""
        values: dict[str, float] = {}
        for site in self.heads.names:
            flow, of_head = found.of(site), enumerate(found.importance[site].tolist())
            values |= {
                ANCHOR_READ.key(site): _ratio(flow.pq, flow.read_rest),
                ANCHOR_WRITE.key(site): _ratio(flow.write, flow.write_rest),
                ANCHOR_MATCH.key(site): found.match(site),
                _OF_CHANCE.key(site): 1 / len(self.prompts.words),
                SALIENCY_WP.key(site): float(flow.wp),
                SALIENCY_PQ.key(site): float(flow.pq),
                SALIENCY_WW.key(site): float(flow.ww),
            }
            values |= {HEAD_IMPORTANCE.key(f"{site}/h{head}"): value for head, value in of_head}
        return values


def _ratio(value: Tensor, rest: Tensor) -> float:
    # What is below that is what rounding left.
    return float(value / rest) if rest > torch.finfo(torch.float32).tiny else math.nan
