"""Gradient differentials against loops in float64; tuning, its baselines, its rules, and the way back."""

from __future__ import annotations

import copy
import math
import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference import minimal_pairs as plain
from tasks import small_lm
from tasks.toy_lm import ToyLM, random_pairs
from torch import nn

from lightning_interp.language import encode_sentences
from lightning_interp.tasks.baselines import METHODS
from lightning_interp.tasks.differential import gradient_differential, top_entries
from lightning_interp.tasks.ftgd import FtgdResult, ftgd
from lightning_interp.tasks.stopping import Check, StopRules

SEEDS = st.integers(0, 10**6)
LETTERS = "abcdefghij"
TRAIN = [(f"{one}{two}ab", f"{one}{two}ba") for one in "cdef" for two in "ghij"]
HELD_OUT = [(f"{one}{two}ab", f"{one}{two}ba") for one in "ghij" for two in "cdef"]


def letters(sentence: str) -> list[int]:
    return [ord(letter) - 96 for letter in sentence]


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> None:
    assert one.keys() == two.keys()
    assert [name for name in one if not torch.equal(one[name], two[name])] == []


def tuned(model: nn.Module, **options: object) -> FtgdResult:
    arguments = {"max_steps": 3, "check_every": 1, "target_accuracy": None, "patience": None, "batch_size": 5}
    return ftgd(model, TRAIN, HELD_OUT, letters, **arguments | options)


# The differential.


@given(seed=SEEDS, number=st.integers(1, 6), budget=st.integers(1, 80))
def test_differential_is_the_reference_in_any_micro_batch_and_order(seed: int, number: int, budget: int) -> None:
    model, pairs = ToyLM(seed=seed % 5), random_pairs(number, seed)
    found = gradient_differential(model, pairs, batch_tokens=budget)
    expected = plain.differential(copy.deepcopy(model).double().eval(), pairs)
    assert list(found) == list(expected)
    assert "head.weight" not in found  # tied to the embedding
    for name, value in found.items():
        torch.testing.assert_close(value.double(), expected[name], rtol=1e-4, atol=2e-5)
    again = gradient_differential(model, random.Random(seed).sample(pairs, number), batch_tokens=budget)
    for name, value in found.items():
        torch.testing.assert_close(again[name], value, rtol=1e-4, atol=1e-5)


@given(seed=SEEDS)
def test_shared_prefixes_cancel(seed: int) -> None:
    """What is left is the gradient of the tokens that differ and what follows them, given their context."""
    model, pairs = ToyLM(seed=seed % 5), random_pairs(3, seed)
    found = gradient_differential(model, pairs)
    suffixes = plain.differential(copy.deepcopy(model).double().eval(), pairs, skip_shared=True)
    for name, value in found.items():
        torch.testing.assert_close(value.double(), suffixes[name], rtol=1e-4, atol=2e-5)


def test_a_pair_of_equal_sentences_leaves_rounding_only() -> None:
    sentence = torch.tensor([1, 5, 3, 7, 2])
    left = gradient_differential(ToyLM(), [(sentence, sentence.clone())])
    assert max(float(value.abs().max()) for value in left.values()) < 1e-6


def test_exchanging_the_sides_turns_the_sign() -> None:
    model, pairs = ToyLM(), random_pairs(4, 1)
    one, other = gradient_differential(model, pairs), gradient_differential(model, [pair[::-1] for pair in pairs])
    for name, value in one.items():
        torch.testing.assert_close(value, -other[name], rtol=1e-4, atol=1e-6)


def test_frozen_parameters_take_no_part() -> None:
    model = ToyLM()
    model.embedding.weight.requires_grad = False
    found = gradient_differential(model, random_pairs(2, 0))
    assert "embedding.weight" not in found
    assert found["unused"].tolist() == [0, 0]


