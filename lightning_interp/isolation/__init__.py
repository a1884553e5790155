"""Running a model without a trace: what its modules hold, random streams, weights, what is logged meanwhile."""

from lightning_interp.isolation.guards import (
    RandomState,
    muted_loggers,
    no_side_effects,
    preserved_rng,
    replaced_logging,
    seed_all,
)
from lightning_interp.isolation.module_state import ModuleState
from lightning_interp.isolation.weights_copy import WeightsCopy

__all__ = [
    "RandomState",
    "preserved_rng",
    "muted_loggers",
    "replaced_logging",
    "seed_all",
    "no_side_effects",
    "ModuleState",
    "WeightsCopy",
]
