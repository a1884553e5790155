"""Accuracy by class: a scripted model, a slow reference, bands, forgetting, models of transformers, ranks, resuming."""

from __future__ import annotations

import math
import tempfile
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import scipy.stats
import torch
import torch.distributed as dist
from reference.acquisition import as_bad_as
from tasks.test_scoring import gpt2
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_interp import AcquisitionByClass, analyze
from lightning_interp.batches import Predictions
from lightning_interp.distributed import Selection
from lightning_interp.isolation.seen import Seen
from lightning_interp.reading.reading import Reading
from tests.toy import Sequences, Tagger, loader, timeless, trainer

TAGS = ["zero", "one", "two"]


def fit(folder: Path, callbacks: list[pl.Callback], model: pl.LightningModule, **kwargs: Any) -> pl.Trainer:
    pl.seed_everything(2, verbose=False)
    run = trainer(folder, callbacks, **{"max_epochs": 3, **kwargs})
    run.fit(model, loader(), loader(seed=1))
    return run


# ------------------------------------------------- against the plain reading


def plainly(model: Tagger, classes: Any) -> dict[int, tuple[float, float, int]]:
    """Accuracy, loss and count by class, position by position."""
    model.eval()
    found: dict[int, list[tuple[bool, float]]] = {}
    with torch.no_grad():
        for sample in Sequences(40, seed=1):
            log_p = model(sample["input_ids"][None])[0].log_softmax(-1)
            for place in range(len(log_p)):
                if sample["attention_mask"][place]:
                    right = int(sample["tags"][place])
                    row = bool(log_p[place].argmax() == right), float(log_p[place, right])
                    found.setdefault(classes(sample, place), []).append(row)
    return {
        label: (sum(hit for hit, _ in rows) / len(rows), -sum(log_p for _, log_p in rows) / len(rows), len(rows))
        for label, rows in found.items()
    }


LABELS: dict[str, tuple[dict[str, Any], Any]] = {
    "target": ({"names": TAGS}, lambda sample, place: int(sample["tags"][place])),
    "positions": ({"labels": "input_ids", "names": 12}, lambda sample, place: int(sample["input_ids"][place])),
    "samples": ({"labels": "sentence", "names": 4}, lambda sample, place: int(sample["sentence"])),
    "array": ({"labels": [n % 2 for n in range(40)], "names": ["even", "odd"]}, None),
    "callable": (
        {"labels": lambda batch: batch["tags"] - 1, "names": ["one", "two"]},
        lambda sample, place: int(sample["tags"][place]) - 1,
    ),
}


@pytest.mark.parametrize("source", LABELS)
def test_every_key_is_that_of_the_plain_reading(tmp_path: Path, source: str) -> None:
    arguments, classes = LABELS[source]
    callback = AcquisitionByClass("head", target="tags", mask="attention_mask", log="full", **arguments)
    model = Tagger()
    run = fit(tmp_path, [callback], model)
    assert callback.logged_keys() == callback.logged_keys(model)
    assert set(callback.logged_keys()) - set(callback.conditional_keys()) <= {
        *run.callback_metrics,
        *(f"class_{what}/head/0" for what in ("accuracy", "loss")),  # padding is the token 0
    }
    if source == "array":
        found = {}
        data = Sequences(40, seed=1)
        by_sample = [plainly_one(model, data[n]) for n in range(40)]
        for label in (0, 1):
            rows = [row for n in range(label, 40, 2) for row in by_sample[n]]
            found[label] = (sum(h for h, _ in rows) / len(rows), -sum(p for _, p in rows) / len(rows), len(rows))
    else:
        found = plainly(model, classes)
    known = {label: values for label, values in found.items() if label >= 0}
    for label, name in callback.class_names.items():
        if label not in known:
            assert f"class_accuracy/head/{name}" not in callback.reading
            assert callback.reading[f"class_count/head/{name}"] == 0
            continue
        for what, value in zip(("accuracy", "loss", "count"), known[label], strict=True):
            assert callback.reading[f"class_{what}/head/{name}"] == pytest.approx(value, abs=1e-6), (what, name)
    assert callback.reading["class_accuracy/head/mean"] == pytest.approx(
        sum(values[0] for values in known.values()) / len(known)
    )


