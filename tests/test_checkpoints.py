"""The readings of the checkpoints of a finished training."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from lightning_interp import RepresentationGeometry, RepresentationStructure, ValidationAnalysis
from lightning_interp.checkpoints import CheckpointHistory, analyze_checkpoints
from lightning_interp.history import read_rows
from tests.toy import Tagger, loader, trainer


def readers() -> list[ValidationAnalysis]:
    return [
        RepresentationStructure(sites="encoder", labels=["token", "bigram"], min_count=2, draw_figures=False),
        RepresentationGeometry(sites="encoder", draw_figures=False),
    ]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[ValidationAnalysis]]:
    folder, live = tmp_path_factory.mktemp("run"), readers()
    saving = pl.callbacks.ModelCheckpoint(folder / "checkpoints", save_top_k=-1)
    run = trainer(folder, [*live, saving], max_epochs=3, enable_checkpointing=True)
    run.fit(Tagger(), loader(seed=1), loader(seed=2))
    return folder, live


def assert_same_as_live(found: CheckpointHistory, live: list[ValidationAnalysis]) -> None:
    assert found.steps == [5, 10, 15]
    assert [reading.epoch for reading in found.readings] == [0, 1, 2]
    for callback in live:
        for key in callback.history.keys:
            if not key.startswith("seconds/"):
                steps, values = callback.history.series(key)
                assert found.series(key) == (steps, pytest.approx(values, abs=1e-6)), key
    assert {"information/encoder", "regularity/encoder/bigram", "rankme/encoder"} <= set(found.keys)


def test_values_are_those_of_the_live_callbacks(trained: tuple[Path, list[ValidationAnalysis]]) -> None:
    folder, live = trained
    found = analyze_checkpoints(folder / "checkpoints", loader(seed=2), readers(), module=Tagger, progress=False)
    assert_same_as_live(found, live)
    found.write_csv(folder / "after.csv")
    ours, theirs = read_rows(folder / "after.csv"), read_rows(folder / "lightning_interp_logs" / "readings.csv")
    assert list(ours[0])[:2] == list(theirs[0])[:2] == ["step", "epoch"]
    assert set(ours[0]) == set(found.keys) | {"step", "epoch"} <= set(theirs[0])
    for one, other in zip(ours, theirs, strict=True):
        assert one == pytest.approx({key: other[key] for key in one}, abs=1e-6)


def test_an_instance_lends_its_place_and_callbacks_stay_as_they_were(
    trained: tuple[Path, list[ValidationAnalysis]],
) -> None:
    folder, live = trained
    model, callbacks = Tagger(seed=7), readers()
    before = copy.deepcopy(model.state_dict())
    found = analyze_checkpoints(folder / "checkpoints", loader(seed=2), callbacks, module=model, progress=False)
    assert_same_as_live(found, live)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert [len(callback.history) for callback in callbacks] == [0, 0]
    # What has been read before does not matter: each alone gives the same.
    last = [folder / "checkpoints" / "epoch=2-step=15.ckpt"]
    alone = analyze_checkpoints(last, loader(seed=2), readers(), module=model, progress=False)
    assert alone.readings[0].values == found.readings[-1].values


def test_revisions_are_loaded_one_at_a_time_in_order_of_their_steps(capfd: pytest.CaptureFixture[str]) -> None:
    alive: list[str] = []
    asked: list[str] = []

    class Counted(Tagger):
        def __init__(self, name: str) -> None:
            super().__init__(seed=len(name))
            alive.append(name)

        def __del__(self) -> None:
            alive.clear()

    def load(name: str) -> nn.Module:
        assert not alive
        asked.append(name)
        return Counted(name)

    names = ["step2000", "seed1-step=16", "checkpoint-128", "global_step512"]
    found = analyze_checkpoints(names, loader(), readers()[1], load)
    assert found.steps == [16, 128, 512, 2000]
    assert asked == ["seed1-step=16", "checkpoint-128", "global_step512", "step2000"]
    assert {reading.epoch for reading in found.readings} == {-1}
    assert "checkpoints" in capfd.readouterr().err
    one = analyze_checkpoints(["a/main"], loader(), readers()[1], lambda name: Tagger(), steps={"main": 4})
    assert one.steps == [4]
    one = analyze_checkpoints(["main"], loader(), readers()[1], lambda name: Tagger(), steps=len, progress=False)
    assert one.steps == [4]


@pytest.mark.parametrize("name", ["main", "step10k", "step1.5", "footstep3", "step1-checkpoint-2", "epoch=3"])
def test_a_step_that_cannot_be_told_is_an_error(name: str) -> None:
    with pytest.raises(ValueError, match=f"The step of '{name}' cannot be told"):
        analyze_checkpoints(["step5", name], loader(), readers(), lambda name: Tagger(), progress=False)


def test_a_file_that_weights_only_refuses_has_its_step_by_name_or_an_error(tmp_path: Path) -> None:
    torch.save({"global_step": 3, "odd": Tagger}, tmp_path / "last.ckpt")
    with pytest.raises(ValueError, match=r"last.ckpt' cannot be told: it cannot be read with weights_only"):
        analyze_checkpoints(tmp_path, loader(), readers(), lambda name: Tagger(), progress=False)
    torch.save({"weights": torch.zeros(1)}, tmp_path / "last.ckpt")
    with pytest.raises(ValueError, match=r"last.ckpt' cannot be told: it holds no `global_step`"):
        analyze_checkpoints(tmp_path, loader(), readers(), lambda name: Tagger(), progress=False)
    (tmp_path / "last.ckpt").rename(tmp_path / "step=8.ckpt")
    found = analyze_checkpoints(tmp_path, loader(), readers()[1], lambda name: Tagger(), progress=False)
    assert found.steps == [8]
    with pytest.raises(ValueError, match="no `state_dict`") as caught:
        analyze_checkpoints(tmp_path, loader(), readers(), module=Tagger(), progress=False)
    assert "step=8.ckpt" in caught.value.__notes__[0]


def test_folders_made_by_slashes_are_read_and_a_copy_of_the_newest_is_not(tmp_path: Path) -> None:
    saving = pl.callbacks.ModelCheckpoint(
        tmp_path, filename="{step}-{information/encoder:.3f}", save_top_k=-1, save_last=True
    )
    run = trainer(tmp_path, [*readers(), saving], max_epochs=3, enable_checkpointing=True)
    run.fit(Tagger(), loader(seed=1), loader(seed=2))
    assert len(list(tmp_path.rglob("encoder=*.ckpt"))) == 3
    found = analyze_checkpoints(tmp_path, loader(seed=2), readers()[1], module=Tagger, progress=False)
    assert found.steps == [5, 10, 15]
    # Named one by one they are what was asked for.
    both = [next(tmp_path.rglob("step=15*/*.ckpt")), tmp_path / "last.ckpt"]
    with pytest.raises(ValueError, match="are both of step 15"):
        analyze_checkpoints(both, loader(seed=2), readers()[1], module=Tagger, progress=False)
    alone = analyze_checkpoints(both[1:], loader(seed=2), readers()[1], module=Tagger, progress=False)
    assert alone.readings[0].values == found.readings[-1].values
    for name in ("one", "two"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "last.ckpt").write_bytes(both[1].read_bytes())
    with pytest.raises(ValueError, match="are both of step 15"):
        analyze_checkpoints(tmp_path / "runs", loader(seed=2), readers()[1], module=Tagger, progress=False)


def test_errors(tmp_path: Path) -> None:
    def read(paths: object, data: object = None, load: object = lambda name: Tagger(), **kwargs: object) -> None:
        analyze_checkpoints(paths, data or loader(), readers(), load, progress=False, **kwargs)

    with pytest.raises(ValueError, match="'step5' and 'checkpoint-5' are both of step 5"):
        read(["step5", "checkpoint-5"])
    with pytest.raises(ValueError, match="is empty"):
        read([])
    with pytest.raises(ValueError, match="which is no folder"):
        read(str(tmp_path / "none"))
    (tmp_path / "model.bin").touch()
    with pytest.raises(ValueError, match=r"no \*.ckpt in .*'model.bin'"):
        read(tmp_path)
    with pytest.raises(ValueError, match="got both"):
        read(["step5"], module=Tagger)
    with pytest.raises(ValueError, match="got neither"):
        read(["step5"], load=None)
    with pytest.raises(TypeError, match="LightningModule"):
        read(["step5"], load=None, module=nn.Linear)
    with pytest.raises(TypeError, match="got str"):
        read(["step5"], load=lambda name: name)
    with pytest.raises(ValueError, match="only once"):
        read(["step5"], data=iter([]))
    with pytest.raises(ValueError, match="shuffle=False"):
        read(["step5"], data=loader(shuffle=True))
    with pytest.raises(ValueError, match=r"`steps` has no step for 'step5'; it has \['other'\]"):
        read(["step5"], steps={"other": 3})
    with pytest.raises(ValueError, match="gives -1 for 'step5'"):
        read(["step5"], steps=lambda name: -1)
