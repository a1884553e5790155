"""Structure of representations by the dimension-wise binned estimator."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from lightning_interp.distributed import Collective, Maximum, Minimum
from lightning_interp.functional._numerics import wide_dtype
from lightning_interp.functional.binned import bin_indices, check_bins
from lightning_interp.metrics._codes import BinCodes, Codes, settle_width
from lightning_interp.metrics.structure import StructureMetric

__all__ = ["BinnedStructure"]


class BinnedStructure(StructureMetric):
    r"""Structure by the dimension-wise binned estimator of Conklin & Smith 2024.

    Each dimension is cut into ``bins`` bins of equal width over the minimum and maximum of the whole reading and all
    ranks; entropies are averaged over dimensions and divided by log ``bins``. Keys carry the prefix ``binned_``.
    Min–max ranges widen with the number of rows, so readings compare only at equal numbers (``rows``).
    Memory: (4·D + 8·(1 + labels a row)) bytes a row (2·D for half precision).

    Args:
        labels: See :class:`StructureMetric`, as for all arguments that are not named here.
        bins: Number of bins, 2 to 256.
        correction: ``"miller_madow"`` corrects the entropies for small samples.
        bounds: Ends (lower, upper) of the outer bins in place of minimum and maximum.
        kwargs: The other arguments of :class:`StructureMetric`.

    Example:
        >>> import torch
        >>> metric = BinnedStructure(bins=4)
        >>> metric.update(torch.linspace(0, 1, 100)[:, None])
        >>> round(float(metric.compute()["binned_information"]), 4)
        1.0

    """

    prefix = "binned_"

    def __init__(
        self,
        labels: Sequence[str] = (),
        bins: int = 20,
        correction: str | None = None,
        bounds: tuple[float, float] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(labels, **kwargs)
        check_bins(bins, correction)
        if bounds is not None and not bounds[0] <= bounds[1]:
            raise ValueError(f"`bounds` must be (lower, upper) with lower ≤ upper, got {bounds}.")
        self.bins = bins
        self.correction = correction
        self.bounds = bounds

    @property
    def _correction(self) -> str | None:
        return self.correction

    def _encode(self, z: Tensor, norm: Tensor) -> Tensor:
        return z

    def _codes(self, payload: Tensor) -> Collective[Codes]:
        payload = yield from settle_width(payload)
        dim = payload.shape[1]
        if self.bounds is not None:
            lower, upper = (payload.new_full((dim,), bound, dtype=wide_dtype(payload.device)) for bound in self.bounds)
        else:
            wide = wide_dtype(payload.device)
            empty = len(payload) == 0
            low = payload.new_full((dim,), math.inf, dtype=wide) if empty else payload.amin(0).to(wide)
            high = payload.new_full((dim,), -math.inf, dtype=wide) if empty else payload.amax(0).to(wide)
            lower = yield Minimum(low)
            upper = yield Maximum(high)
        return BinCodes(bin_indices(payload, self.bins, lower, upper), self.bins)
