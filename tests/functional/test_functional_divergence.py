"""Jensen–Shannon divergence against its definition by two Kullback–Leibler divergences."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference import entropy as plain

from lightning_interp.functional import js_divergence


def distributions(seed: int, outcomes: int, sharpness: float) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, outcomes, generator=generator, dtype=torch.float64) * sharpness
    weights = torch.rand(2, outcomes, generator=generator, dtype=torch.float64) > 0.3
    weights[:, 0] = True
    p = logits.exp() * weights
    return p / p.sum(-1, keepdim=True)


@given(
    seed=st.integers(0, 10**6),
    outcomes=st.integers(1, 200),
    sharpness=st.sampled_from([0.0, 1.0, 20.0]),
    dtype=st.sampled_from([torch.float64, torch.float32]),
)
def test_equals_the_reference(seed, outcomes, sharpness, dtype):
    p, q = distributions(seed, outcomes, sharpness).to(dtype)
    found = js_divergence(p, q)
    assert found.dtype == dtype
    assert found.item() == pytest.approx(plain.js(p.double().numpy(), q.double().numpy()), abs=1e-6)
    assert 0 <= found.item() <= math.log(2) + 1e-6
    assert js_divergence(q, p).item() == pytest.approx(found.item(), abs=1e-7)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_no_reason_for_half_the_digits(dtype):
    p, q = distributions(3, 50, 1.0).to(dtype)
    assert js_divergence(p, q).item() == pytest.approx(plain.js(p.double().numpy(), q.double().numpy()), abs=1e-6)


def test_ends_of_the_range():
    p = torch.tensor([0.25, 0.75, 0.0, 0.0])
    assert js_divergence(p, p).item() == 0
    assert js_divergence(p, p.flip(0)).item() == pytest.approx(math.log(2), abs=1e-7)


def test_broadcasts_over_leading_dimensions():
    p = torch.stack([distributions(seed, 6, 1.0)[0] for seed in range(4)])
    found = js_divergence(p[:, None], p[None])
    assert found.shape == (4, 4)
    for i in range(4):
        for j in range(4):
            assert found[i, j].item() == pytest.approx(plain.js(p[i].numpy(), p[j].numpy()), abs=1e-12)


def test_error_names_the_shapes():
    with pytest.raises(ValueError, match=r"\(2, 3\) and \(2, 4\)"):
        js_divergence(torch.ones(2, 3) / 3, torch.ones(2, 4) / 4)
