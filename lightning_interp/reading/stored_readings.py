"""What a callback keeps of some of its readings: a bounded number, evenly spread, the first and the last among them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

__all__ = ["StoredReadings"]

Kept: TypeAlias = Mapping[str, Any]


class StoredReadings:
    """A bounded number of readings of a fit, evenly spread over them, with the first and the last.

    Args:
        most: How many are kept, at least 2.

    Example:
        >>> kept = StoredReadings(3)
        >>> for step in range(10, 70, 10):
        ...     kept.add(step, {"value": step / 10})
        >>> kept.steps
        [10, 50, 60]

    """

    def __init__(self, most: int) -> None:
        if most < 2:
            raise ValueError(f"`most` must be at least 2, the first and the last, got {most}.")
        self.most = most
        self._number = 0
        self._stride = 1
        self._kept: list[tuple[int, int, Kept]] = []

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def steps(self) -> list[int]:
        """The step of each, rising."""
        return [step for _, step, _ in self._kept]

    @property
    def values(self) -> list[Kept]:
        """What is kept of each."""
        return [values for _, _, values in self._kept]

    def add(self, step: int, values: Kept) -> None:
        """Take in the next reading."""
        if self._kept and self._kept[-1][0] % self._stride:
            del self._kept[-1]  # it was kept as the last one only
        while len(self._kept) >= self.most:
            self._stride *= 2
            self._kept = [one for one in self._kept if one[0] % self._stride == 0]
        self._kept.append((self._number, step, values))
        self._number += 1

    def state_dict(self) -> dict[str, Any]:
        """As plain as the values are, so that a ``weights_only`` checkpoint can hold it."""
        return {
            "number": self._number,
            "stride": self._stride,
            "numbers": [number for number, _, _ in self._kept],
            "steps": self.steps,
            "values": [dict(values) for values in self.values],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what a checkpoint holds."""
        self._number, self._stride = state["number"], state["stride"]
        self._kept = list(zip(state["numbers"], state["steps"], state["values"], strict=True))
