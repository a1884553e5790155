"""A part: what words weighed at readings of a fit, how far that stays, and a picture of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from matplotlib.figure import Figure
from torch import Tensor

from lightning_interp.figures import site_heatmap
from lightning_interp.functional.rank_correlation import spearman
from lightning_interp.parts.ablated_texts import AblatedText
from lightning_interp.parts.kept import Kept

__all__ = ["WordWeights", "mean_defined"]

Decode = Callable[[list[int]], str]


class WordWeights(Kept):
    """The weight of each word of each text at up to so many readings, the last among them.

    Args:
        most: How many readings are kept, at least 2.
        decode: Token ids → text, for rows of pictures; the ids themselves by default.

    Raises:
        TypeError: If ``decode`` cannot be called.

    """

    def __init__(self, most: int, decode: Decode | None = None) -> None:
        if decode is not None and not callable(decode):
            raise TypeError(f"`decode` must be a function of a list of token ids, got {decode!r}.")
        super().__init__(most)
        self.decode = decode

    def take(self, texts: Sequence[AblatedText], weights: Sequence[Tensor], anew: bool) -> float:
        """Keep the weights of the reading that is being taken, and compare them with those of the one before.

        Args:
            texts: The texts.
            weights: Of each the weights of its words.
            anew: Whether texts are others than before, or there is no reading before.

        Returns:
            Spearman's correlation, mean over texts; NaN where there was no reading of the same words.

        """
        nothing = torch.zeros(0, dtype=torch.int64)
        now = {
            "weights": torch.cat([torch.zeros(0), *(one.float() for one in weights)]),
            "first_ids": torch.cat([nothing, *(one.first_ids for one in texts)]),
            "lengths": torch.tensor([len(one) for one in weights], dtype=torch.int64),
        }
        self.now, before = now, self.values[-1:]
        if anew or not before or not all(torch.equal(before[0][name], now[name]) for name in ("first_ids", "lengths")):
            return math.nan
        lengths = now["lengths"].tolist()
        pairs = zip(*(torch.split(one["weights"], lengths) for one in (now, before[0])), strict=True)
        return mean_defined([spearman(*pair) for pair in pairs if bool(torch.stack(pair).isfinite().all())])

    @property
    def number(self) -> int:
        """How many texts there were at the last reading."""
        return len(self.values[-1]["lengths"]) if len(self) else 0

    def heatmap(self, place: int) -> Figure:
        """Words of one text × readings."""
        last = self.values[-1]
        lengths = last["lengths"].tolist()
        ids = last["first_ids"].split(lengths)[place].tolist()
        names = [str(one) if self.decode is None else self.decode([one]) for one in ids]
        rows = [f"{number} {name}" for number, name in enumerate(names)]
        title = f"what the prediction of text {place} loses without each word"
        return site_heatmap(self.steps, rows, self.over_readings(place).numpy(), title, "nats")

    def over_readings(self, place: int) -> Tensor:
        """What each word of one text weighed at each reading, (n, readings)."""
        # Readings of other texts are forgotten once texts change.
        lengths = self.values[-1]["lengths"].tolist()
        return torch.stack([one["weights"].split(lengths)[place] for one in self.values], 1)


def mean_defined(values: Sequence[float]) -> float:
    """The mean of those that are numbers; NaN where there is none.

    Example:
        >>> mean_defined([1.0, float("nan"), 2.0])
        1.5

    """
    defined = [one for one in values if not math.isnan(one)]
    return math.fsum(defined) / len(defined) if defined else math.nan
