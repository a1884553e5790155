"""A part: how far the loss of each example pulls at the last linear layer, told from what it was given and put out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lightning_interp.functional._numerics import as_float
from lightning_interp.functional.last_layer import error_norm, last_layer_norm, output_errors
from lightning_interp.isolation.seen import Seen
from lightning_interp.parts.prediction_sites import PredictionSites
from lightning_interp.sites import SiteRecorder

__all__ = ["LastLayer", "LayerScores"]


class LayerScores(NamedTuple):
    """Of each selected example of a batch, float64 on the CPU; NaN where it has no target, or is not finite."""

    norms: Tensor
    """Squared length of the gradient of its loss at the last layer, (B,)."""
    losses: Tensor
    """Its cross entropy in nats, summed over its positions, (B,)."""
    errors: Tensor
    """Length of the error of its output, summed over its positions, (B,)."""
    nonfinite: Tensor
    """Whether something is not finite, bool (B,)."""


class LastLayer(PredictionSites):
    """The last linear layer of a model, whose input and output are recorded beside the targets.

    Args:
        head: Dotted name of an ``nn.Linear``, whose output are the logits.
        how: Where targets are: other arguments of :class:`~lightning_interp.batches.Predictions`.

    Raises:
        ValueError: If the name matches no module or several, or one that is no ``nn.Linear``; when read, if logits and
            targets do not fit.

    Cost: a copy of the layer's input and output, and a few passes over them; of sequences of T positions with C classes
        and D dimensions T² · (C + D) products each.

    Example:
        >>> from lightning_interp.distributed import SamplePositions
        >>> model, batch = nn.Sequential(nn.Linear(2, 4)), (torch.ones(1, 2), torch.tensor([1]))
        >>> with torch.no_grad():
        ...     _ = [one.zero_() for one in model.parameters()]
        >>> layer = LastLayer("0")
        >>> layer.attach(model)
        >>> seen = Seen(batch, 0, 0, SamplePositions([batch]).select(1))
        >>> layer.before_batch(seen)
        >>> output = model(batch[0])
        >>> layer.scores(seen).norms.tolist()  # .75 · (2 + 1)
        [2.25]
        >>> layer.detach()

    """

    attached = (*PredictionSites.attached, "_inputs", "module")

    def __init__(self, head: str, how: Mapping[str, Any] | None = None) -> None:
        self._inputs: SiteRecorder | None = None
        self.module: nn.Linear | None = None
        """The layer, while attached to a model."""
        super().__init__(head, None, "head", {**(how or {}), "scores": "logits"})

    def attach(self, model: nn.Module) -> None:
        """Find the layer, and attach hooks to it."""
        super().attach(model)
        if len(self._found) != 1:
            raise ValueError(f"`head` must name one module, and {self.sites!r} matches {list(self._found.values())}.")
        call = self._how.get("call", "only")
        self._inputs = SiteRecorder(model, self._found, call, offer=("first", "last"), of="input")
        (module,) = self._inputs.modules.values()
        if not isinstance(module, nn.Linear):
            raise ValueError(
                f"`head={self.sites!r}` is a {type(module).__name__}, and the gradient is known of an nn.Linear, whose "
                "output are the logits."
            )
        self.module = module
        self._inputs.attach()

    def detach(self) -> None:
        """Take the hooks off."""
        super().detach()
        if self._inputs is not None:
            self._inputs.detach()

    def forget(self) -> None:
        """The reading is over, or given up."""
        super().forget()
        if self._inputs is not None:
            self._inputs.stop()

    def before_batch(self, seen: Seen) -> None:
        """Read targets, and capture what the layer is given and puts out."""
        assert self._inputs is not None
        super().before_batch(seen)
        self._inputs.start()

    def scores(self, seen: Seen) -> LayerScores:
        """Of a batch that went through the model, what each selected example does at the layer."""
        assert self._inputs is not None
        assert self.module is not None
        (rows,) = self.rows(seen).values()
        self._inputs.stop()
        (given,) = self._inputs.take().values()
        h = as_float(given[-1])
        h = h.flatten(1, -2) if h.ndim > 2 else h[:, None]
        shift = self._how.get("shift", 0)
        h = seen.selection.of(h[:, :-shift] if shift else h)
        shape = h.shape[:2]
        counted = rows.counted.view(shape)
        # Of one logit a target, rows have those of two classes, the first of them 0.
        logits = rows.logits[:, -self.module.out_features :].view(*shape, -1)
        errors = output_errors(logits, rows.targets.view(shape), counted)
        losses = torch.where(counted, -rows.log_probs().view(shape), 0).sum(-1)
        norms = last_layer_norm(errors, h, self.module.bias is not None)
        found = torch.stack([norms, losses, error_norm(errors)]).to("cpu", torch.float64)
        finite = found.isfinite().all(0) & ~rows.omitted.view(shape).any(-1).cpu()
        found = found.masked_fill(~(finite & counted.any(-1).cpu()), torch.nan)
        return LayerScores(found[0], found[1], found[2], ~finite)
