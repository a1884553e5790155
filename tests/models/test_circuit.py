"""The circuit that other tests take as known: what its heads attend to and what it predicts."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.models.circuit import InductionCircuit, SetHead, repeated_copies

VOCABULARY, SEGMENT, COPIES = 64, 25, 4
IDS = repeated_copies(16, SEGMENT, COPIES, VOCABULARY)
LENGTH = 1 + SEGMENT * COPIES


def attention(model: InductionCircuit, ids: Tensor = IDS) -> list[Tensor]:
    """The weights of each head, (B, T, T), from its own queries and keys."""
    found: list[Tensor] = []

    def weigh(head: SetHead, given: tuple[Tensor]) -> None:
        scores = head.sharpness * head.query(*given) @ head.key(*given).mT
        future = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
        found.append(scores.masked_fill(future, -torch.inf).softmax(-1))

    handles = [head.register_forward_pre_hook(weigh) for head in model.heads]
    model(ids)
    for handle in handles:
        handle.remove()
    return found


def on_earlier(weights: Tensor, offset: int, start: int = 1) -> float:
    """Mean over queries behind the first copy: what falls on their token's earlier places, moved by ``offset``."""
    sums = []
    for t in range(start + SEGMENT, weights.shape[1]):
        earlier = [t - r * SEGMENT for r in range(1, (t - start) // SEGMENT + 1)]
        sums.append(weights[:, t, [place + offset for place in earlier]].sum(-1))
    return float(torch.stack(sums).mean())


def accuracy(model: InductionCircuit) -> tuple[float, float]:
    """Of what is predicted in the first copy, and at places behind it, whose token stood in the sequence before."""
    right = (model(IDS).argmax(-1)[:, :-1] == IDS[:, 1:]).float()
    return float(right[:, :SEGMENT].mean()), float(right[:, SEGMENT + 1 :].mean())


def test_each_sequence_is_a_start_and_distinct_ids_again_and_again() -> None:
    assert IDS.shape == (16, LENGTH)
    for row in IDS.tolist():
        assert row[0] == 0
        assert row[1:] == row[1 : 1 + SEGMENT] * COPIES
        assert len({*row}) == 1 + SEGMENT
    assert len({tuple(row) for row in IDS.tolist()}) == 16


def test_the_second_head_looks_behind_earlier_places_of_the_token() -> None:
    first, second = attention(InductionCircuit(VOCABULARY, LENGTH))
    assert on_earlier(second, 1) == pytest.approx(1, abs=1e-4)
    assert on_earlier(second, 0) == pytest.approx(0, abs=1e-4)
    previous = first.diagonal(-1, dim1=1, dim2=2)
    assert float(previous.min()) == pytest.approx(1, abs=1e-4)
    assert on_earlier(first, 1) < 0.01


def test_all_copies_but_the_first_are_predicted() -> None:
    model = InductionCircuit(VOCABULARY, LENGTH)
    assert accuracy(model) == (0, 1)
    losses = torch.nn.functional.cross_entropy(model(IDS)[:, :-1].mT, IDS[:, 1:], reduction="none").mean(0)
    assert float(losses[SEGMENT + 1 :].max()) < 1e-4
    assert float(losses[:SEGMENT].min()) > 4


@pytest.mark.parametrize("place", [0, 1])
def test_it_takes_both_heads(place: int) -> None:
    sharpness = [50.0, 50.0]
    sharpness[place] = 0.0
    model = InductionCircuit(VOCABULARY, LENGTH, sharpness=(sharpness[0], sharpness[1]))
    uniform = attention(model)[place]
    assert torch.allclose(uniform, torch.ones(LENGTH, LENGTH).tril() / torch.arange(1, LENGTH + 1)[:, None])
    assert on_earlier(uniform, 1) == pytest.approx(0.0307, abs=5e-5)
    first, later = accuracy(model)
    assert first == 0
    assert later < 0.005  # where all tokens are equally likely, rounding could pick the right one


def test_without_a_start_the_first_position_looks_as_if_it_had_preceded_itself() -> None:
    _, second = attention(InductionCircuit(VOCABULARY, LENGTH), IDS[:, 1:])
    assert 0.95 < on_earlier(second, 1, start=0) < 0.99
