"""Sentences with gold parts of speech and dependency trees: from a CoNLL-U file, or from the built-in grammar."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import torch

from lightning_interp.datasets.text_files import opened_text
from lightning_interp.functional.trees import tree_depths
from lightning_interp.tasks.grammar.corpus import generate_corpus
from lightning_interp.tasks.grammar.parse import AmbiguousSentenceError, parse_sentence

__all__ = ["Sentence", "grammar_treebank", "read_conllu"]

_COLUMNS = 10


@dataclass(frozen=True)
class Sentence:
    """A sentence with what is known of its words.

    Args:
        words: The words, punctuation marks among them.
        tags: Part of speech of each; in universal ones punctuation is ``"PUNCT"``.
        heads: Place of each word's head, counted from 0; −1 for the root.
        relations: Name of the relation to the head, where known; empty otherwise.

    Raises:
        ValueError: If there is no word, the numbers of tags, heads or relations differ from that of the words, or
            heads form no tree.

    Example:
        >>> sentence = Sentence(("kings", "sleep", "."), ("NOUN", "VERB", "PUNCT"), (1, -1, 1))
        >>> len(sentence), sentence.is_word
        (3, (True, True, False))

    """

    words: tuple[str, ...]
    tags: tuple[str, ...]
    heads: tuple[int, ...]
    relations: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.words:
            raise ValueError("`words` is empty; a sentence has at least one.")
        lists = {"tags": self.tags, "heads": self.heads, "relations": self.relations}
        for name, found in lists.items():
            if len(found) != len(self.words) and (found or name != "relations"):
                raise ValueError(f"`{name}` has {len(found)} entries for {len(self.words)} words: {self}.")
        tree_depths(torch.tensor(self.heads))

    def __len__(self) -> int:
        return len(self.words)

    def __str__(self) -> str:
        return " ".join(self.words)

    @property
    def is_word(self) -> tuple[bool, ...]:
        """False for punctuation."""
        return tuple(tag != "PUNCT" for tag in self.tags)


def read_conllu(
    path: str | os.PathLike[str],
    max_sentences: int | None = None,
    min_words: int = 1,
    max_words: int | None = None,
    tags: str = "upos",
) -> list[Sentence]:
    r"""The sentences of a CoNLL-U file, the format of Universal Dependencies.

    Lines of multiword tokens (``3-4``) and empty nodes (``5.1``) are skipped: words are syntactic words, as trees have
    them. https://universaldependencies.org/format.html

    Args:
        path: The file, in UTF-8.
        max_sentences: How many to read, from the beginning; all by default.
        min_words: Shorter sentences are left out.
        max_words: Longer sentences are left out; none by default.
        tags: ``"upos"`` for universal parts of speech, ``"xpos"`` for those of the language.

    Returns:
        The sentences, in the order of the file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If an argument is out of range, a line is not as the format wants it, heads form no tree, or no
            sentence is left. It names file, line and value.

    Example:
        >>> import pathlib, tempfile
        >>> file = pathlib.Path(tempfile.mkdtemp()) / "two.conllu"
        >>> rows = ["1 kings _ NOUN _ _ 2 nsubj _ _", "2 sleep _ VERB _ _ 0 root _ _"]
        >>> _ = file.write_text("# text = kings sleep\n" + "\n".join(rows).replace(" ", "\t") + "\n\n")
        >>> read_conllu(file)
        [Sentence(words=('kings', 'sleep'), tags=('NOUN', 'VERB'), heads=(1, -1), relations=('nsubj', 'root'))]

    """
    if max_sentences is not None and max_sentences < 1:
        raise ValueError(f"`max_sentences` must be at least 1, or None for all, got {max_sentences}.")
    if min_words < 1 or (max_words is not None and max_words < min_words):
        raise ValueError(f"`min_words` and `max_words` must be 1 or more, in this order, got {min_words}, {max_words}.")
    if tags not in ("upos", "xpos"):
        raise ValueError(f"`tags` must be 'upos' or 'xpos', got {tags!r}.")
    path = Path(path)
    found: list[Sentence] = []
    for first, rows in _blocks(path):
        if len(found) == max_sentences:
            break
        words = [row for row in rows if row[1][0].isdigit() and not {"-", "."} & set(row[1][0])]
        if not min_words <= len(words) or (max_words is not None and len(words) > max_words):
            continue
        for place, (line, cells) in enumerate(words):
            if cells[0] != str(place + 1):
                raise ValueError(f"{path}, line {line}: the id is {cells[0]!r}; expected {place + 1}.")
        heads = tuple(_head(path, line, cells[6]) for line, cells in words)
        try:
            sentence = Sentence(
                tuple(cells[1] for _, cells in words),
                tuple(cells[3 if tags == "upos" else 4] for _, cells in words),
                heads,
                tuple(cells[7] for _, cells in words),
            )
        except ValueError as error:
            raise ValueError(f"{path}, the sentence at line {first}: {error}") from error
        found.append(sentence)
    if not found:
        lengths = f"{min_words} to {max_words}" if max_words else f"{min_words} or more"
        raise ValueError(f"{path} has no sentence of {lengths} words.")
    return found


def _head(path: Path, line: int, cell: str) -> int:
    if not cell.isascii() or not cell.isdigit():
        raise ValueError(f"{path}, line {line}: the head is {cell!r}; expected a number, 0 for the root.")
    return int(cell) - 1


def _blocks(path: Path) -> Iterator[tuple[int, list[tuple[int, list[str]]]]]:
    """Each sentence's first line number, and the number and cells of its lines."""
    rows: list[tuple[int, list[str]]] = []
    with opened_text(path) as file:
        for number, text in enumerate(file, start=1):
            line = text.rstrip("\r\n")
            if not line.strip():
                if rows:
                    yield rows[0][0], rows
                rows = []
            elif not line.startswith("#"):
                cells = line.split("\t")
                if len(cells) != _COLUMNS:
                    raise ValueError(
                        f"{path}, line {number}: expected {_COLUMNS} columns separated by tabs, got {len(cells)} in "
                        f"{line!r}."
                    )
                if not cells[0].replace("-", "").replace(".", "").isdigit():
                    raise ValueError(f"{path}, line {number}: the id is {cells[0]!r}; expected 3, 3-4 or 3.1.")
                rows.append((number, cells))
    if rows:
        yield rows[0][0], rows


