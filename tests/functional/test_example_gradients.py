"""Gradients of single examples, draws of labels, means of groups and likeness of inputs, beside loops."""

from __future__ import annotations

from importlib import import_module

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference import influence as plain

from lightning_interp.functional import (
    drawn_labels,
    example_gradients,
    example_squared_norms,
    gradient_products,
    group_means,
    input_products,
    squared_gradient_sum,
)

SEEDS = st.integers(0, 10**6)


@given(seed=SEEDS, positions=st.integers(1, 4), examples=st.integers(1, 5))
def test_gradients_are_those_of_a_loop(seed: int, positions: int, examples: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    a, d = (torch.randn(examples, positions, size, dtype=torch.float64, generator=draw) for size in (4, 3))
    V = torch.randn(2, 3, 4, dtype=torch.float64, generator=draw)
    expected = torch.stack([plain.example_gradient(one, other) for one, other in zip(a, d, strict=True)])
    assert torch.allclose(example_gradients(a, d), expected)
    assert torch.allclose(example_squared_norms(a, d), expected.square().sum((1, 2)))
    assert torch.allclose(squared_gradient_sum(a, d), expected.square().sum(0))
    assert torch.allclose(gradient_products(V, a, d), torch.einsum("qoi,boi->qb", V, expected))


def test_many_numbers_are_taken_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    a, d, V = torch.randn(5, 2, 4), torch.randn(5, 2, 3), torch.randn(2, 3, 4)
    whole = gradient_products(V, a, d), squared_gradient_sum(a, d)
    monkeypatch.setattr(import_module("lightning_interp.functional.example_gradients"), "_NUMBERS", 24)
    parts = gradient_products(V, a, d), squared_gradient_sum(a, d)
    assert all(torch.allclose(one, other, atol=1e-6) for one, other in zip(whole, parts, strict=True))


def test_labels_come_as_often_as_they_are_probable() -> None:
    logits = torch.tensor([[0.5, -torch.inf, 2.0, 0.0]]).expand(20_000, 4)
    drawn = drawn_labels(logits, torch.arange(20_000), seed=3)
    shares = torch.bincount(drawn, minlength=4) / len(drawn)
    assert shares[1] == 0
    assert torch.allclose(shares, logits[0].softmax(-1), atol=0.012)
    assert torch.equal(drawn[7:9], drawn_labels(logits[:2], torch.tensor([7, 8]), seed=3))
    assert not torch.equal(drawn, drawn_labels(logits, torch.arange(20_000), seed=4))


def test_means_of_groups_beside_permutations() -> None:
    values, groups = [1.0, 5.0, -2.0, 0.5, 3.0, 9.0], ["a", "b", "a", "b", "b", "c"]
    found = group_means(torch.tensor(values), groups)
    assert found.names == ("a", "b", "c")
    assert found.counts.tolist() == [2, 3, 1]
    assert found.means.tolist() == pytest.approx([-0.5, 8.5 / 3, 9.0])
    permuted = plain.permuted_means(values, groups, draws=20_000, seed=0)
    for place, name in enumerate(found.names):
        mean, sd = permuted[name]
        assert float(found.chance[place]) == pytest.approx(mean, abs=0.06)
        assert float(found.chance_sd[place]) == pytest.approx(sd, rel=0.03)
    assert group_means(torch.ones(2, 1), ["all"]).chance_sd.tolist() == [[0.0], [0.0]]


def test_inputs_are_alike_by_their_words_or_numbers() -> None:
    x, y = torch.tensor([[3, 3, 8], [1, 0, 0]]), torch.tensor([[3, 8, 8, 0], [2, 2, 2, 9]])
    expected = [[sum(a == b for a in one for b in other) for other in y.tolist()] for one in x.tolist()]
    assert input_products(x, y).tolist() == expected
    masked = input_products(x, y, x != 0, y != 0)
    assert masked.tolist() == [[4, 0], [0, 0]]
    images, others = torch.randn(2, 1, 3, 3), torch.randn(4, 1, 3, 3)
    assert torch.allclose(input_products(images, others), images.flatten(1) @ others.flatten(1).T)


def test_arguments() -> None:
    with pytest.raises(ValueError, match=r"\(B, T, I\) and \(B, T, O\), got shapes \(2, 3\) and \(2, 1, 3\)"):
        example_gradients(torch.zeros(2, 3), torch.zeros(2, 1, 3))
    with pytest.raises(ValueError, match=r"`vectors` must be \(Q, 3, 4\), got shape \(1, 4, 3\)"):
        gradient_products(torch.zeros(1, 4, 3), torch.zeros(1, 1, 4), torch.zeros(1, 1, 3))
    with pytest.raises(ValueError, match=r"\(R, C\) and \(R,\), got shapes \(2, 3\) and \(3,\)"):
        drawn_labels(torch.zeros(2, 3), torch.arange(3))
    with pytest.raises(ValueError, match="`groups` must name a group for each of 3 values, got 1"):
        group_means(torch.zeros(3), ["a"])
    with pytest.raises(ValueError, match=r"of one kind, got torch.float32 and torch.int64"):
        input_products(torch.zeros(1, 2), torch.zeros(1, 2, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"one shape, got \(2,\) and \(3,\)"):
        input_products(torch.zeros(1, 2), torch.zeros(1, 3))
