"""Names of sites: dotted names, globs and aliases, resolved to the modules of a model."""

from __future__ import annotations

import difflib
import fnmatch
import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

__all__ = [
    "clean_name",
    "is_called",
    "listed",
    "match_sites",
    "modules_by_name",
    "resolve_sites",
    "short_names",
]

# torch.compile, FSDP and activation checkpointing put the module they wrap under one of these names.
_WRAPPERS = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
_LISTED = 12


def resolve_sites(model: nn.Module, sites: str | Sequence[str] | Mapping[str, str]) -> dict[str, str]:
    """The modules that ``sites=`` names.

    A name is a dotted module name as ``model.named_modules()`` lists it, ``""`` for the model itself, or a glob: ``*``,
    ``?`` and ``[...]`` match within one component of the name, ``**`` matches any number of components. Globs pass over
    containers without a ``forward`` (``nn.ModuleList``). What wrappers insert in names (``_orig_mod`` of
    ``torch.compile``) may be given or left out.

    Args:
        model: The module that the names are relative to.
        sites: One name, several, or ``{"alias": name}``.

    Returns:
        Short name → dotted name without wrappers' parts, in the order given, and within a glob in the order of the
        model's modules. The short name is the alias, else the last part of the dotted name where that is unique. Of
        the other names the parts that all of them begin or end with are left out, unless a name that is left is taken;
        the model itself is ``"model"``.

    Raises:
        ValueError: If ``sites`` is empty, a name matches no module, one that is never called, or one that is a site
            already, an alias matches several modules, or a short name is taken, empty or has a ``/``.
        TypeError: If a name or an alias is not a string.

    Example:
        >>> model = nn.ModuleDict({"encoder": nn.Sequential(nn.Linear(4, 8), nn.ReLU()), "head": nn.Linear(8, 2)})
        >>> resolve_sites(model, ["encoder.*", "head"])
        {'0': 'encoder.0', '1': 'encoder.1', 'head': 'head'}
        >>> resolve_sites(model, {"hidden": "encoder.1"})
        {'hidden': 'encoder.1'}
        >>> model = nn.ModuleList(nn.ModuleDict({"attn": nn.Linear(4, 4), "mlp": nn.Linear(4, 4)}) for _ in range(2))
        >>> resolve_sites(model, "*.attn")
        {'0': '0.attn', '1': '1.attn'}

    """
    if isinstance(sites, str):
        sites = [sites]
    aliased = isinstance(sites, Mapping)
    requests: list[tuple[Any, Any]] = (
        list(sites.items()) if isinstance(sites, Mapping) else [(None, name) for name in sites]
    )
    if not requests:
        raise ValueError(f"sites={sites!r} is empty: name the modules to read, such as sites=['encoder']")

    modules = modules_by_name(model)
    found: dict[str, Any] = {}
    for alias, name in requests:
        if not isinstance(name, str) or (aliased and not isinstance(alias, str)):
            raise TypeError(f"sites={sites!r} holds {name if not isinstance(name, str) else alias!r}: not a string")
        matches = match_sites(name, modules, type(model).__name__)
        if aliased and len(matches) > 1:
            raise ValueError(f"sites={{{alias!r}: {name!r}}} matches {len(matches)} modules: {listed(matches)}")
        for match in matches:
            if match in found:
                raise ValueError(f"sites={sites!r} names the module {match!r} twice")
            found[match] = alias

    shorts = found if aliased else _shortened(found)
    resolved: dict[str, str] = {}
    for name in found:
        short = shorts[name]
        if not short or "/" in short or short in resolved:
            problem = "is taken" if short in resolved else "becomes part of a log key: it cannot be empty or have a '/'"
            raise ValueError(f"sites={sites!r}: the short name {short!r} {problem}; give one by {{'alias': {name!r}}}")
        resolved[short] = name
    return resolved


def short_names(
    sites: str | Sequence[str] | Mapping[str, str],
    model: nn.Module | None,
    resolved: Iterable[str] = (),
    pattern: str = "<site>",
) -> list[str]:
    """Short names of sites as far as they can be known.

    Args:
        sites: As for :func:`resolve_sites`.
        model: The module that the names are relative to, if it is there.
        resolved: Short names from an earlier :func:`resolve_sites`, for want of a model.
        pattern: What stands for names that depend on the model.

    Example:
        >>> short_names({"enc": "model.encoder"}, None), short_names("model.layers.*", None)
        (['enc'], ['<site>'])

    """
    if model is not None:
        return list(resolve_sites(model, sites))
    return list(resolved) or (list(sites) if isinstance(sites, Mapping) else [pattern])


