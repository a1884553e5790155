"""How each kind of logger takes a picture, a layout of charts, and vectors to look at."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary

import numpy as np
from PIL import Image
from torch import Tensor

from lightning_interp.compat import pl

__all__ = ["Pixels", "file_name", "how_to_embed", "how_to_show", "write_layout"]

Pixels: TypeAlias = np.ndarray[Any, Any]
_Charts: TypeAlias = dict[str, dict[str, list[str]]]

# What each TensorBoard writer has been given so far. TensorBoard shows a run's newest layout alone, and the callbacks
# of a Trainer, which know nothing of one another, share its writer: so each layout is written with those before it.
_layouts: WeakKeyDictionary[Any, _Charts] = WeakKeyDictionary()

# The writer appends to its list of embeddings without a look at what is there: twice the same would be shown twice.
_embedded: WeakKeyDictionary[Any, set[tuple[str, int]]] = WeakKeyDictionary()


def how_to_show(logger: Any) -> Callable[[Any, str, Pixels, int], None] | None:
    """What shows a picture in this logger; ``None`` where nothing does."""
    loggers = pl.loggers
    if isinstance(logger, loggers.TensorBoardLogger):
        return _picture_to_tensorboard
    if isinstance(logger, loggers.WandbLogger):
        return _picture_to_wandb
    if isinstance(logger, loggers.MLFlowLogger):
        return _picture_to_mlflow
    return None


def how_to_embed(logger: Any) -> Callable[[Any, str, Tensor, list[str], int], None] | None:
    """What shows vectors in this logger; ``None`` where nothing does."""
    if isinstance(logger, pl.loggers.TensorBoardLogger):
        return _vectors_to_tensorboard
    if isinstance(logger, pl.loggers.WandbLogger):
        return _vectors_to_wandb
    return None


def write_layout(logger: Any, layout: Mapping[str, Mapping[str, Sequence[str]]]) -> None:
    """Add to the layout of charts of a TensorBoard logger."""
    writer = logger.experiment
    before = _layouts.get(writer, {})
    merged = {category: {chart: list(lines) for chart, lines in charts.items()} for category, charts in before.items()}
    # Names are as the logger writes them: Lightning's puts its prefix, if it has one, before each.
    prefix = f"{logger._prefix}{logger.LOGGER_JOIN_CHAR}" if getattr(logger, "_prefix", "") else ""
    for category, charts in layout.items():
        for chart, tags in charts.items():
            if tags:
                # TensorBoard takes what matches the beginning of a tag: val_loss would fetch val_loss_collected too.
                wanted = [f"^{re.escape(prefix + tag)}$" for tag in tags]
                lines = merged.setdefault(category, {}).setdefault(chart, [])
                lines.extend(line for line in dict.fromkeys(wanted) if line not in lines)
    if merged != before:
        writer.add_custom_scalars(
            {
                category: {chart: ["Multiline", lines] for chart, lines in charts.items()}
                for category, charts in merged.items()
            }
        )
        _layouts[writer] = merged


def file_name(tag: str) -> str:
    """A tag as the name of a PNG file: safe on any file system, and another for another long tag."""
    safe = re.sub(r"[^A-Za-z0-9._-]+", "-", tag).strip(".-") or "figure"
    if len(safe) > 120:
        safe = f"{safe[:110]}-{hashlib.sha256(tag.encode()).hexdigest()[:8]}"
    return f"{safe}.png"


def _picture_to_tensorboard(logger: Any, tag: str, pixels: Pixels, step: int) -> None:
    logger.experiment.add_image(tag, pixels, global_step=step, dataformats="HWC")


def _picture_to_wandb(logger: Any, tag: str, pixels: Pixels, step: int) -> None:
    logger.log_image(tag, [Image.fromarray(pixels)], step=step)


def _picture_to_mlflow(logger: Any, tag: str, pixels: Pixels, step: int) -> None:
    logger.experiment.log_image(logger.run_id, pixels, artifact_file=f"figures/{file_name(tag)}")


def _vectors_to_tensorboard(logger: Any, tag: str, vectors: Tensor, names: list[str], step: int) -> None:
    writer = logger.experiment
    there = _embedded.setdefault(writer, set())
    if (tag, step) not in there:
        # Its page reads a line a name and skips empty lines, which would shift all names after one.
        lines = [_visible(name) for name in names]
        writer.add_embedding(vectors, metadata=lines, tag=tag, global_step=step)
        there.add((tag, step))


def _vectors_to_wandb(logger: Any, tag: str, vectors: Tensor, names: list[str], step: int) -> None:
    columns = ["name", *(f"d{index}" for index in range(vectors.shape[1]))]
    rows = [[name, *vector] for name, vector in zip(names, vectors.tolist(), strict=True)]
    logger.log_table(tag, columns=columns, data=rows, step=step)


def _visible(name: str) -> str:
    shown = "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode("ascii") for letter in name
    )
    return shown if shown.strip() else repr(shown)
