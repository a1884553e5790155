"""The base of probes that read the same sentences at every reading."""

from __future__ import annotations

import math
import weakref
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lightning_interp._forward import checked_forward
from lightning_interp.callbacks.analysis import ValidationAnalysis, refuse_batch_arguments
from lightning_interp.callbacks.representation import site_key
from lightning_interp.distributed import Gather, Maximum, PeerError, Steps, rank_in, world_size
from lightning_interp.isolation import kept_random_state, seeded
from lightning_interp.metrics.derived import ABOVE_BASELINE, BASELINE, with_random
from lightning_interp.metrics.measure import Measure, as_measures, expanded, keys_of
from lightning_interp.metrics.measures.geometry import NONFINITE
from lightning_interp.probing.random_weights import Fresh, RandomBaseline
from lightning_interp.probing.words import Pooling, Text, Units, encode_units, pooled
from lightning_interp.reading.reading import Reading
from lightning_interp.run_settings import Settings
from lightning_interp.sites import Call, Layout, LayoutResolver, OutputKey, SiteRecorder, resolve_sites, short_names
from lightning_interp.tasks.batching import length_batches, pad_right
from lightning_interp.tasks.differential import refuse_sharded
from lightning_interp.tasks.encoding import Tokenizer, padding_id
from lightning_interp.tasks.id_range import check_ids, told_ids
from lightning_interp.tasks.likelihood import FORWARD_TAKES, evaluated, model_device, takes_mask
from lightning_interp.tasks.loading import find_language_model, find_tokenizer

__all__ = ["Probed", "ProbedSite", "SentenceProbe"]

_SITE = "<site>"


@dataclass(frozen=True)
class ProbedSite:
    """What a site put out for all sentences."""

    vectors: Tensor
    """One vector a unit, float32 on the CPU, (R, D): the units of the first sentence, of the second, …"""
    numbers: Sequence[int]
    """How many units each sentence has."""
    extra: Tensor
    """What :meth:`SentenceProbe.extra` gave for each sentence, (S, K)."""

    def by_sentence(self) -> list[Tensor]:
        """The vectors of each sentence, (units, D)."""
        return list(torch.split(self.vectors, list(self.numbers)))


@dataclass(frozen=True)
class Probed:
    """What a probe found at a site."""

    values: Mapping[str, float]
    """Measure, without the site → value; NaN where it is undefined."""
    kept: Tensor = field(default_factory=lambda: torch.zeros(0))
    """What the next reading or a figure needs of it, a float32 vector of any length; checkpoints hold it."""


