"""When pictures are drawn while a training runs: soon after a reading, in a small share of the run's time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

__all__ = ["SHARE", "Artist", "DrawingClock", "Picture"]

SHARE = 0.015
"""Of the time since the fit began, what all pictures of all callbacks together may take while it runs. What is
drawn at its end comes on top, so there is room for it below 2 % of a long run."""
FIRST = 0.75
"""The part of it for callbacks that draw first."""
UNKNOWN = 0.3
"""Seconds that a picture is taken to cost before it was drawn once."""
AT_INTERRUPT = 3.0
"""Seconds for pictures when a user interrupts the fit, and waits."""


class Picture(NamedTuple):
    """One that could be drawn now."""

    tag: str
    step: int
    """The training step under which it is shown."""
    show: Callable[[], None]
    """Draws it, renders it and hands it to the loggers."""


class Artist(Protocol):
    """A callback that draws."""

    figure_interval: float
    draws_first: bool
    """Whether its pictures are what a person looks at first, so that most of the time is theirs."""

    def drawable(self, final: bool) -> Sequence[Picture]:
        """What there is to draw of the newest reading; ``final`` at the end of the fit."""


@dataclass
class _Drawn:
    """What is known of a picture."""

    at: float
    step: int = -1
    costs: list[float] = field(default_factory=list)

    @property
    def cost(self) -> float:
        # The first drawing loads fonts: the smaller of the last two says what the next one will take.
        return min(self.costs, default=UNKNOWN)


@dataclass
class _Easel:
    """Where one callback stands."""

    artist: Artist
    began: float
    stale: bool = False
    """Whether there was a reading since pictures were last listed."""
    at_once: bool = False
    waiting: list[Picture] = field(default_factory=list)
    drawn: dict[str, _Drawn] = field(default_factory=dict)

    def of(self, picture: Picture) -> _Drawn:
        return self.drawn.setdefault(picture.tag, _Drawn(self.began))

    def look(self, final: bool = False) -> None:
        """Find what is not drawn at its step yet."""
        self.stale = False
        self.waiting = [one for one in self.artist.drawable(final) if one.step > self.of(one).step]

    def cheapest_first(self) -> list[Picture]:
        return sorted(self.waiting, key=lambda one: self.of(one).cost)


class DrawingClock:
    """Decides which picture of which callback is drawn when; one for all callbacks of a Trainer, on rank 0 alone.

    While a fit runs, pictures take at most :data:`SHARE` of the time since it began, measured by what each drawing took
    and what the next one will take by that. Pictures that have the newest reading wait for the next one. Of the others
    the one that was drawn the longest ago comes next, and the rest wait for it, so each has its turn. Where some
    callbacks draw first and some do not, the former have three quarters of the time and the very first picture.
    No picture is drawn twice at one step. What was asked for with :meth:`at_once` is drawn whatever the time, and so
    is every picture at the end of the fit.

    It draws when a training batch starts, not in the validation: whether the fit ends there is known by then, and with
    it that the picture would be drawn again. Nothing is exchanged with other ranks.

    A fit that goes on from a checkpoint counts its time from its own beginning.

    Args:
        now: Tells the time in seconds.

    Example:
        >>> class Curves:
        ...     figure_interval, draws_first, step = 0.0, False, 0
        ...     def drawable(self, final):
        ...         return [Picture("curves", self.step, lambda: print("drawn at", self.step))]
        >>> times = iter([0.0, *[10.0] * 9, *[1000.0] * 9])
        >>> curves, clock = Curves(), DrawingClock(lambda: next(times))
        >>> clock.add(curves)
        >>> curves.step = 5
        >>> clock.reading(curves)
        >>> for _ in range(20):
        ...     clock.tick()
        drawn at 5

    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._began = now()
        self.spent = 0.0
        """Seconds that drawing took so far."""
        self._spent_first = 0.0
        self._easels: dict[int, _Easel] = {}
        self._wake = math.inf
        self._interrupted = False

    def __contains__(self, artist: Artist) -> bool:
        """Whether a callback draws by this clock."""
        return id(artist) in self._easels

    def add(self, artist: Artist) -> None:
        """A callback draws in this fit."""
        self._easels[id(artist)] = _Easel(artist, self._began)

    def reading(self, artist: Artist) -> None:
        """A callback has a new reading, which its pictures do not show yet."""
        self._easels[id(artist)].stale = True
        self._wake = -math.inf

    def at_once(self, artist: Artist) -> None:
        """A callback found what a person wants to see now: its pictures are drawn next, whatever the time."""
        self.reading(artist)
        self._easels[id(artist)].at_once = True

    def tick(self) -> None:
        """Draw what is due. Where nothing is, it only looks at the time."""
        if self._wake == math.inf or self._now() < self._wake:
            return
        self._list()
        for easel in self._easels.values():
            while easel.at_once and easel.waiting:
                self._draw(easel, easel.waiting[0])
            easel.at_once = False
        while (due := self._due()) is not None:
            self._draw(*due)

    def end(self, artist: Artist) -> None:
        """The fit is over: draw every picture of a callback that is not drawn at its step yet."""
        easel = self._easels[id(artist)]
        easel.look(final=True)
        while easel.waiting:
            self._draw(easel, easel.waiting[0])

    def interrupted(self) -> None:
        """A user stopped the fit: draw what there is of all callbacks, as far as a few seconds go. Only once."""
        if self._interrupted:
            return
        self._interrupted = True
        self._list()
        until = self.spent + AT_INTERRUPT
        for easel in sorted(self._easels.values(), key=lambda one: not one.artist.draws_first):
            for picture in easel.cheapest_first():
                if self.spent + easel.of(picture).cost <= until:
                    self._draw(easel, picture)

    def _list(self) -> None:
        for easel in self._easels.values():
            if easel.stale:
                started = self._now()
                easel.look()
                self._pay(easel, self._now() - started)

    def _draw(self, easel: _Easel, picture: Picture) -> None:
        started = self._now()
        picture.show()
        easel.waiting.remove(picture)
        drawn = easel.of(picture)
        drawn.step, drawn.at = picture.step, self._now()
        drawn.costs = [*drawn.costs[-1:], drawn.at - started]
        self._pay(easel, drawn.at - started)

    def _pay(self, easel: _Easel, seconds: float) -> None:
        self.spent += seconds
        self._spent_first += seconds if easel.artist.draws_first else 0.0

    def _due(self) -> tuple[_Easel, Picture] | None:
        """The picture to draw now; where there is none yet, the time to ask again is set."""
        now, self._wake = self._now(), math.inf
        for first in (True, False):
            ready: list[tuple[float, _Easel, Picture]] = []
            for easel in self._easels.values():
                if easel.artist.draws_first == first:
                    for picture in easel.waiting:
                        rested = easel.of(picture).at + easel.artist.figure_interval
                        if rested <= now:
                            ready.append((easel.of(picture).at, easel, picture))
                        else:
                            self._wake = min(self._wake, rested)
            if ready:
                _, easel, picture = min(ready, key=lambda one: one[0])
                when = self._affordable(easel.of(picture).cost, first)
                if when <= now:
                    return easel, picture
                self._wake = min(self._wake, when)
        return None

    def _affordable(self, cost: float, first: bool) -> float:
        """From when on a drawing of this cost keeps to its share."""
        of_all = (self.spent + cost) / SHARE
        if len({easel.artist.draws_first for easel in self._easels.values()}) == 1:
            return self._began + of_all
        if not first:
            return self._began + max(of_all, (self.spent - self._spent_first + cost) / ((1 - FIRST) * SHARE))
        # The very first picture need not wait for the part of the others, and no later one waits where another took
        # longer than was to be expected.
        return self._began + ((self._spent_first + cost) / (FIRST * SHARE) if self._spent_first else of_all)
