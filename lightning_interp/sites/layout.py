"""Layouts: a site's output, however its axes are ordered, as representations (B, T, D) with a mask (B, T)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from lightning_interp.sites.feature_axis import FeatureAxis, FeatureSizes, feature_axis, feature_sizes
from lightning_interp.sites.names import clean_name, modules_by_name
from lightning_interp.sites.output import OutputKey

__all__ = [
    "Layout",
    "LayoutResolver",
    "Told",
    "check_sites",
    "fit_mask",
    "from_btd",
    "infer_layout",
    "of_sites",
    "repacked",
    "to_btd",
]

Layout = Literal["BTD", "TBD", "BCT", "BD", "BCHW", "BHWC", "BCDHW", "BDHWC"]

_LAYOUTS: tuple[Layout, ...] = get_args(Layout)
_MEANING: dict[Layout, str] = {
    "BTD": "(batch, positions, features)",
    "TBD": "(positions, batch, features)",
    "BCT": "(batch, channels, positions)",
    "BD": "(batch, features)",
    "BCHW": "(batch, channels, height, width)",
    "BHWC": "(batch, height, width, channels)",
    "BCDHW": "(batch, channels, depth, height, width)",
    "BDHWC": "(batch, depth, height, width, channels)",
}
_SECOND: frozenset[Layout] = frozenset({"BCT", "BCHW", "BCDHW"})


class Told:
    """What a model tells of the axes of one site's output.

    Args:
        modules: The modules of the model by dotted name.
        name: That of the site.
        anywhere: The numbers of features of all modules.
        output: Which tensor is read, where that is said: of another than the first a class says nothing.

    Example:
        >>> model = nn.Sequential(nn.Conv1d(2, 8, 3))
        >>> told = Told(dict(model.named_modules()), "0", feature_sizes(model))
        >>> told.axis.size, sorted(told.inside.second)
        (8, [2, 8])

    """

    def __init__(
        self, modules: Mapping[str, nn.Module], name: str, anywhere: FeatureSizes, output: OutputKey | None = None
    ) -> None:
        self.axis: FeatureAxis | None = feature_axis(modules, name) if output in (None, 0) else None
        self.inside = feature_sizes(modules[name])
        self.anywhere = anywhere


def infer_layout(
    output: Tensor,
    batch_size: int,
    site: str = "",
    told: Told | None = None,
    length: int | None = None,
    batch_first: bool = False,
) -> Layout:
    """The layout of an output, where it can be told.

    In turn: which layouts have the batch axis where its size is that of the batch; what the class of the module says
    (a convolution has its channels second); which axis is as long as the tokens; which one has a number of features
    that modules inside the site have on this axis, then modules anywhere in the model. Three dimensions of which
    nothing is known are (B, T, D).

    Args:
        output: What a site returned, with 2 to 5 dimensions.
        batch_size: Number of examples in the batch.
        site: Name for error messages.
        told: What the model tells of the site.
        length: Number of positions in the mask or the tokens, where there are any.
        batch_first: Whether, of as many positions as examples, examples come first.

    Returns:
        The layout.

    Raises:
        ValueError: If no layout has its batch axis at this size, if the only ones that have contradict the module, or
            if several are left.

    Example:
        >>> infer_layout(torch.zeros(9, 4, 16), batch_size=4)
        'TBD'
        >>> infer_layout(torch.zeros(4, 16, 9), batch_size=4, length=9)
        'BCT'

    """
    if output.is_nested:
        return "BTD"
    shape = tuple(output.shape)
    fitting = [layout for layout in _LAYOUTS if _fits(shape, layout, batch_size)]
    if not fitting:
        raise ValueError(
            f"the output {shape} of site {site!r} fits no layout for a batch of {batch_size}; known are "
            + ", ".join(f"{one!r} {_MEANING[one]}" for one in _LAYOUTS if len(one) == len(shape) or len(shape) == 1)
            + "; if the batch has another number of samples, say it with `batch_size=`"
        )
    fitting = _as_the_module_says(fitting, shape, site, told)
    for second, last in _evidence(shape, told, length):
        if second != last:
            fitting = [layout for layout in fitting if (layout in _SECOND) == second] or fitting
    if fitting == ["TBD"] and _may_be_parts(shape, batch_size, told, length):
        raise ValueError(
            f"the output {shape} of site {site!r} may be {shape[0]} positions of {batch_size} samples, or {batch_size} "
            f"positions of {shape[0] // batch_size} parts a sample (windows, views), and nothing in the model says "
            f"which: say {_options(fitting)}, or how many samples a batch has with `batch_size=`"
        )
    if len(shape) == 3 and len(fitting) > 1 and not _by_channels(shape, told):
        # Nothing speaks for channels: positions before features, as nearly everything has them.
        fitting = [layout for layout in fitting if layout != "BCT"]
    if batch_first and set(fitting) == {"BTD", "TBD"}:
        fitting = ["BTD"]
    if len(fitting) == 1:
        return fitting[0]
    same = f" ({batch_size} positions and {batch_size} examples)" if {"BTD", "TBD"} <= set(fitting) else ""
    raise ValueError(
        f"the order of the axes of the output {shape} of site {site!r} cannot be told{same}: say {_options(fitting)}"
    )


def _as_the_module_says(
    fitting: Sequence[Layout], shape: tuple[int, ...], site: str, told: Told | None
) -> list[Layout]:
    axis = None if told is None else told.axis
    if axis is None or (axis.size is None and axis.axes not in (None, len(shape) - 2)):
        return list(fitting)
    left = [layout for layout in fitting if _agrees(shape, layout, axis)]
    if not left:
        raise ValueError(
            f"the output {shape} of site {site!r} would be read as {_options(fitting)}, but {axis.source} has its "
            f"{axis.size or 'features'} on the {axis.axis} axis; or is it a part of them, on one rank of several?"
        )
    if len(shape) == 3 and axis.batch_first is not None:
        order: Layout = "BTD" if axis.batch_first else "TBD"
        if order not in left:
            raise ValueError(
                f"the output {shape} of site {site!r} would be read as {_options(left)}, but {axis.source} has "
                f"batch_first={axis.batch_first}; if the batch has another number of samples, say it with "
                "`batch_size=`"
            )
        return [order]
    return left


def _agrees(shape: tuple[int, ...], layout: Layout, axis: FeatureAxis) -> bool:
    """Whether a layout has the features where the module has them, as many of them as it says."""
    if len(layout) > 2 and (layout in _SECOND) != (axis.axis == "second"):
        return False
    return axis.size in (None, shape[1 if layout in _SECOND else -1])


def _evidence(shape: tuple[int, ...], told: Told | None, length: int | None) -> Iterator[tuple[bool, bool]]:
    """What speaks for features on the second axis, and on the last; the stronger comes first."""
    if len(shape) == 3 and length is not None:
        yield shape[-1] == length, length in shape[:2]
    for sizes in () if told is None or len(shape) < 3 else (told.inside, told.anywhere):
        either = sizes.second | sizes.last
        yield shape[1] in sizes.second, shape[-1] in sizes.last
        yield shape[1] in either, shape[-1] in either


def _may_be_parts(shape: tuple[int, ...], batch_size: int, told: Told | None, length: int | None) -> bool:
    """Whether positions before samples may as well be several parts of each sample that have as many positions."""
    if told is None or batch_size == 1 or shape[0] % batch_size or length == shape[0]:
        return False
    return (told.axis is None or told.axis.batch_first is None) and not told.anywhere.positions_first


def _by_channels(shape: tuple[int, ...], told: Told | None) -> bool:
    """Whether some module has channels as many as the second axis is long, or the site no other features than such."""
    if told is None:
        return False
    return shape[1] in told.inside.second | told.anywhere.second or bool(told.inside.second and not told.inside.last)


def _options(layouts: Sequence[Layout]) -> str:
    return " or ".join(f"layout={layout!r} {_MEANING[layout]}" for layout in layouts)


def to_btd(output: Tensor, layout: Layout | None, batch_size: int, length: int | None = None, site: str = "") -> Tensor:
    """An output as representations: one vector per example and position.

    Args:
        output: What a site returned, in any layout, or a nested tensor of (T_i, D).
        layout: The order of its axes, or ``None`` to tell it from ``batch_size``.
        batch_size: Number of examples in the batch, B.
        length: Number of positions T that an output with one axis of them must have; ``None`` accepts any.
        site: Name for error messages.

    Returns:
        Representations (B, T, D), a view where the input allows it. ``"BD"`` has T = 1; images and volumes have
        T = H·W or D·H·W, rows first. A nested tensor is padded with zeros to ``length``.

    Raises:
        ValueError: If the output does not fit the layout, the batch or the length.

    Example:
        >>> to_btd(torch.zeros(9, 4, 16), "TBD", batch_size=4).shape
        torch.Size([4, 9, 16])
        >>> to_btd(torch.zeros(4, 3, 8, 8), "BCHW", batch_size=4).shape
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
    if layout in _SECOND:
        representations = output.flatten(2).transpose(1, 2)
    else:
        representations = output.transpose(0, 1) if layout == "TBD" else output.flatten(1, -2)
    if length is not None and len(layout) == 3 and representations.shape[1] != length:
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
    if layout in _SECOND:
        return representations.transpose(1, 2).reshape(*shape)
    return representations.reshape(*shape)


