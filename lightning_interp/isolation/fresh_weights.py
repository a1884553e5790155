"""New random weights for a model: as its own classes draw them, by the first way that works for each part of it."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lightning_interp.compat import pl

__all__ = ["draw", "shuffle_what_is_left", "take_over"]

_RESETS = ("reset_parameters", "_reset_parameters")
# What transformers puts on tensors that were loaded; its own functions do not draw them then.
_NARROW = (torch.int8, torch.uint8, torch.int16, torch.int32)
_LOADED = "_is_hf_initialized"


def draw(model: nn.Module) -> None:
    """Draw all parameters anew; what nothing draws is not a number afterwards.

    What a foreign class raises only means that another way is tried. It may put other tensors in the place of its own.

    Raises:
        ValueError: If a parameter holds integers, as quantised weights do, or such weights are no parameters.

    """
    before = dict(model.named_parameters())
    integers = [
        name for name, one in before.items() if not (one.is_floating_point() or one.is_complex()) and one.numel()
    ]
    if integers:
        raise ValueError(
            f"the parameters {_listed(integers)} are {before[integers[0]].dtype} and cannot be drawn anew."
        )
    packed = [name for name, module in model.named_modules() if _is_packed(module)]
    if packed:
        raise ValueError(f"the modules {_listed(packed)} hold quantised weights, which cannot be drawn anew.")
    for parameter in before.values():
        parameter.fill_(math.nan)
    _reset(model)
    for module in model.modules():
        _reset_adapters(module)
    for way in _by_hyperparameters(model):
        _take_what_is_left(model, way)


def shuffle_what_is_left(model: nn.Module, own: Mapping[str, Tensor]) -> list[str]:
    """Give the parameters that nothing has drawn their own entries in another order.

    Args:
        model: The model.
        own: The values of its parameters, by name.

    Returns:
        Their names.

    """
    left, parameters = _left(model), dict(model.named_parameters())
    for name in left:
        parameter = parameters[name]
        order = torch.randperm(own[name].numel())
        parameter.copy_(own[name].flatten()[order.to(parameter.device)].view_as(parameter))
    return left


def take_over(model: nn.Module, fresh: nn.Module | Mapping[str, Tensor]) -> None:
    """Copy a model's tensors, or those of a state dict; nothing is copied where one of them does not fit.

    Raises:
        ValueError: If one is missing or has another shape.

    """
    given = fresh.state_dict() if isinstance(fresh, nn.Module) else fresh
    wanted = {name: tensor for name, tensor in model.state_dict().items() if isinstance(tensor, Tensor)}
    for name, tensor in wanted.items():
        if name not in given or given[name].shape != tensor.shape:
            found = f"one of shape {tuple(given[name].shape)}" if name in given else "none"
            raise ValueError(
                f"the model made anew must have a tensor {name!r} of shape {tuple(tensor.shape)}, but has {found}."
            )
    for name, tensor in wanted.items():
        tensor.copy_(given[name])


def _left(model: nn.Module) -> list[str]:
    return [name for name, parameter in model.named_parameters() if bool(parameter.isnan().any())]


def _is_packed(module: nn.Module) -> bool:
    """Whether a module's weights are packed in an object, or integers beside nothing but scales and biases."""
    own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
    script = isinstance(module, torch.jit.ScriptModule)
    if not script and any(isinstance(value, torch.ScriptObject) for value in vars(module).values()):
        return True
    # Indices are int64, masks stand beside the weights that they are for.
    integers = any(one.dtype in _NARROW and one.ndim > 1 for one in own)
    weights = any(one.is_floating_point() and one.ndim > 1 for one in module.parameters(recurse=False))
    scales = any(one.is_floating_point() for one in own)
    return integers and scales and not weights and not any(module.children())


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    return f"{names[:3]}{' and more' if len(names) > 3 else ''}"


# ------------------------------------------------- by the classes of modules


