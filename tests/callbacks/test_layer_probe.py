"""LayerProbe in a Trainer: planted layers at known accuracy, baselines, probe sets, resuming, ranks."""

from __future__ import annotations

import math
import tempfile
import warnings
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import torch.distributed as dist
from matplotlib.figure import Figure
from pytorch_lightning.callbacks import ModelCheckpoint
from scipy.stats import norm
from torch import nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    RandomSampler,
    Sampler,
    SubsetRandomSampler,
)

from lightning_interp import LayerProbe, RepresentationStructure, analyze
from lightning_interp.isolation.random_weights import random_weights
from lightning_interp.parts.baseline import Baseline
from tests.toy import Sequences, Tagger, loader, timeless, trainer

APART = (0.0, 0.5, 2.0, 1.0)
SITES = {f"layer{place}": f"layers.{place}" for place in range(len(APART))}
BOTH = {"emb": "embedding", "enc": "encoder"}


class Words(Dataset):
    """Words of 300 types with noise of their own; even types are of class 0."""

    def __init__(self, number: int = 400, length: int = 15) -> None:
        generator = torch.Generator().manual_seed(0)
        self.ids = torch.randint(1, 301, (number, length), generator=generator)
        self.tags = self.ids % 2
        noise = torch.randn(number, length, 6, generator=generator)
        self.x = torch.cat([noise, (2.0 * self.tags - 1)[..., None]], dim=-1)
        self.depth = noise.sum(-1) + torch.randn(number, length, generator=generator) * math.sqrt(6)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        ids = self.ids[index]
        return {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "x": self.x[index],
            "tag": self.tags[index],
            "depth": self.depth[index],
        }


