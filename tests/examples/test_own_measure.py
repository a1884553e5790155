"""A measure of one's own, at a tiny size."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from example_files import load


def test_the_measure_is_read_at_each_site(
    capsys: pytest.CaptureFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    example = load("own_measure")
    readings = example.main(["--epochs", "2", "--batches", "3"])
    assert [step for step, _ in readings] == [3, 6]
    for _, values in readings:
        assert all(0 < values[f"sparsity/{site}"] < 1 for site in example.SITES)
    printed = capsys.readouterr().out
    assert "sparsity/layer_2" in printed
    assert f"{readings[-1][1]['sparsity/layer_2']:.6f}" in printed
    assert not list(tmp_path.iterdir())


def test_padding_does_not_count() -> None:
    metric = load("own_measure").Sparsity()
    z = torch.tensor([[[1.0, 0.01], [1.0, 1.0], [0.0, 1.0]]])
    metric.update(z, torch.tensor([[True, True, False]]))
    assert metric.compute() == 0.25


def test_states_of_two_processes_add_up() -> None:
    example = load("own_measure")
    z, mask = torch.randn(6, 4, 8, generator=torch.Generator().manual_seed(0)), torch.ones(6, 4, dtype=torch.bool)
    whole, first, second = (example.Sparsity() for _ in range(3))
    whole.update(z, mask)
    first.update(z[:2], mask[:2])
    second.update(z[2:], mask[2:])
    first.merge_state(second)
    assert first.compute() == whole.compute()
