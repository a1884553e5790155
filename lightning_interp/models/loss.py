"""The loss of a whole validation set."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional
from torchmetrics import Metric

__all__ = ["TokenLoss"]


class TokenLoss(Metric):
    """Cross-entropy per token in nats, over all sequences together, however they are split into batches and ranks.

    Args:
        ignore_index: Label of positions that are not counted.

    Shapes:
        - ``logits``: (B, T, V).
        - ``labels``: (B, T) ids.

    Raises:
        ValueError: If ``labels`` are not (B, T) for logits (B, T, V).

    Example:
        >>> metric = TokenLoss()
        >>> metric.update(torch.zeros(2, 3, 8), torch.tensor([[5, 2, -100], [5, 7, 2]]))
        >>> metric.compute()
        tensor(2.0794)

    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False
    plot_lower_bound = 0.0
    total: Tensor
    tokens: Tensor

    def __init__(self, ignore_index: int = -100) -> None:
        super().__init__()
        self.ignore_index = ignore_index
        self.add_state("total", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("tokens", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Add the losses of a batch."""
        if logits.dim() != 3 or logits.shape[:2] != labels.shape:
            raise ValueError(
                "`logits` must be (B, T, V) and `labels` (B, T); "
                f"they are {tuple(logits.shape)} and {tuple(labels.shape)}."
            )
        losses = functional.cross_entropy(
            logits.flatten(0, 1).float(), labels.flatten(), ignore_index=self.ignore_index, reduction="sum"
        )
        self.total += losses.detach()
        self.tokens += (labels != self.ignore_index).sum()

    def compute(self) -> Tensor:
        """The mean over all updates, a scalar; not a number where no token was seen."""
        return self.total / self.tokens