def fit_mask(mask: Tensor | None, representations: Tensor, layout: Layout = "BTD", site: str = "") -> Tensor:
    """The mask that belongs to representations (B, T, D): ``True`` where a position counts.

    Args:
        mask: (B, T), nonzero where a position counts; ``None`` if all do. For images also (B, H, W), for volumes
            (B, D, H, W). For ``"BD"`` of any length: an example counts if one of its positions does.
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
    elif fitted.dim() == len(layout) - 1:
        fitted = fitted.flatten(1)
    if fitted.shape != wanted:
        raise _misfit(tuple(mask.shape), representations, site)
    return fitted


class LayoutResolver:
    """Turns outputs into representations, with each site's layout fixed at its first output.

    A later batch may happen to have as many positions as examples, so what the first one showed is kept.

    Args:
        layout: The layout of all sites, or by site name, or ``None`` to tell it from the first output.
        model: The model, whose modules tell of axes.
        names: Short name of each site → dotted name.
        output: Which tensor of what a site returns is read, for all sites or by site, where that is said.
        batch_first: See :func:`infer_layout`.

    Raises:
        ValueError: If a layout is unknown, or is one for a site that there is not.

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

    def __init__(
        self,
        layout: Layout | Mapping[str, Layout] | None = None,
        model: nn.Module | None = None,
        names: Mapping[str, str] | None = None,
        batch_first: bool = False,
        output: OutputKey | Mapping[str, OutputKey] | None = None,
    ) -> None:
        self.batch_first = batch_first
        given = dict(layout) if isinstance(layout, Mapping) else {}
        for name in [*given.values()] if isinstance(layout, Mapping) else [layout]:
            if name is not None and name not in _LAYOUTS:
                raise ValueError(f"layout={name!r} is unknown; use one of {', '.join(map(repr, _LAYOUTS))}")
        check_sites("layout", layout, names)
        self.layouts: dict[str, Layout] = given
        self.default: Layout | None = None if isinstance(layout, Mapping) else layout
        self._told: dict[str, Told] = {}
        if model is not None and names:
            modules, anywhere = modules_by_name(model), feature_sizes(model)
            for site, where in names.items():
                chosen = output.get(site) if isinstance(output, Mapping) else output
                self._told[site] = Told(modules, clean_name(where), anywhere, chosen)
        self._first: dict[str, tuple[int, ...]] = {}

    def __call__(
        self,
        site: str,
        output: Tensor | PackedSequence,
        batch_size: int,
        mask: Tensor | None = None,
        length: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Representations (B, T, D) and their mask (B, T).

        Args:
            site: The site's short name.
            output: What it returned. A packed sequence and a nested tensor have a mask of their own: what one of their
                examples does not have is left out.
            batch_size: Number of examples in the batch.
            mask: (B, T), nonzero where a position counts, or ``None`` if all do; see :func:`fit_mask`.
            length: How many positions there are, where that is known without a mask that must fit.

        Returns:
            The representations and a boolean mask.

        Raises:
            ValueError: If the first output is ambiguous, or if an output or the mask does not fit the layout.

        """
        wide = mask.shape[1] if mask is not None and mask.dim() == 2 else length
        if isinstance(output, PackedSequence):
            representations, own = _unpacked(output, batch_size, wide, site)
            self.layouts[site] = "BTD"
            return representations, own if mask is None else _within(own, mask, representations, site)
        layout = self.layouts.get(site, self.default)
        if site not in self._first:
            told = self._told.get(site)
            if layout is None:
                layout = infer_layout(output, batch_size, site, told, wide, self.batch_first)
            elif told is not None and told.axis is not None and not _agrees(_shape(output), layout, told.axis):
                raise ValueError(
                    f"layout={layout!r} {_MEANING[layout]} contradicts site {site!r}: its {told.axis.source} has "
                    f"{told.axis.size or 'its'} features on the {told.axis.axis} axis of the output {_shape(output)}"
                )
            self.layouts[site] = layout
            self._first[site] = _shape(output)
        assert layout is not None
        padded = wide if output.is_nested else None
        try:
            representations = to_btd(output, layout, batch_size, padded, site)
        except ValueError as error:
            raise ValueError(
                f"{error}; the layout was fixed by an earlier output {self._first[site]}"
                if self._first[site] != _shape(output)
                else str(error)
            ) from error
        if not output.is_nested:
            return representations, fit_mask(mask, representations, layout, site)
        own = _own_mask(output, representations)
        return representations, own if mask is None else _within(own, mask, representations, site)


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


def _own_mask(output: Tensor, representations: Tensor) -> Tensor:
    """Which positions a nested output really has."""
    lengths = torch.tensor([row.shape[0] for row in output.unbind()], device=representations.device)
    return torch.arange(representations.shape[1], device=representations.device) < lengths[:, None]


def _within(own: Tensor, mask: Tensor, representations: Tensor, site: str) -> Tensor:
    """Positions that count, which an output with positions of its own must all have."""
    counted = fit_mask(mask, representations, "BTD", site)
    lacking = (counted & ~own).sum(1)
    if bool(lacking.any()):
        sample = int(lacking.argmax())
        raise ValueError(
            f"sample {sample} of the batch has {int(counted[sample].sum())} positions that count, and the ragged "
            f"output of site {site!r} only {int(own[sample].sum())} for it: were samples put in another order, "
            "or cut off, before the site? `enforce_sorted=False` of pack_padded_sequence keeps track of their order"
        )
    return counted & own


def _unpacked(output: PackedSequence, batch_size: int, length: int | None, site: str) -> tuple[Tensor, Tensor]:
    """A packed sequence as (B, T, D), and which positions it really has."""
    sizes = output.batch_sizes.tolist()
    if sizes[0] != batch_size:
        raise ValueError(
            f"the packed output of site {site!r} holds {sizes[0]} sequences for a batch of {batch_size} examples"
        )
    if length is not None and len(sizes) > length:
        raise ValueError(
            f"mask ({batch_size}, {length}) does not fit the packed output of site {site!r}, whose longest example has "
            f"{len(sizes)} positions"
        )
    padded, lengths = pad_packed_sequence(output, batch_first=True, total_length=length)
    return padded, torch.arange(padded.shape[1], device=padded.device) < lengths.to(padded.device)[:, None]


def repacked(padded: Tensor, like: PackedSequence) -> PackedSequence:
    """The inverse of unpacking: (B, T, D) in the order of a packed sequence."""
    rows = padded if like.sorted_indices is None else padded.index_select(0, like.sorted_indices)
    data = torch.cat([rows[:size, place] for place, size in enumerate(like.batch_sizes.tolist())])
    return PackedSequence(data, like.batch_sizes, like.sorted_indices, like.unsorted_indices)


def check_sites(argument: str, given: object, names: Mapping[str, str] | None) -> None:
    """An argument by site names sites that there are.

    Raises:
        ValueError: If it names another.

    """
    unknown = sorted(set(given) - set(names)) if isinstance(given, Mapping) and names is not None else []
    if unknown:
        raise ValueError(f"`{argument}` names sites {unknown}, which are not among {list(names or ())}.")


def of_sites(given: Any, names: Mapping[str, str]) -> Any:
    """Of an argument by site, what is for these sites; of another all of it.

    Example:
        >>> of_sites({"enc": "BTD", "dec": "TBD"}, {"enc": "model.encoder"}), of_sites("BD", {})
        ({'enc': 'BTD'}, 'BD')

    """
    return {site: one for site, one in given.items() if site in names} if isinstance(given, Mapping) else given


def _misfit(mask: tuple[int, ...], representations: Tensor, site: str) -> ValueError:
    return ValueError(f"mask {mask} does not fit representations {tuple(representations.shape)} of site {site!r}")
