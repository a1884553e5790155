"""Labels from token ids against plain lists of words."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference import ngrams as plain

from lightning_interp.functional import next_token_labels, ngram_labels

LARGEST = 2_097_151


def packed(window) -> int:
    number = 0
    for word in window:
        number = number * (LARGEST + 1) + word
    return number


words = st.lists(
    st.lists(st.one_of(st.none(), st.sampled_from([0, 1, 2, LARGEST])), min_size=1, max_size=7), min_size=1, max_size=4
)


def tensors(sequences):
    length = max(map(len, sequences))
    ids = torch.tensor([[5 if w is None else w for w in s] + [5] * (length - len(s)) for s in sequences])
    mask = torch.tensor([[w is not None for w in s] + [False] * (length - len(s)) for s in sequences])
    return ids, mask


@given(sequences=words, n=st.integers(1, 3))
def test_nested_windows_are_those_that_overlap_the_position(sequences, n):
    ids, mask = tensors(sequences)
    found = ngram_labels(ids, mask, n)
    assert found.shape == (*ids.shape, n)
    assert found.dtype == torch.int64
    for b, sequence in enumerate(sequences):
        for t in range(ids.shape[1]):
            expected = [] if t >= len(sequence) else [packed(window) for window in plain.windows(sequence, t, n)]
            assert sorted(label for label in found[b, t].tolist() if label != -1) == sorted(expected)


@given(sequences=words, n=st.integers(1, 3))
def test_flat_windows_are_those_that_end_at_the_position(sequences, n):
    ids, mask = tensors(sequences)
    found = ngram_labels(ids, mask, n, nested=False)
    assert found.shape == (*ids.shape, 1)
    for b, sequence in enumerate(sequences):
        for t, label in enumerate(found[b, :, 0].tolist()):
            window = plain.ending_window(sequence, t, n) if t < len(sequence) else None
            assert label == (-1 if window is None else packed(window))


@given(sequences=words)
def test_next_token(sequences):
    ids, mask = tensors(sequences)
    found = next_token_labels(ids, mask)
    assert found.shape == (*ids.shape, 1)
    for b, sequence in enumerate(sequences):
        for t, label in enumerate(found[b, :, 0].tolist()):
            following = plain.next_word(sequence, t) if t < len(sequence) else None
            assert label == (-1 if following is None else following)


def test_negative_tokens_are_no_words():
    tokens, mask = torch.tensor([[3, -100, 4, 5]]), torch.ones(1, 4, dtype=torch.bool)
    assert ngram_labels(tokens, mask, 2, nested=False).flatten().tolist() == [-1, -1, -1, packed((4, 5))]
    following = next_token_labels(tokens, mask).flatten().tolist()
    assert following[0] < 0
    assert following[2:] == [5, -1]


def test_small_integers_do_not_overflow():
    tokens = torch.tensor([[200, 201, 202]], dtype=torch.uint8)
    mask = torch.ones(1, 3, dtype=torch.bool)
    assert ngram_labels(tokens, mask, 3, nested=False)[0, 2, 0].item() == packed((200, 201, 202))


def test_errors():
    tokens, mask = torch.zeros(2, 3, dtype=torch.long), torch.ones(2, 3, dtype=torch.bool)
    with pytest.raises(ValueError, match="got 4"):
        ngram_labels(tokens, mask, 4)
    for function in (lambda a, b: ngram_labels(a, b, 2), next_token_labels):
        with pytest.raises(ValueError, match=r"\(2, 3\) and `mask` \(2, 2\)"):
            function(tokens, mask[:, :2])
        with pytest.raises(ValueError, match=r"\(3,\)"):
            function(tokens[0], mask[0])
