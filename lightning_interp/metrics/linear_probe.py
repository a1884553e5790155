"""What can be read off representations by a linear probe, beside what a probe could have learned by heart."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_interp.distributed import Collective, Gather, Maximum, Sum, Sums, rank_in, world_size
from lightning_interp.functional._chance import chance_spread
from lightning_interp.functional._numerics import full_precision, wide_dtype
from lightning_interp.functional.codelength import LOGIT_VARIANCES, online_bits, shortest_code
from lightning_interp.functional.counter_noise import counter_hash
from lightning_interp.functional.label_sets import BUILT_IN_LABELS, check_names
from lightning_interp.functional.linear_probe import ProbeMoments, held_out_probes, majority_share
from lightning_interp.functional.ridge import ALPHAS
from lightning_interp.metrics._plan import seed_of
from lightning_interp.metrics._probe_plan import (
    ProbeTask,
    check_readable,
    class_task,
    control_of,
    dealt_task,
    folds_of,
    target_task,
)
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
from lightning_interp.metrics.derived import ABOVE_CHANCE, CHANCE, CONTROL, SPREAD
from lightning_interp.metrics.measure import Axes, Measure
from lightning_interp.metrics.measures.geometry import NONFINITE
from lightning_interp.metrics.measures.probes import (
    CODELENGTH,
    COMPRESSION,
    PROBE,
    PROBE_ACCURACY,
    PROBE_CLASSES,
    PROBE_COVERAGE,
    PROBE_MAJORITY,
    PROBE_R2,
    PROBE_ROWS,
    PROBE_SEEN,
    SELECTIVITY,
)

__all__ = ["STRENGTHS", "LinearProbe"]

STRENGTHS = ALPHAS[::2]
"""Penalties to choose from, two decades apart: each costs a Cholesky factor a fold."""

_NEVER = torch.iinfo(torch.int64).max
# Entries of the moments that travel in one exchange: 64 MB.
_EXCHANGE = 1 << 23
# Labels that an online code sends at most: it takes some hundred passes over them.
_SENT = 5000


class LinearProbe(RepresentationMetric):
    r"""Cross-validated linear probes of label sets and numbers, with their controls.

    A ridge regression, or for labels a ridge classifier: least squares on one column per class, of which the largest
    prediction counts. Rows are held out by word type: a probe is tested on words that it has not seen, by
    :func:`~lightning_interp.functional.held_out_probes`, which also chooses the strength of the penalty. What belongs
    to a sample, as the class of a sentence does that all its positions share, is read with whole samples held out:
    other positions of the same sample would tell it. Which type or sample is in which fold never changes. Accuracy is
    over all rows, each predicted by the probe without its fold; R² is 1 − Σ(y − ŷ)²/Σ(y − ȳ)² over the same
    predictions, the mean over columns.

    Chance is the same probe of labels (numbers) dealt out anew, ``shuffles`` times: among samples, words or positions,
    to which they belong (as in :class:`~lightning_interp.metrics.StructureMetric`; see :attr:`units_used`). Where there
    is nothing to read, a probe of held-out words is often below the majority's share and R² below 0, since folds have
    other shares and means than the rest.

    The control task (Hewitt & Liang 2019, arXiv 1909.03368) gives every word type a random label, drawn once from the
    shares of the labels, so that a probe can do no better than learn the words by heart. With types held out it is at
    chance by construction; so accuracy and control accuracy are read again with whole samples held out, where words
    recur, as theirs are: selectivity is the difference of the two.

    =============================  =======  =======================================================================
    key                            level    what it is
    =============================  =======  =======================================================================
    ``probe_accuracy/<labels>``    summary  share of rows whose label is read, of words (samples) not seen
    ``probe_r2/<target>``          summary  share of the variance that is read, of words (samples) not seen
    ``probe_above_chance/<name>``  summary  that less ``probe_chance``
    ``selectivity/<name>``         summary  ``probe_seen`` − ``probe_control``
    ``probe_chance/<name>``        full     the same with labels dealt out anew
    ``probe_chance/<name>/sd``     full     of ``probe_above_chance`` where there is nothing to read
    ``probe_seen/<name>``          full     accuracy or R² on held-out samples, whose words were seen elsewhere
    ``probe_control/<name>``       full     the same of random labels (numbers) per word type
    ``probe_majority/<labels>``    full     accuracy of naming the most frequent label
    ``probe_coverage/<name>``      full     share of the rows that are used: with a label that is frequent enough
    ``probe_classes/<labels>``     full     labels that are frequent enough
    ``codelength/<labels>``        summary  online codelength, bits a label; on request
    ``compression/<labels>``       full     how many times fewer bits than log₂ of the number of labels; on request
    ``probe_rows``                 full     rows that probes see
    ``nonfinite``                  full     rows left out as not finite
    =============================  =======  =======================================================================

    Without ``types`` samples are held out throughout, and there is no control task; labels of words are dealt out among
    words still, where ``labels["token"]`` says which these are, so that chance is what words learned by heart give.
    Values are NaN where fewer than three types or samples, or two labels, are left.

    Args:
        labels: Names of label sets.
        targets: Names of numbers to be read, one or several columns each; rows with one that is not finite are left
            out.
        types: The label set of the word types; ``None`` where there are no words.
        folds: Folds, at least 3.
        alphas: Strengths of the penalty to choose from, as multiples of the mean squared singular value.
        min_count: Labels of fewer units (samples, word types, positions) are left out.
        max_classes: Labels that a set may have.
        control: Read the control task.
        codelength: Read the online codelength of label sets
            (:func:`~lightning_interp.functional.online_codelength`), of up to 5,000 rows in random order of samples: a
            longer code has fewer bits a label, so lengths are compared for the same data.
        max_rows: Rows that are kept over all ranks, chosen by where they stand in the data.
        seed: Of folds, dealt and control labels and the choice of rows.
        units: ``{name: "sample" | "word" | "position"}``: what is read belongs to these; told from the data where it is
            not said.
        shuffles: How often labels are dealt out anew for the level of chance; 0 leaves it out.
        kwargs: Further arguments of ``torchmetrics.Metric``.

    Raises:
        ValueError: If an argument is out of range, a name is used twice, or a label set equals the types or turns out
            to have one type for each label, of which nothing can be read.

    Cost: memory 4·D bytes a row that is kept, and while it computes 8·D²·(folds + 4) and 16·(1 + shuffles) bytes a row
        and label; D³ operations for every fold
        and strength, twice with a control task. Between ranks: labels of all rows, and 8·D² bytes a fold; for the
        codelength up to 5,000 vectors.

    Example:
        >>> metric = LinearProbe(["tag"])
        >>> words = torch.arange(40).repeat(5)
        >>> metric.update(torch.eye(2)[words % 2], labels={"tag": words % 2, "token": words})
        >>> float(metric.compute()["probe_accuracy/tag"])
        1.0

    """

    payload: list[Tensor]
    index: list[Tensor]
    values: list[Tensor]
    order: list[Tensor]

    def __init__(
        self,
        labels: Sequence[str] = (),
        targets: Sequence[str] = (),
        types: str | None = "token",
        folds: int = 5,
        alphas: Sequence[float] = STRENGTHS,
        min_count: int = 5,
        max_classes: int = 1000,
        control: bool = True,
        codelength: bool = False,
        max_rows: int = 20_000,
        seed: int = 0,
        units: Mapping[str, str] | None = None,
        shuffles: int = 3,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.labels, self.targets = check_names(labels), check_names(targets)
        if not self.labels and not self.targets:
            raise ValueError("`labels` and `targets` are both empty: name what is to be read.")
        both = sorted(set(self.labels) & set(self.targets))
        if both:
            raise ValueError(f"`labels` and `targets` both name {both}: keys would be the same.")
        if types is not None and types in self.targets:
            raise ValueError(f"`types` is {types!r}, which is one of the targets; it must be a label set.")
        if types is not None and types in self.labels:
            raise ValueError(
                f"`labels` holds {types!r}, which is `types` too: labels equal types, and where a type is held out its "
                "label was never seen, so that accuracy is 0 by construction. With `types=None` samples are held out."
            )
        self.units = check_units(units, (*self.labels, *self.targets), BUILT_IN_LABELS)
        if types is None and "word" in self.units.values():
            raise ValueError(f"`units` has 'word', and `types` is None: name the label set of the words; got {units}.")
        for name, value, least in (
            ("folds", folds, 3),
            ("min_count", min_count, 1),
            ("max_classes", max_classes, 2),
            ("max_rows", max_rows, 1),
            ("shuffles", shuffles, 0),
        ):
            if value < least:
                raise ValueError(f"`{name}` must be at least {least}, got {value}.")
        if len(alphas) == 0 or min(alphas) <= 0:
            raise ValueError(f"`alphas` must hold strengths above 0, got {tuple(alphas)}.")
        self.types = types
        self.needs = tuple(dict.fromkeys([*([types] if types is not None else []), *self.labels, *self.targets]))
        # Without types, tokens still tell whether labels belong to words, which are dealt out together then.
        asked = [name for name in self.needs if name not in BUILT_IN_LABELS and name not in self.units]
        self.needs_if_there = ("token",) if types is None and asked and "token" not in self.needs else ()
        self.folds = folds
        self.alphas = tuple(alphas)
        self.min_count = min_count
        self.max_classes = max_classes
        self.control = control and types is not None
        self.codelength = codelength
        self.max_rows = max_rows
        self.seed = seed
        self.shuffles = shuffles
        self.units_used: dict[str, str] = {}
        """After ``compute``: what the labels of each set, and each target, belong to."""
        self._widths: dict[str, int] = {}
        self._buffered = 0
        for state in ("payload", "index", "values", "order"):
            self.add_state(state, [], dist_reduce_fx=None)

    def declares(self) -> list[Measure]:
        """What ``compute`` gives, of the site, the label sets and the targets."""
        of_labels = [PROBE_MAJORITY, PROBE_CLASSES, PROBE_COVERAGE.at("site", "labels")]
        of_labels += [CODELENGTH, COMPRESSION] if self.codelength else []
        return [
            *(PROBE_ACCURACY, *self._compared("labels"), *of_labels),
            *(PROBE_R2, *self._compared("target"), PROBE_COVERAGE.at("site", "target")),
            *(PROBE_ROWS, NONFINITE),
        ]

    def _compared(self, axis: str) -> list[Measure]:
        """What stands beside the score of labels or of targets."""
        probe, chance = PROBE.at("site", axis), CHANCE.of(PROBE.at("site", axis))
        found = [ABOVE_CHANCE.of(probe), chance, SPREAD.of(chance)] if self.shuffles else []
        if self.control:
            found += [SELECTIVITY.at("site", axis), PROBE_SEEN.at("site", axis), CONTROL.of(probe)]
        return found

    @property
    def axes(self) -> Axes:
        """The label sets and the targets."""
        return {"labels": self.labels, "target": self.targets}

    def score(self, name: str) -> str:
        """The measure that tells how well something is read."""
        return "probe_accuracy" if name in self.labels else "probe_r2"

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
            labels: By name the types and label sets, integers, negative where there is none, and the targets, of any
                kind of number; each per sample (B,) or per position (B, T), targets also with several columns
                (B, T, M). A single tensor where there is one.
            positions: Place of each sample in the data set, (B,), which makes folds and rows the same on any number of
                ranks; order of arrival by default.

        Raises:
            ValueError: If shapes do not fit or a name is missing.

        """
        rows = self._rows(representations, mask, positions)
        shape = batch_shape(representations)
        given = as_mapping(labels, self.needs)
        missing = [name for name in self.needs if name not in given]
        if missing:
            raise ValueError(f"{missing[0]!r} is to be read, and `labels` has {sorted(given) or 'nothing'}.")
        device = rows.z.device
        columns = [rows.key[:, None], self._types(given, rows.key, shape)]
        columns += [_single(name, given[name], shape).to(device) for name in self.labels]
        columns += [tokens_if_there(given, rows.key, shape) for _ in self.needs_if_there]
        index = torch.cat(columns, dim=1)
        wanted = [_target_columns(name, given[name], shape).to(device) for name in self.targets]
        for name, value in zip(self.targets, wanted, strict=True):
            if self._widths.setdefault(name, value.shape[1]) != value.shape[1]:
                raise ValueError(
                    f"`labels[{name!r}]` has {value.shape[1]} columns, earlier batches {self._widths[name]}."
                )
        values = torch.cat(wanted, dim=1) if wanted else rows.norm.new_zeros(len(index), 0, dtype=wide_dtype(device))
        # Rows without anything to be read take no place.
        labelled = index[:, 2 : 2 + len(self.labels)] >= 0
        useful = torch.stack([*labelled.unbind(1), *(one.isfinite().all(1) for one in wanted)]).any(0)
        keep = rows.valid & useful & (index[:, 1] >= 0)
        order = counter_hash(rows.key, self.seed).masked_fill(~keep, _NEVER)
        self._buffered += min(len(index), self.max_rows)
        parts = (rows.z.masked_fill(~keep[:, None], 0), index, values, order)
        if self._drops_at_once(device):
            parts = (rows.z[keep], index[keep], values[keep], order[keep])
        elif len(index) > self.max_rows:
            chosen = order.topk(self.max_rows, largest=False).indices
            parts = (parts[0][chosen], index[chosen], values[chosen], order[chosen])
        for state, part in zip(self._states(), parts, strict=True):
            state.append(part)
        if self._buffered > 2 * self.max_rows:
            self._thin()

    @staticmethod
    def _drops_at_once(device: torch.device) -> bool:
        """Whether rows that do not count can be dropped without waiting for a device."""
        return device.type == "cpu"

    def _types(self, given: Mapping[str, Tensor], key: Tensor, shape: tuple[int, int]) -> Tensor:
        if self.types is None:
            return sample_of(key)[:, None]
        return _single(self.types, given[self.types], shape).to(key.device)

    def _states(self) -> tuple[list[Tensor], ...]:
        return self.payload, self.index, self.values, self.order

    def _thin(self) -> None:
        """Keep the rows that come first in the order of a hash; no other rank can make others the first."""
        parts = [joined(state) for state in self._states()]
        if len(parts[3]) > self.max_rows:
            # Those of one batch stay in their order, which means nothing.
            chosen = parts[3].topk(self.max_rows, largest=False).indices
            for state, part in zip(self._states(), parts, strict=True):
                state[:] = [part[chosen]]
        self._buffered = len(self.order[0])

    def reset(self) -> None:
        """Forget all batches."""
        super().reset()
        self._widths, self._buffered, self.units_used = {}, 0, {}

    # ------------------------------------------------------------------ compute

    def merge(self) -> Collective[dict[str, Tensor]]:
        """Gather labels, agree on rows and folds, sum moments over ranks, count hits."""
        nonfinite = yield from self._merged_nonfinite()
        values = dict.fromkeys(self.measures, math.nan)
        data = yield from self._data()
        values |= {"nonfinite": float(nonfinite), "probe_rows": float(len(data.ids))}
        tasks = self._tasks(data, values)
        for group in _grouped(tasks):
            yield from self._group(data, group, values)
        return {key: torch.tensor(values[key], dtype=torch.float64) for key in self.measures}

    def _data(self) -> Collective[_Data]:
        """The rows of all ranks in the order of the data, but for their vectors, which stay where they are."""
        mine = [self._dim or 0, *(self._widths.get(name, 0) for name in self.targets)]
        merged: Tensor = yield Maximum(torch.tensor(mine))
        dim, *widths = merged.tolist()
        for name, width in zip(self.targets, widths, strict=True):
            if self._widths.get(name, width) != width:
                raise ValueError(f"`labels[{name!r}]` has {self._widths[name]} columns here, {width} on another rank.")
        if self.order:
            self._thin()
            z, index, numbers, order = (state[0] for state in self._states())
            # Where rows that do not count could not be dropped at once, they are now.
            real = order < _NEVER
            z, index, numbers, order = z[real], index[real].cpu(), numbers[real].cpu().double(), order[real].cpu()
        else:
            z = torch.zeros(0, dim)
            index = torch.zeros(0, 2 + len(self.labels) + len(self.needs_if_there), dtype=torch.long)
            numbers, order = torch.zeros(0, sum(widths), dtype=torch.float64), index[:, 0]
        # The bits of the targets travel with the labels.
        parts: list[Tensor] = yield Gather(torch.cat([order[:, None], index, numbers.view(torch.int64)], dim=1))
        everything, start = torch.cat(parts), sum(len(part) for part in parts[: rank_in(self.process_group)])
        chosen = torch.zeros(len(everything), dtype=torch.bool)
        chosen[everything[:, 0].argsort()[: self.max_rows]] = True
        place = torch.full((len(everything),), -1)
        kept = chosen.nonzero().squeeze(1)
        kept = kept[everything[kept, 1].argsort()]
        place[kept] = torch.arange(len(kept))
        here = place[start : start + len(z)]
        own = here >= 0
        device = torch.device("cpu") if z.device.type == "mps" else z.device
        vectors = z.to(device)[own.to(device)].to(wide_dtype(device))
        ids, bits = everything[kept, 1 : 1 + index.shape[1]], everything[kept, 1 + index.shape[1] :]
        return _Data(vectors, here[own], ids, bits.contiguous().view(torch.float64), widths)

    def _tasks(self, data: _Data, values: dict[str, float]) -> list[ProbeTask]:
        """What is to be read, where there is enough of it."""
        tasks = []
        for place, name in enumerate(self.labels):
            labels = data.ids[:, 2 + place]
            unit, by_sample = self._unit(data, name, labels[:, None], labels >= 0)
            task = class_task(name, labels, self.min_count, self.max_classes, unit.of, by_sample)
            check_readable(task, labels, data.ids[:, 1], str(self.types))
            tasks.append(task)
        columns: tuple[Tensor, ...] = ()
        if self.targets:
            columns = data.numbers.split(data.widths, dim=1)  # type: ignore[no-untyped-call]
        for name, one in zip(self.targets, columns, strict=True):
            unit, by_sample = self._unit(data, name, one, one.isfinite().all(1))
            tasks.append(target_task(name, one, unit.of, by_sample))
        labelled_rows = (data.ids[:, 2 : 2 + len(self.labels)] >= 0).unbind(1)
        for task, labelled in zip(tasks, [*labelled_rows, *([None] * len(columns))], strict=True):
            total = len(data.ids) if labelled is None else int(labelled.sum())
            values[f"probe_coverage/{task.name}"] = float(task.rows.sum()) / total if total else math.nan
            if task.classes is not None:
                values[f"probe_classes/{task.name}"] = float(task.y.shape[1])
                values[f"probe_majority/{task.name}"] = majority_share(task.classes)
        return [task for task in tasks if task.y.shape[1] > (task.classes is not None)]

    def _unit(self, data: _Data, name: str, values: Tensor, has: Tensor) -> tuple[Unit, bool]:
        """What is read belongs to this, and whether samples are held out for it."""
        samples, given = sample_of(data.ids[:, 0]), self.units.get(name)
        given = "position" if name in BUILT_IN_LABELS else given
        words = self._words(data.ids)
        unit = unit_of(name, values, has, samples, words, given, numbers=values.is_floating_point())
        self.units_used[name] = unit.name
        # With one row a sample, words decide unless the user says otherwise.
        of_sample = unit.name == "sample" and (unit.of is not None or given is not None)
        return unit, self.types is None or of_sample

    def _words(self, ids: Tensor) -> Tensor | None:
        """Word type of each row, where words are known."""
        if self.types is not None:
            return ids[:, 1]
        if "token" in self.labels:
            return ids[:, 2 + self.labels.index("token")]
        return ids[:, -1] if self.needs_if_there else None

    def _group(self, data: _Data, tasks: Sequence[ProbeTask], values: dict[str, float]) -> Collective[None]:
        """Every probe of tasks that share their rows and what is held out."""
        rows, number = tasks[0].rows, len(tasks)
        part = data.of(rows)
        types, samples = data.ids[rows, 1], sample_of(data.ids[rows, 0])
        z = yield from self._centred(part, len(types))
        seeds = range(self.shuffles)
        # Columns of the same moments cost little: all that is read with the same folds is read at once.
        dealt = [dealt_task(task, seed_of(self.seed, task.name, repeat)) for repeat in seeds for task in tasks]
        controls = [control_of(task, types, self.seed) for task in tasks] if self.control else []
        with full_precision(z.device):
            samples_out = folds_of(samples, self.folds, self.seed)
            if tasks[0].by_sample:
                found = yield from self._scores(z, part, samples_out, [*tasks, *dealt, *controls])
                seen = found[:number]
                heart = found[number + len(dealt) :]
            else:
                types_out = folds_of(types, self.folds, self.seed)
                found = yield from self._scores(z, part, types_out, [*tasks, *dealt])
                if controls:
                    again = yield from self._scores(z, part, samples_out, [*tasks, *controls])
                    seen, heart = again[:number], again[number:]
            for place, task in enumerate(tasks):
                values[f"{self.score(task.name)}/{task.name}"] = found[place]
                if dealt:
                    levels = torch.tensor(found[number : number + len(dealt)][place::number], dtype=torch.float64)
                    values[f"probe_chance/{task.name}"] = float(levels.mean())
                    values[f"probe_chance/{task.name}/sd"] = float(chance_spread(levels))
                    values[f"probe_above_chance/{task.name}"] = found[place] - float(levels.mean())
                if controls:
                    values |= {f"probe_seen/{task.name}": seen[place], f"probe_control/{task.name}": heart[place]}
                    values[f"selectivity/{task.name}"] = seen[place] - heart[place]
            if self.codelength:
                yield from self._code(part, [task for task in tasks if task.classes is not None], samples, values)

    def _centred(self, part: _Part, number: int) -> Collective[Tensor]:
        """This rank's vectors about the mean of all, so that sums of squares lose no digits."""
        total, squares = yield Sums([part.z.sum(0), part.z.square().sum()])
        mean = total / max(number, 1)
        z = part.z - mean
        # A spread below the rounding of the vectors themselves is none.
        level = float(mean @ mean) * number
        nothing = float(squares) - level <= torch.finfo(torch.float32).eps ** 2 * level
        return torch.zeros_like(z) if nothing else z

    def _scores(
        self, z: Tensor, part: _Part, folds: tuple[Tensor, int], tasks: Sequence[ProbeTask]
    ) -> Collective[list[float]]:
        """Accuracy or R² of every task with one way to hold rows out."""
        fold, number = folds
        if number < 3:
            return [math.nan] * len(tasks)
        centre = torch.cat([task.y.mean(0) for task in tasks])
        y = torch.cat([task.y for task in tasks], dim=1) - centre
        mine = fold[part.here].to(z.device)
        own = y[part.here].to(z)
        columns = list(_slices(tasks))
        moments: list[ProbeMoments] = []
        together = max(1, _EXCHANGE // (z.shape[1] * (z.shape[1] + own.shape[1])))
        for start in range(0, number, together):
            some = [mine == place for place in range(start, min(start + together, number))]
            local = [ProbeMoments.of(z[chosen], own[chosen]).parts() for chosen in some]
            merged: list[Tensor] = yield Sums([part for parts in local for part in parts])
            moments += [ProbeMoments(*parts) for parts in _runs(merged, len(local[0]))]
        result = z.new_zeros(sum(1 if task.classes is not None else task.y.shape[1] for task in tasks))
        for place, found in enumerate(held_out_probes(moments, columns, self.alphas)):
            chosen = mine == place
            said = found.probe.predict(z[chosen]) + centre.to(z)
            result += torch.cat(
                [
                    _hits(said[:, column], task.classes[part.here].to(z.device)[chosen])
                    if task.classes is not None
                    else (said[:, column] - task.y[part.here].to(z)[chosen]).square().sum(0)
                    for task, column in zip(tasks, columns, strict=True)
                ]
            )
        merged_result: Tensor = yield Sum(result)
        return list(_as_scores(merged_result.cpu(), tasks))

    def _code(
        self, part: _Part, tasks: Sequence[ProbeTask], samples: Tensor, values: dict[str, float]
    ) -> Collective[None]:
        """Online codelengths, samples being sent in the order of a hash.

        A code needs many passes over all rows, each with an exchange if they were left where they are: they travel
        once, and ranks take turns at the codes.
        """
        if not tasks:
            return
        sent = counter_hash(samples, self.seed).argsort(stable=True)[:_SENT]
        turn = torch.full((len(samples),), -1)
        turn[sent] = torch.arange(len(sent))
        mine = turn[part.here] >= 0
        parts: list[Tensor] = yield Gather(part.z[mine.to(part.z.device)].float())
        turns: list[Tensor] = yield Gather(turn[part.here][mine])
        z = torch.cat(parts)[torch.cat(turns).argsort().to(part.z.device)]
        world, rank = world_size(self.process_group), rank_in(self.process_group)
        bits = torch.zeros(len(tasks), len(LOGIT_VARIANCES), dtype=torch.float64)
        for number, (row, column) in enumerate(product(*map(range, bits.shape))):
            if number % world == rank:
                classes = tasks[row].classes
                assert classes is not None
                bits[row, column] = online_bits(
                    z, classes[sent].to(z.device), tasks[row].y.shape[1], LOGIT_VARIANCES[column]
                )
        merged: Tensor = yield Sum(bits)
        for task, row_of_bits in zip(tasks, merged.tolist(), strict=True):
            found = shortest_code(row_of_bits, len(sent), task.y.shape[1])
            values[f"codelength/{task.name}"] = found.bits
            values[f"compression/{task.name}"] = found.compression


class _Part(NamedTuple):
    """The rows of some tasks that this rank holds."""

    z: Tensor
    """Their vectors, (n, D)."""
    here: Tensor
    """Which of these tasks' rows each is, (n,)."""


class _Data(NamedTuple):
    """What a reading is made of."""

    z: Tensor
    """This rank's vectors, float64 (n, D)."""
    here: Tensor
    """Which row each of them is, (n,)."""
    ids: Tensor
    """Key, type and labels of the rows of all ranks, int64 (N, 2 + label sets), and words where they decide alone."""
    numbers: Tensor
    """Targets of the rows of all ranks, float64 (N, columns)."""
    widths: list[int]
    """Columns of each target."""

    def of(self, rows: Tensor) -> _Part:
        """The part that belongs to some of the rows."""
        place = torch.where(rows, rows.cumsum(0) - 1, -1)[self.here]
        mine = place >= 0
        everything = bool(mine.all())
        return _Part(self.z if everything else self.z[mine.to(self.z.device)], place[mine])


def _runs(tensors: Sequence[Tensor], size: int) -> Iterator[Sequence[Tensor]]:
    """Runs of so many."""
    for start in range(0, len(tensors), size):
        yield tensors[start : start + size]


def _grouped(tasks: Sequence[ProbeTask]) -> list[list[ProbeTask]]:
    """Tasks by their rows and what is held out: those with the same ones share all products."""
    groups: dict[tuple[bytes, bool], list[ProbeTask]] = {}
    for task in tasks:
        if bool(task.rows.any()):
            groups.setdefault(task.held_out, []).append(task)
    return list(groups.values())


def _slices(tasks: Sequence[ProbeTask]) -> Iterator[slice]:
    start = 0
    for task in tasks:
        yield slice(start, start + task.y.shape[1])
        start += task.y.shape[1]


def _hits(said: Tensor, classes: Tensor) -> Tensor:
    """How many rows the largest prediction is right for, (1,)."""
    return (said.argmax(1) == classes).sum()[None].to(said)


def _as_scores(found: Tensor, tasks: Sequence[ProbeTask]) -> Iterator[float]:
    """Accuracy from hits, R² from squared errors."""
    start = 0
    for task in tasks:
        if task.classes is not None:
            yield float(found[start]) / len(task.classes)
            start += 1
            continue
        total = (task.y - task.y.mean(0)).square().sum(0)
        errors = found[start : start + len(total)]
        start += len(total)
        yield float((1 - errors / total).mean()) if bool((total > 0).all()) else math.nan


def _single(name: str, value: Tensor, shape: tuple[int, int]) -> Tensor:
    columns = label_columns(name, value, shape)
    if columns.shape[1] != 1:
        raise ValueError(f"`labels[{name!r}]` has {columns.shape[1]} labels a position; a probe reads one.")
    return columns


def _target_columns(name: str, value: Tensor, shape: tuple[int, int]) -> Tensor:
    """Targets as (B·T, M) in the widest dtype, whatever way they came."""
    batch, length = shape
    if value.is_complex() or value.dtype == torch.bool:
        raise ValueError(f"`labels[{name!r}]` must hold numbers, got {value.dtype}.")
    found = value.to(wide_dtype(value.device))
    if found.shape == (batch,):
        found = found[:, None].expand(batch, length)
    if found.ndim == 2:
        found = found.unsqueeze(-1)
    if found.ndim != 3 or found.shape[:2] != (batch, length):
        raise ValueError(
            f"`labels[{name!r}]` {tuple(value.shape)} fits neither {batch} samples nor positions ({batch}, {length})."
        )
    return found.reshape(batch * length, found.shape[2])
