"""A YAML file: every exported callback is configured by LightningCLI, printed, read back, and trains."""

from __future__ import annotations

import contextlib
import io
import sys
from pathlib import Path
from unittest import mock

import pytest

pytest.importorskip("jsonargparse")
import jsonargparse
import pytorch_lightning as pl
import yaml
from pytorch_lightning.cli import LightningCLI

import lightning_interp
from lightning_interp import (
    AttentionBudget,
    AttentionStructure,
    CoordinateProbe,
    ElicitedConfidence,
    Faithfulness,
    InductionHeads,
    InputAblation,
    LanguageModel,
    PatchAblation,
    SelfInfluence,
    SourceInfluence,
)
from lightning_interp.reading.argument_names import argument_names
from tests.callbacks.recipes import CALLBACKS
from tests.toy import Tagger, loader

CONFIG = """
trainer:
  max_steps: 10
  accelerator: cpu
  logger: false
  enable_checkpointing: false
  enable_progress_bar: false
  callbacks:
    - class_path: lightning_interp.ValidationSchedule
      init_args: {steps: [2, 5], last: false}
    - class_path: lightning_interp.RepresentationStructure
      init_args:
        sites: {enc: encoder}
        labels: [token, bigram]
        estimator: both
        min_count: 2
        information_plane: [token, next_token]
    - class_path: lightning_interp.RepresentationGeometry
      init_args: {sites: [encoder.0, embedding], log: full}
    - class_path: lightning_interp.RepresentationMetrics
      init_args:
        sites: encoder
        metrics: {own: {class_path: lightning_interp.metrics.SpectralGeometry, init_args: {center: false}}}
        prefix: own/
    - class_path: lightning_interp.NoiseRobustness
      init_args:
        sites: {emb: embedding}
        scales: [0.25, 1.0]
        monitors: {val_loss: loss, val_acc: score}
        drift: {enc: encoder}
        start: {val_acc: 0.1}
        draw_figures: false
    - class_path: lightning_interp.TrainingPhases
      init_args:
        loss: val_loss
        improving: {val_acc: max}
        keys: [information/enc, own/effective_rank/encoder]
        names: [before, after]
    - class_path: lightning_interp.PhaseEarlyStopping
      init_args: {monitor: val_acc, patience_steps: 100, min_delta: 1.0, delta: se}
"""

PROBE = """
entities: lightning_interp.probing.planted_places
sites: [enc]
lm: {tokenizer: tok, model: lm, batch_tokens: 64, special_tokens: none}
pooling: mean
log: full
"""


class Data(pl.LightningDataModule):
    def train_dataloader(self) -> object:
        return loader()

    def val_dataloader(self) -> object:
        return loader(seed=1)


def test_print_config_round_trips_and_trains(tmp_path: Path) -> None:
    (tmp_path / "first.yaml").write_text(CONFIG)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), pytest.raises(SystemExit):
        run(["fit", "--config", str(tmp_path / "first.yaml"), "--print_config"])
    (tmp_path / "second.yaml").write_text(printed.getvalue())
    cli = run(["fit", "--config", str(tmp_path / "second.yaml"), f"--trainer.default_root_dir={tmp_path}"])
    structure, geometry, own, noise = cli.trainer.callbacks[1:5]
    for callback in (structure, geometry, own, noise):
        assert [reading.step for reading in callback.history.readings] == [2, 5]
    above = "expressivity_above_chance/enc"
    assert structure.reading[above] == pytest.approx(cli.trainer.callback_metrics[above].item())
    assert "alpha_r2/encoder.0" not in structure.reading
    assert any(key.startswith("alpha_r2/") for key in geometry.logged_keys())
    assert "own/effective_rank/encoder" in own.reading
    assert "under_noise/emb/val_loss" in noise.reading
    phases, stop = cli.trainer.callbacks[5:7]
    assert all(phases.series(key)[0] == [2, 5] for key in phases.followed())
    assert phases.conclusion.startswith("before goes on: val_loss has too few readings")
    assert (stop.patience_steps, stop.min_delta, stop.delta) == (100, 1.0, "se")


