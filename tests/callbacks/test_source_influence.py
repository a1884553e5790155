"""Influence of sources on queries: plain gradients, planted sources, optimizers, precision, ranks, what is refused."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader

from lightning_interp import SourceInfluence, ValidationSchedule, analyze
from lightning_interp.batches.example_losses import DealtTargets
from lightning_interp.reading.step_scale import step_scales
from tests.callbacks.flipped_digits import Digits, Net, validation
from tests.callbacks.recipes import source_influence
from tests.callbacks.test_self_influence import Next, Words
from tests.toy import Tagger, loader, timeless, trainer

SOURCES = ["clean", "permuted"]


class Mixed(Digits):
    """Two thirds of the digits with their own labels, one third with labels dealt to one another."""

    def __init__(self, number: int = 1400, seed: int = 0, start: int = 0) -> None:
        super().__init__(number, start, flipped=0.0)
        self.source = (torch.arange(number) % 3 == 0).long()
        (dealt,) = self.source.nonzero(as_tuple=True)
        order = torch.randperm(len(dealt), generator=torch.Generator().manual_seed(seed))
        self.labels[dealt] = self.labels[dealt[order]]

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {**super().__getitem__(index), "source": self.source[index]}


def reader(**kwargs: Any) -> SourceInfluence:
    given = {"max_examples": None, "max_queries": None, "draw_figures": False, "on_error": "raise", **kwargs}
    return SourceInfluence("source", SOURCES, **given)


def fit(folder: Path, callbacks: Sequence[pl.Callback], model: pl.LightningModule, **kwargs: Any) -> pl.Trainer:
    pl.seed_everything(3, verbose=False)
    run = trainer(folder, list(callbacks), **{"max_epochs": 1, **kwargs})
    run.fit(model, DataLoader(Mixed(120), batch_size=16, shuffle=True), validation(50))
    return run


# ------------------------------------------------- plain gradients


def gradient(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    model.eval()
    loss = functional.cross_entropy(model(x), y)
    return torch.cat([one.flatten() for one in torch.autograd.grad(loss, list(model.parameters()))]).double()


def cosine(one: Tensor, other: Tensor) -> float:
    return float(one @ other / one.norm() / other.norm())


def plain(model: nn.Module, data: Mixed, query: Digits) -> dict[str, tuple[float, Tensor, Tensor]]:
    """Of each source the cosine with the query, its gradient and the query's."""
    watched = gradient(model, query.pictures, query.labels)
    found = {}
    for number, name in enumerate(SOURCES):
        own = data.source == number
        mine = gradient(model, data.pictures[own], data.labels[own])
        found[name] = cosine(mine, watched), mine, watched
    return found


@pytest.mark.parametrize("batch", [7, 60])
def test_cosines_are_those_of_plain_gradients(batch: int) -> None:
    data, query, model = Mixed(60), Digits(50, 1500, flipped=0.0), Net()
    found = analyze(model, validation(50), reader(data=DataLoader(data, batch_size=batch)))
    for name, (expected, *_) in plain(model, data, query).items():
        assert found[f"source_influence/{name}/validation"] == pytest.approx(expected, abs=1e-5)
    sketched = analyze(model, validation(50), reader(data=DataLoader(data, batch_size=batch), buckets=4096))
    for name, (expected, *_) in plain(model, data, query).items():
        assert sketched[f"source_influence/{name}/validation"] == pytest.approx(expected, abs=0.06)
        assert sketched[f"source_influence/{name}/validation"] != found[f"source_influence/{name}/validation"]
    assert not [key for key in found if "effect" in key], "there is no optimizer"


def test_labels_are_dealt_within_their_source() -> None:
    data, model = Mixed(60), Net()
    batches = list(DataLoader(data, batch_size=7))
    dealt = DealtTargets(seed=4)
    places = torch.arange(60).split(7)
    for batch, own in zip(batches, places, strict=True):
        dealt.add(own, batch["label"], torch.ones(len(own)).bool(), batch["source"])
    labels = torch.cat(
        [dealt.of(own, batch["label"], torch.ones(len(own)).bool()) for batch, own in zip(batches, places, strict=True)]
    )
    assert not torch.equal(labels, data.labels)
    for number in (0, 1):
        own = data.source == number
        assert torch.equal(labels[own].sort().values, data.labels[own].sort().values)
    other = Mixed(60)
    other.labels = labels
    query = Digits(50, 1500, flipped=0.0)
    expected = {name: one for name, (one, *_) in plain(model, other, query).items()}
    found = analyze(model, validation(50), reader(data=batches, seed=4))
    for name in SOURCES:
        assert found[f"source_influence_control/{name}/validation"] == pytest.approx(expected[name], abs=1e-5)


