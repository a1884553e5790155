"""The base of probes that read the same sentences at every reading."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Unpack

import torch
from torch import Tensor, nn

from lightning_interp.callbacks.representation_metrics import site_key
from lightning_interp.distributed import Collective
from lightning_interp.isolation import preserved_rng, seed_all
from lightning_interp.isolation.random_weights import Reinit
from lightning_interp.language.encoding import Tokenizer
from lightning_interp.language.words import Pooling, SpecialTokens, Text
from lightning_interp.metrics.derived import with_random
from lightning_interp.metrics.measure import Measure, as_measures, keys_of
from lightning_interp.metrics.measures.geometry import NONFINITE
from lightning_interp.parts.baseline import Baseline, beside_random
from lightning_interp.parts.kept import Kept
from lightning_interp.parts.language_model import LanguageModel, one_language_model
from lightning_interp.parts.sentences import Probed, SentenceBatch, Sentences
from lightning_interp.reading.analysis import ValidationAnalysis
from lightning_interp.reading.argument_names import refuse_unknown_arguments
from lightning_interp.reading.arguments import AnalysisArgs
from lightning_interp.reading.reading import Reading
from lightning_interp.reading.stored_readings import StoredReadings
from lightning_interp.sites import Call, Layout, OutputKey

__all__ = ["Probed", "ProbedSite", "SentenceArgs", "SentenceProbe"]


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


class SentenceArgs(AnalysisArgs, total=False):
    """Those of probes that read sentences; see :class:`SentenceProbe`."""

    tokenizer: str | Path | Tokenizer
    model: str
    forward: Any
    pooling: Pooling
    baseline: bool | Reinit | None
    special_tokens: SpecialTokens
    bos_token_id: int | None
    seed: int
    batch_tokens: int
    layout: Layout | Mapping[str, Layout] | None
    call: Call
    output: OutputKey | Mapping[str, OutputKey] | None
    lm: LanguageModel | None


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
        tokenizer: What :func:`~lightning_interp.language.encode_units` takes; the dotted name of an attribute of
            the module; ``"grammar"`` for the words of the built-in grammar; or a name or folder for ``transformers``.
        model: Dotted name of the model in the module that is called with the ids; ``""`` for the module itself.
        forward: Calls it in its stead: ``forward(model, input_ids, attention_mask)``.
        pooling: Which tokens' vectors stand for a unit: its ``"last"`` or ``"first"`` token's, or their ``"mean"``.
        baseline: Whether the same is read once with random weights
            (:func:`~lightning_interp.isolation.random_weights.random_weights`), or a function that makes the model
            anew. By default it is, but where it fails a warning says why, and the probe reads without.
        special_tokens: See :func:`~lightning_interp.language.encode_units`.
        bos_token_id: The start token; the tokenizer's own by default.
        seed: Of the random weights and whatever the probe draws.
        batch_tokens: Tokens in a forward pass, padding included.
        layout: As for :class:`~lightning_interp.callbacks.RepresentationMetrics`.
        call: As there.
        output: As there.
        lm: Instead of ``tokenizer``, ``model``, ``forward``, ``special_tokens``, ``bos_token_id`` and ``batch_tokens``,
            all of them.
        kwargs: Arguments of :class:`~lightning_interp.callbacks.ValidationAnalysis`, except ``max_examples``,
            ``dataloader_idx`` and ``batch_size``.

    Raises:
        ValueError: If an argument is out of range, a name matches nothing, the sentences and the tokenizer do not go
            together, or parameters are sharded over ranks.

    Cost: a forward pass over the sentences, twice at the first reading, which probes of the same sentences share;
        4·R·D bytes a site on every rank.

    """

    units = "vectors"
    """What a key calls the units: words, entities, statements."""
    extra_width = 0
    """How many numbers a sentence :meth:`extra` gives."""
    stored_readings = 2
    """Of how many readings what was kept is stored, evenly spread over the fit, the first and the last among them."""

    def __init__(
        self,
        sentences: Sequence[Text],
        sites: str | Sequence[str] | Mapping[str, str],
        tokenizer: str | Path | Tokenizer = "tokenizer",
        model: str = "",
        forward: Any = None,
        pooling: Pooling = "last",
        baseline: bool | Reinit | None = None,
        special_tokens: SpecialTokens = "bos",
        bos_token_id: int | None = None,
        seed: int = 0,
        batch_tokens: int = 4096,
        layout: Layout | Mapping[str, Layout] | None = None,
        call: Call = "only",
        output: OutputKey | Mapping[str, OutputKey] | None = None,
        lm: LanguageModel | None = None,
        **kwargs: Unpack[AnalysisArgs],
    ) -> None:
        refuse_unknown_arguments(type(self), kwargs, AnalysisArgs)
        super().__init__(max_examples=None, dataloader_idx=0, batch_size=None, **kwargs)
        self.seed = seed
        lm = one_language_model(
            lm,
            tokenizer=tokenizer,
            model=model,
            forward=forward,
            batch_tokens=batch_tokens,
            special_tokens=special_tokens,
            bos_token_id=bos_token_id,
        )
        self.sentences = Sentences(sentences, sites, lm, pooling, layout, call, output)
        self.baseline = Baseline(baseline, seed, of=lm.model)
        self.stored = Kept(self.stored_readings)
        """What :meth:`evaluate` kept at readings of the fit, by site."""

    @property
    def kept(self) -> dict[str, Tensor]:
        """What :meth:`evaluate` kept at the last reading of the fit, by site."""
        return dict(self.stored.values[-1]) if len(self.stored) else {}

    def identity(self) -> dict[str, Any]:
        """Tells instances of one class in a checkpoint apart by what they read."""
        sites = self.sentences.sites
        return {
            "sites": sites if isinstance(sites, str) else list(sites),
            "model": self.sentences.lm.model,
            "sentences": len(self.sentences),
            "seed": self.seed,
            "prefix": self.prefix,
        }

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

    def from_extra(self, extra: Tensor) -> Mapping[str, float]:
        """Measures that belong to no site, by key, from what :meth:`extra` gave of all sentences, (S, K)."""
        return {}

    def unread(self, kept: Tensor | None) -> Tensor:
        """What is kept of a site with a vector that is not finite; by default what was kept before."""
        return torch.zeros(0) if kept is None else kept

    # ------------------------------------------------- keys

    def declares(self) -> list[Measure]:
        """The measures of a site, those of random weights, and what was left out."""
        own = self.site_measures()
        return [*(with_random(own) if self.baseline.wanted else own), NONFINITE.at("site", end=self.units)]

    def axes(self, model: nn.Module | None = None) -> dict[str, Sequence[str]]:
        """The sites."""
        return {"site": self.sentences.short_names(model)}

    # ------------------------------------------------- reading

    def begin(self, reading: Reading) -> None:
        """A reading starts."""
        super().begin(reading)
        self.sentences.share(reading, self._of_batch)

    def merge(self, reading: Reading) -> Collective[Mapping[str, Tensor | float]]:
        """Run the sentences through the model, and probe the sites."""
        sentences = self.sentences

        def random(parts: list[tuple[dict[str, Tensor], Tensor]]) -> Collective[dict[str, float]]:
            found, _ = yield from self._probed(parts, {}, reading)
            return {key: value for key, value in found.items() if not key.startswith("nonfinite/")}

        work = partial(sentences.run, self._of_batch, reading.group)
        yield from self.baseline.read(sentences.module, type(self).__name__, work, random)
        values, extra = yield from self._probed(sentences.shared(), self.kept, reading)
        beside = beside_random(self.site_measures(), self.axes())
        return {**values, **self.baseline.beside(values, beside), **self.from_extra(extra)}

    def _of_batch(self, seen: SentenceBatch) -> tuple[dict[str, Tensor], Tensor]:
        """The vectors of a batch by site, and its extra numbers."""
        extra = self.extra(seen.output, seen.ids, seen.mask).float().cpu()
        return self.sentences.pooled(seen), extra.reshape(len(seen.places), self.extra_width)

    def _probed(
        self, parts: Sequence[tuple[dict[str, Tensor], Tensor]], before: Mapping[str, Tensor], reading: Reading
    ) -> Collective[tuple[dict[str, float], Tensor]]:
        """Gather what all ranks read, probe every site on one of them, and tell all; the extra numbers too."""
        group, sentences = reading.group, self.sentences
        extra = yield from sentences.gathered([one for _, one in parts], self.extra_width, group=group)

        def probe(site: str, vectors: Tensor) -> Probed:
            kept = before.get(site)
            with preserved_rng(), torch.enable_grad():
                seed_all(self.seed)
                data = ProbedSite(vectors, sentences.numbers, extra)
                return self.evaluate(site, data, kept if kept is not None and len(kept) else None)

        measures = list(self.probe_measures())
        found, wrong = yield from sentences.probed([one for one, _ in parts], probe, measures, group)
        values = {site_key(f"nonfinite/{self.units}", site): float(number) for site, number in wrong.items()}
        for site, one in found.items():
            values |= {site_key(key, site): value for key, value in one.values.items()}
        self.stored.now = {
            site: self.unread(before.get(site)) if wrong[site] else one.kept for site, one in found.items()
        }
        return values, extra

    # ------------------------------------------------- checkpoints of before

    def upgraded(self, state: dict[str, Any]) -> dict[str, Any]:
        """The state of an earlier version, as this one would have written it."""
        if "random" not in state:
            return state
        stored = StoredReadings(self.stored_readings)
        if state["kept"]:
            stored.add(state["history"]["readings"][-1]["step"], state["kept"])
        baseline = {**state["random"], "values": state["baseline"]}
        return {**state, "baseline": baseline, "stored": state.get("maps", stored.state_dict())}
