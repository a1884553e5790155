"""The logit lens: the last layer is the model, loops, idle layers, labels, capped logits, ranks, resuming."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

from lightning_interp import LayerLens, analyze
from lightning_interp.models import AttentionOnly, CausalLM
from lightning_interp.sites import CaptureError
from tests.callbacks.attending import Letters, Wrapped, loader, texts
from tests.reference import lens as reference
from tests.toy import timeless, trainer, validated


def lens(**kwargs: Any) -> LayerLens:
    return LayerLens(**{"model": "lm", "draw_figures": False, "tile": 7, **kwargs})


def deep(seed: int = 0) -> CausalLM:
    """Two layers that change a lot, and a head that does not put one token first everywhere."""
    torch.manual_seed(seed)
    lm = AttentionOnly(27, width=12, layers=2, max_length=32)
    for one in lm.parameters():
        nn.init.normal_(one, std=0.6)
    return CausalLM(lm, lr=1e-2)


def by_hand(model: CausalLM, rows: list[list[int]], layer: int) -> list[tuple[float, float, int, int, int]]:
    """Of each position loss, entropy, top token, the model's own, and the right one, one text at a time."""
    lm, found, kept = model.lm.eval(), [], []
    handle = lm.layers[layer].register_forward_hook(lambda module, args, output: kept.append(output))
    for row in rows:
        with torch.no_grad():
            own = lm(torch.tensor([row]))[0]
            logits = lm.output(lm.norm(kept.pop()[0]))
        for place in range(len(row) - 1):
            top = int(own[place].argmax())
            found.append((*reference.row(logits[place].tolist(), row[place + 1]), top, row[place + 1]))
    handle.remove()
    return found


# Padding on the left shifts nothing here: distances alone count, and padding is not attended to.
@pytest.mark.parametrize("left", [False, True])
def test_layers_say_what_a_loop_finds(left: bool) -> None:
    rows, model = texts(30), deep()
    found = analyze(model, loader(rows, left), lens(baseline=False))
    for layer in range(2):
        each = by_hand(model, rows, layer)
        losses, entropies, tops, own, right = zip(*each, strict=True)
        assert found[f"lens_loss/{layer}"] == pytest.approx(math.fsum(losses) / len(each), abs=1e-5)
        assert found[f"lens_entropy/{layer}"] == pytest.approx(math.fsum(entropies) / len(each), abs=1e-5)
        agreement = sum(a == b for a, b in zip(tops, own, strict=True)) / len(each)
        assert found[f"lens_agreement/{layer}"] == pytest.approx(agreement, abs=1e-9)
        assert found[f"lens_agreement_chance/{layer}"] == pytest.approx(reference.dealt(tops, own), abs=1e-9)
        assert found[f"nonfinite/{layer}"] == 0
    assert 0.1 < found["lens_agreement/0"] < 0.9, "there is something to be found"
    assert found["lens_loss_chance/output"] == pytest.approx(reference.frequencies(right), abs=1e-9)


def test_the_last_layer_is_the_model(tmp_path: Path) -> None:
    model = Letters()
    found = analyze(model, loader(batch_size=11), lens())
    assert found["lens_loss/1"] == pytest.approx(found["lens_loss/output"], abs=1e-5)
    assert found["lens_agreement/1"] == 1
    with torch.no_grad():
        assert found["lens_loss/output"] == pytest.approx(float(model.eval().loss(next(iter(loader(batch_size=11))))))


def test_layers_that_do_nothing_say_what_the_model_says() -> None:
    model = deep()
    with torch.no_grad():
        for layer in model.lm.layers:
            layer.attention.out_proj.weight.zero_()
    found = analyze(model, loader(), lens(baseline=False))
    for name in ("loss", "entropy"):
        assert found[f"lens_{name}/0"] == found[f"lens_{name}/1"]
    assert found["lens_agreement/0"] == found["lens_agreement/1"] == 1


def test_a_head_that_says_nothing_is_at_chance() -> None:
    model = deep()
    nn.init.zeros_(model.lm.output.weight)
    found = analyze(model, loader(), lens(baseline=False))
    assert found["lens_loss/0"] == pytest.approx(math.log(27), abs=1e-6)
    assert found["lens_entropy/0"] == pytest.approx(math.log(27), abs=1e-6)
    assert found["lens_agreement/0"] == found["lens_agreement_chance/0"] == 1, "token 0 is first everywhere"


