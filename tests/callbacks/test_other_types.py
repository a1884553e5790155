"""Arguments as configuration files and NumPy give them are read as Python's own: same readings, same settings."""

from __future__ import annotations

from collections import UserList
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lightning_interp import (
    AcquisitionByClass,
    ClozeFacts,
    ConfidenceCalibration,
    CoordinateProbe,
    LayerProbe,
    MinimalPairs,
    NoiseRobustness,
    PhaseEarlyStopping,
    RepresentationDrift,
    RepresentationGeometry,
    RepresentationMetrics,
    RepresentationStructure,
    StructuralProbe,
    TaskSpace,
    TrainingPhases,
    TruthProbe,
    ValidationAnalysis,
    ValidationSchedule,
    analyze_checkpoints,
)
from lightning_interp.batches.contents import batch_size
from lightning_interp.metrics import SpectralGeometry
from lightning_interp.sites import LayoutResolver
from lightning_interp.tasks import Task
from lightning_interp.tasks.scoring import pair_list
from tests.callbacks.recipes import (
    FACTS,
    as_language_model,
    entities,
    letter_words,
    letters,
    statements,
    tasks,
    treebank,
)
from tests.reporting.test_plain_values import Config, Values
from tests.toy import Tagger, loader, timeless, trainer

SITE = {"enc": "encoder"}
TEXT = {"tokenizer": letter_words, "seed": 3, "forward": as_language_model}
LANGUAGE = {"tokenizer": letters, "forward": as_language_model, "seed": 3, "batch_tokens": 512}

