"""What a paper must say about a run beside its numbers: versions, seed, and how each callback was set up."""

from __future__ import annotations

import importlib.metadata
import inspect
import json
import os
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, TypeAlias

import torch

from lightning_interp.compat import pl

__all__ = ["Plain", "Settings", "arguments", "package_versions", "run_settings"]

Plain: TypeAlias = str | int | float | bool
Settings: TypeAlias = dict[str, Plain]


def run_settings(trainer: pl.Trainer) -> Settings:
    """Versions, seed, processes and precision of a run.

    ``seed`` is that of ``seed_everything``, and missing where it was not called.

    Example:
        >>> from pytorch_lightning import Trainer
        >>> found = run_settings(Trainer(logger=False, enable_checkpointing=False, accelerator="cpu"))
        >>> found["world_size"], found["precision"], found["accelerator"]
        (1, '32-true', 'cpu')

    """
    seed = os.environ.get("PL_GLOBAL_SEED")
    return {
        **package_versions(),
        **({} if seed is None else {"seed": int(seed)}),
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
    same name: numbers and text as they are; lists, tuples and mappings of these as JSON. Functions, tensors
    and other objects are left out, and so is what is ``None`` or empty.

    Args:
        owner: The object.
        parts: Where to look for what the object does not keep itself, in turn.
        leave_out: Parameters that say nothing about numbers.

    Example:
        >>> class Probe:
        ...     def __init__(self, sites, folds=5, seed=0, solve=sorted):
        ...         self.sites, self.folds, self.seed, self.solve = sites, folds, seed, solve
        >>> arguments(Probe({"enc": "encoder"}), leave_out=["seed"])
        {'sites': '{"enc": "encoder"}', 'folds': 5}

    """
    found: Settings = {}
    for kind in type(owner).__mro__:
        if "__init__" not in vars(kind):
            continue
        for name in list(inspect.signature(kind.__init__).parameters)[1:]:  # type: ignore[misc]
            if name in found or name in leave_out:
                continue
            for part in (owner, *parts):
                if name in (held := getattr(part, "__dict__", {})):
                    if _is_plain(held[name]) and held[name] not in (None, "", [], (), {}):
                        found[name] = _flat(held[name])
                    break
    return found


def _is_plain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and _is_plain(one) for key, one in value.items())
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, str | int | float)


def _flat(value: Any) -> Plain:
    if isinstance(value, Mapping | list | tuple):
        return json.dumps(value, ensure_ascii=False)
    plain: Plain = value
    return plain
