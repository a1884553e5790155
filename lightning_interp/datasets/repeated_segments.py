"""Random segments that repeat: sequences that only induction predicts."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

__all__ = ["RepeatedSegments"]


class RepeatedSegments(Dataset[dict[str, Tensor]]):
    r"""Sequences that consist of one random segment again and again, up to their length.

    .. math:: x_t = s_{t \bmod n}, \quad n \sim U\{n_{\min} \dots n_{\max}\}, \quad s_i \sim U\{0 \dots V - 1\}

    The first copy cannot be predicted: ln V nats a token. The later ones can, by who finds the present token earlier in
    the sequence and says what followed it. Since n varies, no fixed distance does. A sequence follows from ``seed`` and
    its index, whatever process or order asks for it.

    Args:
        number: Number of sequences.
        length: Ids in each of them.
        ids: Number V of different ids.
        segment: Shortest and longest segment, both included.
        seed: Of all sequences.

    Shapes:
        - ``input_ids``: int64, (length,).
        - ``attention_mask``: int64, (length,), ones.

    Raises:
        ValueError: If ``number``, ``length`` or ``ids`` is below 1, ``seed`` below 0, or ``segment`` is not two lengths
            from 1 to ``length``, the shorter first.

    Example:
        >>> sequences = RepeatedSegments(100, length=8, segment=(3, 3))
        >>> len(sequences), sequences[0]["input_ids"]
        (100, tensor([54, 40, 32, 54, 40, 32, 54, 40]))

    """

    def __init__(
        self, number: int, length: int = 64, ids: int = 64, segment: tuple[int, int] = (10, 32), seed: int = 0
    ) -> None:
        for name, size in (("number", number), ("length", length), ("ids", ids)):
            if size < 1:
                raise ValueError(f"`{name}` is {size}; it must be at least 1.")
        if seed < 0:
            raise ValueError(f"`seed` is {seed}; it must not be negative.")
        shortest, longest = segment
        if not 1 <= shortest <= longest <= length:
            raise ValueError(
                f"`segment` is {tuple(segment)}; expected the shortest and the longest length, from 1 to `length`, "
                f"which is {length}."
            )
        self.number, self.length, self.ids, self.seed = number, length, ids, seed
        self.segment = shortest, longest

    def __len__(self) -> int:
        return self.number

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """The sequence of an index, negative ones from the end."""
        random = np.random.default_rng((self.seed, range(self.number)[index]))
        period = int(random.integers(self.segment[0], self.segment[1] + 1))
        repeated = np.resize(random.integers(self.ids, size=period), self.length)
        return {
            "input_ids": torch.from_numpy(repeated),
            "attention_mask": torch.ones(self.length, dtype=torch.long),
        }
