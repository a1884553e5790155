"""A part: what is kept of some readings of a fit, for figures and for later readings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning_interp.reading.part import Part
from lightning_interp.reading.reading import Reading
from lightning_interp.reading.stored_readings import StoredReadings

__all__ = ["Kept"]


class Kept(Part):
    """Tensors of up to so many readings of a fit, evenly spread over them, the first and the last among them.

    What a reading puts into :attr:`now` is kept once the reading counts; a reading that is dropped leaves nothing. On
    other samples it starts anew.

    Args:
        most: How many readings are kept, at least 2.

    Example:
        >>> from torch import nn
        >>> kept = Kept(3)
        >>> for step in (10, 20, 30):
        ...     kept.now = {"value": step / 10}
        ...     kept.commit(Reading(nn.Identity(), step))
        >>> kept.steps, kept.values[-1]
        ([10, 20, 30], {'value': 3.0})

    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.clear()

    def __len__(self) -> int:
        return len(self._readings)

    @property
    def steps(self) -> list[int]:
        """The step of each, rising."""
        return self._readings.steps

    @property
    def values(self) -> list[Mapping[str, Any]]:
        """What is kept of each."""
        return self._readings.values

    @property
    def readings(self) -> list[tuple[int, Mapping[str, Any]]]:
        """Both."""
        return list(zip(self.steps, self.values, strict=True))

    def clear(self) -> None:
        """A new fit."""
        self._readings = StoredReadings(self.most)
        self.now: Mapping[str, Any] | None = None
        """What the reading that is being taken has found."""

    def start_anew(self) -> None:
        """Later readings are of other samples."""
        self._readings = StoredReadings(self.most)

    def forget(self) -> None:
        """The reading is over, or given up."""
        self.now = None

    def commit(self, reading: Reading) -> None:
        """Keep what the reading found, where it found something."""
        if self.now is not None and reading.step is not None:
            self._readings.add(reading.step, self.now)

    def state_dict(self) -> dict[str, Any]:
        """What is kept."""
        return self._readings.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where a checkpoint left off."""
        self._readings.load_state_dict(state)
