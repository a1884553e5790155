"""Representations under mixed precision reach a metric of another package in float32."""

from __future__ import annotations

from pathlib import Path

import torch
import torchmetrics

from lightning_interp import RepresentationMetrics
from tests.toy import Tagger, loader, trainer


class ProductDtype(torchmetrics.Metric):
    """Fails where a product of representations comes out in half precision."""

    def __init__(self) -> None:
        super().__init__()
        self.add_state("largest", torch.zeros(()), dist_reduce_fx="max")

    def update(self, representations: torch.Tensor, mask: torch.Tensor) -> None:
        vectors = representations[mask].float()
        product = vectors @ vectors.T
        assert product.dtype == torch.float32
        self.largest = torch.maximum(self.largest, product.max())

    def compute(self) -> torch.Tensor:
        return self.largest


def test_mixed_precision_ends_at_the_hook(tmp_path: Path) -> None:
    callback = RepresentationMetrics({"largest": ProductDtype()}, {"enc": "encoder"}, draw_figures=False)
    trainer(tmp_path, [callback], precision="bf16-mixed").fit(Tagger(), loader(), loader(seed=1))
    assert len(callback.history) == 2
