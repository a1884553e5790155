"""Captum's ablation of features says the same of the same perturbations."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from captum.attr import FeatureAblation
from torch import Tensor

from lightning_interp.functional import patch_index
from tests.callbacks.attending import Letters, texts
from tests.callbacks.planted_cue import CUES, Classifier, cued
from tests.callbacks.planted_patch import Convolutional, images
from tests.callbacks.test_input_ablation import MASK, ablation, read_weights
from tests.callbacks.test_patch_ablation import ablation as patches
from tests.callbacks.test_patch_ablation import read_weights as read_patches


def classifier() -> tuple[Any, list[list[int]]]:
    model = Classifier()
    with torch.no_grad():
        model.embedding.weight[list(CUES)] *= 4
    return model.eval(), [row["input_ids"].tolist() for row in cued(8, 2)]


def causal() -> tuple[Any, list[list[int]]]:
    return Letters().eval(), texts(5)


@pytest.mark.parametrize("given", [classifier, causal])
@pytest.mark.parametrize("score", ["log_prob", "log_odds"])
@pytest.mark.parametrize("without", ["replace", "hide"])
def test_captum_gives_the_same(without: str, score: str, given: Any) -> None:
    model, rows = given()
    lm = model.lm if isinstance(model, Letters) else model
    callback = ablation(without, score=score, model="lm" if isinstance(model, Letters) else "")
    ours = read_weights(model, rows, callback)
    assert max(abs(one) for row in ours for one in row) > 1e-3, "words matter"
    for row, weights in zip(rows, ours, strict=True):
        assert weights == pytest.approx(of_captum(lm, row, without, score), abs=1e-6)


@pytest.mark.parametrize("units", [5, "channels"])
def test_captum_gives_the_same_of_images(units: Any) -> None:
    model, pixels = Convolutional().eval(), torch.stack([row["pixels"] for row in images(4, 2)])
    ours = read_patches(model, pixels, patches(units, "zero"))
    where = patch_index((16, 16), (5, 5))[None] if units == 5 else torch.arange(3).view(3, 1, 1)
    # A place of each patch, where captum puts what the whole weighs.
    first = [(where.expand(3, 16, 16) == number).nonzero()[0].tolist() for number in range(int(where.max()) + 1)]
    for x, weights in zip(pixels, ours, strict=True):
        with torch.no_grad():
            target = int(model(x[None]).argmax())
            found = FeatureAblation(lambda x, c=target: model(x).double().log_softmax(1)[:, c]).attribute(
                x[None].requires_grad_(False), baselines=0, feature_mask=where[None]
            )
        assert weights == pytest.approx([float(found[0][tuple(place)]) for place in first], abs=1e-6)
        assert max(map(abs, weights)) > 1e-3


def of_captum(model: Any, row: list[int], without: str, score: str) -> list[float]:
    """What the prediction loses without each token, in float64."""

    def logits(ids: Tensor, mask: Tensor) -> Tensor:
        found = model(input_ids=ids, attention_mask=mask)
        return (found.logits[:, -1] if hasattr(found, "logits") else found).double()

    ids, mask = torch.tensor([row]), torch.ones(1, len(row), dtype=torch.long)
    with torch.no_grad():
        target = int(logits(ids, mask).argmax())

        def scores(ids: Tensor, mask: Tensor) -> Tensor:
            log_p = logits(ids, mask).log_softmax(1)[:, target]
            return log_p if score == "log_prob" else log_p - (-log_p.expm1()).log()

        if without == "replace":
            found = FeatureAblation(scores).attribute(ids, baselines=MASK, additional_forward_args=(mask,))
        else:
            found = FeatureAblation(lambda mask, ids: scores(ids, mask)).attribute(
                mask, baselines=0, additional_forward_args=(ids,)
            )
    return found[0].tolist()
