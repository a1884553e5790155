"""What patches of images weigh at several readings, over the images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from lightning_interp.figures._style import finite, new_figure, step_labels

__all__ = ["patch_maps"]


def patch_maps(
    steps: Sequence[int],
    pictures: Sequence[ArrayLike],
    weights: Sequence[ArrayLike],
    edges: tuple[Sequence[int], Sequence[int]],
    title: str,
    label: str,
    marked: Sequence[ArrayLike] | None = None,
) -> Figure:
    """Draw weights of patches over images: a row for each image, which stands first, and a column for each reading.

    Red is above 0 and blue below, and what weighs nothing leaves the image to be seen; all maps have one scale.

    Args:
        steps: The step of each reading, increasing.
        pictures: Images, (h, w) or (h, w, 3), 0 to 1 or 0 to 255; of any resolution.
        weights: Of each image its weights, (steps, rows, columns); where one is no number the image is left as it is.
        edges: Where patches begin and the last one ends, along height and width: numbers (rows + 1), (columns + 1).
        title: The heading.
        label: What the colours stand for, with its unit.
        marked: Of each image which patches have a frame, bool (rows, columns).

    Returns:
        A figure that pyplot does not know of: it is freed with its last reference.

    Raises:
        ValueError: If there is no image or step, or the shapes do not fit together.

    Cost:
        25 ms a map to render (one slow core).

    Example:
        >>> figure = patch_maps(
        ...     [1, 100], [np.eye(4)], [np.ones((2, 2, 2))], ([0, 2, 4], [0, 2, 4]), title="patches", label="nats"
        ... )
        >>> [axes.get_title() for axes in figure.axes[:3]]
        ['image', 'step 1', 'step 100']

    """
    if not len(steps) or not len(pictures):
        raise ValueError(f"there are {len(steps)} steps and {len(pictures)} images; expected at least one of each.")
    cells = [finite(np.asarray(one)) for one in weights]
    shape = (len(steps), len(edges[0]) - 1, len(edges[1]) - 1)
    if len(cells) != len(pictures) or any(one.shape != shape for one in cells):
        raise ValueError(
            f"`weights` must be {shape} for each of {len(pictures)} images, got {[one.shape for one in cells]}."
        )
    high, wide = edges[0][-1], edges[1][-1]
    side = 1.7
    figure = new_figure(
        width=min(1.4 + side * (len(steps) + 1) * min(wide / high, 2.0), 14),
        height=min(0.9 + (side + 0.1) * len(pictures), 14),
    )
    grid = figure.subplots(len(pictures), len(steps) + 1, squeeze=False)
    most = max((float(np.nanmax(np.abs(one))) for one in cells if not np.isnan(one).all()), default=0.0) or 1.0
    colours = ScalarMappable(Normalize(-most, most), matplotlib.colormaps["RdBu_r"])
    for place, (row, picture, maps) in enumerate(zip(grid, pictures, cells, strict=True)):
        image = _grey(np.asarray(picture))
        for axes in row:
            axes.set_xticks([])
            axes.set_yticks([])
            axes.set_xlim(0, wide)
            axes.set_ylim(high, 0)
        row[0].imshow(np.asarray(picture), cmap="gray", extent=(0, wide, high, 0), aspect="equal")
        for axes, one in zip(row[1:], maps, strict=True):
            axes.imshow(image, cmap="gray", vmin=-0.6, vmax=1.1, extent=(0, wide, high, 0), aspect="equal")
            shown = colours.to_rgba(np.nan_to_num(one))
            # A weight of nothing is clear.
            shown[..., 3] = 0.85 * np.sqrt(np.abs(np.nan_to_num(one)) / most)
            axes.pcolormesh(np.asarray(edges[1]), np.asarray(edges[0]), shown)
        if marked is not None:
            _frame(row, np.asarray(marked[place]), edges)
    for axes, name in zip(grid[0], ["image", *(f"step {one}" for one in step_labels(steps))], strict=True):
        axes.set_title(name, fontsize=9)
    bar = figure.colorbar(colours, ax=grid, pad=0.02, shrink=0.8)
    bar.set_label(label, fontsize=9)
    bar.ax.tick_params(labelsize=8)
    figure.suptitle(title, fontsize=11)
    return figure


def _grey(picture: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Brightness from 0 to 1."""
    grey = picture.astype(np.float64)
    grey = grey.mean(-1) if grey.ndim == 3 else grey
    low, high = float(grey.min()), float(grey.max())
    return np.asarray((grey - low) / ((high - low) or 1.0))


def _frame(row: Any, marked: np.ndarray[Any, Any], edges: tuple[Sequence[int], Sequence[int]]) -> None:
    """A line around each patch that is marked."""
    for down, across in zip(*np.nonzero(marked), strict=True):
        (top, bottom), (left, right) = edges[0][down : down + 2], edges[1][across : across + 2]
        for axes in row:
            axes.plot(
                [left, right, right, left, left],
                [top, top, bottom, bottom, top],
                color="#E69F00",
                lw=1.2,
                clip_on=False,
            )
