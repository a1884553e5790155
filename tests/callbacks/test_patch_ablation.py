"""What predictions lose without patches and channels: exact linear models, a planted corner, loops, errors, ranks."""

from __future__ import annotations

import math
from itertools import product
from pathlib import Path
from typing import Any, get_args

import pytest
import pytorch_lightning as pl
import torch
from reference import ablation as plain
from reference import patches as plain_patches
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_interp import InputAblation, PatchAblation, analyze
from lightning_interp.distributed import over_ranks
from lightning_interp.parts.ablated_inputs import Instead
from tests.callbacks.planted_patch import PATCH, Convolutional, images, trained
from tests.toy import timeless, trainer, validated

WAYS = get_args(Instead)
CUE = {"cue": "is_cue"}


def ablation(units: Any = PATCH, without: Any = "zero", **kwargs: Any) -> PatchAblation:
    return PatchAblation(units, without, **{"draw_figures": False, "baseline": False, **kwargs})


def read_weights(model: nn.Module, inputs: Tensor, callback: PatchAblation) -> list[list[float]]:
    """What the prediction of each input loses without each unit."""
    callback.resolve(model)
    source = callback.read_inputs
    n = source.made_of.number(inputs.shape[1:])
    source._own = [(place, one, torch.zeros(0, n, dtype=torch.bool)) for place, one in enumerate(inputs)]
    found = source.losses(over_ranks(source.gathered()))
    callback.release()
    return [one.tolist() for one in found]


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# ------------------------------------------------- exact


