"""How each kind of logger takes a picture, a text, a layout of charts, and vectors to look at."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias, TypeVar
from weakref import WeakKeyDictionary

import numpy as np
from PIL import Image
from torch import Tensor

from lightning_interp.compat import pl

__all__ = [
    "Columns",
    "Pixels",
    "file_name",
    "how_to_embed",
    "how_to_show",
    "how_to_tell",
    "name_prefix",
    "write_layout",
]

Pixels: TypeAlias = np.ndarray[Any, Any]
Columns: TypeAlias = dict[str, list[str]]
"""Names of vectors, by what they are names of."""
W = TypeVar("W")
_Charts: TypeAlias = dict[str, dict[str, list[str]]]

# What each TensorBoard writer has been given so far. TensorBoard shows a run's newest layout alone, and the callbacks
# of a Trainer, which know nothing of one another, share its writer: so each layout is written with those before it.
_layouts: WeakKeyDictionary[Any, _Charts] = WeakKeyDictionary()

# The writer appends to its list of embeddings without a look at what is there: twice the same would be shown twice.
_embedded: WeakKeyDictionary[Any, set[tuple[str, int]]] = WeakKeyDictionary()


def how_to_show(logger: Any) -> Callable[[Any, str, Pixels, int], None] | None:
    """What shows a picture in this logger; ``None`` where nothing does."""
    return _way(logger, _picture_to_tensorboard, _picture_to_wandb, _picture_to_mlflow)


def how_to_embed(logger: Any) -> Callable[[Any, str, Tensor, Columns, int], None] | None:
    """What shows vectors in this logger; ``None`` where nothing does."""
    return _way(logger, _vectors_to_tensorboard, _vectors_to_wandb)


def how_to_tell(logger: Any) -> Callable[[Any, str, str, int], None] | None:
    """What shows a text in this logger; ``None`` where nothing does."""
    return _way(logger, _text_to_tensorboard, _text_to_wandb, _text_to_mlflow)


def _way(logger: Any, tensorboard: W, wandb: W, mlflow: W | None = None) -> W | None:
    """That of a logger's own kind."""
    loggers = pl.loggers
    kinds = ((loggers.TensorBoardLogger, tensorboard), (loggers.WandbLogger, wandb), (loggers.MLFlowLogger, mlflow))
    return next((way for kind, way in kinds if isinstance(logger, kind)), None)


def name_prefix(logger: Any) -> str:
    """What Lightning's logger puts before the name of each metric."""
    return f"{logger._prefix}{logger.LOGGER_JOIN_CHAR}" if getattr(logger, "_prefix", "") else ""


def write_layout(logger: Any, layout: Mapping[str, Mapping[str, Sequence[str]]], first: bool = False) -> None:
    """Add to the layout of charts of a TensorBoard logger, before or behind what is there."""
    writer = logger.experiment
    before = _layouts.get(writer, {})
    new: _Charts = {}
    prefix = name_prefix(logger)
    for category, charts in layout.items():
        for chart, tags in charts.items():
            if tags:
                # TensorBoard takes what matches the beginning of a tag: val_loss would fetch val_loss_collected too.
                wanted = dict.fromkeys(f"^{re.escape(prefix + tag)}$" for tag in tags)
                new.setdefault(category, {})[chart] = list(wanted)
    merged = _joined(new, before) if first else _joined(before, new)
    if _ordered(merged) != _ordered(before):
        writer.add_custom_scalars(
            {
                category: {chart: ["Multiline", lines] for chart, lines in charts.items()}
                for category, charts in merged.items()
            }
        )
        _layouts[writer] = merged


def _joined(first: _Charts, then: _Charts) -> _Charts:
    """All charts of both: those of one title hold the lines of both."""
    joined: _Charts = {}
    for charts_of in (first, then):
        for category, charts in charts_of.items():
            for chart, tags in charts.items():
                lines = joined.setdefault(category, {}).setdefault(chart, [])
                lines.extend(tag for tag in tags if tag not in lines)
    return joined


def _ordered(charts_of: _Charts) -> list[tuple[str, list[tuple[str, list[str]]]]]:
    return [(category, list(charts.items())) for category, charts in charts_of.items()]


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


def _text_to_tensorboard(logger: Any, tag: str, markdown: str, step: int) -> None:
    logger.experiment.add_text(tag, markdown, global_step=step)


def _text_to_wandb(logger: Any, tag: str, markdown: str, step: int) -> None:
    logger.log_text(tag, columns=["step", "text"], data=[[step, markdown]], step=step)


def _text_to_mlflow(logger: Any, tag: str, markdown: str, step: int) -> None:
    name = file_name(tag).removesuffix(".png")
    logger.experiment.log_text(logger.run_id, f"{markdown}\n\nStep {step}\n", artifact_file=f"texts/{name}.md")


def _vectors_to_tensorboard(logger: Any, tag: str, vectors: Tensor, names: Columns, step: int) -> None:
    writer = logger.experiment
    there = _embedded.setdefault(writer, set())
    if (tag, step) not in there:
        # Its page reads a line a name and skips empty lines, which would shift all names after one.
        columns = [[_visible(name) for name in column] for column in names.values()]
        if len(columns) == 1:  # without a header, as its page wants it of a single column
            writer.add_embedding(vectors, metadata=columns[0], tag=tag, global_step=step)
        else:
            lines, header = [list(line) for line in zip(*columns, strict=True)], [_visible(name) for name in names]
            writer.add_embedding(vectors, metadata=lines, metadata_header=header, tag=tag, global_step=step)
        there.add((tag, step))


def _vectors_to_wandb(logger: Any, tag: str, vectors: Tensor, names: Columns, step: int) -> None:
    columns = [*names, *(f"d{index}" for index in range(vectors.shape[1]))]
    rows = [[*line, *vector] for *line, vector in zip(*names.values(), vectors.tolist(), strict=True)]
    logger.log_table(tag, columns=columns, data=rows, step=step)


def _visible(name: str) -> str:
    shown = "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode("ascii") for letter in name
    )
    return shown if shown.strip() else repr(shown)
