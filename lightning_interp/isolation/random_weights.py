"""The baseline of every probe: the same model with fresh random weights."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from lightning_interp.distributed.sharding import is_sharded
from lightning_interp.isolation.fresh_weights import draw, shuffle_what_is_left, take_over
from lightning_interp.isolation.guards import preserved_rng, seed_all
from lightning_interp.isolation.own_parameters import own_parameters, same_tensors

__all__ = ["REMEDY", "Reinit", "drawn_anew", "random_weights", "told_of_shuffled"]

Reinit = Callable[[], nn.Module | Mapping[str, Tensor]]
"""Makes a model of the same class anew, or gives its state dict."""

REMEDY = "Give `baseline=lambda: …`, a function that makes the model anew, or switch it off by `baseline=False`."
"""What a user can do where weights cannot be drawn."""


@contextmanager
def random_weights(model: nn.Module, seed: int = 0, fresh: Reinit | None = None) -> Iterator[tuple[str, ...]]:
    """Within, the model has the random weights that it would start a training with; afterwards its own, bit for bit.

    Afterwards the very same parameters with their gradients, buffers, submodules, hooks and attributes stand where they
    stood, whatever was done to the model within or by the code that draws.

    Each part of the model is drawn by the first of these that works: a model of transformers is made anew from its
    configuration, by its own class; a module draws its parameters with ``reset_parameters``, children before their
    parents; what such a model's ``_init_weights`` says comes on top where it could not be made anew (a head of one's
    own, adapters of peft, which draw themselves last); what is left then is taken from a ``LightningModule`` made anew
    by the hyperparameters that it saved. Of a parameter that nothing draws (``cls_token``, ``gamma``) the entries are
    put in another order: they keep their distribution and lose their places, and one of a single entry stays. A
    warning names such parameters. What a class does to its weights in ``__init__`` alone is not seen so: give ``fresh``
    there.

    Args:
        model: The model, whole on this rank.
        seed: Of the weights. They are drawn where the parameters live: another device draws others.
        fresh: Makes the model anew, ``lambda: MyModel(width=64)``, or returns a state dict; the random streams are
            seeded when it is called.

    Yields:
        The names of the parameters that nothing draws, whose entries are put in another order.

    Raises:
        ValueError: If parameters are sharded over ranks, expanded, or integers, if a module holds quantised weights
            that are no parameters, or ``fresh`` gives a model of other names or shapes. Whatever ``fresh`` raises is
            raised.

    Cost: a copy of the weights and of what else the model holds while it lasts; while they are drawn of transformers
        models one more, and two where hyperparameters are used.

    Example:
        >>> model = nn.Linear(2, 2)
        >>> before = model.weight.clone()
        >>> with random_weights(model, seed=1):
        ...     bool((model.weight == before).any())
        False
        >>> bool((model.weight == before).all())
        True

    """
    with drawn_anew(model, seed, fresh) as shuffled:
        if shuffled:
            warnings.warn(told_of_shuffled(model, shuffled), stacklevel=3)
        yield shuffled


@contextmanager
def drawn_anew(model: nn.Module, seed: int, fresh: Reinit | None) -> Iterator[tuple[str, ...]]:
    """The same as :func:`random_weights`, without the warning."""
    for name, parameter in model.named_parameters():
        if is_sharded(parameter):
            raise ValueError(f"parameter {name!r} is sharded over ranks, and cannot be drawn anew. {REMEDY}")
        if any(step == 0 and size > 1 for step, size in zip(parameter.stride(), parameter.shape, strict=True)):
            raise ValueError(f"entries of parameter {name!r} are one and the same (expanded). {REMEDY}")
    with torch.no_grad(), own_parameters(model) as own:
        with preserved_rng():
            seed_all(seed)
            shuffled = tuple(_drawn(model, fresh, own))
        yield shuffled


def told_of_shuffled(model: nn.Module, shuffled: tuple[str, ...]) -> str:
    """A warning that names parameters that nothing draws."""
    names = f"{list(shuffled[:4])}{f' and {len(shuffled) - 4} more' if len(shuffled) > 4 else ''}"
    return (
        f"nothing draws the parameters {names} of {type(model).__name__} anew, so the baseline of random weights has "
        f"their entries in another order. {REMEDY}"
    )


def _drawn(model: nn.Module, fresh: Reinit | None, own: Mapping[str, Tensor]) -> list[str]:
    if fresh is not None:
        with same_tensors(model):
            take_over(model, fresh())
        return []
    try:
        with same_tensors(model):
            draw(model)
    except ValueError as error:
        raise ValueError(f"{type(model).__name__} has no baseline of random weights: {error} {REMEDY}") from error
    return shuffle_what_is_left(model, own)
