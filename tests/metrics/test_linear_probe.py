"""The probe metric: planted structure at known levels, controls, scikit-learn, rows that are kept, ranks."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from reference.probes import held_out_predictions, online_bits
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
        read(LinearProbe(["token"], min_count=1, max_classes=20), data.z, {"token": data.types})


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