def clean_name(name: str) -> str:
    """A dotted name without the parts that wrappers insert."""
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def _shortened(names: Iterable[str]) -> dict[str, str]:
    """Dotted name → its last part where no other one ends so, else what is left without what all the others share."""
    short = {name: name.rpartition(".")[2] or "model" for name in names}
    number = Counter(short.values())
    long = [name for name, last in short.items() if name and number[last] > 1]
    short |= {name: name for name in long}
    parts = [name.split(".") for name in long]
    if len(parts) > 1:
        # At least one part is left of the shortest name.
        room = min(map(len, parts)) - 1
        head = min(_same(parts), room)
        tail = min(_same([part[::-1] for part in parts]), room - head)
        cut = {name: ".".join(part[head : len(part) - tail]) for name, part in zip(long, parts, strict=True)}
        if len({**short, **cut}) == len(set({**short, **cut}.values())):
            return {**short, **cut}
    return short


def _same(parts: Sequence[Sequence[str]]) -> int:
    """How many leading parts all have in common."""
    return sum(1 for _ in itertools.takewhile(lambda column: len(set(column)) == 1, zip(*parts, strict=False)))


def modules_by_name(model: nn.Module) -> dict[str, nn.Module]:
    """The modules of a model by dotted name without wrappers' parts; the model itself is ``""``."""
    # A wrapped module comes after its wrapper and takes its name: inside an outer compiled call Dynamo passes the
    # wrapper by, hooks and all.
    return {clean_name(name): module for name, module in model.named_modules(remove_duplicate=False)}


def is_called(module: nn.Module) -> bool:
    """Whether a module has a ``forward`` that hooks can be put on."""
    # Nothing can be hooked to a ScriptModule.
    if isinstance(module, torch.jit.ScriptModule):
        return False
    return type(module).forward is not nn.Module.forward or "forward" in vars(module)


def match_sites(request: str, modules: Mapping[str, nn.Module], model: str, argument: str = "sites") -> list[str]:
    """The names that a dotted name or a glob stands for; an error that lists what there is if there are none."""
    name = clean_name(request)
    if name in modules:
        if isinstance(modules[name], torch.jit.ScriptModule):
            raise ValueError(
                f"{argument}={request!r} is a ScriptModule of torch.jit, to which nothing can be hooked: name a module "
                "around it, or read the model before it is scripted."
            )
        if not is_called(modules[name]):
            raise ValueError(
                f"{argument}={request!r} is a {type(modules[name]).__name__}, which has no forward to read; its "
                f"children: {listed(_children(name, modules))}"
            )
        return [name]
    matches: dict[int, str] = {}
    if any(character in name for character in "*?["):
        pattern = name.split(".")
        for candidate, module in modules.items():
            if candidate and is_called(module) and _glob(candidate.split("."), pattern):
                matches.setdefault(id(module), candidate)
    if matches:
        return list(matches.values())
    prefix = name
    while prefix not in modules:
        prefix = prefix.rpartition(".")[0]
    nearest = difflib.get_close_matches(name, modules, n=5, cutoff=0.5)
    raise ValueError(
        f"{argument}={request!r} matches no module of {model}; nearest: {listed(nearest)}; "
        f"inside {prefix or 'the model'}: {listed(_children(prefix, modules))}"
    )


def _glob(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    if not pattern:
        return not parts
    if pattern[0] == "**":
        return any(_glob(parts[start:], pattern[1:]) for start in range(len(parts) + 1))
    return bool(parts) and fnmatch.fnmatchcase(parts[0], pattern[0]) and _glob(parts[1:], pattern[1:])


def _children(name: str, modules: Iterable[str]) -> list[str]:
    return [child for child in modules if child and child.rpartition(".")[0] == name]


def listed(names: Iterable[str]) -> str:
    """Names for an error message, the first twelve of them."""
    names = [repr(name) for name in names]
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more if names else "none"
