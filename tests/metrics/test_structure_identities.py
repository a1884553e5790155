"""What must hold whatever the data: identities, and changes of the input that change nothing."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference.readings import Reading, assert_values, random_reading, random_split

from lightning_interp.functional import reference_points
from lightning_interp.metrics import BinnedStructure, SoftStructure

LABELS = ("token", "bigram", "trigram", "flat_bigram", "next_token", "tag", "marks")
KINDS = [SoftStructure, BinnedStructure]
AVERAGES = ["frequency", "plain"]

readings = st.builds(
    random_reading,
    seed=st.integers(0, 10**6),
    sequences=st.integers(4, 14),
    length=st.integers(2, 7),
    dim=st.sampled_from([2, 3, 6, 70]),
    vocabulary=st.integers(1, 4),
    effect=st.sampled_from([0.0, 1.0]),
    holes=st.booleans(),
)


def values_of(kind: Any, reading: Reading, **options: Any) -> dict[str, float]:
    options = {"labels": LABELS, "shuffles": 0, "min_count": 2} | options
    return {key: float(value) for key, value in reading.feed(kind(**options)).compute().items()}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("average", AVERAGES)
@given(reading=readings, corrected=st.booleans(), min_count=st.integers(1, 5))
def test_information_is_variation_plus_regularity(kind, average, reading, corrected, min_count):
    if corrected:
        special = {"floor_corrected": True} if kind is SoftStructure else {"correction": "miller_madow"}
    else:
        special = {}
    values = values_of(kind, reading, average=average, min_count=min_count, **special)
    p = kind.prefix
    for name in LABELS:
        whole = f"{p}parent_variation/{name}" if name in ("bigram", "trigram") else f"{p}information/{name}"
        parts = values[f"{p}variation/{name}"] + values[f"{p}regularity/{name}"]
        assert parts == pytest.approx(values[whole], abs=1e-6, nan_ok=True), name


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("average", AVERAGES)
def test_bigram_regularity_is_token_variation_less_bigram_variation_on_the_same_rows(kind, average):
    """The same rows: every position twice, once for each window, where no window is missing or rare."""
    reading = random_reading(0, sequences=60, length=8, vocabulary=3, padding=False)
    pairs = Reading(
        [[words[t], words[t]] for words in reading.words for t in range(1, 7)],
        torch.stack([z[[t, t]] for z in reading.z for t in range(1, 7)]),
        {
            "pair": torch.tensor(
                [
                    [words[t - 1] * 10 + words[t], words[t] * 10 + words[t + 1]]
                    for words in reading.words
                    for t in range(1, 7)
                ]
            )
        },
    )
    inner = Reading(
        reading.words,
        reading.z,
        {
            "window": torch.stack(
                [
                    torch.tensor(
                        [words[t - 1] * 10 + words[t] if 0 < t < 7 else -1 for words in reading.words for t in range(8)]
                    ),
                    torch.tensor(
                        [words[t] * 10 + words[t + 1] if 0 < t < 7 else -1 for words in reading.words for t in range(8)]
                    ),
                ],
                dim=-1,
            ).view(60, 8, 2)
        },
    )
    p = kind.prefix
    bounds = {"bounds": (-4.0, 4.0)} if kind is BinnedStructure else {}
    options = dict(average=average, min_count=1, **bounds)
    nested = values_of(kind, inner, labels=["window"], parents={"window": "token"}, **options)
    flat = values_of(kind, pairs, labels=["token"], **options)
    below = values_of(kind, pairs, labels=["pair"], parents={"pair": "token"}, **options)
    assert nested[f"{p}variation/window"] == pytest.approx(below[f"{p}variation/pair"], abs=1e-6)
    difference = flat[f"{p}variation/token"] - nested[f"{p}variation/window"]
    assert nested[f"{p}regularity/window"] == pytest.approx(difference, abs=1e-6)
    assert nested[f"{p}parent_variation/window"] == pytest.approx(flat[f"{p}variation/token"], abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@given(reading=readings)
def test_values_lie_in_their_ranges(kind, reading):
    values = values_of(kind, reading)
    for key, value in values.items():
        measure = key.removeprefix(kind.prefix).split("/")[0]
        if measure in ("information", "variation", "parent_variation", "regularity", "coverage", "floor"):
            assert math.isnan(value) or -1e-7 <= value <= 1 + 1e-7, key
        if measure == "disentanglement":
            assert math.isnan(value) or -1e-7 <= value <= math.log(2) + 1e-6, key


def test_floor_leaves_regularity_and_disentanglement_as_they_are():
    reading = random_reading(2, sequences=30, effect=1.0)
    raw, corrected = values_of(SoftStructure, reading), values_of(SoftStructure, reading, floor_corrected=True)
    for key, value in raw.items():
        changed = key.split("/")[0] in ("information", "variation", "parent_variation")
        assert (corrected[key] != pytest.approx(value, abs=1e-3)) == changed, key


def test_one_repeated_point_scores_its_floor_and_nothing_after_it():
    z = torch.randn(1, 128, generator=torch.Generator().manual_seed(0)).repeat(60, 1)
    labels = torch.arange(60) % 3
    for corrected in (False, True):
        metric = SoftStructure(["word"], floor_corrected=corrected)
        metric.update(z, labels=labels)
        values = metric.compute()
        assert 0.3 < values["floor"] < 0.6
        expected = 0 if corrected else values["floor"].item()
        for key in ("information", "information/word", "variation/word", "variation_chance/word"):
            assert values[key].item() == pytest.approx(expected, abs=1e-6), key
        for key in ("regularity/word", "disentanglement/word", "regularity_chance/word"):
            assert values[key].item() == pytest.approx(0, abs=1e-6), key


# ---------------------------------------------------------------- what changes nothing


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("average", AVERAGES)
@settings(max_examples=8)
@given(reading=readings, seed=st.integers(0, 1000))
def test_order_of_samples_batches_and_names_of_labels(kind, average, reading, seed):
    expected = values_of(kind, reading, average=average)
    metric = kind(labels=LABELS, shuffles=0, min_count=2, average=average)
    assert_values(reading.feed(metric, random_split(seed, len(reading.words), 5), positions=False).compute(), expected)
    # One-to-one: words, and everything made of them, get other ids in another order.
    renamed = Reading(
        [[None if word is None else (word * 7919 + 13) % 104_729 for word in words] for words in reading.words],
        reading.z,
        {name: torch.where(value >= 0, 1000 - value, value) for name, value in reading.extra.items()},
    )
    assert_values(values_of(kind, renamed, average=average), expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("average", AVERAGES)
@given(reading=readings)
def test_everything_twice(kind, average, reading):
    twice = Reading(
        reading.words * 2,
        torch.cat([reading.z, reading.z]),
        {name: torch.cat([value, value]) for name, value in reading.extra.items()},
    )
    expected = values_of(kind, reading, average=average, min_count=2)
    expected["rows"] *= 2
    assert_values(values_of(kind, twice, average=average, min_count=4), expected)


@given(reading=readings, seed=st.integers(0, 1000))
def test_soft_turning_space_and_points_together_and_scaling_vectors(reading, seed):
    reading.z = reading.z.double()
    generator = torch.Generator().manual_seed(seed)
    dim = reading.z.shape[2]
    expected = values_of(SoftStructure, reading, num_points=20)
    turn = torch.linalg.qr(torch.randn(dim, dim, generator=generator, dtype=torch.float64))[0]
    length = torch.rand(*reading.shape, 1, generator=generator, dtype=torch.float64) + 0.1
    metric = SoftStructure(LABELS, shuffles=0, min_count=2, num_points=20)
    place = (dim, torch.device("cpu"))
    metric._points[place] = reference_points(20, dim).double() @ turn
    turned = Reading(reading.words, reading.z * length @ turn, reading.extra)
    assert_values(turned.feed(metric).compute(), expected)


@given(reading=readings, seed=st.integers(0, 1000))
def test_binned_shifting_and_scaling_dimensions(reading, seed):
    reading.z = reading.z.double()
    expected = values_of(BinnedStructure, reading)
    generator = torch.Generator().manual_seed(seed)
    dim = reading.z.shape[2]
    scale = 10 ** (torch.rand(dim, generator=generator, dtype=torch.float64) * 6 - 3)
    shift = torch.randn(dim, generator=generator, dtype=torch.float64) * 10
    moved = Reading(reading.words, reading.z * scale + shift, reading.extra)
    assert_values(values_of(BinnedStructure, moved), expected)


def test_soft_centred_shifting_changes_nothing():
    reading = random_reading(4, sequences=30, dim=8, dtype=torch.float64)
    expected = values_of(SoftStructure, reading, center=True)
    moved = Reading(reading.words, reading.z + 2.0, reading.extra)
    assert_values(values_of(SoftStructure, moved, center=True), expected, 1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_padding_and_what_stands_in_it_do_not_matter(kind):
    reading = random_reading(5, sequences=20, length=5)
    values = {key: float(v) for key, v in reading.feed(kind(LABELS, jackknife=3)).compute().items()}
    wide = Reading(
        [[*words, None, None, None] for words in reading.words],
        torch.cat([torch.where(reading.mask[..., None], reading.z, 1e30), torch.full((20, 3, 4), math.inf)], dim=1),
        {
            name: value if value.ndim == 1 else torch.cat([value, value[:, :3] + 50], dim=1)
            for name, value in reading.extra.items()
        },
    )
    assert_values(wide.feed(kind(LABELS, jackknife=3)).compute(), values)
