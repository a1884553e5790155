"""Where modules keep their features: what classes say is where the features of a real output are."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_interp.sites import LayoutResolver
from lightning_interp.sites.feature_axis import feature_axis, feature_sizes

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
    (nn.Sequential(nn.Conv2d(6, 7, 3), nn.Softmax2d()), X2),
    (nn.Sequential(nn.Conv1d(6, 8, 3), nn.GLU(1)), X1),
    (nn.GLU(1), X2),
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
    (nn.Sequential(nn.Linear(6, 8), nn.GLU()), TOKENS),
]


def said(model: nn.Module, name: str = "") -> Any:
    return feature_axis(dict(model.named_modules()), name)


@pytest.mark.parametrize(("module", "x"), SECOND, ids=lambda one: type(one).__name__)
def test_features_second(module: nn.Module, x: Tensor) -> None:
    found, output = said(module), module(x)
    assert found.axis == "second"
    assert found.size in (None, output.shape[1])
    z, _ = LayoutResolver(None, module, {"site": ""})("site", output, 4)
    assert torch.equal(z, output.flatten(2).transpose(1, 2))


@pytest.mark.parametrize(("module", "x"), LAST, ids=lambda one: type(one).__name__)
def test_features_last(module: nn.Module, x: Tensor) -> None:
    output = module(x)
    output = output[0] if isinstance(output, tuple) else output
    found = said(module)
    assert found.axis == "last"
    assert found.size in (None, output.shape[-1])
    z, _ = LayoutResolver(None, module, {"site": ""})("site", output, 4)
    assert torch.equal(z, output)
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


def test_channels_of_a_number_that_no_module_has_are_asked_for() -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv1d(6, 8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.glu(self.conv(x), 1)

    model = Gated()
    with pytest.raises(ValueError, match=r"\(4, 4, 10\) of site 'site' cannot be told.*layout='BCT'"):
        LayoutResolver(None, model, {"site": ""})("site", model(X1), 4)


def windows(positions: int) -> Tensor:
    """Of four samples, each cut into four windows."""
    return torch.zeros(16, positions, 6)


def test_windows_that_are_as_long_as_the_batch_are_not_taken_for_positions() -> None:
    linear, names = nn.Linear(6, 6), {"site": ""}
    with pytest.raises(ValueError, match=r"16 positions of 4 samples, or 4 positions of 4 parts a sample.*'TBD'"):
        LayoutResolver(None, linear, names)("site", windows(4), 4)
    with pytest.raises(ValueError, match="fits no layout"):
        LayoutResolver(None, linear, names)("site", windows(5), 4)
    # What says that positions come first: the layout, the tokens, a module that has them first, a number that is odd.
    assert LayoutResolver("TBD", linear, names)("site", windows(4), 4)[0].shape == (4, 16, 6)
    assert LayoutResolver(None, linear, names)("site", windows(4), 4, length=16)[0].shape == (4, 16, 6)
    model = nn.ModuleDict({"gru": nn.GRU(6, 6), "site": linear})
    assert LayoutResolver(None, model, {"site": "site"})("site", windows(4), 4)[0].shape == (4, 16, 6)
    assert LayoutResolver(None, linear, names)("site", torch.zeros(15, 4, 6), 4)[0].shape == (4, 15, 6)


def test_of_another_tensor_than_the_first_a_class_says_nothing() -> None:
    gru = nn.GRU(6, 5, 2, batch_first=True)
    resolve = LayoutResolver(None, gru, {"site": ""}, output=1)
    states = gru(TOKENS)[1]
    assert torch.equal(resolve("site", states, 4)[0], states.transpose(0, 1))
    attention = nn.MultiheadAttention(6, 2, batch_first=True)
    weights = attention(TOKENS, TOKENS, TOKENS)[1]
    assert torch.equal(
        LayoutResolver(None, attention, {"site": ""}, output={"site": 1})("site", weights, 4)[0], weights
    )
    with pytest.raises(ValueError, match="MultiheadAttention has its 6 on the last axis"):
        LayoutResolver(None, attention, {"site": ""}, output=0)("site", weights, 4)
