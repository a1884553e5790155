"""Label words as anchors: eager gradients, random weights, a circuit, one that is learned, blocking, ranks."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from models.circuit import InductionCircuit
from reference import label_anchors as plain
from torch import nn
from torch.utils.data import DataLoader

from lightning_interp import LabelAnchors, LanguageModel, ValidationSchedule, analyze
from lightning_interp.datasets import RepeatedSegments
from lightning_interp.models import AttentionOnly, CausalLM, small_gpt2
from tests.callbacks.attending import LAYERS, Letters, Wrapped, loader, texts
from tests.toy import timeless, trainer, validated

BATCH = [{"input_ids": torch.ones(2, 3, dtype=torch.long)}]
HEADS = {"first": "lm.heads.0", "second": "lm.heads.1"}


def numbers(text: str) -> list[int]:
    """Words are their ids."""
    return [int(word) for word in text.split()]


def pairs(
    number: int, seed: int, words: tuple[int, int] = (5, 27), length: int = 5, labels: int = 2
) -> list[tuple[str, str]]:
    """Random texts with labels that have nothing to do with them."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randint(*words, (number, length), generator=generator).tolist()
    return [(" ".join(map(str, row)), str(3 + place % labels)) for place, row in enumerate(rows)]


def anchors(**kwargs: Any) -> LabelAnchors:
    given = {
        "examples": pairs(12, 0),
        "queries": pairs(6, 1),
        "template": "{text} 1 {label} 2 ",
        "lm": LanguageModel(numbers, model="lm", bos_token_id=0),
        "draw_figures": False,
        **kwargs,
    }
    return LabelAnchors(**given)


# ------------------------------------------------- values


def by_hand(callback: LabelAnchors, lm: nn.Module) -> dict[str, float]:
    """From eager attention whose gradients are retained, prompt by prompt."""
    assert callback.prompts.prompts is not None
    lm.set_attn_implementation("eager")  # type: ignore[operator]
    lm.eval()
    found: dict[str, list[float]] = {}
    words = numbers("3 4")
    for prompt in callback.prompts.prompts:
        output = lm(prompt.ids[None], output_attentions=True)
        for weights in output.attentions:
            weights.retain_grad()
        last = output.logits[0, -1]
        torch.nn.functional.cross_entropy(last, torch.tensor(words[prompt.answer])).backward()
        labels, classes = prompt.labels.tolist(), prompt.classes.tolist()
        for layer, weights in enumerate(output.attentions):
            product = (weights * weights.grad)[0].tolist()
            values = plain.flow(plain.saliency(product), labels)
            values["match"] = plain.match(
                weights[0, :, -1].sum(0).tolist(), labels, [one == prompt.answer for one in classes]
            )
            values |= {f"h{head}": one for head, one in enumerate(plain.importance(product))}
            for name, value in values.items():
                found.setdefault(f"{name}/layer_{layer}", []).append(value)
        with torch.no_grad():
            alone = lm(prompt.alone[None]).logits[0, -1]
        for name, logits in (("few", last), ("zero", alone)):
            found.setdefault(name, []).append(float(int(logits[words].argmax()) == prompt.answer))
    return {name: math.fsum(values) / len(values) for name, values in found.items()}


def test_saliency_is_that_of_gradients_retained_on_eager_attention() -> None:
    model = wide(Letters())
    callback = anchors(sites=LAYERS, baseline=False, shots=2)
    found = analyze(model, BATCH, callback)
    callback.resolve(model)
    expected = by_hand(callback, model.lm)
    for layer in LAYERS:
        for name in ("wp", "pq", "ww"):
            assert found[f"saliency_{name}/{layer}"] == pytest.approx(expected[f"{name}/{layer}"], abs=1e-5, rel=1e-4)
        for head in range(3):
            assert found[f"head_importance/{layer}/h{head}"] == pytest.approx(expected[f"h{head}/{layer}"], abs=1e-5)
        read = expected[f"pq/{layer}"] / expected[f"read_rest/{layer}"]
        assert found[f"anchor_read/{layer}"] == pytest.approx(read, rel=1e-3)
        assert found[f"anchor_match/{layer}"] == pytest.approx(expected[f"match/{layer}"], rel=1e-4)
    write = expected["write/layer_0"] / expected["write_rest/layer_0"]
    assert found["anchor_write/layer_0"] == pytest.approx(write, rel=1e-3)
    assert found["few_shot_accuracy"] == expected["few"]
    assert found["zero_shot_accuracy"] == expected["zero"]
    assert found["few_shot_gain"] == expected["few"] - expected["zero"]
    assert found["anchor_match_chance/layer_0"] == 0.5
    # Of the last layer only the last row feeds the loss.
    assert found["saliency_wp/layer_1"] == 0
    assert "anchor_write/layer_1" not in found
    assert expected["pq/layer_1"] > 1e-3


