"""What TensorBoard says of a metric beside its chart."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any
from weakref import WeakKeyDictionary

from lightning_interp.reporting.loggers import name_prefix

__all__ = ["write_descriptions"]

_SCALAR = 1  # DATA_CLASS_SCALAR of TensorBoard's summary.proto

# What each file writer has still to say, by tag.
_waiting: WeakKeyDictionary[Any, dict[str, str]] = WeakKeyDictionary()


def write_descriptions(logger: Any, descriptions: Mapping[str, str]) -> None:
    """Have a TensorBoard logger say what metrics are, with the first value of each that it writes from now on.

    TensorBoard keeps what comes with the first value of a tag in a run, and passes over what comes without one, so
    neither an event of its own would do nor a later value. The logger goes on writing its values itself: the
    description is put into the event on its way to the file.

    Args:
        logger: A ``TensorBoardLogger``.
        descriptions: Metric → description, in Markdown; an empty one is left out.

    """
    prefix = name_prefix(logger)
    texts = {prefix + tag: text for tag, text in descriptions.items() if text}
    writer = logger.experiment._get_file_writer()
    if writer not in _waiting:
        _waiting[writer] = {}
        _describe_on_the_way(writer, _waiting[writer])
    _waiting[writer].update(texts)


def _describe_on_the_way(writer: Any, waiting: dict[str, str]) -> None:
    write = writer.add_summary

    def add_summary(summary: Any, *args: Any, **kwargs: Any) -> Any:
        if waiting:
            # The value is written in any case.
            with contextlib.suppress(Exception):
                for value in summary.value:
                    if (text := waiting.pop(value.tag, "")) and value.HasField("simple_value"):
                        value.metadata.summary_description = text
                        # What says nothing of its data, TensorBoard's data server gives metadata of its own.
                        value.metadata.plugin_data.plugin_name = "scalars"
                        value.metadata.data_class = _SCALAR
        return write(summary, *args, **kwargs)

    writer.add_summary = add_summary
