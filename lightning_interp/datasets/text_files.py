"""Files of other people: text is UTF-8 whatever the locale, and what is wrong is told with its file and line."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, TextIO

__all__ = ["ARCHIVES", "MOST_UNPACKED", "opened_text", "unpacked_texts", "within_limit"]

MOST_UNPACKED = 2**30
"""Bytes that are unpacked of an archive at most."""

ARCHIVES = (".tar.gz", ".tgz", ".tar", ".zip")
_GZIP = b"\x1f\x8b"
_BROKEN = (EOFError, OSError, tarfile.TarError, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError)


@contextmanager
def opened_text(path: str | os.PathLike[str], newline: str | None = None) -> Iterator[TextIO]:
    r"""Open a text file in UTF-8, with or without a byte-order mark, to be read.

    Raises:
        ValueError: If what is read within is not UTF-8. It names file and line.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "latin.txt"
        >>> _ = path.write_bytes(b"one\ncaf\xe9\n")
        >>> try:
        ...     with opened_text(path) as file:
        ...         file.read()
        ... except ValueError as error:
        ...     print(str(error).partition("latin.txt, ")[2])
        line 2: byte 0xe9 is not UTF-8. Save the file in UTF-8.

    """
    with open(path, encoding="utf-8-sig", newline=newline) as file:
        try:
            yield file
        except UnicodeDecodeError as error:
            with open(path, "rb") as raw:
                raise ValueError(_not_utf8(str(path), raw)) from error


def unpacked_texts(path: Path, suffix: str, limit: int = MOST_UNPACKED) -> Iterator[tuple[str, list[str]]]:
    """Name and lines of each text in an archive, in alphabetical order.

    Args:
        path: A file named as one of :data:`ARCHIVES`.
        suffix: What the names of the texts end with.
        limit: Bytes that are unpacked at most.

    Raises:
        ValueError: If the archive is cut off or broken, holds more than ``limit`` bytes, or a text is not UTF-8.

    """
    read = _zipped if path.suffix == ".zip" else _tarred
    try:
        found = dict(read(path, suffix, limit))
    except _BROKEN as error:
        raise ValueError(
            f"{path} cannot be unpacked, it is cut off or damaged ({type(error).__name__}: {error})."
        ) from error
    for name in sorted(found):
        try:
            text = found.pop(name).decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise ValueError(_not_utf8(f"{name} in {path}", io.BytesIO(error.object))) from error
        yield name, text.split("\n")


def within_limit(path: str | os.PathLike[str], archive: zipfile.ZipFile, limit: int = MOST_UNPACKED) -> None:
    """What a zip file says that it holds; no more than that is ever read of it.

    Raises:
        ValueError: If it is more than ``limit`` bytes.

    """
    size = sum(entry.file_size for entry in archive.infolist())
    if size > limit:
        raise ValueError(_too_large(path, limit))


def _is_text(name: str, suffix: str) -> bool:
    # macOS puts a twin "._name" of binary attributes beside each file.
    return name.endswith(suffix) and not PurePosixPath(name).name.startswith("._")


def _zipped(path: Path, suffix: str, limit: int) -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(path) as archive:
        within_limit(path, archive, limit)
        for entry in archive.infolist():
            if _is_text(entry.filename, suffix):
                yield entry.filename, archive.read(entry)


def _tarred(path: Path, suffix: str, limit: int) -> Iterator[tuple[str, bytes]]:
    with open(path, "rb") as file:
        packed = file.read(2) == _GZIP
    with gzip.open(path) if packed else open(path, "rb") as raw:
        bounded = _Bounded(raw, path, limit)
        # One pass from front to back, so that nothing is unpacked twice.
        with tarfile.open(fileobj=bounded, mode="r|") as archive:  # type: ignore[call-overload]
            for member in archive:
                if member.isfile() and _is_text(member.name, suffix):
                    content = archive.extractfile(member)
                    assert content is not None, member.name
                    yield member.name, content.read()
            # A whole archive ends in an empty block; tarfile takes the end of the file for one.
            if bounded.number < archive.offset + tarfile.BLOCKSIZE:
                raise EOFError("it ends in the middle")
            # Behind it a packed one has its check sum.
            while bounded.read(2**16):
                pass


class _Bounded:
    """A file of which so many bytes can be read, however much it unpacks to."""

    def __init__(self, file: IO[bytes] | gzip.GzipFile, path: Path, limit: int) -> None:
        self.file, self.path, self.limit = file, path, limit
        self.number = 0

    def read(self, size: int) -> bytes:
        found = self.file.read(size)
        self.number += len(found)
        if self.number > self.limit:
            raise ValueError(_too_large(self.path, self.limit))
        return found


def _too_large(path: str | os.PathLike[str], limit: int) -> str:
    return f"{os.fspath(path)} holds more than {limit:,} bytes unpacked, which is the most that is read of an archive."


def _not_utf8(name: str, file: IO[bytes]) -> str:
    first = file.read(2)
    file.seek(0)
    kinds = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16", _GZIP: "a file packed by gzip"}
    kind = f"; it begins as {kinds[first]} does" if first in kinds else ""
    for number, line in enumerate(file, 1):
        try:
            line.decode("utf-8")
        except UnicodeDecodeError as error:
            byte = line[error.start]
            return f"{name}, line {number}: byte 0x{byte:02x} is not UTF-8{kind}. Save the file in UTF-8."
    return f"{name} is not UTF-8{kind}. Save the file in UTF-8."
