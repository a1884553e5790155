"""A model is left as it was, whatever code does to it in between."""

from __future__ import annotations

import random
from collections import Counter, OrderedDict, defaultdict, deque
from typing import NamedTuple

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import torchmetrics
from torch import nn
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score

from lightning_interp.isolation import ModuleState, muted_loggers, no_side_effects, preserved_rng, seed_all
from lightning_interp.models import small_gpt2
from tests.identity import same, standing


class Meter:
    """A user's own accumulator."""

    def __init__(self) -> None:
        self.total, self.history = 0.0, []
        self.metric = torchmetrics.SumMetric()

    def add(self, value: float) -> None:
        self.total += value
        self.history.append(value)
        self.metric.update(value)


class Pair(NamedTuple):
    a: list
    b: int


class Closing:
    closed = 0

    def __del__(self) -> None:
        Closing.closed += 1


class Busy(pl.LightningModule):
    """Changes everything that a module can hold."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.lstm = nn.LSTM(2, 2)
        self.norm = nn.BatchNorm1d(2)
        self.register_buffer("seen", torch.zeros(3))
        self.plain = torch.zeros(3)
        self.array = np.zeros(2)
        self.metrics = torchmetrics.MetricCollection([MulticlassAccuracy(3), MulticlassF1Score(3)], prefix="m/")
        self.hidden = {"sum": torchmetrics.SumMetric(), "several": [torchmetrics.CatMetric()]}
        self.meter = Meter()
        self.outputs: list = []
        self.nested = {"a": [1, {"b": [2]}], "c": deque([1]), "d": defaultdict(list), "e": Counter("aab")}
        self.ordered = OrderedDict(x=[1])
        self.pair = Pair([1], 2)
        self.count = 0
        self.tags = {1, 2}
        self.generator = torch.Generator().manual_seed(0)
        self.python = random.Random(0)
        self.numpy = np.random.default_rng(0)
        self.loop: list = []
        self.loop.append(self.loop)
        self.resource = Closing()
        self.config = nn.Linear  # a class, left alone

    def work(self) -> None:
        self.train()
        self.norm(torch.randn(4, 2))
        self.seen += 1
        self.plain += 1
        self.array += 1
        self.metrics.update(torch.tensor([0, 1]), torch.tensor([0, 2]))
        self.hidden["sum"].update(3.0)
        self.hidden["several"][0].update(1.0)
        self.meter.add(2.0)
        self.outputs.append(torch.rand(2))
        self.nested["a"][1]["b"].append(3)
        self.nested["c"].append(2)
        self.nested["d"]["k"].append(1)
        self.nested["e"]["a"] += 1
        self.ordered["x"].append(2)
        self.pair.a.append(2)
        self.count += 1
        self.tags.add(3)
        self.made = 1
        vars(self).pop("config", None)
        torch.rand(3, generator=self.generator)
        self.python.random()
        self.numpy.random()
        random.random()
        np.random.rand()
        self.log("x", 1.0)
        self.log_dict({"y": 2.0})

    def look(self) -> list:
        return [
            self.training,
            self.norm.training,
            self.norm.running_mean.tolist(),
            int(self.norm.num_batches_tracked),
            self.seen.tolist(),
            self.plain.tolist(),
            self.array.tolist(),
            {name: metric.tp.tolist() for name, metric in self.metrics.items(keep_base=True)},
            self.metrics["MulticlassAccuracy"].update_count,
            float(self.hidden["sum"].sum_value),
            len(self.hidden["several"][0].value),
            (self.meter.total, list(self.meter.history), float(self.meter.metric.sum_value)),
            len(self.outputs),
            repr(self.nested),
            repr(self.ordered),
            repr(self.pair),
            self.count,
            set(self.tags),
            hasattr(self, "made"),
            hasattr(self, "config"),
            self.generator.get_state().tolist(),
            self.python.getstate(),
            repr(self.numpy.bit_generator.state),
            self.loop[0] is self.loop,
            random.getstate(),
            np.random.get_state()[1].tolist(),
            torch.random.get_rng_state().tolist(),
        ]


def test_untouched_undoes_everything() -> None:
    model = Busy()
    before = model.look()
    identities = [model.outputs, model.seen, model.meter, model.nested, model.norm.running_mean]
    with no_side_effects(model):
        for _ in range(2):
            model.work()
        assert model.count == 2
        assert model.meter.total == 4
        assert float(model.hidden["sum"].compute()) == 6
    assert model.look() == before
    after = [model.outputs, model.seen, model.meter, model.nested, model.norm.running_mean]
    assert all(one is other for one, other in zip(identities, after, strict=True))
    assert "log" not in vars(model)
    assert model.lstm(torch.zeros(1, 2))[0].shape == (1, 2)


def test_each_part_of_the_work_would_be_noticed() -> None:
    model = Busy()
    before = model.look()
    with preserved_rng(), no_side_effects(nn.Linear(1, 1)):
        vars(model)["log"] = vars(model)["log_dict"] = lambda *args: None
        model.work()
        changed = [one != other for one, other in zip(before, model.look(), strict=True)]
    # The mode was training already; the list that holds itself goes on doing so.
    assert [place for place, one in enumerate(changed) if not one] == [0, 1, 23]


def test_lives_are_apart() -> None:
    model = Busy()
    start = ModuleState(model)
    lives = [start.copy(), start.copy()]
    with no_side_effects(model):
        for rounds, life in enumerate(lives, 1):
            life.install()
            for _ in range(rounds):
                model.count += 1
                model.outputs.append(1)
                model.hidden["sum"].update(1.0)
            life.refresh()
        for rounds, life in enumerate(lives, 1):
            life.install()
            assert (model.count, len(model.outputs), float(model.hidden["sum"].compute())) == (rounds, rounds, rounds)
    assert (model.count, len(model.outputs)) == (0, 0)


def test_aliases_stay_aliases() -> None:
    model = nn.Linear(1, 1)
    model.a = model.b = [1]
    with no_side_effects(model):
        model.a.append(2)
        assert model.b == [1, 2]
    assert model.b == [1]


def test_what_closes_something_is_not_copied() -> None:
    model = Busy()
    Closing.closed = 0
    with no_side_effects(model):
        pass
    assert Closing.closed == 0


def test_everything_is_put_back_after_an_error() -> None:
    model = Busy()
    before = model.look()

    def fail() -> None:
        with no_side_effects(model):
            model.work()
            raise RuntimeError("planted")

    with pytest.raises(RuntimeError, match="planted"):
        fail()
    assert model.look() == before


def test_seeding_covers_all_streams() -> None:
    def draw() -> tuple:
        return random.random(), np.random.rand(), float(torch.rand(()))

    with preserved_rng():
        seed_all(2**40 + 5)
        first = draw()
        seed_all(2**40 + 5)
        assert draw() == first


def test_loggers_are_muted_and_come_back(tmp_path: object) -> None:
    from pytorch_lightning.loggers import CSVLogger

    trainer = pl.Trainer(logger=[CSVLogger(tmp_path), CSVLogger(tmp_path)], enable_checkpointing=False)
    own = trainer.loggers
    with muted_loggers(trainer):
        assert len(trainer.loggers) == 2
        trainer.logger.log_metrics({"a": 1.0}, 3)
        trainer.logger.experiment.add_image("x", 1)
        trainer.logger.log_image("x", [])
    assert trainer.loggers is own or trainer.loggers == own


def test_buffers_of_a_scripted_part_are_put_back() -> None:
    model = nn.Sequential(nn.Linear(2, 2), torch.jit.script(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))))
    scripted = dict(model.named_buffers())["1.1.running_mean"]
    before = scripted.clone()
    with no_side_effects(model), torch.no_grad():
        model(torch.randn(8, 2))
        assert not torch.equal(dict(model.named_buffers())["1.1.running_mean"], before)
    assert torch.equal(dict(model.named_buffers())["1.1.running_mean"], before)


class Restless(nn.Module):
    """Rebuilds itself while it runs, in the way named."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way
        self.first = nn.Linear(2, 2)
        self.second = nn.Linear(2, 2)
        self.layers = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])
        self.register_buffer("table", torch.zeros(2, 2))
        self.register_buffer("none", None)
        self.spare = nn.Parameter(torch.ones(1))
        self.names = ["a"]
        self.handle = self.first.register_forward_hook(nothing)
        self.second.register_forward_hook(nothing)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        getattr(self, f"_{self.way}")()
        return self.second(self.first(x))

    def _hooks_appear(self) -> None:
        self.register_forward_hook(nothing, with_kwargs=True, always_call=True)
        self.first.register_forward_hook(nothing, prepend=True)
        self.register_forward_pre_hook(nothing, with_kwargs=True)
        self.register_full_backward_hook(nothing)
        self.register_full_backward_pre_hook(nothing)
        self.register_state_dict_post_hook(nothing)
        self.register_state_dict_pre_hook(nothing)
        self.register_load_state_dict_pre_hook(nothing)
        self.register_load_state_dict_post_hook(nothing)

    def _a_hook_vanishes(self) -> None:
        self.handle.remove()
        self.second._forward_hooks.clear()

    def _a_buffer_appears(self) -> None:
        self.register_buffer("late", torch.zeros(3), persistent=False)
        self.none = torch.zeros(1)

    def _a_buffer_grows(self) -> None:
        self.register_buffer("table", torch.zeros(5, 2), persistent=False)

    def _a_buffer_vanishes(self) -> None:
        del self.table

    def _a_module_appears(self) -> None:
        self.teacher = nn.BatchNorm1d(2)
        self.layers.append(nn.Linear(2, 2))

    def _a_module_is_replaced(self) -> None:
        self.first = nn.Sequential(nn.Linear(2, 2))

    def _a_module_vanishes(self) -> None:
        del self.layers[0]
        del self.layers

    def _modules_change_places(self) -> None:
        self.first, self.second = self.second, self.first
        self._modules["first"] = self._modules.pop("first")

    def _a_parameter_appears(self) -> None:
        self.gain = nn.Parameter(torch.ones(1))

    def _a_parameter_is_replaced(self) -> None:
        self.first.weight = nn.Parameter(torch.ones(2, 2))

    def _a_parameter_vanishes(self) -> None:
        self.first.bias = None
        del self.spare

    def _weights_are_tied(self) -> None:
        self.second.weight = self.first.weight

    def _a_parametrization_appears(self) -> None:
        nn.utils.parametrizations.weight_norm(self.first)

    def _the_constructor_runs_again(self) -> None:
        first, second = self.first, self.second
        nn.Module.__init__(self)
        self.first, self.second = first, second

    def _attributes_change(self) -> None:
        self.way = vars(self).pop("way")
        self.names.append("b")
        self.new = 1
        del self.handle

    def _nothing(self) -> None:
        pass