def wide(model: Letters) -> Letters:
    """The same with room for longer prompts."""
    torch.manual_seed(0)
    model.lm = small_gpt2(range(27), 12, heads=3, length=64, dropout=0.1)
    with torch.no_grad():
        for block in model.lm.transformer.h:  # type: ignore[union-attr]
            block.attn.c_attn.weight.mul_(20)
    return model


def test_random_weights_have_ratios_about_1() -> None:
    torch.manual_seed(0)
    model = Wrapped(small_gpt2(range(200), 64, layers=4, heads=4, length=256))
    names = [f"lm.transformer.h.{layer}.attn" for layer in range(4)]
    # Of few labels the same few tokens would make the means.
    given = {"examples": pairs(48, 0, (20, 190), 8, 8), "queries": pairs(24, 1, (20, 190), 8, 8)}
    found = analyze(model, BATCH, anchors(sites={str(n): name for n, name in enumerate(names)}, **given))
    for layer in range(4):
        for key in ("anchor_read", "anchor_read_baseline"):
            assert 0.8 < found[f"{key}/{layer}"] < 1.25, (key, layer)
        assert found[f"anchor_match/{layer}"] == pytest.approx(1 / 8, abs=0.01)
        above = found[f"anchor_read/{layer}"] - found[f"anchor_read_baseline/{layer}"]
        assert found[f"anchor_read_above_baseline/{layer}"] == above
    for layer in range(3):
        for key in ("anchor_write", "anchor_write_baseline"):
            assert 0.75 < found[f"{key}/{layer}"] < 1.1, (key, layer)
    # What was published is far from 1, as it is with any weights.
    assert found["saliency_pq/3"] / found["saliency_ww/3"] > 10
    assert found["saliency_wp/3"] == 0
    assert "anchor_write/3" not in found
    assert "anchor_write_baseline/3" not in found


# ------------------------------------------------- a circuit set by hand

WORDS, LABELS = range(1, 13), range(20, 32)
KNOWN = [(str(word), str(label)) for word, label in zip(WORDS, LABELS, strict=True)]


def circuit(examples: list[tuple[str, str]], sharpness: float = 50.0, **kwargs: Any) -> dict[str, float]:
    given = {"examples": examples, "queries": KNOWN, "template": "{text} {label} ", "sites": HEADS, "baseline": False}
    callback = anchors(**given, **kwargs)
    # Logits that leave the loss a gradient.
    model = InductionCircuit(40, 60, (50.0, sharpness), scale=6.0)
    return analyze(Wrapped(model), BATCH, callback)


def test_a_circuit_that_was_set_by_hand_reads_the_right_label() -> None:
    found = circuit(KNOWN)
    assert found["anchor_match/second"] == pytest.approx(1, abs=1e-4)
    assert found["anchor_match_chance/second"] == pytest.approx(1 / 12)
    assert found["few_shot_accuracy"] == 1
    # Without demonstrations all labels have the same logit.
    assert found["zero_shot_accuracy"] == pytest.approx(1 / 12)
    assert found["few_shot_gain"] == pytest.approx(11 / 12)
    assert found["anchor_read/second"] > 1e3
    assert found["saliency_wp/second"] == 0
    assert found["head_importance/second/h0"] > 0.01


def test_uniform_attention_is_at_chance() -> None:
    found = circuit(KNOWN, sharpness=0.0)
    assert found["anchor_match/second"] == pytest.approx(1 / 12, abs=1e-6)


