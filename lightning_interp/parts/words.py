"""A part: which positions of a batch are words, as its tokens or its mask say."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from lightning_interp.batches.contents import BatchSize, Key
from lightning_interp.batches.reader import BatchReader, ReadBatch
from lightning_interp.isolation.seen import Seen
from lightning_interp.reading.part import Part
from lightning_interp.reading.reading import Reading
from lightning_interp.reporting.plain_values import Settings

__all__ = ["Words"]


class Words(Part):
    """What batches say of their positions, read once a batch however many sites ask.

    Args:
        tokens: Where token ids are in a batch, or that by site.
        mask, padding_idx, ignore_tokens, skip_positions, batch_size: See
        :class:`~lightning_interp.batches.BatchReader`.
        asked: Whether anything has to know of them. Without, batches are read only where an argument here tells
            something about positions, and may be of any kind else.

    Example:
        >>> words = Words(padding_idx=0)
        >>> words.asked, Words(asked=False).asked
        (True, False)

    """

    attached = ("_reading",)

    def __init__(
        self,
        tokens: Key | Mapping[str, Key] | None = None,
        mask: Key | None = None,
        padding_idx: int | None = None,
        ignore_tokens: Sequence[int] = (),
        skip_positions: int = 0,
        batch_size: BatchSize | None = None,
        asked: bool = False,
    ) -> None:
        self._by_site = dict(tokens) if isinstance(tokens, Mapping) else {}
        own = None if isinstance(tokens, Mapping) else tokens
        self.reader = BatchReader((), own, mask, padding_idx, ignore_tokens, skip_positions, batch_size)
        told = any(given is not None for given in (tokens, mask, padding_idx))
        self.asked = asked or told or len(ignore_tokens) > 0 or skip_positions > 0
        self.clear()

    def clear(self) -> None:
        """A new fit."""
        self.reader = self.reader.fresh()
        self._reading: Reading | None = None
        self.forget()

    def take_padding(self, padding_idx: int | None) -> None:
        """Padding where neither arguments nor batches say anything of it."""
        self.reader.shared_padding = padding_idx

    def begin(self, reading: Reading) -> None:
        """A reading starts."""
        self._reading = reading

    def forget(self) -> None:
        """The reading is over, or given up."""
        self._reading = None
        self._last: tuple[Seen | None, dict[Key | None, ReadBatch]] = (None, {})

    def keeps(self) -> Sequence[object]:
        """The reader keeps the arguments."""
        return (self.reader,)

    def settings(self) -> Settings:
        """The token id of padding, where the model's module told it and it was needed."""
        return {} if self.reader.used_padding is None else {"padding_idx": self.reader.used_padding}

    def of(self, seen: Seen, sites: Iterable[str]) -> dict[str, ReadBatch]:
        """What a batch says, by site; nothing where nobody asked."""
        if not self.asked:
            return {}
        assert self._reading is not None
        last, found = self._last
        if last is not seen:
            found = {}
            self._last = seen, found
        places, samples = seen.selection.batch, len(seen.selection.batch)
        wheres = {site: self._by_site.get(site) for site in sites}
        for where in wheres.values():
            if where not in found:
                known = places if self._reading.positions.exact else None
                found[where] = self.reader.read(seen.batch, known, where, None, samples)
        return {site: found[where] for site, where in wheres.items()}
