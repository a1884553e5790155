"""A part: validation batches that are kept, and run again under settings of the callback's own."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Generic, TypeAlias, TypeVar

import torch
from torch import Tensor, nn

from lightning_interp.batches.forward import RunBatch, default_forward
from lightning_interp.compat import pl
from lightning_interp.distributed import Collective, Maximum, Minimum
from lightning_interp.distributed.positions import Selection
from lightning_interp.isolation import ModuleState, WeightsCopy, muted_loggers
from lightning_interp.isolation.observed_epoch import ObservedEpoch
from lightning_interp.isolation.replay import (
    Replay,
    ReplayedEpoch,
    Score,
    ScoreReplay,
    Setting,
    StepReplay,
    independent,
)
from lightning_interp.isolation.seen import Seen
from lightning_interp.reading.part import Part
from lightning_interp.reading.reading import Reading

__all__ = ["Replayed", "Rerun", "Setting"]

Values: TypeAlias = dict[str, float]
"""Monitor → value, over all ranks."""

_Name = TypeVar("_Name", bound=Hashable)


@dataclass(frozen=True)
class Rerun(Generic[_Name]):
    """What the kept batches gave."""

    plain: Values
    """The monitors of the model as it is."""
    under: dict[_Name, Values]
    """The monitors under each setting."""
    groups: list[Values]
    """The monitors of the model as it is in each group of batches: how far they lie apart is the monitors' noise."""


