"""Flow into label words and from them: the formulas against loops over edges, counts, and what is refused."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference import label_anchors as plain

from lightning_interp.functional import attention_saliency, head_importance, label_flow, label_match


@st.composite
def prompts(draw: st.DrawFn) -> tuple[torch.Tensor, list[int]]:
    """Products (H, T, T) and labels before the last position."""
    length = draw(st.integers(2, 14))
    labels = draw(st.lists(st.integers(0, length - 2), min_size=1, unique=True))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    return torch.randn(3, length, length, generator=generator), labels


@given(prompts())
def test_flow_is_that_of_loops_over_edges(case: tuple[torch.Tensor, list[int]]) -> None:
    products, labels = case
    saliency = attention_saliency(products)
    torch.testing.assert_close(saliency, torch.tensor(plain.saliency(products.tolist())), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(
        head_importance(products), torch.tensor(plain.importance(products.tolist())).double(), atol=1e-5, rtol=1e-5
    )
    found = {name: float(one) for name, one in label_flow(saliency, torch.tensor(labels))._asdict().items()}
    assert found == pytest.approx(plain.flow(saliency.tolist(), labels), abs=1e-9)


@given(prompts())
def test_match_is_that_of_a_loop(case: tuple[torch.Tensor, list[int]]) -> None:
    products, labels = case
    attention = products[0, -1].softmax(-1)
    right = [place % 2 == 0 for place in range(len(labels))]
    found = label_match(attention, torch.tensor(labels), torch.tensor(right))
    assert float(found) == pytest.approx(plain.match(attention.tolist(), labels, right), abs=1e-6)


def test_what_is_the_same_everywhere_has_ratios_of_1() -> None:
    flow = label_flow(torch.ones(20, 20), torch.tensor([4, 9, 14]))
    assert [float(one) for one in flow] == [1.0] * 6


def test_what_the_future_and_the_first_token_have_does_not_count() -> None:
    table = torch.ones(12, 12).tril(-1)
    labels = torch.tensor([4, 8])
    expected = label_flow(table, labels)
    future = table + 100 * torch.ones(12, 12).triu()
    assert label_flow(future, labels) == expected
    first = table.clone()
    first[:, 0] = 1000.0
    found = label_flow(first, labels)
    assert found[3:] == expected[3:]
    assert found.wp > expected.wp


def test_no_label_gets_attention() -> None:
    assert label_match(torch.zeros(4), torch.tensor([1]), torch.tensor([True])).isnan()


def test_what_does_not_fit_is_told() -> None:
    with pytest.raises(ValueError, match=r"`products` must be \(..., H, T, T\) with T at least 2, got shape \(3, 4\)"):
        attention_saliency(torch.zeros(3, 4))
    with pytest.raises(ValueError, match=r"`saliency` must be \(T, T\) with T at least 2, got shape \(2, 3, 3\)"):
        label_flow(torch.zeros(2, 3, 3), torch.tensor([0]))
    with pytest.raises(ValueError, match=r"different positions, \(C,\) with C at least 1, got \[1, 1\]"):
        label_flow(torch.zeros(3, 3), torch.tensor([1, 1]))
    with pytest.raises(ValueError, match=r"`labels` must lie before the last position, 2, got \[2\]"):
        label_flow(torch.zeros(3, 3), torch.tensor([2]))
    with pytest.raises(ValueError, match=r"must both be \(C,\), got shapes \(1,\) and \(2,\)"):
        label_match(torch.zeros(3), torch.tensor([1]), torch.tensor([True, False]))