def plainly_one(model: Tagger, sample: dict[str, Tensor]) -> list[tuple[bool, float]]:
    model.eval()
    with torch.no_grad():
        log_p = model(sample["input_ids"][None])[0].log_softmax(-1)
    places = range(int(sample["attention_mask"].sum()))
    return [(bool(log_p[at].argmax() == sample["tags"][at]), float(log_p[at, sample["tags"][at]])) for at in places]


def test_bands_are_those_of_the_targets_that_are_read(tmp_path: Path) -> None:
    class Next(Tagger):
        """Predicts the next token by a head of its own."""

        def __init__(self) -> None:
            super().__init__()
            self.words = nn.Linear(8, 12)

        def forward(self, input_ids: Tensor) -> Tensor:
            z = self.encoder(self.embedding(input_ids))
            self.words(z)
            return self.head(z)

    callback = AcquisitionByClass(
        {"next": Predictions("words", target="input_ids", shift=1), "same": Predictions("words", target="input_ids")},
        bands=3,
        log="full",
    )
    model = Next()
    fit(tmp_path, [callback], model)
    data = Sequences(40, seed=1)
    ends = [int(sample["attention_mask"].sum()) for sample in data]
    counts = Counter(int(token) for n, end in enumerate(ends) for token in data.ids[n, 1:end])
    band, before, total = {}, 0, sum(counts.values())
    for token, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        band[token] = int(3 * (before + count / 2) / total)
        before += count
    model.eval()
    rows: dict[int, list[bool]] = {0: [], 1: [], 2: []}
    with torch.no_grad():
        for sample in data:
            logits = model.words(model.encoder(model.embedding(sample["input_ids"])))
            for place in range(int(sample["attention_mask"].sum()) - 1):
                right = int(sample["input_ids"][place + 1])
                rows[band[right]].append(int(logits[place].argmax()) == right)
    for number, hits in rows.items():
        assert callback.reading[f"class_count/next/band_{number + 1}"] == len(hits)
        assert callback.reading[f"class_accuracy/next/band_{number + 1}"] == pytest.approx(sum(hits) / len(hits))
    # The first words of the sentences count too where the word itself is predicted.
    assert sum(callback.reading[f"class_count/same/band_{n}"] for n in (1, 2, 3)) == total + 40
    # Counts that are given take their place: token 11 is all that is frequent.
    given = AcquisitionByClass(Predictions("words", target="input_ids", shift=1), bands=2, counts={11: 1}, log="full")
    found = analyze(model, loader(seed=1), given)
    assert found["class_count/words/band_1"] + found["class_count/words/band_2"] == total
    twos = AcquisitionByClass(
        Predictions("words", target="input_ids", shift=1), bands=2, counts=[0, 0, 5, 4], log="full"
    )
    found = analyze(model, loader(seed=1), twos)
    assert found["class_count/words/band_1"] == counts[2]
    with pytest.raises(ValueError, match="`counts` has target ids up to 12, but there are 12 logits"):
        analyze(model, loader(seed=1), AcquisitionByClass("words", target="input_ids", bands=2, counts=[1] * 13))


# ------------------------------------------------- planted

COUNT = 40
SCRIPT = {
    "early": [20, 38, 40, 40, 39, 40, 40, 40],
    "late": [0, 0, 4, 10, 16, 28, 35, 27],
    "lost": [4, 20, 38, 40, 30, 22, 10, 9],
    "never": [0] * 8,
}
"""Rows right at steps 1 to 8, of forty."""


class Scripted(pl.LightningModule):
    """A classifier that knows what the script says."""

    def __init__(self) -> None:
        super().__init__()
        self.number = nn.Parameter(torch.zeros(()))
        self.answer = nn.Identity()

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return self.number.square()

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        labels, ranks = batch
        place = min(max(self.global_step, 1), 8) - 1
        right = torch.tensor([row[place] for row in SCRIPT.values()])[labels]
        said = torch.where(ranks < right, labels, (labels + 1) % 4)
        return self.answer(4.0 * nn.functional.one_hot(said, 4))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def answers() -> DataLoader:
    labels = torch.arange(4).repeat_interleave(COUNT)
    return DataLoader(TensorDataset(labels, torch.arange(COUNT).repeat(4)), batch_size=33)