class Replayed(Part):
    """The first batches of a validation run, which are run again when it is over, under one setting after the other.

    Needs nothing from the model: the batches go through the module's own ``validation_step`` by the Trainer's strategy,
    and the values that it logs are taken. Each setting has attributes, buffers and metric states of its own, which
    start as they were when the validation run did; afterwards the model is as it was, nothing is logged twice, and
    loggers are muted. Values without a change are overheard in the run itself where a second run would give the same.

    In :meth:`~lightning_interp.callbacks.ValidationAnalysis.merge` of a callback::

        found = yield from self.replayed.values({"encoder": without_encoder})
        return {"rise/encoder": found.under["encoder"]["val_loss"] - found.plain["val_loss"]}

    Args:
        monitors: What is read again, by the names under which the module logs it (without ``/dataloader_idx_<n>``).
        score: A callable on module and batch that returns the monitors per example, in place of ``validation_step``;
            see :class:`~lightning_interp.isolation.replay.ScoreReplay`. Outside a Trainer it is needed.
        max_examples: Keep the first batches, until they hold so many examples over all ranks; ``None`` for all. They
            stay on their device until the validation run has ended.
        dataloader_idx: Which validation loader is read.
        seed: Of whatever the step itself draws at random: the same for one batch under all settings.
        overhear: Whether values without a change may be overheard; not where a setting of the callback's own has to see
            the model as it is.

    Raises:
        ValueError: If ``max_examples`` is out of range; in a reading, if the module does not log a monitor, or if
            there is no batch.

    Cost: a forward pass over the kept batches for each setting, and for each of the values without a change and for
        the groups of batches where they are asked for and not overheard; a copy of the model's buffers and attributes
        for each setting.

    Example:
        >>> replayed = Replayed(["val_loss"], max_examples=64)
        >>> replayed.full, len(replayed.batches)
        (False, 0)

    """

    reads_batches = True
    attached = ("_model", "_reading", "_state", "_overheard")

    def __init__(
        self,
        monitors: Sequence[str],
        score: Score | None = None,
        max_examples: int | None = 512,
        dataloader_idx: int = 0,
        seed: int = 0,
        overhear: bool = True,
    ) -> None:
        if max_examples is not None and max_examples < 1:
            raise ValueError(f"`max_examples` must be at least 1, or None for all, got {max_examples}.")
        self.monitors = list(monitors)
        self.score = score
        self.max_examples = max_examples
        self.dataloader_idx = dataloader_idx
        self.seed = seed
        self.overhear = overhear
        self._model: nn.Module | None = None
        self.clear()

    def clear(self) -> None:
        """A new fit."""
        self._reading: Reading | None = None
        self._state: ModuleState | None = None
        self._overheard: ObservedEpoch | None = None
        self._came, self._inference = 0, False
        self.batches: list[Seen] = []
        """This rank's batches, as they were handed to the model, with the samples that count."""

    def attach(self, model: nn.Module) -> None:
        """Run this model."""
        self._model = model

    def detach(self) -> None:
        """Let go of the model."""
        self._model = None

    # ------------------------------------------------- keeping

    def begin(self, reading: Reading) -> None:
        """A reading starts, without batches."""
        self.forget()
        self._reading = reading
        # Batches and what the model makes of them may belong to inference mode, and be of no use outside of it.
        self._inference = torch.is_inference_mode_enabled()

    def forget(self) -> None:
        """The reading is over, or given up."""
        if self._overheard is not None:
            self._overheard.stop()
        self.clear()

    def before_any_batch(self, reading: Reading, loader: int) -> None:
        """Keep the module's state from the beginning of the run."""
        if self._state is None and self.score is None and reading.trainer is not None:
            # Before the first step of any loader: what the module collects is still empty.
            self._keep_state(reading.model, loader)
        if self._overheard is not None and (self.full or loader != self.dataloader_idx):
            self._overheard.end()
        elif self._overheard is not None:
            self._came += 1

    def _keep_state(self, model: nn.Module, loader: int) -> None:
        assert isinstance(model, pl.LightningModule)
        self._state = ModuleState(model).copy()
        # Another loader's batches would come in between, and a compiled step would be compiled anew.
        if self.overhear and loader == self.dataloader_idx and model._compiler_ctx is None:
            self._overheard = ObservedEpoch(model)

    def before_batch(self, seen: Seen) -> None:
        """Keep the batch as it was handed to the model."""
        if self.full:
            return
        if self._overheard is not None:
            self._overheard.start(seen.batch)
        counted = self._counted(seen.selection)
        self.batches.append(replace(seen, batch=independent(seen.batch), selection=counted))

    def after_batch(self, seen: Seen) -> None:
        """What the module logged of it is known by now."""
        if self._overheard is not None:
            self._overheard.stop()

    @property
    def full(self) -> bool:
        """Whether as many batches are kept as are read."""
        if self.max_examples is None or not self.batches:
            return False
        assert self._reading is not None
        own = len(self.batches) * self.batches[0].selection.batch.numel()
        return own * self._reading.positions.world >= self.max_examples

    def watched(self, selection: Selection) -> Selection:
        """The samples that count, of a batch that comes next."""
        if not self.full:
            return self._counted(selection)
        return Selection(selection.positions[:0], torch.zeros(0, dtype=torch.int64), selection.batch)

    def _counted(self, selection: Selection) -> Selection:
        """The samples below the limit, so that those that count do not depend on the size of batches."""
        assert self._reading is not None
        positions = self._reading.positions
        in_order = positions.exact or (positions.world == 1 and not positions.shuffled)
        if self.max_examples is None or not in_order:
            return selection
        below = selection.positions < self.max_examples
        rows = torch.arange(len(selection.batch)) if selection.rows is None else selection.rows
        return Selection(selection.positions[below], rows[below], selection.batch)

    # ------------------------------------------------- running again

    def values(
        self, settings: Mapping[_Name, Setting] | None = None, plain: Setting | None = None, groups: int = 0
    ) -> Collective[Rerun[_Name]]:
        """Run the kept batches as they are and under every setting.

        Args:
            settings: By any name what batches are run in. Each batch is run under all of them before the next one.
            plain: What batches of the model as it is are run in, always and before the settings; by default they are
                not run where their values were overheard.
            groups: Into how many groups batches are dealt, of which the model's values are read too; fewer where there
                are fewer batches, and none where there is but one.

        """
        settings = settings or {}
        batches = yield from self._all_batches()
        heard = yield from self._heard(plain)
        with self._apart() as replay:
            clean, dealt = heard or replay.life(), self._dealt(replay, batches, groups)
            lives = {name: replay.life() for name in settings}
            for place, seen in enumerate(batches):
                if heard is None:
                    replay.run(clean, seen, plain)
                if dealt:
                    replay.run(dealt[place % len(dealt)], seen)
                _run_each(replay, lives, settings, seen)
            found = yield from replay.values([clean, *lives.values(), *dealt])
        under = dict(zip(settings, found[1:], strict=False))
        return Rerun(found[0], under, found[1 + len(under) :])

    def under(self, settings: Mapping[_Name, Setting]) -> Collective[dict[_Name, Values]]:
        """Run the kept batches under these settings alone.

        Args:
            settings: See :meth:`values`.

        """
        batches = yield from self._all_batches()
        with self._apart() as replay:
            lives = {name: replay.life() for name in settings}
            for seen in batches:
                _run_each(replay, lives, settings, seen)
            found = yield from replay.values(list(lives.values()))
        return dict(zip(settings, found, strict=True))

    def with_weights(self, weights: WeightsCopy, groups: int = 0) -> Collective[Rerun[str]]:
        """Run the kept batches with other weights, as with those from before the first step.

        Args:
            weights: Of the same model, at another time.
            groups: See :meth:`values`.

        """
        batches = yield from self._all_batches()
        with self._apart() as replay, replay.with_weights(weights):
            whole, dealt = replay.life(), self._dealt(replay, batches, groups)
            for place, seen in enumerate(batches):
                replay.run(whole, seen)
                if dealt:
                    replay.run(dealt[place % len(dealt)], seen)
            found = yield from replay.values([whole, *dealt])
        return Rerun(found[0], {}, found[1:])

    def _all_batches(self) -> Collective[list[Seen]]:
        """As many batches as the rank that has most: where a forward pass communicates, all make the same number."""
        most: Tensor = yield Maximum(torch.tensor(len(self.batches)))
        if not self.batches:
            raise ValueError("There is no batch to run again on this rank: its validation loader is empty.")
        return self.batches + [replace(self.batches[-1], counted=False)] * (int(most) - len(self.batches))

    def _heard(self, plain: Setting | None) -> Collective[ReplayedEpoch | None]:
        """What was overheard, where it is what a run again would give on all ranks."""
        heard, reading = self._overheard, self._reading
        assert reading is not None
        exact = heard is not None and heard.exact and plain is None and not reading.rehearsal
        # A batch that the module took in and that is not kept, nothing but padding, is in its state.
        exact = exact and self._came == len(self.batches)
        known: Tensor = yield Minimum(torch.tensor(float(exact)))
        if heard is not None:
            heard.end()
        return ReplayedEpoch(heard.state, heard.logged) if heard is not None and bool(known) else None

    @contextmanager
    def _apart(self) -> Iterator[Replay]:
        """Within, batches may be run; everything is put back."""
        replay = self._replay()
        with torch.inference_mode(self._inference), torch.no_grad(), replay.isolated():
            yield replay

    def _replay(self) -> Replay:
        reading, model = self._reading, self._model
        assert reading is not None
        assert model is not None
        trainer = reading.trainer
        if self.score is not None:
            return ScoreReplay(model, self.monitors, self.score, partial(_around, trainer), self.seed)
        if trainer is not None:
            assert isinstance(model, pl.LightningModule)
            assert self._state is not None
            return StepReplay(trainer, model, self.monitors, self._state, self.seed)
        if self.monitors:
            raise ValueError(
                f"Outside a Trainer no validation_step is run again for {self.monitors}: give it `score=`."
            )
        return ScoreReplay(model, [], partial(_forward_alone, reading.run_batch), seed=self.seed)

    def _dealt(self, replay: Replay, batches: Sequence[Seen], groups: int) -> list[ReplayedEpoch]:
        number = min(groups, len(batches))
        return [replay.life() for _ in range(number)] if number > 1 else []


def _run_each(
    replay: Replay, lives: Mapping[_Name, ReplayedEpoch], settings: Mapping[_Name, Setting], seen: Seen
) -> None:
    for name, life in lives.items():
        replay.run(life, seen, settings[name])


def _around(trainer: pl.Trainer | None) -> list[Any]:
    """What a score is run in, within a Trainer."""
    if trainer is None:
        return []
    return [trainer.strategy.precision_plugin.val_step_context(), muted_loggers(trainer)]


def _forward_alone(run_batch: RunBatch | None, model: nn.Module, batch: Any) -> dict[str, Tensor]:
    (run_batch or default_forward(model))(model, batch, 0)
    return {}
