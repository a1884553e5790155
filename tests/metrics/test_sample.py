"""A sample of vectors that depends on where they stand, and on nothing else."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_interp.distributed import over_ranks
from lightning_interp.metrics.sample import FixedSample, Sample


def cloud(number: int = 30, length: int = 5, dim: int = 3) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Vectors that tell where they stand, a mask, and labels."""
    generator = torch.Generator().manual_seed(0)
    where = torch.arange(number * length, dtype=torch.float32).view(number, length, 1)
    mask = torch.rand(number, length, generator=generator) < 0.7
    return where + torch.zeros(dim), mask, torch.randint(9, (number, length), generator=generator)


def take(size: int, batches: list[torch.Tensor], seed: int = 0) -> Sample:
    z, mask, labels = cloud()
    sample = FixedSample(size, seed, ["kind", "none"])
    for rows in batches:
        sample.update(z[rows], mask[rows], {"kind": labels[rows]}, rows)
    return over_ranks(sample.merge())


@given(st.permutations(range(30)), st.integers(1, 12), st.integers(1, 200))
def test_the_choice_is_the_same_however_the_data_are_batched(order: list[int], batch: int, size: int) -> None:
    whole = take(size, [torch.arange(30)])
    parts = take(size, list(torch.tensor(order).split(batch)))
    for one, other in zip(whole, parts, strict=True):
        assert torch.equal(one, other)
    assert len(whole.vectors) == min(size, int(cloud()[1].sum()))


def test_vectors_labels_and_places_belong_together_and_masked_ones_are_left_out() -> None:
    z, mask, labels = cloud()
    found = take(40, [torch.arange(30)])
    for vector, label, number, place in zip(*found, strict=True):
        assert torch.equal(vector, z[number, place])
        assert mask[number, place]
        assert label.tolist() == [labels[number, place], -1]
    assert len(set(zip(found.samples.tolist(), found.places.tolist(), strict=True))) == 40


def test_every_position_has_the_same_chance() -> None:
    chosen = torch.zeros(30, 5)
    for seed in range(400):
        found = take(10, [torch.arange(30)], seed)
        chosen[found.samples, found.places] += 1
    mask = cloud()[1]
    expected = 400 * 10 / int(mask.sum())
    counts = chosen[mask]
    assert chosen[~mask].sum() == 0
    # A chi-square with some 100 degrees of freedom: .001 of them lie beyond 1.5 times their number.
    assert ((counts - expected) ** 2 / expected).mean() < 1.5


def test_what_is_not_finite_is_left_out() -> None:
    z = torch.tensor([[1.0], [float("nan")], [float("inf")], [2.0]])[:, None]
    sample = FixedSample(10, labels=["kind"])
    sample.update(z, torch.ones(4, 1, dtype=torch.bool), {}, torch.arange(4))
    found = over_ranks(sample.merge())
    assert found.samples.tolist() == [0, 3]
    assert found.labels.tolist() == [[-1], [-1]]


@pytest.mark.parametrize("shape", [(4,), (4, 3), (4, 3, 2)])
def test_labels_come_per_sample_per_position_or_several_a_position(shape: tuple[int, ...]) -> None:
    labels = torch.arange(torch.tensor(shape).prod()).view(shape)
    sample = FixedSample(12, labels=["other", "kind"])
    given = {"kind": labels, "other": torch.zeros(4)}
    sample.update(torch.zeros(4, 3, 2), torch.ones(4, 3, dtype=torch.bool), given, torch.arange(4))
    found = over_ranks(sample.merge())
    first = labels[:, None].expand(4, 3) if labels.ndim == 1 else labels if labels.ndim == 2 else labels[..., 0]
    assert found.labels.tolist() == [[0, label] for label in first.flatten().tolist()]


def test_nothing_read_gives_nothing() -> None:
    found = over_ranks(FixedSample(3, labels=["kind"]).merge())
    assert found.vectors.shape == (0, 0)
    assert found.labels.shape == (0, 1)
    assert found.samples.tolist() == []