def scripted(folder: Path, epochs: int = 1, path: Path | None = None, **kwargs: Any) -> AcquisitionByClass:
    settings = {"target": 0, "names": list(SCRIPT), "log": "full", "draw_figures": False}
    callback = AcquisitionByClass(**{"site": "answer", **settings, **kwargs})
    keep = pl.callbacks.ModelCheckpoint(folder, save_last=True)
    run = trainer(folder, [callback, keep], max_epochs=epochs, val_check_interval=1, enable_checkpointing=True)
    steps = DataLoader(TensorDataset(torch.zeros(4)), batch_size=1)
    run.fit(Scripted(), steps, answers(), ckpt_path=path)
    return callback


class OneWord(Scripted):
    """Names one class for every row, and another one at each validation."""

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        said = torch.full_like(batch[0], self.global_step % 4)
        return self.answer(4.0 * nn.functional.one_hot(said, 4))


def test_a_class_that_was_named_for_all_rows_was_never_known(tmp_path: Path) -> None:
    callback = AcquisitionByClass("answer", target=0, names=list(SCRIPT), log="full", draw_figures=False)
    run = trainer(tmp_path, [callback], max_epochs=2, val_check_interval=1)
    run.fit(OneWord(), DataLoader(TensorDataset(torch.zeros(4)), batch_size=1), answers())
    assert callback.history.series("class_accuracy/answer/early")[1] == [0, 0, 0, 1, 0, 0, 0, 1]
    assert callback.history.series("class_named/answer/early")[1] == [0, 0, 0, 160, 0, 0, 0, 160]
    assert callback.history.series("classes_forgotten/answer")[1] == [0] * 8


def test_planted_accuracies_give_the_planted_steps_and_flags(tmp_path: Path) -> None:
    callback = scripted(tmp_path, epochs=2)
    steps = list(range(1, 9))
    for name, right in SCRIPT.items():
        assert callback.history.series(f"class_accuracy/answer/{name}") == (steps, [one / 40 for one in right])
        assert callback.history.series(f"class_count/answer/{name}")[1] == [40] * 8
        hit, miss = -log_softmax(True), -log_softmax(False)
        expected = [(one * hit + (40 - one) * miss) / 40 for one in right]
        assert callback.history.series(f"class_loss/answer/{name}")[1] == pytest.approx(expected, abs=1e-6)
    # The first step at nine tenths of the best so far, which moves on as that rises.
    assert callback.history.series("class_acquired/answer/early")[1] == [1, 2, 2, 2, 2, 2, 2, 2]
    assert callback.history.series("class_acquired/answer/late") == (steps[2:], [3, 4, 5, 6, 7, 7])
    assert callback.history.series("class_acquired/answer/lost")[1] == [1, 2, 3, 3, 3, 3, 3, 3]
    assert callback.history.series("class_acquired/answer/never") == ([], [])
    # Fisher's test against the best reading before, at .05 over classes and pairs of readings.
    for name, right in SCRIPT.items():
        flags = [0.0]
        for place in range(1, 8):
            best = max(right[:place])
            p = scipy.stats.fisher_exact([[right[place], 40 - right[place]], [best, 40 - best]], "less").pvalue
            assert p == pytest.approx(as_bad_as(right[place], 40, best, 40))
            flags.append(float(p < 0.05 / (4 * 2 * place * (place + 1))))
        assert callback.history.series(f"class_forgotten/answer/{name}")[1] == flags, name
    # A fall that would be one in twenty by itself is none among so many classes and readings.
    assert 0.05 / (4 * 2 * 7 * 8) < as_bad_as(27, 40, 35, 40) < 0.05
    assert callback.history.series("class_forgotten/answer/lost")[1] == [0, 0, 0, 0, 0, 1, 1, 1]
    assert callback.history.series("classes_forgotten/answer")[1] == [0, 0, 0, 0, 0, 1, 1, 1]
    # By the final level, what fell to a low one was there early: the note says that it was lost.
    assert [(one.name, one.acquired.high) for one in callback.order()[:3]] == [("lost", 2), ("early", 2), ("late", 6)]
    lines = callback.summary().splitlines()
    assert lines[1].startswith("lost")
    assert lines[1].endswith("forgotten")
    assert not any(line.endswith("forgotten") for line in lines[2:])
    assert lines[-1].startswith("never")
    for draw in callback.figures().values():
        draw().draw_without_rendering()