def _reset(module: nn.Module) -> None:
    initial = _initial(module)
    made_anew = initial is not None and getattr(module, "config", None) is not None
    if made_anew and _works(lambda: take_over(module, _made(module))):
        return
    for child in module.children():
        _reset(child)
    for name in _RESETS:
        reset = getattr(module, name, None)
        if callable(reset):
            _works(reset)
            break
    if initial is not None:
        with _not_loaded(module):
            for part in _own_parts(module):
                _works(partial(initial, part))


def _made(module: nn.Module) -> nn.Module:
    kind: Callable[[Any], nn.Module] = type(module)
    return kind(module.config)


def _initial(module: nn.Module) -> Callable[[nn.Module], Any] | None:
    """What draws one submodule, as models of transformers and those after their pattern have it."""
    # Asked of the class: wrappers hand on what they do not have.
    found: Any = module._init_weights if callable(getattr(type(module), "_init_weights", None)) else None
    return found  # type: ignore[no-any-return]


def _own_parts(module: nn.Module) -> Iterator[nn.Module]:
    """The module and those within, children first, but not what another such model within draws itself."""
    for child in module.children():
        if _initial(child) is None:
            yield from _own_parts(child)
    yield module


def _reset_adapters(module: nn.Module) -> None:
    """Adapters of peft: each kind has a method of its own, which takes the adapter's name."""
    adapters = {
        name for layer in getattr(module, "adapter_layer_names", ()) for name in getattr(module, layer, None) or ()
    }
    for method in dir(type(module)) if adapters else ():
        if method.startswith("reset_") and method.endswith("parameters"):
            names = list(inspect.signature(getattr(module, method)).parameters)
            if names[:1] == ["adapter_name"]:
                # What follows says how to draw; true stands for the kind's default.
                rest = dict.fromkeys([name for name in names[1:] if name.startswith("init_")], True)
                for adapter in sorted(adapters):
                    _works(partial(getattr(module, method), adapter, **rest))


@contextmanager
def _not_loaded(module: nn.Module) -> Iterator[None]:
    """Within, no tensor or module counts as loaded."""
    holders = [*module.modules(), *module.parameters(), *module.buffers()]
    flags = [(one, vars(one).pop(_LOADED)) for one in holders if _LOADED in vars(one)]
    try:
        yield
    finally:
        for one, flag in flags:
            setattr(one, _LOADED, flag)


def _works(attempt: Callable[[], Any]) -> bool:
    """Whether foreign code ran through."""
    try:
        attempt()
    except (Exception, SystemExit):  # a constructor may read a command line that is not its own
        return False
    return True


# ------------------------------------------------- by saved hyperparameters


def _by_hyperparameters(model: nn.Module) -> Iterator[tuple[str, Callable[[], nn.Module]]]:
    """For each LightningModule within that saved them, its name and how to make another."""
    for name, module in model.named_modules():
        if isinstance(module, pl.LightningModule) and module.hparams:
            yield name, partial(_again, module)


def _again(module: pl.LightningModule) -> nn.Module:
    # A constructor that takes all of them as one object has given it a name.
    whole = getattr(module, "_hparams_name", None)
    single = whole in inspect.signature(type(module).__init__).parameters
    arguments: dict[str, Any] = {str(whole): module.hparams} if single else dict(module.hparams)
    return type(module)(**arguments)


def _take_what_is_left(model: nn.Module, way: tuple[str, Callable[[], nn.Module]]) -> None:
    """Take parameters that nothing has drawn yet from a model made anew."""
    name, make = way
    prefix = f"{name}." if name else ""
    left = [one for one in _left(model) if one.startswith(prefix)]
    made: list[nn.Module] = []
    if not left or not _works(lambda: made.extend([make(), make()])):
        return
    first, second = (dict(one.named_parameters()) for one in made)
    for one in left:
        parameter, short = model.get_parameter(one), one.removeprefix(prefix)
        if short in first and short in second and first[short].shape == parameter.shape:
            value = first[short].detach()
            # What is the same twice was not drawn: a constant, which is fine, or weights from a file.
            if not torch.equal(value, second[short]) or bool((value == value.flatten()[0]).all()):
                parameter.copy_(value)