class SentenceProbe(ValidationAnalysis):
    """Runs fixed sentences through the model at every reading and probes what chosen sites make of them.

    A subclass fills in :meth:`site_measures` and :meth:`evaluate`, and where needed :meth:`extra` and ``figures``.
    This class encodes the sentences, deals whole batches of them over ranks, so that the numbers are those of one
    process, gathers one vector for each unit (a word, or the sentence), lets each rank evaluate some of the sites, and
    does the same once for the model with random weights: the baseline, without which a probe tells little.

    The model is run in evaluation mode without autocast; nothing is read of the validation batches. Where a vector of
    a site is not finite, its measures are undefined at that reading and ``nonfinite/<site>/<units>`` counts such
    vectors.

    Args:
        sentences: Texts, each of them one unit, or lists of words, each word a unit.
        sites: Where to read: dotted module names, globs, or ``{"alias": "dotted.name"}``, inside ``model``'s module.
        tokenizer: What :func:`~lightning_interp.probing.words.encode_units` takes; the dotted name of an attribute of
            the module; ``"grammar"`` for the words of the built-in grammar; or a name or folder for ``transformers``.
        model: Dotted name of the model in the module that is called with the ids; ``""`` for the module itself.
        forward: Calls it in its stead: ``forward(model, input_ids, attention_mask)``.
        pooling: Which tokens' vectors stand for a unit: its ``"last"`` or ``"first"`` token's, or their ``"mean"``.
        baseline: Whether the same is read once with random weights
            (:func:`~lightning_interp.probing.random_weights.random_weights`), or a function that makes the model anew.
            By default it is, but where it fails a warning says why, and the probe reads without.
        special_tokens: See :func:`~lightning_interp.probing.words.encode_units`.
        bos_token_id: The start token; the tokenizer's own by default.
        seed: Of the random weights and whatever the probe draws.
        batch_tokens: Tokens in a forward pass, padding included.
        layout: As for :class:`~lightning_interp.callbacks.RepresentationMetrics`.
        call: As there.
        output: As there.
        kwargs: Arguments of :class:`~lightning_interp.callbacks.ValidationAnalysis`, except ``max_examples``,
            ``dataloader_idx`` and ``batch_size``.

    Raises:
        ValueError: If an argument is out of range, a name matches nothing, the sentences and the tokenizer do not go
            together, or parameters are sharded over ranks.

    Cost: a forward pass over the sentences, twice at the first reading; 4·R·D bytes a site on every rank.

    """

    units = "vectors"
    """What a key calls the units: words, entities, statements."""
    extra_width = 0
    """How many numbers a sentence :meth:`extra` gives."""

    attached = ("_module", "_recorder", "_baseline_of")

    def __init__(
        self,
        sentences: Sequence[Text],
        sites: str | Sequence[str] | Mapping[str, str],
        tokenizer: str | Path | Tokenizer = "tokenizer",
        model: str = "",
        forward: Any = None,
        pooling: Pooling = "last",
        baseline: bool | Fresh | None = None,
        special_tokens: Literal["bos", "own"] = "bos",
        bos_token_id: int | None = None,
        seed: int = 0,
        batch_tokens: int = 4096,
        layout: Layout | Mapping[str, Layout] | None = None,
        call: Call = "only",
        output: OutputKey | Mapping[str, OutputKey] | None = None,
        **kwargs: Any,
    ) -> None:
        refuse_batch_arguments(kwargs, "Give fewer sentences.")
        super().__init__(max_examples=None, dataloader_idx=0, **kwargs)
        if isinstance(sentences, str) or not len(sentences):
            raise ValueError(f"`sentences` must be a list of sentences, got {sentences!r}.")
        if pooling not in ("last", "first", "mean"):
            raise ValueError(f"`pooling` must be 'last', 'first' or 'mean', got {pooling!r}.")
        if batch_tokens < 1:
            raise ValueError(f"`batch_tokens` must be at least 1, got {batch_tokens}.")
        self.sentences = list(sentences)
        self.sites = sites
        self.tokenizer = tokenizer
        self.model = model
        self.forward = checked_forward(forward, FORWARD_TAKES)
        self.pooling: Pooling = pooling
        self.baseline = baseline
        self._random = RandomBaseline(baseline)
        self.special_tokens: Literal["bos", "own"] = special_tokens
        self.bos_token_id = bos_token_id
        self.seed = seed
        self.batch_tokens = batch_tokens
        self.layout = layout
        self.call: Call = call
        self.output = output
        self._names: dict[str, str] = {}
        self._units: list[Units] = []
        self._batches: list[list[int]] = []
        self._padding = 0
        self._module: nn.Module | None = None
        self._recorder: SiteRecorder | None = None
        self._layouts = LayoutResolver(layout)
        self.clear()

    def clear(self) -> None:
        """Forget everything that belongs to one fit."""
        super().clear()
        self.kept: dict[str, Tensor] = {}
        """What :meth:`evaluate` kept at the last reading of the fit, by site."""
        self._extra = torch.zeros(0)
        """The extra numbers of all sentences at the reading."""
        self._found: dict[str, Tensor] = {}
        self._baseline_values: dict[str, float] = {}
        self._baseline_of: weakref.ref[nn.Module] | None = None
        self._random.forget()

    def identity(self) -> dict[str, Any]:
        """Tells instances of one class in a checkpoint apart by what they read."""
        return {
            "sites": self.sites if isinstance(self.sites, str) else list(self.sites),
            "model": self.model,
            "sentences": len(self.sentences),
            "seed": self.seed,
            "prefix": self.prefix,
        }

    def settings(self) -> Settings:
        """How readings are taken: arguments, how many sentences there are, and what became of the baseline."""
        return {**super().settings(), "sentences": len(self.sentences), **self._random.settings()}

    # ------------------------------------------------- what a subclass fills in

    def site_measures(self) -> Sequence[Measure]:
        """The measures of a site, of the axis ``"site"`` and perhaps more; ``beside_random`` those of the baseline too.

        By default those of :meth:`probe_measures`.
        """
        if type(self).probe_measures is SentenceProbe.probe_measures:
            raise NotImplementedError(f"{type(self).__name__} has neither `site_measures()` nor `probe_measures()`.")
        levels, compared = self.probe_measures(), self.compared()
        beside = dict.fromkeys(compared, True)
        found = zip(levels, as_measures(levels, of=("site",)), strict=True)
        return [replace(one, beside_random=beside.get(measure, False)) for measure, one in found]

    def probe_measures(self) -> dict[str, str]:
        """Every measure of a site, without the site, with its level; the site comes behind the first slash or last."""
        return keys_of([self._without_site(one) for one in self.site_measures()], self.axes())

    def compared(self) -> Sequence[str]:
        """The measures that are also read with random weights; all of :meth:`probe_measures` by default."""
        if type(self).site_measures is SentenceProbe.site_measures:
            return list(self.probe_measures())
        beside = [self._without_site(one) for one in self.site_measures() if one.beside_random]
        return list(keys_of(beside, self.axes()))

    @staticmethod
    def _without_site(measure: Measure) -> Measure:
        return measure.at(*(axis for axis in measure.of if axis != "site"), end=measure.end)

    @abstractmethod
    def evaluate(self, site: str, data: ProbedSite, kept: Tensor | None) -> Probed:
        """Probe a site. Called on one rank for each site, with gradients on and random streams seeded.

        Args:
            site: Its short name.
            data: What it put out.
            kept: What was kept at the reading before; ``None`` at the first one and with random weights.

        """

    def extra(self, output: Any, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Numbers for each sentence of a batch that need the model's output, (B, ``extra_width``)."""
        return torch.zeros(len(input_ids), self.extra_width)

    # ------------------------------------------------- keys

    def declares(self) -> list[Measure]:
        """The measures of a site, those of random weights, and what was left out."""
        own = self.site_measures()
        return [*(with_random(own) if self._random.wanted else own), NONFINITE.at("site", end=self.units)]

    def axes(self, model: nn.Module | None = None) -> dict[str, Sequence[str]]:
        """The sites."""
        return {"site": self.site_names(model)}

    def site_names(self, model: nn.Module | None = None) -> list[str]:
        """Short names of the sites; ``<site>`` where they cannot be known without the model."""
        return short_names(self.sites, model, self._names, _SITE)

    # ------------------------------------------------- reading

    def resolve(self, model: nn.Module) -> None:
        """Encode the sentences and attach hooks at the sites."""
        self._module = find_language_model(self.model, model)
        refuse_sharded(self._module, type(self).__name__)
        if self._baseline_of is not None and self._baseline_of() is not self._module:
            self._baseline_values = {}  # those of another model
            self._random.forget()
        self._baseline_of = weakref.ref(self._module)
        tokenizer = find_tokenizer(self.tokenizer, model)
        self._padding = padding_id(tokenizer)
        self._units = encode_units(tokenizer, self.sentences, self.special_tokens, self.bos_token_id)
        check_ids(self._module, (one.ids for one in self._units))
        lengths = [len(one.ids) for one in self._units]
        self._batches = _told_apart(length_batches(lengths, self.batch_tokens), lengths)
        self._names = resolve_sites(model, self.sites)
        self._recorder = SiteRecorder(model, self._names, self.call, self.output)
        self._recorder.attach()
        # Which of several batches has as many sentences as tokens is chance; one of them shows a wrong layout.
        self._layouts = LayoutResolver(self.layout, model, self._names, batch_first=True)

    def release(self) -> None:
        """Take the hooks off and let go of the model."""
        if self._recorder is not None:
            self._recorder.detach()
        self._recorder, self._module, self._units, self._batches = None, None, [], []
        self.abort()

    def abort(self) -> None:
        """Forget the reading."""
        self._found = {}
        if self._recorder is not None:
            self._recorder.stop()

    def merge(self, reading: Reading) -> Steps[Mapping[str, Tensor | float]]:
        """Run the sentences through the model, and probe the sites."""
        assert self._module is not None
        if self._random.wanted and not self._baseline_values:
            yield from self._take_baseline(self._module)
        values, self._found = yield from self._probe(self._read(), self.kept)
        if self._random.wanted:
            beside = [one for one in self.site_measures() if one.beside_random]
            for key, (one, at) in expanded(beside, self.axes()).items():
                level = self._baseline_values.get(key, math.nan)
                values[BASELINE.of(one).key(*at)] = level
                values[ABOVE_BASELINE.of(one).key(*at)] = values[key] - level
        return dict(values)

    def _take_baseline(self, module: nn.Module) -> Steps[None]:
        """Read the model with random weights; where that fails on any rank and was not asked for, all go without."""
        read, failure = None, None
        try:
            with self._random.installed(module, self.seed, type(self).__name__):
                read = self._read()
        except Exception as error:
            if self.baseline is not None:
                raise
            failure = error
        failed: Tensor = yield Maximum(torch.tensor(float(failure is not None)))
        if failed or read is None:
            self._random.give_up(failure or PeerError("another rank failed."), type(self).__name__)
            return
        found, _ = yield from self._probe(read, {})
        # Undefined ones too, so that it is not read again.
        self._baseline_values = {key: value for key, value in found.items() if not key.startswith("nonfinite/")}

    def _read(self) -> tuple[dict[str, list[Tensor]], list[Tensor]]:
        """This rank's share: a list over its batches of vectors by site, and of extra numbers."""
        assert self._module is not None
        assert self._recorder is not None
        found: dict[str, list[Tensor]] = {site: [] for site in self._names}
        extras: list[Tensor] = []
        with evaluated(self._module):
            for batch in self._batches[rank_in(self.group) :: world_size(self.group)]:
                ids, mask = pad_right(
                    [self._units[one].ids for one in batch], self._padding, model_device(self._module)
                )
                self._recorder.start()
                try:
                    output = self._run(ids, mask)
                finally:
                    self._recorder.stop()
                for site, calls in self._recorder.take().items():
                    parts = [self._layouts(site, out, len(batch), length=ids.shape[1])[0] for out in calls]
                    found[site].append(self._pooled(site, torch.cat(parts, 1), batch))
                extras.append(self.extra(output, ids, mask).float().cpu().reshape(len(batch), self.extra_width))
        return found, extras

    def _run(self, ids: Tensor, mask: Tensor) -> Any:
        assert self._module is not None
        with told_ids(self._module, ids):
            if self.forward is not None:
                return self.forward(self._module, ids, mask)
            if takes_mask(self._module):
                return self._module(input_ids=ids, attention_mask=mask)
            return self._module(ids)

    def _pooled(self, site: str, z: Tensor, batch: Sequence[int]) -> Tensor:
        units = [self._units[one] for one in batch]
        length = max(len(one.ids) for one in units)
        if z.shape[1] == 1 and length != 1 and all(one.number == 1 for one in units):
            return z[:, 0].float().cpu()  # the site gives one vector a sentence itself
        if z.shape[1] != length:
            raise ValueError(
                f"site {site!r} gives {z.shape[1]} vectors a sentence for {length} tokens: read a site with one vector "
                "a token, or, for whole sentences, one with a single vector."
            )
        rows = [pooled(z[row, : len(one.ids)].float(), one, self.pooling) for row, one in enumerate(units)]
        return torch.cat(rows).cpu()

    def _probe(
        self, read: tuple[dict[str, list[Tensor]], list[Tensor]], kept: Mapping[str, Tensor]
    ) -> Steps[tuple[dict[str, float], dict[str, Tensor]]]:
        """Gather what all ranks read, probe every site on one of them, and tell all the result."""
        numbers = [one.number for one in self._units]
        world, rank = world_size(self.group), rank_in(self.group)
        order = [one for first in range(world) for batch in self._batches[first::world] for one in batch]
        extra = yield from _gathered(read[1], self.extra_width)
        self._extra = extra = extra[torch.tensor(order).argsort()]
        sites = list(self._names)
        mine: dict[str, Probed] = {}
        values: dict[str, float] = {}
        for place, site in enumerate(sites):
            parts = read[0][site]
            width: Tensor = yield Maximum(torch.tensor(parts[0].shape[1] if parts else 0))
            rows: Tensor = yield from _gathered(parts, int(width))
            by_sentence = dict(zip(order, torch.split(rows, [numbers[one] for one in order]), strict=True))
            vectors = torch.cat([by_sentence[one] for one in range(len(numbers))])
            wrong = int((~vectors.isfinite().all(1)).sum())
            values[site_key(f"nonfinite/{self.units}", site)] = float(wrong)
            if place % world == rank:
                mine[site] = self._evaluated(site, ProbedSite(vectors, numbers, extra), kept.get(site), wrong)
        own = list(self.probe_measures())
        table = torch.tensor([[found.values[key] for key in own] for found in mine.values()], dtype=torch.float64)
        tables: list[Tensor] = yield Gather(table.reshape(len(mine), len(own)))
        lengths: list[Tensor] = yield Gather(
            torch.tensor([len(found.kept) for found in mine.values()], dtype=torch.long)
        )
        contents: list[Tensor] = yield Gather(torch.cat([torch.zeros(0), *(found.kept for found in mine.values())]))
        keep: dict[str, Tensor] = {}
        for first, (rows_of, sizes, content) in enumerate(zip(tables, lengths, contents, strict=True)):
            pieces = torch.split(content, sizes.tolist())
            for site, row, one in zip(sites[first::world], rows_of, pieces, strict=True):
                values |= {site_key(key, site): float(value) for key, value in zip(own, row, strict=True)}
                keep[site] = one.clone()
        return values, keep

    def _evaluated(self, site: str, data: ProbedSite, kept: Tensor | None, wrong: int) -> Probed:
        if wrong:
            return Probed(dict.fromkeys(self.probe_measures(), math.nan), torch.zeros(0) if kept is None else kept)
        with kept_random_state(), torch.enable_grad():
            seeded(self.seed)
            return self.evaluate(site, data, kept if kept is not None and len(kept) else None)

    # ------------------------------------------------- from one reading to the next

    def commit(self, reading: Reading) -> None:
        """What the reading keeps is kept once it is known to count."""
        self.kept, self._found = self._found, {}

    def state_dict(self) -> dict[str, Any]:
        """Readings, the baseline and what is kept, as plain numbers and tensors."""
        baseline = {"baseline": dict(self._baseline_values), "random": self._random.state_dict()}
        return {**super().state_dict(), "kept": dict(self.kept), **baseline}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where a checkpoint left off."""
        super().load_state_dict(state_dict)
        self.kept = dict(state_dict["kept"])
        self._baseline_values, self._baseline_of = dict(state_dict["baseline"]), None
        self._random.load_state_dict(state_dict["random"])


def _told_apart(batches: list[list[int]], lengths: Sequence[int]) -> list[list[int]]:
    """The batches, one of them with another number of sentences than of tokens: it shows a wrong layout."""
    square = [len(batch) == lengths[batch[-1]] for batch in batches]
    if not all(square) or len(batches[-1]) == 1:
        return batches
    return [*batches[:-1], batches[-1][:-1], batches[-1][-1:]]


def _gathered(parts: Sequence[Tensor], width: int) -> Steps[Tensor]:
    """The rows of all ranks, one rank after the other."""
    found: list[Tensor] = yield Gather(torch.cat([torch.zeros(0, width), *parts]))
    return torch.cat(found)
