"""A part: noise at sites, the same for a sample at every reading."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from torch import Tensor, nn

from lightning_interp.batches.reader import ReadBatch
from lightning_interp.compat import pl
from lightning_interp.isolation.seen import Seen
from lightning_interp.reading.part import Part
from lightning_interp.reading.reading import Reading
from lightning_interp.reporting.plain_values import Settings
from lightning_interp.reporting.said_once import say_once
from lightning_interp.sites import Layout, LayoutResolver, OutputKey, resolve_sites, short_names
from lightning_interp.sites.layout import of_sites
from lightning_interp.sites.noise import BatchNoise, Kind, Relative, SiteNoise

__all__ = ["NoisySites"]


class NoisySites(Part):
    """Sites at which noise is added, of one size at one of them at a time.

    Args:
        sites: See :class:`~lightning_interp.callbacks.NoiseRobustness`.
        kind: See there.
        relative: See there.
        seed: Of the noise.
        layout: Order of the axes of what sites return, for all of them or by site; other sites may be named too.
        output: Which tensor of what sites return, likewise.
        ignore_tokens: Token ids that are not replaced, and do not replace.
        num_tokens: Size of the vocabulary, where a site does not tell it.

    Raises:
        ValueError: If an argument is unknown; with the model, as :class:`~lightning_interp.sites.SiteNoise` says.

    Example:
        >>> noisy = NoisySites({"hidden": "0"})
        >>> noisy.attach(nn.Sequential(nn.Linear(2, 2)))
        >>> noisy.names
        {'hidden': '0'}
        >>> noisy.detach()

    """

    attached = ("_model", "_noise")

    def __init__(
        self,
        sites: str | Sequence[str] | Mapping[str, str],
        kind: Kind = "gaussian",
        relative: Relative = "norm",
        seed: int = 0,
        layout: Layout | Mapping[str, Layout] | None = None,
        output: OutputKey | Mapping[str, OutputKey] | None = None,
        ignore_tokens: Sequence[int] = (),
        num_tokens: int | None = None,
    ) -> None:
        SiteNoise(nn.Module(), {}, kind, relative)  # checks them; the sites are known with the model
        self.sites, self.seed = sites, seed
        self.kind: Kind = kind
        self.relative: Relative = relative
        self.layout, self.output = layout, output
        self.ignore_tokens, self.num_tokens = tuple(ignore_tokens), num_tokens
        self.names: dict[str, str] = {}
        """Short name of each site → dotted name, once the model is known."""
        self._model: nn.Module | None = None
        self._noise: SiteNoise | None = None
        self.clear()

    def short_names(self, model: nn.Module | None = None) -> list[str]:
        """What keys call the sites."""
        return short_names(self.sites, model, self.names)

    def clear(self) -> None:
        """A new fit."""
        self._layouts = LayoutResolver()
        self._how: dict[str, dict[str, str]] = {}
        self._told_unfit = False
        self._unfit: dict[str, tuple[int, int]] = {}
        self.forget()

    def attach(self, model: nn.Module) -> None:
        """Attach hooks at the sites."""
        self._model, self.names = model, resolve_sites(model, self.sites)
        layout, output = of_sites(self.layout, self.names), of_sites(self.output, self.names)
        self._noise = SiteNoise(
            model, self.names, self.kind, self.relative, self.ignore_tokens, self.num_tokens, output
        )
        self._noise.attach()
        self._layouts = LayoutResolver(layout, model, self.names, output=output)

    def detach(self) -> None:
        """Take the hooks off and let go of the model."""
        if self._noise is not None:
            self._noise.detach()
        self._model = self._noise = None

    def begin(self, reading: Reading) -> None:
        """A reading starts."""
        if self._noise is not None:
            self._noise.sizes.clear()

    def forget(self) -> None:
        """The reading is over, or given up."""
        self._last: tuple[Seen | None, dict[str, BatchNoise]] = (None, {})

    @contextmanager
    def adding(self, site: str, scale: float, seen: Seen, words: Mapping[str, ReadBatch]) -> Iterator[None]:
        """Within, the site is noisy.

        Args:
            site: Its short name.
            scale: Size of the noise.
            seen: The batch that is run.
            words: What the batch says of its positions, by site, where that is known.

        """
        assert self._noise is not None
        last, drawn = self._last
        if last is not seen:
            # Noise of all scales is drawn once.
            drawn = {}
            self._last = seen, drawn
        if site not in drawn:
            read = words[site].mask if words else None
            drawn[site] = BatchNoise(seen.selection.batch, self._layouts, read, self.seed)
        with self._noise.adding(site, scale, drawn[site]):
            yield
        self._unfit |= drawn[site].unfit

    @property
    def sizes(self) -> Mapping[str, Tensor]:
        """The size of what noise was added to in this reading, by site."""
        return {} if self._noise is None else self._noise.sizes

    def tell(self, name: str) -> None:
        """Say once where noise is added, and where it is known what is padding but not at the positions of a site.

        Args:
            name: Of the callback.

        """
        assert self._noise is not None
        assert self._model is not None
        if self._unfit and not self._told_unfit:
            self._told_unfit = True
            site, (known, given) = next(iter(self._unfit.items()))
            pl.utilities.rank_zero_warn(
                f"{name}: site {site!r} has {given} positions a sample, and the batch tells of {known} which are "
                "padding or skipped, so all of them get noise there. This is said once."
            )
        for site, path in self._noise.edit.paths.items():
            layout = self._layouts.layouts[site]
            module = f"{self.names[site] or 'the model'}, {type(self._noise.edit.modules[site]).__name__}"
            say_once(self._model, f"Site {site!r} ({module}) gets noise: output{path}, layout {layout}.")
            self._how[site] = {"layout": layout, "output": f"output{path}"}

    def settings(self) -> Settings:
        """Where noise is added."""
        return {f"{key}/noise/{site}": value for site, how in self._how.items() for key, value in how.items()}
