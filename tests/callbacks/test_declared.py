"""What callbacks declare is what their readings give; analyses of one's own say measures or keys."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from torch import nn
from torchmetrics import Metric

from lightning_interp import (
    NoiseRobustness,
    PhaseEarlyStopping,
    RepresentationMetrics,
    RepresentationStructure,
    TrainingPhases,
    ValidationAnalysis,
)
from lightning_interp.callbacks import Probed, ProbedSite, SentenceProbe
from lightning_interp.metrics import ClassSeparation, Measure, SoftStructure, SpectralGeometry
from lightning_interp.reading.keys import declared
from lightning_interp.reading.reading import Reading
from tests.callbacks import recipes
from tests.callbacks.recipes import ANALYSES, SITE
from tests.toy import Tagger, loader, trainer


def captured(analysis: ValidationAnalysis) -> dict[str, object]:
    """What its readings give from now on."""
    given: dict[str, object] = {}
    finish = analysis.finish

    def kept(reading: Reading) -> Mapping[str, torch.Tensor | float]:
        found = finish(reading)
        given.clear()
        given.update(found)
        return found

    analysis.finish = kept  # type: ignore[method-assign]
    return given


@pytest.mark.parametrize("name", ANALYSES)
def test_readings_give_what_is_declared(tmp_path: Path, name: str) -> None:
    analysis, model = recipes.analysis(name), Tagger()
    given = captured(analysis)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer(tmp_path, [analysis], max_epochs=2).fit(model, loader(24), loader(24, seed=1))
    assert analysis.failed == 0
    levels = analysis.measures(model)
    assert {*given} <= {*levels}
    conditional = analysis.conditional_keys(model)
    assert [key for key in levels if key not in given and analysis.full_key(key) not in conditional] == []
    assert {*analysis.reading} <= {analysis.full_key(key) for key in given} | {f"{analysis.prefix}seconds/{name}"}


@pytest.mark.parametrize("name", ANALYSES)
def test_keys_levels_and_fallbacks_are_those_of_the_declared_measures(name: str) -> None:
    analysis, model = recipes.analysis(name), Tagger()
    whole = declared(analysis, model)
    assert {key: one.measure.level for key, one in whole.items()} == analysis.measures(model)
    assert all(one.measure.says and one.measure.title for one in whole.values())
    known = {analysis.full_key(key) for key in whole}
    for key, other in analysis.conditional_keys(model).items():
        assert key in known
        assert other in known | {""}
        assert other not in analysis.conditional_keys(model)


# ------------------------------------------------- analyses of one's own


class Heads(ValidationAnalysis):
    """Declares a measure of heads, one that may be undefined, and draws nothing of its own."""

    def __init__(self, **kwargs: object) -> None:
        super().__init__(**{"write_csv": False, **kwargs})
        self.names = ["<site>"]

    def declares(self) -> list[Measure]:
        return [
            Measure("my_entropy", "entropy of heads", "Mean entropy.", ("site", "head"), unit="nats", better="lower"),
            Measure("my_ratio", of=("site", "head"), instead="my_entropy"),
            Measure("my_count", says="How many.", level="full", bookkeeping=True),
            Measure("my_total", says="All of it.", of=(), better="higher"),
        ]

    def axes(self, model: nn.Module | None = None) -> dict[str, Sequence[str]]:
        return {"site": ["enc", "dec"] if model is not None else self.names, "head": ["0", "1", "2"]}

    def resolve(self, model: nn.Module) -> None:
        self.names = ["enc", "dec"]

    def after_batch(self, seen: object) -> None: ...

    def finish(self, reading: object) -> dict[str, float]:
        return {key: 0.1 * number for number, key in enumerate(self.measures())}


def test_an_analysis_of_ones_own_says_its_measures_once(tmp_path: Path) -> None:
    analysis = Heads(prefix="own/")
    assert analysis.measures()["my_entropy/<site>/2"] == "summary"
    model = Tagger()
    assert [*analysis.charts(model)] == ["entropy of heads", "my ratio", "my total"]
    assert analysis.charts(model)["entropy of heads"] == [f"my_entropy/{s}/{h}" for s in ("enc", "dec") for h in "012"]
    assert analysis.conditional_keys(model)["own/my_ratio/dec/1"] == "own/my_entropy/dec/1"
    early = EarlyStopping("own/my_ratio/dec/1")
    with pytest.raises(ValueError, match=r"undefined at some readings.*Use 'own/my_entropy/dec/1' instead"):
        trainer(tmp_path, [analysis, early]).fit(model, loader(8), loader(8))


def test_what_has_several_values_is_drawn_as_a_heat_map(tmp_path: Path) -> None:
    analysis = Heads()
    assert analysis.figures() == {}
    trainer(tmp_path, [analysis], max_epochs=2).fit(Tagger(), loader(8), loader(8))
    pictures = analysis.figures()
    assert [*pictures] == ["my_entropy/enc", "my_entropy/dec", "my_ratio/enc", "my_ratio/dec"]
    (axes, bar) = pictures["my_entropy/dec"]().axes
    assert axes.get_title() == "entropy of heads, dec"
    assert [one.get_text() for one in axes.get_yticklabels()] == ["0", "1", "2"]
    assert bar.get_ylabel() == "nats"


class ByKeys(Heads):
    """Says its keys alone."""

    def declares(self) -> list[Measure]:
        return []

    def measures(self, model: nn.Module | None = None) -> dict[str, str]:
        return {"prediction_entropy": "summary", "rankme/enc": "full", "rows/enc": "full"}


def test_an_analysis_may_say_its_keys_alone(tmp_path: Path) -> None:
    analysis = ByKeys(log="full")
    trainer(tmp_path, [analysis], max_epochs=1).fit(Tagger(), loader(8), loader(8))
    assert analysis.charts() == {"prediction_entropy": ["prediction_entropy"], "RankMe": ["rankme/enc"]}
    assert analysis.conditional_keys() == {}
    assert analysis.figures() == {}
    assert analysis.reading["prediction_entropy"] == 0.0


def test_one_that_says_neither_is_told(tmp_path: Path) -> None:
    class Neither(Heads):
        def declares(self) -> list[Measure]:
            return []

    with pytest.raises(NotImplementedError, match=r"Neither declares no measures: fill in `declares\(\)` and"):
        trainer(tmp_path, [Neither()]).fit(Tagger(), loader(8), loader(8))


class Length(Metric):
    """A metric of another package."""

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.zeros(()), dist_reduce_fx="sum")

    def update(self, representations: torch.Tensor) -> None:
        self.total += representations.norm()

    def compute(self) -> torch.Tensor:
        return self.total


def test_metrics_with_other_label_sets_each_go_together() -> None:
    callback = RepresentationMetrics(
        {"soft": SoftStructure(["token"]), "apart": ClassSeparation(["tags"]), "own": Length()}, SITE, labels=["tags"]
    )
    keys = callback.measures()
    expected = [*SoftStructure(["token"]).measures, *ClassSeparation(["tags"]).measures, "own"]
    at_site = {"/".join([first, "enc", *rest]) for first, *rest in (key.split("/") for key in expected)}
    assert {*keys} == at_site
    assert keys["own/enc"] == "summary"


class WithKeys(SpectralGeometry):
    """A metric of this package to which a user adds a key."""

    @property
    def measures(self) -> dict[str, str]:
        return {**super().measures, "mine": "full"}


def test_a_key_that_is_added_to_a_metric_counts() -> None:
    callback = RepresentationMetrics(WithKeys(), SITE)
    assert callback.measures()["mine/enc"] == "full"
    assert callback.conditional_keys() == {
        f"{one}/enc": "effective_rank/enc" for one in ("alpha", "alpha_r2", "curvature")
    }
    assert "effective rank" in callback.charts()


class OwnProbe(SentenceProbe):
    """A probe of a user's, who says keys."""

    def probe_measures(self) -> dict[str, str]:
        return {"my_probe/a": "summary", "my_loss": "full"}

    def compared(self) -> list[str]:
        return ["my_probe/a"]

    def evaluate(self, site: str, data: ProbedSite, kept: torch.Tensor | None) -> Probed:
        return Probed({"my_probe/a": float(data.vectors.std()), "my_loss": 1.0})