class Planted(pl.LightningModule):
    """Each layer sees the noise, and the class as far from 0 as its weights put it."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(7, 6) for _ in APART)
        with torch.no_grad():
            for layer, apart in zip(self.layers, APART, strict=True):
                layer.weight.zero_()
                layer.weight[:, :6] = torch.eye(6)
                layer.weight[0, 6] = apart

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return sum(layer(x).sum() for layer in self.layers)

    def training_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        return 0 * self(batch["x"])

    def validation_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> None:
        self(batch["x"])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> LayerProbe:
    callback = LayerProbe(SITES, ["tag"], ["depth"], log="full", draw_figures=False)
    data = DataLoader(Words(), batch_size=50)
    run = trainer(tmp_path_factory.mktemp("planted"), [callback], max_epochs=1, limit_train_batches=1)
    run.fit(Planted(), data, data)
    assert set(callback.logged_keys(Planted())) <= set(run.callback_metrics)
    return callback


def test_each_layer_has_its_known_accuracy(planted: LayerProbe) -> None:
    for place, apart in enumerate(APART):
        # 6,000 rows: three standard errors are .02; about a half a probe that knows nothing is a little below.
        level = norm.cdf(apart)
        assert planted.reading[f"probe_accuracy/layer{place}/tag"] == pytest.approx(level, abs=0.02 if apart else 0.04)
        assert planted.reading[f"probe_control/layer{place}/tag"] == pytest.approx(0.5, abs=0.06)
        # Half of the number is six sums of noise, one of which has the class on top.
        explained = (5 + 1 / (1 + apart**2)) / 12
        assert planted.reading[f"probe_r2/layer{place}/depth"] == pytest.approx(explained, abs=0.03)
        assert planted.reading[f"probe_control/layer{place}/depth"] == pytest.approx(0.0, abs=0.03)
    assert planted.reading["best_layer/tag"] == 2


def test_the_baseline_is_that_of_the_random_weights(planted: LayerProbe) -> None:
    model = Planted()
    with random_weights(model, seed=0):
        weights = [layer.weight.detach().double().clone() for layer in model.layers]
    for place, weight in enumerate(weights):
        noise, mean = weight[:, :6], weight[:, 6]
        apart = float((mean @ torch.linalg.inv(noise @ noise.T) @ mean).sqrt())
        found = planted.reading[f"probe_baseline/layer{place}/tag"]
        assert found == pytest.approx(norm.cdf(apart), abs=0.03)
        of_depth = noise.sum(1)
        explained = float(of_depth @ torch.linalg.inv(weight @ weight.T) @ of_depth) / 12
        assert planted.reading[f"probe_baseline/layer{place}/depth"] == pytest.approx(explained, abs=0.03)
        above = planted.reading[f"probe_above_baseline/layer{place}/tag"]
        assert above == pytest.approx(planted.reading[f"probe_accuracy/layer{place}/tag"] - found, abs=1e-6)


def test_the_centre_of_gravity_is_where_the_gains_are(planted: LayerProbe) -> None:
    gains = []
    for place in range(len(APART)):
        levels = [planted.reading[f"{what}/layer{place}/tag"] for what in ("probe_baseline", "probe_majority")]
        gains.append(max(0.0, planted.reading[f"probe_accuracy/layer{place}/tag"] - max(levels)))
    expected = sum(place * gain for place, gain in enumerate(gains)) / sum(gains)
    assert planted.reading["centre_of_gravity/tag"] == pytest.approx(expected, abs=1e-6)


# ------------------------------------------------- where representations come from


def probes(**kwargs: Any) -> LayerProbe:
    settings: dict[str, Any] = {"labels": ["tags"], "targets": {"letter": "input_ids"}, "min_count": 2}
    return LayerProbe(BOTH, **{**settings, "log": "full", "draw_figures": False, **kwargs})


def fit(folder: Path, callbacks: list[pl.Callback], model: pl.LightningModule | None = None, **kwargs: Any) -> None:
    pl.seed_everything(2, verbose=False)
    trainer(folder, callbacks, **kwargs).fit(model or Tagger(), loader(), loader(seed=1))


def without_time(reading: dict[str, float]) -> dict[str, float]:
    return {key.removeprefix("set/"): value for key, value in reading.items() if "seconds" not in key}


def as_tagger(model: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    return model(batch["input_ids"])


def batched(sampler: Sampler) -> DataLoader:
    return DataLoader(Sequences(40), batch_sampler=BatchSampler(sampler, 8, False))


@pytest.mark.parametrize("batch_size", [8, 9])
@pytest.mark.parametrize("forward", [None, as_tagger])
def test_a_probe_set_is_read_as_the_validation_run_is(tmp_path: Path, batch_size: int, forward: Any) -> None:
    live = probes()
    same = probes(prefix="set/", data=loader(seed=1, batch_size=batch_size), forward=forward)
    fit(tmp_path, [live, same])
    assert without_time(same.reading) == pytest.approx(without_time(live.reading), abs=1e-6)
    assert live.reading["probe_rows/emb"] == int(Sequences(40, seed=1).mask.sum())


def test_max_examples_counts_samples_of_the_probe_set(tmp_path: Path) -> None:
    live = probes(max_examples=11)
    same = probes(prefix="set/", data=loader(seed=1, batch_size=3), max_examples=11)
    fit(tmp_path, [live, same])
    assert without_time(same.reading) == pytest.approx(without_time(live.reading), abs=1e-6)


def test_the_baseline_by_forward_is_that_by_validation_step(tmp_path: Path) -> None:
    one, two = probes(), probes(prefix="set/", forward=as_tagger)
    fit(tmp_path, [one, two])
    assert without_time(two.reading) == pytest.approx(without_time(one.reading), abs=1e-6)


def test_analyze_gives_what_a_validation_gives(tmp_path: Path) -> None:
    callback, model = probes(), Tagger(seed=3)
    trainer(tmp_path, [callback]).validate(model, loader(seed=1), verbose=False)
    for data in (None, loader(seed=1)):
        found = analyze(model, loader(seed=1 if data is None else 9), probes(data=data))
        assert found == pytest.approx(without_time(callback.reading), abs=1e-6)


def test_training_is_untouched_by_a_probe_set_and_its_baseline(tmp_path: Path) -> None:
    def after(callbacks: list[pl.Callback]) -> tuple[Any, ...]:
        model = Tagger()
        fit(tmp_path, callbacks, model, max_epochs=3)
        states = [value.tolist() for value in model.state_dict().values()]
        return states, torch.get_rng_state().tolist(), model.training, model.collected

    workers = DataLoader(Sequences(20, seed=4), batch_size=6, num_workers=1)
    assert after([]) == after([probes(data=workers), probes(prefix="own/")])


def test_a_probe_set_draws_nothing_where_it_is_given() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    probes(data=loader(seed=4))
    assert torch.equal(torch.get_rng_state(), before), "the training would get other numbers"


def test_labels_of_arrays_and_of_samples(tmp_path: Path) -> None:
    tags = Sequences(40, seed=1).tags
    given, looked_up = probes(labels={"tags": tags}), probes(prefix="set/")
    by_sample = probes(labels={"sentence": None}, prefix="sample/", control=False)
    fit(tmp_path, [given, looked_up, by_sample])
    assert without_time(given.reading) == without_time(looked_up.reading)
    assert by_sample.reading["sample/probe_classes/enc/sentence"] == 4
    assert not any("control" in key or "selectivity" in key for key in by_sample.reading)


def test_a_model_without_words(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    classes = torch.randint(0, 3, (90,), generator=generator)
    images = torch.randn(90, 1, 4, 4, generator=generator) + 5 * torch.eye(16)[classes].view(90, 1, 4, 4)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU())
    batches = [(images[k : k + 30], classes[k : k + 30]) for k in (0, 30, 60)]
    found = analyze(model, batches, LayerProbe({"hidden": "1"}, labels={"class": 1}, types=None))
    assert found["probe_accuracy/hidden/class"] > 0.9
    assert found["probe_baseline/hidden/class"] > 0.9
    assert not any(key.startswith(("selectivity", "best_layer")) for key in found)
    with pytest.raises(ValueError, match=r"shows no token ids by itself.*in images, give `types=None`"):
        analyze(model, batches, LayerProbe({"hidden": "1"}, labels={"class": 1}))


def test_beside_another_callback_on_the_same_site(tmp_path: Path) -> None:
    structure = RepresentationStructure(BOTH, {"tags": "tags"}, min_count=2, draw_figures=False)
    callback = probes()
    fit(tmp_path, [structure, callback])
    assert "nonfinite/enc" in structure.reading
    assert "nonfinite/enc" not in callback.reading


# ------------------------------------------------- the baseline


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    seeds: list[int] = []

    installed = Baseline.installed

    def drawn(self: Baseline, model: nn.Module, name: str) -> Any:
        seeds.append(self.seed)
        return installed(self, model, name)

    monkeypatch.setattr(Baseline, "installed", drawn)
    return seeds


def test_the_baseline_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seeds, callback = counted(monkeypatch), probes(seed=5)
    fit(tmp_path, [callback], max_epochs=4)
    assert seeds == [5, 5]  # once in the rehearsal
    keys = [key for key in callback.reading if key.startswith("probe_baseline/")]
    assert len(keys) == 4
    for key in keys:
        assert len({reading.values[key] for reading in callback.history.readings}) == 1


def test_another_class_of_model_is_made_by_a_function(tmp_path: Path) -> None:
    other = Tagger(seed=9)
    made, state = probes(baseline=lambda: Tagger(seed=9)), probes(baseline=other.state_dict, prefix="set/")
    fit(tmp_path, [made, state])
    expected = analyze(other, loader(seed=1), probes(baseline=False))
    for callback in (made, state):
        found = without_time(callback.reading)
        for key in ("enc/tags", "emb/tags"):
            assert found[f"probe_baseline/{key}"] == pytest.approx(expected[f"probe_accuracy/{key}"], abs=1e-6)


def test_no_baseline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seeds, callback = counted(monkeypatch), probes(baseline=False)
    fit(tmp_path, [callback])
    assert seeds == []
    assert not any("baseline" in key for key in callback.logged_keys(Tagger()))


class Own(Tagger):
    """With a parameter of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(8))


