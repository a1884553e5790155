from __future__ import annotations

import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a real data set, unpacked once; the test is skipped where the archive is missing."""
    folders: dict[str, Path] = {}

    def unpack(name: str) -> Path:
        root = Path(os.environ.get("LIGHTNING_INTERP_DATA", Path(__file__).parents[3] / "shared" / "data"))
        archive = root / f"{name}.tar.gz"
        if not archive.is_file():
            pytest.skip(f"{archive} is missing: the published {name} files are not part of the project")
        if name not in folders:
            target = tmp_path_factory.mktemp(name)
            with tarfile.open(archive) as tar:
                tar.extractall(target, filter="data")
            folders[name] = next(target.rglob("*.txt" if name == "scan" else "*.tsv")).parent
        return folders[name]

    return unpack
