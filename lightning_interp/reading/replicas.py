"""Ranks that see the same data, and those that do not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lightning_interp.compat import pl
from lightning_interp.distributed import Collective, Maximum, Minimum, over_ranks

__all__ = ["check_replicas", "data_group", "largest"]


def largest(seconds: float) -> Collective[float]:
    """The time of the slowest rank."""
    merged: Tensor = yield Maximum(torch.tensor(seconds))
    return float(merged)


def data_group(trainer: pl.Trainer) -> Any:
    """The process group over which data are split; ``None`` for all ranks."""
    mesh = getattr(trainer.strategy, "device_mesh", None)
    if mesh is not None and "data_parallel" in (mesh.mesh_dim_names or ()):
        return mesh["data_parallel"].get_group()
    return None


def check_replicas(values: Mapping[str, Tensor | float], trainer: pl.Trainer) -> None:
    """Ranks that see the same data must have read the same; a part of a sharded activation would not be.

    Raises:
        ValueError: If they have not.

    """
    mesh: Any = getattr(trainer.strategy, "device_mesh", None)
    names = () if mesh is None else mesh.mesh_dim_names or ()
    for name in names:
        if name != "data_parallel" and mesh[name].size() > 1:
            found = torch.tensor([float(value) for value in values.values()], dtype=torch.float64).nan_to_num()
            low, high = over_ranks(_range_of(found), mesh[name].get_group())
            apart = (high - low > 1e-4 * high.abs().clamp(min=1e-3)).tolist()
            keys = [key for key, differs in zip(values, apart, strict=True) if differs]
            if keys:
                raise ValueError(
                    f"{keys[0]} differs between the ranks of {name!r}: each has a part of the site's output only. Read "
                    "a site whose output all of them have (output_layouts=Replicate())."
                )


def _range_of(values: Tensor) -> Collective[tuple[Tensor, Tensor]]:
    low: Tensor = yield Minimum(values)
    high: Tensor = yield Maximum(values)
    return low, high
