"""CountSketch and the hashed sample: equal to whole-number arithmetic, to themselves in parts, and to their theory."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference import sketch as plain
from scipy import stats

from lightning_interp.functional import add_to_sketch, cosine_matrix, count_sketch, hashed_sample


def whole_numbers(seed: int, *shape: int) -> torch.Tensor:
    """Values whose sums are exact in any order."""
    return torch.randint(-9, 10, shape, generator=torch.Generator().manual_seed(seed)).float()


@given(
    numel=st.integers(0, 60),
    buckets=st.sampled_from([1, 7, 64, 65_536]),
    offset=st.integers(0, 2**45),
    seed=st.integers(-5, 2**40),
)
def test_sketch_is_that_of_the_reference(numel: int, buckets: int, offset: int, seed: int) -> None:
    values = whole_numbers(1, numel)
    found = count_sketch(values, buckets, offset, seed)
    assert found.tolist() == plain.sketch(values.tolist(), buckets, offset, seed)
    assert hashed_sample(numel, 0.3, offset, seed).tolist() == plain.sample(numel, 0.3, offset, seed)


@given(cuts=st.lists(st.integers(0, 300), max_size=6), offset=st.integers(0, 2**40), tasks=st.integers(1, 3))
def test_parts_in_any_order_add_up_to_the_whole(cuts: list[int], offset: int, tasks: int) -> None:
    values = whole_numbers(2, tasks, 300)
    edges = sorted({0, *cuts, 300})
    sketch, sample = torch.zeros(tasks, 50), []
    for start, stop in reversed(list(pairwise(edges))):
        assert add_to_sketch(sketch, values[:, start:stop], offset + start) is sketch
        sample = [start + j for j in hashed_sample(stop - start, 0.2, offset + start).tolist()] + sample
    assert torch.equal(sketch, count_sketch(values, 50, offset))
    assert sample == hashed_sample(300, 0.2, offset).tolist()


def test_chunks_of_the_loop_leave_no_trace() -> None:
    values = whole_numbers(3, 300_001)
    whole = count_sketch(values, 64)
    parts = count_sketch(values[:140_000], 64) + count_sketch(values[140_000:], 64, offset=140_000)
    assert torch.equal(whole, parts)
    tail = count_sketch(values[299_990:], 64, offset=299_990)
    assert tail.tolist() == plain.sketch(values[299_990:].tolist(), 64, 299_990, 0)


@given(seed=st.integers(0, 1000), tasks=st.integers(1, 4))
def test_sketch_is_linear_and_tasks_do_not_meet(seed: int, tasks: int) -> None:
    one, other = whole_numbers(seed, tasks, 200), whole_numbers(seed + 1, tasks, 200)
    assert torch.equal(count_sketch(one + other, 32), count_sketch(one, 32) + count_sketch(other, 32))
    assert torch.equal(count_sketch(one, 32), torch.stack([count_sketch(row, 32) for row in one]))
    order = torch.randperm(tasks, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(count_sketch(one[order], 32), count_sketch(one, 32)[order])


def test_buckets_and_signs_are_even_and_unrelated_to_the_sample() -> None:
    # A one at each coordinate in turn reads bucket and sign back.
    single = count_sketch(torch.eye(4000), buckets=16)
    bucket, sign = single.abs().argmax(dim=1), single.sum(dim=1)
    assert set(sign.tolist()) == {-1.0, 1.0}
    chosen = torch.zeros(4000, dtype=torch.long)
    chosen[hashed_sample(4000, 0.25)] = 1
    for table in (
        torch.bincount(bucket * 2 + (sign > 0), minlength=32),
        torch.bincount(bucket * 2 + chosen, minlength=32),
    ):
        assert stats.chi2_contingency(table.view(16, 2).numpy()).pvalue > 0.01
    assert stats.chisquare(torch.bincount(bucket, minlength=16).numpy()).pvalue > 0.01
    assert abs(float(sign.mean())) < 4 / math.sqrt(4000)
    assert float(chosen.double().mean()) == pytest.approx(0.25, abs=0.03)


def test_seeds_are_unrelated() -> None:
    x = torch.randn(20_000, generator=torch.Generator().manual_seed(0))
    between = cosine_matrix(torch.stack([count_sketch(x, 4096, seed=seed) for seed in range(20)]))
    off = between[~torch.eye(20, dtype=torch.bool)]
    assert float(off.std()) == pytest.approx(4096**-0.5, rel=0.2)


@pytest.mark.parametrize("cosine", [0.0, 0.5, 0.9])
def test_inner_products_are_unbiased_and_vary_as_stated(cosine: float) -> None:
    # Coordinates of very unequal size, as those of gradients are.
    generator = torch.Generator().manual_seed(4)
    scale = torch.randn(5000, generator=generator, dtype=torch.float64).exp()
    x, other = torch.randn(2, 5000, generator=generator, dtype=torch.float64) * scale
    x /= x.norm()
    other -= (other @ x) * x
    y = cosine * x + math.sqrt(1 - cosine**2) * other / other.norm()
    buckets, seeds = 1024, 400
    pairs = [count_sketch(torch.stack([x, y]), buckets, seed=seed) for seed in range(seeds)]
    products = torch.stack([one @ two for one, two in pairs])
    expected = math.sqrt((1 + cosine**2 - 2 * float((x**2 * y**2).sum())) / buckets)
    assert float(products.mean()) == pytest.approx(cosine, abs=4 * expected / math.sqrt(seeds))
    assert float(products.std()) == pytest.approx(expected, rel=0.2)
    errors = torch.stack([cosine_matrix(pair)[0, 1] - cosine for pair in pairs])
    assert float(errors.std()) == pytest.approx((1 - cosine**2) / math.sqrt(buckets), rel=0.2)


def test_dtypes() -> None:
    values = whole_numbers(5, 100)
    assert count_sketch(values.bfloat16(), 8).dtype == torch.float32
    assert torch.equal(count_sketch(values.bfloat16(), 8), count_sketch(values, 8))
    assert count_sketch(values.double(), 8).dtype == torch.float64
    assert not count_sketch(values.requires_grad_(), 8).requires_grad
    assert count_sketch(torch.tensor([1.0, math.nan]), 1).isnan().all()


def test_no_stream_is_moved() -> None:
    before = torch.random.get_rng_state()
    count_sketch(torch.ones(10), 4)
    hashed_sample(10, 0.5)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_whole_sample_is_everything() -> None:
    assert hashed_sample(100, 1.0).tolist() == list(range(100))
    assert hashed_sample(0, 0.5).tolist() == []


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: count_sketch(torch.ones(3), buckets=0), "`buckets` must be at least 1, got 0"),
        (lambda: count_sketch(torch.ones(3), offset=-1), "`offset` must be at least 0, got -1"),
        (lambda: add_to_sketch(torch.zeros(2, 8), torch.ones(3, 5)), r"got shapes \(2, 8\) and \(3, 5\)"),
        (lambda: add_to_sketch(torch.zeros(8), torch.ones(1, 5)), r"got shapes \(8,\) and \(1, 5\)"),
        (lambda: add_to_sketch(torch.zeros(8).half(), torch.ones(5)), "must be float32 or float64 .* torch.float16"),
        (lambda: add_to_sketch(torch.zeros(0), torch.ones(5)), "1 to 2.32 buckets, got 0"),
        (lambda: hashed_sample(5, 0.0), "`rate` must lie above 0 and not above 1, got 0.0"),
        (lambda: hashed_sample(-5, 0.5), "`numel` must be at least 0, got -5"),
    ],
)
def test_bad_input_is_said(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