def test_random_weights_stand_beside_it() -> None:
    model = Letters()
    with torch.no_grad():
        model.lm.transformer.wte.weight.mul_(30)
    callback = lens(seed=3)
    found = analyze(model, loader(), callback)
    for name in ("lens_loss", "lens_entropy", "lens_agreement"):
        above = found[f"{name}/0"] - found[f"{name}_baseline/0"]
        assert found[f"{name}_above_baseline/0"] == pytest.approx(above)
    # Such weights are small: the prediction is nearly uniform.
    assert found["lens_entropy_baseline/0"] == pytest.approx(math.log(27), abs=0.05)
    assert found["lens_loss_baseline/0"] == pytest.approx(math.log(27), abs=0.1)
    assert found["lens_loss/0"] > 2 * found["lens_loss_baseline/0"]


def test_tiles_change_nothing() -> None:
    one, other = (analyze(Letters(), loader(), lens(tile=tile, baseline=False)) for tile in (1, 10_000))
    assert one == pytest.approx(other, abs=1e-6)


# ------------------------------------------------- labels


def test_labels_of_a_causal_model_stand_one_behind() -> None:
    rows, model = texts(12), deep()

    def with_labels(left: bool) -> list[dict[str, Tensor]]:
        return [
            {**one, "labels": one["input_ids"].masked_fill(one["input_ids"] < 9, -100)} for one in loader(rows, left)
        ]

    found = analyze(model, with_labels(False), lens(target="labels", shift=1, baseline=False))
    losses = [one[0] for one in by_hand(model, rows, 0) if one[-1] >= 9]
    assert found["lens_loss/0"] == pytest.approx(math.fsum(losses) / len(losses), abs=1e-5)
    whole = [{**one, "labels": one["input_ids"]} for one in loader(rows)]
    callback, plain = lens(target="labels", shift=1, baseline=False), lens(baseline=False)
    assert analyze(model, whole, callback)["lens_loss/0"] == analyze(model, whole, plain)["lens_loss/0"]


