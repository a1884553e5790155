"""What is read of foreign shapes is what a direct computation gives, and what cannot be told is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence
from torch.utils.data import DataLoader
from torchmetrics import Metric

from lightning_interp import (
    AcquisitionByClass,
    ConfidenceCalibration,
    NoiseRobustness,
    RepresentationGeometry,
    RepresentationMetrics,
    RepresentationStructure,
    analyze,
)
from lightning_interp.functional.robustness import cosine_drift_sums
from lightning_interp.metrics import SpectralGeometry
from lightning_interp.sites import BatchNoise, CaptureError, LayoutResolver
from tests.toy import trainer
from tests.zoo import Animal, Net, Plain, zoo

ZOO = zoo()
BY_NAME = pytest.mark.parametrize("name", ZOO)


class Keeping(Metric):
    """Keeps what it is given, where a test can look at it."""

    kept: list[tuple[Tensor, Tensor]] = []  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__()
        self.add_state("count", torch.zeros(()), dist_reduce_fx="sum")

    def update(self, representations: Tensor, mask: Tensor) -> None:
        Keeping.kept.append((representations.clone(), mask.clone()))
        self.count += mask.sum()

    def compute(self) -> Tensor:
        return self.count


def read(animal: Animal, model: nn.Module | None = None, **kwargs: Any) -> list[tuple[Tensor, Tensor]]:
    """What a metric is handed of each batch."""
    Keeping.kept = []
    callback = RepresentationMetrics({"kept": Keeping()}, {"here": "site"}, **{**animal.told, **kwargs})
    analyze(model or animal.model, animal.batches, callback, forward=lambda net, batch: net(batch))
    return Keeping.kept


def check(found: list[tuple[Tensor, Tensor]], animal: Animal) -> None:
    with torch.no_grad():
        expected = [animal.rows(animal.model, batch) for batch in animal.batches]
    assert len(found) == len(expected)
    for (z, mask), (right, real) in zip(found, expected, strict=True):
        assert torch.equal(mask.sum(1), real.sum(1))
        assert z[mask].shape == right[real].shape
        assert torch.allclose(z[mask], right[real], atol=1e-6)


@BY_NAME
def test_rows_are_those_of_a_direct_computation(name: str) -> None:
    animal = zoo()[name]
    check(read(animal), animal)


class Validated(pl.LightningModule):
    """A network in a training that changes nothing."""

    def __init__(self, net: Net) -> None:
        super().__init__()
        self.net = net
        self.parameter = nn.Parameter(torch.zeros(1))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.parameter.square().sum()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.net(batch).float().mean(), batch_size=1)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.0)


def loader(batches: list[Any]) -> DataLoader:
    """The batches as they are."""
    return DataLoader(batches, batch_size=None, collate_fn=lambda batch: batch)


@BY_NAME
def test_geometry_in_a_training_is_that_of_the_right_rows(name: str, tmp_path: Path) -> None:
    animal = zoo()[name]
    callback = RepresentationGeometry({"here": "net.site"}, log="full", draw_figures=False, **animal.told)
    data = loader(animal.batches)
    trainer(tmp_path, [callback], max_epochs=1).fit(Validated(animal.model), data, data)
    metric = SpectralGeometry()
    with torch.no_grad():
        for batch in animal.batches:
            metric.update(*animal.rows(animal.model, batch))
    right = metric.compute()
    for measure in ("rows", "effective_rank", "participation_ratio", "anisotropy"):
        assert callback.reading[f"{measure}/here"] == pytest.approx(float(right[measure]), rel=1e-5), measure
    settings = callback.settings()
    assert "layout/here" in settings
    assert "mask/here" in settings


@pytest.mark.parametrize("name", [name for name, animal in ZOO.items() if animal.noise])
def test_noise_is_added_to_the_right_vectors(name: str) -> None:
    animal = zoo()[name]
    callback = NoiseRobustness({"here": "site"}, scales=(0.5,), drift={"there": "site"}, start=None, **animal.told)
    with torch.no_grad():
        expected = [animal.rows(animal.model, batch) for batch in animal.batches]
    found = analyze(animal.model, animal.batches, callback, forward=lambda net, batch: net(batch))
    # The noise that the same rows get where they are laid out plainly, and how far it turns each of them.
    total, start = torch.zeros(3), 0
    for z, mask in expected:
        noise = BatchNoise(torch.arange(start, start + len(z)), LayoutResolver("BTD"), mask)
        noisy = noise.gaussian("here", 0, z, 0.5, "norm")
        total += cosine_drift_sums(z, noisy, mask)
        start += len(z)
    assert found["drift/here/there/0.5"] == pytest.approx(float(total[0] / total[1]), rel=1e-4)


# ------------------------------------------------- what cannot be told


class Attention(nn.Module):
    """Weights of attention, (B, heads, T, T): neither axis is one of features."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, None, :, None].expand(-1, 3, -1, x.shape[1]).softmax(-1)


