"""The step that was taken: a quadratic whose second-order term is known, optimizers, precision, ranks, restarts."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, DistributedSampler

from lightning_interp import SourceInfluence
from tests.callbacks.flipped_digits import Digits, Net, validation
from tests.callbacks.test_source_influence import Mixed, Normalised, fit, reader
from tests.toy import trainer

FIRST, MEASURED = "step_effect", "step_effect_measured"


def stepping(**kwargs: Any) -> SourceInfluence:
    return reader(data=DataLoader(Mixed(40), batch_size=20), step_effect=True, **kwargs)


class Bowl(pl.LightningModule):
    """Its loss is half the weights' squared distance from a point, in 16 dimensions."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self.place = nn.Parameter(torch.linspace(-1, 1, 16))

    def forward(self, x: Tensor) -> Tensor:
        return (self.place - x).square().sum(1) / 2

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        return self(batch["x"]).mean()

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self.log("val_loss", self(batch["x"]).mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.rate)


def points(number: int, seed: int) -> list[dict[str, Tensor]]:
    drawn = torch.randn(number, 16, generator=torch.Generator().manual_seed(seed))
    return [{"x": row, "source": torch.tensor(0)} for row in drawn]


def distance(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return model(batch["x"])  # type: ignore[no-any-return]


@pytest.mark.parametrize(("accumulated", "rate"), [(1, 0.3), (3, 0.3), (1, 1e-3)])
def test_the_second_order_term_of_a_quadratic_is_what_they_differ_by(
    tmp_path: Path, accumulated: int, rate: float
) -> None:
    moved: list[float] = []

    class Watch(pl.Callback):
        """How far each step went."""

        def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            self.before = pl_module.place.detach().clone()

        def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
            if trainer.global_step > len(moved):
                moved.append(float((pl_module.place.detach() - self.before).square().sum()))
                self.before = pl_module.place.detach().clone()

    callback = SourceInfluence(
        "source", ["all"], loss=distance, step_effect=True, draw_figures=False, on_error="raise", max_examples=None
    )
    # A validation after each two batches: with three of them for a step, in the midst of one.
    settings = {"accumulate_grad_batches": accumulated, "val_check_interval": 2, "max_epochs": 2}
    run = trainer(tmp_path, [Watch(), callback], precision="64-true", **settings)
    run.fit(Bowl(rate), DataLoader(points(48, 0), batch_size=8), DataLoader(points(20, 1), batch_size=8))
    rows = callback.history.readings
    assert len(rows) == 6
    for earlier, row in zip([None, *rows], rows, strict=False):
        # Between two readings on the same weights there was no step.
        stepped = earlier is not None and row.step > earlier.step
        assert (f"{FIRST}/validation" in row.values) == stepped
        if earlier is None or not stepped:
            continue
        first, measured = (row.values[f"{kind}/validation"] for kind in (FIRST, MEASURED))
        assert measured - first == pytest.approx(moved[earlier.step] / 2, rel=1e-6)
        assert (abs(first - measured) < 0.01 * abs(measured)) == (rate < 0.01)


RATES = {"SGD": 1e-5, "AdamW": 1e-7, "RMSprop": 1e-7}


@pytest.mark.parametrize("optimizer", RATES)
def test_small_steps_of_any_optimizer_do_what_the_gradient_says(tmp_path: Path, optimizer: str) -> None:
    callback = stepping(effect=False, queries={"validation": None, "own": validation(50)})
    fit(tmp_path, [callback], Net(RATES[optimizer], optimizer=optimizer), val_check_interval=2, precision="64-true")
    firsts = callback.history.series(f"{FIRST}/validation")[1]
    assert len(firsts) == 3
    for kind in (FIRST, MEASURED):
        values = callback.history.series(f"{kind}/validation")[1]
        assert values == pytest.approx(firsts, rel=0.01)
        assert values == pytest.approx(callback.history.series(f"{kind}/own")[1], rel=1e-9)
    # However short the sketches of the sources are.
    short = stepping(effect=False, buckets=64)
    fit(tmp_path, [short], Net(RATES[optimizer], optimizer=optimizer), val_check_interval=2, precision="64-true")
    assert short.history.series(f"{FIRST}/validation")[1] == pytest.approx(firsts, rel=1e-9)


@pytest.mark.parametrize("optimizer", ["SGD", "Adam"])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "bf16-true"])
def test_training_is_bit_identical(tmp_path: Path, optimizer: str, precision: str) -> None:
    def left(callbacks: Sequence[pl.Callback]) -> tuple[dict[str, Tensor], Tensor, list[Tensor | None]]:
        torch.manual_seed(0)
        model = Normalised(optimizer)
        settings = {"accumulate_grad_batches": 3, "val_check_interval": 2, "precision": precision, "max_epochs": 2}
        fit(tmp_path, callbacks, model, **settings)
        return model.state_dict(), torch.get_rng_state(), [one.grad for one in model.parameters()]

    callback = stepping()
    plainly, watched = left([]), left([callback])
    assert all(torch.equal(watched[0][name], value) for name, value in plainly[0].items())
    assert torch.equal(plainly[1], watched[1])
    assert [one is None for one in plainly[2]] == [one is None for one in watched[2]]
    firsts, measured = (callback.history.series(f"{kind}/validation")[1] for kind in (FIRST, MEASURED))
    assert len(callback.history) - 1 >= len(firsts) >= 4
    assert any(change < 0 for change in measured)


