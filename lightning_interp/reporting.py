"""Figures and chart layouts to whatever loggers the Trainer has, and the folder where files of a run belong."""

from __future__ import annotations

import hashlib
import os
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from lightning_interp.compat import pl

__all__ = ["Reporter", "log_folder"]

_Pixels: TypeAlias = np.ndarray[Any, Any]
_Charts: TypeAlias = dict[str, dict[str, list[str]]]

# What each TensorBoard writer has been given so far. TensorBoard shows a run's newest layout alone, and the callbacks
# of a Trainer, which know nothing of one another, share its writer: so each layout is written with those before it.
_layouts: WeakKeyDictionary[Any, _Charts] = WeakKeyDictionary()


def log_folder(trainer: pl.Trainer) -> Path | None:
    """The folder of this run, where its other logs are: for ``readings.csv`` and pictures.

    It is ``log_dir`` of the first logger where it has one (TensorBoard, CSV), else ``save_dir/name/version``
    (Weights & Biases, MLflow, as for checkpoints), else ``trainer.default_root_dir``. Lightning's own
    ``trainer.log_dir`` gives the bare ``save_dir`` for other loggers, which all runs share. Nothing is created.

    Every rank must call this, since rank 0's answer is broadcast: the version number of a run is counted from the
    folders that exist, and ranks that look at different moments would count differently.

    Args:
        trainer: The Trainer, once its loggers are set up (in ``setup`` or later).

    Returns:
        The folder, the same on every rank, or ``None`` where there is none: under ``fast_dev_run`` and
        ``barebones``, which ask for no files, and where the folder is not on a file system (``s3://…``).

    Cost:
        One small broadcast.

    Example:
        >>> from pytorch_lightning import Trainer
        >>> trainer = Trainer(logger=False, enable_checkpointing=False, default_root_dir="/tmp/run")
        >>> log_folder(trainer)
        PosixPath('/tmp/run')

    """
    if trainer.fast_dev_run or trainer.barebones:  # type: ignore[attr-defined]
        return None
    found: str = trainer.strategy.broadcast(_folder_here(trainer) if trainer.is_global_zero else "")
    found = found.removeprefix("file://")
    return None if "://" in found else Path(found)


def _folder_here(trainer: pl.Trainer) -> str:
    # Rank 0 alone runs this while the others wait for its answer, so it may not fail.
    try:
        for logger in trainer.loggers[:1]:
            log_dir = getattr(logger, "log_dir", None)
            if isinstance(log_dir, str | os.PathLike):
                return os.fspath(log_dir)
            if logger.save_dir is not None:
                version = logger.version if isinstance(logger.version, str) else f"version_{logger.version}"
                return os.path.join(os.fspath(logger.save_dir), str(logger.name), version)
    except Exception as error:
        warnings.warn(
            f"{type(trainer.loggers[0]).__name__} does not tell its folder ({_cause(error)}); "
            f"files go to {trainer.default_root_dir}.",
            stacklevel=3,
        )
    return os.fspath(trainer.default_root_dir)


