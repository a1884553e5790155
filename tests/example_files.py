"""The examples and studies as modules, so that they run in the process of the test."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
STUDIES = ROOT / "benchmarks" / "studies"


def load(name: str, folder: Path = EXAMPLES) -> ModuleType:
    """The example of that name, fresh."""
    spec = importlib.util.spec_from_file_location(name, folder / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def load_study(name: str) -> ModuleType:
    """The study of that name, fresh."""
    return load(name, STUDIES)
