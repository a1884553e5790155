"""Every measure that is logged has words, and every key a name that a person can read."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from lightning_interp import LayerProbe, MinimalPairs, TaskSpace, ValidationAnalysis
from lightning_interp.metrics.measures import MEASURES
from lightning_interp.reading.loader_names import loader_names
from lightning_interp.reporting.measure_words import describe_key, display_name, measure_words, parse_key
from tests.callbacks import recipes
from tests.toy import Tagger


def analyses() -> dict[str, ValidationAnalysis]:
    found = {name: recipes.analysis(name) for name in recipes.ANALYSES}
    several = LayerProbe({"enc": "encoder", "emb": "embedding"}, ["tags"])
    grammar = TaskSpace("grammar", "grammar", max_pairs=4)
    pairs = MinimalPairs("grammar", "grammar", max_pairs=4, standard_errors=True)
    return {**found, "several sites": several, "grammar": grammar, "pairs of the grammar": pairs}


ANALYSES = analyses()


def logged(name: str) -> tuple[list[str], str]:
    one = ANALYSES[name]
    keys = [*one.measures(Tagger()), *(f"{kind}/{type(one).__name__}" for kind in ("seconds", "failed"))]
    return [one.full_key(key) for key in keys], one.prefix


@pytest.mark.parametrize("name", ANALYSES)
def test_every_measure_of_every_callback_has_words(name: str) -> None:
    keys, prefix = logged(name)
    without = [key for key in keys if measure_words(key, prefix) is None]
    assert not without, f"say what these are in lightning_interp/metrics/measures: {without}"
    # What the prefix is can be told from the key, too, but of measures that have a plain word for a name, or that stand
    # alone: a user's own metric may be called so.
    untold = [key for key in keys if prefix and parse_key(key) is None and "/" in key.removeprefix(prefix)]
    assert untold in ([], [f"own/{one}/enc" for one in ("alpha", "curvature", "rows", "nonfinite")])


@pytest.mark.parametrize("name", ANALYSES)
def test_no_two_keys_have_one_name_and_no_name_is_a_key(name: str) -> None:
    keys, prefix = logged(name)
    named = {key: display_name(key, prefix=prefix) for key in keys}
    twice = {said: [key for key in keys if named[key] == said] for said in named.values()}
    assert not {said: found for said, found in twice.items() if len(found) > 1}
    for key, said in named.items():
        measure, *parts = key.removeprefix(prefix).split("/")
        assert "_" not in measure or measure not in said
        whole = parse_key(key, prefix)
        for part in whole.parts if whole is not None and "/" in whole.measure else parts:
            assert part in said or part in ("sd", "se", "mean"), (key, said)


def test_phases_have_words() -> None:
    for key in [*recipes.phases(False).measures(), "phase/provisional"]:
        assert measure_words(key) is not None, key
    assert display_name("phase/lag/regularity/enc/token") == "lag of regularity of token at enc behind the phase"


def test_words_are_sentences() -> None:
    for name, words in MEASURES.items():
        assert words.says.endswith("."), name
        assert not words.says[0].islower(), name
        assert not words.none or words.none.endswith("."), name
        assert words.title, name
        assert not words.title.endswith("."), name
        assert len(words.says) < 130, name


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("regularity_above_chance/encoder/token", "regularity of token at encoder, above chance"),
        ("binned_regularity_chance/encoder/token/sd", "regularity of token at encoder, binned, chance level, spread"),
        ("effective_rank/encoder", "effective rank at encoder"),
        ("effective_rank/3", "effective rank at site 3"),
        ("geo/effective_rank/encoder", "effective rank at encoder, geo"),
        ("effective_rank/encoder/dataloader_idx_1", "effective rank at encoder, loader 1"),
        ("robustness/input/val/acc", "robustness of val/acc to noise at input"),
        ("retention/input/val/acc/0.25", "share of val/acc kept under noise 0.25 at input"),
        ("drift/input/encoder/0.25", "drift of encoder under noise 0.25 at input"),
        ("under_noise/input/val/loss", "val/loss under noise at input"),
        ("clean/val/loss", "val/loss without noise"),
        ("cka/encoder/first", "similarity (CKA) to the first reading at encoder"),
        ("phase/current", "phase"),
        ("val/loss", "val/loss"),
        ("val/accuracy", "val/accuracy"),
        ("val_loss", "val_loss"),
        ("phase/of_the_moon", "phase/of_the_moon"),
        ("rankme", "rankme"),
        ("val_loss/dataloader_idx_1", "val_loss, loader 1"),
        ("val/loss/dataloader_idx_0", "val/loss, loader 0"),
    ],
)
def test_names(key: str, said: str) -> None:
    assert display_name(key).startswith(said)


def test_names_of_loaders_and_sites() -> None:
    loaders = ["seen", "new"]
    assert display_name("val/loss/dataloader_idx_1", loaders) == "val/loss, new"
    assert display_name("val/loss/dataloader_idx_2", loaders) == "val/loss, loader 2"
    assert display_name("rankme/enc/dataloader_idx_1", loaders) == "RankMe at enc, new"
    assert display_name("accuracy/test", sites={"head"}) == "accuracy/test"
    assert display_name("accuracy/head", sites={"head"}) == "accuracy at head"
    assert display_name("pairs_accuracy/mean", sites={"head"}) == "accuracy on pairs, mean"
    assert display_name("run_rankme/enc", prefix="run_") == "RankMe at enc, run"


def test_names_of_loaders_come_from_who_says_them() -> None:
    module, data = SimpleNamespace(), SimpleNamespace(val_loader_names=("seen", "new"))
    assert loader_names(module, data) == ["seen", "new"]
    assert loader_names(SimpleNamespace(val_loader_names=["a"]), data) == ["a"]
    assert loader_names(module, None) is None
    for wrong in ("seen", [1, 2], 3, lambda: ["seen"]):
        with pytest.raises(TypeError, match="val_loader_names` must be a list of names"):
            loader_names(SimpleNamespace(val_loader_names=wrong))


def test_a_derived_measure_says_what_it_is_derived_of() -> None:
    above = measure_words("binned_regularity_above_chance/enc/token")
    assert above is not None
    assert (above.title, above.better, above.none) == (
        "regularity, binned, above chance",
        "higher",
        "0 where there is nothing but chance.",
    )
    error = measure_words("proximity_error_above_baseline/enc")
    assert error is not None
    assert error.better == "lower"
    assert "Neither way is better" in describe_key("regularity_chance/enc/token/sd")
    assert describe_key("val_loss") == ""
