"""Trees, spanning trees and scores, against walks, scipy and loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import structural_probe as reference
from scipy.sparse.csgraph import minimum_spanning_tree as scipy_tree

from lightning_interp.functional import (
    chain_scores,
    minimum_spanning_tree,
    tree_depths,
    tree_distances,
    tree_scores,
)

seeds = st.integers(0, 10**6)


def random_heads(n: int, generator: torch.Generator) -> torch.Tensor:
    """A tree with a random root and random order of words."""
    order = torch.randperm(n, generator=generator)
    heads = torch.full((n,), -1)
    for place in range(1, n):
        heads[order[place]] = order[int(torch.randint(place, (1,), generator=generator))]
    return heads


def drawn(seed: int, lengths: list[int]) -> tuple[list[torch.Tensor], list[torch.Tensor], list[torch.Tensor]]:
    """Trees, symmetric distances and depths without ties."""
    generator = torch.Generator().manual_seed(seed)
    heads = [random_heads(n, generator) for n in lengths]
    points = [torch.randn(n, 3, generator=generator, dtype=torch.float64) for n in lengths]
    return heads, [torch.cdist(one, one) for one in points], [one[:, 0] for one in points]


@given(seed=seeds, n=st.integers(1, 12))
def test_distances_and_depths_are_those_of_walks(seed: int, n: int) -> None:
    heads = random_heads(n, torch.Generator().manual_seed(seed))
    walked = [[reference.distance(heads.tolist(), i, j) for j in range(n)] for i in range(n)]
    assert tree_distances(heads).tolist() == walked
    assert tree_depths(heads).tolist() == [reference.depth(heads.tolist(), i) for i in range(n)]


@given(seed=seeds, n=st.integers(1, 12))
def test_the_spanning_tree_of_tree_distances_is_the_tree(seed: int, n: int) -> None:
    heads = random_heads(n, torch.Generator().manual_seed(seed))
    found = minimum_spanning_tree(tree_distances(heads))
    edges = {frozenset((i, h)) for i, h in enumerate(heads.tolist()) if h >= 0}
    assert {frozenset((i, h)) for i, h in enumerate(found.tolist()) if h >= 0} == edges


@given(seed=seeds)
@settings(deadline=None)
def test_spanning_trees_in_a_batch_are_scipys(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(4, 9, 2, generator=generator, dtype=torch.float64)
    distances, mask = torch.cdist(points, points), torch.rand(4, 9, generator=generator) < 0.7
    for d, kept, found in zip(distances, mask, minimum_spanning_tree(distances, mask), strict=True):
        words = kept.nonzero().flatten().tolist()
        rows, columns = scipy_tree(d[kept][:, kept].numpy()).nonzero() if words else ([], [])
        expected = {frozenset((words[i], words[j])) for i, j in zip(rows, columns, strict=True)}
        edges = [frozenset((i, h)) for i, h in enumerate(found.tolist()) if h >= 0]
        assert set(edges) == expected
        assert len(edges) == max(len(words) - 1, 0)


@given(seed=seeds)
@settings(deadline=None, max_examples=30)
def test_scores_are_those_of_loops(seed: int) -> None:
    lengths = [5, 9, 2, 5, 7, 4, 9, 5, 3]
    heads, distances, depths = drawn(seed, lengths)
    generator = torch.Generator().manual_seed(seed + 1)
    keep = [(torch.rand(n, generator=generator) < 0.7) | (torch.arange(n) == n - 1) for n in lengths]
    found = tree_scores(distances, depths, heads, keep)
    arrays = [[one.numpy() for one in many] for many in (distances, depths)]
    lists = [[one.tolist() for one in many] for many in (heads, keep)]
    assert found == pytest.approx(reference.scores(*arrays, *lists))


def test_the_gold_tree_scores_one_and_a_constant_has_no_order() -> None:
    heads, _, _ = drawn(0, [5, 8, 12])
    gold = [tree_distances(one) for one in heads], [tree_depths(one) for one in heads]
    assert tree_scores(*gold, heads) == pytest.approx((1, 1, 1, 1))
    nothing = tree_scores([0 * one for one in gold[0]], [0 * one for one in gold[1]], heads)
    assert (nothing.dspr, nothing.nspr) == (0, 0)


def test_punctuation_with_dependents_counts_as_in_the_paper_s_code() -> None:
    # The root is a dash: no kept word can be the root, and the words that hang on it are joined by the shortest pairs.
    heads, keep = torch.tensor([1, -1, 1, 2]), torch.tensor([True, False, True, True])
    gold = tree_distances(heads).double(), tree_depths(heads).double()
    assert tree_scores([gold[0]], [gold[1]], [heads], [keep])[:3:2] == (1.0, 0.0)
    wrong = gold[0].clone()
    wrong[0, 3] = wrong[3, 0] = 0.5  # of the edges 0-2 and 2-3 the first is not found
    assert tree_scores([wrong], [gold[1]], [heads], [keep]).uuas == 0.5


def test_the_chain_has_half_the_edges_of_this_tree() -> None:
    # 0 - 1, 1 - 2 are neighbours; 0 - 3 and 0 - 4 are not.
    scores = chain_scores([torch.tensor([-1, 0, 1, 0, 0])])
    assert scores.uuas == 0.5
    assert scores.root_accuracy == 1
    # Without word 1, words 0 and 2 are neighbours, and of the other words 0 is nearest to 2 in the tree.
    keep = [torch.tensor([True, False, True, True, True])]
    assert chain_scores([torch.tensor([-1, 0, 1, 0, 0])], keep).uuas == pytest.approx(1 / 3)


def test_what_cannot_be_scored_is_nan() -> None:
    scores = chain_scores([torch.tensor([-1])])
    assert math.isnan(scores.uuas)
    assert math.isnan(scores.dspr)
    assert scores.root_accuracy == 1
    assert np.isfinite(chain_scores([torch.tensor([-1, 0])], lengths=(2, 2)).dspr)


BAD = [
    ([0, 0], "one root, marked by -1, got 0"),
    ([-1, -1], "one root, marked by -1, got 2"),
    ([-1, 2], "places from 0 to 1"),
    ([-1, 2, 1], "run in a circle"),
]


@pytest.mark.parametrize(("heads", "message"), BAD)
def test_what_is_no_tree_is_named(heads: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tree_depths(torch.tensor(heads))


def test_shapes_that_do_not_fit_are_named() -> None:
    heads = [torch.tensor([-1, 0])]
    with pytest.raises(ValueError, match=r"sentence 0 has 2 heads.*\(3, 3\)"):
        tree_scores([torch.zeros(3, 3)], [torch.zeros(2)], heads)
    with pytest.raises(ValueError, match="as many sentences"):
        tree_scores([], [torch.zeros(2)], heads)
    with pytest.raises(ValueError, match="sentences of 2 words have NaN"):
        tree_scores([torch.full((2, 2), math.nan)], [torch.zeros(2)], heads)
    with pytest.raises(ValueError, match=r"`distances` must be \(n, n\)"):
        minimum_spanning_tree(torch.zeros(2, 3))
    with pytest.raises(ValueError, match="`mask` must be"):
        minimum_spanning_tree(torch.zeros(2, 2), torch.ones(3, dtype=torch.bool))
