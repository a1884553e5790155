"""When a value has not improved for long enough."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["PatienceRule"]


@dataclass
class PatienceRule:
    """Stop when a value has not improved for a while.

    A reading improves if it is better than the best one by more than d, where d is ``min_delta`` itself
    (``delta="absolute"``), that share of the size of the best value (``"relative"``), or that many standard errors
    (``"se"``). A second reading at the same step takes the place of the first.

    Args:
        mode: ``"max"`` or ``"min"``.
        patience: Readings without improvement before it stops.
        patience_steps: Optimizer steps since the best value instead; a stop still comes with a reading.
        min_delta: See above.
        delta: ``"absolute"``, ``"relative"`` or ``"se"``.

    Example:
        >>> rule = PatienceRule("max", patience=2)
        >>> [rule.update(step, value)[0] for step, value in [(10, 0.5), (20, 0.7), (30, 0.6), (40, 0.7)]]
        [False, False, False, True]
        >>> rule.best_step
        20

    """

    mode: str = "max"
    patience: int = 5
    patience_steps: int | None = None
    min_delta: float = 0.0
    delta: str = "absolute"
    best_value: float | None = None
    best_step: int | None = None
    waited: int = 0
    _step: int | None = field(default=None, init=False)
    _before: tuple[float | None, int | None, int] = field(default=(None, None, 0), init=False)

    def update(self, step: int, value: float, se: float | None = None) -> tuple[bool, str | None]:
        """Take in the next reading.

        Args:
            step: Its optimizer step.
            value: The value, finite.
            se: Its standard error, for ``delta="se"``.

        Returns:
            Whether to stop, and what there is to say: why it stops, or what improved.

        """
        if step == self._step:
            self.best_value, self.best_step, self.waited = self._before
        self._step, self._before = step, (self.best_value, self.best_step, self.waited)
        if self.best_value is None or self.best_step is None:
            self.best_value, self.best_step, self.waited = value, step, 0
            return False, f"starts from {value:.4g}"
        gain = (value - self.best_value) * (1.0 if self.mode == "max" else -1.0)
        needed = self._needed(se)
        if gain > needed:
            old, self.best_value, self.best_step, self.waited = self.best_value, value, step, 0
            return False, f"improved from {old:.4g} to {value:.4g}"
        self.waited += 1
        more = f"by more than {needed:.3g} " if needed else ""
        best = f"best: {self.best_value:.4g} at step {self.best_step}"
        if self.patience_steps is not None:
            if step - self.best_step >= self.patience_steps:
                return True, f"did not improve {more}in {step - self.best_step} optimizer steps; {best}"
        elif self.waited >= self.patience:
            return True, f"did not improve {more}in {self.waited} readings; {best}"
        return False, None

    def _needed(self, se: float | None) -> float:
        if self.delta == "relative":
            return self.min_delta * abs(self.best_value or 0.0)
        if self.delta == "se":
            if se is None:
                raise ValueError("delta='se' needs the standard error of the reading.")
            return self.min_delta * se
        return self.min_delta

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers: what was seen, without the settings."""
        return {
            "best_value": self.best_value,
            "best_step": self.best_step,
            "waited": self.waited,
            "step": self._step,
            "before": list(self._before),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state_dict` gave."""
        self.best_value, self.best_step, self.waited = state["best_value"], state["best_step"], state["waited"]
        value, step, waited = state["before"]
        self._step, self._before = state["step"], (value, step, waited)
