"""How each exported callback is made for the toy model, and what is particular about it: what a battery must know."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytorch_lightning as pl
import torch
from torch import nn

import lightning_interp
from lightning_interp import (
    AcquisitionByClass,
    AttentionBudget,
    AttentionStructure,
    CausalTrace,
    ClozeFacts,
    ConfidenceCalibration,
    CoordinateProbe,
    DirectionTracker,
    ElicitedConfidence,
    FactTracker,
    Faithfulness,
    InductionHeads,
    InputAblation,
    LabelAnchors,
    LanguageModel,
    LayerLens,
    LayerProbe,
    MinimalPairs,
    NeuronTable,
    NoiseRobustness,
    PatchAblation,
    PhaseEarlyStopping,
    RepresentationDrift,
    RepresentationGeometry,
    RepresentationMetrics,
    RepresentationStructure,
    SelfInfluence,
    SourceInfluence,
    StructuralProbe,
    TaskSpace,
    TrainingPhases,
    TruthProbe,
    ValidationAnalysis,
    ValidationSchedule,
)
from lightning_interp.batches.contents import look_up
from lightning_interp.metrics import SpectralGeometry
from lightning_interp.probing import Entities, Statement
from lightning_interp.probing.treebank import Sentence
from lightning_interp.tasks import Fact, Question, Task
from tests.toy import VOCABULARY, loader

SITE = {"enc": "encoder"}
LETTERS = "abcdefghijk"


def phases(draw: bool) -> TrainingPhases:
    return TrainingPhases(improving={"val_acc": "max"}, strict=False, draw_figures=draw)


def tasks() -> list[Task]:
    """Words are letters; what differs is the last of them."""
    ends = {"a": ("bc", "one"), "d": ("ef", "one"), "g": ("hi", "two"), "h": ("ij", "two")}
    pairs = {start: [(f"{start}{x}{g}", f"{start}{x}{b}") for x in "abcdef"] for start, ((g, b), _) in ends.items()}
    return [Task(start, ends[start][1], tuple(found)) for start, found in pairs.items()]


def letters(sentence: str) -> list[int]:
    return [0, *(ord(letter) - 96 for letter in sentence)]


def treebank() -> list[Sentence]:
    """Words are letters; each hangs on the one before it, on the first, or on the last."""
    heads = [(-1, 0, 1, 2, 3, 4), (-1, 0, 0, 0, 0, 0), (5, 5, 5, 5, 5, -1)]
    return [Sentence(tuple("abcdefghijk"[n % 5 : n % 5 + 6]), ("X",) * 6, heads[n % 3]) for n in range(15)]


def entities() -> Entities:
    """Names are pairs of letters; where they lie has to do with both."""
    names = [(a, b) for a in range(5) for b in range(5, 11)]
    places = torch.tensor([[a + 0.3 * b, a * b % 7] for a, b in names])
    blocks = [str(a) for a, _ in names]
    return Entities(tuple(f"{LETTERS[a]} {LETTERS[b]}" for a, b in names), places, ("north", "east"), tuple(blocks))


def statements() -> list[Statement]:
    """Three letters each, of four topics; the last but one denies."""
    kinds = [(a, b, c) for a in range(4) for b in range(4, 8) for c in range(8, 11)]
    return [
        Statement(f"{LETTERS[b]} {LETTERS[a]} {LETTERS[c]}", (b + c) % 2 == 0, str(a), negated=b > 5)
        for a, b, c in kinds
    ]


def ids_of(batch: Any) -> torch.Tensor:
    """Of a batch with keys or with attributes."""
    found: torch.Tensor = look_up(batch, "input_ids", "tokens")
    return found


def begins_low(batch: Any) -> torch.Tensor:
    return ids_of(batch)[:, 0] < 6


def tagged(model: nn.Module, batch: Any) -> torch.Tensor:
    found: torch.Tensor = model(ids_of(batch))
    return found


def self_influence(**kwargs: Any) -> SelfInfluence:
    return SelfInfluence(
        "head",
        flags=begins_low,
        target="tags",
        mask="attention_mask",
        max_examples=20,
        forward=tagged,
        **kwargs,
    )


def source_influence(**kwargs: Any) -> SourceInfluence:
    return SourceInfluence(
        begins_with,
        {"low": 1, "high": 0},
        queries={"all": None, "right": loss_of_tags},
        data=sequences(),
        target="tags",
        mask="attention_mask",
        max_queries=16,
        forward=tagged,
        step_effect=True,
        **kwargs,
    )


def sequences() -> list[Any]:
    return list(loader(20, batch_size=5))


def begins_with(batch: Any) -> torch.Tensor:
    return begins_low(batch).long()


def loss_of_tags(model: nn.Module, batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
    logits, mask = tagged(model, batch), look_up(batch, "attention_mask", "mask")
    losses = nn.functional.cross_entropy(logits.movedim(-1, 1), look_up(batch, "tags", "target"), reduction="none")
    return (losses * mask).sum(1), mask.sum(1)


FACTS = [Fact("next", f"{start}b___", "cd"[place % 2], ("c", "d", "e")) for place, start in enumerate("abfgh")]


ABOUT = [Fact(one.relation, one.prompt, one.answer, one.candidates, one.prompt[:2]) for one in FACTS]


QUESTIONS = [Question(f"{start}b", "cd"[place % 2], ("c", "d", "ee")) for place, start in enumerate("abfgh")]


def say(model: nn.Module, prompts: list[str]) -> list[tuple[str | None, float | None]]:
    """One of the letters of each prompt, or nothing, and a confidence that hangs on the model and on chance."""
    drawn = torch.rand(len(prompts)).tolist()
    weight = float(next(model.parameters()).detach().abs().mean()) % 1
    return [("cdx"[len(one) * int(9 * p) % 3], min(1.0, p + weight)) for one, p in zip(prompts, drawn, strict=True)]


def letter_words(text: str) -> list[int]:
    return [ord(word) - 96 for word in text.split()]


def as_language_model(model: nn.Module, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """The tagger with a word for every mixture of tags."""
    logits = model(input_ids)
    return logits @ torch.arange(3.0 * VOCABULARY).view(3, VOCABULARY).cos().to(logits)


def vectors(batch: Any) -> torch.Tensor:
    """Words as vectors, (B, T, vocabulary)."""
    return nn.functional.one_hot(look_up(batch, "input_ids", "inputs"), VOCABULARY).float()


def as_classifier(model: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    """The tagger of such vectors, the mean of what it says of each."""
    weight = model.embedding(torch.arange(VOCABULARY, device=inputs.device))  # type: ignore[operator]
    found: torch.Tensor = model.head(model.encoder(inputs.to(weight) @ weight)).mean(1)  # type: ignore[operator,arg-type]
    return found


MAKE: dict[str, Callable[[bool], list[pl.Callback]]] = {
    "RepresentationStructure": lambda draw: [
        RepresentationStructure(
            SITE,
            ["token", "bigram"],
            min_count=2,
            estimator="both",
            information_plane=["token", "next_token"],
            jackknife=2,
            draw_figures=draw,
        )
    ],
    "RepresentationGeometry": lambda draw: [RepresentationGeometry(SITE, log="full", draw_figures=draw)],
    "RepresentationMetrics": lambda draw: [
        RepresentationMetrics({"own": SpectralGeometry(center=False)}, SITE, prefix="own/", draw_figures=draw)
    ],
    "NoiseRobustness": lambda draw: [
        NoiseRobustness(
            {"emb": "embedding"},
            scales=(0.25, 1.0),
            monitors={"val_loss": "loss", "val_acc": "score"},
            drift=SITE,
            tokens="input_ids",
            draw_figures=draw,
        )
    ],
    "TaskSpace": lambda draw: [
        TaskSpace(tasks, letters, forward=as_language_model, buckets=256, permutations=19, draw_figures=draw)
    ],
    "MinimalPairs": lambda draw: [
        MinimalPairs(tasks, letters, forward=as_language_model, standard_errors=True, draw_figures=draw)
    ],
    "ClozeFacts": lambda draw: [
        ClozeFacts(FACTS, letters, forward=as_language_model, standard_errors=True, draw_figures=draw)
    ],
    "AcquisitionByClass": lambda draw: [
        AcquisitionByClass(
            "head", target="tags", mask="attention_mask", names=["zero", "one", "two"], draw_figures=draw
        )
    ],
    "LayerProbe": lambda draw: [
        LayerProbe(SITE, ["tags"], {"letter": "input_ids"}, min_count=2, codelength=True, draw_figures=draw)
    ],
    "LayerLens": lambda draw: [
        LayerLens(sites={"emb": "embedding", "enc": "encoder"}, head="head", target="tags", tile=9, draw_figures=draw)
    ],
    "StructuralProbe": lambda draw: [
        StructuralProbe(SITE, treebank, tokenizer=letter_words, max_steps=20, draw_figures=draw)
    ],
    "RepresentationDrift": lambda draw: [
        RepresentationDrift(SITE, ["token", "tags"], max_rows=60, neighbors=3, keep_readings=3, draw_figures=draw)
    ],
    "ConfidenceCalibration": lambda draw: [
        ConfidenceCalibration("head", target="tags", mask="attention_mask", max_rows=50, draw_figures=draw)
    ],
    "CoordinateProbe": lambda draw: [
        CoordinateProbe(entities, SITE, tokenizer=letter_words, pooling="mean", draw_figures=draw)
    ],
    "TruthProbe": lambda draw: [
        TruthProbe(
            statements,
            SITE,
            tokenizer=letter_words,
            pooling="mean",
            forward=as_language_model,
            batch_tokens=40,
            draw_figures=draw,
        )
    ],
    "DirectionTracker": lambda draw: [
        DirectionTracker(
            {"early": (["a b c", "b c a", "c b"], ["i j k", "k j", "j h i", "h k"]), "first": torch.eye(8)[0]},
            SITE,
            ["a k", "b j", "d e f"],
            tokenizer=letter_words,
            pooling="mean",
            forward=as_language_model,
            batch_tokens=12,
            draw_figures=draw,
        )
    ],
    "AttentionStructure": lambda draw: [
        AttentionStructure({"att": "embedding.attention"}, track={"att": [0]}, draw_figures=draw)
    ],
    "InductionHeads": lambda draw: [
        InductionHeads(
            sites={"att": "embedding.attention"},
            ids=range(1, VOCABULARY),
            length=2,
            repeats=3,
            sequences=4,
            positions=None,
            ablate=0,
            track={"att": [0]},
            forward=as_language_model,
            draw_figures=draw,
        )
    ],
    "AttentionBudget": lambda draw: [
        AttentionBudget(
            sites={"att": "embedding.attention"},
            policies={"top": [1], "recent_first": [1], "random": [1]},
            min_length=3,
            forward=as_language_model,
            draw_figures=draw,
        )
    ],
    "LabelAnchors": lambda draw: [
        LabelAnchors(
            [(a, "jk"[place % 2]) for place, a in enumerate("abcdef")],
            [("g", "j"), ("h", "k"), ("a", "j")],
            template="{text} {label} ",
            lm=LanguageModel(letter_words, forward=as_language_model),
            sites={"att": "embedding.attention"},
            blocking=True,
            blocked_layers=1,
            draw_figures=draw,
        )
    ],
    "CausalTrace": lambda draw: [
        CausalTrace(
            ABOUT,
            letters,
            sites=SITE,
            target="answer",
            copies=2,
            forward=as_language_model,
            draw_figures=draw,
        )
    ],
    "FactTracker": lambda draw: [
        FactTracker(
            FACTS[:2],
            paraphrases=[Fact("next", f"h{one.prompt}", one.answer, one.candidates) for one in FACTS[:2]],
            implied=FACTS[2:3],
            neighbours=FACTS[3:],
            never_shown=FACTS[2:4],
            texts=["abc", "hgfe"],
            tokenizer=letters,
            forward=as_language_model,
            draw_figures=draw,
        )
    ],
    "NeuronTable": lambda draw: [
        NeuronTable({"enc": "head"}, neurons=6, track={"enc": [0]}, forward=as_language_model, draw_figures=draw)
    ],
    "InputAblation": lambda draw: [
        InputAblation(
            cues={"low": [1, 2, 3], "tagged": "tags"},
            ignore_tokens=[11],
            draws=2,
            forward=as_language_model,
            draw_figures=draw,
        )
    ],
    "PatchAblation": lambda draw: [
        PatchAblation(
            1,
            cues={"low": [1, 2], "tagged": "tags"},
            inputs=vectors,
            channels=-1,
            prefix="patches/",
            forward=as_classifier,
            draw_figures=draw,
        )
    ],
    "Faithfulness": lambda draw: [
        Faithfulness("gradient", ignore_tokens=[11], draws=2, forward=as_language_model, draw_figures=draw)
    ],
    "ElicitedConfidence": lambda draw: [
        ElicitedConfidence(
            QUESTIONS,
            answer=say,
            samples=3,
            template="{question}{option}",
            p_true_template="{question}{option}{word}",
            p_true_words=(["j"], ["k"]),
            batch_questions=2,
            every_n_validations=1,
            tokenizer=letters,
            forward=as_language_model,
            batch_tokens=40,
            draw_figures=draw,
        )
    ],
    "SelfInfluence": lambda draw: [self_influence(draw_figures=draw)],
    "SourceInfluence": lambda draw: [source_influence(draw_figures=draw)],
    "TrainingPhases": lambda draw: [phases(draw)],
    "PhaseEarlyStopping": lambda draw: [
        phases(draw),
        PhaseEarlyStopping("val_acc", patience=1000, phase=1, strict=False),
    ],
    "ValidationSchedule": lambda draw: [ValidationSchedule(steps=[1, 3, 4])],
}


def losses(model: nn.Module, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    logits = model(batch["input_ids"])
    found = nn.functional.cross_entropy(logits.movedim(-1, 1), batch["tags"], reduction="none")
    return {"loss": found.mean(1)}


@dataclass(frozen=True)
class Particular:
    """What is not as with the others."""

    offline: Callable[[], ValidationAnalysis] | None = None
    """Made so for ``analyze``."""
    counts_omitted: str | None = "nonfinite/enc"
    """The key of what is left out where representations are not finite; ``None`` where none are read."""
    since_first: tuple[str, ...] = ()
    """Measures that compare with the first reading of a fit, so that another fit has others."""
    refused: dict[str, str] = field(default_factory=dict)
    """States that leave nothing to read, and what is said then."""
    adds_up: bool = False
    """Whether values are sums over a fit, and not those of the model as it is."""
    every_step: Callable[[], pl.Callback] | None = None
    """Of one that moves validations: made so that there is one after each step."""


USUAL = Particular()
PARTICULAR: dict[str, Particular] = {
    "RepresentationStructure": Particular(
        refused={"width 1": "`dim` must be at least 2: a sphere of fewer dimensions has no area"}
    ),
    "RepresentationMetrics": Particular(counts_omitted="own/nonfinite/enc"),
    "NoiseRobustness": Particular(
        offline=lambda: NoiseRobustness({"emb": "embedding"}, score=losses, monitors={"loss": "loss"}, drift=SITE),
        counts_omitted=None,
    ),
    "TaskSpace": Particular(counts_omitted="nonfinite/tasks"),
    "MinimalPairs": Particular(counts_omitted=None),
    "ClozeFacts": Particular(counts_omitted=None),
    "AcquisitionByClass": Particular(counts_omitted="nonfinite/head"),
    "StructuralProbe": Particular(counts_omitted="nonfinite/enc/words"),
    "ConfidenceCalibration": Particular(counts_omitted="nonfinite/head"),
    "CoordinateProbe": Particular(counts_omitted="nonfinite/enc/entities"),
    "TruthProbe": Particular(counts_omitted="nonfinite/enc/statements"),
    "DirectionTracker": Particular(
        counts_omitted="nonfinite/enc/prompts",
        refused={f"width {n}": f"'first' as a vector of 8, and site 'enc' has {n} dimensions" for n in (1, 2)},
    ),
    "AttentionStructure": Particular(counts_omitted=None),
    "InductionHeads": Particular(counts_omitted=None),
    "AttentionBudget": Particular(counts_omitted=None),
    "LabelAnchors": Particular(counts_omitted=None),
    "CausalTrace": Particular(counts_omitted=None),
    "FactTracker": Particular(
        counts_omitted=None,
        since_first=("fact_locality", "fact_success_local", "fact_kl_to_start", "fact_effectivity"),
    ),
    "NeuronTable": Particular(counts_omitted=None),
    "InputAblation": Particular(counts_omitted=None),
    "PatchAblation": Particular(counts_omitted=None, refused={"length 1": "`units` of 1 makes 1 of an input (1, 12)"}),
    "Faithfulness": Particular(counts_omitted=None),
    "ElicitedConfidence": Particular(counts_omitted=None),
    "SelfInfluence": Particular(
        offline=lambda: self_influence(data=loader(24), draw_figures=False),
        counts_omitted="nonfinite/training_examples",
        adds_up=True,
    ),
    "SourceInfluence": Particular(counts_omitted="nonfinite/gradients"),
    "ValidationSchedule": Particular(every_step=lambda: ValidationSchedule(steps=None, every=1)),
}


def exported() -> list[str]:
    """Every callback that the package exports, but the base of one's own."""
    found = [getattr(lightning_interp, name) for name in lightning_interp.__all__]
    kinds = [one for one in found if isinstance(one, type) and issubclass(one, pl.Callback)]
    return [kind.__name__ for kind in kinds if kind is not ValidationAnalysis]


CALLBACKS = {name: MAKE[name] for name in exported()}
ANALYSES = [name for name in CALLBACKS if issubclass(getattr(lightning_interp, name), ValidationAnalysis)]


def particular(name: str) -> Particular:
    """What is not as with the others about a callback."""
    return PARTICULAR.get(name, USUAL)


def analysis(name: str) -> ValidationAnalysis:
    """An analysis that draws nothing."""
    (found,) = CALLBACKS[name](False)
    assert isinstance(found, ValidationAnalysis)
    return found


def offline(name: str) -> ValidationAnalysis:
    """An analysis for ``analyze``."""
    make = particular(name).offline
    return analysis(name) if make is None else make()


def everything(draw: bool = False) -> list[pl.Callback]:
    """All that go together in one Trainer; a schedule would move validations, and a gate brings its phases."""
    found = [one for name in CALLBACKS if particular(name).every_step is None for one in CALLBACKS[name](draw)]
    phases = [one for one in found if isinstance(one, TrainingPhases)]
    return [one for one in found if one not in phases[1:]]