def test_sequences_are_read_position_by_position() -> None:
    data, model = Words(), Next()
    batches = list(DataLoader(data, batch_size=5))

    def source(batch: dict[str, Tensor]) -> Tensor:
        return (batch["input_ids"][:, 0] > 4).long()

    callback = SourceInfluence(
        source, ["low", "high"], data=batches, target="input_ids", shift=1, draw_figures=False, max_queries=None
    )
    found = analyze(model, batches[:2], callback)

    def mean(rows: Tensor) -> Tensor:
        ids, mask = data.ids[rows], data.mask[rows]
        logits = model(ids)[:, :-1][mask[:, 1:]]
        loss = functional.cross_entropy(logits, ids[:, 1:][mask[:, 1:]])
        return torch.cat([one.flatten() for one in torch.autograd.grad(loss, list(model.parameters()))])

    query = mean(torch.arange(12) < 10)
    for name, own in (("low", data.ids[:, 0] <= 4), ("high", data.ids[:, 0] > 4)):
        assert found[f"source_influence/{name}/validation"] == pytest.approx(cosine(mean(own), query), abs=1e-5)
        assert math.isfinite(found[f"source_influence_control/{name}/validation"])


def squared(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return (model(batch["x"]) - functional.one_hot(batch["label"], 10)).square().sum(1)


def cross_entropy(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return functional.cross_entropy(model(batch["x"]), batch["label"], reduction="none")


def test_losses_and_data_of_ones_own() -> None:
    model, data = Net(), DataLoader(Mixed(60), batch_size=20)
    queries = {"validation": None, "same": cross_entropy, "squared": squared, "own": validation(50)}
    found = analyze(model, validation(50), reader(data=data, queries=queries))
    for name in SOURCES:
        values = {query: found[f"source_influence/{name}/{query}"] for query in queries}
        assert values["same"] == pytest.approx(values["validation"], abs=1e-6)
        assert values["own"] == pytest.approx(values["validation"], abs=1e-6)
        assert values["squared"] != pytest.approx(values["validation"], abs=1e-3)
    own = reader(data=data, loss=cross_entropy)
    assert not [key for key in own.measures() if "control" in key]
    for key, value in analyze(model, validation(50), own).items():
        assert value == pytest.approx(found[key], abs=1e-6)


# ------------------------------------------------- planted sources


@pytest.mark.parametrize("seed", range(2))
def test_permuted_labels_come_to_harm_and_clean_ones_help(tmp_path: Path, seed: int) -> None:
    callback = reader()
    pl.seed_everything(seed, verbose=False)
    schedule = ValidationSchedule(steps=[1, 20, 100, 200, 300])
    run = trainer(tmp_path, [schedule, callback], max_steps=300, max_epochs=-1)
    run.fit(Net(0.1, seed=seed), DataLoader(Mixed(1400, seed), batch_size=64, shuffle=True), validation(297))
    clean, permuted, control = (
        callback.history.series(f"source_influence{kind}/{name}/validation")[1]
        for kind, name in (("", "clean"), ("", "permuted"), ("_control", "clean"))
    )
    assert min(clean) > 0.8
    assert permuted[0] > -0.1
    assert permuted[-1] < -0.2
    assert max(permuted[2:]) < 0
    assert control[-1] < -0.2, "the same pictures with labels that were dealt"
    effects = callback.history.series("source_effect/clean/validation")[1]
    assert max(effects) < 0
    assert callback.reading["source_effect/permuted/validation"] > 0
    assert set(callback.figures()) == {"source_influence/validation"}
    assert len(callback.figures()["source_influence/validation"]().axes) == 2


# ------------------------------------------------- optimizers


def one_step(
    model: Net, optimizer: torch.optim.Optimizer, data: Mixed, source: int, query: Digits, rate: float
) -> float:
    """How the query's loss changes where the source's gradient alone moves the weights through the optimizer."""
    own = data.source == source
    for group in optimizer.param_groups:
        group["lr"] = rate

    def loss() -> Tensor:
        with torch.no_grad():
            return functional.cross_entropy(model(query.pictures).double(), query.labels)

    before = loss()
    optimizer.zero_grad()
    functional.cross_entropy(model(data.pictures[own]), data.labels[own]).backward()
    optimizer.step()
    return float(loss() - before)


def test_the_effect_is_the_change_of_a_small_step_of_sgd(tmp_path: Path) -> None:
    data = Mixed(120)
    callback, model = reader(data=DataLoader(data, batch_size=40)), Net(0.1)
    run = fit(tmp_path, [callback], model)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    query = Digits(50, 1500, flipped=0.0)
    for number, name in enumerate(SOURCES):
        model.load_state_dict(state)
        changed = one_step(model.eval(), run.optimizers[0], data, number, query, 1e-3)
        assert callback.reading[f"source_effect/{name}/validation"] == pytest.approx(changed / 1e-3, rel=0.02)


@pytest.mark.parametrize("kind", ["Adam", "AdamW", "amsgrad"])
def test_the_effect_under_adam_is_by_its_second_moments(tmp_path: Path, kind: str) -> None:
    class With(Net):
        def configure_optimizers(self) -> torch.optim.Optimizer:
            if kind == "amsgrad":
                return torch.optim.Adam(self.parameters(), 1e-3, amsgrad=True)
            return getattr(torch.optim, kind)(self.parameters(), lr=1e-3)  # type: ignore[no-any-return]

    data = Mixed(120)
    callback, model = reader(data=DataLoader(data, batch_size=40)), With()
    (optimizer,) = fit(tmp_path, [callback], model).optimizers
    found = plain(model, data, Digits(50, 1500, flipped=0.0))
    held = "max_exp_avg_sq" if kind == "amsgrad" else "exp_avg_sq"
    states = [optimizer.state[one] for one in model.parameters()]
    moments = [one[held] / (1 - 0.999 ** float(one["step"])) for one in states]
    scale = torch.cat([1 / (one.sqrt() + 1e-8).flatten() for one in moments]).double()
    for name, (_, mine, watched) in found.items():
        expected = -float(watched @ (scale * mine))
        assert callback.reading[f"source_effect/{name}/validation"] == pytest.approx(expected, rel=1e-3)
    (first, *_) = callback.history.readings
    assert "source_effect/clean/validation" in first.values


def test_what_is_known_of_a_step() -> None:
    model, other = Net(), nn.Linear(2, 2)
    parameters = dict(model.named_parameters())
    adam = torch.optim.Adam(model.parameters())
    assert step_scales(SimpleNamespace(optimizers=[adam]), parameters, "no") is None, "it has made no step"
    sgd = torch.optim.SGD(model.head.parameters(), lr=0.1, momentum=0.9)
    found = step_scales(SimpleNamespace(optimizers=[sgd]), parameters, "no")
    assert found == {name: float(name.startswith("head")) for name in parameters}
    elsewhere = torch.optim.SGD(other.parameters(), 0.1)
    assert step_scales(SimpleNamespace(optimizers=[elsewhere]), parameters, "no") is None
    up = torch.optim.SGD(model.parameters(), 0.1, maximize=True)
    with pytest.raises(ValueError, match="under SGD with `maximize`"):
        step_scales(SimpleNamespace(optimizers=[up]), parameters, "no")


def test_another_optimizer_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"under RMSprop is not known here, .* SGD, Adam, AdamW .* `effect=False`"):
        fit(tmp_path, [reader()], Net(1e-3, optimizer="RMSprop"))
    callback = reader(effect=False)
    fit(tmp_path, [callback], Net(1e-3, optimizer="RMSprop"))
    assert "source_influence/clean/validation" in callback.reading
    assert not [key for key in callback.measures() if "effect" in key]


# ------------------------------------------------- untouched


class Normalised(Net):
    """What gradients of single batches could disturb: batch norm, dropout, gradients that add up, a hook on them."""

    def __init__(self, optimizer: str) -> None:
        super().__init__(1e-2, optimizer=optimizer)
        self.body = nn.Sequential(nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.3))
        self.head = nn.Linear(32, 10)


