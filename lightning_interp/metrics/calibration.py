"""Calibration of a stream of predictions: exact sums over bins, and a bounded sample for what needs an order."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_interp.distributed import Collective, Sum, Sums, rank_in, world_size
from lightning_interp.functional._numerics import wide_dtype
from lightning_interp.functional.auroc import auroc, auroc_chance_sd
from lightning_interp.functional.calibration import (
    CalibrationBins,
    adaptive_calibration_error,
    area_under_risk_coverage,
    calibration_bins,
    expected_calibration_error,
    permuted_calibration_error,
    selective_accuracy,
)
from lightning_interp.metrics.base import RepresentationMetric, row_keys
from lightning_interp.metrics.derived import CONTROL, SPREAD
from lightning_interp.metrics.keyed_rows import KeyedRows
from lightning_interp.metrics.measure import Axes, Measure
from lightning_interp.metrics.measures.calibration import AUROC_CONFIDENCE, CALIBRATION, ECE
from lightning_interp.metrics.measures.geometry import NONFINITE

__all__ = ["ConfidenceMetric"]

_CURVE = 100
# Log-odds of confidences are compared to this many steps a nat: rounding within a batch decides no order.
_STEPS = 1024
# Rounding may take a probability a little above 1.
_OUTSIDE = 1e-3


class ConfidenceMetric(RepresentationMetric):
    r"""Calibration error, Brier score and selective accuracy of predictions with a confidence.

    Formulas and sources: :mod:`lightning_interp.functional.calibration`, :func:`~lightning_interp.functional.auroc`.
    ECE, Brier score, accuracy and over-confidence are sums over all predictions. Adaptive ECE, AUROC and selective
    accuracy need an order: they are of at most ``max_rows`` predictions, chosen by a hash of their place in the data,
    so that they are the same on any number of ranks and at every reading. Confidences whose log-odds agree to a
    thousandth count as equal.

    Args:
        bins: Bins of both calibration errors.
        coverages: Shares of predictions at which selective accuracy is given, above 0 and below 1.
        max_rows: Predictions that are kept for what needs an order.
        seed: Of their choice.
        kwargs: Further arguments of ``torchmetrics.Metric``.

    Raises:
        ValueError: If an argument is out of range.

    Cost: per batch a product (3, N) × (N, bins); memory 40 · ``max_rows`` bytes. Between ranks: that.

    Example:
        >>> metric = ConfidenceMetric()
        >>> metric.update(torch.tensor([0.9, 0.8, 0.9, 0.6]), torch.tensor([1, 1, 1, 0]))
        >>> found = metric.compute()
        >>> round(float(found["ece"]), 3), round(float(found["overconfidence"]), 3), float(found["auroc_confidence"])
        (0.25, 0.05, 1.0)

    """

    sums: Tensor
    scores: Tensor

    def __init__(
        self,
        bins: int = 15,
        coverages: Sequence[float] = (0.5, 0.8, 0.9),
        max_rows: int = 10_000,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        for name, value in (("bins", bins), ("max_rows", max_rows)):
            if value < 1:
                raise ValueError(f"`{name}` must be at least 1, got {value}.")
        wrong = [share for share in coverages if not 0 < share < 1]
        if wrong:
            raise ValueError(f"`coverages` must lie between 0 and 1, got {wrong[0]}.")
        if len({f"{share:g}" for share in coverages}) < len(coverages):
            raise ValueError(f"`coverages` has one of its shares twice: {list(coverages)}.")
        self.bins = bins
        self.coverages = tuple(coverages)
        self.max_rows = max_rows
        self.seed = seed
        self.reliability: CalibrationBins | None = None
        """Sums over bins of equal width, after ``compute``."""
        self.curve: Tensor | None = None
        """Selective accuracy at 1 %, 2 %, … 100 % of the predictions kept, after ``compute``."""
        self._kept = KeyedRows(max_rows, (torch.float32,), seed)
        self._arrived = 0
        self.add_state("sums", torch.zeros(0), dist_reduce_fx=None)
        self.add_state("scores", torch.zeros(0), dist_reduce_fx=None)

    def declares(self) -> list[Measure]:
        """What ``compute`` gives, of the site and of shares of the predictions."""
        return [*CALIBRATION, CONTROL.of(ECE), SPREAD.of(AUROC_CONFIDENCE), NONFINITE]

    @property
    def axes(self) -> Axes:
        """The shares of the predictions."""
        return {"share": [f"{share:g}" for share in self.coverages]}

    def update(
        self,
        confidence: Tensor,
        correct: Tensor,
        brier: Tensor | None = None,
        mask: Tensor | None = None,
        positions: Tensor | None = None,
        nonfinite: Tensor | None = None,
    ) -> None:
        """Take in one batch; nothing is read back from the device.

        Args:
            confidence: 0 to 1, per sample (B,) or per position (B, T). What is not finite is left out and counted.
            correct: Whether each is right, of that shape.
            brier: Brier score of each; ``(confidence - correct)²`` by default.
            mask: Which of them count; all by default.
            positions: Place of each sample in the data set, (B,); order of arrival by default.
            nonfinite: How many were left out before, ().

        Raises:
            ValueError: If shapes do not fit. A confidence beyond 0 to 1 is told by ``compute``.

        """
        shape = tuple(confidence.shape)
        given = {"correct": correct, "brier": brier, "mask": mask}
        wrong = {name: tuple(one.shape) for name, one in given.items() if one is not None and tuple(one.shape) != shape}
        if len(shape) not in (1, 2) or wrong:
            raise ValueError(f"`confidence` must be (B,) or (B, T), and all of its shape; got {shape} and {wrong}.")
        device = confidence.device
        if positions is None:
            step, rank = world_size(self.process_group), rank_in(self.process_group)
            positions = (torch.arange(shape[0]) + self._arrived) * step + rank
        elif positions.shape != shape[:1]:
            raise ValueError(f"`positions` {tuple(positions.shape)} must have one entry per sample, {shape[0]} here.")
        self._arrived += shape[0]
        columns = shape[1] if len(shape) == 2 else 1
        keys = row_keys(positions.to(device), columns).flatten()
        value = confidence.detach().flatten().float()
        context = torch.ones_like(value, dtype=torch.bool) if mask is None else mask.flatten().to(device).bool()
        counted = context & value.isfinite()
        value = value.masked_fill(~counted, 0)
        right = correct.detach().flatten().to(device, torch.float32)
        loss = (value - right).square() if brier is None else brier.detach().flatten().float()
        wide = wide_dtype(device)
        found = torch.stack(calibration_bins(value, right, self.bins, counted))
        total = loss.masked_fill(~counted, 0).to(wide).sum()
        first = self.sums.numel() == 0
        self.sums = found if first else self.sums + found
        self.scores = total[None] if first else self.scores + total
        omitted = (context & ~counted).sum() + (0 if nonfinite is None else nonfinite)
        self.nonfinite = self.nonfinite.to(device) + omitted
        self._kept.add(keys, counted, [torch.stack([value, right], 1)])

    def reset(self) -> None:
        """Forget all batches."""
        super().reset()
        self.reliability = self.curve = None
        self._arrived = 0
        self._kept.clear()

    def merge(self) -> Collective[dict[str, Tensor]]:
        """Sums over ranks, then what needs an order."""
        empty = self.sums.numel() == 0
        sums = torch.zeros(3, self.bins, dtype=torch.float64) if empty else self.sums.cpu().double()
        score = torch.zeros(1, dtype=torch.float64) if empty else self.scores.cpu().double()
        merged: list[Tensor] = yield Sums([sums, score])
        nonfinite: Tensor = yield Sum(self.nonfinite)
        _, (rows,) = yield from self._kept.merge()
        bins = CalibrationBins(*merged[0].unbind())
        number = bins.number.sum()
        accuracy, confidence = bins.correct.sum() / number, bins.confidence.sum() / number
        values = {
            "ece": expected_calibration_error(bins),
            "ece_control": permuted_calibration_error(bins),
            "brier": merged[1][0] / number,
            "accuracy": accuracy,
            "confidence": confidence,
            "overconfidence": confidence - accuracy,
            "predictions": number,
            "sampled_predictions": torch.tensor(float(len(rows))),
            "nonfinite": nonfinite.double().cpu(),
        }
        self.reliability = bins
        values |= self._ordered(*rows.unbind(1)) if len(rows) else {}
        return {key: values.get(key, torch.tensor(math.nan)) for key in self.measures}

    def _ordered(self, confidence: Tensor, correct: Tensor) -> dict[str, Tensor]:
        low, high = float(confidence.min()), float(confidence.max())
        if low < -_OUTSIDE or high > 1 + _OUTSIDE:
            raise ValueError(f"`confidence` must lie between 0 and 1, got values from {low:g} to {high:g}.")
        order = (torch.logit(confidence.double(), eps=1e-9) * _STEPS).round()
        shares = torch.arange(1, _CURVE + 1, dtype=torch.float64) / _CURVE
        self.curve = selective_accuracy(confidence, correct, shares, order)
        at = selective_accuracy(confidence, correct, torch.tensor(self.coverages, dtype=torch.float64), order)
        values = {
            "adaptive_ece": adaptive_calibration_error(confidence, correct, self.bins, order),
            "aurc": area_under_risk_coverage(confidence, correct, order),
        }
        if 0 < int((correct > 0).sum()) < len(correct):
            for key, of in (("auroc_confidence", auroc), ("auroc_confidence/sd", auroc_chance_sd)):
                values[key] = torch.tensor(of(order, correct > 0), dtype=torch.float64)
        return values | {f"selective_accuracy/{share:g}": one for share, one in zip(self.coverages, at, strict=True)}
