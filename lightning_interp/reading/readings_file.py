"""The file of readings of a run that is going on: it grows by a row a reading, and takes nobody else's place."""

from __future__ import annotations

import os
import stat
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any, TypeAlias

from lightning_interp.reading.readings_table import columns_of, put_whole, row_bytes

__all__ = ["CsvLog", "RowsAfter"]

RowsAfter: TypeAlias = Callable[[int | None], Sequence[Mapping[str, Any]]]
"""The rows of a run so far that are of later steps than one, or with ``None`` all, by increasing step."""

_OURS = b"step,epoch"
_LINE_ENDS = (b",", b"\r", b"\n")


class CsvLog:
    r"""A file of readings that grows by a line a reading; it is written anew only when a column is added.

    Rows are there whole or not at all. Those that cannot be written now are written at the next reading, since the log
    asks for all rows behind the last one that is in the file, and keeps none itself. No ``OSError`` comes out of it:
    each kind of trouble warns once.

    The log knows how it left the file. One that is another's by now (a second process, an editor), or that does not
    begin like a file of readings at the first write, is left alone: the log goes on in a file of its own beside it,
    ``readings_2.csv``, with all rows of the run, and says so. One that is gone is written anew.

    Args:
        path: The file; its folder is made. What another run left there is replaced at the first write.

    Example:
        >>> import tempfile
        >>> rows = [{"step": 5, "epoch": 0, "loss": 0.5}]
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     log = CsvLog(f"{folder}/readings.csv")
        ...     log.write(lambda after: [row for row in rows if after is None or row["step"] > after])
        ...     log.path.read_bytes()
        b'step,epoch,loss\r\n5,0,0.5\r\n'

    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        """Where the rows are."""
        self.asked = self.path
        """Where they were to be."""
        self._columns: list[str] = []
        self._last_step = 0
        self._size = 0
        self._last = b""  # the last row, as it stands at the end of the file
        self._tried = b""  # what an append tried to put behind it
        self._troubles: set[int | type[OSError]] = set()

    def write(self, rows: RowsAfter) -> None:
        """Bring the file up to date.

        Args:
            rows: Gives the rows of the run behind a step; all of them with ``None``, where the file is written anew.

        """
        try:
            self._write(rows)
        except OSError as error:
            if (kind := error.errno or type(error)) not in self._troubles:
                self._troubles.add(kind)
                warnings.warn(
                    f"{self.path} cannot be written: {error}. Its rows are kept, and written at the next reading at "
                    "which that is possible. This is said once.",
                    stacklevel=3,
                )

    def _write(self, rows: RowsAfter) -> None:
        if not self._columns:
            if every := rows(None):
                self._put(every, aside=not _may_be_replaced(self.path))
            return
        found = self._as_left()
        # With the last row once more, which changes where a further reading is of its step.
        newest = rows(self._last_step - 1) if found else ()
        if newest and columns_of(newest, self._columns) == self._columns:
            last, *more = (_line(row, self._columns) for row in newest)
            if last == self._last:
                self._append(more, int(newest[-1]["step"]))
                return
        if every := rows(None):
            self._put(every, aside=found is False)

    def _as_left(self) -> bool | None:
        """Whether the file is as it was left, ``None`` where there is none; what a failed append left is cut off."""
        try:
            if not stat.S_ISREG(self.path.stat().st_mode):
                return False
            with self.path.open("r+b") as file:
                file.seek(self._size - len(self._last))
                end = file.read(len(self._last) + len(self._tried) + 1)
                if not end.startswith(self._last):
                    return False
                torn = end.removeprefix(self._last)
                if not self._tried.startswith(torn):
                    return False
                if torn:
                    file.truncate(self._size)
                return True
        except FileNotFoundError:
            return None
        except PermissionError:
            return False

    def _append(self, lines: Sequence[bytes], last_step: int) -> None:
        if not lines:
            return
        self._tried = b"".join(lines)
        try:
            with self.path.open("ab") as file:
                file.write(self._tried)
        except OSError:
            with suppress(OSError):  # else the next reading cuts it off
                self._as_left()
            raise
        self._size += len(self._tried)
        self._last, self._tried, self._last_step = lines[-1], b"", last_step

    def _put(self, rows: Sequence[Mapping[str, Any]], aside: bool) -> None:
        """Write the file with all rows, in a file of its own where this one is another's."""
        columns = columns_of(rows, self._columns)
        lines = [row_bytes(columns), *(_line(row, columns) for row in rows)]
        left = self.path
        if aside:
            self._put_aside(b"".join(lines))
        else:
            put_whole(self.path, b"".join(lines))
        self._columns, self._last_step = columns, int(rows[-1]["step"])
        self._size, self._last, self._tried = sum(map(len, lines)), lines[-1], b""
        if aside:
            warnings.warn(
                f"{left} is not, or no longer, the file of this run's readings, or may not be changed: another process "
                f"or program wrote it. It is left alone; all readings of this run are in {self.path}, and go on there.",
                stacklevel=4,
            )

    def _put_aside(self, content: bytes) -> None:
        wanted = self.asked
        wanted.parent.mkdir(parents=True, exist_ok=True)
        for number in count(2):
            own = wanted.with_name(f"{wanted.stem}_{number}{wanted.suffix}")
            try:
                own.open("xb").close()  # of two processes only one can make it
            except FileExistsError:
                continue
            try:
                put_whole(own, content)
            except OSError:
                with suppress(OSError):
                    own.unlink()
                raise
            self.path = own
            return


def _line(row: Mapping[str, Any], columns: Sequence[str]) -> bytes:
    return row_bytes([row.get(column, "") for column in columns])


def _may_be_replaced(path: Path) -> bool:
    """Whether there is nothing, an empty file, or what begins like a file of readings of an earlier run."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return False
        with path.open("rb") as file:
            begins = file.read(len(_OURS) + 1)
    except FileNotFoundError:
        return True
    except PermissionError:
        return False
    return not begins or (begins[:-1] == _OURS and begins[-1:] in _LINE_ENDS)
