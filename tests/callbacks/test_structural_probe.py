"""The structural probe: planted trees and controls, keys, ranks, resuming, a language model, pictures."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import torch.distributed as dist
from pytorch_lightning.loggers import TensorBoardLogger
from reference.planted_trees import planted
from tasks.toy_lm import ToyLM
from torch import nn
from torch.utils.data import DataLoader

from lightning_interp import StructuralProbe, analyze
from lightning_interp.functional import chain_scores
from lightning_interp.language import encode_sentences, pad_right, sentence_log_probs
from lightning_interp.models import small_gpt2
from lightning_interp.probing.treebank import Sentence, grammar_treebank
from lightning_interp.tasks import WordTokenizer, generate_corpus, grammar_words
from tests.toy import timeless, trainer

WORDS = WordTokenizer(grammar_words())
CORPUS = encode_sentences(WORDS, [line for line in generate_corpus(300) if len(line.split()) < 20])
TREEBANK = grammar_treebank(60, max_words=16)
SITES = {"mix": "lm.mix", "norm": "lm.norm"}

# ------------------------------------------------- planted trees


def shuffled_heads(sentence: Sentence, generator: torch.Generator) -> list[int]:
    """The same tree over other words of the sentence."""
    order = torch.randperm(len(sentence), generator=generator).tolist()
    heads = [-1] * len(sentence)
    for word, head in enumerate(sentence.heads):
        heads[order[word]] = -1 if head < 0 else order[head]
    return heads


class Planted(nn.Module):
    """Every word of every sentence is a token of its own, so that a table can hold whatever is planted."""

    def __init__(self, treebank: list[Sentence], dim: int = 48, noise: float = 0.2) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(5)
        trees = [list(one.heads) for one in treebank]
        others = [shuffled_heads(one, generator) for one in treebank]
        number = sum(map(len, trees))
        self.first = nn.Embedding.from_pretrained(torch.randn(number, dim, generator=generator), freeze=False)
        self.planted = nn.Embedding.from_pretrained(torch.cat(planted(trees, dim, noise)), freeze=False)
        self.shuffled = nn.Embedding.from_pretrained(torch.cat(planted(others, dim, noise)), freeze=False)
        ids = torch.arange(number).split([len(one) for one in treebank])
        self.ids = {str(one): place.tolist() for one, place in zip(treebank, ids, strict=True)}

    def tokenizer(self, text: str) -> list[int]:
        return self.ids[text]

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.first(ids) + self.planted(ids) + self.shuffled(ids)


def test_planted_trees_are_found_where_they_are_and_nowhere_else() -> None:
    treebank = grammar_treebank(460)
    probe = StructuralProbe(["first", "planted", "shuffled"], treebank, log="full", split=(0.65, 0.15, 0.2))
    found = analyze(Planted(treebank), [torch.zeros(1, 1, dtype=torch.long)], probe)
    assert found["uuas/planted"] > 0.95
    assert found["root_accuracy/planted"] > 0.95
    assert found["dspr/planted"] > 0.95
    assert found["nspr/planted"] > 0.9
    for name in ("uuas", "dspr", "root_accuracy", "nspr"):
        level = getattr(probe.chain, name)
        for site in ("first", "planted", "shuffled"):
            assert found[f"{name}_above_chain/{site}"] == pytest.approx(found[f"{name}/{site}"] - level)
            difference = found[f"{name}/{site}"] - found[f"{name}_baseline/{site}"]
            assert found[f"{name}_above_baseline/{site}"] == pytest.approx(difference)
    # Any tree shares about 2/n of its edges with another one.
    for site in ("first", "shuffled"):
        assert found[f"uuas/{site}"] < 0.3
        assert found[f"uuas_above_chain/{site}"] < -0.15
        assert found[f"root_accuracy/{site}"] < 0.3
        assert found[f"nspr/{site}"] < 0.25
    # Random weights have no trees at any site.
    assert abs(found["uuas_above_baseline/first"]) < 0.06
    assert found["uuas_above_baseline/planted"] > 0.65
    test = probe.parts[2]
    heads, keep = [torch.tensor(treebank[i].heads) for i in test], [torch.tensor(treebank[i].is_word) for i in test]
    assert probe.chain == chain_scores(heads, keep)


# ------------------------------------------------- in a Trainer


class LanguageModel(pl.LightningModule):
    def __init__(self, lr: float = 1e-2) -> None:
        super().__init__()
        self.lr = lr
        self.lm = ToyLM(len(WORDS), length=32)
        self.lm.dropout.p = 0.0  # a checkpoint does not hold its random state
        self.lm.unused.requires_grad_(False)  # DDP waits for every gradient

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], batch_idx: int) -> torch.Tensor:
        return -sentence_log_probs(self.lm, *batch).mean()

    def validation_step(self, batch: tuple[torch.Tensor, torch.Tensor], batch_idx: int) -> None:
        self.log("val_loss", -sentence_log_probs(self.lm, *batch).mean(), sync_dist=True, batch_size=len(batch[0]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=self.lr)


def fresh() -> nn.Module:
    return ToyLM(len(WORDS), length=32, seed=7)


def probe(**kwargs: Any) -> StructuralProbe:
    settings = {"baseline": fresh, "log": "full", "max_steps": 40, "batch_tokens": 128, "draw_figures": False, **kwargs}
    return StructuralProbe(SITES, TREEBANK, tokenizer="grammar", model="lm", **settings)


def sentences(number: int = 48, **kwargs: Any) -> DataLoader:
    return DataLoader(CORPUS[:number], batch_size=8, collate_fn=pad_right, **kwargs)


def fit(
    folder: Path, callbacks: list[pl.Callback], model: pl.LightningModule, ckpt_path: Path | None = None, **kwargs: Any
) -> pl.Trainer:
    pl.seed_everything(3, verbose=False)
    run = trainer(folder, callbacks, **kwargs)
    run.fit(model, sentences(), sentences(16), ckpt_path=ckpt_path)
    return run


def test_keys_and_figures(tmp_path: Path) -> None:
    callback, model = probe(draw_figures=True), LanguageModel()
    run = fit(tmp_path, [callback], model, max_epochs=3, logger=TensorBoardLogger(tmp_path))
    keys = set(callback.logged_keys(model))
    assert all(set(one.values) == keys for one in callback.history.readings)
    assert keys <= set(run.callback_metrics)
    assert "uuas_above_chain/<site>" in StructuralProbe("lm.*", TREEBANK).logged_keys()
    # What is kept of a reading is a link for each word of the sentence that is drawn.
    shown = callback.treebank[callback._shown]
    assert callback.kept["norm"].shape == (len(shown),)
    assert int((callback.kept["norm"] >= 0).sum()) == sum(shown.is_word) - 1
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(next(tmp_path.rglob("events*")).parent), size_guidance={"images": 0})
    events.Reload()
    names = {f"structural_probe/{name}" for name in ("uuas", "dspr", "root_accuracy", "tree")}
    assert names <= set(events.Tags()["images"])


def test_a_reading_depends_on_the_weights_alone(tmp_path: Path) -> None:
    callback, model = probe(), LanguageModel(lr=0.0)
    run = fit(tmp_path, [callback], model, max_epochs=3)
    run.validate(model, sentences(16), verbose=False)
    alone = analyze(model, sentences(16), probe())
    found = [*(one.values for one in callback.history.readings), callback.reading, alone]
    seconds = {"seconds/StructuralProbe"}
    assert all({key for key in one if one[key] != found[0][key]} <= seconds for one in found)


def left_behind(folder: Path, callbacks: list[pl.Callback], **kwargs: Any) -> list[Any]:
    model = LanguageModel()
    run = fit(folder, callbacks, model, **kwargs)
    moments = [value for state in run.optimizers[0].state_dict()["state"].values() for value in state.values()]
    return [
        *(value.tolist() for value in (*model.state_dict().values(), *moments)),
        [module.training for module in model.modules()],
        torch.get_rng_state().tolist(),
    ]


def test_training_is_bit_identical(tmp_path: Path) -> None:
    assert left_behind(tmp_path, [probe()]) == left_behind(tmp_path, [])


def readings(strategy: str) -> dict[str, float]:
    callback = probe()
    world = dist.get_world_size() if dist.is_initialized() else 1
    with tempfile.TemporaryDirectory() as folder:
        # The learning rate is zero: how the data are split must not change what the model computes.
        fit(Path(folder), [callback], LanguageModel(lr=0.0), strategy=strategy, devices=world)
    return {key: value for key, value in callback.reading.items() if "seconds" not in key}


def test_ranks_read_what_one_process_reads(ranks: Any) -> None:
    alone = readings("auto")
    for values in ranks.run(readings, "ddp"):
        assert values == pytest.approx(alone, abs=1e-6)


def test_a_resumed_run_has_the_readings_of_one_that_was_not_stopped(tmp_path: Path) -> None:
    def callbacks(folder: str) -> list[pl.Callback]:
        keep = pl.callbacks.ModelCheckpoint(tmp_path / folder, save_last=True)
        return [probe(), keep]

    whole, first, second = callbacks("whole"), callbacks("first"), callbacks("second")
    fit(tmp_path, whole, LanguageModel(), max_epochs=4, enable_checkpointing=True)
    fit(tmp_path, first, LanguageModel(), max_epochs=2, enable_checkpointing=True)
    last = tmp_path / "first" / "last.ckpt"
    torch.load(last, weights_only=True)
    fit(tmp_path, second, LanguageModel(), last, max_epochs=4, enable_checkpointing=True)
    assert timeless(second[0]) == timeless(whole[0])
    assert torch.equal(second[0].kept["mix"], whole[0].kept["mix"])


def test_a_language_model_learns_trees_of_its_language(tmp_path: Path) -> None:
    """GPT-2 of 24 dimensions on the built-in grammar, by its own configuration's random weights as the baseline."""

    class Small(LanguageModel):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.lm = small_gpt2(WORDS, 24, heads=2, length=32, dropout=0.1)

    corpus = encode_sentences(WORDS, [line for line in generate_corpus(2600) if len(line.split()) < 24])
    train = DataLoader(corpus[:2400], batch_size=32, collate_fn=pad_right)
    # Sites are transformers' blocks, whose output is a tuple or a tensor, depending on the version.
    callback = StructuralProbe(
        {"embedding": "lm.transformer.drop", "last": "lm.transformer.ln_f"},
        grammar_treebank(200),
        tokenizer="grammar",
        model="lm",
        log="full",
        draw_figures=False,
    )
    pl.seed_everything(0, verbose=False)
    run = trainer(tmp_path, [callback], max_epochs=2, check_val_every_n_epoch=2)
    run.fit(Small(), train, DataLoader(corpus[2400:2432], batch_size=32, collate_fn=pad_right))
    found = callback.reading
    assert found["uuas_above_chain/last"] > 0.05
    assert found["uuas_above_baseline/last"] > 0.02
    assert found["nspr_above_chain/last"] > 0.2


