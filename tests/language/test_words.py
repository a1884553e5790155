from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from lightning_interp.language.words import Units, encode_units, pooled
from lightning_interp.tasks import WordTokenizer, encode_sentences


def word_pieces() -> PreTrainedTokenizerFast:
    """Whole words where they are known, else letters, as BERT has them."""
    pieces = [
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "king",
        *"abcdefghijklmnopqrstuvwxyz",
        *(f"##{c}" for c in "abcdefghijklmnopqrstuvwxyz"),
    ]
    inner = Tokenizer(models.WordPiece({piece: index for index, piece in enumerate(pieces)}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]")


def byte_pairs() -> PreTrainedTokenizerFast:
    """Bytes, each word with the space before it, as GPT-2 has them."""
    letters = pre_tokenizers.ByteLevel.alphabet()
    inner = Tokenizer(models.BPE({letter: index for index, letter in enumerate(sorted(letters))}, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<|start|>")


WORDS = st.lists(st.text("abcdk", min_size=1, max_size=5), min_size=1, max_size=5)


@given(WORDS)
def test_pieces_of_a_word_belong_to_it(words: list[str]) -> None:
    (units,) = encode_units(word_pieces(), [words])
    assert units.unit.tolist() == [place for place, word in enumerate(words) for _ in word]
    (own,) = encode_units(word_pieces(), [words], special_tokens="own")
    assert own.unit.tolist() == [-1, *units.unit.tolist(), -1]
    assert own.ids.tolist() == [1, *units.ids.tolist(), 2]


@given(WORDS)
def test_a_token_with_the_space_before_a_word_belongs_to_the_word(words: list[str]) -> None:
    tokenizer = byte_pairs()
    (units,) = encode_units(tokenizer, [words])
    # The space is a token of its own here, and belongs to the word that it stands before.
    letters = [place for place, word in enumerate(words) for _ in f"{' ' if place else ''}{word}"]
    assert units.ids[0] == tokenizer.bos_token_id
    assert units.unit.tolist() == [-1, *letters]


SPACED = ["il", "a", "20 000", "chats", "gi\u00e1o vi\u00ean", "3\u00a0000"]


def test_words_with_spaces_are_words() -> None:
    """As treebanks have them; of one id a word, of one a part of it, and of tokenizers that tell where tokens stand."""
    by_blanks = [0, 1, 2, 2, 3, 4, 4, 5, 5]
    for encode, expected in (
        (lambda text: [len(part) for part in text.split()], by_blanks),
        (lambda text: [len(part) for part in text.split(" ")], [0, 1, 2, 2, 3, 4, 4, 5]),
        (lambda text: [1] * len(SPACED), list(range(len(SPACED)))),
    ):
        (units,) = encode_units(encode, [SPACED])
        assert (units.unit.tolist(), units.number) == (expected, len(SPACED))
    inner = word_pieces().backend_tokenizer
    for tokenizer in (word_pieces(), inner):
        (units,) = encode_units(tokenizer, [["ab c", "king", "d"]])
        assert units.unit.tolist() == [0, 0, 0, 1, 2]
    letters = byte_pairs()
    (units,) = encode_units(letters, [["ab c", "d"]])
    assert units.unit.tolist() == [-1, 0, 0, 0, 0, 1, 1]
    for word in (" a", "a ", "\u00a0a"):
        with pytest.raises(ValueError, match="a word that begins or ends with a space"):
            encode_units(word_pieces(), [["king", word]])


def test_a_tokenizer_of_the_package_tokenizers_is_read_as_that_of_transformers() -> None:
    inner = word_pieces().backend_tokenizer
    texts = [["king", "ab"], "ab king"]
    for special in ("bos", "own"):
        pairs = zip(encode_units(inner, texts, special), encode_units(word_pieces(), texts, special), strict=True)
        for found, expected in pairs:
            assert found.ids.tolist() == expected.ids.tolist()
            assert found.unit.tolist() == expected.unit.tolist()


@pytest.mark.parametrize("direction", ["left", "right"])
def test_padding_that_a_tokenizer_asks_for_is_no_part_of_a_sentence(direction: str) -> None:
    inner, padded = word_pieces().backend_tokenizer, word_pieces().backend_tokenizer
    padded.enable_padding(direction=direction, length=12)
    texts = [["king", "ab"], "ab king"]
    for special in ("bos", "own"):
        for found, expected in zip(
            encode_units(padded, texts, special), encode_units(inner, texts, special), strict=True
        ):
            assert found.ids.tolist() == expected.ids.tolist()
            assert found.unit.tolist() == expected.unit.tolist()
    sentences = ["king ab", "ab ab king"]
    for found, expected in zip(encode_sentences(padded, sentences), encode_sentences(inner, sentences), strict=True):
        assert found.tolist() == expected.tolist()


def test_known_words_are_one_piece() -> None:
    (units,) = encode_units(word_pieces(), [["king", "b", "king"]])
    assert units.unit.tolist() == [0, 1, 2]


def test_a_text_is_one_unit_without_its_special_tokens() -> None:
    (units,) = encode_units(word_pieces(), ["king ab"], special_tokens="own")
    assert (units.unit.tolist(), units.number) == ([-1, 0, 0, 0, -1], 1)


def test_a_start_token_is_not_doubled() -> None:
    tokenizer = WordTokenizer(["a", "b"])
    (units,) = encode_units(tokenizer, [["a", "b"]])
    (again,) = encode_units(lambda text: [1, *tokenizer.encode(text, False)], ["a b"], bos_token_id=1)
    assert units.ids.tolist() == again.ids.tolist()
    assert (units.unit.tolist(), again.unit.tolist()) == ([-1, 0, 1], [-1, 0, 0])


@pytest.mark.parametrize("pooling", ["last", "first", "mean"])
def test_pooling(pooling: str) -> None:
    units = Units(torch.arange(5), torch.tensor([-1, 0, 0, 1, -1]), 2)
    z = torch.tensor([[torch.nan], [1.0], [5.0], [7.0], [torch.inf]])
    expected = {"last": [[5.0], [7.0]], "first": [[1.0], [7.0]], "mean": [[3.0], [7.0]]}[pooling]
    assert pooled(z, units, pooling).tolist() == expected


def test_one_string_is_no_list_of_sentences() -> None:
    with pytest.raises(TypeError, match="a list of sentences"):
        encode_units(word_pieces(), "king")
    with pytest.raises(ValueError, match="`special_tokens` must be"):
        encode_units(word_pieces(), ["king"], special_tokens="all")
