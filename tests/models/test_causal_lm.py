"""The loss of a language model, and its learning rate."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from lightning_interp import MinimalPairs
from lightning_interp.datasets import sentence_loader
from lightning_interp.models import CausalLM, small_gpt2
from lightning_interp.tasks import WordTokenizer, generate_corpus, grammar_words, sentence_log_probs
from tests.tasks.toy_lm import ToyLM

WORDS = WordTokenizer(grammar_words())
IDS = [[1, 4, 5, 6, 2], [1, 7, 2]]


def batch() -> dict[str, torch.Tensor]:
    return next(iter(sentence_loader(IDS, 2)))


def toy() -> CausalLM:
    model = CausalLM(ToyLM())
    model.lm.dropout.p = 0.0
    return model


def test_the_loss_is_that_of_each_sentence_alone() -> None:
    model = toy()
    alone = [-sentence_log_probs(model.lm, torch.tensor([one]), torch.ones(1, len(one))) for one in IDS]
    expected = float(torch.cat(alone).sum().detach()) / sum(len(one) - 1 for one in IDS)
    ids, mask = batch().values()
    for given in (batch(), (ids, mask), [ids, mask]):
        assert float(model.loss(given)) == pytest.approx(expected, rel=1e-5)
    model.tokenizer = SimpleNamespace(pad_token_id=0)
    assert float(model.loss(ids)) == pytest.approx(expected, rel=1e-5)
    model.tokenizer = None  # then all ids are tokens
    assert float(model.loss(ids)) != pytest.approx(expected, rel=1e-3)


def test_labels_say_what_is_predicted() -> None:
    model, ids = toy(), batch()["input_ids"]
    labels = torch.full_like(ids, -100)
    labels[0, 3] = ids[0, 3]
    expected = -model(ids)[0, 2].log_softmax(-1)[ids[0, 3]]
    assert float(model.loss({**batch(), "labels": labels})) == pytest.approx(float(expected), rel=1e-5)


def test_a_model_of_transformers_has_the_loss_that_it_says() -> None:
    pytest.importorskip("transformers")
    torch.manual_seed(0)
    model = CausalLM(small_gpt2(WORDS, width=8, layers=1, heads=2).eval(), WORDS)
    assert all(one.training for one in model.modules())
    labels = batch()["input_ids"].masked_fill(batch()["attention_mask"] == 0, -100)
    assert float(model.loss(batch())) == pytest.approx(float(model.lm(**batch(), labels=labels).loss), rel=1e-6)
    assert model.lm.config.bos_token_id == WORDS.bos_token_id
    assert model.lm.config.n_positions == 64


def test_the_mask_goes_where_there_is_a_place_for_it() -> None:
    class Masked(nn.Module):
        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Any:
            return SimpleNamespace(logits=attention_mask[..., None].float())

    assert CausalLM(Masked())(torch.zeros(1, 2).long(), torch.tensor([[1, 0]])).tolist() == [[[1.0], [0.0]]]


def test_it_trains_logs_and_is_found_by_callbacks(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    pl.seed_everything(0, verbose=False)
    model = CausalLM(small_gpt2(WORDS, width=16, heads=2), WORDS, lr=1e-2, warmup=4, steps=20)
    lines = [WORDS.encode(one) for one in generate_corpus(200)]
    rates: list[float] = []

    class Rates(pl.Callback):
        def on_train_batch_start(self, trainer: pl.Trainer, *_: object) -> None:
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    reader = MinimalPairs("grammar", model="lm", max_pairs=2, draw_figures=False, write_csv=False)
    run = pl.Trainer(max_steps=20, accelerator="cpu", callbacks=[Rates(), reader], check_val_every_n_epoch=2, **quiet)
    run.fit(model, sentence_loader(lines[:160], 16, shuffle=True), sentence_loader(lines[160:], 16))
    assert rates == pytest.approx([1e-2 * min(1, (s + 1) / 4) * max(0.1, 1 - 0.9 * s / 20) for s in range(20)])
    (_, losses) = reader.history.series("val_loss")
    model.eval()
    held_out = [model.loss(one).item() * len(one["input_ids"]) for one in sentence_loader(lines[160:], 16)]
    run.validate(model, sentence_loader(lines[160:], 16), verbose=False)
    assert float(run.callback_metrics["val_loss"]) == pytest.approx(sum(held_out) / 40, rel=1e-5)
    assert losses[-1] < float(CausalLM(small_gpt2(WORDS, width=16, heads=2)).loss(batch())) - 0.5


def test_a_rate_that_does_not_change_has_no_schedule() -> None:
    optimizer = CausalLM(ToyLM(), lr=0.25, weight_decay=0.5).configure_optimizers()
    assert isinstance(optimizer, torch.optim.AdamW)
    assert (optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["weight_decay"]) == (0.25, 0.5)


def test_errors() -> None:
    for arguments, message in (
        ({"lr": -1.0}, "`lr` is -1.0; it must not be negative"),
        ({"weight_decay": -1.0}, "`weight_decay` is -1.0"),
        ({"warmup": -1}, "`warmup` is -1"),
        ({"steps": 0}, "`steps` is 0; it must be at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            CausalLM(ToyLM(), **arguments)
    with pytest.raises(TypeError, match="`lm` is a str; it must be a module"):
        CausalLM("gpt2")
    with pytest.raises(TypeError, match="Identity gave a tuple; expected logits"):
        CausalLM(nn.Identity())((torch.zeros(1, 2),))
