"""Tables of the user's: minimal pairs in two columns of a CSV or TSV file, and rows of such files and of JSON lines."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_interp.datasets.text_files import opened_text
from lightning_interp.tasks.pairs import MinimalPair, Task

__all__ = ["json_rows", "listed", "read_columns", "read_pairs", "table_header"]

_DELIMITERS = {".csv": ",", ".tsv": "\t", ".tab": "\t"}


def read_pairs(
    path: str | os.PathLike[str],
    good: str | int = "good",
    bad: str | int = "bad",
    task: str | int | None = None,
    phenomenon: str | int | None = None,
    delimiter: str | None = None,
) -> list[Task]:
    r"""The tasks of a table with an acceptable and an unacceptable sentence in each row.

    Columns are named, and the first line is the header; or they are counted from 0, and there is no header. In a table
    separated by tabs a quotation mark is a character like any other; in one separated by commas it encloses a cell.

    Args:
        path: The file, in UTF-8; ``.csv`` is separated by commas, ``.tsv`` and ``.tab`` by tabs.
        good: The column of acceptable sentences.
        bad: The column of unacceptable sentences.
        task: The column of the tasks' names. By default the column ``task`` if the header has it, else the file is one
            task, named after it.
        phenomenon: The column of the phenomena. By default the column ``phenomenon`` if the header has it, else each
            task is a phenomenon of its own.
        delimiter: What separates columns, if not what the file's name says.

    Returns:
        The tasks, in the order in which they first occur.

    Raises:
        TypeError: If some columns are named and others counted.
        ValueError: If a column is missing, a row has too few cells, a sentence is empty, both sentences are the same, a
            task has two phenomena, or there are no rows. It names file, line and value.

    Example:
        >>> import pathlib, tempfile
        >>> file = pathlib.Path(tempfile.mkdtemp()) / "agreement.tsv"
        >>> _ = file.write_text("the king sleeps\tthe king sleep\n")
        >>> (task,) = read_pairs(file, good=0, bad=1)
        >>> task.name, task.pairs
        ('agreement', (MinimalPair(good='the king sleeps', bad='the king sleep'),))

    """
    path = Path(path)
    columns = {"good": good, "bad": bad, "task": task, "phenomenon": phenomenon}
    asked = {argument: column for argument, column in columns.items() if column is not None}
    counted = {argument: column for argument, column in asked.items() if isinstance(column, int)}
    if counted and len(counted) < len(asked):
        raise TypeError(f"columns must be all named or all counted, got {asked}.")

    rows = _cells(path, delimiter)
    if counted:
        places = counted
        for argument, place in counted.items():
            if place < 0:
                raise ValueError(f"`{argument}` is {place}; columns are counted from 0.")
    else:
        header = [name.strip() for name in next(rows, (0, [""]))[1]]
        named = {argument: str(column) for argument, column in asked.items()}
        named |= {name: name for name in ("task", "phenomenon") if name in header and name not in named}
        for argument, name in named.items():
            if header.count(name) != 1:
                raise ValueError(
                    f"{path}, line 1: `{argument}` is {name!r}; the header has {header}. "
                    "Columns of a file without a header are counted, as in good=0, bad=1."
                )
        places = {argument: header.index(name) for argument, name in named.items()}

    found: dict[str, list[MinimalPair]] = {}
    phenomena: dict[str, str] = {}
    for line, cells in rows:
        if len(cells) <= max(places.values()):
            raise ValueError(f"{path}, line {line}: expected {max(places.values()) + 1} columns or more, got {cells}.")
        values = {argument: cells[place].strip() for argument, place in places.items()}
        for argument, value in values.items():
            if not value:
                raise ValueError(f"{path}, line {line}: `{argument}` is {cells[places[argument]]!r}.")
        if values["good"] == values["bad"]:
            raise ValueError(f"{path}, line {line}: good and bad are both {values['good']!r}.")
        name = values.get("task", path.stem)
        term = values.get("phenomenon", name)
        if phenomena.setdefault(name, term) != term:
            raise ValueError(
                f"{path}, line {line}: the phenomenon of {name!r} is {term!r}, before it was {phenomena[name]!r}."
            )
        found.setdefault(name, []).append(MinimalPair(values["good"], values["bad"]))
    if not found:
        raise ValueError(f"{path} has no rows of sentences.")
    return [Task(name, phenomena[name], tuple(pairs)) for name, pairs in found.items()]


def read_columns(
    path: Path, columns: Mapping[str, str], delimiter: str | None = None, optional: Collection[str] = ()
) -> Iterator[tuple[int, dict[str, str]]]:
    r"""Line number and named cells of each row of a table with a header.

    Args:
        path: The file, in UTF-8; ``.csv`` is separated by commas, ``.tsv`` and ``.tab`` by tabs.
        columns: What the caller calls a column → its name in the header.
        delimiter: What separates columns, if not what the file's name says.
        optional: Columns that may be missing; a cell that is empty there is left out of its row.

    Raises:
        ValueError: If a column is missing or there twice, or a cell is empty. It names file, line and value.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "cities.tsv"
        >>> _ = file.write_text("city\tyear\nParis\t508\n")
        >>> list(read_columns(file, {"name": "city"}))
        [(2, {'name': 'Paris'})]

    """
    rows = _cells(path, delimiter)
    header = [name.strip() for name in next(rows, (0, [""]))[1]]
    columns = {argument: name for argument, name in columns.items() if argument not in optional or name in header}
    for argument, name in columns.items():
        if header.count(name) != 1:
            raise ValueError(f"{path}, line 1: `{argument}` is {name!r}; the header has {header}.")
    places = {argument: header.index(name) for argument, name in columns.items()}
    for line, cells in rows:
        if len(cells) <= max(places.values()):
            raise ValueError(f"{path}, line {line}: expected {max(places.values()) + 1} columns or more, got {cells}.")
        values = {argument: cells[place].strip() for argument, place in places.items()}
        values = {argument: value for argument, value in values.items() if value or argument not in optional}
        for argument, value in values.items():
            if not value:
                raise ValueError(f"{path}, line {line}: `{argument}` is {cells[places[argument]]!r}.")
        yield line, values


def json_rows(path: Path, names: Mapping[str, str], needed: Collection[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    r"""Line number and named values of each object of a file of JSON lines.

    Args:
        path: The file, in UTF-8.
        names: What the caller calls a value → its name in the file.
        needed: Those that each object must have.

    Raises:
        ValueError: If a line is no JSON object or lacks a value. It names file and line.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "cities.jsonl"
        >>> _ = file.write_text('{"city": "Paris"}\n')
        >>> list(json_rows(file, {"name": "city", "year": "year"}, ["name"]))
        [(1, {'name': 'Paris'})]

    """
    with opened_text(path) as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{path}, line {number}: not JSON ({error}): {line[:80]!r}.") from error
            if not isinstance(row, dict):
                raise ValueError(f"{path}, line {number}: expected a JSON object, got {line[:80]!r}.")
            for column in needed:
                if names[column] not in row:
                    raise ValueError(
                        f"{path}, line {number}: `{column}` is {names[column]!r}; the line has {sorted(row)}."
                    )
            yield number, {column: row[name] for column, name in names.items() if name in row}


def listed(given: Any, separator: str) -> tuple[Any, ...]:
    """Several texts in one cell: a list as it is, one text cut at the separator, nothing for None.

    Example:
        >>> listed("rome | ulm", "|"), listed(None, "|")
        (('rome', 'ulm'), ())

    """
    if isinstance(given, str):
        return tuple(one.strip() for one in given.split(separator) if one.strip())
    return tuple(given or ())


def table_header(path: Path, delimiter: str | None = None) -> list[str]:
    """The names of a table's columns, its first line."""
    return [name.strip() for name in next(_cells(path, delimiter), (0, [""]))[1]]


def _cells(path: Path, delimiter: str | None) -> Iterator[tuple[int, Sequence[str]]]:
    """Line number and cells of each row that is not blank."""
    if delimiter is None:
        if path.suffix.lower() not in _DELIMITERS:
            raise ValueError(f"`path` is {str(path)!r}; give `delimiter`, or a file named {', '.join(_DELIMITERS)}.")
        delimiter = _DELIMITERS[path.suffix.lower()]
    with opened_text(path, newline="") as file:
        if delimiter == "\t":
            reader = csv.reader(file, delimiter=delimiter, quoting=csv.QUOTE_NONE)
        else:
            reader = csv.reader(file, delimiter=delimiter)
        try:
            for cells in reader:
                if any(cell.strip() for cell in cells):
                    yield reader.line_num, cells
        except csv.Error as error:
            raise ValueError(f"{path}, line {reader.line_num}: {error}.") from error