@pytest.mark.parametrize("optimizer", ["SGD", "Adam"])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "bf16-true"])
def test_training_is_bit_identical(tmp_path: Path, optimizer: str, precision: str) -> None:
    def left(callbacks: list[Any]) -> tuple[dict[str, Tensor], list[Tensor | None]]:
        torch.manual_seed(0)
        model = Normalised(optimizer)
        settings = {"accumulate_grad_batches": 3, "val_check_interval": 2, "precision": precision, "max_epochs": 2}
        fit(tmp_path, callbacks, model, **settings)
        return model.state_dict(), [one.grad for one in model.parameters()]

    callback = reader(data=DataLoader(Mixed(40), batch_size=20))
    plainly, watched = left([]), left([callback])
    assert all(torch.equal(watched[0][name], value) for name, value in plainly[0].items())
    assert [one is None for one in plainly[1]] == [one is None for one in watched[1]]
    assert len(callback.history) == 8
    assert all(math.isfinite(value) for value in callback.reading.values())


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "64-true"])
def test_whatever_the_precision_it_is_the_gradient_of_the_weights_as_they_are(tmp_path: Path, precision: str) -> None:
    callback, model, data = reader(data=DataLoader(Mixed(60), batch_size=20)), Net(0.1), Mixed(60)
    fit(tmp_path, [callback], model, precision=precision)
    exact = Net()
    exact.load_state_dict(model.state_dict())
    # Pictures come in the precision of the run.
    near = 1e-2 if precision == "bf16-true" else 1e-4
    query = Digits(50, 1500, flipped=0.0)
    for name, (expected, mine, watched) in plain(exact, data, query).items():
        assert callback.reading[f"source_influence/{name}/validation"] == pytest.approx(expected, abs=near)
        assert callback.reading[f"source_effect/{name}/validation"] == pytest.approx(-float(mine @ watched), rel=0.05)


