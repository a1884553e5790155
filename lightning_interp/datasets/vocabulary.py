"""Words and their ids."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

__all__ = ["BOS_ID", "EOS_ID", "PAD_ID", "SPECIAL_WORDS", "UNK_ID", "Vocabulary"]

PAD_ID: Final = 0
BOS_ID: Final = 1
EOS_ID: Final = 2
UNK_ID: Final = 3
SPECIAL_WORDS: Final = ("<pad>", "<bos>", "<eos>", "<unk>")


class Vocabulary:
    """Maps words to ids and back.

    Ids 0 to 3 are padding, beginning of sequence, end of sequence and unknown word; the words follow in alphabetical
    order, so that the same set of words has the same ids in whatever order it was collected.

    Args:
        words: The words to number; repeated ones count once.

    Raises:
        ValueError: If a word is empty or has the form of a special one (``<pad>``).

    Example:
        >>> vocabulary = Vocabulary(["the", "king", "slept", "the"])
        >>> len(vocabulary), vocabulary.words
        (7, ('<pad>', '<bos>', '<eos>', '<unk>', 'king', 'slept', 'the'))
        >>> vocabulary.encode(["the", "king", "sneezed"])
        [6, 4, 3]
        >>> vocabulary.decode([6, 4, 2, 0])
        ['the', 'king']

    """

    def __init__(self, words: Iterable[str]) -> None:
        distinct = sorted(set(words))
        for word in distinct:
            if not word or word in SPECIAL_WORDS:
                raise ValueError(f"`words` contains {word!r}; words must be non-empty and none of {SPECIAL_WORDS}.")
        self.words: tuple[str, ...] = (*SPECIAL_WORDS, *distinct)
        self._ids = {word: index for index, word in enumerate(self.words)}

    @classmethod
    def from_sentences(cls, sentences: Iterable[Sequence[str]]) -> Vocabulary:
        """The vocabulary of all words that occur in the sentences.

        Example:
            >>> Vocabulary.from_sentences([["amelia", "slept"], ["the", "king", "slept"]]).words[4:]
            ('amelia', 'king', 'slept', 'the')

        """
        return cls(word for sentence in sentences for word in sentence)

    def __len__(self) -> int:
        return len(self.words)

    def __contains__(self, word: object) -> bool:
        return word in self._ids

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vocabulary) and self.words == other.words

    def __hash__(self) -> int:
        return hash(self.words)

    def __repr__(self) -> str:
        return f"Vocabulary({len(self)} words)"

    def encode(self, words: Iterable[str]) -> list[int]:
        """The ids of the words, ``UNK_ID`` for those that are not in the vocabulary; nothing is added around them."""
        return [self._ids.get(word, UNK_ID) for word in words]

    def decode(self, ids: Iterable[int]) -> list[str]:
        """The words of the ids up to the first end of sequence, without padding and beginning of sequence.

        Raises:
            IndexError: If an id is negative or not below the size of the vocabulary.

        """
        words = []
        for index in ids:
            if not 0 <= index < len(self):
                raise IndexError(f"`ids` contains {index}; this vocabulary has ids 0 to {len(self) - 1}.")
            if index == EOS_ID:
                break
            if index not in (PAD_ID, BOS_ID):
                words.append(self.words[index])
        return words
