"""What becomes readable when, at a tiny size."""

from __future__ import annotations

from pathlib import Path

import pytest
from example_files import load

pytest.importorskip("transformers")


def test_an_order_of_all_that_was_read(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    tiny = ["--steps", "8", "--width", "16", "--sentences", "30", "--pairs", "2"]
    order = load("embryology").main([*tiny, "--logdir", str(tmp_path)])
    assert list(order.groups) == ["words", "phenomena", "relations", "probes"]
    assert {"band_1", "binding", "pet", "tree distance", "coordinates"} <= set(order.things)
    assert order.steps[-1] == 8
    assert (tmp_path / "version_0" / "order.png").stat().st_size > 10_000
    assert order.table() in capsys.readouterr().out
