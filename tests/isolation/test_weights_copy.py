"""Weights of an earlier moment stand in for the present ones by name, and all is put back by identity."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.utils.data import DataLoader

from lightning_interp import NoiseRobustness
from lightning_interp.compat import pl
from lightning_interp.isolation import WeightsCopy, no_side_effects
from tests.identity import same, standing
from tests.toy import Sequences, Tagger, loader, trainer


class Net(nn.Module):
    """A tied weight, buffers of several kinds, and batch statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.norm = nn.BatchNorm1d(3)
        self.tied = nn.Linear(3, 3)
        self.tied.weight = self.first.weight
        self.register_buffer("table", torch.arange(2.0))
        self.register_buffer("wide", torch.ones(1).expand(4))


def later(model: nn.Module) -> None:
    """What training has done to the weights."""
    with torch.no_grad():
        for tensor in (*model.parameters(), model.norm.running_mean):
            tensor.add_(1.0)


def values(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def test_names_shapes_and_objects() -> None:
    model = Net()
    start, before = values(model), WeightsCopy(model)
    later(model)
    model.table = torch.arange(5.0)  # has grown
    model.wide = torch.full((1,), 2.0).expand(4)
    model.register_buffer("late", torch.tensor(7.0))
    model.teacher = copy.deepcopy(model.first)
    model.first.bias.data = torch.full((5,), 9.0)
    was, now = standing(model), values(model)
    pointers = [one.data_ptr() for one in (*model.parameters(), *model.buffers())]
    for mode in (torch.no_grad, torch.inference_mode):
        with mode(), before.installed():
            within = values(model)
        assert all(torch.equal(within[name], value) for name, value in start.items())
        for name in ("late", "teacher.weight", "teacher.bias"):
            assert torch.equal(within[name], now[name])
        assert same(was, standing(model))
        assert [one.data_ptr() for one in (*model.parameters(), *model.buffers())] == pointers
        assert all(torch.equal(value, now[name]) for name, value in values(model).items())
    assert model.tied.weight is model.first.weight
    model.norm = None
    with torch.no_grad(), before.installed():
        assert torch.equal(model.first.weight, start["first.weight"])


def test_what_runs_within_may_exchange_what_was_exchanged() -> None:
    model = Net()
    before = WeightsCopy(model)
    model.table = torch.arange(5.0)
    table = model.table
    with torch.no_grad(), before.installed():
        model.register_buffer("table", torch.arange(6.0))
    assert model.table is table


def test_everything_is_put_back_after_an_error() -> None:
    model = Net()
    before = WeightsCopy(model)
    later(model)
    was, now = standing(model), values(model)
    with pytest.raises(RuntimeError, match="planted"), torch.no_grad(), before.installed():
        raise RuntimeError("planted")
    assert same(was, standing(model))
    assert all(torch.equal(value, now[name]) for name, value in values(model).items())


def test_one_tensor_is_copied_once() -> None:
    copies = WeightsCopy(Net())._copies
    assert copies["first.weight"] is copies["tied.weight"]


def test_a_scripted_part_and_one_that_has_no_weights_yet() -> None:
    model = nn.Sequential(torch.jit.script(nn.BatchNorm1d(2)), nn.LazyLinear(1))
    before = WeightsCopy(model)
    model(torch.randn(8, 2))
    mean = model[0].running_mean.clone()
    weight = model[1].weight.clone()
    with torch.no_grad(), before.installed():
        assert not model[0].running_mean.any()
        assert torch.equal(model[1].weight, weight)
    assert torch.equal(model[0].running_mean, mean)


# ------------------------------------------------- sharded


@contextmanager
def one_process() -> Iterator[Any]:
    with tempfile.TemporaryDirectory() as folder:
        dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=0, world_size=1)
        try:
            yield dist.device_mesh.init_device_mesh("cpu", (1,))
        finally:
            dist.destroy_process_group()


