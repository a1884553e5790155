"""A part: attention modules of a model and their heads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from lightning_interp.distributed import Collective, Maximum
from lightning_interp.reading.part import Part
from lightning_interp.sites import resolve_sites, short_names
from lightning_interp.sites.attention_modules import attention_modules, number_of_heads
from lightning_interp.sites.attention_tap import AttentionTap
from lightning_interp.sites.recorder import CaptureError

__all__ = ["HeadSites", "Sites"]

Sites = str | Sequence[str] | Mapping[str, str]


class HeadSites(Part):
    """The attention modules of a model, what keys call them and their heads, and a tap on them.

    Args:
        sites: Modules that call attention once in a forward pass; ``None`` for all that the model has
            (:func:`~lightning_interp.sites.attention_modules.attention_modules`).
        within: Dotted name of the part of the model in which they are looked for.

    Raises:
        ValueError: When attached, if a name matches no module.

    Example:
        >>> from lightning_interp.models import small_gpt2
        >>> heads = HeadSites()
        >>> heads.attach(small_gpt2(range(27), 12, heads=3))
        >>> heads.names, heads.number
        ({'0': 'transformer.h.0.attn', '1': 'transformer.h.1.attn'}, {'0': 3, '1': 3})
        >>> heads.detach()

    """

    attached: tuple[str, ...] = ("_model", "_tap")

    def __init__(self, sites: Sites | None = None, within: str = "") -> None:
        self.sites, self.within = sites, within
        self.names: dict[str, str] = {}
        """Short name of each site → dotted name, once the model is known."""
        self.number: dict[str, int | None] = {}
        """How many heads each site has, where that is known."""
        self._model: nn.Module | None = None
        self._tap: AttentionTap | None = None

    @property
    def tap(self) -> AttentionTap:
        """The tap on the sites."""
        if self._tap is None:
            raise RuntimeError("the sites belong to no model yet: `attach` comes first.")
        return self._tap

    def attach(self, model: nn.Module) -> None:
        """Find the sites."""
        self._model, self.names = model, self._found(model)
        self._tap = AttentionTap(model, self.names)
        told = {site: number_of_heads(module) for site, module in self._tap.modules.items()}
        self.number = {site: self.number.get(site) or number for site, number in told.items()}

    def detach(self) -> None:
        """Let go of the model."""
        self.forget()
        self._model = self._tap = None

    def forget(self) -> None:
        """The reading is over, or given up."""
        if self._tap is not None:
            self._tap.stop()

    def _found(self, model: nn.Module) -> dict[str, str]:
        if self.sites is not None:
            return resolve_sites(model, self.sites)
        before = f"{self.within}." if self.within else ""
        return resolve_sites(model, [f"{before}{name}" for name in attention_modules(model.get_submodule(self.within))])

    # ------------------------------------------------- what keys call them

    def short_names(self, model: nn.Module | None = None) -> list[str]:
        """What keys call the sites; ``<site>`` where they cannot be known without the model."""
        if self.sites is not None:
            return short_names(self.sites, model, self.names, "<site>")
        return list(self.names or ({} if model is None else self._found(model))) or ["<site>"]

    def heads_of(self, model: nn.Module | None = None) -> dict[str, list[str]]:
        """What keys call the heads of each site; ``h<k>`` where it is not known how many there are."""
        number = dict(self.number)
        if model is not None and not number:
            number = {site: number_of_heads(model.get_submodule(name)) for site, name in self._found(model).items()}
        named = {site: number.get(site) for site in self.short_names(model)}
        return {site: [f"h{k}" for k in range(n)] if n else ["h<k>"] for site, n in named.items()}

    def check(self, track: Mapping[str, Sequence[int]]) -> None:
        """See that heads to watch are there.

        Raises:
            ValueError: If one is not.

        """
        for site, some in track.items():
            if site not in self.names:
                raise ValueError(f"`track` names site {site!r}, which is not among {list(self.names)}.")
            number = self.number[site]
            if number is not None and max(some, default=0) >= number:
                raise ValueError(f"`track` names head {max(some)} of site {site!r}, which has {number} heads.")

    # ------------------------------------------------- their number

    def saw(self, site: str, heads: int) -> None:
        """Take in how many heads a site was seen to have.

        Raises:
            CaptureError: If it says that it has another number.

        """
        told = self.number.get(site)
        if told is not None and told != heads:
            raise CaptureError(
                f"site {site!r} attends with {heads} heads on this rank and says that it has {told}: heads that lie on "
                "several ranks are not read"
            )
        self.number[site] = heads

    def numbers(self) -> Collective[dict[str, int]]:
        """How many heads each site has, on all ranks, also those that saw none; 0 where nobody did."""
        own = torch.tensor([self.number.get(site) or 0 for site in self.names])
        merged: Tensor = yield Maximum(own)
        found = dict(zip(self.names, map(int, merged.tolist()), strict=True))
        self.number = {site: number or None for site, number in found.items()}
        return found