def test_a_probe_may_say_its_keys_alone(tmp_path: Path) -> None:
    probe = OwnProbe(["a b", "b c d"], SITE, tokenizer=recipes.letter_words, draw_figures=False)
    assert probe.measures() == {
        "my_probe/enc/a": "summary",
        "my_loss/enc": "full",
        "my_probe_baseline/enc/a": "full",
        "my_probe_above_baseline/enc/a": "summary",
        "nonfinite/enc/vectors": "full",
    }
    trainer(tmp_path, [probe], max_epochs=1).fit(Tagger(), loader(8), loader(8))
    reading = probe.reading
    assert reading["my_probe_above_baseline/enc/a"] == reading["my_probe/enc/a"] - reading["my_probe_baseline/enc/a"]
    with pytest.raises(NotImplementedError, match=r"neither `site_measures\(\)` nor `probe_measures\(\)`"):
        SentenceProbe(["a b"], SITE, tokenizer=recipes.letter_words).measures()
    built_in = recipes.analysis("StructuralProbe")
    assert isinstance(built_in, SentenceProbe)
    assert list(built_in.compared()) == ["uuas", "dspr", "root_accuracy", "nspr"]
    assert built_in.probe_measures()["uuas_above_chain"] == "summary"


# ------------------------------------------------- which way is better


