"""Noise at sites: added to what a submodule returns, or put in place of the tokens that it is given."""

from __future__ import annotations

import contextlib
import itertools
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from lightning_interp.functional._numerics import as_float
from lightning_interp.functional.counter_noise import counter_normal, counter_uniform
from lightning_interp.sites.edit import SiteEdit
from lightning_interp.sites.layout import LayoutResolver, from_btd, repacked
from lightning_interp.sites.output import OutputKey, SiteTensor
from lightning_interp.sites.recorder import CaptureError

__all__ = ["BatchNoise", "Kind", "Relative", "SiteNoise"]

Kind = Literal["gaussian", "tokens"]
Relative = Literal["norm", "dimension"]
_POSITION_BITS = 20


class BatchNoise:
    """The noise of one batch, drawn by sample and position: the same at every reading, scale, batch size and rank.

    Args:
        positions: Place of each sample of the batch in the data set, int64 (B,).
        layouts: How the outputs of sites are laid out.
        read: Positions that get noise, bool (B, T); ``None`` for all.
        seed: Which noise.

    """

    def __init__(
        self, positions: Tensor, layouts: LayoutResolver | None = None, read: Tensor | None = None, seed: int = 0
    ) -> None:
        self.positions = positions
        self.layouts = layouts or LayoutResolver()
        self.read = read
        self.seed = seed
        self.unfit: dict[str, tuple[int, int]] = {}
        """Sites whose positions are not those of ``read``: how many that has, and how many they have."""
        self._drawn: dict[tuple[str, int, tuple[int, ...]], Tensor] = {}

    def gaussian(self, site: str, call: int, output: SiteTensor, scale: float, relative: Relative) -> SiteTensor:
        """An output of a site with Gaussian noise added to every vector.

        Args:
            site: The site's short name.
            call: Number of this call of the site in the forward pass.
            output: What the site returned.
            scale: Size of the noise.
            relative: ``"norm"``: the noise of a vector has ``scale`` times its root-mean-square in every dimension, so
                about ``scale`` times its length. ``"dimension"``: it has ``scale`` times the dimension's standard
                deviation over the batch.

        """
        if getattr(output, "is_nested", False) or hasattr(output, "placements"):
            kind = "DTensor" if hasattr(output, "placements") else "nested tensor"
            raise CaptureError(f"site {site!r} returned a {kind}, to which noise cannot be added: choose another site")
        length = None if self.read is None else self.read.shape[1]
        z, mask = self.layouts(site, output, len(self.positions), length=length)
        if self.read is not None and self.read.shape == z.shape[:2]:
            mask = mask & self.read.to(mask.device)
        elif self.read is not None and z.shape[1] > 1:
            self.unfit[site] = (self.read.shape[1], z.shape[1])
        z = as_float(z)
        noise = self._normal(site, call, z)
        if relative == "norm":
            spread = z.square().mean(-1, keepdim=True).sqrt()
        else:
            valid = z[mask]
            spread = valid.std(0, correction=0) if len(valid) else z.new_zeros(z.shape[-1])
        added = scale * spread * noise * mask[..., None]
        if isinstance(output, PackedSequence):
            data = (as_float(output.data) + repacked(added, output).data).to(output.data.dtype)
            return PackedSequence(data, output.batch_sizes, output.sorted_indices, output.unsorted_indices)
        return (as_float(output) + from_btd(added, self.layouts.layouts[site], output.shape)).to(output.dtype)

    def tokens(self, site: str, call: int, ids: Tensor, rate: float, allowed: Tensor) -> Tensor:
        """Token ids of which a share is replaced by others, drawn evenly from the allowed ones.

        A token replaced at one rate is replaced, by the same, at every higher one.

        Args:
            site: The site's short name.
            call: Number of this call of the site in the forward pass.
            ids: (B,) or (B, T).
            rate: The probability of each allowed token to be replaced.
            allowed: The ids that may be replaced and may replace, int64 (V,), increasing.

        """
        if ids.shape[0] != len(self.positions):
            raise CaptureError(
                f"site {site!r} was given token ids {tuple(ids.shape)} for a batch of {len(self.positions)} samples"
            )
        counters = self._counters(ids[:1].numel(), ids.device).view(ids.shape)
        stream = self._stream(site, call)
        chosen = counter_uniform(counters, stream) < rate
        place = torch.searchsorted(allowed, ids.long().contiguous()).clamp_max(len(allowed) - 1)
        chosen &= allowed[place] == ids
        if self.read is not None and self.read.shape == ids.shape:
            chosen &= self.read.to(ids.device)
        elif self.read is not None and ids.ndim == 2:
            self.unfit[site] = (self.read.shape[1], ids.shape[1])
        drawn = (counter_uniform(counters, stream + 1) * len(allowed)).long().clamp_max(len(allowed) - 1)
        return torch.where(chosen, allowed[drawn].to(ids.dtype), ids)

    def _normal(self, site: str, call: int, z: Tensor) -> Tensor:
        key = (site, call, tuple(z.shape))
        if key not in self._drawn:
            counters = self._counters(z.shape[1], z.device)
            self._drawn[key] = counter_normal(counters, z.shape[2], self._stream(site, call))
        return self._drawn[key].to(z.dtype)

    def _counters(self, length: int, device: torch.device) -> Tensor:
        places = torch.arange(length, device=device)
        return (self.positions.to(device)[:, None] << _POSITION_BITS) + places

    def _stream(self, site: str, call: int) -> int:
        return ((self.seed % 2**29) << 34) + (zlib.crc32(f"{site}/{call}".encode()) << 1)