def test_weights_that_nothing_draws_are_told_once_and_in_the_settings(tmp_path: Path) -> None:
    callback = probes()
    with pytest.warns(UserWarning, match=r"LayerProbe: nothing draws the parameters \['scale'\] of Own") as told:
        fit(tmp_path, [callback], Own(), max_epochs=2)
    assert len([one for one in told if "nothing draws" in str(one.message)]) == 1
    assert callback.settings()["baseline"] is True
    assert callback.settings()["baseline_shuffled"] == "scale"
    assert any(key.startswith("probe_above_baseline/") for key in callback.reading)


def test_a_baseline_that_cannot_be_had_ends_a_run_only_where_it_was_asked_for(tmp_path: Path) -> None:
    def quantised() -> Tagger:
        model = Own()
        model.codes = nn.Parameter(torch.zeros(3, dtype=torch.int8), requires_grad=False)
        return model

    callback = probes()
    with pytest.warns(UserWarning, match="LayerProbe reads without a baseline.*'codes'.*`baseline=False`") as told:
        fit(tmp_path / "unasked", [callback], quantised(), max_epochs=2)
    assert len([one for one in told if "without a baseline" in str(one.message)]) == 1
    assert not [one for one in told if "cannot be told from this reading" in str(one.message)]
    assert len(callback.history) == 2
    assert not any("baseline" in key for key in callback.reading)
    assert any(key.startswith("probe_accuracy/") for key in callback.reading)
    assert callback.settings()["baseline"] is False
    with pytest.raises(ValueError, match="'codes'"):
        fit(tmp_path / "asked", [probes(baseline=True)], quantised())


