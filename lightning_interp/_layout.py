"""Layouts: a site's output, however its axes are ordered, as representations (B, T, D) with a mask (B, T)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

__all__ = ["Layout", "LayoutResolver", "fit_mask", "from_btd", "infer_layout", "to_btd"]

Layout = Literal["BTD", "TBD", "BD", "BCHW"]

_LAYOUTS: tuple[Layout, ...] = get_args(Layout)
_MEANING: dict[Layout, str] = {
    "BTD": "(batch, positions, features)",
    "TBD": "(positions, batch, features)",
    "BD": "(batch, features)",
    "BCHW": "(batch, channels, height, width)",
}


def infer_layout(output: Tensor, batch_size: int, site: str = "") -> Layout:
    """The layout of an output whose batch axis can be told from its size.

    Args:
        output: What a site returned, with 2, 3 or 4 dimensions. Four dimensions are read as (B, C, H, W).
        batch_size: Number of examples in the batch.
        site: Name for error messages.

    Returns:
        ``"BTD"``, ``"TBD"``, ``"BD"`` or ``"BCHW"``.

    Raises:
        ValueError: If no layout has its batch axis at this size, or if two have (three dimensions, as many positions
            as examples).

    Example:
        >>> infer_layout(torch.zeros(9, 4, 16), batch_size=4)
        'TBD'

    """
    if output.is_nested:
        return "BTD"
    shape = tuple(output.shape)
    fitting = [layout for layout in _LAYOUTS if _fits(shape, layout, batch_size)]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        options = " or ".join(f"layout={layout!r} {_MEANING[layout]}" for layout in fitting)
        raise ValueError(
            f"the output {shape} of site {site!r} has {batch_size} positions and {batch_size} examples, so its batch "
            f"axis cannot be told: say {options}"
        )
    raise ValueError(
        f"the output {shape} of site {site!r} fits no layout for a batch of {batch_size}; known are "
        + ", ".join(f"{layout!r} {meaning}" for layout, meaning in _MEANING.items())
    )


def to_btd(output: Tensor, layout: Layout | None, batch_size: int, length: int | None = None, site: str = "") -> Tensor:
    """An output as representations: one vector per example and position.

    Args:
        output: What a site returned: (B, T, D), (T, B, D), (B, D), (B, C, H, W) or a nested tensor of (T_i, D).
        layout: The order of its axes, or ``None`` to tell it from ``batch_size``.
        batch_size: Number of examples in the batch, B.
        length: Number of positions T that a (B, T, D) or (T, B, D) output must have; ``None`` accepts any.
        site: Name for error messages.

    Returns:
        Representations (B, T, D), a view where the input allows it. ``"BD"`` has T = 1 and ``"BCHW"`` has T = H·W, rows
        first. A nested tensor is padded with zeros to ``length``.

    Raises:
        ValueError: If the output does not fit the layout, the batch or the length.

    Example:
        >>> to_btd(torch.zeros(9, 4, 16), "TBD", batch_size=4).shape
        torch.Size([4, 9, 16])
        >>> to_btd(torch.zeros(4, 3, 8, 8), None, batch_size=4).shape
        torch.Size([4, 64, 3])

    """
    if layout is None:
        layout = infer_layout(output, batch_size, site)
    if output.is_nested:
        output = _padded(output, layout, length, site)
    shape = tuple(output.shape)
    if not _fits(shape, layout, batch_size):
        raise ValueError(
            f"the output {shape} of site {site!r} does not fit layout={layout!r} {_MEANING[layout]} "
            f"with a batch of {batch_size}"
        )
    if layout == "BD":
        return output.unsqueeze(1)
    if layout == "BCHW":
        return output.flatten(2).transpose(1, 2)
    representations = output.transpose(0, 1) if layout == "TBD" else output
    if length is not None and representations.shape[1] != length:
        raise _misfit((batch_size, length), representations, site)
    return representations


def from_btd(representations: Tensor, layout: Layout, shape: Sequence[int]) -> Tensor:
    """The inverse of :func:`to_btd`: representations in the order of axes that the site's output has.

    Args:
        representations: (B, T, D).
        layout: The layout of the output.
        shape: The shape of the output.

    Returns:
        A view of this shape where possible.

    Example:
        >>> from_btd(torch.zeros(4, 64, 3), "BCHW", (4, 3, 8, 8)).shape
        torch.Size([4, 3, 8, 8])

    """
    if layout == "TBD":
        return representations.transpose(0, 1)
    if layout == "BCHW":
        return representations.transpose(1, 2).reshape(*shape)
    return representations.reshape(*shape)


def fit_mask(mask: Tensor | None, representations: Tensor, layout: Layout = "BTD", site: str = "") -> Tensor:
    """The mask that belongs to representations (B, T, D): ``True`` where a position counts.

    Args:
        mask: (B, T), nonzero where a position counts; ``None`` if all do. For ``"BCHW"`` also (B, H, W). For ``"BD"``
            of any length: an example counts if one of its positions does.
        representations: (B, T, D), on whose device the result is.
        layout: The layout that the representations came from.
        site: Name for error messages.

    Returns:
        A boolean mask (B, T).

    Raises:
        ValueError: If the mask has another shape.

    Example:
        >>> fit_mask(torch.tensor([[1, 1, 0]]), torch.zeros(1, 3, 8))
        tensor([[ True,  True, False]])
        >>> fit_mask(torch.tensor([[1, 1, 0]]), torch.zeros(1, 1, 8), layout="BD")
        tensor([[True]])

    """
    wanted = representations.shape[:2]
    if mask is None:
        return torch.ones(wanted, dtype=torch.bool, device=representations.device)
    fitted = mask.to(device=representations.device, dtype=torch.bool)
    if layout == "BD" and fitted.dim() == 2:
        fitted = fitted.any(dim=1, keepdim=True)
    elif layout == "BCHW" and fitted.dim() == 3:
        fitted = fitted.flatten(1)
    if fitted.shape != wanted:
        raise _misfit(tuple(mask.shape), representations, site)
    return fitted


class LayoutResolver:
    """Turns outputs into representations, with each site's layout fixed at its first output.

    A later batch may happen to have as many positions as examples, so what the first one showed is kept.

    Args:
        layout: The layout of all sites, or by site name, or ``None`` to tell it from the first output.

    Raises:
        ValueError: If a layout is unknown.

    Example:
        >>> resolve = LayoutResolver()
        >>> representations, mask = resolve("encoder", torch.zeros(9, 4, 16), batch_size=4)
        >>> representations.shape, mask.shape
        (torch.Size([4, 9, 16]), torch.Size([4, 9]))
        >>> resolve("encoder", torch.zeros(4, 4, 16), batch_size=4)[0].shape
        torch.Size([4, 4, 16])
        >>> resolve.layouts
        {'encoder': 'TBD'}

    """

    def __init__(self, layout: Layout | Mapping[str, Layout] | None = None) -> None:
        for name in layout.values() if isinstance(layout, Mapping) else [layout]:
            if name is not None and name not in _LAYOUTS:
                raise ValueError(f"layout={name!r} is unknown; use one of {', '.join(map(repr, _LAYOUTS))}")
        self.layouts: dict[str, Layout] = dict(layout) if isinstance(layout, Mapping) else {}
        self.default: Layout | None = None if isinstance(layout, Mapping) else layout
        self._first: dict[str, tuple[int, ...]] = {}

    def __call__(self, site: str, output: Tensor, batch_size: int, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Representations (B, T, D) and their mask (B, T).

        Args:
            site: The site's short name.
            output: What it returned.
            batch_size: Number of examples in the batch.
            mask: (B, T), nonzero where a position counts, or ``None`` if all do; see :func:`fit_mask`.

        Returns:
            The representations and a boolean mask.

        Raises:
            ValueError: If the first output is ambiguous, or if an output or the mask does not fit the layout.

        """
        layout = self.layouts.get(site, self.default)
        if layout is None:
            layout = self.layouts[site] = infer_layout(output, batch_size, site)
            self._first[site] = _shape(output)
        length = mask.shape[1] if output.is_nested and mask is not None and mask.dim() == 2 else None
        try:
            representations = to_btd(output, layout, batch_size, length, site)
        except ValueError as error:
            if site in self._first:
                raise ValueError(f"{error}; the layout was fixed by an earlier output {self._first[site]}") from error
            raise
        return representations, fit_mask(mask, representations, layout, site)


