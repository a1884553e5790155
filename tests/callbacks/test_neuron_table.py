"""Neurons: detectors of tokens and of pairs, loops over a model, dead ones, churn, contexts told, ranks, resuming."""

from __future__ import annotations

import math
from pathlib import Path
from statistics import fmean, median_low
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor, nn

from lightning_interp import NeuronTable, analyze
from lightning_interp.parts.neuron_explanations import Excerpt
from tests.callbacks.attending import Letters, Wrapped, loader, texts
from tests.reference import neurons as reference
from tests.toy import timeless, trainer, validated


def neurons(**kwargs: Any) -> NeuronTable:
    return NeuronTable(**{"model": "lm", "draw_figures": False, **kwargs})


class Fires(nn.Module):
    """Neurons that fire on tokens, on pairs of tokens, or not at all; what they give goes nowhere."""

    def __init__(self, kind: str, tokens: int = 6) -> None:
        super().__init__()
        self.kind, self.tokens, self.shift = kind, tokens, 0
        self.down = nn.Linear(tokens**2 if kind == "pairs" else tokens, 2)
        self.head = nn.Embedding(tokens, tokens)

    def forward(self, input_ids: Tensor) -> Tensor:
        if self.kind == "pairs":
            fires = nn.functional.one_hot(input_ids.roll(1, 1) * self.tokens + input_ids, self.tokens**2).float()
        else:
            fires = nn.functional.one_hot((input_ids + self.shift) % self.tokens, self.tokens).float()
        if self.kind == "dead":
            fires = fires * (torch.arange(self.tokens) > 1)
        self.down(fires)
        found: Tensor = self.head(input_ids)
        return found


def batches(number: int = 20, length: int = 60, tokens: int = 6) -> list[dict[str, Tensor]]:
    ids = torch.randint(tokens, (number, length), generator=torch.Generator().manual_seed(0))
    return [{"input_ids": one, "attention_mask": torch.ones_like(one)} for one in ids.split(5)]


def read(kind: str, **kwargs: Any) -> dict[str, float]:
    return analyze(Wrapped(Fires(kind)), batches(), neurons(sites={"mlp": "lm.down"}, baseline=False, **kwargs))


def test_neurons_that_fire_on_a_token_are_explained_by_it() -> None:
    found = read("tokens", track={"mlp": [2, 5]})
    assert found["lookup_score/mlp"] == found["lookup_score/mlp/n2"] == pytest.approx(1, abs=1e-9)
    assert found["lookup_share/mlp"] == 1
    assert abs(found["lookup_score_control/mlp"]) < 0.05
    assert found["dead_neurons/mlp"] == 0
    assert found["activation_share/mlp"] == pytest.approx(1 / 6, abs=1e-9)
    # Of a share q: (1 − 3 q (1 − q)) / (q (1 − q)).
    assert found["activation_kurtosis/mlp"] == pytest.approx((1 - 3 * 5 / 36) / (5 / 36), abs=0.3)
    assert found["neuron_tokens"] == 20 * 59
    assert "neuron_churn/mlp" not in found
    assert "massive_activation/mlp" not in found, "it lies in no block"


def test_neurons_that_fire_on_pairs_are_not() -> None:
    found = read("pairs")
    assert found["lookup_score/mlp"] == pytest.approx(math.sqrt(5 / 35), abs=0.05)
    assert found["lookup_share/mlp"] == 0
    assert abs(found["lookup_score_control/mlp"]) < 0.05


def test_dead_neurons_are_counted_and_leave_the_score_alone() -> None:
    found = read("dead")
    assert found["dead_neurons/mlp"] == pytest.approx(2 / 6)
    assert found["lookup_score/mlp"] == pytest.approx(1, abs=1e-9)


def deep() -> Letters:
    """Neurons that do something."""
    model = Letters()
    with torch.no_grad():
        for block in model.lm.transformer.h:
            block.mlp.c_fc.weight.mul_(30)
    return model


def by_hand(model: Letters, rows: list[list[int]], layer: int) -> tuple[list[tuple[int, bool, Tensor]], list[Tensor]]:
    """Of each token but the first of a text its id, whether it is scored on, and all neurons; and residuals."""
    model.eval()
    block, found, residuals = model.lm.transformer.h[layer], [], []
    inputs: list[Tensor] = []
    outputs: list[Any] = []
    handles = [
        block.mlp.c_proj.register_forward_pre_hook(lambda module, args: inputs.append(args[0][0])),
        block.register_forward_hook(lambda module, args, output: outputs.append(output)),
    ]
    for number, row in enumerate(rows):
        with torch.no_grad():
            model.lm(torch.tensor([row]))
        a, h = inputs.pop(), outputs.pop()
        residuals.append((h[0] if isinstance(h, tuple) else h)[0].abs())
        found += [(row[t], number % 2 == 1, a[t]) for t in range(1, len(row))]
    for handle in handles:
        handle.remove()
    return found, residuals


