"""A part: the residuals of a language model's layers in a validation run, read through its final norm and head."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lightning_interp.batches.reader import Key
from lightning_interp.batches.site_rows import SiteRows
from lightning_interp.distributed.sharding import refuse_sharded
from lightning_interp.functional.lens import LensRows, lens_rows
from lightning_interp.isolation.seen import Seen
from lightning_interp.language.likelihood import logits_in
from lightning_interp.parts.validation_sites import ValidationSites
from lightning_interp.reporting.plain_values import Settings
from lightning_interp.sites import Call, Layout, OutputKey, blocks, resolve_sites
from lightning_interp.sites.eager_stance import EagerStance
from lightning_interp.sites.names import clean_name, modules_by_name
from lightning_interp.sites.recorder import CaptureError
from lightning_interp.sites.unembedding import Unembed, Unembedding
from lightning_interp.tasks.loading import find_language_model

__all__ = ["LensBatch", "LensSites"]

Sites = str | Sequence[str] | Mapping[str, str]

_NEXT, _TARGET = "next_token", "target"
_EXACT, _ROUNDED = 1e-5, 2e-2


@dataclass(frozen=True)
class LensBatch:
    """What a layer says of each position of the selected samples of a batch, one after the other, (N,) each."""

    lens: LensRows
    """Of the layer's residuals."""
    own: LensRows
    """Of the model's own logits."""
    targets: Tensor
    """The right tokens; below 0 where there is none."""
    counted: Tensor
    """Which positions are real, and have a right token."""
    vocabulary: int
    """How many tokens the model's own logits are of."""


class _Ear:
    """A hook that hands on what a module returns, to whoever listens.

    It stays on the module, so that it is there too when a step is run again with the hooks that the module had before.
    """

    def __init__(self) -> None:
        self.listener: Callable[[Any], None] | None = None

    def __call__(self, module: nn.Module, args: Any, output: Any) -> None:
        if self.listener is not None:
            self.listener(output)


