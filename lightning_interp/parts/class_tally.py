"""A part: how often the rows of each class are predicted rightly in the batches of a validation run."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lightning_interp.batches.contents import BatchSize
from lightning_interp.batches.predictions import PredictedRows, PredictionRecorder, Predictions
from lightning_interp.batches.reader import BatchReader, LabelSource
from lightning_interp.distributed import Collective, Maximum, Sum
from lightning_interp.functional._numerics import wide_dtype
from lightning_interp.functional.design_effect import sample_sums
from lightning_interp.functional.frequency_bands import frequency_bands
from lightning_interp.isolation.seen import Seen
from lightning_interp.reading.part import Part
from lightning_interp.reading.reading import Reading

__all__ = ["ClassTally", "Tally"]


class Tally(NamedTuple):
    """What was counted over all ranks where predictions are read."""

    sums: Tensor
    """By label: rows that are right, log-probabilities of the targets in nats, rows, and rows for which the class is
    predicted, right or not; float64 (labels, 4)."""
    by_sample: Tensor
    """By class, how alike the rows of one sample are: :func:`sample_sums` of own rows that are right and, where classes
    are the targets themselves, of others for which the class is predicted; float64 (1 or 2, classes + 1, 3). Zeros
    outside a fit."""
    nonfinite: int
    """Rows left out since their logits are not finite."""


class ClassTally(Part):
    """Counts right predictions by class, of logits and targets of the validation run itself.

    Args:
        predictions: Where logits and targets are, by the name that stands in keys; ``""`` for the site's own name.
        classes: The name of every class by its label.
        labels: Where the class of each target is; ``None`` where it is the target itself or a band.
        bands: Instead of labels, so many bands of target frequency, most frequent first (:func:`frequency_bands`).
        counts: For bands, how often each target occurs; by default counted in the first reading of a fit.
        batch_size: How many samples a batch has; see :class:`~lightning_interp.ValidationAnalysis`.

    Raises:
        ValueError: If a name matches no module; when read, if the batch lacks targets or labels, a target has no logit,
            or a label no name.

    Cost: a copy of the logits of one batch, two passes over them, 24 bytes a sample of the batch and class, and sums of
        80 bytes a class; with bands, 32 bytes a target id too. Between ranks: those sums.

    """

    reads_batches = True
    attached = ("_recorder", "_now")

    def __init__(
        self,
        predictions: Mapping[str, Predictions],
        classes: Mapping[int, str],
        labels: LabelSource = None,
        bands: int | None = None,
        counts: Tensor | None = None,
        batch_size: BatchSize | None = None,
    ) -> None:
        self.given = dict(predictions)
        self.classes = dict(classes)
        self.bands = bands
        self.counts = counts
        self.names_classes = labels is None and bands is None
        """Whether a prediction names a class, which is so where that is the target itself."""
        self._reader = None if labels is None else BatchReader({"class": labels}, padding_idx=-1, batch_size=batch_size)
        self._recorder: PredictionRecorder | None = None
        self._now: Reading | None = None
        self.clear()

    @property
    def by_place(self) -> bool:
        """Whether labels are an array with an entry for each sample of the data set."""
        return self._reader is not None and bool(self._reader.arrays)

    def named(self, model: nn.Module | None = None) -> dict[str, Predictions]:
        """Where predictions are read, by the name in keys."""
        return {name or one.short_name(model): one for name, one in self._predictions.items()}

    # ------------------------------------------------- its life

    def clear(self) -> None:
        """A new fit."""
        # Each says once what is odd about its scores.
        self._predictions = {name: copy.copy(one) for name, one in self.given.items()}
        self._bands: dict[str, Tensor] = {}
        self.forget()

    def attach(self, model: nn.Module) -> None:
        """Put hooks where logits are read."""
        self._recorder = PredictionRecorder(model, self.named(model))
        self._recorder.attach()

    def detach(self) -> None:
        """Take the hooks off."""
        if self._recorder is not None:
            self._recorder.detach()
        self._recorder = None

    def begin(self, reading: Reading) -> None:
        """A reading starts, with empty sums."""
        self.forget()
        self._now = reading

    def forget(self) -> None:
        """The reading is over, or given up."""
        if self._recorder is not None:
            self._recorder.stop()
        self._now = None
        self._labels: Tensor | None = None
        self._sums: dict[str, Tensor] = {}
        """By name, for each class or target id, as :attr:`Tally.sums`."""
        self._by_sample: dict[str, Tensor] = {}
        """By name, as :attr:`Tally.by_sample`."""
        self._omitted: dict[str, Tensor] = {}
        """By name: rows with logits that are not finite, with a target, a label that is unknown; then ``scored``."""

    def state_dict(self) -> dict[str, Any]:
        """The band of every target id, by name."""
        return {"bands": dict(self._bands)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where a checkpoint left off."""
        self._bands = dict(state["bands"])

    # ------------------------------------------------- batches

    def before_batch(self, seen: Seen) -> None:
        """Read targets and labels, and capture logits."""
        assert self._recorder is not None
        assert self._now is not None
        if self._reader is not None:
            positions = self._now.positions
            places = seen.selection.batch if positions.exact else None
            found = self._reader.read(seen.batch, places, None, positions.num_samples).custom["class"]
            if found.is_floating_point() or found.is_complex():
                raise ValueError(f"`labels` must be integers, got {found.dtype}.")
            self._labels = found
        self._recorder.start(seen.batch)

    def after_batch(self, seen: Seen) -> None:
        """Add the batch to the sums."""
        assert self._recorder is not None
        labels, self._labels = self._labels, None
        for name, rows in self._recorder.take(seen.selection, seen.output).items():
            own = rows.targets if labels is None else rows.spread(seen.selection.of(labels)).long()
            self._add(name, rows, own)

    def _add(self, name: str, rows: PredictedRows, labels: Tensor) -> None:
        # Target ids until the reading ends, since bands may be known only then.
        size = rows.logits.shape[1] if self.bands is not None else max(self.classes) + 1
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
        if self.names_classes:
            named = counted & (guess < size)
            column = torch.stack([*[torch.zeros_like(ones)] * 3, named.to(dtype)]).T
            added = added.index_add(0, guess.masked_fill(~named, 0), column)
        self._sums[name] = added
        if self._now is not None and self._now.counts:
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
        device, samples, classes = labels.device, rows.shape[0], len(self.classes)
        # The last column is of rows with a label that has no name.
        columns = torch.full((max(self.classes) + 1,), classes)
        columns[list(self.classes)] = torch.arange(classes)
        columns = (columns if self.bands is None else self._bands[name]).to(device)
        places = torch.arange(samples, device=device).repeat_interleave(len(labels) // max(samples, 1))
        dtype = wide_dtype(device)

        def table(of: Tensor, among: Tensor) -> Tensor:
            at = places * (classes + 1) + columns[of.masked_fill(~among, 0)]
            found = torch.zeros(samples * (classes + 1), dtype=dtype, device=device)
            return found.index_add(0, at, among.to(dtype)).view(samples, classes + 1)

        hits, counts = table(labels, counted & (guess == rows.targets)), table(labels, counted)
        sums = [sample_sums(hits, counts)]
        if self.names_classes:
            named = table(guess, counted & (guess < len(columns)))
            sums.append(sample_sums(named - hits, counts.sum(1, keepdim=True) - counts))
        found = torch.stack(sums)
        self._by_sample[name] = self._by_sample.get(name, torch.zeros_like(found)) + found

    # ------------------------------------------------- the end of a reading

    def read(self) -> Collective[dict[str, Tally]]:
        """What all ranks counted, by the name in keys.

        Raises:
            ValueError: If no sample was read, a target has no logit, or a label no name.

        """
        assert self._recorder is not None
        found: dict[str, Tally] = {}
        for name, predictions in self._recorder.predictions.items():
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
            empty = torch.zeros(1 + self.names_classes, len(self.classes) + 1, 3, dtype=torch.float64)
            by_sample: Tensor = yield Sum(self._by_sample.get(name, empty).cpu())
            nonfinite, no_logit, no_name, *scored = omitted.tolist()
            if no_logit:
                raise ValueError(
                    f"{no_logit} targets at {name!r} have no logit: see `target`, and `ignore_index` for those that "
                    "are none. Where there is one logit for each, targets are 0 or 1."
                )
            predictions.check_scores(name, scored)
            if no_name:
                raise ValueError(f"{no_name} labels at {name!r} are beyond those that `names` has: {self.classes}.")
            if self.bands is not None:
                band = self._band_of(name, merged[:, 2])
                merged = merged.new_zeros(self.bands, 4).index_add(0, band, merged)
            found[name] = Tally(merged, by_sample, nonfinite)
        return found

    def _band_of(self, name: str, counted: Tensor) -> Tensor:
        """The band of every target id."""
        assert self.bands is not None
        if name in self._bands:
            return self._bands[name]
        counts = counted if self.counts is None else self.counts
        if len(counts) > len(counted):
            raise ValueError(f"`counts` has target ids up to {len(counts) - 1}, but there are {len(counted)} logits.")
        counts = torch.cat([counts.double(), counts.new_zeros(len(counted) - len(counts)).double()])
        if not bool(counts.any()):
            return torch.zeros(len(counted), dtype=torch.long)
        found = frequency_bands(counts, self.bands)
        # Neither the sanity check, which sees a part of the data, nor a validation before the fit settles them.
        if self._now is not None and self._now.counts:
            self._bands[name] = found
        return found
