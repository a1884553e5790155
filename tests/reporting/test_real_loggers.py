"""Weights & Biases and MLflow as they are, offline: what a training sends arrives. Skipped where they are missing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lightning_interp import NoiseRobustness, RepresentationStructure, TrainingPhases
from lightning_interp.compat import pl
from lightning_interp.reading.history import read_rows
from tests.toy import Tagger, loader, trainer


def fit(folder: Path, logger: Any, **kwargs: Any) -> RepresentationStructure:
    callback = RepresentationStructure({"enc": "encoder", "emb": "embedding"}, ["token"], projector=10, **kwargs)
    noise = NoiseRobustness({"emb": "embedding"}, monitors={"val_loss": "loss"}, scales=(0.1, 0.5))
    run = trainer(folder, [callback, noise, TrainingPhases("val_loss")], logger=logger, max_epochs=3)
    run.fit(Tagger(), loader(40), loader(40, seed=1))
    return callback


FIGURES = {"noise-robustness", "phases-overview", "sites-information", "sites-token", "structure-token"}


def test_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb", reason="Weights & Biases is not installed")
    monkeypatch.setenv("WANDB_SILENT", "true")
    logger = pl.loggers.WandbLogger(project="toy", save_dir=tmp_path, offline=True)
    callback = fit(tmp_path, logger, log="full")
    try:
        summary = dict(logger.experiment.summary)
        config = dict(logger.experiment.config)
        media = Path(logger.experiment.dir) / "media"
        assert config["width"] == 8
        assert {key: summary[key] for key in callback.reading} == pytest.approx(callback.reading, rel=1e-6)
        for tag in ("structure/token", "noise/robustness", "phases/overview"):
            [picture] = (media / "images").glob(f"{tag}_*.png")
            assert Image.open(picture).width > 300
        [table] = (media / "table" / "representations").glob("enc_*.table.json")
        shown = json.loads(table.read_text())
        assert shown["columns"] == ["name", *(f"d{index}" for index in range(8))]
        assert len(shown["data"]) == 10
    finally:
        wandb.finish()
    [readings] = tmp_path.rglob("readings.csv")
    assert readings.parent.parent == tmp_path / "toy"
    assert len(read_rows(readings)) == 3


@pytest.fixture
def mlflow_store(tmp_path: Path) -> str:
    pytest.importorskip("mlflow", reason="MLflow is not installed")
    pytest.importorskip("sqlalchemy", reason="MLflow's data base needs sqlalchemy and alembic")
    pytest.importorskip("alembic", reason="MLflow's data base needs sqlalchemy and alembic")
    return f"sqlite:///{tmp_path}/mlflow.db"


def test_mlflow(tmp_path: Path, mlflow_store: str) -> None:
    artifacts = tmp_path / "artifacts"
    logger = pl.loggers.MLFlowLogger("toy", tracking_uri=mlflow_store, artifact_location=artifacts.as_uri())
    with pytest.warns(UserWarning, match=r"`projector` is shown by.*\['MLFlowLogger'\]"):
        callback = fit(tmp_path, logger, log="full")
    run = logger.experiment.get_run(logger.run_id)
    assert run.data.params["width"] == "8"
    assert {key: run.data.metrics[key] for key in callback.reading} == pytest.approx(callback.reading, rel=1e-6)
    steps = [one.step for one in logger.experiment.get_metric_history(logger.run_id, "information/enc")]
    assert steps == [4, 9, 14]
    assert {path.stem for path in artifacts.rglob("*.png")} == FIGURES
    [readings] = tmp_path.rglob("readings.csv")
    assert logger.run_id in readings.parent.name
    assert len(read_rows(readings)) == 3