def grammar_treebank(n: int = 500, seed: int = 1, min_words: int = 5, max_words: int = 24) -> list[Sentence]:
    """Different sentences of the built-in grammar with their trees: gold data without a download.

    They are drawn as :func:`~lightning_interp.tasks.generate_corpus` draws them, so that a model trained on that corpus
    can be probed for the structure of its own language: prepositional phrases, subject and object relative clauses,
    coordination, subordinate clauses and questions over one clause or two. The few with two trees (about one in 900)
    are left out.

    Not half of the edges join neighbours: the linear chain has a UUAS of .48, much as on English newspaper text.

    Args:
        n: How many.
        seed: Same seed, same sentences; a longer treebank begins with the shorter one. ``generate_corpus`` with the
            same seed begins with the same sentences: another one gives the model mostly unseen ones.
        min_words: Shorter sentences are left out; the full stop counts as a word.
        max_words: Longer sentences are left out.

    Raises:
        ValueError: If a number is out of range, or no sentences of such lengths are left to draw.

    Example:
        >>> sentence = grammar_treebank(3, seed=0)[0]
        >>> print(sentence)
        those sisters and every young prince remember what those old nuns paint .
        >>> sentence.heads
        (1, 6, 5, 5, 5, 1, -1, 11, 10, 10, 11, 6, 6)

    """
    if n < 1:
        raise ValueError(f"`n` must be at least 1, got {n}.")
    if not 1 <= min_words <= max_words:
        raise ValueError(f"`min_words` and `max_words` must be 1 or more, in this order, got {min_words}, {max_words}.")
    found: dict[tuple[str, ...], Sentence] = {}
    drawn = 0
    for doubling in count():
        size = 2 * (n + 20) << doubling
        for line in generate_corpus(size, seed)[drawn:]:
            words = tuple(line.split())
            if min_words <= len(words) <= max_words and words not in found:
                try:
                    parse = parse_sentence(words)
                except AmbiguousSentenceError:
                    continue
                found[words] = Sentence(words, parse.tags, parse.heads, parse.relations)
                if len(found) == n:
                    return list(found.values())
        drawn = size
        if doubling == 8:
            break
    raise ValueError(
        f"the grammar gave {len(found)} different sentences of {min_words} to {max_words} words in {drawn}, not {n}."
    )
