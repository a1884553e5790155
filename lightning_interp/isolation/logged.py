"""What a LightningModule logs, taken in without logging it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from lightning_interp.compat import pl
from lightning_interp.functional._numerics import wide_dtype

__all__ = ["LoggedValues", "LoggedValue"]

_REDUCTIONS = {"mean": "mean", "avg": "mean", "sum": "sum", "max": "max", "min": "min"}


@dataclass
class LoggedValue:
    """One name's values over an epoch."""

    reduction: str
    """``"mean"``, ``"sum"``, ``"max"``, ``"min"`` or ``"metric"``."""
    total: Tensor | None = None
    """Of plain values: their weighted sum, or their extreme."""
    weight: float = 0.0
    """Of means: the sum of batch sizes."""
    metric: Metric | None = None


class LoggedValues:
    """The values that calls of ``log`` give over an epoch, by Lightning's own rules.

    A plain number counts with its batch size (``batch_size=``, else the one that Lightning finds in the batch), or by
    its ``reduce_fx``. A ``torchmetrics.Metric`` is remembered, to be computed at the end. What is logged for the step
    alone (``on_epoch=False``) has no value for the epoch.

    Example:
        >>> logged = LoggedValues()
        >>> for loss, size in ((1.0, 3), (2.0, 1)):
        ...     logged.collector(batch=torch.zeros(size))("val_loss", loss)
        >>> entry = logged.entries["val_loss"]
        >>> float(entry.total / entry.weight)
        1.25

    """

    def __init__(self) -> None:
        self.entries: dict[str, LoggedValue] = {}
        self.step_only: set[str] = set()

    def collector(self, batch: Any = None) -> Callable[..., None]:
        """A function to stand in for ``log`` while a step runs on this batch, or an epoch-end hook without one."""
        size: list[int] = []

        def log(
            name: str,
            value: Any,
            prog_bar: bool = False,
            logger: bool | None = None,
            on_step: bool | None = None,
            on_epoch: bool | None = None,
            reduce_fx: Any = "mean",
            enable_graph: bool = False,
            sync_dist: bool = False,
            sync_dist_group: Any = None,
            add_dataloader_idx: bool = True,
            batch_size: int | None = None,
            metric_attribute: str | None = None,
            rank_zero_only: bool = False,
        ) -> None:
            if on_epoch is False:
                self.step_only.add(name)
                return
            if isinstance(value, Metric):
                self._entry(name, "metric").metric = value
                return
            if batch_size is None:
                if not size:
                    size.append(1 if batch is None else pl.utilities.data.extract_batch_size(batch))
                batch_size = size[0]
            self._add(name, torch.as_tensor(value).detach(), reduce_fx, batch_size)

        return log

    def _add(self, name: str, value: Tensor, reduce_fx: Any, batch_size: int) -> None:
        asked = reduce_fx if isinstance(reduce_fx, str) else getattr(reduce_fx, "__name__", repr(reduce_fx))
        reduction = _REDUCTIONS.get(asked.lower())
        if reduction is None:
            raise ValueError(f"`log({name!r}, reduce_fx={asked})` is not one of {sorted(set(_REDUCTIONS.values()))}.")
        value = value.to(wide_dtype(value.device)).reshape(())
        entry = self._entry(name, reduction)
        if reduction == "mean":
            value = value * batch_size
            entry.weight += batch_size
        if entry.total is None:
            entry.total = value
        elif reduction in ("mean", "sum"):
            entry.total = entry.total + value
        else:
            entry.total = torch.maximum(entry.total, value) if reduction == "max" else entry.total.minimum(value)

    def _entry(self, name: str, reduction: str) -> LoggedValue:
        entry = self.entries.setdefault(name, LoggedValue(reduction))
        if entry.reduction != reduction:
            raise ValueError(f"{name!r} is logged both as {entry.reduction!r} and as {reduction!r}.")
        return entry
