"""How well a model predicts each class of words or examples, when each was learned, and which were forgotten."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from lightning_interp._seen import Seen
from lightning_interp.callbacks._acquisition import AcquisitionAnalysis
from lightning_interp.distributed import Maximum, Steps, Sum, run
from lightning_interp.functional._numerics import wide_dtype
from lightning_interp.functional.acquisition import acquisition_step, forgetting_p
from lightning_interp.functional.design_effect import design_effect, sample_sums
from lightning_interp.functional.frequency_bands import frequency_bands
from lightning_interp.labels import BatchReader, Key, LabelSource
from lightning_interp.metrics.measure import Measure
from lightning_interp.metrics.measures.classes import (
    CLASS_ACCURACY,
    CLASS_ACQUIRED,
    CLASS_COUNT,
    CLASS_EFFECTIVE,
    CLASS_FORGOTTEN,
    CLASS_KNOWN,
    CLASS_LOSS,
    CLASS_NAMED,
    CLASSES_FORGOTTEN,
)
from lightning_interp.metrics.measures.geometry import NONFINITE
from lightning_interp.predictions import PredictedRows, PredictionRecorder, Predictions, Scores
from lightning_interp.reading.reading import Reading
from lightning_interp.run_settings import Settings
from lightning_interp.sites import Call

__all__ = ["AcquisitionByClass"]

_RESERVED = ("mean",)


class AcquisitionByClass(AcquisitionAnalysis):
    r"""Reads a model's accuracy on each class of what it predicts: part of speech, frequency band, any label.

    Chiang et al. 2020, *Pretrained Language Model Embryology* (arXiv 2010.02480): words of one part of speech are
    reconstructed and predicted long before those of another, and some are forgotten again. Logits and targets are those
    of the validation run itself; no second pass is made. Over the rows of class c, with target y and logits ℓ,

    .. math:: a_c = \frac{1}{n_c} \sum [\arg\max \ell = y], \quad L_c = -\frac{1}{n_c} \sum \log p_\ell(y)

    =================================  =======  ======================================================================
    key                                level    what it is
    =================================  =======  ======================================================================
    ``class_accuracy/<site>/<class>``  summary  a
    ``class_accuracy/<site>/mean``     summary  mean of a over the classes that occur
    ``classes_forgotten/<site>``       summary  classes that are forgotten now; conditional
    ``class_loss/<site>/<class>``      full     L in nats
    ``class_count/<site>/<class>``     full     n
    ``class_named/<site>/<class>``     full     rows for which the class is predicted, right or not; where the class is
                                                the target itself
    ``class_acquired/<site>/<class>``  full     first step at which a was at least ``share`` of its best so far;
                                                conditional
    ``class_effective/<site>/<class>`` full     n / D, how many independent rows they are as good as; conditional
    ``class_known/<site>/<class>``     full     1 where the class is named among its own rows more often than among
                                                others beyond chance, else 0; where it is the target itself; conditional
    ``class_forgotten/<site>/<class>`` full     1 where a has fallen below its best beyond chance, else 0; conditional
    ``nonfinite/<site>``               full     rows left out since their logits are not finite
    =================================  =======  ======================================================================

    While training runs the final level is not known, so ``class_acquired`` is of the best level so far and moves on as
    that rises; when the fit is over, :meth:`order` has the step from which a class stayed at ``share`` of its final
    level, with the readings it lies between, and :meth:`summary` the same as text. Conditional keys are undefined
    outside a fit and for a class that was never predicted rightly. A class counts as forgotten where Fisher's exact
    test against its best reading (:func:`forgetting_p`) is below ``alpha`` divided by the number of classes and by
    :math:`2 t (t + 1)`, with t the number of earlier readings: over 20 to 40 readings of fresh examples and a constant
    accuracy, some reading counts as forgotten in 1 to 7 % of runs, with :math:`t` alone in 20 to 50 %. Where the class
    is the target itself (neither ``labels`` nor ``bands``), only readings count as best at which the class was known:
    named among its own rows more often than among the others, by the same test at ``alpha``. So a model that always
    names one class, and another one later, never knew either.

    Rows of one sample (words of a sentence, patches of an image) are right together more often than others, so the test
    is of n / D rows, with the design effect D of the class at one of the two readings, where it is larger
    (:func:`design_effect`): of 49 positions that are always right together, one counts. The share of runs above is then
    0 to 7 % of 4 to 300 samples with 10 to 200 positions that go together always or in part, and by rows alone 60 to
    100 %. A reading at which all rows of a class are right, or none, does not tell D, so that of the other counts; nor
    does the first reading of a fit with ``bands`` and no ``counts``, as bands are known from its end on. What goes
    together over samples (pages of one book, each a sample) is not known of.
    Where a reading is of other samples than the one before, which is said once, levels are compared from it on only.

    A masked language model's two accuracies, and a causal one's::

        AcquisitionByClass({
            "prediction": Predictions("lm", target="labels"),
            "reconstruction": Predictions("lm", target="input_ids", mask=lambda batch: batch["labels"] == -100),
        }, bands=4)
        AcquisitionByClass({
            "prediction": Predictions("lm", target="input_ids", shift=1),
            "reconstruction": Predictions("lm", target="input_ids"),
        }, labels="part_of_speech", names=["noun", "verb", "other"])

    Args:
        site: Dotted name of the module whose output are logits (a classifier, a language model); ``""`` for the model
            itself. Or a :class:`~lightning_interp.predictions.Predictions`, or several by the name that stands in keys
            for the site: other targets of one site, several sites, or what ``validation_step`` returns.
        target: Where the targets are; for it and ``ignore_index``, ``shift``, ``mask``, ``class_dim`` and ``scores``
            see :class:`~lightning_interp.predictions.Predictions`, which has its own.
        labels: Where the class of each target is: a batch key, an index, a callable on the batch, or an array with an
            entry for each sample; integers (B,) or as the targets (B, T). Below 0 stands for no class. Without
            ``labels`` and ``bands`` the class is the target itself.
        names: Of the classes: a list, or by label, or how many there are, which are then called by their number. Needed
            unless ``bands`` are asked for.
        bands: Instead of labels, so many bands of target frequency: ``band_1`` has the most frequent targets, and each
            holds about an equal share of the text (:func:`frequency_bands`).
        counts: For ``bands``, how often each target occurs, in the training text for example: a list by id, or a
            mapping. By default they are counted in the first reading of a fit.
        ignore_index: Targets that are none.
        shift: How many positions ahead a prediction looks: 1 for a causal language model.
        mask: Where the padding mask of the targets is.
        class_dim: The dimension of the logits that runs over their classes.
        scores: ``"logits"`` or ``"probabilities"``; by default logits, and no guess where they look like probabilities.
        call: For a site that fires several times in a forward pass, ``"only"`` (an error), ``"first"`` or ``"last"``.
        share: Of the level at which a class counts as acquired.
        chance: The level of chance: ``share`` is of what is above it.
        alpha: Level of the test for forgetting.
        max_classes: Most classes, since each has charts of its own.
        kwargs: Arguments of :class:`~lightning_interp.callbacks.ValidationAnalysis`.

    Raises:
        ValueError: If an argument is out of range, a name matches no module, the batch lacks targets or labels, a
            target has no logit, or a label no name.

    Cost: a copy of the logits of one batch, two passes over them, 24 bytes a sample of the batch and class, and sums of
        80 bytes a class; with ``bands``, 32 bytes a target id too. Between ranks: those sums.

    Example:
        >>> callback = AcquisitionByClass("model.head", target="tags", names=["noun", "verb"], mask="attention_mask")
        >>> callback.logged_keys()[:3]
        ['class_accuracy/head/noun', 'class_accuracy/head/verb', 'class_accuracy/head/mean']

    """

    attached = ("_recorder",)

    def __init__(
        self,
        site: str | Predictions | Mapping[str, Predictions],
        target: Key | None = None,
        labels: LabelSource = None,
        names: Sequence[str] | Mapping[int, str] | int | None = None,
        bands: int | None = None,
        counts: Sequence[int] | Mapping[int, int] | Tensor | None = None,
        ignore_index: int | Sequence[int] = -100,
        shift: int = 0,
        mask: Key | None = None,
        class_dim: int = -1,
        scores: Scores | None = None,
        call: Call = "only",
        share: float = 0.9,
        chance: float = 0.0,
        alpha: float = 0.05,
        max_classes: int = 64,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        own: dict[str, Any] = {"target": target, "ignore_index": ignore_index, "shift": shift, "mask": mask}
        own |= {"class_dim": class_dim, "scores": scores, "call": call}
        self._given = _predictions(site, own)
        for name, value in (("share", share), ("alpha", alpha)):
            if not 0 < value <= 1:
                raise ValueError(f"`{name}` must lie above 0 and not above 1, got {value}.")
        if not 0 <= chance < 1:
            raise ValueError(f"`chance` must be at least 0 and below 1, got {chance}.")
        if bands is None and counts is not None:
            raise ValueError("`counts` are for `bands`, which are not asked for.")
        if bands is not None and (labels is not None or names is not None):
            raise ValueError("`bands` take the place of `labels` and `names`: give one of them.")
        if bands is not None and bands < 1:
            raise ValueError(f"`bands` must be at least 1, got {bands}.")
        self.site = site
        self.labels = labels
        self.bands = bands
        self.counts = None if counts is None else _as_counts(counts)
        self.share = share
        self.chance = chance
        self.alpha = alpha
        self.class_names = _class_names(names) if bands is None else {n: f"band_{n + 1}" for n in range(bands)}
        """The name of every class by its label."""
        if len(self.class_names) > max_classes:
            raise ValueError(f"there are {len(self.class_names)} classes, more than `max_classes={max_classes}`.")
        # A prediction names a class where that is the target itself.
        self._names_classes = labels is None and bands is None
        self._reader = (
            None if labels is None else BatchReader({"class": labels}, padding_idx=-1, batch_size=self.batch_size)
        )
        self.clear()

    def clear(self) -> None:
        """Forget everything that belongs to one fit."""
        super().clear()
        self._predictions: dict[str, Predictions] = {}
        self._recorder: PredictionRecorder | None = None
        self._bands: dict[str, Tensor] = {}
        self._batch_labels: Tensor | None = None
        self._sums: dict[str, Tensor] = {}
        """By name, for each class or target id: right ones, log-probabilities, how many, how often predicted."""
        self._by_sample: dict[str, Tensor] = {}
        """By name, of own rows that are right and of others that are named, for each class: :func:`sample_sums`."""
        self._omitted: dict[str, Tensor] = {}
        """By name: rows with logits that are not finite, with a target, a label that is unknown; then ``scored``."""

    def identity(self) -> dict[str, Any]:
        """Tells instances apart by what they read."""
        return {
            "predictions": [f"{name}: {one}" for name, one in self._given.items()],
            "classes": list(self.class_names.values()),
            "dataloader_idx": self.dataloader_idx,
            "prefix": self.prefix,
        }

    def settings(self) -> Settings:
        """How readings are taken: arguments, without labels that are given one by one."""
        listed = not isinstance(self.labels, str | int)
        return {name: value for name, value in super().settings().items() if name != "labels" or not listed}

    # ------------------------------------------------- keys

    def declares(self) -> list[Measure]:
        """Accuracy, loss, acquisition and forgetting of classes, at each place where predictions are read."""
        named = [CLASS_NAMED, CLASS_KNOWN] if self._names_classes else []
        return [
            *(CLASS_ACCURACY, CLASS_ACCURACY.at("site", end="mean"), CLASSES_FORGOTTEN),
            *(CLASS_LOSS, CLASS_COUNT, CLASS_EFFECTIVE, *named, CLASS_ACQUIRED, CLASS_FORGOTTEN, NONFINITE),
        ]

    def axes(self, model: nn.Module | None = None) -> dict[str, Sequence[str]]:
        """Where predictions are read, and the classes."""
        return {"site": list(self._named(model)), "class": list(self.class_names.values())}

    def accuracy_keys(self) -> dict[str, str]:
        """The classes, with the site before them where there are several, and the key of each one's accuracy."""
        return self._class_keys(CLASS_ACCURACY)

    def _class_keys(self, measure: Measure) -> dict[str, str]:
        several = len(self._given) > 1
        return {
            f"{site}/{name}" if several else name: measure.key(site, name)
            for site in self._predictions or self._named(None)
            for name in self.class_names.values()
        }

    def chance_levels(self) -> dict[str, float]:
        """The level of chance, one for all."""
        return dict.fromkeys(self.accuracy_keys(), self.chance)

    def notes(self) -> dict[str, str]:
        """The classes that are forgotten at the last reading."""
        keys = self._class_keys(CLASS_FORGOTTEN)
        return {name: "forgotten" for name, key in keys.items() if self._curve(key)[1][-1:] == [1.0]}

    def figure_names(self) -> tuple[str, str]:
        """What tags begin with, and what colours stand for."""
        return "classes", "share right"

    def _named(self, model: nn.Module | None) -> dict[str, Predictions]:
        """The predictions by the name in keys."""
        return {name or one.short_name(model): one for name, one in self._given.items()}

    # ------------------------------------------------- reading

    def resolve(self, model: nn.Module) -> None:
        """Attach hooks where logits are read."""
        self._predictions = self._named(model)
        self._recorder = PredictionRecorder(model, self._predictions)
        self._recorder.attach()

    def release(self) -> None:
        """Take the hooks off."""
        if self._recorder is not None:
            self._recorder.detach()
        self.abort()

    def begin(self, reading: Reading) -> None:
        """Start with empty sums."""
        self.abort()

    def abort(self) -> None:
        """Forget the reading."""
        if self._recorder is not None:
            self._recorder.stop()
        self._sums, self._by_sample, self._omitted, self._batch_labels = {}, {}, {}, None

    def kept_for_samples(self) -> str:
        """Accuracies that later ones are compared with."""
        return (
            "accuracies are compared on the same ones, so class_acquired, class_forgotten and order() start anew here"
        )

    def start_anew(self) -> None:
        """Compare with later readings only."""
        self._since = None if self.now is None else self.now.step

    def given_by_place(self) -> list[str]:
        """The labels, where they are an array."""
        return ["labels"] if self._reader is not None and self._reader.arrays else []

    def before_batch(self, seen: Seen) -> None:
        """Read targets and labels, and capture logits."""
        assert self._recorder is not None
        if self._reader is not None:
            places = seen.selection.batch if self.positions.exact else None
            found = self._reader.read(seen.batch, places, None, self.positions.num_samples).custom["class"]
            if found.is_floating_point() or found.is_complex():
                raise ValueError(f"`labels` must be integers, got {found.dtype}.")
            self._batch_labels = found
        self._recorder.start(seen.batch)

    def after_batch(self, seen: Seen) -> None:
        """Add the batch to the sums."""
        assert self._recorder is not None
        labels, self._batch_labels = self._batch_labels, None
        for name, rows in self._recorder.take(seen.selection, seen.output).items():
            own = rows.targets if labels is None else rows.spread(seen.selection.of(labels)).long()
            self._add(name, rows, own)

    def _add(self, name: str, rows: PredictedRows, labels: Tensor) -> None:
        # Target ids until the reading ends, since bands may be known only then.
        size = rows.logits.shape[1] if self.bands is not None else max(self.class_names) + 1
        counted = rows.counted & (labels >= 0)
        unknown = counted & (labels >= size)
        counted = counted & ~unknown
        dtype = wide_dtype(rows.logits.device)
        # Not times `counted`: 0 × −inf is no number.
        ones = torch.ones_like(counted, dtype=dtype)
        guess = rows.logits.argmax(-1)
        hits = (guess == rows.targets) & counted
        scores = torch.stack([hits.to(dtype), rows.log_probs().to(dtype), ones, torch.zeros_like(ones)])
        scores = torch.where(counted, scores, 0).T
        before = self._sums.get(name)
        if before is None:
            before = scores.new_zeros(size, 4)
        # Not in place: a state made under inference mode could not be written to outside it.
        added = before.index_add(0, labels.masked_fill(~counted, 0), scores)
        if self._names_classes:
            named = counted & (guess < size)
            column = torch.stack([*[torch.zeros_like(ones)] * 3, named.to(dtype)]).T
            added = added.index_add(0, guess.masked_fill(~named, 0), column)
        self._sums[name] = added
        if self.step is not None:
            self._add_by_sample(name, rows, labels, counted, guess)
        omitted = torch.stack([rows.nonfinite, rows.unknown, unknown.sum(), *rows.scored])
        self._omitted[name] = self._omitted.get(name, torch.zeros_like(omitted)) + omitted

    def _add_by_sample(self, name: str, rows: PredictedRows, labels: Tensor, counted: Tensor, guess: Tensor) -> None:
        """Add how alike rows of one sample are, which lie in one batch."""
        if self.bands is not None:
            if self.counts is not None and name not in self._bands:
                self._band_of(name, torch.zeros(rows.logits.shape[1]))
            if name not in self._bands:
                return
        device, samples, classes = labels.device, rows.shape[0], len(self.class_names)
        # The last column is of rows with a label that has no name.
        columns = torch.full((max(self.class_names) + 1,), classes)
        columns[list(self.class_names)] = torch.arange(classes)
        columns = (columns if self.bands is None else self._bands[name]).to(device)
        places = torch.arange(samples, device=device).repeat_interleave(len(labels) // max(samples, 1))
        dtype = wide_dtype(device)

        def table(of: Tensor, among: Tensor) -> Tensor:
            at = places * (classes + 1) + columns[of.masked_fill(~among, 0)]
            found = torch.zeros(samples * (classes + 1), dtype=dtype, device=device)
            return found.index_add(0, at, among.to(dtype)).view(samples, classes + 1)

        hits, counts = table(labels, counted & (guess == rows.targets)), table(labels, counted)
        sums = [sample_sums(hits, counts)]
        if self._names_classes:
            named = table(guess, counted & (guess < len(columns)))
            sums.append(sample_sums(named - hits, counts.sum(1, keepdim=True) - counts))
        found = torch.stack(sums)
        self._by_sample[name] = self._by_sample.get(name, torch.zeros_like(found)) + found

    def finish(self, reading: Reading) -> Mapping[str, Tensor | float]:
        """Merge ranks, and compare with earlier readings."""
        try:
            return run(self._steps(), self.group)
        finally:
            self.abort()

    def _steps(self) -> Steps[dict[str, float]]:
        values: dict[str, float] = {}
        for name, predictions in self._predictions.items():
            sums = self._sums.get(name)
            # A rank that had no sample of its own does not know how many target ids there are.
            size: Tensor = yield Maximum(torch.tensor(0 if sums is None else len(sums)))
            if not int(size):
                raise ValueError(f"no sample was read at {name!r}.")
            if sums is None:
                sums = torch.zeros(int(size), 4, dtype=torch.float64)
            merged: Tensor = yield Sum(sums.cpu())
            own = self._omitted.get(name, torch.zeros(6, dtype=torch.long))
            omitted: Tensor = yield Sum(own.cpu())
            empty = torch.zeros(1 + self._names_classes, len(self.class_names) + 1, 3, dtype=torch.float64)
            by_sample: Tensor = yield Sum(self._by_sample.get(name, empty).cpu())
            nonfinite, no_logit, no_name, *scored = omitted.tolist()
            if no_logit:
                raise ValueError(
                    f"{no_logit} targets at {name!r} have no logit: see `target`, and `ignore_index` for those that "
                    "are none. Where there is one logit for each, targets are 0 or 1."
                )
            predictions.check_scores(name, scored)
            if no_name:
                raise ValueError(f"{no_name} labels at {name!r} are beyond those that `names` has: {self.class_names}.")
            values |= self._by_class(name, merged, by_sample)
            values[f"nonfinite/{name}"] = float(nonfinite)
        return values

    def _by_class(self, site: str, sums: Tensor, by_sample: Tensor) -> dict[str, float]:
        if self.bands is not None:
            band = self._band_of(site, sums[:, 2])
            sums = sums.new_zeros(self.bands, 4).index_add(0, band, sums)
        values: dict[str, float] = {}
        forgotten = []
        for place, (label, name) in enumerate(self.class_names.items()):
            right, log_p, count, named = sums[label].tolist()
            values[f"class_count/{site}/{name}"] = count
            if self._names_classes:
                values[f"class_named/{site}/{name}"] = named
            values[f"class_accuracy/{site}/{name}"] = right / count if count else math.nan
            values[f"class_loss/{site}/{name}"] = -log_p / count if count else math.nan
            if self.step is not None:
                own = _Rows(right, count, *by_sample[0, place].tolist())
                values[f"class_effective/{site}/{name}"] = count / own.design() if count else math.nan
                if self._names_classes:
                    others = _Rows(named - right, float(sums[:, 2].sum()) - count, *by_sample[1, place].tolist())
                    values[f"class_known/{site}/{name}"] = _is_known(own, others, self.alpha)
                acquired, lost = self._followed(site, name, own)
                values[f"class_acquired/{site}/{name}"] = acquired
                values[f"class_forgotten/{site}/{name}"] = lost
                forgotten.append(lost)
        known = [values[f"class_accuracy/{site}/{name}"] for name in self.class_names.values()]
        known = [value for value in known if not math.isnan(value)]
        values[f"class_accuracy/{site}/mean"] = math.fsum(known) / len(known) if known else math.nan
        if self.step is not None:
            values[f"classes_forgotten/{site}"] = math.fsum(lost for lost in forgotten if lost == 1)
        return values

    def _followed(self, site: str, name: str, now: _Rows) -> tuple[float, float]:
        """Since when the class is known, and whether it is forgotten."""
        if not now.number:
            return math.nan, math.nan
        steps, levels = self._comparable(*self._curve(f"class_accuracy/{site}/{name}", now.right / now.number))
        acquired = acquisition_step(steps, levels, self.share, self.chance, max(levels), stays=False).high
        earlier = levels[:-1]
        if not earlier:
            return acquired, 0.0

        # Values also stand at readings at which the class did not occur, so they are found by step.
        def at(what: str) -> dict[int, float]:
            return dict(zip(*self._curve(f"class_{what}/{site}/{name}"), strict=True))

        # Nothing is known of a class that is not the target.
        unknown = {step for step, known in at("known").items() if not known}
        known = [place for place, step in enumerate(steps[:-1]) if step not in unknown]
        if not known:
            return acquired, 0.0
        best = max(known, key=earlier.__getitem__)
        of = at("count")[steps[best]]
        then = of / at("effective").get(steps[best], math.nan)
        # How alike the rows of a sample are does not show where all or none are right.
        designs = [now.design()] * (0 < levels[-1] < 1) + [then] * (0 < earlier[best] < 1) or [now.design(), then]
        design = max((one for one in designs if not math.isnan(one)), default=now.design())
        hits = round(now.right), round(now.number), round(earlier[best] * of), round(of)
        tests = len(self.class_names) * 2 * len(earlier) * (len(earlier) + 1)
        return acquired, float(forgetting_p(*hits, design, design) < self.alpha / tests)

    def _band_of(self, site: str, counted: Tensor) -> Tensor:
        """The band of every target id."""
        assert self.bands is not None
        if site in self._bands:
            return self._bands[site]
        counts = counted if self.counts is None else self.counts
        if len(counts) > len(counted):
            raise ValueError(f"`counts` has target ids up to {len(counts) - 1}, but there are {len(counted)} logits.")
        counts = torch.cat([counts.double(), counts.new_zeros(len(counted) - len(counts)).double()])
        if not bool(counts.any()):
            return torch.zeros(len(counted), dtype=torch.long)
        found = frequency_bands(counts, self.bands)
        # Neither the sanity check, which sees a part of the data, nor a validation before the fit settles them.
        if self.step is not None:
            self._bands[site] = found
        return found

    # ------------------------------------------------- state

    def state_dict(self) -> dict[str, Any]:
        """Readings, the band of every target id, and since when samples are the present ones."""
        return {**super().state_dict(), "bands": dict(self._bands), "since": self._since}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where a checkpoint left off."""
        super().load_state_dict(state_dict)
        self._bands = dict(state_dict["bands"])
        self._since = state_dict.get("since")


class _Rows(NamedTuple):
    """Rows of a class, and what :func:`design_effect` needs of the samples that they come from."""

    right: float
    number: float
    samples: float
    squares: float
    between: float

    def design(self) -> float:
        """NaN where samples were not looked at, since bands were not known yet."""
        return design_effect(*self) if self.samples else math.nan


def _is_known(own: _Rows, others: _Rows, alpha: float) -> float:
    """Whether a class is named among its own rows more often than among the others, beyond chance; 1 without others."""
    if not own.number:
        return math.nan
    if others.number < 1:
        return 1.0
    hits = round(others.right), round(others.number), round(own.right), round(own.number)
    return float(forgetting_p(*hits, others.design(), own.design()) < alpha)


def _predictions(site: str | Predictions | Mapping[str, Predictions], own: Mapping[str, Any]) -> dict[str, Predictions]:
    """By name; ``""`` where it is the site's own."""
    defaults: dict[str, Any] = {"target": None, "ignore_index": -100, "shift": 0, "mask": None, "class_dim": -1}
    defaults |= {"scores": None, "call": "only"}
    if isinstance(site, str):
        return {"": Predictions(site, **own)}
    given = sorted(name for name, value in own.items() if value != defaults[name])
    if given:
        raise ValueError(
            f"`{given[0]}` belongs to `site` where that is Predictions, as in Predictions(…, {given[0]}=…)."
        )
    found = {"": site} if isinstance(site, Predictions) else dict(site)
    wrong = [name for name, one in found.items() if not isinstance(one, Predictions) or "/" in name]
    if not found or wrong:
        raise ValueError(f"`site` must be a name, Predictions, or several by names without a '/', got {site!r}.")
    if not isinstance(site, Predictions) and "" in found:
        raise ValueError("`site` has an empty name.")
    return found


def _class_names(names: Sequence[str] | Mapping[int, str] | int | None) -> dict[int, str]:
    if names is None:
        raise ValueError("`names` is needed: the names of the classes, or how many there are; or else `bands`.")
    if isinstance(names, str):
        raise ValueError(f"`names` must be a list of names, got the string {names!r}.")
    if isinstance(names, int | np.integer):
        names = [str(label) for label in range(int(names))]
    found = dict(names) if isinstance(names, Mapping) else dict(enumerate(names))
    if not found or min(found) < 0:
        raise ValueError(f"`names` must name one class or more, with labels from 0 on, got {found}.")
    for name in found.values():
        if not name or "/" in name or name in _RESERVED or list(found.values()).count(name) > 1:
            raise ValueError(
                f"`names` holds {name!r}; a name becomes part of a key: it has no '/', is not one of "
                f"{list(_RESERVED)}, and is there once."
            )
    return found


def _as_counts(counts: Sequence[int] | Mapping[int, int] | Tensor) -> Tensor:
    if isinstance(counts, Mapping):
        found = torch.zeros(max(counts, default=-1) + 1, dtype=torch.double)
        for token, count in counts.items():
            found[token] = count
        return found
    return torch.as_tensor(counts).double()
