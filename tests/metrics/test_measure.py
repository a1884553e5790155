"""A measure is declared once, and keys, levels and fallbacks follow from it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lightning_interp.distributed import Collective
from lightning_interp.metrics import ClassSeparation, Measure, Projected, RepresentationMetric, SpectralGeometry
from lightning_interp.metrics.derived import (
    ABOVE_BASELINE,
    ABOVE_CHANCE,
    BASELINE,
    BINNED,
    CHANCE,
    DERIVED,
    SPREAD,
    STANDARD_ERROR,
    with_random,
)
from lightning_interp.metrics.measure import FULL, SUMMARY, as_measures, expanded, fallbacks, keys_of
from lightning_interp.metrics.measures import MEASURES
from lightning_interp.reporting.measure_words import measure_words, parse_key

AXES = {"a": ["a1", "a2"], "b": ["b/1", "b/2", "b/3"], "none": [], "c": ["c1"]}
MEASURE = st.builds(
    lambda name, of, level, end: Measure(name, of=tuple(of), level=level, end=end),
    st.sampled_from("uvwxyz"),
    st.lists(st.sampled_from(list(AXES)), unique=True, max_size=3),
    st.sampled_from([SUMMARY, FULL]),
    st.sampled_from(["", "mean", "mean/se"]),
)


@given(st.lists(MEASURE, max_size=8))
def test_keys_are_those_of_every_combination_of_values(measures: Sequence[Measure]) -> None:
    """Slow and obvious: each measure by itself, the last of two with one key."""
    expected = {}
    for one in measures:
        for at in itertools.product(*(AXES[axis] for axis in one.of)):
            expected["/".join([one.name, *at, *filter(None, [one.end])])] = (one.level, at)
    found = expanded(measures, AXES)
    assert {key: (one.measure.level, one.at) for key, one in found.items()} == expected
    assert keys_of(measures, AXES) == {key: level for key, (level, _) in expected.items()}


@given(st.lists(MEASURE, max_size=6, unique_by=lambda one: one.name))
def test_what_shares_its_first_axis_stands_together(measures: Sequence[Measure]) -> None:
    of_a = [Measure(one.name, of=("a", *(axis for axis in one.of if axis != "a"))) for one in measures]
    values = [one.at[0] for one in expanded(of_a, AXES).values()]
    assert values == sorted(values)
    names = [one.measure.name for one in expanded(of_a, AXES).values()]
    assert {*names} <= {one.name for one in measures}


def test_a_fallback_is_of_the_same_place() -> None:
    measures = [
        Measure("value", of=("site", "class")),
        Measure("value", of=("site",), end="mean"),
        Measure("share", of=("site", "class", "scale"), instead="value"),
        Measure("first", of=("site", "class"), instead="value"),
        Measure("forgotten", of=("site",), instead="value/mean"),
        Measure("likeness", of=("site",), instead=""),
    ]
    axes = {"site": ["s", "t"], "class": ["x/y"], "scale": ["1"]}
    assert fallbacks(measures, axes) == {
        **{f"share/{site}/x/y/1": f"value/{site}/x/y" for site in "st"},
        **{f"first/{site}/x/y": f"value/{site}/x/y" for site in "st"},
        **{f"forgotten/{site}": f"value/{site}/mean" for site in "st"},
        **{f"likeness/{site}": "" for site in "st"},
    }


@pytest.mark.parametrize(
    "others", [[], [Measure("value", of=("label",))], [Measure("value", instead="")], [Measure("values")]]
)
def test_a_fallback_that_is_not_there_is_refused(others: list[Measure]) -> None:
    with pytest.raises(ValueError, match="`instead` of 'share' is 'value', and no measure of that name is always def"):
        fallbacks([Measure("share", instead="value"), *others], {"site": ["s"], "label": ["l"]})


def test_a_measure_refuses_what_it_cannot_be() -> None:
    for change, error, text in (
        ({"level": "some"}, ValueError, "`level` of 'm' must be 'summary' or 'full', got 'some'"),
        ({"better": "max"}, ValueError, "`better` of 'm' must be one of .* got 'max'"),
        ({"of": "site"}, TypeError, "must be a tuple of names of axes, got the string 'site'"),
    ):
        with pytest.raises(error, match=text):
            Measure("m", **change)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="`name` of a Measure is empty"):
        Measure("")
    with pytest.raises(ValueError, match=r"'m' is of \['site'\], got the values \[\]"):
        Measure("m").key()
    with pytest.raises(ValueError, match=r"'m' is of 'head', and the axes are \['site'\]"):
        keys_of([Measure("m", of=("site", "head"))], {"site": ["s"]})


REGULARITY = MEASURES["regularity"]


def test_what_is_derived_is_one_call() -> None:
    chance = CHANCE.of(REGULARITY)
    assert (chance.name, chance.level, chance.better, chance.bookkeeping) == (
        "regularity_chance",
        FULL,
        "neither",
        True,
    )
    above = BINNED.of(ABOVE_CHANCE.of(REGULARITY))
    assert above.key("enc", "token") == "binned_regularity_above_chance/enc/token"
    assert (above.level, above.better, above.title) == (SUMMARY, "higher", "regularity, binned, above chance")
    assert SPREAD.of(chance).key("enc", "token") == "regularity_chance/enc/token/sd"
    mean = MEASURES["pairs_accuracy"].at(end="mean")
    assert STANDARD_ERROR.of(mean).key() == "pairs_accuracy/mean/se"
    assert BINNED.of(Measure("ratio", instead="value")).instead == "binned_value"


def test_random_weights_stand_behind_what_is_beside_them() -> None:
    score, loss = Measure("score", beside_random=True), Measure("loss")
    found = with_random([score, loss])
    assert found == [score, loss, BASELINE.of(score), ABOVE_BASELINE.of(score)]
    assert [one.level for one in found] == [SUMMARY, SUMMARY, FULL, SUMMARY]
    assert with_random(with_random([loss])) == [loss]


def test_a_derived_measure_is_what_its_key_says() -> None:
    """What is built and what is told of the key agree, for everything that can be made of every measure."""
    made = [one for one in DERIVED if one not in (SPREAD, STANDARD_ERROR)]
    for measure in MEASURES.values():
        if "/" in measure.name or not measure.of:
            continue
        for first in made:
            for second in (None, SPREAD, STANDARD_ERROR):
                whole = first.of(measure) if second is None else second.of(first.of(measure))
                if whole.name in MEASURES or (measure.name, whole.name) == ("cloze_chance", "cloze_chance"):
                    continue
                key = whole.key(*(f"v{number}" for number, _ in enumerate(whole.of)))
                told, parsed = measure_words(key), parse_key(key)
                assert told is not None
                assert parsed is not None
                assert parsed.parts == tuple(f"v{number}" for number, _ in enumerate(whole.of)) + tuple(
                    [measure.end] if measure.end else []
                )
                for what in ("name", "title", "says", "none", "better", "derived", "bookkeeping"):
                    assert getattr(told, what) == getattr(whole, what), (key, what)


def test_every_measure_of_the_table_can_be_declared_as_it_stands() -> None:
    for measure in MEASURES.values():
        assert measure.key(*(f"<{axis}>" for axis in measure.of)).startswith(measure.name)
        assert measure.detail_of == "" or measure.detail_of in MEASURES, measure.name
        stand_in = (measure.instead or "").partition("/")[0]
        assert stand_in == "" or MEASURES[stand_in].instead is None, measure.name


# ------------------------------------------------- metrics


class Norm(RepresentationMetric):
    """A metric of a user's who declares what it gives."""

    def declares(self) -> list[Measure]:
        share = Measure("share_long", "share of long vectors", of=("site", "limit"), level=FULL, instead="norm")
        return [Measure("norm", says="Mean length.", unit="length"), share]

    @property
    def axes(self) -> dict[str, list[str]]:
        return {"limit": ["1", "2"]}

    def update(self, representations: Tensor) -> None: ...

    def merge(self) -> Collective[dict[str, Tensor]]:
        yield from ()
        return {key: torch.tensor(0.0) for key in self.measures}


