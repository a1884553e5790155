"""What the callbacks of one Trainer do together: names and keys, gates, the file of readings, pictures, the page."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary

from torch import nn

from lightning_interp.compat import pl
from lightning_interp.distributed import world_size
from lightning_interp.reading.analyses import analyses, check_twins, clashes, silence_sync_warning, unique_name
from lightning_interp.reading.drawing_clock import DrawingClock
from lightning_interp.reading.gate_checks import check_gates
from lightning_interp.reading.history import CsvLog, merge_rows, with_settings
from lightning_interp.reading.loader_names import loader_names
from lightning_interp.reading.newly_logged import NewlyLogged
from lightning_interp.reading.page import Source, page
from lightning_interp.reading.same_arguments import check_same_arguments
from lightning_interp.reading.val_loop import tell_no_validation, why_no_validation
from lightning_interp.reporting import Reporter, log_folder
from lightning_interp.reporting.attempt import attempt

__all__ = ["Columns", "RunLog"]

Columns: TypeAlias = Mapping[int, Mapping[str, float | str]]
"""What stands in a row beside its readings: step → column → value."""

# May differ between ranks: files and pictures are made on one of them.
_OF_RANK = ("draw_figures", "figure_interval", "write_csv")


class _Round:
    """Which members have come to a hook: tells the first and the last of each time that it is called."""

    def __init__(self) -> None:
        self._came: set[int] = set()

    def first(self, member: object) -> bool:
        """The member comes; whether it is the first to do so."""
        if id(member) in self._came:
            self._came.clear()
        self._came.add(id(member))
        return len(self._came) == 1

    def last(self, member: object, members: Sequence[object]) -> bool:
        """The member comes; whether all have come by now."""
        self.first(member)
        return all(id(one) in self._came for one in members)


class RunLog:
    """What exists once in a Trainer, whichever callbacks there are and in whatever order they stand.

    A callback calls :meth:`joins` as a fit starts, :meth:`training_starts`, :meth:`validation_starts`,
    :meth:`validation_ends` and :meth:`fit_ends` in the hooks of these names, each of them always; what has to be done
    once is done when the first or the last of them has come.

    Args:
        trainer: The Trainer.

    """

    def __init__(self, trainer: pl.Trainer) -> None:
        self._live = weakref.ref(trainer)
        self.reporter: Reporter | None = None
        """Shows loggers what is no number; ``None`` outside a fit."""
        self.clock: DrawingClock | None = None
        """By which pictures are drawn; on rank 0 alone."""
        self.fresh = NewlyLogged()
        """What the present validation logged."""
        self.shared: dict[Any, Any] = {}
        """What readings of the present validation found that another may need, too."""
        self._since = NewlyLogged()
        self._context: dict[str, float] | None = None
        self._file: CsvLog | None = None
        self._said: set[str] = set()
        self._owners: dict[str, Any] = {}
        self._fit, self._claims, self._trains, self._starts, self._ends, self._over = (_Round() for _ in range(6))
        self._forget_page()

    @staticmethod
    def of(trainer: pl.Trainer) -> RunLog:
        """That of a Trainer."""
        log = _LOGS.get(trainer)  # asked for at every training step
        if log is None:
            log = _LOGS[trainer] = RunLog(trainer)
        return log

    # ------------------------------------------------- who takes part

    @property
    def _trainer(self) -> Any:
        trainer = self._live()
        assert trainer is not None
        return trainer

    @property
    def analyses(self) -> list[Any]:
        """The analyses, in the order of the Trainer."""
        return analyses(self._trainer)

    @property
    def deciders(self) -> list[Any]:
        """The callbacks that decide on readings."""
        return [one for one in self._trainer.callbacks if getattr(type(one), "is_decision", False)]

    @property
    def members(self) -> list[Any]:
        """Both."""
        return [*self.analyses, *self.deciders]

    def name_of(self, analysis: Any) -> str:
        """The class name; the second and later analyses of a class are numbered."""
        return unique_name(analysis, self._trainer)

    def claim(self, analysis: Any, model: nn.Module) -> frozenset[str]:
        """Take the keys of an analysis that is attached to a model.

        Returns:
            Facts that an earlier callback reports, which this one leaves to it.

        Raises:
            ValueError: If an earlier analysis has another key in common with it, or the same state in a checkpoint.

        """
        if self._claims.first(analysis):
            self._owners = {}
        facts = clashes(analysis, model, self._owners)
        check_twins(analysis, self._trainer)
        mine = [analysis.full_key(key) for key in analysis.measures(model)]
        self._owners |= {key: analysis for key in mine if key not in self._owners}
        if world_size() > 1:
            silence_sync_warning([*mine, *map(analysis.full_key, analysis.own_keys())])
        return facts

    # ------------------------------------------------- a fit

    def joins(self, member: Any) -> None:
        """A fit starts. What ranks must do together is done by the first."""
        trainer = self._trainer
        if self._fit.first(member):
            self._forget_page()
            readers = self.analyses
            if readers:
                check_same_arguments({unique_name(one, trainer): one.given(leave_out=_OF_RANK) for one in readers})
            self.reporter = Reporter(log_folder(trainer))
            self.clock = DrawingClock() if trainer.is_global_zero else None
        if self.clock is not None and hasattr(type(member), "drawable"):
            self.clock.add(member)

    def training_starts(self, member: Any, pl_module: pl.LightningModule) -> None:
        """Check what gates watch, and that there will be something to read; only now does Lightning know of both."""
        if self._trains.first(member):
            trainer = self._trainer
            check_gates(trainer, pl_module)
            names = [unique_name(one, trainer) for one in self.analyses]
            tell_no_validation(trainer, pl_module, [*names, *(type(one).__name__ for one in self.deciders)])

    def validation_starts(self, member: Any) -> None:
        """Remember what is there before this validation logs anything."""
        if self._starts.first(member):
            self.fresh.start(self._trainer)
            self.shared = {}

    def validation_ends(self, member: Any, pl_module: pl.LightningModule) -> None:
        """Write readings and lay out the page, once all have decided and have their reading."""
        if not self._ends.last(member, self.members):
            return
        trainer = self._trainer
        if trainer.state.fn == "fit":
            if not trainer.sanity_checking:
                self._attempt("write readings.csv", self.write)
            if self.reporter is not None and not trainer.sanity_checking and trainer.is_global_zero:
                self._attempt("lay out its charts", lambda: self._lay_out(pl_module))
        # What is logged from here on is fresh at the next reading; what is not by then is old.
        self._since.start(trainer)
        self._context, self.shared = None, {}

    def fit_ends(self, member: Any, pl_module: pl.LightningModule) -> None:
        """Draw the last pictures of a member; write what could not be written before, and say where there is none."""
        if hasattr(type(member), "drawable"):
            self.draw(lambda clock: clock.end(member))
        if self._over.last(member, self.members):
            self._attempt("write readings.csv", self.write)
            self._tell_nothing_read(pl_module)

    def draw(self, work: Callable[[DrawingClock], None]) -> None:
        """Tell the clock of a moment, on the rank that draws: ``log.draw(DrawingClock.tick)``."""
        clock = self.clock
        if clock is not None:
            self._attempt("draw", lambda: work(clock))

    def _attempt(self, what: str, work: Callable[[], object]) -> None:
        attempt("lightning_interp", self._said, what, work)

    def _tell_nothing_read(self, pl_module: pl.LightningModule) -> None:
        empty = [one for one in self.analyses if not len(one.history)]
        if empty and not why_no_validation(self._trainer, pl_module):
            seen = "; ".join(
                f"{self.name_of(one)}: {one.validations} validation runs, {one.failed} dropped" for one in empty
            )
            pl.utilities.rank_zero_warn(f"The fit ended without a reading ({seen}).")

    # ------------------------------------------------- what others logged

    def context(self) -> dict[str, float]:
        """What the model and others logged since the last validation, without what callbacks of this package did."""
        if self._context is None:
            ours = self._ours()
            self._context = {key: value for key, value in self._since.read(self._trainer).items() if key not in ours}
        return dict(self._context)

    def _ours(self) -> set[str]:
        ours = {key for one in self.analyses for key in (*one.reading, *map(one.full_key, one.own_keys()))}
        # Phases are logged when the reading is over: what stands there now is that of the validation before.
        others = [one for one in self.deciders if hasattr(one, "logged_keys")]
        return ours | {key for one in others for key in getattr(one, "known_keys", one.logged_keys)()}

    # ------------------------------------------------- the file

    def write(self) -> None:
        """Bring ``readings.csv`` up to date; rank 0 alone does."""
        readers = [one for one in self.analyses if one.write_csv]
        decided = [one.columns() for one in self.deciders if one.write_csv]
        folder = None if self.reporter is None else self.reporter.folder
        if folder is None or not self._trainer.is_global_zero or not (readers or decided):
            return
        # A second fit of one Trainer goes on with its file.
        if self._file is None or self._file.asked != folder / "readings.csv":
            self._file = CsvLog(folder / "readings.csv")
        histories = [one.history for one in readers]

        def rows(after: int | None) -> list[dict[str, Any]]:
            found: dict[int, dict[str, Any]] = {
                int(row["step"]): dict(row) for row in merge_rows(histories, after=after)
            }
            for columns in decided:
                for step, cells in columns.items():
                    if after is None or step > after:
                        row = found.setdefault(step, {"step": step})
                        row.update({name: cell for name, cell in cells.items() if name not in row})
            return with_settings([found[step] for step in sorted(found)], histories)

        self._file.write(rows)

    # ------------------------------------------------- the page

    def _forget_page(self) -> None:
        self._own: dict[str, None] = {}
        self._laid_out = False

    def _lay_out(self, pl_module: pl.LightningModule) -> None:
        """The page of charts, anew where a validation logged what none before it did."""
        trainer, before = self._trainer, len(self._own)
        ours = self._ours()
        self._own |= dict.fromkeys(key for key in self.fresh.names(trainer) if key not in ours)
        if self._laid_out and len(self._own) == before:
            return
        self._laid_out = True
        names = loader_names(pl_module, getattr(trainer, "datamodule", None))
        callbacks: list[Any] = trainer.callbacks
        sources: list[Source] = [
            one.page_source(pl_module, names) for one in callbacks if hasattr(type(one), "page_source")
        ]
        assert self.reporter is not None
        self.reporter.layout(trainer, page(list(self._own), sources, names), first=True)


_LOGS: WeakKeyDictionary[Any, RunLog] = WeakKeyDictionary()
