"""A part: what the same model gives with random weights, read once."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from lightning_interp.compat import pl
from lightning_interp.distributed import Collective, Maximum, PeerError
from lightning_interp.isolation.random_weights import REMEDY, Reinit, drawn_anew, told_of_shuffled
from lightning_interp.metrics.derived import ABOVE_BASELINE, BASELINE
from lightning_interp.metrics.measure import Axes, Measure, expanded
from lightning_interp.reading.part import Part
from lightning_interp.reporting.plain_values import Settings

__all__ = ["Baseline", "beside_random"]

T = TypeVar("T")


class Baseline(Part):
    """The values of a model with random weights, read once for each model and kept in checkpoints.

    Args:
        asked: ``None`` for random weights where they can be had: where not, a warning says why, and there is no
            baseline. ``True``, or a function that makes the model anew, for random weights or an error; ``False`` for
            none.
        seed: Of the weights.
        of: Dotted name of the part of the model that has them; ``""`` for the model itself.

    Example:
        >>> baseline = Baseline(None)
        >>> baseline.attach(nn.Linear(2, 2))
        >>> baseline.wanted, baseline.due
        (True, True)

    """

    attached = ("_model",)

    def __init__(self, asked: bool | Reinit | None, seed: int = 0, of: str = "") -> None:
        if asked is not None and not isinstance(asked, bool) and not callable(asked):
            raise ValueError(
                f"`baseline` must be True, False, None or a function that makes the model anew, got {asked!r}."
            )
        self.asked, self.seed, self.of = asked, seed, of
        self._model: weakref.ref[nn.Module] | None = None
        self.clear()

    @property
    def wanted(self) -> bool:
        """Whether there is one, as far as is known."""
        return self.asked is not False and not self.missing

    @property
    def due(self) -> bool:
        """Whether it has to be read still."""
        return self.wanted and not self.values

    def clear(self) -> None:
        """A new fit."""
        self.values: dict[str, float] = {}
        """Measure → its value with random weights, undefined ones too."""
        self.missing = ""
        """Why there is none."""
        self.shuffled: tuple[str, ...] = ()
        """The parameters that nothing draws."""

    def attach(self, model: nn.Module) -> None:
        """Values of another model are forgotten."""
        model = model.get_submodule(self.of)
        if self._model is not None and self._model() is not model:
            self.clear()
        self._model = weakref.ref(model)

    @contextmanager
    def installed(self, model: nn.Module, name: str) -> Iterator[None]:
        """Within, the model has random weights; what nothing draws is told once, in the name of the callback."""
        with drawn_anew(model, self.seed, self.asked if callable(self.asked) else None) as shuffled:
            if shuffled and shuffled != self.shuffled:
                pl.utilities.rank_zero_warn(f"{name}: {told_of_shuffled(model, shuffled)} This is said once.")
            self.shuffled = shuffled
            yield

    def read(
        self, model: nn.Module, name: str, work: Callable[[], T], merge: Callable[[T], Collective[Mapping[str, float]]]
    ) -> Collective[None]:
        """Read it, where it has to be read still; where that fails on any rank and was not asked for, all go without.

        Args:
            model: What gets random weights.
            name: Of the callback, for messages.
            work: Reads on this rank, with random weights.
            merge: Makes values of what all ranks read, by measure; the model has its own weights again.

        Raises:
            Exception: What ``work`` failed with on this rank, where the baseline was asked for.

        """
        if not self.due:
            return
        found, failure = None, None
        try:
            # Weights that are drawn in inference mode could be no part of a graph.
            with torch.inference_mode(False), torch.no_grad(), self.installed(model, name):
                found = work()
        except Exception as error:
            if self.asked is not None:
                raise
            failure = error
        failed: Tensor = yield Maximum(torch.tensor(float(failure is not None)))
        if failed or found is None:
            self.give_up(failure or PeerError("another rank failed."), name)
        else:
            # Undefined ones too, so that it is not read again.
            self.values = dict((yield from merge(found)))

    def give_up(self, error: Exception, name: str) -> None:
        """Go on without one; it was not asked for.

        Raises:
            Exception: The error, where it was asked for.

        """
        if self.asked is not None:
            raise error
        self.missing = f"{type(error).__name__}: {error}"
        pl.utilities.rank_zero_warn(
            f"{name} reads without a baseline of random weights, since it failed: {self.missing} {REMEDY}"
        )

    def beside(self, values: Mapping[str, float], keys: Iterable[tuple[str, str, str]]) -> dict[str, float]:
        """The level with random weights and what training adds.

        Args:
            values: What was read.
            keys: Of each measure its key, and the keys of the level and of what is above it.

        """
        found: dict[str, float] = {}
        for key, level_key, above_key in keys if self.wanted else ():
            level = found[level_key] = self.values.get(key, math.nan)
            found[above_key] = values[key] - level
        return found

    def settings(self) -> Settings:
        """What readings were compared with."""
        found: Settings = {"baseline": self.wanted}
        if self.wanted and self.shuffled:
            found["baseline_shuffled"] = ", ".join(self.shuffled)
        return found

    def state_dict(self) -> dict[str, Any]:
        """The values, and what came of the weights."""
        return {"missing": self.missing, "shuffled": list(self.shuffled), "values": dict(self.values)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where a checkpoint left off."""
        self.missing, self.shuffled = state["missing"], tuple(state["shuffled"])
        self.values, self._model = dict(state["values"]), None


def beside_random(measures: Iterable[Measure], axes: Axes) -> list[tuple[str, str, str]]:
    """Of each measure that is also read with random weights its keys, and those of that level and of what is above it.

    Example:
        >>> beside_random([Measure("uuas", beside_random=True), Measure("distance_loss")], {"site": ["enc"]})
        [('uuas/enc', 'uuas_baseline/enc', 'uuas_above_baseline/enc')]

    """
    found = expanded([one for one in measures if one.beside_random], axes)
    return [(key, BASELINE.of(one).key(*at), ABOVE_BASELINE.of(one).key(*at)) for key, (one, at) in found.items()]
