"""Which part of a mixture of training data helps what is watched, now: their gradients against its gradient."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Unpack

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from lightning_interp.batches.contents import BatchSize, Key, look_up
from lightning_interp.batches.example_losses import DealtTargets, Loss, SummedLosses, example_losses, given_losses
from lightning_interp.batches.forward import Forward, module_forward
from lightning_interp.batches.own_data import OwnData
from lightning_interp.batches.predictions import Predictions
from lightning_interp.compat import pl
from lightning_interp.distributed import Collective
from lightning_interp.distributed.positions import Selection
from lightning_interp.figures import site_heatmap
from lightning_interp.functional._numerics import wide_dtype
from lightning_interp.isolation.seen import Seen
from lightning_interp.metrics.derived import CONTROL
from lightning_interp.metrics.measure import Measure
from lightning_interp.metrics.measures.geometry import NONFINITE
from lightning_interp.metrics.measures.influence import (
    QUERY,
    SOURCE,
    SOURCE_EFFECT,
    SOURCE_INFLUENCE,
    STEP_EFFECT,
    STEP_EFFECT_MEASURED,
)
from lightning_interp.parts.gradient_sums import GradientSums
from lightning_interp.parts.loss_gradients import LossGradients, Sketches, ordinary
from lightning_interp.parts.replayed import Replayed
from lightning_interp.parts.taken_step import TakenStep
from lightning_interp.parts.training_examples import TrainingExamples
from lightning_interp.reading.analysis import Draw, ValidationAnalysis
from lightning_interp.reading.argument_names import refuse_unknown_arguments
from lightning_interp.reading.arguments import AnalysisArgs
from lightning_interp.reading.grids import site_grid
from lightning_interp.reading.reading import Reading
from lightning_interp.reading.step_scale import Scales, step_scales

__all__ = ["SourceInfluence"]

Query = Iterable[Any] | Loss | None

_LEFT_OUT = NONFINITE.at(end="gradients")


class SourceInfluence(ValidationAnalysis):
    r"""Reads whether each source of the training data moves a loss that is watched up or down, at this moment.

    With g_s the mean gradient of the loss over examples of a source, g_q that of a query, such as the validation loss,
    and P what the optimizer makes of a gradient (1 for SGD)

    .. math::
        \mathrm{influence} = \cos(g_s, g_q), \qquad \mathrm{effect} = -\, g_q \cdot P g_s

    all of them with respect to everything that is trained. Beside each stands the same for the same examples with their
    labels dealt to one another, within the source: what its inputs and the number of each label do by themselves. This
    is a first-order view of one step from here (TracIn, Pruthi et al. 2020, between two sets), not what a model trained
    without the source would do.

    ==============================================  =======  ===========================================================
    key                                             level    what it is
    ==============================================  =======  ===========================================================
    ``source_influence/<source>/<query>``           summary  cosine; above 0 the source helps
    ``source_influence_control/<source>/<query>``   full     … with labels dealt; not with a ``loss`` of one's own
    ``source_effect/<source>/<query>``              full     change of the query's loss for each unit of learning rate,
                                                             below 0 where it falls (conditional: not outside a fit,
                                                             nor before an adaptive optimizer's first step, nor where
                                                             no optimizer has the weights)
    ``source_effect_control/<source>/<query>``      full     … with labels dealt (conditional)
    ``step_effect/<query>``                         summary  with ``step_effect``: change of the query's loss, to first
                                                             order, by the step after the reading before (conditional)
    ``step_effect_measured/<query>``                summary  … as it was measured (conditional)
    ``nonfinite/gradients``                         full     gradients that are not finite, whose keys are left out
    ==============================================  =======  ===========================================================

    In digits with the clean validation loss for a query the cosine of clean training data stays above .8, while that of
    permuted labels falls below 0 as they come to be learned by heart.

    Effects are for SGD, with momentum (in the end it is 1 / (1 − momentum) times as much), Adam and AdamW with their
    second moments as they stand; others are refused. Gradients are of the model in evaluation mode, in float32 and not
    scaled. Those of a model with more parameters than ``buckets`` are kept as sketches, whose cosines are off by about
    1/√buckets.

    With ``step_effect`` the query's gradient also meets the step that is really taken: of the first optimizer step
    after a reading, :math:`g_q \cdot (\theta_{t+1} - \theta_t)` stands beside what the query's loss changed by. Where
    they part, the step is too long for first-order views. Both are known when that step is over and belong to the next
    reading, so the first one has none; nor has one after a restart from a checkpoint of between the reading and that
    step, or where training goes on from other weights than were validated, as under weight averaging.

    Args:
        source: Where a batch of training data has the source of each example, integers (B,): a key, an index or a
            callable.
        sources: The number of each source by its name, or names in the order of their numbers. Examples of other
            numbers are not read.
        queries: What is watched, by name: ``None`` for the loss on the validation run; a loss of its own on the same
            batches, ``loss(model, batch)``; or batches of one's own, in a fixed order.
        data: Batches of training data to read instead of a sample of the Trainer's, in a fixed order; all of them are
            held in memory while a reading lasts. Needed outside of a fit, and where the training data are a stream.
        loss: ``loss(model, batch)`` → the loss of each example with its graph, (B,), or sums (B,) and counts (B,); by
            default cross entropy of the logits, in nats, mean over all that is predicted.
        max_examples: Examples of training data to read, over all ranks and sources; ``None`` for all.
        max_queries: Validation examples to read for a query: the first ones.
        output: Where logits are in what the model returns; ``target``, ``ignore_index``, ``shift``, ``mask`` and
            ``class_dim`` are as for :class:`~lightning_interp.callbacks.ConfidenceCalibration`.
        forward: How a batch goes through the module, ``forward(model, batch)``; by default the module's own forward
            gets what it takes of a dict by name, or the first entry of a tuple.
        effect: Whether effects are read; ``False`` for another optimizer.
        step_effect: Whether the step after each reading is read too, with any optimizer.
        buckets: Length of a sketch.
        dataloader_idx: The validation loader of queries.
        seed: Of the sample, of deals and sketches.
        batch_size: See :class:`~lightning_interp.callbacks.ValidationAnalysis`.
        kwargs: Arguments of :class:`~lightning_interp.callbacks.ValidationAnalysis`.

    Raises:
        ValueError: If an argument is out of range, a source has no example, parameters are sharded over ranks, or what
            the optimizer does is not known; in the sanity check, if a batch lacks what is asked for.

    Cost: a forward pass over the training examples, in batches of one source each, and two backward passes; one of each
        over the queries; 7 ns a parameter for each sketch, four of a source and one of a query. Batches of one's own
        that hold several sources take two backward passes and four sketches for each of them. In memory two gradients,
        the examples read, and 16 · buckets bytes for each source twice and each query, which ranks exchange. Beside a
        training step and a validation run: ``benchmarks/influence_live.py``. With ``step_effect`` a second forward and
        backward pass over the queries and a third forward pass, and in main memory 8 bytes a parameter for the weights
        and each query, and the validation examples, until the step is over.

    Example:
        >>> callback = SourceInfluence("corpus", ["web", "books"])
        >>> callback.logged_keys()
        ['source_influence/web/validation', 'source_influence/books/validation']

    """

    told_apart = ("source", "prefix")

    def __init__(
        self,
        source: Key,
        sources: Mapping[str, int] | Sequence[str],
        queries: Mapping[str, Query] | None = None,
        data: Iterable[Any] | None = None,
        loss: Loss | None = None,
        max_examples: int | None = 512,
        max_queries: int | None = 256,
        output: Key = "",
        target: Key | None = None,
        ignore_index: int | Sequence[int] = -100,
        shift: int = 0,
        mask: Key | None = None,
        class_dim: int = -1,
        forward: Forward | None = None,
        effect: bool = True,
        step_effect: bool = False,
        buckets: int = 65_536,
        dataloader_idx: int = 0,
        seed: int = 0,
        batch_size: BatchSize | None = None,
        **kwargs: Unpack[AnalysisArgs],
    ) -> None:
        refuse_unknown_arguments(type(self), kwargs, AnalysisArgs)
        super().__init__(max_examples=None, dataloader_idx=dataloader_idx, batch_size=batch_size, **kwargs)
        self.sources = _numbers_of(sources)
        given = {"validation": None} if queries is None else dict(queries)
        if not given or not all(_fits_key(name) for name in given):
            raise ValueError(f"`queries` must have one or more names without a '/', got {list(given)}.")
        if loss is not None and not callable(loss):
            raise TypeError(f"`loss` must be a function of model and batch, got {loss!r}.")
        how = (output, target, ignore_index, int(shift), mask, class_dim)
        self.source, self.loss, self.effect, self.seed = source, loss, effect, seed
        self.max_queries = max_queries
        self.predictions = Predictions(None, *how, scores="logits")
        self.examples = TrainingExamples(data, max_examples, seed, forward)
        self.gradients = LossGradients(buckets, seed)
        self.step_effect = step_effect
        self.queries = list(given)
        """Their names."""
        self.taken = TakenStep(self.queries) if step_effect else None
        self._losses: dict[str, Loss | None] = {}
        self._own: dict[str, OwnData] = {}
        for name, query in given.items():
            if query is None or callable(query):
                self._losses[name] = query
            else:
                self._own[name] = OwnData(query, forward, f"queries[{name!r}]")
        self.kept = Replayed([], _nothing, max_queries, dataloader_idx, seed, overhear=False) if self._losses else None
        """The validation batches of queries."""
        self._found: GradientSums | None = None

    # ------------------------------------------------- keys

    def declares(self) -> list[Measure]:
        """Cosines and effects of each source on each query, beside those with labels dealt."""
        kinds = [SOURCE_INFLUENCE, *([SOURCE_EFFECT] if self.effect else [])]
        dealt = [] if self.loss is not None else [CONTROL.of(one) for one in kinds]
        step = [STEP_EFFECT, STEP_EFFECT_MEASURED] if self.taken is not None else []
        return [*kinds, *dealt, *step, _LEFT_OUT]

    def axes(self, model: nn.Module | None = None) -> dict[str, Sequence[str]]:
        """The names of sources and queries."""
        return {SOURCE: list(self.sources), QUERY: self.queries}

    # ------------------------------------------------- reading

    def collect(self, reading: Reading) -> None:
        """Take all gradients, of this rank's examples."""
        self._found = None
        scales: Scales | None = None
        if self.effect and reading.step is not None:
            scales = step_scales(reading.trainer, self.gradients.parameters(), "effect=False")
        self.gradients.run(reading.trainer, lambda sketches: self._read(reading, sketches, scales))
        if self.taken is not None and reading.step is not None:
            # Without what other callbacks share in this reading.
            later = Reading(reading.model, reading.step, group=reading.group, trainer=reading.trainer)
            self.taken.read(later, partial(self._query_losses, later, self._kept_batches()))

    def _read(self, reading: Reading, sketches: Sketches, scales: Scales | None) -> None:
        found = self._found = GradientSums.zeros(sketches, len(self.sources), len(self.queries), scales is not None)
        dealt = DealtTargets(self.seed)
        for seen in self.examples.grouped(reading, self.count, self._group, partial(self._look, dealt)):
            if seen.counted:
                self._add_sources(reading.model, sketches, seen, dealt, found, scales)
        for place, loss, count in self._query_losses(reading, self._kept_batches()):
            found.query_counts[place] += count
            if count:
                sketches.add(loss, found.queries[place])

    def _query_losses(self, reading: Reading, kept: Sequence[Seen]) -> Iterator[tuple[int, Tensor, float]]:
        """Of each batch of each query its place, its summed loss with a graph, and how many losses were summed."""
        for place, name in enumerate(self.queries):
            for seen in self._batches(name, reading, kept):
                losses = self._of_query(name, reading, ordinary(seen.batch), len(seen.selection.batch))
                sums, counts = (seen.selection.of(one) for one in losses)
                yield place, sums.sum(dtype=wide_dtype(sums.device)), float(counts.sum())

    def _kept_batches(self) -> list[Seen]:
        return [] if self.kept is None else self.kept.batches

    def _look(self, dealt: DealtTargets, batch: Any, selection: Selection) -> None:
        """Take in the targets of a batch, wherever it is run."""
        if self.loss is not None:
            return
        targets, counted = self.predictions.targets(batch)
        rows = (selection.of(one) for one in (targets, counted, self._sources_of(batch, len(selection.batch))))
        dealt.add(selection.positions, *rows)

    def _add_sources(
        self,
        model: nn.Module,
        sketches: Sketches,
        seen: Seen,
        dealt: DealtTargets,
        found: GradientSums,
        scales: Scales | None,
    ) -> None:
        batch, size = ordinary(seen.batch), len(seen.selection.batch)
        numbers = seen.selection.of(self._sources_of(batch, size))
        if self.loss is not None:
            several = [given_losses(self.loss, model, batch, size)]
        else:
            targets, counted = self.predictions.targets(batch)
            others = dealt.of(seen.selection.batch, targets, counted)
            output = self._forward(model, batch)
            several = [example_losses(self.predictions, output, one, counted) for one in (targets, others)]
        work = []
        for place, number in enumerate(self.sources.values()):
            own = numbers == number
            for kind, losses in enumerate(several):
                sums, counts = (seen.selection.of(one)[own.to(one.device)] for one in losses)
                if float(counts.sum()):
                    found.source_counts[place, kind] += float(counts.sum())
                    work.append((sums.sum(), found.sources[place, kind]))
        for left, (loss, into) in enumerate(work, 1 - len(work)):
            sketches.add(loss, into, scales, retain=left < 0)

    def _group(self, batch: Any) -> Tensor:
        return self._sources_of(batch, self.count(batch))

    def _sources_of(self, batch: Any, size: int) -> Tensor:
        """The source of each example, on the CPU."""
        found = torch.as_tensor(look_up(batch, self.source, "source")).detach().cpu()
        if found.shape != (size,) or found.is_floating_point():
            raise ValueError(
                f"`source` must lead to integers ({size},), one an example, and leads to {found.dtype} "
                f"{tuple(found.shape)}."
            )
        return found.long()

    def _batches(self, name: str, reading: Reading, kept: Sequence[Seen]) -> Iterable[Seen]:
        own = self._own.get(name)
        if own is None:
            return map(_usable, kept)
        found = own.batches(reading.model, own.positions(), self.count, reading.group, reading.trainer)
        return (Seen(batch, at, 0, selection) for at, (batch, selection, counted) in enumerate(found) if counted)

    def _of_query(self, name: str, reading: Reading, batch: Any, size: int) -> SummedLosses:
        loss = self._losses.get(name) or self.loss
        if loss is not None:
            return given_losses(loss, reading.model, batch, size)
        targets, counted = self.predictions.targets(batch)
        return example_losses(self.predictions, self._forward(reading.model, batch), targets, counted)

    def _forward(self, model: nn.Module, batch: Any) -> Any:
        return (self.examples.forward or module_forward(model))(model, batch)

    def merge(self, reading: Reading) -> Collective[Mapping[str, Tensor | float]]:
        """Add up the gradients of all ranks, and compare."""
        found, self._found = self._found, None
        assert found is not None
        sums = yield from found.merged()
        numbers = zip(self.sources, sums.source_counts[:, 0].tolist(), strict=True)
        missing = [name for name, number in numbers if not number]
        if missing:
            raise ValueError(
                f"none of the training examples read is of the source {missing[0]!r} ({self.sources[missing[0]]}): "
                "check `source` and `sources`, or read more of them with `max_examples`."
            )
        values: dict[str, Tensor | float] = {_LEFT_OUT.key(): sums.nonfinite()}
        kinds = [(SOURCE_INFLUENCE, SOURCE_EFFECT), (CONTROL.of(SOURCE_INFLUENCE), CONTROL.of(SOURCE_EFFECT))]
        for place, source in enumerate(self.sources):
            for kind, (cosine, effect) in enumerate(kinds[: 1 if self.loss is not None else 2]):
                for at, query in enumerate(self.queries):
                    values[cosine.key(source, query)] = sums.cosine(place, kind, at)
                    if self.effect:
                        values[effect.key(source, query)] = sums.effect(place, kind, at)
        if self.taken is not None and reading.step is not None:
            for query, change in self.taken.found.items():
                values[STEP_EFFECT.key(query)] = change.first_order
                values[STEP_EFFECT_MEASURED.key(query)] = change.measured
            yield from self.taken.merged()
        return values

    # ------------------------------------------------- the step that is taken

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the reading down, and wait for the next step."""
        reading = self.now
        # Not in `commit`, which may fail on one rank alone.
        if self.taken is not None and reading is not None and reading.counts and reading.values is not None:
            self.taken.wait(reading)
        super().on_validation_end(trainer, pl_module)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """See where a step starts from that is read."""
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
        if self.taken is not None and self.taken.waits:
            self._of_step(self.taken.starts)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """See what the first step after a reading did."""
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        if self.taken is not None and self.taken.waits:
            self._of_step(partial(self.taken.ends, trainer.global_step))

    def _of_step(self, work: Callable[[], None]) -> None:
        started = time.perf_counter()
        self._afterwards("read the step that was taken", work)
        self._spent += time.perf_counter() - started

    # ------------------------------------------------- pictures

    def figures(self) -> Mapping[str, Draw]:
        """Influence of all sources over steps, for each query."""
        return {f"source_influence/{query}": partial(self._heatmap, query) for query in self.queries}

    def _heatmap(self, query: str) -> Figure:
        rows = {source: self.full_key(SOURCE_INFLUENCE.key(source, query)) for source in self.sources}
        return site_heatmap(*site_grid(self.history, rows), title=f"influence of sources on {query}", label="cosine")


def _usable(seen: Seen) -> Seen:
    """A batch whose selection can be part of a graph, which one of inference mode could not."""
    given = seen.selection
    return replace(seen, selection=replace(given, rows=None if given.rows is None else given.rows.clone()))


def _nothing(model: nn.Module, batch: Any) -> dict[str, Any]:
    """No monitor is read."""
    return {}


def _fits_key(name: Any) -> bool:
    return isinstance(name, str) and bool(name) and "/" not in name


def _numbers_of(sources: Mapping[str, int] | Sequence[str]) -> dict[str, int]:
    if isinstance(sources, str):
        raise ValueError(f"`sources` must be a list of names, got the string {sources!r}.")
    found = dict(sources) if isinstance(sources, Mapping) else {name: place for place, name in enumerate(sources)}
    numbers = list(found.values())
    if not found or len(found) < len(sources) or not all(map(_fits_key, found)) or len({*numbers}) < len(numbers):
        raise ValueError(
            f"`sources` must give one or more names without a '/', each with a number of its own, got {sources!r}."
        )
    return {name: int(number) for name, number in found.items()}
