"""A tokenizer whose tokens are what spaces separate."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from lightning_interp.datasets.vocabulary import BOS_ID, EOS_ID, PAD_ID, UNK_ID, Vocabulary

__all__ = ["WordTokenizer"]


class WordTokenizer:
    """Turns sentences into ids and back, with the names that tokenizers of ``transformers`` use.

    A sentence is one start token, its words, and one end token. Nothing is padded: lists have their own lengths.

    Args:
        words: The words to know; repeated ones count once.

    Raises:
        ValueError: If a word is empty, has a space in it, or has the form of a special one (``<pad>``).

    Example:
        >>> tokenizer = WordTokenizer(["the", "king", "sleeps"])
        >>> len(tokenizer), tokenizer.encode("the king sleeps")
        (7, [1, 6, 4, 5, 2])
        >>> tokenizer(["the king", "the queen"], add_special_tokens=False)
        {'input_ids': [[6, 4], [6, 3]], 'attention_mask': [[1, 1], [1, 1]]}
        >>> tokenizer.decode([1, 6, 4, 2, 0])
        'the king'

    """

    pad_token_id = PAD_ID
    bos_token_id = BOS_ID
    eos_token_id = EOS_ID
    unk_token_id = UNK_ID

    def __init__(self, words: Iterable[str]) -> None:
        words = list(words)
        for word in words:
            if word.split() != [word]:
                raise ValueError(f"`words` contains {word!r}; words must be non-empty, without spaces.")
        self.vocabulary = Vocabulary(words)

    @classmethod
    def from_sentences(cls, sentences: Iterable[str]) -> WordTokenizer:
        """The tokenizer of all words that occur in the sentences.

        Example:
            >>> len(WordTokenizer.from_sentences(["the king sleeps .", "the queen sleeps ."]))
            9

        """
        if isinstance(sentences, str):
            raise TypeError(f"`sentences` must be a list of strings, got the string {sentences!r}.")
        return cls(word for sentence in sentences for word in sentence.split())

    def __len__(self) -> int:
        return len(self.vocabulary)

    def __repr__(self) -> str:
        return f"WordTokenizer({len(self)} words)"

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """The ids of a sentence's words, between a start and an end token; ``unk_token_id`` for words not known."""
        ids = self.vocabulary.encode(text.split())
        return [BOS_ID, *ids, EOS_ID] if add_special_tokens else ids

    def decode(self, ids: Iterable[int]) -> str:
        """The words of the ids up to the first end token, without padding and start token.

        Raises:
            IndexError: If an id is negative or not below the size of the vocabulary.

        """
        return " ".join(self.vocabulary.decode(ids))

    def __call__(self, text: Sequence[str], add_special_tokens: bool = True) -> dict[str, list[list[int]]]:
        """The ids of several sentences, and a mask of ones, as lists of their own lengths.

        Raises:
            TypeError: If ``text`` is one string; :meth:`encode` takes that.

        """
        if isinstance(text, str):
            raise TypeError(f"`text` must be a list of strings, got the string {text!r}; use `encode` for one.")
        ids = [self.encode(sentence, add_special_tokens) for sentence in text]
        return {"input_ids": ids, "attention_mask": [[1] * len(row) for row in ids]}
