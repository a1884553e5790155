from __future__ import annotations

from typing import Any

import pytest
import torch

from lightning_interp.datasets import Pair, Seq2SeqDataModule, Vocabulary

PAIRS: list[Pair] = [([word], [word, word]) for word in "abcdefghij"]


def build(**kwargs: Any) -> Seq2SeqDataModule:
    return Seq2SeqDataModule(**{"train": PAIRS, "val": PAIRS[:3], "ood": PAIRS[3:5], "batch_size": 4, **kwargs})


def order(data: Seq2SeqDataModule, epochs: int = 2) -> list[list[int]]:
    loader = data.train_dataloader()
    return [[int(token) for batch in loader for token in batch["input_ids"][:, 0]] for _ in range(epochs)]


def test_two_validation_loaders_in_order() -> None:
    data = build(val_batch_size=2)
    first, second = data.val_dataloader()
    assert data.val_loader_names == ("in distribution", "out of distribution")
    assert [batch["input_ids"].flatten().tolist() for batch in first] == [[4, 5], [6]]
    assert [batch["input_ids"].flatten().tolist() for batch in second] == [[7, 8]]


def test_training_order_follows_from_the_seed_alone() -> None:
    torch.manual_seed(1)
    first = order(build(seed=5))
    torch.manual_seed(2)
    assert order(build(seed=5)) == first
    assert order(build(seed=6)) != first
    assert first[0] != first[1]
    assert all(sorted(epoch) == list(range(4, 14)) for epoch in first)


def test_loaders_leave_the_global_random_stream_alone() -> None:
    state = torch.get_rng_state()
    data = build()
    for loader in (data.train_dataloader(), *data.val_dataloader()):
        list(loader)
    assert torch.equal(torch.get_rng_state(), state)


def test_vocabularies() -> None:
    data = build()
    assert data.source_vocabulary == Vocabulary("abcdefghij")
    own = Vocabulary("abcdefghijklmnop")
    assert build(source_vocabulary=own).source_vocabulary is own


def test_categories() -> None:
    assert build().ood_categories is None
    assert build(ood_categories=["x", "y"]).ood_categories == ("x", "y")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"val": []}, "`val` is empty"),
        ({"batch_size": 0}, "`batch_size` is 0"),
        ({"val_batch_size": -1}, "`val_batch_size` is -1"),
        ({"ood_categories": ["x"]}, "`ood_categories` has 1 entries for 2 pairs"),
    ],
)
def test_errors(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(**wrong)
