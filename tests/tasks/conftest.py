from __future__ import annotations

import os
import warnings
from pathlib import Path

import pytest

from lightning_interp.tasks import Task, read_blimp


@pytest.fixture(scope="session")
def blimp() -> Path:
    """The published archive; the test is skipped where it is missing."""
    root = Path(os.environ.get("LIGHTNING_INTERP_DATA", Path(__file__).parents[3] / "shared" / "data"))
    archive = root / "blimp.tar.gz"
    if not archive.is_file():
        pytest.skip(f"{archive} is missing: the published BLiMP files are not part of the project")
    return archive


@pytest.fixture(scope="session")
def published(blimp: Path) -> tuple[Task, ...]:
    """All paradigms, read once."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return tuple(read_blimp(blimp))
