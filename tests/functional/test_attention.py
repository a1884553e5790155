"""Measures of attention weights: definitions, padding, windows, planted heads, invariances."""

from __future__ import annotations

import math
from typing import NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference import attention as plain
from torch import Tensor

from lightning_interp.functional import attention_sums, head_redundancy, rollout, uniform_sums, value_weighted
from lightning_interp.functional.attention import MEASURES, carried_norms

KINDS = ("causal", "window", "both sides")


class Case(NamedTuple):
    weights: Tensor
    visible: Tensor
    queries: Tensor
    first: Tensor

    def sums(self, **kwargs: int) -> Tensor:
        return attention_sums(*self, **kwargs)


def case(
    seed: int = 0, kind: str = "causal", side: str = "right", batch: int = 3, heads: int = 2, length: int = 12
) -> Case:
    """Softmax of random scores under a mask; rows of padding are NaN, as a kernel gives them."""
    generator = torch.Generator().manual_seed(seed)
    real = torch.arange(length) < torch.randint(0, length + 1, (batch, 1), generator=generator)
    real[0] = True
    if side == "left":
        real = real.flip(1)
    back = torch.arange(length)[:, None] - torch.arange(length)
    allowed = {"causal": back >= 0, "window": (back >= 0) & (back < 4), "both sides": back == back}[kind]
    visible = allowed & real[:, None, None, :]
    scores = 3 * torch.randn(batch, heads, length, length, generator=generator, dtype=torch.float64)
    weights = scores.masked_fill(~visible, -math.inf).softmax(-1)
    weights = torch.where(real[:, None, :, None], weights, math.nan)
    return Case(weights, visible, real, real.int().argmax(1))


def lists(given_: Case) -> tuple[list, ...]:
    visible = given_.visible.expand(given_.weights.shape)
    return given_.weights.tolist(), visible.tolist(), given_.queries.tolist(), given_.first.tolist()


def means(sums: Tensor) -> dict[str, list[float]]:
    return dict(zip(MEASURES, (sums[..., 0] / sums[..., 1]).T.tolist(), strict=True))


@given(st.integers(0, 10**6), st.sampled_from(KINDS), st.sampled_from(["left", "right"]), st.integers(1, 12))
def test_sums_are_those_of_a_loop(seed: int, kind: str, side: str, length: int) -> None:
    given_ = case(seed, kind, side, length=length)
    found = given_.sums()
    assert found.dtype == torch.float64
    assert found.shape == (2, len(MEASURES), 2)
    torch.testing.assert_close(
        found, torch.tensor(plain.sums(*lists(given_), 0, MEASURES), dtype=torch.float64), rtol=1e-10, atol=1e-10
    )


@given(st.integers(0, 10**6), st.sampled_from(KINDS), st.sampled_from(["left", "right"]))
def test_the_weight_on_the_last_key_is_that_of_a_loop(seed: int, kind: str, side: str) -> None:
    given_ = case(seed, kind, side)
    last = given_.queries.shape[1] - 1 - given_.queries.int().flip(1).argmax(1)
    found = attention_sums(*given_, last=last)
    expected = plain.sums(*lists(given_), 0, MEASURES, last.tolist())
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-10, atol=1e-10)
    number = found[:, MEASURES.index("sink_last"), 1]
    assert bool((number > 0).all()) == (kind == "both sides")
    # The level of each of these rows is one over the keys that it sees.
    level = uniform_sums(*given_[1:], last=last)[0, MEASURES.index("sink_last")]
    real = given_.queries.sum(1)
    rows = (real - 1).clamp_min(0) if kind == "both sides" else real * 0
    assert float(level[1]) == float(rows.sum())
    assert float(level[0]) == pytest.approx(float((rows / real.clamp_min(1)).sum()))


def test_what_a_value_carries_is_its_length_after_the_projection() -> None:
    generator = torch.Generator().manual_seed(0)
    values, projection = torch.randn(2, 3, 5, 4, generator=generator), torch.randn(7, 12, generator=generator)
    found = carried_norms(values, projection)
    for b in range(2):
        for h in range(3):
            for j in range(5):
                carried = projection[:, 4 * h : 4 * h + 4] @ values[b, h, j]
                assert float(found[b, h, j]) == pytest.approx(float(carried.norm()), rel=1e-5)
    with pytest.raises(ValueError, match=r"`projection` must be .*\(D, 12\).*got shape \(7, 11\)"):
        carried_norms(values, projection[:, 1:])


