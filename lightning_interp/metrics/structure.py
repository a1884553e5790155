"""Information, variation, regularity and disentanglement of a stream of representations."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lightning_interp.distributed import Collective, Gather, Maximum, Sum, rank_in
from lightning_interp.functional._chance import chance_spread
from lightning_interp.functional._numerics import wide_dtype
from lightning_interp.functional.jackknife import jackknife_se
from lightning_interp.functional.label_sets import (
    BUILT_IN_LABELS,
    BUILT_IN_PARENTS,
    check_names,
    check_parents,
    check_plane,
)
from lightning_interp.functional.ngrams import MAX_TOKEN_ID, built_in_labels
from lightning_interp.functional.structure import StructureMeasures, check_average, label_mean
from lightning_interp.metrics._codes import Codes
from lightning_interp.metrics._merge import Deal, merged_measures
from lightning_interp.metrics._plan import LabelPlan, make_plan, seed_of
from lightning_interp.metrics._units import Unit, check_units, unit_of
from lightning_interp.metrics.base import (
    RepresentationMetric,
    as_mapping,
    batch_shape,
    joined,
    label_columns,
    sample_of,
    tokens_if_there,
)
from lightning_interp.metrics.derived import ABOVE_CHANCE, BINNED, CHANCE, SPREAD, STANDARD_ERROR
from lightning_interp.metrics.measure import FULL, Axes, Measure
from lightning_interp.metrics.measures.geometry import NONFINITE, ROWS
from lightning_interp.metrics.measures.structure import (
    COMPLEXITY,
    COVERAGE,
    DISENTANGLEMENT,
    EXPRESSIVITY,
    INFORMATION,
    NUM_LABELS,
    OPTIMALITY,
    PARENT_VARIATION,
    REGULARITY,
    VARIATION,
)

__all__ = ["StructureMetric"]

_CONDITIONAL = ("variation", "regularity", "disentanglement")
_PLANE = ("complexity", "expressivity")
# A difference of two entropies that is smaller is zero but for rounding.
_ROUNDING = 1e-9


class StructureMetric(RepresentationMetric):
    r"""Structure of the mapping from labels to representations; the part that both estimators share.

    Per label set: ``information``, ``variation``, ``regularity``, ``disentanglement`` as defined in
    :func:`lightning_interp.functional.structure_measures`, over the rows whose label is kept, which are the set's own
    pool. Without a label set: ``information`` over all rows.

    A row's labels are compared over the whole reading and over all ranks: the minimum count applies to totals. The
    chance level of a conditional measure is its mean over ``shuffles`` random exchanges of labels: what labels as
    common as these would show if they carried nothing. ``*_above_chance`` is the difference, and the one to read when
    labels are rare. ``*_chance/…/sd`` is the standard deviation of that difference for labels that carry nothing, the
    error of the mean of so few exchanges included (:math:`\sqrt{1 + 1/S}`), and without the bias of a standard
    deviation of S draws (:math:`c_4`).

    Labels are exchanged among what they belong to, their unit. A class of an image or a sentence, which all positions
    of the sample share, is exchanged among samples; a label of words, which is the same wherever a word occurs, among
    word types; any other one among positions. Then it is copied to the positions of the unit, so that positions that
    are alike because they are of one sample do not look regular. ``min_count`` counts units. For nested sets
    exchanges are within the parent, where units have one parent each; else among all units, and pairs of parent and
    label are formed anew. After ``compute`` the units are in :attr:`units_used`.

    Args:
        labels: Names of the label sets. Built in, from ``labels["token"]``: ``"token"``; ``"bigram"`` and
            ``"trigram"``, nested under the token; ``"flat_bigram"`` and ``"flat_trigram"``, the n-gram that ends at the
            position; ``"next_token"``. Any other name is looked up in the labels given to ``update``.
        parents: Name of the label set that another is nested under, beside ``bigram`` and ``trigram`` under ``token``.
        min_count: Labels of fewer units (samples, word types, positions) are left out.
        units: ``{label set: "sample" | "word" | "position"}``: what its labels belong to. Told from the data where it
            is not said: ``"sample"`` where labels are the same at all positions of a sample; else ``"word"`` where they
            are the same wherever a token occurs, tokens are given as ``labels["token"]``, and some label has several of
            them; else ``"position"``, as for all built-in sets.
        average: ``"frequency"`` or ``"plain"``; see :func:`~lightning_interp.functional.structure_measures`.
        regularity_unit: Regularity is divided by log of the number of bins (``"log"``), or by information
            (``"information"``, as in Conklin 2025), where it is a share and the identity no longer applies.
        information_plane: Names (X, Y) of two flat label sets: adds ``complexity`` I(X;Z), ``expressivity`` I(Y;Z) and
            ``optimality`` I(Y;Z)/I(X;Z) over the rows that have a kept label in both (arXiv 2604.07569). Their
            ``*_above_chance`` are differences, except ``optimality_above_chance``, the ratio of the two differences. A
            ratio to nothing is NaN.
        shuffles: Random exchanges of labels for the chance level; 0 leaves it out.
        jackknife: Groups of samples for standard errors under ``<key>/se``, of word types for labels of words; 0 leaves
            them out. Bin ranges, centre and floor are held fixed when a group is left out. Costs a pass over the tables
            per group.
        seed: Of reference points and shuffles.
        kwargs: Further arguments of ``torchmetrics.Metric``.

    Raises:
        ValueError: If an argument is out of range or a name unknown.

    """

    prefix = ""
    floor_corrected = False
    _row_dtype: torch.dtype = torch.float32

    payload: list[Tensor]
    index: list[Tensor]
    valid: list[Tensor]

    def __init__(
        self,
        labels: Sequence[str] = (),
        parents: Mapping[str, str] | None = None,
        min_count: int = 5,
        average: str = "frequency",
        regularity_unit: str = "log",
        information_plane: Sequence[str] | None = None,
        shuffles: int = 3,
        jackknife: int = 0,
        seed: int = 0,
        units: Mapping[str, str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_average(average)
        if regularity_unit not in ("log", "information"):
            raise ValueError(f"`regularity_unit` must be 'log' or 'information', got {regularity_unit!r}.")
        for name, value, least in (("min_count", min_count, 1), ("shuffles", shuffles, 0), ("jackknife", jackknife, 0)):
            if value < least:
                raise ValueError(f"`{name}` must be at least {least}, got {value}.")
        if jackknife == 1:
            raise ValueError("`jackknife` needs at least 2 groups, or 0 for no standard errors; got 1.")
        self.labels = check_names(labels)
        self.plane = check_plane(information_plane)
        extra = [name for name in self.plane if name not in self.labels]
        self.parents = check_parents({**BUILT_IN_PARENTS, **(parents or {})}, (*self.labels, *extra), self.plane)
        # Every set whose labels are stored: those measured, those of the plane, parents of either, and the tokens of
        # n-grams, whose ids are checked.
        ngrams = [name for name in (*self.labels, *extra) if name in BUILT_IN_LABELS[1:5]]
        self.needs = tuple(
            dict.fromkeys([*self.labels, *extra, *self.parents.values(), *(["token"] if ngrams else [])])
        )
        self.units = check_units(units, (*self.labels, *extra), BUILT_IN_LABELS)
        if "word" in self.units.values() and "token" not in self.needs:
            self.needs += ("token",)
        # Tokens tell whether labels belong to words; labels that are formed at each position need not be asked.
        asked = [name for name in (*self.labels, *extra) if name not in BUILT_IN_LABELS and name not in self.units]
        self.needs_if_there = ("token",) if asked and "token" not in self.needs else ()
        self.units_used: dict[str, str] = {}
        """After ``compute``: what the labels of each set belong to."""
        self.min_count = min_count
        self.average = average
        self.regularity_unit = regularity_unit
        self.shuffles = shuffles
        self.jackknife = jackknife
        self.seed = seed
        self._columns: dict[str, int] = {}
        for state in ("payload", "index", "valid"):
            self.add_state(state, [], dist_reduce_fx=None)

    def declares(self) -> list[Measure]:
        """What ``compute`` gives, of the site and of label sets."""
        found = [INFORMATION, ROWS, NONFINITE, *self._extra_measures()]
        found.append(INFORMATION.at("site", "labels", level=FULL))
        for measure in (VARIATION, REGULARITY, DISENTANGLEMENT):
            found += self._with_chance(measure)
        found += [COVERAGE, NUM_LABELS, PARENT_VARIATION.at("site", "nested labels")]
        if self.plane:
            found += [one for measure in (COMPLEXITY, EXPRESSIVITY) for one in self._with_chance(measure)]
            instead = ABOVE_CHANCE.of(EXPRESSIVITY) if self.shuffles else EXPRESSIVITY
            ratio = OPTIMALITY.at("site", instead=instead.name)
            found += [ratio, *([ABOVE_CHANCE.of(ratio)] if self.shuffles else [])]
        if self.jackknife:
            of_values = [one for one in found if not one.derived and not one.bookkeeping]
            found += [STANDARD_ERROR.of(one) for one in of_values]
        if not self.prefix:
            return found
        # Facts about the rows are the same for all estimators.
        named = replace(BINNED, prefix=self.prefix)
        return [one if one.original.bookkeeping else named.of(one) for one in found]

    @property
    def axes(self) -> Axes:
        """The label sets, and those that are nested under another."""
        return {"labels": self.labels, "nested labels": [name for name in self.labels if name in self.parents]}

    def _with_chance(self, measure: Measure) -> list[Measure]:
        # Few rows a label look structured by accident, so where chance is known the distance from it is what to watch.
        if not self.shuffles:
            return [measure]
        chance = CHANCE.of(measure)
        return [measure.at(*measure.of, level=FULL), ABOVE_CHANCE.of(measure), chance, SPREAD.of(chance)]

    def _extra_measures(self) -> list[Measure]:
        return []

    # ------------------------------------------------------------------ update

    def update(
        self,
        representations: Tensor,
        mask: Tensor | None = None,
        labels: Tensor | Mapping[str, Tensor] | None = None,
        positions: Tensor | None = None,
    ) -> None:
        """Take in one batch.

        Args:
            representations: Vectors, shape (B, T, D) or (N, D).
            mask: Which positions count, (B, T); all by default.
            labels: Integer labels by name, each per sample (B,), per position (B, T), or several a position (B, T, M);
                negative where there is none. A single tensor where there is one label set. n-grams and next tokens that
                are not given are formed from ``labels["token"]``, over the positions of ``mask``.
            positions: Place of each sample in the data set, (B,), which makes shuffles and groups the same on any
                number of ranks; order of arrival by default.

        Raises:
            ValueError: If shapes do not fit or a label set is missing.

        """
        rows = self._rows(representations, mask, positions)
        shape = batch_shape(representations)
        given = as_mapping(labels, self.needs)
        columns = [rows.key[:, None]]
        for name in self.needs:
            value = label_columns(name, self._labels_of(name, given, rows.context.view(shape), shape), shape)
            if self._columns.setdefault(name, value.shape[1]) != value.shape[1]:
                raise ValueError(
                    f"`labels[{name!r}]` has {value.shape[1]} labels a position, earlier batches {self._columns[name]}."
                )
            columns.append(value.to(rows.key.device))
        columns += [tokens_if_there(given, rows.key, shape) for _ in self.needs_if_there]
        index = torch.cat(columns, dim=1)
        if rows.z.device.type == "cpu":
            # No device to wait for: drop what does not count at once.
            keep = rows.valid
            everything = bool(keep.all())
            z, norm = (rows.z, rows.norm) if everything else (rows.z[keep], rows.norm[keep])
            self.payload.append(self._encode(z, norm))
            self.index.append(index if everything else index[keep])
        else:
            clean = rows.z.masked_fill(~rows.valid[:, None], 0)
            self.payload.append(self._encode(clean, rows.norm.masked_fill(~rows.valid, 0)))
            self.index.append(index)
            self.valid.append(rows.valid)

    def _labels_of(self, name: str, given: Mapping[str, Tensor], read: Tensor, shape: tuple[int, int]) -> Tensor:
        if name in given:
            return given[name]
        if name not in BUILT_IN_LABELS or name == "token" or "token" not in given:
            needed = "token" if name in BUILT_IN_LABELS else name
            raise ValueError(f"Label set {name!r} needs `labels[{needed!r}]`, got {sorted(given) or 'no labels'}.")
        tokens = given["token"]
        if tokens.shape != shape:
            raise ValueError(f"`labels['token']` {tuple(tokens.shape)} must be {shape} to form {name!r}.")
        return built_in_labels(name, tokens.to(read.device), read)

    def reset(self) -> None:
        """Forget all batches."""
        super().reset()
        self._columns, self.units_used = {}, {}

    # ------------------------------------------------------------------ compute

    def merge(self) -> Collective[dict[str, Tensor]]:
        """Merge labels first, decide which are kept, then sum only their tables over ranks."""
        nonfinite = yield from self._merged_nonfinite()
        widths = yield from self._widths()
        payload, index = self._local(1 + sum(widths.values()) + len(self.needs_if_there))
        codes = yield from self._codes(payload)
        del payload
        parts: list[Tensor] = yield Gather(index)
        everything = torch.cat(parts)
        total = len(everything)
        nan = torch.full((), math.nan, dtype=torch.float64)
        values = dict.fromkeys(self.measures, nan)
        values |= {"rows": torch.tensor(float(total)), "nonfinite": nonfinite.float()}
        if total == 0:
            return values
        order = everything[:, 0].argsort(stable=True)
        place = torch.empty_like(order)
        place[order] = torch.arange(total)
        start = sum(len(part) for part in parts[: rank_in(self.process_group)])
        here = place[start : start + len(index)]
        everything = everything[order]
        groups = self._groups(sample_of(everything[:, 0]))

        p = self.prefix
        values |= yield from self._all_rows(codes, here, groups, total)
        plans = self._plans(everything, widths)
        for name in self.labels:
            plan = plans[name]
            values[f"coverage/{name}"] = plan.pool.double().mean()
            values[f"num_labels/{name}"] = torch.tensor(float(plan.num_labels))
            of_words = self.units_used[name] == "word" and plan.units is not None
            own = self._groups(plan.units) if of_words and plan.units is not None else groups
            found = yield from self._label_set(codes, plan, here, own, name)
            values |= {f"{p}{measure}/{name}{suffix}": value for (measure, suffix), value in found.items()}
        if self.plane:
            values |= yield from self._merged_plane(codes, plans, here, groups)
        return {key: values[key] for key in self.measures}

    def _widths(self) -> Collective[dict[str, int]]:
        """Labels a position of every stored set, which a rank without rows learns from the others."""
        mine = [self._columns.get(name, 0) for name in self.needs]
        merged: Tensor = yield Maximum(torch.tensor(mine, dtype=torch.long))
        for name, own, width in zip(self.needs, mine, merged.tolist(), strict=True):
            if own not in (0, width):
                raise ValueError(f"`labels[{name!r}]` has {own} labels a position here and {width} on another rank.")
        return dict(zip(self.needs, merged.tolist(), strict=True))

    def _local(self, columns: int) -> tuple[Tensor, Tensor]:
        """The rows of this rank that count, and their labels on the CPU."""
        if not self.payload:
            return torch.zeros(0, 0), torch.zeros(0, columns, dtype=torch.long)
        payload, index = joined(self.payload), joined(self.index)
        if self.valid:
            keep = torch.cat(self.valid)
            payload, index = payload[keep], index[keep]
        return payload, index.cpu()

    def _groups(self, units: Tensor) -> Tensor | None:
        """Jackknife group of each row: whole samples or words, dealt out in their order."""
        if not self.jackknife:
            return None
        distinct, place = torch.unique(units, return_inverse=True)
        return torch.as_tensor(place % self.jackknife) if len(distinct) > 1 else None

    def _plans(self, everything: Tensor, widths: Mapping[str, int]) -> dict[str, LabelPlan]:
        widths = {**widths, **dict.fromkeys(self.needs_if_there, 1)}
        columns = dict(zip(widths, torch.split(everything[:, 1:], list(widths.values()), dim=1), strict=True))
        if "token" in columns and any(name in BUILT_IN_LABELS[1:5] for name in self.needs):
            largest = int(columns["token"].max())
            if largest > MAX_TOKEN_ID:
                raise ValueError(f"Token id {largest} is above {MAX_TOKEN_ID}, the largest that n-grams can hold.")
        samples, words = sample_of(everything[:, 0]), columns["token"][:, 0] if "token" in columns else None
        plans: dict[str, LabelPlan] = {}
        for name in (*self.labels, *self.plane):
            parents = columns[self.parents[name]][:, 0] if name in self.parents else None
            unit = self._unit(name, columns[name], parents, samples, words)
            self.units_used[name] = unit.name
            plans[name] = make_plan(columns[name], parents, self.min_count, unit.of)
        return plans

    def _unit(self, name: str, labels: Tensor, parents: Tensor | None, samples: Tensor, words: Tensor | None) -> Unit:
        """What the labels of a set belong to."""
        if name in BUILT_IN_LABELS:
            return Unit("position", None)
        has = labels >= 0 if parents is None else (labels >= 0) & (parents >= 0)[:, None]
        # That a row has no second or third label says as much as the label.
        return unit_of(name, labels.clamp_min(-1), has.any(1), samples, words, self.units.get(name))

    def _all_rows(self, codes: Codes, here: Tensor, groups: Tensor | None, total: int) -> Collective[dict[str, Tensor]]:
        """Information over all rows, and its floor."""
        plan = LabelPlan(torch.zeros(total, 1, dtype=torch.long), torch.tensor([total]), None, None)
        (measures,), loo = yield from self._measure(codes, plan, [plan.ids], here, groups)
        information = measures.information
        values = {}
        floor = yield from self._floor(codes, plan, here)
        if floor is not None:
            values[f"{self.prefix}floor"] = floor
            information = information - floor if self.floor_corrected else information
        values[f"{self.prefix}information"] = information
        if loo is not None:
            values[f"{self.prefix}information/se"] = jackknife_se(loo.information)
        return values

    def _label_set(
        self, codes: Codes, plan: LabelPlan, here: Tensor, groups: Tensor | None, name: str
    ) -> Collective[dict[tuple[str, str], Tensor]]:
        """The measures of one label set by (measure, suffix), chance level included."""
        values: dict[tuple[str, str], Tensor] = {}
        if plan.num_labels == 0:
            return values
        raw, loo, chance = yield from self._with_chance_levels(codes, plan, here, groups, name)
        floor = (yield from self._floor(codes, plan, here)) if self.floor_corrected else None
        raw_values = self._finished(raw, floor)
        for measure, value in raw_values.items():
            if measure != "parent_variation" or name in self.parents:
                values[measure, ""] = value
        if chance:
            by_chance = []
            for shuffled, one in chance:
                own = (
                    (yield from self._floor(codes, shuffled, here))
                    if shuffled is not plan and floor is not None
                    else floor
                )
                by_chance.append(self._finished(one, own))
            for measure in _CONDITIONAL:
                levels = torch.stack([one[measure] for one in by_chance])
                values |= _against_chance(measure, raw_values[measure], levels)
        if loo is not None:
            for measure, spread in self._finished(loo, floor).items():
                if measure != "parent_variation" or name in self.parents:
                    values[measure, "/se"] = jackknife_se(spread)
        return values

    def _merged_plane(
        self, codes: Codes, plans: Mapping[str, LabelPlan], here: Tensor, groups: Tensor | None
    ) -> Collective[dict[str, Tensor]]:
        """Complexity, expressivity and optimality over the rows that have both labels."""
        p = self.prefix
        both = plans[self.plane[0]].pool & plans[self.plane[1]].pool
        values: dict[str, Tensor] = {}
        raw, chance, spread = [], [], []
        for measure, name in zip(_PLANE, self.plane, strict=True):
            plan = plans[name].restricted(both)
            if plan.num_labels == 0:
                return values
            found, loo, shuffled = yield from self._with_chance_levels(codes, plan, here, groups, measure)
            raw.append(found.regularity)
            values[f"{p}{measure}"] = found.regularity
            if shuffled:
                levels = torch.stack([one.regularity for _, one in shuffled])
                chance.append(levels.mean())
                against = _against_chance(measure, found.regularity, levels)
                values |= {f"{p}{key}{suffix}": value for (key, suffix), value in against.items()}
            if loo is not None:
                spread.append(loo.regularity)
                values[f"{p}{measure}/se"] = jackknife_se(loo.regularity)
        values[f"{p}optimality"] = _ratio(raw[1], raw[0])
        if chance:
            values[f"{p}optimality_above_chance"] = _ratio(raw[1] - chance[1], raw[0] - chance[0])
        if spread:
            values[f"{p}optimality/se"] = jackknife_se(_ratio(spread[1], spread[0]))
        return values

    def _with_chance_levels(
        self, codes: Codes, plan: LabelPlan, here: Tensor, groups: Tensor | None, name: str
    ) -> Collective[tuple[StructureMeasures, StructureMeasures | None, list[tuple[LabelPlan, StructureMeasures]]]]:
        """Measures of the labels as they are, without each group, and exchanged at random as often as is asked for."""
        seeds = [seed_of(self.seed, name, repeat) for repeat in range(self.shuffles)]
        if plan.units is None:
            # Labels keep their sizes, so that all ways to deal them out share their blocks and exchanges.
            variants = [plan.ids, *(plan.shuffled(seed) for seed in seeds)]
            (raw, *levels), loo = yield from self._measure(codes, plan, variants, here, groups)
            return raw, loo, [(plan, one) for one in levels]
        (raw,), loo = yield from self._measure(codes, plan, [plan.ids], here, groups)
        chance: list[tuple[LabelPlan, StructureMeasures]] = []
        for seed in seeds:
            shuffled = plan.dealt(seed)
            if not shuffled.num_labels:
                chance.append((shuffled, StructureMeasures(*(torch.full_like(one, math.nan) for one in raw))))
                continue
            (one,), _ = yield from self._measure(codes, shuffled, [shuffled.ids], here, None)
            chance.append((shuffled, one))
        return raw, loo, chance

    def _finished(self, measures: StructureMeasures, floor: Tensor | None) -> dict[str, Tensor]:
        """Apply the floor and the unit of regularity."""
        values = measures._asdict()
        if self.regularity_unit == "information":
            values["regularity"] = values["regularity"] / values["information"]
        for name in ("information", "variation", "parent_variation"):
            if floor is not None:
                values[name] = values[name] - floor
        return values

    def _floor(self, codes: Codes, plan: LabelPlan, here: Tensor) -> Collective[Tensor | None]:
        """Mean entropy of single rows over the pool, with the weights of the labels."""
        floors = codes.floors()
        if floors is None:
            return None
        wide = wide_dtype(floors.device)
        sums = torch.zeros(plan.num_labels + 1, dtype=wide, device=floors.device)
        for column in plan.ids[here].to(floors.device).unbind(1):
            sums.index_add_(0, column, floors.to(wide))
        merged: Tensor = yield Sum(sums[:-1])
        sizes = plan.sizes.to(merged.device)
        parents = None if plan.parents is None else plan.parents.to(merged.device)
        return label_mean(merged / sizes, sizes, parents, self.average).cpu()

    def _measure(
        self, codes: Codes, plan: LabelPlan, variants: Sequence[Tensor], here: Tensor, groups: Tensor | None
    ) -> Collective[tuple[list[StructureMeasures], StructureMeasures | None]]:
        """Measures of each assignment of labels over all ranks; of the first also without each group, stacked."""
        number = plan.num_labels
        deals = [Deal(ids[here], plan.sizes) for ids in variants]
        if groups is not None:
            # Fewer sequences than groups: each is a group.
            for group in range(int(groups.max()) + 1):
                rest = variants[0].masked_fill((groups == group)[:, None], number)
                sizes = torch.bincount(rest.flatten(), minlength=number + 1)[:number]
                deals.append(Deal(rest[here], sizes))
        found = yield from merged_measures(codes, plan, deals, self.average, self._correction, self.process_group)
        spread = found[len(variants) :]
        loo = StructureMeasures(*map(torch.stack, zip(*spread, strict=True))) if spread else None
        return found[: len(variants)], loo

    @property
    def _correction(self) -> str | None:
        return None

    @abstractmethod
    def _encode(self, z: Tensor, norm: Tensor) -> Tensor:
        """What is kept of a batch of rows, (R, D) with their lengths (R,) → (R, …)."""

    @abstractmethod
    def _codes(self, payload: Tensor) -> Collective[Codes]:
        """The coded rows of this rank, once the whole reading is there."""


def _against_chance(measure: str, value: Tensor, levels: Tensor) -> dict[tuple[str, str], Tensor]:
    """Mean of the levels under shuffled labels, distance of the value from it, and how far that may be by chance."""
    return {
        (f"{measure}_chance", ""): levels.mean(),
        (f"{measure}_chance", "/sd"): chance_spread(levels),
        (f"{measure}_above_chance", ""): value - levels.mean(),
    }


def _ratio(above: Tensor, below: Tensor) -> Tensor:
    """Their ratio, undefined where the lower one is nothing but rounding."""
    return above / torch.where(below.abs() > _ROUNDING, below, math.nan)
