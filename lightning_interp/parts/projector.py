"""A part: a few representations of each site, shown by loggers when a fit ends."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias, cast

from torch import Tensor

from lightning_interp.batches.site_rows import SiteRows
from lightning_interp.compat import pl
from lightning_interp.distributed import over_ranks
from lightning_interp.functional.label_sets import BUILT_IN_LABELS
from lightning_interp.metrics.sample import FixedSample, Sample
from lightning_interp.parts.site_metrics import site_key
from lightning_interp.reading.part import Part
from lightning_interp.reading.reading import Reading
from lightning_interp.reading.run_log import RunLog
from lightning_interp.reporting.loggers import how_to_embed

__all__ = ["Names", "Projector", "name_of", "names_by_set"]

Names: TypeAlias = Sequence[str] | Mapping[int, str] | Callable[[int], str]
"""What labels are called."""


class Projector(Part):
    """Shows representations of the last reading on TensorBoard's page "Projector", or in a table of Weights & Biases.

    They are always the same positions, chosen at random over those that are read.

    Args:
        size: How many of each site; ``None`` for none.
        labels: The label sets of what is read; all but n-grams, of which a position has several, are shown, and tokens.
        names: What labels are called, for the first set or by set.

    Raises:
        ValueError: If the size is below 1.

    Example:
        >>> projector = Projector(100, ["pos", "bigram"])
        >>> projector.columns
        ['pos', 'token']

    """

    def __init__(
        self, size: int | None, labels: Sequence[str] = (), names: Names | Mapping[str, Names] | None = None
    ) -> None:
        if size is not None and size < 1:
            raise ValueError(f"`projector` must be at least 1, or None for none, got {size}.")
        self.size, self.names = size, names
        named = [name for name in labels if name not in BUILT_IN_LABELS or name in ("token", "next_token")]
        self.columns = list(dict.fromkeys([*named, "token"]))
        """The label sets that are shown."""
        self.clear()
        self.forget()

    def clear(self) -> None:
        """A new fit."""
        self.shown: Mapping[str, Sample] = {}
        """Of each site what is shown of the last reading."""

    def forget(self) -> None:
        """The reading is over, or given up."""
        self._samples: dict[str, FixedSample] = {}
        self._now: Mapping[str, Sample] | None = None

    def update(self, site: str, rows: SiteRows) -> None:
        """Take in the rows of a batch."""
        if self.size is not None:
            assert rows.positions is not None
            self._at(site).update(rows.representations, rows.mask, rows.labels, rows.positions)

    def _at(self, site: str) -> FixedSample:
        assert self.size is not None
        if site not in self._samples:
            self._samples[site] = FixedSample(self.size, labels=self.columns)
        return self._samples[site]

    def choose(self, sites: Sequence[str], group: Any = None) -> None:
        """Choose those of all ranks. A collective."""
        if self.size is not None:
            self._now = {site: over_ranks(self._at(site).merge(), group) for site in sites}
            self._samples = {}

    def commit(self, reading: Reading) -> None:
        """These are shown, unless a later reading has others."""
        if self._now is not None:
            self.shown = self._now

    # ------------------------------------------------- life in a Trainer

    def fit_starts(self, trainer: Any, name: str) -> None:
        """Say early where nothing can show them."""
        if self.size is not None and not trainer.fast_dev_run and not any(map(how_to_embed, trainer.loggers)):
            pl.utilities.rank_zero_warn(
                f"{name}: `projector` is shown by TensorBoard and Weights & Biases, and this Trainer has the "
                f"loggers {[type(logger).__name__ for logger in trainer.loggers]}, so it is shown nowhere."
            )

    def fit_ends(self, trainer: Any, full_key: Callable[[str], str], step: int) -> None:
        """Show them."""
        reporter = RunLog.of(trainer).reporter
        if reporter is not None:
            for site, sample in self.shown.items():
                tag = full_key(site_key("representations", site))
                reporter.embedding(trainer, tag, partial(self._named, sample), step)

    def _named(self, sample: Sample) -> tuple[Tensor, dict[str, list[str]]]:
        """Vectors with what stands beside each, by label set; one that no position has is left out."""
        columns = dict(zip(self.columns, sample.labels.T.tolist(), strict=True))
        there = {name: labels for name, labels in columns.items() if max(labels, default=-1) >= 0}
        if not there:
            there = {"position": [-1] * len(sample.vectors)}
        by_set = names_by_set(self.names, next(iter(there)))
        where = [
            f"sample {n}, position {at}" for n, at in zip(sample.samples.tolist(), sample.places.tolist(), strict=True)
        ]
        return sample.vectors, {
            name: [
                place if label < 0 else name_of(label, by_set.get(name))
                for label, place in zip(labels, where, strict=True)
            ]
            for name, labels in there.items()
        }


def names_by_set(names: Names | Mapping[str, Names] | None, first: str) -> Mapping[str, Names]:
    """Names of labels by label set; those that are not given so are of the first.

    Example:
        >>> names_by_set(["noun", "verb"], "pos"), names_by_set({"pos": ["noun", "verb"]}, "token")
        ({'pos': ['noun', 'verb']}, {'pos': ['noun', 'verb']})

    """
    if names is None:
        return {}
    if isinstance(names, Mapping) and names and all(isinstance(name, str) for name in names):
        return cast(Mapping[str, Names], names)
    return {first: cast(Names, names)}


def name_of(label: int, names: Names | None) -> str:
    """What a label is called; its number where nobody says.

    Example:
        >>> name_of(1, ["noun", "verb"]), name_of(1, None)
        ('verb', '1')

    """
    if names is None:
        return str(label)
    return str(names(label) if callable(names) else names[label])
