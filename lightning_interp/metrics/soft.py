"""Structure of representations by the soft estimator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_interp.distributed import Collective, Sum
from lightning_interp.functional._numerics import wide_dtype
from lightning_interp.functional.soft import assigned, reference_points, vmf_temperature
from lightning_interp.metrics._codes import Codes, SoftCodes, settle_width
from lightning_interp.metrics.measure import Measure
from lightning_interp.metrics.measures.structure import FLOOR
from lightning_interp.metrics.structure import StructureMetric

__all__ = ["SoftStructure"]


class SoftStructure(StructureMetric):
    r"""Structure by the soft estimator: the default of this package.

    Rows are assigned to fixed points on the sphere (:func:`~lightning_interp.functional.soft_assignment`); entropies
    are of mean assignments (Conklin 2025), divided by log n. Memory: (4·n + 8·(1 + labels a row)) bytes a row.

    Args:
        labels: See :class:`StructureMetric`, as for all arguments that are not named here.
        num_points: Number n of reference points.
        temperature: Of the assignment; by default :func:`~lightning_interp.functional.vmf_temperature`.
        center: Subtract the mean representation of the reading first. Keeps the vectors themselves until the end:
            (4·D) bytes a row instead of (4·n).
        floor_corrected: Subtract from information and variation the mean entropy that single rows have; regularity and
            disentanglement stay as they are. ``floor`` is reported either way.
        kwargs: The other arguments of :class:`StructureMetric`.

    Example:
        >>> z = torch.eye(8).repeat(6, 1)
        >>> metric = SoftStructure(labels=["word"], shuffles=0)
        >>> metric.update(z, labels=torch.arange(8).repeat(6))
        >>> values = metric.compute()
        >>> float(values["variation/word"]) < float(values["information"])
        True

    """

    def __init__(
        self,
        labels: Sequence[str] = (),
        num_points: int = 100,
        temperature: float | None = None,
        center: bool = False,
        floor_corrected: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(labels, **kwargs)
        if num_points < 2:
            raise ValueError(f"`num_points` must be at least 2, got {num_points}.")
        if temperature is not None and temperature <= 0:
            raise ValueError(f"`temperature` must be positive, got {temperature}.")
        self.num_points = num_points
        self.temperature = temperature
        self.center = center
        self.floor_corrected = floor_corrected
        self._points: dict[tuple[int, torch.device], Tensor] = {}

    def _extra_measures(self) -> list[Measure]:
        return [FLOOR]

    def _encode(self, z: Tensor, norm: Tensor) -> Tensor:
        return z.float() if self.center else self._assign(z, norm)

    def _assign(self, z: Tensor, norm: Tensor | None = None) -> Tensor:
        if not len(z):
            return torch.zeros(0, self.num_points, device=z.device)
        dim = z.shape[1]
        place = (dim, z.device)
        if place not in self._points:
            self._points[place] = reference_points(self.num_points, dim, self.seed).to(z.device)
        temperature = self.temperature or vmf_temperature(dim, self.num_points)
        return assigned(z, self._points[place], temperature, norm).float()

    def _codes(self, payload: Tensor) -> Collective[Codes]:
        if not self.center:
            return SoftCodes(payload if payload.numel() else torch.zeros(0, self.num_points, device=payload.device))
        payload = yield from settle_width(payload)
        wide = wide_dtype(payload.device)
        total: Tensor = yield Sum(payload.sum(0, dtype=wide))
        count: Tensor = yield Sum(torch.tensor(float(len(payload))))
        mean = (total / count.to(total.device).clamp_min(1)).to(payload.dtype)
        return SoftCodes(self._assign(payload - mean))
