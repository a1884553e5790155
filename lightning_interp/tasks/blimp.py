"""BLiMP (Warstadt et al. 2020) and data sets in its format: minimal pairs as JSON lines."""

from __future__ import annotations

import json
import os
import warnings
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from lightning_interp.datasets.text_files import ARCHIVES, opened_text, unpacked_texts
from lightning_interp.tasks.pairs import MinimalPair, Task

__all__ = ["normalized_term", "read_blimp"]

_SENTENCES = ("sentence_good", "sentence_bad")
_NAMES = ("UID", "linguistics_term")


def normalized_term(term: str) -> str:
    """One spelling of a name: lower-case, with underscores where it has slashes, hyphens or spaces.

    BLiMP writes ``syntax_semantics`` in thirteen files and ``syntax/semantics`` in one, and ``s-selection`` beside
    ``island_effects``.

    Example:
        >>> normalized_term("syntax/semantics"), normalized_term("s-selection ")
        ('syntax_semantics', 's_selection')

    """
    return "_".join(term.lower().replace("/", " ").replace("-", " ").replace("_", " ").split())


def read_blimp(
    path: str | os.PathLike[str],
    phenomena: Collection[str] | None = None,
    paradigms: Collection[str] | None = None,
    limit: int | None = None,
    fields: Collection[str] | None = None,
) -> list[Task]:
    r"""The paradigms of BLiMP, one task each.

    Warstadt et al. 2020, *BLiMP: The Benchmark of Linguistic Minimal Pairs*: 67 paradigms of 1,000 pairs in 13
    phenomena. A line is a JSON object with ``sentence_good``, ``sentence_bad``, ``UID`` (the paradigm) and
    ``linguistics_term`` (the phenomenon); it may have a ``field``, and more that is not read. Phenomena and fields are
    spelled as :func:`normalized_term` does, in the arguments too. A file whose first line lacks the paradigm is one, of
    the file's name, as in the supplement of BabyLM; one that lacks the phenomenon is a phenomenon of its own.

    A file whose first line has neither sentence is no paradigm and is left out: the archive's ``models_summary.jsonl``.
    Pairs of two equal sentences test nothing; they are left out with one warning. The published data has 7: 2 in
    ``passive_1`` and 5 in ``principle_A_case_2``.

    Args:
        path: A ``.jsonl`` file in UTF-8, a folder that has some (at any depth), or a ``.tar.gz``, ``.tar`` or ``.zip``
            of them. Of an archive at most 1 GiB is unpacked, and kept in memory.
        phenomena: Keep the paradigms of these; ``None`` for all.
        paradigms: Keep these; ``None`` for all.
        limit: Most pairs a paradigm, the first ones; ``None`` for all.
        fields: Keep the paradigms of these fields (``morphology``, ``syntax``, ``semantics``, ``syntax_semantics``).

    Returns:
        The tasks, in alphabetical order of their paradigms.

    Raises:
        FileNotFoundError: If there is nothing at ``path``.
        ValueError: If there is no paradigm in it, a line is not of the format or not UTF-8, an archive is cut off or
            too large, a paradigm is in two files, ``limit`` is below 1, or a phenomenon, paradigm or field is missing.

    Example:
        >>> import json, pathlib, tempfile
        >>> row = {"sentence_good": "The cats sleep.", "sentence_bad": "The cats sleeps.", "field": "morphology"}
        >>> row |= {"UID": "agreement_1", "linguistics_term": "subject-verb agreement", "pairID": "0"}
        >>> file = pathlib.Path(tempfile.mkdtemp()) / "agreement_1.jsonl"
        >>> _ = file.write_text(json.dumps(row) + "\n")
        >>> read_blimp(file)[0].phenomenon
        'subject_verb_agreement'

    """
    if limit is not None and limit < 1:
        raise ValueError(f"`limit` is {limit}; it must be at least 1, or None for all pairs.")
    rows: dict[str, list[dict[str, Any]]] = {}
    origin: dict[str, str] = {}
    for name, lines in _files(Path(path)):
        for row in _rows(name, lines):
            uid = row["UID"]
            if origin.setdefault(uid, name) != name:
                raise ValueError(f"{path}: the paradigm {uid!r} is in two files, {origin[uid]} and {name}.")
            rows.setdefault(uid, []).append(row)
    if not rows:
        raise ValueError(f"{path} has no minimal pairs: no .jsonl file whose lines have {' and '.join(_SENTENCES)}.")

    chosen = _chosen("paradigms", paradigms, {uid: {uid} for uid in rows})
    for argument, key, wanted in (("phenomena", "linguistics_term", phenomena), ("fields", "field", fields)):
        names = {uid: {normalized_term(row[key]) for row in found if key in row} for uid, found in rows.items()}
        chosen &= _chosen(argument, wanted and [normalized_term(name) for name in _listed(argument, wanted)], names)

    equal: Counter[str] = Counter()
    tasks = []
    for uid in sorted(chosen):
        pairs = [MinimalPair(*(" ".join(row[key].split()) for key in _SENTENCES)) for row in rows[uid]]
        different = tuple(pair for pair in pairs if pair.good != pair.bad)
        equal[uid] += len(pairs) - len(different)
        (phenomenon,) = {normalized_term(row["linguistics_term"]) for row in rows[uid]}
        tasks.append(Task(uid, phenomenon, different[:limit]))
    if equal.total():
        counts = ", ".join(f"{count} in {uid}" for uid, count in equal.items() if count)
        warnings.warn(f"left out pairs whose two sentences are the same: {counts} ({path}).", stacklevel=2)
    return tasks


