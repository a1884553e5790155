"""How often a sequence model predicts the labels."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric

__all__ = ["ExactMatch", "TokenAccuracy"]


class _Accuracy(Metric):
    """The share of correct units, ``correct / total``; subclasses say what a unit is."""

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    plot_lower_bound = 0.0
    plot_upper_bound = 1.0
    correct: Tensor
    total: Tensor

    def __init__(self, ignore_index: int = -100) -> None:
        super().__init__()
        self.ignore_index = ignore_index
        self.add_state("correct", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("total", torch.tensor(0), dist_reduce_fx="sum")

    def compute(self) -> Tensor:
        """The share over all updates, a scalar; not a number where no unit was seen."""
        return self.correct / self.total

    def _compare(self, predictions: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        if predictions.shape != labels.shape or labels.dim() != 2:
            raise ValueError(
                "`predictions` and `labels` must both be (B, T); "
                f"they are {tuple(predictions.shape)} and {tuple(labels.shape)}."
            )
        return predictions == labels, labels != self.ignore_index


class ExactMatch(_Accuracy):
    r"""Share of sequences in which every position is predicted correctly.

    .. math:: \frac{1}{N} \sum_{i=1}^{N} \prod_{t} [\hat y_{it} = y_{it}]

    With predictions under teacher forcing it equals the exact match of greedy decoding: as long as every prediction so
    far is right, both condition on the same words.

    Args:
        ignore_index: Label of positions that are padding. A sequence of nothing else is not counted.

    Shapes:
        - ``predictions``: (B, T) ids.
        - ``labels``: (B, T) ids.

    Raises:
        ValueError: If the shapes differ or are not (B, T).

    Example:
        >>> metric = ExactMatch()
        >>> metric.update(torch.tensor([[5, 2, 9], [5, 6, 2]]), torch.tensor([[5, 2, -100], [5, 7, 2]]))
        >>> metric.compute()
        tensor(0.5000)

    """

    def update(self, predictions: Tensor, labels: Tensor) -> None:
        """Count the sequences of a batch."""
        right, counted = self._compare(predictions, labels)
        sequences = counted.any(1)
        self.correct += ((right | ~counted).all(1) & sequences).sum()
        self.total += sequences.sum()


class TokenAccuracy(_Accuracy):
    r"""Share of positions that are predicted correctly, over all sequences together.

    .. math:: \frac{\sum_{it} [\hat y_{it} = y_{it}]}{\sum_{it} 1}

    Args:
        ignore_index: Label of positions that are not counted.

    Shapes:
        - ``predictions``: (B, T) ids.
        - ``labels``: (B, T) ids.

    Raises:
        ValueError: If the shapes differ or are not (B, T).

    Example:
        >>> metric = TokenAccuracy()
        >>> metric.update(torch.tensor([[5, 2, 9], [5, 6, 2]]), torch.tensor([[5, 2, -100], [5, 7, 2]]))
        >>> metric.compute()
        tensor(0.8000)

    """

    def update(self, predictions: Tensor, labels: Tensor) -> None:
        """Count the positions of a batch."""
        right, counted = self._compare(predictions, labels)
        self.correct += (right & counted).sum()
        self.total += counted.sum()
