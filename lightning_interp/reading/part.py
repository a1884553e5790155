"""What a callback is made of."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self

from torch import nn

from lightning_interp._seen import Seen
from lightning_interp.callbacks._unattached import unattached
from lightning_interp.reading.reading import Reading
from lightning_interp.run_settings import Settings

__all__ = ["Part", "parts_of"]


class Part:
    """Something that an analysis holds in an attribute and that lives as its readings do.

    The analysis finds its parts by itself and calls these methods, parts in the order in which they were made, before
    its own hook of that name. All of them may be left out. What :meth:`state_dict` gives stands in a checkpoint under
    the name of the attribute.

    Example:
        >>> class Counter(Part):
        ...     reads_batches = True
        ...     def clear(self):
        ...         self.readings = 0
        ...     def commit(self, reading):
        ...         self.readings += 1
        ...     def state_dict(self):
        ...         return {"readings": self.readings}
        ...     def load_state_dict(self, state):
        ...         self.readings = state["readings"]

    """

    reads_batches = False
    """Whether it reads the batches of the validation run."""
    attached: tuple[str, ...] = ()
    """Attributes that belong to a model: a copy has None there."""

    def attach(self, model: nn.Module) -> None:
        """Find in the model what is to be read, and attach to it."""

    def detach(self) -> None:
        """Let go of the model."""

    def take_padding(self, padding_idx: int | None) -> None:
        """What the ``LightningModule`` or the data module says of padding in an attribute of this name, if it does."""

    def begin(self, reading: Reading) -> None:
        """A reading starts."""

    def before_any_batch(self, reading: Reading, loader: int) -> None:
        """A batch of any validation loader is about to go through the model, whether it is read or not."""

    def before_batch(self, seen: Seen) -> None:
        """A batch that has selected samples is about to go through the model."""

    def after_batch(self, seen: Seen) -> None:
        """It went through the model."""

    def forget(self) -> None:
        """The reading is over, or given up."""

    def start_anew(self) -> None:
        """Samples turned out to be others: forget what belongs to those before."""

    def commit(self, reading: Reading) -> None:
        """The reading counts. Called on all ranks, or on none."""

    def clear(self) -> None:
        """A new fit: forget all that belongs to the one before."""

    def keeps(self) -> Sequence[object]:
        """What keeps arguments of the callback under their own names: itself, and objects that it was given."""
        return (self,)

    def settings(self) -> Settings:
        """How it reads, for the columns ``setting/<callback>/…`` of ``readings.csv``."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint holds of it, as plain numbers and tensors; nothing where that is empty."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where a checkpoint left off."""

    def fresh(self) -> Self:
        """A part with the same arguments that has read nothing yet and is attached to no model."""
        found = copy.copy(self)
        found.clear()
        return found

    def __getstate__(self) -> dict[str, Any]:
        return unattached(self)


def parts_of(owner: object) -> Iterator[tuple[str, Part]]:
    """The parts that an object holds in attributes, with their names, in the order in which they were set."""
    for name, one in vars(owner).items():
        if isinstance(one, Part):
            yield name, one