def test_nothing_is_held_when_the_step_is_over(tmp_path: Path) -> None:
    callback, held = stepping(), []

    class Look(pl.Callback):
        def on_train_batch_start(self, *_: Any) -> None:
            held.append(callback.taken.waits)

        def on_train_batch_end(self, *_: Any) -> None:
            held.append(callback.taken.waits)

    fit(tmp_path, [callback, Look()], Net(), val_check_interval=4)
    assert held == [False] * 8 + [True] + [False] * 7
    assert not callback.taken.waits
    # The last reading's step was not made.
    assert len(callback.history.series(f"{FIRST}/validation")[1]) == 1


class Averaged(pl.Callback):
    """Validates other weights than it trains."""

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.kept = [one.detach().clone() for one in pl_module.parameters()]
        with torch.no_grad():
            for one in pl_module.parameters():
                one.mul_(0.99)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        with torch.no_grad():
            for one, value in zip(pl_module.parameters(), self.kept, strict=True):
                one.copy_(value)


def test_where_other_weights_are_trained_than_validated_it_is_left_out(tmp_path: Path) -> None:
    callback = stepping()
    fit(tmp_path, [callback, Averaged()], Net(), val_check_interval=2)
    assert len(callback.history) == 4
    assert not any(FIRST in key for row in callback.history.readings for key in row.values)
    assert all("source_influence/clean/validation" in row.values for row in callback.history.readings)


@pytest.mark.parametrize("where", ["after the step", "before the step"])
def test_a_restart_loses_a_step_that_was_waited_for_and_no_other(tmp_path: Path, where: str) -> None:
    class Save(pl.Callback):
        def on_train_batch_end(self, run: pl.Trainer, *_: Any) -> None:
            if where == "after the step" and run.global_step == 3:
                run.save_checkpoint(tmp_path / "a.ckpt")

        def on_train_epoch_end(self, run: pl.Trainer, *_: Any) -> None:
            if where == "before the step" and run.current_epoch == 0:
                run.save_checkpoint(tmp_path / "a.ckpt")

    rows, whole, second = DataLoader(Mixed(60), batch_size=16), stepping(), stepping()
    # Batches 0 to 3 are an epoch; it is validated after 2 and after 4.
    for callback, resumed in ((whole, {}), (second, {"ckpt_path": tmp_path / "a.ckpt", "weights_only": False})):
        run = trainer(tmp_path, [callback, Save()], max_epochs=2, val_check_interval=2)
        run.fit(Net(), rows, validation(50), **(resumed if callback is second else {}))
    key = f"{FIRST}/validation"
    defined = [[key in one.values for one in callback.history.readings] for callback in (whole, second)]
    assert defined[0] == [False, True, True, True]
    if where == "after the step":
        assert defined[1] == defined[0]
        for kind in (FIRST, MEASURED):
            values = [one.history.readings[1].values[f"{kind}/validation"] for one in (whole, second)]
            assert values[0] == values[1]
    else:
        assert defined[1] == [False, True, False, True]


