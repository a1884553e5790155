"""Information, variation, regularity and disentanglement at every validation."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Unpack

from matplotlib.figure import Figure
from torchmetrics import Metric

from lightning_interp.batches.reader import LabelSource
from lightning_interp.callbacks.representation_metrics import RepresentationMetrics
from lightning_interp.figures import information_plane, measure_curves
from lightning_interp.functional import vmf_temperature
from lightning_interp.metrics import BinnedStructure, SoftStructure, StructureMetric
from lightning_interp.metrics.derived import BINNED
from lightning_interp.metrics.measure import FULL, Measure
from lightning_interp.parts.site_args import SiteArgs
from lightning_interp.reading.analysis import Draw
from lightning_interp.reporting.plain_values import Settings
from lightning_interp.reporting.titles import measure_title

__all__ = ["RepresentationStructure"]

_ESTIMATORS = ("soft", "binned", "both")
# Arguments of one of them, with their defaults.
_OF_ONE: dict[str, tuple[str, Any]] = {
    "num_points": ("soft", 100),
    "temperature": ("soft", None),
    "center": ("soft", False),
    "floor_corrected": ("soft", False),
    "bins": ("binned", 20),
    "correction": ("binned", None),
}
_MEASURES = ("information", "variation", "regularity", "disentanglement")


class RepresentationStructure(RepresentationMetrics):
    r"""How the mapping from input to representations is structured, read at every validation.

    Information is the entropy of representations (falling: they compress), variation what is left of it within a label,
    regularity the information that they carry about the label, disentanglement how far labels lie apart; definitions
    and sources in :func:`lightning_interp.functional.structure_measures` (Conklin & Smith 2024, arXiv 2406.02449;
    soft estimator: Conklin 2025, arXiv 2505.23960). Entropies and regularity are divided by the log of the number of
    reference points or bins; disentanglement is in nats, at most ln 2.

    Keys, with <labels> each label set; the binned estimator's begin with ``binned_``:

    ===================================================  =======  ==================================================
    key                                                  level    what it is
    ===================================================  =======  ==================================================
    ``information/<site>``                               summary  over all positions that were read
    ``regularity_above_chance/<site>/<labels>``          summary  regularity minus its chance level
    ``disentanglement_above_chance/<site>/<labels>``     summary  disentanglement minus its chance level
    ``variation/<site>/<labels>``                        full     within a label; ``variation_above_chance/…`` too
    ``regularity/<site>/<labels>``                       full     about the label; nested sets: beyond their parent
    ``disentanglement/<site>/<labels>``                  full     label against the rest of its set or parent, nats
    ``<measure>_chance/<site>/<labels>``                 full     mean over shuffled labels
    ``<measure>_chance/<site>/<labels>/sd``              full     spread of value minus chance, if labels carry nothing
    ``information/<site>/<labels>``                      full     over the positions whose label is kept
    ``parent_variation/<site>/<labels>``                 full     nested sets: within a parent, on the same rows
    ``coverage/<site>/<labels>``                         full     share of positions whose label is kept
    ``num_labels/<site>/<labels>``                       full     labels kept
    ``floor/<site>``                                     full     soft: mean entropy of single representations
    ``complexity/<site>``, ``expressivity/<site>``       full     I(X;Z), I(Y;Z), if ``information_plane``
    ``complexity_above_chance/<site>``,                  summary  these minus their chance levels
    ``expressivity_above_chance/<site>``
    ``<measure>_chance/<site>``                          full     of both, over shuffled labels
    ``<measure>_chance/<site>/sd``                       full     of both, spread of value minus chance
    ``optimality/<site>``                                full     I(Y;Z)/I(X;Z), if ``information_plane``; conditional
    ``optimality_above_chance/<site>``                   full     the same of both minus their chance; conditional
    ``optimality/<site>/se``                             full     its standard error, if ``jackknife``; conditional
    ``<key>/se``                                         full     standard error, if ``jackknife``
    ``rows/<site>``, ``nonfinite/<site>``                full     positions read, and left out as not finite
    ===================================================  =======  ==================================================

    With ``shuffles=0`` there are no chance levels, and regularity, disentanglement, complexity and expressivity are in
    the summary. With ``estimator="both"`` the summary has the soft one's, and ``binned_…`` are full.

    A key whose value is undefined at a reading, as where no label is frequent enough, is not logged at it.

    Args:
        sites: Where to read; see :class:`~lightning_interp.callbacks.RepresentationMetrics`, as for ``tokens``,
            ``mask``, ``padding_idx``, ``ignore_tokens``, ``skip_positions``, ``layout`` and ``call``.
        labels: Label sets: ``"token"``; ``"bigram"`` and ``"trigram"``, nested under the token; ``"flat_bigram"``,
            ``"flat_trigram"``, ``"next_token"``; other names are batch keys, or a mapping says where they are.
        estimator: ``"soft"``, ``"binned"`` or ``"both"``.
        num_points: Reference points of the soft estimator.
        bins: Bins of the binned estimator.
        correction: ``"miller_madow"`` for the binned estimator.
        temperature: Of the soft estimator; from the dimension by default.
        center: Subtract the mean representation first (soft).
        floor_corrected: Subtract the entropy of single representations (soft).
        parents, min_count, average, regularity_unit, information_plane, shuffles, jackknife, seed: See
            :class:`lightning_interp.metrics.StructureMetric`.
        units: ``{label set: "sample" | "word" | "position"}``: what its labels belong to, among which they are shuffled
            and counted. Told from the data where it is not said; the settings have it as ``units/<labels>``.
        kwargs: Arguments of :class:`~lightning_interp.callbacks.RepresentationMetrics` and
            :class:`~lightning_interp.callbacks.ValidationAnalysis`.

    Cost: one product (N, D) × (D, num_points) a reading and site, a table sum per label set and shuffle; memory
    (4·num_points + 8·(1 + labels a position)) bytes a position until the reading ends, bounded by ``max_examples``.
    Between ranks: the labels of all positions, then tables of kept labels only.

    Raises:
        ValueError: If an argument is out of range or a name unknown.

    Example:
        >>> callback = RepresentationStructure(sites={"encoder": "model.encoder"}, labels=["token"])
        >>> callback.logged_keys()
        ['information/encoder', 'regularity_above_chance/encoder/token', 'disentanglement_above_chance/encoder/token']

    """

    def __init__(
        self,
        sites: str | Sequence[str] | Mapping[str, str],
        labels: Sequence[str] | Mapping[str, LabelSource] = ("token",),
        estimator: str = "soft",
        num_points: int = 100,
        bins: int = 20,
        correction: str | None = None,
        temperature: float | None = None,
        center: bool = False,
        floor_corrected: bool = False,
        parents: Mapping[str, str] | None = None,
        min_count: int = 5,
        average: str = "frequency",
        regularity_unit: str = "log",
        information_plane: Sequence[str] | None = None,
        shuffles: int = 3,
        jackknife: int = 0,
        seed: int = 0,
        units: Mapping[str, str] | None = None,
        **kwargs: Unpack[SiteArgs],
    ) -> None:
        if estimator not in _ESTIMATORS:
            raise ValueError(f"`estimator` must be one of {list(_ESTIMATORS)}, got {estimator!r}.")
        for name, value in (
            ("num_points", num_points),
            ("temperature", temperature),
            ("center", center),
            ("floor_corrected", floor_corrected),
            ("bins", bins),
            ("correction", correction),
        ):
            owner, default = _OF_ONE[name]
            if value != default and estimator not in (owner, "both"):
                raise ValueError(f"`{name}={value!r}` is for estimator={owner!r}, and `estimator` is {estimator!r}.")
        if isinstance(labels, str):
            raise ValueError(f"`labels` must be a list of names or a mapping, got the string {labels!r}.")
        shared: dict[str, Any] = {
            "labels": list(labels),
            "parents": parents,
            "min_count": min_count,
            "average": average,
            "regularity_unit": regularity_unit,
            "information_plane": information_plane,
            "shuffles": shuffles,
            "jackknife": jackknife,
            "seed": seed,
            "units": units,
        }
        metrics: dict[str, Metric] = {}
        if estimator != "binned":
            metrics["soft"] = SoftStructure(
                num_points=num_points, temperature=temperature, center=center, floor_corrected=floor_corrected, **shared
            )
        if estimator != "soft":
            metrics["binned"] = BinnedStructure(bins=bins, correction=correction, **shared)
        super().__init__(metrics, sites, labels=labels, **kwargs)
        self.estimator = estimator
        self.label_sets = tuple(labels)
        self.plane = () if information_plane is None else tuple(information_plane)
        self.shuffles = shuffles

    def declares(self) -> list[Measure]:
        """What both estimators give; of two the soft one is the one to watch."""
        found = super().declares()
        if self.estimator != "both":
            return found
        return [replace(one, level=FULL) if BINNED in one.derived else one for one in found]

    def settings(self) -> Settings:
        """How readings are taken; the temperature of each site where it comes from the dimension."""
        found = super().settings()
        soft = self.metrics.get("soft")
        if isinstance(soft, SoftStructure) and soft.temperature is None:
            found |= {
                f"temperature/{site}": vmf_temperature(dim, soft.num_points)
                for site, dim in self.rows.dimensions.items()
            }
        return found | ({"information_plane": json.dumps(self.plane)} if self.plane else {})

    def figures(self) -> Mapping[str, Draw]:
        """Per estimator: curves of each label set, a heat map for several sites, the information plane.

        A label set of which no label was ever frequent enough has none.
        """
        pictures: dict[str, Draw] = {}
        for metric in self.metrics.values():
            prefix = metric.prefix if isinstance(metric, StructureMetric) else ""
            for labels in self.label_sets or ("",):
                tag = "/".join(part for part in (f"{prefix}structure", labels) if part)
                if labels and not self._lines(f"{prefix}variation/{labels}"):
                    continue
                pictures[tag] = partial(self._structure_curves, prefix, labels)
            if len(self.rows.names) > 1:
                pictures[f"{prefix}sites/information"] = partial(
                    self._heatmap, f"{prefix}information", "share of log n"
                )
                for labels in self.label_sets:
                    key = f"{prefix}regularity{'_above_chance' if self.shuffles else ''}/{labels}"
                    if not self._lines(key):
                        continue
                    pictures[f"{prefix}sites/{labels}"] = partial(self._heatmap, key, "share of log n")
            if self.plane:
                pictures[f"{prefix}information_plane"] = partial(self._plane, prefix)
        return pictures

    def _structure_curves(self, prefix: str, labels: str) -> Figure:
        panels: dict[str, dict[str, tuple[list[int], list[float]]]] = {}
        bands: dict[str, dict[str, list[float]]] = {}
        for measure in _MEASURES:
            if measure != "information" and not labels:
                continue
            key = f"{prefix}{measure}" + (f"/{labels}" if labels else "")
            lines = self._lines(key)
            chance = self._lines(f"{prefix}{measure}_chance/{labels}") if labels else {}
            for site, line in chance.items():
                name = "chance" if len(chance) == 1 else f"{site}, chance"
                lines[name] = line
                spread = self._lines(f"{prefix}{measure}_chance/{labels}/sd").get(site)
                if spread is not None and len(spread[1]) == len(line[1]):
                    bands.setdefault(measure_title(measure), {})[name] = spread[1]
            if lines:
                panels[measure_title(measure)] = lines
        title = f"Structure by {labels}" if labels else "Information"
        title += ", binned" if prefix else ""
        return measure_curves(panels, title, bands)

    def _plane(self, prefix: str) -> Figure:
        steps, sites, complexity = self._grid(f"{prefix}complexity")
        _, _, expressivity = self._grid(f"{prefix}expressivity")
        x, y = self.plane
        return information_plane(complexity, expressivity, steps, sites, None, x, y, "share of log n")