# Every argument that is a number or holds several things, with a value that is not its default where one has an effect.
GIVEN: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "structure": (
        RepresentationStructure,
        {
            "sites": SITE,
            "labels": {"token": None, "tag": "tags"},
            "estimator": "both",
            "num_points": 20,
            "bins": 10,
            "temperature": 0.3,
            "parents": {"tag": "token"},
            "min_count": 2,
            "information_plane": ["token", "next_token"],
            "shuffles": 2,
            "jackknife": 3,
            "seed": 4,
            "ignore_tokens": [3],
            "skip_positions": 1,
            "padding_idx": 0,
            "layout": {"enc": "BTD"},
            "tokens": {"enc": "input_ids"},
            "units": {"tag": "position"},
            "max_examples": 30,
            "every_n_validations": 1,
            "dataloader_idx": 0,
            "max_overhead": 0.9,
            "figure_interval": 5.0,
            "batch_size": 8,
        },
    ),
    "structure, sites as a list": (
        RepresentationStructure,
        {"sites": ["encoder", "embedding"], "labels": ["token", "bigram"], "projector": 9, "label_names": list("abcd")},
    ),
    "geometry": (RepresentationGeometry, {"sites": SITE, "thin_above": 7, "max_examples": 20}),
    "metrics": (
        RepresentationMetrics,
        {
            "metrics": {"own": SpectralGeometry(center=False)},
            "sites": ["encoder"],
            "projector": 5,
            "label_names": {0: "a"},
        },
    ),
    "drift": (
        RepresentationDrift,
        {
            "sites": SITE,
            "labels": {"tag": "tags"},
            "max_rows": 60,
            "neighbors": 3,
            "min_count": 2,
            "shuffles": 2,
            "keep_readings": 3,
            "seed": 5,
            "units": {"tag": "position"},
        },
    ),
    "noise": (
        NoiseRobustness,
        {
            "sites": {"emb": "embedding"},
            "scales": (0.25, 1.0),
            "monitors": {"val_loss": "loss", "val_acc": "score"},
            "drift": SITE,
            "max_examples": 24,
            "start": {"val_loss": 1.5, "val_acc": 0.2},
            "seed": 6,
            "tokens": {"emb": "input_ids", "enc": "input_ids"},
            "ignore_tokens": [2, 3],
            "skip_positions": 1,
            "layout": {"emb": "BTD", "enc": "BTD"},
        },
    ),
    "noise on tokens": (
        NoiseRobustness,
        {
            "sites": ["embedding"],
            "scales": [0.25, 1.0],
            "monitors": {"val_loss": "loss"},
            "kind": "tokens",
            "num_tokens": 10,
            "ignore_tokens": [2, 3],
        },
    ),
    "layer probe": (
        LayerProbe,
        {
            "sites": {"emb": "embedding", "enc": "encoder"},
            "labels": {"tag": "tags"},
            "types": "token",
            "folds": 3,
            "alphas": (0.1, 10.0),
            "min_count": 2,
            "max_classes": 9,
            "max_rows": 200,
            "seed": 7,
            "units": {"tag": "position"},
            "shuffles": 2,
        },
    ),
    "acquisition": (
        AcquisitionByClass,
        {
            "site": "head",
            "target": "tags",
            "names": {0: "a", 1: "b", 2: "c"},
            "ignore_index": [-100, 7],
            "shift": 1,
            "class_dim": -1,
            "share": 0.8,
            "chance": 0.1,
            "alpha": 0.1,
            "max_classes": 5,
        },
    ),
    "acquisition, how many": (AcquisitionByClass, {"site": "head", "target": "tags", "names": 3, "ignore_index": -1}),
    "acquisition, names as a list": (AcquisitionByClass, {"site": "head", "target": "tags", "names": ["a", "b", "c"]}),
    "acquisition, bands": (
        AcquisitionByClass,
        {"site": "head", "target": "tags", "bands": 2, "counts": {0: 5, 1: 3, 2: 9}},
    ),
    "acquisition, counts as a list": (
        AcquisitionByClass,
        {"site": "head", "target": "tags", "bands": 2, "counts": [5, 3, 9]},
    ),
    "calibration": (
        ConfidenceCalibration,
        {
            "sites": {"head": "head"},
            "target": "tags",
            "ignore_index": [-100, 1],
            "shift": 1,
            "class_dim": -1,
            "bins": 7,
            "coverages": (0.3, 0.6),
            "max_rows": 100,
            "seed": 8,
        },
    ),
    "minimal pairs": (
        MinimalPairs,
        {"tasks": tasks(), **LANGUAGE, "max_pairs": 4, "threshold": 0.6, "bos_token_id": 0, "add_bos": True},
    ),
    "cloze facts": (
        ClozeFacts,
        {"facts": FACTS, **LANGUAGE, "max_facts": 4, "candidates": 2, "threshold": 0.4},
    ),
    "task space": (
        TaskSpace,
        {
            "tasks": tasks(),
            **LANGUAGE,
            "max_pairs": 6,
            "buckets": 256,
            "sample": 1000,
            "fraction": 0.1,
            "groups": False,
            "permutations": 19,
        },
    ),
    "structural probe": (
        StructuralProbe,
        {
            "sites": SITE,
            "treebank": treebank(),
            **TEXT,
            "max_sentences": 12,
            "rank": 3,
            "split": (0.5, 0.25, 0.25),
            "max_steps": 5,
        },
    ),
    "coordinate probe": (CoordinateProbe, {"entities": entities(), "sites": SITE, "folds": 3, **TEXT}),
    "truth probe": (TruthProbe, {"statements": statements(), "sites": SITE, "probes": ["mass_mean"], **TEXT}),
    "phases": (
        TrainingPhases,
        {
            "improving": {"val_acc": "max"},
            "keys": ["val_loss"],
            "names": ["one", "two"],
            "confirm": 2,
            "max_knees": 2,
            "level": 0.1,
            "min_readings": 7,
        },
    ),
    "early stopping": (
        PhaseEarlyStopping,
        {"monitor": "val_loss", "mode": "min", "patience": 40, "patience_steps": 1000, "min_delta": 0.01, "phase": 1},
    ),
    "schedule": (ValidationSchedule, {"steps": [2, 4, 8], "start": 1, "every": 5, "per_decade": 3}),
}


