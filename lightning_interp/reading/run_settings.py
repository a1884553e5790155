"""What a paper must say about a run beside its numbers: versions, seed, and how each callback was set up."""

from __future__ import annotations

import importlib.metadata
import inspect
import os
from collections.abc import Sequence
from contextlib import suppress
from functools import cache

import torch

from lightning_interp.compat import pl
from lightning_interp.reporting.plain_values import Plain, Settings, plain_value

__all__ = ["Plain", "arguments", "package_versions", "run_settings"]


def run_settings(trainer: pl.Trainer) -> Settings:
    """Versions, seed, processes and precision of a run.

    ``seed`` is that of ``seed_everything``, and missing where it was not called.

    Example:
        >>> from pytorch_lightning import Trainer
        >>> found = run_settings(Trainer(logger=False, enable_checkpointing=False, accelerator="cpu"))
        >>> found["world_size"], found["precision"], found["accelerator"]
        (1, '32-true', 'cpu')

    """
    seed = os.environ.get("PL_GLOBAL_SEED", "")
    return {
        **package_versions(),
        **({"seed": int(seed)} if seed.removeprefix("-").isdecimal() else {}),
        "world_size": trainer.world_size,
        "precision": str(trainer.precision),
        "accelerator": trainer.strategy.root_device.type,
    }


def _lightning_version() -> str:
    version: str = vars(pl)["__version__"]
    return version


@cache
def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"  # run from its folder, without having been installed


def package_versions() -> Settings:
    """Versions of this package, torch and Lightning.

    Example:
        >>> list(package_versions())
        ['version', 'torch', 'lightning']

    """
    return {"version": _version("lightning-interp"), "torch": str(torch.__version__), "lightning": _lightning_version()}


def arguments(owner: object, *parts: object, leave_out: Sequence[str] = ()) -> Settings:
    """The arguments that an object was made with, as far as they are plain.

    These are the parameters of ``__init__``, of its class and those it inherits from, that the object keeps under the
    same name, made plain by :func:`~lightning_interp.reporting.plain_values.plain_value`: numbers and text as they are;
    mappings, sequences and small arrays of these as JSON; functions and classes by their name. Large arrays, other
    objects and functions without a name are left out, and so is what is ``None`` or empty.

    Args:
        owner: The object.
        parts: Where to look for what the object does not keep itself, in turn.
        leave_out: Parameters that say nothing about numbers.

    Example:
        >>> class Probe:
        ...     def __init__(self, sites, folds=5, seed=0, order=sorted):
        ...         self.sites, self.folds, self.seed, self.order = sites, folds, seed, order
        >>> arguments(Probe({"enc": "encoder"}), leave_out=["seed"])
        {'sites': '{"enc": "encoder"}', 'folds': 5, 'order': 'builtins.sorted'}

    """
    found: Settings = {}
    for name in _parameters(type(owner)):
        if name in leave_out:
            continue
        for part in (owner, *parts):
            if name in (held := getattr(part, "__dict__", {})):
                if (plain := plain_value(held[name])) is not None:
                    found[name] = plain
                break
    return found


def _parameters(kind: type) -> tuple[str, ...]:
    """The parameters of ``__init__`` of a class and of those it inherits from, its own first."""
    names: list[str] = []
    for one in kind.__mro__:
        if "__init__" in vars(one):
            # A method written in C may not tell.
            with suppress(ValueError, TypeError):
                names += list(inspect.signature(vars(one)["__init__"]).parameters)[1:]
    return tuple(dict.fromkeys(names))
