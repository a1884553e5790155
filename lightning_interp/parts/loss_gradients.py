"""A part: gradients of losses with respect to all that is trained, as sketches that add up."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lightning_interp.distributed.sharding import refuse_sharded
from lightning_interp.functional._numerics import wide_dtype
from lightning_interp.functional.sketch import add_to_sketch
from lightning_interp.isolation import muted_loggers
from lightning_interp.isolation.containers import mapped
from lightning_interp.isolation.float32_copies import float32_copies, with_tensors
from lightning_interp.language.likelihood import eval_mode
from lightning_interp.reading.part import Part
from lightning_interp.reading.step_scale import Scales

__all__ = ["LossGradients", "Sketches", "ordinary"]

_HALF = (torch.float16, torch.bfloat16)
_WAIT = 2  # gradients that are held whole: of one source, plain and with labels dealt


class Sketches:
    """Makes sketches of gradients of losses; from :meth:`LossGradients.run`.

    Args:
        leaves: What gradients are taken of, by name.
        offsets: Place of each among all parameters.
        buckets: Length of a sketch.
        seed: Of its hash.

    """

    def __init__(self, leaves: Mapping[str, Tensor], offsets: Mapping[str, int], buckets: int, seed: int) -> None:
        self.leaves = leaves
        self._offsets = offsets
        self._seed = seed
        number = sum(one.numel() for one in leaves.values())
        self._exact = number <= buckets
        self.length = number if self._exact else buckets
        """Of a sketch; a model that has no more parameters is read as it is."""
        self.device = next(iter(leaves.values())).device
        self._waiting: dict[int, tuple[Tensor, Scales | None, dict[str, Tensor]]] = {}

    def zeros(self, *rows: int) -> Tensor:
        """Sums to add to, (…, length), wide."""
        return torch.zeros(*rows, self.length, dtype=wide_dtype(self.device), device=self.device)

    def weights(self) -> Tensor:
        """A sketch of the weights themselves, (length,); those of two moments can be subtracted."""
        into = self.zeros()
        for name, values in self.leaves.items():
            self._put(name, values.detach(), into)
        return into

    def add(self, loss: Tensor, into: Tensor, scales: Scales | None = None, retain: bool = False) -> None:
        """Add the gradient of a loss to sums, which hold all of it after :meth:`flush`.

        Gradients for one sum, one after another or in turn with another one's, are added up before they are sketched.

        Args:
            loss: A number with its graph.
            into: (1, length), or (2, length), of which the second row gets the gradient times the scales.
            scales: What each coordinate is multiplied by there.
            retain: Whether the graph is needed again.

        Raises:
            ValueError: If the gradient reaches no parameter.

        """
        # `.grad` is not written, and hooks of a strategy that wait for it are not called.
        found = torch.autograd.grad(loss, list(self.leaves.values()), allow_unused=True, retain_graph=retain)
        if all(one is None for one in found):
            raise ValueError(f"no gradient reaches any of the {len(self.leaves)} trainable parameters.")
        where = into.data_ptr()
        if where not in self._waiting:
            while len(self._waiting) >= _WAIT:
                self._sketch(next(iter(self._waiting)))
            self._waiting[where] = into, scales, {}
        held = self._waiting[where][2]
        for name, gradient in zip(self.leaves, found, strict=True):
            if gradient is not None:
                values = gradient.detach()
                values = values.to_dense() if values.is_sparse else values
                held[name] = held[name].add_(values) if name in held else values.clone()

    def flush(self) -> None:
        """Let sums hold all that was added."""
        for where in list(self._waiting):
            self._sketch(where)

    def _sketch(self, where: int) -> None:
        into, scales, held = self._waiting.pop(where)
        for name, values in held.items():
            self._put(name, values, into[0])
            if scales is not None and len(into) > 1:
                self._put(name, values * scales[name], into[1])

    def _put(self, name: str, values: Tensor, into: Tensor) -> None:
        if self._exact:
            start = self._place(name)
            into[start : start + values.numel()] += values.flatten()
        else:
            add_to_sketch(into, values.flatten(), self._offsets[name], self._seed)

    def _place(self, name: str) -> int:
        start = 0
        for other, leaf in self.leaves.items():
            if other == name:
                break
            start += leaf.numel()
        return start


class LossGradients(Part):
    """Gradients of losses, of a model in evaluation mode, without autocast and TF32, and without a trace.

    The gradient is that of the model as it is: not scaled as under ``16-mixed``, and in float32 where parameters are
    in half precision.

    Args:
        buckets: Length of a sketch.
        seed: Of its hash.

    Raises:
        ValueError: If ``buckets`` is out of range; when attached, if parameters are sharded over ranks or none is
            trainable.

    Example:
        >>> part, model = LossGradients(buckets=8), nn.Linear(2, 1, bias=False)
        >>> part.attach(model)
        >>> def work(sketches):
        ...     into = sketches.zeros(1)
        ...     sketches.add(model(torch.tensor([[1.0, 2.0]])).sum(), into)
        ...     sketches.flush()
        ...     print(into.tolist())
        >>> part.run(None, work)
        [[1.0, 2.0]]

    """

    attached = ("_model",)

    def __init__(self, buckets: int = 65_536, seed: int = 0) -> None:
        if buckets < 1:
            raise ValueError(f"`buckets` must be at least 1, got {buckets}.")
        self.buckets = buckets
        self._seed = seed
        self._model: nn.Module | None = None

    def attach(self, model: nn.Module) -> None:
        """See that there is something to take gradients of."""
        _trainable(model)
        self._model = model

    def detach(self) -> None:
        """Let go of the model."""
        self._model = None

    def parameters(self) -> dict[str, nn.Parameter]:
        """What is trained, by name."""
        assert self._model is not None
        return _trainable(self._model)

    def run(self, trainer: Any, work: Callable[[Sketches], None]) -> None:
        """Do something with gradients; what the model holds and random streams are as before afterwards."""
        model = self._model
        assert model is not None
        with _apart(model, trainer):
            copies, parameters = float32_copies(model), _trainable(model)
            leaves = {name: copies.get(name, parameter) for name, parameter in parameters.items()}
            offsets, start = {}, 0
            for name, parameter in model.named_parameters():
                offsets[name] = start
                start += parameter.numel()
            sketches = Sketches(leaves, offsets, self.buckets, self._seed)

            def whole() -> None:
                work(sketches)
                sketches.flush()

            with_tensors(model, copies, whole)


@contextmanager
def _apart(model: nn.Module, trainer: Any) -> Iterator[None]:
    with ExitStack() as stack:
        # Before the model's buffers are copied, which are used where gradients are.
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.no_grad())
        stack.enter_context(eval_mode(model, gradients=True))
        if trainer is not None:
            stack.enter_context(muted_loggers(trainer))
        yield


def _trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    refuse_sharded(model, "gradients of losses")
    found = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    if not found:
        raise ValueError(f"{type(model).__name__} has no parameter with `requires_grad`.")
    return found


def ordinary(batch: Any) -> Any:
    """A batch of its own tensors that can be part of a graph, none of them in half precision.

    Example:
        >>> with torch.inference_mode():
        ...     batch = {"x": torch.zeros(1, dtype=torch.bfloat16)}
        >>> ordinary(batch)["x"].dtype, ordinary(batch)["x"].is_inference()
        (torch.float32, False)

    """
    return mapped(batch, lambda one: one.float() if one.dtype in _HALF else one.clone())
