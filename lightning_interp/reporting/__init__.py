"""What people and loggers are shown: numbers' names in plain words, pictures, texts, the folder of a run."""

from lightning_interp.reporting.reporter import Reporter, log_folder

__all__ = [
    "Reporter",
    "log_folder",
]
