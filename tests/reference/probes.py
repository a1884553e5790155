"""Held-out linear probes and online codes written out with scikit-learn, fold by fold."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from sklearn.linear_model import LogisticRegression, Ridge

Array = np.ndarray


def held_out_predictions(x: Array, y: Array, folds: Array, alphas: Sequence[float]) -> Array:
    """Predictions (N, M) of a ridge that never saw the fold; its strength is chosen on the next one."""
    number = int(folds.max()) + 1
    said = np.empty_like(y)
    for fold in range(number):
        test, validation = folds == fold, folds == (fold + 1) % number
        train = ~test & ~validation
        errors = []
        for alpha in alphas:
            probe = Ridge(alpha * unit(x[train])).fit(x[train], y[train])
            errors.append(((probe.predict(x[validation]).reshape(-1, y.shape[1]) - y[validation]) ** 2).sum())
        best = alphas[int(np.argmin(errors))]
        rest = ~test
        said[test] = Ridge(best * unit(x[rest])).fit(x[rest], y[rest]).predict(x[test]).reshape(-1, y.shape[1])
    return said


def unit(x: Array) -> float:
    """The mean squared singular value of centred vectors."""
    return float(((x - x.mean(0)) ** 2).sum() / min(x.shape))


def online_bits(x: Array, classes: Array, starts: Sequence[int], variances: Sequence[float], held: float) -> float:
    """Bits a label of an online code, every block with a logistic regression of scikit-learn.

    The intercept is penalised too, which scikit-learn does for a column of ones of the right size.
    """
    number = int(classes.max()) + 1
    centred = x - x.mean(0)
    found = []
    for variance in variances:
        l2 = float((centred**2).sum(1).mean()) / variance
        wide = np.hstack([centred, np.full((len(x), 1), math.sqrt(l2 / held))])
        bits = starts[1] * math.log2(number)
        for start, stop in pairwise(starts[1:]):
            # A class that was not seen yet: a row of no weight stands for it.
            known = np.vstack([wide[:start], np.zeros((number, wide.shape[1]))])
            weights = np.concatenate([np.ones(start), np.zeros(number)])
            probe = LogisticRegression(C=1 / l2, fit_intercept=False, tol=1e-10, max_iter=10_000, solver="newton-cg")
            probe.fit(known, np.concatenate([classes[:start], np.arange(number)]), weights)
            p = probe.predict_proba(wide[start:stop])[np.arange(stop - start), classes[start:stop]]
            bits -= np.log2(p).sum()
        found.append(bits)
    return (min(found) + math.log2(len(variances))) / len(x)
