"""A data set goes through a model again and again, and gives the gradients of its examples, layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm  # type: ignore[import-untyped]

from lightning_interp.batches.forward import module_forward
from lightning_interp.batches.own_data import OwnData, on_device
from lightning_interp.batches.predictions import PredictedRows, Predictions
from lightning_interp.distributed import rank_in
from lightning_interp.functional._numerics import as_float
from lightning_interp.functional.drawn_labels import drawn_labels
from lightning_interp.isolation.containers import mapped
from lightning_interp.sites.layer_gradients import LayerFactors, LayerGradients

__all__ = ["ExamplePasses", "Examples"]

# The losses of one example at two passes: its neighbours in a batch are the same, so that rounding is too.
_SAME = 1e-4


@dataclass(frozen=True)
class Examples:
    """A batch of examples with a gradient each."""

    start: int
    """Place of the first in the data set."""
    size: int
    factors: Mapping[str, LayerFactors]
    """By layer; a layer that no gradient reaches is left out."""
    batch: Any
    """What the loader gave, on the model's device."""
    labels: Tensor | None
    """The target of each, where it has one, (B,)."""


class ExamplePasses:
    """Passes of a data set through a model in evaluation mode, with a loss for each example: Σ −log p of its targets.

    To be used within :func:`~lightning_interp.language.likelihood.eval_mode`.

    Args:
        model: The model.
        data: The data set, with its way through the model.
        recorder: The layers whose gradients are read.
        predictions: Where logits are in what the model returns, and where targets are in a batch.
        loss: Instead of that of the targets, a number for each example, ``loss(output, batch)`` → (B,).
        progress: Show a progress bar.

    Raises:
        ValueError: In a pass, if there is no batch, logits and targets do not fit, a prediction is not finite, a layer
            mixes examples, or the data set gives other examples than at the pass before.

    """

    def __init__(
        self,
        model: nn.Module,
        data: OwnData,
        recorder: LayerGradients,
        predictions: Predictions,
        loss: Callable[[Any, Any], Tensor] | None = None,
        progress: bool = True,
    ) -> None:
        self.model, self.data, self.recorder, self.predictions = model, data, recorder, predictions
        self.loss = loss
        self.progress = progress and rank_in() == 0
        self.losses: Tensor | None = None
        """Of each example in nats, float64 (N,), after the first pass."""
        self.reached: set[str] = set()
        """Layers to which a gradient of the examples' losses came back, after a pass of these."""
        self._checked = False

    def __len__(self) -> int:
        if self.losses is None:
            raise RuntimeError("no pass was made yet.")
        return len(self.losses)

    def own(self) -> Iterator[Examples]:
        """Gradients of the examples' losses."""
        for forward in self._forwards():
            examples = forward.examples(forward.losses.sum(), False)
            factors = examples.factors.items()
            self.reached |= {name for name, one in factors if name not in self.reached and bool(one.errors.any())}
            yield examples

    def drawn(self, seed: int, draws: int = 1) -> Iterator[Examples]:
        """Gradients of the losses with labels that are drawn from the model, so many times a batch.

        What is drawn depends on the seed, the place of an example and of the prediction in it, not on the batch, and is
        the same at every pass.
        """
        for forward in self._forwards():
            rows = forward.rows
            assert rows is not None
            counters = (forward.start + rows.samples) * 2**24 + rows.columns
            for draw in range(draws):
                labels = drawn_labels(rows.logits.detach(), counters, seed * 2**20 + draw)
                yield forward.examples(forward.loss_of(labels).sum(), draw + 1 < draws)

    def each_label(self) -> Iterator[Examples]:
        r"""Gradients √p_c · ∇(−log p_c) for each prediction of an example and each class c.

        Their outer products, summed, are :math:`\sum_c p_c \nabla \log p_c \nabla \log p_c^\top = J^\top
        (\mathrm{diag}\, p - p p^\top) J`: the Gauss–Newton matrix of the loss, which is the Fisher information.
        """
        for forward in self._forwards():
            rows = forward.rows
            assert rows is not None
            chances = (rows.logits.detach() - rows.log_norm.detach()[:, None]).exp()
            for column in torch.unique(rows.columns[rows.counted]).tolist():
                here = (rows.columns == column) & rows.counted
                for label in range(chances.shape[1]):
                    weight = torch.where(here, chances[:, label].sqrt(), 0)
                    if bool(weight.any()):
                        labels = torch.full_like(rows.targets, label)
                        yield forward.examples(forward.loss_of(labels, weight).sum(), True)

    # ------------------------------------------------- inside

    def _forwards(self) -> Iterator[_Forward]:
        run = self.data.forward or module_forward(self.model)
        first = next(self.model.parameters())
        start, found, scored = 0, [], torch.zeros(3, dtype=torch.long)
        bar = tqdm(self.data.value, self.data.argument, leave=False, delay=1, disable=not self.progress)
        for given in bar:
            batch = mapped(on_device(given, first.device), _ordinary)
            forward = self._forward(batch, run, start)
            if forward.rows is not None:
                scored += forward.rows.scored.cpu()
            self._same(forward)
            found.append(forward.losses.detach().cpu().double())
            yield forward
            start += forward.size
        if not found:
            raise ValueError(f"`{self.data.argument}` gave no batch.")
        self.predictions.check_scores(f"output={self.predictions.output!r}", scored.tolist())
        if self.losses is not None and len(self.losses) != start:
            raise ValueError(self._others(f"{start} examples, where it gave {len(self.losses)} before"))
        self.losses = torch.cat(found)

    def _forward(self, batch: Any, run: Callable[[nn.Module, Any], Any], start: int) -> _Forward:
        if self.loss is None:
            # Read before the model runs, which may change the batch.
            targets, counted = self.predictions.targets(batch)
            targets, counted = targets.clone(), counted.clone()
        output = self.recorder.run(lambda: run(self.model, batch))
        if self.loss is not None:
            losses = self.loss(output, batch)
            if not isinstance(losses, Tensor) or losses.ndim != 1 or not losses.requires_grad:
                what = f"shape {tuple(losses.shape)}" if isinstance(losses, Tensor) else type(losses).__name__
                raise ValueError(
                    f"`query_loss` must return a number for each example, (B,), with its graph; it gave {what}."
                )
            forward = _Forward(self.recorder, batch, start, losses, None, None)
        else:
            rows = self.predictions.rows(output, targets, counted, graph=True)
            self._check_rows(rows)
            labels = targets if targets.ndim == 1 and not targets.is_floating_point() else None
            forward = _Forward(self.recorder, batch, start, None, rows, labels)
        if not bool(forward.losses.isfinite().all()):
            raise ValueError(f"losses of `{self.data.argument}` are not finite, from example {start} on.")
        self._check_apart(forward)
        return forward

    def _check_rows(self, rows: PredictedRows) -> None:
        if number := int(rows.nonfinite):
            raise ValueError(f"{number} predictions of `{self.data.argument}` are not finite.")
        if number := int(rows.unknown):
            raise ValueError(
                f"{number} targets of `{self.data.argument}` are no class of the logits: check `target`, and "
                f"`ignore_index` ({list(self.predictions.ignore_index)}) or `mask` for those that do not count."
            )

    def _check_apart(self, forward: _Forward) -> None:
        """At the first batch of several: whether one example's loss reaches rows of other examples."""
        if self._checked or forward.size < 2:
            return
        self._checked = True
        one = int(forward.losses.detach().abs().argmax())
        for name, found in forward.examples(forward.losses[one], True).factors.items():
            if bool(found.errors[:one].any()) or bool(found.errors[one + 1 :].any()):
                raise ValueError(
                    f"the loss of one example reaches others at layer {name!r}: it has them not in the first "
                    "dimension, or the model mixes them. Gradients of single examples do not exist there: leave it out "
                    "by `layers`."
                )

    def _same(self, forward: _Forward) -> None:
        if self.losses is None:
            return
        before = self.losses[forward.start : forward.start + forward.size]
        now = forward.losses.detach().cpu().double()
        if before.shape != now.shape or not torch.allclose(before, now, rtol=_SAME, atol=_SAME):
            raise ValueError(self._others(f"other losses from example {forward.start} on"))

    def _others(self, what: str) -> str:
        return (
            f"`{self.data.argument}` gave {what}: it is read several times and must give the same each time, without "
            "random augmentation."
        )