SAMPLES, POSITIONS, READINGS = 40, 49, 10


class Alike(Scripted):
    """Right or wrong at all positions of a sample together, at levels that are planted by reading and class."""

    def __init__(self, levels: Tensor, order: list[int]) -> None:
        super().__init__()
        self.levels = levels
        draws = torch.rand(READINGS, SAMPLES, generator=torch.Generator().manual_seed(3))
        self.right = draws[:, order]

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        numbers, labels = batch
        place = min(max(self.global_step, 1), READINGS) - 1
        right = self.right[place][numbers][:, None] < self.levels[place][labels]
        return self.answer(4.0 * nn.functional.one_hot(torch.where(right, labels, (labels + 1) % 4), 4))


ALIKE: dict[str, dict[str, Any]] = {
    "target": {"names": 4},
    "labels": {"labels": 1, "names": ["zero", "one", "two", "three"]},
    "bands": {"bands": 2},
    "counts": {"bands": 2, "counts": [4, 3, 2, 1]},
}


def alike(folder: Path, levels: Tensor, classes: Tensor, **kwargs: Any) -> AcquisitionByClass:
    callback = AcquisitionByClass("answer", target=1, log="full", draw_figures=False, **kwargs)
    data = DataLoader(TensorDataset(torch.arange(SAMPLES), classes), batch_size=7)
    run = trainer(folder, [callback], max_epochs=1, val_check_interval=1)
    steps = DataLoader(TensorDataset(torch.zeros(READINGS)), batch_size=1)
    run.fit(Alike(levels, torch.randperm(SAMPLES, generator=torch.Generator().manual_seed(4)).tolist()), steps, data)
    return callback


@pytest.mark.parametrize("kind", ALIKE)
def test_positions_that_are_right_together_count_once(tmp_path: Path, kind: str) -> None:
    classes = torch.randint(4, (SAMPLES, POSITIONS), generator=torch.Generator().manual_seed(1))
    levels = torch.full((READINGS, 4), 0.6)
    constant = alike(tmp_path / "constant", levels, classes, **ALIKE[kind])
    assert constant.history.series("classes_forgotten/answer")[1] == [0.0] * READINGS
    # Of forty samples, all positions of which count as one, no more than so many.
    name = next(iter(constant.class_names.values()))
    steps, effective = constant.history.series(f"class_effective/answer/{name}")
    assert steps == list(range(1 + (kind == "bands"), READINGS + 1))
    assert max(effective) <= SAMPLES
    assert min(effective) > SAMPLES / 2
    # By rows alone, several readings would have been called forgotten.
    hits = [round(one * 500) for one in constant.history.series(f"class_accuracy/answer/{name}")[1]]
    tests = len(constant.class_names) * 2
    flags = [
        as_bad_as(hits[at], 500, max(hits[:at]), 500) < 0.05 / (tests * at * (at + 1)) for at in range(1, READINGS)
    ]
    assert any(flags)
    # What falls is seen, whatever reading was the best: the first, or one at which all were right.
    for best, level in ((0, 0.95), (3, 0.95), (3, 1.0), (0, 1.0)):
        levels = torch.full((READINGS, 4), 0.5)
        levels[best], levels[READINGS - 2 :] = level, 0.1
        lost = alike(tmp_path / f"{best}{level}", levels, classes, **ALIKE[kind])
        assert lost.history.series("classes_forgotten/answer")[1][-1] == len(lost.class_names), (best, level)


def test_one_position_a_sample_counts_as_it_did(tmp_path: Path) -> None:
    callback = scripted(tmp_path, epochs=2)
    for name in SCRIPT:
        assert callback.history.series(f"class_effective/answer/{name}")[1] == [40.0] * 8


