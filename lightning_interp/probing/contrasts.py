"""Prompts of two kinds, a half of each to fit a direction to and the rest to try it on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

__all__ = ["Contrast", "Halves", "checked_contrast"]

Contrast: TypeAlias = Sequence[Sequence[str]]
"""Prompts A and prompts B."""


@dataclass(frozen=True)
class Halves:
    """Where prompts A and B stand among sentences, dealt into two halves.

    Args:
        fit, held_out: Places of the sentences, int64.
        fit_labels, held_out_labels: Whether each is an A, bool.

    Example:
        >>> halves = Halves.dealt(10, 2, 2)
        >>> sorted(torch.cat([halves.fit, halves.held_out]).tolist()), halves.fit_labels.tolist()
        ([10, 11, 12, 13], [True, False])

    """

    fit: Tensor
    fit_labels: Tensor
    held_out: Tensor
    held_out_labels: Tensor

    @classmethod
    def dealt(cls, begin: int, a: int, b: int, seed: int = 0) -> Halves:
        """Halves at random; of an odd number the larger one is fitted to.

        Args:
            begin: The place of the first A; the others follow, then the Bs.
            a: How many A there are.
            b: How many B there are.
            seed: Of the draw; no random stream is read or moved.

        """
        generator = torch.Generator().manual_seed(seed)
        fit, held_out = [], []
        for start, number in ((begin, a), (begin + a, b)):
            order = start + torch.randperm(number, generator=generator)
            fit.append(order[: (number + 1) // 2])
            held_out.append(order[(number + 1) // 2 :])
        labels = [torch.cat([torch.ones(len(x)), torch.zeros(len(y))]).bool() for x, y in (fit, held_out)]
        return cls(torch.cat(fit), labels[0], torch.cat(held_out), labels[1])


def checked_contrast(name: str, given: Any) -> tuple[list[str], list[str]]:
    """Prompts A and prompts B of a direction.

    Raises:
        ValueError: If they are not two lists of two texts or more.

    Example:
        >>> checked_contrast("rude", (["a", "b"], ["c"]))
        Traceback (most recent call last):
        ValueError: `directions` of 'rude' must be two lists of two prompts or more, A and B; got lists of [2, 1].

    """
    wanted = f"`directions` of {name!r} must be two lists of two prompts or more, A and B"
    pair = isinstance(given, Sequence) and not isinstance(given, str) and len(given) == 2
    if not pair or any(isinstance(one, str) or not isinstance(one, Sequence) for one in given):
        raise ValueError(f"{wanted}, or a vector, or vectors by site; got {given!r}.")
    a, b = map(list, given)
    if not all(isinstance(one, str) for one in a + b):
        raise ValueError(f"{wanted}; got {next(type(one).__name__ for one in a + b if not isinstance(one, str))!r}.")
    if min(len(a), len(b)) < 2:
        raise ValueError(f"{wanted}; got lists of {[len(a), len(b)]}.")
    return a, b
