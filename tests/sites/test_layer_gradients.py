"""Gradients of single examples at every kind of layer, beside a backward pass for each of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from reference import influence as plain
from torch import Tensor, nn

from lightning_interp.functional import example_gradients
from lightning_interp.models import small_gpt2
from lightning_interp.sites.layer_gradients import LayerGradients
from lightning_interp.sites.linear_layers import linear_layers


class Shared(nn.Module):
    """One layer that runs twice, one with a keyword, and work in place."""

    def __init__(self) -> None:
        super().__init__()
        self.twice, self.out = nn.Linear(4, 4), nn.Linear(4, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.twice(x)
        hidden.relu_()
        hidden = hidden + self.twice(input=hidden)
        return self.out(hidden).mean(1)


def convolutions(**how: Any) -> nn.Module:
    last = nn.Conv2d(4, 3, 2, bias=False)
    return nn.Sequential(nn.Conv2d(2, 4, 3, **how), nn.BatchNorm2d(4), nn.ReLU(inplace=True), last, nn.Flatten(2))


IMAGES, VECTORS = (5, 2, 9, 8), (5, 6, 4)
MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "shared": (Shared, VECTORS),
    "convolution": (convolutions, IMAGES),
    "strides": (lambda: convolutions(stride=(2, 1), padding=(1, 0), dilation=2), IMAGES),
    "same": (lambda: convolutions(padding="same"), IMAGES),
    "reflect": (lambda: convolutions(padding=2, padding_mode="reflect"), IMAGES),
    "frozen bias": (lambda: frozen(nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3))), VECTORS),
}


def frozen(model: Any) -> nn.Module:
    model[0].bias.requires_grad_(False)
    return model


def losses(model: nn.Module, x: Tensor) -> Tensor:
    """A number for each example that depends on all that it gives."""
    output = model(x)
    return (output.flatten(1).sin() * torch.linspace(-1, 2, output[0].numel())).sum(1)


@pytest.mark.parametrize("kind", MODELS)
def test_factors_give_the_gradients_of_a_backward_pass_each(kind: str) -> None:
    torch.manual_seed(0)
    build, shape = MODELS[kind]
    model, x = build().eval(), torch.randn(*shape)
    layers, left_out = linear_layers(model)
    recorder = LayerGradients(layers)
    found = recorder.factors(recorder.run(lambda: losses(model, x)).sum(), len(x))
    read = 0
    for layer in layers:
        gradient = layer.weight_gradient(example_gradients(*found[layer.name]))
        parameters = [getattr(layer.module, name) for name in gradient]
        expected = plain.gradients([lambda i=i: losses(model, x[i : i + 1])[0] for i in range(len(x))], parameters)
        flat = torch.cat([one.flatten(1) for one in gradient.values()], 1)
        assert torch.allclose(flat, expected, atol=1e-5), layer.name
        assert layer.parameters == flat.shape[1]
        read += flat.shape[1]
    every = sum(one.numel() for one in model.parameters() if one.requires_grad)
    own = dict(model.named_parameters())
    assert read + sum(own[name].numel() for name in left_out) == every
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())


def test_gpt2_and_the_same_with_linear_layers() -> None:
    torch.manual_seed(0)
    model = small_gpt2(range(11), 8, layers=2, heads=2, length=6).eval()
    ids = torch.randint(0, 11, (4, 6))
    layers, left_out = linear_layers(model)
    assert {type(layer.module).__name__ for layer in layers} == {"Conv1D"}
    assert left_out["transformer.wte.weight"] == "Embedding is neither Linear, Conv2d nor Conv1D"
    assert left_out["lm_head.weight"] == "its weight is tied to 'transformer.wte.weight'"
    whole = gpt2_gradients(model, ids)
    for name, module in list(model.named_modules()):
        if type(module).__name__ == "Conv1D":
            parent, _, own = name.rpartition(".")
            setattr(model.get_submodule(parent), own, as_linear(module))
    other = gpt2_gradients(model, ids)
    assert whole.keys() == other.keys()
    for name, gradient in whole.items():
        assert torch.allclose(gradient, other[name], atol=1e-6), name


def gpt2_gradients(model: nn.Module, ids: Tensor) -> dict[str, Tensor]:
    recorder = LayerGradients(linear_layers(model)[0])
    logits = recorder.run(lambda: model(ids).logits)
    found = recorder.factors(logits.log_softmax(-1)[..., 3].sum(), len(ids))
    return {name: example_gradients(*one) for name, one in found.items()}


def as_linear(module: Any) -> nn.Linear:
    rows, columns = module.weight.shape
    layer = nn.Linear(rows, columns)
    layer.weight.data, layer.bias.data = module.weight.data.T.clone(), module.bias.data.clone()
    return layer


def test_what_other_hooks_make_of_a_layer_is_not_the_layer() -> None:
    model, x = nn.Linear(2, 1, bias=False), torch.tensor([[1.0, 2.0]])
    model.register_forward_hook(lambda *given: 5 * given[-1])
    recorder = LayerGradients(linear_layers(model)[0])
    found = recorder.factors(recorder.run(lambda: model(x)).sum(), 1)[""]
    assert example_gradients(*found).tolist() == [[[5.0, 10.0]]]


def test_what_a_layer_was_given_may_be_written_into_afterwards() -> None:
    model, x = nn.Linear(2, 1, bias=False), torch.tensor([[1.0, 2.0]])

    def run() -> Tensor:
        output = model(x)
        x.zero_()
        return output

    recorder = LayerGradients(linear_layers(model)[0])
    assert example_gradients(*recorder.factors(recorder.run(run).sum(), 1)[""]).tolist() == [[[1.0, 2.0]]]


class Odd(nn.Module):
    """One layer of each kind that cannot be read."""

    def __init__(self) -> None:
        super().__init__()
        self.good = nn.Linear(4, 4)
        self.frozen = nn.Linear(4, 4).requires_grad_(False)
        self.tied = nn.Linear(4, 4)
        self.twin = nn.Linear(4, 4)
        self.twin.weight = self.tied.weight
        self.normed = nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))
        self.groups = nn.Conv2d(4, 4, 1, groups=2)
        self.attention = nn.MultiheadAttention(4, 1)
        self.own = type("Own", (nn.Linear,), {"forward": lambda self, x: x @ self.weight})(4, 4)
        self.wide = nn.Linear(4, 40)


REASONS = {
    "frozen": "its weight is frozen",
    "tied": "its weight is tied to 'twin.weight'",
    "normed": "its weight is computed from other parameters",
    "groups": "it is a convolution in 2 groups",
    "attention.out_proj": "nn.MultiheadAttention uses its weight without calling it",
    "own": "Own has a forward of its own",
    "wide": "a matrix 40 × 40 would be needed, more than 30 × 30",
}


@pytest.mark.parametrize("name", REASONS)
def test_what_cannot_be_read_is_refused_by_name_and_else_told(name: str) -> None:
    model = Odd()
    found, left_out = linear_layers(model, largest=30)
    assert [layer.name for layer in found] == ["good"]
    if name not in ("frozen", "normed"):
        weight = f"{name}.weight"
        assert left_out[weight] == REASONS[name]
    assert "frozen.weight" not in left_out
    with pytest.raises(ValueError, match=f"`layers` names '{name}', which cannot be read: {REASONS[name]}"):
        linear_layers(model, name, largest=30)


def test_layers_by_name_and_by_pattern() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)))
    found, left_out = linear_layers(model, ["2.*"])
    assert [layer.name for layer in found] == ["2.0"]
    assert left_out["0.weight"] == "not among `layers`"
    with pytest.raises(ValueError, match=r"layers='head' matches no module"):
        linear_layers(model, "head")
    with pytest.raises(ValueError, match=r"layers='1\*' matches '1': none is a Linear"):
        linear_layers(model, "1*")
    with pytest.raises(ValueError, match=r"`layers` names '1', which cannot be read: it has no parameters"):
        linear_layers(model, "1")
    with pytest.raises(ValueError, match=r"LayerNorm has no layer whose gradients are read"):
        linear_layers(nn.LayerNorm(3))


def test_examples_that_are_not_in_the_first_dimension_are_refused() -> None:
    model = nn.Linear(4, 3)
    recorder = LayerGradients(linear_layers(model)[0])
    output = recorder.run(lambda: model(torch.randn(7, 4)))
    with pytest.raises(ValueError, match=r"layer '' is given \(7, 4\) for 5 examples"):
        recorder.factors(output.sum(), 5)
    recorder.run(lambda: model(torch.randn(7, 4)))
    with pytest.raises(ValueError, match="no gradient reaches any of the layers"):
        recorder.factors(torch.ones(1, requires_grad=True).sum(), 7)
