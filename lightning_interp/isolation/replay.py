"""Running kept validation batches again, under one setting after the other, without a trace."""

from __future__ import annotations

import copy
import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from lightning_interp.compat import is_overridden, pl
from lightning_interp.distributed import Collective, Maximum, Sum
from lightning_interp.functional._numerics import wide_dtype
from lightning_interp.isolation.containers import mapped
from lightning_interp.isolation.guards import muted_loggers, no_side_effects, preserved_rng, replaced_logging, seed_all
from lightning_interp.isolation.logged import LoggedValue, LoggedValues
from lightning_interp.isolation.module_state import ModuleState
from lightning_interp.isolation.seen import Seen
from lightning_interp.isolation.weights_copy import WeightsCopy

__all__ = ["ReplayedEpoch", "NotLoggedError", "Replay", "ScoreReplay", "Setting", "StepReplay", "independent"]

Score = Callable[[nn.Module, Any], Mapping[str, Any]]
Setting = Callable[[Seen], AbstractContextManager[Any]]
"""What a batch is run in: called with the batch, gives a context manager that changes the model and puts it back."""
_KINDS = ("", "mean", "sum", "max", "min", "metric")


def independent(batch: Any) -> Any:
    """A batch that shares neither containers nor tensors with the given one: a step may change what it is handed."""
    # An object that is no container of known make, such as a batch of graphs, knows itself how it is copied.
    return mapped(batch, torch.clone, copy.deepcopy)


class NotLoggedError(ValueError):
    """A module does not log a monitor; in the sanity check it may have its reasons."""


@dataclass
class ReplayedEpoch:
    """One setting's epoch: what it has logged, and the state that the module is in under it."""

    state: ModuleState | None = None
    logged: LoggedValues = field(default_factory=LoggedValues)
    sums: dict[str, Tensor] = field(default_factory=dict)


class Replay(ABC):
    """Runs batches in separate lives and gives the monitors of each.

    Args:
        model: The module whose monitors are read.
        monitors: Their names.
        seed: Of whatever the step itself draws: the same for one batch in every life and at every reading.

    """

    def __init__(self, model: nn.Module, monitors: Sequence[str], seed: int = 0) -> None:
        self.model = model
        self.monitors = list(monitors)
        self.seed = seed

    @abstractmethod
    def isolated(self) -> AbstractContextManager[None]:
        """Within, batches may be run; everything is put back."""

    def life(self) -> ReplayedEpoch:
        """A new life, at the beginning of an epoch."""
        return ReplayedEpoch()

    @contextmanager
    def with_weights(self, weights: WeightsCopy) -> Iterator[None]:
        """Within, the model has these weights, and lives begin with the buffers that belong to them."""
        with weights.installed():
            yield

    @abstractmethod
    def run(self, life: ReplayedEpoch, kept: Seen, setting: Setting | None = None) -> None:
        """Run one batch.

        Args:
            life: What it belongs to.
            kept: The batch.
            setting: What it is run in, entered when the model is in the state of this life: hooks and attributes that
                it puts on the model are there in the step.

        """

    @abstractmethod
    def values(self, lives: Sequence[ReplayedEpoch]) -> Collective[list[dict[str, float]]]:
        """Every monitor's value in every life, over all ranks.

        Raises:
            NotLoggedError: If a monitor is not given by the model; on all ranks alike.

        """