@pytest.mark.parametrize("left", [False, True])
def test_values_are_those_of_a_loop(left: bool) -> None:
    rows, model = texts(30), deep()
    found = analyze(model, loader(rows, left), neurons(baseline=False, neurons=16, track={"1": [3]}, max_length=20))
    for layer in range(2):
        tokens, residuals = by_hand(model, [row[:20] for row in rows], layer)
        callback = neurons(baseline=False, neurons=16, track={"1": [3]})
        some = callback.neurons.choose(str(layer), 48).tolist()
        assert len(some) == 16
        scores = []
        for neuron in some:
            halves = [
                [(token, float(a[neuron])) for token, half, a in tokens if half == kind] for kind in (False, True)
            ]
            scores.append(reference.look_up(*halves))
        assert found[f"lookup_score/{layer}"] == pytest.approx(fmean(scores), abs=1e-5)
        if layer:
            assert found["lookup_score/1/n3"] == pytest.approx(scores[some.index(3)], abs=1e-5)
        columns = [[float(a[neuron]) for _, _, a in tokens] for neuron in some]
        kurtosis = median_low([reference.kurtosis(column) for column in columns])
        assert found[f"activation_kurtosis/{layer}"] == pytest.approx(kurtosis, rel=1e-4)
        share = fmean(float(a > 0) for column in columns for a in column)
        assert found[f"activation_share/{layer}"] == pytest.approx(share, abs=1e-6)
        largest = max(float(one.max()) for one in residuals)
        median = float(torch.stack([one.median() for one in residuals]).median())
        assert found[f"massive_activation/{layer}"] == pytest.approx(largest / median, rel=1e-4)


def test_random_weights_stand_beside_it() -> None:
    found = analyze(deep(), loader(texts(30)), neurons(seed=2))
    for name in ("lookup_score", "lookup_share", "activation_kurtosis"):
        above = found[f"{name}/0"] - found[f"{name}_baseline/0"]
        assert found[f"{name}_above_baseline/0"] == pytest.approx(above)
    assert found["activation_kurtosis_baseline/0"] != found["activation_kurtosis/0"]


def test_texts_of_ones_own_are_read_whatever_is_validated() -> None:
    model = deep()
    model.tokenizer = lambda text: [ord(letter) - 96 for letter in text]  # type: ignore[assignment]
    own = ["abcabcadd", "bcadacba", "cabbage", "dabbc"]
    callback = neurons(texts=own, decode=lambda ids: "".join(chr(96 + one) for one in ids), track={"0": [1]})
    found = analyze(model, loader(), callback)
    assert found["neuron_tokens"] == sum(map(len, own)) - 4
    rows = [[ord(letter) - 96 for letter in text] for text in own]
    same = analyze(model, loader(rows), neurons(track={"0": [1]}))
    assert found["lookup_score/0"] == pytest.approx(same["lookup_score/0"], abs=1e-6)


# ------------------------------------------------- explanations


def explained(excerpts: list[Excerpt]) -> str:
    """The token with the largest activation in all of them."""
    best = {one.tokens[one.activations.index(max(one.activations))] for one in excerpts}
    return " ".join(sorted(best))


def simulated(explanation: str, tokens: list[str]) -> list[float]:
    return [10.0 * (token in explanation.split()) for token in tokens]


def test_an_explanation_that_is_right_is_scored_so_and_that_of_another_neuron_is_not() -> None:
    callback = neurons(
        sites={"mlp": "lm.down"}, track={"mlp": [1, 4]}, explain=explained, simulate=simulated, baseline=False
    )
    found = analyze(Wrapped(Fires("tokens")), batches(), callback)
    assert found["explanation_score/mean"] == found["explanation_score/mlp/n4"] == pytest.approx(1, abs=1e-9)
    # Where one of six tokens is there, another is not.
    assert found["explanation_score_control/mean"] == pytest.approx(-1 / 5, abs=0.03)
    given: list[Excerpt] = []
    one = neurons(
        sites={"mlp": "lm.down"},
        track={"mlp": [1]},
        explain=lambda excerpts: given.extend(excerpts) or "1",  # type: ignore[func-returns-value]
        simulate=simulated,
        baseline=False,
    )
    assert "explanation_score_control/mean" not in analyze(Wrapped(Fires("tokens")), batches(), one)
    assert len(given) == 10
    for excerpt in given:
        assert [float(token == "1") for token in excerpt.tokens] == excerpt.activations
        assert 5 <= len(excerpt.tokens) <= 13


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"explain": explained}, "`explain` and `simulate` are two functions, given together or not at all"),
        ({"explain": explained, "simulate": simulated, "track": None}, "`explain` is asked of the neurons of `track`"),
        ({"explain": lambda excerpts: 3, "simulate": simulated}, "`explain` must return a text, got int"),
        ({"explain": explained, "simulate": lambda text, tokens: [1.0]}, "a number for each of 59 tokens, got 1"),
    ],
)
def test_functions_that_do_something_else_are_told(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read("tokens", **{"track": {"mlp": [1]}, **kwargs})


# ------------------------------------------------- over readings


class Shifts(pl.Callback):
    """Before the second reading all neurons come to fire on the next token."""

    def __init__(self, by: int) -> None:
        self.by, self.runs = by, 0

    def on_validation_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        pl_module.lm.shift = self.by * self.runs
        self.runs += not trainer.sanity_checking


class Module(Wrapped):
    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        return self.lm(batch["input_ids"]).mean()  # type: ignore[no-any-return]

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self.lm(batch["input_ids"])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.0)


