"""A part: the losses of a language model on the text of a validation run, by position."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lightning_interp.batches.reader import ReadBatch
from lightning_interp.distributed import Collective, Maximum, Sums
from lightning_interp.functional.induction import loss_by_position
from lightning_interp.isolation.seen import Seen
from lightning_interp.language.id_range import check_predicted
from lightning_interp.language.likelihood import logits_in
from lightning_interp.reading.part import Part
from lightning_interp.reading.reading import Reading
from lightning_interp.sites.eager_stance import EagerStance
from lightning_interp.sites.recorder import CaptureError
from lightning_interp.tasks.loading import find_language_model

__all__ = ["TextLosses"]


class TextLosses(Part):
    """Sums of next-token losses by position, from the logits that the validation run computes.

    Args:
        model: Dotted name of the language model in the module; ``""`` for the module itself.
        least: Texts of at least so many tokens are read, so that early and late positions are of the same ones.

    Raises:
        ValueError: When attached, if the name matches nothing.

    """

    reads_batches = True
    attached = ("_module",)

    def __init__(self, model: str = "", least: int = 2) -> None:
        self.name, self.least = model, least
        self._module: nn.Module | None = None
        self._handle: RemovableHandle | None = None
        self._stance = EagerStance()
        self._error: Exception | None = None
        self.forget()

    def attach(self, model: nn.Module) -> None:
        """Find the language model."""
        self._module = find_language_model(self.name, model)

    def detach(self) -> None:
        """Let go of the model."""
        self._stop()
        self._module = None

    def begin(self, reading: Reading) -> None:
        """A reading starts."""
        self.forget()

    def forget(self) -> None:
        """The reading is over, or given up."""
        self._stop()
        self._sums = torch.zeros(2, 0, dtype=torch.float64)

    def read(self, seen: Seen, words: ReadBatch) -> None:
        """Read the losses of the batch that is about to go through the model, until :meth:`after_batch`.

        Raises:
            ValueError: If the batch does not say its token ids, or which of them are padding.

        """
        assert self._module is not None
        ids, mask = words.text()
        self._stop()
        self._error, runs = None, 0

        def take(module: nn.Module, args: Any, output: Any) -> None:
            nonlocal runs
            runs += 1
            if runs > 1:
                return
            try:
                self._take(logits_in(output, ids), seen, ids, mask)
            except Exception as error:  # it is the reading's, not the model's
                self._error = error

        self._runs: Callable[[], int] = lambda: runs
        self._handle = self._module.register_forward_hook(take)
        self._stance.begin()

    def _take(self, logits: Tensor, seen: Seen, ids: Tensor, mask: Tensor) -> None:
        here = logits.device
        ids, mask = ids.to(here), mask.to(here)
        logits, ids, mask = (seen.selection.of(one) for one in (logits, ids, mask))
        check_predicted(ids, logits, self.name)
        long_enough = mask & (mask.sum(1, keepdim=True) >= self.least)
        with torch.no_grad(), torch.autocast(here.type, enabled=False):
            found = torch.stack(loss_by_position(logits.detach(), ids, long_enough)).double().cpu()
        self._sums = _added(self._sums, found)

    def after_batch(self, seen: Seen) -> None:
        """It went through."""
        runs = self._runs()
        self._stop()
        if self._error is not None:
            raise self._error
        if not runs:
            raise CaptureError(
                f"the language model {self.name!r} was not called in the validation step: name the module that is, "
                "with `model`"
            )

    def _stop(self) -> None:
        if self._handle is not None:
            self._handle.remove()
        self._handle = None
        self._stance.end()

    def merge(self) -> Collective[tuple[Tensor, Tensor]]:
        """Sums of losses in nats and their numbers by position, float64 (T − 1,) each, over all ranks."""
        length: Tensor = yield Maximum(torch.tensor(self._sums.shape[1]))
        (sums,) = yield Sums([_added(self._sums, torch.zeros(2, int(length), dtype=torch.float64))])
        return sums[0], sums[1]


def _added(one: Tensor, other: Tensor) -> Tensor:
    """The sum of two (2, ·), the shorter of which goes on with 0."""
    short, long = (one, other) if one.shape[1] < other.shape[1] else (other, one)
    found = long.clone()
    found[:, : short.shape[1]] += short
    return found
