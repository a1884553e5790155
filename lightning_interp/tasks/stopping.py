"""When to stop tuning a model on minimal pairs, whose objective has no minimum."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

__all__ = ["Check", "StopRules", "StoppedBy"]

StoppedBy = Literal["accuracy", "no_gain", "perplexity", "steps"]


@dataclass(frozen=True)
class Check:
    """How the model stood after a number of steps."""

    step: int
    """Updates so far; 0 is the untuned model."""
    accuracy: float
    """On held-out pairs; ties count half."""
    margin: float
    """Mean over held-out pairs of log p(good) − log p(bad), in nats."""
    perplexity: float
    """On general text, per token; NaN where none was given."""


@dataclass(frozen=True)
class StopRules:
    """The first rule that applies ends the tuning; of several at one check the first in this order is named.

    ==============  ==================================================================================
    ``accuracy``    the held-out accuracy has reached ``target_accuracy``
    ``no_gain``     the held-out accuracy has not exceeded its best in ``patience`` checks in a row
    ``perplexity``  the perplexity on general text is more than ``perplexity_limit`` above the untuned
                    model's, as a share of it
    ``steps``       ``max_steps`` updates were made
    ==============  ==================================================================================

    The rules and their numbers are this library's choice.

    Args:
        target_accuracy: Above 0 and at most 1; None never stops so.
        patience: At least 1; None never stops so.
        perplexity_limit: At least 0; None never stops so.
        max_steps: At least 0.

    Raises:
        ValueError: If a number is not as above.

    Example:
        >>> rules = StopRules(target_accuracy=0.95, patience=2, perplexity_limit=0.02, max_steps=200)
        >>> checks = [Check(0, 0.5, 0.1, 20.0), Check(5, 0.7, 0.4, 20.1)]
        >>> rules.decide(checks) is None
        True
        >>> rules.decide([*checks, Check(10, 0.8, 0.9, 20.5)])
        'perplexity'

    """

    target_accuracy: float | None = 0.95
    patience: int | None = 10
    perplexity_limit: float | None = 0.02
    max_steps: int = 200

    def __post_init__(self) -> None:
        if self.target_accuracy is not None and not 0 < self.target_accuracy <= 1:
            raise ValueError(f"`target_accuracy` must be above 0 and at most 1, got {self.target_accuracy}.")
        if self.patience is not None and self.patience < 1:
            raise ValueError(f"`patience` must be at least 1, got {self.patience}.")
        if self.perplexity_limit is not None and not self.perplexity_limit >= 0:
            raise ValueError(f"`perplexity_limit` must be at least 0, got {self.perplexity_limit}.")
        if self.max_steps < 0:
            raise ValueError(f"`max_steps` must be at least 0, got {self.max_steps}.")

    def decide(self, history: Sequence[Check]) -> StoppedBy | None:
        """The rule that applies after these checks, the untuned model's first; None to go on."""
        now = history[-1]
        if self.target_accuracy is not None and now.accuracy >= self.target_accuracy:
            return "accuracy"
        accuracies = [check.accuracy for check in history]
        if self.patience is not None and len(history) - 1 - accuracies.index(max(accuracies)) >= self.patience:
            return "no_gain"
        if self.perplexity_limit is not None and now.perplexity > (1 + self.perplexity_limit) * history[0].perplexity:
            return "perplexity"
        return "steps" if now.step >= self.max_steps else None