def test_a_class_that_a_model_names_for_whole_samples_is_not_known_by_luck(tmp_path: Path) -> None:
    """Four samples of a class, two of which it names throughout, as it does with two of twelve others."""

    class Whole(Scripted):
        def validation_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
            numbers, labels = batch
            chosen = numbers % 4 == 0 if self.global_step < 3 else torch.zeros_like(numbers, dtype=torch.bool)
            said = torch.where(chosen | (numbers == 1), 0, 2)[:, None].expand_as(labels)
            return self.answer(4.0 * nn.functional.one_hot(said, 4))

    labels = torch.where(torch.arange(16) < 6, 0, 1)[:, None].expand(16, 30).contiguous()
    callback = AcquisitionByClass("answer", target=1, names=4, log="full", draw_figures=False)
    run = trainer(tmp_path, [callback], max_epochs=1, val_check_interval=1)
    data = DataLoader(TensorDataset(torch.arange(16), labels), batch_size=5)
    run.fit(Whole(), DataLoader(TensorDataset(torch.zeros(4)), batch_size=1), data)
    # Half of its samples and a fifth of the others: 90 of 180 rows against 60 of 300, of which chance is no more than
    # 1e-10 by rows.
    assert callback.history.series("class_named/answer/0")[1][0] == 150
    assert as_bad_as(60, 300, 90, 180) < 1e-10
    assert callback.history.series("class_known/answer/0")[1] == [0.0] * 4
    assert callback.history.series("class_forgotten/answer/0")[1] == [0.0] * 4


def test_labels_without_a_name_are_rows_of_no_class(tmp_path: Path) -> None:
    """Of four classes two are followed; the others are among those that they are told from."""
    some = scripted(tmp_path / "some", epochs=2, names={0: "early", 3: "never"})
    whole = scripted(tmp_path / "whole", epochs=2)
    for what in ("known", "effective", "named", "accuracy"):
        for name in ("early", "never"):
            key = f"class_{what}/answer/{name}"
            assert some.history.series(key) == whole.history.series(key)
            assert len(some.history.series(key)[1]) == 8


def log_softmax(right: bool) -> float:
    return (4.0 if right else 0.0) - math.log(math.exp(4) + 3)


def test_what_the_step_returns_is_read_as_a_site_is(tmp_path: Path) -> None:
    one = scripted(tmp_path / "one")
    other = scripted(tmp_path / "other", site=Predictions(output="", target=0), target=None)
    assert [
        {key.replace("/output", "/answer"): value for key, value in reading[3].items()} for reading in timeless(other)
    ] == [reading[3] for reading in timeless(one)]
    found = analyze(Unbound(), answers(), AcquisitionByClass(Predictions(output="", target=0), names=list(SCRIPT)))
    assert found["class_accuracy/output/early"] == 0.5
    assert not [key for key in found if "acquired" in key or "forgotten" in key]


class Unbound(Scripted):
    global_step = 0  # type: ignore[assignment]


def test_a_resumed_run_has_the_readings_of_one_that_was_not_stopped(tmp_path: Path) -> None:
    for kwargs in ({}, {"names": None, "bands": 2}):
        name = str(len(kwargs))
        whole = scripted(tmp_path / f"whole{name}", 2, **kwargs)
        first = scripted(tmp_path / f"first{name}", 1, **kwargs)
        resumed = scripted(tmp_path / f"second{name}", 2, tmp_path / f"first{name}" / "last.ckpt", **kwargs)
        assert len(first.history) == 4
        assert timeless(resumed) == timeless(whole)
        assert set(resumed.state_dict()["tally"]["bands"]) == ({"answer"} if kwargs else set())


def test_a_checkpoint_of_before_its_parts_had_states_of_their_own(tmp_path: Path) -> None:
    whole = scripted(tmp_path / "whole", 2, names=None, bands=2)
    state = whole.state_dict()
    tally, acquisition = state.pop("tally"), state.pop("acquisition")
    again = AcquisitionByClass(Predictions(output="", target=0), bands=2)
    again.load_state_dict({**state, **tally, "since": 2})
    assert again.state_dict()["tally"]["bands"].keys() == tally["bands"].keys() == {"answer"}
    assert torch.equal(again.state_dict()["tally"]["bands"]["answer"], tally["bands"]["answer"])
    assert again.state_dict()["acquisition"] == {"since": 2} != acquisition
    # The oldest do not know of other samples.
    again.load_state_dict({**state, **tally})
    assert again.state_dict()["acquisition"] == {"since": None}


# ------------------------------------------------- what is left out


