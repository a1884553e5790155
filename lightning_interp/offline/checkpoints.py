"""The curves of the callbacks for the checkpoints of a finished training."""

from __future__ import annotations

import argparse
import copy
import gc
import os
import pickle
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import nn
from tqdm import tqdm  # type: ignore[import-untyped]

from lightning_interp.batches.forward import Forward
from lightning_interp.compat import pl
from lightning_interp.distributed.positions import SamplePositions
from lightning_interp.offline.analyze import analyze
from lightning_interp.offline.checkpoint_files import fitted_names, held_in, tensors_in
from lightning_interp.reading.analysis import ValidationAnalysis
from lightning_interp.reading.history import History, ReadingRow
from lightning_interp.reading.run_settings import package_versions
from lightning_interp.reporting.plain_values import Settings

__all__ = ["analyze_checkpoints"]

Checkpoint: TypeAlias = str | os.PathLike[str]
Build: TypeAlias = Callable[[Any], nn.Module]
Steps: TypeAlias = Mapping[Any, int] | Callable[[Any], int]

UNKNOWN_EPOCH = -1
# A number that goes on ("step10k", "step1.5") is not a number of steps that can be read off.
_STEP = re.compile(r"(?<![a-z])(?:(?:global_?)?step|checkpoint|ckpt)[=_-]?(\d+)(?![\da-z]|\.\d)", re.IGNORECASE)

# The copy that ``save_last=True`` keeps of the newest one.
_LAST = re.compile(r"last(-v\d+)?\.ckpt")


def analyze_checkpoints(
    paths: Checkpoint | Sequence[Checkpoint],
    dataloader: Iterable[Any],
    callbacks: ValidationAnalysis | Sequence[ValidationAnalysis],
    load: Build | None = None,
    *,
    module: type[pl.LightningModule] | pl.LightningModule | None = None,
    steps: Steps | None = None,
    forward: Forward | None = None,
    progress: bool = True,
) -> History:
    """Read the checkpoints of a finished training: the curves that the callbacks would have logged while it ran.

    Every checkpoint is read by :func:`analyze` with the callbacks as they are given: the same examples and the same
    reference points, so that values compare from one to the next. What a callback carries from one reading to the next
    (the level before training, the previous reading) it does not have here. One model is in memory at a time.

    Args:
        paths: A folder, of which every ``*.ckpt`` is read, also in folders within (a slash in a monitored metric's name
            makes them), but ``last.ckpt`` where another is of its step; or a list of files, of folders, or of names
            that only ``load`` understands (the revisions of a model hub).
        dataloader: Batches, the same at every pass.
        callbacks: What to read.
        load: Builds the model of one checkpoint. It is called with the entry of ``paths`` or, for a folder, with the
            ``Path`` of the file.
        module: Instead of ``load``, for checkpoints of Lightning: the class, which is built from the hyperparameters
            in the checkpoint, on the CPU; or an instance, which takes each checkpoint's weights where it is, and has
            its own again in the end. Names that compiling, sharding or DDP put into a state dict, on either side
            (``_orig_mod.``), do not matter. Files are read with ``weights_only=True``; an instance takes the weights of
            one that holds other objects too, which are not looked at. It also takes a folder of shards that
            ``torch.distributed.checkpoint`` wrote, whose ``.metadata`` is unpickled: read such folders of people you
            trust.
        steps: The step of each checkpoint, by the entry or its last name, or a function of the entry. Otherwise it is
            ``global_step`` of a Lightning checkpoint, else the number in the last name (``step=1000``, ``step1000``,
            ``checkpoint-1000``).
        forward: How to run a batch, as for :func:`analyze`.
        progress: Show a progress bar.

    Returns:
        The readings by increasing step, with :meth:`~lightning_interp.reading.History.write_csv`, ``to_pandas`` and
        ``plot``. A reading's epoch is the Lightning checkpoint's, and −1 where the step came
        from elsewhere.

    Raises:
        ValueError: If there is no checkpoint, one whose step cannot be told, or two of one step; if not exactly one of
            ``load`` and ``module`` is given; if the loader shuffles or can be passed through only once; if a file is
            cut off, or only a class was given for one that holds objects or for a folder.
        TypeError: If ``load`` returns no ``nn.Module``.

    Errors while a checkpoint is loaded or read carry a note that names it.

    Cost: loading each checkpoint and one pass over the loader. The step of a Lightning checkpoint is read before, at
    the cost of its index and not of its weights.

    Example:
        >>> from lightning_interp import RepresentationGeometry
        >>> def load(revision: str) -> torch.nn.Module:
        ...     torch.manual_seed(int(revision.removeprefix("step")))
        ...     return torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.ReLU())
        >>> geometry = RepresentationGeometry(sites={"hidden": "0"})
        >>> found = analyze_checkpoints(["step100", "step10"], [torch.randn(16, 8)], geometry, load, progress=False)
        >>> found.steps
        [10, 100]

    """
    if (load is None) == (module is None):
        raise ValueError(
            "Give either `load`, which builds the model of a checkpoint, or `module`, a LightningModule whose "
            f"checkpoints these are; got {'neither' if load is None else 'both'}."
        )
    _check_repeatable(dataloader)
    ordered = _by_step(_entries(paths), steps, spare_last=isinstance(paths, str | os.PathLike))
    history = History()
    with _builder(load, module) as build:
        for index, (step, epoch, entry) in enumerate(tqdm(ordered, desc="checkpoints", disable=not progress)):
            try:
                model: nn.Module | None = build(entry)
                if not isinstance(model, nn.Module):
                    raise TypeError(f"`load` must return an nn.Module, got {type(model).__name__}.")
                values = analyze(model, dataloader, callbacks, forward, progress=False)
            except Exception as error:
                error.add_note(f"This was checkpoint {os.fspath(entry)!r} of step {step}.")
                raise
            # The next model is built when this one is gone; one that refers to itself, as every LightningModule does
            # after save_hyperparameters, goes no other way.
            model = None
            gc.collect()
            history.note(_settings(callbacks))
            history.append(ReadingRow(step, epoch, index, values))
    return history