def _fits(shape: tuple[int, ...], layout: Layout, batch_size: int) -> bool:
    return len(shape) == len(layout) and shape[layout.index("B")] == batch_size


def _shape(output: Tensor) -> tuple[int, ...]:
    # A strided nested tensor has no `shape`: -1 stands for the axis of varying length.
    return (output.size(0), -1, output.size(2)) if output.is_nested else tuple(output.shape)


def _padded(output: Tensor, layout: Layout, length: int | None, site: str) -> Tensor:
    rows = output.unbind()
    if layout != "BTD" or output.dim() != 3:
        shapes = [tuple(row.shape) for row in rows]
        raise ValueError(f"the nested output {shapes} of site {site!r} does not fit layout={layout!r}: use 'BTD'")
    longest = max((row.shape[0] for row in rows), default=0)
    if length is not None and longest > length:
        raise ValueError(
            f"mask ({len(rows)}, {length}) does not fit the nested output of site {site!r}, whose longest example has "
            f"{longest} positions"
        )
    size = (len(rows), longest if length is None else length, rows[0].shape[1])
    padded: Tensor = torch.nested.to_padded_tensor(output, 0.0, size)
    return padded


def _misfit(mask: tuple[int, ...], representations: Tensor, site: str) -> ValueError:
    return ValueError(f"mask {mask} does not fit representations {tuple(representations.shape)} of site {site!r}")