def test_an_error_after_a_step_costs_that_value_alone(tmp_path: Path) -> None:
    calls = []

    def fragile(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        calls.append(1)
        if len(calls) == 3:  # the losses after the step of the first reading
            raise RuntimeError("planted")
        return functional.cross_entropy(model(batch["x"]), batch["label"], reduction="none")

    callback = stepping(queries={"fragile": fragile}, on_error="drop")
    with pytest.warns(UserWarning, match="could not read the step that was taken: RuntimeError: planted"):
        fit(tmp_path, [callback], Net(), val_check_interval=2, num_sanity_val_steps=0)
    assert [f"{FIRST}/fragile" in one.values for one in callback.history.readings] == [False, False, True, True]


def fragile_on_one(rank: int) -> list[bool]:
    calls = []

    def fragile(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        calls.append(1)
        if len(calls) == 3 and dist.get_rank() == rank:
            raise RuntimeError("planted")
        return functional.cross_entropy(model(batch["x"]), batch["label"], reduction="none")

    callback = stepping(queries={"fragile": fragile}, on_error="drop")
    settings = {"devices": dist.get_world_size(), "strategy": "ddp", "max_epochs": 2, "num_sanity_val_steps": 0}
    run = trainer(tempfile.mkdtemp(), [callback], val_check_interval=2, **settings)
    run.fit(Net(), DataLoader(Mixed(48), batch_size=6), validation(48))
    return [f"{FIRST}/fragile" in one.values for one in callback.history.readings]


def test_an_error_on_one_rank_costs_that_value_on_all(two_ranks: Any) -> None:
    first, second = two_ranks.run(fragile_on_one, 1)
    assert first == second == [False, False, True, True]


def test_without_the_option_there_are_no_such_keys_and_nothing_waits(tmp_path: Path) -> None:
    callback = reader(data=DataLoader(Mixed(40), batch_size=20))
    fit(tmp_path, [callback], Net())
    assert not [key for key in callback.measures() if "step" in key]
    assert callback.taken is None
    assert set(stepping().conditional_keys()) >= {f"{FIRST}/validation", f"{MEASURED}/validation"}


def fitted() -> list[dict[str, float]]:
    several = {"devices": dist.get_world_size(), "strategy": "ddp"} if dist.is_initialized() else {}
    world = several.get("devices", 1)
    queries = {"validation": None, "own": list(DataLoader(Digits(20, 1600), batch_size=6))}
    callback = stepping(queries=queries, effect=False)
    settings = {"max_epochs": 2, "precision": "64-true", "val_check_interval": 2, "use_distributed_sampler": False}
    run = trainer(tempfile.mkdtemp(), [callback], **settings, **several)
    training, watched = Mixed(48), Digits(48, start=1500, flipped=0.0)
    samplers = [DistributedSampler(one, shuffle=False) if several else None for one in (training, watched)]
    # As many examples a step on one rank as on all, and the same ones.
    rows = DataLoader(training, batch_size=12 // world, sampler=samplers[0])
    run.fit(Net(0.1), rows, DataLoader(watched, batch_size=100, sampler=samplers[1]))
    found = [one.values for one in callback.history.readings]
    return [{key: value for key, value in row.items() if "seconds" not in key} for row in found]


def test_ranks_read_what_one_process_reads(ranks: Any) -> None:
    alone = fitted()
    first, *others = ranks.run(fitted)
    assert len(alone) == len(first) == 4
    for one, other in zip(alone, first, strict=True):
        assert one == pytest.approx(other, rel=1e-5, abs=1e-7)
    assert sum(FIRST in key for one in first for key in one) == 3 * 4
    assert all(other == first for other in others)
