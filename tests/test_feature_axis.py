"""Where modules keep their features: what classes say is where the features of a real output are."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_interp._feature_axis import feature_axis, feature_sizes
from lightning_interp.sites import LayoutResolver

X1, X2, X3 = torch.randn(4, 6, 12), torch.randn(4, 6, 8, 10), torch.randn(4, 6, 3, 4, 5)
TOKENS, IDS = torch.randn(4, 9, 6), torch.randint(0, 20, (4, 9))
SECOND: list[tuple[nn.Module, Tensor]] = [
    (nn.Conv1d(6, 7, 3), X1),
    (nn.ConvTranspose1d(6, 7, 3), X1),
    (nn.Conv2d(6, 7, 3), X2),
    (nn.Conv3d(6, 7, 2), X3),
    (nn.BatchNorm1d(6), X1),
    (nn.BatchNorm2d(6), X2),
    (nn.InstanceNorm1d(6), X1),
    (nn.GroupNorm(2, 6), X2),
    (nn.Sequential(nn.Conv2d(6, 7, 3), nn.ReLU(), nn.Dropout2d()), X2),
]
LAST: list[tuple[nn.Module, Any]] = [
    (nn.Linear(6, 7), TOKENS),
    (nn.Embedding(20, 7), IDS),
    (nn.LayerNorm(6), TOKENS),
    (nn.RMSNorm(6), TOKENS),
    (nn.GRU(6, 7, batch_first=True), TOKENS),
    (nn.LSTM(6, 7, proj_size=3, bidirectional=True, batch_first=True), TOKENS),
    (nn.TransformerEncoderLayer(6, 2, 8, batch_first=True), TOKENS),
    (nn.TransformerEncoder(nn.TransformerEncoderLayer(6, 2, 8, batch_first=True), 2), TOKENS),
    (nn.Sequential(nn.Embedding(20, 7), nn.Dropout()), IDS),
]


def said(model: nn.Module, name: str = "") -> Any:
    return feature_axis(dict(model.named_modules()), name)


@pytest.mark.parametrize(("module", "x"), SECOND, ids=lambda one: type(one).__name__)
def test_features_second(module: nn.Module, x: Tensor) -> None:
    found = said(module)
    assert found.axis == "second"
    assert found.size == module(x).shape[1]


@pytest.mark.parametrize(("module", "x"), LAST, ids=lambda one: type(one).__name__)
def test_features_last(module: nn.Module, x: Tensor) -> None:
    output = module(x)
    output = output[0] if isinstance(output, tuple) else output
    found = said(module)
    assert found.axis == "last"
    assert found.size == output.shape[-1]
    assert found.batch_first in (True, None)


@pytest.mark.parametrize("batch_first", [True, False])
def test_the_order_of_batch_and_positions(batch_first: bool) -> None:
    layer = nn.TransformerEncoderLayer(6, 2, 8, batch_first=batch_first)
    modules = [nn.GRU(6, 7, batch_first=batch_first), nn.MultiheadAttention(6, 2, batch_first=batch_first), layer]
    for module in (*modules, nn.TransformerEncoder(layer, 1)):
        assert said(module).batch_first is batch_first
        width = said(module).size
        # As many positions as samples: only the module can tell.
        square = torch.zeros(4, 4, width)
        square[1] = 1
        z, _ = LayoutResolver(None, module, {"site": ""})("site", square, 4)
        assert torch.equal(z, square if batch_first else square.transpose(0, 1))


def test_what_keeps_its_shape_is_as_what_comes_before_it() -> None:
    model = nn.Sequential(nn.Conv1d(2, 7, 3), nn.ReLU(), nn.Sequential(nn.Dropout(), nn.GELU()), nn.Flatten())
    for name in ("1", "2", "2.0", "2.1"):
        assert said(model, name) == said(model, "0")
    assert said(model) is None
    assert said(model, "3") is None
    assert said(nn.Sequential(nn.ReLU(), nn.Linear(2, 3)), "0") is None
    assert said(nn.ModuleList([nn.Conv1d(2, 7, 3), nn.ReLU()]), "1") is None


def test_a_class_with_a_forward_of_its_own_says_nothing() -> None:
    class Turned(nn.LayerNorm):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.transpose(1, 2)).transpose(1, 2)

    class Named(nn.Linear):
        """Another name, and the same forward."""

    assert said(Turned(6)) is None
    assert feature_sizes(Turned(6)).second == {6}
    assert said(Named(2, 3)).size == 3


@pytest.mark.parametrize(
    ("module", "shape"),
    [(nn.ZeroPad2d((0, 0, 0, 2)), (4, 9, 6)), (nn.MaxPool2d((2, 1)), (4, 18, 6)), (nn.Dropout1d(), (4, 9, 6))],
    ids=lambda one: type(one).__name__ if isinstance(one, nn.Module) else "",
)
def test_modules_that_are_used_on_text_too(module: nn.Module, shape: tuple[int, ...]) -> None:
    output = module.eval()(torch.zeros(shape))
    z, _ = LayoutResolver(None, module, {"site": ""})("site", output, 4)
    assert z.shape == output.shape


def test_pooling_of_maps_is_by_channel() -> None:
    for module, x in ((nn.MaxPool1d(2), X1), (nn.AdaptiveAvgPool2d(2), X2), (nn.Upsample(scale_factor=2), X2)):
        z, _ = LayoutResolver(None, module, {"site": ""})("site", module(x), 4)
        assert torch.equal(z, module(x).flatten(2).transpose(1, 2))