def nothing(*args: object, **kwargs: object) -> None:
    pass


WAYS = [name[1:] for name in vars(Restless) if name.startswith("_") and not name.startswith("__")]


@pytest.mark.parametrize("way", WAYS)
def test_what_a_model_rebuilds_while_it_runs_is_put_back_by_identity(way: str) -> None:
    model = Restless(way)
    before = standing(model)
    with no_side_effects(model), torch.no_grad():
        model(torch.zeros(2, 2))
    assert same(before, standing(model))
    assert model.names == ["a"]
    # Without, it would be noticed.
    model(torch.zeros(2, 2))
    assert same(before, standing(model)) is (way == "nothing")


@pytest.mark.parametrize("way", WAYS)
def test_lives_are_apart_whatever_is_rebuilt_in_one(way: str) -> None:
    model = Restless(way)
    before, real = standing(model), ModuleState(model)
    start = real.copy()
    lives = [start.copy(), start.copy()]
    lives[0].install()
    model(torch.zeros(2, 2))
    lives[0].refresh()
    mine = standing(model)
    lives[1].install()
    assert "teacher" not in model._modules
    assert not hasattr(model, "late")
    lives[1].refresh()
    lives[0].install()
    assert same(mine, standing(model))
    again = lives[0].copy()
    again.install()
    if way == "a_module_appears":
        model.teacher.running_mean.add_(1.0)
        lives[0].install()
        assert float(model.teacher.running_mean.sum()) == 0
    real.install()
    assert same(before, standing(model))


