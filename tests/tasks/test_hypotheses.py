from __future__ import annotations

import pytest
import torch

from lightning_interp.tasks import MinimalPair, Task, lexical_overlap, phenomenon_hypothesis


def task(name: str, phenomenon: str, *pairs: tuple[str, str]) -> Task:
    return Task(name, phenomenon, tuple(MinimalPair(*pair) for pair in pairs))


TASKS = [
    task("a", "x", ("The king sleeps.", "the king sleep .")),
    task("b", "y", ("Kings don't sleep", "Kings doesn't sleep")),
    task("c", "x", ("le roi dort", "le roi dorment")),
]


def test_overlap_of_vocabularies() -> None:
    # {the, king, sleeps, sleep} and {kings, don't, doesn't, sleep}: one of seven.
    expected = torch.tensor([[1, 1 / 7, 0], [1 / 7, 1, 0], [0, 0, 1]], dtype=torch.float64)
    torch.testing.assert_close(lexical_overlap(TASKS), expected)


def test_same_phenomenon() -> None:
    assert phenomenon_hypothesis(TASKS).tolist() == [[1, 0, 1], [0, 1, 0], [1, 0, 1]]


def test_published_overlap(published: tuple[Task, ...]) -> None:
    tasks = published
    overlap, same = lexical_overlap(tasks), phenomenon_hypothesis(tasks).bool()
    others = ~torch.eye(len(tasks), dtype=torch.bool)
    assert overlap[same & others].mean().item() == pytest.approx(0.59, abs=0.02)
    assert overlap[~same].mean().item() == pytest.approx(0.46, abs=0.02)
    torch.testing.assert_close(overlap, overlap.T)
    r = torch.corrcoef(torch.stack([overlap[others], same[others].double()]))[0, 1].item()
    assert r == pytest.approx(0.27, abs=0.03)


def test_errors() -> None:
    for function in (lexical_overlap, phenomenon_hypothesis):
        with pytest.raises(ValueError, match="`tasks` is empty"):
            function([])
    with pytest.raises(ValueError, match=r"task 'marks' has no words, as '\?'"):
        lexical_overlap([task("marks", "x", ("?", "!"))])