def bert() -> nn.Module:
    torch.manual_seed(0)
    sizes = {"vocab_size": 27, "hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = transformers.BertForMaskedLM(transformers.BertConfig(**sizes, intermediate_size=12))
    for one in model.cls.parameters():
        nn.init.normal_(one, std=0.5)
    return Wrapped(model)


def test_a_masked_model_has_more_than_a_norm_before_its_head() -> None:
    batches = [{**one, "labels": one["input_ids"].masked_fill(one["input_ids"] < 20, -100)} for one in loader()]
    forward = {"forward": lambda model, batch: model.lm(batch["input_ids"], batch["attention_mask"])}
    with pytest.raises(ValueError, match=r"through the norm 'cls.predictions.transform.LayerNorm' and the head"):
        analyze(bert(), batches, lens(target="labels", baseline=False), **forward)
    callback = lens(target="labels", norm="cls.predictions.transform", baseline=False)
    found = analyze(bert(), batches, callback, **forward)
    assert found["lens_loss/1"] == pytest.approx(found["lens_loss/output"], abs=1e-5)
    assert callback.settings()["norm"] == "cls.predictions.transform"


# ------------------------------------------------- what does not fit


class Capped(AttentionOnly):
    """Its logits stay between −2 and 2."""

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        return 2 * (super().forward(*args, **kwargs) / 2).tanh()


def capped() -> Wrapped:
    torch.manual_seed(0)
    model = Wrapped(Capped(27, width=12, max_length=32))
    nn.init.normal_(model.lm.output.weight, std=2)
    return model


def test_capped_logits_are_told_and_read_by_a_function() -> None:
    with pytest.raises(ValueError, match=r"have a loss of [\d.]+ through the norm 'norm' and the head 'output', and"):
        analyze(capped(), loader(), lens(baseline=False))
    of_one = lens(sites={"first": "lm.layers.0"}, baseline=False)
    assert "lens_loss/first" in analyze(capped(), loader(), of_one), "the last layer is not read"

    def head(lm: Capped, z: Tensor) -> Tensor:
        return 2 * (lm.output(lm.norm(z)) / 2).tanh()

    found = analyze(capped(), loader(), lens(head=head, baseline=False))
    assert found["lens_loss/1"] == pytest.approx(found["lens_loss/output"], abs=1e-5)


def test_what_is_missing_is_told() -> None:
    with pytest.raises(ValueError, match="has no repeated blocks"):
        analyze(Wrapped(nn.Embedding(27, 27)), loader(), lens())
    with pytest.raises(ValueError, match="`model` is 'nothing'"):
        analyze(Letters(), loader(), lens(model="nothing"))
    with pytest.raises(ValueError, match="`norm` is 'ln_f', and GPT2LMHeadModel has no such module"):
        analyze(Letters(), loader(), lens(norm="ln_f"))
    labelled = [{**one, "next": one["input_ids"] + 20, "kind": torch.arange(len(one["input_ids"]))} for one in loader()]
    with pytest.raises(ValueError, match=r"labels are none of the 27 tokens that the logits of 'lm' are of"):
        analyze(Letters(), labelled, lens(target="next", baseline=False))
    with pytest.raises(TypeError, match=r"no logits \(4, .* in the model's output"):
        analyze(Letters(), labelled, lens(target="next", model="lm.transformer", head=lambda lm, z: z))


def test_of_several_calls_one_is_read() -> None:
    def twice(model: CausalLM, batch: dict[str, Tensor]) -> None:
        for ids in (batch["input_ids"], batch["input_ids"].flip(1)):
            model.lm(ids)

    def found(call: str, forward: Any) -> dict[str, float]:
        batches = [{"input_ids": torch.arange(24).view(2, 12)} | {"attention_mask": torch.ones(2, 12)}]
        return analyze(deep(), batches, lens(call=call, baseline=False), forward=forward)

    once = found("only", lambda model, batch: model.lm(batch["input_ids"]))
    assert found("first", twice) == once
    turned = found("only", lambda model, batch: model.lm(batch["input_ids"].flip(1)))
    assert found("last", twice) == turned
    assert turned["lens_loss/1"] != once["lens_loss/1"]
    with pytest.raises(CaptureError, match="ran 2 times while capturing"):
        found("only", twice)


def test_a_model_that_is_not_called_is_told() -> None:
    class Aside(Wrapped):
        def forward(self, input_ids: Tensor) -> Tensor:
            return self.lm.output(self.lm.norm(self.lm.layers[0](self.lm.embedding(input_ids), torch.zeros(1) > 0)))

    with pytest.raises(CaptureError, match="the language model 'lm' was not called in the validation step"):
        analyze(
            Aside(AttentionOnly(27, layers=1)), loader(), lens(), forward=lambda model, batch: model(batch["input_ids"])
        )


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"tile": 0}, "`tile` must be at least 1, got 0"),
        ({"shift": -1, "target": "labels"}, "`shift` is how far behind labels of `target` stand, at least 0; got -1"),
        ({"call": "all"}, "`call` must be 'only', 'first' or 'last', got 'all'"),
        ({"shift": 1}, "`shift` is how far behind labels of `target` stand, at least 0; got 1"),
    ],
)
def test_arguments(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        lens(**kwargs)


# ------------------------------------------------- in a Trainer


def fit(folder: object, callback: LayerLens, **kwargs: Any) -> None:
    model = Letters()
    torch.manual_seed(1)
    trainer(folder, [callback], **kwargs).fit(model, loader(texts(24, 3)), loader())


def test_resuming_goes_on_and_the_baseline_is_read_once(tmp_path: Path) -> None:
    whole, first, second = lens(), lens(), lens()
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
    key = "lens_loss_baseline/0"
    assert second.reading[key] == whole.reading[key] == first.reading[key]
    assert set(whole.figures()) == {"lens/loss", "lens/agreement", "lens/entropy"}
    assert all(draw().axes for draw in whole.figures().values())


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
def test_fewer_digits_are_read_as_the_model_computes(tmp_path: Path, precision: str) -> None:
    callback = lens(on_error="raise")
    fit(tmp_path, callback, max_epochs=1, precision=precision)
    found = callback.reading
    assert found["lens_loss/1"] == pytest.approx(found["lens_loss/output"], rel=1e-2)
    assert found["lens_agreement/1"] > 0.95


def over_ranks() -> dict[str, float]:
    return validated(lens(), deep(), loader(batch_size=2))


def test_ranks_read_what_one_process_reads(ranks: Any) -> None:
    alone = over_ranks()
    first, *others = ranks.run(over_ranks)
    assert first == pytest.approx(alone, abs=1e-6)
    assert all(other == first for other in others)


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_compiled_model_is_read_as_the_same_one(tmp_path: Path, wrapped: bool) -> None:
    plain, compiled = lens(on_error="raise"), lens(on_error="raise")
    fit(tmp_path, plain, max_epochs=2)
    torch.compiler.reset()
    model = Letters()
    if wrapped:
        model.lm = torch.compile(model.lm, backend="eager")  # type: ignore[assignment]
    else:
        model.lm.compile(backend="eager")
    torch.manual_seed(1)
    trainer(tmp_path, [compiled], max_epochs=2).fit(model, loader(texts(24, 3)), loader())
    for one, other in zip(timeless(plain), timeless(compiled), strict=True):
        assert one[3] == pytest.approx(other[3], abs=1e-5)
