"""A file of readings says how they were taken, and stays a table of numbers for those who read numbers."""

from __future__ import annotations

import csv
import importlib.metadata
import json
from collections import OrderedDict, UserDict, UserList
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import CSVLogger

from lightning_interp import (
    NoiseRobustness,
    RepresentationGeometry,
    RepresentationMetrics,
    RepresentationStructure,
    ValidationAnalysis,
    analyze_checkpoints,
    compare,
)
from lightning_interp.functional import vmf_temperature
from lightning_interp.reading.history import SETTING, read_rows, read_settings
from lightning_interp.reading.run_settings import arguments, run_settings
from tests.toy import Norm, Tagger, loader, trainer


def structure(**kwargs: Any) -> RepresentationStructure:
    return RepresentationStructure({"enc": "encoder"}, ["token"], min_count=2, draw_figures=False, **kwargs)


def fit(folder: Path, chosen: list[ValidationAnalysis], **kwargs: Any) -> Path:
    """Train, and return the file of readings."""
    path = kwargs.pop("ckpt_path", None)
    run = trainer(folder, [*chosen], logger=CSVLogger(folder, name="run", version=kwargs.pop("version", 0)), **kwargs)
    run.fit(Tagger(), loader(), loader(seed=1), ckpt_path=path, weights_only=None if path is None else True)
    run.save_checkpoint(folder / "end.ckpt")
    return Path(run.logger.log_dir) / "readings.csv"


def lines(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_what_a_paper_needs_stands_in_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PL_GLOBAL_SEED", "17")
    both = structure(estimator="both", max_examples=30, information_plane=["token", "next_token"])
    path = fit(tmp_path, [both, RepresentationGeometry("encoder", draw_figures=False)])
    found = read_settings(path)
    assert found["version"] == importlib.metadata.version("lightning-interp")
    assert (found["torch"], found["lightning"]) == (torch.__version__, pl.__version__)
    assert (found["seed"], found["world_size"], found["precision"]) == ("17", "1", "32-true")
    mine = {key.removeprefix("RepresentationStructure/"): text for key, text in found.items() if "Structure/" in key}
    assert {key: mine[key] for key in ("estimator", "num_points", "bins", "min_count", "shuffles", "max_examples")} == {
        "estimator": "both",
        "num_points": "100",
        "bins": "20",
        "min_count": "2",
        "shuffles": "3",
        "max_examples": "30",
    }
    assert json.loads(mine["labels"]) == ["token"]
    assert json.loads(mine["sites"]) == {"enc": "encoder"}
    assert json.loads(mine["information_plane"]) == ["token", "next_token"]
    assert float(mine["temperature/enc"]) == vmf_temperature(8, 100)
    assert mine["dimension/enc"] == "8"
    assert "prefix" not in mine
    assert "draw_figures" not in mine
    assert found["RepresentationGeometry/thin_above"] == "2048"
    assert float(lines(path)[0]["rows/enc"]) > 0
    assert 0 < float(lines(path)[0]["coverage/enc/token"]) <= 1
    columns = list(lines(path)[0])
    assert columns == sorted(columns, key=lambda column: column.startswith(SETTING))
    assert [{row[f"{SETTING}{name}"] for row in lines(path)} for name in found] == [{text} for text in found.values()]


@pytest.mark.parametrize("line", [0, -1])
def test_numbers_are_read_without_them(tmp_path: Path, line: int) -> None:
    callback = structure()
    rows = read_rows(fit(tmp_path, [callback]))
    reading = callback.history.readings[line]
    assert {key: rows[line][key] for key in reading.values} == pytest.approx(dict(reading.values), rel=1e-12)
    assert not [key for row in rows for key in row if key.startswith(SETTING)]
    other = fit(tmp_path, [structure()], version=1)
    found = compare({"a": [tmp_path / "run" / "version_0" / "readings.csv", other]})
    assert "information/enc" in found.keys
    assert not [key for key in found.keys if key.startswith(SETTING)]


def test_a_reading_keeps_its_settings_when_a_resumed_run_has_others(tmp_path: Path) -> None:
    fit(tmp_path, [structure(num_points=50)])
    path = fit(tmp_path, [structure(num_points=60)], ckpt_path=tmp_path / "end.ckpt", max_epochs=4, version=1)
    column = f"{SETTING}RepresentationStructure/num_points"
    assert [(row["step"], row[column]) for row in lines(path)] == [
        ("5", "50"),
        ("10", "50"),
        ("15", "60"),
        ("20", "60"),
    ]
    assert read_settings(path)["RepresentationStructure/num_points"] == "60"


def test_a_checkpoint_from_before_there_were_settings_leaves_their_cells_empty(tmp_path: Path) -> None:
    fit(tmp_path, [structure()])
    old = torch.load(tmp_path / "end.ckpt", weights_only=True)
    [state] = [one for one in old["callbacks"].values() if "history" in one]
    assert state["history"].pop("settings")
    torch.save(old, tmp_path / "old.ckpt")
    path = fit(tmp_path, [structure()], ckpt_path=tmp_path / "old.ckpt", max_epochs=3, version=1)
    assert [row[f"{SETTING}version"] != "" for row in lines(path)] == [False, False, True]
    assert len(read_rows(path)) == 3


def test_a_file_without_settings_is_read(tmp_path: Path) -> None:
    (tmp_path / "old.csv").write_text("step,epoch,information/enc\n5,0,0.5\n")
    assert read_settings(tmp_path / "old.csv") == {}
    assert read_rows(tmp_path / "old.csv") == [{"step": 5, "epoch": 0, "information/enc": 0.5}]
    (tmp_path / "none.csv").write_text("step\n")
    assert read_settings(tmp_path / "none.csv") == {}
    assert read_rows(tmp_path / "none.csv") == []


def test_callbacks_of_one_class_are_told_apart(tmp_path: Path) -> None:
    chosen = [
        RepresentationGeometry("encoder", center=False),
        RepresentationGeometry("embedding", center=True, prefix="b/"),
    ]
    found = read_settings(fit(tmp_path, chosen))
    assert found["RepresentationGeometry/center"] == "False"
    assert found["RepresentationGeometry_2/center"] == "True"


def test_checkpoints_read_afterwards_say_the_same_of_a_callback(tmp_path: Path) -> None:
    chosen = [structure(), RepresentationGeometry("encoder", draw_figures=False)]
    live = read_settings(fit(tmp_path, chosen))
    found = analyze_checkpoints([tmp_path / "end.ckpt"], loader(seed=1), chosen, module=Tagger, progress=False)
    found.write_csv(tmp_path / "after.csv")
    later = read_settings(tmp_path / "after.csv")
    assert later == {key: text for key, text in live.items() if key in later}
    assert set(live) - set(later) <= {"seed", "world_size", "precision", "accelerator"}


def test_every_setting_is_plain_and_those_of_a_metric_of_one_s_own_are_there() -> None:
    chosen = [
        RepresentationMetrics(
            {"norm": Norm()}, "encoder", labels={"kind": lambda batch: batch["sentence"]}, projector=9
        ),
        NoiseRobustness({"emb": "embedding"}, monitors={"val_loss": "loss"}, scales=(0.1, 1)),
        structure(temperature=0.5),
    ]
    metrics, noise, soft = (callback.settings() for callback in chosen)
    for found in (metrics, noise, soft):
        assert found
        assert all(isinstance(value, str | int | float | bool) for value in found.values())
    assert json.loads(str(metrics["labels"])) == ["kind"]
    assert metrics["norm/state_name"] == "mean_value"
    assert noise["scales"] == "[0.1, 1.0]"
    assert soft["temperature"] == 0.5


def test_a_run_without_a_seed_claims_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)
    assert "seed" not in run_settings(trainer(tmp_path, []))
    monkeypatch.setenv("PL_GLOBAL_SEED", "5")
    assert run_settings(trainer(tmp_path, []))["seed"] == 5


