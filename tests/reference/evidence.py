"""Whether a key improves after a step, told reading by reading."""

from __future__ import annotations

import math
from statistics import mean

from scipy import stats

from lightning_interp.decisions import Curve


def slow_improvement(key: Curve, since: float, loss: Curve | None, share: float = 0.05) -> tuple[float, float, float]:
    """Gain, share beyond the loss's, and p-value, as ``lightning_interp.decisions.improvement`` defines them."""
    sign = 1 if key.mode == "max" else -1
    values = [sign * value for value in key.values]
    of_loss = [0.0] * len(values)
    if loss is not None:
        by_step = dict(zip(loss.steps, loss.values, strict=True))
        of_loss = [(1 if loss.mode == "max" else -1) * by_step[step] for step in key.steps]
    best, worst = max(of_loss), min(of_loss)
    start = next(
        place
        for place, (step, value) in enumerate(zip(key.steps, of_loss, strict=True))
        if step >= since * (1 - 1e-9) and value >= best - share * (best - worst)
    )
    after = list(range(start, len(values)))
    early, late = after[: min(3, len(after) // 2)], after[-((len(after) + 1) // 2) :]
    gain = mean(values[i] for i in late) - mean(values[i] for i in early)
    lost = mean(of_loss[i] for i in late) - mean(of_loss[i] for i in early)
    spread = max(values) - min(values)
    excess = gain / spread - (max(lost, 0.0) / (best - worst) if best > worst else 0.0)
    weight = {i: (i in late) / len(late) - (i in early) / len(early) for i in after}
    assert key.fit is not None
    variance = sum(weight[i] * weight[j] * key.fit.covariance[i][j] for i in after for j in after)
    freedom = max(len(values) - 2 - 2 * len(key.fit.knees), 1)
    return gain, excess, float(stats.t.sf(excess * spread / math.sqrt(variance), freedom))
