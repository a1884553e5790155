"""The life of a reading: when to read, what a failure costs, what a reading is, the run's log, history."""

from lightning_interp.reading.analysis import ValidationAnalysis
from lightning_interp.reading.history import History

__all__ = [
    "History",
    "ValidationAnalysis",
]
