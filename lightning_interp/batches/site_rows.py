"""What a site returned for a batch, as rows: vectors by sample and position, and which of them count."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from lightning_interp.batches.reader import ReadBatch
from lightning_interp.batches.rows import rows_a_sample, together
from lightning_interp.distributed.positions import Selection
from lightning_interp.sites import Found, by_site
from lightning_interp.sites.layout import Layout, LayoutResolver, check_sites
from lightning_interp.sites.output import OutputKey, described

__all__ = [
    "HowRead",
    "Pooling",
    "ReadSite",
    "SiteReader",
    "SiteRows",
    "check_pooling",
    "pooled_rows",
    "refuse_unknown_padding",
]

ReadSite = Callable[[Any, Any], Any]
"""Called with what a site returned and the batch; gives its rows."""
Pooling = Literal["first", "last", "mean"] | Callable[[Tensor, Tensor], Tensor]

_KEYS = ("representations", "mask", "samples", "positions", "labels")
_COUNTED = {
    "batch": "of which those count that the batch's tokens or mask name",
    "output": "of which those count that the output has",
    "read": "of which those count that `read` names",
    "none": "all of which count, since no mask is known",
}
_POOLINGS = ("first", "last", "mean")


@dataclass(frozen=True)
class SiteRows:
    """The rows of a batch at one site."""

    representations: Tensor
    """(B, T, D)."""
    mask: Tensor
    """Which of them count, bool (B, T)."""
    labels: Mapping[str, Tensor] = field(default_factory=dict)
    """By name (B,), (B, T) or (B, T, M)."""
    positions: Tensor | None = None
    """Place of each sample in the data set, int64 (B,), where the reader of the site tells."""

    def of(self, selection: Selection) -> SiteRows:
        """The same of the selected samples; their places are the selection's, where the site's reader tells none."""
        positions = selection.positions if self.positions is None else selection.of(self.positions)
        labels = {name: selection.of(value) for name, value in self.labels.items()}
        return SiteRows(selection.of(self.representations), selection.of(self.mask), labels, positions)


class HowRead(NamedTuple):
    """How a site is read, for a line of text and the settings."""

    layout: str
    """Order of the axes, ``"read"`` for a reader of its own, ``"packed"`` or ``"nested"`` for ragged rows."""
    shape: tuple[int, ...]
    """Of the first batch as (B, T, D)."""
    mask: str
    """Where it is known which rows count: from the ``"batch"``, the ``"output"``, ``"read"``, or ``"none"``."""

    def settings(self, found: Found) -> dict[str, str]:
        """The same for ``setting/…``."""
        return {"layout": self.layout, "output": f"output{found.path}", "mask": self.mask}

    def line(self, site: str, module: str, found: Found, call: str) -> str:
        """A sentence that says it all.

        Args:
            site: Short name.
            module: Dotted name and class of the module.
            found: Which tensor of how many calls it was.
            call: Which of the calls is read.

        Example:
            >>> how = HowRead("BCT", (8, 7, 16), "none")
            >>> how.line("enc", "net.enc, Conv1d", Found("", 2), "first")  # doctest: +NORMALIZE_WHITESPACE
            "Site 'enc' (net.enc, Conv1d) is read: output of the first of 2 calls, layout BCT,
            7 rows of 16 features a sample, all of which count, since no mask is known."

        """
        which = ""
        if found.calls > 1:
            which = f" of {found.calls} calls" if call == "all" else f" of the {call} of {found.calls} calls"
        rows = f"{self.shape[1]} row{'s' * (self.shape[1] != 1)} of {self.shape[2]} features a sample"
        how = "by `read`" if self.layout == "read" else f"layout {self.layout}"
        return f"Site {site!r} ({module}) is read: output{found.path}{which}, {how}, {rows}, {_COUNTED[self.mask]}."


class SiteReader:
    """Turns what sites return into rows, and says once how.

    Args:
        layout: Order of the axes, for all sites or by site; told from the model and the first output by default.
        read: Instead of a layout, a callable on what the site returned and the batch, for all sites or by site. It
            returns representations (B, T, D) or (N, D), a pair of them and their mask, or a mapping with
            ``representations`` and any of ``mask``, ``samples`` (of N rows the number, in the batch, of the sample that
            each belongs to), ``positions`` (places in the data set of the B samples) and ``labels`` (a mapping, shaped
            as the rows or as the samples).
        pooling: One vector a sample: its ``"first"`` or ``"last"`` row that counts, their ``"mean"``, or a callable on
            rows (B, T, D) and mask (B, T) that returns (B, D).

    Raises:
        ValueError: If an argument is unknown or names a site that there is not; when a batch comes, if shapes do not
            fit.

    Example:
        >>> reader = SiteReader(read=lambda output, batch: {"representations": output, "samples": batch["graph"]})
        >>> reader.resolve(nn.Identity(), {"nodes": ""})
        >>> graphs = {"graph": torch.tensor([0, 0, 1])}
        >>> rows = reader("nodes", [torch.eye(3)], graphs, ReadBatch(2, None, None, None, {}))
        >>> rows.representations.shape, rows.mask.tolist()
        (torch.Size([2, 2, 3]), [[True, True], [True, False]])

    """

    def __init__(
        self,
        layout: Layout | Mapping[str, Layout] | None = None,
        read: ReadSite | Mapping[str, ReadSite] | None = None,
        pooling: Pooling | None = None,
    ) -> None:
        check_pooling(pooling)
        for one in read.values() if isinstance(read, Mapping) else [read]:
            if one is not None and not callable(one):
                raise ValueError(f"`read` must be a callable on a site's output and the batch, got {one!r}.")
        if (
            layout is not None
            and read is not None
            and not isinstance(layout, Mapping)
            and not isinstance(read, Mapping)
        ):
            raise ValueError(f"`layout={layout!r}` has no effect where `read` says what the rows are: leave one out.")
        self.layout, self.read, self.pooling = layout, read, pooling
        self.layouts = LayoutResolver(layout)
        self._readers: dict[str, ReadSite | None] = {}
        self.told: dict[str, HowRead] = {}
        """How each site was read at first."""

    def resolve(
        self,
        model: nn.Module,
        names: Mapping[str, str],
        output: OutputKey | Mapping[str, OutputKey] | None = None,
    ) -> None:
        """Look at the model.

        Args:
            model: The model.
            names: Short name of each site → dotted name.
            output: Which tensor of what a site returns is read, for all sites or by site, where that is said.

        """
        check_sites("read", self.read, names)
        self._readers = by_site(self.read, names)
        both = [
            site for site in names if self._readers[site] and isinstance(self.layout, Mapping) and site in self.layout
        ]
        if both:
            raise ValueError(
                f"`layout` and `read` both name {both[0]!r}: `read` says what the rows are, leave one out."
            )
        own = self.own
        if self.layout is not None and not isinstance(self.layout, Mapping) and len(own) == len(names):
            raise ValueError(
                f"`layout={self.layout!r}` has no effect where `read` says what the rows are: leave one out."
            )
        both = [site for site in own if isinstance(output, Mapping) and site in output]
        if both:
            raise ValueError(f"`output` and `read` both name {both[0]!r}: `read` is given the whole output.")
        self.layouts = LayoutResolver(self.layout, model, names, output=output)
        self.told = {}

    @property
    def own(self) -> list[str]:
        """Sites that have a reader of their own, which is given the whole output."""
        return [site for site, read in self._readers.items() if read is not None]

    def __call__(
        self,
        site: str,
        outputs: Sequence[Any],
        batch: Any,
        read: ReadBatch,
        labels: Sequence[str] = (),
        optional: Sequence[str] = (),
    ) -> SiteRows:
        """The rows of a batch, all of them: :func:`pooled_rows` comes after.

        Args:
            site: The site's short name.
            outputs: What it returned, at one call or several.
            batch: What the loader gave.
            read: What the batch says.
            labels: Label sets that are wanted, from the site's own reader or else from the batch.
            optional: Further ones, which are left out where there are none that fit.

        """
        own = self._readers.get(site)
        times = 1
        if own is not None:
            parts = [_rows_of(own(output, batch), read.samples or read.size, site) for output in outputs]
        else:
            times = 1 if read.samples is None else rows_a_sample(batch, read.size, read.samples)
            width = None if read.mask is None else read.mask.shape[1]
            ragged = [read.mask if _is_ragged(output) else None for output in outputs]
            try:
                parts = [
                    SiteRows(*self.layouts(site, output, read.size, mask, width))
                    for output, mask in zip(outputs, ragged, strict=True)
                ]
            except ValueError as error:
                raise ValueError(
                    f"{error}. Where no layout says it, `read=` does: a callable on what the site returned and the "
                    "batch that returns representations (B, T, D), or rows (N, D) with the samples they belong to."
                ) from error
        layout = self.layouts.layouts.get(site)
        rows = _aligned(site, parts, read, own is not None, layout)
        rows = replace(rows, labels=_labels(site, rows, read, labels, optional, len(parts)))
        rows = _of_samples(rows, times) if times > 1 else rows
        if site not in self.told:
            self.told[site] = HowRead(
                layout="read" if own is not None else self._layout_of(site, outputs[-1]),
                shape=tuple(rows.representations.shape),
                mask=_mask_of(read, own is not None, outputs[-1]),
            )
        return rows

    def pooled(self, site: str, rows: SiteRows, needed: Sequence[str] = ()) -> SiteRows:
        """One vector a sample, if that is asked for; of labels that are not needed those that a vector can have."""
        if self.pooling is None:
            return rows
        if self.pooling not in ("first", "last"):
            kept = {name: one for name, one in rows.labels.items() if name in needed or one.ndim == 1}
            rows = replace(rows, labels=kept)
        return pooled_rows(rows, self.pooling, site)

    def _layout_of(self, site: str, output: Any) -> str:
        if not isinstance(output, Tensor):
            return "packed"
        return "nested" if output.is_nested else self.layouts.layouts[site]


def _is_ragged(output: Any) -> bool:
    return not isinstance(output, Tensor) or output.is_nested


def _mask_of(read: ReadBatch, own: bool, output: Any) -> str:
    if own:
        return "read"
    if read.mask is not None:
        return "batch"
    return "output" if _is_ragged(output) else "none"


def _aligned(site: str, parts: Sequence[SiteRows], read: ReadBatch, own: bool, layout: Layout | None) -> SiteRows:
    """Calls one after the other along the positions, with the mask of the batch."""
    calls, one = len(parts), parts[0]
    if calls > 1:
        z, mask = (torch.cat([getattr(part, name) for part in parts], dim=1) for name in ("representations", "mask"))
        labels = {
            name: torch.cat([part.labels[name] for part in parts], dim=1) if value.ndim > 1 else value
            for name, value in one.labels.items()
        }
        one = SiteRows(z, mask, labels, one.positions)
    length = one.representations.shape[1]
    if read.mask is None:
        if layout in ("BTD", "TBD", "BD") and not own:
            refuse_unknown_padding(site, length // calls if length > calls else length, read)
        return one
    words = read.mask.to(one.mask.device)
    if length == 1 and words.shape[1] != 1:
        # One vector a sample: it counts where any position of the sample does.
        return replace(one, mask=one.mask & words.any(1, keepdim=True))
    if words.shape[1] * calls == length:
        return replace(one, mask=one.mask & words.repeat(1, calls))
    if words.shape[1] == calls == length:
        # A call for each position, as of a cell that is unrolled.
        return replace(one, mask=one.mask & words)
    if own:
        return one
    raise ValueError(
        f"The mask {tuple(words.shape)} does not fit the representations {tuple(one.representations.shape)} of site "
        f"{site!r}."
    )


def _labels(
    site: str, rows: SiteRows, read: ReadBatch, names: Sequence[str], optional: Sequence[str], calls: int
) -> dict[str, Tensor]:
    """Labels by name, shaped as the rows are."""
    length = rows.representations.shape[1]
    given = dict(rows.labels) | read.labels([name for name in names if name not in rows.labels])
    given |= read.labels([name for name in optional if name not in given and read.has(name)])
    labels: dict[str, Tensor] = {}
    for name in (*names, *(one for one in optional if one in given)):
        value = given[name]
        if value.ndim == 1 or value.shape[1] == length:
            labels[name] = value
        elif value.shape[1] * calls == length:
            labels[name] = torch.cat([value] * calls, dim=1)
        elif value[0].numel() == length:
            labels[name] = value.flatten(1)  # a map of labels, as of pixels
        elif name in names:
            raise ValueError(
                f"Site {site!r} gives {length} vectors a sample, but label set {name!r} has shape "
                f"{tuple(value.shape)}: use labels with one entry per sample there."
            )
    return labels


def _of_samples(rows: SiteRows, times: int) -> SiteRows:
    """Several rows a sample, one after the other along the positions."""
    z = rows.representations
    labels = {}
    for name, value in rows.labels.items():
        if len(value) == len(z):
            # One for each row of a sample.
            value = together(times, value[:, None].expand(-1, z.shape[1]) if value.ndim == 1 else value)
        labels[name] = value
    return SiteRows(together(times, z), together(times, rows.mask), labels, rows.positions)


def refuse_unknown_padding(site: str, length: int, read: ReadBatch) -> None:
    """Refuse positions of which some may be padding, where the batch does not say which.

    Raises:
        ValueError: If the batch has no mask, and holds what may be token ids or a mask of that length.

    """
    if length < 2:
        return
    for part, (positions, what) in read.maybe_padded.items():
        if positions == length:
            asking = "are they token ids, some of them padding? Point to them with `tokens=` and pass `padding_idx=`, "
            if what == "booleans":
                asking = "are they a mask? "
            raise ValueError(
                f"Site {site!r} gives {length} vectors a sample, and the batch has no mask, but {what} of that length "
                f"at {part}: {asking}pass `mask=`, or say with `padding_idx=-1` that every position counts."
            )


def _rows_of(given: Any, size: int, site: str) -> SiteRows:
    """What a reader of a site returned, as rows (B, T, D)."""
    if isinstance(given, Tensor):
        given = {"representations": given}
    elif isinstance(given, tuple) and len(given) == 2:
        given = dict(zip(_KEYS, given, strict=False))
    if not isinstance(given, Mapping) or "representations" not in given:
        raise ValueError(
            f"`read` of site {site!r} must return representations, a pair of them and a mask, or a mapping with "
            f"'representations' and any of {list(_KEYS[1:])}, got {described(given)}."
        )
    unknown = sorted(set(given) - set(_KEYS))
    if unknown:
        raise ValueError(f"`read` of site {site!r} returned {unknown}, which is none of {list(_KEYS)}.")
    z = given["representations"]
    if not isinstance(z, Tensor) or not z.is_floating_point() or z.ndim not in (2, 3):
        raise ValueError(
            f"`read` of site {site!r} must give floating-point rows (B, T, D) or (N, D), got {described(z)}."
        )
    labels = {name: torch.as_tensor(value).to(z.device) for name, value in dict(given.get("labels") or {}).items()}
    mask, samples = given.get("mask"), given.get("samples")
    z = z.detach()
    shape = tuple(z.shape[:-1])
    mask = z.new_ones(shape, dtype=torch.bool) if mask is None else torch.as_tensor(mask).to(z.device).bool()
    if tuple(mask.shape) != shape:
        raise ValueError(f"`read` of site {site!r} gave a mask {tuple(mask.shape)} for rows {shape}.")
    if samples is not None:
        owner = torch.as_tensor(samples).to(z.device)
        if z.ndim != 2 or owner.shape != z.shape[:1] or owner.is_floating_point():
            raise ValueError(
                f"`read` of site {site!r} gave `samples` {described(owner)} for rows {tuple(z.shape)}: expected one "
                "whole number for each of N rows."
            )
        z, mask, labels = _by_sample(z, mask, labels, owner.long(), size, site)
    elif z.ndim == 2:
        z, mask = z[:, None], mask[:, None]
        labels = {name: value[:, None] if value.ndim > 1 else value for name, value in labels.items()}
    if z.shape[0] != size:
        raise ValueError(
            f"`read` of site {site!r} gave rows {tuple(shape)} for a batch of {size} samples: return (B, T, D), or "
            "tell with `samples` which sample of the batch each row belongs to."
        )
    for name, value in labels.items():
        if value.shape[:1] != (size,) or (value.ndim > 1 and value.shape[1] != z.shape[1]):
            raise ValueError(
                f"`read` of site {site!r} gave labels {name!r} of shape {tuple(value.shape)} for {size} samples and "
                f"rows {shape}."
            )
    positions = given.get("positions")
    if positions is not None:
        positions = torch.as_tensor(positions).long().cpu()
        if positions.shape != (size,):
            raise ValueError(
                f"`read` of site {site!r} gave `positions` {tuple(positions.shape)}: expected one for each of the "
                f"{size} samples."
            )
    return SiteRows(z, mask, labels, positions)


def _by_sample(
    z: Tensor, mask: Tensor, labels: Mapping[str, Tensor], owner: Tensor, size: int, site: str
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Rows (N, D) of samples with unequal numbers of them as (B, T, D), in the order in which they came."""
    if len(owner) and not 0 <= int(owner.min()) <= int(owner.max()) < size:
        raise ValueError(
            f"`read` of site {site!r} gave `samples` from {int(owner.min())} to {int(owner.max())} for a batch of "
            f"{size} samples, which are numbered from 0."
        )
    number = len(owner)
    counts = torch.bincount(owner, minlength=size)
    order = owner.argsort(stable=True)
    place = torch.empty_like(owner)
    place[order] = torch.arange(number, device=z.device) - (counts.cumsum(0) - counts).repeat_interleave(counts)
    longest = max(int(counts.max()), 1) if size else 1

    def laid_out(rows: Tensor, fill: float) -> Tensor:
        whole = rows.new_full((size, longest, *rows.shape[1:]), fill)
        whole[owner, place] = rows
        return whole

    found: dict[str, Tensor] = {}
    for name, value in labels.items():
        if value.shape[:1] == (number,) and number != size:
            found[name] = laid_out(value, float("nan") if value.is_floating_point() else -1)
        elif value.shape[:1] == (size,) and number != size:
            found[name] = value
        else:
            # As many rows as samples, of which each may have none or several: a label of a row.
            found[name] = laid_out(value, float("nan") if value.is_floating_point() else -1)
    return laid_out(z, 0.0), laid_out(mask, 0), found


