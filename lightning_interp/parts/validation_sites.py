"""A part: sites of a model, read batch by batch."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

from torch import nn

from lightning_interp.batches.contents import BatchSize
from lightning_interp.batches.forward import Forward, checked_forward
from lightning_interp.batches.own_data import OwnData, apart
from lightning_interp.batches.read_once import forget_batch, read_once
from lightning_interp.batches.reader import BatchReader, Key, LabelSource, ReadBatch
from lightning_interp.batches.site_rows import Pooling, ReadSite, SiteReader, SiteRows
from lightning_interp.isolation import seed_all
from lightning_interp.isolation.seen import Seen
from lightning_interp.reading.part import Part
from lightning_interp.reading.reading import Reading
from lightning_interp.reading.run_settings import arguments
from lightning_interp.reading.samples import ReadSamples
from lightning_interp.reporting.plain_values import Settings
from lightning_interp.reporting.said_once import say_once
from lightning_interp.sites import Call, Layout, OutputKey, SiteRecorder, resolve_sites, short_names

__all__ = ["Take", "ValidationSites"]

Take: TypeAlias = Callable[[str, SiteRows], None]
"""Called with a site and its rows of a batch."""

_SITE = "<site>"


class ValidationSites(Part):
    """What sites put out for the batches of a validation run, or for data of one's own, as rows with labels.

    Before a batch goes through the model it reads tokens, mask and labels, which parts of equal arguments share, and
    begins to capture; :meth:`rows` then gives what came out, site by site.

    Args:
        sites, tokens, mask, padding_idx, ignore_tokens, skip_positions, layout, call, output, read, pooling, data,
            forward: See :class:`~lightning_interp.callbacks.RepresentationMetrics`.
        labels: Label sets that rows have.
        optional: Label sets that they have where a batch has these.
        batch_size, max_examples, dataloader_idx: See :class:`~lightning_interp.callbacks.ValidationAnalysis`.
        given_as: The argument that names a label set, for messages, where that is not ``labels``.
        advice: What to say where a batch has no token ids.

    Raises:
        ValueError: If an argument is out of range; when a model or a batch comes, if it lacks what is asked for.

    Example:
        >>> import torch
        >>> from lightning_interp.distributed import SamplePositions
        >>> model, batch = nn.Sequential(nn.Linear(2, 3)), {"x": torch.zeros(4, 2), "kind": torch.arange(4)}
        >>> sites, reading = ValidationSites({"hidden": "0"}, labels=["kind"]), Reading(model)
        >>> sites.attach(model)
        >>> sites.begin(reading)
        >>> seen = Seen(batch, 0, 0, SamplePositions([batch]).select(4))
        >>> sites.before_batch(seen)
        >>> output = model(batch["x"])
        >>> [(site, rows.representations.shape, rows.labels["kind"].tolist()) for site, rows in sites.rows(seen)]
        [('hidden', torch.Size([4, 1, 3]), [0, 1, 2, 3])]
        >>> sites.detach()

    """

    attached: tuple[str, ...] = ("model", "now", "_recorder")

    def __init__(
        self,
        sites: str | Sequence[str] | Mapping[str, str],
        labels: Sequence[str] | Mapping[str, LabelSource] = (),
        tokens: Key | Mapping[str, Key] | None = None,
        mask: Key | None = None,
        padding_idx: int | None = None,
        ignore_tokens: Sequence[int] = (),
        skip_positions: int = 0,
        layout: Layout | Mapping[str, Layout] | None = None,
        call: Call = "only",
        output: OutputKey | Mapping[str, OutputKey] | None = None,
        read: ReadSite | Mapping[str, ReadSite] | None = None,
        pooling: Pooling | None = None,
        data: Iterable[Any] | None = None,
        forward: Forward | None = None,
        *,
        optional: Sequence[str] = (),
        batch_size: BatchSize | None = None,
        max_examples: int | None = None,
        dataloader_idx: int = 0,
        given_as: Mapping[str, str] | None = None,
        advice: str = "",
    ) -> None:
        self.sites = sites
        self.reader = BatchReader(
            labels,
            tokens=None if isinstance(tokens, Mapping) else tokens,
            mask=mask,
            padding_idx=padding_idx,
            ignore_tokens=ignore_tokens,
            skip_positions=skip_positions,
            batch_size=batch_size,
        )
        self._tokens_by_site = dict(tokens) if isinstance(tokens, Mapping) else {}
        self.layout, self.call, self.output, self.pooling = layout, call, output, pooling
        self._read_site = read
        self._site_reader = SiteReader(layout, read, pooling)
        if data is not None and dataloader_idx:
            raise ValueError(
                f"`dataloader_idx={dataloader_idx}` has no meaning with `data`: no validation batch is read."
            )
        self.own = None if data is None else OwnData(data, forward)
        """Data of one's own, in place of the validation run."""
        self.forward = checked_forward(forward)
        self._optional = tuple(optional)
        self._max_examples = max_examples
        self._given_as = dict(given_as or {})
        self._advice = advice
        if self.own is not None and self.reader.arrays:
            # At once, not when the data are read: their order does not depend on the Trainer.
            samples, positions = ReadSamples(None), self.own.positions()
            samples.try_collate(self.own.value, positions, self.given_by_place())
            samples.check_positions(positions, "", self.read_from(), self.given_by_place())
        self.model: nn.Module | None = None
        self.now: Reading | None = None
        """The reading that is being taken."""
        self._recorder: SiteRecorder | None = None
        self.names: dict[str, str] = {}
        """Short name of each site → dotted name, once the model is known."""
        self._reads: dict[Any, ReadBatch] = {}
        self.clear()

    @property
    def labels(self) -> list[str]:
        """The label sets that rows have."""
        return list(self.reader.names)

    @property
    def reads_batches(self) -> bool:  # type: ignore[override]
        """Those of the validation run, unless there are data of one's own."""
        return self.own is None

    def short_names(self, model: nn.Module | None = None) -> list[str]:
        """What keys call the sites; ``<site>`` where that cannot be known without the model."""
        return short_names(self.sites, model, self.names, _SITE)

    def clear(self) -> None:
        """A new fit."""
        self.reader = self.reader.fresh()
        self.dimensions: dict[str, int] = {}
        """Of each site how many numbers a representation has, once it was read."""
        self._how: dict[str, dict[str, str]] = {}
        self._told = False

    def attach(self, model: nn.Module) -> None:
        """Attach hooks at the sites."""
        self.model, self._told = model, False
        self.names = resolve_sites(model, self.sites)
        unknown = sorted(set(self._tokens_by_site) - set(self.names))
        if unknown:
            raise ValueError(f"`tokens` names sites {unknown}, which are not among {list(self.names)}.")
        self._site_reader = SiteReader(self.layout, self._read_site, self.pooling)
        self._site_reader.resolve(model, self.names, self.output)
        if self.output is not None and len(self._site_reader.own) == len(self.names):
            raise ValueError("`output` has no effect where `read` is given the whole output: leave one out.")
        self._recorder = SiteRecorder(model, self.names, self.call, self.output, self._site_reader.own)
        self._recorder.attach()

    def detach(self) -> None:
        """Take the hooks off and let go of the model."""
        if self._recorder is not None:
            self._recorder.detach()
        self.model = None

    def take_padding(self, padding_idx: int | None) -> None:
        """Padding where neither arguments nor batches say anything of it."""
        self.reader.shared_padding = padding_idx

    def count(self, batch: Any) -> int:
        """The number of samples in a batch."""
        return self.reader.count(batch)

    def read_from(self) -> str:
        """Data of one's own."""
        return "" if self.own is None else "`data`"

    def given_by_place(self) -> list[str]:
        """Label sets that are arrays."""
        return [f"{self._given_as.get(name, 'labels')}[{name!r}]" for name in self.reader.arrays]

    # ------------------------------------------------- batches

    def begin(self, reading: Reading) -> None:
        """A reading starts."""
        self.forget()
        self.now = reading

    def forget(self) -> None:
        """The reading is over, or given up."""
        if self._recorder is not None:
            self._recorder.stop()
        self._reads, self.now = {}, None

    def before_batch(self, seen: Seen) -> None:
        """Read tokens and labels, and capture what the sites put out."""
        assert self._recorder is not None
        self._reads = {where: self._read(seen, where) for where in map(self._tokens_by_site.get, self.names)}
        self._recorder.start()

    def _read(self, seen: Seen, tokens: Key | None) -> ReadBatch:
        assert self.now is not None
        positions, places = self.now.positions, seen.selection.batch
        given = bool(self._site_reader.own)
        try:
            return read_once(
                self.now.shared,
                self.reader,
                seen.batch,
                places if positions.exact else None,
                tokens,
                positions.num_samples,
                len(places),
                given,
            )
        except ValueError as error:
            if not self._advice or "token ids" not in str(error):
                raise
            raise ValueError(f"{error} {self._advice}") from error

    def rows(self, seen: Seen) -> Iterator[tuple[str, SiteRows]]:
        """Of a batch that went through the model, the samples that are read, site by site.

        Args:
            seen: The batch that :meth:`before_batch` was told of.

        Raises:
            CaptureError: If a site never ran, or more often than ``call`` allows.
            ValueError: If shapes do not fit.

        """
        assert self._recorder is not None
        assert self.now is not None
        self._recorder.stop()
        forget_batch(self.now.shared)
        reads, self._reads = self._reads, {}
        labels = self.reader.names
        for site, calls in self._recorder.take().items():
            read = reads[self._tokens_by_site.get(site)]
            rows = self._site_reader(site, calls, seen.batch, read, labels, self._optional).of(seen.selection)
            rows = self._site_reader.pooled(site, rows, labels)
            assert rows.positions is not None
            self.dimensions[site] = rows.representations.shape[-1]
            yield site, replace(rows, positions=rows.positions.to(rows.representations.device))
        self._tell_how()

    def _tell_how(self) -> None:
        """Say once, of each site of a model, how it is read."""
        if self._told:
            return
        self._told = True
        recorder = self._recorder
        assert recorder is not None
        for site, how in self._site_reader.told.items():
            found = recorder.found[site]
            self._how[site] = how.settings(found)
            say_once(recorder.model, how.line(site, recorder.described(site), found, self.call))

    def run_own(
        self, reading: Reading, take: Take, seed: int = 0, watch: Callable[[Reading, Seen], None] | None = None
    ) -> None:
        """Run this rank's batches of data of one's own through the model, where there are such data.

        Args:
            reading: The reading; its positions are those of these data from here on.
            take: Gets the rows.
            seed: Of what a forward pass draws at random.
            watch: Told of every batch before it is run.

        """
        own, model = self.own, self.model
        if own is None:
            return
        assert model is not None
        reading.positions = own.positions(self._max_examples)
        with apart(model, reading.trainer):
            model.eval()
            seed_all(seed)
            batches = own.batches(model, reading.positions, self.count, reading.group, reading.trainer)
            for index, (batch, selection, counted) in enumerate(batches):
                seen = Seen(batch, index, 0, selection, counted=counted)
                if counted:
                    if watch is not None:
                        watch(reading, seen)
                    self.before_batch(seen)
                own.run(model, batch)
                if counted:
                    for site, rows in self.rows(seen):
                        take(site, rows)

    # ------------------------------------------------- what is said of it

    def settings(self) -> Settings:
        """How sites and batches are read."""
        found: Settings = {"labels": json.dumps(self.labels)} if self.labels else {}
        found |= arguments(self, self.reader, leave_out=("batch_size",))
        if self.reader.used_padding is not None:
            found["padding_idx"] = self.reader.used_padding
        for site, how in self._how.items():
            found |= {f"{key}/{site}": value for key, value in how.items()}
        return found | {f"dimension/{site}": number for site, number in self.dimensions.items()}
