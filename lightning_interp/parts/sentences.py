"""A part: sentences of one's own, run through a language model, with what chosen sites put out."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar

import torch
from torch import Tensor, nn

from lightning_interp.distributed import Collective, Gather, Maximum, rank_in, world_size
from lightning_interp.distributed.sharding import refuse_sharded
from lightning_interp.language.batching import dealt, length_batches, pad_right
from lightning_interp.language.digest import ids_digest
from lightning_interp.language.id_range import check_ids, told_ids
from lightning_interp.language.likelihood import eval_mode, model_device, takes_mask
from lightning_interp.language.words import Pooling, Text, Units, encode_units, pooled
from lightning_interp.parts.language_model import LanguageModel
from lightning_interp.reading.part import Part
from lightning_interp.reading.reading import Reading
from lightning_interp.reporting.plain_values import Settings
from lightning_interp.sites import Call, Layout, LayoutResolver, OutputKey, SiteRecorder, resolve_sites, short_names

__all__ = ["Probed", "SentenceBatch", "Sentences"]

T = TypeVar("T")
_Batch: TypeAlias = tuple[Sequence[int], Tensor, Tensor, Tensor]


@dataclass(frozen=True, eq=False)
class SentenceBatch:
    """A batch of sentences that went through the model."""

    places: Sequence[int]
    """Which of the sentences they are."""
    ids: Tensor
    """Token ids, (B, T), padded on the right."""
    mask: Tensor
    """1 at tokens, 0 in the padding, (B, T)."""
    units: Tensor
    """Which unit of its sentence each token belongs to, -1 for start and end tokens and padding, (B, T)."""
    output: Any
    """What the model returned."""
    calls: Mapping[str, Sequence[Any]]
    """What each site put out, one tensor for each of its calls that is read."""

    @property
    def at(self) -> dict[str, Any]:
        """What each site put out.

        Raises:
            ValueError: If a site is read several times in a forward pass.

        """
        several = [site for site, calls in self.calls.items() if len(calls) != 1]
        if several:
            raise ValueError(f"site {several[0]!r} is read {len(self.calls[several[0]])} times: see `calls`.")
        return {site: calls[0] for site, calls in self.calls.items()}


@dataclass(frozen=True)
class Probed:
    """What a probe found at a site."""

    values: Mapping[str, float]
    """Measure, without the site → value; NaN where it is undefined."""
    kept: Tensor = field(default_factory=lambda: torch.zeros(0))
    """What the next reading or a figure needs of it, a float32 vector of any length; checkpoints hold it."""


@dataclass(frozen=True, eq=False)
class _Attached:
    """The language model of a module, the sentences as it takes them, and hooks at the sites."""

    model: nn.Module
    padding: int
    units: list[Units]
    batches: list[list[int]]
    recorder: SiteRecorder
    layouts: LayoutResolver
    digest: bytes
    """Tells the ids apart from others."""


class Sentences(Part):
    """Runs sentences through the language model in the module that is trained, and hands on what sites put out.

    Sentences of similar length are batched, and whole batches are dealt over ranks, so that each is computed as by one
    process. The model runs in evaluation mode, without gradients and autocast, and is left as it was.

    :meth:`run` does that alone, whatever was done to the model before, such as random weights. With :meth:`share`, as a
    reading begins, and :meth:`shared`, what several callbacks of a Trainer read of the same sentences goes through the
    model once a validation: the same ids in the same batches, whatever sites each of them reads.

    Args:
        texts: Texts, each of them one unit, or lists of words, each word a unit.
        sites: Where to read: dotted module names, globs, or ``{"alias": "dotted.name"}``.
        lm: The language model.
        pooling: Which tokens' vectors stand for a unit: its ``"last"`` or ``"first"`` token's, or their ``"mean"``.
        layout: As for :class:`~lightning_interp.callbacks.RepresentationMetrics`.
        call: As there.
        output: Which tensor of what a site returns is read: its key, index or attribute, or a callable on the output,
            for all sites or by site. Attention weights are ``output=1`` in most models of transformers.

    Raises:
        ValueError: If an argument is out of range; when attached to a model, if a name matches nothing, the sentences
            and the tokenizer do not go together, or parameters are sharded over ranks.

    Cost: a forward pass over the sentences; of pooled vectors 4·R·D bytes a site, R units of D dimensions.

    Example:
        >>> letters = lambda text: [ord(letter) - 96 for letter in text]
        >>> sentences = Sentences(["ab", "abc"], "0", LanguageModel(letters))
        >>> sentences.attach(nn.Sequential(nn.Embedding(5, 2), nn.Linear(2, 5)))
        >>> sentences.run(lambda seen: tuple(seen.at["0"].shape))
        [(2, 3, 2)]
        >>> from lightning_interp.distributed import over_ranks
        >>> over_ranks(sentences.vectors())["0"].shape
        torch.Size([2, 2])

    """

    attached = ("_found", "_work", "_results", "_together")
    _found: _Attached | None = None
    _work: Callable[[SentenceBatch], Any] | None = None
    _results: list[Any] | None = None
    _together: list[Sentences] | None = None
    """Those that share a forward pass of the reading."""
    _group: Any = None

    def __init__(
        self,
        texts: Sequence[Text],
        sites: str | Sequence[str] | Mapping[str, str],
        lm: LanguageModel = LanguageModel(),  # noqa: B008 - it is frozen
        pooling: Pooling = "last",
        layout: Layout | Mapping[str, Layout] | None = None,
        call: Call = "only",
        output: OutputKey | Mapping[str, OutputKey] | None = None,
    ) -> None:
        if isinstance(texts, str) or not len(texts):
            raise ValueError(f"`sentences` must be a list of sentences, got {texts!r}.")
        if pooling not in ("last", "first", "mean"):
            raise ValueError(f"`pooling` must be 'last', 'first' or 'mean', got {pooling!r}.")
        self.texts = list(texts)
        self.sites = sites
        self.lm = lm
        self.pooling: Pooling = pooling
        self.layout = layout
        self.call: Call = call
        self.output = output
        self.names: dict[str, str] = {}
        """Short name of each site → its dotted name; known once it was attached to a model."""

    def __len__(self) -> int:
        return len(self.texts)

    def short_names(self, model: nn.Module | None = None) -> list[str]:
        """Short names of the sites; ``<site>`` where they cannot be known without the model."""
        return short_names(self.sites, model, self.names, "<site>")

    def keeps(self) -> Sequence[object]:
        """What keeps arguments of the callback: itself, and the language model."""
        return self, self.lm

    def settings(self) -> Settings:
        """How many sentences there are."""
        return {"sentences": len(self)}

    # ------------------------------------------------- its life

    def attach(self, model: nn.Module) -> None:
        """Find the language model and its tokenizer, encode the sentences, and put hooks at the sites."""
        lm, tokenizer, padding = self.lm.find(model)
        refuse_sharded(lm, "sentences")
        units = encode_units(tokenizer, self.texts, self.lm.special_tokens, self.lm.bos_token_id)
        ids = [one.ids for one in units]
        check_ids(lm, ids)
        lengths = list(map(len, ids))
        batches = _told_apart(length_batches(lengths, self.lm.batch_tokens), lengths)
        self.names = resolve_sites(model, self.sites)
        recorder = SiteRecorder(model, self.names, self.call, self.output)
        recorder.attach()
        # Which of several batches has as many sentences as tokens is chance; one of them shows a wrong layout.
        layouts = LayoutResolver(self.layout, model, self.names, batch_first=True)
        self._found = _Attached(lm, padding, units, batches, recorder, layouts, ids_digest(ids))

    def detach(self) -> None:
        """Take the hooks off and let go of the model."""
        if self._found is not None:
            self._found.recorder.detach()
        self._found = None

    def forget(self) -> None:
        """The reading is over, or given up."""
        if self._found is not None:
            self._found.recorder.stop()
        self._leave()
        self._work = self._results = None

    @property
    def _here(self) -> _Attached:
        if self._found is None:
            raise RuntimeError("the sentences belong to no model yet: `attach` comes first.")
        return self._found

    @property
    def module(self) -> nn.Module:
        """The language model that it is attached to."""
        return self._here.model

    @property
    def numbers(self) -> list[int]:
        """How many units each sentence has."""
        return [one.number for one in self._here.units]

    # ------------------------------------------------- the forward pass

    def run(self, work: Callable[[SentenceBatch], T], group: Any = None) -> list[T]:
        """What ``work`` makes of each batch of this rank, as the model is now.

        Args:
            work: Called after each forward pass, while the model is still in evaluation mode. It keeps what it needs:
                the tensors of a batch are gone with it.
            group: The process group over which batches are dealt.

        """
        return self._run(work, group, [])

    def share(self, reading: Reading, work: Callable[[SentenceBatch], Any]) -> None:
        """Ask, as a reading begins, for what :meth:`shared` gives later in it.

        Args:
            reading: The reading.
            work: As for :meth:`run`. Other callbacks may have it called, at the forward pass that they make.

        """
        found, lm = self._here, self.lm
        # Not all that can be called has a hash.
        key = Sentences, found.model, found.padding, lm.batch_tokens, id(lm.forward), found.digest
        self._leave()
        self._work, self._results, self._group = work, None, reading.group
        self._together = reading.shared.setdefault(key, [])
        self._together.append(self)

    def shared(self) -> list[Any]:
        """What the ``work`` of :meth:`share` makes of each batch of this rank, as the model is at this reading.

        The first that asks makes the forward pass, for all that share these sentences.
        """
        if self._work is None:
            raise RuntimeError("`share` comes before `shared`, as the reading begins.")
        work, results, others = self._work, self._results, self._leave()
        self._work = self._results = None
        return self._run(work, self._group, others) if results is None else results

    def _leave(self) -> list[Sentences]:
        """Ask no longer; those that still do, and have nothing yet."""
        together, self._together = self._together or [], None
        if self in together:
            together.remove(self)
        return [one for one in together if one._results is None]

    def _run(self, work: Callable[[SentenceBatch], T], group: Any, others: Sequence[Sentences]) -> list[T]:
        here = self._here
        results: list[T] = []
        theirs: dict[Sentences, list[Any]] = {one: [] for one in others}
        with eval_mode(here.model):
            for places in dealt(here.batches, (rank_in(group), world_size(group))):
                units = [here.units[one] for one in places]
                device = model_device(here.model)
                ids, mask = pad_right([one.ids for one in units], here.padding, device)
                batch = places, ids, mask, pad_right([one.unit for one in units], -1, device)[0]
                with ExitStack() as stack:
                    for one in (self, *theirs):
                        stack.enter_context(one._here.recorder.capturing())
                    output = self._call(here.model, ids, mask)
                results.append(work(self._seen(batch, output)))
                for one in list(theirs):
                    try:
                        theirs[one].append(one._worked(batch, output))
                    except Exception:  # it will meet the error itself, in a forward pass of its own
                        del theirs[one]
        for one, found in theirs.items():
            one._results = found
        return results

    def _call(self, model: nn.Module, ids: Tensor, mask: Tensor) -> Any:
        with told_ids(model, ids):
            if self.lm.forward is not None:
                return self.lm.forward(model, ids, mask)
            if takes_mask(model):
                return model(input_ids=ids, attention_mask=mask)
            return model(ids)

    def _seen(self, batch: _Batch, output: Any) -> SentenceBatch:
        return SentenceBatch(*batch, output, self._here.recorder.take())

    def _worked(self, batch: _Batch, output: Any) -> Any:
        assert self._work is not None
        return self._work(self._seen(batch, output))

    # ------------------------------------------------- vectors of units

    def pooled(self, seen: SentenceBatch) -> dict[str, Tensor]:
        """One vector for each unit of a batch, by site, float32 on the CPU, (units, D).

        Raises:
            ValueError: If a site gives neither a vector for each token nor, where sentences are units, one for each
                sentence.

        """
        here = self._here
        units = [here.units[one] for one in seen.places]
        found: dict[str, Tensor] = {}
        for site, calls in seen.calls.items():
            parts = [here.layouts(site, one, len(units), length=seen.ids.shape[1])[0] for one in calls]
            found[site] = self._units_of(site, torch.cat(parts, 1), units)
        return found

    def _units_of(self, site: str, z: Tensor, units: Sequence[Units]) -> Tensor:
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

    def vectors(self, group: Any = None) -> Collective[dict[str, Tensor]]:
        """One vector for each unit, by site, in the order of the sentences, (R, D), the same on all ranks."""
        found: dict[str, Tensor] = {}
        yield from self.at_each_site(self.run(self.pooled, group), found.__setitem__, group)
        return found

    def at_each_site(
        self, parts: Sequence[Mapping[str, Tensor]], work: Callable[[str, Tensor], Any], group: Any = None
    ) -> Collective[None]:
        """Gather the vectors of one site after the other.

        Args:
            parts: What :meth:`pooled` gave of each batch of this rank.
            work: Called on every rank with a site and the vectors of all units there, (R, D).
            group: The process group over which batches were dealt.

        """
        own = torch.tensor(
            [[one[site].shape[1] for site in self.names] for one in parts[:1]] or [[0] * len(self.names)]
        )
        widths: Tensor = yield Maximum(own)
        for site, width in zip(self.names, widths[0].tolist(), strict=True):
            rows = [one[site] for one in parts]
            work(site, (yield from self.gathered(rows, width, self.numbers, group)))

    def gathered(
        self, rows: Sequence[Tensor], width: int, numbers: Sequence[int] | None = None, group: Any = None
    ) -> Collective[Tensor]:
        """Rows of all ranks in the order of the sentences.

        Args:
            rows: Those of each batch of this rank, sentence by sentence, float32 (rows, width).
            width: How wide they are.
            numbers: How many each sentence has; one by default.
            group: The process group over which batches were dealt.

        """
        world, batches = world_size(group), self._here.batches
        order = [one for first in range(world) for batch in dealt(batches, (first, world)) for one in batch]
        found: list[Tensor] = yield Gather(torch.cat([torch.zeros(0, width), *rows]))
        split = torch.split(torch.cat(found), [1 if numbers is None else numbers[one] for one in order])
        by_sentence = dict(zip(order, split, strict=True))
        return torch.cat([by_sentence[one] for one in range(len(order))])

    def probed(
        self,
        parts: Sequence[Mapping[str, Tensor]],
        probe: Callable[[str, Tensor], Probed],
        measures: Sequence[str],
        group: Any = None,
    ) -> Collective[tuple[dict[str, Probed], dict[str, int]]]:
        """What a probe finds at each site, on all ranks; each site is probed on one of them.

        Args:
            parts: What :meth:`pooled` gave of each batch of this rank.
            probe: Called with a site and the vectors of all units there, (R, D).
            measures: The names of the values that it gives.
            group: The process group over which batches were dealt, and sites are.

        Returns:
            What was found, by site, and how many units of each site have a vector that is not finite. Where there is
            one, the site is not probed: its values are NaN, and nothing is kept.

        """
        sites, share = list(self.names), (rank_in(group), world_size(group))
        mine: dict[str, Probed] = {}
        wrong: dict[str, int] = {}

        def visit(site: str, vectors: Tensor) -> None:
            wrong[site] = int((~vectors.isfinite().all(1)).sum())
            if site in dealt(sites, share):
                mine[site] = Probed(dict.fromkeys(measures, math.nan)) if wrong[site] else probe(site, vectors)

        yield from self.at_each_site(parts, visit, group)
        table = torch.tensor([[one.values[key] for key in measures] for one in mine.values()], dtype=torch.float64)
        tables: list[Tensor] = yield Gather(table.reshape(len(mine), len(measures)))
        lengths: list[Tensor] = yield Gather(torch.tensor([len(one.kept) for one in mine.values()], dtype=torch.long))
        contents: list[Tensor] = yield Gather(torch.cat([torch.zeros(0), *(one.kept for one in mine.values())]))
        found: dict[str, Probed] = {}
        for rank, (rows, sizes, content) in enumerate(zip(tables, lengths, contents, strict=True)):
            pieces = torch.split(content, sizes.tolist())
            for site, row, kept in zip(dealt(sites, (rank, share[1])), rows, pieces, strict=True):
                found[site] = Probed(dict(zip(measures, row.tolist(), strict=True)), kept.clone())
        return {site: found[site] for site in sites}, wrong


def _told_apart(batches: list[list[int]], lengths: Sequence[int]) -> list[list[int]]:
    """The batches, one of them with another number of sentences than of tokens: it shows a wrong layout."""
    square = [len(batch) == lengths[batch[-1]] for batch in batches]
    if not all(square) or len(batches[-1]) == 1:
        return batches
    return [*batches[:-1], batches[-1][:-1], batches[-1][-1:]]
