"""Imports point down a table of folders and never in a circle, and paths of before lead to the same modules."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import lightning_interp

ROOT = Path(lightning_interp.__file__).parent
FILES = {
    ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in ROOT.rglob("*.py")
}

FLOORS = (
    "callbacks",
    "offline",
    "parts",
    "reading",
    "decisions",
    "probing",
    "tasks",
    "language",
    "batches",
    "sites",
    "isolation",
    "reporting",
    "figures",
    "metrics",
    "functional",
    "distributed",
    "models",
    "datasets",
    "compat",
)
"""From the top down: a file may import from its own folder and from those below."""


class Imports(ast.NodeVisitor):
    """What a file imports, in functions too; not what only a type checker sees."""

    def __init__(self) -> None:
        self.found: set[str] = set()

    def visit_If(self, node: ast.If) -> None:
        if "TYPE_CHECKING" not in ast.dump(node.test):
            self.generic_visit(node)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        for alias in node.names:
            whole = f"{node.module}.{alias.name}"
            self.found.add(whole if whole in FILES else str(node.module))

    def visit_Import(self, node: ast.Import) -> None:
        self.found.update(alias.name for alias in node.names)


def imports_of(text: str) -> set[str]:
    visitor = Imports()
    visitor.visit(ast.parse(text))
    return visitor.found & FILES.keys()


def test_no_file_imports_another_in_a_circle() -> None:
    graph = {name: imports_of(path.read_text(encoding="utf-8")) - {name} for name, path in FILES.items()}
    assert sum(map(len, graph.values())) > 500
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" imports ".join(error.args[1]))


def test_what_counts_as_an_import() -> None:
    text = """
from lightning_interp.decisions import judge
if TYPE_CHECKING:
    from lightning_interp.reading import History
def late():
    from lightning_interp import figures
"""
    assert imports_of(text) == {"lightning_interp.decisions", "lightning_interp.figures"}


def folder_of(module: str) -> str:
    return module.split(".")[1]


def upward(text: str, module: str) -> set[str]:
    """What a module imports from folders above its own; the package itself stands above all."""
    floor = FLOORS.index(folder_of(module))
    return {
        other
        for other in imports_of(text)
        if other == "lightning_interp"
        or (folder_of(other) != folder_of(module) and FLOORS.index(folder_of(other)) <= floor)
    }


def test_imports_point_down() -> None:
    modules = {name: path for name, path in FILES.items() if name != "lightning_interp"}
    assert {folder_of(name) for name in modules} <= set(FLOORS)
    found = {name: up for name, path in modules.items() if (up := upward(path.read_text(encoding="utf-8"), name))}
    assert not found


def test_what_points_up() -> None:
    text = """
from lightning_interp.functional import spearman
from lightning_interp.reading.history import History
from lightning_interp.callbacks import TaskSpace
"""
    up = upward(text, "lightning_interp.offline.compare")
    assert up == {"lightning_interp.callbacks"}
    assert upward("from lightning_interp import analyze", "lightning_interp.callbacks.task_space")


def test_files_at_the_root() -> None:
    assert {path.name for path in ROOT.glob("*.py")} == {"__init__.py", "compat.py"}


@pytest.mark.parametrize(("old", "new"), lightning_interp._OLD_PATHS.items())
def test_a_path_of_before_is_the_same_module(old: str, new: str) -> None:
    one, other = (importlib.import_module(f"lightning_interp.{path}") for path in (old, new))
    assert one is other


def test_paths_of_before_in_a_new_process() -> None:
    code = r"""
import pickle
kept = pickle.loads(b"clightning_interp.predictions\nPredictions\n.")
import lightning_interp.gates
from lightning_interp.analyze import analyze
from lightning_interp.tasks.batching import pad_right
from lightning_interp.history import History
assert kept.__module__ == "lightning_interp.batches.predictions", kept
assert lightning_interp.gates.judge and lightning_interp.analyze is analyze
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT.parent, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
