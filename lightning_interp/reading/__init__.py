"""The life of a reading: when to read, what a failure costs, what a reading is, the run's log, history."""

from lightning_interp.reading.analysis import ValidationAnalysis
from lightning_interp.reading.history import History
from lightning_interp.reading.part import Part
from lightning_interp.reading.reading import Reading

__all__ = [
    "History",
    "Part",
    "Reading",
    "ValidationAnalysis",
]