def as_configured(value: Any) -> Any:
    """As a configuration library has it: its own mappings and sequences."""
    if type(value) is dict:
        return Config({key: as_configured(one) for key, one in value.items()})
    return Values(*map(as_configured, value)) if type(value) in (list, tuple) else value


def of_numpy(value: Any) -> Any:
    """Numbers as NumPy has them, and several as an array."""
    if type(value) is int:
        return np.int64(value)
    if type(value) is float:
        return np.float64(value)
    if type(value) is dict:
        return {key: of_numpy(one) for key, one in value.items()}
    if type(value) in (list, tuple) and all(isinstance(one, int | float | str) for one in value):
        return np.array(value)
    return UserList(value) if type(value) is list else value


@pytest.mark.parametrize("disguise", [as_configured, of_numpy])
@pytest.mark.parametrize("name", GIVEN)
def test_readings_and_settings_are_those_of_plain_arguments(
    name: str, disguise: Callable[[Any], Any], tmp_path: Path
) -> None:
    kind, given = GIVEN[name]
    found = []
    for change in (lambda value: value, disguise):
        callback = kind(**{argument: change(value) for argument, value in given.items()})
        callback.draw_figures = False
        more = [TrainingPhases(improving={"val_acc": "max"})] if kind is PhaseEarlyStopping else []
        run = trainer(tmp_path, [*more, callback], max_epochs=2, val_check_interval=None)
        torch.manual_seed(0)
        run.fit(Tagger(), loader(), loader(seed=1))
        found.append((callback, run))
    (plain, run), (other, other_run) = found
    assert run.global_step == other_run.global_step
    if isinstance(plain, ValidationAnalysis):
        assert plain.settings() == other.settings()
        assert len(plain.history) == len(other.history) == 2
        assert timeless(plain) == timeless(other)


def test_a_batch_that_tells_its_size_in_numpy_s_numbers_does() -> None:
    batch = {"input_ids": torch.zeros(6, 2), "number": np.int32(6)}
    for said in (np.int64(6), "number", lambda batch: np.int16(6), lambda batch: np.zeros(6)):
        assert batch_size(batch, said) == 6
    for wrong in (np.int64(0), lambda batch: np.float64(6), lambda batch: np.bool_(True)):
        with pytest.raises(ValueError, match="`batch_size` leads to"):
            batch_size(batch, wrong)


def test_steps_of_checkpoints_may_be_numpy_s(tmp_path: Path) -> None:
    paths = [str(tmp_path / name) for name in "ab"]
    steps = dict(zip(paths, np.array([4, 2]), strict=True))
    found = analyze_checkpoints(
        paths, loader(), RepresentationGeometry("encoder"), load=lambda entry: Tagger(), steps=steps, progress=False
    )
    assert found.steps == [2, 4]
    assert all(type(step) is int for step in found.steps)


@pytest.mark.parametrize("pair", [["a b", "a c"], Values("a b", "a c"), UserList(["a b", "a c"])])
def test_a_pair_is_any_two_sentences(pair: Any) -> None:
    assert Task("t", "p", (pair,)).pairs == (("a b", "a c"),)
    assert pair_list([pair]) == [("a b", "a c")]


@pytest.mark.parametrize("pair", ["ab", b"ab", {"good": "a b", "bad": "a c"}, ["a b"], ["a b", 1], None])
def test_what_is_no_pair_is_refused(pair: Any) -> None:
    with pytest.raises(TypeError, match="pair 0: expected two sentences"):
        Task("t", "p", (pair,))
    with pytest.raises(ValueError, match="a task needs pairs"):
        pair_list([pair])


@pytest.mark.parametrize("layout", [{}, None])
def test_no_layout_by_site_is_none(layout: Any) -> None:
    assert LayoutResolver(layout).default is None
