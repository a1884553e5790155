"""Functions that return a ``matplotlib.figure.Figure`` and keep nothing: readings in, picture out."""

from lightning_interp.figures.information_plane import information_plane
from lightning_interp.figures.interval_curves import interval_curves
from lightning_interp.figures.measure_curves import measure_curves
from lightning_interp.figures.retention_curves import retention_curves
from lightning_interp.figures.site_heatmap import site_heatmap
from lightning_interp.figures.task_heatmap import task_heatmap
from lightning_interp.figures.task_map import task_map
from lightning_interp.figures.training_phases import training_phases

__all__ = [
    "information_plane",
    "measure_curves",
    "retention_curves",
    "site_heatmap",
    "training_phases",
    "interval_curves",
    "task_heatmap",
    "task_map",
]