@pytest.mark.skipif(not dist.is_available(), reason="torch without distributed")
def test_a_sharded_model_goes_on_whether_its_root_was_whole_or_not() -> None:
    fsdp = pytest.importorskip("torch.distributed.fsdp")
    if not hasattr(fsdp, "fully_shard"):
        pytest.skip("torch without fully_shard")
    x = torch.randn(4, 3)
    with one_process() as mesh:
        for whole in (False, True):
            model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
            fsdp.fully_shard(model[1], mesh=mesh)
            fsdp.fully_shard(model, mesh=mesh)
            if whole:  # the root is, after a forward pass
                model(x)
            before = WeightsCopy(model)
            with no_side_effects(model), torch.no_grad():
                start = model(x)
            optimizer = torch.optim.SGD(model.parameters(), 0.1)
            model(x).square().sum().backward()
            optimizer.step()
            with torch.no_grad():
                trained = model(x)
                assert not torch.equal(trained, start)
                with before.installed(), no_side_effects(model):
                    assert torch.equal(model(x), start)
                assert torch.equal(model(x), trained)
            model(x).square().sum().backward()
            optimizer.step()


# ------------------------------------------------- within a fit


class Rotary(nn.Module):
    """A table that is as long as the longest sequence seen so far; it is registered when it is first needed."""

    def __init__(self, length: int | None) -> None:
        super().__init__()
        if length is not None:
            self.register_buffer("table", self.made(length), persistent=False)

    @staticmethod
    def made(length: int) -> torch.Tensor:
        return torch.arange(float(length))[:, None] / 10

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not hasattr(self, "table") or len(self.table) < x.shape[1]:
            with torch.inference_mode(False):
                self.register_buffer("table", self.made(x.shape[1]), persistent=False)
        return x + self.table[: x.shape[1]]


class Growing(Tagger):
    def __init__(self, length: int | None) -> None:
        super().__init__()
        self.rotary = Rotary(length)
        self.embedding = nn.Sequential(self.embedding, self.rotary)


class Taught(Tagger):
    def on_train_start(self) -> None:
        self.teacher = copy.deepcopy(self.encoder)
        self.head.register_buffer("center", torch.zeros(2))


class Statistics(Tagger):
    """Batch statistics: the weights from before training belong to those from before training."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(8)
        self.embedding = nn.Sequential(self.embedding, Moved(), self.norm, Moved())


class Moved(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.transpose(1, 2)


MODELS = {
    "a table grows": lambda: Growing(2),
    "a table is late": lambda: Growing(None),
    "a teacher": Taught,
    "batch statistics": Statistics,
}


@pytest.mark.parametrize("sanity", [0, 2])
@pytest.mark.parametrize("name", MODELS)
def test_every_validation_is_read_whatever_is_registered_late(tmp_path: Path, name: str, sanity: int) -> None:
    pl.seed_everything(0, verbose=False)
    model = MODELS[name]()
    whole = copy.deepcopy(model).eval()
    with torch.no_grad():
        losses = [float(whole._loss(batch)[0]) for batch in loader(seed=1)]
    callback = NoiseRobustness({"emb": "embedding"}, monitors={"val_loss": "loss"}, draw_figures=False, log="full")
    run = trainer(tmp_path, [callback], max_epochs=3, num_sanity_val_steps=sanity)
    # Longer sequences than those of validation.
    run.fit(model, DataLoader(Sequences(40, length=9), batch_size=8), loader(seed=1))
    assert (len(callback.history.readings), callback.failed) == (3, 0)
    assert callback.start_values.values["val_loss"][0] == pytest.approx(sum(losses) / len(losses), rel=1e-5)
    last = callback.history.readings[-1].values
    assert last["clean/val_loss"] == pytest.approx(float(run.callback_metrics["val_loss"]), rel=1e-5)
    assert last["noisy/emb/val_loss/1"] != last["clean/val_loss"]
