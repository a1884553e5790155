"""What the loggers of a Trainer are shown beside numbers, and the folder where files of a run belong."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from lightning_interp.compat import pl
from lightning_interp.reporting.attempt import cause
from lightning_interp.reporting.loggers import Pixels, file_name, how_to_embed, how_to_show, how_to_tell, write_layout
from lightning_interp.reporting.tag_descriptions import write_descriptions

__all__ = ["Reporter", "log_folder"]


def log_folder(trainer: pl.Trainer) -> Path | None:
    """The folder of this run, where its other logs are: for ``readings.csv`` and pictures.

    It is ``log_dir`` of the first logger where it has one (TensorBoard, CSV), else ``save_dir/name/version``
    (Weights & Biases, MLflow, as for checkpoints), else ``name/version`` in ``trainer.default_root_dir`` (MLflow with a
    server or a data base). Without a logger it is ``lightning_interp_logs`` in there; the next run without one writes
    over it. Lightning's own ``trainer.log_dir`` gives the bare ``save_dir`` for other loggers, which all runs share.
    Nothing is created.

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
        PosixPath('/tmp/run/lightning_interp_logs')

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
            root = trainer.default_root_dir if logger.save_dir is None else logger.save_dir
            version = logger.version if isinstance(logger.version, str) else f"version_{logger.version}"
            return os.path.join(os.fspath(root), str(logger.name), version)
    except Exception as error:
        warnings.warn(
            f"{type(trainer.loggers[0]).__name__} does not tell its folder ({cause(error)}); "
            f"files go to {trainer.default_root_dir}/lightning_interp_logs.",
            stacklevel=3,
        )
    return os.path.join(trainer.default_root_dir, "lightning_interp_logs")


