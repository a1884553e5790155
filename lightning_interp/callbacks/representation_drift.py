"""How far representations move while a model trains, and how classes come apart in them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Unpack

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from lightning_interp.batches.reader import LabelSource
from lightning_interp.callbacks.representation_metrics import RepresentationMetrics, name_of, names_by_set
from lightning_interp.figures import measure_curves
from lightning_interp.figures.representation_map import representation_map
from lightning_interp.functional.cka import CenteredCloud, debiased_cka
from lightning_interp.functional.evenly_spread import evenly_spread
from lightning_interp.metrics.measure import Measure
from lightning_interp.metrics.measures.similarity import CKA
from lightning_interp.metrics.separation import ClassSeparation, SampledRows
from lightning_interp.parts.kept import Kept
from lightning_interp.parts.site_args import SiteArgs
from lightning_interp.parts.site_maps import SiteMaps
from lightning_interp.reading.analysis import Draw
from lightning_interp.reading.reading import Reading

__all__ = ["RepresentationDrift"]

_ALIGN = ("procrustes", "first")
_DTYPES = {"float32": torch.float32, "float16": torch.float16}
_PANELS = 6
_LEAST_ROWS = 4


class RepresentationDrift(RepresentationMetrics):
    r"""How alike representations are to those of the first and of the previous reading, and how far classes lie apart.

    Likeness is debiased linear CKA (:func:`~lightning_interp.functional.debiased_cka`; Kornblith et al. 2019, Nguyen et
    al. 2021, Murphy et al. 2024): 1 for the same cloud however it is turned or scaled, 0 for unrelated ones. It is read
    on a fixed sample of positions, the same at every reading and on any number of ranks. Class separation is the
    silhouette (Rousseeuw 1987) and the purity of nearest neighbours on the same sample.

    ============================================  =======  =============================================================
    key                                           level    what it is
    ============================================  =======  =============================================================
    ``cka/<site>/first``                          summary  debiased CKA with the first reading of the run; conditional
    ``cka/<site>/previous``                       summary  with the reading before; conditional
    ``silhouette/<site>/<labels>``                full     mean silhouette, −1 to 1
    ``knn_purity/<site>/<labels>``                full     share of ``neighbors`` nearest that are of the same class
    ``knn_purity_above_chance/<site>/<labels>``   summary  purity minus chance
    ``silhouette_above_chance/<site>/<labels>``   full     silhouette minus chance
    ``silhouette_chance/<site>/<labels>``         full     the same with labels shuffled
    ``knn_purity_chance/<site>/<labels>``         full     the same with labels shuffled, exactly
    ``<measure>_chance/<site>/<labels>/sd``       full     spread of value minus chance, if labels carry nothing
    ``rows/<site>``                               full     positions read
    ``sampled_rows/<site>``                       full     of them, those that the measures above are of
    ``nonfinite/<site>``                          full     positions left out as not finite
    ============================================  =======  =============================================================

    The two ``cka`` are 1 at most. They are undefined, and not logged, at the first reading; ``cka/<site>/previous``
    also outside of a fit, and both under :func:`lightning_interp.analyze`, which compares with nothing.
    Positions can be compared only where samples are the same: a reading of others, or of the same in another order, is
    the first of a new row of readings, which is said once.
    Silhouette and purity are undefined where there are too few classes or rows.

    Pictures: curves, heat maps over sites, and for each site a map of its representations in two dimensions at several
    steps, coloured by the first label set. ``projector=`` shows vectors of the last reading on TensorBoard's page.

    Args:
        sites: Where to read; see :class:`~lightning_interp.callbacks.RepresentationMetrics`, as for ``tokens``,
            ``mask``, ``padding_idx``, ``layout``, ``call``, ``projector`` and ``label_names``.
        labels: Label sets, of one class a position or sample: names, or a mapping that says where they are.
        max_rows: Positions in the sample, over all ranks.
        neighbors: Neighbours that purity looks at.
        min_count: Classes of fewer units (samples, word types, positions) among these are left out.
        shuffles: Exchanges of labels for the chance level of the silhouette and both spreads.
        align: How maps of several steps are laid over one another: ``"procrustes"``, each reading's own principal
            plane, moved onto the map before; or ``"first"``, the principal plane of the first reading for all of them.
        keep_readings: Readings whose sample is kept, evenly spread, the first and the last among them, for
            :meth:`to_last`; 2 is what ``cka`` needs.
        keep_dtype: ``"float32"`` or ``"float16"``, of what is kept.
        seed: Of the sample and of the shuffles.
        units: ``{label set: "sample" | "word" | "position"}``: what its labels belong to. Shuffles are among these, and
            positions of one's own sample or word are no neighbours. Told from the data where it is not said; the
            settings have it as ``units/<labels>``.
        kwargs: Further arguments of :class:`~lightning_interp.callbacks.RepresentationMetrics` and
            :class:`~lightning_interp.callbacks.ValidationAnalysis`.

    Cost: five products of ``max_rows`` × D² multiplications a reading and site, or three of ``max_rows``² × D where
        that is less, on every rank, and one more of the latter with labels: about a second a site for 2,000 rows of 768
        on one core. Memory: ``keep_readings`` · ``max_rows`` · D numbers a site, on
        the CPU and in checkpoints (12 MB for 2,000 rows of 768 in float32); twice ``max_rows`` vectors on the device
        while reading. Between ranks: the sample.

    Raises:
        ValueError: If an argument is out of range or a name unknown.

    Example:
        >>> callback = RepresentationDrift(sites={"encoder": "model.encoder"}, labels=["pos"])
        >>> callback.logged_keys()
        ['cka/encoder/first', 'cka/encoder/previous', 'knn_purity_above_chance/encoder/pos']

    """

    def __init__(
        self,
        sites: str | Sequence[str] | Mapping[str, str],
        labels: Sequence[str] | Mapping[str, LabelSource] = (),
        max_rows: int = 2000,
        neighbors: int = 10,
        min_count: int = 2,
        shuffles: int = 3,
        align: str = "procrustes",
        keep_readings: int = 2,
        keep_dtype: str = "float32",
        seed: int = 0,
        units: Mapping[str, str] | None = None,
        **kwargs: Unpack[SiteArgs],
    ) -> None:
        if isinstance(labels, str):
            raise ValueError(f"`labels` must be a list of names or a mapping, got the string {labels!r}.")
        if align not in _ALIGN:
            raise ValueError(f"`align` must be one of {list(_ALIGN)}, got {align!r}.")
        if keep_dtype not in _DTYPES:
            raise ValueError(f"`keep_dtype` must be one of {list(_DTYPES)}, got {keep_dtype!r}.")
        if keep_readings < 2:
            raise ValueError(f"`keep_readings` must be at least 2, the first and the previous, got {keep_readings}.")
        metric = ClassSeparation(
            labels=list(labels),
            max_rows=max_rows,
            neighbors=neighbors,
            min_count=min_count,
            shuffles=shuffles,
            seed=seed,
            units=units,
        )
        names = kwargs.pop("label_names", None)
        # Maps have names too, so here they are for more than the projector.
        super().__init__({"drift": metric}, sites, labels=labels, **kwargs)
        self.label_names = self.vectors.names = names
        self.label_sets = tuple(labels)
        self.align = align
        self.keep_readings = keep_readings
        self.keep_dtype = keep_dtype
        self.seed = seed
        self.kept = Kept(keep_readings)
        """The samples that later ones are compared with, by site."""
        self.maps = SiteMaps(align, seed)
        """Where each site's positions lie in two dimensions."""

    # ------------------------------------------------- keys

    def declares(self) -> list[Measure]:
        """Likeness to earlier readings, and how far classes lie apart."""
        return [CKA, *super().declares()]

    def axes(self, model: nn.Module | None = None) -> dict[str, Sequence[str]]:
        """The sites, the label sets, and the readings that are compared with."""
        return {**super().axes(model), "reading": ("first", "previous")}

    # ------------------------------------------------- reading

    by_place = True

    def kept_for_samples(self) -> str:
        """Samples that later readings are compared with."""
        return (
            "CKA compares the same positions, so it is not logged at this reading; it and the maps start anew from it"
        )

    def finish(self, reading: Reading) -> Mapping[str, Tensor | float]:
        """Merge the sample over ranks, measure it, and compare it with earlier ones."""
        # What is kept must also be usable outside inference mode.
        with torch.inference_mode(False), torch.no_grad():
            metrics = {site: self.site_metrics.at(site, "drift") for site in self.rows.names}
            values = dict(super().finish(reading))
            found: dict[str, SampledRows] = {}
            for site, metric in metrics.items():
                assert isinstance(metric, ClassSeparation)
                assert metric.sample is not None
                found[site] = SampledRows(*(one.clone() for one in metric.sample))
                values |= self._likeness(site, found[site], reading)
            self.kept.now = {site: _kept(rows, _DTYPES[self.keep_dtype]) for site, rows in found.items()}
            self.maps.now = found if self.draw_figures else None
            return values

    def _likeness(self, site: str, rows: SampledRows, reading: Reading) -> dict[str, float]:
        earlier = [one.get(site) for one in self.kept.values] if reading.changed is None else []
        compare = _Comparison(rows.key, rows.z)
        likeness = {"first": compare(earlier[0]) if earlier else math.nan}
        # Outside of a fit the last reading is the model's own, not one before.
        likeness["previous"] = compare(earlier[-1]) if earlier and reading.step is not None else math.nan
        return {f"cka/{site}/{which}": value for which, value in likeness.items()}

    def to_last(self) -> dict[str, tuple[list[int], list[float]]]:
        """Debiased CKA of the readings that are kept with the last one: steps and values, by site.

        With ``keep_readings`` above 2 it shows when representations took their final shape. The last value is 1, unless
        its cloud has no spread.

        Returns:
            Steps rising, and NaN where a reading has too few positions.

        """
        steps, readings = self.kept.steps, self.kept.values
        found: dict[str, tuple[list[int], list[float]]] = {}
        for site in dict.fromkeys(site for reading in readings for site in reading):
            last = readings[-1].get(site)
            if last is not None:
                compare = _Comparison(last["key"], last["z"].float())
                found[site] = (steps, [compare(reading.get(site)) for reading in readings])
        return found

    # ------------------------------------------------- state

    def upgraded(self, state: dict[str, Any]) -> dict[str, Any]:
        """Once what maps are of stood beside them."""
        if "shown" not in state:
            return state
        return {**state, "maps": {**state["maps"], "shown": state["shown"], "planes": state["planes"]}}

    # ------------------------------------------------- pictures

    def figures(self) -> Mapping[str, Draw]:
        """Curves, heat maps over sites, and a map of every site."""
        pictures: dict[str, Draw] = {"drift/curves": self._drift_curves}
        if len(self.rows.names) > 1:
            for which in ("first", "previous"):
                if self._lines(f"cka/{which}"):
                    pictures[f"sites/cka_{which}"] = partial(self._heatmap, f"cka/{which}", "debiased CKA")
        for labels in self.label_sets:
            pictures[f"separation/{labels}"] = partial(self._separation_curves, labels)
        pictures |= {f"drift/map/{site}": partial(self._map_figure, site) for site in self.maps.shown}
        return pictures

    def _drift_curves(self) -> Figure:
        panels = {f"CKA with the {which} reading": self._lines(f"cka/{which}") for which in ("first", "previous")}
        return measure_curves(panels, "Representational drift")

    def _separation_curves(self, labels: str) -> Figure:
        panels: dict[str, dict[str, tuple[list[int], list[float]]]] = {}
        for measure, name in (("silhouette", "silhouette"), ("knn_purity", "purity of nearest neighbours")):
            lines = self._lines(f"{measure}/{labels}")
            chance = self._lines(f"{measure}_chance/{labels}")
            lines |= {"chance" if len(chance) == 1 else f"{site}, chance": line for site, line in chance.items()}
            if lines:
                panels[name] = lines
        return measure_curves(panels, f"Class separation by {labels}")

    def _map_figure(self, site: str) -> Figure:
        shown = self.maps.shown[site]
        maps = {
            step: one[site].numpy()
            for step, one in self.maps.readings
            if site in one and len(one[site]) == len(shown.key)
        }
        steps = list(maps)
        chosen = evenly_spread(len(steps), _PANELS)
        first = self.label_sets[0] if self.label_sets else ""
        names = names_by_set(self.label_names, first).get(first)
        classes = [name_of(label, names) if label >= 0 else "" for label in shown.labels.tolist()] if first else None
        title = f"{site}, by {self.label_sets[0]}" if self.label_sets else site
        return representation_map([(steps[place], maps[steps[place]]) for place in chosen], classes, title)


