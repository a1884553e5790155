"""Folds that keep blocks whole and depend on the seed alone."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_interp.functional import block_folds, random_folds


@given(number=st.integers(5, 60), folds=st.integers(3, 5), seed=st.integers(0, 99))
def test_random_folds_are_of_one_size_and_repeatable(number: int, folds: int, seed: int) -> None:
    found = random_folds(number, folds, seed)
    sizes = found.bincount(minlength=folds)
    assert int(sizes.max() - sizes.min()) <= 1
    assert torch.equal(found, random_folds(number, folds, seed))


def test_another_seed_gives_other_folds() -> None:
    assert not torch.equal(random_folds(60, 5, 0), random_folds(60, 5, 1))
    blocks = [str(n // 2) for n in range(60)]
    assert not torch.equal(block_folds(blocks, 5, 0), block_folds(blocks, 5, 1))


@given(blocks=st.lists(st.integers(0, 8), min_size=12, max_size=60), folds=st.integers(3, 6), seed=st.integers(0, 99))
def test_blocks_are_never_divided(blocks: list[int], folds: int, seed: int) -> None:
    if len(set(blocks)) < 3:
        with pytest.raises(ValueError, match="at least 3 blocks"):
            block_folds(blocks, folds, seed)
        return
    found = block_folds(blocks, folds, seed).tolist()
    of = {block: {fold for fold, one in zip(found, blocks, strict=True) if one == block} for block in set(blocks)}
    assert all(len(used) == 1 for used in of.values())
    assert set(found) == set(range(min(folds, len(of))))
    # No fold is larger than the emptiest one by more than a block.
    sizes = torch.tensor(found).bincount()
    assert int(sizes.max() - sizes.min()) <= max(blocks.count(block) for block in of)


def test_refusals() -> None:
    with pytest.raises(ValueError, match=r"at most the number of examples, 4; got 5"):
        random_folds(4, 5)
    with pytest.raises(ValueError, match=r"`folds` must be at least 3, got 2"):
        block_folds(["a", "b", "c"], 2)


def test_the_largest_block_goes_first() -> None:
    for seed in range(9):
        sizes = block_folds([*"abcde", *"fffff"], 3, seed).bincount().tolist()
        assert sorted(sizes) == [2, 3, 5]
