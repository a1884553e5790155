"""Which keys a query keeps on a budget: slow loops, padding, draws, rows without weight."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference import attention_budget as plain
from torch import Tensor

from lightning_interp.functional import kept_keys, renormalised
from lightning_interp.functional.attention_budget import POLICIES

BATCH, HEADS, LENGTH = 3, 2, 9


def case(seed: int, causal: bool, side: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Weights, what is visible (padding too), real keys and marked ones."""
    generator = torch.Generator().manual_seed(seed)
    weights = torch.rand(BATCH, HEADS, LENGTH, LENGTH, generator=generator, dtype=torch.float64)
    visible = torch.ones(LENGTH, LENGTH, dtype=torch.bool)
    lengths = torch.randint(1, LENGTH + 1, (BATCH, 1), generator=generator)
    real = torch.arange(LENGTH) < (lengths if side != "none" else LENGTH)
    real = real.flip(1) if side == "left" else real.expand(BATCH, LENGTH)
    marked = torch.rand(BATCH, LENGTH, generator=generator) < 0.3
    return weights, visible.tril() if causal else visible, real, marked


def seen_by(visible: Tensor, real: Tensor, b: int, t: int) -> list[int]:
    return [s for s in range(LENGTH) if visible[t, s] and real[b, s]]


SIDES = {"causal": st.booleans(), "side": st.sampled_from(["none", "left", "right"])}


@given(
    seed=st.integers(0, 10**6),
    policy=st.sampled_from(["top", "recent", "recent_first", "anchors"]),
    k=st.integers(1, LENGTH + 2),
    first=st.integers(1, 3),
    **SIDES,
)
def test_keys_are_those_of_a_loop(seed: int, policy: str, k: int, first: int, causal: bool, side: str) -> None:
    weights, visible, real, marked = case(seed, causal, side)
    found = kept_keys(weights, visible, policy, k, first, marked, real)
    shared = renormalised(weights, found)
    for b in range(BATCH):
        those = [s for s in range(LENGTH) if real[b, s]]
        for h in range(HEADS):
            for t in range(LENGTH):
                row, seen = weights[b, h, t].tolist(), seen_by(visible, real, b, t)
                keys = plain.kept(row, seen, policy, k, those[:first], marked[b].nonzero().flatten().tolist())
                assert set(found[b, h, t].nonzero().flatten().tolist()) == keys
                expected = plain.shared_out(row, keys) if keys else [0.0] * LENGTH
                assert shared[b, h, t].tolist() == pytest.approx(expected, abs=1e-12)


@given(seed=st.integers(0, 10**6), policy=st.sampled_from(POLICIES), k=st.integers(1, LENGTH + 2), **SIDES)
def test_padding_is_never_kept_and_one_key_is(seed: int, policy: str, k: int, causal: bool, side: str) -> None:
    weights, visible, real, marked = case(seed, causal, side)
    found = kept_keys(weights, visible, policy, k, anchors=marked, real=real)
    seen = (visible & real[:, None, None]).expand(weights.shape)
    assert not (found & ~seen).any()
    assert torch.equal(found.any(-1), seen.any(-1))
    enough = seen.sum(-1, keepdim=True) <= k
    assert torch.equal(found & enough, seen & enough)
    if policy in ("top", "recent", "random"):
        assert torch.equal(found.sum(-1), seen.sum(-1).clamp_max(k))


def test_random_keys_are_those_of_their_places_whatever_the_batch() -> None:
    weights, visible, _, _ = case(0, True, "none")
    before = torch.get_rng_state()
    whole = kept_keys(weights, visible, "random", 3, seed=5)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(whole[0], whole[1]), "places tell, not samples"
    assert not torch.equal(whole[:, 0], whole[:, 1])
    assert not torch.equal(whole, kept_keys(weights, visible, "random", 3, seed=6))
    short = kept_keys(weights[:1, :, :6, :6], visible[:6, :6], "random", 3, seed=5)
    assert torch.equal(short, whole[:1, :, :6, :6])
    for side in ("left", "right"):
        real = torch.arange(LENGTH) < 6 if side == "right" else torch.arange(LENGTH) >= 3
        padded = kept_keys(weights[:1], visible, "random", 3, real=real[None], seed=5)
        assert torch.equal(padded[:, :, real][..., real], short)


def test_every_key_is_as_likely_to_be_drawn() -> None:
    counts = sum(
        kept_keys(torch.ones(1, 50, 1, 10), torch.ones(1, dtype=torch.bool), "random", 3, seed=seed).sum((0, 1, 2))
        for seed in range(40)
    )
    torch.testing.assert_close(counts / 2000, torch.full((10,), 0.3), atol=0.04, rtol=0)


def test_rows_without_weight_and_rows_that_are_not_a_number() -> None:
    kept = torch.tensor([[True, True, False], [False, False, False]])
    found = renormalised(torch.tensor([[[[0.0, 0.0, 1.0], [torch.nan, 1.0, 1.0]]]]), kept)
    assert found[0, 0].tolist() == [[0.5, 0.5, 0.0], [0.0, 0.0, 0.0]]
    assert renormalised(torch.ones(1, 1, 1, 3, dtype=torch.bfloat16), kept[:1]).dtype == torch.float32


def test_more_queries_than_keys_and_fewer() -> None:
    for queries, keys in ((2, 5), (5, 2)):
        found = kept_keys(torch.ones(1, 2, queries, keys), torch.ones(1, dtype=torch.bool), "random", 1)
        assert (found.sum(-1) == 1).all()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"policy": "best"}, r"`policy` must be one of \['top', .*'random'\], got 'best'"),
        ({"k": 0}, "`k` must be at least 1, got 0"),
        ({"first": 0}, "`first` must be at least 1, got 0"),
        ({"policy": "anchors"}, "`policy='anchors'` needs `anchors`"),
        ({"real": torch.ones(1, 3)}, r"`real` must be \(B, S\) = \(2, 4\), got shape \(1, 3\)"),
        ({"anchors": torch.ones(4)}, r"`anchors` must be \(B, S\) = \(2, 4\), got shape \(4,\)"),
        ({"visible": torch.ones(3)}, r"`visible` must broadcast .* \(2, 1, 4, 4\), got shape \(3,\)"),
        ({"weights": torch.ones(4, 4)}, r"`weights` must be \(B, H, T, S\), got shape \(4, 4\)"),
    ],
)
def test_arguments(given: dict[str, object], message: str) -> None:
    usual = {"weights": torch.ones(2, 1, 4, 4), "visible": torch.ones(4, 4), "policy": "top", "k": 2}
    with pytest.raises(ValueError, match=message):
        kept_keys(**{**usual, **given})
