"""SCAN: commands that are carried out word by word (Lake & Baroni 2018), generated from its grammar."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Sequence
from pathlib import Path

from lightning_interp.datasets.encoding import Pair
from lightning_interp.datasets.seq2seq import Seq2SeqDataModule
from lightning_interp.datasets.text_files import opened_text
from lightning_interp.datasets.vocabulary import Vocabulary

__all__ = ["SCAN_SPLITS", "ScanDataModule", "read_scan", "scan_commands", "scan_split"]

Command = tuple[tuple[str, ...], tuple[str, ...]]

_PRIMITIVES = ("walk", "look", "run", "jump")
_DIRECTIONS = ("left", "right")
_REPEATS = {"twice": 2, "thrice": 3}
# The published training files repeat the added primitive until it is a tenth of them.
_PRIMITIVE_SHARE = 9


def scan_commands() -> list[Command]:
    """All 20,910 commands with their actions, shorter structures first.

    Example:
        >>> commands = scan_commands()
        >>> len(commands)
        20910
        >>> " ".join(dict(commands)[("jump", "around", "left", "after", "walk", "twice")])  # doctest: +ELLIPSIS
        'I_WALK I_WALK I_TURN_LEFT I_JUMP I_TURN_LEFT I_JUMP ...'

    """
    repeated = [
        ((*words, *adverb), actions * times)
        for words, actions in _verb_phrases()
        for adverb, times in [((), 1), *(((word,), times) for word, times in _REPEATS.items())]
    ]
    joined = [
        pair
        for first, first_actions in repeated
        for second, second_actions in repeated
        for pair in (
            ((*first, "and", *second), first_actions + second_actions),
            ((*first, "after", *second), second_actions + first_actions),
        )
    ]
    return repeated + joined


def _verb_phrases() -> list[Command]:
    phrases: list[Command] = [((primitive,), (f"I_{primitive.upper()}",)) for primitive in _PRIMITIVES]
    for verb in (*_PRIMITIVES, "turn"):
        action = () if verb == "turn" else (f"I_{verb.upper()}",)
        for direction in _DIRECTIONS:
            turn = (f"I_TURN_{direction.upper()}",)
            phrases += [
                ((verb, direction), turn + action),
                ((verb, "opposite", direction), turn * 2 + action),
                ((verb, "around", direction), (turn + action) * 4),
            ]
    return phrases


def _contains(*phrases: str) -> Callable[[Command], bool]:
    return lambda command: any(f" {phrase} " in f" {' '.join(command[0])} " for phrase in phrases)


def _any_primitive(template: str) -> Callable[[Command], bool]:
    return _contains(*(f"{primitive} {template}" for primitive in _PRIMITIVES))


def _never(command: Command) -> bool:
    return False


def _longer_than_22_actions(command: Command) -> bool:
    return len(command[1]) > 22


# By split: which commands are tested, which are left out altogether, and the primitive that training shows alone.
_RULES: dict[str, tuple[Callable[[Command], bool], Callable[[Command], bool], tuple[str, ...]]] = {
    "length": (_longer_than_22_actions, _never, ()),
    "addprim_jump": (_contains("jump"), _never, ("jump",)),
    "addprim_turn_left": (_contains("turn left"), _never, ("turn", "left")),
    "template_around_right": (_any_primitive("around right"), _contains("turn around right"), ()),
    "template_jump_around_right": (_contains("jump around right"), _contains("turn around right"), ()),
    "template_opposite_right": (_any_primitive("opposite right"), _contains("turn opposite right"), ()),
    "template_right": (_any_primitive("right"), _contains("turn right"), ()),
}

SCAN_SPLITS = ("simple", *_RULES)


def scan_split(split: str, seed: int = 0) -> tuple[list[Command], list[Command]]:
    """Training and test commands of a published split.

    All splits but one follow a rule and equal the published files, repetitions of the added primitive included. The
    published ``simple`` is one random draw; this one is another, of the same sizes.

    Args:
        split: One of :data:`SCAN_SPLITS`.
        seed: Seed of the random split ``simple``; no other depends on it.

    Raises:
        ValueError: If the split is unknown.

    Example:
        >>> train, test = scan_split("addprim_jump")
        >>> len(train), len(test), sum(words == ("jump",) for words, _ in train)
        (14670, 7706, 1467)

    """
    commands = scan_commands()
    if split == "simple":
        random.Random(seed).shuffle(commands)
        size = len(commands) * 4 // 5
        return commands[:size], commands[size:]
    if split not in _RULES:
        raise ValueError(f"`split` is {split!r}; it must be one of {SCAN_SPLITS}.")
    tested, left_out, primitive = _RULES[split]
    kept = [command for command in commands if not left_out(command)]
    train = [command for command in kept if not tested(command) and command[0] != primitive]
    if primitive:
        train += [command for command in kept if command[0] == primitive] * (len(train) // _PRIMITIVE_SHARE)
    return train, [command for command in kept if tested(command) and command[0] != primitive]


def read_scan(path: str | os.PathLike[str]) -> list[Command]:
    """Commands and actions of a file in SCAN's format, ``IN: jump twice OUT: I_JUMP I_JUMP`` on each line.

    Raises:
        ValueError: If a line has another form.

    """
    commands: list[Command] = []
    with opened_text(path) as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            words, separator, actions = line.strip().removeprefix("IN: ").partition(" OUT: ")
            if not line.startswith("IN: ") or not separator:
                raise ValueError(f"{path}, line {number}: {line.strip()!r} is not of the form 'IN: … OUT: …'.")
            commands.append((tuple(words.split()), tuple(actions.split())))
    return commands


class ScanDataModule(Seq2SeqDataModule):
    """A split of SCAN: training commands, some of them held back for validation, and the split's test commands.

    In distribution is a random part of the *distinct* training commands, none of which is trained on; the primitive
    that an add-primitive split repeats stays in training. Out of distribution is the test set (for ``simple`` it is of
    the same distribution). Both come in a random order that depends on ``data_seed``.

    Args:
        split: One of :data:`SCAN_SPLITS`.
        data_dir: Folder with the published files (``tasks_train_<split>.txt``, ``tasks_test_<split>.txt``, there or one
            folder below); by default the split is generated.
        train_examples: Most training pairs; ``None`` for all.
        val_examples: Number of in-distribution validation pairs.
        ood_examples: Most out-of-distribution pairs; ``None`` for the whole test set.
        data_seed: Which commands are held back and which ones a limit keeps; for a generated ``simple`` also the split.
            By default ``seed``.
        batch_size: Pairs in a training batch.
        val_batch_size: Pairs in a validation batch.
        seed: Seed of the training order.
        num_workers: Worker processes of each loader.

    Raises:
        ValueError: If the split is unknown or a number of examples is below 1 or leaves nothing to train on.
        FileNotFoundError: If ``data_dir`` lacks a file of the split.

    Example:
        >>> data = ScanDataModule("addprim_jump", val_examples=500, ood_examples=200)
        >>> len(data.train), len(data.val), len(data.ood)
        (14170, 500, 200)

    """

    def __init__(
        self,
        split: str = "addprim_jump",
        data_dir: str | os.PathLike[str] | None = None,
        train_examples: int | None = None,
        val_examples: int = 1000,
        ood_examples: int | None = 1000,
        data_seed: int | None = None,
        batch_size: int = 64,
        val_batch_size: int = 200,
        seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        if split not in SCAN_SPLITS:
            raise ValueError(f"`split` is {split!r}; it must be one of {SCAN_SPLITS}.")
        limits = {"train_examples": train_examples, "val_examples": val_examples, "ood_examples": ood_examples}
        for name, limit in limits.items():
            if limit is not None and limit < 1:
                raise ValueError(f"`{name}` is {limit}; it must be at least 1.")
        drawn = seed if data_seed is None else data_seed
        if data_dir is None:
            train, test = scan_split(split, drawn)
        else:
            train, test = (read_scan(_find(data_dir, f"tasks_{part}_{split}.txt")) for part in ("train", "test"))
        train, val = _hold_back(train, val_examples, drawn)
        random.Random(drawn).shuffle(test)
        every = scan_commands()
        super().__init__(
            train=_as_pairs(train[:train_examples]),
            val=_as_pairs(val),
            ood=_as_pairs(test[:ood_examples]),
            source_vocabulary=Vocabulary.from_sentences(words for words, _ in every),
            target_vocabulary=Vocabulary.from_sentences(actions for _, actions in every),
            batch_size=batch_size,
            val_batch_size=val_batch_size,
            seed=seed,
            num_workers=num_workers,
        )
        data_dir = None if data_dir is None else str(data_dir)
        self.save_hyperparameters()


def _as_pairs(commands: Sequence[Command]) -> list[Pair]:
    return list(commands)


def _hold_back(train: Sequence[Command], count: int, seed: int) -> tuple[list[Command], list[Command]]:
    copies: dict[Command, int] = {}
    for command in train:
        copies[command] = copies.get(command, 0) + 1
    distinct = [command for command, number in copies.items() if number == 1]
    if count >= len(distinct):
        raise ValueError(f"`val_examples` is {count}; the split has {len(distinct)} distinct training commands.")
    source = random.Random(seed)
    val = source.sample(distinct, count)
    held_back = set(val)
    rest = [command for command in train if command not in held_back]
    source.shuffle(rest)
    return rest, val


def _find(data_dir: str | os.PathLike[str], name: str) -> Path:
    folder = Path(data_dir)
    for pattern in (name, f"*/{name}"):
        for path in sorted(folder.glob(pattern)):
            return path
    there = ", ".join(sorted(path.name for path in folder.glob("*"))[:30]) or "nothing"
    raise FileNotFoundError(f"`data_dir` {str(data_dir)!r} has no {name!r}, nor has a folder in it; it has {there}.")