class StepReplay(Replay):
    """Runs the module's own ``validation_step`` through the Trainer's strategy, and takes what it logs.

    Each life has module attributes, metric states and buffers of its own, that start as they were when the validation
    run started. A monitor that the step does not log is looked for in the module's ``on_validation_epoch_end``, which
    is then called once in each life.

    Args:
        trainer: The Trainer, during a validation run.
        model: Its module.
        monitors: Names as the module logs them.
        start: The module's state at the beginning of the validation run; each life starts with a copy of it.
        seed: See :class:`Replay`.

    """

    def __init__(
        self, trainer: pl.Trainer, model: pl.LightningModule, monitors: Sequence[str], start: ModuleState, seed: int = 0
    ) -> None:
        super().__init__(model, monitors, seed)
        self.trainer = trainer
        self.module = model
        self._start = start
        self._several = _number_of_loaders(trainer) > 1
        takes = inspect.signature(model.validation_step).parameters
        variadic = any(one.kind is one.VAR_POSITIONAL for one in takes.values())
        self._takes_index = variadic or "batch_idx" in takes or len(takes) > 1

    @contextmanager
    def isolated(self) -> Iterator[None]:
        """See :class:`Replay`; loggers are muted, and the Trainer is in a validation run, not in its sanity check."""
        # Not on a copy: each life installs a state of its own, and what the module has collected may be large.
        real, state = ModuleState(self.model), self.trainer.state
        stage = state.stage
        if self.trainer.sanity_checking:
            # A module may log nothing there, or under other names.
            state.stage = type(stage).VALIDATING  # type: ignore[union-attr]
        try:
            with preserved_rng(), muted_loggers(self.trainer):
                yield
        finally:
            state.stage = stage
            real.install()

    def life(self) -> ReplayedEpoch:
        """A new life, with the state that the module had when the validation run started."""
        return ReplayedEpoch(state=self._start.copy())

    @contextmanager
    def with_weights(self, weights: WeightsCopy) -> Iterator[None]:
        """See :class:`Replay`."""
        own, self._start = self._start, self._start.copy()
        self._start.install()
        try:
            with weights.installed():
                self._start.refresh()
                yield
        finally:
            self._start = own

    def run(self, life: ReplayedEpoch, kept: Seen, setting: Setting | None = None) -> None:
        """Run ``validation_step`` and the hooks of the module around it."""
        assert life.state is not None
        state = life.state if kept.counted else life.state.copy()
        logged = life.logged if kept.counted else LoggedValues()
        batch = independent(kept.batch)
        place = (kept.index, *([kept.loader] if self._several else []))
        args = (batch, *(place if self._takes_index else ()))
        state.install()
        seed_all(self.seed + kept.index)
        with _within(setting, kept), replaced_logging(self.module, logged.collector(batch)):
            self._hook("on_validation_batch_start", batch, *place)
            outputs = self.trainer.strategy.validation_step(*args)
            self._hook("on_validation_batch_end", outputs, batch, *place)
        state.refresh()

    def _hook(self, name: str, *args: Any) -> None:
        if is_overridden(name, self.module):
            getattr(self.module, name)(*args)

    def values(self, lives: Sequence[ReplayedEpoch]) -> Collective[list[dict[str, float]]]:
        """See :class:`Replay`."""
        values, missing = yield from self._merged(lives, [life.logged for life in lives])
        if missing and is_overridden("on_validation_epoch_end", self.module):
            at_end = [LoggedValues() for _ in lives]
            for life, logged in zip(lives, at_end, strict=True):
                assert life.state is not None
                life.state.install()
                with replaced_logging(self.module, logged.collector()):
                    self.module.on_validation_epoch_end()
                life.state.refresh()
            late, missing = yield from self._merged(lives, at_end, only=missing)
            values = [{**first, **second} for first, second in zip(values, late, strict=True)]
            known = {**lives[0].logged.entries, **at_end[0].entries}
        else:
            known = lives[0].logged.entries
        if missing:
            raise NotLoggedError(self._unserved(missing, list(known), lives[0].logged.step_only))
        return values

    def _merged(
        self, lives: Sequence[ReplayedEpoch], logged: Sequence[LoggedValues], only: Sequence[str] | None = None
    ) -> Collective[tuple[list[dict[str, float]], list[str]]]:
        """Values over all ranks, and the monitors that no rank has."""
        names = list(self.monitors if only is None else only)
        entries = [[one.entries.get(name, LoggedValue("")) for name in names] for one in logged]
        kinds: Tensor = yield Maximum(torch.tensor([[_KINDS.index(e.reduction) for e in row] for row in entries]))
        # A metric is computed by all ranks together or by none.
        for row, kinds_here in zip(entries, kinds.tolist(), strict=True):
            for name, entry, kind in zip(names, row, kinds_here, strict=True):
                if _KINDS[kind] == "metric" and entry.metric is None:
                    raise ValueError(f"{name!r} is a metric that another rank logged and this one did not.")
        sums: Tensor = yield Sum(_sums(entries))
        extremes: Tensor = yield Maximum(_extremes(entries))
        values: list[dict[str, float]] = []
        for number, (life, row) in enumerate(zip(lives, entries, strict=True)):
            found: dict[str, float] = {}
            for place, (name, entry) in enumerate(zip(names, row, strict=True)):
                kind = _KINDS[int(kinds[number, place])]
                total, weight = sums[number, place].tolist()
                if kind == "metric" and entry.metric is not None:
                    found[name] = self._computed(life, name, entry.metric)
                elif kind in ("mean", "sum"):
                    found[name] = total / weight if kind == "mean" else total
                elif kind:
                    found[name] = float(extremes[number, place]) * (1 if kind == "max" else -1)
            values.append(found)
        missing = [name for place, name in enumerate(names) if not int(kinds[0, place])]
        return values, missing

    def _computed(self, life: ReplayedEpoch, name: str, metric: Metric) -> float:
        assert life.state is not None
        life.state.install()
        value = metric.compute()
        life.state.refresh()
        if not isinstance(value, Tensor) or value.numel() != 1:
            raise ValueError(f"The metric logged as {name!r} gives {type(value).__name__}, not one number.")
        return float(value)

    def _unserved(self, missing: Sequence[str], known: Sequence[str], step_only: set[str]) -> str:
        steps = f" (and for the step alone, with on_epoch=False: {sorted(step_only)})" if step_only else ""
        return (
            f"`monitors` names {missing}, which {type(self.module).__name__} logs neither in validation_step nor in "
            f"on_validation_epoch_end when these are run again; what they do log: {sorted(known) or 'nothing'}{steps}. "
            "Name one of those, or give `score=`, a callable on module and batch that returns per-example sums."
        )


