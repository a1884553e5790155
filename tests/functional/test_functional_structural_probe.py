"""Structural probes: the loss against loops, the gradient against autograd, planted trees, controls."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import structural_probe as reference
from reference.planted_trees import planted

from lightning_interp.functional import (
    TreeScores,
    chain_scores,
    depth_probe_loss,
    distance_probe_loss,
    fit_depth_probe,
    fit_distance_probe,
    probe_depths,
    probe_distances,
    tree_depths,
    tree_distances,
    tree_scores,
)
from lightning_interp.functional.structural_probe import _Depths, _Distances
from lightning_interp.probing.treebank import grammar_treebank

TREEBANK = grammar_treebank(460)
HEADS = [torch.tensor(one.heads) for one in TREEBANK]
KEEP = [torch.tensor(one.is_word) for one in TREEBANK]
DISTANCES, DEPTHS = [tree_distances(one) for one in HEADS], [tree_depths(one) for one in HEADS]
TRAIN, DEV, TEST = slice(300), slice(300, 360), slice(360, 460)
CHAIN = chain_scores(HEADS[TEST], KEEP[TEST])


def probed(words: list[torch.Tensor], trees: list[torch.Tensor] = HEADS, **kwargs: int) -> TreeScores:
    """Fit on training sentences with these trees, score on test sentences."""
    distances, depths = [tree_distances(one) for one in trees], [tree_depths(one) for one in trees]
    near = fit_distance_probe(words[TRAIN], distances[TRAIN], words[DEV], distances[DEV], **kwargs)
    deep = fit_depth_probe(words[TRAIN], depths[TRAIN], words[DEV], depths[DEV], **kwargs)
    return tree_scores(
        [probe_distances(near.matrix, one) for one in words[TEST]],
        [probe_depths(deep.matrix, one) for one in words[TEST]],
        trees[TEST],
        KEEP[TEST],
    )


@given(seed=st.integers(0, 10**6))
@settings(deadline=None, max_examples=20)
def test_losses_are_those_of_loops(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randint(len(HEADS), (5,), generator=generator).tolist()
    words = [torch.randn(len(HEADS[one]), 6, generator=generator, dtype=torch.float64) for one in chosen]
    matrix = torch.randn(4, 6, generator=generator, dtype=torch.float64)
    arrays, trees = [one.numpy() for one in words], [HEADS[one].tolist() for one in chosen]
    found = distance_probe_loss(matrix, words, [DISTANCES[one] for one in chosen])
    assert float(found) == pytest.approx(reference.distance_loss(matrix.numpy(), arrays, trees), rel=1e-9)
    found = depth_probe_loss(matrix, words, [DEPTHS[one] for one in chosen])
    assert float(found) == pytest.approx(reference.depth_loss(matrix.numpy(), arrays, trees), rel=1e-9)


@pytest.mark.parametrize(("kind", "gold"), [(_Distances, DISTANCES), (_Depths, DEPTHS)])
def test_the_gradient_is_autograds(kind: type, gold: list[torch.Tensor]) -> None:
    generator = torch.Generator().manual_seed(0)
    words = [torch.randn(len(one), 3, generator=generator, dtype=torch.float64) for one in HEADS[:30]]
    problem = kind(words, gold[:30])
    assert len(problem.batches) > 1
    mapped = problem.words.clone().requires_grad_()
    (expected,) = torch.autograd.grad(problem.loss(mapped), mapped)
    found = torch.zeros_like(mapped)
    problem.loss(mapped.detach(), found)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(("dim", "noise"), [(48, 0.1), (160, 0.3)])
def test_planted_trees_are_recovered(dim: int, noise: float) -> None:
    found = probed(planted([one.tolist() for one in HEADS], dim, noise))
    assert found.uuas > 0.97
    assert found.root_accuracy > 0.97
    assert found.dspr > 0.95
    assert found.nspr > 0.93


def test_noise_costs_what_it_must() -> None:
    scores = [probed(planted([one.tolist() for one in HEADS], 48, noise)).uuas for noise in (0.1, 2.0, 8.0)]
    assert scores[0] > scores[1] + 0.1 > scores[2] + 0.2


def test_trees_of_other_sentences_are_not_found() -> None:
    """Planted trees, scored against a random tree over each sentence's words: what is left is chance."""
    generator = torch.Generator().manual_seed(0)
    shuffled = []
    for one in HEADS:
        order = torch.randperm(len(one), generator=generator)
        heads = torch.full_like(one, -1)
        heads[order] = torch.where(one < 0, -1, order[one])
        shuffled.append(heads)
    found = probed(planted([one.tolist() for one in HEADS], 48, 0.1), shuffled)
    edges = sum(len(one) - 2 for one in HEADS[TEST])
    chance = sum(2 * (len(one) - 2) / (len(one) - 1) for one in HEADS[TEST]) / edges
    assert abs(found.uuas - chance) < 0.04
    assert abs(found.dspr) < 0.4


