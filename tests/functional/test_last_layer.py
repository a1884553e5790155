"""Gradients at a last linear layer in closed form: automatic differentiation, example by example, and errors."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference import last_layer as plain
from torch import Tensor
from torch.nn import functional

from lightning_interp.functional import error_norm, last_layer_norm, last_layer_products, output_errors

SHAPES = {
    "seed": st.integers(0, 10**6),
    "classes": st.integers(1, 6),
    "width": st.integers(1, 5),
    "length": st.integers(1, 4),
    "bias": st.booleans(),
}


class Layer:
    """A last layer with random weights, and examples for it, of which some positions do not count."""

    def __init__(self, seed: int, classes: int, width: int, length: int, bias: bool, number: int = 3) -> None:
        draw = torch.Generator().manual_seed(seed)
        self.weight = torch.randn(classes, width, dtype=torch.float64, generator=draw)
        self.bias = torch.randn(classes, dtype=torch.float64, generator=draw) if bias else None
        self.h = 2 * torch.randn(number, length, width, dtype=torch.float64, generator=draw)
        self.targets = torch.randint(max(2, classes), (number, length), generator=draw)
        self.counted = torch.rand(number, length, generator=draw) < 0.7

    @property
    def errors(self) -> Tensor:
        return output_errors(functional.linear(self.h, self.weight, self.bias), self.targets, self.counted)

    def gradients(self) -> Tensor:
        rows = zip(self.h, self.targets, self.counted, strict=True)
        return torch.stack([plain.gradient(*row, self.weight, self.bias) for row in rows])


@given(**SHAPES)
def test_lengths_are_those_of_gradients(seed: int, classes: int, width: int, length: int, bias: bool) -> None:
    layer = Layer(seed, classes, width, length, bias)
    expected = layer.gradients().square().sum(-1)
    assert torch.allclose(last_layer_norm(layer.errors, layer.h, bias), expected, rtol=1e-9, atol=1e-12)
    first = layer.counted[:, 0]
    alone = last_layer_norm(layer.errors[:, 0], layer.h[:, 0], bias)
    layer.counted[:, 1:] = False
    assert torch.allclose(alone[first], layer.gradients().square().sum(-1)[first], rtol=1e-9, atol=1e-12)


@given(**SHAPES)
def test_products_are_those_of_gradients(seed: int, classes: int, width: int, length: int, bias: bool) -> None:
    one = Layer(seed, classes, width, length, bias)
    other = Layer(seed + 1, classes, width, length + 1, bias, number=2)
    other.weight, other.bias = one.weight, one.bias
    found = last_layer_products(one.errors, one.h, other.errors, other.h, bias)
    assert torch.allclose(found, one.gradients() @ other.gradients().T, rtol=1e-9, atol=1e-11)
    single = last_layer_products(one.errors[:, 0], one.h[:, 0], other.errors[:, 0], other.h[:, 0], bias)
    mixed = last_layer_products(one.errors[:, 0], one.h[:, 0], other.errors[:, :1], other.h[:, :1], bias)
    assert torch.allclose(single, mixed)
    own = last_layer_products(one.errors, one.h, one.errors, one.h, bias)
    assert torch.allclose(own.diagonal(), last_layer_norm(one.errors, one.h, bias))


def test_the_error_is_the_gradient_of_the_loss() -> None:
    logits = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    targets = torch.tensor([0, 4, 2, 2])
    (expected,) = torch.autograd.grad(functional.cross_entropy(logits, targets, reduction="sum"), logits)
    assert torch.allclose(output_errors(logits.detach(), targets), expected)
    assert torch.allclose(error_norm(expected), expected.norm(dim=1))
    assert torch.allclose(error_norm(expected[None]), expected.norm(dim=1).sum()[None])


def test_what_does_not_count_may_be_anything() -> None:
    logits, targets = torch.tensor([[1.0, 2.0], [torch.nan, 0.0]]), torch.tensor([1, -100])
    errors = output_errors(logits, targets, torch.tensor([True, False]))
    assert errors[1].tolist() == [0, 0]
    h = torch.tensor([[1.0], [torch.nan]])
    assert last_layer_norm(errors, h)[1] == 0
    assert last_layer_norm(errors[None], h[None]) == pytest.approx(last_layer_norm(errors, h)[:1])


def test_half_precision_is_read_in_float32() -> None:
    errors = output_errors(torch.zeros(1, 4, dtype=torch.bfloat16), torch.tensor([1]))
    assert errors.dtype == last_layer_norm(errors, torch.ones(1, 2, dtype=torch.float16)).dtype == torch.float32


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`logits` must be \(…, C\) for `targets`"):
        output_errors(torch.zeros(2, 3), torch.zeros(3, dtype=torch.long))
    with pytest.raises(ValueError, match="`counted` must have the shape"):
        output_errors(torch.zeros(2, 3), torch.zeros(2, dtype=torch.long), torch.ones(3, dtype=torch.bool))
    with pytest.raises(ValueError, match="`errors` and `inputs` must be"):
        last_layer_norm(torch.zeros(2, 3), torch.zeros(3, 3))
    with pytest.raises(ValueError, match="of another layer"):
        last_layer_products(torch.zeros(2, 3), torch.zeros(2, 3), torch.zeros(2, 3), torch.zeros(2, 4))
