"""Where in space or time a model's representations put named entities."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Unpack

import torch
from matplotlib.figure import Figure
from torch import Tensor

from lightning_interp.callbacks.representation_metrics import site_key
from lightning_interp.callbacks.sentence_probe import Probed, ProbedSite, SentenceArgs, SentenceProbe
from lightning_interp.figures import site_heatmap
from lightning_interp.figures.coordinate_map import coordinate_map
from lightning_interp.functional.evenly_spread import evenly_spread
from lightning_interp.functional.folds import block_folds, random_folds
from lightning_interp.functional.geography import Distance, proximity_error, r_squared
from lightning_interp.functional.rank_correlation import spearman
from lightning_interp.functional.ridge import held_out_ridge
from lightning_interp.metrics.derived import CONTROL
from lightning_interp.metrics.measure import Measure
from lightning_interp.metrics.measures.probes import (
    COORDINATE_R2,
    COORDINATE_R2_BLOCKED,
    COORDINATE_SPEARMAN,
    COORDINATE_SPEARMAN_BLOCKED,
    PROXIMITY_ERROR,
    PROXIMITY_ERROR_BLOCKED,
)
from lightning_interp.probing.entities import Entities, read_entities
from lightning_interp.reading.analysis import Draw
from lightning_interp.reading.grids import site_grid
from lightning_interp.reporting.titles import measure_title
from lightning_interp.tasks.loading import loaded

__all__ = ["CoordinateProbe"]

_PANELS = 5  # predicted maps side by side


class CoordinateProbe(SentenceProbe):
    r"""Reads how well a linear map tells entities' coordinates, a place or a year, from their representations.

    Gurnee and Tegmark 2023, *Language Models Represent Space and Time* (arXiv 2310.02207): ridge regression from the
    representation of an entity's last token to latitude and longitude or the year. All that is logged is of entities
    that the fit has not seen, once with random folds and once, ``_blocked``, with whole countries, regions or decades
    held out: with random folds it is enough to know the neighbours. Folds are drawn once from the seed, so that what
    changes is the model. The strength of the ridge is chosen on the other folds, for each coordinate and fold anew.

    ======================================  =======  =================================================================
    key                                     level    what it is
    ======================================  =======  =================================================================
    ``coordinate_r2/<site>``                summary  R², mean over coordinates; about 0 and lower where nothing is known
    ``coordinate_r2_blocked/<site>``        summary  … of whole blocks; where nothing is known well below 0
    ``proximity_error/<site>``              full     share of other entities that are put nearer to an entity's place:
                                                     .5 at chance, 0 at best
    ``proximity_error_blocked/<site>``      full     … of whole blocks; above .5 where nothing is known
    ``coordinate_spearman/<site>``          full     Spearman correlation of predicted and true, mean over coordinates;
                                                     below 0 where nothing is known
    ``coordinate_spearman_blocked/<site>``  full
    ``coordinate_r2_control/<site>``        full     R² for coordinates that are dealt to other entities: what chance is
    ``…_baseline/<site>``                   full     the same with random weights; not of the control
    ``…_above_baseline/<site>``                      what training adds, at the measure's level; of errors below 0
    ``nonfinite/<site>/entities``           full     entities whose representation is not finite
    ======================================  =======  =================================================================

    Where nothing is known, a probe says the mean of the other folds, which lies away from the fold in question: R² and
    the correlation are below 0 then, the more so the fewer blocks there are.

    City coordinates can be read off random weights and off word vectors too (by the company that parts of names keep):
    look at ``above_baseline``. Two of these in one Trainer, for space and time, take a ``prefix`` each.

    Figures: where the entities are put over the readings, beside where they are, and R² by site over time. Predictions
    are in the coordinates of the truth at every reading, so that maps need no turning to be compared over time.

    Args:
        entities: The entities; the path of a table (:func:`~lightning_interp.probing.read_entities`), with latitude and
            longitude; or a function that returns them, or its dotted name.
        sites: Where to read.
        template: A sentence for each entity, with the name last where a causal model is read.
        folds: Folds, at least 3; blocked ones are as many where there are as many blocks.
        distance: For the proximity error: ``"euclidean"``, or ``"haversine"`` for latitude and longitude in degrees; by
            default the latter where coordinates are called so.
        kwargs: Arguments of :class:`~lightning_interp.callbacks.SentenceProbe` but ``sentences``: ``tokenizer``,
            ``model``, ``pooling``, ``baseline`` …

    Raises:
        ValueError: If an argument is out of range, there are fewer than three blocks, or as for ``SentenceProbe``.

    Cost: a forward pass over the sentences and, for each site, ``folds · (folds + 1)`` eigendecompositions of
        min(entities, D)²; see ``benchmarks/probes.py``.

    Example:
        >>> from lightning_interp.probing import planted_places
        >>> probe = CoordinateProbe(planted_places(60), "lm.layers.*", baseline=False)
        >>> probe.logged_keys()[:2]
        ['coordinate_r2/<site>', 'coordinate_r2_blocked/<site>']

    """

    units = "entities"
    stored_readings = 64

    def __init__(
        self,
        entities: str | Path | Entities | Callable[[], Entities],
        sites: str | Sequence[str] | Mapping[str, str],
        template: str = "{}",
        folds: int = 5,
        distance: Distance | None = None,
        **kwargs: Unpack[SentenceArgs],
    ) -> None:
        entities = loaded("entities", entities, read_entities, path="the path of a table that exists")
        if not isinstance(entities, Entities):
            raise ValueError(f"`entities` must be an Entities object, got {type(entities).__name__}.")
        on_earth = entities.coordinates == ("latitude", "longitude")
        if distance not in (None, "euclidean", "haversine"):
            raise ValueError(f"`distance` must be 'euclidean' or 'haversine', got {distance!r}.")
        if distance == "haversine" and not on_earth:
            raise ValueError(
                f"`distance` is 'haversine', for latitude and longitude; the coordinates are {entities.coordinates}."
            )
        self.distance: Distance = distance or ("haversine" if on_earth else "euclidean")
        self.entities = entities
        self.template = template
        self.folds = folds
        super().__init__(entities.sentences(template), sites, **kwargs)
        self._folds = {
            "": random_folds(len(entities), folds, self.seed),
            "_blocked": block_folds(entities.blocks, folds, self.seed),
        }
        shuffled = torch.randperm(len(entities), generator=torch.Generator().manual_seed(operator.index(self.seed + 1)))
        self._permuted = entities.targets[shuffled]

    @property
    def maps(self) -> list[tuple[int, dict[str, Tensor]]]:
        """Step and, by site, held-out predictions (entities, T) of up to 64 readings of the fit, evenly spread."""
        shape = self.entities.targets.shape
        return [(step, {site: one.view(shape) for site, one in kept.items()}) for step, kept in self.stored.readings]

    def site_measures(self) -> list[Measure]:
        """R², error and order of random folds and of whole blocks, and R² of coordinates dealt to other entities."""
        return [
            *(COORDINATE_R2, COORDINATE_R2_BLOCKED, PROXIMITY_ERROR, PROXIMITY_ERROR_BLOCKED),
            *(COORDINATE_SPEARMAN, COORDINATE_SPEARMAN_BLOCKED, CONTROL.of(COORDINATE_R2)),
        ]

    def evaluate(self, site: str, data: ProbedSite, kept: Tensor | None) -> Probed:
        """Fit without each fold, and see what is said of it."""
        targets, number = self.entities.targets, len(self.entities.coordinates)
        values: dict[str, float] = {}
        keep = torch.zeros(0)
        for kind, folds in self._folds.items():
            wanted = targets if kind else torch.cat([targets, self._permuted], 1)
            predicted = held_out_ridge(data.vectors, wanted, folds).predictions
            own = predicted[:, :number]
            values[f"coordinate_r2{kind}"] = float(r_squared(own, targets).mean())
            values[f"proximity_error{kind}"] = proximity_error(own, targets, self.distance)
            ranks = [spearman(*columns) for columns in zip(own.T, targets.T, strict=True)]
            values[f"coordinate_spearman{kind}"] = math.fsum(ranks) / number
            if not kind:
                values["coordinate_r2_control"] = float(r_squared(predicted[:, number:], self._permuted).mean())
                keep = own.float().flatten()
        return Probed(values, keep)

    def unread(self, kept: Tensor | None) -> Tensor:
        """Where a vector is not finite, there is no map."""
        return torch.full((self.entities.targets.numel(),), math.nan)

    # ------------------------------------------------- figures

    def figures(self) -> Mapping[str, Draw]:
        """R² by site over time, and for each site the maps."""
        if not len(self.stored):
            return {}
        drawings: dict[str, Draw] = {
            f"coordinates/{measure}": partial(self._heatmap, measure) for measure in ("r2", "r2_blocked")
        }
        return drawings | {f"coordinates/map/{site}": partial(self._map, site) for site in self.sentences.names}

    def _heatmap(self, measure: str) -> Figure:
        key = f"coordinate_{measure}"
        grid = site_grid(self.history, {site: self.full_key(site_key(key, site)) for site in self.sentences.names})
        return site_heatmap(*grid, title=measure_title(key), label="R², held out")

    def _map(self, site: str) -> Figure:
        readings = self.maps
        places = evenly_spread(len(readings), _PANELS)
        return coordinate_map(
            [(step, by_site[site].numpy()) for step, by_site in (readings[place] for place in places)],
            self.entities.targets.numpy(),
            self.entities.coordinates,
            title=f"{site}: where held-out entities are put",
        )
