from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_interp.tasks import WordTokenizer, generate_corpus, grammar_tasks, grammar_words


def test_ids() -> None:
    tokenizer = WordTokenizer.from_sentences(["the king sleeps", "the  queen"])
    assert len(tokenizer) == 8
    ids = (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id)
    assert ids == (0, 1, 2, 3)
    assert tokenizer.encode("the king yawns") == [1, 7, 4, 3, 2]
    assert tokenizer.encode("the king", add_special_tokens=False) == [7, 4]
    assert tokenizer(["the king", "queen"]) == {
        "input_ids": [[1, 7, 4, 2], [1, 5, 2]],
        "attention_mask": [[1, 1, 1, 1], [1, 1, 1]],
    }
    assert tokenizer.decode([1, 7, 4, 2, 5, 0]) == "the king"
    assert repr(tokenizer) == "WordTokenizer(8 words)"


@given(st.lists(st.sampled_from(grammar_words())))
def test_there_and_back(words: list[str]) -> None:
    tokenizer = WordTokenizer(grammar_words())
    ids = tokenizer.encode(" ".join(words))
    assert tokenizer.decode(ids) == " ".join(words)
    assert len(ids) == len(words) + 2


def test_the_grammar_has_no_unknown_word() -> None:
    tokenizer = WordTokenizer(grammar_words())
    sentences = [sentence for task in grammar_tasks(pairs=20) for pair in task.pairs for sentence in pair]
    ids = tokenizer(sentences + generate_corpus(2000))["input_ids"]
    assert {index for row in ids for index in row} == set(range(1, len(tokenizer))) - {tokenizer.unk_token_id}


def test_errors() -> None:
    with pytest.raises(TypeError, match="got the string 'the king'; use `encode`"):
        WordTokenizer(["the"])("the king")
    with pytest.raises(TypeError, match="`sentences` must be a list of strings"):
        WordTokenizer.from_sentences("the king")
    for word in ("", "the king", "king "):
        with pytest.raises(ValueError, match=f"`words` contains '{word}'"):
            WordTokenizer([word])
    with pytest.raises(ValueError, match="none of"):
        WordTokenizer(["<pad>"])
    with pytest.raises(IndexError, match="ids 0 to 4"):
        WordTokenizer(["the"]).decode([5])
