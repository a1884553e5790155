"""Every measure of this library, by family; one of your own is declared by the analysis that reads it."""

from __future__ import annotations

from collections.abc import Mapping

from lightning_interp.metrics.measure import Measure
from lightning_interp.metrics.measures.ablation import ABLATION
from lightning_interp.metrics.measures.attention import ATTENTION
from lightning_interp.metrics.measures.calibration import CALIBRATION, ELICITED
from lightning_interp.metrics.measures.classes import CLASSES
from lightning_interp.metrics.measures.costs import COSTS
from lightning_interp.metrics.measures.directions import DIRECTIONS
from lightning_interp.metrics.measures.facts import FACTS
from lightning_interp.metrics.measures.geometry import GEOMETRY
from lightning_interp.metrics.measures.influence import INFLUENCE
from lightning_interp.metrics.measures.lens import LENS
from lightning_interp.metrics.measures.neurons import NEURONS
from lightning_interp.metrics.measures.noise import NOISE
from lightning_interp.metrics.measures.phases import PHASES
from lightning_interp.metrics.measures.probes import PROBES
from lightning_interp.metrics.measures.similarity import SIMILARITY
from lightning_interp.metrics.measures.structure import STRUCTURE
from lightning_interp.metrics.measures.tasks import TASKS

__all__ = ["MEASURES"]

_FAMILIES = (
    *(STRUCTURE, GEOMETRY, NOISE, PROBES, TASKS, CLASSES, SIMILARITY, CALIBRATION, ELICITED, ATTENTION, ABLATION),
    *(INFLUENCE, LENS, DIRECTIONS, FACTS, NEURONS, COSTS, PHASES),
)

MEASURES: Mapping[str, Measure] = {one.name: one for family in _FAMILIES for one in family}
"""Name → measure, without what is derived of one (``…_above_chance``, ``…/se``); of phases ``phase/current`` …,
of the influence of examples ``self_influence/top1_mass`` …"""