def refusal(animal: Animal, *parts: str, **kwargs: Any) -> None:
    with pytest.raises((ValueError, TypeError, RuntimeError)) as error:
        read(animal, **kwargs)
    for part in parts:
        assert part in str(error.value)


@pytest.mark.parametrize(
    ("name", "without", "parts"),
    [
        ("positions first", "batch_size", ("(7, 4, 6)", "GRU has batch_first=False", "`batch_size=`")),
        ("two views in one pass", "read", ("(8, 6)", "batch of 4", "`read=`")),
        ("experts on flat positions", "read", ("(20, 6)", "batch of 4", "`read=`")),
        ("without padding", "read", ("batch of 4", "`read=`")),
        ("nodes of graphs", "read", ("(11, 6)", "batch of 4", "`read=`", "samples")),
        ("several outputs", "output", ("3 tensors", "output[0]", "output[2]: float32 (4, 6, 4, 4)", "`output=`")),
        ("loss, then generation", "call", ("ran 4 times", "call='first'", "call='last'", "call='all'")),
    ],
)
def test_what_cannot_be_told_is_asked_for(name: str, without: str, parts: tuple[str, ...]) -> None:
    animal = zoo()[name]
    del animal.told[without]
    refusal(animal, *parts)


def test_a_layout_that_contradicts_the_module_is_refused() -> None:
    refusal(zoo()["Conv1d"], "layout='BTD'", "contradicts", "Conv1d has 6 features on the second axis", layout="BTD")
    refusal(zoo()["channels last, linear"], "layout='BCHW'", "Linear has 6 features on the last axis", layout="BCHW")


def test_attention_weights_are_no_map_of_features() -> None:
    animal = Animal(Net(Attention(), lambda net, x: net.site(x)), [torch.randn(4, 5)], lambda net, x: (x, x))
    refusal(animal, "(4, 3, 5, 5)", "cannot be told", "layout='BCHW'", "layout='BHWC'")
    assert read(animal, layout="BCHW")[0][0].shape == (4, 25, 3)


def test_layout_and_read_exclude_each_other() -> None:
    with pytest.raises(ValueError, match="`layout='BTD'` has no effect where `read`"):
        read(zoo()["without padding"], layout="BTD")
    animal = zoo()["without padding"]
    with pytest.raises(ValueError, match="`layout` and `read` both name 'here'"):
        read(animal, layout={"here": "BTD"}, read={"here": animal.told["read"]})
    everywhere = {"here": animal.told["read"]}
    with pytest.raises(ValueError, match="`layout='BTD'` has no effect where `read`"):
        read(animal, layout="BTD", read=everywhere)
    with pytest.raises(ValueError, match="`output` has no effect where `read`"):
        read(animal, output=0)
    with pytest.raises(ValueError, match="`output` and `read` both name 'here'"):
        read(animal, output={"here": 0}, read=everywhere)
    for argument in ("layout", "read", "output"):
        value = {"layout": "BTD", "read": lambda output, batch: output, "output": 0}[argument]
        with pytest.raises(ValueError, match=rf"`{argument}` names sites \['there'\], which are not among \['here'\]"):
            read(zoo()["text"], **{argument: {"there": value}})