def test_a_hook_that_was_put_back_can_still_be_taken_off() -> None:
    model = Restless("a_hook_vanishes")
    with no_side_effects(model):
        model(torch.zeros(1, 2))
        assert not model.first._forward_hooks
    assert len(model.first._forward_hooks) == 1
    model.handle.remove()
    assert not model.first._forward_hooks


def test_a_model_of_transformers_has_as_many_hooks_and_outputs_as_before() -> None:
    pytest.importorskip("transformers")
    model, ids = small_gpt2(range(20), 16, heads=2, length=8).eval(), torch.zeros(1, 4, dtype=torch.long)
    before = standing(model)
    for _ in range(3):
        with no_side_effects(model), torch.no_grad():
            assert len(model(ids, output_hidden_states=True).hidden_states) == 3
        assert same(before, standing(model))
    assert len(model(ids, output_hidden_states=True).hidden_states) == 3


def test_a_layer_that_waits_for_its_shape_gets_it_all_the_same() -> None:
    model = nn.Sequential(nn.LazyLinear(3), nn.LazyBatchNorm1d())
    parameters = list(model.parameters())
    with no_side_effects(model), torch.no_grad():
        model(torch.ones(4, 5))
    assert model(torch.ones(4, 5)).shape == (4, 3)
    assert all(one is other for one, other in zip(model.parameters(), parameters, strict=True))


def test_mode_and_attributes_of_a_scripted_part_are_put_back() -> None:
    model = nn.Sequential(nn.Linear(2, 2), torch.jit.script(Counting()))
    with no_side_effects(model), torch.no_grad():
        model.eval()(torch.zeros(1, 2))
        assert (model[1].training, model[1].count, float(model[1].plain)) == (False, 1, 2.0)
    assert (model[1].training, model[1].count, float(model[1].plain)) == (True, 0, 0.0)
    model(torch.zeros(1, 2))
    assert (model[1].count, float(model[1].plain)) == (1, 2.0)


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self.plain = torch.zeros(())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.count += 1
        self.plain += 2
        return x


def test_nothing_is_written_where_nothing_has_changed() -> None:
    class Watched(dict):
        writes = 0

        def clear(self) -> None:
            self.writes += 1
            super().clear()

    model = nn.Sequential(nn.Linear(2, 2))
    model[0]._parameters = Watched(model[0]._parameters)
    with no_side_effects(model), torch.no_grad():
        model(torch.zeros(1, 2))
    assert model[0]._parameters.writes == 0
    with no_side_effects(model):
        model[0].bias = None
    assert model[0]._parameters.writes == 1
