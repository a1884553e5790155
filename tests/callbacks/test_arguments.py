"""No argument is without effect in silence: what nothing takes is refused, and what does not fit is said."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchmetrics import Metric

from lightning_interp import (
    ConfidenceCalibration,
    NoiseRobustness,
    RepresentationGeometry,
    RepresentationMetrics,
    RepresentationStructure,
    TruthProbe,
    analyze,
)
from lightning_interp.predictions import Predictions
from lightning_interp.probing.statements import Statement

LOSS = {"monitors": {"val_loss": "loss"}}
STATEMENTS = [Statement(f"{name} is {word}.", word == "big", name) for name in "abc" for word in ("big", "small")]


def _spoken(batch: Any, output: Any) -> tuple[Tensor, Tensor]:
    return torch.ones(2), torch.ones(2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NoiseRobustness("emb", **LOSS, call="first"), "`call='first'` says how `drift` is read"),
        (lambda: NoiseRobustness("emb", **LOSS, num_tokens=9), "`num_tokens=9` is for kind='tokens'"),
        (
            lambda: NoiseRobustness("emb", **LOSS, kind="tokens", relative="dimension"),
            "`relative='dimension'` is the size of Gaussian noise",
        ),
        (lambda: NoiseRobustness("emb", **LOSS, kind="tokens", layout="BTD"), "`layout` is of what sites return"),
        (lambda: NoiseRobustness("emb", **LOSS, kind="tokens", output=0), "`output` is of what sites return"),
        (lambda: Predictions(output="logits", call="last"), "`call='last'` says which call of a site"),
        (lambda: ConfidenceCalibration(output="logits", call="first"), "`call='first'` says which call of a site"),
        (lambda: ConfidenceCalibration(confidence=_spoken, ignore_index=0), "`ignore_index` says how to read logits"),
        (lambda: ConfidenceCalibration(confidence=_spoken, class_dim=1), "`class_dim` says how to read logits"),
        (lambda: ConfidenceCalibration(confidence=_spoken, call="last"), "`call` says how to read logits"),
        (lambda: TruthProbe(STATEMENTS, "enc", batch_size=4), "`batch_size` has no meaning here"),
        (
            lambda: RepresentationStructure("enc", bins=30),
            "`bins=30` is for estimator='binned', and `estimator` is 'soft'",
        ),
        (lambda: RepresentationStructure("enc", correction="miller_madow"), "`correction='miller_madow'` is for"),
        (
            lambda: RepresentationStructure("enc", estimator="binned", num_points=50),
            "`num_points=50` is for estimator='soft', and `estimator` is 'binned'",
        ),
        (lambda: RepresentationStructure("enc", estimator="binned", center=True), "`center=True` is for"),
        (
            lambda: RepresentationGeometry("enc", labels=["token"]),
            r"`labels` \['token'\] go to metrics that take labels",
        ),
        (
            lambda: RepresentationStructure("enc", labels={"kind": "word"} | {"own": ["a", "b"]}),
            r"`labels\['own'\]` must",
        ),
        (lambda: RepresentationStructure("enc", labels={"own": torch.tensor(3)}), r"`labels\['own'\]` must have"),
    ],
)
def test_what_has_no_effect_is_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


class Mean(Metric):
    """Takes no mask."""

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.zeros(()), dist_reduce_fx="sum")

    def update(self, representations: Tensor) -> None:
        self.total += representations.sum()

    def compute(self) -> Tensor:
        return self.total


class Text(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.emb, self.pool = nn.Embedding(9, 4), nn.AvgPool1d(2)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        z: Tensor = self.emb(batch["input_ids"])
        return self.pool(z.transpose(1, 2))


IDS = torch.tensor([[3, 4, 5, 6], [3, 4, 0, 0]])
PADDED = [{"input_ids": IDS, "attention_mask": (IDS != 0).long()}]


def test_a_metric_without_a_mask_reads_no_padding() -> None:
    run = lambda net, batch: net(batch)  # noqa: E731
    with pytest.raises(
        ValueError, match=r"`update` of `metrics\['mean'\]` takes no `mask`, and 2 of 8 vectors"
    ) as error:
        analyze(Text(), PADDED, RepresentationMetrics({"mean": Mean()}, "emb"), forward=run)
    assert "site 'emb'" in str(error.value)
    model = Text()
    callback = RepresentationMetrics({"mean": Mean()}, "emb", pooling="first")
    assert analyze(model, PADDED, callback, forward=run)["mean/emb"] == pytest.approx(float(model.emb(IDS[:, 0]).sum()))


def test_noise_where_positions_are_others_than_those_that_are_known_is_said() -> None:
    run = lambda net, batch: net(batch)  # noqa: E731
    callback = NoiseRobustness({"pool": "pool"}, (0.5,), drift={"emb": "emb"}, start=None, skip_positions=1)
    with pytest.warns(UserWarning, match="site 'pool' has 2 positions a sample, and the batch tells of 4"):
        analyze(Text(), PADDED, callback, forward=run)
