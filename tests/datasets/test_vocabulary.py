from __future__ import annotations

import pytest

from lightning_interp.datasets import BOS_ID, EOS_ID, PAD_ID, UNK_ID, Vocabulary


def test_special_ids() -> None:
    vocabulary = Vocabulary(["b", "a"])
    assert (PAD_ID, BOS_ID, EOS_ID, UNK_ID) == (0, 1, 2, 3)
    assert vocabulary.words == ("<pad>", "<bos>", "<eos>", "<unk>", "a", "b")
    assert len(vocabulary) == 6


def test_order_depends_on_the_set_of_words_only() -> None:
    assert Vocabulary(["c", "a", "b", "a"]) == Vocabulary({"b", "c", "a"})
    assert hash(Vocabulary("ab")) == hash(Vocabulary("ba"))
    assert Vocabulary("ab") != Vocabulary("abc")


def test_round_trip() -> None:
    sentence = ["the", "king", "slept"]
    vocabulary = Vocabulary.from_sentences([sentence, ["a", "bird"]])
    ids = vocabulary.encode(sentence)
    assert vocabulary.decode([BOS_ID, *ids, EOS_ID, PAD_ID, ids[0]]) == sentence
    assert min(ids) > UNK_ID


def test_unknown_words() -> None:
    vocabulary = Vocabulary(["king"])
    assert vocabulary.encode(["queen", "king"]) == [UNK_ID, 4]
    assert vocabulary.decode([UNK_ID, 4]) == ["<unk>", "king"]
    assert "king" in vocabulary
    assert "queen" not in vocabulary


@pytest.mark.parametrize("word", ["", "<pad>", "<unk>"])
def test_words_that_cannot_be_numbered(word: str) -> None:
    with pytest.raises(ValueError, match="`words` contains"):
        Vocabulary(["king", word])


@pytest.mark.parametrize("index", [-1, 5])
def test_ids_out_of_range(index: int) -> None:
    with pytest.raises(IndexError, match=f"`ids` contains {index}; this vocabulary has ids 0 to 4"):
        Vocabulary(["king"]).decode([4, index])
