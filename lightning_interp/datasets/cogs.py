"""COGS (Kim & Linzen 2020) and data sets in its format, such as SLOG: sentences and their logical forms."""

from __future__ import annotations

import os
import random
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from lightning_interp.datasets.seq2seq import Seq2SeqDataModule
from lightning_interp.datasets.text_files import opened_text
from lightning_interp.datasets.vocabulary import Vocabulary

__all__ = ["CogsDataModule", "CogsExample", "read_cogs"]

_OOD_FILES = ("gen.tsv", "gen.reconstructed.tsv")
_ORDINARY = "in_distribution"


class CogsExample(NamedTuple):
    """One line of a file: words of the sentence, words of the logical form, category."""

    source: tuple[str, ...]
    target: tuple[str, ...]
    category: str


def read_cogs(path: str | os.PathLike[str]) -> list[CogsExample]:
    """The examples of a file in COGS's format: sentence, logical form and category, separated by tabs.

    SLOG's files have the same format. Words are what spaces separate.

    Raises:
        ValueError: If a line does not have three columns, or has no sentence.

    """
    examples = []
    with opened_text(path) as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            columns = line.rstrip("\r\n").split("\t")
            if len(columns) != 3 or not columns[0].split():
                raise ValueError(
                    f"{path}, line {number}: expected sentence, logical form and category separated by tabs; "
                    f"got {len(columns)} columns: {line.strip()[:80]!r}."
                )
            examples.append(CogsExample(tuple(columns[0].split()), tuple(columns[1].split()), columns[2].strip()))
    return examples


class CogsDataModule(Seq2SeqDataModule):
    r"""COGS, or a data set in its format, from a folder of the user's.

    ``train.tsv`` is trained on, ``dev.tsv`` is in distribution, and out of distribution is the generalisation set,
    ``gen.tsv`` or else ``gen.reconstructed.tsv``. The vocabularies are those of all three files, whatever is left out.

    Args:
        data_dir: Folder with the files.
        max_target_length: Leave out examples whose logical form has more words; ``None`` keeps all (480 words in COGS).
            How many were left out is told in a warning and kept in ``left_out``, by split.
        train_examples: Most training examples, drawn at random; ``None`` for all. Examples of any category but
            ``in_distribution`` are always kept: those are the only ones that show the words that are generalised.
        val_examples: Most in-distribution examples, drawn at random; ``None`` for all.
        ood_examples: Most out-of-distribution examples, drawn evenly from the categories; ``None`` for all.
        data_seed: What is drawn; by default ``seed``.
        batch_size: Pairs in a training batch.
        val_batch_size: Pairs in a validation batch.
        seed: Seed of the training order.
        num_workers: Worker processes of each loader.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a limit is below 1, too small for the training examples that are always kept, or leaves nothing.

    Example:
        >>> import pathlib, tempfile
        >>> folder = pathlib.Path(tempfile.mkdtemp())
        >>> for name, category in [("train", "in_distribution"), ("dev", "in_distribution"), ("gen", "cp_recursion")]:
        ...     _ = (folder / f"{name}.tsv").write_text(f"Liam slept .\tsleep . agent ( x _ 1 , Liam )\t{category}\n")
        >>> data = CogsDataModule(folder)
        >>> data.train[0][0], data.ood_categories
        (('Liam', 'slept', '.'), ('cp_recursion',))

    """

    def __init__(
        self,
        data_dir: str | os.PathLike[str],
        max_target_length: int | None = None,
        train_examples: int | None = None,
        val_examples: int | None = None,
        ood_examples: int | None = None,
        data_seed: int | None = None,
        batch_size: int = 64,
        val_batch_size: int = 200,
        seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        limits = {
            "max_target_length": max_target_length,
            "train_examples": train_examples,
            "val_examples": val_examples,
            "ood_examples": ood_examples,
        }
        for name, limit in limits.items():
            if limit is not None and limit < 1:
                raise ValueError(f"`{name}` is {limit}; it must be at least 1.")
        folder = Path(data_dir)
        read = {
            "train": read_cogs(_find(folder, "train.tsv")),
            "val": read_cogs(_find(folder, "dev.tsv")),
            "ood": read_cogs(_find(folder, *_OOD_FILES)),
        }
        every = [example for examples in read.values() for example in examples]
        kept = {split: _not_longer(examples, max_target_length) for split, examples in read.items()}
        self.left_out = {split: len(read[split]) - len(kept[split]) for split in read}
        if any(self.left_out.values()):
            warnings.warn(
                f"left out examples with logical forms of more than {max_target_length} words: {self.left_out}",
                stacklevel=2,
            )
        source = random.Random(seed if data_seed is None else data_seed)
        train = _limit_training(kept["train"], train_examples, source)
        val = kept["val"] if val_examples is None else _sample(kept["val"], val_examples, source)
        ood = kept["ood"] if ood_examples is None else _sample_evenly(kept["ood"], ood_examples, source)
        super().__init__(
            train=[(example.source, example.target) for example in train],
            val=[(example.source, example.target) for example in val],
            ood=[(example.source, example.target) for example in ood],
            source_vocabulary=Vocabulary.from_sentences(example.source for example in every),
            target_vocabulary=Vocabulary.from_sentences(example.target for example in every),
            ood_categories=[example.category for example in ood],
            batch_size=batch_size,
            val_batch_size=val_batch_size,
            seed=seed,
            num_workers=num_workers,
        )
        data_dir = str(data_dir)
        self.save_hyperparameters()


def _find(folder: Path, *names: str) -> Path:
    for name in names:
        if (folder / name).is_file():
            return folder / name
    there = ", ".join(sorted(path.name for path in folder.glob("*"))[:30]) or "nothing"
    raise FileNotFoundError(f"`data_dir` {str(folder)!r} has no {' or '.join(map(repr, names))}; it has {there}.")


def _not_longer(examples: Sequence[CogsExample], longest: int | None) -> list[CogsExample]:
    return [example for example in examples if longest is None or len(example.target) <= longest]


def _sample(examples: Sequence[CogsExample], count: int, source: random.Random) -> list[CogsExample]:
    chosen = sorted(source.sample(range(len(examples)), min(count, len(examples))))
    return [examples[position] for position in chosen]


def _limit_training(examples: list[CogsExample], count: int | None, source: random.Random) -> list[CogsExample]:
    if count is None:
        return examples
    exposure = [example for example in examples if example.category != _ORDINARY]
    if count < len(exposure):
        raise ValueError(
            f"`train_examples` is {count}; the {len(exposure)} examples that are not {_ORDINARY!r} are always kept."
        )
    ordinary = [example for example in examples if example.category == _ORDINARY]
    return exposure + _sample(ordinary, count - len(exposure), source)


def _sample_evenly(examples: Sequence[CogsExample], count: int, source: random.Random) -> list[CogsExample]:
    """Equal numbers of every category, as far as it has so many, in the order of the file."""
    positions: dict[str, list[int]] = {}
    for position, example in enumerate(examples):
        positions.setdefault(example.category, []).append(position)
    shares = dict.fromkeys(positions, 0)
    for _ in range(min(count, len(examples))):
        unfinished = [category for category, share in shares.items() if share < len(positions[category])]
        shares[min(unfinished, key=shares.__getitem__)] += 1
    chosen = sorted(position for name, share in shares.items() for position in source.sample(positions[name], share))
    return [examples[position] for position in chosen]
