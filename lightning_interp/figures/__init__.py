"""Functions that return a ``matplotlib.figure.Figure`` and keep nothing: readings in, picture out."""

from lightning_interp.figures.information_plane import information_plane
from lightning_interp.figures.measure_curves import measure_curves
from lightning_interp.figures.site_heatmap import site_heatmap

__all__ = ["information_plane", "measure_curves", "site_heatmap"]