def noise(**kwargs: object) -> NoiseRobustness:
    monitors = {"val_loss": "loss", "val_acc": "score"}
    chosen = {"monitors": monitors, "scales": (0.5,), "draw_figures": False, **kwargs}
    return NoiseRobustness({"emb": "embedding"}, **chosen)


def fit(folder: Path, callbacks: Sequence[pl.Callback], **settings: object) -> pl.Trainer:
    run = trainer(folder, [*callbacks], **{"max_epochs": 1, **settings})
    run.fit(Tagger(), loader(24), loader(24, seed=1))
    return run


@pytest.mark.parametrize(
    ("key", "mode"),
    [
        ("robustness/emb/val_loss", "max"),
        ("under_noise/emb/val_loss", "min"),
        ("under_noise/emb/val_acc", "max"),
        ("noisy/emb/val_loss/0.5", "min"),
        ("regularity_above_chance/enc/token", "max"),
        ("own/my_entropy/enc/1", "min"),
        ("own/my_total", "max"),
        ("val_loss", "max"),  # the model's own: as ever
    ],
)
def test_a_gate_on_phases_knows_which_way_is_better(tmp_path: Path, key: str, mode: str) -> None:
    structure = RepresentationStructure(SITE, ["token"], min_count=2, draw_figures=False)
    gate = PhaseEarlyStopping(key, patience=1000)
    fit(tmp_path, [gate, TrainingPhases(draw_figures=False), noise(log="full"), structure, Heads(prefix="own/")])
    assert gate._rule.mode == mode
    assert "'mode': 'max'" in gate.state_key  # as in checkpoints of before


class Gap(Heads):
    """A gap, less of which is better, that follows a curve."""

    def __init__(self, curve: Callable[[int], float]) -> None:
        super().__init__(draw_figures=False)
        self.curve = curve

    def declares(self) -> list[Measure]:
        return [Measure("gap", says="Gap.", of=(), better="lower")]

    def finish(self, reading: Reading) -> dict[str, float]:
        assert reading.step is not None
        return {"gap": self.curve(reading.step)}


@pytest.mark.parametrize(("curve", "stops"), [(lambda step: step, True), (lambda step: -step, False)])
def test_a_gate_without_a_mode_stops_when_the_key_gets_worse(
    tmp_path: Path, curve: Callable[[int], float], stops: bool
) -> None:
    gate = PhaseEarlyStopping("gap", patience=2, phase=1)
    chosen = [gate, TrainingPhases(improving=["gap"], draw_figures=False), Gap(curve)]
    run = fit(tmp_path, chosen, max_epochs=2, val_check_interval=1)
    assert run.global_step == (3 if stops else 6)


