"""Running a model without a trace: what its modules hold, random streams, weights, what is logged meanwhile."""

from lightning_interp.isolation.guards import (
    RandomState,
    kept_random_state,
    muted_loggers,
    replaced_logging,
    seeded,
    untouched,
)
from lightning_interp.isolation.module_state import ModuleState
from lightning_interp.isolation.weights_copy import WeightsCopy

__all__ = [
    "RandomState",
    "kept_random_state",
    "muted_loggers",
    "replaced_logging",
    "seeded",
    "untouched",
    "ModuleState",
    "WeightsCopy",
]
