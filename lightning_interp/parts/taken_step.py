"""A part: the optimizer step that follows a reading, and what it does to losses that are watched."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self, TypeAlias

import torch
from torch import Tensor, nn

from lightning_interp.distributed import Collective, Sums, over_ranks, settled
from lightning_interp.functional.optimizer_step import first_order_change
from lightning_interp.parts.loss_gradients import LossGradients, Sketches
from lightning_interp.reading.part import Part
from lightning_interp.reading.reading import Reading

__all__ = ["LossChange", "Losses", "TakenStep"]

Losses: TypeAlias = Callable[[], Iterable[tuple[int, Tensor, float]]]
"""Gives of each batch on this rank the place of the loss, its sum with a graph, and how many were summed."""

_SAME = 1e-12  # sums of the same weights may be added in another order


class LossChange(NamedTuple):
    """Of one loss, by one step."""

    first_order: float
    """Its gradient before the step times what the weights moved by."""
    measured: float


class _NotKnownError(RuntimeError):
    """Of this rank, and not worth a warning of its own."""


@dataclass(frozen=True, eq=False)
class _Before:
    """Q losses before the step; of this rank, then of all."""

    gradients: Tensor
    """Of their sums, then of their means, (Q, parameters), float64 on the CPU."""
    losses: Tensor
    """Sums, then means, (Q,)."""
    counts: Tensor
    weights: Tensor
    """(parameters,)."""
    again: Losses
    trainer: Any


class TakenStep(Part):
    r"""From a reading to the end of the next optimizer step: how losses change, to first order and measured.

    .. math:: \nabla L(\theta_t) \cdot (\theta_{t+1} - \theta_t) \quad\text{beside}\quad L(\theta_{t+1}) - L(\theta_t)

    Both are exact: no sketch would do, since most of a step has nothing to do with the gradient of another loss. The
    analysis calls :meth:`read` and :meth:`merged` while it reads, :meth:`wait` when the reading counts, :meth:`starts`
    before and :meth:`ends` after each training batch. In between the weights, a gradient for each loss and the examples
    are held. Where the training goes on from other weights than were read, as under weight averaging, nothing is known.

    Args:
        losses: Names of the losses.

    """

    attached = ("_read", "_offered", "_pending", "_awaited")

    def __init__(self, losses: Sequence[str]) -> None:
        self._names = list(losses)
        self._gradients = LossGradients(sys.maxsize)
        self.clear()

    def attach(self, model: nn.Module) -> None:
        """See that there is something to take gradients of."""
        self._gradients.attach(model)

    def detach(self) -> None:
        """The step after the last reading is not made."""
        self._gradients.detach()
        self._let_go()

    def clear(self) -> None:
        """A new fit."""
        self._let_go()
        self.found: dict[str, LossChange] = {}
        """What the step after the reading before did, by name of a loss; empty where it is not known."""

    def fresh(self) -> Self:
        """One with the same arguments that has read nothing yet."""
        found = super().fresh()
        found._gradients = self._gradients.fresh()
        return found

    def _let_go(self) -> None:
        self._read: _Before | None = None
        self._offered: _Before | None = None
        self._pending: _Before | None = None
        self._awaited: tuple[int, Any] | None = None
        self._started = False

    # ------------------------------------------------- reading

    def read(self, reading: Reading, losses: Losses) -> None:
        """Take losses and gradients on this rank; the losses can be taken again when the reading is over."""
        gradients: list[Tensor] = []

        def work(sketches: Sketches, sums: Tensor) -> None:
            into = sketches.zeros(len(self._names), 1)
            for place, loss, count in losses():
                sums[:, place] += sums.new_tensor([float(loss.detach()), count])
                if count:
                    sketches.add(loss, into[place])
            sketches.flush()
            gradients.append(into[:, 0].cpu().double())

        sums, counts = self._summed(reading.trainer, work)
        weights = self._weights(reading.trainer)
        self._read = _Before(gradients[0], sums, counts, weights, losses, reading.trainer)

    def merged(self) -> Collective[None]:
        """Bring together what ranks read; from now on it waits for a step, once the reading counts."""
        own, self._read = self._read, None
        assert own is not None
        found: list[Tensor] = yield Sums([own.gradients, own.losses, own.counts])
        gradients, losses, counts = found
        means = gradients / counts[:, None], losses / counts, counts
        self._offered = _Before(*means, own.weights, own.again, own.trainer)

    def wait(self, reading: Reading) -> None:
        """The reading counts, with what the step before did: wait for the next one, on all ranks or on none."""
        assert reading.step is not None
        offered, self.found = self._offered, {}
        self._let_go()
        self._pending, self._awaited = offered, (reading.step, reading.group)

    def forget(self) -> None:
        """The reading is over, or given up."""
        self._read = self._offered = None

    # ------------------------------------------------- training

    @property
    def waits(self) -> bool:
        """Whether a step is waited for: the same on all ranks."""
        return self._awaited is not None

    def starts(self) -> None:
        """A training batch starts: see that it starts from the weights that were read."""
        if self._started:
            return
        self._started, before, self._pending = True, self._pending, None
        if before is not None:
            away = self._weights(before.trainer).sub_(before.weights)
            if float(away.norm()) <= _SAME * float(before.weights.norm()):
                self._pending = before

    def ends(self, step: int) -> None:
        """A training batch is over, with this many optimizer steps; called on all ranks, or on none."""
        if self._awaited is None or step == self._awaited[0]:
            return
        before, group, error, found = self._pending, self._awaited[1], None, {}
        self._let_go()
        try:
            if before is None:
                raise _NotKnownError("The step did not start from what was read.")
            found = over_ranks(self._compare(before), group)
        except Exception as raised:
            error = raised
        if settled(error, group):
            self.found = found
        elif error is not None and not isinstance(error, _NotKnownError):
            raise error

    def _compare(self, before: _Before) -> Collective[dict[str, LossChange]]:
        def work(sketches: Sketches, sums: Tensor) -> None:
            for place, loss, count in before.again():
                sums[:, place] += sums.new_tensor([float(loss.detach()), count])

        moved_by = before.weights - self._weights(before.trainer)
        own = self._summed(before.trainer, work)
        found: list[Tensor] = yield Sums(list(own))
        measured = (found[0] / found[1] - before.losses).tolist()
        firsts = [first_order_change(gradient, moved_by) for gradient in before.gradients]
        return dict(zip(self._names, map(LossChange, firsts, measured), strict=True))

    def _summed(self, trainer: Any, work: Callable[[Sketches, Tensor], None]) -> tuple[Tensor, Tensor]:
        sums = torch.zeros(2, len(self._names), dtype=torch.float64)
        self._gradients.run(trainer, lambda sketches: work(sketches, sums))
        return sums[0], sums[1]

    def _weights(self, trainer: Any) -> Tensor:
        """All that is trained, one after another, float64 on the CPU."""
        found: list[Tensor] = []
        self._gradients.run(trainer, lambda sketches: found.append(sketches.weights().cpu().double()))
        return found[0]

    # ------------------------------------------------- state

    def state_dict(self) -> dict[str, Any]:
        """What a step did that is over; one that is waited for is lost."""
        return {name: list(one) for name, one in self.found.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where a checkpoint left off."""
        self.found = {name: LossChange(*map(float, one)) for name, one in state.items()}
