"""Probes from moments: scikit-learn's solutions, planted structure, and what adds up."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference.probes import held_out_predictions, unit
from sklearn.linear_model import Ridge, RidgeClassifier

from lightning_interp.functional import ProbeMoments, best_layer, centre_of_gravity, held_out_probes
from lightning_interp.functional.linear_probe import indicators, majority_share

ALPHAS = (1e-4, 1e-2, 1.0)


def drawn(rows: int, dim: int, columns: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(rows, dim, generator=generator, dtype=torch.float64) * torch.logspace(0, -2, dim) + 3
    y = z @ torch.randn(dim, columns, generator=generator, dtype=torch.float64)
    return z, y + torch.randn(rows, columns, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize(("rows", "dim"), [(60, 5), (20, 40), (30, 1)])
@pytest.mark.parametrize("alpha", [1e-6, 0.1, 10.0])
def test_solve_is_ridge(rows: int, dim: int, alpha: float) -> None:
    z, y = drawn(rows, dim, 3)
    expected = Ridge(alpha * unit(z.numpy()), solver="svd").fit(z.numpy(), y.numpy())
    (found,) = ProbeMoments.of(z, y).solve([alpha])
    np.testing.assert_allclose(found.predict(z).numpy(), expected.predict(z.numpy()), atol=1e-6)
    np.testing.assert_allclose(found.weight.T.numpy(), expected.coef_, atol=1e-6)


@pytest.mark.parametrize("number", [2, 5])
def test_the_largest_indicator_is_ridge_classifier(number: int) -> None:
    z, y = drawn(200, 6, number, seed=1)
    classes = y.argmax(1)
    (probe,) = ProbeMoments.of(z, indicators(classes, number)).solve([0.1])
    expected = RidgeClassifier(0.1 * unit(z.numpy())).fit(z.numpy(), classes.numpy())
    assert probe.predict(z).argmax(1).tolist() == expected.predict(z.numpy()).tolist()


def test_held_out_probes_are_those_of_a_loop() -> None:
    z, y = drawn(90, 7, 3, seed=2)
    folds = torch.randint(0, 4, (90,), generator=torch.Generator().manual_seed(3))
    said = torch.empty_like(y)
    moments = [ProbeMoments.of(z[folds == k], y[folds == k]) for k in range(4)]
    for k, found in enumerate(held_out_probes(moments, [slice(0, 2), slice(2, 3)], ALPHAS)):
        said[folds == k] = found.probe.predict(z[folds == k])
    for task in (slice(0, 2), slice(2, 3)):
        expected = held_out_predictions(z.numpy(), y[:, task].numpy(), folds.numpy(), ALPHAS)
        np.testing.assert_allclose(said[:, task].numpy(), expected, atol=1e-6)


def test_a_fold_has_no_part_in_its_own_probe() -> None:
    z, y = drawn(60, 4, 1)
    moments = [ProbeMoments.of(z[k::3], y[k::3]) for k in range(3)]
    other = [ProbeMoments.of(100 * z[0::3], -y[0::3]), *moments[1:]]
    one, two = (next(iter(held_out_probes(some, [slice(1)], ALPHAS))) for some in (moments, other))
    torch.testing.assert_close(one.probe.weight, two.probe.weight, rtol=1e-6, atol=1e-8)
    assert one.alphas == two.alphas


@given(st.integers(1, 50), st.integers(1, 6), st.integers(0, 1000))
def test_moments_add_up_and_give_the_errors_of_rows(rows: int, dim: int, seed: int) -> None:
    z, y = drawn(rows + 3, dim, 2, seed)
    whole = ProbeMoments.of(z, y)
    parts = ProbeMoments.of(z[:3], y[:3]) + ProbeMoments.of(z[3:], y[3:])
    for a, b in zip(whole.parts(), parts.parts(), strict=True):
        torch.testing.assert_close(a, b)
    for a, b in zip((parts - ProbeMoments.of(z[3:], y[3:])).parts(), whole.of(z[:3], y[:3]).parts(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-8)
    (probe,) = whole.solve([1.0])
    torch.testing.assert_close(whole.errors(probe), (y - probe.predict(z)).square().sum(0), rtol=1e-6, atol=1e-6)


def test_vectors_that_do_not_differ_give_the_mean() -> None:
    y = torch.arange(6.0, dtype=torch.float64)[:, None]
    (probe,) = ProbeMoments.of(torch.full((6, 3), 7.0, dtype=torch.float64), y).solve([1e-6])
    assert probe.predict(torch.zeros(1, 3)).tolist() == [[2.5]]


def test_bad_input() -> None:
    z, y = drawn(9, 2, 1)
    two = [ProbeMoments.of(z[:4], y[:4])] * 2
    with pytest.raises(ValueError, match="`folds` must be at least 3"):
        list(held_out_probes(two, [slice(1)]))
    with pytest.raises(ValueError, match="none may be empty"):
        list(held_out_probes([*two, ProbeMoments.of(z[:0], y[:0])], [slice(1)]))
    with pytest.raises(ValueError, match="above 0"):
        list(held_out_probes([*two, *two], [slice(1)], [0.0]))


def test_layers() -> None:
    nan = float("nan")
    assert best_layer([0.2, nan, 0.4, 0.4]) == 2
    assert np.isnan(best_layer([nan]))
    assert centre_of_gravity([0.5, nan, 0.9], [0.5, 0.0, 0.5]) == 2
    assert centre_of_gravity([1.0, 1.0, 0.1], [0.5, 0.5, 0.5]) == 0.5
    assert np.isnan(centre_of_gravity([0.1, 0.2], [0.5, 0.5]))
    with pytest.raises(ValueError, match="one entry for each of 2"):
        centre_of_gravity([0.1, 0.2], [0.5])
    assert np.isnan(majority_share(torch.zeros(0, dtype=torch.long)))
