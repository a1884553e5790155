"""A part: how far representations turn when kept batches are run again under a setting."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from lightning_interp.batches.reader import ReadBatch
from lightning_interp.batches.site_rows import Pooling, ReadSite, SiteReader
from lightning_interp.distributed import Collective, Sum
from lightning_interp.functional.robustness import cosine_drift_sums
from lightning_interp.isolation.seen import Seen
from lightning_interp.reading.part import Part
from lightning_interp.reading.reading import Reading
from lightning_interp.reporting.plain_values import Settings
from lightning_interp.reporting.said_once import say_once
from lightning_interp.sites import Call, Layout, OutputKey, SiteRecorder, resolve_sites, short_names
from lightning_interp.sites.layout import of_sites

__all__ = ["SiteDrift"]


class SiteDrift(Part):
    """Representations at sites of a batch as it is, compared with those of the same batch under settings.

    :meth:`plain` is what the batch as it is is run in, and :meth:`under` what goes around a setting, as
    :class:`~lightning_interp.parts.replayed.Replayed` takes them.

    Args:
        sites: Where representations are read; ``None`` for nowhere.
        layout: Order of the axes of what sites return, for all of them or by site; other sites may be named too.
        output: Which tensor of what sites return, likewise.
        call: For a site that fires several times in a forward pass.
        read: How a site is read where no layout says it.
        pooling: For drift of one vector a sample. All as for
            :class:`~lightning_interp.callbacks.RepresentationMetrics`.

    Raises:
        ValueError: If an argument is out of range or has no effect; with the model, if a name matches no module.

    Example:
        >>> SiteDrift({"enc": "encoder"}).short_names(), SiteDrift(None).short_names()
        (['enc'], [])

    """

    attached = ("_model", "_recorder")

    def __init__(
        self,
        sites: str | Sequence[str] | Mapping[str, str] | None,
        layout: Layout | Mapping[str, Layout] | None = None,
        output: OutputKey | Mapping[str, OutputKey] | None = None,
        call: Call = "only",
        read: ReadSite | Mapping[str, ReadSite] | None = None,
        pooling: Pooling | None = None,
    ) -> None:
        for name, value, default in (("read", read, None), ("pooling", pooling, None), ("call", call, "only")):
            if value != default and sites is None:
                raise ValueError(f"`{name}={value!r}` says how `drift` is read, and there is none.")
        SiteReader(layout, None if layout is not None else read, pooling)  # checks the arguments
        self.sites, self.layout, self.output = sites, layout, output
        self.call: Call = call
        self.read, self.pooling = read, pooling
        self.names: dict[str, str] = {}
        """Short name of each site → dotted name, once the model is known."""
        self._model: nn.Module | None = None
        self._recorder: SiteRecorder | None = None
        self._reader = SiteReader()
        self.clear()

    def short_names(self, model: nn.Module | None = None) -> list[str]:
        """What keys call the sites."""
        return [] if self.sites is None else short_names(self.sites, model, self.names, "<downstream site>")

    def clear(self) -> None:
        """A new fit."""
        self._how: dict[str, dict[str, str]] = {}
        self._drop()

    def attach(self, model: nn.Module) -> None:
        """Attach hooks at the sites."""
        if self.sites is None:
            return
        self._model, self.names = model, resolve_sites(model, self.sites)
        # A short name may stand for one module here and for another elsewhere.
        output = of_sites(self.output, self.names)
        self._reader = SiteReader(of_sites(self.layout, self.names), self.read, self.pooling)
        self._reader.resolve(model, self.names, output)
        self._recorder = SiteRecorder(model, self.names, self.call, output, self._reader.own)
        self._recorder.attach()

    def detach(self) -> None:
        """Take the hooks off and let go of the model."""
        if self._recorder is not None:
            self._recorder.detach()
        self._model = self._recorder = None

    def begin(self, reading: Reading) -> None:
        """A reading starts."""
        self._drop()

    def forget(self) -> None:
        """The reading is over, or given up."""
        if self._recorder is not None:
            self._recorder.stop()
        self._drop()

    def _drop(self) -> None:
        self._before: dict[str, tuple[Tensor, Tensor]] = {}
        self._sums: dict[Hashable, dict[str, Tensor]] = {}

    @contextmanager
    def plain(self, seen: Seen, words: Mapping[str, ReadBatch]) -> Iterator[None]:
        """Within, a batch is run as it is.

        Args:
            seen: The batch.
            words: What it says of its positions, by site.

        """
        if self._recorder is None:
            yield
            return
        with self._recorder.capturing():
            yield
        self._before = self._taken(seen, words)

    @contextmanager
    def under(self, setting: Hashable, seen: Seen, words: Mapping[str, ReadBatch]) -> Iterator[None]:
        """Within, the batch that was run as it is last is run under a setting.

        Args:
            setting: Its name.
            seen: The batch.
            words: What it says of its positions, by site.

        """
        if self._recorder is None:
            yield
            return
        with self._recorder.capturing():
            yield
        after = self._taken(seen, words)
        if not seen.counted:
            return
        sums = self._sums.setdefault(setting, {})
        for site, (z, mask) in self._before.items():
            found = cosine_drift_sums(z, after[site][0], mask)
            sums[site] = sums[site].to(found.device) + found if site in sums else found

    def _taken(self, seen: Seen, words: Mapping[str, ReadBatch]) -> dict[str, tuple[Tensor, Tensor]]:
        """Representations and mask of the samples that count, by site."""
        assert self._recorder is not None
        taken: dict[str, tuple[Tensor, Tensor]] = {}
        for site, calls in self._recorder.take().items():
            rows = self._reader.pooled(site, self._reader(site, calls, seen.batch, words[site]).of(seen.selection))
            taken[site] = rows.representations, rows.mask
        return taken

    def merge(self, settings: Sequence[Hashable]) -> Collective[dict[Hashable, dict[str, list[float]]]]:
        """By setting and site, over all ranks: 1 − cosine summed, of how many vectors, and how many were left out."""
        nothing = torch.zeros(3, dtype=torch.float64)
        rows = [[self._sums.get(one, {}).get(site, nothing) for site in self.names] for one in settings]
        own = [one.to("cpu", torch.float64) for row in rows for one in row]
        merged: Tensor = yield Sum(torch.stack(own) if own else torch.zeros(0, 3, dtype=torch.float64))
        found = iter(merged.tolist())
        return {one: {site: next(found) for site in self.names} for one in settings}

    def tell(self) -> None:
        """Say once how sites are read."""
        if self._recorder is None:
            return
        assert self._model is not None
        for site, how in self._reader.told.items():
            found = self._recorder.found[site]
            say_once(self._model, how.line(site, self._recorder.described(site), found, self.call))
            self._how[site] = how.settings(found)

    def settings(self) -> Settings:
        """How sites are read."""
        return {f"{key}/{site}": value for site, how in self._how.items() for key, value in how.items()}
