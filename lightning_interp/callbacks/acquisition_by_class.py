"""How well a model predicts each class of words or examples, when each was learned, and which were forgotten."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Unpack

import numpy as np
import torch
from torch import Tensor, nn

from lightning_interp.batches.predictions import Predictions, Scores
from lightning_interp.batches.reader import Key, LabelSource
from lightning_interp.distributed import Collective
from lightning_interp.functional.acquisition import LearnedCurve, acquisition_step, forgetting_p
from lightning_interp.functional.design_effect import design_effect
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
from lightning_interp.parts.acquisition import Acquisition
from lightning_interp.parts.class_tally import ClassTally, Tally
from lightning_interp.reading.analysis import Draw, ValidationAnalysis
from lightning_interp.reading.arguments import BatchArgs
from lightning_interp.reading.reading import Reading
from lightning_interp.reporting.plain_values import Settings
from lightning_interp.sites import Call

__all__ = ["AcquisitionByClass"]

_RESERVED = ("mean",)


class AcquisitionByClass(ValidationAnalysis):
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
            itself. Or a :class:`~lightning_interp.batches.Predictions`, or several by the name that stands in keys
            for the site: other targets of one site, several sites, or what ``validation_step`` returns.
        target: Where the targets are; for it and ``ignore_index``, ``shift``, ``mask``, ``class_dim`` and ``scores``
            see :class:`~lightning_interp.batches.Predictions`, which has its own.
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
        **kwargs: Unpack[BatchArgs],
    ) -> None:
        super().__init__(**kwargs)
        own: dict[str, Any] = {"target": target, "ignore_index": ignore_index, "shift": shift, "mask": mask}
        own |= {"class_dim": class_dim, "scores": scores, "call": call}
        given = _predictions(site, own)
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
        self.share = share
        self.chance = chance
        self.alpha = alpha
        self.class_names = _class_names(names) if bands is None else {n: f"band_{n + 1}" for n in range(bands)}
        """The name of every class by its label."""
        if len(self.class_names) > max_classes:
            raise ValueError(f"there are {len(self.class_names)} classes, more than `max_classes={max_classes}`.")
        counted = None if counts is None else _as_counts(counts)
        self.tally = ClassTally(given, self.class_names, labels, bands, counted, self.batch_size)
        """Counts what is right."""
        self.acquisition = Acquisition(self._accuracy_keys(), chance, "classes", "share right")
        """When each class was learned, by the name of the class, with the site before it where there are several."""

    def identity(self) -> dict[str, Any]:
        """Tells instances apart by what they read."""
        return {
            "predictions": [f"{name}: {one}" for name, one in self.tally.given.items()],
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
        named = [CLASS_NAMED, CLASS_KNOWN] if self.tally.names_classes else []
        return [
            *(CLASS_ACCURACY, CLASS_ACCURACY.at("site", end="mean"), CLASSES_FORGOTTEN),
            *(CLASS_LOSS, CLASS_COUNT, CLASS_EFFECTIVE, *named, CLASS_ACQUIRED, CLASS_FORGOTTEN, NONFINITE),
        ]

    def axes(self, model: nn.Module | None = None) -> dict[str, Sequence[str]]:
        """Where predictions are read, and the classes."""
        return {"site": list(self.tally.named(model)), "class": list(self.class_names.values())}

    def _accuracy_keys(self, model: nn.Module | None = None) -> dict[str, str]:
        """The classes, with the site before them where there are several, and the key of each one's accuracy."""
        sites, names = self.tally.named(model), self.class_names.values()
        return {
            f"{site}/{name}" if len(sites) > 1 else name: CLASS_ACCURACY.key(site, name)
            for site in sites
            for name in names
        }

    # ------------------------------------------------- reading

    def resolve(self, model: nn.Module) -> None:
        """Attach hooks where logits are read; now names of sites are known."""
        super().resolve(model)
        self.acquisition.keys = self._accuracy_keys(model)

    def kept_for_samples(self) -> str:
        """Accuracies that later ones are compared with."""
        return (
            "accuracies are compared on the same ones, so class_acquired, class_forgotten and order() start anew here"
        )

    def given_by_place(self) -> list[str]:
        """The labels, where they are an array."""
        return ["labels"] if self.tally.by_place else []

    def merge(self, reading: Reading) -> Collective[Mapping[str, Tensor | float]]:
        """Merge ranks, and compare with earlier readings."""
        found = yield from self.tally.read()
        values: dict[str, float] = {}
        for site, tally in found.items():
            values |= {**self._by_class(site, tally), f"nonfinite/{site}": float(tally.nonfinite)}
        return values

    def _by_class(self, site: str, tally: Tally) -> dict[str, float]:
        values: dict[str, float] = {}
        forgotten = []
        for place, (label, name) in enumerate(self.class_names.items()):
            right, log_p, count, named = tally.sums[label].tolist()
            values[f"class_count/{site}/{name}"] = count
            if self.tally.names_classes:
                values[f"class_named/{site}/{name}"] = named
            values[f"class_accuracy/{site}/{name}"] = right / count if count else math.nan
            values[f"class_loss/{site}/{name}"] = -log_p / count if count else math.nan
            if self.step is not None:
                own = _Rows(right, count, *tally.by_sample[0, place].tolist())
                values[f"class_effective/{site}/{name}"] = count / own.design() if count else math.nan
                if self.tally.names_classes:
                    number = float(tally.sums[:, 2].sum()) - count
                    others = _Rows(named - right, number, *tally.by_sample[1, place].tolist())
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
        key = f"class_accuracy/{site}/{name}"
        steps, levels = self.acquisition.comparable(self, key, now.right / now.number)
        acquired = acquisition_step(steps, levels, self.share, self.chance, max(levels), stays=False).high
        earlier = levels[:-1]
        if not earlier:
            return acquired, 0.0

        # Values also stand at readings at which the class did not occur, so they are found by step.
        def at(what: str) -> dict[int, float]:
            return dict(zip(*self.acquisition.curve(self, f"class_{what}/{site}/{name}"), strict=True))

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

    def upgraded(self, state: dict[str, Any]) -> dict[str, Any]:
        """The state of before, in which its parts had none of their own."""
        if "tally" in state:
            return state
        return {**state, "tally": {"bands": state["bands"]}, "acquisition": {"since": state.get("since")}}

    # ------------------------------------------------- what was learned when

    def order(self, share: float = 0.9) -> list[LearnedCurve]:
        """The classes by when they were learned; see :meth:`lightning_interp.parts.acquisition.Acquisition.order`.

        Args:
            share: Of the final level above chance.

        """
        return self.acquisition.order(self, share)

    def summary(self, share: float = 0.9) -> str:
        """:meth:`order` as a table of text, a line each, with the classes that are forgotten at the last reading.

        Args:
            share: Of the final level above chance.

        """
        keys = {
            name: key.replace("class_accuracy", "class_forgotten", 1) for name, key in self.acquisition.keys.items()
        }
        lost = [name for name, key in keys.items() if self.acquisition.curve(self, key)[1][-1:] == [1.0]]
        return self.acquisition.summary(self, share, dict.fromkeys(lost, "forgotten"))

    def figures(self) -> Mapping[str, Draw]:
        """The accuracies as a heat map, and when each class was learned."""
        return self.acquisition.figures(self)


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
