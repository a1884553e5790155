"""The probe metric: planted structure at known levels, controls, scikit-learn, rows that are kept, ranks."""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from reference.probes import held_out_predictions, online_bits
from reference.units import exchanged, unit_of_rows
from scipy.stats import norm
from sklearn.metrics import r2_score

from lightning_interp.functional.codelength import LOGIT_VARIANCES, block_starts
from lightning_interp.functional.counter_noise import counter_hash
from lightning_interp.metrics import LinearProbe
from lightning_interp.metrics._probe_plan import class_task, control_of, folds_of
from lightning_interp.metrics.linear_probe import STRENGTHS


class Planted:
    """Words of 300 types in sequences; even types are of class 1, and each position has a number of its own."""

    def __init__(self, samples: int = 400, length: int = 15, dim: int = 8, apart: float = 1.0, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.types = torch.randint(0, 300, (samples, length), generator=generator)
        self.tags = 1 - self.types % 2
        self.noise = torch.randn(samples, length, dim, generator=generator)
        self.z = self.noise.clone()
        self.z[..., 0] += apart * (2 * self.tags - 1)
        self.number = torch.randn(samples, length, generator=generator)

    def with_number(self, explained: float) -> torch.Tensor:
        """A number of which the noise explains this share."""
        along = self.noise.sum(-1) / math.sqrt(self.noise.shape[-1])
        return math.sqrt(explained) * along + math.sqrt(1 - explained) * self.number

    @property
    def labels(self) -> dict[str, torch.Tensor]:
        return {"token": self.types, "tag": self.tags, "number": self.with_number(0.6)}


def read(metric: LinearProbe, z: torch.Tensor, labels: dict[str, torch.Tensor], batch: int = 32) -> dict[str, float]:
    for start in range(0, len(z), batch):
        part = slice(start, start + batch)
        here = {name: value[part] for name, value in labels.items()}
        metric.update(z[part], labels=here, positions=torch.arange(len(z))[part])
    return {key: float(value) for key, value in metric.compute().items()}


# ------------------------------------------------- planted structure


@pytest.mark.parametrize("apart", [0.0, 0.5, 1.0, 2.0])
def test_two_gaussians_are_told_apart_as_well_as_can_be(apart: float) -> None:
    data = Planted(apart=apart)
    found = read(LinearProbe(["tag"]), data.z, data.labels)
    # 6,000 rows: three standard errors are .02. A probe that knows nothing names what is more frequent in the other
    # folds, which is what is less frequent in its own.
    assert found["probe_accuracy/tag"] == pytest.approx(norm.cdf(apart), abs=0.02 if apart else 0.04)
    assert found["probe_seen/tag"] == pytest.approx(norm.cdf(apart), abs=0.02)


@pytest.mark.parametrize("explained", [0.0, 0.3, 0.9])
def test_a_linear_target_has_its_share_of_variance(explained: float) -> None:
    data = Planted()
    labels = {"token": data.types, "number": data.with_number(explained)}
    found = read(LinearProbe(targets=["number"]), data.noise, labels)
    assert found["probe_r2/number"] == pytest.approx(explained, abs=0.03)


def test_controls_stay_at_chance_where_words_are_not_told_apart() -> None:
    data = Planted(apart=2.0)
    found = read(LinearProbe(["tag"], ["number"]), data.z, data.labels)
    # Each class has 150 types, of which random labels are the same for slightly more than a half.
    assert found["probe_control/tag"] == pytest.approx(0.5, abs=0.06)
    assert found["probe_control/number"] == pytest.approx(0, abs=0.03)
    assert found["selectivity/tag"] > 0.4


def test_shuffled_labels_stay_at_chance() -> None:
    data = Planted(apart=2.0)
    order = torch.randperm(data.tags.numel(), generator=torch.Generator().manual_seed(1))
    shuffled = data.tags.flatten()[order].view_as(data.tags)
    found = read(LinearProbe(["tag"]), data.z, {"token": data.types, "tag": shuffled})
    assert found["probe_accuracy/tag"] == pytest.approx(0.5, abs=0.02)
    assert abs(found["selectivity/tag"]) < 0.06


def test_words_learned_by_heart_show_in_the_control_and_not_in_the_accuracy() -> None:
    # One direction for each type: nothing of its class can be told from other types.
    data = Planted(samples=300, dim=1)
    z = torch.eye(300)[data.types]
    found = read(LinearProbe(["tag"]), z, data.labels)
    assert found["probe_seen/tag"] > 0.99
    assert found["probe_control/tag"] > 0.99
    assert abs(found["selectivity/tag"]) < 0.01
    assert found["probe_accuracy/tag"] < 0.55


def test_a_type_is_in_one_fold_and_its_control_label_does_not_change() -> None:
    types = torch.tensor([7, 3, 7, 9, 4, 3, 11, 7])
    folds, number = folds_of(types, 3, seed=0)
    assert number == 3
    assert sorted(folds.bincount(minlength=3).tolist()) != [0, 0, 8]
    assert len({(int(t), int(f)) for t, f in zip(types, folds, strict=True)}) == len(set(types.tolist()))
    task = class_task("tag", torch.tensor([0, 1, 0, 1, 1, 0, 0, 1]), 1, 10)
    control = control_of(task, types, seed=0)
    assert len({(int(t), int(c)) for t, c in zip(types, control.classes, strict=True)}) == len(set(types.tolist()))
    order = torch.randperm(8)
    again = control_of(class_task("tag", torch.tensor([0, 1, 0, 1, 1, 0, 0, 1])[order], 1, 10), types[order], 0)
    assert again.classes.tolist() == control.classes[order].tolist()


def test_control_labels_have_the_shares_of_the_labels() -> None:
    labels = (torch.arange(20_000) % 10 < 3).long()
    control = control_of(class_task("tag", labels, 1, 10), torch.arange(20_000), seed=0)
    assert float(control.classes.double().mean()) == pytest.approx(0.3, abs=0.01)


# ------------------------------------------------- scikit-learn


def test_every_value_is_that_of_scikit_learn() -> None:
    data = Planted(samples=40, length=6, dim=5)
    labels = {
        "token": data.types % 40,
        "tag": (data.types % 40) % 3,
        "pair": torch.stack([data.with_number(0.5), 1000 * data.number], dim=-1),
    }
    metric = LinearProbe(["tag"], ["pair"], folds=4, min_count=1, codelength=True)
    found = read(metric, data.z + 10, labels)
    z = data.z.flatten(0, 1).double().numpy() + 10
    types, tags = labels["token"].flatten(), labels["tag"].flatten()
    folds = folds_of(types, 4, 0)[0].numpy()
    said = held_out_predictions(z, np.eye(3)[tags.numpy()], folds, STRENGTHS)
    assert found["probe_accuracy/tag"] == pytest.approx(float((said.argmax(1) == tags.numpy()).mean()), abs=1e-9)
    pair = labels["pair"].flatten(0, 1).double().numpy()
    said = held_out_predictions(z, (pair - pair.mean(0)) / pair.std(0), folds, STRENGTHS)
    expected = r2_score(pair, said * pair.std(0) + pair.mean(0))
    assert found["probe_r2/pair"] == pytest.approx(expected, abs=1e-6)
    samples = torch.arange(40).repeat_interleave(6)
    by_sample = folds_of(samples, 4, 0)[0].numpy()
    said = held_out_predictions(z, np.eye(3)[tags.numpy()], by_sample, STRENGTHS)
    assert found["probe_seen/tag"] == pytest.approx(float((said.argmax(1) == tags.numpy()).mean()), abs=1e-9)
    order = counter_hash(samples, 0).argsort(stable=True).numpy()
    expected = online_bits(z[order], tags.numpy()[order], block_starts(240), LOGIT_VARIANCES, held=0.01)
    assert found["codelength/tag"] == pytest.approx(expected, rel=1e-4)


# ------------------------------------------------- what is kept


def test_rare_and_missing_labels_are_left_out() -> None:
    data = Planted(samples=40, apart=2.0)
    tags = data.tags.clone()
    tags[0, :3] = 5
    tags[1:3] = -100
    number = data.number.clone()
    number[4] = math.nan
    found = read(LinearProbe(["tag"], ["number"]), data.z, {"token": data.types, "tag": tags, "number": number})
    assert found["probe_classes/tag"] == 2
    assert found["probe_coverage/tag"] == pytest.approx(1 - 3 / (38 * 15))
    assert found["probe_coverage/number"] == pytest.approx(39 / 40)
    assert found["probe_rows"] == 600


def test_too_many_classes_are_refused() -> None:
    data = Planted(samples=40)
    with pytest.raises(ValueError, match=r"has \d+ classes with at least 1 rows, and `max_classes` is 20"):
        read(LinearProbe(["pair"], min_count=1, max_classes=20), data.z, {"token": data.types, "pair": data.types // 2})


@pytest.mark.parametrize("batch", [3, 64, 400])
def test_the_rows_that_are_kept_do_not_depend_on_batches(batch: int) -> None:
    data = Planted()
    expected = read(LinearProbe(["tag"], ["number"], max_rows=500), data.z, data.labels, batch=17)
    metric = LinearProbe(["tag"], ["number"], max_rows=500)
    found = read(metric, data.z, data.labels, batch)
    assert expected["probe_rows"] == 500
    assert found == pytest.approx(expected, abs=1e-9)
    assert sum(map(len, metric.payload)) <= 1000


def test_types_of_none_hold_out_samples() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 3, (300,), generator=generator)
    z = torch.randn(300, 4, generator=generator) + 3 * torch.eye(4)[labels]
    metric = LinearProbe(["class"], types=None)
    assert "probe_control/class" not in metric.measures
    found = read(metric, z, {"class": labels})
    assert found["probe_accuracy/class"] > 0.9


def test_states_without_anything_to_read_are_nan() -> None:
    metric = LinearProbe(["tag"], ["number"])
    labels = {"token": torch.tensor([[1, 2]]), "tag": torch.tensor([[0, 1]]), "number": torch.ones(1, 2)}
    metric.update(torch.randn(1, 2, 3), mask=torch.zeros(1, 2), labels=labels)
    found = {key: float(value) for key, value in metric.compute().items()}
    assert set(found) == set(metric.measures)
    assert found["probe_rows"] == 0
    assert all(math.isnan(found[key]) for key in ("probe_accuracy/tag", "probe_r2/number", "probe_majority/tag"))


def test_constant_vectors_give_the_majority_and_constant_targets_nothing() -> None:
    data = Planted(samples=60)
    tags = (data.types % 3 == 0).long()
    labels = {"token": data.types, "tag": tags, "number": torch.full(tags.shape, 0.1)}
    found = read(LinearProbe(["tag"], ["number"]), torch.full((60, 15, 4), 1e3), labels)
    assert found["probe_accuracy/tag"] == pytest.approx(found["probe_majority/tag"])
    assert math.isnan(found["probe_r2/number"])


def test_vectors_that_are_not_finite_are_left_out_and_counted() -> None:
    data = Planted(samples=60, apart=2.0)
    data.z[3, 4] = math.nan
    data.z[5, 6, 1] = math.inf
    found = read(LinearProbe(["tag"]), data.z, data.labels)
    assert found["nonfinite"] == 2
    assert found["probe_rows"] == 898
    assert found["probe_accuracy/tag"] > 0.9


def test_bad_arguments() -> None:
    for options, message in (
        ({}, "both empty"),
        ({"labels": ["a"], "targets": ["a"]}, "both name"),
        ({"labels": ["a"], "folds": 2}, "`folds` must be at least 3"),
        ({"labels": ["a"], "max_rows": 0}, "`max_rows`"),
        ({"labels": ["a"], "alphas": [0.0]}, "`alphas`"),
        ({"targets": ["a"], "types": "a"}, "one of the targets"),
    ):
        with pytest.raises(ValueError, match=message):
            LinearProbe(**options)
    z, tokens = torch.randn(2, 3, 4), torch.ones(2, 3, dtype=torch.long)
    with pytest.raises(ValueError, match="'tag' is to be read, and `labels` has"):
        LinearProbe(["tag"]).update(z, labels={"token": tokens})
    with pytest.raises(ValueError, match="a probe reads one"):
        LinearProbe(["tag"]).update(z, labels={"token": tokens, "tag": torch.ones(2, 3, 2, dtype=torch.long)})
    with pytest.raises(ValueError, match="fits neither"):
        LinearProbe(targets=["tag"]).update(z, labels={"token": tokens, "tag": torch.ones(2, 4)})
    metric = LinearProbe(targets=["tag"])
    metric.update(z, labels={"token": tokens, "tag": torch.ones(2, 3)})
    with pytest.raises(ValueError, match="2 columns, earlier batches 1"):
        metric.update(z, labels={"token": tokens, "tag": torch.ones(2, 3, 2)})


def test_update_reads_nothing_back_from_a_device() -> None:
    data = Planted(samples=8)
    metric = LinearProbe(["tag"], ["number"], max_rows=50)
    for _ in range(3):
        metric.update(data.z.to("meta"), labels=data.labels, positions=torch.arange(8))
    assert metric.payload[0].device.type == "meta"
    assert sum(map(len, metric.payload)) <= 100


def test_the_path_of_other_devices_gives_the_same_values(monkeypatch: pytest.MonkeyPatch) -> None:
    data = Planted(samples=60)
    data.z[3, 4] = math.nan
    expected = read(LinearProbe(["tag"], ["number"], max_rows=300), data.z, data.labels)
    monkeypatch.setattr(LinearProbe, "_drops_at_once", staticmethod(lambda device: False))
    assert read(LinearProbe(["tag"], ["number"], max_rows=300), data.z, data.labels) == pytest.approx(expected)


# ------------------------------------------------- ranks

SPLITS: dict[str, dict[int, list[list[list[int]] | None]]] = {
    "uneven": {
        2: [[[0], [5, 3], [], list(range(10, 40))], [[1, 2], [4, 6, 7, 8, 9]]],
        3: [[[0]], [[5, 3], [1], [7, 6]], [[2, 4], [8, 9], list(range(10, 40))]],
    },
    "a rank without samples": {2: [None, [list(range(40))]], 3: [[list(range(12))], None, [list(range(12, 40))]]},
}
OPTIONS: dict[str, dict[str, Any]] = {
    "all rows": {"min_count": 2, "codelength": True},
    "some rows": {"min_count": 2, "max_rows": 150},
}


def of_ranks() -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    data = Planted(samples=40, length=8, dim=5)
    rare = data.types % 3
    rare[0] = 7  # a label that one rank sees alone
    labels = {"token": data.types % 50, "tag": data.tags, "rare": rare, "number": data.with_number(0.5)}
    labels["tag"][10:14] = -1
    data.z[11, 2] = math.nan
    return data.z, labels


def fed(options: dict[str, Any], batches: list[list[int]] | None) -> dict[str, float]:
    metric = LinearProbe(["tag", "rare"], ["number"], **options)
    z, labels = of_ranks()
    for batch in batches or []:
        here = {name: value[batch] for name, value in labels.items()}
        metric.update(z[batch], labels=here, positions=torch.tensor(batch, dtype=torch.long))
    return {key: float(value) for key, value in metric.compute().items()}


def of_rank(options: dict[str, Any], shares: list[list[list[int]] | None]) -> dict[str, float]:
    return fed(options, shares[dist.get_rank()])


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("options", OPTIONS)
def test_ranks_give_what_one_process_gives(ranks: Any, split: str, options: str) -> None:
    expected = fed(OPTIONS[options], [list(range(40))])
    assert expected["probe_classes/rare"] == 4
    everywhere = ranks.run(of_rank, OPTIONS[options], SPLITS[split][ranks.size])
    for found in everywhere:
        assert found == pytest.approx(expected, abs=1e-6, rel=1e-6)
        assert found == everywhere[0]


def columns_differ() -> str:
    metric = LinearProbe(targets=["number"])
    shape = (4, 3, 1 + dist.get_rank())
    metric.update(torch.randn(4, 3, 5), labels={"token": torch.ones(4, 3).long(), "number": torch.ones(shape)})
    try:
        metric.compute()
    except (ValueError, RuntimeError) as error:
        return str(error)
    return ""


def test_ranks_that_disagree_about_columns_say_so(two_ranks: Any) -> None:
    assert any("1 columns here, 2 on another rank" in message for message in two_ranks.run(columns_differ))


# ------------------------------------------------- what is read belongs to samples, words or positions


class Nothing:
    """Samples and words that differ from each other, and labels of one kind that mean nothing."""

    def __init__(self, kind: str, length: int, seed: int, samples: int = 60, dim: int = 8) -> None:
        generator = torch.Generator().manual_seed(seed)
        common = 1 / torch.arange(1, 61).double()
        drawn = torch.multinomial(common, samples * length, replacement=True, generator=generator)
        self.types = drawn.view(samples, length)
        self.z = torch.randn(samples, 1, dim, generator=generator)
        self.z = self.z + torch.randn(60, dim, generator=generator)[self.types]
        self.z = self.z + 0.3 * torch.randn(samples, length, dim, generator=generator)
        of_unit = torch.randn(3, max(samples, 60), samples * length, generator=generator)
        labels = {
            "sample": torch.randint(0, 3, (samples,), generator=generator),
            "word": torch.randint(0, 3, (60,), generator=generator)[self.types],
            "position": torch.randint(0, 3, (samples, length), generator=generator),
        }
        numbers = {
            "sample": of_unit[0, :samples, 0],
            "word": of_unit[1, :60, 0][self.types],
            "position": of_unit[2, 0].view(samples, length),
        }
        self.labels = {"token": self.types, "tag": labels[kind], "number": numbers[kind]}


@pytest.mark.parametrize("kind", ["sample", "word", "position"])
@pytest.mark.parametrize("length", [1, 4, 16])
@pytest.mark.parametrize("types", ["token", None])
def test_where_there_is_nothing_to_read_the_probe_is_at_chance(kind: str, length: int, types: str | None) -> None:
    found: dict[str, list[tuple[float, float]]] = {"tag": [], "number": []}
    for seed in range(16):
        data = Nothing(kind, length, seed)
        metric = LinearProbe(["tag"], ["number"], types=types, control=False, shuffles=8, min_count=2)
        values = read(metric, data.z, data.labels)
        told = "sample" if length == 1 and kind == "position" else kind
        assert metric.units_used == {"tag": told, "number": told}
        for name, mine in found.items():
            above, level = values[f"probe_above_chance/{name}"], values[f"probe_chance/{name}"]
            assert above == pytest.approx(values[f"{metric.score(name)}/{name}"] - level)
            mine.append((above, values[f"probe_chance/{name}/sd"]))
    for name, mine in found.items():
        above, said = np.array(mine).T
        assert abs(above.mean()) < 4 * above.std(ddof=1) / math.sqrt(16), name
    # R² has long tails, accuracy has not.
    above, said = np.array(found["tag"]).T
    assert 0.5 < above.std(ddof=1) / said.mean() < 1.7


def test_without_types_chance_of_labels_of_words_is_what_words_by_heart_give() -> None:
    data = Nothing("word", 16, 0, samples=120)
    metric = LinearProbe(["tag"], ["number"], types=None, shuffles=20)
    found = read(metric, data.z, data.labels)
    assert metric.units_used == {"tag": "word", "number": "word"}
    of_rows = read(LinearProbe(["tag"], types=None, units={"tag": "position"}), data.z, data.labels)
    assert found["probe_accuracy/tag"] == of_rows["probe_accuracy/tag"], "words change the level, not the probe"
    assert of_rows["probe_above_chance/tag"] > 10 * of_rows["probe_chance/tag/sd"]
    assert found["probe_chance/tag"] > of_rows["probe_chance/tag"] + 0.1
    for name in ("tag", "number"):
        assert abs(found[f"probe_above_chance/{name}"]) < 3 * found[f"probe_chance/{name}/sd"]
    del data.labels["token"]
    unknown = LinearProbe(["tag"], types=None)
    assert read(unknown, data.z, data.labels)["probe_accuracy/tag"] == found["probe_accuracy/tag"]
    assert unknown.units_used == {"tag": "position"}


def test_labels_of_samples_would_be_read_off_other_positions_of_the_sample() -> None:
    data = Nothing("sample", 12, 0, dim=80)
    found = {
        unit: read(LinearProbe(["tag"], units={"tag": unit}), data.z, data.labels) for unit in ("sample", "position")
    }
    assert found["position"]["probe_accuracy/tag"] > 0.7, "words are held out, samples are not"
    assert found["sample"]["probe_accuracy/tag"] < 0.5
    assert found["sample"]["probe_accuracy/tag"] == found["sample"]["probe_seen/tag"]
    assert found["position"]["probe_seen/tag"] == found["sample"]["probe_seen/tag"]


def test_chance_is_below_the_majority_where_few_words_are_held_out() -> None:
    above, below = [], []
    for seed in range(60):
        generator = torch.Generator().manual_seed(seed)
        word, label = torch.randn(30, 16, generator=generator), torch.randint(0, 4, (30,), generator=generator)
        common = torch.rand(30, generator=generator) ** 3
        token = torch.multinomial(common, 300, replacement=True, generator=generator)
        probe = LinearProbe(["tag"], control=False, min_count=1)
        z = word[token] + 0.1 * torch.randn(300, 16, generator=generator)
        probe.update(z, labels={"tag": label[token], "token": token})
        found = {key: float(value) for key, value in probe.compute().items()}
        assert probe.units_used == {"tag": "word"}
        above.append(found["probe_above_chance/tag"])
        below.append(found["probe_chance/tag"] - found["probe_majority/tag"])
    assert abs(np.mean(above)) < 4 * np.std(above, ddof=1) / math.sqrt(60)
    assert np.mean(below) < -0.1


@pytest.mark.parametrize("kind", ["sample", "word", "position"])
def test_the_level_of_chance_is_that_of_labels_dealt_by_hand(kind: str) -> None:
    """Folds by unit with scikit-learn, and labels exchanged one by one."""
    data = Nothing(kind, 4, 3, samples=30, dim=4)
    metric = LinearProbe(["tag"], control=False, shuffles=60, min_count=1, folds=4)
    found = read(metric, data.z, data.labels)
    z, types = data.z.flatten(0, 1).double().numpy(), data.types.flatten()
    samples = torch.arange(30).repeat_interleave(4)
    tags = data.labels["tag"]
    lists = [[tag] for tag in (tags[:, None].expand(-1, 4) if tags.ndim == 1 else tags).flatten().tolist()]
    name, units = unit_of_rows(lists, samples.tolist(), types.tolist())
    assert name == kind
    folds = folds_of(samples if kind == "sample" else types, 4, 0)[0].numpy()
    draw, levels = random.Random(0), []
    for _ in range(61):
        dealt = np.array([mine[0] for mine in lists])
        said = held_out_predictions(z, np.eye(3)[dealt], folds, STRENGTHS)
        levels.append(float((said.argmax(1) == dealt).mean()))
        lists = exchanged(lists, units or list(range(120)), draw, [0] * 120)
    assert found["probe_accuracy/tag"] == pytest.approx(levels[0], abs=1e-9)
    error = np.std(levels[1:], ddof=1) * math.sqrt(2 / 60)
    assert found["probe_chance/tag"] == pytest.approx(np.mean(levels[1:]), abs=4 * error)
    assert found["probe_chance/tag/sd"] == pytest.approx(np.std(levels[1:], ddof=1), rel=0.4)


def test_labels_that_equal_types_are_refused() -> None:
    with pytest.raises(ValueError, match=r"labels equal types.*With `types=None` samples are held out"):
        LinearProbe(["token"])
    data = Planted(samples=40)
    for lemma in (data.types + 5, data.types * 2 + (data.noise[..., 0] > 0)):
        with pytest.raises(ValueError, match=r"labels of 'lemma' has one type of 'token': labels equal types"):
            read(LinearProbe(["lemma"], min_count=2), data.z, {"token": data.types, "lemma": lemma})
        found = read(LinearProbe(["lemma"], min_count=2, types=None), data.z, {"lemma": lemma})
        assert math.isfinite(found["probe_accuracy/lemma"])


def test_units_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match=r"`units` has 'word', and `types` is None"):
        LinearProbe(["tag"], types=None, units={"tag": "word"})
    with pytest.raises(ValueError, match=r"`units` names 'pos', which is not among the label sets \['tag', 'number'\]"):
        LinearProbe(["tag"], ["number"], units={"pos": "word"})
    with pytest.raises(ValueError, match="`shuffles` must be at least 0, got -1"):
        LinearProbe(["tag"], shuffles=-1)
    assert not [key for key in LinearProbe(["tag"], shuffles=0).measures if "chance" in key]
