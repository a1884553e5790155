"""Layers that multiply what they are given by a weight: which a model has, and what is none of them, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lightning_interp.functional._numerics import as_float
from lightning_interp.sites.names import listed, match_sites, modules_by_name

__all__ = ["LinearLayer", "linear_layers"]


@dataclass(frozen=True, eq=False)
class LinearLayer:
    """A layer that gives W a + b at every position: ``nn.Linear``, ``nn.Conv2d`` or transformers' ``Conv1D``.

    Its gradient is that of the matrix W, of shape (O, I), and of b as one more column, where b is trained: for a
    convolution a is a patch, for ``Conv1D`` W is the transpose of the weight.
    """

    name: str
    module: nn.Module
    bias: bool
    """Whether b is read too."""

    @property
    def errors_size(self) -> int:
        """O, what it gives at a position."""
        weight = self._weight
        return weight.shape[1] if _is_conv1d(self.module) else weight.shape[0]

    @property
    def inputs_size(self) -> int:
        """I, what it is given at a position, with a 1 for the bias."""
        return self._weight.numel() // self.errors_size + self.bias

    @property
    def parameters(self) -> int:
        """How many are read."""
        return self.errors_size * self.inputs_size

    @property
    def parameter_names(self) -> list[str]:
        """Dotted names of the parameters that are read."""
        own = ["weight", "bias"] if self.bias else ["weight"]
        return [f"{self.name}.{one}" if self.name else one for one in own]

    @property
    def _weight(self) -> Tensor:
        weight = self.module.weight
        assert isinstance(weight, Tensor)
        return weight

    def inputs(self, given: Tensor, samples: int) -> Tensor:
        """What the layer is given, by example and position, with a 1 for the bias: (B, T, I), at least float32.

        Args:
            given: Its input.
            samples: B.

        Raises:
            ValueError: If its first dimension is no multiple of B.

        """
        a = as_float(given)
        if isinstance(self.module, nn.Conv2d):
            a = _patches(self.module, a).transpose(1, 2)
        a = self._by_example(a, samples)
        return torch.cat([a, a.new_ones(*a.shape[:2], 1)], -1) if self.bias else a

    def errors(self, gradient: Tensor, samples: int) -> Tensor:
        """The gradient with respect to what it gives, in the same way: (B, T, O)."""
        d = as_float(gradient)
        return self._by_example(d.flatten(2).transpose(1, 2) if isinstance(self.module, nn.Conv2d) else d, samples)

    def _by_example(self, tensor: Tensor, samples: int) -> Tensor:
        rows = len(tensor) if tensor.ndim > 1 else 1
        if rows % samples:
            raise ValueError(
                f"layer {self.name!r} is given {tuple(tensor.shape)} for {samples} examples: gradients of single "
                "examples need them in the first dimension. Leave it out by `layers`."
            )
        return tensor.reshape(samples, -1, tensor.shape[-1])

    def weight_gradient(self, gradient: Tensor) -> dict[str, Tensor]:
        """A gradient (..., O, I) by parameter, in the shapes of these: ``weight``, and ``bias`` where it is read."""
        shape = gradient.shape[:-2]
        found = {"bias": gradient[..., -1]} if self.bias else {}
        matrix = gradient[..., :-1] if self.bias else gradient
        matrix = matrix.transpose(-1, -2) if _is_conv1d(self.module) else matrix
        return {"weight": matrix.reshape(*shape, *self._weight.shape), **found}


def linear_layers(
    model: nn.Module, layers: str | Sequence[str] | None = None, largest: int | None = None
) -> tuple[list[LinearLayer], dict[str, str]]:
    """The layers whose gradients can be read example by example.

    Args:
        model: The model.
        layers: Dotted names or globs of those to read; all that can be by default. A glob passes over what is none.
        largest: The most that a layer may give, or be given, at a position.

    Returns:
        The layers, and of every trainable parameter that is not read why it is not.

    Raises:
        ValueError: If a name matches nothing or a layer that cannot be read, or there is none to read.

    Example:
        >>> found, left_out = linear_layers(nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2)))
        >>> [(one.name, one.errors_size, one.inputs_size) for one in found]
        [('0', 4, 4), ('2', 2, 5)]
        >>> left_out["1.weight"]
        'LayerNorm is neither Linear, Conv2d nor Conv1D'

    """
    modules = {name: module for name, module in modules_by_name(model).items() if _own_parameters(module)}
    first: dict[int, str] = {}
    for name, module in modules.items():
        first.setdefault(id(module), name)
    once = {name: module for name, module in modules.items() if first[id(module)] == name}
    owners: dict[int, list[str]] = {}
    for name, module in once.items():
        for own, parameter in _own_parameters(module).items():
            owners.setdefault(id(parameter), []).append(f"{name}.{own}" if name else own)
    why = {name: _why_not(name, module, once, owners, largest) for name, module in once.items()}
    if layers is None:
        chosen = [name for name, reason in why.items() if reason is None]
    else:
        chosen = _chosen(model, [layers] if isinstance(layers, str) else layers, why, first)
    if not chosen:
        raise ValueError(
            f"{type(model).__name__} has no layer whose gradients are read: it has "
            f"{'; '.join(f'{name!r}: {reason}' for name, reason in list(why.items())[:12]) or 'no parameters'}."
        )
    found, read = [], set()
    for name in chosen:
        parameters = _own_parameters(once[name])
        bias = parameters.get("bias")
        found.append(LinearLayer(name, once[name], bias is not None and bias.requires_grad))
        read |= {id(parameters["weight"]), *([id(bias)] if found[-1].bias else [])}
    left_out: dict[str, str] = {}
    for name, module in once.items():
        for own, parameter in _own_parameters(module).items():
            if parameter.requires_grad and id(parameter) not in read:
                left_out[f"{name}.{own}" if name else own] = why[name] or "not among `layers`"
    return found, left_out


def _chosen(
    model: nn.Module, requests: Sequence[str], why: Mapping[str, str | None], first: Mapping[int, str]
) -> list[str]:
    every = modules_by_name(model)
    chosen: dict[str, None] = {}
    for request in requests:
        matches = match_sites(request, every, type(model).__name__, "layers")
        names = [first.get(id(every[match]), match) for match in matches]
        if request not in every:
            # A glob is meant for the layers among what it matches.
            names = [name for name in names if _kind(every[name]) is not None]
        wrong = {
            name: why.get(name, "it has no parameters of its own") for name in names if why.get(name, "") is not None
        }
        if wrong:
            name, reason = next(iter(wrong.items()))
            raise ValueError(f"`layers` names {name!r}, which cannot be read: {reason}.")
        if not names:
            raise ValueError(f"layers={request!r} matches {listed(matches)}: none is a Linear, Conv2d or Conv1D.")
        chosen |= dict.fromkeys(names)
    return list(chosen)


def _own_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    return {name: one for name, one in module._parameters.items() if one is not None}


def _kind(module: nn.Module) -> type[nn.Module] | None:
    kinds = [nn.Linear, nn.Conv2d, *([type(module)] if _is_conv1d(module) else [])]
    return next((kind for kind in kinds if isinstance(module, kind)), None)


def _is_conv1d(module: nn.Module) -> bool:
    # By name: transformers need not be there.
    return any(
        kind.__name__ == "Conv1D" and kind.__module__.startswith("transformers.") for kind in type(module).__mro__
    )


def _why_not(
    name: str,
    module: nn.Module,
    modules: Mapping[str, nn.Module],
    owners: Mapping[int, Sequence[str]],
    largest: int | None,
) -> str | None:
    """Why a module's gradients cannot be read; ``None`` where they can."""
    kind = _kind(module)
    if kind is None:
        return f"{type(module).__name__} is neither Linear, Conv2d nor Conv1D"
    if type(module).forward is not kind.forward or "forward" in vars(module):
        return f"{type(module).__name__} has a forward of its own"
    weight = _own_parameters(module).get("weight")
    if weight is None:
        return "its weight is computed from other parameters"
    if not weight.requires_grad:
        return "its weight is frozen"
    shared = [other for other in owners[id(weight)] if other != (f"{name}.weight" if name else "weight")]
    if shared:
        return f"its weight is tied to {shared[0]!r}"
    if isinstance(modules.get(name.rpartition(".")[0]), nn.MultiheadAttention):
        return "nn.MultiheadAttention uses its weight without calling it"
    if isinstance(module, nn.Conv2d) and module.groups > 1:
        return f"it is a convolution in {module.groups} groups"
    layer = LinearLayer(name, module, "bias" in _own_parameters(module))
    most = max(layer.errors_size, layer.inputs_size)
    if largest is not None and most > largest:
        return f"a matrix {most} × {most} would be needed, more than {largest} × {largest}"
    return None


def _patches(module: nn.Conv2d, x: Tensor) -> Tensor:
    """What a convolution is given at each place, (B, I, T)."""
    padding = module.padding
    if module.padding_mode != "zeros" or isinstance(padding, str):
        mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
        x, padding = nn.functional.pad(x, module._reversed_padding_repeated_twice, mode=mode), (0, 0)
    return nn.functional.unfold(x, module.kernel_size, module.dilation, padding, module.stride)
