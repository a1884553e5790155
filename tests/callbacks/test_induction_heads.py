"""Induction heads: a circuit set by hand, chance, the text's losses, ablation, ranks, resuming; a model that learns."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from models.circuit import InductionCircuit
from torch import nn
from torch.utils.data import DataLoader

from lightning_interp import InductionHeads, ValidationSchedule, analyze
from lightning_interp.datasets import RepeatedSegments
from lightning_interp.functional.induction import pattern_chance
from lightning_interp.models import AttentionOnly, CausalLM
from lightning_interp.parts.words import Words
from lightning_interp.sites import CaptureError
from tests.callbacks.attending import LAYERS, Letters, Wrapped, loader, texts
from tests.toy import Embedding, timeless, trainer, validated

BATCH = [{"input_ids": torch.ones(2, 3, dtype=torch.long)}]
HEADS = {"first": "lm.heads.0", "second": "lm.heads.1"}


def induction(**kwargs: Any) -> InductionHeads:
    given = {"model": "lm", "positions": None, "draw_figures": False, "padding_idx": -1, **kwargs}
    return InductionHeads(**given)


def circuit(sharpness: tuple[float, float] = (50.0, 50.0), **kwargs: Any) -> dict[str, float]:
    callback = induction(sites=HEADS, ids=range(1, 60), start_token=0, ablate=1, baseline=False, **kwargs)
    return analyze(Wrapped(InductionCircuit(60, 101, sharpness)), BATCH, callback)


def test_a_circuit_that_was_set_by_hand() -> None:
    found = circuit(track={"second": [0]})
    assert found["prefix_matching/second/h0"] == pytest.approx(1, abs=1e-4)
    assert found["repeated_previous_token/first/h0"] == pytest.approx(1, abs=1e-4)
    assert found["prefix_matching/first/h0"] == pytest.approx(0, abs=1e-4)
    assert found["duplicate_token/max"] == pytest.approx(0, abs=1e-4)
    assert found["induction_heads"] == 1
    assert found["prefix_matching/max"] == found["prefix_matching/second/h0"]
    assert found["repeat_loss/later"] == pytest.approx(0, abs=1e-3)
    assert found["repeat_gain"] > 10
    # Without the head the logits are the same everywhere.
    assert found["head_effect/best"] == found["head_effect/second/h0"] > 3
    assert "head_effect_random/best" not in found, "there is no other head in its layer"


def test_uniform_attention_is_at_chance() -> None:
    found = circuit((0.0, 0.0))
    chance = pattern_chance(25, 4)
    for name in ("prefix_matching", "duplicate_token"):
        assert found[f"{name}/max"] == pytest.approx(chance[name], abs=1e-6)
        assert found[f"{name}_chance/max"] == chance[name]
    assert found["repeated_previous_token/max"] == pytest.approx(chance["previous_token"], abs=1e-6)
    assert found["induction_heads"] == 0


def test_random_weights_are_near_chance_and_stand_beside_it() -> None:
    torch.manual_seed(0)
    model = Wrapped(AttentionOnly(200, layers=2))
    found = analyze(model, BATCH, induction(seed=3))
    chance = found["prefix_matching_chance/max"]
    assert found["prefix_matching/max"] == pytest.approx(chance, abs=5e-3)
    assert found["prefix_matching_baseline/max"] == pytest.approx(chance, abs=5e-3)
    above = found["prefix_matching/max"] - found["prefix_matching_baseline/max"]
    assert found["prefix_matching_above_baseline/max"] == above
    assert abs(found["repeat_gain"]) < 0.1
    assert "formed_step/prefix_matching" not in found


def test_sequences_are_the_same_for_ever_and_of_the_models_vocabulary() -> None:
    model = Wrapped(AttentionOnly(400, layers=1))
    one, other, third = induction(), induction(), induction(seed=1)
    for callback in (one, other, third):
        callback.resolve(model)
    ids = one.repeated._drawn
    assert torch.equal(ids, other.repeated._drawn)
    assert not torch.equal(ids, third.repeated._drawn)
    assert ids.shape == (16, 101)
    assert bool(((ids >= 8) & (ids < 200)).all())
    assert one.settings()["start_token"] == int(ids[0, 0]) == 8
    few = Wrapped(AttentionOnly(40, layers=1))
    one.resolve(few)
    assert int(one.repeated._drawn.max()) == 39


def test_an_effect_is_that_of_the_mean_in_the_heads_place() -> None:
    torch.manual_seed(0)
    lm = AttentionOnly(60, layers=2, heads=3)
    for layer in lm.layers:
        torch.nn.init.normal_(layer.attention.in_proj.weight, std=0.4)
    model = Wrapped(lm)
    callback = induction(length=6, repeats=3, sequences=5, track={"1": [2]}, ablate=0)
    found = analyze(model, BATCH, callback)
    callback.resolve(model)
    ids = callback.repeated._drawn
    outputs: list[torch.Tensor] = []
    out = lm.layers[1].attention.out_proj
    handle = out.register_forward_pre_hook(lambda module, args: outputs.append(args[0]))
    lm.eval()

    def later(logits: torch.Tensor) -> float:
        losses = nn.functional.cross_entropy(logits[:, :-1].transpose(1, 2), ids[:, 1:], reduction="none")
        return float(losses[:, 7:].double().mean())

    with torch.no_grad():
        whole = later(lm(ids))
        width = outputs[0].shape[-1] // 3
        mean = outputs[0][..., 2 * width :].mean((0, 1))
        handle.remove()

        def without(module: nn.Module, args: Any) -> tuple[torch.Tensor]:
            return (torch.cat([args[0][..., : 2 * width], mean.expand(*args[0].shape[:2], -1)], -1),)

        out.register_forward_pre_hook(without)
        expected = later(lm(ids)) - whole
    assert found["head_effect/1/h2"] == pytest.approx(expected, abs=1e-5)
    assert abs(expected) > 1e-4
    assert "head_effect_random/1/h2" in found


# ------------------------------------------------- the text


def by_hand(model: Letters, rows: list[list[int]], early: int, late: int, width: int) -> float:
    model.eval()
    at: dict[int, list[float]] = {}
    for row in rows:
        if len(row) < late + width + 2:
            continue
        ids = torch.tensor([row])
        with torch.no_grad():
            losses = nn.functional.cross_entropy(model.lm(ids).logits[0, :-1].double(), ids[0, 1:], reduction="none")
        for place, loss in enumerate(losses.tolist()):
            at.setdefault(place, []).append(loss)

    def mean(centre: int) -> float:
        found = [loss for place in range(centre - width, centre + width + 1) for loss in at[place]]
        return math.fsum(found) / len(found)

    return mean(late) - mean(early)


def test_the_score_of_the_text_is_that_of_a_loop(tmp_path: Path) -> None:
    rows, model = texts(30), Letters()
    callback = induction(length=5, sequences=2, positions=(2, 9), half_width=1, padding_idx=None)
    found = analyze(model, loader(rows), callback)
    assert found["icl_score"] == pytest.approx(by_hand(model, rows, 2, 9, 1), abs=1e-6)
    other = induction(length=5, sequences=2, positions=(2, 40), half_width=1, padding_idx=None)
    assert "icl_score" not in analyze(model, loader(rows), other), "no text is as long"


def test_a_text_that_is_not_known_is_told() -> None:
    given = {"length": 5, "sequences": 2, "positions": (1, 3), "half_width": 0, "padding_idx": None}
    with pytest.raises(ValueError, match="has no padding mask"):
        analyze(Letters(), [{"input_ids": torch.ones(2, 5, dtype=torch.long)}], induction(**given))
    with pytest.raises(ValueError, match="the text of a batch is not known: say with `tokens` where its ids are"):
        analyze(Letters(), [{"x": torch.ones(2, 5)}], induction(**given), forward=lambda model, batch: None)

    class Elsewhere(Letters):
        def forward(self, *args: Any, **kwargs: Any) -> None:
            return None

    with pytest.raises(CaptureError, match="the language model 'lm' was not called in the validation step"):
        analyze(Elsewhere(), loader(), induction(**given), forward=lambda model, batch: None)

    class Classes(Letters):
        def __init__(self) -> None:
            super().__init__()
            self.lm.lm_head = nn.Linear(12, 3)

    with pytest.raises(ValueError, match=r"the text has the id 26, and the logits of 'lm' are of 3 tokens"):
        analyze(Classes(), loader(), induction(**given), forward=lambda model, batch: model.lm(batch["input_ids"]))


# ------------------------------------------------- arguments


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"length": 1}, "`length` must be at least 2, got 1"),
        ({"repeats": 1}, "`repeats` must be at least 2, got 1"),
        ({"sequences": 0}, "`sequences` must be at least 1, got 0"),
        ({"ablate": -1}, "`ablate` must be at least 0, got -1"),
        ({"positions": (5, 3)}, r"`positions` must rise .* got \(5, 3\)"),
        ({"positions": (3, 30)}, r"leave `half_width` on either side, got \(3, 30\) and 5"),
        ({"batch_tokens": 0}, "`batch_tokens` must be at least 1, got 0"),
    ],
)
def test_arguments(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        induction(**kwargs)


def test_a_sequence_has_to_fit_the_model() -> None:
    with pytest.raises(ValueError, match=r"= 101 tokens is longer than the model's context of 32"):
        analyze(Letters(), BATCH, induction())
    with pytest.raises(ValueError, match="does not tell its vocabulary: give `ids`"):
        analyze(Wrapped(nn.Linear(2, 2)), BATCH, induction(sites={"a": "lm"}))
    with pytest.raises(ValueError, match="`model` is 'nothing'"):
        analyze(Letters(), BATCH, induction(model="nothing", sites=LAYERS))


# ------------------------------------------------- in a Trainer


def small(**kwargs: Any) -> InductionHeads:
    return induction(length=5, sequences=6, positions=(2, 6), half_width=0, padding_idx=None, ablate=2, **kwargs)


def fit(folder: object, callback: InductionHeads, **kwargs: Any) -> None:
    model = Letters()
    torch.manual_seed(1)
    trainer(folder, [callback], **kwargs).fit(model, loader(texts(24, 3)), loader())


def test_resuming_goes_on_and_the_baseline_is_read_once(tmp_path: Path) -> None:
    whole, first, second = small(), small(), small()
    fit(tmp_path, whole, max_epochs=2)
    model = Letters()
    torch.manual_seed(1)
    run = trainer(tmp_path, [first], max_epochs=1)
    run.fit(model, loader(texts(24, 3)), loader())
    run.save_checkpoint(tmp_path / "a.ckpt")
    trainer(tmp_path, [second], max_epochs=2).fit(
        Letters(1), loader(texts(24, 3)), loader(), ckpt_path=tmp_path / "a.ckpt", weights_only=False
    )
    assert timeless(second)[0] == timeless(whole)[0]
    assert second.by_position.steps == whole.by_position.steps
    baseline = "prefix_matching_baseline/max"
    assert second.reading[baseline] == whole.reading[baseline] == first.reading[baseline]


def over_ranks() -> dict[str, float]:
    callback = small()
    return validated(callback, Letters(), loader(batch_size=2))


def test_ranks_read_what_one_process_reads(ranks: Any) -> None:
    alone = over_ranks()
    first, *others = ranks.run(over_ranks)
    assert first == pytest.approx(alone, abs=1e-6)
    assert all(other == first for other in others)


def table_over_ranks(side: str) -> dict[str, float]:
    """Of a model whose logits do not hang on the batch that a text is in."""
    torch.manual_seed(0)
    model = Wrapped(nn.Embedding(27, 27))
    model.validation_step = lambda batch, batch_idx: model(batch["input_ids"])  # type: ignore[method-assign]
    callback = induction(sites={"0": "look.attention"}, length=4, positions=(3, 12), half_width=1, baseline=False)
    callback.words = Words(mask="attention_mask", asked=True)
    model.look = Embedding(27, 4)
    lm = model.lm
    callback.repeated.forward = lambda module, ids, mask: model.look(ids) is None or lm(ids)
    return validated(callback, model, loader(texts(23), left=side == "left", batch_size=3))


@pytest.mark.parametrize("side", ["left", "right"])
def test_losses_by_position_add_up_over_ranks_to_the_last_digits(ranks: Any, side: str) -> None:
    alone = table_over_ranks(side)
    assert "icl_score" in alone
    for found in ranks.run(table_over_ranks, side):
        assert found["icl_score"] == pytest.approx(alone["icl_score"], abs=1e-9)


def learned(folder: object, layers: int, steps: int, at: list[int]) -> InductionHeads:
    pl.seed_everything(0, verbose=False)
    model = CausalLM(AttentionOnly(64, layers=layers), lr=3e-3)
    callback = induction(length=15, positions=(5, 55), half_width=3, ablate=2, draw_figures=True)
    run = trainer(folder, [ValidationSchedule(steps=at), callback], max_steps=steps, max_epochs=-1)
    run.fit(
        model,
        DataLoader(RepeatedSegments(32 * steps, ids=64, seed=0), 32),
        DataLoader(RepeatedSegments(128, ids=64, seed=1), 64),
    )
    return callback


def test_two_layers_form_induction_heads_suddenly(tmp_path: Path) -> None:
    callback = learned(tmp_path, 2, 200, [1, 60, 100, 120, 140, 160, 200])
    steps, best = callback.history.series("prefix_matching/max")
    assert steps == [1, 60, 100, 120, 140, 160, 200]
    assert max(best[:3]) < 0.15
    assert best[-1] > 0.8
    values = callback.reading
    assert 100 < values["formed_step/prefix_matching"] < 160
    # Where the course over log(1 + step) is at half of its maximum.
    after = next(place for place, value in enumerate(best) if value >= max(best) / 2)
    ends, shares = [math.log1p(steps[after - 1]), math.log1p(steps[after])], [best[after - 1], best[after]]
    share = (max(best) / 2 - shares[0]) / (shares[1] - shares[0])
    assert math.log1p(values["formed_step/prefix_matching"]) == pytest.approx(ends[0] + share * (ends[1] - ends[0]))
    assert values["head_effect/best"] > 0.3
    assert values["head_effect/best"] > values["head_effect_random/best"]
    # What the text tells moves before any head forms.
    _, score = callback.history.series("icl_score")
    assert score[2] < -0.3
    assert values["repeat_gain"] > 3
    pictures = callback.figures()
    assert set(pictures) == {
        *("induction/heads", "induction/loss_by_position", "heads/prefix_matching", "heads/repeated_previous_token")
    }
    shaded = pictures["induction/heads"]()
    assert any(
        "induction heads form" in text.get_text() for text in shaded.findobj(lambda one: hasattr(one, "get_text"))
    )
    assert all(draw().axes for draw in pictures.values())


def test_one_layer_forms_none(tmp_path: Path) -> None:
    callback = learned(tmp_path, 1, 200, [100, 200])
    assert callback.reading["prefix_matching/max"] < 0.1
    assert callback.reading["induction_heads"] == 0
    assert "formed_step/prefix_matching" not in callback.reading
    assert callback.reading["icl_score"] < -0.2, "it learns from its context all the same"
