"""No argument is without effect in silence: what nothing takes is refused, and what does not fit is said."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, get_type_hints

import pytest
import torch
from torch import Tensor, nn
from torchmetrics import Metric

import lightning_interp
from lightning_interp import (
    ClozeFacts,
    ConfidenceCalibration,
    CoordinateProbe,
    MinimalPairs,
    NoiseRobustness,
    RepresentationGeometry,
    RepresentationMetrics,
    RepresentationStructure,
    StructuralProbe,
    TaskSpace,
    TruthProbe,
    ValidationAnalysis,
    analyze,
)
from lightning_interp.batches import Predictions
from lightning_interp.parts.site_args import SiteArgs
from lightning_interp.probing import planted_places
from lightning_interp.probing.statements import Statement
from lightning_interp.reading.argument_names import argument_names
from lightning_interp.tasks import Fact

ANALYSES = [
    one
    for one in (getattr(lightning_interp, name) for name in lightning_interp.__all__)
    if isinstance(one, type) and issubclass(one, ValidationAnalysis)
]
LOSS = {"monitors": {"val_loss": "loss"}}
STATEMENTS = [Statement(f"{name} is {word}.", word == "big", name) for name in "abc" for word in ("big", "small")]


def _spoken(batch: Any, output: Any) -> tuple[Tensor, Tensor]:
    return torch.ones(2), torch.ones(2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NoiseRobustness("emb", **LOSS, call="first"), "`call='first'` says how `drift` is read"),
        (lambda: NoiseRobustness("emb", **LOSS, num_tokens=9), "`num_tokens=9` is for kind='tokens'"),
        (
            lambda: NoiseRobustness("emb", **LOSS, kind="tokens", relative="dimension"),
            "`relative='dimension'` is the size of Gaussian noise",
        ),
        (lambda: NoiseRobustness("emb", **LOSS, kind="tokens", layout="BTD"), "`layout` is of what sites return"),
        (lambda: NoiseRobustness("emb", **LOSS, kind="tokens", output=0), "`output` is of what sites return"),
        (lambda: Predictions(output="logits", call="last"), "`call='last'` says which call of a site"),
        (lambda: ConfidenceCalibration(output="logits", call="first"), "`call='first'` says which call of a site"),
        (lambda: ConfidenceCalibration(confidence=_spoken, ignore_index=0), "`ignore_index` says how to read logits"),
        (lambda: ConfidenceCalibration(confidence=_spoken, class_dim=1), "`class_dim` says how to read logits"),
        (lambda: ConfidenceCalibration(confidence=_spoken, call="last"), "`call` says how to read logits"),
        (
            lambda: RepresentationStructure("enc", bins=30),
            "`bins=30` is for estimator='binned', and `estimator` is 'soft'",
        ),
        (lambda: RepresentationStructure("enc", correction="miller_madow"), "`correction='miller_madow'` is for"),
        (
            lambda: RepresentationStructure("enc", estimator="binned", num_points=50),
            "`num_points=50` is for estimator='soft', and `estimator` is 'binned'",
        ),
        (lambda: RepresentationStructure("enc", estimator="binned", center=True), "`center=True` is for"),
        (
            lambda: RepresentationGeometry("enc", labels=["token"]),
            r"`labels` \['token'\] go to metrics that take labels",
        ),
        (
            lambda: RepresentationStructure("enc", labels={"kind": "word"} | {"own": ["a", "b"]}),
            r"`labels\['own'\]` must",
        ),
        (lambda: RepresentationStructure("enc", labels={"own": torch.tensor(3)}), r"`labels\['own'\]` must have"),
    ],
)
def test_what_has_no_effect_is_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


OF_ITS_OWN = {
    "TaskSpace": lambda **kwargs: TaskSpace("grammar", **kwargs),
    "MinimalPairs": lambda **kwargs: MinimalPairs("grammar", **kwargs),
    "ClozeFacts": lambda **kwargs: ClozeFacts([Fact("pet", "a ___ .", "cat", ("dog",))], **kwargs),
    "StructuralProbe": lambda **kwargs: StructuralProbe("enc", **kwargs),
    "CoordinateProbe": lambda **kwargs: CoordinateProbe(planted_places(30), "enc", **kwargs),
    "TruthProbe": lambda **kwargs: TruthProbe(STATEMENTS, "enc", **kwargs),
}
"""What reads no validation batch."""


@pytest.mark.parametrize("argument", ["max_examples", "dataloader_idx", "batch_size"])
@pytest.mark.parametrize("name", OF_ITS_OWN)
def test_what_reads_no_validation_batch_has_no_arguments_about_them(name: str, argument: str) -> None:
    assert argument not in argument_names(getattr(lightning_interp, name))
    for value in (4, None):
        with pytest.raises(
            TypeError, match=rf"^{name} has no argument `{argument}`\..* It has: .*`every_n_validations`"
        ):
            OF_ITS_OWN[name](**{argument: value})


@pytest.mark.parametrize(
    ("make", "before", "now"),
    [
        (lambda **kwargs: NoiseRobustness("enc", {"val_loss": "loss"}, **kwargs), "limit_examples", "max_examples"),
        (lambda **kwargs: MinimalPairs("grammar", **kwargs), "pairs_per_task", "max_pairs"),
        (lambda **kwargs: TaskSpace("grammar", **kwargs), "pairs_per_task", "max_pairs"),
        (lambda **kwargs: ClozeFacts("facts.csv", **kwargs), "facts_per_relation", "max_facts"),
    ],
)
def test_an_argument_of_an_earlier_name_is_told_the_name_it_has_now(
    make: Callable[..., object], before: str, now: str
) -> None:
    with pytest.raises(TypeError, match=f"has no argument `{before}`. It is called `{now}` now"):
        make(**{before: 4})


class Six(TruthProbe):
    """Hands on what it likes, and takes nothing."""

    def __init__(self) -> None:
        super().__init__(STATEMENTS, "enc", log="full", pooling="mean", batch_tokens=64)


def test_a_class_of_ones_own_may_hand_on_what_its_users_cannot_give() -> None:
    assert (Six().log_level, Six().sentences.pooling) == ("full", "mean")
    assert argument_names(Six) == ()


def _all_of(kind: type) -> set[str]:
    """Every name in a signature of a class or its bases, or handed on to what reads sites."""
    inits = [vars(base)["__init__"] for base in kind.__mro__ if "__init__" in vars(base)]
    return {name for one in inits for name in inspect.signature(one).parameters} | set(get_type_hints(SiteArgs))


@pytest.mark.parametrize("kind", ANALYSES, ids=lambda kind: kind.__name__)
def test_what_an_editor_is_told_of_is_there(kind: type) -> None:
    assert "every_n_validations" in argument_names(kind)
    assert set(argument_names(kind)) <= _all_of(kind)


class Mean(Metric):
    """Takes no mask."""

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.zeros(()), dist_reduce_fx="sum")

    def update(self, representations: Tensor) -> None:
        self.total += representations.sum()

    def compute(self) -> Tensor:
        return self.total


class Text(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.emb, self.pool = nn.Embedding(9, 4), nn.AvgPool1d(2)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        z: Tensor = self.emb(batch["input_ids"])
        return self.pool(z.transpose(1, 2))


IDS = torch.tensor([[3, 4, 5, 6], [3, 4, 0, 0]])
PADDED = [{"input_ids": IDS, "attention_mask": (IDS != 0).long()}]


def test_a_metric_without_a_mask_reads_no_padding() -> None:
    run = lambda net, batch: net(batch)  # noqa: E731
    with pytest.raises(
        ValueError, match=r"`update` of `metrics\['mean'\]` takes no `mask`, and 2 of 8 vectors"
    ) as error:
        analyze(Text(), PADDED, RepresentationMetrics({"mean": Mean()}, "emb"), forward=run)
    assert "site 'emb'" in str(error.value)
    model = Text()
    callback = RepresentationMetrics({"mean": Mean()}, "emb", pooling="first")
    assert analyze(model, PADDED, callback, forward=run)["mean/emb"] == pytest.approx(float(model.emb(IDS[:, 0]).sum()))


def test_noise_where_positions_are_others_than_those_that_are_known_is_said() -> None:
    run = lambda net, batch: net(batch)  # noqa: E731
    callback = NoiseRobustness({"pool": "pool"}, (0.5,), drift={"emb": "emb"}, start=None, skip_positions=1)
    with pytest.warns(UserWarning, match="site 'pool' has 2 positions a sample, and the batch tells of 4"):
        analyze(Text(), PADDED, callback, forward=run)
