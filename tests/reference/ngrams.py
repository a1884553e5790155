"""Labels of positions from lists of words."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

Words = Sequence[Hashable | None]
"""One sequence; ``None`` is padding or a position that does not count."""


def windows(words: Words, position: int, n: int) -> list[tuple[Hashable, ...]]:
    """Every run of n words of the sequence that includes the position, earliest first."""
    found = []
    for start in range(len(words) - n + 1):
        run = tuple(words[start : start + n])
        if start <= position < start + n and None not in run:
            found.append(run)
    return found


def ending_window(words: Words, position: int, n: int) -> tuple[Hashable, ...] | None:
    """The run of n words that ends at the position."""
    if position - n + 1 < 0:
        return None
    run = tuple(words[position - n + 1 : position + 1])
    return None if None in run else run


def next_word(words: Words, position: int) -> Hashable | None:
    """The word after the position."""
    if words[position] is None or position + 1 == len(words):
        return None
    return words[position + 1]


def label_lists(sequences: Sequence[Words], name: str) -> list[list[Hashable | None]]:
    """Labels of every position that counts, in the order of reading."""
    found: list[list[Hashable | None]] = []
    for words in sequences:
        for position, word in enumerate(words):
            if word is None:
                continue
            if name == "token":
                found.append([word])
            elif name == "next_token":
                found.append([next_word(words, position)])
            elif name.startswith("flat_"):
                found.append([ending_window(words, position, 2 if "bigram" in name else 3)])
            else:
                found.append(list(windows(words, position, 2 if "bigram" in name else 3)))
    return found
