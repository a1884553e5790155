"""Plain implementations of what coordinate and truth probes do, one entity at a time."""

from __future__ import annotations

import math

import numpy as np
from sklearn.linear_model import Ridge


def proximity_error(predicted: np.ndarray, actual: np.ndarray) -> float:
    total = 0.0
    for i in range(len(actual)):
        own = math.dist(predicted[i], actual[i])
        for j in range(len(actual)):
            if j != i:
                other = math.dist(predicted[j], actual[i])
                total += 1.0 if other < own else 0.5 if other == own else 0.0
    return total / (len(actual) * (len(actual) - 1))


def _fit(x: np.ndarray, y: np.ndarray, alpha: float) -> Ridge:
    scale = ((x - x.mean(0)) ** 2).sum() / min(x.shape)
    return Ridge(alpha * scale, solver="svd").fit(x, y)


def held_out_ridge(x: np.ndarray, y: np.ndarray, folds: np.ndarray, alphas: tuple[float, ...]) -> np.ndarray:
    predictions = np.empty_like(y)
    number = folds.max() + 1
    for fold in range(number):
        test = folds == fold
        for target in range(y.shape[1]):
            errors = []
            for alpha in alphas:
                total = 0.0
                for other in set(range(number)) - {fold}:
                    validation = folds == other
                    train = ~test & ~validation
                    guess = _fit(x[train], y[train, target], alpha).predict(x[validation])
                    total += ((guess - y[validation, target]) ** 2).sum()
                errors.append(total)
            best = alphas[int(np.argmin(errors))]
            predictions[test, target] = _fit(x[~test], y[~test, target], best).predict(x[test])
    return predictions


def best_threshold_errors(scores: np.ndarray, labels: np.ndarray) -> int:
    cuts = [-np.inf, *scores, np.inf]
    return min(int(((scores > cut) != labels).sum()) for cut in cuts)
