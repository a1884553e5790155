"""How many samples a batch has, whatever it is made of, and what it holds."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.utils.rnn import pack_padded_sequence

from lightning_interp.batches.contents import batch_size, describe_batch, has, look_up, tensors_of

Z = torch.zeros
Named = namedtuple("Named", ["x", "y"])


@dataclass(frozen=True)
class Frozen:
    x: Any
    y: Any


class Graphs:
    """As of PyTorch Geometric: nodes of several graphs in one tensor."""

    def __init__(self) -> None:
        self.x, self.edge_index, self.num_graphs = Z(21, 5), Z(2, 40), 4


class Sized:
    """As a TensorDict: tells the shape that all entries begin with."""

    batch_size = torch.Size([6])


class Encoding(Mapping[str, Any]):
    """A mapping that is no dict, as what tokenizers give."""

    def __init__(self, **held: Any) -> None:
        self.held = held

    def __getitem__(self, key: str) -> Any:
        return self.held[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.held)

    def __len__(self) -> int:
        return len(self.held)


IMAGES = [Z(3, 4 + i, 5) for i in range(6)]
SAME_SIZE = [Z(3, 4, 5) for _ in range(6)]
BOXES = [{"boxes": Z(2, 4)} for _ in range(6)]


@pytest.mark.parametrize(
    ("batch", "size"),
    [
        (Z(3, 2), 3),
        ((Z(3, 2), Z(3)), 3),
        ([Z(3, 2), Z(3, 2)], 3),
        ([Z(3, 2), Z(3, 2), Z(3)], 3),
        ([Z(3, 2), Z(3, 2), Z(3, 2)], 3),
        ({"x": Z(3, 2), "y": Z(3), "weight": torch.tensor(0.5), "name": "set"}, 3),
        (Named(Z(3, 2), Z(3)), 3),
        (Frozen(Z(3, 2), Z(3)), 3),
        (Graphs(), 4),
        (Sized(), 6),
        (Encoding(input_ids=Z(3, 7), offsets=Z(9)), 3),
        ({"class_weights": Z(5), "input_ids": Z(3, 7)}, 3),
        (["a", "b", "c"], 3),
        (("abc", "de"), 2),
        ((["a", "b"], Z(2)), 2),
        ({"text": ["a", "b"], "label": [0, 1]}, 2),
        ((IMAGES, BOXES), 6),
        ((SAME_SIZE, BOXES), 6),
        ((tuple(SAME_SIZE), tuple(BOXES)), 6),
        (([Z(4, 5), Z(4, 5)], Z(4)), 4),
        ({"x": {"left": Z(3, 2), "right": Z(3)}, "y": Z(3)}, 3),
        (np.zeros((3, 2)), 3),
        (pack_padded_sequence(Z(3, 5, 2), [5, 2, 1], batch_first=True), 3),
    ],
)
def test_the_number_on_which_all_parts_agree(batch: Any, size: int) -> None:
    assert batch_size(batch) == size


@pytest.mark.parametrize(
    "batch",
    [
        (Z(7, 10, 4), Z(10)),  # positions first
        {"x": Z(4, 6), "class_weights": Z(3)},
        [{"x": Z(3, 8, 8)}, {"x": Z(3, 8, 8)}],  # samples that nobody stacked, or batches of two loaders
        [(Z(3, 8), 1), (Z(3, 8), 0)],
        [Z(7, 3) for _ in range(4)],  # samples that nobody stacked, or four inputs
        [Z(6) for _ in range(4)],
        {"lr": 0.1},
        (),
        None,
        torch.tensor(1.0),
        object(),
    ],
)
def test_what_is_not_agreed_on_is_asked_for(batch: Any) -> None:
    with pytest.raises(ValueError, match="How many samples the batch has cannot be told") as error:
        batch_size(batch)
    assert "`batch_size=`" in str(error.value)
    assert batch_size(batch, lambda batch: 5) == 5


@pytest.mark.parametrize(
    ("said", "size"),
    [(8, 8), ("y", 10), ("n", 12), ("count", 12), ("names", 2), (lambda batch: batch["y"], 10), (lambda batch: 3, 3)],
)
def test_what_is_said_counts(said: Any, size: int) -> None:
    batch = {"x": Z(7, 10), "y": Z(10), "n": torch.tensor(12), "count": 12, "names": ["a", "b"]}
    assert batch_size(batch, said) == size


@pytest.mark.parametrize(
    ("said", "parts"),
    [
        ("z", ("`batch_size` points to 'z'", "'x': float32 (7, 10)")),
        ("text", ("`batch_size` leads to a str", "number of samples")),
        (lambda batch: 0, ("`batch_size` leads to a int", "at least 1")),
        (lambda batch: 2.5, ("`batch_size` leads to a float",)),
        (lambda batch: True, ("`batch_size` leads to a bool",)),
    ],
)
def test_what_leads_to_no_number(said: Any, parts: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="`batch_size`") as error:
        batch_size({"x": Z(7, 10), "text": "abc"}, said)
    for part in parts:
        assert part in str(error.value)


def test_keys_indices_and_attributes_are_looked_up_alike() -> None:
    for batch, where in (({"x": 5}, "x"), ((1, 5), 1), (Frozen(5, 6), "x"), (Named(5, 6), "x"), (Named(5, 6), 0)):
        assert look_up(batch, where, "tokens") == 5
    assert has(Frozen(1, 2), "x")
    assert not has(Frozen(1, 2), "z")
    for batch, where in (({"x": 5}, "y"), ((1, 5), 2), (Frozen(5, 6), "z"), (Z(3), "shape")):
        with pytest.raises(ValueError, match=r"`tokens` points to .*, which is not in the batch"):
            look_up(batch, where, "tokens")


def test_descriptions_and_tensors() -> None:
    assert describe_batch(Frozen(Z(3), ["a"])) == "a Frozen with x: float32 (3,), y: a list of 1"
    assert describe_batch({"x": Z(3), "y": (1, 2)}) == "a dict with 'x': float32 (3,), 'y': a tuple of 2"
    found = tensors_of({"x": Z(3), "more": [Frozen(Z(2), "a")], "graph": Graphs()})
    assert [one.shape[0] for one in found] == [3, 2, 21, 2]
