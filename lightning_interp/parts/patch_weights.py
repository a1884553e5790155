"""A part: what patches or channels weighed at readings of a fit, with the images that they are of, and pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from lightning_interp.figures import patch_maps, site_heatmap
from lightning_interp.functional.evenly_spread import evenly_spread
from lightning_interp.parts.input_units import InputUnits
from lightning_interp.parts.word_weights import WordWeights

__all__ = ["PatchWeights"]

_DRAWN, _COLUMNS = 3, 6  # inputs, and readings of images, in figures
_SIDE = 96  # pixels of an image that is kept


class PatchWeights(WordWeights):
    """The weight of each unit of each input at up to so many readings, the last among them.

    Args:
        most: How many readings are kept, at least 2.
        units: What the inputs are made of.

    """

    def __init__(self, most: int, units: InputUnits) -> None:
        super().__init__(most)
        self.units = units

    def take(self, read: Sequence[Any], weights: Sequence[Tensor], anew: bool) -> float:
        """As of words, with small images of the first inputs beside them."""
        found = super().take(read, weights, anew)
        first = read[:_DRAWN]
        kept: dict[str, Any] = {**(self.now or {}), "shape": list(first[0].values.shape) if first else []}
        if first and self.units.of_images(kept["shape"]):
            kept["pictures"] = torch.stack([self._small(one.values) for one in first])
            kept["cued"] = torch.stack([one.cues.any(0) for one in first])
        self.now = kept
        return found

    def _small(self, values: Tensor) -> Tensor:
        """An image of no more than so many pixels a side, from dark to light, uint8 (h, w) or (h, w, 3)."""
        image = self.units.channels_first(values).float()
        image = image if len(image) == 3 else image.mean(0, keepdim=True)
        if max(image.shape[1:]) > _SIDE:
            scale = _SIDE / max(image.shape[1:])
            down, across = (max(1, round(side * scale)) for side in image.shape[1:])
            image = torch.nn.functional.adaptive_avg_pool2d(image, (down, across))
        low, high = image.min(), image.max()
        image = (image - low) / (high - low).clamp_min(1e-12)
        image = (255 * image.nan_to_num()).round().to(torch.uint8).movedim(0, -1)
        return image if image.shape[-1] == 3 else image[..., 0]

    def drawn(self) -> Mapping[str, Callable[[], Figure]]:
        """Pictures of the first inputs."""
        if self.number and "pictures" in self.values[-1]:
            return {"ablation/patches": self.maps}
        return {f"ablation/input_{place}": partial(self.heatmap, place) for place in range(min(_DRAWN, self.number))}

    def maps(self) -> Figure:
        """Weights of patches of the first images at some readings, over the images; a frame around those of a cue."""
        at = evenly_spread(len(self), _COLUMNS)
        last, edges = self.values[-1], self.units.edges(self.values[-1]["shape"])
        sides = [len(one) - 1 for one in edges]
        pictures = last["pictures"].numpy()
        weights = [self.over_readings(place)[:, at].T.reshape(len(at), *sides) for place in range(len(pictures))]
        return patch_maps(
            [self.steps[place] for place in at],
            list(pictures),
            [one.numpy() for one in weights],
            (edges[0], edges[1]),
            "what the prediction of an image loses without each patch" + "; framed: cues" * bool(last["cued"].any()),
            "nats",
            [one.view(*sides).numpy() for one in last["cued"]],
        )

    def heatmap(self, place: int) -> Figure:
        """Units of one input × readings."""
        rows = self.units.names(self.values[-1]["shape"])
        title = f"what the prediction of input {place} loses without each part"
        return site_heatmap(self.steps, rows, self.over_readings(place).numpy(), title, "nats")
