"""The readings of the callbacks for a finished model, without a Trainer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn
from tqdm import tqdm  # type: ignore[import-untyped]

from lightning_interp.batches.forward import Forward, default_forward, takes_batches
from lightning_interp.batches.own_data import on_device
from lightning_interp.distributed import rank_in
from lightning_interp.isolation import no_side_effects
from lightning_interp.reading.analysis import ValidationAnalysis
from lightning_interp.reading.reading import Reading

__all__ = ["analyze"]


def analyze(
    model: nn.Module,
    dataloader: Iterable[Any],
    callbacks: ValidationAnalysis | Sequence[ValidationAnalysis],
    forward: Forward | None = None,
    *,
    progress: bool = True,
) -> dict[str, float]:
    """Read a finished model: the measures that the callbacks would log at a validation.

    Runs the model once over the loader in evaluation mode and without gradients, on the device where it is. Neither the
    model (mode, random state, hooks) nor the history of a callback is changed. What is read is what a fresh callback
    would read: nothing of a fit enters, be it the start, a baseline or an earlier reading.

    Args:
        model: A ``LightningModule``, of which ``validation_step`` is run where it has one, a transformers model or any
            other ``nn.Module``. Names of sites are relative to it.
        dataloader: Batches. A dict goes into the model by the names that its ``forward`` takes, a tuple or a tensor by
            its first entry.
        callbacks: What to read. All read this one loader, whatever their ``dataloader_idx``.
        forward: How to run a batch where the ways above do not fit: ``forward(model, batch)``. For a step that wants a
            number too, ``lambda model, batch: model.validation_step(batch, 0)``.
        progress: Show a progress bar over the batches, on the first rank; only from the second second on.

    Returns:
        Every measure by its key, undefined ones left out.

    Raises:
        ValueError: If there is no callback, or one of them finds what it does not expect.
        TypeError: If ``forward`` takes something else.

    Cost: one pass over the loader, and what the callbacks state.

    Example:
        >>> from lightning_interp import RepresentationGeometry
        >>> model = torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.ReLU())
        >>> found = analyze(model, [torch.randn(16, 8)], RepresentationGeometry(sites={"hidden": "0"}))
        >>> 1 <= found["effective_rank/hidden"] <= 4
        True

    """
    chosen = [callbacks] if isinstance(callbacks, ValidationAnalysis) else list(callbacks)
    wrong = [type(one).__name__ for one in chosen if not isinstance(one, ValidationAnalysis)]
    if not chosen or wrong:
        raise ValueError(f"`callbacks` must be one or more ValidationAnalysis callbacks, got {wrong or 'none'}.")
    first = next(model.parameters(), None)
    device = first.device if first is not None else torch.device("cpu")
    run = default_forward(model) if forward is None else takes_batches(forward)
    # What a fit left is of another moment, if not of another model.
    readers = [callback.fresh() for callback in chosen]
    shared: dict[Any, Any] = {}
    readings = [Reading(model, run_batch=run, shared=shared) for _ in readers]
    values: dict[str, float] = {}
    with no_side_effects(model), torch.no_grad():
        model.eval()
        try:
            for reader, reading in zip(readers, readings, strict=True):
                reader.start_reading(reading, dataloader)
            shown = progress and rank_in() == 0
            bar = tqdm(dataloader, "analyze", _length(dataloader), leave=False, delay=1, disable=not shown)
            for index, batch in enumerate(bar):
                _run_batch(on_device(batch, device), index, readers, readings)
            for reader, reading in zip(readers, readings, strict=True):
                values |= reader.end_reading(reading)
        finally:
            for reader in readers:
                reader.release()
    return values


def _length(dataloader: Iterable[Any]) -> int | None:
    try:
        return len(dataloader)  # type: ignore[arg-type]
    except Exception:  # a stream has none, and says so in ways of its own
        return None


def _run_batch(batch: Any, index: int, readers: Sequence[ValidationAnalysis], readings: Sequence[Reading]) -> None:
    for reader, reading in zip(readers, readings, strict=True):
        if reader.reads_batches:
            reader.before(reading, batch, index)
    (first, *_) = readings
    assert first.run_batch is not None
    output = first.run_batch(first.model, batch, index)
    for reader, reading in zip(readers, readings, strict=True):
        reader.after(reading, output)