class LensSites(ValidationSites):
    """The outputs of layers of a language model, what it predicts itself, and how residuals become logits.

    Args:
        model: Dotted name of the language model in the module that is trained; ``""`` for the module.
        sites: Its layers; ``None`` for its blocks (:func:`~lightning_interp.sites.blocks`).
        norm, head: See :class:`~lightning_interp.sites.unembedding.Unembedding`.
        target: Where a batch has the label of each position, int (B, T), negative where there is none; ``None`` for
            the token that comes next.
        shift: How many positions behind the one that predicts it a label stands.
        tile: Positions whose logits are there at a time.
        call: Where the model is called several times in a step, which call is read.
        kwargs: Of :class:`~lightning_interp.parts.validation_sites.ValidationSites`.

    Raises:
        ValueError: If an argument is out of range; when attached, if a name matches nothing, there are no layers or no
            head, or parameters are sharded over ranks.

    """

    attached = (*ValidationSites.attached, "unembed", "_module", "_ear", "_handle")

    def __init__(
        self,
        model: str = "",
        sites: Sites | None = None,
        norm: str | None = None,
        head: str | Unembed | None = None,
        target: Key | None = None,
        shift: int = 0,
        tile: int = 1024,
        *,
        call: Call = "only",
        tokens: Key | None = None,
        layout: Layout | Mapping[str, Layout] | None = None,
        output: OutputKey | Mapping[str, OutputKey] | None = None,
        **kwargs: Any,
    ) -> None:
        if tile < 1:
            raise ValueError(f"`tile` must be at least 1, got {tile}.")
        if shift < 0 or (shift and target is None):
            raise ValueError(f"`shift` is how far behind labels of `target` stand, at least 0; got {shift}.")
        if call not in ("only", "first", "last"):
            raise ValueError(f"`call` must be 'only', 'first' or 'last', got {call!r}.")
        self.language_model, self.asked, self.norm, self.head = model, sites, norm, head
        self.target, self.shift, self.tile = target, shift, tile
        labels = [_NEXT] if target is None else {_TARGET: target}
        self._label = next(iter(labels))
        self.unembed: Unembedding | None = None
        self.ends_with_the_last = False
        """Whether the last site is the model's last layer."""
        self._module: nn.Module | None = None
        self._ear: _Ear | None = None
        self._handle: RemovableHandle | None = None
        self._stance = EagerStance()
        self._own: LensRows | None = None
        self._runs = 0
        self._vocabulary = 0
        self._error: Exception | None = None
        given = {} if sites is None else sites
        super().__init__(given, labels, tokens, layout=layout, call=call, output=output, **kwargs)

    def short_names(self, model: nn.Module | None = None) -> list[str]:
        """What keys call the layers; ``<site>`` where that cannot be known without the model."""
        if self.asked is not None:
            return super().short_names(model)
        found = self.names or ({} if model is None else resolve_sites(model, self._blocks(model)))
        return list(found) or ["<site>"]

    def _blocks(self, model: nn.Module) -> dict[str, str]:
        """The blocks of the language model, by names in the module that is trained."""
        before = f"{self.language_model}." if self.language_model else ""
        found = blocks(find_language_model(self.language_model, model))
        return {short: f"{before}{name}" for short, name in found.items()}

    def attach(self, model: nn.Module) -> None:
        """Find the layers, the norm and the head."""
        self._module = find_language_model(self.language_model, model)
        refuse_sharded(self._module, "residuals through norm and head")
        if self.asked is None:
            self.sites = self._blocks(model)
        super().attach(model)
        before = f"{clean_name(self.language_model)}." if self.language_model else ""
        layers = [clean_name(name).removeprefix(before) for name in self.names.values()]
        try:
            inside = [clean_name(name) for name in blocks(self._module).values()]
        except ValueError:  # it has none that are told apart
            inside = []
        modules = modules_by_name(self._module)
        last = modules.get(layers[-1])
        self.ends_with_the_last = bool(inside) and last is modules[inside[-1]]
        self._ear = _Ear()
        self._handle = self._module.register_forward_hook(self._ear)
        self.unembed = Unembedding.find(self._module, [*layers, *inside], self.norm, self.head)

    def detach(self) -> None:
        """Let go of the model."""
        self._stop()
        if self._handle is not None:
            self._handle.remove()
        super().detach()
        self.unembed = self._module = self._ear = self._handle = None

    def forget(self) -> None:
        """The reading is over, or given up."""
        self._stop()
        self._own = None
        super().forget()

    # ------------------------------------------------- batches

    def before_batch(self, seen: Seen) -> None:
        """Read tokens and labels, and listen to what the layers and the model put out."""
        super().before_batch(seen)
        self._own, self._error, self._runs = None, None, 0
        # Read now, since a step may change its batch.
        labels = self._reads[None].labels([self._label])[self._label].clone()
        assert self._ear is not None
        self._ear.listener = partial(self._take, labels, seen)
        self._stance.begin()

    def _take(self, labels: Tensor, seen: Seen, output: Any) -> None:
        """What the model itself predicts, at the first call of a step or at each."""
        self._runs += 1
        if self._runs > 1 and self.call != "last":
            return
        try:
            labels = labels.squeeze(-1) if labels.ndim == 3 else labels
            logits = seen.selection.of(logits_in(output, labels)).detach().flatten(0, 1)
            targets = seen.selection.of(self._shifted(labels)).flatten().to(logits.device)
            with torch.no_grad(), torch.autocast(logits.device.type, enabled=False):
                self._own, self._vocabulary = self._tiled(lambda part: logits[part], targets), logits.shape[-1]
        except Exception as error:  # it is the reading's, not the model's
            self._error = error

    def rows(self, seen: Seen) -> Iterator[tuple[str, SiteRows]]:
        """See :meth:`ValidationSites.rows`; what the model predicts itself is known then.

        Raises:
            CaptureError: If the language model was not called.
            TypeError: If what it returned has no logits.

        """
        self._stop()
        if self._error is not None:
            raise self._error
        if not self._runs:
            raise CaptureError(
                f"the language model {self.language_model!r} was not called in the validation step: name the module "
                "that is, with `model`"
            )
        yield from super().rows(seen)

    def _stop(self) -> None:
        if self._ear is not None:
            self._ear.listener = None
        self._stance.end()

    def _shifted(self, labels: Tensor) -> Tensor:
        """The label that each position predicts, −1 for none."""
        if not self.shift:
            return labels
        return nn.functional.pad(labels[:, self.shift :], (0, self.shift), value=-1)

    def _tiled(self, logits_of: Callable[[slice], Tensor], targets: Tensor) -> LensRows:
        """Of each position, some at a time."""
        found = []
        for begin in range(0, len(targets), self.tile):
            part = slice(begin, begin + self.tile)
            logits = logits_of(part)
            found.append(lens_rows(logits, targets[part].clamp(0, logits.shape[-1] - 1)))
        return LensRows(*(torch.cat(columns) for columns in zip(*found, strict=True)))

    def read(self, site: str, rows: SiteRows) -> LensBatch:
        """What a site says of a batch, and what the model does.

        Raises:
            ValueError: If the site gives no vector for each label.

        """
        assert self.unembed is not None
        assert self._own is not None
        unembed, z = self.unembed, rows.representations
        labels = rows.labels[self._label]
        labels = labels.squeeze(-1) if labels.ndim == 3 else labels
        if labels.shape != z.shape[:2]:
            raise ValueError(
                f"site {site!r} gives vectors (B, T) = {tuple(z.shape[:2])}, and labels are {tuple(labels.shape)}: "
                "name sites with a vector for each position, and a `target` with a label for each."
            )
        counted = rows.mask
        if self.shift:
            counted = counted & nn.functional.pad(rows.mask[:, self.shift :], (0, self.shift))
        targets = self._shifted(labels).to(z.device).flatten()
        flat = z.flatten(0, 1)
        with torch.no_grad(), self._precision():
            found = self._tiled(lambda part: unembed(flat[part]), targets)
        own = LensRows(*(one.to(z.device) for one in self._own))
        return LensBatch(found, own, targets, counted.flatten() & (targets >= 0), self._vocabulary)

    def _precision(self) -> AbstractContextManager[Any]:
        """What a validation step is run in."""
        trainer = None if self.now is None else self.now.trainer
        return nullcontext() if trainer is None else trainer.strategy.precision_plugin.val_step_context()

    # ------------------------------------------------- what is said of it

    def check(self, last: float, own: float) -> None:
        """See that the last layer's lens is what the model does.

        Args:
            last: Loss of the last site's lens.
            own: Loss of the model, of the same positions.

        Raises:
            ValueError: If the site is the model's last layer, and they are not the same.

        """
        if not self.ends_with_the_last:
            return
        assert self.unembed is not None
        rounded = torch.get_float32_matmul_precision() != "highest" or self._halved()
        if abs(last - own) > (_ROUNDED if rounded else _EXACT) * max(1.0, abs(own)):
            raise ValueError(
                f"residuals of the last layer have a loss of {last:.6g} through {self.unembed.described}, and the "
                f"model's own is {own:.6g}: it does more, or something else. Name what comes behind the last layer "
                "with `norm` and `head`, or give `head` a function of (model, residuals) that does it."
            )

    def _halved(self) -> bool:
        """Whether the model computes in fewer digits than float32 has."""
        trainer = None if self.now is None else self.now.trainer
        precision = "32" if trainer is None else str(trainer.precision)
        assert self._module is not None
        return "16" in precision or any(one.dtype.itemsize < 4 for one in self._module.parameters())

    def settings(self) -> Settings:
        """How sites and batches are read, and through what."""
        found = super().settings()
        if self.unembed is not None:
            found["norm"] = self.unembed.norm
            found["head"] = "a function" if callable(self.unembed.head) else self.unembed.head
        return found
