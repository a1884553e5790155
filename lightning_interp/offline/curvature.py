"""The curvature that influence is measured with: its fit to training examples, and gradients times its inverse."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from lightning_interp.functional._numerics import wide_dtype
from lightning_interp.functional.damped_solve import damped_solve
from lightning_interp.functional.ekfac import KroneckerSums, eigenbasis, ekfac_inverse_product, kronecker_sums
from lightning_interp.functional.example_gradients import example_gradients, squared_gradient_sum
from lightning_interp.offline.example_passes import ExamplePasses
from lightning_interp.sites.linear_layers import LinearLayer

__all__ = ["DEFAULT_DAMPING", "Curvature", "Ekfac", "GaussNewton", "Method"]

Method = Literal["ekfac", "exact", "gradient_dot", "cosine"]
DEFAULT_DAMPING = 0.1
"""Of the mean curvature of a layer (Grosse et al. 2023)."""


class Curvature:
    """None: every direction curves alike. Others say in what follows how gradients are weighed.

    Args:
        layers: The layers.
        damping: Added to the curvature, in its unit; by default :data:`DEFAULT_DAMPING` of each layer's mean.

    """

    def __init__(self, layers: Sequence[LinearLayer], damping: float | None = None) -> None:
        self.layers = list(layers)
        self.given = damping
        self.damping: dict[str, float] = {}
        """What was added, by layer."""
        self.unreached: list[str] = []
        """Layers that no gradient reaches, known after the fit."""

    def fit(self, train: ExamplePasses) -> None:
        """Read what is needed of the training examples."""

    def inverse_product(self, gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Gradients (Q, O, I) by layer, times the inverse of the damped curvature."""
        return dict(gradients)

    def _dampen(self, means: Mapping[str, float]) -> None:
        """Settle the damping, from the mean curvature of each layer."""
        self.unreached = [layer.name for layer in self.layers if not means.get(layer.name, 0) > 0]
        for name, mean in means.items():
            if name not in self.unreached:
                self.damping[name] = DEFAULT_DAMPING * mean if self.given is None else self.given


class Ekfac(Curvature):
    """The Fisher information, layer by layer, by EK-FAC; see :func:`ekfac_inverse_product`.

    Labels are drawn from the model. Λ is the mean over examples and draws of the square of a whole example's gradient,
    summed over its positions.

    Args:
        layers: The layers.
        damping: As for :class:`Curvature`.
        draws: Labels that are drawn for each prediction.
        seed: Of these.

    Cost: two passes over the training examples, with a backward pass a draw in each, and two eigendecompositions a
        layer in float64.
    """

    def __init__(
        self, layers: Sequence[LinearLayer], damping: float | None = None, draws: int = 1, seed: int = 0
    ) -> None:
        super().__init__(layers, damping)
        self.draws, self.seed = draws, seed

    def fit(self, train: ExamplePasses) -> None:
        """Fit factors in one pass, eigenvalues in a second with the same labels."""
        sums: dict[str, KroneckerSums] = {}
        for examples in train.drawn(self.seed, self.draws):
            for name, one in examples.factors.items():
                new, old = kronecker_sums(*one), sums.get(name)
                sums[name] = new if old is None else KroneckerSums(*map(operator.add, old, new))
        self._bases = {name: (eigenbasis(one.errors), eigenbasis(one.inputs)) for name, one in sums.items()}
        totals: dict[str, Tensor] = {}
        for examples in train.drawn(self.seed, self.draws):
            for name, (inputs, errors) in examples.factors.items():
                of_errors, of_inputs = (basis.to(inputs.dtype) for basis in self._bases[name])
                found = squared_gradient_sum(inputs @ of_inputs, errors @ of_errors)
                totals[name] = totals.get(name, 0) + found.to(wide_dtype(found.device))
        self.eigenvalues = {name: total / (len(train) * self.draws) for name, total in totals.items()}
        """Λ of each layer, (O, I)."""
        self._dampen({name: float(one.mean()) for name, one in self.eigenvalues.items()})

    def inverse_product(self, gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Gradients (Q, O, I) by layer, times the inverse of the damped curvature."""
        found = {}
        for name, gradient in gradients.items():
            if name in self.damping:
                own = [one.to(gradient.dtype) for one in (*self._bases[name], self.eigenvalues[name])]
                found[name] = ekfac_inverse_product(gradient, own[0], own[1], own[2], self.damping[name])
        return found


class GaussNewton(Curvature):
    """The whole Gauss–Newton matrix of all layers together, which is the Fisher information of softmax cross entropy.

    The expectation over labels is taken in closed form, nothing is drawn. For a model that is linear in its parameters
    it is the Hessian itself.

    Cost: a backward pass for each class and each position that predicts, in one pass over the training examples; two
    matrices P × P in float64 for P parameters.
    """

    def fit(self, train: ExamplePasses) -> None:
        """Fit the matrix."""
        total: Tensor | None = None
        for examples in train.each_label():
            rows = self._flat({name: example_gradients(*one) for name, one in examples.factors.items()})
            total = rows.T @ rows if total is None else total.addmm_(rows.T, rows)
        assert total is not None
        self.matrix = total / len(train)
        """(P, P), by layer in their order, each (O, I) flattened."""
        parts = torch.split(self.matrix.diag(), [layer.parameters for layer in self.layers])
        self._dampen({layer.name: float(part.mean()) for layer, part in zip(self.layers, parts, strict=True)})

    def inverse_product(self, gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Gradients (Q, O, I) by layer, times the inverse of the damped curvature."""
        first = next(iter(gradients.values()))
        reached = [layer for layer in self.layers if layer.name in self.damping]
        kept = torch.cat([first.new_full((one.parameters,), one in reached) for one in self.layers]).bool()
        matrix = self.matrix if bool(kept.all()) else self.matrix[kept][:, kept]
        damping = torch.cat([first.new_full((one.parameters,), self.damping[one.name]) for one in reached])
        solved = damped_solve(matrix, damping, self._flat(gradients)[:, kept]).to(first.dtype)
        parts = torch.split(solved, [layer.parameters for layer in reached], 1)
        shapes = [(len(first), layer.errors_size, layer.inputs_size) for layer in reached]
        return {one.name: part.reshape(shape) for one, part, shape in zip(reached, parts, shapes, strict=True)}

    def _flat(self, gradients: Mapping[str, Tensor]) -> Tensor:
        """All layers side by side, (B, P), in float64; zeros for those that nothing reached."""
        first = next(iter(gradients.values()))
        wide = wide_dtype(first.device)
        none = [first.new_zeros(len(first), layer.parameters) for layer in self.layers]
        parts = [gradients.get(layer.name, zeros) for layer, zeros in zip(self.layers, none, strict=True)]
        return torch.cat([part.flatten(1).to(wide) for part in parts], 1)
