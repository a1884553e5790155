"""What heads look at: by a loop over rows, over ranks, beside uniform attention; planted heads; gates; pictures."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from models.circuit import InductionCircuit, repeated_copies
from pytorch_lightning.callbacks import EarlyStopping
from reference import attention as plain
from torch import Tensor, nn
from torch.overrides import _get_current_function_mode_stack

from lightning_interp import AttentionStructure, analyze
from lightning_interp.distributed import SamplePositions
from lightning_interp.functional.attention import MEASURES
from lightning_interp.models import AttentionOnly
from lightning_interp.sites import CaptureError
from lightning_interp.sites.eager_stance import EagerStance
from tests.callbacks.attending import LAYERS, Letters, Wrapped, loader, padded, texts
from tests.toy import timeless, trainer, validated


def structure(**kwargs: Any) -> AttentionStructure:
    return AttentionStructure(**{"sites": LAYERS, "draw_figures": False, "max_examples": None, **kwargs})


# ------------------------------------------------- numbers


def by_loop(model: Letters, rows: list[list[int]]) -> dict[str, float]:
    """The measures of every head, one text, layer, head and query after the other."""
    eager = Letters(attn_implementation="eager")
    eager.load_state_dict(model.state_dict())
    found: dict[str, list[float]] = {}
    for row in rows:
        with torch.no_grad():
            layers = eager.eval().lm(torch.tensor([row]), output_attentions=True).attentions
        for layer, heads in enumerate(layers):
            for head, weights in enumerate(heads[0].double().tolist()):
                for query, weight in enumerate(weights):
                    keys = list(range(query + 1))
                    values = plain.row_measures(weight, keys, query, 0, len(row) - 1)
                    level = plain.row_measures([1.0] * len(weight), keys, query, 0, len(row) - 1)
                    for name, value in values.items():
                        found.setdefault(f"{name}/layer_{layer}/h{head}", []).append(value)
                        found.setdefault(f"{name}_chance/layer_{layer}", []).append(level[name])
    means = {key: math.fsum(values) / len(values) for key, values in found.items()}
    for key, level in list(means.items()):
        if key.startswith("attention_distance_chance/"):
            site = key.split("/")[1]
            for head in range(3):
                means[f"attention_distance/{site}/h{head}"] /= level
    return means


@pytest.mark.parametrize("left", [False, True], ids=["right", "left"])
def test_every_head_is_that_of_a_loop_over_rows(left: bool) -> None:
    model, callback = Letters(), structure()
    found = analyze(model, loader(left=left), callback)
    expected = by_loop(model, texts())
    if left:  # GPT-2 numbers positions from the left end, so its weights are others; levels are not
        expected = {key: value for key, value in expected.items() if "_chance/" in key}
    unread = ("attention_entropy_chance", "attention_distance_chance")
    compared = {key: value for key, value in expected.items() if not key.startswith(unread)}
    assert len(compared) >= (10 if left else 50)
    assert {key: found[key] for key in compared} == pytest.approx(compared, abs=1e-6)
    for name in MEASURES:
        if name in ("next_token", "sink_last"):
            assert f"{name}/layer_0" not in found, "a causal model does not see it"
            continue
        of_heads = [found[f"{name}/layer_1/h{head}"] for head in range(3)]
        assert found[f"{name}/layer_1"] == pytest.approx(sum(of_heads) / 3)


def test_what_is_carried_is_weighted_by_values_after_the_projection() -> None:
    model, rows = Letters(), texts(8)
    found = analyze(model, loader(rows), structure())
    eager = Letters(attn_implementation="eager").eval()
    values: list[float] = []
    attention = eager.lm.transformer.h[1].attn
    seen: list[Tensor] = []
    attention.c_attn.register_forward_hook(lambda module, args, output: seen.append(output))
    for row in rows:
        with torch.no_grad():
            weights = eager.lm(torch.tensor([row]), output_attentions=True).attentions[1][0, 2]
        value = seen.pop()[0, :, 24:].view(len(row), 3, 4)[:, 2]  # of the last head
        norms = (value @ attention.c_proj.weight[8:12]).norm(dim=-1)
        carried = weights * norms
        for query in range(7, len(row), 8):
            values.append(float(carried[query, 0] / carried[query].sum()))
    assert found["value_weighted_sink/layer_1/h2"] == pytest.approx(sum(values) / len(values), abs=1e-6)
    assert not [key for key in analyze(model, loader(rows), structure(value_weighted=False)) if "value_weighted" in key]


def test_the_largest_score_is_over_all_queries_and_by_head() -> None:
    model, rows = Letters(), texts()
    found = analyze(model, loader(rows), structure())
    largest = [-math.inf] * 3
    seen: list[Tensor] = []
    model.lm.transformer.h[0].attn.c_attn.register_forward_hook(lambda module, args, output: seen.append(output))
    model.eval()
    for row in rows:
        with torch.no_grad():
            model.lm(torch.tensor([row]))
        q, k = (part.view(len(row), 3, 4) for part in seen.pop()[0].split(12, -1)[:2])
        for head in range(3):
            scores = (q[:, head] @ k[:, head].T / 2).tril() + torch.full((len(row), len(row)), -math.inf).triu(1)
            largest[head] = max(largest[head], float(scores.max()))
    assert [found[f"max_logit/layer_0/h{head}"] for head in range(3)] == pytest.approx(largest, rel=1e-4)
    assert found["max_logit/layer_0"] == max(found[f"max_logit/layer_0/h{head}"] for head in range(3))
    assert found["max_logit/max"] == max(found["max_logit/layer_0"], found["max_logit/layer_1"])


@pytest.mark.parametrize("most", [1, 3, 7, 1000])
def test_how_much_is_held_at_a_time_changes_nothing(most: int) -> None:
    expected = analyze(Letters(), loader(), structure())
    found = analyze(Letters(), loader(), structure(max_tokens=most))
    assert found == pytest.approx(expected, abs=1e-6)


def test_the_samples_that_are_chosen_are_read_and_no_others() -> None:
    rows = texts(12)
    found = analyze(Letters(), loader(rows), structure(max_examples=3))
    positions = SamplePositions(loader(rows), max_examples=3)
    chosen = [int(one) for _ in range(3) for one in positions.select(4).positions]
    assert len(chosen) == 3
    whole = analyze(Letters(), loader([rows[at] for at in chosen]), structure())
    assert found == pytest.approx(whole, abs=1e-6)


def test_uniform_attention_has_the_level_of_each_measure() -> None:
    circuit = Wrapped(InductionCircuit(30, 101, sharpness=(0.0, 0.0)))
    ids = repeated_copies(3, 25, 4, 30)
    found = analyze(circuit, [{"input_ids": ids}], structure(sites={"0": "lm.heads.0"}, padding_idx=-1))
    assert found["attention_entropy/0"] == pytest.approx(1, abs=1e-6)
    assert found["attention_distance/0"] == pytest.approx(1, abs=1e-6)
    for name in ("effective_keys", "sink", "previous_token", "self", "top8_mass"):
        assert found[f"{name}/0"] == pytest.approx(found[f"{name}_chance/0"], rel=1e-5), name
    assert found["heads_collapsed"] == 0


def test_a_head_that_was_set_to_the_previous_token() -> None:
    circuit = Wrapped(InductionCircuit(30, 101))
    batch = {"input_ids": repeated_copies(3, 25, 4, 30)}
    found = analyze(circuit, [batch], structure(sites={"0": "lm.heads.0"}, padding_idx=-1))
    assert found["previous_token/0"] == pytest.approx(1, abs=1e-4)
    assert found["previous_token/max"] == found["previous_token/0/h0"]
    assert found["attention_entropy/0"] == pytest.approx(0, abs=1e-3)
    assert found["heads_collapsed"] == 1
    assert found["self/0"] == pytest.approx(0, abs=1e-4)
    assert found["effective_keys/0"] == pytest.approx(1, abs=1e-2)


def test_random_weights_attend_evenly() -> None:
    torch.manual_seed(0)
    found = analyze(
        Wrapped(AttentionOnly(64, layers=2)),
        [{"input_ids": torch.randint(64, (16, 64))}],
        structure(sites=None, padding_idx=-1),
    )
    for name in ("sink", "previous_token", "self"):
        assert found[f"{name}/0"] == pytest.approx(found[f"{name}_chance/0"], abs=0.01)
    assert found["attention_entropy/1"] > 0.98


def test_texts_of_one_token_tell_nothing() -> None:
    found = analyze(Letters(), loader([[3], [5]]), structure())
    assert {key for key in found if "max_logit" not in key and "nonfinite" not in key} == set()
    both = analyze(Letters(), loader([[3], [5, 6, 7]]), structure())
    assert both == pytest.approx(
        analyze(Letters(), loader([[5, 6, 7]]), structure())
        | {key: value for key, value in both.items() if "max_logit" in key}
    )


def test_an_encoder_sees_both_sides() -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=27, hidden_size=16, num_hidden_layers=2, num_attention_heads=4, intermediate_size=16
    )
    model = transformers.BertModel(config)
    found = analyze(model, [padded(texts(6))], structure(sites=None))
    number = [len(row) for row in texts(6)]
    rows = sum(number)
    assert found["next_token_chance/0"] == pytest.approx(sum((n - 1) / n for n in number) / sum(n - 1 for n in number))
    assert found["sink_last_chance/0"] == pytest.approx(sum((n - 1) / n for n in number) / sum(n - 1 for n in number))
    assert found["sink_chance/0"] == pytest.approx(len(number) / rows)
    assert found["sink_last/0"] == pytest.approx(found["sink_last_chance/0"], abs=0.05)
    assert "value_weighted_sink/0" in found, "the projection stands beside the module"


def test_images_and_vectors_have_no_padding_to_ask_for() -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=4, intermediate_size=32, image_size=8, patch_size=4
    )
    images, labels = torch.randn(6, 3, 8, 8), torch.tensor([0, 1, 0, 1, 1, 0])
    model = transformers.ViTForImageClassification(config)
    found = analyze(model, [{"pixel_values": images, "labels": labels}], structure(sites=None))
    assert found["sink_chance/1"] == pytest.approx(1 / 5)
    assert found["effective_keys_chance/0"] == 5
    same = analyze(model, [(images, labels)], structure(sites=None), forward=lambda model, batch: model(batch[0]))
    assert same == pytest.approx(found)
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2)
    found = analyze(encoder, [torch.randn(4, 9, 8)], structure(sites=None))
    assert {"attention_entropy/0/h1", "value_weighted_sink/1"} <= set(found)


# ------------------------------------------------- in a Trainer


def fit(folder: object, callbacks: list[pl.Callback], **kwargs: Any) -> Letters:
    model = Letters()
    torch.manual_seed(1)
    trainer(folder, callbacks, **kwargs).fit(model, loader(texts(24, 3)), loader())
    return model


def test_a_fit_reads_what_analyze_reads(tmp_path: Path) -> None:
    callback = structure(track={"layer_1": [2, 0]})
    model = fit(tmp_path, [callback])
    reading = {key: value for key, value in callback.reading.items() if not key.startswith("seconds/")}
    assert analyze(model, loader(), structure()) == pytest.approx(reading, abs=1e-7)
    assert set(callback.logged_keys(model)) == {
        *(f"{name}/{site}" for name in ("attention_entropy", "sink") for site in LAYERS),
        *("heads_collapsed", "sink/max", "previous_token/max", "max_logit/max"),
        *(f"{name}/layer_1/h{head}" for name in (*MEASURES, "max_logit") for head in (2, 0)),
        *(f"value_weighted_{name}/layer_1/h{head}" for name in MEASURES for head in (2, 0)),
    }
    assert not [name for name, module in model.named_modules() if module._forward_hooks or module._forward_pre_hooks]


def test_collapse_of_entropy_stops_a_run(tmp_path: Path) -> None:
    callback = structure(sites={"0": "lm.transformer.h.0.attn"})
    gate = EarlyStopping("max_logit/max", mode="min", stopping_threshold=1e6, divergence_threshold=1e3, patience=100)

    class Exploding(Letters):
        def on_train_epoch_start(self) -> None:
            with torch.no_grad():
                self.lm.transformer.h[0].attn.c_attn.weight.mul_(3)

    run = trainer(tmp_path, [callback, gate], max_epochs=20)
    gate.stopping_threshold = None
    run.fit(Exploding(), loader(texts(24, 3)), loader())
    assert run.current_epoch < 20
    assert len(callback.history) > 1
    assert callback.reading["max_logit/max"] > 1e3
    assert callback.reading["attention_entropy/0"] < callback.history.readings[0].values["attention_entropy/0"]


def test_every_head_is_in_the_files_and_pictures_are_drawn(tmp_path: Path) -> None:
    callback = structure(draw_figures=True, track={"layer_0": [1]})
    fit(tmp_path, [callback], logger=pl.loggers.CSVLogger(str(tmp_path)))
    header = next(tmp_path.rglob("readings.csv")).read_text().splitlines()[0].split(",")
    assert {f"sink/{site}/h{head}" for site in LAYERS for head in range(3)} <= set(header)
    pictures = callback.figures()
    assert set(pictures) == {
        *(
            f"{place}/{name}"
            for place in ("heads", "sites")
            for name in ("attention_entropy", "sink", "previous_token")
        ),
        *("heads/tracked", "heads/text"),
    }
    assert all(draw().axes for draw in pictures.values())


def test_what_a_watched_head_looks_at_in_one_text_is_kept(tmp_path: Path) -> None:
    callback = structure(track={"layer_1": [2]})
    model = fit(tmp_path, [callback])
    eager = Letters(attn_implementation="eager")
    eager.load_state_dict(model.state_dict())
    row = texts()[0]
    with torch.no_grad():
        expected = eager.eval().lm(torch.tensor([row]), output_attentions=True).attentions[1][0, 2]
    assert callback.text.steps == [6, 12]
    torch.testing.assert_close(callback.text.values[-1]["layer_1/h2"].float(), expected, atol=1e-3, rtol=0)
    assert not torch.equal(callback.text.values[0]["layer_1/h2"], callback.text.values[1]["layer_1/h2"])


class Fails(Letters):
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        super().validation_step(batch, batch_idx)
        if self.global_step:
            raise KeyError("the model's own")


def test_an_error_of_the_model_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(KeyError, match="the model's own"):
        trainer(tmp_path, [structure(), structure(prefix="other/")]).fit(Fails(), loader(texts(24, 3)), loader())
    assert not _get_current_function_mode_stack()
    assert EagerStance.askers == 0


def test_a_resumed_run_goes_on(tmp_path: Path) -> None:
    whole, first, second = structure(), structure(), structure()
    fit(tmp_path, [whole], max_epochs=2)
    model = Letters()
    torch.manual_seed(1)
    run = trainer(tmp_path, [first], max_epochs=1)
    run.fit(model, loader(texts(24, 3)), loader())
    run.save_checkpoint(tmp_path / "a.ckpt")
    torch.manual_seed(2)
    trainer(tmp_path, [second], max_epochs=2).fit(
        Letters(1), loader(texts(24, 3)), loader(), ckpt_path=tmp_path / "a.ckpt", weights_only=False
    )
    assert [one[:3] for one in timeless(second)] == [one[:3] for one in timeless(whole)]
    assert timeless(second)[0] == timeless(whole)[0]


def over_ranks() -> dict[str, float]:
    callback = structure()
    return validated(callback, Letters(), loader(batch_size=2))


def test_ranks_read_what_one_process_reads(ranks: Any) -> None:
    alone = over_ranks()
    first, *others = ranks.run(over_ranks)
    assert first == pytest.approx(alone, abs=1e-6)
    assert all(other == first for other in others)


# ------------------------------------------------- errors


class OwnKernel(nn.Module):
    """Attention that nothing can see into."""

    def forward(self, x: Tensor) -> Tensor:
        scores = (x @ x.transpose(-1, -2)).exp()
        return (scores / scores.sum(-1, keepdim=True)) @ x


def test_what_cannot_be_read_is_told(tmp_path: Path) -> None:
    model = Wrapped(nn.Sequential(nn.Embedding(27, 4), OwnKernel()))
    with pytest.raises(CaptureError, match=r"no attention was seen at '1' \(lm\.1, OwnKernel\)"):
        analyze(model, loader(), structure(sites={"1": "lm.1"}))
    with pytest.raises(ValueError, match="has no module whose class is named after attention: give `sites`"):
        analyze(model, loader(), structure(sites=None))
    with pytest.raises(ValueError, match=r"`track` names head 3 of site 'layer_0', which has 3 heads"):
        fit(tmp_path, [structure(track={"layer_0": [3]})])
    with pytest.raises(ValueError, match=r"`track` names site 'nowhere', which is not among \['layer_0', 'layer_1'\]"):
        fit(tmp_path, [structure(track={"nowhere": [0]})])
    with pytest.raises(ValueError, match=r"`track` must map sites to numbers of heads"):
        structure(track=[1])
    with pytest.raises(ValueError, match="`max_tokens` must be at least 1, got 0"):
        structure(max_tokens=0)
    with pytest.raises(ValueError, match=r"has no padding mask. Pass `padding_idx=`"):
        analyze(Letters(), [{"input_ids": padded(texts())["input_ids"]}], structure())


class Windows(nn.Module):
    """Attends within windows of a sample, which are samples to its attention."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.attention = nn.Embedding(27, 8), nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids).view(-1, 2, 8)
        return self.attention(x, x, x, need_weights=False)[0]


def test_attention_within_parts_of_samples_is_told() -> None:
    batch = {"input_ids": torch.ones(3, 4, dtype=torch.long)}
    with pytest.raises(CaptureError, match=r"site 'a' attends in 6 samples, and the batch has 3"):
        analyze(Wrapped(Windows()), [batch], structure(sites={"a": "lm.attention"}, padding_idx=-1))