def _files(path: Path) -> Iterator[tuple[str, Iterable[str]]]:
    """Name and lines of each .jsonl file at a path, in alphabetical order."""
    if path.is_dir():
        for file in sorted(path.rglob("*.jsonl")):
            # macOS puts a twin "._name" of binary attributes beside each file.
            if not file.name.startswith("._") and not file.is_dir():
                yield str(file), _lines(file)
    elif not path.is_file():
        raise FileNotFoundError(f"`path` is {str(path)!r}; there is no file and no folder of that name.")
    elif path.name.endswith(ARCHIVES):
        yield from unpacked_texts(path, ".jsonl")
    elif path.suffix == ".jsonl":
        yield str(path), _lines(path)
    else:
        raise ValueError(
            f"`path` is {str(path)!r}; it must be a folder, a .jsonl file, or one of {', '.join(ARCHIVES)}."
        )


def _lines(path: Path) -> Iterator[str]:
    with opened_text(path) as file:
        yield from file


def _rows(name: str, lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    """The rows of a file, none where its first one is not a pair."""
    phenomena: dict[str, str] = {}
    unnamed: dict[str, str] | None = None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{name}, line {number}: not JSON ({error}): {line[:80]!r}.") from error
        if not isinstance(row, dict):
            raise ValueError(f"{name}, line {number}: expected a JSON object, got {line[:80]!r}.")
        if unnamed is None:
            if not any(key in row for key in _SENTENCES):
                return
            # By the first line: one that lacks what those before it had is a mistake.
            unnamed = {key: PurePosixPath(Path(name).as_posix()).stem for key in _NAMES if key not in row}
            if "linguistics_term" in unnamed and isinstance(row.get("UID"), str):
                unnamed["linguistics_term"] = row["UID"]
        row = {**unnamed, **row}
        for key in (*_SENTENCES, *_NAMES):
            if not isinstance(row.get(key), str) or not row[key].strip():
                raise ValueError(f"{name}, line {number}: {key!r} is {row.get(key)!r}; the line has {sorted(row)}.")
        term = normalized_term(row["linguistics_term"])
        if phenomena.setdefault(row["UID"], term) != term:
            raise ValueError(
                f"{name}, line {number}: the phenomenon of {row['UID']!r} is {term!r}, before it was "
                f"{phenomena[row['UID']]!r}."
            )
        yield row


def _listed(argument: str, names: Collection[str]) -> Collection[str]:
    if isinstance(names, str):
        raise ValueError(f"`{argument}` is {names!r}; it must be a list of names, as in [{names!r}].")
    return names


def _chosen(argument: str, wanted: Collection[str] | None, names: dict[str, set[str]]) -> set[str]:
    """The paradigms that have one of the wanted names, all if nothing is asked for."""
    if wanted is None:
        return set(names)
    available = set().union(*names.values())
    for name in _listed(argument, wanted):
        if name not in available:
            raise ValueError(f"`{argument}` has {name!r}, which is not there; available: {sorted(available)}.")
    return {uid for uid, own in names.items() if own & set(wanted)}
