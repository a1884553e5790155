"""How much of what a model has learned survives noise at a site."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeAlias, Unpack

from torch import Tensor, nn

from lightning_interp.callbacks._noise_pictures import (
    NoisePictures,
)
from lightning_interp.compat import pl
from lightning_interp.distributed import Collective
from lightning_interp.distributed.positions import Selection
from lightning_interp.functional.robustness import (
    area_under_noise,
    checked_scales,
    half_scale,
    retention,
)
from lightning_interp.isolation.replay import Score
from lightning_interp.isolation.seen import Seen
from lightning_interp.metrics.measure import FULL, Measure
from lightning_interp.metrics.measures.geometry import NONFINITE
from lightning_interp.metrics.measures.noise import CLEAN, DRIFT, HALF_SCALE, NOISY, RETENTION, ROBUSTNESS, UNDER_NOISE
from lightning_interp.parts.noisy_sites import NoisySites
from lightning_interp.parts.replayed import Replayed, Rerun
from lightning_interp.parts.site_args import ReplayArgs, split_site_args, split_words
from lightning_interp.parts.site_drift import SiteDrift
from lightning_interp.parts.start_values import StartValues
from lightning_interp.parts.words import Words
from lightning_interp.reading.analysis import Draw, ValidationAnalysis
from lightning_interp.reading.reading import Reading
from lightning_interp.sites import (
    check_sites,
)
from lightning_interp.sites.noise import Kind, Relative

__all__ = ["NoiseRobustness"]

Sites: TypeAlias = str | Sequence[str] | Mapping[str, str]
_Noise: TypeAlias = tuple[str, float]
"""A site and the size of noise there."""

_OVERWHELMING = 1e3  # times the largest scale


class NoiseRobustness(ValidationAnalysis):
    r"""Reads the model's own validation metrics again while noise is added at a site.

    Needs nothing from the model: after a validation run, the batches read are run through the module's own
    ``validation_step`` again, by the Trainer's strategy, once for each site and scale, and the values that the step
    logs are taken; those without noise are overheard in the run itself. Plain numbers are weighted by batch size as
    Lightning does, torchmetrics objects are computed on states of their own, and a module that collects in its step and
    logs in ``on_validation_epoch_end`` has that hook called again. Nothing is logged twice, and no attribute, metric
    state, buffer or random stream of the model is changed; loggers are muted. What a step does elsewhere (files,
    prints) is not undone.

    With v(σ) a monitor under noise of scale σ, v(0) without, and v_start before the first training step, all on the
    same examples:

    .. math::
        \mathrm{under\_noise} = \frac{1}{\sigma_n}\int_0^{\sigma_n} v(\sigma)\,d\sigma, \quad
        r(\sigma) = \frac{v(\sigma) - v_\mathrm{start}}{v(0) - v_\mathrm{start}}, \quad
        \mathrm{robustness} = \frac{1}{\sigma_n}\int_0^{\sigma_n} r(\sigma)\,d\sigma

    and drift alike, by the trapezoid rule over 0 and the scales, unclipped. The noise is the same at every reading, for
    every scale and on any number of ranks: it is a function of the sample's place in the data set, the position and the
    dimension.

    ==============================================  ======  ==========================================================
    key                                             level   what it is
    ==============================================  ======  ==========================================================
    ``under_noise/<site>/<monitor>``                summary  the monitor averaged over scales, in its own units
    ``robustness/<site>/<monitor>``                 summary  share of what was learned that survives; conditional
    ``retention/<site>/<monitor>/<scale>``          full     the same at one scale; conditional
    ``half_scale/<site>/<monitor>``                 full     the scale at which half is gone; conditional
    ``drift/<site>/<downstream site>/mean``         summary  1 − cosine between clean and noisy representations,
                                                             averaged over scales
    ``drift/<site>/<downstream site>/<scale>``      full     the same at one scale
    ``noisy/<site>/<monitor>/<scale>``              full     the monitor under noise of one scale
    ``clean/<monitor>``                             full     the monitor without noise on the examples read
    ``nonfinite/<downstream site>``                 full     vectors left out of drift
    ==============================================  ======  ==========================================================

    Conditional keys are undefined, and not logged, until v(0) was found better than v_start by at least a twentieth of
    what there is to learn (:func:`~lightning_interp.functional.robustness.share_learned`) and beyond its own noise (the
    95 % interval over up to eight groups of batches): at one reading by four times that, or at three in a row. Later
    readings that do not find it go without, and so does a single batch, of which that noise cannot be told, and
    ``half_scale`` where more than half survives the largest scale. So a model that has hardly learned has no robustness
    that a gate could choose; outside a fit one reading decides. Plain gates monitor ``under_noise``. With
    ``start="initial"`` they are undefined from the first reading on that is of other samples than the one before, since
    v_start cannot be read on them; that is said once. They are undefined, too, where no monitor changes by a bit even
    under noise 1,000 times the largest scale: what the noise is added to has no part in the monitors, which is said
    once.

    Args:
        sites: Where noise is added: dotted module names, globs, or ``{"alias": "dotted.name"}``. An embedding layer for
            noise at the input.
        scales: Sizes of the noise, increasing: the noise of a vector in units of ``relative``; for tokens the rate at
            which they are replaced.
        monitors: What to read again, by the name under which the module logs it (without ``/dataloader_idx_<n>``):
            ``"loss"`` where less is better, ``"score"`` where more is.
        drift: Sites whose representations are compared with and without noise; needs no monitor.
        score: A callable on module and batch that returns the monitors per example, ``{name: values (B,)}`` or
            ``{name: (sums (B,), counts (B,))}``, in place of ``validation_step``: exact over ranks, and the way for
            :func:`lightning_interp.analyze`.
        kind: ``"gaussian"``, or ``"tokens"``, which replaces the token ids that go into an embedding by others of its
            vocabulary.
        relative: ``"norm"``: Gaussian noise relative to each vector's root-mean-square. ``"dimension"``: to each
            dimension's standard deviation over the batch, for models in which a few dimensions dominate.
        max_examples: Read the first batches, until they hold so many examples over all ranks; ``None`` for all. They
            are kept on their device until the validation run ends.
        start: ``"initial"`` takes v_start from the weights before the first step, of which a copy is kept on the CPU
            until the first reading; the values are kept in checkpoints. ``{monitor: value}`` gives a level of chance,
            as one should for a pretrained model. ``None`` logs no conditional keys.
        seed: Of the noise.
        tokens: Where token ids are in a batch, or that by site, as for
            :class:`~lightning_interp.callbacks.RepresentationMetrics`; needed for drift, skipped positions and
            ``relative="dimension"`` only. Where it is known which positions are padding, they get no noise.
        mask: Where the padding mask is.
        padding_idx: Token id of padding, where there is no mask; for all callbacks at once as for
            :class:`~lightning_interp.callbacks.RepresentationMetrics`.
        ignore_tokens: Token ids that get no noise, are not replaced, and do not replace.
        skip_positions: The first so many words of each sequence get no noise (attention sinks).
        num_tokens: Size of the vocabulary for ``kind="tokens"``, where the site does not tell it.
        layout: As for :class:`~lightning_interp.callbacks.RepresentationMetrics`.
        output: Which tensor of what a site returns, where it returns several, of all sites or by site: an index, a key,
            an attribute, or a callable that returns the very tensor.
        call: For a drift site that fires several times in a forward pass. Noise is added at every call.
        read: How a drift site is read where no layout says it, and ``pooling`` for drift of one vector a sample; both
            as for :class:`~lightning_interp.callbacks.RepresentationMetrics`.
        pooling: See ``read``.
        kwargs: Arguments of :class:`~lightning_interp.callbacks.ValidationAnalysis`.

    Raises:
        ValueError: If an argument is out of range, a name matches no module, or, in the sanity check, if a site did not
            run; in the first validation, after a warning in the sanity check, if the module logs no such monitor (the
            error lists what it does log).

    Cost: number of sites × number of scales forward passes over the examples read; one more where the values without
        noise cannot be taken from the validation run itself (``drift``, ``score``, hooks around the module's step, a
        step that draws at random, another loader than the first, a compiled module), one more while a monitor is close
        to its start, and two more at the first reading; a copy of the model's buffers and attributes in each.

    Example:
        >>> callback = NoiseRobustness(
        ...     sites={"input": "embedding"}, scales=(0.25, 1.0), monitors={"val_loss": "loss", "val_acc": "score"}
        ... )
        >>> callback.logged_keys()[:3]
        ['under_noise/input/val_loss', 'robustness/input/val_loss', 'under_noise/input/val_acc']

    """

    told_apart = ("sites", "monitors", "kind", "relative", "dataloader_idx", "prefix")

    def __init__(
        self,
        sites: Sites,
        scales: Sequence[float] = (0.1, 0.25, 0.5, 1.0),
        monitors: Mapping[str, str] | None = None,
        drift: Sites | None = None,
        score: Score | None = None,
        kind: Kind = "gaussian",
        relative: Relative = "norm",
        max_examples: int | None = 512,
        start: str | Mapping[str, float] | None = "initial",
        seed: int = 0,
        num_tokens: int | None = None,
        **kwargs: Unpack[ReplayArgs],
    ) -> None:
        how, rest = split_site_args(kwargs)
        rest["max_examples"] = None  # whole batches are run again
        super().__init__(**rest)
        self.sites, self.drift = sites, drift
        self.scales = checked_scales(scales)
        self.kind: Kind = kind
        self.relative: Relative = relative
        if kind == "tokens" and self.scales[-1] > 1:
            raise ValueError(f"`scales` are rates for kind='tokens', so at most 1; got {list(self.scales)}.")
        self.start_values = StartValues(monitors or {}, start)
        self.monitors = self.start_values.monitors
        if not self.monitors and drift is None:
            raise ValueError("`monitors` and `drift` are both empty: name what is to be read under noise.")
        layout, output, words = how.pop("layout", None), how.pop("output", None), split_words(how)
        _check_kind(kind, relative, num_tokens, {"layout": layout, "output": output}, drift)
        asked = drift is not None or relative == "dimension"
        self.words = Words(**words, batch_size=self.batch_size, asked=asked)
        # Hooks run in the order of attaching: what is recorded at a noisy site is what it passes on.
        ignored = words.get("ignore_tokens", ())
        self.noisy = NoisySites(sites, kind, relative, seed, layout, output, ignored, num_tokens)
        self.drifted = SiteDrift(drift, layout, output, **how)
        self.replayed = Replayed(
            list(self.monitors), score, max_examples, self.dataloader_idx, seed, overhear=drift is None
        )

    # ------------------------------------------------- keys

    def declares(self) -> list[Measure]:
        """What is read of monitors and of sites downstream, under noise at each site."""
        return [
            *(UNDER_NOISE, ROBUSTNESS, RETENTION, HALF_SCALE, NOISY),
            *(UNDER_NOISE.at("site", "other monitor"), NOISY.at("site", "other monitor", "scale")),
            *(DRIFT.at("site", "downstream site", end="mean"), DRIFT.at(*DRIFT.of, level=FULL)),
            *(CLEAN, CLEAN.at("other monitor"), NONFINITE.at("downstream site")),
        ]

    def axes(self, model: nn.Module | None = None) -> dict[str, Sequence[str]]:
        """The sites, the monitors of which something can be learned, the others, the scales, the sites downstream."""
        learnable = self.start_values.learnable
        return {
            "site": self.noisy.short_names(model),
            "monitor": [name for name in self.monitors if name in learnable],
            "other monitor": [name for name in self.monitors if name not in learnable],
            "scale": [f"{scale:g}" for scale in self.scales],
            "downstream site": self.drifted.short_names(model),
        }

    def metric_improves(self, metric: str) -> str | None:
        """As ``monitors`` says."""
        return {"loss": "min", "score": "max"}[self.monitors[metric]] if metric in self.monitors else None

    # ------------------------------------------------- reading

    def kept_for_samples(self) -> str:
        """The monitors' values before training, which are of certain samples."""
        if self.start_values.start != "initial" or not self.monitors:
            return ""
        return (
            "the monitors' values before training cannot be read again on them, so robustness, retention and "
            "half_scale are not logged from here on. Give `start={monitor: level of chance}`, which needs no such value"
        )

    def watched(self, selection: Selection) -> Selection:
        """The samples that count, of the batches that are kept."""
        return self.replayed.watched(selection)

    def resolve(self, model: nn.Module) -> None:
        """Attach hooks at the sites."""
        super().resolve(model)
        for argument, given in (("layout", self.noisy.layout), ("output", self.noisy.output)):
            check_sites(argument, given, {**self.noisy.names, **self.drifted.names})

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the weights from before the first step until they are needed."""
        super().on_train_start(trainer, pl_module)
        self.start_values.keep_weights(pl_module, trainer.global_step, self._name)

    def merge(self, reading: Reading) -> Collective[Mapping[str, Tensor | float]]:
        """Run the kept batches under noise of every size at every site, and compare."""
        settings = [(site, scale) for site in self.noisy.names for scale in self.scales]
        found = yield from self.replayed.values(
            {one: partial(self._noise, *one) for one in settings},
            None if self.drift is None else self._plain,
            self.start_values.groups,
        )
        drift = yield from self.drifted.merge(settings)
        numb = yield from self._without_effect(found)
        yield from self.start_values.read(self.replayed)
        self.noisy.tell(self._name)
        self.drifted.tell()
        return {**self._of_monitors(found, numb, reading), **self._of_drift(drift)}

    @contextmanager
    def _plain(self, seen: Seen) -> Iterator[None]:
        with self.drifted.plain(seen, self._words(seen)):
            yield

    @contextmanager
    def _noise(self, site: str, scale: float, seen: Seen) -> Iterator[None]:
        words = self._words(seen)
        with self.drifted.under((site, scale), seen, words), self.noisy.adding(site, scale, seen, words):
            yield

    def _words(self, seen: Seen) -> Any:
        return self.words.of(seen, [*self.noisy.names, *self.drifted.names])

    def _without_effect(self, found: Rerun[_Noise]) -> Collective[set[str]]:
        """Sites where noise of whatever size changes no monitor by a bit: what was made noisy is not what counts."""
        changed = {site for (site, _), values in found.under.items() if values != found.plain}
        same = [site for site in self.noisy.names if site not in changed]
        if not same or not self.monitors:
            return set()
        # A model may stand all of these scales; none stands noise so much greater than all it knows.
        scale = 1.0 if self.kind == "tokens" else _OVERWHELMING * self.scales[-1]
        drowned = yield from self.replayed.under({site: partial(self._drowning, site, scale) for site in same})
        numb = {site for site, values in drowned.items() if values == found.plain}
        if numb and "numb" not in self._said:
            self._said.add("numb")
            pl.utilities.rank_zero_warn(
                f"{self._name}: noise at {sorted(numb)}, however large, changes none of {list(self.monitors)} by a "
                "bit, so what it is added to has no part in them: robustness there is not logged. Read another site, "
                "or say with `output=` which of the tensors that it returns."
            )
        return numb

    @contextmanager
    def _drowning(self, site: str, scale: float, seen: Seen) -> Iterator[None]:
        with self.noisy.adding(site, scale, seen, self._words(seen)):
            yield

    def _of_monitors(self, found: Rerun[_Noise], numb: set[str], reading: Reading) -> dict[str, float]:
        values: dict[str, float] = {}
        for monitor in self.monitors:
            without = values[f"clean/{monitor}"] = found.plain[monitor]
            groups = [group[monitor] for group in found.groups]
            start = self.start_values.of(monitor, without, groups, reading, self._name)
            for site in self.noisy.names:
                under = [found.under[site, scale][monitor] for scale in self.scales]
                values |= {f"noisy/{site}/{monitor}/{s:g}": v for s, v in zip(self.scales, under, strict=True)}
                values[f"under_noise/{site}/{monitor}"] = area_under_noise(self.scales, under, without)
                if start is None or site in numb:
                    continue
                kept = [retention(value, without, start) for value in under]
                values |= {f"retention/{site}/{monitor}/{s:g}": v for s, v in zip(self.scales, kept, strict=True)}
                values[f"robustness/{site}/{monitor}"] = area_under_noise(self.scales, kept, 1.0)
                values[f"half_scale/{site}/{monitor}"] = half_scale(self.scales, kept)
        return values

    def _of_drift(self, sums: Mapping[Any, Mapping[str, Sequence[float]]]) -> dict[str, float]:
        values: dict[str, float] = {}
        for down in self.drifted.names:
            for site in self.noisy.names:
                read = [
                    total / count if count else math.nan
                    for total, count, _ in (sums[site, s][down] for s in self.scales)
                ]
                values |= {f"drift/{site}/{down}/{s:g}": v for s, v in zip(self.scales, read, strict=True)}
                values[f"drift/{site}/{down}/mean"] = area_under_noise(self.scales, read, clean=0.0)
            values[f"nonfinite/{down}"] = max(one[down][2] for one in sums.values())
        return values

    def shared(self) -> Mapping[str, Tensor | float]:
        """The size of what noise was added to, by site: a part of an activation has another."""
        return {f"noise at {site}": size for site, size in self.noisy.sizes.items()}

    def upgraded(self, state: dict[str, Any]) -> dict[str, Any]:
        """Once what is known of the start stood among the callback's own state."""
        if "started" not in state:
            return state
        moved = {name: state[name] for name in ("started", "widths", "gaps", "learned", "lost") if name in state}
        return {**state, "start_values": moved}

    # ------------------------------------------------- pictures

    def figures(self) -> Mapping[str, Draw]:
        """Retention against scale, one line a reading, and the curves of what is left under noise and of drift."""
        sites, downstream = list(self.noisy.names), list(self.drifted.names)
        return NoisePictures(self.history, self.full_key, sites, downstream, self.scales, self.start_values).figures()


def _check_kind(
    kind: str, relative: str, num_tokens: int | None, of_sites: Mapping[str, Any], drift: Sites | None
) -> None:
    """Refuse what has no effect on this kind of noise."""
    if kind == "gaussian" and num_tokens is not None:
        raise ValueError(f"`num_tokens={num_tokens}` is for kind='tokens', and `kind` is 'gaussian'.")
    if kind != "tokens":
        return
    if relative != "norm":
        raise ValueError(f"`relative={relative!r}` is the size of Gaussian noise, and `kind` is 'tokens'.")
    for name, value in of_sites.items():
        if value is not None and drift is None:
            raise ValueError(f"`{name}` is of what sites return; kind='tokens' changes what goes in, without `drift`.")