class Linear(nn.Module):
    """Two logits, (0, w · x)."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(noise(*shape, seed=1))

    def forward(self, x: Tensor) -> Tensor:
        total = (x * self.weight).flatten(1).sum(1)
        return torch.stack([torch.zeros_like(total), total], 1)


SHAPES: list[tuple[tuple[int, ...], int | None, Any]] = [
    ((3, 6, 8), 1, 2),
    ((3, 6, 8), 1, (4, 3)),  # neither divides
    ((6, 8, 3), -1, (2, 4)),
    ((6, 8), None, 3),
    ((2, 9), 1, 4),
    ((9, 5), -1, 1),  # positions of embeddings
    ((2, 3, 4, 5), 1, 2),
    ((3, 6, 8), 1, "channels"),
    ((9, 5), -1, "channels"),
    ((7,), 1, "channels"),
]


def units_of(shape: tuple[int, ...], channels: int | None, units: Any) -> list[Tensor]:
    """Which numbers of an input are each unit, by loops."""
    axis = None if channels is None else channels % (len(shape) + 1) - 1
    axes = [at for at in range(len(shape)) if (at == axis) == (units == "channels")]
    sides = [1] if units == "channels" else [units] * len(axes) if isinstance(units, int) else list(units)
    where = plain_patches.index([shape[at] for at in axes], sides)
    found = [torch.zeros(shape, dtype=torch.bool) for _ in range(max(where.values()) + 1)]
    for place in product(*(range(size) for size in shape)):
        found[where[tuple(place[at] for at in axes)]][place] = True
    return found


@pytest.mark.parametrize("without", WAYS)
@pytest.mark.parametrize(("shape", "channels", "units"), SHAPES)
def test_a_linear_model_is_exact(shape: tuple[int, ...], channels: int | None, units: Any, without: str) -> None:
    """The log-odds of two classes are ± w · x: without a unit they lose its part, less that of what stands there."""
    model, inputs = Linear(*shape), noise(4, *shape)
    w = model.weight.detach()
    given: dict[str, Any] = {"channels": channels, "score": "log_odds", "draws": 3000, "batch_inputs": 5000}
    found = read_weights(model, inputs, ablation(units, without, **given))
    parts = units_of(shape, channels, units)
    assert len(found) == len(inputs)
    axis = None if channels is None else channels % inputs.ndim
    mean = inputs.mean([at for at in range(inputs.ndim) if at != axis], keepdim=True)[0].expand(shape)
    for place, (x, weights) in enumerate(zip(inputs, found, strict=True)):
        sign = 1 if float((w * x).sum()) > 0 else -1
        instead = {
            "zero": torch.zeros(shape),
            "mean": mean,
            "resample": torch.cat([inputs[:place], inputs[place + 1 :]]).mean(0),
        }[without]
        expected = [sign * float((w * (x - instead))[one].sum()) for one in parts]
        assert weights == pytest.approx(expected, abs=0.6 if without == "resample" else 1e-4)
        if without == "zero":
            assert math.fsum(weights) == pytest.approx(abs(float((w * x).sum())), abs=1e-4), "f(x) − f(0), which is 0"


def test_draws_are_of_other_inputs_at_the_same_place() -> None:
    """Of two inputs the other one is the only one to draw from, so that nothing is left to chance."""
    model, inputs = Linear(3, 6, 8), noise(2, 3, 6, 8)
    w = model.weight.detach()
    found = read_weights(model, inputs, ablation(2, "resample", score="log_odds", draws=2))
    for x, other, weights in zip(inputs, inputs.flip(0), found, strict=True):
        sign = 1 if float((w * x).sum()) > 0 else -1
        expected = [sign * float((w * (x - other))[one].sum()) for one in units_of((3, 6, 8), 1, 2)]
        assert weights == pytest.approx(expected, abs=1e-4)
    found = read_weights(model, noise(1, 3, 6, 8), ablation(2, "resample"))
    assert found == [], "there is none to draw from"


def test_one_logit_is_that_of_class_one() -> None:
    class One(Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x)[:, 1:]

    inputs = noise(3, 3, 6, 8)
    assert read_weights(One(3, 6, 8), inputs, ablation(2)) == read_weights(Linear(3, 6, 8), inputs, ablation(2))


# ------------------------------------------------- a planted cue


@pytest.mark.parametrize("without", WAYS)
def test_a_planted_corner_comes_to_have_the_weight(tmp_path: Path, without: str) -> None:
    given: dict[str, Any] = {"cues": CUE, "inputs": "pixels", "max_examples": 32, "baseline": None}
    given["score"] = "log_odds"
    callback, control = (ablation(PATCH, without, **given) for _ in range(2))
    trained(tmp_path, [callback])
    trained(tmp_path, [control], shuffled=True)
    chance = 1 / 16
    untrained = analyze(
        Convolutional(),
        DataLoader(images(32, 1), batch_size=8),
        ablation(PATCH, without, **{**given, "baseline": False}),
    )
    assert untrained["cue_share/cue"] < chance + 0.08
    _, shares = callback.history.series("cue_share/cue")
    assert shares == sorted(shares)
    assert shares[-1] > 0.9
    assert callback.reading["cue_first/cue"] == 1
    assert callback.reading["cue_share_chance/cue"] == callback.reading["cue_first_chance/cue"] == chance
    assert callback.reading["cue_share_above_chance/cue"] == shares[-1] - chance
    assert callback.reading["ablation_concentration_above_baseline"] > 0.7
    assert callback.history.series("ablation_stability")[0] == callback.history.steps[1:]
    _, at_chance = control.history.series("cue_share/cue")
    assert max(abs(share - chance) for share in at_chance) < 0.05
    assert abs(control.reading["ablation_concentration_above_baseline"]) < 0.05


def test_cues_are_units_or_marked_by_the_batch() -> None:
    data = DataLoader(images(16, 1), batch_size=5)

    def touched(batch: dict[str, Tensor]) -> Tensor:
        """A pixel of each of two patches."""
        found = torch.zeros(len(batch["pixels"]), 16, 16, dtype=torch.long)
        found[:, 12, 11:13] = 7
        return found

    cues = {"marked": "is_cue", "number": [15], "two": [14, 15], "touched": touched}
    found = analyze(Convolutional(), data, ablation(cues=cues, inputs="pixels"))
    for key in ("cue_share", "cue_share_chance", "cue_share_above_chance", "cue_first", "cue_first_chance"):
        assert found[f"{key}/marked"] == found[f"{key}/number"]
        assert found[f"{key}/two"] == found[f"{key}/touched"], "any pixel marks its patch"
    assert found["cue_share_chance/two"] == 1 / 8
    assert found["cue_share/two"] > found["cue_share/number"]


def test_channels_may_be_cues() -> None:
    model, inputs = Linear(3, 6, 8), noise(8, 3, 6, 8)
    with torch.no_grad():
        model.weight[:2] = 0
    marks = torch.zeros(8, 3, dtype=torch.bool)
    marks[:, 2] = True
    marks[4:] = False
    found = analyze(model, [(inputs, marks)], ablation("channels", cues={"number": [2], "marked": 1, "none": [0, 1]}))
    assert found["cue_share/number"] == found["cue_share/marked"] == found["cue_first/number"] == 1
    assert found["cue_share_chance/number"] == found["cue_share_chance/marked"] == 1 / 3
    assert found["cue_share/none"] == 0
    assert found["ablation_concentration"] == 1


# ------------------------------------------------- by loops


def by_hand(model: nn.Module, x: Tensor, instead: Tensor, parts: list[Tensor]) -> list[float]:
    def logits(one: Tensor) -> list[float]:
        with torch.no_grad():
            return [float(z) for z in model.eval()(one[None])[0].double()]

    full = logits(x)
    target = full.index(max(full))
    without = [plain.score(logits(torch.where(one, instead, x)), target, "log_prob") for one in parts]
    return [plain.score(full, target, "log_prob") - one for one in without]


@pytest.mark.parametrize("without", ["zero", "mean"])
def test_a_loop_gives_the_same(without: str) -> None:
    rows, model = images(9, 3), Convolutional()
    found = analyze(model, DataLoader(rows, batch_size=4), ablation(5, without, cues=CUE, inputs="pixels"))
    inputs = torch.stack([one["pixels"] for one in rows])
    instead = torch.zeros(3, 1, 1) if without == "zero" else inputs.mean((0, 2, 3)).view(3, 1, 1)
    weights = [by_hand(model, x, instead, units_of((3, 16, 16), 1, 5)) for x in inputs]
    where = plain_patches.index((16, 16), (5, 5))
    marked = plain_patches.marked(where, rows[0]["is_cue"])
    assert sum(marked) == 4, "the corner reaches into patches that are not full"
    expected = {
        "ablation_total": [math.fsum(map(abs, w)) for w in weights],
        "ablation_concentration": [plain.concentration(w) for w in weights],
        "cue_share/cue": [plain.share(w, marked) for w in weights],
        "cue_first/cue": [plain.first(w, marked) for w in weights],
    }
    assert found["cue_share_chance/cue"] == 4 / 16
    assert found["ablation_total"] > 0.01
    for key, values in expected.items():
        assert found[key] == pytest.approx(math.fsum(values) / len(values), abs=1e-5), key


@pytest.mark.parametrize("without", WAYS)
def test_batches_do_not_change_what_is_read(without: str) -> None:
    rows, model = images(11, 3), Convolutional()
    given: dict[str, Any] = {"cues": CUE, "inputs": "pixels"}
    whole = analyze(model, DataLoader(rows, batch_size=20), ablation(PATCH, without, **given))
    other = analyze(model, DataLoader(rows, batch_size=3), ablation(PATCH, without, batch_inputs=3, **given))
    assert other == pytest.approx(whole, abs=1e-5)
    assert whole["ablation_texts"] == 11
    again = analyze(model, DataLoader(rows, batch_size=20), ablation(PATCH, without, seed=1, **given))
    assert (again == whole) == (without != "resample")


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_inputs_stay_as_they_are(dtype: torch.dtype) -> None:
    inputs, seen = noise(3, 3, 6, 8).to(dtype), []
    model = Linear(3, 6, 8).to(dtype)
    model.register_forward_pre_hook(lambda module, given: seen.append(given[0].dtype))
    for way in WAYS:
        assert analyze(model, [inputs], ablation(2, way))["ablation_texts"] == 3
    assert set(seen) == {dtype}


def test_models_of_transformers_and_of_embeddings_are_read() -> None:
    from transformers import BertConfig, BertForSequenceClassification, ViTConfig, ViTForImageClassification

    torch.manual_seed(0)
    sizes: dict[str, Any] = {"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3}
    sizes |= {"intermediate_size": 24, "initializer_range": 1.0}
    vit = ViTForImageClassification(ViTConfig(image_size=16, patch_size=4, **sizes))
    batches = [{"pixel_values": noise(2, 3, 16, 16, seed=seed)} for seed in range(2)]
    found = analyze(vit, batches, ablation(4, inputs="pixel_values", baseline=True))
    assert found["ablation_total"] > 0.01
    assert math.isfinite(found["ablation_concentration_above_baseline"])
    bert = BertForSequenceClassification(BertConfig(vocab_size=30, **sizes))
    # By positions of embeddings, what words with an embedding of zeros weigh.
    vectors = noise(2, 7, 12)
    weights = read_weights(bert, vectors, ablation(1, channels=-1, forward=lambda model, x: model(inputs_embeds=x)))
    for x, row in zip(vectors, weights, strict=True):
        for at, weight in enumerate(row):
            changed = x.clone()
            changed[at] = 0
            with torch.no_grad():
                scores = bert.eval()(inputs_embeds=torch.stack([x, changed])).logits.log_softmax(-1)
            target = int(scores[0].argmax())
            assert weight == pytest.approx(float(scores[0, target] - scores[1, target]), abs=1e-5)


# ------------------------------------------------- errors


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"units": 0}, "`units` must be the side of a patch, the sides, or 'channels', got 0"),
        ({"units": "pixels"}, "or 'channels', got 'pixels'"),
        ({"units": (4, 2.0)}, r"or 'channels', got \(4, 2.0\)"),
        ({"units": True}, "or 'channels', got True"),
        ({"without": "blur"}, r"`without` must be one of \['mean', 'zero', 'resample'\], got 'blur'"),
        ({"score": "loss"}, r"`score` must be one of \['log_prob', 'log_odds'\], got 'loss'"),
        ({"draws": 0}, "`draws` must be at least 1, got 0"),
        ({"batch_inputs": 0}, "`batch_inputs` must be at least 1, got 0"),
        ({"channels": 0}, "`channels` must be a dimension other than 0, that of the batch, or None, got 0"),
        ({"units": "channels", "channels": None}, "units='channels' needs `channels`"),
        ({"cues": ["corner"]}, "`cues` must map names to a batch key or a list of the numbers of units, got"),
        ({"cues": {"a/b": [3]}}, "`cues` names 'a/b'"),
        ({"cues": {"a": [-1]}}, r"`cues` of 'a' must be a batch key or a list of the numbers of units, got \[-1\]"),
        ({"max_examples": 0}, "`max_examples` must be at least 1"),
    ],
)
def test_arguments(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PatchAblation(**{"units": 4, **kwargs})


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"inputs": "image"}, "`inputs` points to 'image', which is not in the batch"),
        ({"inputs": None}, r"`inputs` must lead to a floating tensor \(B, …\), and leads to a dict with 'pixels'"),
        ({"inputs": "label"}, r"and leads to int64 \(4,\)"),
        (
            {"inputs": lambda batch: batch["pixels"][:2]},
            r"`inputs` must lead to an input for each of 4 samples, got \(2,",
        ),
        ({"units": 16}, r"`units` of 16 makes 1 of an input \(3, 16, 16\): of fewer than two nothing can be compared"),
        (
            {"units": (4, 4, 4)},
            r"`units` is \[4, 4, 4\], and an input \(3, 16, 16\) has 2 dimensions beside `channels`",
        ),
        ({"channels": 4}, r"`channels` is 4, and inputs are \(B, 3, 16, 16\)"),
        ({"cues": {"a": [16]}}, "`cues` of 'a' is unit 16, and inputs have 16 units"),
        ({"cues": {"a": "marked"}}, "`cues` points to 'marked', which is not in the batch"),
        (
            {"cues": {"a": "label"}},
            r"`cues\['a'\]` must lead to a mask, whole numbers \(4, 16, 16\), got torch.int64 \(4,\)",
        ),
        ({"cues": {"a": "pixels"}}, r"got torch.float32 \(4, 3, 16, 16\)"),
        ({"model": "nothing"}, "`model` is 'nothing'"),
    ],
)
def test_what_a_batch_or_a_model_lacks_is_told(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        analyze(Convolutional(), DataLoader(images(8, 0), batch_size=4), ablation(**{"inputs": "pixels", **kwargs}))


def test_other_shapes_and_outputs_are_told() -> None:
    with pytest.raises(ValueError, match=r"one shape and dtype, and have the shapes \[\(3, 6, 8\), \(3, 8, 8\)\]"):
        analyze(nn.Flatten(), [noise(2, 3, 6, 8), noise(2, 3, 8, 8)], ablation(2))
    with pytest.raises(
        TypeError, match=r"no logits of classes \(5, C\) in what Identity returned .*float32 \(5, 3, 4, 4\)"
    ):
        analyze(nn.Identity(), [noise(2, 3, 4, 4)], ablation(2))


# ------------------------------------------------- in a Trainer


class Images(Convolutional):
    """Validates on the batches that it is given."""


def small(**kwargs: Any) -> PatchAblation:
    given: dict[str, Any] = {"cues": CUE, "inputs": "pixels", "max_examples": 6, "draws": 2, "model": "net"}
    return ablation(PATCH, "resample", **{**given, **kwargs})


def data(number: int, seed: int, batch_size: int = 4) -> DataLoader[Any]:
    return DataLoader(images(number, seed), batch_size=batch_size)  # type: ignore[arg-type]


def test_two_that_log_the_same_keys_need_a_prefix(tmp_path: Path) -> None:
    words = InputAblation(draw_figures=False, cues={"cue": [3]})
    with pytest.raises(ValueError, match="prefix"):
        trainer(tmp_path, [small(), words]).fit(Images(), data(8, 0), data(8, 1))
    first, second = small(), ablation(8, inputs="pixels", prefix="coarse/")
    trainer(tmp_path, [first, second], max_epochs=1).fit(Images(), data(8, 0), data(8, 1))
    assert "ablation_concentration" in first.reading
    assert "coarse/ablation_concentration" in second.reading


def test_stability_goes_on_where_a_run_is_resumed(tmp_path: Path) -> None:
    whole, first, second = small(draw_figures=True), small(), small()
    for callback, epochs, path in ((whole, 2, None), (first, 1, None), (second, 2, "a.ckpt")):
        torch.manual_seed(1)
        run = trainer(tmp_path, [callback], max_epochs=epochs)
        resumed: dict[str, Any] = {} if path is None else {"ckpt_path": tmp_path / path, "weights_only": False}
        run.fit(Images(), data(24, 0), data(12, 1), **resumed)
        if callback is first:
            run.save_checkpoint(tmp_path / "a.ckpt")
    assert timeless(second)[0] == timeless(whole)[0]
    assert "ablation_stability" not in first.reading
    assert -1 <= whole.reading["ablation_stability"] <= 1
    for callback in (whole, second):
        figure = callback.figures()["ablation/patches"]()
        assert [one.get_title() for one in figure.axes[:3]] == ["image", "step 6", "step 12"]
        assert len(figure.axes) == 3 * 3 + 1, "of three images"
    assert small().figures() == {}


def test_signals_and_channels_are_drawn_as_rows(tmp_path: Path) -> None:
    class Signals(Images):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 256, 2))

    def as_signal(batch: dict[str, Tensor]) -> Tensor:
        return batch["pixels"].flatten(2)

    for units, rows in ((100, ["0–99", "100–199", "200–255"]), ("channels", ["channel 0", "channel 1", "channel 2"])):
        callback = ablation(units, inputs=as_signal, model="net", max_examples=2)
        trainer(tmp_path, [callback]).fit(Signals(), data(8, 0), data(8, 1))
        pictures = callback.figures()
        assert list(pictures) == ["ablation/input_0", "ablation/input_1"]
        axes = pictures["ablation/input_1"]().axes[0]
        assert [one.get_text() for one in axes.get_yticklabels()] == rows


def test_images_that_are_kept_are_small(tmp_path: Path) -> None:
    class Large(Images):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Upsample((100, 200)), nn.Flatten(), nn.Linear(3 * 100 * 200, 2))

    def large(batch: dict[str, Tensor]) -> Tensor:
        return nn.functional.interpolate(batch["pixels"], (100, 200))

    callback = ablation(50, inputs=large, model="net", max_examples=5)
    trainer(tmp_path, [callback]).fit(Large(), data(8, 0), data(8, 1))
    pictures = callback.weights.values[-1]["pictures"]
    assert pictures.shape == (3, 48, 96, 3)
    assert pictures.dtype == torch.uint8
    assert (int(pictures.min()), int(pictures.max())) == (0, 255)


def test_no_way_changes_training(tmp_path: Path) -> None:
    def fitted(callbacks: list[Any]) -> dict[str, Tensor]:
        torch.manual_seed(1)
        model = Images()
        model.net.insert(1, nn.BatchNorm2d(8))
        model.net.insert(2, nn.Dropout(0.2))
        trainer(tmp_path, callbacks, max_epochs=2).fit(model, data(12, 0), data(8, 1))
        return model.state_dict()

    made = [ablation(PATCH, way, inputs="pixels", prefix=f"{way}/", baseline=True, on_error="raise") for way in WAYS]
    found, plainly = fitted(list(made)), fitted([])
    assert all(torch.equal(found[name], value) for name, value in plainly.items())
    assert all(len(one.history) == 2 for one in made)


def over_ranks_read() -> list[dict[str, float]]:
    rows = data(11, 1, batch_size=2)
    several = [small(), ablation(5, "mean", inputs="pixels", cues=CUE, max_examples=5), small(max_examples=1)]
    return [validated(one, Images(), rows) for one in several]


def test_ranks_read_what_one_process_reads(ranks: Any) -> None:
    alone = over_ranks_read()
    first, *others = ranks.run(over_ranks_read)
    for got, expected in zip(first, alone, strict=True):
        assert got == pytest.approx(expected, abs=1e-12)
    assert [one["ablation_texts"] for one in alone] == [6, 5, 0], "one alone has none to draw from"
    assert all(other == first for other in others)


def test_other_inputs_begin_anew(tmp_path: Path) -> None:
    class Other(Images):
        def val_dataloader(self) -> Any:
            return data(8, self.current_epoch)

    callback = small(baseline=None)
    with pytest.warns(UserWarning, match="ablation_stability and the random weights are of those"):
        trainer(tmp_path, [callback], reload_dataloaders_every_n_epochs=1).fit(Other(), data(8, 5))
    assert callback.history.series("ablation_stability")[0] == []
    before, after = callback.history.series("ablation_concentration_baseline")[1]
    assert before != after


def test_a_module_of_lightning_is_what_is_called() -> None:
    class Net(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Linear(3, 6, 8)

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(2 * x)

    inputs = noise(3, 3, 6, 8)
    whole = read_weights(Net(), inputs, ablation(2, score="log_odds"))
    part = read_weights(Net(), 2 * inputs, ablation(2, score="log_odds", model="inner"))
    assert whole == [pytest.approx(one, abs=1e-5) for one in part]
