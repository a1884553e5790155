"""Models whose parameters FSDP 2 holds in parts between forward passes, and exchanges itself."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

__all__ = ["exchanged_by_sharding", "exchanges_parameters", "hold_parts", "is_sharded", "refuse_sharded"]

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


def is_sharded(parameter: Tensor) -> bool:
    """Whether ranks hold parts of a parameter: DTensor (FSDP 2, tensor parallel), FSDP 1, DeepSpeed's stage 3."""
    return any(hasattr(parameter, name) for name in ("to_local", "_sharded_size", "ds_tensor"))


def refuse_sharded(model: nn.Module, what: str) -> None:
    """An error where ranks hold parts of the model.

    Args:
        model: The model.
        what: What is read from a whole model only, for the error.

    Raises:
        ValueError: If they do.

    """
    part = next((f"parameter {name!r}" for name, one in model.named_parameters() if is_sharded(one)), None)
    wrapper = "FullyShardedDataParallel"
    flat = next((f"module {name!r}" for name, one in model.named_modules() if type(one).__name__ == wrapper), None)
    if part or flat:
        how = "" if part else f" ({wrapper})"
        raise ValueError(
            f"{part or flat} is sharded over ranks{how}, and {what} are read from a whole model only: "
            "use a strategy that keeps one on every rank, such as 'ddp'."
        )
