"""What README says of callbacks, links and commands is so."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl

import lightning_interp
from lightning_interp import (
    AcquisitionByClass,
    AttentionBudget,
    AttentionStructure,
    CausalTrace,
    ClozeFacts,
    ConfidenceCalibration,
    CoordinateProbe,
    DirectionTracker,
    FactTracker,
    Faithfulness,
    InductionHeads,
    InputAblation,
    LabelAnchors,
    LayerLens,
    LayerProbe,
    MinimalPairs,
    NeuronTable,
    NoiseRobustness,
    PatchAblation,
    RepresentationDrift,
    RepresentationGeometry,
    RepresentationStructure,
    SelfInfluence,
    SourceInfluence,
    StructuralProbe,
    TaskSpace,
    TrainingPhases,
    TruthProbe,
)
from lightning_interp.metrics.measure import SUMMARY
from lightning_interp.probing import fact_statements, planted_facts, planted_places
from lightning_interp.reading.keys import declared
from lightning_interp.tasks import Fact

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()

CALLBACKS: dict[str, Any] = {
    "RepresentationStructure": lambda: RepresentationStructure(
        {"encoder": "encoder"}, ["token"], information_plane=["token", "next_token"]
    ),
    "RepresentationGeometry": lambda: RepresentationGeometry({"encoder": "encoder"}),
    "NoiseRobustness": lambda: NoiseRobustness(
        {"input": "embedding"}, monitors={"val_loss": "loss"}, drift={"encoder": "encoder"}
    ),
    "RepresentationDrift": lambda: RepresentationDrift({"encoder": "encoder"}, labels=["tags"]),
    "LayerProbe": lambda: LayerProbe({"a": "encoder", "b": "head"}, labels=["tags"], targets=["depth"]),
    "LayerLens": lambda: LayerLens(sites={"encoder": "encoder"}, target="tags"),
    "StructuralProbe": lambda: StructuralProbe({"encoder": "encoder"}, max_sentences=40),
    "CoordinateProbe": lambda: CoordinateProbe(planted_places(60), {"encoder": "encoder"}),
    "TruthProbe": lambda: TruthProbe(fact_statements(planted_facts()), {"encoder": "encoder"}),
    "DirectionTracker": lambda: DirectionTracker(
        {"a": (["x", "y"], ["z", "w"])}, {"encoder": "encoder"}, ["v"], tokenizer="grammar"
    ),
    "AttentionStructure": lambda: AttentionStructure({"encoder": "encoder"}),
    "InductionHeads": lambda: InductionHeads(sites={"encoder": "encoder"}),
    "AttentionBudget": lambda: AttentionBudget(sites={"encoder": "encoder"}),
    "LabelAnchors": lambda: LabelAnchors([("a", "x"), ("b", "y")], [("a", "x")], sites={"encoder": "encoder"}),
    "NeuronTable": lambda: NeuronTable({"encoder": "encoder"}),
    "InputAblation": lambda: InputAblation(cues={"name": [3]}),
    "PatchAblation": lambda: PatchAblation(8, cues={"name": [3]}),
    "Faithfulness": lambda: Faithfulness("gradient"),
    "SelfInfluence": lambda: SelfInfluence("head", flags="flipped"),
    "SourceInfluence": lambda: SourceInfluence("source", ["web", "books"]),
    "MinimalPairs": lambda: MinimalPairs("grammar", tokenizer="grammar", max_pairs=4),
    "CausalTrace": lambda: CausalTrace([Fact("capital", "rome is the ___", "town", subject="rome")]),
    "FactTracker": lambda: FactTracker(*[[Fact("r", "it is ___", "x", ("y",))]] * 5, texts=["a text"]),
    "ClozeFacts": lambda: ClozeFacts([Fact("capital", "the capital is ___ .", a, ("x", "y")) for a in ("x", "y")]),
    "AcquisitionByClass": lambda: AcquisitionByClass("head", "tags", labels="tags", names=3),
    "ConfidenceCalibration": lambda: ConfidenceCalibration("head", target="tags"),
    "TaskSpace": lambda: TaskSpace("grammar", tokenizer="grammar", max_pairs=4),
    "TrainingPhases": lambda: TrainingPhases(improving={"val_acc": "max"}, keys=["val_acc"]),
}


def rows() -> dict[str, str]:
    """Name of each callback and the keys that the table gives it."""
    table = README.split("| callback | keys (summary) |")[1].split("\n\n")[0]
    return {line.split("`")[1]: line.split("|")[2] for line in table.splitlines() if line.startswith("| `")}


def test_every_exported_callback_has_a_row() -> None:
    exported = {name: getattr(lightning_interp, name) for name in lightning_interp.__all__}
    names = {name for name, one in exported.items() if isinstance(one, type) and issubclass(one, pl.Callback)}
    names -= {"ValidationAnalysis"}
    assert names == set(rows())


@pytest.mark.parametrize("name", CALLBACKS)
def test_keys_of_the_table_are_those_that_are_logged(name: str) -> None:
    callback = CALLBACKS[name]()
    logged = {"phase"}
    if name != "TrainingPhases":
        logged = {
            one.measure.name.split("/")[0] for one in declared(callback, None).values() if one.measure.level == SUMMARY
        }
    listed = {key.split("/")[0] for key in re.findall(r"`([^`]+)`", rows()[name])} - {
        "<measure>",
        "",
        "information_plane",
    }
    for above in ("_above_baseline", "_above_random"):
        if f"<measure>{above}" in listed:
            listed |= {key for key in logged if key.endswith(above)}
            listed -= {f"<measure>{above}"}
    assert listed == logged
    assert logged == {key.split("/")[0] for key in callback.logged_keys()}


def test_links_lead_somewhere() -> None:
    for file in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for link in re.findall(r"\]\(([^)#]+)\)", file.read_text()):
            if "://" not in link:
                assert (file.parent / link).exists(), f"{file.name}: {link}"


def test_examples_and_benchmarks_that_are_named_exist() -> None:
    for file in [ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md")]:
        for path in re.findall(r"((?:examples|benchmarks)/[\w/]+\.py)", file.read_text()):
            assert (ROOT / path).exists(), f"{file.name}: {path}"
