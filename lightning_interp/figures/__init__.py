"""Functions that return a ``matplotlib.figure.Figure`` and keep nothing: readings in, picture out."""

from lightning_interp.figures.acquisition_chart import acquisition_chart
from lightning_interp.figures.attention_grid import attention_grid
from lightning_interp.figures.coordinate_map import coordinate_map
from lightning_interp.figures.dependency_tree import dependency_tree
from lightning_interp.figures.head_map import head_map
from lightning_interp.figures.influence_examples import ShownExample, influence_examples
from lightning_interp.figures.information_plane import information_plane
from lightning_interp.figures.interval_curves import interval_curves
from lightning_interp.figures.measure_curves import measure_curves
from lightning_interp.figures.patch_maps import patch_maps
from lightning_interp.figures.reliability_diagram import reliability_diagram
from lightning_interp.figures.representation_map import representation_map
from lightning_interp.figures.retention_curves import retention_curves
from lightning_interp.figures.selective_accuracy_curve import selective_accuracy_curve
from lightning_interp.figures.site_heatmap import site_heatmap
from lightning_interp.figures.task_heatmap import task_heatmap
from lightning_interp.figures.task_map import task_map
from lightning_interp.figures.trace_maps import trace_maps
from lightning_interp.figures.training_phases import training_phases

__all__ = [
    "acquisition_chart",
    "attention_grid",
    "head_map",
    "influence_examples",
    "ShownExample",
    "information_plane",
    "measure_curves",
    "patch_maps",
    "retention_curves",
    "site_heatmap",
    "trace_maps",
    "training_phases",
    "interval_curves",
    "task_heatmap",
    "task_map",
    "coordinate_map",
    "dependency_tree",
    "reliability_diagram",
    "representation_map",
    "selective_accuracy_curve",
]