@pytest.mark.parametrize("name", CALLBACKS)
def test_every_argument_of_a_callback_is_known_to_a_yaml_file_also_those_that_it_hands_on(name: str) -> None:
    kind = getattr(lightning_interp, name)
    parser = jsonargparse.ArgumentParser()
    parser.add_class_arguments(kind, "callback")
    known = {action.dest.split(".")[1] for action in parser._actions if action.dest.startswith("callback.")}
    assert known == set(argument_names(kind))


def test_a_probe_is_configured_with_a_language_model() -> None:
    parser = jsonargparse.ArgumentParser()
    parser.add_class_arguments(CoordinateProbe, "probe")
    given = parser.parse_object({"probe": yaml.safe_load(PROBE)})
    probe = parser.instantiate_classes(given).probe
    assert isinstance(probe, CoordinateProbe)
    assert (len(probe.entities), probe.log_level, probe.sentences.pooling) == (200, "full", "mean")
    assert probe.sentences.lm == LanguageModel("tok", "lm", batch_tokens=64, special_tokens="none")


ATTENTION = """
structure: {sites: {enc: encoder}, track: {enc: [0]}, max_examples: 4, log: full}
induction: {model: lm, ids: [1, 2, 3, 4], length: 3, positions: [5, 20], half_width: 2, track: {enc: [0]}, log: full}
budget: {policies: {top: [8], recent_first: [4, 8]}, min_length: 16}
"""


def test_what_reads_attention_is_configured() -> None:
    parser = jsonargparse.ArgumentParser()
    for name, kind in (
        ("structure", AttentionStructure),
        ("induction", InductionHeads),
        ("budget", AttentionBudget),
    ):
        parser.add_class_arguments(kind, name)
    made = parser.instantiate_classes(parser.parse_object(yaml.safe_load(ATTENTION)))
    assert made.structure.track == made.induction.track == {"enc": [0]}
    assert (tuple(made.induction.places), made.induction.repeated.ids) == ((5, 20), [1, 2, 3, 4])
    assert made.budget.policies == {"top": [8], "recent_first": [4, 8]}


ASKED = """
elicited:
  questions: QUESTIONS
  methods: [options_sum, p_true]
  p_true_words: [["yes", "Yes"], ["no"]]
  tokenizer: tok
  every_n_validations: 2
needs:
  ablation: {without: replace, mask_token_id: 3, cues: {name: [4, 5], marked: is_cue}}
  patches: {units: [4, 4], cues: {tag: [0]}, without: zero}
  faithful: {rank: gradient, without: hide, orders: 2}
  influence: {head: head, target: tags, flags: bad}
  sources: {source: corpus, sources: [web, books]}
"""


def test_what_asks_and_what_takes_away_is_configured(tmp_path: Path) -> None:
    (tmp_path / "q.jsonl").write_text('{"question": "q", "answer": "a", "options": ["a", "b"]}\n')
    parser, given = jsonargparse.ArgumentParser(), yaml.safe_load(ASKED.replace("QUESTIONS", str(tmp_path / "q.jsonl")))
    kinds = {
        "elicited": ElicitedConfidence,
        "ablation": InputAblation,
        "patches": PatchAblation,
        "faithful": Faithfulness,
        "influence": SelfInfluence,
        "sources": SourceInfluence,
    }
    for name, kind in kinds.items():
        parser.add_class_arguments(kind, name)
    made = parser.instantiate_classes(parser.parse_object({"elicited": given["elicited"], **given["needs"]}))
    assert (made.elicited.methods, made.elicited.every_n_validations) == (["options_sum", "p_true"], 2)
    assert [list(one) for one in made.elicited.options.words] == [["yes", "Yes"], ["no"]]
    assert made.ablation.texts.cues == {"name": [4, 5], "marked": "is_cue"}
    assert list(made.patches.read_inputs.cues) == ["tag"]
    assert (made.faithful.ranking, made.influence.head, list(made.sources.sources)) == (
        "gradient",
        "head",
        ["web", "books"],
    )


def run(argv: list[str]) -> LightningCLI:
    with mock.patch.object(sys, "argv", ["prog", *argv]):
        return LightningCLI(Tagger, Data)
