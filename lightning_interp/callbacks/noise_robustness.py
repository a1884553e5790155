"""How much of what a model has learned survives noise at a site."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from lightning_interp.batches.forward import RunBatch, default_forward
from lightning_interp.batches.labels import BatchReader, Key, ReadBatch
from lightning_interp.batches.site_rows import Pooling, ReadSite, SiteReader
from lightning_interp.callbacks._noise_pictures import CLEAR, Learned, curve_panels, drift_panels, note_on_shares
from lightning_interp.compat import pl
from lightning_interp.distributed import Maximum, Minimum, Steps, Sum, run
from lightning_interp.distributed.positions import Selection
from lightning_interp.figures import measure_curves, retention_curves
from lightning_interp.functional.robustness import (
    area_under_noise,
    checked_scales,
    cosine_drift_sums,
    differs,
    half_scale,
    retention,
    share_learned,
)
from lightning_interp.isolation import ModuleState, WeightsCopy, muted_loggers
from lightning_interp.isolation.overheard import Overheard
from lightning_interp.isolation.replay import Life, Replay, Score, ScoreReplay, StepReplay, independent
from lightning_interp.isolation.seen import Seen
from lightning_interp.metrics.measure import FULL, Measure
from lightning_interp.metrics.measures.geometry import NONFINITE
from lightning_interp.metrics.measures.noise import CLEAN, DRIFT, HALF_SCALE, NOISY, RETENTION, ROBUSTNESS, UNDER_NOISE
from lightning_interp.reading.analysis import Draw, ValidationAnalysis
from lightning_interp.reading.reading import Reading
from lightning_interp.reporting.plain_values import Settings
from lightning_interp.reporting.said_once import say_once
from lightning_interp.sites import (
    Call,
    Layout,
    LayoutResolver,
    OutputKey,
    SiteRecorder,
    check_sites,
    resolve_sites,
    short_names,
)
from lightning_interp.sites.noise import BatchNoise, Kind, Relative, SiteNoise

__all__ = ["NoiseRobustness"]

Sites = str | Sequence[str] | Mapping[str, str]
_MODES = {"loss": -1.0, "score": 1.0}
_GROUPS = 8  # of batches, whose spread tells the noise of a monitor
_OVERWHELMING = 1e3  # times the largest scale
_LEARNED = 0.05  # of what there was to learn, from which on robustness is told
_IN_A_ROW = 3  # readings of a fit that must show it


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
        limit_examples: Read the first batches, until they hold so many examples over all ranks; ``None`` for all. They
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
        kwargs: Arguments of :class:`~lightning_interp.callbacks.ValidationAnalysis`, except ``max_examples``.

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

    attached = ("_model", "_noise", "_recorder", "_initial", "_overheard", "_epoch_start")

    def __init__(
        self,
        sites: Sites,
        scales: Sequence[float] = (0.1, 0.25, 0.5, 1.0),
        monitors: Mapping[str, str] | None = None,
        drift: Sites | None = None,
        score: Score | None = None,
        kind: Kind = "gaussian",
        relative: Relative = "norm",
        limit_examples: int | None = 512,
        start: str | Mapping[str, float] | None = "initial",
        seed: int = 0,
        tokens: Key | Mapping[str, Key] | None = None,
        mask: Key | None = None,
        padding_idx: int | None = None,
        ignore_tokens: Sequence[int] = (),
        skip_positions: int = 0,
        num_tokens: int | None = None,
        layout: Layout | Mapping[str, Layout] | None = None,
        output: OutputKey | Mapping[str, OutputKey] | None = None,
        call: Call = "only",
        read: ReadSite | Mapping[str, ReadSite] | None = None,
        pooling: Pooling | None = None,
        **kwargs: Any,
    ) -> None:
        if "max_examples" in kwargs:
            raise ValueError("`max_examples` is `limit_examples` here: whole batches are run again.")
        super().__init__(max_examples=None, **kwargs)
        scales = checked_scales(scales)
        if kind == "tokens" and scales[-1] > 1:
            raise ValueError(f"`scales` are rates for kind='tokens', so at most 1; got {list(scales)}.")
        self.monitors = dict(monitors or {})
        for name, mode in self.monitors.items():
            if mode not in _MODES:
                raise ValueError(f"`monitors[{name!r}]` must be one of {list(_MODES)}, got {mode!r}.")
        if not self.monitors and drift is None:
            raise ValueError("`monitors` and `drift` are both empty: name what is to be read under noise.")
        if limit_examples is not None and limit_examples < 1:
            raise ValueError(f"`limit_examples` must be at least 1, or None for all, got {limit_examples}.")
        if isinstance(start, Mapping):
            unknown = sorted(set(start) - set(self.monitors))
            if unknown:
                raise ValueError(f"`start` names {unknown}, which are not among the monitors {list(self.monitors)}.")
        elif start not in ("initial", None):
            raise ValueError(f"`start` must be 'initial', a value for each monitor, or None, got {start!r}.")
        self.sites = sites
        self.scales = scales
        self.drift = drift
        self.score = score
        self.kind: Kind = kind
        self.relative: Relative = relative
        self.limit_examples = limit_examples
        self.start = dict(start) if isinstance(start, Mapping) else start
        self.seed = seed
        for name, value in (("read", read), ("pooling", pooling)):
            if value is not None and drift is None:
                raise ValueError(f"`{name}` says how `drift` is read, and there is none.")
        if call != "only" and drift is None:
            raise ValueError(f"`call={call!r}` says how `drift` is read, and there is none.")
        _check_kind(kind, relative, num_tokens, {"layout": layout, "output": output}, drift)
        self.layout = layout
        self.output = output
        self.call: Call = call
        self.read = read
        self.pooling = pooling
        SiteReader(layout, None if layout is not None else read, pooling)  # checks the arguments
        self.num_tokens = num_tokens
        self._tokens_by_site = dict(tokens) if isinstance(tokens, Mapping) else {}
        self._reader = BatchReader(
            (),
            None if isinstance(tokens, Mapping) else tokens,
            mask,
            padding_idx,
            ignore_tokens,
            skip_positions,
            self.batch_size,
        )
        told = any(given is not None for given in (tokens, mask, padding_idx))
        self._reads = (
            drift is not None or len(ignore_tokens) > 0 or skip_positions > 0 or relative == "dimension" or told
        )
        # Checks kind and relative; the sites are known with the model.
        SiteNoise(nn.Module(), {}, kind, relative)
        self._names: dict[str, str] = {}
        self._downstream: dict[str, str] = {}
        self.clear()

    def clear(self) -> None:
        """Forget everything that belongs to one fit."""
        super().clear()
        self._noise: SiteNoise | None = None
        self._recorder: SiteRecorder | None = None
        self._model: nn.Module | None = None
        self._layouts = LayoutResolver(self.layout)
        self._drift_reader = SiteReader()
        self._how: dict[str, dict[str, str]] = {}
        self._kept: list[Seen] = []
        self._epoch_start: ModuleState | None = None
        self._overheard: Overheard | None = None
        self._initial: WeightsCopy | None = None
        self._started: dict[str, list[float]] = {}
        """For each monitor its value before training, then its values in the groups of batches."""
        self._widths: dict[str, float] = {}
        self._gaps: dict[str, float] = {}
        self._in_a_row: dict[str, int] = {}
        """For each monitor how many readings in a row have found that something was learned, up to three."""
        self._now_in_a_row: dict[str, int] = {}
        self._told = self._told_numb = self._told_unfit = False
        self._lost = False
        if isinstance(self.start, Mapping):
            self._started = {name: [float(value)] for name, value in self.start.items()}

    def identity(self) -> dict[str, Any]:
        """Tells instances apart by what they read."""
        return {
            "sites": self.sites if isinstance(self.sites, str) else list(self.sites),
            "monitors": list(self.monitors),
            "kind": self.kind,
            "relative": self.relative,
            "dataloader_idx": self.dataloader_idx,
            "prefix": self.prefix,
        }

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
        learnable = self._learnable()
        return {
            "site": short_names(self.sites, model, self._names),
            "monitor": [name for name in self.monitors if name in learnable],
            "other monitor": [name for name in self.monitors if name not in learnable],
            "scale": [f"{scale:g}" for scale in self.scales],
            "downstream site": self._drift_names(model),
        }

    def metric_improves(self, metric: str) -> str | None:
        """As ``monitors`` says."""
        return {"loss": "min", "score": "max"}[self.monitors[metric]] if metric in self.monitors else None

    def _learnable(self) -> set[str]:
        if self.start is None:
            return set()
        return set(self.start) if isinstance(self.start, Mapping) else set(self.monitors)

    def _drift_names(self, model: nn.Module | None) -> list[str]:
        return [] if self.drift is None else short_names(self.drift, model, self._downstream, "<downstream site>")

    # ------------------------------------------------- reading

    def kept_for_samples(self) -> str:
        """The monitors' values before training, which are of certain samples."""
        if self.start != "initial" or not self.monitors:
            return ""
        return (
            "the monitors' values before training cannot be read again on them, so robustness, retention and "
            "half_scale are not logged from here on. Give `start={monitor: level of chance}`, which needs no such value"
        )

    def watched(self, selection: Selection) -> Selection:
        """The samples that count, of the batches that are kept."""
        if not self._full():
            return self._counted(selection)
        return Selection(selection.positions[:0], torch.zeros(0, dtype=torch.int64), selection.batch)

    def start_anew(self) -> None:
        """Forget the values before training."""
        self._started, self._widths, self._gaps, self._in_a_row, self._lost = {}, {}, {}, {}, True

    def commit(self, reading: Reading) -> None:
        """Count readings of a fit that find that something was learned."""
        found, self._now_in_a_row = self._now_in_a_row, {}
        self._in_a_row |= found

    def resolve(self, model: nn.Module) -> None:
        """Attach hooks at the sites."""
        self._names = resolve_sites(model, self.sites)
        self._downstream = {} if self.drift is None else resolve_sites(model, self.drift)
        for argument, given in (("layout", self.layout), ("output", self.output)):
            check_sites(argument, given, {**self._names, **self._downstream})
        self._noise = SiteNoise(
            model,
            self._names,
            self.kind,
            self.relative,
            self._reader.ignore_tokens,
            self.num_tokens,
            _among(self.output, self._names),
        )
        # Hooks run in the order of attaching: what is recorded at a noisy site is what it passes on.
        self._noise.attach()
        # A short name may stand for one module among the sites and for another among those of drift.
        output = _among(self.output, self._names)
        self._layouts = LayoutResolver(_among(self.layout, self._names), model, self._names, output=output)
        if self.drift is not None:
            self._drift_reader = SiteReader(_among(self.layout, self._downstream), self.read, self.pooling)
            output = _among(self.output, self._downstream)
            self._drift_reader.resolve(model, self._downstream, output)
            self._recorder = SiteRecorder(model, self._downstream, self.call, output, self._drift_reader.own)
            self._recorder.attach()
        self._model = model

    def take_padding(self, padding_idx: int | None) -> None:
        """Padding where neither arguments nor batches say anything of it."""
        self._reader.shared_padding = padding_idx

    def release(self) -> None:
        """Take the hooks off and drop what was kept."""
        for hooks in (self._noise, self._recorder):
            if hooks is not None:
                hooks.detach()
        self._noise = self._recorder = self._model = None
        self.abort()

    def begin(self, reading: Reading) -> None:
        """Start without batches."""
        self.abort()

    def abort(self) -> None:
        """Forget the reading."""
        if self._recorder is not None:
            self._recorder.stop()
        if self._overheard is not None:
            self._overheard.stop()
        self._kept, self._epoch_start, self._overheard = [], None, None

    def before_batch(self, seen: Seen) -> None:
        """Keep the batch as it was handed to the model."""
        if self._full():
            return
        if self._overheard is not None:
            self._overheard.start(seen.batch)
        counted = self._counted(seen.selection)
        self._kept.append(replace(seen, batch=independent(seen.batch), selection=counted))

    def after_batch(self, seen: Seen) -> None:
        """The batch is run again when the validation run is over; what it logged without noise is known by now."""
        if self._overheard is not None:
            self._overheard.stop()

    def _full(self) -> bool:
        """Whether as many batches are kept as are read."""
        if self.limit_examples is None or not self._kept:
            return False
        return len(self._kept) * self._kept[0].selection.batch.numel() * self.positions.world >= self.limit_examples

    def _counted(self, selection: Selection) -> Selection:
        """The samples below the limit, so that those that count do not depend on the size of batches."""
        in_order = self.positions.exact or (self.positions.world == 1 and not self.positions.shuffled)
        if self.limit_examples is None or not in_order:
            return selection
        below = selection.positions < self.limit_examples
        rows = torch.arange(len(selection.batch)) if selection.rows is None else selection.rows
        return Selection(selection.positions[below], rows[below], selection.batch)

    def finish(self, reading: Reading) -> Mapping[str, Tensor | float]:
        """Run the kept batches under every setting, and compare."""
        try:
            found = run(self._steps(), self.group)
            self._tell_how()
            return found
        finally:
            self.abort()

    def _tell_how(self) -> None:
        """Say once where noise is added, and how sites of drift are read."""
        assert self._noise is not None
        assert self._model is not None
        for site, path in self._noise.paths.items():
            layout = self._layouts.layouts[site]
            module = f"{self._names[site] or 'the model'}, {type(self._noise.modules[site]).__name__}"
            say_once(self._model, f"Site {site!r} ({module}) gets noise: output{path}, layout {layout}.")
            self._how[f"noise/{site}"] = {"layout": layout, "output": f"output{path}"}
        if self._recorder is not None:
            for site, how in self._drift_reader.told.items():
                found = self._recorder.found[site]
                say_once(self._model, how.line(site, self._recorder.described(site), found, self.call))
                self._how[site] = how.settings(found)

    def settings(self) -> Settings:
        """How readings are taken: arguments, and how each site is made noisy or read."""
        found = super().settings()
        return found | {f"{key}/{site}": value for site, how in self._how.items() for key, value in how.items()}

    def shared(self) -> Mapping[str, Tensor | float]:
        """The size of what noise was added to, by site: a part of an activation has another."""
        return {f"noise at {site}": size for site, size in ({} if self._noise is None else self._noise.sizes).items()}

    def _steps(self) -> Steps[dict[str, float]]:
        most: Tensor = yield Maximum(torch.tensor(len(self._kept)))
        if not self._kept:
            raise ValueError(f"{self._name} has no batch to read on this rank: its validation loader is empty.")
        # Where a forward pass communicates (sharded models), all ranks must make the same number of them.
        batches = self._kept + [replace(self._kept[-1], counted=False)] * (int(most) - len(self._kept))
        settings = [(site, scale) for site in self._names for scale in self.scales]
        replay = self._replay()
        assert self._noise is not None
        self._noise.sizes.clear()
        heard = self._overheard
        # All ranks run the batches without noise again, or none.
        exact = heard is not None and heard.exact and heard.batches == len(self._kept) and not self._rehearses()
        known: Tensor = yield Minimum(torch.tensor(float(exact)))
        if heard is not None:
            heard.end()
        with replay.isolated():
            clean, noisy = replay.life(), [replay.life() for _ in settings]
            if heard is not None and bool(known):
                clean.state, clean.logged = heard.state, heard.logged
            groups = self._group_lives(replay, len(batches)) if self._unclear() else []
            lives = dict(zip(settings, noisy, strict=True))
            drift = self._passes(replay, batches, None if bool(known) else clean, lives, groups)
            found = yield from replay.values([clean, *noisy, *groups])
            sums: Tensor = yield Sum(drift.to(torch.float64))
            numb = yield from self._without_effect(replay, batches, settings, found)
            if self._initial is not None:
                yield from self._read_start(replay, batches)
        values: dict[str, float] = {}
        self._compare(settings, found[0], found[1 : 1 + len(settings)], found[1 + len(settings) :], numb, values)
        self._add_drift(settings, sums, values)
        return values

    def _passes(
        self,
        replay: Replay,
        batches: Sequence[Seen],
        clean: Life | None,
        noisy: Mapping[tuple[str, float], Life],
        groups: Sequence[Life],
    ) -> Tensor:
        """Run every batch in every life that there is; the sums of drift, (settings, downstream sites, 3)."""
        assert self._noise is not None
        drift = [[torch.zeros(3, dtype=torch.float64)] * len(self._downstream) for _ in noisy]
        for place, kept in enumerate(batches):
            reads = self._read(kept)
            words = {site: reads[site].read if reads else None for site in self._names}
            places = kept.selection.batch
            noise = {site: BatchNoise(places, self._layouts, read, self.seed) for site, read in words.items()}
            before: dict[str, tuple[Tensor, Tensor]] = {}
            if clean is not None:
                with self._recording():
                    replay.run(clean, kept)
                before = self._taken(kept, reads)
            if groups:
                replay.run(groups[place % len(groups)], kept)
            for (site, scale), life, sums in zip(noisy, noisy.values(), drift, strict=True):
                with self._recording(), self._noise.adding(site, scale, noise[site]):
                    replay.run(life, kept)
                self._tell_unfit(noise[site])
                after = self._taken(kept, reads)
                for column, (down, (z, mask)) in enumerate(before.items() if kept.counted else ()):
                    found = cosine_drift_sums(z, after[down][0], mask)
                    sums[column] = sums[column].to(found.device, found.dtype) + found
        if not self._downstream:
            return torch.zeros(0)
        return torch.stack([torch.stack([one.cpu() for one in row]) for row in drift])

    def _without_effect(
        self,
        replay: Replay,
        batches: Sequence[Seen],
        settings: Sequence[tuple[str, float]],
        found: Sequence[Mapping[str, float]],
    ) -> Steps[set[str]]:
        """Sites where noise of whatever size changes no monitor by a bit: what was made noisy is not what counts."""
        clean, noisy = found[0], found[1 : 1 + len(settings)]
        changed = {site for (site, _), one in zip(settings, noisy, strict=True) if one != clean}
        same = [site for site in self._names if site not in changed]
        if not same or not self.monitors:
            return set()
        # A model may stand all of these scales; none stands noise so much greater than all it knows.
        scale = 1.0 if self.kind == "tokens" else _OVERWHELMING * self.scales[-1]
        lives = {(site, scale): replay.life() for site in same}
        self._passes(replay, batches, None, lives, [])
        drowned = yield from replay.values(list(lives.values()))
        numb = {site for site, one in zip(same, drowned, strict=True) if one == clean}
        if numb and not self._told_numb:
            self._told_numb = True
            pl.utilities.rank_zero_warn(
                f"{self._name}: noise at {sorted(numb)}, however large, changes none of {list(self.monitors)} by a "
                "bit, so what it is added to has no part in them: robustness there is not logged. Read another site, "
                "or say with `output=` which of the tensors that it returns."
            )
        return numb

    def _tell_unfit(self, noise: BatchNoise) -> None:
        """Say once where it is known what is padding, and not at the positions of a noisy site."""
        if noise.unfit and not self._told_unfit:
            self._told_unfit = True
            ((site, (known, given)),) = noise.unfit.items()
            pl.utilities.rank_zero_warn(
                f"{self._name}: site {site!r} has {given} positions a sample, and the batch tells of {known} which are "
                "padding or skipped, so all of them get noise there. This is said once."
            )

    @contextmanager
    def _recording(self) -> Iterator[None]:
        with nullcontext() if self._recorder is None else self._recorder.capturing():
            yield

    def _read(self, kept: Seen) -> dict[str, ReadBatch]:
        """Which positions of the batch are words, by site, where anything asks for it."""
        if not self._reads:
            return {}
        places = kept.selection.batch if self.positions.exact else None
        wheres = {site: self._tokens_by_site.get(site) for site in (*self._names, *self._downstream)}
        samples = len(kept.selection.batch)
        found = {where: self._reader.read(kept.batch, places, where, None, samples) for where in set(wheres.values())}
        return {site: found[where] for site, where in wheres.items()}

    def _taken(self, kept: Seen, reads: Mapping[str, ReadBatch]) -> dict[str, tuple[Tensor, Tensor]]:
        """Representations and mask of the samples that count, by downstream site."""
        if self._recorder is None:
            return {}
        taken: dict[str, tuple[Tensor, Tensor]] = {}
        for site, calls in self._recorder.take().items():
            rows = self._drift_reader(site, calls, kept.batch, reads[site]).of(kept.selection)
            rows = self._drift_reader.pooled(site, rows)
            taken[site] = rows.representations, rows.mask
        return taken

    def _read_start(self, replay: Replay, batches: Sequence[Seen]) -> Steps[None]:
        """The monitors with the weights from before the first step."""
        assert self._initial is not None
        with replay.with_weights(self._initial):
            whole, groups = replay.life(), self._group_lives(replay, len(batches))
            for place, kept in enumerate(batches):
                replay.run(whole, kept)
                if groups:
                    replay.run(groups[place % len(groups)], kept)
            found = yield from replay.values([whole, *groups])
        self._started = {monitor: [one[monitor] for one in found] for monitor in self.monitors}
        self._initial = None

    def _replay(self) -> Replay:
        trainer = None if self.now is None else self.now.trainer
        assert self._model is not None
        if self.score is not None:
            return ScoreReplay(self._model, list(self.monitors), self.score, partial(_around, trainer), self.seed)
        if trainer is not None:
            assert isinstance(self._model, pl.LightningModule)
            assert self._epoch_start is not None
            return StepReplay(trainer, self._model, list(self.monitors), self._epoch_start, self.seed)
        if self.monitors:
            raise ValueError("Outside a Trainer, NoiseRobustness reads no validation_step: give it `score=`.")
        return ScoreReplay(self._model, [], partial(_forward_alone, self._run_batch()), seed=self.seed)

    def _run_batch(self) -> RunBatch | None:
        return None if self.now is None else self.now.run_batch

    def _group_lives(self, replay: Replay, batches: int) -> list[Life]:
        number = min(_GROUPS, batches) if self._learnable() else 0
        return [replay.life() for _ in range(number)] if number > 1 else []

    # ------------------------------------------------- from values to measures

    def _unclear(self) -> bool:
        """Whether the noise of some monitor must be estimated (anew)."""
        return any(
            not abs(self._gaps.get(monitor, 0.0)) > CLEAR * self._widths.get(monitor, math.inf)
            for monitor in self._learnable()
            if not self._lost
        )

    def _compare(
        self,
        settings: Sequence[tuple[str, float]],
        clean: Mapping[str, float],
        noisy: Sequence[Mapping[str, float]],
        groups: Sequence[Mapping[str, float]],
        numb: set[str],
        values: dict[str, float],
    ) -> None:
        for monitor, mode in self.monitors.items():
            without = values[f"clean/{monitor}"] = clean[monitor]
            start = self._start_of(monitor, without, [group[monitor] for group in groups], mode)
            for site in self._names:
                under = [one[monitor] for (where, _), one in zip(settings, noisy, strict=True) if where == site]
                values |= {f"noisy/{site}/{monitor}/{s:g}": v for s, v in zip(self.scales, under, strict=True)}
                values[f"under_noise/{site}/{monitor}"] = area_under_noise(self.scales, under, without)
                if start is None or site in numb:
                    continue
                kept = [retention(value, without, start) for value in under]
                values |= {f"retention/{site}/{monitor}/{s:g}": v for s, v in zip(self.scales, kept, strict=True)}
                values[f"robustness/{site}/{monitor}"] = area_under_noise(self.scales, kept, 1.0)
                values[f"half_scale/{site}/{monitor}"] = half_scale(self.scales, kept)

    def _start_of(self, monitor: str, clean: float, groups: Sequence[float], mode: str) -> float | None:
        """The value before training, if the monitor is clearly better than that."""
        started = self._started.get(monitor)
        if not started or (self.now is not None and self.now.changed is not None):
            return None
        if groups:
            self._widths[monitor] = differs(groups, started[1:] or started)
        gap = self._gaps[monitor] = _MODES[mode] * (clean - started[0])
        width = self._widths.get(monitor, math.nan)
        if math.isnan(width):
            if not self._told:
                self._told = True
                pl.utilities.rank_zero_warn(
                    f"{self._name} reads a single batch, so the noise of {list(self.monitors)} cannot be told, nor "
                    "whether the model is better than before training: robustness is not logged. Use smaller "
                    "validation batches."
                )
            return None
        learned = gap > width and share_learned(clean, started[0], mode == "loss") >= _LEARNED
        # Once it was seen often enough, a reading that does not see it goes without and the next one need not wait.
        before = self._in_a_row.get(monitor, 0)
        now = 0 if not learned else _IN_A_ROW if gap > CLEAR * width else before + 1
        self._now_in_a_row[monitor] = max(now, before if before >= _IN_A_ROW else 0)
        wanted = _IN_A_ROW if self.step is not None else 1
        return started[0] if learned and self._now_in_a_row[monitor] >= wanted else None

    def _add_drift(self, settings: Sequence[tuple[str, float]], sums: Tensor, values: dict[str, float]) -> None:
        for (site, scale), row in zip(settings, sums, strict=False):
            for down, (total, count, _) in zip(self._downstream, row.tolist(), strict=True):
                values[f"drift/{site}/{down}/{scale:g}"] = total / count if count else math.nan
        for site in self._names:
            for down in self._downstream:
                read = [values[f"drift/{site}/{down}/{scale:g}"] for scale in self.scales]
                values[f"drift/{site}/{down}/mean"] = area_under_noise(self.scales, read, clean=0.0)
        for column, down in enumerate(self._downstream):
            values[f"nonfinite/{down}"] = float(sums[:, column, 2].max())

    # ------------------------------------------------- life in a Trainer

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the weights from before the first step until they are needed."""
        super().on_train_start(trainer, pl_module)
        if self.start != "initial" or not self.monitors or self._started or self._initial is not None or self._lost:
            return
        if trainer.global_step == 0:
            self._initial = WeightsCopy(pl_module)
        else:
            pl.utilities.rank_zero_warn(
                f"{self._name} starts at step {trainer.global_step} from a checkpoint that does not hold the monitors' "
                "values before training: robustness is not logged. Give `start={monitor: level of chance}`."
            )

    def before_any_batch(self, reading: Reading, loader: int) -> None:
        """Keep the module's state from the beginning of the run."""
        if self._epoch_start is None and self.score is None and reading.trainer is not None:
            # Before the first step of any loader: what the module collects is still empty.
            self._keep_state(reading.model, loader)
        if self._overheard is not None and (self._full() or loader != self.dataloader_idx):
            self._overheard.end()

    def before(self, reading: Reading, batch: Any, index: int, loader: int = 0) -> None:
        """Choose the samples that are read of a batch, and keep it."""
        kept = len(self._kept)
        super().before(reading, batch, index, loader)
        if self._overheard is not None and self._overheard.state is None and len(self._kept) == kept:
            # The module takes in a batch that is not among those read (nothing but padding).
            self._overheard.exact = False

    def _keep_state(self, pl_module: nn.Module, dataloader_idx: int) -> None:
        assert isinstance(pl_module, pl.LightningModule)
        self._epoch_start = ModuleState(pl_module).copy()
        # Another loader's batches would come in between, representations must be seen again, and a compiled step would
        # be compiled anew.
        if dataloader_idx == self.dataloader_idx and self.drift is None and pl_module._compiler_ctx is None:
            self._overheard = Overheard(pl_module)

    def state_dict(self) -> dict[str, Any]:
        """Readings, and the monitors' values before training."""
        return {
            **super().state_dict(),
            "started": {name: list(values) for name, values in self._started.items()},
            "widths": dict(self._widths),
            "gaps": dict(self._gaps),
            "learned": dict(self._in_a_row),
            "lost": self._lost,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where a checkpoint left off."""
        super().load_state_dict(state_dict)
        if not isinstance(self.start, Mapping):
            self._started = {name: list(values) for name, values in state_dict["started"].items()}
        self._widths, self._gaps = dict(state_dict["widths"]), dict(state_dict["gaps"])
        self._in_a_row = dict(state_dict.get("learned", {}))
        self._lost = bool(state_dict.get("lost", False))

    # ------------------------------------------------- pictures

    def figures(self) -> Mapping[str, Draw]:
        """Retention against scale, one line a reading, and the curves of what is left under noise and of drift."""
        # While nothing was learned there is no retention to draw, which is no failure.
        pictures: dict[str, Draw] = {}
        if self._retention_panels():
            pictures["noise/retention"] = self._retention_figure
        if self.monitors:
            pictures["noise/robustness"] = self._curves_figure
        if self._downstream and self._drift_panels():
            pictures["noise/drift"] = self._drift_figure
        return pictures

    def _retention_figure(self) -> Figure:
        panels = self._retention_panels()
        if not self._learnable():
            drawn = {panel: [reading for _, reading in lines] for panel, lines in panels.items()}
            return retention_curves(drawn, title="monitors under noise", reference=(), y="value")
        learned = self._learned()
        shown = {
            panel: [(monitor, reading) for monitor, reading in lines if learned[monitor].clear(reading[0])]
            for panel, lines in panels.items()
        }
        left_out = sum(map(len, panels.values())) - sum(map(len, shown.values()))
        note = note_on_shares(
            [(learned[monitor], step, values) for lines in shown.values() for monitor, (step, _, values) in lines],
            left_out,
        )
        drawn = {panel: [reading for _, reading in lines] for panel, lines in shown.items()}
        return retention_curves(drawn, title="share of what was learned that survives noise", note=note)

    def _learned(self) -> dict[str, Learned]:
        """What each monitor had gained at the readings so far."""
        found: dict[str, Learned] = {}
        for monitor in self._learnable():
            started = self._started.get(monitor) or [math.nan]
            direction = _MODES[self.monitors[monitor]]
            line = zip(*self._series(f"clean/{monitor}"), strict=True)
            gains = {step: direction * (value - started[0]) for step, value in line}
            found[monitor] = Learned(gains, self._widths.get(monitor, math.nan))
        return found

    def _series(self, key: str) -> tuple[Sequence[int], Sequence[float]]:
        return self.history.series(self.full_key(key))

    def _retention_panels(self) -> dict[str, list[tuple[str, tuple[int, Sequence[float], Sequence[float]]]]]:
        """The monitor and the curve of each reading."""
        # Shares and a monitor's own values do not go on one scale: shares where there are any.
        learnable = [monitor for monitor in self.monitors if monitor in self._learnable()]
        name, zero = ("retention", None) if learnable else ("noisy", "clean")
        panels: dict[str, list[tuple[str, tuple[int, Sequence[float], Sequence[float]]]]] = {}
        for site in self._names:
            for monitor in learnable or self.monitors:
                keys = [self.full_key(f"{name}/{site}/{monitor}/{scale:g}") for scale in self.scales]
                lines: list[tuple[str, tuple[int, Sequence[float], Sequence[float]]]] = []
                for reading in self.history.readings:
                    found = [reading.get(key) for key in keys]
                    if any(value is not None for value in found):
                        first = 1.0 if zero is None else reading.get(self.full_key(f"{zero}/{monitor}"))
                        values = [math.nan if value is None else value for value in (first, *found)]
                        lines.append((monitor, (reading.step, (0.0, *self.scales), values)))
                if lines:
                    panels[f"{monitor}, noise at {site}"] = lines
        return panels

    def _curves_figure(self) -> Figure:
        return measure_curves(curve_panels(list(self.monitors), list(self._names), self._series, self._learned()))

    def _drift_panels(self) -> dict[str, dict[str, tuple[Sequence[int], Sequence[float]]]]:
        return drift_panels(list(self._names), list(self._downstream), self.scales, self._series)

    def _drift_figure(self) -> Figure:
        # A small noise turns vectors a hundred times less than a large one, and would be a line on zero.
        panels = self._drift_panels()
        return measure_curves(panels, "How far representations turn under noise", log_y=list(panels))


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


def _among(given: Any, names: Mapping[str, str]) -> Any:
    """Of an argument by site, what is for these sites."""
    return {site: one for site, one in given.items() if site in names} if isinstance(given, Mapping) else given


def _around(trainer: pl.Trainer | None) -> list[Any]:
    """What a score is run in, within a Trainer."""
    if trainer is None:
        return []
    return [trainer.strategy.precision_plugin.val_step_context(), muted_loggers(trainer)]


def _forward_alone(run_batch: RunBatch | None, model: nn.Module, batch: Any) -> dict[str, Tensor]:
    (run_batch or default_forward(model))(model, batch, 0)
    return {}
