"""Images with classes as labels, at a tiny size."""

from __future__ import annotations

from pathlib import Path

import pytest
from example_files import load


def test_measures_at_maps_and_pooled_features(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    example = load("vision")
    readings = example.main(["--steps", "10", "--logdir", str(tmp_path)])
    assert readings.steps() == [1, 2, 3, 5, 7, 10]
    # One vector a pixel in a feature map, one an image after pooling.
    assert [readings.last(f"rows/{site}") for site in example.SITES] == [500 * 64, 500 * 16, 500]
    for pattern in example.MEASURES.values():
        for site in example.SITES:
            assert len(set(readings.series(pattern.format(site))[1])) > 1
    assert readings.last("regularity_above_chance/pooled/class") > 0
    assert (tmp_path / "vision" / "version_0" / "vision.png").stat().st_size > 10_000
    printed = capsys.readouterr().out
    assert f"{readings.last('rankme/late'):.4f}" in printed
    assert "vision.png" in printed


def test_images_of_each_shape() -> None:
    images, classes = load("vision").shapes(10, seed=0).tensors
    assert images.shape == (10, 1, 16, 16)
    assert classes.tolist() == [0, 1, 2, 3, 4] * 2
    rows, columns = ((images[:2, 0] > 0.5).sum(dim).amax(-1) for dim in (2, 1))
    assert rows[0] > columns[0]
    assert columns[1] > rows[1]
