"""Which patch positions belong to: slow loops on random sizes, errors."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference import patches as plain

from lightning_interp.functional import marked_patches, patch_edges, patch_index

AXES = st.lists(st.tuples(st.integers(1, 7), st.integers(1, 5)), min_size=1, max_size=3)


@given(axes=AXES, seed=st.integers(0, 10**6))
def test_patches_are_those_of_a_loop(axes: list[tuple[int, int]], seed: int) -> None:
    sizes, patch = zip(*axes, strict=True)
    where, found = plain.index(sizes, patch), patch_index(sizes, patch)
    assert tuple(found.shape) == sizes
    assert all(int(found[place]) == number for place, number in where.items())
    marks = torch.rand(2, *sizes, generator=torch.Generator().manual_seed(seed)) < 0.2
    expected = [plain.marked(where, one) for one in marks]
    assert marked_patches(found, marks).tolist() == expected
    assert marked_patches(found, marks.long() * 3).tolist() == expected


@given(size=st.integers(1, 20), patch=st.integers(1, 25))
def test_edges_are_those_of_the_patches(size: int, patch: int) -> None:
    edges, index = patch_edges(size, patch), patch_index([size], [patch])
    for number, (start, end) in enumerate(pairwise(edges)):
        assert (index == number).nonzero().flatten().tolist() == list(range(start, end))
    assert edges[-1] == size


def test_what_does_not_fit_is_told() -> None:
    with pytest.raises(ValueError, match="`size` and `patch` must be at least 1, got 4 and 0"):
        patch_index([4], [0])
    with pytest.raises(ValueError, match=r"`patch` must have a number for each of the sizes \(4, 4\), got \(2,\)"):
        patch_index([4, 4], [2])
    with pytest.raises(ValueError, match=r"`marks` must be \(B, \*\(4,\)\), got \(2, 3\)"):
        marked_patches(patch_index([4], [2]), torch.zeros(2, 3))
