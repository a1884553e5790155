"""Patches of images, one position after another."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any


def index(sizes: Sequence[int], patch: Sequence[int]) -> dict[tuple[int, ...], int]:
    """Position → its patch, patches numbered in the order in which they are met along rows of patches."""
    places = list(product(*(range(size) for size in sizes)))
    corners = sorted({tuple(at // side for at, side in zip(place, patch, strict=True)) for place in places})
    numbers = {corner: number for number, corner in enumerate(corners)}
    return {place: numbers[tuple(at // side for at, side in zip(place, patch, strict=True))] for place in places}


def marked(where: dict[tuple[int, ...], int], marks: Any) -> list[bool]:
    """Whether each patch has a position that is marked."""
    return [
        any(bool(marks[at]) for at, one in where.items() if one == number) for number in range(max(where.values()) + 1)
    ]
