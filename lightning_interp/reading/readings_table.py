"""The table of readings as text: a header, and a row a step; whole, or refused."""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from lightning_interp.datasets.text_files import opened_text

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "REASON",
    "SETTING",
    "columns_of",
    "data_frame",
    "put_whole",
    "read_rows",
    "read_settings",
    "row_bytes",
    "write_rows",
]

SETTING = "setting/"
"""How the columns of a file of readings begin that hold not a reading but how it was taken."""
REASON = "/reason"
"""How the columns end that hold a sentence."""


def read_rows(path: str | os.PathLike[str]) -> list[dict[str, float]]:
    """The readings in a file, a row each, without the columns ``setting/…`` and ``…/reason`` and without empty cells.

    Raises:
        ValueError: If the file has no column ``step``, a line without it, a cell that is no number, or a line that is
            cut off: with other than as many cells as the header, or the last one without its end.

    """
    header, lines = _read(path)
    if "step" not in header:
        raise ValueError(f"{str(path)!r} has no column 'step'; it has {header}.")
    rows = []
    for number, cells in lines:
        try:
            row = {
                key: float(cell)
                for key, cell in zip(header, cells, strict=True)
                if cell and not key.startswith(SETTING) and not key.endswith(REASON)
            }
        except ValueError as error:
            raise ValueError(f"{str(path)!r}, line {number}: {error}.") from error
        if "step" not in row:
            raise ValueError(f"{str(path)!r} has a line without a step, line {number}.")
        rows.append(row)
    return rows


def read_settings(path: str | os.PathLike[str]) -> dict[str, str]:
    """How the last reading in a file was taken, as text by name; empty for a file that does not say.

    Raises:
        ValueError: If a line of the file is cut off, as of :func:`read_rows`.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_rows(f"{folder}/readings.csv", [{"step": 1, "setting/seed": 3, "setting/estimator": "soft"}])
        ...     read_settings(f"{folder}/readings.csv")
        {'seed': '3', 'estimator': 'soft'}

    """
    header, lines = _read(path)
    last = lines[-1][1] if lines else [""] * len(header)
    return {
        key.removeprefix(SETTING): cell
        for key, cell in zip(header, last, strict=True)
        if key.startswith(SETTING) and cell
    }


def _read(path: str | os.PathLike[str]) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The header, and the cells of each line with its number; empty lines are passed over."""
    lines: list[tuple[int, list[str]]] = []
    header: list[str] | None = None
    with opened_text(path, newline="") as file:
        seen = _Ends(file)
        reader = csv.reader(seen, strict=True)
        try:
            for cells in reader:
                if header is None:
                    header = cells
                elif cells and len(cells) != len(header):
                    raise ValueError(
                        f"it has {len(cells)} cells where the header has {len(header)}. It is cut off or damaged: "
                        "complete the line, or take it out"
                    )
                elif cells:
                    lines.append((reader.line_num, cells))
        except UnicodeDecodeError:
            raise
        except (ValueError, csv.Error) as error:
            raise ValueError(f"{str(path)!r}, line {reader.line_num}: {error}.") from error
    if not seen.ended:
        raise ValueError(
            f"{str(path)!r}, line {reader.line_num}: the file ends in the middle of this line, which may be cut off, "
            "and its last number too. If the line is whole, add the line end; else take it out."
        )
    return header or [], lines


class _Ends:
    """The lines of a file, and whether the last one had its end."""

    def __init__(self, file: Iterable[str]) -> None:
        self._lines = iter(file)
        self.ended = True

    def __iter__(self) -> _Ends:
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        self.ended = line.endswith(("\n", "\r"))
        return line


def columns_of(rows: Iterable[Mapping[str, Any]], before: Iterable[str] = ()) -> list[str]:
    """The columns of rows behind those there were before; ``setting/…``, which may hold text, stand last."""
    columns = list(dict.fromkeys([*before, *(key for row in rows for key in row)]))
    return sorted(columns, key=lambda column: column.startswith(SETTING))


def row_bytes(cells: Sequence[Any]) -> bytes:
    r"""A line of the table as it stands in the file, with its end.

    Example:
        >>> row_bytes([10.0, 0.1, "a, b"])
        b'10,0.1,"a, b"\r\n'

    """
    text = io.StringIO(newline="")
    csv.writer(text).writerow([_cell(cell) for cell in cells])
    # Half a surrogate pair, as undecodable file names have, is no UTF-8.
    return text.getvalue().encode("utf-8", "backslashreplace")


def write_rows(path: str | os.PathLike[str], rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a file of readings; one of this name is replaced once the new one is whole.

    Raises:
        OSError: If it cannot be written. What there was is left as it was then.

    """
    columns = columns_of(rows) or ["step", "epoch"]
    put_whole(
        Path(path),
        b"".join([row_bytes(columns), *(row_bytes([row.get(column, "") for column in columns]) for row in rows)]),
    )


def data_frame(rows: Sequence[Mapping[str, float]], columns: Sequence[str], instead: str) -> pd.DataFrame:
    """Rows as a data frame whose index is the step.

    Args:
        rows: They have a ``step``.
        columns: Those that there are even without rows; ``step`` is one of them.
        instead: What there is without pandas, for the error.

    Raises:
        ImportError: If pandas is not installed.

    """
    try:
        import pandas as pd
    except ImportError as error:
        raise ImportError(
            "to_pandas() needs pandas: pip install pandas, or this package as lightning-interp[pandas]. Without it "
            f"there are {instead}."
        ) from error
    every = list(dict.fromkeys([*columns, *(key for row in rows for key in row)]))
    whole = {name: "int64" for name in ("step", "epoch") if name in every}
    return pd.DataFrame([dict(row) for row in rows], columns=every).astype(whole).set_index("step")


def put_whole(path: Path, content: bytes) -> None:
    """Write a file so that a reader, and a disk that is full, never sees half of it; its folder is made.

    Raises:
        OSError: If it cannot be written. What there was is left as it was, and no draft.

    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{uuid4().hex}")
    try:
        draft.write_bytes(content)
        draft.replace(path)
    except BaseException:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
        raise


def _cell(value: Any) -> str:
    if isinstance(value, str | bool):
        return str(value)
    if isinstance(value, int) or (math.isfinite(value) and value == int(value) and abs(value) < 1e15):
        return str(int(value))
    return repr(float(value))
