"""Labels are exchanged among what they belong to: samples, words or positions."""

from __future__ import annotations

import math
import random
from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference.entropy import soft_codes
from reference.structure import measures
from reference.units import exchanged, unit_of_rows

from lightning_interp.functional.soft import reference_points, vmf_temperature
from lightning_interp.metrics import BinnedStructure, ClassSeparation, SoftStructure
from lightning_interp.metrics._plan import make_plan
from lightning_interp.metrics._units import check_units, dealt_rows, unit_of

KINDS = ("sample", "word", "position")


class Cloud:
    """Samples that differ from each other, of Zipf words that do so too; labels ``x`` that mean nothing."""

    def __init__(self, kind: str, length: int, seed: int, samples: int = 60, dim: int = 12, ragged: bool = True):
        generator = torch.Generator().manual_seed(seed)
        words, classes = 80, 4
        common = 1 / torch.arange(1, words + 1).double()
        drawn = torch.multinomial(common, samples * length, replacement=True, generator=generator)
        self.tokens = drawn.view(samples, length)
        z = torch.randn(samples, 1, dim, generator=generator)
        z = z + 0.5 * torch.randn(words, dim, generator=generator)[self.tokens]
        self.z = z + 0.3 * torch.randn(samples, length, dim, generator=generator)
        self.mask = torch.ones(samples, length, dtype=torch.bool)
        if ragged:
            self.mask = torch.arange(length) < torch.randint(1, length + 1, (samples, 1), generator=generator)
        self.labels = {
            "sample": torch.randint(0, classes, (samples,), generator=generator),
            "word": torch.randint(0, classes, (words,), generator=generator)[self.tokens],
            "position": torch.randint(0, classes, (samples, length), generator=generator),
        }[kind]

    def feed(self, metric: Any, tokens: bool = True) -> dict[str, float]:
        labels = {"x": self.labels, **({"token": self.tokens} if tokens else {})}
        metric.update(self.z, mask=self.mask, labels=labels)
        return {key: float(value) for key, value in metric.compute().items()}


# ------------------------------------------------- labels that mean nothing


@pytest.mark.parametrize("length", [1, 4, 16, 49])
@pytest.mark.parametrize("kind", KINDS)
def test_labels_that_mean_nothing_are_at_chance_whatever_the_number_of_positions(kind: str, length: int) -> None:
    found: dict[str, list[float]] = {}
    for seed in range(24):
        cloud = Cloud(kind, length, seed, ragged=seed % 2 == 0)
        metric = SoftStructure(["x"], shuffles=8, num_points=30)
        values = cloud.feed(metric)
        assert metric.units_used == {"x": "sample" if length == 1 and kind == "position" else kind}
        for measure in ("variation", "regularity", "disentanglement"):
            score = values[f"{measure}_above_chance/x"] / values[f"{measure}_chance/x/sd"]
            found.setdefault(measure, []).append(score)
    for measure, scores in found.items():
        values = torch.tensor(scores)
        # Of a t distribution of 7 degrees the standard deviation is 1.18.
        assert abs(float(values.mean())) < 4 * 1.18 / math.sqrt(24), measure
        assert 0.6 < float(values.std()) < 1.9, measure


@pytest.mark.parametrize("kind", ["sample", "word"])
def test_exchanged_among_positions_they_would_look_regular(kind: str) -> None:
    found = Cloud(kind, 16, 0).feed(SoftStructure(["x"], shuffles=5, num_points=30, units={"x": "position"}))
    assert found["regularity_above_chance/x"] > 4 * found["regularity_chance/x/sd"]
    assert found["disentanglement_above_chance/x"] > 4 * found["disentanglement_chance/x/sd"]


@pytest.mark.parametrize("kind", ["sample", "word"])
def test_labels_that_mean_something_stay_above_chance(kind: str) -> None:
    cloud = Cloud(kind, 16, 0)
    of_position = cloud.labels[:, None].expand(-1, 16) if cloud.labels.ndim == 1 else cloud.labels
    cloud.z = cloud.z + 1.5 * torch.eye(cloud.z.shape[2])[of_position]
    found = cloud.feed(SoftStructure(["x"], shuffles=8, num_points=30))
    assert found["regularity_above_chance/x"] > 5 * found["regularity_chance/x/sd"]


