"""The readings of the checkpoints of a finished training."""

from __future__ import annotations

import argparse
import copy
import functools
import warnings
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from lightning_interp import RepresentationGeometry, RepresentationStructure, ValidationAnalysis, analyze
from lightning_interp.offline.checkpoints import analyze_checkpoints
from lightning_interp.reading.history import History, read_rows
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


def assert_same_as_live(found: History, live: list[ValidationAnalysis]) -> None:
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


def test_a_step_is_in_the_file_or_in_its_name_or_an_error(tmp_path: Path) -> None:
    # Objects beside the step are not looked at, and do not hide it.
    torch.save({"global_step": 3, "odd": Tagger}, tmp_path / "last.ckpt")
    found = analyze_checkpoints(tmp_path, loader(), readers()[1], lambda name: Tagger(), progress=False)
    assert found.steps == [3]
    torch.save({"global_step": Tagger}, tmp_path / "last.ckpt")
    with pytest.raises(ValueError, match=r"last.ckpt' cannot be told: it holds no `global_step`"):
        analyze_checkpoints(tmp_path, loader(), readers(), lambda name: Tagger(), progress=False)
    (tmp_path / "last.ckpt").write_bytes(b"no zip file")
    with pytest.raises(ValueError, match=r"last.ckpt' cannot be told: .*is not a file of torch.save, or is cut off"):
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


# ------------------------------------------------- names and objects of other people


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.module = nn.Linear(3, 4)  # a name that a wrapper has too
        self.out = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(torch.tanh(self.module(x)))


class Wrapped(pl.LightningModule):
    def __init__(self, wrap: str = "none", extra: object = None) -> None:
        super().__init__()
        self.save_hyperparameters()
        torch.manual_seed(0)
        self.net: nn.Module = Net()
        if wrap == "compiled":
            self.net = torch.compile(self.net, backend="eager")  # type: ignore[assignment]
        elif wrap == "inner":
            self.net.out = torch.compile(self.net.out, backend="eager")  # type: ignore[assignment]
        elif wrap == "parallel":
            self.net = nn.DataParallel(self.net)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x)

    def validation_step(self, x: torch.Tensor, batch_idx: int) -> None:
        self(x)


BATCHES = [torch.randn(8, 3, generator=torch.Generator().manual_seed(1))]


def saved(path: Path, model: nn.Module, step: int = 3, prefix: str = "", **more: object) -> Path:
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            parameter.mul_(1.5 + number)
    weights = {f"{prefix}{name}": tensor for name, tensor in model.state_dict().items()}
    torch.save(
        {"state_dict": weights, "global_step": step, "epoch": 0, "pytorch-lightning_version": "2.6.0", **more}, path
    )
    return path


def geometry() -> RepresentationGeometry:
    return RepresentationGeometry("net", draw_figures=False)


@pytest.mark.parametrize("given", ["none", "compiled", "inner", "parallel"])
@pytest.mark.parametrize("wanted", ["none", "compiled", "inner", "parallel"])
@pytest.mark.parametrize("prefix", ["", "_fsdp_wrapped_module.", "_orig_mod."])
def test_names_of_wrappers_do_not_matter_in_either_direction(
    given: str, wanted: str, prefix: str, tmp_path: Path
) -> None:
    trained = Wrapped(given)
    saved(tmp_path / "a.ckpt", trained, prefix=prefix, hyper_parameters={"wrap": wanted})
    expected = analyze(trained, BATCHES, geometry())
    for module in (Wrapped(wanted), Wrapped):
        found = analyze_checkpoints([tmp_path / "a.ckpt"], BATCHES, geometry(), module=module, progress=False)
        assert found.readings[0].values == pytest.approx(expected)


class Lax(Wrapped):
    def __init__(self, wrap: str = "none") -> None:
        super().__init__(wrap)
        self.strict_loading = False


@pytest.mark.parametrize("kind", [Wrapped, Lax])
def test_names_that_fit_nothing_are_still_an_error(kind: type[Wrapped], tmp_path: Path) -> None:
    saved(tmp_path / "a.ckpt", Wrapped(), prefix="other.")
    for module in (kind(), kind):
        with pytest.raises(
            ValueError, match=rf"its state dict has none of the names of {kind.__name__}: it has .*other"
        ):
            analyze_checkpoints([tmp_path / "a.ckpt"], BATCHES, geometry(), module=module, progress=False)


def test_names_that_fit_in_part_are_still_an_error_where_loading_is_strict(tmp_path: Path) -> None:
    weights = {name: one for name, one in Wrapped().state_dict().items() if "out" not in name}
    torch.save({"state_dict": weights, "global_step": 3}, tmp_path / "a.ckpt")
    with pytest.raises(RuntimeError, match=r'Missing key\(s\) in state_dict: "net.out.weight"'):
        analyze_checkpoints([tmp_path / "a.ckpt"], BATCHES, geometry(), module=Wrapped(), progress=False)


def test_what_a_checkpoint_lacks_is_the_module_s_own_and_not_that_of_the_one_before(tmp_path: Path) -> None:
    module, trained = Lax(), Wrapped()
    own = copy.deepcopy(module.state_dict())
    paths = [saved(tmp_path / "1.ckpt", trained, step=1), tmp_path / "2.ckpt"]
    weights = {name: 3 * one for name, one in own.items() if "out" not in name}
    torch.save({"state_dict": weights, "global_step": 2, "epoch": 0}, paths[1])
    both = analyze_checkpoints(paths, BATCHES, geometry(), module=module, progress=False)
    alone = analyze_checkpoints(paths[1:], BATCHES, geometry(), module=module, progress=False)
    assert both.readings[1].values == alone.readings[0].values
    expected = Wrapped()
    expected.load_state_dict({**own, **weights})
    assert alone.readings[0].values == pytest.approx(analyze(expected, BATCHES, geometry()))
    assert all(torch.equal(one, own[name]) for name, one in module.state_dict().items())