@pytest.mark.parametrize(
    ("given", "parts"),
    [
        (lambda z: "text", ("must return representations", "'samples'", "str")),
        (lambda z: {"rows": z}, ("'representations'",)),
        (lambda z: {"representations": z, "owner": 1}, ("['owner']", "none of")),
        (lambda z: z.long(), ("floating-point", "int64")),
        (lambda z: (z, torch.ones(3)), ("mask (3,)", "rows (11,)")),
        (lambda z: z, ("11", "batch of 4 samples", "`samples`")),
        (lambda z: {"representations": z, "samples": torch.arange(11)}, ("from 0 to 10", "batch of 4 samples")),
        (lambda z: {"representations": z, "samples": torch.arange(3)}, ("`samples` int64 (3,)", "(11, 6)")),
        (
            lambda z: {"representations": z[:4], "positions": torch.arange(3)},
            ("`positions` (3,)", "each of the 4 samples"),
        ),
        (
            lambda z: {"representations": z[:4], "labels": {"x": torch.arange(3)}},
            ("labels 'x' of shape (3,)", "4 samples"),
        ),
    ],
)
def test_what_a_reader_may_not_return(given: Any, parts: tuple[str, ...]) -> None:
    refusal(zoo()["nodes of graphs"], "`read` of site 'here'", *parts, read=lambda output, batch: given(output))


def test_labels_and_places_that_a_reader_gives() -> None:
    animal = zoo()["nodes of graphs"]

    def rows(output: Tensor, batch: Any) -> dict[str, Any]:
        kind = (batch.x[:, 0] > 0).long()
        return {"representations": output, "samples": batch.batch, "labels": {"kind": kind}}

    callback = RepresentationStructure({"here": "site"}, labels=["kind"], read=rows, min_count=1, log="full")
    found = analyze(animal.model, animal.batches, callback, forward=lambda net, batch: net(batch))
    # The same nodes as samples of their own.
    nodes = torch.cat([batch.x for batch in animal.batches])
    plain = [(nodes, (nodes[:, 0] > 0).long())]
    callback = RepresentationStructure({"here": "site"}, labels={"kind": 1}, min_count=1, log="full")
    right = analyze(animal.model, plain, callback, forward=lambda net, batch: net.site(batch[0]))
    for key in ("information/here", "variation/here/kind", "regularity/here/kind", "rows/here", "num_labels/here/kind"):
        assert found[key] == pytest.approx(right[key], rel=1e-6), key
    with pytest.raises(ValueError, match="'other' is neither in the batch nor among what `read` gives"):
        analyze(
            animal.model,
            animal.batches,
            RepresentationStructure({"here": "site"}, labels=["other"], read=rows),
            forward=lambda net, batch: net(batch),
        )