def check_pooling(pooling: Any) -> None:
    """Refuse what is no way of pooling.

    Raises:
        ValueError: If it is none.

    """
    if pooling is not None and not callable(pooling) and pooling not in _POOLINGS:
        raise ValueError(
            f"`pooling` must be one of {list(_POOLINGS)}, a callable, or None for every row, got {pooling!r}."
        )


def pooled_rows(rows: SiteRows, pooling: Pooling, site: str = "") -> SiteRows:
    """One vector a sample in place of all its rows; a sample without a row that counts has none.

    Args:
        rows: The rows of a batch.
        pooling: ``"first"`` or ``"last"`` row that counts, whose labels the vector takes over; ``"mean"`` of those that
            count, or a callable on representations and mask, which can have labels of samples only.
        site: Name for messages.

    Raises:
        ValueError: If a callable does not return (B, D), or a mean is to have a label of a position.

    Example:
        >>> rows = SiteRows(torch.tensor([[[1.0], [3.0], [9.0]]]), torch.tensor([[True, True, False]]))
        >>> [float(pooled_rows(rows, how).representations) for how in ("first", "last", "mean")]
        [1.0, 3.0, 2.0]

    """
    z, mask = rows.representations, rows.mask
    number, length, dim = z.shape
    counted = mask.any(1, keepdim=True)
    place: Tensor | None = None
    if pooling in ("first", "last"):
        spot = torch.arange(length, device=z.device)
        place = spot.masked_fill(~mask, length).amin(1) if pooling == "first" else spot.masked_fill(~mask, -1).amax(1)
        place = place.clamp(0, length - 1)
        vectors = z[torch.arange(number, device=z.device), place]
    elif pooling == "mean":
        total = z.masked_fill(~mask[..., None], 0).sum(1, dtype=torch.promote_types(z.dtype, torch.float32))
        vectors = (total / mask.sum(1, keepdim=True).clamp_min(1)).to(z.dtype)
    else:
        assert callable(pooling)
        vectors = pooling(z, mask)
        if not isinstance(vectors, Tensor) or vectors.ndim != 2 or vectors.shape[0] != number:
            raise ValueError(
                f"`pooling` must return one vector for each of {number} samples (B, D), got {described(vectors)} for "
                f"representations {(number, length, dim)}."
            )
    labels: dict[str, Tensor] = {}
    for name, value in rows.labels.items():
        if value.ndim == 1 or value.shape[1] == 1:
            labels[name] = value
        elif place is not None:
            labels[name] = value[torch.arange(number, device=value.device), place.to(value.device)][:, None]
        else:
            raise ValueError(
                f"Label set {name!r} has a label for each position, {tuple(value.shape)}, but pooling={pooling!r} "
                f"makes one vector a sample at site {site!r}: use labels of samples, or pooling='first' or 'last'."
            )
    return SiteRows(vectors[:, None], counted, labels, rows.positions)