@pytest.mark.parametrize("shuffles", [3, 10])
def test_the_spread_of_chance_is_that_of_value_minus_chance(shuffles: int) -> None:
    above, said = [], []
    for seed in range(400):
        generator = torch.Generator().manual_seed(seed)
        metric = SoftStructure(["x"], shuffles=shuffles, num_points=20)
        z = torch.randn(160, 6, generator=generator)
        metric.update(z, labels=torch.randint(0, 4, (160,), generator=generator))
        values = metric.compute()
        above.append(float(values["disentanglement_above_chance/x"]))
        said.append(float(values["disentanglement_chance/x/sd"]))
    ratio = float(torch.tensor(above).std() / torch.tensor(said).mean())
    assert ratio == pytest.approx(1.0, abs=0.1)  # of 400 draws its own error is .04


@pytest.mark.parametrize("length", [1, 4, 16, 49])
@pytest.mark.parametrize("kind", KINDS)
def test_separation_of_labels_that_mean_nothing_is_at_chance(kind: str, length: int) -> None:
    found: dict[str, list[float]] = {}
    for seed in range(16):
        cloud = Cloud(kind, length, seed, ragged=seed % 2 == 0)
        metric = ClassSeparation(["x"], shuffles=8, max_rows=600)
        values = cloud.feed(metric)
        assert metric.units_used == {"x": "sample" if length == 1 and kind == "position" else kind}
        for measure in ("silhouette", "knn_purity"):
            above, level = values[f"{measure}_above_chance/x"], values[f"{measure}_chance/x"]
            assert above == pytest.approx(values[f"{measure}/x"] - level)
            found.setdefault(measure, []).append(above / values[f"{measure}_chance/x/sd"])
    for measure, scores in found.items():
        values = torch.tensor(scores)
        assert abs(float(values.mean())) < 4 * 1.18 / math.sqrt(16), measure
        assert 0.5 < float(values.std()) < 2.0, measure


def test_neighbours_of_the_own_sample_would_make_any_labels_pure() -> None:
    cloud = Cloud("sample", 16, 0, ragged=False)
    of_position = cloud.feed(ClassSeparation(["x"], units={"x": "position"}))
    assert of_position["knn_purity/x"] > 0.7
    of_sample = cloud.feed(ClassSeparation(["x"]))
    assert of_sample["knn_purity/x"] == pytest.approx(of_sample["knn_purity_chance/x"], abs=0.1)
    # The silhouette is one number, whatever labels belong to; what it is by chance is not.
    assert of_sample["silhouette/x"] == of_position["silhouette/x"]
    assert of_position["silhouette_above_chance/x"] > 2 * of_sample["silhouette_above_chance/x"]


def test_the_sample_of_rows_is_of_nearly_all_samples() -> None:
    metric = ClassSeparation(["x"], max_rows=300)
    Cloud("sample", 49, 0, samples=100).feed(metric)
    assert metric.units_used == {"x": "sample"}
    assert len((metric.sample.key >> 20).unique()) > 85


# ------------------------------------------------- the levels themselves


