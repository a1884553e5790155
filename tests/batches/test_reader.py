"""What a batch says: tokens, padding, labels."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lightning_interp.batches.reader import BatchReader, batch_size, describe_batch

IDS = torch.tensor([[1, 5, 6, 2, 0], [1, 7, 2, 0, 0]])
MASK = (IDS != 0).long()


def reader(**kwargs: object) -> BatchReader:
    return BatchReader(**{"labels": ["token", "bigram", "next_token"], **kwargs})


@pytest.mark.parametrize(
    ("batch", "kwargs"),
    [
        ({"input_ids": IDS, "attention_mask": MASK}, {}),
        ({"words": IDS, "real": MASK.bool()}, {"tokens": "words", "mask": "real"}),
        ((IDS, MASK), {"mask": 1}),
        ((MASK, IDS), {"tokens": 1, "padding_idx": 0}),
        ([IDS], {"padding_idx": 0}),
        (IDS, {"padding_idx": 0}),
        ({"x": {"y": IDS}}, {"tokens": lambda batch: batch["x"]["y"], "padding_idx": 0}),
    ],
)
def test_the_same_from_every_form_of_batch(batch: object, kwargs: dict) -> None:
    found = reader(**kwargs).read(batch)
    assert torch.equal(found.mask, MASK.bool())
    labels = found.labels(["token", "bigram", "next_token"])
    assert torch.equal(labels["token"], IDS.masked_fill(MASK == 0, -1))
    assert labels["next_token"][..., 0].tolist() == [[5, 6, 2, -1, -1], [7, 2, -1, -1, -1]]
    assert labels["bigram"].shape == (2, 5, 2)
    assert bool((labels["bigram"][0, 4] == -1).all())


def test_ignored_tokens_break_ngrams_and_skipped_positions_do_not() -> None:
    ignoring = reader(padding_idx=0, ignore_tokens=[1, 2]).read(IDS)
    assert ignoring.mask.tolist() == [[False, True, True, False, False], [False, True, False, False, False]]
    bigrams = ignoring.labels(["bigram"])["bigram"]
    assert int((bigrams >= 0).sum()) == 2  # one window, on both of its positions
    skipping = reader(padding_idx=0, skip_positions=1).read(IDS)
    assert skipping.mask.tolist() == [[False, True, True, True, False], [False, True, True, False, False]]
    assert bool((skipping.labels(["bigram"])["bigram"][0, 1] >= 0).all())  # the skipped word is still its context


def test_no_padding_at_all() -> None:
    assert bool(reader(padding_idx=-1).read(IDS).mask.all())


def test_minus_100_is_no_token() -> None:
    ids = IDS.masked_fill(IDS == 0, -100)
    found = reader().read({"labels": ids, "input_ids": IDS, "attention_mask": MASK}, tokens="labels")
    assert torch.equal(found.mask, MASK.bool())


def test_label_arrays_are_looked_up_by_position() -> None:
    per_sample = BatchReader({"topic": np.array([3, 4, 5, 6])})
    found = per_sample.read({"x": torch.zeros(2, 3)}, positions=torch.tensor([2, 0]), num_samples=4)
    assert found.custom["topic"].tolist() == [5, 3]
    assert found.mask is None
    with pytest.raises(ValueError, match="length 4, but the validation data set has 5"):
        per_sample.read({"x": torch.zeros(2, 3)}, positions=torch.tensor([2, 0]), num_samples=5)
    with pytest.raises(ValueError, match="not known"):
        per_sample.read({"x": torch.zeros(2, 3)})


def test_labels_are_those_before_a_step_writes_into_them() -> None:
    batch = {"x": torch.zeros(2, 2), "tags": torch.tensor([[5, 6], [7, 8]])}
    found = BatchReader(["tags"]).read(batch)
    batch["tags"].zero_()
    assert found.custom["tags"].tolist() == [[5, 6], [7, 8]]


def test_size_and_description_of_a_batch() -> None:
    assert batch_size({"a": torch.tensor(1.0), "b": torch.zeros(4, 2)}) == 4
    assert describe_batch((IDS, "x")) == "a tuple with 0: int64 (2, 5), 1: a str"
    with pytest.raises(ValueError, match=r"cannot be told: it is a dict with 'a': a int. Say it with `batch_size=`"):
        batch_size({"a": 1})
