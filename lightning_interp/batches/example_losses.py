"""The loss of each example of a batch, with its graph, and the same with targets of other examples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from lightning_interp.batches.predictions import Predictions

__all__ = ["DealtTargets", "Loss", "SummedLosses", "example_losses", "given_losses"]

Loss: TypeAlias = Callable[[nn.Module, Any], Any]
"""``loss(model, batch)`` → the loss of each example, (B,), or sums (B,) and counts (B,)."""


class SummedLosses(NamedTuple):
    """Of B examples."""

    sums: Tensor
    """The loss of each, summed over what counts in it, (B,)."""
    counts: Tensor
    """How much counts in each: its positions, or 1; (B,)."""


def example_losses(predictions: Predictions, output: Any, targets: Tensor, counted: Tensor) -> SummedLosses:
    """Cross entropy in nats of each example, summed over its positions.

    Args:
        predictions: Where logits are in the output.
        output: What the model returned.
        targets: From :meth:`~lightning_interp.batches.Predictions.targets`, or others in their place.
        counted: From there.

    Raises:
        ValueError: If logits and targets do not fit, or a target is no class.

    Example:
        >>> how, logits = Predictions(output=""), torch.zeros(2, 4, requires_grad=True)
        >>> example_losses(how, logits, torch.tensor([1, 3]), torch.tensor([True, False])).counts.tolist()
        [1, 0]

    """
    rows = predictions.rows(output, targets, counted, graph=True)
    if int(rows.unknown):
        raise ValueError(
            f"{int(rows.unknown)} targets are no class of the logits: check `target`, and `ignore_index` or `mask` for "
            "those that do not count."
        )
    values = torch.where(rows.counted, -rows.log_probs(), 0)
    # What is left out as not finite must not pass for a small loss.
    values = values + torch.where(rows.omitted, torch.nan, 0)
    shape = len(targets), -1
    return SummedLosses(values.view(shape).sum(1), (rows.counted | rows.omitted).view(shape).sum(1))


def given_losses(loss: Loss, model: nn.Module, batch: Any, size: int) -> SummedLosses:
    """What a loss of a user's own gives.

    Raises:
        ValueError: If it is not one number an example, or has no graph.

    Example:
        >>> model = nn.Linear(2, 1)
        >>> given_losses(lambda model, batch: model(batch)[:, 0], model, torch.ones(3, 2), 3).counts.tolist()
        [1.0, 1.0, 1.0]

    """
    found = loss(model, batch)
    sums, counts = found if isinstance(found, tuple | list) and len(found) == 2 else (found, None)
    sums = torch.as_tensor(sums)
    counts = torch.ones_like(sums.detach()) if counts is None else torch.as_tensor(counts, device=sums.device)
    if sums.shape != (size,) or counts.shape != (size,):
        raise ValueError(
            f"`loss` gave {tuple(sums.shape)} losses and {tuple(counts.shape)} counts for a batch of {size} examples; "
            f"expected ({size},), one entry per example."
        )
    if not sums.requires_grad:
        raise ValueError("`loss` gave losses without a graph, so that there is no gradient: leave off `detach`.")
    return SummedLosses(sums, counts)


class DealtTargets:
    """Targets of the examples of each source, dealt to one another at random, position by position.

    Args:
        seed: Of the deals: the same at every reading.

    Example:
        >>> dealt = DealtTargets()
        >>> dealt.add(torch.tensor([5, 6, 7]), torch.tensor([1, 2, 3]), torch.ones(3).bool(), torch.tensor([0, 0, 1]))
        >>> found = dealt.of(torch.tensor([5, 6, 7]), torch.tensor([1, 2, 3]), torch.ones(3).bool())
        >>> sorted(found[:2].tolist()), found[2].item()
        ([1, 2], 3)

    """

    def __init__(self, seed: int = 0) -> None:
        self._seed = seed
        self._own: list[tuple[Tensor, Tensor, Tensor]] = []
        self._dealt: dict[int, Tensor] | None = None

    def add(self, examples: Tensor, targets: Tensor, counted: Tensor, sources: Tensor) -> None:
        """Take in examples: the number of each (B,), its targets and which count (B,) or (B, T), its source (B,)."""
        rows, counts = targets.detach().cpu().view(len(targets), -1), counted.cpu().view(len(targets), -1)
        number = examples[:, None].expand_as(rows)[counts]
        self._own.append((number, rows[counts], sources.cpu()[:, None].expand_as(rows)[counts]))

    def of(self, examples: Tensor, targets: Tensor, counted: Tensor) -> Tensor:
        """Targets in the place of those of some examples; those that do not count are left."""
        if self._dealt is None:
            self._dealt = self._deal()
        rows = targets.clone().view(len(targets), -1)
        for place, example in enumerate(examples.tolist()):
            counts = counted[place].view(-1)
            if example in self._dealt and bool(counts.any()):
                rows[place, counts] = self._dealt[example].to(rows)
        return rows.view_as(targets)

    def _deal(self) -> dict[int, Tensor]:
        examples, targets, sources = (torch.cat(parts) for parts in zip(*self._own, strict=True))
        draw = torch.Generator().manual_seed(self._seed)
        dealt = targets.clone()
        for source in torch.unique(sources).tolist():
            own = (sources == source).nonzero().squeeze(1)
            dealt[own] = targets[own[torch.randperm(len(own), generator=draw)]]
        # Examples come in order, so that those of one stand together.
        unique, counts = torch.unique_consecutive(examples, return_counts=True)
        parts = torch.split(dealt, counts.tolist())
        return dict(zip(unique.tolist(), parts, strict=True))
