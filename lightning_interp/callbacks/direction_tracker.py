"""How far a model moves along chosen directions, such as that of a trait, while it trains."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias, Unpack

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from lightning_interp.callbacks.sentence_probe import Probed, ProbedSite, SentenceArgs, SentenceProbe
from lightning_interp.figures import measure_curves, site_heatmap
from lightning_interp.functional.auroc import auroc, auroc_chance_sd
from lightning_interp.functional.directions import covariance_directions, mean_direction, projections
from lightning_interp.metrics.derived import SPREAD
from lightning_interp.metrics.measure import Measure
from lightning_interp.metrics.measures.directions import (
    DIRECTION_AUROC,
    DIRECTION_DRIFT,
    PROJECTION,
    PROJECTION_OVER_SPREAD,
    PROJECTION_RANDOM,
    PROJECTION_SHIFT,
    PROJECTION_SPREAD,
)
from lightning_interp.probing.contrasts import Contrast, Halves, checked_contrast
from lightning_interp.reading.analysis import Draw
from lightning_interp.reading.grids import site_grid
from lightning_interp.reporting.titles import measure_title

__all__ = ["Direction", "DirectionTracker"]

Direction: TypeAlias = Contrast | Tensor | Mapping[str, Tensor]
"""Prompts that differ in it, or the direction itself, for all sites or by site."""

_RANDOM = 32
_FITTED = "fitted direction"


class DirectionTracker(SentenceProbe):
    r"""Reads how far fixed prompts lie along directions in a model: whether training moves a trait.

    A direction v is the difference of the means of prompts A and prompts B at a site, at their last token and of unit
    length, fitted at the first reading of a fit to a half of each and kept from there on; or it is given. With h the
    representations of fixed prompts, which are neither A nor B:

    .. math::
        \mathrm{projection} = \operatorname{mean}_h \frac{h \cdot v}{\mathrm{rms}(h)}, \quad
        \mathrm{projection\_over\_spread} = \frac{\mathrm{projection} - \mu}{\sigma}

    μ and σ being mean and standard deviation of the same over 32 random directions with the covariance of the data,
    drawn when directions are fitted and kept, too. One direction can carry a trait that fine-tuning brings about
    elsewhere (arXiv 2506.11618, emergent misalignment).

    ===========================================  =======  ============================================================
    key                                          level    what it is
    ===========================================  =======  ============================================================
    ``projection/<site>/<direction>``            summary  √D where all prompts point along v, 0 where they are square
                                                          to it
    ``projection_over_spread/…/<direction>``     summary  the same in units of random ones
    ``projection_shift/<site>/<direction>``      summary  how far it moved since directions were fitted, beyond random
                                                          ones, in their standard deviations (conditional: not at the
                                                          first reading)
    ``projection_random/<site>``                 full     mean over random directions
    ``projection_spread/<site>``                 full     standard deviation over random directions
    ``direction_auroc/<site>/<direction>``       summary  how often a held-out A lies further along v than a held-out B;
                                                          .5 at chance; not of directions that are given
    ``direction_auroc/<site>/<direction>/sd``    full     one standard deviation of it by chance
    ``direction_auroc_baseline/…/<direction>``   full     with random weights, of a direction fitted there: how far the
                                                          words alone tell A from B
    ``direction_auroc_above_baseline/…/<…>``     summary  what training adds
    ``direction_drift/<site>/<direction>``       summary  cosine of v fitted anew with v: 1 for no change
    ``nonfinite/<site>/prompts``                 full     prompts whose representation is not finite
    ===========================================  =======  ============================================================

    A projection has no zero of its own: neutral prompts lie somewhere on every direction. ``projection_shift`` is what
    to gate on; it starts at the first reading of the fit, so validate early, ``ValidationSchedule(steps=[1, 100, …])``.
    Where ``direction_drift`` falls, the model says the same elsewhere, and ``projection`` speaks of a direction that it
    has left.

    Args:
        directions: By name prompts A and prompts B, ``{"rude": (rude, polite)}``, two of each or more; or a vector
            (D,), or one by site. What a probe has found is such a vector.
        sites: Where to read.
        prompts: The fixed prompts, of which projections are.
        kwargs: Arguments of :class:`~lightning_interp.callbacks.SentenceProbe` but ``sentences``: ``tokenizer``,
            ``model``, ``pooling``, ``baseline`` …

    Raises:
        ValueError: If an argument is out of range, a direction has no two prompts of each kind, a vector is given for
            other sites or of another width, or as for ``SentenceProbe``.

    Cost: a forward pass over all prompts.

    Example:
        >>> tracker = DirectionTracker({"plural": (["dogs", "cats"], ["dog", "cat"])}, "lm.layers.*", ["a", "the"])
        >>> tracker.logged_keys()[:2]
        ['projection/<site>/plural', 'projection_over_spread/<site>/plural']

    """

    units = "prompts"
    _outward = (*SentenceProbe._outward, "directions", "prompts")

    def __init__(
        self,
        directions: Mapping[str, Direction],
        sites: str | Sequence[str] | Mapping[str, str],
        prompts: Sequence[str],
        **kwargs: Unpack[SentenceArgs],
    ) -> None:
        if not isinstance(directions, Mapping) or not directions:
            raise ValueError(f"`directions` must map names to prompts or vectors, got {directions!r}.")
        if isinstance(prompts, str) or not len(prompts):
            raise ValueError(f"`prompts` must be a list of prompts, got {prompts!r}.")
        self.directions, self.prompts = dict(directions), list(prompts)
        self._given: dict[str, Tensor | Mapping[str, Tensor]] = {}
        self._halves: dict[str, Halves] = {}
        texts, groups = list(self.prompts), [0] * len(self.prompts)
        for name, given in self.directions.items():
            if not name or "/" in name:
                raise ValueError(f"`directions` has the name {name!r}, which becomes part of a key: no '/', not empty.")
            if isinstance(given, Tensor | Mapping):
                self._given[name] = _checked_vectors(name, given)
                continue
            a, b = checked_contrast(name, given)
            self._halves[name] = Halves.dealt(len(texts), len(a), len(b), operator.index(kwargs.get("seed", 0)))
            for some in (a, b):
                groups += [groups[-1] + 1] * len(some)
                texts += some
        self._groups = torch.tensor(groups)
        super().__init__(texts, sites, **kwargs)

    # ------------------------------------------------- keys

    def site_measures(self) -> list[Measure]:
        """Projections with random ones beside them, and how well fitted directions tell their prompts apart."""
        found = [PROJECTION, PROJECTION_OVER_SPREAD, PROJECTION_SHIFT, PROJECTION_RANDOM, PROJECTION_SPREAD]
        for one in (DIRECTION_AUROC, SPREAD.of(DIRECTION_AUROC), DIRECTION_DRIFT):
            found.append(one.at("site", _FITTED, end=one.end))
        return found

    def axes(self, model: nn.Module | None = None) -> dict[str, Sequence[str]]:
        """The sites, the directions, and those of them that are fitted."""
        return {**super().axes(model), "direction": list(self.directions), _FITTED: list(self._halves)}

    def identity(self) -> dict[str, Any]:
        """Tells instances in a checkpoint apart by their directions too."""
        return {**super().identity(), "directions": list(self.directions)}

    # ------------------------------------------------- reading

    def resolve(self, model: nn.Module) -> None:
        """See that vectors are given for the sites that there are."""
        super().resolve(model)
        for name, given in self._given.items():
            missing = [site for site in self.sentences.names if isinstance(given, Mapping) and site not in given]
            if missing:
                raise ValueError(
                    f"`directions` gives {name!r} for the sites {list(given)}, and none for {missing[0]!r}: sites are "
                    f"{list(self.sentences.names)}."
                )

    def evaluate(self, site: str, data: ProbedSite, kept: Tensor | None) -> Probed:
        """Project the prompts, on directions that were fitted before or now."""
        h, number = data.vectors, len(self.directions) + _RANDOM
        now = {name: mean_direction(h[one.fit], one.fit_labels) for name, one in self._halves.items()}
        if kept is None:
            vectors = {name: self._vector(name, site, h.shape[1]) for name in self._given} | now
            drawn = covariance_directions(h, self._groups, _RANDOM, self.seed)
            tracked = torch.cat([torch.stack([vectors[name] for name in self.directions]), drawn]).float()
        else:
            tracked = kept[number:].view(number, h.shape[1])
        means = projections(h[: len(self.prompts)], tracked).mean(0)
        first = means.float() if kept is None else kept[:number]
        beyond, level, spread = self._beyond(means)
        shift, _, _ = self._beyond(means - first)
        values = {PROJECTION_RANDOM.name: level, PROJECTION_SPREAD.name: spread}
        for place, name in enumerate(self.directions):
            values[f"{PROJECTION.name}/{name}"] = float(means[place])
            values[f"{PROJECTION_OVER_SPREAD.name}/{name}"] = float(beyond[place])
            values[f"{PROJECTION_SHIFT.name}/{name}"] = math.nan if kept is None else float(shift[place])
            if name in now:
                values |= self._of_fitted(name, h, tracked[place].double(), now[name])
        keep = torch.cat([first, tracked.flatten()])
        # A direction of no length is fitted at the next reading.
        return Probed(values, keep if bool(keep.isfinite().all()) else torch.zeros(0))

    def _beyond(self, of_each: Tensor) -> tuple[Tensor, float, float]:
        """Numbers of the directions beyond those of random ones, in their spread; their mean and spread."""
        own, random = of_each[:-_RANDOM], of_each[-_RANDOM:]
        level, spread = random.mean(), random.std()
        return (own - level) / torch.where(spread > 0, spread, math.nan), float(level), float(spread)

    def _vector(self, name: str, site: str, width: int) -> Tensor:
        given = self._given[name]
        vector = given[site] if isinstance(given, Mapping) else given
        if len(vector) != width:
            raise ValueError(
                f"`directions` gives {name!r} as a vector of {len(vector)}, and site {site!r} has {width} dimensions."
            )
        return vector

    def _of_fitted(self, name: str, h: Tensor, v: Tensor, now: Tensor) -> dict[str, float]:
        """How a direction tells held-out prompts apart, and how far it turned."""
        halves = self._halves[name]
        scores, labels = projections(h[halves.held_out], v[None])[:, 0], halves.held_out_labels
        order, by_chance = math.nan, math.nan
        if bool(scores.isfinite().all()):
            order, by_chance = auroc(scores, labels), auroc_chance_sd(scores, labels)
        return {
            f"{DIRECTION_AUROC.name}/{name}": order,
            f"{DIRECTION_AUROC.name}/{name}/sd": by_chance,
            f"{DIRECTION_DRIFT.name}/{name}": float(now @ v),
        }

    # ------------------------------------------------- figures

    def figures(self) -> Mapping[str, Draw]:
        """Projections over the spread of random ones, as curves and, for several sites, as a map of each direction."""
        if not len(self.history):
            return {}
        drawings: dict[str, Draw] = {"directions/curves": self._curves}
        if len(self.sentences.names) > 1:
            drawings |= {f"directions/{name}": partial(self._map, name) for name in self.directions}
        return drawings

    def _curves(self) -> Figure:
        panels = {}
        for one in (PROJECTION_OVER_SPREAD, PROJECTION_SHIFT, DIRECTION_AUROC, DIRECTION_DRIFT):
            names = self._halves if one in (DIRECTION_AUROC, DIRECTION_DRIFT) else self.directions
            keys = {f"{name} at {site}": one.key(site, name) for name in names for site in self.sentences.names}
            lines = {line: self.history.series(self.full_key(key)) for line, key in keys.items()}
            panels[measure_title(one.name)] = {line: found for line, found in lines.items() if found[0]}
        return measure_curves({title: lines for title, lines in panels.items() if lines})

    def _map(self, name: str) -> Figure:
        keys = {site: self.full_key(PROJECTION_OVER_SPREAD.key(site, name)) for site in self.sentences.names}
        title = f"{measure_title(PROJECTION_OVER_SPREAD.name)}, {name}"
        return site_heatmap(*site_grid(self.history, keys), title, PROJECTION_OVER_SPREAD.unit)


def _checked_vectors(name: str, given: Tensor | Mapping[str, Tensor]) -> Tensor | Mapping[str, Tensor]:
    """The same, of unit length, float64 on the CPU.

    Raises:
        ValueError: If one is no vector, or has no length.

    """
    if isinstance(given, Mapping):
        return {site: _unit(name, one) for site, one in given.items()}
    return _unit(name, given)


def _unit(name: str, given: Any) -> Tensor:
    if not isinstance(given, Tensor) or given.ndim != 1:
        told = f"shape {tuple(given.shape)}" if isinstance(given, Tensor) else type(given).__name__
        raise ValueError(f"`directions` of {name!r} must be a vector (D,), got {told}.")
    wide = given.detach().cpu().double()
    length = wide.norm()
    if not length > 0 or not bool(length.isfinite()):
        raise ValueError(f"`directions` of {name!r} must have a length, got {float(length)}.")
    unit: Tensor = wide / length
    return unit
