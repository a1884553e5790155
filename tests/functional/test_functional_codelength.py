"""Logistic regression and online code against scikit-learn, and codes whose length is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from reference.probes import online_bits
from sklearn.linear_model import LogisticRegression

from lightning_interp.functional import multinomial_logistic, online_codelength
from lightning_interp.functional.codelength import LOGIT_VARIANCES, block_starts
from lightning_interp.functional.minimise import minimise


def drawn(rows: int, dim: int, number: int, apart: float, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    classes = torch.randint(0, number, (rows,), generator=generator)
    centres = apart * torch.randn(number, dim, generator=generator, dtype=torch.float64)
    z = torch.randn(rows, dim, generator=generator, dtype=torch.float64) + centres[classes]
    return z * torch.logspace(0, -1, dim) + 5, classes


@pytest.mark.parametrize("l2", [0.1, 1.0, 100.0])
@pytest.mark.parametrize("number", [2, 4])
def test_logistic_is_that_of_scikit_learn(number: int, l2: float) -> None:
    z, classes = drawn(300, 6, number, 0.8)
    found = multinomial_logistic(z, classes, number, l2)
    expected = LogisticRegression(C=1 / l2, tol=1e-12, max_iter=10_000, solver="newton-cg")
    # scikit-learn has one column for two classes, whose penalty is that of two opposite ones of half the size.
    if number == 2:
        expected.set_params(C=2 / l2)
    expected.fit(z.numpy(), classes.numpy())
    p = found.predict(z).softmax(1).numpy()
    np.testing.assert_allclose(p, expected.predict_proba(z.numpy()), atol=1e-6)
    if number > 2:
        np.testing.assert_allclose(found.weight.T.numpy(), expected.coef_, atol=1e-5)


def test_online_code_is_that_of_a_loop() -> None:
    z, classes = drawn(400, 5, 3, 0.7, seed=1)
    found = online_codelength(z, classes, 3, blocks=5)
    expected = online_bits(z.numpy(), classes.numpy(), block_starts(400, 5), LOGIT_VARIANCES, held=0.01)
    assert found.bits == pytest.approx(expected, rel=1e-4)
    assert found.compression == pytest.approx(math.log2(3) / found.bits)


def test_random_labels_cost_what_they_hold() -> None:
    z, classes = drawn(4000, 8, 4, 0.0)
    found = online_codelength(z, classes, 4)
    assert 2 <= found.bits < 2.05
    assert found.uniform == 2


def test_labels_that_are_there_cost_little_and_easy_ones_least() -> None:
    easy, hard, none = (online_codelength(*drawn(2000, 8, 4, apart), 4).bits for apart in (4.0, 1.0, 0.0))
    assert easy < 0.15 < hard < none


def test_a_known_entropy_is_reached() -> None:
    # Two Gaussians at ±1: H(Y | Z) by numeric integration.
    generator = torch.Generator().manual_seed(0)
    classes = torch.randint(0, 2, (40_000,), generator=generator)
    z = (2.0 * classes - 1)[:, None] + torch.randn(40_000, 1, generator=generator)
    x = np.linspace(-12, 12, 20_001)
    density = np.exp(-((x - 1) ** 2) / 2) / math.sqrt(2 * math.pi)
    entropy = float(np.trapezoid(density * np.log2(1 + np.exp(-2 * x)), x))
    assert online_codelength(z, classes, 2).bits == pytest.approx(entropy, abs=0.01)


@pytest.mark.parametrize("number", [1, 2, 3, 7])
def test_few_rows(number: int) -> None:
    z, classes = drawn(number, 3, 2, 1.0)
    assert math.isfinite(online_codelength(z, classes, 2).bits)


def test_constant_vectors_and_absent_classes() -> None:
    classes = torch.randint(0, 2, (2000,), generator=torch.Generator().manual_seed(0))
    assert online_codelength(torch.ones(2000, 3), classes, 5).bits == pytest.approx(1, abs=0.05)


def test_blocks() -> None:
    assert block_starts(1024) == [0, *(2**k for k in range(11))]
    assert block_starts(1) == [0, 1]
    assert block_starts(0) == [0]


def test_bad_input() -> None:
    z, classes = drawn(10, 2, 2, 1.0)
    with pytest.raises(ValueError, match="`l2` must be above 0"):
        multinomial_logistic(z, classes, 2, 0.0)
    with pytest.raises(ValueError, match="nothing to send"):
        online_codelength(z[:0], classes[:0], 2)
    with pytest.raises(ValueError, match="`variances`"):
        online_codelength(z, classes, 2, variances=[0.0])


def test_minimise_says_when_it_does_not_converge() -> None:
    scale = torch.tensor([1.0, 100.0, 1e4], dtype=torch.float64)

    def evaluate(point: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return (scale * point.square()).sum(), 2 * scale * point

    start = torch.ones(3, dtype=torch.float64)
    with pytest.raises(RuntimeError, match="not converged in 2 steps"):
        minimise(start, evaluate, lambda gradient: gradient, max_steps=2)
    assert minimise(start, evaluate, lambda gradient: gradient).abs().max() < 1e-4


@pytest.mark.parametrize(("classes", "strength"), [(2, 2.0), (3, 1.0)])
def test_the_penalty_is_scikit_learn_s(classes: int, strength: float) -> None:
    # Of two classes scikit-learn has one vector of weights; two that differ by as much have half its penalty.
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(120, 5, generator=generator)
    y = (z[:, 0] + torch.randn(120, generator=generator)).argsort().argsort() * classes // 120
    found = multinomial_logistic(z, y, classes, l2=20.0).predict(z)
    theirs = LogisticRegression(C=strength / 20, tol=1e-12, max_iter=100_000).fit(z.double().numpy(), y.numpy())
    expected = theirs.predict_log_proba(z.double().numpy())
    np.testing.assert_allclose(found.log_softmax(1).numpy(), expected, atol=1e-4)
