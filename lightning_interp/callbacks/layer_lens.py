"""What each layer of a language model already says of the next token, while it trains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Unpack

from matplotlib.figure import Figure
from torch import Tensor, nn

from lightning_interp.batches.contents import Key
from lightning_interp.batches.forward import Forward
from lightning_interp.distributed import over_ranks
from lightning_interp.figures import site_heatmap
from lightning_interp.isolation.random_weights import Reinit
from lightning_interp.isolation.seen import Seen
from lightning_interp.metrics.derived import CHANCE, with_random
from lightning_interp.metrics.measure import Measure
from lightning_interp.metrics.measures.geometry import NONFINITE
from lightning_interp.metrics.measures.lens import LENS, LENS_AGREEMENT, LENS_ENTROPY, LENS_LOSS
from lightning_interp.parts.baseline import beside_random
from lightning_interp.parts.lens_sites import LensSites
from lightning_interp.parts.lens_sums import LensMeans, LensSums
from lightning_interp.parts.probe_set import ProbeSet
from lightning_interp.reading.analysis import Draw, ValidationAnalysis
from lightning_interp.reading.arguments import LoaderArgs
from lightning_interp.reading.grids import site_grid
from lightning_interp.reading.reading import Reading
from lightning_interp.reporting.titles import measure_title
from lightning_interp.sites import Call, Layout, OutputKey
from lightning_interp.sites.unembedding import Unembed

__all__ = ["LayerLens"]

_OUTPUT = "output"


class LayerLens(ValidationAnalysis):
    r"""Reads what each layer already says of the next token: its residual through the model's own final norm and head.

    The logit lens (nostalgebraist 2020), in the validation run itself. With h the residual behind a layer, y the token
    that comes next and :math:`p = \mathrm{softmax}(\mathrm{head}(\mathrm{norm}(h)))`:

    .. math::
        \mathrm{lens\_loss} = -\log p_y, \quad \mathrm{lens\_entropy} = -\sum_k p_k \log p_k, \quad
        \mathrm{lens\_agreement} = [\arg\max p = \text{the model's own top token}]

    means over positions that are real and have a real token behind them.

    ================================  =======  =======================================================================
    key                               level    what it is
    ================================  =======  =======================================================================
    ``lens_loss/<site>``              summary  nats; the model's own loss at the last layer
    ``lens_agreement/<site>``         summary  1 at the last layer
    ``lens_entropy/<site>``           full     nats; log V for a uniform prediction of V tokens
    ``<measure>_baseline/<site>``     full     the same with random weights
    ``<measure>_above_baseline/…``             the one less the other, at the measure's own level
    ``lens_agreement_chance/<site>``  full     where top tokens are dealt to other positions: layers that put one token
                                               first everywhere agree, too
    ``lens_loss/output``              summary  of the model's own logits
    ``lens_loss_chance/output``       full     of the frequencies of the right tokens, the same at each position
    ``nonfinite/<site>``              full     positions left out, since logits are not finite
    ================================  =======  =======================================================================

    Norm and head are made for the last layer alone, so early layers look worse than what they hold: compare a layer
    with itself over time, and not layers with each other. Where the last layer is read, its loss must be the model's
    own: where it is not, as with logits that are capped or scaled behind the head, an error says so.

    Args:
        model: Dotted name of the language model in the module that is called with the ids; ``""`` for the module.
        sites: Its layers, whose outputs are residuals; by default its blocks (:func:`~lightning_interp.sites.blocks`).
        norm: Dotted name, within ``model``, of what a residual goes through before the head; ``""`` for nothing. By
            default the last module before the head, outside of the layers, whose class is named after a norm. Of BERT
            it is ``"cls.predictions.transform"``.
        head: Dotted name, within ``model``, of what makes logits; by default what ``get_output_embeddings`` gives, else
            the last ``nn.Linear`` outside of the layers. Or a function of the language model and residuals (1, N, D)
            that gives logits (1, N, V), in place of norm and head.
        target: Where a batch has the label of each position, int (B, T), negative where there is none: of masked
            language models and taggers. By default it is the token that comes next.
        shift: How many positions behind the one that predicts it a label stands: 1 for ``labels`` of causal models.
        tile: Positions whose logits there are at a time, V · ``tile`` numbers.
        max_examples: Samples to read; ``None`` for all.
        baseline: Random weights; see :class:`~lightning_interp.callbacks.LayerProbe`.
        forward: What the baseline runs in place of ``validation_step``.
        call: Where the model is called several times in a step, as where that generates: ``"first"`` or ``"last"``.
        tokens, mask, padding_idx, ignore_tokens, skip_positions, layout, output: See
            :class:`~lightning_interp.callbacks.RepresentationMetrics`.
        seed: Of random weights.
        kwargs: Arguments of :class:`~lightning_interp.callbacks.ValidationAnalysis`.

    Raises:
        ValueError: If an argument is out of range, a name matches nothing, there are no blocks or no head, or
            parameters are sharded over ranks; in the sanity check, if batches do not say their text or labels, or the
            last layer's loss is not the model's.

    Cost: norm and head of each layer for the samples that are read, and once more at the first reading, with their
        batches run again; 8 · V bytes a layer, which ranks exchange.

    Example:
        >>> callback = LayerLens("lm", sites="lm.transformer.h.*")
        >>> callback.logged_keys()[:2]
        ['lens_loss/<site>', 'lens_agreement/<site>']

    """

    told_apart = ("language_model", "sites", "dataloader_idx", "prefix")

    def __init__(
        self,
        model: str = "",
        sites: str | Sequence[str] | Mapping[str, str] | None = None,
        norm: str | None = None,
        head: str | Unembed | None = None,
        target: Key | None = None,
        shift: int = 0,
        tile: int = 1024,
        max_examples: int | None = 128,
        baseline: bool | Reinit | None = None,
        forward: Forward | None = None,
        tokens: Key | None = None,
        mask: Key | None = None,
        padding_idx: int | None = None,
        ignore_tokens: Sequence[int] = (),
        skip_positions: int = 0,
        layout: Layout | Mapping[str, Layout] | None = None,
        call: Call = "only",
        output: OutputKey | Mapping[str, OutputKey] | None = None,
        seed: int = 0,
        **kwargs: Unpack[LoaderArgs],
    ) -> None:
        super().__init__(max_examples=max_examples, **kwargs)
        self.language_model, self.sites, self.seed = model, sites, seed
        self.layers = LensSites(
            *(model, sites, norm, head, target, shift, tile),
            tokens=tokens,
            mask=mask,
            padding_idx=padding_idx,
            ignore_tokens=ignore_tokens,
            skip_positions=skip_positions,
            layout=layout,
            call=call,
            output=output,
            forward=forward,
            batch_size=self.batch_size,
            max_examples=self.max_examples,
            dataloader_idx=self.dataloader_idx,
            given_as={"target": "target"},
        )
        self.baseline = ProbeSet(baseline, seed)
        self._sums: LensSums | None = None

    # ------------------------------------------------- keys

    def declares(self) -> list[Measure]:
        """What each layer says, with random weights and chance beside it, and what the model says."""
        found = with_random(LENS) if self.baseline.wanted else list(LENS)
        return [
            *found,
            CHANCE.of(LENS_AGREEMENT),
            NONFINITE,
            *(one.at(end=_OUTPUT, beside_random=False) for one in (LENS_LOSS, CHANCE.of(LENS_LOSS))),
        ]

    def axes(self, model: nn.Module | None = None) -> dict[str, Sequence[str]]:
        """The layers."""
        return {"site": self.layers.short_names(model)}

    # ------------------------------------------------- reading

    def kept_for_samples(self) -> str:
        """The values with random weights."""
        return "random weights are of those, so they are read anew" if self.baseline.wanted else ""

    def begin(self, reading: Reading) -> None:
        """A reading starts."""
        super().begin(reading)
        self._sums = LensSums(self.layers)

    def abort(self) -> None:
        """Forget the reading."""
        super().abort()
        self._sums = None

    def after_batch(self, seen: Seen) -> None:
        """Read the layers of the batch through norm and head."""
        super().after_batch(seen)
        assert self._sums is not None
        for site, rows in self.layers.rows(seen):
            self._sums.take(site, rows)

    def finish(self, reading: Reading) -> Mapping[str, Tensor | float]:
        """Merge ranks, and read random weights where they are not known yet."""
        assert self._sums is not None
        # In the mode of the validation run, since the model runs again.
        means = over_ranks(self._sums.means(), reading.group)
        if not any(one.nonfinite for one in means.sites.values()):
            self.layers.check(list(means.sites.values())[-1].loss, means.own)
        values: dict[str, Tensor | float] = dict(_values(means))
        own = {key: float(value) for key, value in values.items()}
        for site, one in means.sites.items():
            values[CHANCE.of(LENS_AGREEMENT).key(site)] = one.by_chance
            values[NONFINITE.key(site)] = one.nonfinite
        values[CHANCE.of(LENS_LOSS).at(end=_OUTPUT).key()] = means.constant
        values[LENS_LOSS.at(end=_OUTPUT).key()] = means.own
        if self.baseline.wanted:
            random = self.baseline.of_reading(reading, partial(self._random, reading), type(self).__name__)
            for key, level, above in beside_random(LENS, self.axes()) if random else ():
                values |= {level: random[key], above: own[key] - random[key]}
        return values

    def _random(self, reading: Reading) -> dict[str, float]:
        """What layers say with random weights."""
        sums = LensSums(self.layers)
        self.baseline.run(reading, self.layers, sums.take, type(self).__name__)
        return _values(over_ranks(sums.means(), reading.group))

    # ------------------------------------------------- pictures

    def figures(self) -> Mapping[str, Draw]:
        """Maps of layers over time."""
        if not len(self.history):
            return {}
        return {f"lens/{one.name.removeprefix('lens_')}": partial(self._map, one) for one in LENS}

    def _map(self, measure: Measure) -> Figure:
        keys = {site: self.full_key(measure.key(site)) for site in self.layers.names}
        return site_heatmap(*site_grid(self.history, keys), measure_title(measure.name), measure.unit)


def _values(means: LensMeans) -> dict[str, float]:
    found: dict[str, float] = {}
    for site, one in means.sites.items():
        found |= {LENS_LOSS.key(site): one.loss, LENS_AGREEMENT.key(site): one.agreement}
        found[LENS_ENTROPY.key(site)] = one.entropy
    return found
