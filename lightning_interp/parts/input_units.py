"""A part's work: the patches or channels that an input is made of."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise, product
from typing import Literal

import torch
from torch import Tensor

from lightning_interp.functional.patches import marked_patches, patch_edges, patch_index

__all__ = ["InputUnits", "Units"]

Units = int | Sequence[int] | Literal["channels"]
"""The sides of a patch, one for all axes or one for each, or channels."""

_FEWEST = 2  # of one alone nothing can be compared


class InputUnits:
    """What is left out of an input at a time, by the shape of a single input.

    Args:
        units: The sides of a patch, or channels.
        channels: The dimension of channels, that of the batch counted; ``None`` where there is none.

    Raises:
        ValueError: If an argument is out of range; later, if they do not fit a shape.

    Example:
        >>> units = InputUnits(4, channels=1)
        >>> units.index((3, 8, 6)).shape, units.names((3, 8, 6))
        (torch.Size([1, 8, 6]), ['0–3, 0–3', '0–3, 4–5', '4–7, 0–3', '4–7, 4–5'])

    """

    def __init__(self, units: Units, channels: int | None) -> None:
        sides = [units] if isinstance(units, int) else units
        patches = isinstance(sides, tuple | list) and len(sides) > 0 and all(type(s) is int and s > 0 for s in sides)
        if units != "channels" and not patches:
            raise ValueError(f"`units` must be the side of a patch, the sides, or 'channels', got {units!r}.")
        if channels is not None and (type(channels) is not int or channels == 0):
            raise ValueError(
                f"`channels` must be a dimension other than 0, that of the batch, or None, got {channels!r}."
            )
        if units == "channels" and channels is None:
            raise ValueError("units='channels' needs `channels`, the dimension that they are, and that is None.")
        self.units: int | str | list[int] = units if isinstance(units, int | str) else list(units)
        self.channels = channels

    def channel_axis(self, shape: Sequence[int]) -> list[int]:
        """The dimension of channels in the shape of a single input, in a list; empty where there is none."""
        if self.channels is None:
            return []
        axes = len(shape) + 1
        if not -axes < self.channels < axes:
            raise ValueError(f"`channels` is {self.channels}, and inputs are (B, {', '.join(map(str, shape))}).")
        return [self.channels % axes - 1]

    def index(self, shape: Sequence[int]) -> Tensor:
        """The unit that each number of an input belongs to, int64 that broadcasts to its shape."""
        channel = self.channel_axis(shape)
        if self.units == "channels":
            return torch.arange(shape[channel[0]]).view([-1 if axis in channel else 1 for axis in range(len(shape))])
        found = patch_index(*self._patches(shape))
        return found.unsqueeze(channel[0]) if channel else found

    def number(self, shape: Sequence[int]) -> int:
        """How many units an input has.

        Raises:
            ValueError: If they are fewer than two.

        """
        found = int(self.index(shape).max()) + 1
        if found < _FEWEST:
            raise ValueError(
                f"`units` of {self.units!r} makes {found} of an input {tuple(shape)}: of fewer than two nothing can be "
                "compared."
            )
        return found

    def marks(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The shape of what marks a cue in an input: a place for each channel, or for each position."""
        axes = self.channel_axis(shape)
        return tuple(size for axis, size in enumerate(shape) if (axis in axes) == (self.units == "channels"))

    def marked(self, shape: Sequence[int], marks: Tensor) -> Tensor:
        """Which units of inputs have anything that is marked, bool (B, n), of marks (B, …) on the CPU."""
        return marked_patches(self.index(shape).view(self.marks(shape)), marks)

    def _patches(self, shape: Sequence[int]) -> tuple[list[int], list[int]]:
        """The sizes of an input beside its channels, and the sides of a patch."""
        sizes = [size for axis, size in enumerate(shape) if axis not in self.channel_axis(shape)]
        sides = [self.units] * len(sizes) if isinstance(self.units, int) else [int(side) for side in self.units]
        if not sizes or len(sides) != len(sizes):
            raise ValueError(
                f"`units` is {self.units!r}, and an input {tuple(shape)} has {len(sizes)} dimensions beside `channels`."
            )
        return sizes, sides

    def edges(self, shape: Sequence[int]) -> list[list[int]]:
        """Of each dimension beside channels, where patches begin and the last one ends."""
        return [patch_edges(*pair) for pair in zip(*self._patches(shape), strict=True)]

    def names(self, shape: Sequence[int]) -> list[str]:
        """What the units of an input are called: the channel, or the positions of a patch."""
        if self.units == "channels":
            return [f"channel {number}" for number in range(shape[self.channel_axis(shape)[0]])]
        axes = [
            [str(start) if end == start + 1 else f"{start}–{end - 1}" for start, end in pairwise(edges)]
            for edges in self.edges(shape)
        ]
        return [", ".join(one) for one in product(*axes)]

    def of_images(self, shape: Sequence[int]) -> bool:
        """Whether units are patches of two dimensions."""
        return self.units != "channels" and len(shape) - len(self.channel_axis(shape)) == 2

    def channels_first(self, values: Tensor) -> Tensor:
        """A single input with its channels first, one where it has no dimension of channels."""
        channel = self.channel_axis(values.shape)
        return values.movedim(channel[0], 0) if channel else values[None]
