"""No file imports another in a circle, at whatever moment it does so."""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import lightning_interp

ROOT = Path(lightning_interp.__file__).parent
FILES = {
    ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in ROOT.rglob("*.py")
}


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