@pytest.mark.parametrize("kind", ["sample", "word"])
@pytest.mark.parametrize("parent", [None, "constant", "varying"])
def test_chance_is_the_mean_over_exchanges_of_whole_units(kind: str, parent: str | None) -> None:
    cloud = Cloud(kind, 5, 3, samples=24, dim=4)
    owner = None
    if parent is not None:
        own = torch.arange(24)[:, None].expand(-1, 5) if kind == "sample" else cloud.tokens
        owner = own % 2 if parent == "constant" else torch.arange(5).expand(24, 5) % 2
    metric = SoftStructure(
        ["x"], parents={"x": "p"} if parent else None, min_count=2, shuffles=200, num_points=10, seed=1
    )
    labels = {"x": cloud.labels, "token": cloud.tokens} | ({} if owner is None else {"p": owner})
    metric.update(cloud.z, mask=cloud.mask, labels=labels)
    found = {key: float(value) for key, value in metric.compute().items()}

    mask = cloud.mask.flatten()
    rows = cloud.z.flatten(0, 1)[mask].double().numpy()
    codes = soft_codes(rows, reference_points(10, 4, 1).double().numpy(), vmf_temperature(4, 10))
    full = cloud.labels[:, None].expand(-1, 5) if cloud.labels.ndim == 1 else cloud.labels
    lists = [[label] for label in full.flatten()[mask].tolist()]
    samples = torch.arange(24).repeat_interleave(5)[mask].tolist()
    above = None if owner is None else owner.flatten()[mask].tolist()
    name, units = unit_of_rows(lists, samples, cloud.tokens.flatten()[mask].tolist(), above)
    assert name == kind == metric.units_used["x"]
    draw, strata = random.Random(0), above if parent == "constant" else [0] * len(lists)
    drawn: dict[str, list[float]] = {"regularity": [], "disentanglement": []}
    for _ in range(200):
        one = measures(codes, exchanged(lists, units, draw, strata), above, 2, units=units)
        for measure, values in drawn.items():
            values.append(one[measure])
    for measure, values in drawn.items():
        expected = torch.tensor(values)
        # Two means of 200 draws each.
        error = float(expected.std()) * math.sqrt(2 / 200)
        assert found[f"{measure}_chance/x"] == pytest.approx(float(expected.mean()), abs=4 * error), measure
        sd = found[f"{measure}_chance/x/sd"]
        assert sd == pytest.approx(float(expected.std()), rel=0.25), measure


def test_a_deal_copies_the_label_of_one_unit_to_all_rows_of_another() -> None:
    generator = torch.Generator().manual_seed(0)
    units = torch.randint(0, 40, (300,), generator=generator)
    labels = torch.randint(0, 5, (40, 2), generator=generator)[units]
    parents = units % 3
    plan = make_plan(labels, parents, 1, units)
    for seed in range(20):
        new = plan.dealt(seed)
        assert new.num_labels == plan.num_labels
        before, after = (
            {(int(u), tuple(i)) for u, i in zip(units, x.tolist(), strict=True)} for x in (labels, new.ids)
        )
        assert len(before) == len(after) == 40
        assert torch.equal(new.groups, plan.groups)
        assert Counter(int(p) for p in new.parents) == Counter(int(p) for p in plan.parents)
    assert plan.dealt(0).ids.tolist() == plan.dealt(0).ids.tolist() != plan.dealt(1).ids.tolist()


def test_every_unit_is_as_likely_to_get_the_label_of_any_other() -> None:
    units = torch.tensor([3, 3, 3, 5, 8, 8, 9])
    found = Counter()
    generator = torch.Generator().manual_seed(0)
    for _ in range(4000):
        source = dealt_rows(units, 7, generator)
        assert source[0] == source[1] == source[2]
        found[int(units[source[0]])] += 1
    assert all(abs(count - 1000) < 4 * math.sqrt(750) for count in found.values())
    assert set(found) == {3, 5, 8, 9}


# ------------------------------------------------- which unit


@given(st.integers(0, 10_000))
def test_the_unit_is_told_as_by_hand(seed: int) -> None:
    draw = random.Random(seed)
    rows = draw.randint(1, 12)
    samples = [draw.randint(0, 4) for _ in range(rows)]
    words = [draw.randint(0, 5) for _ in range(rows)]
    base = draw.choice([samples, words, list(range(rows))])
    labels = [[(one * draw.choice([1, 1, 7])) % draw.choice([2, 9])] for one in base]
    if draw.random() < 0.7:
        labels = [[one % 2] for one in base]
    lists = [[None if draw.random() < 0.1 else label for label in mine] for mine in labels]
    tensor = torch.tensor([[-1 if label is None else label for label in mine] for mine in lists])
    known = draw.random() < 0.8
    found = unit_of("x", tensor, (tensor >= 0).any(1), torch.tensor(samples), torch.tensor(words) if known else None)
    assert found.name == unit_of_rows(lists, samples, words if known else None)[0]


def test_what_the_user_says_counts_where_it_can_be_so() -> None:
    cloud = Cloud("sample", 6, 0)
    for unit in ("sample", "position"):
        metric = SoftStructure(["x"], units={"x": unit})
        cloud.feed(metric)
        assert metric.units_used == {"x": unit}
    with pytest.raises(ValueError, match=r"`units\['x'\]` is 'word', but 'x' differs between occurrences of one word"):
        cloud.feed(SoftStructure(["x"], units={"x": "word"}))
    with pytest.raises(ValueError, match=r"'sample', but 'x' differs between positions of one sample"):
        Cloud("word", 6, 0).feed(SoftStructure(["x"], units={"x": "sample"}))
    with pytest.raises(ValueError, match=r"needs `labels\['token'\]`"):
        cloud.feed(SoftStructure(["x"], units={"x": "word"}), tokens=False)


