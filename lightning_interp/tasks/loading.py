"""Tasks, tokenizers and language models by the names that a callback is given."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from lightning_interp.language.encoding import EncodedPair, Tokenizer, encode_pairs
from lightning_interp.language.tokenizer import WordTokenizer
from lightning_interp.tasks.blimp import read_blimp
from lightning_interp.tasks.files import read_pairs
from lightning_interp.tasks.grammar import grammar_tasks, grammar_words
from lightning_interp.tasks.pairs import Task

__all__ = [
    "Tasks",
    "all_of_kind",
    "encode_task",
    "find_language_model",
    "find_tokenizer",
    "imported_function",
    "load_tasks",
    "loaded",
]

T = TypeVar("T")
K = TypeVar("K")

# Text first: jsonargparse takes the first kind that fits. With a Path among them it leaves the file to us.
Tasks = str | Path | Sequence[Task] | Callable[[], Sequence[Task]]
"""Tasks, ``"grammar"``, a path, or a function that returns them, or its dotted name."""

_TABLES = (".csv", ".tsv", ".tab")


def load_tasks(tasks: Tasks) -> list[Task]:
    """The tasks that an argument stands for.

    Raises:
        ValueError: If it is a text that is none of these, or what it holds is no :class:`Task`.

    Example:
        >>> len(load_tasks("grammar"))
        30

    """
    given = loaded("tasks", tasks, _read_tasks, {"grammar": grammar_tasks})
    return all_of_kind("tasks", given, Task)


def _read_tasks(path: str | Path) -> Sequence[Task]:
    return read_pairs(path) if Path(path).suffix in _TABLES else read_blimp(path)


def loaded(
    argument: str,
    given: str | os.PathLike[str] | T | Callable[[], T],
    read: Callable[[Path], T],
    named: Mapping[str, Callable[[], T]] | None = None,
    path: str = "a path that exists",
) -> T:
    """What an argument stands for: a name, a path, the dotted name of a function, a function, or the thing itself.

    Text is all that a YAML file can give. It is looked up as a name, then as a path, then as a function's dotted name.

    Args:
        argument: What errors call it.
        given: What the user gave.
        read: Reads the file or folder at a path.
        named: What names stand for.
        path: What errors call such a path.

    Raises:
        ValueError: If it is text that is none of these.

    Example:
        >>> loaded("numbers", "small", Path.read_bytes, {"small": lambda: [1, 2]})
        [1, 2]

    """
    if isinstance(given, str | os.PathLike):
        names = named or {}
        if str(given) in names:
            return names[str(given)]()
        if Path(given).exists():
            return read(Path(given))
        given = imported_function(str(given), argument, ", ".join([*map(repr, names), path]))
    return given() if callable(given) else given


def all_of_kind(argument: str, given: Iterable[Any], kind: type[K]) -> list[K]:
    """A list that an argument gives, once it is known to hold objects of a class only.

    Raises:
        ValueError: If it holds another.

    Example:
        >>> all_of_kind("numbers", [1.5], int)
        Traceback (most recent call last):
        ValueError: `numbers` must hold int objects, got float.

    """
    found = list(given)
    wrong = [type(one).__name__ for one in found if not isinstance(one, kind)]
    if wrong:
        raise ValueError(f"`{argument}` must hold {kind.__name__} objects, got {wrong[0]}.")
    return found


def imported_function(name: str, argument: str, alternatives: str) -> Callable[[], Any]:
    """The function of that dotted name.

    Args:
        name: Such as ``"package.module.function"``.
        argument: What errors call it.
        alternatives: What else the argument may be, for errors.

    Raises:
        ValueError: If there is none.

    """
    module, _, function = name.rpartition(".")
    try:
        found: Any = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError, TypeError):
        found = None
    if not callable(found):
        raise ValueError(
            f"`{argument}` is {name!r}; it must be {alternatives}, the dotted name of a function that can be "
            "imported, such as 'package.module.function', or what such a function returns."
        )
    return found  # type: ignore[no-any-return]


def find_tokenizer(tokenizer: str | Path | Tokenizer, module: nn.Module) -> Tokenizer:
    """The tokenizer that an argument stands for.

    Args:
        tokenizer: What :func:`encode_sentences` takes; the dotted name of an attribute of the module; ``"grammar"``
            for the words of the built-in grammar; or a name or folder for ``transformers``.
        module: The module that has the attribute.

    Raises:
        ValueError: If it is a name and nothing is found under it.
        ImportError: If it could only be loaded by transformers, which is not installed.

    """
    if not isinstance(tokenizer, str | os.PathLike):
        return tokenizer
    tokenizer = str(tokenizer)
    if tokenizer == "grammar":
        return WordTokenizer(grammar_words())
    found: Any = module
    for name in tokenizer.split("."):
        found = getattr(found, name, None)
    if found is not None:
        if not callable(found) and not callable(getattr(found, "encode", None)):
            raise ValueError(f"`tokenizer` is {tokenizer!r}, and that attribute is a {type(found).__name__}.")
        tokens: Tokenizer = found
        return tokens
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise ImportError(
            f"`tokenizer` is {tokenizer!r}: {type(module).__name__} has no such attribute, and transformers, which "
            "could load it by name, is not installed: pip install 'lightning-interp[transformers]'."
        ) from error
    try:
        loaded: Tokenizer = AutoTokenizer.from_pretrained(tokenizer)
    except Exception as error:  # readers of many formats, each with errors of its own
        why = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        folder = Path(tokenizer)
        gguf = sorted(file.name for file in folder.glob("*.gguf")) if folder.is_dir() else []
        reads = f"AutoTokenizer.from_pretrained({tokenizer!r}, gguf_file={gguf[0]!r})" if gguf else ""
        more = f" {gguf[0]!r} there is read by {reads}." if gguf else ""
        raise ValueError(
            f"`tokenizer` is {tokenizer!r}, which is neither 'grammar' nor an attribute of {type(module).__name__} nor "
            f"a tokenizer that transformers can load ({why}). A tokenizer that you have loaded can be given itself."
            f"{more}"
        ) from error
    return loaded


def encode_task(
    tokenizer: Tokenizer, task: Task, add_bos: bool | None = None, bos_token_id: int | None = None
) -> list[EncodedPair]:
    """:func:`encode_pairs` of a task.

    Raises:
        ValueError: If both sentences of a pair have the same ids.

    """
    pairs = encode_pairs(tokenizer, task.pairs, add_bos, bos_token_id)
    for pair, (good, bad) in zip(task.pairs, pairs, strict=True):
        if torch.equal(good, bad):
            raise ValueError(
                f"the tokenizer gives the same ids to both sentences of a pair of task {task.name!r}, {pair.good!r} "
                f"and {pair.bad!r}: it does not know the words that differ."
            )
    return pairs


def find_language_model(name: str, module: nn.Module) -> nn.Module:
    """The submodule of that dotted name; ``""`` is the module itself.

    Raises:
        ValueError: If there is none.

    """
    try:
        return module.get_submodule(name)
    except AttributeError:
        names = [child for child, _ in module.named_children()]
        raise ValueError(
            f"`model` is {name!r}, but {type(module).__name__} has no such module; it has {names}, and '' "
            "stands for itself."
        ) from None
