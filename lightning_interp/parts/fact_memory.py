"""A part: what facts were at the first reading of a fit and at their best, for what is compared with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lightning_interp.functional.fact_tracking import add_decay, retainability, retention_decay
from lightning_interp.reading.part import Part
from lightning_interp.reading.reading import Reading

__all__ = ["FactMemory"]


class FactMemory(Part):
    """Keeps the first reading of a fit and, of each fact, the most that its answer's log-probability has been.

    A reading hands in what it found (:meth:`take`), asks, and is remembered once it counts. What is kept survives
    resuming; it is that of the same facts and texts only, and of others it starts anew.

    Example:
        >>> from torch import nn
        >>> memory = FactMemory()
        >>> for step, log_prob in ((10, -3.0), (20, -1.0), (30, -2.0)):
        ...     memory.take(b"", {}, torch.tensor([log_prob]), step)
        ...     memory.commit(Reading(nn.Identity(), step))
        >>> memory.gain, memory.retained
        (tensor([2.], dtype=torch.float64), tensor([0.5000], dtype=torch.float64))

    """

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """A new fit."""
        self._kept: dict[str, Any] = {}
        self.forget()

    def forget(self) -> None:
        """The reading is over, or given up."""
        self._next: dict[str, Any] = {}
        self.now = torch.zeros(0)

    def take(self, digest: bytes, answers: Mapping[str, Tensor], log_probs: Tensor, step: int | None) -> None:
        """What the present reading has found.

        Args:
            digest: What tells facts and texts from others.
            answers: By name what is compared with the first reading.
            log_probs: Of the answer of each fact, (N,).
            step: The optimizer step, where there is one.

        """
        now, at = log_probs.double(), -1 if step is None else step
        kept = self._kept if self._kept.get("digest") == digest.hex() else {}
        if not kept:
            kept = {
                "digest": digest.hex(),
                "start": {name: one.clone() for name, one in answers.items()},
                "before": now,
                "best": now,
                "steps": torch.full(now.shape, at),
                "sums": torch.zeros(len(now), 5, dtype=torch.float64),
            }
        better = now > kept["best"]
        best, steps = torch.where(better, now, kept["best"]), torch.where(better, at, kept["steps"])
        retained = retainability(now, kept["before"], best)
        sums = kept["sums"].masked_fill(better[:, None], 0.0)
        self._next = {**kept, "best": best, "steps": steps, "sums": add_decay(sums, retained, at - steps)}
        self.now = now

    @property
    def start(self) -> Mapping[str, Tensor]:
        """What was found at the first reading, by name; the present one where it is the first."""
        found: Mapping[str, Tensor] = self._next["start"]
        return found

    @property
    def gain(self) -> Tensor:
        """Most that the log-probability of each answer has been, less that of the first reading, (N,)."""
        found: Tensor = self._next["best"] - self._next["before"]
        return found

    @property
    def retained(self) -> Tensor:
        """What is left of that, as a share, (N,); NaN where a fact has gained too little."""
        return retainability(self.now, self._next["before"], self._next["best"])

    @property
    def decay(self) -> Tensor:
        """What is lost of it each time that the steps since it was most grow by a factor e, (N,)."""
        return retention_decay(self._next["sums"])

    def commit(self, reading: Reading) -> None:
        """Remember what the reading found."""
        if self._next:
            self._kept = self._next

    def state_dict(self) -> dict[str, Any]:
        """What is kept."""
        return dict(self._kept)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where a checkpoint left off."""
        self._kept = dict(state)