def test_a_mode_that_is_given_counts(tmp_path: Path) -> None:
    gate = PhaseEarlyStopping("robustness/emb/val_acc", mode="min", patience=1000)
    fit(tmp_path, [gate, TrainingPhases(draw_figures=False), noise()])
    assert gate._rule.mode == "min"
    assert "'mode': 'min'" in gate.state_key


@pytest.mark.parametrize("key", ["information/enc", "regularity_chance/enc/token", "phase/current"])
def test_where_neither_way_is_better_a_gate_asks(tmp_path: Path, key: str) -> None:
    structure = RepresentationStructure(SITE, ["token"], min_count=2, draw_figures=False, log="full")
    chosen = [PhaseEarlyStopping(key), TrainingPhases(improving={"val_acc": "max"}, draw_figures=False), structure]
    with pytest.raises(ValueError, match=f"'{key}', .*neither way is better in itself: give `mode='max'` or `mode='mi"):
        fit(tmp_path, chosen)


def test_what_may_improve_is_a_list_of_keys_that_say_which_way(tmp_path: Path) -> None:
    keys = ["robustness/emb/val_acc", "under_noise/emb/val_loss"]
    phases = TrainingPhases(improving=keys, draw_figures=False)
    assert phases.followed() == ["val_loss", *keys]
    fit(tmp_path, [phases, noise()])
    assert phases._improving == {"robustness/emb/val_acc": "max", "under_noise/emb/val_loss": "min"}
    by_default = TrainingPhases(draw_figures=False)
    fit(tmp_path, [by_default, noise()])
    assert by_default._improving == dict.fromkeys(["robustness/emb/val_loss", "robustness/emb/val_acc"], "max")


@pytest.mark.parametrize(
    ("key", "text"),
    [
        (
            "val_acc",
            r"lists \['val_acc'\], which no callback of this library logs.*mapping from each key to 'min' or",
        ),
        ("robustness/emb/acc", "no callback of this library logs.*Nearest keys that do: 'robustness/emb/val_acc'"),
        ("rankme/enc", "'rankme/enc', RankMe, of which neither way is better in itself: give `improving` as a mapping"),
    ],
)
def test_a_list_of_keys_that_do_not_say_is_refused(tmp_path: Path, key: str, text: str) -> None:
    chosen = [TrainingPhases(improving=[key], draw_figures=False), noise(), recipes.analysis("RepresentationGeometry")]
    with pytest.raises(ValueError, match=text):
        fit(tmp_path, chosen)
    with pytest.raises(ValueError, match="`improving` must be a mapping or a list of keys, got the string 'val_acc'"):
        TrainingPhases(improving="val_acc")
    with pytest.raises(ValueError, match="`improving` is empty"):
        TrainingPhases(improving=[])


@pytest.mark.parametrize("kind", [EarlyStopping, ModelCheckpoint])
@pytest.mark.parametrize(
    ("key", "better"),
    [("under_noise/emb/val_acc", "max"), ("under_noise/emb/val_loss", "min"), ("own/my_total", "max")],
)
def test_a_plain_gate_that_is_set_the_wrong_way_is_told_once(tmp_path: Path, kind: type, key: str, better: str) -> None:
    for mode in ("min", "max"):
        gate = kind(monitor=key, mode=mode)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            fit(tmp_path, [gate, noise(), Heads(prefix="own/")], enable_checkpointing=True, max_epochs=2)
        said = [str(one.message) for one in caught if "monitors" in str(one.message)]
        assert len(said) == (mode != better)
        assert all(f"is better: give mode='{better}'" in one for one in said)


def test_where_neither_way_is_better_both_are_taken(tmp_path: Path) -> None:
    for mode in ("min", "max"):
        gate = EarlyStopping("effective_rank/enc", mode=mode)
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=".*monitors.*")
            fit(tmp_path, [gate, recipes.analysis("RepresentationGeometry")])