# ------------------------------------------------- arguments


BAD: list[tuple[dict[str, Any], str]] = [
    ({"rank": 0}, "`rank` must be at least 1, got 0"),
    ({"max_sentences": 2}, "`max_sentences` must be at least 3, got 2"),
    ({"max_steps": 0}, "`max_steps` must be at least 1, got 0"),
    ({"split": (0.5, 0.5)}, r"`split` must be three shares above 0 with sum 1, got \(0.5, 0.5\)"),
    ({"split": (0.9, 0.2, 0.1)}, "`split` must be three shares above 0 with sum 1"),
    ({"treebank": "no/such/file"}, "`treebank` is 'no/such/file'; it must be 'grammar', a file that exists"),
    ({"treebank": ["the king sleeps ."] * 9}, "`treebank` must hold Sentence objects, got str"),
    ({"treebank": TREEBANK[:1] * 9}, "`treebank` has 1 different sentences, too few for three parts"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD)
def test_bad_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StructuralProbe("lm", **{"treebank": TREEBANK, **arguments})


def test_sentences_of_the_same_words_are_in_one_part() -> None:
    callback = StructuralProbe("lm", [*TREEBANK, *TREEBANK[:30]])
    place = {one: part for part, found in enumerate(callback.parts) for one in found}
    assert sorted(place) == list(range(90))
    assert all(place[one] == place[60 + one] for one in range(30))
    assert StructuralProbe("lm", TREEBANK).parts == StructuralProbe("lm", lambda: TREEBANK).parts
    assert StructuralProbe("lm", TREEBANK).parts != StructuralProbe("lm", TREEBANK, seed=1).parts


def test_a_treebank_from_a_file(tmp_path: Path) -> None:
    lines = []
    for one in TREEBANK[:20]:
        columns = zip(one.words, one.tags, one.heads, one.relations, strict=True)
        rows = [f"{i + 1}\t{w}\t_\t{t}\t_\t_\t{h + 1}\t{r}\t_\t_" for i, (w, t, h, r) in enumerate(columns)]
        lines += [*rows, ""]
    path = tmp_path / "some.conllu"
    path.write_text("\n".join(lines))
    assert StructuralProbe("lm", path).treebank == TREEBANK[:20]
    assert StructuralProbe("lm", str(path), max_sentences=9).treebank == TREEBANK[:9]


def test_a_treebank_from_a_function_by_its_name() -> None:
    name = "lightning_interp.probing.treebank.grammar_treebank"
    assert StructuralProbe("lm", name, max_sentences=9).treebank == grammar_treebank(9)