def test_a_resumed_run_reads_the_same(tmp_path: Path) -> None:
    whole, first, second = reader(), reader(), reader()
    rows = DataLoader(Mixed(60), batch_size=16)
    for callback, epochs, path in ((whole, 2, None), (first, 1, None), (second, 2, "a.ckpt")):
        run = trainer(tmp_path, [callback], max_epochs=epochs)
        resumed = {} if path is None else {"ckpt_path": tmp_path / path, "weights_only": False}
        run.fit(Net(), rows, validation(50), **resumed)
        if callback is first:
            run.save_checkpoint(tmp_path / "a.ckpt")
    assert timeless(second) == timeless(whole)


# ------------------------------------------------- errors


def test_what_cannot_be_is_refused_at_once(tmp_path: Path) -> None:
    wrong: list[tuple[Callable[[], Any], str]] = [
        (lambda: SourceInfluence("source", []), "`sources` must give one or more names"),
        (lambda: SourceInfluence("source", ["a", "a"]), "each with a number of its own"),
        (lambda: SourceInfluence("source", {"a": 1, "b": 1}), "each with a number of its own"),
        (lambda: SourceInfluence("source", {"a/b": 1}), "without a '/'"),
        (lambda: SourceInfluence("source", "web"), "must be a list of names"),
        (lambda: reader(queries={}), "`queries` must have one or more names"),
        (lambda: reader(buckets=0), "`buckets` must be at least 1"),
        (lambda: reader(queries={"a": DataLoader(Digits(8), shuffle=True)}), r"`queries\['a'\]` shuffles"),
    ]
    for make, message in wrong:
        with pytest.raises(ValueError, match=message):
            make()
    with pytest.raises(TypeError, match="`loss` must be a function"):
        reader(loss=3)
    with pytest.raises(ValueError, match="source"):
        fit(tmp_path, [SourceInfluence("nothing", SOURCES)], Net())
    with pytest.raises(ValueError, match="`source` must lead to integers"):
        fit(tmp_path, [SourceInfluence("x", SOURCES)], Net())
    with pytest.raises(ValueError, match=r"none of the training examples read is of the source 'third' \(2\)"):
        fit(tmp_path, [SourceInfluence("source", [*SOURCES, "third"])], Net())
    with pytest.raises(ValueError, match="targets are no class of the logits"):
        fit(tmp_path, [reader(target=lambda batch: batch["label"] + 5)], Net())
    with pytest.raises(ValueError, match=r"`loss` gave .* one entry per example"):
        fit(tmp_path, [reader(loss=lambda model, batch: cross_entropy(model, batch).mean())], Net())
    with pytest.raises(ValueError, match="without a graph"):
        fit(tmp_path, [reader(loss=lambda model, batch: cross_entropy(model, batch).detach())], Net())
    frozen = Net()
    frozen.requires_grad_(False)
    with pytest.raises(ValueError, match="no parameter with `requires_grad`"):
        analyze(frozen, validation(50), reader(data=DataLoader(Mixed(60))))


# ------------------------------------------------- ranks


def fitted(of: str) -> dict[str, Any]:
    several = {"devices": dist.get_world_size(), "strategy": "ddp"} if dist.is_initialized() else {}
    callback = source_influence(draw_figures=False) if of == "toy" else reader(max_examples=30, queries=QUERIES)
    run = trainer(tempfile.mkdtemp(), [callback], max_epochs=2, **several)
    pl.seed_everything(0, verbose=False)
    if of == "toy":
        model = Tagger(lr=1e-12)
        run.fit(model, loader(40, batch_size=6), loader(seed=1))
    else:
        run.fit(Net(1e-9), DataLoader(Mixed(61), batch_size=4), validation(48))
    return {key: value for key, value in callback.reading.items() if "seconds" not in key}


QUERIES = {"validation": None, "own": list(DataLoader(Digits(20, 1600), batch_size=6))}


@pytest.mark.parametrize("of", ["digits", "toy"])
def test_ranks_read_what_one_process_reads(ranks: Any, of: str) -> None:
    alone = fitted(of)
    first, *others = ranks.run(fitted, of)
    # Adam has moved differently where ranks take other batches.
    compared = {key: value for key, value in first.items() if of == "digits" or "effect" not in key}
    assert compared == pytest.approx({key: alone[key] for key in compared}, rel=1e-5, abs=1e-6)
    assert len(compared) > 4
    assert all(other == first for other in others)
