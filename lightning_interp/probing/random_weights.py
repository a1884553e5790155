"""The baseline of every probe: the same model with fresh random weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from lightning_interp._weights_copy import WeightsCopy
from lightning_interp.isolation import kept_random_state, seeded
from lightning_interp.tasks.differential import is_sharded

__all__ = ["Fresh", "random_weights"]

Fresh = Callable[[], nn.Module | Mapping[str, Tensor]]
"""Makes a model of the same class anew, or gives its state dict."""

_RESETS = ("reset_parameters", "_reset_parameters")


@contextmanager
def random_weights(model: nn.Module, seed: int = 0, fresh: Fresh | None = None) -> Iterator[None]:
    """Within, the model has the random weights that it would start a training with; afterwards its own, bit for bit.

    A model of transformers is made anew from its configuration, by its own class; every other module draws its
    parameters with ``reset_parameters``, children before their parents. What a class does to its weights in
    ``__init__`` alone is not seen so: give ``fresh`` there.

    Args:
        model: The model, whole on this rank.
        seed: Of the weights. They are drawn where the parameters live: another device draws others.
        fresh: Makes the model anew, ``lambda: MyModel(width=64)``, or returns a state dict; the random streams are
            seeded when it is called.

    Raises:
        ValueError: If parameters are sharded over ranks, nothing draws a parameter anew, or ``fresh`` gives a model of
            other names or shapes.

    Cost: three copies of the weights while it lasts, one of them on the CPU; of transformers models one more.

    Example:
        >>> model = nn.Linear(2, 2)
        >>> before = model.weight.clone()
        >>> with random_weights(model, seed=1):
        ...     bool((model.weight == before).any())
        False
        >>> bool((model.weight == before).all())
        True

    """
    for name, parameter in model.named_parameters():
        if is_sharded(parameter):
            raise ValueError(
                f"parameter {name!r} is sharded over ranks, and cannot be drawn anew; switch the baseline off."
            )
    with torch.no_grad():
        own = WeightsCopy(model)
        with own.installed():
            # `installed` puts back what stands there now; the copy is only to have it do so whatever happens.
            with kept_random_state():
                seeded(seed)
                _draw(model) if fresh is None else _take_over(model, fresh())
            yield


def _draw(model: nn.Module) -> None:
    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.fill_(math.nan)
    _reset(model)
    left = [name for name, parameter in model.named_parameters() if bool(parameter.isnan().any())]
    if left:
        raise ValueError(
            f"nothing draws the parameters {left[:3]}{' and more' if len(left) > 3 else ''} of {type(model).__name__} "
            "anew: their modules have no `reset_parameters`. Give a function that makes the model anew, or switch the "
            "baseline off."
        )


def _reset(module: nn.Module) -> None:
    config = getattr(module, "config", None)
    if hasattr(module, "_init_weights") and config is not None:
        _take_over(module, type(module)(config))
        return
    for child in module.children():
        _reset(child)
    for name in _RESETS:
        reset = getattr(module, name, None)
        if callable(reset):
            reset()
            return


def _take_over(model: nn.Module, fresh: nn.Module | Mapping[str, Tensor]) -> None:
    given = fresh.state_dict() if isinstance(fresh, nn.Module) else fresh
    wanted = {name: tensor for name, tensor in model.state_dict().items() if isinstance(tensor, Tensor)}
    for name, tensor in wanted.items():
        if name not in given or given[name].shape != tensor.shape:
            found = f"one of shape {tuple(given[name].shape)}" if name in given else "none"
            raise ValueError(
                f"the model made anew must have a tensor {name!r} of shape {tuple(tensor.shape)}, but has {found}."
            )
        tensor.copy_(given[name])