def data() -> Any:
    ids = torch.cat([one["input_ids"] for one in batches()])
    return loader([(one + 1).tolist() for one in ids], batch_size=5)


@pytest.mark.parametrize(("by", "expected"), [(0, 0.0), (1, 1.0)])
def test_contexts_stay_or_are_all_others(tmp_path: Path, by: int, expected: float) -> None:
    callback = neurons(sites={"mlp": "lm.down"}, baseline=False)
    trainer(tmp_path, [Shifts(by), callback], max_epochs=2).fit(Module(Fires("tokens", 7)), data(), data())
    _, values = callback.history.series("neuron_churn/mlp")
    assert len(callback.history) == 2
    assert values == [expected], "not at the first reading"


def test_contexts_are_told_when_a_fit_ends(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    callback = neurons(sites={"mlp": "lm.down"}, track={"mlp": [3]}, decode=lambda ids: "|".join(map(str, ids)))
    logger = TensorBoardLogger(tmp_path, name="", version="")
    trainer(tmp_path, [callback], max_epochs=1, logger=logger).fit(Module(Fires("tokens", 7)), data(), data())
    assert callback.table.startswith("**mlp/n3**, look-up r 1.00\n\n| activation | context |\n|---|---|\n| 1 | ")
    assert callback.table.count(" **3** ") == 10
    assert "\\|" in callback.table
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    (told,) = events.Tensors("neurons/contexts/text_summary")
    assert told.tensor_proto.string_val[0].decode() == callback.table


def fit(folder: object, callback: NeuronTable, **kwargs: Any) -> pl.Trainer:
    model = deep()
    torch.manual_seed(1)
    run = trainer(folder, [callback], **kwargs)
    run.fit(model, loader(texts(24, 3)), loader())
    return run


def test_resuming_goes_on(tmp_path: Path) -> None:
    whole, first, second = (neurons(track={"1": [2]}) for _ in range(3))
    fit(tmp_path, whole, max_epochs=2)
    fit(tmp_path, first, max_epochs=1).save_checkpoint(tmp_path / "a.ckpt")
    trainer(tmp_path, [second], max_epochs=2).fit(
        deep(), loader(texts(24, 3)), loader(), ckpt_path=tmp_path / "a.ckpt", weights_only=False
    )
    assert timeless(second)[0] == timeless(whole)[0]
    assert "neuron_churn/0" in second.reading
    key = "lookup_score_baseline/0"
    assert second.reading[key] == whole.reading[key] == first.reading[key]
    assert 0 < whole.reading["neuron_churn/1"] < 1


# ------------------------------------------------- arguments


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"neurons": 0}, "`neurons` must be at least 1, got 0"),
        ({"max_length": 1}, "`max_length` must be at least 2, got 1"),
        ({"texts": ["one"]}, r"`texts` must be two texts or more, .* got \['one'\]"),
        ({"track": [3]}, r"`track` must map sites to numbers of neurons, .* got \[3\]"),
        ({"track": {"0": [-1]}}, r"`track` must list numbers of neurons from 0 on for site '0', got \[-1\]"),
    ],
)
def test_arguments(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        neurons(**kwargs)
    with pytest.raises(TypeError, match="`decode` must be a function of a list of token ids, got 'x'"):
        neurons(decode="x")


def test_what_does_not_fit_the_model_is_told() -> None:
    with pytest.raises(ValueError, match=r"`track` names site '7', which is not among \['0', '1'\]"):
        analyze(Letters(), loader(), neurons(track={"7": [0]}))
    with pytest.raises(ValueError, match=r"`track` names neuron 48 of site '0', which has 48 neurons"):
        analyze(Letters(), loader(), neurons(track={"0": [48]}, baseline=False))
    with pytest.raises(ValueError, match="the text of a batch is not known"):
        analyze(Letters(), [{"x": torch.ones(2, 5)}], neurons(), forward=lambda model, batch: None)


# ------------------------------------------------- ranks


def over_ranks(number: int) -> dict[str, float]:
    callback = neurons(track={"1": [2, 7]}, explain=explained, simulate=simulated)
    return validated(callback, deep(), loader(texts(number), batch_size=2))


@pytest.mark.parametrize("number", [11, 2])
def test_ranks_read_what_one_process_reads(ranks: Any, number: int) -> None:
    alone = over_ranks(number)
    first, *others = ranks.run(over_ranks, number)
    assert first == pytest.approx(alone, abs=1e-6)
    assert all(other == first for other in others)