def test_permuted_labels_of_demonstrations_are_at_chance() -> None:
    matches = []
    for seed in range(8):
        order = torch.randperm(12, generator=torch.Generator().manual_seed(seed)).tolist()
        permuted = [(word, KNOWN[place][1]) for (word, _), place in zip(KNOWN, order, strict=True)]
        matches.append(circuit(permuted)["anchor_match/second"])
    # Of a random permutation of C the number of fixed points has mean 1 and variance 1.
    assert sum(matches) / 8 == pytest.approx(1 / 12, abs=3 / 12 / math.sqrt(8))


def test_a_loss_of_0_leaves_no_ratio() -> None:
    callback = anchors(examples=KNOWN, queries=KNOWN, template="{text} {label} ", sites=HEADS, baseline=False)
    found = analyze(Wrapped(InductionCircuit(40, 60)), BATCH, callback)
    assert found["anchor_match/second"] == pytest.approx(1, abs=1e-4)
    assert found["saliency_pq/second"] < 1e-30
    assert [key for key in found if key.startswith(("anchor_read/", "anchor_write/"))] == []


# ------------------------------------------------- a model that learns


def learned(folder: object, layers: int) -> LabelAnchors:
    pl.seed_everything(0, verbose=False)
    model = CausalLM(AttentionOnly(64, layers=layers), lr=3e-3)
    known = [(str(word), str(word + 30)) for word in range(3, 11)]
    given = {"examples": known, "queries": known, "template": "{text} {label} ", "blocked_layers": 1}
    callback = anchors(lm=LanguageModel(numbers, model="lm"), blocking=True, **given)
    run = trainer(folder, [ValidationSchedule(steps=[1, 100, 240]), callback], max_steps=240, max_epochs=-1)
    data = [RepeatedSegments(32 * 240, ids=64, seed=0), RepeatedSegments(128, ids=64, seed=1)]
    run.fit(model, DataLoader(data[0], 32), DataLoader(data[1], 64))
    return callback


def test_induction_reads_the_right_label(tmp_path: Path) -> None:
    callback = learned(tmp_path, 2)
    _, match = callback.history.series("anchor_match/1")
    assert match[0] == pytest.approx(1 / 8, abs=0.02)
    assert match[1] < 0.4
    assert match[2] > 0.9
    found = callback.reading
    assert found["few_shot_accuracy"] == 1
    assert found["anchor_read/1"] > 10
    assert found["anchor_read_above_baseline/1"] > 10
    assert found["anchor_write/0"] > 2
    assert found["loyalty/first"] < 0.3
    assert found["loyalty/last"] == 1
    pictures = callback.figures()
    assert {"anchor_read", "anchor_match"} <= {name.partition("/")[0] for name in pictures}
    assert all(draw().axes for draw in pictures.values())


def test_labels_are_read_where_nothing_is_learned_from_them(tmp_path: Path) -> None:
    found = learned(tmp_path, 1).reading
    site = next(key for key in found if key.startswith("anchor_read/")).partition("/")[2]
    assert found[f"anchor_read/{site}"] > 1.3
    assert found[f"anchor_match/{site}"] == pytest.approx(1 / 8, abs=0.06)
    assert abs(found["few_shot_gain"]) < 0.3


# ------------------------------------------------- blocking


def test_loyalty_falls_where_labels_cannot_gather() -> None:
    found = circuit(KNOWN, blocking=True, blocked_layers=1)
    # Head 1 puts the word before each label into it; without that head 2 finds none.
    assert found["loyalty/first"] < 0.3
    # Head 2 reads at the last position alone.
    assert found["loyalty/last"] == 1
    # There are 12 labels and, without the first token and the last, 12 words.
    assert found["loyalty_random/first"] == found["loyalty_random/last"] == 1


