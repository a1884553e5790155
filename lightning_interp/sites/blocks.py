"""The repeated blocks of a model."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from lightning_interp.sites.names import is_called, listed, modules_by_name

__all__ = ["blocks"]

_CONTAINERS = (nn.ModuleList, nn.Sequential)


def blocks(model: nn.Module) -> dict[str, str]:
    """The repeated blocks of a model, such as the layers of a transformer, to be given as ``sites=``.

    They are the members of the longest ``nn.ModuleList`` or ``nn.Sequential`` of two modules or more, all of one class;
    of several that are equally long, those of the first. What lies within such blocks does not count, so the experts of
    a layer are no blocks. Where there is no such container, a ``nn.ModuleList`` of one module is taken: a transformer
    of one layer.

    Args:
        model: Any module; names are relative to it.

    Returns:
        Name within the container → dotted name, in order.

    Raises:
        ValueError: If there are none; it lists what there is.

    Example:
        >>> layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
        >>> blocks(nn.TransformerEncoder(layer, 3))
        {'0': 'layers.0', '1': 'layers.1', '2': 'layers.2'}

    """
    modules = modules_by_name(model)
    held = {name: _members(name, modules) for name, module in modules.items() if isinstance(module, _CONTAINERS)}
    alike = {name: members for name, members in held.items() if _is_repeated(members, modules)}
    outer = [name for name in alike if not any(_lies_in(name, other) for other in alike)]
    if not outer:
        outer = [name for name, members in held.items() if _is_lone_layer(modules[name], members, modules)][:1]
    if not outer:
        containers = [f"{name or 'the model'} ({_classes(members, modules)})" for name, members in held.items()]
        raise ValueError(
            f"{type(model).__name__} has no repeated blocks, an nn.ModuleList or nn.Sequential of modules of one "
            f"class; containers it has: {listed(containers)}; modules: {listed(name for name in modules if name)}. "
            "Name the sites instead"
        )
    longest = max(outer, key=lambda name: len(held[name]))
    return {name.rpartition(".")[2]: name for name in held[longest]}


def _lies_in(name: str, container: str) -> bool:
    return name != container and (not container or name.startswith(f"{container}."))


def _members(name: str, modules: Mapping[str, nn.Module]) -> list[str]:
    """The different modules that a container holds, by name."""
    different: dict[int, str] = {}
    for child in modules:
        if child and child.rpartition(".")[0] == name:
            different.setdefault(id(modules[child]), child)
    return list(different.values())


def _is_repeated(members: list[str], modules: Mapping[str, nn.Module]) -> bool:
    return len(members) > 1 and len({type(modules[one]) for one in members}) == 1 and is_called(modules[members[0]])


def _is_lone_layer(container: nn.Module, members: list[str], modules: Mapping[str, nn.Module]) -> bool:
    return isinstance(container, nn.ModuleList) and len(members) == 1 and is_called(modules[members[0]])


def _classes(members: list[str], modules: Mapping[str, nn.Module]) -> str:
    return ", ".join(dict.fromkeys(type(modules[one]).__name__ for one in members)) or "empty"
