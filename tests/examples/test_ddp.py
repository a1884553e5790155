"""Two processes hold the values of one: run as a user would, since Lightning starts the second by running the file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from example_files import EXAMPLES


@pytest.mark.slow
def test_ranks_agree_with_each_other_and_with_one_process(tmp_path: Path) -> None:
    command = [sys.executable, str(EXAMPLES / "ddp.py"), "--steps", "10"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=200, check=True, cwd=tmp_path)
    assert "all 2 ranks hold the same values: yes" in run.stdout
    (line,) = (line for line in run.stdout.splitlines() if line.startswith("largest difference"))
    assert float(line.split()[-1]) <= 1e-6
    assert not list(tmp_path.iterdir())
