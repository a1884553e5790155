"""What layers are given, and what comes back to them from a loss: gradients of single examples, in two factors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from lightning_interp.sites.eager_stance import EagerStance
from lightning_interp.sites.linear_layers import LinearLayer

__all__ = ["LayerFactors", "LayerGradients"]

T = TypeVar("T")


class LayerFactors(NamedTuple):
    """The gradient of each example with respect to a layer, as Σ over positions of an outer product."""

    inputs: Tensor
    """What it was given, (B, T, I); of a layer that runs several times, the calls one after another."""
    errors: Tensor
    """The gradient of the loss with respect to what it gave, (B, T, O)."""


class LayerGradients:
    """Records what layers are given in a forward pass, and reads what comes back to them from a loss.

    To what a layer gives, a zero is added, whose gradient is read: so the parameters' own ``.grad`` is not written,
    and code that works in place changes nothing.

    Args:
        layers: The layers, whose parameters are trainable.

    Raises:
        ValueError: When gradients are read, if none reaches any of the layers.

    Example:
        >>> from lightning_interp.sites.linear_layers import linear_layers
        >>> model = nn.Linear(2, 1, bias=False)
        >>> recorder = LayerGradients(linear_layers(model)[0])
        >>> output = recorder.run(lambda: model(torch.tensor([[1.0, 2.0], [3.0, 4.0]])))
        >>> recorder.factors(output.sum(), samples=2)[""]
        LayerFactors(inputs=tensor([[[1., 2.]],
        <BLANKLINE>
                [[3., 4.]]]), errors=tensor([[[1.]],
        <BLANKLINE>
                [[1.]]]))

    """

    def __init__(self, layers: Sequence[LinearLayer]) -> None:
        self.layers = list(layers)
        self._calls: dict[str, list[tuple[Tensor, Tensor]]] = {}
        self._inputs: dict[str, Tensor] = {}

    def run(self, forward: Callable[[], T]) -> T:
        """Run a forward pass, without compiled graphs, and record what layers are given; hooks are off afterwards."""
        self._calls = {layer.name: [] for layer in self.layers}
        self._inputs = {}
        with ExitStack() as stack:
            stance = EagerStance()
            stance.begin()  # a graph that was compiled before knows nothing of these hooks
            stack.callback(stance.end)
            for layer in self.layers:
                # First of all hooks: what others make of the layer's output is not the layer.
                hook = layer.module.register_forward_hook(self._hook(layer.name), prepend=True, with_kwargs=True)
                stack.callback(hook.remove)
            return forward()

    def _hook(self, name: str) -> Callable[..., Tensor]:
        def record(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> Tensor:
            given = args[0] if args else next(iter(kwargs.values()))
            probe = torch.zeros_like(output, requires_grad=True)
            # A copy: what follows may write into it.
            self._calls[name].append((given.detach().clone(), probe))
            return output + probe

        return record

    def factors(self, loss: Tensor, samples: int, keep: bool = False) -> dict[str, LayerFactors]:
        """The factors of each layer for a loss, by name, without layers that did not run or that nothing reaches.

        Args:
            loss: A sum over examples.
            samples: How many there are.
            keep: Whether there will be another loss of the same forward pass.

        """
        probes = [probe for calls in self._calls.values() for _, probe in calls]
        found: Sequence[Tensor | None] = ()
        if probes and loss.requires_grad:
            found = torch.autograd.grad(loss, probes, retain_graph=keep, allow_unused=True)
        if not any(one is not None for one in found):
            raise ValueError(
                f"no gradient reaches any of the layers {[layer.name for layer in self.layers][:12]}: the model does "
                "not use them, or runs without a graph (`torch.no_grad`)."
            )
        back, factors = iter(found), {}
        for layer in self.layers:
            calls = self._calls[layer.name]
            errors = [next(back) for _ in calls]
            if all(one is None for one in errors):
                continue
            if layer.name not in self._inputs:
                self._inputs[layer.name] = torch.cat([layer.inputs(given, samples) for given, _ in calls], 1)
            known = [
                torch.zeros_like(probe) if one is None else one for one, (_, probe) in zip(errors, calls, strict=True)
            ]
            whole = torch.cat([layer.errors(one, samples) for one in known], 1)
            factors[layer.name] = LayerFactors(self._inputs[layer.name], whole)
        return factors