def test_units_that_do_not_exist_are_refused() -> None:
    with pytest.raises(ValueError, match=r"`units\['x'\]` must be one of \['sample', 'word', 'position'\], got 'sent'"):
        SoftStructure(["x"], units={"x": "sent"})
    with pytest.raises(ValueError, match=r"`units` names 'y', which is not among the label sets \['x'\]"):
        BinnedStructure(["x"], units={"y": "word"})
    with pytest.raises(ValueError, match="'token' is formed at each position"):
        SoftStructure(["token"], units={"token": "word"})
    assert check_units(None, []) == {}


def test_built_in_sets_and_names_of_words_belong_to_positions() -> None:
    cloud = Cloud("word", 8, 0)
    metric = SoftStructure(["token", "next_token", "lemma"], min_count=1)
    metric.update(cloud.z, labels={"token": cloud.tokens, "lemma": cloud.tokens + 7})
    values = metric.compute()
    assert metric.units_used == dict.fromkeys(("token", "next_token", "lemma"), "position")
    assert values["regularity/lemma"] == values["regularity/token"]


def test_the_least_number_of_rows_is_one_of_units() -> None:
    labels = torch.tensor([0] * 6 + [1] * 4)
    z = torch.randn(10, 7, 3, generator=torch.Generator().manual_seed(0))
    metric = SoftStructure(["x"], min_count=5)
    metric.update(z, labels=labels)
    assert float(metric.compute()["num_labels/x"]) == 1
    metric = SoftStructure(["x"], min_count=5, units={"x": "position"})
    metric.update(z, labels=labels)
    assert float(metric.compute()["num_labels/x"]) == 2


def test_tokens_that_do_not_fit_the_positions_are_as_if_not_known() -> None:
    cloud = Cloud("sample", 6, 0, ragged=False)
    metric = SoftStructure(["x"], min_count=1)
    metric.update(cloud.z.mean(1), labels={"x": cloud.labels, "token": cloud.tokens})
    metric.compute()
    assert metric.units_used == {"x": "sample"}


@pytest.mark.parametrize("kind", ["sample", "word"])
def test_the_plane_exchanges_by_units_too(kind: str) -> None:
    scores = []
    for seed in range(20):
        metric = SoftStructure([], information_plane=("token", "x"), shuffles=8, num_points=30, min_count=2)
        found = Cloud(kind, 9, seed).feed(metric)
        assert metric.units_used == {"token": "position", "x": kind}
        scores.append(found["expressivity_above_chance"] / found["expressivity_chance/sd"])
    assert abs(float(torch.tensor(scores).mean())) < 4 * 1.18 / math.sqrt(20)


def test_standard_errors_of_labels_of_words_are_over_words() -> None:
    """Words drawn anew: what leaving out words says is what the value does; leaving out samples says far less."""
    values, by_word, by_sample = [], [], []
    for seed in range(60):
        generator = torch.Generator().manual_seed(seed)
        tokens = torch.randint(0, 60, (80, 6), generator=generator)
        tags = torch.arange(60) % 3
        vectors = torch.randn(60, 5, generator=generator) + 1.5 * torch.eye(5)[tags]
        z = vectors[tokens] + 0.1 * torch.randn(80, 6, 5, generator=generator)
        for unit, said in (("word", by_word), ("position", by_sample)):
            metric = SoftStructure(["x"], jackknife=20, shuffles=0, num_points=30, units={"x": unit})
            metric.update(z, labels={"x": tags[tokens], "token": tokens})
            found = metric.compute()
            said.append(float(found["regularity/x/se"]))
        values.append(float(found["regularity/x"]))
    true = float(torch.tensor(values).std())
    assert float(torch.tensor(by_word).mean()) == pytest.approx(true, rel=0.3)
    assert float(torch.tensor(by_sample).mean()) < 0.6 * true