def test_blocked_positions_see_themselves_alone() -> None:
    model = wide(Letters())
    with torch.no_grad():
        for block in model.lm.transformer.h:  # type: ignore[union-attr]
            block.attn.c_proj.weight.mul_(100)
    given = {"examples": pairs(4, 0, length=2), "queries": pairs(30, 1), "sites": LAYERS, "baseline": False}
    callback = anchors(blocking=True, blocked_layers=1, **given)
    found = analyze(model, BATCH, callback)
    callback.resolve(model)
    model.eval()
    tokens = torch.tensor(numbers("3 4"))

    def answers(mask: bool) -> list[int]:
        given = []
        for prompt in callback.prompts.prompts or ():
            length = len(prompt.ids)
            seen = torch.ones(length, length, dtype=torch.bool).tril()
            if mask:
                seen[prompt.labels] = False
                seen[prompt.labels, prompt.labels] = True
            bias = torch.zeros(length, length).masked_fill(~seen, -math.inf)[None, None]
            hook = model.lm.transformer.h[0].attn.register_forward_pre_hook(
                lambda module, args, kwargs, bias=bias: (args, {**kwargs, "attention_mask": bias}), with_kwargs=True
            )
            with torch.no_grad():
                given.append(int(model.lm(prompt.ids[None]).logits[0, -1, tokens].argmax()))
            hook.remove()
        return given

    same = [one == other for one, other in zip(answers(False), answers(True), strict=True)]
    assert found["loyalty/first"] == sum(same) / len(same) < 1


def test_too_few_other_positions_leave_it_undefined() -> None:
    found = analyze(
        Wrapped(InductionCircuit(40, 60)),
        BATCH,
        anchors(
            examples=[("", "20"), ("", "21")],
            queries=[("5", "20")],
            template="{text} {label} ",
            sites=HEADS,
            baseline=False,
            blocking=True,
            blocked_layers=2,
        ),
    )
    assert "loyalty_random/first" not in found
    assert "loyalty/first" in found


# ------------------------------------------------- nothing is touched