class Reporter:
    """Sends figures and chart layouts to the loggers of a Trainer; none of its errors ends a training.

    TensorBoard, Weights & Biases and MLflow show the figure under its tag, step by step (MLflow: the newest). Where no
    logger does, it is written to ``figures/<tag>.png`` in the log folder, which then holds the newest one.
    What fails (the drawing, a logger, the file) is reported in a warning with the cause, once for each, and left out.

    Nothing of it touches a random stream or pyplot.

    Args:
        folder: Where PNG files go, from :func:`log_folder`; ``None`` writes none.

    Example:
        >>> import tempfile
        >>> from matplotlib.figure import Figure
        >>> from pytorch_lightning import Trainer
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     trainer = Trainer(logger=False, enable_checkpointing=False, default_root_dir=folder)
        ...     reporter = Reporter(log_folder(trainer))
        ...     reporter.figure(trainer, "structure/overview", lambda: Figure())
        ...     [str(path.relative_to(folder)) for path in Path(folder).rglob("*.png")]
        ['figures/structure-overview.png']

    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self._warned: set[str] = set()

    def figure(self, trainer: pl.Trainer, tag: str, draw: Callable[[], Figure], step: int | None = None) -> None:
        """Draw a figure and show it wherever this Trainer shows things.

        May be called on every rank; only rank 0 draws, and ``draw`` is not called at all where nobody would show it.

        Args:
            trainer: The Trainer whose loggers are meant.
            tag: The name of the figure; a slash groups.
            draw: Gives the figure. Without arguments, so that its errors are caught here too.
            step: The training step that it shows; ``trainer.global_step`` by default.

        Cost:
            Drawing and rendering on rank 0, while other ranks wait: to TensorBoard, 0.1 s for one panel of curves and
            1.5 s for twelve panels of twelve lines, on one slow core; of this, the PNG for the logger is 50 to 300 ms.

        """
        if not trainer.is_global_zero:
            return
        shows = [(logger, show) for logger in trainer.loggers if (show := _how_to_show(logger)) is not None]
        if not shows and self.folder is None:
            return
        try:
            pixels = _render(draw())
        except Exception as error:
            self._warn_once(f"drawing {tag}", f"the figure {tag!r} could not be drawn", error)
            return
        at = trainer.global_step if step is None else step
        shown = False
        for logger, show in shows:
            name = type(logger).__name__
            try:
                show(logger, tag, pixels, at)
                shown = True
            except Exception as error:
                self._warn_once(f"logger {name}", f"{name} did not take the figure {tag!r}", error)
        if not shown and self.folder is not None:
            path = self.folder / "figures" / _file_name(tag)
            try:
                _write_png(path, pixels)
            except Exception as error:
                self._warn_once("file", f"the figure {tag!r} could not be written to {path}", error)

    def layout(self, trainer: pl.Trainer, layout: Mapping[str, Mapping[str, Sequence[str]]]) -> None:
        """Put several metrics into one chart, on the page "Custom Scalars" of TensorBoard; other loggers have none.

        May be called on every rank and as often as one likes, before or after the metrics are logged: only rank 0
        writes, and only what its run does not have yet. Layouts of several callbacks merge: categories of one title
        share their charts, charts of one title their lines. TensorBoard shows the newest layout of a run, so one that
        someone else writes to it with ``add_custom_scalars`` hides these or is hidden by them. Its page draws no line
        of a metric with parentheses in its name.

        Args:
            trainer: The Trainer, once its loggers are set up (in ``setup`` or later).
            layout: Category → title of the chart → the metrics in it, by their whole names as logged. A metric that
                is never logged shows no line; a chart without metrics is left out.

        Cost:
            0.3 ms on rank 0 to write 20 charts of 12 metrics, 0.1 ms when they are already there.

        Example:
            >>> import tempfile
            >>> from pytorch_lightning import Trainer
            >>> from pytorch_lightning.loggers import TensorBoardLogger
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     trainer = Trainer(logger=TensorBoardLogger(folder), enable_checkpointing=False)
            ...     layout = {"robustness": {"encoder": ["val_acc", "robustness/encoder/val_acc"]}}
            ...     Reporter(log_folder(trainer)).layout(trainer, layout)
            ...     trainer.logger.experiment.close()

        """
        if not trainer.is_global_zero:
            return
        for logger in trainer.loggers:
            if isinstance(logger, pl.loggers.TensorBoardLogger):
                name = type(logger).__name__
                try:
                    _write_layout(logger, layout)
                except Exception as error:
                    self._warn_once(f"layout {name}", f"{name} did not take the layout {layout!r:.100}", error)

    def _warn_once(self, kind: str, message: str, error: Exception) -> None:
        if kind not in self._warned:
            self._warned.add(kind)
            text = f"{message}: {_cause(error)}. Training goes on; this is said once."
            warnings.warn(text, category=RuntimeWarning, stacklevel=3)


def _how_to_show(logger: Any) -> Callable[[Any, str, _Pixels, int], None] | None:
    loggers = pl.loggers
    if isinstance(logger, loggers.TensorBoardLogger):
        return _to_tensorboard
    if isinstance(logger, loggers.WandbLogger):
        return _to_wandb
    if isinstance(logger, loggers.MLFlowLogger):
        return _to_mlflow
    return None


def _to_tensorboard(logger: Any, tag: str, pixels: _Pixels, step: int) -> None:
    logger.experiment.add_image(tag, pixels, global_step=step, dataformats="HWC")


def _to_wandb(logger: Any, tag: str, pixels: _Pixels, step: int) -> None:
    logger.log_image(tag, [Image.fromarray(pixels)], step=step)


def _to_mlflow(logger: Any, tag: str, pixels: _Pixels, step: int) -> None:
    logger.experiment.log_image(logger.run_id, pixels, artifact_file=f"figures/{_file_name(tag)}")


def _write_layout(logger: Any, layout: Mapping[str, Mapping[str, Sequence[str]]]) -> None:
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


def _render(figure: Figure) -> _Pixels:
    # Drawn on a canvas of its own: SummaryWriter.add_figure would import pyplot, and so pick a backend, for the user.
    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    return np.array(canvas.buffer_rgba())[:, :, :3]


def _write_png(path: Path, pixels: _Pixels) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    Image.fromarray(pixels).save(draft, format="PNG")
    draft.replace(path)


def _file_name(tag: str) -> str:
    safe = re.sub(r"[^A-Za-z0-9._-]+", "-", tag).strip(".-") or "figure"
    if len(safe) > 120:
        safe = f"{safe[:110]}-{hashlib.sha256(tag.encode()).hexdigest()[:8]}"
    return f"{safe}.png"


def _cause(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