# ------------------------------------------------- resuming


def test_a_resumed_run_goes_on_as_if_nothing_had_been(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = probes()
    fit(tmp_path / "whole", [whole], max_epochs=4)
    first = ModelCheckpoint(tmp_path / "saved", save_last=True, every_n_epochs=1, save_top_k=-1)
    fit(tmp_path / "first", [probes(), first], max_epochs=2, enable_checkpointing=True)
    seeds, resumed = counted(monkeypatch), probes()
    pl.seed_everything(2, verbose=False)
    trainer(tmp_path / "second", [resumed], max_epochs=4).fit(
        Tagger(), loader(), loader(seed=1), ckpt_path=tmp_path / "saved" / "last.ckpt", weights_only=True
    )
    assert seeds == []
    assert [reading[:3] for reading in timeless(resumed)] == [reading[:3] for reading in timeless(whole)]
    for one, other in zip(timeless(resumed), timeless(whole), strict=True):
        baseline = {key: value for key, value in other[3].items() if "probe_baseline" in key}
        assert {key: one[3][key] for key in baseline} == baseline
    assert timeless(resumed)[:2] == timeless(whole)[:2]


# ------------------------------------------------- errors and pictures


def test_bad_arguments(tmp_path: Path) -> None:
    for options, message in (
        ({"labels": "tags"}, "`labels` must be a list of names"),
        ({"labels": [], "targets": []}, "both empty"),
        ({"data": iter([])}, "iterated again"),
        ({"data": loader(shuffle=True)}, "`data` shuffles"),
        ({"data": loader(sampler=DistributedSampler(Sequences(40), 2, 0))}, "DistributedSampler"),
        ({"data": batched(DistributedSampler(Sequences(40), 2, 0))}, "DistributedSampler"),
        ({"data": batched(RandomSampler(Sequences(40)))}, "shuffles"),
        ({"data": loader(sampler=SubsetRandomSampler(range(40)))}, "shuffles"),
        ({"data": loader(), "dataloader_idx": 1}, "no meaning with `data`"),
    ):
        with pytest.raises(ValueError, match=message):
            probes(**options)
    for options, message in (
        ({"labels": ["absent"]}, r"labels\['absent'\].* points to 'absent', which is not in the batch"),
        ({"data": []}, "`data` gave no batch"),
        ({"data": [{"words": torch.ones(2, 3).long()}], "labels": {"tags": "words"}}, "shows no token ids"),
        ({"types": "lemma"}, "lemma"),
    ):
        with pytest.raises(ValueError, match=message):
            fit(tmp_path, [probes(**options)])


def test_a_batch_that_the_module_does_not_take_asks_for_forward(tmp_path: Path) -> None:
    class Picky(Tagger):
        def forward(self, input_ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            return super().forward(input_ids)

        def _loss(self, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
            logits = self(batch["input_ids"], batch["attention_mask"])
            return logits.sum(), logits.sum(-1)

    with pytest.raises(
        ValueError, match=r"Picky, whose forward takes .*, does not run on a batch.*Say how with `forward="
    ):
        fit(tmp_path, [probes(data=loader(seed=1))], Picky())
    given = probes(data=loader(seed=1), forward=lambda model, batch: model(batch["input_ids"], batch["attention_mask"]))
    fit(tmp_path, [given], Picky())
    assert len(given.history) == 2


def test_every_picture_is_drawn(tmp_path: Path) -> None:
    callback = probes(codelength=True)
    fit(tmp_path, [callback], max_epochs=3)
    pictures = {tag: draw() for tag, draw in callback.figures().items()}
    assert list(pictures) == ["probe/tags", "sites/probe/tags", "probe/letter", "sites/probe/letter"]
    assert all(isinstance(figure, Figure) for figure in pictures.values())
    rows = [tick.get_text() for tick in pictures["sites/probe/tags"].axes[0].get_yticklabels()]
    assert rows == ["emb", "enc"]
    assert [axes.get_title() for axes in pictures["probe/tags"].axes][:4] == [
        "accuracy",
        "above chance",
        "above random weights",
        "selectivity",
    ]


def test_keys() -> None:
    callback = LayerProbe("layers.*", ["pos"], ["depth"], codelength=True)
    measures = callback.measures()
    assert measures["probe_accuracy/<site>/pos"] == "summary"
    assert measures["probe_control/<site>/depth"] == "full"
    assert measures["codelength/<site>/pos"] == "summary"
    assert "codelength/<site>/depth" not in measures
    assert measures["best_layer/pos"] == measures["centre_of_gravity/depth"] == "summary"
    assert callback.conditional_keys()["centre_of_gravity/pos"] == "best_layer/pos"
    assert not any("best_layer" in key for key in LayerProbe({"one": "layers.1"}, ["pos"]).measures())


# ------------------------------------------------- ranks


class Rare(Sequences):
    """Label 7 occurs in the odd samples only: on two ranks, rank 1 alone sees it."""

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        item = super().__getitem__(index)
        return {**item, "rare": torch.where(torch.arange(7) < 3, 7 if index % 2 else 3, item["tags"])}


def readings(strategy: str, batch_size: int) -> list[dict[str, float]]:
    world = dist.get_world_size() if dist.is_initialized() else 1
    data = DataLoader(Rare(31, seed=1), batch_size=batch_size)
    options: dict[str, Any] = {"labels": ["tags", "rare"], "max_examples": 27, "max_rows": 90}
    chosen = [probes(**options), probes(**options, prefix="set/", data=data)]
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # The learning rate is zero: how the data are split must not change what the model computes.
        run = trainer(folder, chosen, strategy=strategy, devices=world, max_epochs=1)
        run.fit(Tagger(lr=0.0), loader(12), DataLoader(Rare(31, seed=1), batch_size=5))
    return [without_time(callback.reading) for callback in chosen]


@pytest.mark.parametrize("batch_size", [4, 16])
def test_every_key_is_that_of_one_process(ranks: Any, batch_size: int) -> None:
    # 31 samples divide by neither 2 nor 3; a probe set of two batches leaves the third rank without one of its own.
    alone = readings("auto", batch_size)
    assert alone[0]["probe_rows/enc"] == 90
    assert alone[0] == pytest.approx(alone[1], abs=1e-6)
    everywhere = ranks.run(readings, "ddp", batch_size)
    for found in everywhere:
        for one, expected in zip(found, alone, strict=True):
            assert one == pytest.approx(expected, abs=1e-6, rel=1e-6)
        assert found == everywhere[0]


def fails_on_one() -> str:
    def forward(model: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        if dist.get_rank() == 1:
            raise RuntimeError("planted on rank 1")
        return model(batch["input_ids"])

    callback = probes(data=loader(seed=1), forward=forward)
    with tempfile.TemporaryDirectory() as folder:
        run = trainer(folder, [callback], strategy="ddp", devices=2)
        try:
            run.fit(Tagger(), loader(12), loader(seed=1))
        except RuntimeError as error:
            return str(error)
    return ""


def test_a_rank_that_fails_in_the_probe_set_takes_the_others_with_it(two_ranks: Any) -> None:
    first, second = two_ranks.run(fails_on_one)
    assert "Another rank failed" in first
    assert second == "planted on rank 1"