def _settings(callbacks: ValidationAnalysis | Sequence[ValidationAnalysis]) -> Settings:
    found, seen = package_versions(), Counter[str]()
    for reader in [callbacks] if isinstance(callbacks, ValidationAnalysis) else callbacks:
        name = type(reader).__name__
        seen[name] += 1
        name += f"_{seen[name]}" if seen[name] > 1 else ""
        found |= {f"{name}/{key}": value for key, value in reader.settings().items()}
    return found


def _entries(paths: Checkpoint | Sequence[Checkpoint]) -> list[Checkpoint]:
    if not isinstance(paths, str | os.PathLike):
        entries = list(paths)
        if not entries:
            raise ValueError("`paths` is empty: expected at least one checkpoint.")
        return entries
    folder = Path(paths)
    if not folder.is_dir():
        raise ValueError(f"`paths` is {str(folder)!r}, which is no folder; put single checkpoints into a list.")
    # A copy of the newest comes after what it may be a copy of.
    files: list[Checkpoint] = [*sorted(folder.rglob("*.ckpt"), key=lambda path: (_is_last(path), path))]
    if not files:
        raise ValueError(f"There is no *.ckpt in {str(folder)!r}; it has {sorted(os.listdir(folder))[:10]}.")
    return files


def _is_last(entry: Checkpoint) -> bool:
    return _LAST.fullmatch(Path(entry).name) is not None


def _check_repeatable(dataloader: Iterable[Any]) -> None:
    # Asked of the type: making an iterator of a DataLoader draws from the global stream and starts its workers.
    if isinstance(dataloader, Iterator):
        raise ValueError(
            f"`dataloader` is a {type(dataloader).__name__}, which can be passed through only once, and every "
            "checkpoint needs a pass: give a DataLoader or a list of batches."
        )
    if SamplePositions(dataloader).shuffled:
        raise ValueError("`dataloader` shuffles, so checkpoints would be read on other examples: use shuffle=False.")


# ------------------------------------------------- steps


def _by_step(entries: Sequence[Checkpoint], steps: Steps | None, spare_last: bool) -> list[tuple[int, int, Checkpoint]]:
    found: dict[int, tuple[int, int, Checkpoint]] = {}
    for entry in entries:
        step, epoch = _told(entry) if steps is None else (_looked_up(entry, steps), UNKNOWN_EPOCH)
        if step in found and spare_last and _is_last(entry) and not _is_last(found[step][2]):
            continue
        if step in found:
            raise ValueError(
                f"{os.fspath(found[step][2])!r} and {os.fspath(entry)!r} are both of step {step}: give a list with "
                "one of them, or tell their steps by `steps`."
            )
        found[step] = (step, epoch, entry)
    return [found[step] for step in sorted(found)]


