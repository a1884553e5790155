"""At which training steps to read: the pure arithmetic behind ``ValidationSchedule``."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count, pairwise
from typing import Any, Literal

import numpy as np
import torch

__all__ = ["StepSchedule", "log_spaced_steps"]

_EXPECTED = "'log', a list of increasing steps, one number for all of its multiples, or None"


def log_spaced_steps(per_decade: int, start: int = 1, stop: int | None = None) -> Iterator[int]:
    """Steps at equal distances on a logarithmic axis: the whole numbers nearest to ``start · 10^(k / per_decade)``.

    A representation changes on the scale of the steps taken so far: as much between steps 10 and 20 as between 10,000
    and 20,000. Numbers that coincide after rounding are given once, so the first decade has fewer than ``per_decade``.

    Args:
        per_decade: How many steps in each factor of ten, at least 1.
        start: The first step, at least 1.
        stop: The last step that may be given; ``None`` never ends.

    Raises:
        ValueError: If ``per_decade``, ``start`` or ``stop`` is not a whole number of at least 1.

    Example:
        >>> list(log_spaced_steps(per_decade=4, stop=100))
        [1, 2, 3, 6, 10, 18, 32, 56, 100]

    """
    _check_count("per_decade", per_decade)
    _check_count("start", start)
    if stop is not None:
        _check_count("stop", stop)
    return _log_spaced(per_decade, start, stop)


def _log_spaced(per_decade: int, start: int, stop: int | None) -> Iterator[int]:
    last = 0
    for index in count():
        step = _log_step(index, per_decade, start)
        if stop is not None and step > stop:
            return
        if step > last:
            yield step
        last = step


@dataclass(frozen=True)
class StepSchedule:
    """A set of training steps that can be asked for the next one, in constant time however far training has come.

    Args:
        steps: ``"log"`` for :func:`log_spaced_steps`, a list or array of increasing steps, one number for all of its
            multiples, or ``None`` for ``every`` alone.
        per_decade: With ``"log"``, how many steps in each factor of ten.
        start: The first step; nothing is scheduled before it, and ``"log"`` counts from it.
        every: Every multiple of this number as well.

    Raises:
        ValueError: If an argument is not one of the values above, or none of them gives a step.

    Example:
        >>> schedule = StepSchedule("log", per_decade=2, every=50)
        >>> schedule.up_to(150)
        [1, 3, 10, 32, 50, 100, 150]
        >>> schedule.next_after(100)
        150
        >>> StepSchedule(50).up_to(150)
        [50, 100, 150]

    """

    steps: Literal["log"] | Sequence[int] | int | None = "log"
    per_decade: int = 8
    start: int = 1
    every: int | None = None
    _listed: tuple[int, ...] = field(init=False, repr=False, default=())

    def __post_init__(self) -> None:
        _check_count("per_decade", self.per_decade)
        _check_count("start", self.start)
        for name in ("per_decade", "start", "every"):
            if isinstance(value := getattr(self, name), np.integer):
                object.__setattr__(self, name, int(value))  # of numpy too: its powers of ten would overflow
        if self.every is not None:
            _check_count("every", self.every)
        if self.steps is None:
            if self.every is None:
                raise ValueError("steps=None needs every=<number of steps>; otherwise nothing would be scheduled.")
        elif isinstance(self.steps, str):
            if self.steps != "log":
                raise ValueError(f"steps={self.steps!r}: expected {_EXPECTED}.")
        elif isinstance(self.steps, int | np.integer):
            _check_count("steps", self.steps)
            object.__setattr__(self, "steps", int(self.steps))
        else:
            listed = _checked_list(self.steps, self.start)
            object.__setattr__(self, "_listed", listed)
            if hasattr(self.steps, "tolist"):  # an array cannot be compared with a text
                object.__setattr__(self, "steps", listed)

    def next_after(self, step: int) -> int | None:
        """The first scheduled step that is greater than ``step``, or ``None`` where a list has come to its end."""
        step = max(step, self.start - 1)
        candidates = [self._next_listed(step), *(_next_multiple(one, step) for one in self._multiples())]
        if self.steps == "log":
            candidates.append(self._next_log(step))
        return min((candidate for candidate in candidates if candidate is not None), default=None)

    def up_to(self, stop: int) -> list[int]:
        """All scheduled steps from the first one to ``stop``, both included."""
        found: list[int] = []
        step = self.next_after(0)
        while step is not None and step <= stop:
            found.append(step)
            step = self.next_after(step)
        return found

    def _next_listed(self, step: int) -> int | None:
        position = bisect_right(self._listed, step)
        return self._listed[position] if position < len(self._listed) else None

    def _multiples(self) -> list[int]:
        """The numbers all of whose multiples are scheduled."""
        return [one for one in (self.every, self.steps) if isinstance(one, int)]

    def _next_log(self, step: int) -> int:
        # The logarithm may be off by a rounding error, so the search begins one index early.
        index = max(0, math.floor(self.per_decade * math.log10(max(step, self.start) / self.start)) - 1)
        while (candidate := _log_step(index, self.per_decade, self.start)) <= step:
            index += 1
        return candidate


def _next_multiple(number: int, step: int) -> int:
    return (step // number + 1) * number


def _log_step(index: int, per_decade: int, start: int) -> int:
    # Whole decades in integers: 10 ** (k / per_decade) alone can miss a power of ten by a rounding error.
    decades, rest = divmod(index, per_decade)
    whole: int = start * 10**decades
    return round(whole * math.pow(10, rest / per_decade)) if rest else whole


def _checked_list(steps: Any, start: int) -> tuple[int, ...]:
    if isinstance(steps, np.ndarray | torch.Tensor) and steps.ndim == 1:
        steps = steps.tolist()
    if not isinstance(steps, Sequence):
        raise ValueError(f"steps={steps!r}: expected {_EXPECTED}.")
    for step in steps:
        if not _is_count(step):
            raise ValueError(f"steps={list(steps)!r}: every step is a whole number of at least 1, and {step!r} is not.")
    for before, after in pairwise(steps):
        if after <= before:
            raise ValueError(f"steps={list(steps)!r}: steps increase, but {after} follows {before}.")
    listed = tuple(int(step) for step in steps if step >= start)
    if not listed:
        raise ValueError(f"steps={list(steps)!r} has no step from start={start} on; give at least one.")
    return listed


def _check_count(name: str, value: object) -> None:
    if not _is_count(value):
        raise ValueError(f"{name}={value!r}: expected a whole number of at least 1.")


def _is_count(value: Any) -> bool:
    # numpy has whole numbers of its own
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and bool(value >= 1)
