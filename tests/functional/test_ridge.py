"""Ridge in closed form against scikit-learn, and that nothing of a held-out fold leaks into its predictions."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import Ridge

from lightning_interp.functional import held_out_ridge, random_folds, ridge
from tests.reference.coordinates import held_out_ridge as plain_held_out

seeds = st.integers(0, 10**6)


def data(seed: int, number: int, dim: int, targets: int = 2, noise: float = 0.5) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(number, dim, generator=generator, dtype=torch.float64) * torch.logspace(0, -2, dim) + 3
    y = x @ torch.randn(dim, targets, generator=generator, dtype=torch.float64) + 7
    return x, y + noise * torch.randn(number, targets, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize(("number", "dim"), [(40, 6), (12, 30), (15, 15)])
@pytest.mark.parametrize("alpha", [1e-3, 1.0, 100.0])
def test_equals_scikit_learn_in_both_forms(number: int, dim: int, alpha: float) -> None:
    x, y = data(number, number, dim)
    found, expected = ridge(x, y, alpha), Ridge(alpha, solver="svd").fit(x.numpy(), y.numpy())
    torch.testing.assert_close(found.weight, torch.from_numpy(expected.coef_.T), atol=1e-8, rtol=1e-7)
    torch.testing.assert_close(found.bias, torch.from_numpy(expected.intercept_), atol=1e-7, rtol=1e-7)
    torch.testing.assert_close(found.predict(x.float()), torch.from_numpy(expected.predict(x.float().numpy())))


@pytest.mark.parametrize(("number", "dim"), [(40, 6), (24, 50)])
def test_held_out_equals_the_plain_loop(number: int, dim: int) -> None:
    x, y = data(2, number, dim, noise=2.0)
    folds = random_folds(number, 4, seed=3)
    alphas = (1e-4, 1e-2, 1.0)
    found = held_out_ridge(x, y, folds, alphas)
    expected = plain_held_out(x.numpy(), y.numpy(), folds.numpy(), alphas)
    torch.testing.assert_close(found.predictions, torch.from_numpy(expected), atol=1e-7, rtol=1e-7)
    assert len({tuple(row) for row in found.alphas.tolist()}) > 1


@given(seed=seeds, fold=st.integers(0, 3))
def test_what_is_said_of_a_fold_does_not_depend_on_its_targets(seed: int, fold: int) -> None:
    x, y = data(seed, 30, 8)
    folds = random_folds(30, 4, seed)
    changed = y.clone()
    changed[folds == fold] += 100 * torch.randn(int((folds == fold).sum()), 2, dtype=torch.float64)
    before, after = held_out_ridge(x, y, folds).predictions, held_out_ridge(x, changed, folds).predictions
    torch.testing.assert_close(before[folds == fold], after[folds == fold], atol=0, rtol=0)
    others = folds == (fold + 2) % 4
    assert not torch.allclose(before[others], after[others])


@given(seed=seeds, scale=st.sampled_from([1e-3, 7.0, 1e4]), shift=st.sampled_from([-50.0, 0.0, 9.0]))
def test_units_do_not_matter(seed: int, scale: float, shift: float) -> None:
    x, y = data(seed, 30, 8)
    folds = random_folds(30, 5, seed)
    plain = held_out_ridge(x, y, folds).predictions
    moved = held_out_ridge(scale * x + shift, y, folds).predictions
    torch.testing.assert_close(moved, plain, atol=1e-4, rtol=1e-4)
    stretched = held_out_ridge(x, scale * y + shift, folds).predictions
    torch.testing.assert_close((stretched - shift) / scale, plain, atol=1e-6, rtol=1e-6)


def test_targets_are_independent_of_one_another() -> None:
    x, y = data(5, 40, 8)
    folds = random_folds(40)
    both = held_out_ridge(x, y, folds).predictions
    for target in range(2):
        torch.testing.assert_close(held_out_ridge(x, y[:, [target]], folds).predictions, both[:, [target]])


def test_vectors_that_do_not_differ_say_the_mean_of_the_other_folds() -> None:
    _, y = data(0, 12, 3)
    folds = random_folds(12, 3)
    found = held_out_ridge(torch.ones(12, 5), y, folds).predictions
    for fold in range(3):
        expected = y[folds != fold].mean(0).expand(4, 2)
        torch.testing.assert_close(found[folds == fold], expected)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"x": torch.ones(3)}, "`x` must be a non-empty matrix"),
        ({"y": torch.ones(5, 1)}, "as many rows"),
        ({"x": torch.full((6, 2), torch.nan)}, "`x` has 12 values of 12 that are not finite"),
        ({"folds": torch.zeros(6, dtype=torch.long)}, r"`folds` must hold every number .* got \[0\]"),
        ({"folds": torch.tensor([0, 1, 3, 0, 1, 3])}, r"got \[0, 1, 3\]"),
        ({"folds": torch.arange(5)}, r"integers of shape \(6,\)"),
        ({"alphas": [1.0, 0.0]}, "`alphas` must hold strengths above 0"),
    ],
)
def test_refusals(changes: dict[str, object], told: str) -> None:
    good = {"x": torch.randn(6, 2), "y": torch.randn(6, 1), "folds": torch.arange(6) % 3}
    with pytest.raises(ValueError, match=told):
        held_out_ridge(**{**good, **changes})


def test_ridge_refuses_no_penalty() -> None:
    with pytest.raises(ValueError, match=r"`alpha` must be above 0, got 0"):
        ridge(torch.ones(2, 1), torch.ones(2, 1), 0)