class SiteNoise:
    """Adds noise to what sites return, or replaces tokens that they are given, while it is told to.

    It is a :class:`~lightning_interp.sites.SiteEdit` of one function.

    Args:
        model: The module that the names are relative to.
        sites: Short name → dotted name, from :func:`~lightning_interp.sites.resolve_sites`.
        kind: ``"gaussian"`` changes the output; ``"tokens"`` the token ids that go in.
        relative: See :meth:`BatchNoise.gaussian`.
        ignore_tokens: Token ids that are neither replaced nor replace.
        num_tokens: Size of the vocabulary, where a site has no ``num_embeddings``.
        output: Which tensor of an output that holds several, for all sites or by site; see
            :class:`~lightning_interp.sites.SiteRecorder`. A callable must return the very tensor.

    Raises:
        ValueError: If an argument is unknown, a name matches no module, a site's vocabulary is unknown or empty, or a
            site lies in a module that is compiled with ``fullgraph=True``.

    Example:
        >>> model = nn.Sequential(nn.Identity(), nn.Identity())
        >>> noise = SiteNoise(model, {"hidden": "0"})
        >>> noise.attach()
        >>> with noise.adding("hidden", 0.5, BatchNoise(torch.arange(2))):
        ...     changed = model(torch.ones(2, 8))
        >>> bool((changed != 1).all()), bool((model(torch.ones(2, 8)) == 1).all())
        (True, True)
        >>> noise.detach()

    """

    def __init__(
        self,
        model: nn.Module,
        sites: Mapping[str, str],
        kind: Kind = "gaussian",
        relative: Relative = "norm",
        ignore_tokens: Sequence[int] = (),
        num_tokens: int | None = None,
        output: OutputKey | Mapping[str, OutputKey] | None = None,
    ) -> None:
        if kind not in get_args(Kind):
            raise ValueError(f"`kind` must be one of {get_args(Kind)}, got {kind!r}.")
        if relative not in get_args(Relative):
            raise ValueError(f"`relative` must be one of {get_args(Relative)}, got {relative!r}.")
        self.kind = kind
        self.relative: Relative = relative
        # Tokens are found by their dtype; which output is read elsewhere says nothing of them.
        self.edit = SiteEdit(model, sites, *(("ids", None) if kind == "tokens" else ("output", output)), what="noise")
        self.sizes: dict[str, Tensor] = {}
        """Norms of the outputs that noise was added to, summed by site."""
        self._allowed = {
            site: _allowed_tokens(site, module, ignore_tokens, num_tokens) if kind == "tokens" else None
            for site, module in self.edit.modules.items()
        }

    def attach(self) -> None:
        """Put the hooks on the model; without effect if they are there already."""
        self.edit.attach()

    def detach(self) -> None:
        """Take the hooks off; without effect if they are off."""
        self.edit.detach()

    @contextlib.contextmanager
    def adding(self, site: str, scale: float, noise: BatchNoise) -> Iterator[None]:
        """Within, the site is noisy; every call of it gets noise of its own.

        Raises:
            CaptureError: At the end, if the site was not called.
            ValueError: If the site lies in what may not be broken, as under ``fullgraph=True``.

        """
        calls = itertools.count()

        def gaussian(output: SiteTensor) -> SiteTensor:
            changed = noise.gaussian(site, next(calls), output, scale, self.relative)
            values = output.data.detach()
            norm = torch.linalg.vector_norm(values, dtype=torch.promote_types(values.dtype, torch.float32))
            self.sizes[site] = self.sizes.get(site, torch.zeros_like(norm)) + norm
            return changed

        def tokens(ids: Tensor) -> Tensor:
            allowed = self._allowed[site]
            assert allowed is not None
            return noise.tokens(site, next(calls), ids, scale, allowed.to(ids.device))

        with self.edit.changing(site, gaussian if self.kind == "gaussian" else tokens):
            yield


def _allowed_tokens(site: str, module: nn.Module, ignore: Sequence[int], num_tokens: int | None) -> Tensor:
    number = num_tokens if num_tokens is not None else getattr(module, "num_embeddings", None)
    if not isinstance(number, int | np.integer):
        raise ValueError(
            f"`sites` {site!r} is a {type(module).__name__}, which does not tell its number of tokens: name an "
            "nn.Embedding, or give `num_tokens`."
        )
    padding = getattr(module, "padding_idx", None)
    allowed = [token for token in range(number) if token not in set(ignore) and token != padding]
    if len(allowed) < 2:
        raise ValueError(f"`ignore_tokens` leaves {len(allowed)} of {number} tokens at site {site!r}.")
    return torch.tensor(allowed)