class ScoreReplay(Replay):
    """Takes monitors from a callable that returns per-example values.

    Args:
        model: The model.
        monitors: Names that the callable returns.
        score: Called with model and batch; returns for each monitor a tensor (B,), or a tuple of sums (B,) and counts
            (B,), whose totals are divided.
        context: Context managers to run it in (precision, muted loggers).
        seed: See :class:`Replay`.

    """

    def __init__(
        self,
        model: nn.Module,
        monitors: Sequence[str],
        score: Score,
        context: Callable[[], Sequence[Any]] = tuple,
        seed: int = 0,
    ) -> None:
        super().__init__(model, monitors, seed)
        self.score = score
        self.context = context

    def isolated(self) -> AbstractContextManager[None]:
        """See :class:`Replay`."""
        return no_side_effects(self.model)

    def run(self, life: ReplayedEpoch, kept: Seen, setting: Setting | None = None) -> None:
        """Call the score on one batch, and add up the samples that count."""
        batch = independent(kept.batch)
        seed_all(self.seed + kept.index)
        with ExitStack() as stack:
            for manager in self.context():
                stack.enter_context(manager)
            stack.enter_context(_within(setting, kept))
            found = self.score(self.model, batch)
        absent = [name for name in self.monitors if name not in found]
        if absent:
            raise ValueError(f"`monitors` names {absent}, which `score` does not return: it returns {sorted(found)}.")
        if kept.counted:
            for name in self.monitors:
                sums = _per_example(name, found[name], len(kept.selection.batch))
                life.sums[name] = life.sums.get(name, 0) + kept.selection.of(sums).sum(0)

    def values(self, lives: Sequence[ReplayedEpoch]) -> Collective[list[dict[str, float]]]:
        """See :class:`Replay`."""
        names = self.monitors
        if not names:
            return [{} for _ in lives]
        nothing = torch.zeros(2)
        sums = [[life.sums.get(name, nothing).to("cpu", torch.float64) for name in names] for life in lives]
        merged: Tensor = yield Sum(torch.stack([torch.stack(row) for row in sums]))
        return [
            {name: total / count if count else math.nan for name, (total, count) in zip(names, row, strict=True)}
            for row in merged.tolist()
        ]


def _within(setting: Setting | None, kept: Seen) -> AbstractContextManager[Any]:
    return nullcontext() if setting is None else setting(kept)


def _per_example(name: str, value: Any, size: int) -> Tensor:
    sums, counts = value if isinstance(value, tuple | list) and len(value) == 2 else (value, None)
    sums = torch.as_tensor(sums)
    counts = torch.ones_like(sums) if counts is None else torch.as_tensor(counts, device=sums.device)
    if sums.shape != (size,) or counts.shape != (size,):
        raise ValueError(
            f"`score` gave {tuple(sums.shape)} sums and {tuple(counts.shape)} counts for {name!r}; expected ({size},), "
            "one entry per example."
        )
    wide = wide_dtype(sums.device)
    return torch.stack([sums.detach().to(wide), counts.detach().to(wide)], dim=1)


def _sums(entries: Sequence[Sequence[LoggedValue]]) -> Tensor:
    """Weighted totals and weights of means and sums, (lives, monitors, 2)."""

    def one(entry: LoggedValue) -> tuple[float, float]:
        added = entry.total is not None and entry.reduction in ("mean", "sum")
        return (float(entry.total), entry.weight) if added else (0.0, 0.0)  # type: ignore[arg-type]

    return torch.tensor([[one(entry) for entry in row] for row in entries], dtype=torch.float64)


def _extremes(entries: Sequence[Sequence[LoggedValue]]) -> Tensor:
    """Maxima, and minima with their sign changed, (lives, monitors)."""

    def one(entry: LoggedValue) -> float:
        sign = {"max": 1.0, "min": -1.0}.get(entry.reduction)
        return -math.inf if sign is None or entry.total is None else sign * float(entry.total)

    return torch.tensor([[one(entry) for entry in row] for row in entries], dtype=torch.float64)


def _number_of_loaders(trainer: pl.Trainer) -> int:
    return len(trainer.num_sanity_val_batches if trainer.sanity_checking else trainer.num_val_batches)
