"""The shape of the cloud of representations at every validation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Unpack

from lightning_interp.batches.reader import LabelSource
from lightning_interp.callbacks.representation_metrics import RepresentationMetrics
from lightning_interp.figures import measure_curves
from lightning_interp.metrics import SpectralGeometry
from lightning_interp.parts.site_args import SiteArgs
from lightning_interp.reading.analysis import Draw
from lightning_interp.reporting.titles import measure_title

__all__ = ["RepresentationGeometry"]

_CURVES = ("rankme", "effective_rank", "participation_ratio", "matrix_entropy", "alpha", "anisotropy", "curvature")


class RepresentationGeometry(RepresentationMetrics):
    r"""Views of representations without bins or reference points, read at every validation.

    Formulas and sources in :func:`lightning_interp.functional.spectral_measures`, ``anisotropy`` and
    ``curvature_sums``; λ are the eigenvalues of the covariance of all positions that were read, μ those of their second
    moment about zero, from which RankMe and matrix entropy are published.

    ===================================  =======  ==================================================================
    key                                  level    what it is
    ===================================  =======  ==================================================================
    ``rankme/<site>``                    full     exp of the entropy of √μ, 1 to D
    ``effective_rank/<site>``            summary  exp of the entropy of λ, 1 to D
    ``participation_ratio/<site>``       full     (Σλ)²/Σλ², 1 to D
    ``matrix_entropy/<site>``            full     entropy of μ / log min(N, D), 0 to 1
    ``alpha/<site>``                     full     decay: −slope of log λ on log rank, ranks 11 to 100; conditional
    ``anisotropy/<site>``                summary  mean cosine of two positions
    ``curvature/<site>``                 full     mean angle between successive steps, radians; conditional
    ``alpha_r2/<site>``                  full     how straight these ranks lie; conditional
    ``rows/<site>``                      full     positions read
    ``nonfinite/<site>``                 full     positions left out as not finite
    ===================================  =======  ==================================================================

    Conditional keys are not logged where they are undefined: curvature where no sequence has three positions in a row,
    the decay where fewer than 40 eigenvalues are above zero, as in narrow layers and where representations collapse
    (:func:`~lightning_interp.functional.spectral_measures`).

    Args:
        sites: Where to read; see :class:`~lightning_interp.callbacks.RepresentationMetrics`.
        center: Whether the mean is taken out of all measures (``True``) or of none (``False``). By default as
            published: of effective rank, participation ratio and α, not of RankMe and matrix entropy.
        thin_above: Dimensions above which only every so-manieth position enters all but curvature; see
            :class:`~lightning_interp.metrics.SpectralGeometry`.
        labels: Label sets that ``projector`` shows.
        kwargs: Arguments of :class:`~lightning_interp.callbacks.RepresentationMetrics` and
            :class:`~lightning_interp.callbacks.ValidationAnalysis`.

    Cost: one product (D, N) × (N, D) a reading and site, N thinned above 2,048 dimensions, and two
        eigendecompositions O(D³), one with ``center`` given; memory 8·D² bytes. Between ranks: 8·D² bytes.

    Example:
        >>> RepresentationGeometry(sites={"encoder": "model.encoder"}).logged_keys()[:2]
        ['effective_rank/encoder', 'anisotropy/encoder']

    """

    def __init__(
        self,
        sites: str | Sequence[str] | Mapping[str, str],
        center: bool | None = None,
        thin_above: int | None = 2048,
        labels: Sequence[str] | Mapping[str, LabelSource] = (),
        **kwargs: Unpack[SiteArgs],
    ) -> None:
        metric = SpectralGeometry(center=center, thin_above=thin_above)
        super().__init__({"geometry": metric}, sites, labels=labels, **kwargs)

    def figures(self) -> Mapping[str, Draw]:
        """Curves of every measure; for several sites a heat map of the effective rank."""
        pictures: dict[str, Draw] = {
            "geometry": lambda: measure_curves(
                {measure_title(one): lines for one in _CURVES if (lines := self._lines(one))}, "Geometry"
            )
        }
        if len(self.rows.names) > 1:
            pictures["sites/effective_rank"] = lambda: self._heatmap("effective_rank", "dimensions")
        return pictures