class Reporter:
    """Sends figures, texts, charts and vectors to the loggers of a Trainer; none of its errors ends a training.

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
        ['lightning_interp_logs/figures/structure-overview.png']

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
        shows = [(logger, show) for logger in trainer.loggers if (show := how_to_show(logger)) is not None]
        if not shows and self.folder is None:
            return
        try:
            pixels = _render(draw())
        except Exception as error:
            self._warn_once(f"drawing {tag}", f"the figure {tag!r} could not be drawn", error)
            return
        at = trainer.global_step if step is None else step
        what = f"the figure {tag!r}"
        shown = [self._hand(logger, "logger", what, partial(show, logger, tag, pixels, at)) for logger, show in shows]
        if not any(shown) and self.folder is not None:
            path = self.folder / "figures" / file_name(tag)
            try:
                _write_png(path, pixels)
            except Exception as error:
                self._warn_once("file", f"the figure {tag!r} could not be written to {path}", error)

    def text(self, trainer: pl.Trainer, tag: str, markdown: str, step: int | None = None) -> None:
        """Say something in words, wherever this Trainer's loggers can.

        TensorBoard has it on its page "Text", step by step; Weights & Biases in a table with the columns ``step`` and
        ``text``; MLflow in the file ``texts/<tag>.md``, the newest. Other loggers get nothing. May be called on every
        rank; only rank 0 writes.

        Args:
            trainer: The Trainer whose loggers are meant.
            tag: The name of the text; a slash groups.
            markdown: What it says. TensorBoard shows Markdown as such.
            step: The training step that it is of; ``trainer.global_step`` by default.

        Example:
            >>> import tempfile
            >>> from pytorch_lightning import Trainer
            >>> from pytorch_lightning.loggers import TensorBoardLogger
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     trainer = Trainer(logger=TensorBoardLogger(folder), enable_checkpointing=False)
            ...     Reporter(None).text(trainer, "phase/why", "The loss is on its **plateau**.", step=300)
            ...     trainer.logger.experiment.close()

        """
        if not trainer.is_global_zero:
            return
        at = trainer.global_step if step is None else step
        for logger in trainer.loggers:
            if (tell := how_to_tell(logger)) is not None:
                self._hand(logger, "text", f"the text {tag!r}", partial(tell, logger, tag, markdown, at))

    def describe(self, trainer: pl.Trainer, descriptions: Mapping[str, str]) -> None:
        """Say what metrics are, on the pages of TensorBoard that show them; other loggers have no place for it.

        TensorBoard takes a description with the first value of a metric, so this comes before it is logged. Its values
        stay as the logger writes them. May be called on every rank; only rank 0 writes.

        Args:
            trainer: The Trainer, once its loggers are set up (in ``setup`` or later).
            descriptions: Metric, by its whole name as logged → what it is, in Markdown; an empty one is left out.

        Cost:
            Some 5 µs for the first value of each metric; nothing once all have had theirs.

        Example:
            >>> import tempfile
            >>> from pytorch_lightning import Trainer
            >>> from pytorch_lightning.loggers import TensorBoardLogger
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     trainer = Trainer(logger=TensorBoardLogger(folder), enable_checkpointing=False)
            ...     Reporter(None).describe(trainer, {"effective_rank/enc": "How many dimensions are **used**."})
            ...     trainer.logger.log_metrics({"effective_rank/enc": 3.5}, step=1)
            ...     trainer.logger.experiment.close()

        """
        if not trainer.is_global_zero:
            return
        for logger in trainer.loggers:
            if isinstance(logger, pl.loggers.TensorBoardLogger):
                write = partial(write_descriptions, logger, descriptions)
                self._hand(logger, "descriptions", "descriptions of metrics", write)

    def layout(
        self, trainer: pl.Trainer, layout: Mapping[str, Mapping[str, Sequence[str]]], first: bool = False
    ) -> None:
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
            first: Whether its categories and charts stand before those that are there, in its own order.

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
                write = partial(write_layout, logger, layout, first)
                self._hand(logger, "layout", f"the layout {layout!r:.100}", write)

    def embedding(
        self,
        trainer: pl.Trainer,
        tag: str,
        vectors: Callable[[], tuple[Tensor, Sequence[str] | Mapping[str, Sequence[str]]]],
        step: int | None = None,
    ) -> None:
        """Let a person look at vectors, each with its name: on the page "Projector" of TensorBoard.

        Weights & Biases gets a table with the column ``name``, or the columns given, and one for each dimension, from
        which its own projector can be chosen; other loggers get nothing, and no file is written in their place. May be
        called on every rank; only rank 0 shows, and ``vectors`` is not called at all where nobody would: it must
        exchange nothing with other ranks. Vectors that were shown under this tag and step already stay as they are.

        Args:
            trainer: The Trainer whose loggers are meant.
            tag: The name of the cloud; a slash groups.
            vectors: Gives the vectors (N, D) and their N names, or several of each by column, by which the page can
                colour them. Without arguments, so that its errors are caught here.
            step: The training step that they belong to; ``trainer.global_step`` by default.

        Cost:
            TensorBoard keeps them as text, some 20 bytes a number: 0.1 s and 1.3 MB for 500 vectors of 128 dimensions.

        Example:
            >>> import tempfile
            >>> import torch
            >>> from pytorch_lightning import Trainer
            >>> from pytorch_lightning.loggers import TensorBoardLogger
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     trainer = Trainer(logger=TensorBoardLogger(folder), enable_checkpointing=False)
            ...     Reporter(None).embedding(trainer, "words", lambda: (torch.eye(2), ["cat", "dog"]), step=3)
            ...     trainer.logger.experiment.close()
            ...     [path.name for path in sorted(Path(folder).rglob("*.tsv"))]
            ['metadata.tsv', 'tensors.tsv']

        """
        ways = [(logger, embed) for logger in trainer.loggers if (embed := how_to_embed(logger)) is not None]
        if not ways or not trainer.is_global_zero:
            return
        try:
            found, given = vectors()
            names = (
                {name: list(of) for name, of in given.items()} if isinstance(given, Mapping) else {"name": list(given)}
            )
            counts = [len(column) for column in names.values()]
            if found.ndim != 2 or not counts or set(counts) != {len(found)}:
                told = ", ".join(map(str, counts))
                raise ValueError(f"`vectors` must give (N, D) and N names, got {tuple(found.shape)} and {told}.")
            found = found.detach().float().cpu()
        except Exception as error:
            self._warn_once(f"vectors {tag}", f"the vectors {tag!r} could not be had", error)
            return
        at = trainer.global_step if step is None else step
        for logger, embed in ways:
            self._hand(logger, "embedding", f"the vectors {tag!r}", partial(embed, logger, tag, found, names, at))

    def _hand(self, logger: Any, kind: str, what: str, work: Callable[[], None]) -> bool:
        """Hand something to a logger; whether it took it. Where it did not, that is said once of each kind of thing."""
        try:
            work()
        except Exception as error:
            name = type(logger).__name__
            self._warn_once(f"{kind} {name}", f"{name} did not take {what}", error)
            return False
        return True

    def _warn_once(self, kind: str, message: str, error: Exception) -> None:
        if kind not in self._warned:
            self._warned.add(kind)
            text = f"{message}: {cause(error)}. Training goes on; this is said once."
            warnings.warn(text, category=RuntimeWarning, stacklevel=3)


def _render(figure: Figure) -> Pixels:
    # Drawn on a canvas of its own: SummaryWriter.add_figure would import pyplot, and so pick a backend, for the user.
    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    return np.array(canvas.buffer_rgba())[:, :, :3]


def _write_png(path: Path, pixels: Pixels) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    Image.fromarray(pixels).save(draft, format="PNG")
    draft.replace(path)
