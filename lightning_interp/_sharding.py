"""Models whose parameters FSDP 2 holds in parts between forward passes, and exchanges itself."""

from __future__ import annotations

from typing import Any

from torch import nn

__all__ = ["exchanged_by_sharding", "exchanges_parameters", "hold_parts"]

_SHARDING = frozenset({"FSDPModule", "FullyShardedDataParallel"})


def exchanged_by_sharding(one: Any, other: Any) -> bool:
    """Whether one is a rank's part of a parameter and the other the whole: FSDP 2 lets them take turns."""
    if one is other or one is None or other is None:
        return False
    return hasattr(one, "to_local") != hasattr(other, "to_local")


def exchanges_parameters(module: nn.Module) -> bool:
    """Whether a module is sharded, and exchanges its parameters and those of what is in it while it runs.

    Example:
        >>> exchanges_parameters(nn.Linear(1, 1))
        False

    """
    # By name, since where these classes are depends on the version of torch.
    return any(kind.__name__ in _SHARDING for kind in type(module).__mro__)


def hold_parts(model: nn.Module) -> None:
    """Let what FSDP 2 shards hold this rank's parts, also where a forward pass has left it whole.

    Example:
        >>> hold_parts(nn.Linear(1, 1))  # is not sharded

    """
    for module in model.modules():
        reshard = getattr(module, "reshard", None) if exchanges_parameters(module) else None
        if reshard is not None:
            reshard()