def test_rows_that_are_not_finite_are_counted_and_left_out(tmp_path: Path) -> None:
    class Broken(Tagger):
        def forward(self, input_ids: Tensor) -> Tensor:
            z = self.encoder(self.embedding(input_ids))
            if not self.training:
                z = torch.where((input_ids == 3)[..., None], torch.nan, z)
            return self.head(z)

    callback = AcquisitionByClass("head", target="tags", mask="attention_mask", names=TAGS, log="full")
    with pytest.warns(UserWarning, match="left out vectors that are not finite"):
        run = fit(tmp_path, [callback], Broken())
    data = Sequences(40, seed=1)
    number = sum(int((sample["input_ids"] == 3).sum()) for sample in data)
    assert callback.reading["nonfinite/head"] == run.callback_metrics["nonfinite/head"] == number > 0
    kept = sum(callback.reading[f"class_count/head/{name}"] for name in TAGS)
    assert kept == int(data.mask.sum()) - number


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"target": "input_ids", "names": 12}, r"\d+ targets at 'head' have no logit: see `target`"),
        ({"target": "tags", "names": TAGS[:2]}, r"\d+ labels at 'head' are beyond those that `names` has: \{0: 'zero'"),
        ({"target": "tags", "names": 3, "labels": "words"}, "points to 'words', which is not in the batch"),
        (
            {"target": "tags", "names": 3, "labels": lambda batch: torch.zeros(8)},
            "`labels` must be integers, got",
        ),
        ({"target": "tags", "names": 3, "labels": lambda batch: batch["tags"][:, :2]}, "fits no targets of shape"),
        ({"target": "tag", "names": 3}, "`target` points to 'tag', which is not in the batch"),
    ],
)
def test_what_does_not_fit_the_data_stops_the_run_before_it_starts(
    tmp_path: Path, arguments: dict[str, Any], message: str
) -> None:
    model = Tagger()
    with pytest.raises(ValueError, match=message):
        fit(tmp_path, [AcquisitionByClass("head", **{"mask": "attention_mask", **arguments})], model)
    assert model.global_step == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "`names` is needed"),
        ({"names": "noun"}, "`names` must be a list of names, got the string 'noun'"),
        ({"names": ["a", "a"]}, "`names` holds 'a'; a name becomes part of a key"),
        ({"names": ["a/b"]}, "`names` holds 'a/b'"),
        ({"names": ["mean"]}, "`names` holds 'mean'"),
        ({"names": []}, "must name one class or more"),
        ({"names": {-1: "a"}}, "with labels from 0 on"),
        ({"names": 65}, "there are 65 classes, more than `max_classes=64`"),
        ({"names": 2, "bands": 2}, "`bands` take the place of `labels` and `names`"),
        ({"names": 2, "counts": [1]}, "`counts` are for `bands`"),
        ({"bands": 0}, "`bands` must be at least 1, got 0"),
        ({"names": 2, "share": 0.0}, "`share` must lie above 0 and not above 1, got 0.0"),
        ({"names": 2, "alpha": 2.0}, "`alpha` must lie above 0 and not above 1, got 2.0"),
        ({"names": 2, "chance": 1.0}, "`chance` must be at least 0 and below 1, got 1.0"),
        ({"names": 2, "site": Predictions("a"), "shift": 1}, "`shift` belongs to"),
        ({"names": 2, "site": {}}, "`site` must be a name, Predictions, or several by names"),
        ({"names": 2, "site": {"a/b": Predictions("a")}}, "`site` must be a name, Predictions, or several by names"),
        ({"names": 2, "site": {"": Predictions("a")}}, "`site` has an empty name"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AcquisitionByClass(**{"site": "head", **arguments})


# ------------------------------------------------- models of transformers


def test_a_causal_model_of_transformers(tmp_path: Path) -> None:
    class Wrapped(Tagger):
        def __init__(self) -> None:
            super().__init__()
            self.lm = gpt2(12)

        def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> Any:
            labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
            return self.lm(batch["input_ids"], attention_mask=batch["attention_mask"], labels=labels)

        def on_validation_epoch_end(self) -> None:
            pass

    common = {"names": [f"tag_{n}" for n in range(3)], "labels": "tags", "log": "full", "draw_figures": False}
    site = AcquisitionByClass(Predictions("lm", target="input_ids", shift=1), **common)
    step = AcquisitionByClass(Predictions(output="logits", target="input_ids", shift=1), **common)
    model = Wrapped()
    fit(tmp_path, [site, step], model, max_epochs=1)
    assert {key.replace("/lm", "/output"): value for key, value in site.reading.items() if "seconds" not in key} == {
        key: value for key, value in step.reading.items() if "seconds" not in key
    }
    model.lm.eval()
    data = Sequences(40, seed=1)
    with torch.no_grad():
        log_p = model.lm(data.ids, attention_mask=data.mask.long()).logits[:, :-1].log_softmax(-1)
    for tag in range(3):
        chosen = data.mask[:, 1:] & (data.tags[:, 1:] == tag)
        own = log_p.gather(-1, data.ids[:, 1:, None]).squeeze(-1)[chosen]
        assert site.reading[f"class_loss/lm/tag_{tag}"] == pytest.approx(-float(own.mean()), abs=1e-5)
        assert site.reading[f"class_count/lm/tag_{tag}"] == int(chosen.sum())


# ------------------------------------------------- ranks


def readings(strategy: str, batch_size: int) -> tuple[list[dict[str, float]], list[str]]:
    common = {"target": "tags", "mask": "attention_mask", "max_examples": 25, "draw_figures": False, "log": "full"}
    chosen = [
        AcquisitionByClass("head", names=TAGS, **common),
        AcquisitionByClass("head", labels=[n % 5 for n in range(31)], names=5, prefix="array/", **common),
        AcquisitionByClass("head", bands=2, prefix="bands/", **common),
        # Some ranks have none of the two samples.
        AcquisitionByClass("head", bands=2, prefix="few/", **{**common, "max_examples": 2}),
    ]
    world = dist.get_world_size() if dist.is_initialized() else 1
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run = trainer(folder, chosen, strategy=strategy, devices=world, max_epochs=2)
        # The learning rate is zero: how the data are split must not change what the model computes.
        run.fit(Tagger(lr=0.0), loader(12), DataLoader(Sequences(31, seed=1), batch_size=batch_size))
        told = [str(one.message) for one in caught if "class" in str(one.message) and "/head" in str(one.message)]
    return [
        {key: value for key, value in one.reading.items() if "seconds" not in key and "acquired" not in key}
        for one in chosen
    ], told


@pytest.mark.parametrize("batch_size", [4, 5])
def test_ranks_read_what_one_process_reads(ranks: Any, batch_size: int) -> None:
    alone, _ = readings("auto", 8)
    for found, told in ranks.run(readings, "ddp", batch_size):
        # Two samples do not have every tag, and that is said once; nothing of ours is to be averaged.
        assert not [text for text in told if "sync_dist" in text], told
        for one, expected in zip(found, alone, strict=True):
            assert one == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("arguments", [{"names": 3}, {"bands": 2, "counts": [3, 2, 1]}])
def test_nothing_is_read_back_from_the_device(arguments: dict[str, Any]) -> None:
    """Tensors without values: whatever asked for one would fail."""
    model, callback = nn.Linear(4, 3, device="meta"), AcquisitionByClass("", target=1, **arguments)
    tally = callback.tally
    callback.resolve(model)
    callback.begin(Reading(model, step=1))
    batch = (torch.zeros(5, 4, device="meta"), torch.zeros(5, dtype=torch.long, device="meta"))
    seen = Seen(batch, 0, 0, Selection(torch.arange(5), None, torch.arange(5)))
    callback.before_batch(seen)
    model(batch[0])
    callback.after_batch(seen)
    assert vars(tally)["_sums"]["model"].shape == (3, 4)
    assert vars(tally)["_by_sample"]["model"].shape == ((2, 4, 3) if "names" in arguments else (1, 3, 3))
    callback.release()
    assert not vars(tally)["_sums"]


def test_labels_given_one_by_one_do_not_stand_in_every_row_of_the_readings() -> None:
    assert "labels" not in AcquisitionByClass("head", labels=[0, 1] * 500, names=2).settings()
    assert AcquisitionByClass("head", labels="tags", names=2).settings()["labels"] == "tags"