def test_a_frozen_batch_is_read_beside_the_run_as_well(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Frozen:
        x: Tensor
        y: Tensor

    animal = zoo()["batch with attributes"]
    animal.batches = [Frozen(batch.x, batch.y) for batch in animal.batches]
    check(read(animal), animal)
    plain = [batch.x for batch in animal.batches]
    Keeping.kept = []
    forward = lambda module, batch: module.net(batch)  # noqa: E731
    callback = RepresentationMetrics({"kept": Keeping()}, {"here": "net.site"}, data=animal.batches, forward=forward)
    module = Validated(Net(animal.model.site, lambda net, x: net.site(getattr(x, "x", x))))
    trainer(tmp_path, [callback], max_epochs=1, num_sanity_val_steps=0).fit(module, loader(plain), loader(plain))
    check(Keeping.kept, animal)


# ------------------------------------------------- padding


class Characters(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.emb = nn.Embedding(20, 16)

    def forward(self, chars: Tensor) -> Tensor:
        return self.emb(chars)


def padded() -> tuple[list[dict[str, Tensor]], int]:
    ids = torch.randint(1, 20, (64, 40), generator=torch.Generator().manual_seed(0))
    ids[:, 10:] = 0
    return [{"chars": part} for part in ids.split(16)], int((ids != 0).sum())


def rows_read(**kwargs: Any) -> float:
    return analyze(Characters(), padded()[0], RepresentationGeometry("emb", **kwargs))["rows/emb"]


def test_padding_under_another_name_is_asked_for_and_never_read() -> None:
    real = padded()[1]
    with pytest.raises(ValueError, match=r"no mask, but integers of that length at \['chars'\]"):
        rows_read()
    for given in ({"padding_idx": 0}, {"ignore_tokens": [0]}, {"skip_positions": 1}):
        ((argument, value),) = given.items()
        with pytest.raises(ValueError, match="shows no token ids by itself") as error:
            rows_read(**given)
        assert f"`{argument}={tuple(value) if argument == 'ignore_tokens' else value}` needs them" in str(error.value)
    assert rows_read(padding_idx=-1) == 64 * 40
    assert rows_read(tokens="chars", padding_idx=0) == real
    assert rows_read(mask=lambda batch: batch["chars"] != 0) == real


def inside(name: str, ids: Tensor) -> Any:
    batch = {"input_ids": ids, "attention_mask": (ids != 0).long()}
    made: dict[str, Any] = {
        "a tuple": (batch, torch.arange(len(ids))),
        "a dict": {"text": batch, "label": torch.arange(len(ids))},
        "two dicts": {"one": batch, "other": {"input_ids": ids[:, :5]}},
        "a class": Plain(batch, torch.arange(len(ids))),
    }
    return made[name]


@pytest.mark.parametrize(
    ("name", "path", "get"),
    [
        ("a tuple", "[0]['input_ids']", lambda batch: batch[0]),
        ("a dict", "['text']['input_ids']", lambda batch: batch["text"]),
        ("two dicts", "['one']['input_ids']", lambda batch: batch["one"]),
        ("a class", ".x['input_ids']", lambda batch: batch.x),
    ],
)
def test_padding_that_lies_deeper_in_a_batch_is_asked_for(name: str, path: str, get: Any) -> None:
    batches = [inside(name, batch["chars"]) for batch in padded()[0]]

    def rows(**kwargs: Any) -> float:
        callback = RepresentationGeometry("emb", **kwargs)
        run = lambda net, batch: net(get(batch)["input_ids"])  # noqa: E731
        return analyze(Characters(), batches, callback, forward=run)["rows/emb"]

    with pytest.raises(ValueError, match="no mask, but integers of that length at") as error:
        rows()
    assert path in str(error.value)
    assert rows(mask=lambda batch: get(batch)["attention_mask"]) == padded()[1]
    assert rows(padding_idx=-1) == 64 * 40


def test_a_mask_under_another_name_is_asked_for() -> None:
    x = torch.randn(4, 5, 3, generator=torch.Generator().manual_seed(0))
    real = torch.arange(5) < torch.tensor([5, 2, 3, 1])[:, None]
    animal = Animal(
        Net(nn.Linear(3, 6), lambda net, batch: net.site(batch["x"])),
        [{"x": x, "real": real}],
        lambda net, batch: (net.site(batch["x"]), batch["real"]),
    )
    refusal(animal, "booleans of that length at ['real']", "`mask=`", "`padding_idx=-1`")
    check(read(animal, mask="real"), animal)
    assert read(animal, padding_idx=-1)[0][1].all()
    # Labels of positions are no mask.
    assert read(animal, labels={"kind": "real"}, projector=1)[0][1].all()


def test_a_mask_and_an_id_of_padding_both_count() -> None:
    ids = torch.tensor([[5, 6, 7, 0, 0], [5, 6, 7, 8, 0]])
    batch = {"input_ids": ids, "given": torch.tensor([[0, 1, 1, 1, 1], [1, 1, 1, 0, 1]])}
    model = Net(nn.Embedding(20, 6), lambda net, batch: net.site(batch["input_ids"]))
    animal = Animal(
        model, [batch], lambda net, batch: (net.site(batch["input_ids"]), (ids != 0) & batch["given"].bool())
    )
    check(read(animal, mask="given", padding_idx=0), animal)


def test_tokens_by_site_have_a_sign_of_padding() -> None:
    ids = torch.tensor([[5, 6, 7, 0], [5, 0, 0, 0]])
    target = torch.tensor([[1, 2, -100, -100], [1, 2, 3, 4]])
    batch = {"input_ids": ids, "attention_mask": (ids != 0).long(), "out": target.clamp_min(0), "labels": target}
    model = Net(nn.Embedding(20, 6), lambda net, batch: net.site(batch["input_ids"]))
    own = Animal(model, [batch], lambda net, batch: (net.site(batch["input_ids"]), batch["attention_mask"].bool()))
    # The place where they are looked for anyway has the mask of the batch.
    check(read(own, tokens={"here": "input_ids"}), own)
    refusal(own, "tokens='out' are padding", "`padding_idx=`", tokens={"here": "out"})
    for where, padding_idx in (("out", 0), ("labels", None)):
        other = Animal(model, [batch], lambda net, batch: (net.site(batch["input_ids"]), target > 0))
        check(read(other, tokens={"here": where}, padding_idx=padding_idx), other)
    # A later batch may be full.
    later = [batch, {**batch, "labels": target.abs()}]
    full = Animal(model, later, lambda net, batch: (net.site(batch["input_ids"]), batch["labels"] > 0))
    check(read(full, tokens={"here": "labels"}), full)


def test_a_cell_that_is_unrolled_has_a_call_for_each_position() -> None:
    x = torch.randn(4, 5, 3, generator=torch.Generator().manual_seed(0))
    real = torch.arange(5) < torch.tensor([5, 2, 3, 1])[:, None]

    def states(net: nn.Module, batch: Any) -> Tensor:
        state = torch.zeros(4, 6)
        found = []
        for place in range(5):
            state = net.site(batch["x"][:, place], state)
            found.append(state)
        return torch.stack(found, 1)

    batch = {"x": x, "attention_mask": real.long()}
    animal = Animal(Net(nn.GRUCell(3, 6), states), [batch], lambda net, batch: (states(net, batch), real))
    check(read(animal, call="all"), animal)
    refusal(Animal(animal.model, [{"x": x, "real": real}], animal.rows), "booleans", "['real']", call="all")


def test_a_ragged_output_in_another_order_than_the_batch_is_refused() -> None:
    lengths = torch.tensor([3, 5, 4, 2])
    x = torch.randn(4, 5, 3, generator=torch.Generator().manual_seed(0))
    batch = {"x": x, "attention_mask": (torch.arange(5) < lengths[:, None]).long()}

    def packed(net: nn.Module, batch: Any) -> Any:
        ordered, order = lengths.sort(descending=True)
        return net.site(pack_padded_sequence(batch["x"][order], ordered, batch_first=True))

    def nested(net: nn.Module, batch: Any) -> Any:
        return net.site(torch.nested.nested_tensor([x[i, :length] for i, length in enumerate(lengths.flip(0))]))

    for site, run in ((nn.GRU(3, 6, batch_first=True), packed), (nn.Linear(3, 6), nested)):
        animal = Animal(Net(site, run), [batch], lambda net, batch: (x, x[..., 0] != 0))
        refusal(animal, "of the batch has", "positions that count", "the ragged output", "another order")


# ------------------------------------------------- one vector a sample


@pytest.mark.parametrize("pooling", ["first", "last", "mean", lambda z, mask: (z * mask[..., None]).amax(1)])
def test_pooling_is_that_of_a_loop(pooling: Any) -> None:
    animal = zoo()["text"]
    found = read(animal, pooling=pooling)
    for (z, mask), batch in zip(found, animal.batches, strict=True):
        rows, real = animal.rows(animal.model, batch)
        assert z.shape[1] == 1
        assert mask[:, 0].tolist() == real.any(1).tolist()
        for sample in range(len(rows)):
            own = rows[sample][real[sample]]
            if not len(own):
                continue
            if pooling == "mean":
                expected = own.mean(0)
            elif pooling in ("first", "last"):
                expected = own[0 if pooling == "first" else -1]
            else:
                expected = (rows[sample] * real[sample][:, None]).amax(0)
            assert torch.allclose(z[sample, 0], expected, atol=1e-6)


def test_pooling_takes_the_label_of_its_position() -> None:
    animal = zoo()["text"]
    labels = {"tag": lambda batch: batch["input_ids"] % 3}
    settings = {"labels": labels, "min_count": 1, "log": "full"}
    run = lambda callback: analyze(  # noqa: E731
        animal.model, animal.batches, callback, forward=lambda net, batch: net(batch)
    )
    found = run(RepresentationStructure({"here": "site"}, pooling="last", **settings))
    place = lambda batch: batch["attention_mask"].cumsum(1).argmax(1)  # noqa: E731
    own = {"tag": lambda batch: (batch["input_ids"].gather(1, place(batch)[:, None]) % 3)[:, 0]}
    only = lambda batch: torch.arange(7) == place(batch)[:, None]  # noqa: E731
    right = run(RepresentationStructure({"here": "site"}, mask=only, tokens="input_ids", **{**settings, "labels": own}))
    assert (
        found["rows/here"] == right["rows/here"] == sum(int(b["attention_mask"].any(1).sum()) for b in animal.batches)
    )
    assert found["regularity/here/tag"] == pytest.approx(right["regularity/here/tag"], rel=1e-6)
    with pytest.raises(ValueError, match="pooling='mean' makes one vector a sample"):
        run(RepresentationStructure({"here": "site"}, pooling="mean", **settings))
    with pytest.raises(ValueError, match="`pooling` must be one of"):
        RepresentationStructure("site", pooling="max")


def test_how_a_site_is_read_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    animal = zoo()["Conv1d"]
    module, data = Validated(animal.model), loader(animal.batches)
    callbacks = [
        RepresentationGeometry({"here": "net.site"}),
        RepresentationMetrics({"kept": Keeping()}, {"here": "net.site"}, prefix="own/"),
    ]
    with caplog.at_level("INFO"):
        trainer(tmp_path, callbacks, max_epochs=2).fit(module, data, data)
    lines = [record.getMessage() for record in caplog.records if record.getMessage().startswith("Site 'here'")]
    assert lines == [
        "Site 'here' (net.site, Conv1d) is read: output, layout BCT, 18 rows of 6 features a sample, all of which "
        "count, since no mask is known."
    ]
    assert {key: value for key, value in callbacks[0].settings().items() if key.endswith("/here")} == {
        "layout/here": "BCT",
        "output/here": "output",
        "mask/here": "none",
        "dimension/here": 6,
    }


# ------------------------------------------------- a step that scores and then generates


class Generator(pl.LightningModule):
    """Logs its loss, then decodes, as modules for summaries do."""

    def __init__(self, generates: bool) -> None:
        super().__init__()
        self.generates = generates
        self.emb, self.head = nn.Embedding(12, 8), nn.Linear(8, 12)
        torch.manual_seed(0)
        for parameter in self.parameters():
            nn.init.normal_(parameter)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.emb(ids))

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        logits = self(batch["input_ids"])[:, :-1]
        return nn.functional.cross_entropy(logits.flatten(0, 1), batch["input_ids"][:, 1:].flatten())

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        return 0 * self.loss(batch)

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self.log("val_loss", self.loss(batch), batch_size=len(batch["input_ids"]))
        ids = batch["input_ids"]
        for _ in range(3 if self.generates else 0):
            ids = torch.cat([ids, self(ids[:, -1:]).argmax(-1)], dim=1)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.0)