@given(st.integers(0, 10**6))
def test_any_mask_and_rows_of_any_size(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    weights = 9 * torch.rand(2, 3, 5, 14, generator=generator, dtype=torch.float64)
    # Some rows have no weight on what they see, some see nothing.
    weights *= torch.rand(weights.shape, generator=generator) < torch.rand(2, 3, 5, 1, generator=generator)
    visible = torch.rand(2, 3, 5, 14, generator=generator) < torch.rand(2, 3, 5, 1, generator=generator)
    queries = torch.rand(2, 5, generator=generator) < 0.7
    given_ = Case(weights, visible, queries, torch.tensor([1, 13]))
    for offset in (0, 9, -2):
        expected = torch.tensor(plain.sums(*lists(given_), offset, MEASURES), dtype=torch.float64)
        torch.testing.assert_close(given_.sums(offset=offset), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("side", ["left", "right"])
def test_equal_weights_are_at_the_level_of_each_measure(kind: str, side: str) -> None:
    given_ = case(1, kind, side, length=30)
    number = given_.visible.sum(-1, keepdim=True)
    level = uniform_sums(*given_[1:])
    assert level.shape == (1, len(MEASURES), 2)
    equal = given_._replace(weights=(given_.visible / number.double()).expand_as(given_.weights))
    torch.testing.assert_close(equal.sums(), level.expand(2, -1, -1), rtol=1e-13, atol=1e-13)
    # By their own formulas.
    seen = number.flatten()[given_.queries.flatten() & (number.flatten() >= 2)].double()
    found = {name: values[0] for name, values in means(level).items()}
    assert found["attention_entropy"] == pytest.approx(1, abs=1e-13)
    assert found["effective_keys"] == pytest.approx(seen.mean().item(), abs=1e-12)
    assert found["self"] == pytest.approx((1 / seen).mean().item(), abs=1e-13)
    if kind == "window":
        assert math.isnan(found["top8_mass"])
    else:
        behind = (torch.arange(30) - given_.first[:, None])[given_.queries]
        eighth = number.flatten()[given_.queries.flatten()][behind % 8 == 7].double()
        assert found["top8_mass"] == pytest.approx((8 / eighth[eighth > 8]).mean().item(), abs=1e-13)
        assert found["sink"] == pytest.approx(found["self"], abs=1e-13)
    if kind == "causal":
        assert math.isnan(found["next_token"])
        assert found["attention_distance"] == pytest.approx(((seen - 1) / 2).mean().item(), abs=1e-12)


@pytest.mark.parametrize(
    ("lag", "name"), [(1, "previous_token"), (0, "self"), (-1, "next_token")], ids=["previous", "self", "next"]
)
@pytest.mark.parametrize("side", ["left", "right"])
def test_planted_heads_that_look_at_a_neighbour(lag: int, name: str, side: str) -> None:
    given_ = case(2, "both sides", side)
    length = given_.weights.shape[-1]
    planted = torch.diag_embed(torch.ones(length - abs(lag)), offset=-lag).expand_as(given_.weights)
    found = means(given_._replace(weights=planted).sums())
    assert found[name] == [1, 1]
    assert found["attention_distance"] == [abs(lag)] * 2
    assert found["attention_entropy"] == [0, 0]
    assert found["effective_keys"] == found["top8_mass"] == [1, 1]
    others = {"previous_token", "self", "next_token"} - {name}
    assert all(found[other] == [0, 0] for other in others)


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_sink_is_the_first_real_key_and_not_the_padding_before_it(side: str) -> None:
    given_ = case(3, "causal", side)
    planted = torch.nn.functional.one_hot(given_.first, given_.weights.shape[-1]).double()
    planted = planted[:, None, None].expand_as(given_.weights)
    assert means(given_._replace(weights=planted).sums())["sink"] == [1, 1]
    assert means(given_.sums())["sink"] == pytest.approx([0.3, 0.3], abs=0.2)


def test_keys_before_the_first_query_are_those_of_a_cache() -> None:
    given_ = case(4)
    whole = given_.sums()
    parts = [
        attention_sums(
            given_.weights[:, :, rows], given_.visible[:, :, rows], given_.queries[:, rows], given_.first, start
        )
        for start, rows in ((0, slice(0, 5)), (5, slice(5, 12)))
    ]
    torch.testing.assert_close(parts[0] + parts[1], whole)


@pytest.mark.parametrize("kind", KINDS)
def test_sums_of_parts_are_those_of_the_whole_whatever_the_padding(kind: str) -> None:
    given_ = case(5, kind, batch=5)
    parts = [Case(*(value[part] for value in given_)) for part in (slice(2), slice(2, 5), slice(0))]
    torch.testing.assert_close(sum(part.sums() for part in parts), given_.sums())
    levels = [uniform_sums(*part[1:]) for part in parts]
    torch.testing.assert_close(sum(levels), uniform_sums(*given_[1:]))
    parts = [head_redundancy(part.weights, part.queries, part.visible) for part in parts]
    torch.testing.assert_close(sum(parts), head_redundancy(given_.weights, given_.queries, given_.visible))
    # Five more columns of padding on the left.
    wider = Case(
        torch.nn.functional.pad(given_.weights, (5, 0, 5, 0), value=math.nan),
        torch.nn.functional.pad(given_.visible, (5, 0, 5, 0)),
        torch.nn.functional.pad(given_.queries, (5, 0)),
        given_.first + 5,
    )
    torch.testing.assert_close(wider.sums(), given_.sums())


def test_heads_in_another_order_are_the_same_heads() -> None:
    given_, order = case(6, heads=5), torch.tensor([3, 0, 4, 1, 2])
    moved = given_._replace(weights=given_.weights[:, order])
    torch.testing.assert_close(moved.sums(), given_.sums()[order])
    torch.testing.assert_close(
        head_redundancy(moved.weights, moved.queries), head_redundancy(given_.weights, given_.queries)
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_rows_that_sum_to_a_little_less_are_made_whole(dtype: torch.dtype) -> None:
    given_ = case(7, "both sides")
    narrow = given_._replace(weights=given_.weights.to(dtype))
    exact = narrow._replace(weights=narrow.weights.double())
    torch.testing.assert_close(narrow.sums(), exact.sums(), rtol=1e-6, atol=1e-6)
    scaled = exact._replace(weights=exact.weights * 0.9)
    torch.testing.assert_close(scaled.sums(), exact.sums())
    torch.testing.assert_close(
        head_redundancy(scaled.weights, scaled.queries), head_redundancy(exact.weights, exact.queries)
    )


def test_nan_shows_in_a_real_row_and_in_its_head_only() -> None:
    given_ = case(8)
    given_.weights[0, 1, 5, 2] = math.nan
    found = given_.sums()
    assert found[0].isfinite().all()
    assert found[1, 0, 0].isnan()
    assert torch.equal(found[0, :, 1], found[1, :, 1])
    assert head_redundancy(given_.weights, given_.queries).isnan().tolist() == [True, False]


def test_what_a_query_may_not_see_is_left_out() -> None:
    given_ = case(9, "window")
    leaking = given_._replace(weights=torch.where(given_.visible, given_.weights, 0.5))
    torch.testing.assert_close(leaking.sums(), given_.sums())
    torch.testing.assert_close(
        head_redundancy(leaking.weights, leaking.queries, given_.visible),
        head_redundancy(given_.weights, given_.queries, given_.visible),
    )


@given(st.integers(0, 10**6), st.sampled_from(KINDS), st.integers(1, 4), st.booleans())
def test_redundancy_is_that_of_a_loop(seed: int, kind: str, heads: int, masked: bool) -> None:
    given_ = case(seed, kind, heads=heads, length=7)
    weights, visible, queries, _ = lists(given_)
    found = head_redundancy(given_.weights, given_.queries, given_.visible if masked else None)
    expected = plain.redundancy(weights, queries, visible if masked else None)
    assert found.tolist() == pytest.approx(expected, abs=1e-9)


def test_redundancy_is_nought_for_equal_heads_and_ln_of_their_number_for_disjoint_ones() -> None:
    given_ = case(10, heads=1)
    same = head_redundancy(given_.weights.expand(-1, 4, -1, -1), given_.queries)
    assert same.tolist() == pytest.approx([0, given_.queries.sum().item()], abs=1e-12)
    apart = torch.eye(4)[:, None].expand(4, 3, 4)[None]
    total, number = head_redundancy(apart, torch.ones(1, 3, dtype=torch.bool)).tolist()
    assert number == 3
    assert total / number == pytest.approx(math.log(4), abs=1e-6)
    alone = head_redundancy(given_.weights, given_.queries)
    assert alone.tolist() == [0, 0]


def test_values_decide_what_a_weight_carries() -> None:
    given_ = case(11, "both sides")
    generator = torch.Generator().manual_seed(0)
    norms = torch.rand(3, 2, 12, generator=generator, dtype=torch.float64)
    found = value_weighted(given_.weights, norms)
    for b, h, i in [(0, 0, 3), (0, 1, 11), (1, 1, 0)]:
        carried = given_.weights[b, h, i] * norms[b, h]
        torch.testing.assert_close(found[b, h, i], carried / carried.sum(), equal_nan=True)
    equal = given_._replace(weights=value_weighted(given_.weights, torch.full((3, 2, 12), 0.2)))
    torch.testing.assert_close(equal.sums(), given_.sums())


def test_a_key_without_weight_carries_nothing_and_a_row_without_values_does_not_count() -> None:
    weights = torch.tensor([[[[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]]]])
    found = value_weighted(weights, torch.tensor([[[0.0, 2.0, math.nan]]]))
    assert found.tolist() == [[[[0, 1, 0], [0, 0, 0]]]]
    sums = attention_sums(found, torch.ones(3, dtype=torch.bool), torch.ones(1, 2, dtype=torch.bool), torch.zeros(1))
    assert sums[0, 0].tolist() == [0, 1]


@given(st.integers(0, 10**6), st.integers(1, 3))
def test_rollout_is_that_of_a_loop(seed: int, layers: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    weights = [
        torch.rand(2, heads, 5, 5, generator=generator, dtype=torch.float64).softmax(-1) * 0.99
        for heads in range(1, layers + 1)
    ]
    found = rollout(weights)
    expected = torch.tensor(plain.rollout([layer.tolist() for layer in weights]), dtype=torch.float64)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(found.sum(-1), torch.ones(2, 5, dtype=torch.float64))


def test_rollout_keeps_padding_to_itself() -> None:
    given_ = case(12, "both sides", "left")
    found = rollout([given_.weights, given_.weights], given_.queries)
    assert found.isfinite().all()
    assert (found[given_.queries] * ~given_.queries.repeat_interleave(given_.queries.sum(1), 0)).sum() == 0
    assert rollout([given_.weights])[~given_.queries].isnan().all()


def test_nothing_is_read_back_from_the_device() -> None:
    # A tensor without data cannot be.
    given_ = Case(*(value.to("meta") for value in case()))
    assert given_.sums().shape == (2, len(MEASURES), 2)
    assert uniform_sums(*given_[1:]).shape == (1, len(MEASURES), 2)
    assert head_redundancy(given_.weights, given_.queries, given_.visible).shape == (2,)
    assert value_weighted(given_.weights, given_.weights[:, :, 0]).shape == given_.weights.shape


def test_errors_name_the_argument_and_its_shape() -> None:
    weights, visible, queries, first = case()
    for call, match in [
        (lambda: attention_sums(weights[0], visible, queries, first), r"`weights`.*\(2, 12, 12\)"),
        (lambda: attention_sums(weights[..., :0], visible, queries, first), r"`weights`.*\(3, 2, 12, 0\)"),
        (lambda: attention_sums(weights, visible[:2], queries, first), r"`visible`.*\(2, 1, 12, 12\)"),
        (lambda: attention_sums(weights, visible[None], queries, first), r"`visible`.*\(1, 3, 1, 12, 12\)"),
        (lambda: attention_sums(weights, visible, queries[:, :4], first), r"`queries`.*\(3, 4\)"),
        (lambda: attention_sums(weights, visible, queries, first[:1]), r"`first`.*\(1,\)"),
        (lambda: uniform_sums(visible, queries[0], first), r"`queries`.*\(12,\)"),
        (lambda: value_weighted(weights, torch.ones(3, 12)), r"`norms`.*\(3, 12\)"),
        (lambda: head_redundancy(weights, queries[:1]), r"`queries`.*\(1, 12\)"),
        (lambda: rollout([]), "`weights` must have at least one layer"),
        (lambda: rollout([weights, weights[:, :, :4]]), r"`weights\[1\]`.*\(3, 2, 4, 12\)"),
        (lambda: rollout([weights], queries[:1]), r"`queries`.*\(1, 12\)"),
    ]:
        with pytest.raises(ValueError, match=match):
            call()
