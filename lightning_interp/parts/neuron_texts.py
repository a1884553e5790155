"""A part: what neurons of a language model do on fixed texts, or on those of a validation run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from lightning_interp.batches.reader import ReadBatch
from lightning_interp.distributed import Collective, rank_in, world_size
from lightning_interp.functional.counter_noise import counter_hash
from lightning_interp.isolation.seen import Seen
from lightning_interp.language.batching import dealt
from lightning_interp.language.encoding import Tokenizer, encode_sentences
from lightning_interp.language.id_range import check_ids
from lightning_interp.language.likelihood import Forward, eval_mode, model_device, model_output
from lightning_interp.parts.id_sequences import IdSequences, gathered_texts
from lightning_interp.reading.reading import Reading
from lightning_interp.sites import SiteRecorder, resolve_sites, short_names
from lightning_interp.sites.down_projections import down_projections, enclosing
from lightning_interp.sites.names import clean_name
from lightning_interp.tasks.loading import find_tokenizer

__all__ = ["NeuronTexts", "NeuronTokens", "Recorded"]

Sites = str | Sequence[str] | Mapping[str, str]


@dataclass(frozen=True, eq=False)
class NeuronTokens:
    """The tokens on which neurons are read: all of the texts but the first of each, where attention sinks."""

    texts: Sequence[Tensor]
    """Ids of each text."""
    types: Tensor
    """Which of the ids that there are each token is, int64 (N,)."""
    number: int
    """How many ids there are."""
    held_out: Tensor
    """Tokens of the second half, every other text, bool (N,)."""
    permuted: Tensor
    """``types`` dealt to other tokens of the same half."""

    @classmethod
    def of(cls, texts: Sequence[Tensor], seed: int = 0) -> NeuronTokens:
        """Those of some texts.

        Example:
            >>> tokens = NeuronTokens.of([torch.tensor([7, 8, 9]), torch.tensor([7, 9, 9])])
            >>> tokens.types.tolist(), tokens.held_out.tolist()
            ([0, 1, 1, 1], [False, False, True, True])

        """
        nothing = torch.zeros(0, dtype=torch.int64)
        ids = torch.cat([nothing, *(one[1:] for one in texts)])
        kinds, types = torch.unique(ids, return_inverse=True)
        half = torch.cat([nothing, *(torch.full((len(one) - 1,), at % 2) for at, one in enumerate(texts))]).bool()
        permuted = types.clone()
        for kind in (False, True):
            here = (half == kind).nonzero()[:, 0]
            permuted[here] = types[here[counter_hash(here, seed).argsort()]]
        return cls(list(texts), types, len(kinds), half, permuted)

    def __len__(self) -> int:
        return len(self.types)

    def where(self, place: int) -> tuple[int, int]:
        """The text of a token, and its position there."""
        for number, text in enumerate(self.texts):
            if place < len(text) - 1:
                return number, place + 1
            place -= len(text) - 1
        raise IndexError(f"there are {len(self)} tokens.")


@dataclass(frozen=True, eq=False)
class Recorded:
    """What this rank recorded."""

    places: Tensor
    """Its tokens among all, int64 (M,)."""
    activations: Mapping[str, Tensor]
    """Of each site those of its tokens, float32 (M, n) on the CPU; nothing where this rank has no text."""
    residuals: Mapping[str, Tensor]
    """Of each site with a residual the place of each text, its largest size and the median, float64 (texts, 3)."""


class NeuronTexts(IdSequences):
    """Runs texts through a language model and records the neurons of its layers.

    Texts are dealt over ranks in batches of one length, without padding, so that each is computed as by one process.

    Args:
        sites: Modules whose input are the neurons; ``None`` for what takes each block's back to the residual stream
            (:func:`~lightning_interp.sites.down_projections.down_projections`).
        texts: Texts of one's own; ``None`` for those of the validation run.
        tokenizer: Encodes them.
        neurons: How many neurons of a site are read, at random.
        track: Neurons that are among them, by site.
        max_length: Tokens of a text that are read, from its first on.
        seed: Of the choice.
        model: See :class:`~lightning_interp.parts.id_sequences.IdSequences`, as for ``forward`` and ``batch_tokens``.

    Raises:
        ValueError: If an argument is out of range; when attached, if a name matches nothing, there are no such modules,
            or parameters are sharded over ranks.

    """

    attached = ("_model", "_recorder", "_residuals")

    def __init__(
        self,
        sites: Sites | None = None,
        texts: Sequence[str] | None = None,
        tokenizer: Any = "tokenizer",
        neurons: int = 512,
        track: Mapping[str, Sequence[int]] | None = None,
        max_length: int = 256,
        seed: int = 0,
        model: str = "",
        forward: Forward | None = None,
        batch_tokens: int = 4096,
    ) -> None:
        super().__init__(model, forward, batch_tokens)
        for name, number, least in (("neurons", neurons, 1), ("max_length", max_length, 2)):
            if number < least:
                raise ValueError(f"`{name}` must be at least {least}, got {number}.")
        if texts is not None and (isinstance(texts, str) or len(texts) < 2):
            raise ValueError(f"`texts` must be two texts or more, one to explain and one to score on; got {texts!r}.")
        self.sites, self.given, self.tokenizer = sites, None if texts is None else list(texts), tokenizer
        self.neurons, self.track, self.max_length, self.seed = neurons, dict(track or {}), max_length, seed
        self.names: dict[str, str] = {}
        """Short name of each site → dotted name, once the model is known."""
        self.chosen: dict[str, Tensor] = {}
        """Which neurons of each site are read, rising, once they were seen."""
        self.widths: dict[str, int] = {}
        """How many neurons each site was seen to have on this rank."""
        self._recorder: SiteRecorder | None = None
        self._residuals: SiteRecorder | None = None
        self._blocks: dict[str, str] = {}
        self._encoded: list[Tensor] = []
        self.forget()

    @property
    def reads_batches(self) -> bool:  # type: ignore[override]
        """Those of the validation run, unless there are texts of one's own."""
        return self.given is None

    def short_names(self, model: nn.Module | None = None) -> list[str]:
        """What keys call the sites; ``<site>`` where that cannot be known without the model."""
        if self.sites is not None:
            return short_names(self.sites, model, self.names, "<site>")
        return list(self.names or ({} if model is None else self._found(model))) or ["<site>"]

    def _found(self, model: nn.Module) -> dict[str, str]:
        if self.sites is not None:
            return resolve_sites(model, self.sites)
        before = f"{self.name}." if self.name else ""
        found = down_projections(model.get_submodule(self.name))
        return resolve_sites(model, {short: f"{before}{name}" for short, name in found.items()})

    def attach(self, model: nn.Module) -> None:
        """Find the modules, encode texts of one's own, and put hooks on."""
        super().attach(model)
        self.names = self._found(model)
        unknown = [site for site in self.track if site not in self.names]
        if unknown:
            raise ValueError(f"`track` names site {unknown[0]!r}, which is not among {list(self.names)}.")
        self._recorder = SiteRecorder(model, self.names, of="input")
        self._recorder.attach()
        blocks = {site: enclosing(model, clean_name(name)) for site, name in self.names.items()}
        self._blocks = {site: block for site, block in blocks.items() if block is not None}
        if self._blocks:
            self._residuals = SiteRecorder(model, self._blocks)
            self._residuals.attach()
        if self.given is not None:
            found: Tokenizer = find_tokenizer(self.tokenizer, model)
            self._encoded = [one[: self.max_length] for one in encode_sentences(found, self.given)]
            check_ids(self.model, self._encoded)

    def detach(self) -> None:
        """Take the hooks off and let go of the model."""
        for one in (self._recorder, self._residuals):
            if one is not None:
                one.detach()
        self._recorder = self._residuals = None
        super().detach()

    def begin(self, reading: Reading) -> None:
        """A reading starts."""
        self.forget()

    def forget(self) -> None:
        """The reading is over, or given up."""
        self._own: list[tuple[int, Tensor]] = []

    # ------------------------------------------------- texts

    def read(self, seen: Seen, words: ReadBatch) -> None:
        """Keep the selected texts of a batch of the validation run.

        Raises:
            ValueError: If the batch does not say its token ids, or which of them are padding.

        """
        ids, real = (seen.selection.of(one).cpu() for one in words.text())
        for position, text, here in zip(seen.selection.positions.tolist(), ids, real.bool(), strict=True):
            if int(here.sum()) > 1:
                self._own.append((position, text[here][: self.max_length, None].long()))

    def texts(self) -> Collective[NeuronTokens]:
        """Those of all ranks, in their order in the data set, or one's own."""
        if self.given is not None:
            return NeuronTokens.of(self._encoded, self.seed)
        found = yield from gathered_texts(self._own, 1)
        return NeuronTokens.of([one[:, 0] for one in found], self.seed)

    # ------------------------------------------------- running them

    def record(self, tokens: NeuronTokens, group: Any = None) -> Recorded:
        """What neurons do on this rank's share of the texts, as the model is now."""
        check_ids(self.model, tokens.texts)
        begins = torch.tensor([0, *(len(one) - 1 for one in tokens.texts)]).cumsum(0)
        places = [torch.zeros(0, dtype=torch.int64)]
        activations: dict[str, list[Tensor]] = {}
        residuals: dict[str, list[Tensor]] = {}
        own = dealt(list(self._batches(tokens.texts)), (rank_in(group), world_size(group)))
        if own:
            with eval_mode(self.model):
                for batch in own:
                    ids = torch.stack([tokens.texts[one] for one in batch]).to(model_device(self.model))
                    for site, values in self._run(ids, batch, residuals).items():
                        activations.setdefault(site, []).append(values)
                    places += [torch.arange(int(begins[one]), int(begins[one + 1])) for one in batch]
        return Recorded(
            torch.cat(places),
            {site: torch.cat(parts) for site, parts in activations.items()},
            {site: torch.cat(residuals.get(site, [torch.zeros(0, 3, dtype=torch.float64)])) for site in self._blocks},
        )

    def _batches(self, texts: Sequence[Tensor]) -> Iterator[list[int]]:
        """Places of texts of one length, so many at a time."""

        def length_of(one: int) -> int:
            return len(texts[one])

        for length, alike in groupby(sorted(range(len(texts)), key=length_of), length_of):
            some, most = list(alike), max(1, self.batch_tokens // length)
            yield from (some[at : at + most] for at in range(0, len(some), most))

    def _run(self, ids: Tensor, batch: Sequence[int], residuals: dict[str, list[Tensor]]) -> dict[str, Tensor]:
        """Activations of the tokens of a batch by site; of residuals sizes are added."""
        assert self._recorder is not None
        blocks = self._residuals
        self._recorder.start()
        if blocks is not None:
            blocks.start()
        try:
            model_output(self.model, ids, torch.ones_like(ids), self.forward)
        finally:
            self._recorder.stop()
            if blocks is not None:
                blocks.stop()
        if blocks is not None:
            for site, (h, *_) in blocks.take().items():
                sizes = self._shaped(site, h, ids).float().abs().flatten(1)
                columns = torch.tensor(batch), sizes.amax(1).cpu(), sizes.median(1).values.cpu()
                residuals.setdefault(site, []).append(torch.stack([one.double() for one in columns], 1))
        found: dict[str, Tensor] = {}
        for site, (given, *_) in self._recorder.take().items():
            values = self._shaped(site, given, ids)
            self.widths[site] = values.shape[-1]
            some = self.choose(site, values.shape[-1]).to(values.device)
            found[site] = values[:, 1:, some].float().cpu().flatten(0, 1)
        return found

    @staticmethod
    def _shaped(site: str, values: Tensor, ids: Tensor) -> Tensor:
        """(B, T, D), whether the module was given that or one row a token.

        Raises:
            ValueError: If it is neither.

        """
        if values.shape[:-1] == (ids.numel(),):
            return values.view(*ids.shape, -1)
        if values.shape[:-1] != ids.shape:
            raise ValueError(
                f"site {site!r} is given {tuple(values.shape)} for texts {tuple(ids.shape)}: name modules with one "
                "vector a token, (B, T, D)."
            )
        return values

    def choose(self, site: str, width: int) -> Tensor:
        """Which neurons of so many are read.

        Raises:
            ValueError: If one to watch is not among them.

        """
        tracked = self.track.get(site, ())
        if max(tracked, default=-1) >= width:
            raise ValueError(f"`track` names neuron {max(tracked)} of site {site!r}, which has {width} neurons.")
        order = counter_hash(torch.arange(width), self.seed).argsort().tolist()
        first = list(dict.fromkeys([*tracked, *order]))[: max(self.neurons, len(set(tracked)))]
        self.chosen[site] = torch.tensor(sorted(first))
        return self.chosen[site]
