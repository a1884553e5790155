"""Logistic regression and mass-mean probes against scikit-learn, and the ROC's area and threshold."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from lightning_interp.functional import auroc, best_threshold, logistic, mass_mean
from tests.reference.coordinates import best_threshold_errors

seeds = st.integers(0, 10**6)


def classes(seed: int, number: int, dim: int, apart: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.rand(number, generator=generator) < 0.4
    labels[:2] = torch.tensor([True, False])
    x = torch.randn(number, dim, generator=generator, dtype=torch.float64) * torch.logspace(0.5, -1, dim) + 2
    return x + apart * labels[:, None], labels


@pytest.mark.parametrize(("number", "dim"), [(60, 5), (20, 40), (12, 12)])
@pytest.mark.parametrize("l2", [0.01, 1.0, 30.0])
def test_logistic_equals_scikit_learn(number: int, dim: int, l2: float) -> None:
    x, labels = classes(number, number, dim)
    found = logistic(x, labels, l2)
    expected = LogisticRegression(C=1 / l2, tol=1e-10, max_iter=20_000).fit(x.numpy(), labels.numpy())
    np.testing.assert_allclose(found.weight.numpy(), expected.coef_[0], atol=2e-4, rtol=2e-4)
    np.testing.assert_allclose(found.score(x).numpy(), expected.decision_function(x.numpy()), atol=1e-3, rtol=1e-3)


@given(seed=seeds, number=st.integers(6, 30), dim=st.integers(1, 40), l2=st.sampled_from([1e-4, 0.1, 10.0]))
def test_logistic_is_solved_to_the_end(seed: int, number: int, dim: int, l2: float) -> None:
    x, labels = classes(seed, number, dim, apart=2.0)
    weight, bias = logistic(x, labels, l2)
    weight, bias = weight.clone().requires_grad_(), bias.clone().requires_grad_()
    sign = labels.double() * 2 - 1
    loss = torch.nn.functional.softplus(-sign * (x @ weight + bias)).sum() + l2 / 2 * weight.square().sum()
    loss.backward()
    assert float(weight.grad.norm()) < 1e-5
    assert abs(float(bias.grad)) < 1e-5


def test_logistic_of_equal_vectors_says_the_share() -> None:
    rule = logistic(torch.ones(8, 3), torch.tensor([1, 1, 1, 1, 1, 1, 0, 0]))
    assert rule.score(torch.ones(1, 3)).sigmoid().item() == pytest.approx(0.75)


@pytest.mark.parametrize(("number", "dim"), [(60, 5), (20, 40)])
@pytest.mark.parametrize("shrinkage", [0.1, 0.7])
def test_whitened_mass_mean_is_discriminant_analysis(number: int, dim: int, shrinkage: float) -> None:
    x, labels = classes(3, number, dim)
    # scikit-learn weighs the classes' covariances by their priors, and shrinks each one; as many of both are the same.
    labels = torch.arange(number) % 2 == 0
    x = x + labels[:, None]
    found = mass_mean(x, labels, whiten=True, shrinkage=shrinkage)
    within = x - torch.where(labels[:, None], x[labels].mean(0), x[~labels].mean(0))
    covariance = (1 - shrinkage) * np.cov(within.numpy().T, bias=True)
    covariance += shrinkage * np.trace(np.cov(within.numpy().T, bias=True)) / dim * np.eye(dim)
    expected = np.linalg.solve(covariance, (x[labels].mean(0) - x[~labels].mean(0)).numpy())
    np.testing.assert_allclose(found.weight.numpy(), expected, rtol=1e-7, atol=1e-9)
    unscaled = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=1e-9, priors=[0.5, 0.5])
    if number > dim:
        found = mass_mean(x, labels, whiten=True, shrinkage=1e-9)
        scores = unscaled.fit(x.numpy(), labels.numpy()).decision_function(x.numpy())
        np.testing.assert_allclose(found.score(x).numpy(), scores, rtol=1e-5, atol=1e-6)


def test_mass_mean_is_the_difference_of_means() -> None:
    x, labels = classes(0, 50, 7)
    rule = mass_mean(x, labels)
    torch.testing.assert_close(rule.weight, x[labels].mean(0) - x[~labels].mean(0))
    torch.testing.assert_close(rule.score(x[labels]).mean(), -rule.score(x[~labels]).mean())
    same = mass_mean(torch.ones(4, 3), torch.tensor([0, 1, 0, 1]), whiten=True)
    assert not same.weight.any()


@given(seed=seeds, number=st.integers(2, 40), ties=st.booleans())
def test_auroc_and_threshold(seed: int, number: int, ties: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.rand(number, generator=generator) < 0.5
    labels[:2] = torch.tensor([True, False])
    scores = torch.randn(number, generator=generator) + labels
    scores = scores.round() if ties else scores
    assert auroc(scores, labels) == pytest.approx(roc_auc_score(labels.numpy(), scores.numpy()))
    cut = best_threshold(scores, labels)
    assert int(((scores > cut) != labels).sum()) == best_threshold_errors(scores.numpy(), labels.numpy())
    assert not bool((scores == cut).any())


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: logistic(torch.ones(3, 1), torch.tensor([1, 1, 1])), r"both 0 and 1.*got \[1\]"),
        (lambda: logistic(torch.ones(3, 1), torch.tensor([0, 1, 2])), r"got \[0, 1, 2\]"),
        (lambda: logistic(torch.ones(2, 1), torch.tensor([0, 1]), 0.0), "`l2` must be above 0"),
        (lambda: mass_mean(torch.tensor([[torch.nan], [0.0]]), torch.tensor([0, 1])), "1 values of 2"),
        (lambda: mass_mean(torch.ones(2, 1), torch.tensor([0, 1]), True, 0.0), "`shrinkage` must lie above 0"),
        (lambda: mass_mean(torch.ones(2, 1), torch.tensor([0, 1, 1])), r"one a row of `x`, \(2,\); got shape \(3,\)"),
        (lambda: auroc(torch.ones(2), torch.ones(2)), "both classes, got 2 of class 1 in 2"),
        (lambda: auroc(torch.ones(2), torch.ones(3)), "of one length"),
        (lambda: best_threshold(torch.tensor([torch.nan, 1.0]), torch.tensor([0, 1])), "1 NaN of 2"),
    ],
)
def test_refusals(call: object, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        call()  # type: ignore[operator]
