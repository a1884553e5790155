"""Geometry of a stream of representations from its second moments."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lightning_interp.distributed import Collective, Maximum, Sum
from lightning_interp.functional._numerics import full_precision, power_of_two, wide_dtype
from lightning_interp.functional.spectral import anisotropy, curvature_sums, spectral_measures
from lightning_interp.metrics.base import RepresentationMetric, batch_shape, sample_of
from lightning_interp.metrics.measure import Measure
from lightning_interp.metrics.measures.geometry import GEOMETRY

__all__ = ["SpectralGeometry"]


class SpectralGeometry(RepresentationMetric):
    r"""RankMe, effective rank, participation ratio, matrix entropy, α-ReQ, anisotropy and curvature.

    Formulas and sources: :func:`~lightning_interp.functional.spectral_measures`,
    :func:`~lightning_interp.functional.anisotropy`, :func:`~lightning_interp.functional.curvature_sums`. Kept between
    batches: count, mean and centred second moment, merged pairwise in float64 (Chan et al. 1979), so that a mean far
    from zero costs no digits. Vectors of any size are summed, after scaling by a power of two. Memory: 8·D² bytes,
    whatever the number of rows.

    Above ``thin_above`` dimensions only one position in k = ⌈D / thin_above⌉ enters the spectrum and the anisotropy,
    which one being decided by the sample's place in the data set, so that the cost of the products grows with D and not
    with D². Curvature takes all positions. ``rows`` counts what entered the spectrum.

    Args:
        center: Whether the mean is taken out. ``None`` is as published: RankMe and matrix entropy of the vectors
            themselves, effective rank, participation ratio and α of their covariance. ``True``: all of the covariance.
            ``False``: all of the second moment about zero.
        thin_above: Dimensions above which rows are thinned; ``None`` never does.
        kwargs: Further arguments of ``torchmetrics.Metric``.

    Example:
        >>> metric = SpectralGeometry()
        >>> metric.update(torch.eye(4).repeat(2, 1) - 0.25)
        >>> round(float(metric.compute()["participation_ratio"]), 3)
        3.0

    """

    needs: tuple[str, ...] = ()
    count: Tensor
    mean: Tensor
    scatter: Tensor
    unit_total: Tensor
    directions: Tensor
    angle: Tensor
    angles: Tensor

    def __init__(self, center: bool | None = None, thin_above: int | None = 2048, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if thin_above is not None and thin_above < 1:
            raise ValueError(f"`thin_above` must be at least 1, or None for no thinning, got {thin_above}.")
        self.center = center
        self.thin_above = thin_above
        for state in ("count", "mean", "scatter", "unit_total", "directions", "angle", "angles"):
            self.add_state(state, torch.zeros(0), dist_reduce_fx=None)

    def declares(self) -> list[Measure]:
        """What ``compute`` gives of the site."""
        return list(GEOMETRY)

    def update(
        self,
        representations: Tensor,
        mask: Tensor | None = None,
        labels: Tensor | Mapping[str, Tensor] | None = None,
        positions: Tensor | None = None,
    ) -> None:
        """Take in one batch.

        Args:
            representations: Vectors, shape (B, T, D) or (N, D); curvature needs sequences.
            mask: Which positions count, (B, T); all by default.
            labels: Not used.
            positions: Not used: sums do not depend on order.

        Raises:
            ValueError: If shapes do not fit.

        """
        rows = self._rows(representations, mask, positions)
        wide = wide_dtype(rows.z.device)
        shape = batch_shape(representations)
        dim = rows.z.shape[1]
        whole = rows.z.float() if rows.z.dtype != torch.float64 else rows.z
        # On a device nothing is read back: what does not count is set to zero whether there is any or not.
        some = whole.device.type != "cpu" or not bool(rows.valid.all())
        whole = whole.masked_fill(~rows.valid[:, None], 0) if some else whole
        angle, angles = curvature_sums(whole.view(*shape, dim), rows.valid.view(shape))
        z, valid = self._thinned(whole.view(*shape, dim), rows.valid.view(shape), sample_of(rows.key).view(shape))
        some |= self._every(dim) > 1
        left_out = ~valid[:, None]
        number = valid.to(wide).sum()
        scale = self._scale(z)
        z = z if scale is None else z * scale
        # The shift need not be the mean to the last digit: what is left over is known, and belongs to the scatter.
        shift = z.sum(0) / number.clamp_min(1).to(z.dtype)
        centred = z - shift
        centred = centred.masked_fill_(left_out, 0) if some else centred
        norm = torch.linalg.vector_norm(z, dim=-1)
        # A zero vector has no direction.
        inverse = torch.where(norm > 0, norm.clamp_min(torch.finfo(z.dtype).tiny).reciprocal(), 0.0)
        with full_precision(z.device):
            scatter = (centred.T @ centred).to(wide)
        left = centred.sum(0).to(wide) / number.clamp_min(1)
        mean = shift.to(wide) + left
        scatter = scatter - number * torch.outer(left, left)
        if scale is not None:
            back = scale.to(wide).reciprocal()
            mean, scatter = mean * back, scatter * back * back
        if self.mean.numel() == 0:
            for state, size in (("count", ()), ("mean", (dim,)), ("scatter", (dim, dim)), ("unit_total", (dim,))):
                setattr(self, state, torch.zeros(size, dtype=wide, device=z.device))
            self.angle = self.angles = self.directions = torch.zeros((), dtype=wide, device=z.device)
        merged = self.count + number
        delta = mean - self.mean
        share = number / merged.clamp_min(1)
        self.scatter = self.scatter + scatter + torch.outer(delta, delta) * (self.count * share)
        self.mean = self.mean + delta * share
        self.count = merged
        # A sum adds pairwise; a product with the lengths would add one after the other and round as often.
        self.unit_total = self.unit_total + (z * inverse[:, None]).sum(0).to(wide)
        self.directions = self.directions + (norm > 0).sum().to(wide)
        self.angle, self.angles = self.angle + angle, self.angles + angles

    @staticmethod
    def _scale(z: Tensor) -> Tensor | None:
        """A power of two that keeps squares and their sums within float32; ``None`` where none is needed."""
        if not z.numel():
            return None
        largest = torch.linalg.vector_norm(z.flatten(), ord=torch.inf)
        if z.device.type == "cpu" and (1e-9 < float(largest) < 1e9 or not largest):
            return None
        return power_of_two(largest)

    def _every(self, dim: int) -> int:
        """One position in so many enters the spectrum."""
        return 1 if self.thin_above is None else -(-dim // self.thin_above)

    def _thinned(self, z: Tensor, valid: Tensor, sample: Tensor) -> tuple[Tensor, Tensor]:
        """The rows that enter the spectrum, (R, D) with zeros for those that do not count, and which do."""
        length, dim = z.shape[1:]
        every = self._every(dim)
        if every == 1:
            return z.flatten(0, 1), valid.flatten()
        # As many places for every sample, some of them past its end: no shape depends on values.
        place = sample[:, :1] % every + torch.arange(0, length, every, device=z.device)
        inside = place < length
        place = place.clamp_max(length - 1)
        chosen = valid.gather(1, place) & inside
        rows = z.gather(1, place[..., None].expand(-1, -1, dim))
        return rows.masked_fill(~chosen[..., None], 0).flatten(0, 1), chosen.flatten()

    def merge(self) -> Collective[dict[str, Tensor]]:
        """Sums over ranks, the scatter about the common mean, then one eigendecomposition."""
        nonfinite = yield from self._merged_nonfinite()
        width: Tensor = yield Maximum(torch.tensor(self.mean.numel()))
        dim = int(width)
        if dim == 0:
            empty = {key: torch.tensor(math.nan) for key in self.measures}
            return empty | {"rows": torch.tensor(0.0), "nonfinite": nonfinite.double().cpu()}
        if self.mean.numel():
            count, mean, scatter, unit = self.count, self.mean, self.scatter, self.unit_total
            angle, angles, directions = self.angle, self.angles, self.directions
        else:
            # A rank that saw nothing adds nothing.
            count, angle, angles, directions = (torch.zeros((), dtype=torch.float64) for _ in range(4))
            mean, unit = (torch.zeros(dim, dtype=torch.float64) for _ in range(2))
            scatter = torch.zeros(dim, dim, dtype=torch.float64)
        number: Tensor = yield Sum(count)
        total: Tensor = yield Sum(count * mean)
        centre = total / number.clamp_min(1)
        delta = mean - centre
        whole: Tensor = yield Sum(scatter + count * torch.outer(delta, delta))
        unit_total: Tensor = yield Sum(unit)
        sums: Tensor = yield Sum(torch.stack([angle, angles, directions]))
        covariance = whole / number
        # A spread below the rounding of the vectors themselves is none.
        rounding = torch.finfo(torch.float32).eps ** 2 * (centre @ centre)
        covariance = torch.where(covariance.trace() > rounding, covariance, 0.0)
        covariance = covariance if number > 0 else torch.zeros_like(covariance)
        about_zero = (covariance + torch.outer(centre, centre)).cpu()
        rows = int(number)
        if self.center is False:
            found = spectral_measures(about_zero, rows)._asdict()
        else:
            found = spectral_measures(covariance.cpu(), rows, centred=True)._asdict()
        if self.center is None:
            own = spectral_measures(about_zero, rows)
            found |= {"rankme": own.rankme, "matrix_entropy": own.matrix_entropy}
        values = {
            **found,
            "anisotropy": anisotropy(unit_total, sums[2]).cpu(),
            "curvature": (sums[0] / sums[1]).cpu(),
            "rows": number.cpu(),
            "nonfinite": nonfinite.double().cpu(),
        }
        return {key: values[key] for key in self.measures}
