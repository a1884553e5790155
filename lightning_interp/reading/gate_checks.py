"""Whether the keys that EarlyStopping, ModelCheckpoint and ReduceLROnPlateau watch are keys that a gate can use."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from lightning_interp.compat import pl
from lightning_interp.reading.analyses import analyses
from lightning_interp.reading.directions import known_directions
from lightning_interp.reporting.measure_words import is_measure

__all__ = ["check_gates", "explain_missing", "known_keys"]


def check_gates(trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
    """Refuse gates that could not act on what this library logs, and warn of those that act on old values.

    Looks at every ``EarlyStopping`` and ``ModelCheckpoint`` of the Trainer and at every ``ReduceLROnPlateau``, which
    Lightning knows only once training starts: the first analysis of a Trainer calls it in ``on_train_start``. Keys that
    are not this library's are none of its business, and are left to Lightning.

    ====================================================================  ===========================================
    a gate watches                                                        what happens
    ====================================================================  ===========================================
    a key of ours that may be undefined at a reading                      error; names the one that is always defined,
                                                                          unless the gate has ``strict=False``
    a key of ours of level ``"full"`` where the callback logs a summary   error; says ``log="full"``
    a key whose first part is a measure of ours, but that nobody logs     error; names the nearest keys
    a key that is read at every n-th validation only                      warning: in between it sees the old value
    any key of ours, and acts by training steps or time                   warning: it acts before the validation of its
                                                                          step
    a key of ours the wrong way: ``mode="min"`` where more is better      warning, once
    ====================================================================  ===========================================

    :class:`~lightning_interp.callbacks.PhaseEarlyStopping` is not among these gates: it counts fresh readings only.

    Args:
        trainer: The Trainer.
        pl_module: The model in it.

    Raises:
        ValueError: See the table.

    Cost:
        Under a millisecond.

    """
    readers = analyses(trainer)
    if not readers:
        return
    undefined = {key: other for one in readers for key, other in one.conditional_keys(pl_module).items()}
    known = known_keys(trainer, pl_module)
    rare = {key: _rhythm(one) for one in readers for key in one.logged_keys(pl_module)}
    withheld = {
        key
        for one in [*readers, *_others(trainer)]
        for key in _all_keys(one, pl_module).difference(one.logged_keys(pl_module))
    }
    directions = known_directions(trainer, pl_module)
    ours = {told.measure.name for told in directions.values()}
    prefixes = {one.prefix for one in readers} | {""}
    for gate in _gates(trainer):
        key = gate.monitor
        if key in undefined and gate.strict:
            raise ValueError(
                f"{gate.name} monitors {key!r}, which is undefined at some readings and then not logged, so that "
                f"the gate would wait in vain.{_instead(undefined[key], known)}{_lenient(gate)}"
            )
        if key in known:
            better = directions[key].mode if key in directions else None
            if better is not None and gate.mode not in ("", better):
                pl.utilities.rank_zero_warn(
                    f"{gate.name} monitors {key!r} with mode={gate.mode!r}, and of {directions[key].measure.title} "
                    f"{directions[key].measure.better} is better: give mode={better!r}."
                )
            if gate.by_step:
                pl.utilities.rank_zero_warn(
                    f"{gate.name} monitors {key!r} and saves by {gate.by_step}, before the validation of that step has "
                    "run, so it sees the value of the validation before. Leave that argument out, and it saves after "
                    "each validation, with its value."
                )
            if rare.get(key):
                pl.utilities.rank_zero_warn(
                    f"{gate.name} monitors {key!r}, which is read {rare[key]}; in between it acts on the old value. "
                    "Set `every_n_validations=1` and no `max_overhead`, or use PhaseEarlyStopping, which counts fresh "
                    "readings only."
                )
        elif key in withheld or any(
            "/" in key and (first := _first(key, one)) and (first in ours or is_measure(first)) for one in prefixes
        ):
            raise ValueError(f"{gate.name} monitors {explain_missing(trainer, pl_module, key)}")


def _instead(key: str, known: frozenset[str]) -> str:
    """What to monitor instead of a key that may be undefined."""
    if not key:
        return ""
    full = "" if key in known else ', and needs `log="full"`'
    return f" Use {key!r} instead, which is always defined{full}."


def _lenient(gate: _Gate) -> str:
    """How a gate goes on without a value, where it can."""
    return " With `strict=False` it goes by the readings that have a value." if gate.can_be_lenient else ""


def _rhythm(analysis: Any) -> str:
    """How seldom an analysis reads, in words; empty where it reads every validation run."""
    if analysis.max_overhead is not None:
        return f"only when `max_overhead={analysis.max_overhead}` allows it"
    every = analysis.every_n_validations
    return f"at every {every}. validation only" if every > 1 else ""


def known_keys(trainer: pl.Trainer, pl_module: pl.LightningModule) -> frozenset[str]:
    """Every key that the analyses in the Trainer log, though perhaps not at each validation."""
    return frozenset(key for one in analyses(trainer) for key in one.logged_keys(pl_module))


def explain_missing(
    trainer: pl.Trainer, pl_module: pl.LightningModule, key: str, logged: Iterable[str] | None = None
) -> str:
    """What to say of a key that nobody logs: the key, why it may be missing, and what there is.

    Args:
        trainer: The Trainer.
        pl_module: The model in it.
        key: The key.
        logged: What a validation run logged, where there has been one.

    """
    for one in [*analyses(trainer), *_others(trainer)]:
        if key in _all_keys(one, pl_module):
            name = type(one).__name__
            return f'{key!r}, which {name} logs at another level only: give {name} `log="full"`.'
    available = sorted({*known_keys(trainer, pl_module), *(logged or ())})
    nearest = difflib.get_close_matches(key, available, n=5, cutoff=0.4)
    near = f" Nearest: {', '.join(map(repr, nearest))}." if nearest else ""
    shown = [name for name in available if not name.startswith(("seconds/", "failed/"))]
    rest = f" and {len(shown) - 20} more" if len(shown) > 20 else ""
    return f"{key!r}, which nobody logs.{near} Available: {', '.join(map(repr, shown[:20])) or 'none'}{rest}."


def _others(trainer: pl.Trainer) -> list[Any]:
    """Callbacks here that log and are no analyses."""
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    return [one for one in callbacks if hasattr(type(one), "measures") and not hasattr(type(one), "is_analysis")]


def _all_keys(callback: Any, pl_module: pl.LightningModule) -> set[str]:
    """Keys of every level, the time that readings take among them."""
    measures: Mapping[str, str] = callback.measures(pl_module)
    if not hasattr(type(callback), "is_analysis"):
        return set(measures)
    return {callback.full_key(key) for key in (*measures, callback.own_keys()[0])}


def _first(key: str, prefix: str) -> str:
    return key.removeprefix(prefix).split("/")[0]


class _Gate(NamedTuple):
    """Something that watches a key."""

    name: str
    monitor: str
    mode: str = ""
    """Which way it takes for better."""
    by_step: str = ""
    """The argument by which it acts while training batches end."""
    strict: bool = True
    """Whether it raises where its key is missing."""
    can_be_lenient: bool = True
    """Whether it has an argument for that."""


def _gates(trainer: pl.Trainer) -> Iterator[_Gate]:
    """Every gate that watches a key."""
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    for callback in callbacks:
        if isinstance(callback, pl.callbacks.EarlyStopping | pl.callbacks.ModelCheckpoint) and callback.monitor:
            steps = "every_n_train_steps" if getattr(callback, "_every_n_train_steps", 0) else ""
            time = "train_time_interval" if getattr(callback, "_train_time_interval", None) else ""
            # ModelCheckpoint has no such argument.
            strict = getattr(callback, "strict", None)
            yield _Gate(
                type(callback).__name__,
                callback.monitor,
                callback.mode,
                steps or time,
                strict=strict is not False,
                can_be_lenient=strict is not None,
            )
    for config in trainer.lr_scheduler_configs:
        if config.reduce_on_plateau and config.monitor:
            mode = getattr(config.scheduler, "mode", "")
            yield _Gate(type(config.scheduler).__name__, config.monitor, mode, strict=config.strict)