def test_a_transformers_model_has_the_reference_differential() -> None:
    model = small_lm.trained(steps=5)
    encoded = [tuple(encode_sentences(small_lm.tokenizer(), pair)) for pair in small_lm.agreement(3, 0)]
    wide = copy.deepcopy(model).double().eval()
    asked = nn.Module()
    asked.inner, asked.forward = wide, lambda ids: wide(ids).logits
    expected = plain.differential(asked, encoded, skip_shared=True)
    for name, value in gradient_differential(model, encoded).items():
        torch.testing.assert_close(value.double(), expected[f"inner.{name}"], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_the_model_and_the_random_streams_are_left_alone(mode: type) -> None:
    model = ToyLM().train()
    model.norm.eval()
    model.mix.weight.grad = torch.ones_like(model.mix.weight)
    before, expected = weights(model), gradient_differential(model, random_pairs(3, 0))
    states = torch.random.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    with mode(), torch.autocast("cpu", torch.bfloat16):
        pairs = [(good.clone(), bad.clone()) for good, bad in random_pairs(3, 0)]
        states_inside = torch.random.get_rng_state()
        found = gradient_differential(model, pairs, batch_tokens=20)
        with tuned(model, text=["abc"]):
            pass
        assert torch.equal(torch.random.get_rng_state(), states_inside)
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-6)
    assert_same(weights(model), before)
    assert torch.equal(torch.random.get_rng_state(), states[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states[1:]
    assert (model.training, model.norm.training, model.dropout.training) == (True, False, True)
    grads = {name: one.grad for name, one in model.named_parameters() if one.grad is not None}
    assert list(grads) == ["mix.weight"]
    assert bool((grads["mix.weight"] == 1).all())
    assert all(one.requires_grad for one in model.parameters())


def test_what_has_no_differential_is_said() -> None:
    pairs = random_pairs(1, 0)
    with pytest.raises(ValueError, match=r"'unused' is torch.bfloat16; .*`.float\(\)`"):
        gradient_differential(ToyLM().bfloat16(), pairs)
    with pytest.raises(ValueError, match="ToyLM has no parameter with `requires_grad`"):
        gradient_differential(ToyLM().requires_grad_(False), pairs)
    with pytest.raises(ValueError, match="`pairs` is empty"):
        gradient_differential(ToyLM(), [])


# The mask.


@given(seed=SEEDS, fraction=st.floats(0.001, 1.0), levels=st.sampled_from([3, 50, 10**6]))
def test_largest_entries_are_those_of_a_sort(seed: int, fraction: float, levels: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"a": (7, 5), "b": (3,), "c": (2, 4, 3), "d": ()}
    # Few levels make ties, zeros among them.
    values = {
        name: torch.randint(-levels, levels + 1, shape, generator=generator) / 7 for name, shape in shapes.items()
    }
    values["a"] = values["a"].mT  # not contiguous
    found = top_entries(values, fraction)
    count = max(1, round(fraction * 63))
    assert {name: where.tolist() for name, where in found.items()} == plain.largest(values, count)
    by_tensor = top_entries(values, fraction, threshold="tensor")
    for name, value in values.items():
        each = plain.largest({name: value}, max(1, round(fraction * value.numel())))
        assert by_tensor[name].tolist() == each[name]


def test_largest_entries_of_many() -> None:
    values = {
        name: torch.randn(300, 200, generator=torch.Generator().manual_seed(seed)) * 10.0**-seed
        for seed, name in enumerate("xyz")
    }
    for fraction in (1e-5, 0.01, 0.3, 0.999):
        found = top_entries(values, fraction)
        flat = torch.cat([value.flatten().abs() for value in values.values()])
        count = round(fraction * 180_000)
        chosen = torch.cat([values[name].flatten()[where].abs() for name, where in found.items()])
        assert len(chosen) == count
        assert torch.equal(chosen.sort().values, flat.topk(count).values.sort().values)


@pytest.mark.parametrize("fraction", [0.0, 1.5, math.nan])
def test_bad_selections_are_said(fraction: float) -> None:
    with pytest.raises(ValueError, match="`fraction` must be above 0 and at most 1"):
        top_entries({"a": torch.ones(2)}, fraction)
    with pytest.raises(ValueError, match="`threshold` must be 'model' or 'tensor', got 'layer'"):
        top_entries({"a": torch.ones(2)}, 0.5, threshold="layer")
    with pytest.raises(ValueError, match="not all entries are finite in 'a'"):
        top_entries({"a": torch.tensor([1.0, torch.nan]), "b": torch.ones(1)}, 0.5)


# Tuning and the way back.


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("threshold", ["model", "tensor"])
def test_exactly_the_masked_entries_change_and_come_back(method: str, threshold: str) -> None:
    model = ToyLM()
    before = weights(model)
    sizes = {name: one.numel() for name, one in model.named_parameters()}
    with tuned(model, method=method, fraction=0.1, threshold=threshold) as result:
        changed = {name: (before[name] != one.detach()).flatten() for name, one in model.named_parameters()}
        assert result.changed == sum(int(one.sum()) for one in changed.values()) > 0
        assert model.head.weight is model.embedding.weight
    assert result.restored
    assert_same(weights(model), before)
    if METHODS[method].mask is None:
        assert (result.mask, result.entries, result.fraction) == (None, sum(sizes.values()), 1.0)
        return
    counts = {name: len(where) for name, where in result.mask.items()}
    expected = round(0.1 * sum(sizes.values()))
    if threshold == "tensor":
        assert counts == {name: max(1, round(0.1 * size)) for name, size in sizes.items()}
        expected = sum(counts.values())
    assert result.entries == sum(counts.values()) == expected
    assert result.fraction == pytest.approx(expected / sum(sizes.values()))
    for name, where in result.mask.items():
        outside = torch.ones(sizes[name], dtype=torch.bool)
        outside[where] = False
        assert not bool(changed[name][outside].any())


def test_a_step_is_plain_descent_on_the_mask() -> None:
    model, pairs = ToyLM(), [tuple(encode_sentences(letters, pair)) for pair in TRAIN]
    before, differential = weights(model), gradient_differential(model, pairs)
    ordinary = plain_gradient(model, [good for good, _ in pairs])
    rate = 0.3 / sum(float(value.double().square().sum()) for value in ordinary.values())
    with tuned(model, max_steps=1, batch_size=100, fraction=0.05, step_gain=0.3) as result:
        assert result.learning_rate == pytest.approx(rate, rel=1e-4)
        for name, parameter in model.named_parameters():
            expected = before[name].clone().flatten()
            expected[result.mask[name]] -= rate * differential[name].flatten()[result.mask[name]]
            torch.testing.assert_close(parameter.detach().flatten(), expected, rtol=1e-4, atol=1e-6)


def plain_gradient(model: nn.Module, sentences: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    """The gradient of the mean of S, in float64."""
    wide = copy.deepcopy(model).double().eval()
    loss = -torch.stack([plain.log_prob(wide, ids) for ids in sentences]).mean()
    found = torch.autograd.grad(loss, list(wide.parameters()), allow_unused=True, materialize_grads=True)
    return dict(zip(dict(wide.named_parameters()), found, strict=True))


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("method", ["ftgd", "fine_tuning"])
def test_an_error_in_the_middle_restores_the_weights(error: type[BaseException], method: str) -> None:
    model = ToyLM().train()
    before, calls = weights(model), []

    def forward(one: nn.Module, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        calls.append(any(not torch.equal(before[name], value) for name, value in one.state_dict().items()))
        if sum(calls) == 3:
            raise error("planted")
        return one(ids)

    with pytest.raises(error, match="planted"):
        tuned(model, method=method, forward=forward)
    assert calls[-1]  # the weights had changed by then
    assert model.training
    assert_same(weights(model), before)


def test_an_error_within_restores_the_weights_too() -> None:
    model = ToyLM()
    before = weights(model)
    with pytest.raises(RuntimeError, match="planted"), tuned(model):
        raise RuntimeError("planted")
    assert_same(weights(model), before)


def test_a_second_restoration_does_nothing() -> None:
    model = ToyLM()
    result = tuned(model)
    result.restore()
    with torch.no_grad():
        model.mix.weight.add_(1)
    after = weights(model)
    result.restore()
    assert_same(weights(model), after)


def test_parameters_that_are_not_contiguous_are_tuned_and_restored() -> None:
    model = ToyLM()
    model.mix.weight = nn.Parameter(model.mix.weight.detach().mT.contiguous().mT)
    assert not model.mix.weight.is_contiguous()
    before = weights(model)
    with tuned(model, fraction=0.5), tuned(model, method="ftgd_unmasked"):
        assert not torch.equal(model.mix.weight, before["mix.weight"])
    assert_same(weights(model), before)


def test_the_seed_decides() -> None:
    model = ToyLM()
    for method in METHODS:
        found = []
        for seed in (0, 0, 1):
            with tuned(model, method=method, seed=seed):
                found.append(torch.cat([value.flatten() for value in weights(model).values()]))
        assert torch.equal(found[0], found[1])
        assert not torch.equal(found[0], found[2])


def test_scores_that_are_not_finite_are_an_error() -> None:
    model = ToyLM()
    before = weights(model)
    with pytest.raises(FloatingPointError, match="not finite after"):
        tuned(model, learning_rate=1e30, method="ftgd_unmasked", max_steps=20)
    assert_same(weights(model), before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "adam"}, "`method` must be one of 'ftgd', .*'shuffled', got 'adam'"),
        ({"fraction": 2}, "`fraction` must be above 0 and at most 1, got 2"),
        ({"threshold": "layer"}, "`threshold` must be 'model' or 'tensor'"),
        ({"step_gain": 0}, "`step_gain` must be above 0 and finite, got 0"),
        ({"learning_rate": -1.0}, "`learning_rate` must be above 0 and finite, got -1.0"),
        ({"batch_size": 0}, "`batch_size` must be at least 1, got 0"),
        ({"check_every": 0}, "`check_every` must be at least 1, got 0"),
        ({"text": []}, "`text` has no sentence"),
        ({"patience": 0}, "`patience` must be at least 1, got 0"),
        ({"target_accuracy": 0.0}, "`target_accuracy` must be above 0"),
        ({"perplexity_limit": -0.1}, "`perplexity_limit` must be at least 0"),
        ({"max_steps": -1}, "`max_steps` must be at least 0"),
    ],
)
def test_bad_arguments_are_said(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tuned(ToyLM(), **options)


def test_held_out_pairs_must_be_held_out() -> None:
    with pytest.raises(ValueError, match=r"`held_out` shares 2 pair\(s\) with `train`, one of them \('cgab', 'cgba'\)"):
        ftgd(ToyLM(), TRAIN, [*HELD_OUT, *TRAIN[:2]], letters)


# The rules.


def test_each_rule_fires() -> None:
    easy = {"method": "ftgd_unmasked", "max_steps": 40, "text": ["cgh", "dij"]}
    with tuned(ToyLM(), target_accuracy=0.99, perplexity_limit=None, **easy) as result:
        assert (result.stopped_by, result.history[-1].accuracy >= 0.99) == ("accuracy", True)
        assert 0 < result.steps < 40
    with tuned(ToyLM(), perplexity_limit=0.0001, **easy) as result:
        first, last = result.history[0].perplexity, result.history[-1].perplexity
        assert result.stopped_by == "perplexity"
        assert last > 1.0001 * first
        assert all(check.perplexity <= 1.0001 * first for check in result.history[:-1])
    with tuned(ToyLM(), learning_rate=1e-12, patience=4, max_steps=40, check_every=2) as result:
        assert (result.stopped_by, result.steps, len(result.history)) == ("no_gain", 8, 5)
        assert math.isnan(result.history[0].perplexity)
    with tuned(ToyLM(), max_steps=7, check_every=3) as result:
        assert (result.stopped_by, [check.step for check in result.history]) == ("steps", [0, 3, 6, 7])
    with tuned(ToyLM(), max_steps=0) as result:
        assert (result.stopped_by, result.steps, result.changed) == ("steps", 0, 0)


def test_the_order_of_rules_and_what_turns_them_off() -> None:
    both = [Check(0, 0.5, 0.0, 10.0), Check(1, 1.0, 1.0, 20.0)]
    assert StopRules().decide(both) == "accuracy"
    assert StopRules(target_accuracy=None).decide(both) == "perplexity"
    assert StopRules(target_accuracy=None, perplexity_limit=None).decide(both) is None
    falling = [Check(step, 0.5, 0.0, math.nan) for step in range(11)]
    assert StopRules().decide(falling[:10]) is None
    assert StopRules().decide(falling) == "no_gain"
    assert StopRules(patience=None).decide(falling) is None
    assert StopRules(patience=None, max_steps=10).decide(falling) == "steps"


# On a language model that has something to learn.


@pytest.fixture(scope="module")
def language_model() -> nn.Module:
    pytest.importorskip("transformers")
    return small_lm.trained()


def learned(model: nn.Module, **options: object) -> FtgdResult:
    pairs = small_lm.agreement(192, 1)
    result = ftgd(model, pairs[:64], pairs[64:], small_lm.tokenizer(), text=small_lm.general(60, 99), **options)
    result.restore()
    return result


def test_ftgd_learns_the_task_and_spares_the_rest(language_model: nn.Module) -> None:
    before = weights(language_model)
    result = learned(language_model)
    first, last = result.history[0], result.history[-1]
    assert result.stopped_by == "accuracy"
    assert first.accuracy < 0.7
    assert abs(first.margin) < 0.2
    assert last.margin > first.margin + 0.4
    assert last.perplexity < 1.01 * first.perplexity

    # Ordinary fine-tuning reaches it too, but forgets the rest of the language.
    ordinary = learned(language_model, method="fine_tuning", step_gain=0.3, patience=None, perplexity_limit=None)
    assert ordinary.stopped_by == "accuracy"
    assert ordinary.history[-1].perplexity > 1.1 * first.perplexity

    # As many steps with wrong labels, or on entries chosen by lot, gain little.
    free = {"max_steps": result.steps, "target_accuracy": None, "patience": None, "perplexity_limit": None}
    gains = {}
    for method in ("ftgd", "shuffled", "ftgd_random_mask"):
        history = learned(language_model, method=method, **free).history
        gains[method] = history[-1].margin - history[0].margin
    assert abs(gains["shuffled"]) < 0.2 * gains["ftgd"]
    assert abs(gains["ftgd_random_mask"]) < 0.2 * gains["ftgd"]
    assert_same(weights(language_model), before)


def test_a_small_step_gains_what_the_differential_predicts(language_model: nn.Module) -> None:
    """To first order the mean margin of the training pairs rises by η‖m⊙D‖² (with one step on all of them)."""
    from lightning_interp.tasks.scoring import Scorer

    pairs, words = small_lm.agreement(64, 3), small_lm.tokenizer()
    scorer = Scorer(language_model, words)
    start = scorer.score_task(pairs[:32]).double().mean()
    options = {"learning_rate": 2e-4, "max_steps": 1, "batch_size": 64, "target_accuracy": None}
    differential = gradient_differential(language_model, [tuple(encode_sentences(words, one)) for one in pairs[:32]])
    with ftgd(language_model, pairs[:32], pairs[32:], words, **options) as result:
        gain = float(scorer.score_task(pairs[:32]).double().mean() - start)
    slope = sum(float(differential[name].flatten()[at].double().square().sum()) for name, at in result.mask.items())
    assert gain == pytest.approx(2e-4 * slope, rel=0.05)