class Odd:
    """An object of the user's; one that was unpickled would have left a mark."""

    made = 0

    def __init__(self) -> None:
        self.inner = {"deep": [1, 2]}

    def __setstate__(self, state: object) -> None:
        type(self).made += 1

    def __reduce_ex__(self, protocol: object) -> object:
        return (Odd._again, (1,), {"a": 1}, iter([1, 2]), iter([("k", 1)]))

    @staticmethod
    def _again(number: int) -> Odd:
        Odd.made += number
        return Odd()


@pytest.mark.parametrize(
    "extra",
    [argparse.Namespace(lr=1), Odd(), {"deep": [Odd(), {1, 2}, Path("x")]}, Odd, functools.partial(print, 1)],
    ids=["namespace", "object", "deep", "class", "partial"],
)
def test_objects_beside_the_weights_are_not_looked_at(extra: object, tmp_path: Path) -> None:
    trained, before = Wrapped(), Odd.made
    saved(tmp_path / "a.ckpt", trained, step=7, hyper_parameters={"extra": extra}, callbacks={"x": extra})
    found = analyze_checkpoints(tmp_path, BATCHES, geometry(), module=Wrapped(), progress=False)
    assert found.steps == [7]
    assert found.readings[0].values == pytest.approx(analyze(trained, BATCHES, geometry()))
    assert Odd.made == before
    if isinstance(extra, argparse.Namespace):
        assert analyze_checkpoints(tmp_path, BATCHES, geometry(), module=Wrapped, progress=False).steps == [7]
        return
    message = r"hold objects of .*Give an instance, `module=Wrapped\(…\)`.*weights_only=False"
    with pytest.raises(ValueError, match=message):
        analyze_checkpoints(tmp_path, BATCHES, geometry(), module=Wrapped, progress=False)
    assert Odd.made == before


def test_objects_among_the_weights_are_refused(tmp_path: Path) -> None:
    torch.save({"state_dict": {"net.out.weight": Odd()}, "global_step": 3}, tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match=r"its state dict has objects at \['net.out.weight'\]"):
        analyze_checkpoints(tmp_path, BATCHES, geometry(), module=Wrapped(), progress=False)


def test_a_file_that_is_cut_off_is_named(tmp_path: Path) -> None:
    path = saved(tmp_path / "step=3.ckpt", Wrapped())
    whole = path.read_bytes()
    for size in (0, 10, len(whole) // 2, len(whole) - 10):
        path.write_bytes(whole[:size])
        for module in (Wrapped(), Wrapped):
            with pytest.raises(ValueError, match=r"step=3.ckpt is not a file of torch.save, or is cut off") as caught:
                analyze_checkpoints(tmp_path, BATCHES, geometry(), module=module, progress=False)
            assert "of step 3" in caught.value.__notes__[0]


def test_a_file_that_is_damaged_or_of_the_old_format_is_named(tmp_path: Path) -> None:
    path = saved(tmp_path / "step=3.ckpt", Wrapped())
    whole = bytearray(path.read_bytes())
    place = whole.index(b"state_dict")
    whole[place] = 0xFF
    path.write_bytes(whole)
    with pytest.raises(ValueError, match=r"step=3.ckpt is not .*cut off or damaged: UnicodeDecodeError"):
        analyze_checkpoints(tmp_path, BATCHES, geometry(), module=Wrapped(), progress=False)
    torch.save({"state_dict": {}, "global_step": 3}, path, _use_new_zipfile_serialization=False)
    with pytest.raises(ValueError, match=r"step=3.ckpt has the format of torch before 1.6: write it anew"):
        analyze_checkpoints(tmp_path, BATCHES, geometry(), module=Wrapped(), progress=False)


@pytest.mark.parametrize("prefix", ["", "model.", "state_dict."])
def test_a_folder_of_shards_is_read_without_processes(prefix: str, tmp_path: Path) -> None:
    import torch.distributed.checkpoint as dcp

    trained = Wrapped("compiled")
    with torch.no_grad():
        trained.net.out.weight.fill_(0.25)
    folder = tmp_path / "epoch=0.ckpt"
    state = {f"{prefix}{name}": tensor for name, tensor in trained.state_dict().items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # Where weights stand under a name, others stand beside them.
        others = {"optimizer_0.state.net.out.weight": torch.ones(2, 4)} if prefix else {}
        dcp.save({**state, **others}, checkpoint_id=folder, no_dist=True)
    torch.save({"global_step": 12, "epoch": 1, "hyper_parameters": {"extra": Odd()}}, folder / "meta.pt")
    found = analyze_checkpoints(tmp_path, BATCHES, geometry(), module=Wrapped(), progress=False)
    assert [(one.step, one.epoch) for one in found.readings] == [(12, 1)]
    assert found.readings[0].values == pytest.approx(analyze(trained, BATCHES, geometry()))
    with pytest.raises(ValueError, match=r"it is a folder, which an instance can take, `module=Wrapped\(…\)`"):
        analyze_checkpoints(tmp_path, BATCHES, geometry(), module=Wrapped, progress=False)


def test_another_folder_is_refused_by_name(tmp_path: Path) -> None:
    folder = tmp_path / "epoch=0-step=4.ckpt"
    (folder / "checkpoint").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"a folder with \['checkpoint'\], and not one of torch.distributed") as caught:
        analyze_checkpoints(tmp_path, BATCHES, geometry(), module=Wrapped(), progress=False)
    assert "epoch=0-step=4.ckpt" in caught.value.__notes__[0]
