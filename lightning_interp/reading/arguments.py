"""The arguments that all analyses have, typed, so that an editor completes them where they are handed on."""

from __future__ import annotations

from typing import TypedDict

from lightning_interp.batches.contents import BatchSize

__all__ = ["AnalysisArgs", "BatchArgs", "LoaderArgs"]


class AnalysisArgs(TypedDict, total=False):
    """Arguments of every analysis; see :class:`~lightning_interp.ValidationAnalysis`."""

    every_n_validations: int
    prefix: str
    log: str
    draw_figures: bool
    figure_interval: float
    write_csv: bool
    on_error: str
    max_overhead: float | None


class LoaderArgs(AnalysisArgs, total=False):
    """Those of analyses that read whole batches of a validation loader."""

    dataloader_idx: int
    batch_size: BatchSize | None


class BatchArgs(LoaderArgs, total=False):
    """Those of analyses that read samples of validation batches."""

    max_examples: int | None
