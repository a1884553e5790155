"""Leaving a model as it was: what its modules hold, random streams, logged values, loggers."""

from __future__ import annotations

import operator
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from lightning_interp.compat import pl
from lightning_interp.functional.counter_noise import counter_hash
from lightning_interp.isolation.module_state import ModuleState

__all__ = [
    "RandomState",
    "preserved_rng",
    "muted_loggers",
    "replaced_logging",
    "seed_all",
    "seed_at",
    "no_side_effects",
]


@contextmanager
def no_side_effects(model: nn.Module) -> Iterator[None]:
    """Run what would change what a model's modules hold, its logs or the random streams, and undo it.

    Afterwards the very same attributes, metric states, buffers, parameters, submodules and hooks stand where they
    stood, in every module; see :class:`ModuleState`. Inside, ``log`` and ``log_dict`` of a LightningModule do nothing.
    The values of weights are the caller's to respect: run under ``torch.no_grad``. What code does outside the model
    (files, prints) is not undone.

    Args:
        model: The model.

    Example:
        >>> model = nn.Dropout()
        >>> with no_side_effects(model):
        ...     _ = model.eval()
        >>> model.training
        True

    """
    real = ModuleState(model)
    # Work on a copy: what the model holds is not even read in between.
    real.copy().install()
    try:
        with preserved_rng(), replaced_logging(model, _nothing):
            yield
    finally:
        real.install()


@contextmanager
def preserved_rng() -> Iterator[None]:
    """Put the random streams of Python, NumPy and torch (CPU and CUDA) back at the end.

    Example:
        >>> before = torch.random.get_rng_state()
        >>> with preserved_rng():
        ...     _ = torch.rand(3)
        >>> bool((torch.random.get_rng_state() == before).all())
        True

    """
    before = RandomState.now()
    try:
        yield
    finally:
        before.install()


class RandomState(NamedTuple):
    """Where the random streams of Python, NumPy and torch stand."""

    python: tuple[Any, ...]
    numpy: tuple[Any, ...]
    torch: list[torch.Tensor]
    """Of the CPU, and of each CUDA device."""

    @classmethod
    def now(cls) -> RandomState:
        """Where they stand now."""
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
        return cls(random.getstate(), np.random.get_state(), [torch.random.get_rng_state(), *cuda])  # type: ignore[arg-type]

    def install(self) -> None:
        """Put them back."""
        random.setstate(self.python)
        np.random.set_state(self.numpy)
        cpu, *cuda = self.torch
        torch.random.set_rng_state(cpu)
        if cuda:
            torch.cuda.set_rng_state_all(cuda)

    def is_now(self) -> bool:
        """Whether nothing was drawn since."""
        later = RandomState.now()
        kind, keys, *rest = self.numpy
        later_kind, later_keys, *later_rest = later.numpy
        return (
            self.python == later.python
            and (kind, rest) == (later_kind, later_rest)
            and np.array_equal(keys, later_keys)
            and all(map(torch.equal, self.torch, later.torch))
        )


def seed_all(seed: int) -> None:
    """Set all of these streams; to be used within :func:`preserved_rng`."""
    seed = operator.index(seed)  # of NumPy too
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def seed_at(place: int, seed: int) -> None:
    """Set all of these streams for one of many places, so that what is drawn there does not hang on the others.

    Example:
        >>> with preserved_rng():
        ...     seed_at(3, seed=0)
        ...     drawn = torch.rand(2)
        ...     seed_at(3, seed=0)
        ...     print(bool((torch.rand(2) == drawn).all()))
        True

    """
    # No stream takes a seed below 0.
    seed_all(int(counter_hash(torch.tensor(place), seed)) & (2**63 - 1))


@contextmanager
def replaced_logging(model: nn.Module, log: Callable[..., None]) -> Iterator[None]:
    """Within, a LightningModule's ``log`` is this function, and its ``log_dict`` calls it for every entry.

    Other modules are left alone.
    """
    if not isinstance(model, pl.LightningModule):
        yield
        return

    def log_dict(dictionary: Any, *args: Any, **kwargs: Any) -> None:
        # A MetricCollection hands out its metrics themselves only when told so; its names carry prefix and postfix.
        own = {"keep_base": False, "copy_state": False} if isinstance(dictionary, nn.Module) else {}
        for name, value in dictionary.items(**own):
            log(name, value, *args, **kwargs)

    # Past nn.Module's __setattr__, and past the class: only this instance, only now.
    before: dict[str, Any] = {name: vars(model)[name] for name in ("log", "log_dict") if name in vars(model)}
    object.__setattr__(model, "log", log)
    object.__setattr__(model, "log_dict", log_dict)
    try:
        yield
    finally:
        for name in ("log", "log_dict"):
            vars(model).pop(name, None)
        vars(model).update(before)


@contextmanager
def muted_loggers(trainer: pl.Trainer) -> Iterator[None]:
    """Within, the Trainer's loggers take whatever they are given and do nothing with it."""
    loggers = trainer.loggers
    trainer.loggers = [_Mute() for _ in loggers]
    try:
        yield
    finally:
        trainer.loggers = loggers


class _Mute(pl.loggers.logger.DummyLogger):
    """A logger whose ``experiment`` takes any call."""


def _nothing(*args: Any, **kwargs: Any) -> None:
    """Stands in for ``log``."""
