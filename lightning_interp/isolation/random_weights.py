"""The baseline of every probe: the same model with fresh random weights."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lightning_interp.compat import pl
from lightning_interp.distributed.sharding import is_sharded
from lightning_interp.isolation.fresh_weights import draw, shuffle_what_is_left, take_over
from lightning_interp.isolation.guards import preserved_rng, seed_all
from lightning_interp.isolation.own_parameters import own_parameters, same_tensors
from lightning_interp.reporting.plain_values import Settings

__all__ = ["Reinit", "RandomBaseline", "random_weights"]

Reinit = Callable[[], nn.Module | Mapping[str, Tensor]]
"""Makes a model of the same class anew, or gives its state dict."""

_REMEDY = "Give `baseline=lambda: …`, a function that makes the model anew, or switch it off by `baseline=False`."


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
    with _installed(model, seed, fresh) as shuffled:
        if shuffled:
            warnings.warn(_told(model, shuffled), stacklevel=3)
        yield shuffled


class RandomBaseline:
    """What a probe's argument ``baseline`` asks for, and what came of it.

    Args:
        asked: ``None``, the default of the probes, for random weights where they can be had: where not, the probe reads
            on without, and a warning says why. ``True``, or a function that makes the model anew, for random weights or
            an error; ``False`` for none.

    Example:
        >>> baseline = RandomBaseline(None)
        >>> with baseline.installed(nn.Linear(2, 2), 0, "LayerProbe"):
        ...     pass
        >>> baseline.wanted, baseline.settings()
        (True, {'baseline': True})

    """

    def __init__(self, asked: bool | Reinit | None) -> None:
        if asked is not None and not isinstance(asked, bool) and not callable(asked):
            raise ValueError(
                f"`baseline` must be True, False, None or a function that makes the model anew, got {asked!r}."
            )
        self.asked = asked
        self.forget()

    def forget(self) -> None:
        """Start anew, with another model."""
        self.missing = ""
        """Why there is none."""
        self.shuffled: tuple[str, ...] = ()
        """The parameters that nothing draws."""

    @property
    def wanted(self) -> bool:
        """Whether there is one, as far as is known."""
        return self.asked is not False and not self.missing

    @contextmanager
    def installed(self, model: nn.Module, seed: int, name: str) -> Iterator[None]:
        """Within, the model has the weights; what nothing draws is told once, in the name of the callback."""
        with _installed(model, seed, self.asked if callable(self.asked) else None) as shuffled:
            if shuffled and shuffled != self.shuffled:
                pl.utilities.rank_zero_warn(f"{name}: {_told(model, shuffled)} This is said once.")
            self.shuffled = shuffled
            yield

    def give_up(self, error: Exception, name: str) -> None:
        """Go on without one; it was not asked for.

        Raises:
            Exception: The error, where it was asked for.

        """
        if self.asked is not None:
            raise error
        self.missing = f"{type(error).__name__}: {error}"
        pl.utilities.rank_zero_warn(
            f"{name} reads without a baseline of random weights, since it failed: {self.missing} {_REMEDY}"
        )

    def settings(self) -> Settings:
        """What readings were compared with."""
        found: Settings = {"baseline": self.wanted}
        if self.wanted and self.shuffled:
            found["baseline_shuffled"] = ", ".join(self.shuffled)
        return found

    def state_dict(self) -> dict[str, Any]:
        """What came of it, as text."""
        return {"missing": self.missing, "shuffled": list(self.shuffled)}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on where a checkpoint left off."""
        self.missing, self.shuffled = state_dict["missing"], tuple(state_dict["shuffled"])


@contextmanager
def _installed(model: nn.Module, seed: int, fresh: Reinit | None) -> Iterator[tuple[str, ...]]:
    for name, parameter in model.named_parameters():
        if is_sharded(parameter):
            raise ValueError(f"parameter {name!r} is sharded over ranks, and cannot be drawn anew. {_REMEDY}")
        if any(step == 0 and size > 1 for step, size in zip(parameter.stride(), parameter.shape, strict=True)):
            raise ValueError(f"entries of parameter {name!r} are one and the same (expanded). {_REMEDY}")
    with torch.no_grad(), own_parameters(model) as own:
        with preserved_rng():
            seed_all(seed)
            shuffled = tuple(_drawn(model, fresh, own))
        yield shuffled


def _told(model: nn.Module, shuffled: tuple[str, ...]) -> str:
    names = f"{list(shuffled[:4])}{f' and {len(shuffled) - 4} more' if len(shuffled) > 4 else ''}"
    return (
        f"nothing draws the parameters {names} of {type(model).__name__} anew, so the baseline of random weights has "
        f"their entries in another order. {_REMEDY}"
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
        raise ValueError(f"{type(model).__name__} has no baseline of random weights: {error} {_REMEDY}") from error
    return shuffle_what_is_left(model, own)
