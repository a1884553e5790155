"""A part: the batches that probes are fitted on, run once more with random weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from lightning_interp.batches.forward import default_forward
from lightning_interp.batches.own_data import apart
from lightning_interp.compat import pl
from lightning_interp.distributed import Collective, over_ranks
from lightning_interp.isolation import ModuleState, seed_all
from lightning_interp.isolation.random_weights import Reinit
from lightning_interp.isolation.replay import StepReplay, independent
from lightning_interp.isolation.seen import Seen
from lightning_interp.parts.baseline import Baseline
from lightning_interp.parts.validation_sites import Take, ValidationSites
from lightning_interp.reading.reading import Reading

__all__ = ["ProbeSet"]


class ProbeSet(Baseline):
    """A baseline of random weights that is read on the very batches of a reading.

    They are kept while the reading lasts, where the baseline is still to be read, and run again. It is read at the
    first reading of a fit, and once more where samples turned out to be others; outside of a fit each time.

    Args:
        asked, seed: See :class:`~lightning_interp.parts.baseline.Baseline`.
        keeps: Whether batches of the validation run are kept; data of one's own can be run again anyway.

    Cost: a copy of every batch of such a reading until it is over, and one more forward pass over them.

    Example:
        >>> from torch import nn
        >>> probe_set, reading = ProbeSet(None), Reading(nn.Identity(), step=10)
        >>> probe_set.begin(reading)
        >>> probe_set.of_reading(reading, lambda: {"enc/pos": 0.5}, "LayerProbe")
        {'enc/pos': 0.5}
        >>> probe_set.due_at(reading)
        False

    """

    def __init__(self, asked: bool | Reinit | None, seed: int = 0, keeps: bool = True) -> None:
        self._keeps = keeps
        super().__init__(asked, seed)
        self.forget()

    def clear(self) -> None:
        """A new fit."""
        super().clear()
        self._unsteady = False

    def due_at(self, reading: Reading) -> bool:
        """Whether it is to be read: values that are kept are those of a fit."""
        return self.wanted and not (reading.step is not None and self.values)

    def begin(self, reading: Reading) -> None:
        """A reading starts."""
        self.forget()
        self._keeping = self._keeps and (self.due_at(reading) or self._unsteady)

    def before_batch(self, seen: Seen) -> None:
        """Keep the batch."""
        if self._keeping:
            self._batches.append(replace(seen, batch=independent(seen.batch)))

    def forget(self) -> None:
        """The reading is over, or given up."""
        self._batches: list[Seen] = []
        self._keeping = False

    def start_anew(self) -> None:
        """Keep batches at the next reading too, since its samples may be others again."""
        self._unsteady = True

    # ------------------------------------------------- with random weights

    def of_reading(self, reading: Reading, read: Callable[[], dict[str, float]], name: str) -> Mapping[str, float]:
        """The values that belong to a reading, read with random weights where that is due.

        Args:
            reading: The reading, of which it is known whether its samples are others.
            read: Reads them, by :meth:`run`.
            name: Of the callback, for messages.

        Returns:
            Them, or nothing where they cannot be had, at this reading or at all.

        """
        due = self.due_at(reading)
        if reading.changed is not None and not due:
            # On other samples random weights have other values; without batches these are read at the next reading.
            self.values, due = {}, self._unsteady
        self._unsteady = self._unsteady and reading.rehearsal
        found = self.values
        if due:
            try:
                found = read()
            except Exception as error:
                self.give_up(error, name)
                found = {}
        if reading.counts:
            self.values = found
        return found

    def run(self, reading: Reading, sites: ValidationSites, take: Take, name: str) -> None:
        """Run the batches of a reading through the model with random weights. A collective.

        Args:
            reading: The reading.
            sites: Where to read; its ``forward`` runs a batch, or else the module's own step does.
            take: Gets the rows.
            name: Of the callback, for messages.

        """
        try:
            over_ranks(self._together(reading, sites, take, name), reading.group)
        except Exception:
            sites.forget()
            raise

    def _together(self, reading: Reading, sites: ValidationSites, take: Take, name: str) -> Collective[None]:
        """Ranks exchange nothing here; after it all of them go on, or none."""
        model = reading.model
        # Buffers are drawn anew too: on a copy.
        with apart(model, reading.trainer), self.installed(model, name):
            if sites.own is not None:
                sites.run_own(reading, take, self.seed)
            else:
                step = self._step(reading, sites)
                for seen in self._batches:
                    sites.before_batch(seen)
                    step(seen)
                    for site, rows in sites.rows(seen):
                        take(site, rows)
        yield from ()

    def _step(self, reading: Reading, sites: ValidationSites) -> Callable[[Seen], object]:
        """How a batch goes through the model."""
        model, trainer, forward = reading.model, reading.trainer, sites.forward
        if trainer is not None and forward is None:
            assert isinstance(model, pl.LightningModule)
            replay = StepReplay(trainer, model, [], ModuleState(model).copy(), self.seed)
            life = replay.life()
            return lambda seen: replay.run(life, seen)
        step = reading.run_batch or default_forward(model)
        model.eval()

        def drawn(seen: Seen) -> object:
            seed_all(self.seed + seen.index)
            return step(model, seen.batch, seen.index) if forward is None else forward(model, seen.batch)

        return drawn
