"""Divergence, what is retained and how it decays, by loops."""

from __future__ import annotations

import math

import pytest
import torch
from reference.fact_tracking import followed, kl

from lightning_interp.functional import add_decay, kl_divergence, retainability, retention_decay


def test_divergence_by_a_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    p, q = torch.randn(2, 6, 9, generator=generator, dtype=torch.float64).softmax(-1)
    found = kl_divergence(p.log(), q.log())
    for row in range(6):
        assert float(found[row]) == pytest.approx(kl(p[row].tolist(), q[row].tolist()), abs=1e-12)
    assert kl_divergence(p.log(), p.log()).tolist() == [0.0] * 6
    none, all_ = torch.tensor([0.0, 1.0]).log(), torch.tensor([1.0, 0.0]).log()
    assert float(kl_divergence(none, all_)) == math.inf
    assert float(kl_divergence(none, none)) == 0
    with pytest.raises(ValueError, match="must have one shape"):
        kl_divergence(p, q[:2])


@pytest.mark.parametrize("seed", range(5))
def test_what_is_retained_by_a_loop(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    steps = [3, 5, 9, 20, 21, 40, 100]
    log_probs = torch.randn(8, len(steps), generator=generator, dtype=torch.float64)
    log_probs[0] = log_probs[0].sort(descending=True).values  # never gains
    log_probs[1] = log_probs[1].sort().values  # best at the end
    best, at = log_probs[:, 0], torch.full((8,), steps[0])
    sums = torch.zeros(8, 5, dtype=torch.float64)
    for place, step in enumerate(steps):
        now = log_probs[:, place]
        better = now > best
        best, at = torch.where(better, now, best), torch.where(better, step, at)
        left = retainability(now, log_probs[:, 0], best)
        sums = add_decay(sums.masked_fill(better[:, None], 0), left, step - at)
    decay = retention_decay(sums)
    for fact in range(8):
        gain, retained, slope = followed(steps, log_probs[fact].tolist())
        assert float(best[fact] - log_probs[fact, 0]) == pytest.approx(gain)
        assert float(left[fact]) == pytest.approx(retained, nan_ok=True)
        assert float(decay[fact]) == pytest.approx(slope, abs=1e-9, nan_ok=True)
    assert left[0].isnan()
    assert float(left[1]) == 1


def test_shapes_are_told() -> None:
    with pytest.raises(
        ValueError, match=r"`now`, `before` and `best` must have one shape, got \(1,\), \(2,\) and \(1,\)"
    ):
        retainability(torch.ones(1), torch.ones(2), torch.ones(1))
    with pytest.raises(ValueError, match=r"`sums` must be \(N, 5\), got \(2, 4\)"):
        retention_decay(torch.zeros(2, 4))
