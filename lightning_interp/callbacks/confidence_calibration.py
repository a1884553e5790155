"""Whether a model's confidence tells what it gets right, at every validation."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias, Unpack

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from lightning_interp.batches.predictions import PredictedRows, Scores
from lightning_interp.batches.reader import Key
from lightning_interp.distributed import Collective
from lightning_interp.distributed.positions import Selection
from lightning_interp.figures import measure_curves
from lightning_interp.functional._numerics import as_float
from lightning_interp.functional.calibration import multiclass_brier
from lightning_interp.isolation.seen import Seen
from lightning_interp.metrics.calibration import ConfidenceMetric
from lightning_interp.metrics.measure import Measure
from lightning_interp.parts.confidence_pictures import ConfidencePictures
from lightning_interp.parts.prediction_sites import OutputSite, PredictionSites
from lightning_interp.parts.site_metrics import site_key
from lightning_interp.reading.analysis import Draw, ValidationAnalysis
from lightning_interp.reading.arguments import BatchArgs
from lightning_interp.reading.reading import Reading
from lightning_interp.sites import Call

__all__ = ["ConfidenceCalibration", "SpokenConfidence"]

SpokenConfidence: TypeAlias = Callable[[Any, Any], tuple[Any, Any]]

_PANELS = {
    "calibration error": {"equal width": "ece", "equal mass": "adaptive_ece"},
    "Brier score": {"": "brier"},
    "AUROC of confidence": {"": "auroc_confidence"},
    "accuracy and confidence": {"accuracy": "accuracy", "confidence": "confidence"},
    "over-confidence": {"": "overconfidence"},
}


class ConfidenceCalibration(ValidationAnalysis):
    r"""How well confidence tells right from wrong: calibration, Brier score, AUROC, selective accuracy.

    Confidence is the largest softmax probability, read from the logits of a classifier or language model as it
    validates, or whatever ``confidence`` says, such as what a model answered when it was asked how sure it is (Xiong et
    al. 2023, arXiv 2306.13063). Formulas and sources in :mod:`lightning_interp.functional.calibration`.

    ========================================  =======  =============================================================
    key                                       level    what it is
    ========================================  =======  =============================================================
    ``ece/<site>``                            summary  expected calibration error, bins of equal width, 0 to 1
    ``adaptive_ece/<site>``                   full     the same over bins of equally many predictions
    ``brier/<site>``                          full     Brier score, 0 to 2: Σ over classes of (p − y)²
    ``ece_control/<site>``                    full     … expected where confidences are dealt to other predictions
    ``auroc_confidence/<site>``               summary  confidence of right against wrong ones, .5 at chance; conditional
    ``auroc_confidence/<site>/sd``            full     one standard deviation of it by chance; conditional
    ``selective_accuracy/<site>/<coverage>``  full     accuracy on that share of predictions, the most confident
    ``aurc/<site>``                           full     error rate averaged over all coverages; lower is better
    ``overconfidence/<site>``                 summary  mean confidence − accuracy, −1 to 1
    ``accuracy/<site>``                       full     share of right predictions
    ``confidence/<site>``                     full     mean confidence
    ``predictions/<site>``                    full     predictions read
    ``sampled_predictions/<site>``            full     of them, those that adaptive ECE, AUROC and AURC are of
    ``nonfinite/<site>``                      full     predictions left out as not finite
    ========================================  =======  =============================================================

    With ``confidence`` the Brier score is that of one probability, (confidence − correct)², 0 to 1, since the other
    classes have none. AUROC is undefined, and not logged, where all predictions are right or all are wrong.

    Args:
        sites: Where logits are: modules whose output they are, named as everywhere; of a mapping or a ``ModelOutput``,
            ``logits`` are taken. Each gives (B, C) or (B, T, C); or (B, 1), (B,) or (B, T, 1), where two classes have
            one logit and targets are 0 or 1, also as floats. The Brier score is over both then.
        output: Instead, where they are in what ``validation_step`` returns: a key, an index or a callable; ``""`` where
            it returns them.
        target: Where targets are in the batch; see :class:`~lightning_interp.batches.Predictions`, as for
            ``ignore_index``, ``mask``, ``class_dim`` and ``scores``.
        ignore_index: Targets that are none.
        shift: 1 (or true) for a causal language model, whose logits at t are about the target at t + 1.
        mask: Where the padding mask of the targets is.
        class_dim: The dimension of logits that runs over classes, −1 or 1.
        scores: ``"logits"`` (or log-probabilities) or ``"probabilities"``. By default logits; where they look like
            probabilities, an error, and for one a target a warning, asks which.
        call: For a site that fires several times in a forward pass, ``"only"`` (an error), ``"first"`` (before a step
            goes on to generate) or ``"last"``.
        confidence: Instead of all of these but ``sites``: called with the batch and the output of the one site, or what
            ``validation_step`` returned, it gives the confidences, 0 to 1, and whether each is right, 1 or 0, and −1
            where there is nothing to be right about: both (B,) or both (B, T).
        name: What keys call predictions that are not read at a site; ``"output"``, or with ``confidence``
            ``"spoken"``, by default.
        bins: Bins of both calibration errors and of the diagram.
        coverages: Shares of predictions at which selective accuracy is logged.
        max_rows: Predictions, over all ranks, that adaptive ECE, AUROC and selective accuracy are of; the other
            measures are of all.
        seed: Of their choice.
        kwargs: Arguments of :class:`~lightning_interp.callbacks.ValidationAnalysis`.

    Cost: a softmax of the logits and a copy of them a batch; 40 · ``max_rows`` bytes until the reading ends, which is
        what is exchanged between ranks.

    Raises:
        ValueError: If an argument is out of range, the batch lacks targets, or shapes do not fit.

    Example:
        >>> callback = ConfidenceCalibration("head", target="labels", coverages=(0.8,))
        >>> callback.logged_keys()
        ['ece/<site>', 'auroc_confidence/<site>', 'overconfidence/<site>']

    """

    told_apart = ("sites", "name", "dataloader_idx", "prefix")

    def __init__(
        self,
        sites: str | Sequence[str] | Mapping[str, str] | None = None,
        output: Key | None = None,
        target: Key | None = None,
        ignore_index: int | Sequence[int] = -100,
        shift: int = 0,
        mask: Key | None = None,
        class_dim: int = -1,
        scores: Scores | None = None,
        call: Call = "only",
        confidence: SpokenConfidence | None = None,
        name: str | None = None,
        bins: int = 15,
        coverages: Sequence[float] = (0.5, 0.8, 0.9),
        max_rows: int = 10_000,
        seed: int = 0,
        **kwargs: Unpack[BatchArgs],
    ) -> None:
        super().__init__(**kwargs)
        if confidence is None and (sites is None) == (output is None):
            raise ValueError(
                f"exactly one of `sites` and `output` says where logits are, got {sites!r} and {output!r}; or give "
                "`confidence`."
            )
        if confidence is not None:
            if not callable(confidence):
                raise ValueError(f"`confidence` must be callable, got {confidence!r}.")
            given: dict[str, Any] = {
                "output": output,
                "target": target,
                "mask": mask,
                "shift": shift or None,
                "scores": scores,
            }
            given |= {"ignore_index": None if ignore_index == -100 else ignore_index}
            given |= {"class_dim": None if class_dim == -1 else class_dim}
            given |= {"call": call if sites is None and call != "only" else None}
            unused = [argument for argument, value in given.items() if value is not None]
            if unused:
                raise ValueError(f"`{unused[0]}` says how to read logits, but `confidence` reads all by itself.")
        if name is not None and (sites is not None or not name or "/" in name):
            raise ValueError(
                f"`name` is {name!r}; it names what is read at no site, and cannot be empty or have a '/'."
            )
        self.sites = sites
        self.confidence = confidence
        self.bins = bins
        self.metric = ConfidenceMetric(bins=bins, coverages=coverages, max_rows=max_rows, seed=seed)
        elsewhere = name or ("output" if confidence is None else "spoken")
        how = {"target": target, "ignore_index": ignore_index, "shift": int(shift), "mask": mask}
        how |= {"class_dim": class_dim, "scores": scores, "call": call}
        # Where predictions are read: logits with their targets, or whatever `confidence` is called with.
        self.predictions = PredictionSites(sites, output, elsewhere, how) if confidence is None else None
        self.spoken = OutputSite(sites, elsewhere, call) if confidence is not None else None
        self.output = output
        self.kept = ConfidencePictures()
        """What the diagrams show, by place."""
        self._metrics: dict[str, ConfidenceMetric] = {}

    @property
    def name(self) -> str | None:
        """What keys call predictions that are read at no site."""
        return self._places.name if self.sites is None else None

    @property
    def _places(self) -> PredictionSites | OutputSite:
        places = self.predictions or self.spoken
        assert places is not None
        return places

    # ------------------------------------------------- keys

    def declares(self) -> list[Measure]:
        """What the metric gives, of each place where predictions are read."""
        return self.metric.measures_at("site")

    def axes(self, model: nn.Module | None = None) -> dict[str, Sequence[str]]:
        """The names of the predictions, and the shares of them."""
        return {"site": self.names(model), **self.metric.axes}

    def names(self, model: nn.Module | None = None) -> list[str]:
        """What keys call the predictions; ``<site>`` where that cannot be known without the model."""
        return self._places.names(model)

    # ------------------------------------------------- reading

    def abort(self) -> None:
        """Forget the reading."""
        super().abort()
        self._metrics = {}

    def after_batch(self, seen: Seen) -> None:
        """Hand confidences to the metrics."""
        super().after_batch(seen)
        if self.predictions is not None:
            for name, rows in self.predictions.rows(seen).items():
                self._take_logits(name, rows, seen.selection)
        elif self.spoken is not None and self.confidence is not None:
            name, output = self.spoken.output(seen)
            self._take_spoken(name, self.confidence(seen.batch, output), self.count(seen.batch), seen.selection)

    def _take_logits(self, name: str, rows: PredictedRows, selection: Selection) -> None:
        shape = len(selection), -1
        confidence = (as_float(rows.logits.amax(-1)) - rows.log_norm).exp()
        self._metric(name, confidence.device).update(
            confidence.view(shape),
            rows.hits().view(shape),
            multiclass_brier(rows.logits, rows.targets, rows.log_norm).view(shape),
            rows.counted.view(shape),
            selection.positions,
            rows.nonfinite,
        )

    def _take_spoken(self, name: str, given: Any, size: int, selection: Selection) -> None:
        if not isinstance(given, tuple | list) or len(given) != 2:
            raise ValueError(f"`confidence` must return (confidence, correct), got {type(given).__name__}.")
        confidence, correct = map(torch.as_tensor, given)
        shape = tuple(confidence.shape)
        if tuple(correct.shape) != shape or len(shape) not in (1, 2) or shape[0] != size:
            raise ValueError(
                f"`confidence` must return two tensors of shape (B,) or (B, T) for a batch of {size}, got shapes "
                f"{shape} and {tuple(correct.shape)}."
            )
        confidence, correct = selection.of(confidence), selection.of(correct.to(confidence.device))
        asked = correct >= 0
        self._metric(name, confidence.device).update(
            confidence, correct.masked_fill(~asked, 0), None, asked, selection.positions
        )

    def _metric(self, name: str, device: torch.device | None = None) -> ConfidenceMetric:
        if name not in self._metrics:
            new = copy.deepcopy(self.metric)
            new.process_group = self.group
            self._metrics = {**self._metrics, name: new}  # a copy of this callback has the one before
        metric = self._metrics[name]
        if device is not None and metric.device != device:
            metric.to(device)
        return metric

    def merge(self, reading: Reading) -> Collective[Mapping[str, Tensor | float]]:
        """Merge ranks and compute."""
        if self.predictions is not None:
            yield from self.predictions.check()
        values: dict[str, Tensor | float] = {}
        found: dict[str, Mapping[str, Tensor]] = {}
        for name in self.names():
            metric = self._metric(name)
            of_name = yield from metric.merge()
            values |= {site_key(key, name): value for key, value in of_name.items()}
            found[name] = self.kept.seen(metric)
        self._metrics, self.kept.now = {}, found
        return values

    # ------------------------------------------------- pictures

    def figures(self) -> Mapping[str, Draw]:
        """Curves of the measures, and for each site its reliability diagram and selective accuracy."""
        return {"calibration/curves": self._curves, **self.kept.diagrams(self.names(), "calibration")}

    def _curves(self) -> Figure:
        names = self.names()
        panels: dict[str, dict[str, tuple[list[int], list[float]]]] = {}
        for panel, lines in _PANELS.items():
            found = {
                ", ".join(part for part in (name if len(names) > 1 or not label else "", label) if part): (
                    self.history.series(self.full_key(f"{key}/{name}"))
                )
                for name in names
                for label, key in lines.items()
            }
            panels[panel] = {label: line for label, line in found.items() if line[0]}
        shares = {
            f"{name}, coverage {share:g}" if len(names) > 1 else f"coverage {share:g}": self.history.series(
                self.full_key(f"selective_accuracy/{name}/{share:g}")
            )
            for name in names
            for share in self.metric.coverages
        }
        if shares:
            panels["accuracy at coverage"] = {label: line for label, line in shares.items() if line[0]}
        return measure_curves(panels, "Confidence")