def test_arguments_are_looked_up_in_parts_and_left_out_where_they_say_nothing() -> None:
    class Part:
        def __init__(self) -> None:
            self.depth = 3

    class Base:
        def __init__(self, seed: int = 0, function: Any = None) -> None:
            self.seed, self.function = seed, function

    class Whole(Base):
        def __init__(self, depth: int, names: Any = (), shape: Any = (), **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.names, self.shape, self.other = names, shape, 1

    whole = Whole(3, names={"a": [1, "b"]}, shape=(torch.ones(65),), seed=0, function=lambda: 0)
    assert arguments(whole, Part()) == {"depth": 3, "names": '{"a": [1, "b"]}', "seed": 0}
    named = Whole(3, names=np.array([]), function=json.dumps)
    assert arguments(named, leave_out=["seed"]) == {"function": "json.dumps"}


def test_a_method_that_does_not_tell_its_parameters_has_none() -> None:
    class Silent(ValidationAnalysis):
        __init__ = property(lambda self: 3)  # type: ignore[assignment]

    assert arguments(Silent.__new__(Silent)) == {}


@pytest.mark.parametrize(
    "sites", [MappingProxyType({"enc": "encoder"}), UserDict({"enc": "encoder"}), OrderedDict(enc="encoder")]
)
def test_arguments_of_other_types_are_written_as_those_of_python_are(tmp_path: Path, sites: Any) -> None:
    """As configuration files and NumPy give them."""
    plain = RepresentationStructure({"enc": "encoder"}, ["token"], min_count=2, temperature=0.5, num_points=10)
    labels, points = UserList(["token"]), np.int64(10)
    other = RepresentationStructure(
        sites, labels, min_count=np.int32(2), temperature=np.float64(0.5), num_points=points
    )
    for callback in (plain, other):
        callback.draw_figures = False
    fit(tmp_path, [plain], version=0)
    fit(tmp_path, [other], version=1)
    found = [read_settings(tmp_path / "run" / f"version_{version}" / "readings.csv") for version in (0, 1)]
    assert found[0] == found[1]
    assert json.loads(found[0]["RepresentationStructure/sites"]) == {"enc": "encoder"}


def test_a_seed_that_is_no_number_is_none_of_seed_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PL_GLOBAL_SEED", "none")
    assert "seed" not in run_settings(trainer(tmp_path, []))