def test_noise_has_no_trees() -> None:
    generator = torch.Generator().manual_seed(0)
    found = probed([torch.randn(len(one), 48, generator=generator) for one in HEADS])
    assert found.uuas < CHAIN.uuas - 0.1
    assert found.nspr < 0.15


def test_places_in_the_sentence_give_the_chain() -> None:
    """Steps in directions of their own along the sentence: squared distance |i − j|."""
    steps = torch.tril(torch.ones(24, 24))
    found = probed([steps[: len(one)].clone() for one in HEADS])
    assert abs(found.uuas - CHAIN.uuas) < 0.12


def test_scale_and_correlation_of_representations_do_not_matter() -> None:
    words = planted([one.tolist() for one in HEADS], 32, 2.0)
    mixed = torch.linalg.qr(torch.randn(32, 32, generator=torch.Generator().manual_seed(1)))[0] @ torch.diag(
        torch.logspace(-0.5, 0.5, 32)
    )
    one, other = probed(words), probed([1000 * x @ mixed for x in words])
    assert one.uuas == pytest.approx(other.uuas, abs=0.03)


def test_the_same_input_gives_the_same_probe_and_a_warm_start_is_short() -> None:
    words = planted([one.tolist() for one in HEADS], 32, 1.0)
    data = words[TRAIN], DISTANCES[TRAIN], words[DEV], DISTANCES[DEV]
    cold, again = fit_distance_probe(*data), fit_distance_probe(*data)
    assert torch.equal(cold.matrix, again.matrix)
    assert cold.loss == pytest.approx(float(distance_probe_loss(cold.matrix, words[DEV], DISTANCES[DEV])), rel=1e-3)
    state = torch.random.get_rng_state()
    warm = fit_distance_probe(*data, start=cold.matrix)
    assert torch.equal(state, torch.random.get_rng_state())
    assert warm.loss <= cold.loss * (1 + 1e-4)
    assert warm.steps < cold.steps
    assert fit_distance_probe(*data, rank=4).matrix.shape == (4, 32)
    assert fit_distance_probe(*data, max_steps=7).steps == 7


def test_representations_without_spread_give_no_nan() -> None:
    words = [torch.zeros(len(one), 4) for one in HEADS]
    fit = fit_distance_probe(words[TRAIN], DISTANCES[TRAIN], words[DEV], DISTANCES[DEV])
    assert bool(fit.matrix.isfinite().all())
    fit = fit_depth_probe([x + 3 for x in words[TRAIN]], DEPTHS[TRAIN], [x + 3 for x in words[DEV]], DEPTHS[DEV])
    assert bool(fit.matrix.isfinite().all())


def test_bad_input_is_named() -> None:
    words, gold = [torch.zeros(2, 3)], [torch.tensor([[0, 1], [1, 0]])]
    with pytest.raises(ValueError, match="got 0 and 0"):
        fit_distance_probe([], [], words, gold)
    with pytest.raises(ValueError, match=r"tree of shape \(2,\); expected \(n, 3\) and \(2, 2\)"):
        fit_distance_probe(words, [torch.zeros(2)], words, gold)
    with pytest.raises(ValueError, match="`rank` must be at least 1, got 0"):
        fit_distance_probe(words, gold, words, gold, rank=0)
    with pytest.raises(ValueError, match=r"`start` must be \(3, 3\)"):
        fit_distance_probe(words, gold, words, gold, start=torch.zeros(2, 3))
    with pytest.raises(ValueError, match="must be finite"):
        fit_distance_probe([words[0] / 0], gold, words, gold)
    with pytest.raises(ValueError, match="have 3 dimensions, those of the dev sentences 4"):
        fit_distance_probe(words, gold, [torch.zeros(2, 4)], gold)
    with pytest.raises(ValueError, match=r"`matrix` must be \(rank, 3\)"):
        distance_probe_loss(torch.zeros(2, 2), words, gold)