def generated(tmp_path: Path, generates: bool, call: str) -> list[dict[str, float]]:
    ids = torch.randint(1, 12, (24, 6), generator=torch.Generator().manual_seed(0))
    rows = [{"input_ids": one, "attention_mask": torch.ones_like(one)} for one in ids]
    settings = {"call": call, "draw_figures": False, "log": "full"}
    callbacks = [
        RepresentationStructure("head", labels=["token"], **settings),
        ConfidenceCalibration("head", target="input_ids", shift=1, prefix="c/", **settings),
        AcquisitionByClass("head", target="input_ids", shift=1, bands=2, prefix="a/", **settings),
    ]
    data = DataLoader(rows, 8)
    trainer(tmp_path, callbacks, max_epochs=1).fit(Generator(generates), data, data)
    return [{key: one for key, one in each.reading.items() if "seconds" not in key} for each in callbacks]


def test_the_first_call_is_that_of_the_loss(tmp_path: Path) -> None:
    assert generated(tmp_path, True, "first") == generated(tmp_path, False, "only")


def test_only_calls_that_a_callback_takes_are_offered(tmp_path: Path) -> None:
    data = DataLoader([{"input_ids": torch.arange(6)}] * 8, 4)
    for callback in (
        ConfidenceCalibration("head", target="input_ids", shift=1),
        AcquisitionByClass("head", target="input_ids", shift=1, bands=2),
    ):
        with pytest.raises(CaptureError, match="ran 4 times") as error:
            trainer(tmp_path, [callback]).fit(Generator(True), data, data)
        assert "call='first' or call='last'" in str(error.value)
        assert "'all'" not in str(error.value)


def test_logits_among_several_tensors_are_asked_for(tmp_path: Path) -> None:
    class Both(Generator):
        def forward(self, ids: Tensor) -> Tensor:
            return self.both(ids)[1]

        def __init__(self) -> None:
            super().__init__(False)
            self.both = Pair(self.emb, self.head)

    class Pair(nn.Module):
        def __init__(self, emb: nn.Module, head: nn.Module) -> None:
            super().__init__()
            self.emb, self.head = emb, head

        def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
            z = self.emb(ids)
            return z, self.head(z)

    data = DataLoader([{"input_ids": torch.arange(6)}] * 8, 4)
    with pytest.raises(ValueError, match=r"2 tensors that could be what is read, .*: name the module that gives the"):
        trainer(tmp_path, [ConfidenceCalibration("both", target="input_ids", shift=1)]).fit(Both(), data, data)
