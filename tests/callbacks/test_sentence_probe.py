"""The base of probes with sentences of their own: units, baseline, ranks, what is kept, untouched training."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import torch.distributed as dist
from tasks.toy_lm import ToyLM
from torch import nn
from torch.utils.data import DataLoader

from lightning_interp import analyze
from lightning_interp.callbacks.sentence_probe import Probed, ProbedSite, SentenceProbe
from lightning_interp.language import pad_right, sentence_log_probs
from tests.toy import trainer

WORDS = [["a", "bc", "def"], ["b", "a"], ["cc", "dd", "ee", "a"], ["d", "e", "f", "g", "h"], ["e", "a"]]
TEXTS = [" ".join(words) for words in WORDS]
SITES = {"mix": "lm.mix", "norm": "lm.norm", "embedding": "lm.embedding"}


def letters(text: str) -> list[int]:
    return [1 + (ord(word[0]) - 97) % 9 for word in text.split()]


class Norms(SentenceProbe):
    """A probe whose result anyone can check: the mean norm, and how often it was read."""

    extra_width = 1

    def probe_measures(self) -> dict[str, str]:
        return {"norm": "summary", "norm/first": "full", "log_prob": "full", "readings": "full"}

    def compared(self) -> list[str]:
        return ["norm", "norm/first"]

    def extra(self, output: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return attention_mask.sum(1, keepdim=True).float()

    def evaluate(self, site: str, data: ProbedSite, kept: torch.Tensor | None) -> Probed:
        assert torch.is_grad_enabled()
        before = 0.0 if kept is None else float(kept[-1])
        values = {
            "norm": float(data.vectors.norm(dim=1).mean()),
            "norm/first": float(data.by_sentence()[0].norm(dim=1).mean()),
            "log_prob": float((data.extra[:, 0] * torch.arange(1, len(WORDS) + 1)).sum()),
            "readings": before + 1,
        }
        return Probed(values, torch.tensor([0.0] * len(site) + [before + 1]))


class LanguageModel(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.lm = ToyLM()
        self.lm.unused.requires_grad_(False)

    def tokenizer(self, text: str) -> list[int]:
        return letters(text)

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], batch_idx: int) -> torch.Tensor:
        return -sentence_log_probs(self.lm, *batch).mean()

    def validation_step(self, batch: tuple[torch.Tensor, torch.Tensor], batch_idx: int) -> None:
        self.log("val_loss", -sentence_log_probs(self.lm, *batch).mean(), sync_dist=True, batch_size=len(batch[0]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=1e-2)


def fresh() -> nn.Module:
    return ToyLM(seed=7)


def probe(sentences: Any = WORDS, **kwargs: Any) -> Norms:
    given: dict[str, Any] = {"model": "lm", "baseline": fresh, "log": "full", "batch_tokens": 8, **kwargs}
    return Norms(sentences, SITES, **given)


def data(number: int = 16, **kwargs: Any) -> DataLoader:
    ids = torch.randint(1, 11, (number, 6), generator=torch.Generator().manual_seed(0))
    return DataLoader(list(ids), batch_size=4, collate_fn=pad_right, **kwargs)


def fit(
    folder: Path, callbacks: list[pl.Callback], ckpt_path: str | None = None, dropout: float = 0.3, **kwargs: Any
) -> LanguageModel:
    pl.seed_everything(3, verbose=False)
    model = LanguageModel()
    model.lm.dropout.p = dropout
    trainer(folder, callbacks, **kwargs).fit(model, data(), data(8), ckpt_path=ckpt_path)
    return model


def embeddings(model: ToyLM, words: list[str]) -> torch.Tensor:
    return model.embedding(torch.tensor(letters(" ".join(words)))).detach()


def test_a_reading_is_what_the_model_makes_of_each_word(tmp_path: Path) -> None:
    callback = probe()
    model = fit(tmp_path, [callback])
    reading = callback.history.readings[-1].values
    vectors = [embeddings(model.lm, words) for words in WORDS]
    norm = float(torch.cat(vectors).norm(dim=1).mean())
    assert reading["norm/embedding"] == pytest.approx(norm)
    assert reading["norm/embedding/first"] == pytest.approx(float(vectors[0].norm(dim=1).mean()))
    assert reading["log_prob/embedding"] == sum(place * len(words) for place, words in enumerate(WORDS, 1))
    baseline = torch.cat([embeddings(ToyLM(seed=7), words) for words in WORDS]).norm(dim=1).mean()
    assert reading["norm_baseline/embedding"] == pytest.approx(float(baseline))
    assert reading["norm_above_baseline/embedding"] == pytest.approx(norm - float(baseline))
    assert set(callback.logged_keys(model)) == set(reading)
    assert "norm/<site>/first" in Norms(WORDS, "lm.*", log="full").logged_keys()


@pytest.mark.parametrize("pooling", ["last", "first", "mean"])
def test_a_text_is_one_vector(pooling: str) -> None:
    model = LanguageModel()
    found = analyze(model, data(4), probe(TEXTS, pooling=pooling))
    pool = {"last": lambda z: z[-1], "first": lambda z: z[0], "mean": lambda z: z.mean(0)}[pooling]
    expected = torch.stack([pool(embeddings(model.lm, words)) for words in WORDS]).norm(dim=1).mean()
    assert found["norm/embedding"] == pytest.approx(float(expected))


def test_batches_change_rounding_only() -> None:
    small, large = (analyze(LanguageModel(), data(4), probe(batch_tokens=tokens)) for tokens in (3, 100))
    assert {key: value for key, value in small.items() if not key.startswith("seconds")} == pytest.approx(large)


def test_training_is_untouched(tmp_path: Path) -> None:
    bare, read = fit(tmp_path / "a", []), fit(tmp_path / "b", [probe()])
    assert all(map(torch.equal, bare.state_dict().values(), read.state_dict().values()))


def test_what_is_kept_comes_back_at_the_next_reading_and_after_a_resume(tmp_path: Path) -> None:
    whole = probe()
    fit(tmp_path / "a", [whole], dropout=0.0, max_epochs=3)
    count = [reading.values["readings/mix"] for reading in whole.history.readings]
    assert count == [float(number + 1) for number in range(len(count))]
    assert {site: len(kept) for site, kept in whole.kept.items()} == {site: len(site) + 1 for site in SITES}

    half, checkpoint = probe(), pl.callbacks.ModelCheckpoint(tmp_path / "c", save_last=True)
    fit(tmp_path / "b", [half, checkpoint], dropout=0.0, max_epochs=1, enable_checkpointing=True)
    calls: list[int] = []
    later = probe(baseline=lambda: calls.append(1) or fresh())
    fit(tmp_path / "b", [later], str(tmp_path / "c" / "last.ckpt"), dropout=0.0, max_epochs=3)
    assert not calls, "the baseline is in the checkpoint"
    readings = [{k: v for k, v in one.values.items() if "seconds" not in k} for one in later.history.readings]
    assert readings == [{k: v for k, v in one.values.items() if "seconds" not in k} for one in whole.history.readings]


def test_another_model_has_a_baseline_of_its_own(tmp_path: Path) -> None:
    seeds = iter([7, 8, 9, 10])
    callback = probe(baseline=lambda: ToyLM(seed=next(seeds)))
    first, second = LanguageModel(), LanguageModel()
    own: dict[str, float] = {}
    for name, model in (("first", first), ("again", first), ("second", second)):
        trainer(tmp_path, [callback]).validate(model, data(4), verbose=False)
        own[name] = callback.reading["norm_baseline/embedding"]
    assert own["first"] == own["again"] != own["second"]
    # It starts from nothing, whatever the callback has read before.
    assert analyze(second, data(4), callback)["norm_baseline/embedding"] not in own.values()


def test_a_vector_that_is_not_finite_leaves_a_site_undefined(tmp_path: Path) -> None:
    model = LanguageModel()
    with torch.no_grad():
        model.lm.embedding.weight[1] = math.inf  # the letter a
    found = analyze(model, data(4), probe(baseline=False))
    assert found["nonfinite/embedding/vectors"] == sum("a" in word for words in WORDS for word in words)
    assert "norm/embedding" not in found


def ranked() -> dict[str, Any]:
    callback = probe()
    with tempfile.TemporaryDirectory() as folder:
        world = dist.get_world_size() if dist.is_initialized() else 1
        pl.seed_everything(3, verbose=False)
        run = trainer(
            Path(folder), [callback], devices=world, strategy="ddp" if world > 1 else "auto", limit_train_batches=0
        )
        run.validate(LanguageModel(), data(12), verbose=False)
    return {key: value for key, value in callback.reading.items() if "seconds" not in key}


@pytest.mark.parametrize("group", ["two_ranks", "three_ranks"])
def test_ranks_read_what_one_process_reads(group: str, request: pytest.FixtureRequest) -> None:
    alone = ranked()
    assert alone
    for found in request.getfixturevalue(group).run(ranked):
        assert found == alone


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sentences": []}, "`sentences` must be a list"),
        ({"pooling": "middle"}, "`pooling` must be"),
        ({"batch_tokens": 0}, "`batch_tokens` must be at least 1"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        probe(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sentences": [["a ", "c"]]}, "a word that begins or ends with a space"),
        (
            {"tokenizer": lambda text: [53 for _ in text.split()]},
            "ids up to 53, but the largest embedding of ToyLM has 12 rows: they do not go together",
        ),
        ({"sentences": [["a", ""]]}, "an empty sentence or word"),
        ({"tokenizer": lambda text: [1, 2]}, "2 ids for the 3 words"),
        ({"model": "no"}, "has no such module"),
        ({"special_tokens": "own"}, "needs a fast tokenizer"),
    ],
)
def test_what_does_not_fit_the_model_is_told_before_training(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        analyze(LanguageModel(), data(4), probe(**arguments))


def test_a_baseline_that_cannot_be_had_ends_a_run_only_where_it_was_asked_for(tmp_path: Path) -> None:
    def quantised() -> LanguageModel:
        model = LanguageModel()
        model.lm.codes = nn.Parameter(torch.zeros(3, dtype=torch.int8), requires_grad=False)
        return model

    callback = probe(baseline=None)
    with pytest.warns(UserWarning, match="Norms reads without a baseline.*'codes'") as told:
        trainer(tmp_path, [callback], max_epochs=2).fit(quantised(), data(), data(8))
    assert len([one for one in told if "without a baseline" in str(one.message)]) == 1
    assert len(callback.history) == 2
    assert "norm/embedding" in callback.reading
    assert not any("baseline" in key for key in callback.reading)
    with pytest.raises(ValueError, match="'codes'"):
        analyze(quantised(), data(4), probe(baseline=True))