class _Comparison:
    """Debiased CKA of a reading with others, over the positions that both have; NaN where these are too few."""

    def __init__(self, key: Tensor, z: Tensor) -> None:
        self.key, self.z = key, z
        self._cloud: CenteredCloud | None = None

    def __call__(self, earlier: Mapping[str, Tensor] | None) -> float:
        if earlier is None:
            return math.nan
        key, z = earlier["key"], earlier["z"].float()
        if not torch.equal(self.key, key):
            mine, others = torch.isin(self.key, key), torch.isin(key, self.key)
            return float(debiased_cka(self.z[mine], z[others])) if int(mine.sum()) >= _LEAST_ROWS else math.nan
        if len(key) < _LEAST_ROWS:
            return math.nan
        if self._cloud is None:
            self._cloud = CenteredCloud(self.z)
        return float(self._cloud.debiased_cka(CenteredCloud(z)))


def _kept(rows: SampledRows, dtype: torch.dtype) -> dict[str, Tensor]:
    z = rows.z
    if dtype == torch.float16 and len(z):
        # Neither shift nor scale matters to CKA, and half precision holds numbers up to 65,504 only.
        z = z - z.mean(0)
        z = z / z.abs().max().clamp_min(torch.finfo(torch.float32).tiny)
    return {"key": rows.key, "z": z.to(dtype)}