def _looked_up(entry: Checkpoint, steps: Steps) -> int:
    if callable(steps):
        step = steps(entry)
    else:
        name = os.fspath(entry)
        known = [key for key in (entry, name, Path(name).name) if key in steps]
        if not known:
            raise ValueError(f"`steps` has no step for {name!r}; it has {list(steps)}.")
        step = steps[known[0]]
    if isinstance(step, bool) or not isinstance(step, int | np.integer) or step < 0:
        raise ValueError(f"`steps` gives {step!r} for {os.fspath(entry)!r}; expected a whole number from 0 on.")
    return int(step)


def _told(entry: Checkpoint) -> tuple[int, int]:
    """Step and epoch by what the checkpoint holds, else the step by its name."""
    path, why = Path(entry), "it is not a file of torch.save"
    if path.exists():
        try:
            # Mapped, not read: the weights and the optimizer's state stay on the disk.
            held = held_in(path)
        except (OSError, ValueError) as error:
            why = str(error)
        else:
            if isinstance(held, Mapping) and isinstance(held.get("global_step"), int):
                return held["global_step"], int(held.get("epoch", UNKNOWN_EPOCH))
            why = "it holds no `global_step`"
    numbers = {int(number) for number in _STEP.findall(path.name)}
    if len(numbers) == 1:
        return numbers.pop(), UNKNOWN_EPOCH
    raise ValueError(
        f"The step of {os.fspath(entry)!r} cannot be told: {why}, and its name has "
        f"{f'the numbers {sorted(numbers)}' if numbers else 'no number'} of the form step=1000, step1000 or "
        "checkpoint-1000. Give it by `steps`."
    )


# ------------------------------------------------- models


@contextmanager
def _builder(load: Build | None, module: type[pl.LightningModule] | pl.LightningModule | None) -> Iterator[Build]:
    """What gives the model of an entry; an instance that lends its place has its own weights again afterwards."""
    if load is not None:
        yield load
    elif isinstance(module, pl.LightningModule):
        lent, own = module, copy.deepcopy(module.state_dict())
        try:
            yield lambda entry: _filled(lent, entry, own)
        finally:
            lent.load_state_dict(own, strict=lent.strict_loading)
    elif isinstance(module, type) and issubclass(module, pl.LightningModule):
        kind = module
        yield lambda entry: _built(kind, entry)
    else:
        raise TypeError(f"`module` must be a LightningModule, its class or an instance, got {module!r}.")


def _filled(module: pl.LightningModule, entry: Checkpoint, own: Mapping[str, Any] | None = None) -> pl.LightningModule:
    """The module with a checkpoint's weights; where that may lack some (``strict_loading``), with its own for these."""
    wanted = module.state_dict().keys()
    given = fitted_names(wanted, tensors_in(entry, wanted))
    if wanted and not wanted & given.keys():
        raise ValueError(
            f"its state dict has none of the names of {type(module).__name__}: it has {sorted(given)[:3]}, the module "
            f"{sorted(wanted)[:3]}."
        )
    if own is not None and not module.strict_loading:
        # Not those of the checkpoint before.
        module.load_state_dict(own, strict=False)
    module.load_state_dict(given, strict=module.strict_loading)
    return module


def _built(kind: type[pl.LightningModule], entry: Checkpoint) -> pl.LightningModule:
    if Path(entry).is_dir():
        raise ValueError(f"it is a folder, which an instance can take, `module={kind.__name__}(…)`, and no class.")
    held_in(entry)  # says what is wrong with the file itself

    def load(**kwargs: Any) -> pl.LightningModule:
        # A Namespace holds what is in it, and does nothing.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return kind.load_from_checkpoint(Path(entry), map_location="cpu", weights_only=True, **kwargs)

    try:
        built = load()
        # One that may lack weights would be as it was made where none of them fit.
        return built if built.strict_loading else _filled(built, entry)
    except pickle.UnpicklingError as error:
        objects = ", ".join(torch.serialization.get_unsafe_globals_in_checkpoint(entry))
        raise ValueError(
            f"its hyperparameters, or callbacks' states, hold objects of {objects}, which weights_only=True does not "
            f"read. Give an instance, `module={kind.__name__}(…)`, which takes the weights alone; or, for files that "
            f"you trust, load=lambda path: {kind.__name__}.load_from_checkpoint(path, weights_only=False)."
        ) from error
    except RuntimeError as error:
        if "state_dict" not in str(error):
            raise
        # Its names may be those of another wrapper.
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Found keys that are")
            built = load(strict=False)
        return _filled(built, entry)