@pytest.mark.parametrize("frozen", [False, True])
def test_no_gradient_is_touched_and_parameters_may_be_frozen(frozen: bool) -> None:
    model = wide(Letters())
    expected = analyze(model, BATCH, anchors(sites=LAYERS, blocking=True, blocked_layers=1))
    model.requires_grad_(not frozen)
    before = {name: one.clone() for name, one in model.state_dict().items()}
    found = analyze(model, BATCH, anchors(sites=LAYERS, blocking=True, blocked_layers=1))
    assert all(one.grad is None for one in model.parameters())
    assert all(torch.equal(one, before[name]) for name, one in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert {key: value for key, value in found.items() if "seconds" not in key} == pytest.approx(
        {key: value for key, value in expected.items() if "seconds" not in key}, abs=1e-7
    )


def fit(folder: object, callbacks: list[LabelAnchors], **kwargs: Any) -> Letters:
    model = wide(Letters())
    torch.manual_seed(1)
    trainer(folder, callbacks, **kwargs).fit(model, loader(texts(24, 3)), loader())
    return model


def test_training_is_bit_identical(tmp_path: Path) -> None:
    plain_model, callback = fit(tmp_path, []), anchors(blocking=True, blocked_layers=1)
    watched = fit(tmp_path, [callback])
    assert len(callback.history) == 2
    pair = zip(plain_model.state_dict().values(), watched.state_dict().values(), strict=True)
    assert all(torch.equal(one, other) for one, other in pair)


def test_resuming_goes_on_and_the_baseline_is_read_once(tmp_path: Path) -> None:
    whole, first, second = (anchors(sites=LAYERS) for _ in range(3))
    fit(tmp_path, [whole], max_epochs=2)
    model = wide(Letters())
    torch.manual_seed(1)
    run = trainer(tmp_path, [first], max_epochs=1)
    run.fit(model, loader(texts(24, 3)), loader())
    run.save_checkpoint(tmp_path / "a.ckpt")
    trainer(tmp_path, [second], max_epochs=2).fit(
        wide(Letters(1)), loader(texts(24, 3)), loader(), ckpt_path=tmp_path / "a.ckpt", weights_only=False
    )
    assert timeless(second)[0] == timeless(whole)[0]
    baseline = "anchor_read_baseline/layer_0"
    assert second.reading[baseline] == whole.reading[baseline] == first.reading[baseline]


def over_ranks() -> dict[str, float]:
    callback = anchors(blocking=True, blocked_layers=1, queries=pairs(5, 1))
    return validated(callback, wide(Letters()), loader(batch_size=2))


def test_ranks_read_what_one_process_reads(ranks: Any) -> None:
    alone = over_ranks()
    first, *others = ranks.run(over_ranks)
    assert first == pytest.approx(alone, abs=1e-9)
    assert all(other == first for other in others)


def single() -> dict[str, float]:
    """Fewer prompts than ranks."""
    callback = anchors(queries=pairs(1, 1), baseline=False)
    return validated(callback, wide(Letters()), loader(batch_size=2))


def test_a_rank_may_have_no_prompt(two_ranks: Any) -> None:
    assert two_ranks.run(single)[1] == pytest.approx(single(), abs=1e-9)


# ------------------------------------------------- arguments


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"examples": []}, r"`examples` must be a list of pairs \(text, label\), at least one, got none"),
        ({"queries": ["ab"]}, r"`queries` must be a list of pairs .* got 'ab' among them"),
        ({"queries": [("a", 1)]}, r"both of them text, got \('a', 1\) among them"),
        ({"examples": "no.such.function"}, r"`examples` is 'no.such.function'; it must be a list of pairs"),
        ({"examples": [("7", "3")]}, r"`examples` must have at least 2 labels, got \['3'\]"),
        ({"queries": [("7", "5")]}, r"`queries` has the label '5'; those of `examples` are \['3', '4'\]"),
        ({"shots": 7}, "`shots` is 7, and `examples` has 6 of the label '3'"),
        ({"shots": 0}, "`shots` must be at least 1, got 0"),
        ({"template": "{text}"}, "`template` must have one '{text}' and behind it one '{label}', got '{text}'"),
        ({"blocked_layers": 0}, "`blocked_layers` must be at least 1, got 0"),
        ({"blocked_layers": 2}, "`blocked_layers=2` is for blocking=True, and `blocking` is False"),
        ({"lm": LanguageModel(numbers, special_tokens="own")}, "`special_tokens='own'` is not for causal models"),
    ],
)
def test_arguments(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        anchors(**kwargs)


def test_what_a_model_does_not_have_is_told() -> None:
    model = wide(Letters())
    with pytest.raises(ValueError, match=r"`blocked_layers` is 5, and there are 2 sites: \['layer_0', 'layer_1'\]"):
        analyze(model, BATCH, anchors(sites=LAYERS, blocking=True))
    with pytest.raises(ValueError, match="`shots` is 6, and a prompt has 103 tokens: the model's context is 64"):
        analyze(model, BATCH, anchors(shots=6))
    with pytest.raises(ValueError, match="the tokenizer gives ids up to 99"):
        analyze(model, BATCH, anchors(queries=[("99", "3")]))
    with pytest.raises(ValueError, match="the label '3 3' is 2 tokens"):
        analyze(model, BATCH, anchors(examples=[("7", "3 3"), ("7", "4")], queries=[("7", "4")]))


def test_weights_that_only_pass_by_cannot_be_read() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.weights = nn.Embedding(30, 30), nn.Identity()

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            x = self.embedding(ids)
            hidden = torch.ones(ids.shape[1], ids.shape[1]).triu(1).bool()
            scores = (x @ x.transpose(1, 2)).masked_fill(hidden, -math.inf)
            odds = (scores - scores.amax(-1, keepdim=True)).exp()
            weights: torch.Tensor = self.weights((odds / odds.sum(-1, keepdim=True))[:, None])[:, 0]
            return weights @ x

    with pytest.raises(ValueError, match="site 'w' returns weights, and a gate goes where they are used"):
        analyze(Wrapped(Own()), BATCH, anchors(sites={"w": "lm.weights"}, baseline=False))


def test_functions_are_called_for_pairs() -> None:
    model = Wrapped(AttentionOnly(30, layers=1))
    found = analyze(model, BATCH, anchors(examples=lambda: pairs(4, 0), baseline=False))
    again = analyze(model, BATCH, anchors(examples=pairs(4, 0), baseline=False))
    saliency = {key: value for key, value in found.items() if key.startswith("saliency_pq/")}
    assert len(saliency) == 1
    assert all(again[key] == value > 0 for key, value in saliency.items())
