"""A part: what monitors were before training, and whether they are better by now."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from lightning_interp.compat import pl
from lightning_interp.distributed import Collective
from lightning_interp.functional.robustness import CLEAR, IN_A_ROW, differs, share_learned, shows_learning
from lightning_interp.isolation import WeightsCopy
from lightning_interp.parts.replayed import Replayed
from lightning_interp.reading.part import Part
from lightning_interp.reading.reading import Reading

__all__ = ["DIRECTIONS", "StartValues"]

DIRECTIONS = {"loss": -1.0, "score": 1.0}
"""Of a monitor where less is better, and of one where more is."""

_GROUPS = 8  # of batches, whose spread tells the noise of a monitor


class StartValues(Part):
    """The monitors' values before training, from which what was learned is counted.

    A value is given only once it was found clearly worse than what the monitor is now, as
    :func:`~lightning_interp.functional.robustness.shows_learning` says: in a fit at one reading that leaves no doubt or
    at three in a row, outside at one.

    Args:
        monitors: Name → ``"loss"`` where less is better, ``"score"`` where more is.
        start: ``"initial"`` reads them with the weights from before the first step; ``{monitor: value}`` gives them;
            ``None`` for none.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> StartValues({"val_acc": "score", "val_loss": "loss"}, start={"val_acc": 0.1}).learnable
        ['val_acc']

    """

    attached = ("_initial",)

    def __init__(self, monitors: Mapping[str, str], start: str | Mapping[str, float] | None = "initial") -> None:
        for name, mode in monitors.items():
            if mode not in DIRECTIONS:
                raise ValueError(f"`monitors[{name!r}]` must be one of {list(DIRECTIONS)}, got {mode!r}.")
        if isinstance(start, Mapping):
            unknown = sorted(set(start) - set(monitors))
            if unknown:
                raise ValueError(f"`start` names {unknown}, which are not among the monitors {list(monitors)}.")
        elif start not in ("initial", None):
            raise ValueError(f"`start` must be 'initial', a value for each monitor, or None, got {start!r}.")
        self.monitors = dict(monitors)
        self.start = dict(start) if isinstance(start, Mapping) else start
        self.clear()

    @property
    def learnable(self) -> list[str]:
        """The monitors of which there is a value, or will be."""
        if self.start is None:
            return []
        return [name for name in self.monitors if not isinstance(self.start, Mapping) or name in self.start]

    @property
    def groups(self) -> int:
        """Into how many groups a reading has to deal its batches; 0 where the noise of monitors is known."""
        known = self.lost or all(
            abs(self.gaps.get(monitor, 0.0)) > CLEAR * self.widths.get(monitor, math.inf) for monitor in self.learnable
        )
        return 0 if known else _GROUPS

    def clear(self) -> None:
        """A new fit."""
        self._forget_all()
        self.lost = False
        """Whether they belong to samples that are no longer read."""
        if isinstance(self.start, Mapping):
            self.values |= {name: [float(value)] for name, value in self.start.items()}
        self._initial: WeightsCopy | None = None
        self._told = False

    def start_anew(self) -> None:
        """Samples are others now, on which they cannot be read again."""
        self._forget_all()
        self.lost = True

    def _forget_all(self) -> None:
        self.values: dict[str, list[float]] = {}
        """For each monitor its value before training, then its values in the groups of batches."""
        self.widths: dict[str, float] = {}
        """For each the half-width of the 95 % interval of what was gained, in its own units."""
        self.gaps: dict[str, float] = {}
        """For each what was gained by the last reading."""
        self._in_a_row: dict[str, int] = {}
        """For each how many readings in a row have found that something was learned, up to three."""
        self.forget()

    def forget(self) -> None:
        """The reading is over, or given up."""
        self._now: dict[str, int] = {}

    def commit(self, reading: Reading) -> None:
        """Count readings of a fit that find that something was learned."""
        self._in_a_row = {**self._in_a_row, **self._now}

    def keep_weights(self, model: nn.Module, step: int, name: str) -> None:
        """Training starts: keep the weights from before the first step, until the values are read.

        Args:
            model: The model.
            step: How many steps were made.
            name: Of the callback, for what is said where it is too late.

        """
        if self.start != "initial" or not self.monitors or self.values or self._initial is not None or self.lost:
            return
        if step == 0:
            self._initial = WeightsCopy(model)
        else:
            pl.utilities.rank_zero_warn(
                f"{name} starts at step {step} from a checkpoint that does not hold the monitors' values before "
                "training: robustness is not logged. Give `start={monitor: level of chance}`."
            )

    def read(self, replayed: Replayed) -> Collective[None]:
        """Read them with the weights that were kept, where there are such."""
        if self._initial is not None:
            found = yield from replayed.with_weights(self._initial, _GROUPS)
            both = [found.plain, *found.groups]
            self.values = {monitor: [one[monitor] for one in both] for monitor in self.monitors}
            self._initial = None

    def of(self, monitor: str, value: float, groups: Sequence[float], reading: Reading, name: str = "") -> float | None:
        """The value before training, if the monitor is clearly better than that.

        Args:
            monitor: Its name.
            value: What it is now.
            groups: What it is in each group of batches, where that was read.
            reading: The reading.
            name: Of the callback, for what is said where its noise cannot be told.

        """
        started = self.values.get(monitor)
        if not started or reading.changed is not None:
            return None
        if groups:
            self.widths[monitor] = differs(groups, started[1:] or started)
        mode = self.monitors[monitor]
        gap = self.gaps[monitor] = DIRECTIONS[mode] * (value - started[0])
        width = self.widths.get(monitor, math.nan)
        if math.isnan(width):
            if not self._told:
                self._told = True
                pl.utilities.rank_zero_warn(
                    f"{name} reads a single batch, so the noise of {list(self.monitors)} cannot be told, nor whether "
                    "the model is better than before training: robustness is not logged. Use smaller validation "
                    "batches."
                )
            return None
        learned = shows_learning(gap, width, share_learned(value, started[0], mode == "loss"))
        # Once it was seen often enough, a reading that does not see it goes without and the next one need not wait.
        before = self._in_a_row.get(monitor, 0)
        seen = min(before + learned, IN_A_ROW) if learned else 0
        self._now[monitor] = max(seen, before if before >= IN_A_ROW else 0)
        return started[0] if learned and self._now[monitor] >= (IN_A_ROW if reading.counts else 1) else None

    def state_dict(self) -> dict[str, Any]:
        """The values, and what is known of their noise."""
        return {
            "started": {name: list(values) for name, values in self.values.items()},
            "widths": dict(self.widths),
            "gaps": dict(self.gaps),
            "learned": dict(self._in_a_row),
            "lost": self.lost,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where a checkpoint left off."""
        if not isinstance(self.start, Mapping):
            self.values = {name: list(values) for name, values in state["started"].items()}
        self.widths, self.gaps = dict(state["widths"]), dict(state["gaps"])
        self._in_a_row = dict(state.get("learned", {}))  # checkpoints of before have neither
        self.lost = bool(state.get("lost", False))
