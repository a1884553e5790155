"""Self-influence of training examples: automatic differentiation, flipped labels, both ways, ranks, resuming."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import torch.distributed as dist
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import TensorBoardLogger
from reference import last_layer as plain
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from lightning_interp import SelfInfluence, analyze
from lightning_interp.batches.drawn_items import drawn_places
from lightning_interp.distributed import over_ranks
from lightning_interp.reading.reading import Reading
from tests.callbacks.flipped_digits import Digits, Net, validation
from tests.callbacks.recipes import self_influence
from tests.toy import Tagger, loader, timeless, trainer

SCORES = ("self_influence", "loss", "error_norm")


def reader(**kwargs: Any) -> SelfInfluence:
    return SelfInfluence("head", **{"max_examples": None, "draw_figures": False, "on_error": "raise", **kwargs})


def batches(**kwargs: Any) -> SelfInfluence:
    return reader(on="batches", ids="number", **kwargs)


def fit(
    folder: Path, callbacks: Sequence[pl.Callback], model: Net | None = None, data: Dataset | None = None, **kwargs: Any
) -> Net:
    pl.seed_everything(3, verbose=False)
    model = model or Net()
    rows = DataLoader(data or Digits(120), batch_size=16, shuffle=True)
    trainer(folder, list(callbacks), **{"max_epochs": 2, **kwargs}).fit(model, rows, validation(100))
    return model


def by_autograd(model: Net, data: Digits) -> list[tuple[float, float, float]]:
    """Squared length of the gradient at the head, loss, and error norm of every example."""
    found = []
    with torch.no_grad():
        model.eval()
        hidden = model.body(data.pictures)
    for h, label in zip(hidden, data.labels, strict=True):
        g = plain.gradient(h[None], label[None], torch.tensor([True]), model.head.weight, model.head.bias)
        logits = model.head(h).detach()
        error = logits.softmax(0) - functional.one_hot(label, 10)
        found.append((float(g @ g), float(functional.cross_entropy(logits, label)), float(error.norm())))
    return found


# ------------------------------------------------- exact


def test_sums_are_those_of_automatic_differentiation(tmp_path: Path) -> None:
    data, rates, models = Digits(40), [], []

    class Kept(pl.Callback):
        def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            if not trainer.sanity_checking:
                models.append({name: value.clone() for name, value in pl_module.state_dict().items()})
                rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    class Falling(Net):
        def configure_optimizers(self) -> Any:
            optimizer = super().configure_optimizers()
            return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)]

    callback = reader()
    fit(tmp_path, [callback, Kept()], Falling(), data, max_epochs=3)
    expected = torch.zeros(40, 3, dtype=torch.float64)
    model = Net()
    for state, rate in zip(models, rates, strict=True):
        model.load_state_dict(state)
        last = torch.tensor(by_autograd(model, data))
        expected += rate * last
    known = callback.sums.known
    assert known.ids.tolist() == list(range(40))
    assert len(set(rates)) == 3
    assert torch.allclose(known.rows[:, :3], expected, rtol=1e-4, atol=1e-6)
    assert known.times.tolist() == [3] * 40
    assert torch.allclose(known.now, last[:, 0].double(), rtol=1e-4)
    top = callback.most()
    assert [one["example"] for one in top] == expected[:, 0].argsort(descending=True)[:20].tolist()
    assert [one["self_influence"] for one in top] == sorted([one["self_influence"] for one in top], reverse=True)
    mass = float(expected[:, 0].max() / expected[:, 0].sum())
    assert callback.reading["self_influence/top1_mass"] == pytest.approx(mass, rel=1e-4)
    assert callback.reading["self_influence/top1_mass_chance"] == 1 / 40


class Words(Dataset):
    """Sequences for a language model, padded at the end."""

    def __init__(self, number: int = 12, length: int = 6) -> None:
        draw = torch.Generator().manual_seed(0)
        self.mask = torch.arange(length) < torch.randint(1, length + 1, (number, 1), generator=draw)
        self.ids = torch.randint(1, 9, (number, length), generator=draw) * self.mask

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"input_ids": self.ids[index], "attention_mask": self.mask[index].long()}


class Next(pl.LightningModule):
    """Logits of the next word from the present one."""

    def __init__(self, bias: bool = True, outputs: int = 9) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.embedding, self.head = nn.Embedding(9, 4), nn.Linear(4, outputs, bias)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.head(self.embedding(input_ids).cumsum(1))


def collected(callback: SelfInfluence, model: nn.Module) -> Tensor:
    """What a finished model gives, by example."""
    callback.resolve(model)
    callback.collect(Reading(model))
    found = over_ranks(callback.sums.merged())
    callback.release()
    return found.rows[:, :3]


@pytest.mark.parametrize("bias", [True, False])
def test_of_sequences_it_is_the_gradient_of_the_sum_of_their_losses(bias: bool) -> None:
    data, model = Words(), Next(bias)
    found = collected(reader(data=DataLoader(data, batch_size=5), target="input_ids", shift=1), model)
    hidden = model.embedding(data.ids).cumsum(1).detach()
    expected = []
    for h, ids, mask in zip(hidden, data.ids, data.mask, strict=True):
        g = plain.gradient(h[:-1], ids[1:], mask[1:], model.head.weight, model.head.bias)
        expected.append(float(g @ g))
    some = data.mask.sum(1) > 1
    assert int((~some).sum()) > 0, "one word predicts nothing, and is left out"
    assert found[:, 0].tolist() == pytest.approx(
        [one for one, kept in zip(expected, some, strict=True) if kept], rel=1e-4
    )


def test_one_logit_a_target_is_read_as_such() -> None:
    data, model = Digits(30), Net()
    model.head = nn.Linear(64, 1)
    found = collected(reader(data=DataLoader(data, batch_size=7), target=lambda batch: batch["label"] % 2), model)
    with torch.no_grad():
        hidden = model.body.eval()(data.pictures)
    expected = [
        plain.gradient(h[None], label[None], torch.tensor([True]), model.head.weight, model.head.bias).square().sum()
        for h, label in zip(hidden, data.labels % 2, strict=True)
    ]
    assert torch.allclose(found[:, 0], torch.stack(expected).double(), rtol=1e-4)


# ------------------------------------------------- flipped labels


@pytest.mark.parametrize("on", ["sample", "batches"])
def test_flipped_labels_are_found_and_dealt_ones_are_not(tmp_path: Path, on: str) -> None:
    data = Digits(600)
    callback = (reader if on == "sample" else batches)(flags="flipped", show=lambda number: f"picture {number}")
    fit(tmp_path, [callback], Net(0.2), data, max_epochs=8)
    for score in SCORES:
        assert callback.reading[f"flag_auroc/{score}"] > 0.97, score
        assert callback.reading[f"flag_auroc_control/{score}"] == pytest.approx(0.5, abs=0.05)
    # Loss does as well: it is no claim of this measure to be ahead of it.
    assert callback.reading["flag_auroc/loss"] > callback.reading["flag_auroc/self_influence"] - 0.01
    assert callback.reading["self_influence/top1_mass"] > 2 * callback.reading["self_influence/top1_mass_chance"]
    steps, stability = callback.history.series("self_influence/rank_stability")
    assert steps == callback.history.steps[1:]
    assert stability[-1] > 0.5
    top = callback.most()
    assert sum(one["flag"] for one in top) >= 18
    assert top[0]["shown"] == f"picture {top[0]['example']}"
    assert set(callback.figures()) == {"self_influence/curves"}
    assert len(callback.figures()["self_influence/curves"]().axes) == 3


def test_flags_that_have_nothing_to_do_with_examples_are_not_found(tmp_path: Path) -> None:
    data = Digits(600)
    data.flipped = data.flipped[torch.randperm(600, generator=torch.Generator().manual_seed(5))]
    callback = reader(flags="flipped")
    fit(tmp_path, [callback], Net(0.2), data, max_epochs=4)
    for score in SCORES:
        assert callback.reading[f"flag_auroc/{score}"] == pytest.approx(0.5, abs=0.1)


def test_flags_that_are_all_alike_leave_the_area_undefined(tmp_path: Path) -> None:
    callback = reader(flags=lambda batch: torch.zeros(len(batch["label"])))
    fit(tmp_path, [callback], max_epochs=1)
    assert "flag_auroc/loss" not in callback.reading
    assert callback.reading["self_influence/examples"] == 120


# ------------------------------------------------- which examples


def test_a_model_that_stands_still_gives_the_same_on_batches_as_on_a_sample(tmp_path: Path) -> None:
    class Still(Net):
        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD([{"params": [*self.head.parameters()], "lr": 0.5}], lr=0.0)

        def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
            optimizer.zero_grad()

    one, other = reader(), batches()
    fit(tmp_path, [one], Still())
    fit(tmp_path, [other], Still())
    assert torch.equal(one.sums.known.ids, other.sums.known.ids)
    assert torch.allclose(one.sums.known.means, other.sums.known.means, rtol=1e-5)
    assert one.reading["self_influence/rank_stability"] == pytest.approx(1)


@pytest.mark.parametrize("make", [reader, batches])
def test_a_part_of_the_examples_is_the_same_whichever_way_they_come(tmp_path: Path, make: Any) -> None:
    callback = make(max_examples=9)
    fit(tmp_path, [callback])
    assert callback.sums.known.ids.tolist() == drawn_places(120, 9).tolist()
    assert callback.sums.known.times.tolist() == [2] * 9


def test_every_other_batch(tmp_path: Path) -> None:
    callback = batches(every_n_batches=2)
    fit(tmp_path, [callback], max_epochs=1)
    assert callback.reading["self_influence/examples"] == 64, "4 of 8 batches of 16, the last of 8"


def test_what_items_draw_at_random_is_the_same_at_each_reading(tmp_path: Path) -> None:
    class Noisy(Digits):
        def __getitem__(self, index: int) -> dict[str, Tensor]:
            one = super().__getitem__(index)
            return {**one, "x": one["x"] + torch.randn(64)}

    class Still(Net):
        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=1e-30)

    callback = reader()
    fit(tmp_path, [callback], Still(), Noisy(60))
    assert torch.equal(callback.sums.known.now, callback.sums.known.before)


def test_the_training_data_of_a_module_and_those_of_ones_own(tmp_path: Path) -> None:
    class WithData(Net):
        def train_dataloader(self) -> DataLoader:
            return DataLoader(Digits(120), batch_size=16, shuffle=True)

    first, second, third = reader(), reader(), reader(data=DataLoader(Digits(120), batch_size=50))
    fit(tmp_path, [first])
    for callback in (second, third):
        pl.seed_everything(3, verbose=False)
        trainer(tmp_path, [callback], max_epochs=2).fit(WithData(), val_dataloaders=validation(100))
    for other in (second, third):
        assert torch.allclose(first.sums.known.rows, other.sums.known.rows, rtol=1e-5, equal_nan=True)


def test_outside_of_a_fit(tmp_path: Path) -> None:
    model, data = Net(), Digits(40)
    found = analyze(model, validation(), reader(data=DataLoader(data, batch_size=9), flags="flipped"))
    norms = torch.tensor([one[0] for one in by_autograd(model, data)])
    assert found["self_influence/top1_mass"] == pytest.approx(float(norms.max() / norms.sum()), rel=1e-4)
    with pytest.raises(ValueError, match="no training data here, outside of a fit"):
        analyze(model, validation(), reader())
    callback = reader()
    fit(tmp_path, [callback], model)
    last = dict(callback.reading)
    trainer(tmp_path, [callback]).validate(model, validation(), verbose=False)
    assert callback.reading["self_influence/top1_mass"] == last["self_influence/top1_mass"], "the sums stand"


# ------------------------------------------------- in a Trainer


@pytest.mark.parametrize("make", [reader, batches])
@pytest.mark.parametrize("optimizer", ["SGD", "AdamW"])
def test_training_is_bit_identical(tmp_path: Path, make: Any, optimizer: str) -> None:
    def weights(callbacks: list[Any]) -> dict[str, Tensor]:
        rate = 0.1 if optimizer == "SGD" else 1e-3
        return fit(tmp_path, callbacks, Net(rate, optimizer=optimizer, dropout=0.3)).state_dict()

    plainly, watched = weights([]), weights([make()])
    assert all(torch.equal(watched[name], value) for name, value in plainly.items())


@pytest.mark.parametrize("make", [reader, batches])
def test_sums_go_on_where_a_run_is_resumed(tmp_path: Path, make: Any) -> None:
    whole, first, second = (make(flags="flipped") for _ in range(3))
    rows = DataLoader(Digits(60), batch_size=16)
    for callback, epochs, path in ((whole, 2, None), (first, 1, None), (second, 2, "a.ckpt")):
        run = trainer(tmp_path, [callback], max_epochs=epochs)
        resumed = {} if path is None else {"ckpt_path": tmp_path / path, "weights_only": False}
        run.fit(Net(), rows, validation(100), **resumed)
        if callback is first:
            run.save_checkpoint(tmp_path / "a.ckpt")
    assert timeless(second) == timeless(whole)
    assert all(torch.equal(*pair) for pair in zip(second.sums.known[:3], whole.sums.known[:3], strict=True))


def test_batches_since_the_last_reading_survive_too(tmp_path: Path) -> None:
    first, second = batches(), batches()
    rows = DataLoader(Digits(60), batch_size=16)
    every = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=2, save_top_k=-1)
    trainer(tmp_path, [first, every], max_epochs=1, enable_checkpointing=True).fit(Net(), rows, validation(100))
    resumed = trainer(tmp_path, [second], max_epochs=1)
    resumed.fit(Net(), rows, validation(100), ckpt_path=tmp_path / "step=2.ckpt", weights_only=False)
    # A loader that cannot resume gives the first two batches again.
    assert second.sums.known.ids.tolist() == list(range(32))
    assert second.sums.known.times.tolist() == [2] * 32


def test_the_table_is_shown(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path)
    callback = reader(flags="flipped", show=lambda number: f"a|b {number}")
    fit(tmp_path, [callback], logger=logger)
    found = EventAccumulator(logger.log_dir).Reload()
    (tag,) = [tag for tag in found.Tags()["tensors"] if tag.startswith("self_influence/top/")]
    text = found.Tensors(tag)[-1].tensor_proto.string_val[0].decode()
    first = callback.most()[0]
    assert f"| {first['example']} |" in text
    assert f"a\\|b {first['example']}" in text
    assert text.count("\n") == 21


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
def test_half_precision(tmp_path: Path, precision: str) -> None:
    one, other, exact = reader(), batches(), reader()
    for callback in (one, other):
        fit(tmp_path, [callback], precision=precision)
        assert all(math.isfinite(value) for value in callback.reading.values())
    fit(tmp_path, [exact])
    assert one.reading["self_influence/top1_mass"] == pytest.approx(exact.reading["self_influence/top1_mass"], rel=0.1)


class Broken(Net):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(torch.where((x[:, 20] > 0.9)[:, None], torch.inf, x))


def test_what_is_not_finite_is_left_out_and_counted(tmp_path: Path) -> None:
    data = Digits(60)
    number = int((data.pictures[:, 20] > 0.9).sum())
    callback = reader(data=DataLoader(data, batch_size=16))
    trainer(tmp_path, [callback]).validate(Broken(), validation(100), verbose=False)
    assert 0 < number < 60
    assert callback.reading["nonfinite/training_examples"] == number
    assert callback.reading["self_influence/examples"] == 60 - number


# ------------------------------------------------- errors


class Stream(torch.utils.data.IterableDataset):
    def __iter__(self) -> Any:
        return iter(Digits(32))


def test_what_cannot_be_is_refused_at_once(tmp_path: Path) -> None:
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"on": "steps"}, "`on` must be one of"),
        ({"on": "batches"}, "needs `ids`"),
        ({"ids": "number"}, "`ids` has no use with `on='sample'`"),
        ({"on": "batches", "ids": "number", "data": []}, "`data` has no use with `on='batches'`"),
        ({"every_n_batches": 0}, "`every_n_batches` must be at least 1"),
        ({"max_examples": 0}, "`max_examples` must be at least 1"),
        ({"data": DataLoader(Digits(8), shuffle=True)}, "`data` shuffles"),
    ]
    for kwargs, message in wrong:
        with pytest.raises(ValueError, match=message):
            reader(**kwargs)
    with pytest.raises(TypeError, match="`show` must be a function"):
        reader(show=3)
    with pytest.raises(ValueError, match="`head='body'` is a Sequential"):
        fit(tmp_path, [SelfInfluence("body")])
    with pytest.raises(ValueError, match="`head` must name one module"):
        fit(tmp_path, [SelfInfluence("*")])
    with pytest.raises(ValueError, match="flags"):
        fit(tmp_path, [reader(flags="nothing")])
    with pytest.raises(ValueError, match="`flags` must be 0 or 1"):
        fit(tmp_path, [reader(flags="label")])
    with pytest.raises(ValueError, match="`ids` has shape"):
        fit(tmp_path, [reader(on="batches", ids="x")])
    with pytest.raises(ValueError, match="`ids` must be integers"):
        fit(tmp_path, [reader(on="batches", ids="flipped")])
    with pytest.raises(ValueError, match="no class of its logits"):
        fit(tmp_path, [reader(target=lambda batch: batch["label"] + 5)])
    frozen = Net()
    frozen.head.requires_grad_(False)
    with pytest.raises(ValueError, match="`head='head'` is frozen"):
        fit(tmp_path, [reader()], frozen)
    with pytest.raises(ValueError, match=r"No sample can be drawn .* is a stream"):
        trainer(tmp_path, [reader()]).fit(Net(), DataLoader(Stream(), batch_size=8), validation(100))
    two = [DataLoader(Digits(8), batch_size=8)] * 2
    with pytest.raises(ValueError, match="There are 2 training loaders"):
        trainer(tmp_path, [reader()]).fit(Net(), two, validation(100))


def test_hooks_that_make_batches_are_not_passed_over(tmp_path: Path) -> None:
    class Scaled(Net):
        def on_after_batch_transfer(self, batch: dict[str, Tensor], dataloader_idx: int) -> dict[str, Tensor]:
            return {**batch, "x": batch["x"] / 2}

    with pytest.raises(ValueError, match="overrides `on_after_batch_transfer`"):
        fit(tmp_path, [reader()], Scaled())
    callback = batches()
    fit(tmp_path, [callback], Scaled(), max_epochs=1)
    assert callback.reading["self_influence/examples"] == 120


# ------------------------------------------------- ranks


def fitted(on: str) -> dict[str, Any]:
    callback = (
        self_influence(draw_figures=False) if on == "toy" else (reader if on == "sample" else batches)(flags="flipped")
    )
    several = {"devices": dist.get_world_size(), "strategy": "ddp"} if dist.is_initialized() else {}
    run = trainer(tempfile.mkdtemp(), [callback], max_epochs=2, **several)
    pl.seed_everything(0, verbose=False)
    if on == "toy":
        model = Tagger()
        model.configure_optimizers = lambda: torch.optim.SGD(model.parameters(), lr=1e-12)  # type: ignore[method-assign]
        run.fit(model, loader(40, batch_size=6), loader(seed=1))
    else:
        # Even shares: nothing is read twice, whatever the number of ranks.
        run.fit(Net(1e-12), DataLoader(Digits(48), batch_size=4), validation(100))
    return {key: value for key, value in callback.reading.items() if "seconds" not in key}


@pytest.mark.parametrize("on", ["sample", "batches", "toy"])
def test_ranks_read_what_one_process_reads(ranks: Any, on: str) -> None:
    alone = fitted(on)
    first, *others = ranks.run(fitted, on)
    assert alone["self_influence/examples"] > 12
    assert first == pytest.approx(alone, rel=1e-6, abs=1e-9)
    assert all(other == first for other in others)
