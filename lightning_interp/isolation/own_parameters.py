"""Parameters that are drawn anew and then are themselves again, in their own memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from lightning_interp.isolation.module_state import ModuleState, all_modules
from lightning_interp.isolation.registries import contents, put_back

__all__ = ["own_parameters", "same_tensors"]

_HOOKS = ("_backward_hooks", "_post_accumulate_grad_hooks")


@contextmanager
def own_parameters(model: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Within, anything may be done to a model; afterwards it holds the same objects with the same values.

    Within it lives on a copy of its state, and its parameters have no ``.grad``.

    Yields:
        The values of its parameters by name.

    Example:
        >>> import torch
        >>> model = nn.Linear(1, 1, bias=False)
        >>> weight, value = model.weight, float(model.weight.detach())
        >>> with torch.no_grad(), own_parameters(model):
        ...     _ = model.weight.fill_(7.0)
        ...     model.weight = nn.Parameter(torch.zeros(2))
        >>> model.weight is weight, float(weight.detach()) == value
        (True, True)

    """
    values: dict[int, Tensor] = {id(parameter): parameter.detach().clone() for parameter in model.parameters()}
    names = {name: values[id(one)] for name, one in model.named_parameters(remove_duplicate=False)}
    state, held = ModuleState(model), _hold(model)
    try:
        state.copy().install()
        for one in held:
            one.parameter.grad = None
        yield names
    finally:
        state.install()
        for one in held:
            one.put_back()
            if id(one.parameter) in values:
                one.data.copy_(values[id(one.parameter)])


@contextmanager
def same_tensors(model: nn.Module) -> Iterator[None]:
    """Within, foreign code may put other tensors, modules and attributes into the model; only their values stay.

    By name: what has the name of one of the model's tensors in the end, and its shape, gives that its values. A
    constructor that is called anew may well be given modules of this model, as a network that hyperparameters hold.
    """
    before, state, held = _named(model), ModuleState(model), _hold(model)
    try:
        state.copy().install()
        yield
    finally:
        now, drawn = _named(model), [(one, one.parameter.data) for one in held]
        state.install()
        for one, data in drawn:
            one.put_back()
            if data.shape == one.data.shape:
                one.data.copy_(data)
        # After those, since a tensor that has several names may have been replaced under one of them.
        for name, mine in before.items():
            other = now.get(name)
            if other is not None and other is not mine and other.shape == mine.shape:
                mine.detach().copy_(other)


def _named(model: nn.Module) -> dict[str, Tensor]:
    return {**dict(model.named_parameters(remove_duplicate=False)), **dict(model.named_buffers(remove_duplicate=False))}


class _Held:
    """All of a parameter but its values."""

    def __init__(self, parameter: Tensor) -> None:
        self.parameter = parameter
        self.data, self.requires_grad, self.grad = parameter.data, parameter.requires_grad, parameter.grad
        self.attributes = contents(vars(parameter))
        self.hooks = [(name, getattr(parameter, name)) for name in _HOOKS]
        self.hooked = [contents(registry) for _, registry in self.hooks]

    def put_back(self) -> None:
        one = self.parameter
        one.grad = None  # it may be of another shape
        one.data = self.data
        one.requires_grad_(self.requires_grad)
        one.grad = self.grad
        put_back(vars(one), self.attributes)
        for (name, registry), before in zip(self.hooks, self.hooked, strict=True):
            if getattr(one, name) is not registry:
                setattr(one, name, registry)
            if registry is not None:
                put_back(registry, before)


def _hold(model: nn.Module) -> list[_Held]:
    """Of the parameters in all modules, those that it holds in plain containers among them."""
    found = {id(one): one for module in all_modules(model) for one in module.parameters(recurse=False)}
    return [_Held(one) for one in found.values()]