class _Forward:
    """A batch that went through the model."""

    def __init__(
        self,
        recorder: LayerGradients,
        batch: Any,
        start: int,
        losses: Tensor | None,
        rows: PredictedRows | None,
        labels: Tensor | None,
    ) -> None:
        self.recorder, self.batch, self.start, self.rows, self.labels = recorder, batch, start, rows, labels
        if losses is None:
            assert rows is not None
            self.size = rows.shape[0]
            self.losses = self.loss_of(rows.targets)
        else:
            self.size, self.losses = len(losses), losses

    def loss_of(self, labels: Tensor, weight: Tensor | None = None) -> Tensor:
        """Σ −log p of some labels (R,), each times a weight (R,), over the predictions of each example: (B,)."""
        rows = self.rows
        assert rows is not None
        # Rows that do not count may hold anything, and 0 · NaN would go back from them.
        z = as_float(rows.logits[rows.counted])
        nll = z.logsumexp(-1) - z.gather(-1, labels[rows.counted, None]).squeeze(-1)
        nll = nll if weight is None else nll * weight[rows.counted]
        return nll.new_zeros(self.size).index_add(0, rows.samples[rows.counted], nll)

    def examples(self, loss: Tensor, keep: bool) -> Examples:
        """Gradients of a sum over examples."""
        return Examples(self.start, self.size, self.recorder.factors(loss, self.size, keep), self.batch, self.labels)


def _ordinary(tensor: Tensor) -> Tensor:
    """A tensor that a graph may hold, also where the batch was made in inference mode."""
    return tensor.clone() if tensor.is_inference() else tensor
