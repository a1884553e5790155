"""Questions with options to choose from, or open ones, from a table or a file of JSON lines."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lightning_interp.tasks.files import json_rows, listed, read_columns

__all__ = ["Question", "draw_questions", "read_questions"]


@dataclass(frozen=True)
class Question:
    """What a model is asked, and what is right.

    Args:
        text: The question.
        answer: The right answer.
        options: Answers to choose from, the right one among them, in the order in which they are shown where a prompt
            shows them. Without any the question is open: options have no probabilities, and a model can only be asked
            what it says.

    Raises:
        ValueError: If a text is empty, an option is there twice, or the right answer is none of them.

    Example:
        >>> Question("Which city lies on the Tiber?", "Rome", ("Ulm", "Rome")).right
        1

    """

    text: str
    answer: str
    options: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        texts = {"text": self.text, "answer": self.answer}
        texts |= {f"options[{place}]": one for place, one in enumerate(self.options)}
        for name, value in texts.items():
            if not isinstance(value, str) or not value.strip():
                raise ValueError(f"`{name}` is {value!r} in the question {self.text!r}.")
        if self.options and (self.answer not in self.options or len(set(self.options)) < max(2, len(self.options))):
            raise ValueError(
                f"`options` must be two or more different ones with the answer {self.answer!r} among them, got "
                f"{list(self.options)} in the question {self.text!r}."
            )

    @property
    def right(self) -> int:
        """Which option is right; 0 of an open question."""
        return self.options.index(self.answer) if self.options else 0


def draw_questions(questions: Sequence[Question], number: int | None, seed: int = 0) -> list[Question]:
    """So many questions, in their order.

    Args:
        questions: The questions.
        number: How many; all where there are no more, or for ``None``.
        seed: Of the draw.

    Example:
        >>> [one.text for one in draw_questions([Question(text, "yes") for text in "abcd"], 2)]
        ['b', 'd']

    """
    if number is None or number >= len(questions):
        return list(questions)
    return [questions[place] for place in sorted(random.Random(seed).sample(range(len(questions)), number))]


def read_questions(
    path: str | os.PathLike[str],
    text: str = "question",
    answer: str = "answer",
    options: str = "options",
    separator: str = "|",
    delimiter: str | None = None,
) -> list[Question]:
    r"""Questions from a table with a header, or from JSON lines (``.jsonl``), one in a row.

    Args:
        path: The file, in UTF-8; ``.csv`` is separated by commas, ``.tsv`` and ``.tab`` by tabs.
        text: The column of questions.
        answer: The column of right answers.
        options: The column of options, separated by ``separator``; in JSON, a list. It may be missing.
        separator: Between options.
        delimiter: What separates columns, if not what the file's name says.

    Raises:
        ValueError: If a column is missing, a text is empty, or there are no rows. It names file and line.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "rivers.tsv"
        >>> _ = file.write_text("question\tanswer\toptions\nWhich city lies on the Tiber?\tRome\tUlm|Rome\n")
        >>> read_questions(file)
        [Question(text='Which city lies on the Tiber?', answer='Rome', options=('Ulm', 'Rome'))]

    """
    path = Path(path)
    names = {"text": text, "answer": answer, "options": options}
    json = path.suffix == ".jsonl"
    rows = json_rows(path, names, ("text", "answer")) if json else read_columns(path, names, delimiter, ("options",))
    found = []
    for line, row in rows:
        try:
            found.append(Question(row["text"], row["answer"], listed(row.get("options"), separator)))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path}, line {line}: {error}") from error
    if not found:
        raise ValueError(f"{path} has no rows of questions.")
    return found
