"""What stands in a checkpoint, without running anything of it; and whose names are another wrapper's."""

from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

__all__ = ["fitted_names", "held_in", "tensors_in"]

# What compiling, sharding, checkpointing of activations and DDP put into the names of submodules.
_WRAPPERS = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
_DDP = "module"
# Beside the weights of a folder of shards Lightning writes the rest of a checkpoint to this file.
_REST = "meta.pt"
_BEFORE_1_6 = 0x1950A86A20F9469CFC6C.to_bytes(10, "little")
_PREFIXES = ("state_dict.", "model.", "")
_HARMLESS = frozenset(
    {
        ("collections", "OrderedDict"),
        ("torch", "Size"),
        ("torch", "device"),
        ("torch._utils", "_rebuild_parameter"),
        ("torch._utils", "_rebuild_tensor"),
        ("torch._utils", "_rebuild_tensor_v2"),
        ("torch.storage", "TypedStorage"),
        ("torch.storage", "UntypedStorage"),
    }
)


def held_in(path: str | os.PathLike[str]) -> Any:
    """What ``torch.save`` wrote to a file; tensors are mapped and not read, and objects are left as empty stand-ins.

    Of a folder of shards it is what Lightning wrote beside them.

    Raises:
        ValueError: If the file is cut off, or is none of ``torch.save``.

    """
    path = Path(path) / _REST if Path(path).is_dir() else Path(path)
    if not zipfile.is_zipfile(path):
        with open(path, "rb") as file:
            old = _BEFORE_1_6 in file.read(32)
        if old:
            raise ValueError(
                f"{path} has the format of torch before 1.6: write it anew by torch.save(torch.load(…), …)."
            )
        raise ValueError(f"{path} is not a file of torch.save, or is cut off.")
    try:
        try:
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except pickle.UnpicklingError:
            # It holds objects: numbers and tensors beside them are read all the same.
            return torch.load(path, map_location="cpu", weights_only=False, mmap=True, pickle_module=_INERT)
    except Exception as error:  # of a damaged file, anything
        raise ValueError(
            f"{path} is not a file of torch.save, or is cut off or damaged: {type(error).__name__}: {error}"
        ) from error


def tensors_in(path: str | os.PathLike[str], wanted: Collection[str]) -> dict[str, Any]:
    """The state dict of a Lightning checkpoint, or of a folder of shards that ``torch.distributed.checkpoint`` wrote.

    Args:
        path: The file or folder.
        wanted: The names that the module has.

    Raises:
        ValueError: If there is none, or the folder has another format.

    """
    if not Path(path).is_dir():
        held = held_in(path)
        if not isinstance(held, Mapping) or not isinstance(held.get("state_dict"), Mapping):
            raise ValueError("It holds no `state_dict`, as a checkpoint of Lightning does: build the model by `load`.")
        found = dict(held["state_dict"])
        unread = sorted(name for name, value in found.items() if isinstance(value, _Unread))
        if unread:
            raise ValueError(
                f"its state dict has objects at {unread[:3]}, which are not read: build the model by `load`, as in "
                "load=lambda path: MyModule.load_from_checkpoint(path, weights_only=False), if you trust the file."
            )
        return found
    if not (Path(path) / ".metadata").is_file():
        raise ValueError(
            f"it is a folder with {sorted(os.listdir(path))[:4]}, and not one of torch.distributed.checkpoint, which "
            "has a file '.metadata'. Make one file of it with the tools of what wrote it (DeepSpeed: zero_to_fp32.py), "
            "or build the model by `load`."
        )
    return _from_shards(path, wanted)


def fitted_names(wanted: Collection[str], given: Mapping[str, Any]) -> dict[str, Any]:
    """A state dict under the names of a module that is wrapped in another way, where that makes more of them fit.

    Example:
        >>> fitted_names(["net.weight"], {"net._orig_mod.weight": 1})
        {'net.weight': 1}
        >>> fitted_names(["net._orig_mod.weight"], {"module.net.weight": 1})
        {'net._orig_mod.weight': 1}

    """
    best, fit = dict(given), len(set(wanted) & set(given))
    for wrappers in (_WRAPPERS, _WRAPPERS | {_DDP}):
        own = {_plain(name, wrappers): name for name in wanted}
        theirs = {_plain(name, wrappers): name for name in given}
        # Names that were different before and are not after are no names of wrappers.
        if len(own) == len(wanted) and len(theirs) == len(given) and len(own.keys() & theirs.keys()) > fit:
            fit = len(own.keys() & theirs.keys())
            best = {own.get(plain, name): given[name] for plain, name in theirs.items()}
    return best


def _plain(name: str, wrappers: Collection[str]) -> str:
    return ".".join(part for part in name.split(".") if part not in wrappers)


def _from_shards(path: str | os.PathLike[str], wanted: Collection[str]) -> dict[str, Tensor]:
    # Here, since torch may have been built without it.
    from torch.distributed.checkpoint.filesystem import FileSystemReader
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata
    from torch.distributed.checkpoint.state_dict_loader import load

    reader = FileSystemReader(path)
    described = {
        name: one
        for name, one in reader.read_metadata().state_dict_metadata.items()
        if isinstance(one, TensorStorageMetadata)
    }

    def fit(prefix: str) -> int:
        names = {name.removeprefix(prefix): 0 for name in described if name.startswith(prefix)}
        return len(set(wanted) & fitted_names(wanted, names).keys())

    prefix = max(_PREFIXES, key=fit)
    found = {
        name: torch.empty(one.size, dtype=one.properties.dtype)
        for name, one in described.items()
        if name.startswith(prefix)
    }
    load(found, storage_reader=reader, no_dist=True)
    return {name.removeprefix(prefix): tensor for name, tensor in found.items()}


class _Unread:
    """Stands where an object of some class was, and does nothing that it is told."""

    def __new__(cls, *args: Any, **kwargs: Any) -> _Unread:
        return object.__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...

    def __setitem__(self, key: Any, value: Any) -> None: ...

    def __call__(self, *args: Any, **kwargs: Any) -> _Unread:
        return self

    def append(self, value: Any) -> None: ...

    def extend(self, values: Any) -> None: ...

    def add(self, value: Any) -> None: ...


class _Unpickler(pickle.Unpickler):
    """Imports nothing but what tensors are made of."""

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        dtype = module_name == "torch" and isinstance(getattr(torch, global_name, None), torch.dtype)
        if dtype or (module_name, global_name) in _HARMLESS:
            return super().find_class(module_name, global_name)
        return type(global_name, (_Unread,), {})


_INERT = ModuleType("inert")
vars(_INERT)["Unpickler"] = _Unpickler