class NormByKeys(Norm):
    """Another, who says keys."""

    @property
    def measures(self) -> dict[str, str]:
        return {"norm": FULL, "norm/mine": SUMMARY}

    @property
    def conditional(self) -> dict[str, str]:
        return {"norm/mine": "norm"}


def test_a_metric_says_measures_or_keys() -> None:
    assert Norm().measures == {"norm": SUMMARY, "share_long/1": FULL, "share_long/2": FULL}
    assert Norm().conditional == {"share_long/1": "norm", "share_long/2": "norm"}
    axes = {"site": ["s"], **Norm().axes}
    assert keys_of(Norm().measures_at(), axes) == {"norm/s": SUMMARY, "share_long/s/1": FULL, "share_long/s/2": FULL}
    by_keys = NormByKeys().measures_at()
    assert keys_of(by_keys, axes) == {"norm/s": FULL, "norm/s/mine": SUMMARY}
    assert fallbacks(by_keys, axes) == {"norm/s/mine": "norm/s"}
    assert by_keys[0].says == "Mean length."  # what is declared of a key counts

    class Neither(RepresentationMetric):
        def update(self, representations: Tensor) -> None: ...

        def merge(self) -> Collective[dict[str, Tensor]]:
            yield from ()
            return {}

    with pytest.raises(NotImplementedError, match="Neither says neither `declares\\(\\)` nor `measures`"):
        _ = Neither().measures


def test_a_projected_metric_names_what_to_monitor_instead() -> None:
    """Its keys are those of the metric behind a prefix, those of the fallbacks too."""
    own = SpectralGeometry()
    for prefix in ("projected_", "p8_"):
        projected = Projected(own, 4, prefix=prefix)
        assert projected.measures == {f"{prefix}{key}": level for key, level in own.measures.items()}
        assert projected.conditional == {f"{prefix}{key}": prefix + other for key, other in own.conditional.items()}
    labels = Projected(ClassSeparation(["tags"]), 4)
    assert labels.measures == {f"projected_{key}": level for key, level in ClassSeparation(["tags"]).measures.items()}


def test_keys_of_others_keep_their_name_as_a_title() -> None:
    (one,) = as_measures({"my_norm/a/b": FULL}, {"my_norm/a/b": ""}, ("site",))
    assert (one.title, one.key("s"), one.instead, one.level) == ("my_norm", "my_norm/s/a/b", "", FULL)
