"""Causal tracing: a hand-wired circuit, a loop, known and unknown facts, ranks, training left alone, errors."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from reference.causal_trace import run, states, traced
from torch import Tensor, nn

from lightning_interp import CausalTrace, analyze
from lightning_interp.distributed import over_ranks
from lightning_interp.functional.causal_trace import normalised_effect, state_window
from lightning_interp.functional.counter_noise import counter_normal
from lightning_interp.models import small_gpt2
from lightning_interp.parts.causal_traces import EARLY, LATE, CausalTraces
from lightning_interp.parts.language_model import LanguageModel
from lightning_interp.sites.recorder import CaptureError
from lightning_interp.tasks import Fact, WordTokenizer
from lightning_interp.tasks.trace_prompts import encode_trace_prompts
from tests.callbacks.planted_fact import FACTS, WORDS, Planted, Reader, Small, sentences
from tests.toy import timeless, trainer, validated

LM = LanguageModel(WORDS, "lm")


def trace(facts: list[Fact] | None = None, **kwargs: Any) -> CausalTrace:
    return CausalTrace(
        FACTS if facts is None else facts, model="lm", **{"draw_figures": False, "log": "full", **kwargs}
    )


def read(lm: nn.Module, **kwargs: Any) -> tuple[dict[str, float], CausalTrace]:
    callback = trace(**kwargs)
    return analyze(Reader(lm), sentences(), callback), callback


# ------------------------------------------------- planted


@pytest.mark.parametrize("noise", [1.0, 3.0, 10.0])
def test_a_hand_wired_circuit_is_found_where_it_is(noise: float) -> None:
    found = CausalTraces(FACTS, LM, noise=noise, tokens="all")
    found.attach(Reader(Planted()))
    traces = over_ranks(found.read())
    assert traces.traced.all()
    effects = normalised_effect(traces.effects, traces.totals)[0]
    expected = torch.zeros(6, 4, dtype=torch.float64)
    expected[EARLY, :2] = expected[LATE, 2:] = 1.0
    present = torch.tensor([True, False, True, True, False, True])  # subjects of two tokens, two words behind
    assert torch.allclose(effects[present], expected[present], atol=1e-9)
    assert effects[~present].isnan().all()
    # Weak noise leaves most of the answer.
    assert float(traces.totals.mean()) == pytest.approx({1.0: 0.1, 3.0: 0.55, 10.0: 0.65}[noise], abs=0.15)
    # States of another prompt bring another answer.
    control = normalised_effect(traces.control, traces.totals)[0]
    assert float(control.max()) < 0.05


def test_keys_say_where_the_circuit_is() -> None:
    values, callback = read(Planted(), windows={"mlp": "mlp", "attention": "attn"}, window=1)
    assert values["trace_early/home"] == pytest.approx(1, abs=1e-9)
    assert values["trace_late/home"] == pytest.approx(1, abs=1e-9)
    assert values["trace_depth/home/early"] == pytest.approx(0.5, abs=1e-9)
    assert values["trace_depth/home/late"] == pytest.approx(2.5, abs=1e-9)
    assert values["trace_facts/home"] == len(FACTS)
    assert values["trace_skipped/home"] == 0
    assert 0.3 < values["trace_total/home"] < values["trace_clean/home"]
    # The look-up is the MLP's at the subject, what moves it the attention's at the end.
    assert values["trace_early/home/mlp"] == pytest.approx(1, abs=1e-9)
    assert values["trace_late/home/attention"] == pytest.approx(1, abs=1e-9)
    assert values["trace_late/home/mlp"] == pytest.approx(0, abs=1e-9)
    assert values["trace_early/home/attention"] == pytest.approx(0, abs=1e-9)
    assert max(values["trace_early_control/home"], values["trace_late_control/home"]) < 0.05
    assert set(callback.measures()) == {key for key in values if key in callback.measures()}


def test_a_window_has_the_look_up_where_it_reaches_it() -> None:
    found = CausalTraces(FACTS, LM, windows={"mlp": "mlp"}, window=2)
    found.attach(Reader(Planted()))
    traces = over_ranks(found.read())
    effects = normalised_effect(traces.effects, traces.totals)[1, EARLY]
    assert [1 in state_window(layer, 4, 2) for layer in range(4)] == [False, True, True, False]
    assert effects.tolist() == pytest.approx([0, 1, 1, 0], abs=1e-9)


def test_facts_that_the_model_gets_wrong_are_counted_and_left_out() -> None:
    wrong = [Fact("home", one.prompt, "lives", subject=one.subject) for one in FACTS[:2]]
    never = [Fact("never", one.prompt, "now", subject=one.subject) for one in FACTS[:3]]
    values, _ = read(Planted(), facts=[*wrong, *FACTS[2:], *never])
    assert (values["trace_facts/home"], values["trace_skipped/home"]) == (4, 2)
    assert (values["trace_facts/never"], values["trace_skipped/never"]) == (0, 3)
    assert not any(key.endswith("/never") for key in values if key[:9] in ("trace_ear", "trace_lat", "trace_tot"))
    callback = trace([*FACTS, *never])
    assert callback.conditional_keys()["trace_total/never"] == ""
    # Of the answer, known or not.
    values, callback = read(Planted(), facts=[*FACTS, *never], target="answer")
    assert values["trace_facts/never"] == 3
    assert abs(values["trace_total/never"]) < 0.01
    assert "trace_early/never" not in values
    assert "trace_total/never" not in callback.conditional_keys()


# ------------------------------------------------- against a loop


@pytest.mark.parametrize("tokens", ["two", "all"])
@pytest.mark.parametrize("batch_tokens", [1, 64, 4096])
def test_a_loop_gives_the_same(tokens: Any, batch_tokens: int) -> None:
    module = Reader(Small()).eval()
    lm: Any = module.lm
    lm_of = LanguageModel(WORDS, "lm", batch_tokens=batch_tokens)
    given = CausalTraces(
        FACTS[:3], lm_of, None, windows={"mlp": "mlp"}, window=3, tokens=tokens, target="answer", copies=3, seed=5
    )
    given.attach(module)
    found = over_ranks(given.read())
    given.detach()
    prompts = encode_trace_prompts(WORDS, FACTS[:3])
    scale = 3 * torch.cat([lm.words(one.ids[one.start : one.end]) for one in prompts]).std(correction=1)
    blocks, mlps = list(lm.blocks), [one.mlp for one in lm.blocks]
    for place, prompt in enumerate(prompts):
        counters = (place << 32) + (torch.arange(3) << 20)[:, None] + torch.arange(prompt.start, prompt.end)
        noise = (scale * counter_normal(counters, 16, 5)).detach()

        def lost(
            restored: Any,
            ids: Tensor = prompt.ids,
            start: int = prompt.start,
            n: Tensor = noise,
            to: int = prompt.answer,
        ) -> float:
            return traced(lm, lm.words, ids, start, n, to, restored)

        corrupted = lost([])
        clean = float(run(lm, prompt.ids, [])[prompt.answer])
        assert float(found.clean[place]) == pytest.approx(clean, abs=1e-6)
        assert float(found.corrupted[place]) == pytest.approx(corrupted, abs=1e-6)
        other = next(one for one in (prompts[(place + step) % 3] for step in (1, 2)) if one.answer != prompt.answer)
        own = states(lm, prompt.ids, [*blocks, *mlps])
        theirs = states(lm, other.ids, [*blocks, *mlps])
        for layer in range(5):
            window = state_window(layer, 5, 3)
            for end, token, foreign in ((EARLY, prompt.end - 1, other.end - 1), (LATE, -1, -1)):
                at = len(prompt.ids) + token if token < 0 else token
                expected = lost([(blocks[layer], at, own[layer][at])]) - corrupted
                assert float(found.effects[place, 0, end, layer]) == pytest.approx(expected, abs=1e-6)
                expected = lost([(mlps[one], at, own[5 + one][at]) for one in window]) - corrupted
                assert float(found.effects[place, 1, end, layer]) == pytest.approx(expected, abs=1e-6)
                which = int(end == LATE)
                expected = lost([(blocks[layer], at, theirs[layer][foreign])]) - corrupted
                assert float(found.control[place, 0, which, layer]) == pytest.approx(expected, abs=1e-6)
                expected = lost([(mlps[one], at, theirs[5 + one][foreign]) for one in window]) - corrupted
                assert float(found.control[place, 1, which, layer]) == pytest.approx(expected, abs=1e-6)
            if tokens == "all":
                expected = lost([(blocks[layer], prompt.start, own[layer][prompt.start])]) - corrupted
                assert float(found.effects[place, 0, 0, layer]) == pytest.approx(expected, abs=1e-6)


def test_the_last_state_of_all_is_no_finding() -> None:
    found = CausalTraces(FACTS, LM, None, target="answer")
    found.attach(Reader(Small()))
    traces = over_ranks(found.read())
    assert torch.allclose(traces.effects[:, 0, LATE, -1], traces.totals, atol=1e-7)
    late = Planted()
    late.blocks = late.blocks[:2].extend([late.blocks[3], late.blocks[2]])  # what moves the answer is the last block
    values, _ = read(late)
    assert values["trace_early/home"] == pytest.approx(1, abs=1e-9)
    assert values["trace_late/home"] == pytest.approx(0, abs=1e-9)
    assert values["trace_depth/home/late"] == pytest.approx(3, abs=1e-9)
    alone, _ = read(late, sites=["lm.blocks.3"])
    assert "trace_early/home" in alone
    assert "trace_late/home" not in alone


def test_layers_are_spread_over_the_depth() -> None:
    found = CausalTraces(FACTS, LM, layers=3)
    found.attach(Reader(Small(layers=9)))
    assert found.depths == [0, 4, 8]


def test_a_model_of_transformers_with_its_modules_named() -> None:
    pytest.importorskip("transformers")
    module = Reader(small_gpt2(WORDS, 16, layers=3, heads=2, length=16))
    callback = trace(target="answer", windows={"mlp": "mlp", "attention": "attn"})
    values = analyze(module, sentences(), callback)
    assert values["trace_facts/home"] == 6
    named = trace(target="answer", windows={"mlp": "mlp", "attention": "attn"}, sites=["lm.transformer.h.*"])
    again = analyze(module, sentences(), named)
    assert {k: v for k, v in again.items() if "seconds" not in k} == {
        k: v for k, v in values.items() if "seconds" not in k
    }


# ------------------------------------------------- in a Trainer


def test_training_is_left_alone_and_pictures_show_before_and_after(tmp_path: Path) -> None:
    def fitted(callbacks: list[Any]) -> dict[str, Tensor]:
        module = Reader(Small())
        torch.manual_seed(1)
        trainer(tmp_path, callbacks, max_epochs=3).fit(module, sentences(shuffle=True), sentences())
        return module.state_dict()

    callback = trace(draw_figures=True, target="answer", windows={"mlp": "mlp"}, on_error="raise")
    found, plainly = fitted([callback]), fitted([])
    assert all(torch.equal(found[name], value) for name, value in plainly.items())
    assert len(callback.history) == 3
    pictures = callback.figures()
    assert set(pictures) == {"trace/blocks", "trace/mlp"}
    panels = [one.get_title() for one in pictures["trace/blocks"]().axes]
    assert panels[:2] == ["step 2", "step 6"]
    rows = [one.get_text() for one in pictures["trace/blocks"]().axes[0].get_yticklabels()]
    assert rows == ["last subject token", "last token"]
    assert trace().figures() == {}


def test_a_resumed_run_reads_the_same(tmp_path: Path) -> None:
    whole, first, second = (trace(target="answer") for _ in range(3))
    for callback, epochs, path in ((whole, 2, None), (first, 1, None), (second, 2, "a.ckpt")):
        torch.manual_seed(1)
        run = trainer(tmp_path, [callback], max_epochs=epochs)
        resumed = {} if path is None else {"ckpt_path": tmp_path / path, "weights_only": False}
        run.fit(Reader(Small()), sentences(), sentences(), **resumed)
        if callback is first:
            run.save_checkpoint(tmp_path / "a.ckpt")
    assert timeless(second)[0] == timeless(whole)[0]
    assert len(timeless(second)) == 2


def over_ranks_read() -> dict[str, float]:
    return validated(trace(target="answer", windows={"mlp": "mlp"}), Reader(Small()), sentences())


def test_ranks_read_what_one_process_reads(ranks: Any) -> None:
    alone = over_ranks_read()
    first, *others = ranks.run(over_ranks_read)
    assert alone["trace_facts/home"] == 6
    assert math.isfinite(alone["trace_total/home"])
    assert first == pytest.approx(alone, abs=1e-12)
    assert all(other == first for other in others)


# ------------------------------------------------- what is refused


class Turn(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.transpose(0, 1)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"layers": 0}, "`layers` must be at least 1, got 0"),
        ({"copies": 0}, "`copies` must be at least 1, got 0"),
        ({"window": 0}, "`window` must be at least 1, got 0"),
        ({"noise": 0.0}, "`noise` must be above 0, got 0.0"),
        ({"tokens": "three"}, r"`tokens` must be one of \('two', 'all'\), got 'three'"),
        ({"target": "bottom"}, r"`target` must be one of \('top', 'answer'\), got 'bottom'"),
        ({"windows": {"a/b": "mlp"}}, "`windows` has the name 'a/b'"),
        ({"max_facts": 0}, "`max_facts` must be at least 1, or None for all, got 0"),
        ({"facts": []}, "`facts` must hold Fact objects, at least one, got none"),
    ],
)
def test_arguments(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        trace(**kwargs)


def test_what_facts_and_models_lack_is_told() -> None:
    with pytest.raises(
        ValueError, match=r"'ada ash lives in ___ .' does not say its subject: give Fact\(…, subject=…\)"
    ):
        read(Small(), facts=[Fact("home", "ada ash lives in ___ .", "ulm")])
    with pytest.raises(ValueError, match="the subject 'ada' of 'in ___ lives ada' stands behind the blank"):
        read(Small(), facts=[Fact("home", "in ___ lives ada", "ulm", subject="ada")])
    with pytest.raises(ValueError, match="`subject` must stand in the prompt 'in ___', got 'ada'"):
        Fact("home", "in ___", "ulm", subject="ada")
    with pytest.raises(ValueError, match="nothing"):
        read(Small(), windows={"mlp": "nothing"})
    with pytest.raises(ValueError, match="nothing"):
        read(Small(), embedding="nothing")
    turned = Small()
    turned.blocks[0] = nn.Sequential(Turn(), Turn())
    with pytest.raises(
        CaptureError, match=r"site '0' must return \(B, T, D\) of the ids \(1, 5\) .* returned \(5, 1, 16\)"
    ):
        read(turned, sites=["lm.blocks.0.0"], target="answer")
    with pytest.raises(CaptureError, match=r"'places'. never ran, so noise at the subject had no effect"):
        read(Small(), embedding="places", target="answer")
    with pytest.raises(ValueError, match="do not go together"):
        read(
            Small(),
            tokenizer=WordTokenizer([f"a{n}" for n in range(40)] + ["ada", "ash", "lives", "in", "ulm", "."]),
            facts=[Fact("home", "ada ash lives in ___ .", "ulm", subject="ada ash")],
        )
