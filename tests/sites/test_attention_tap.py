"""The tap on attention: the weights of every kind of attention, and a model that does not notice."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack
from torch.utils.checkpoint import checkpoint

from lightning_interp.models.attention import MultiheadAttention
from lightning_interp.sites import CaptureError, resolve_sites
from lightning_interp.sites.attention_call import AttentionCall
from lightning_interp.sites.attention_tap import AttentionTap

transformers = pytest.importorskip("transformers")

IDS = torch.tensor([[1, 5, 3, 7, 2, 9], [4, 4, 8, 6, 0, 0]])
RIGHT = (IDS != 0).long()
LEFT = RIGHT.flip(1)
SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 13}


def built(kind: str, kernel: str) -> Any:
    torch.manual_seed(0)
    configs: dict[str, Callable[[], Any]] = {
        "gpt2": lambda: transformers.GPT2Config(vocab_size=13, n_embd=16, n_layer=2, n_head=4, n_positions=32),
        "llama": lambda: transformers.LlamaConfig(**SMALL, num_key_value_heads=2, intermediate_size=32),
        "bert": lambda: transformers.BertConfig(**SMALL, intermediate_size=32),
        "mistral": lambda: transformers.MistralConfig(
            **SMALL, num_key_value_heads=2, intermediate_size=32, sliding_window=3
        ),
        "gemma2": lambda: transformers.Gemma2Config(
            **SMALL, num_key_value_heads=2, head_dim=4, intermediate_size=32, sliding_window=3
        ),
        "vit": lambda: transformers.ViTConfig(
            hidden_size=16, num_hidden_layers=2, num_attention_heads=4, intermediate_size=32, image_size=8, patch_size=4
        ),
    }
    config = configs[kind]()
    config._attn_implementation = kernel
    return transformers.AutoModel.from_config(config, attn_implementation=kernel).eval()


SITES = {
    "gpt2": "h.*.attn",
    "llama": "layers.*.self_attn",
    "mistral": "layers.*.self_attn",
    "gemma2": "layers.*.self_attn",
    "bert": "encoder.layer.*.attention.self",
}


def read(model: nn.Module, sites: Any, *args: Any, **kwargs: Any) -> dict[str, AttentionCall]:
    found: dict[str, AttentionCall] = {}
    tap = AttentionTap(model, resolve_sites(model, sites))
    with torch.no_grad(), tap.reading(found.__setitem__):
        model(*args, **kwargs)
    return found


# ------------------------------------------------- models of transformers


@pytest.mark.parametrize("mask", [None, RIGHT, LEFT], ids=["whole", "right", "left"])
@pytest.mark.parametrize(
    ("kind", "kernel"),
    [(kind, kernel) for kind in SITES for kernel in ("sdpa", "eager") if kind + kernel != "gemma2sdpa"],
)
def test_weights_are_those_that_an_eager_model_returns(kind: str, kernel: str, mask: Tensor | None) -> None:
    model, eager = built(kind, kernel), built(kind, "eager")
    assert model.config._attn_implementation == kernel
    with torch.no_grad():
        expected = eager(IDS, attention_mask=mask, output_attentions=True).attentions
        plain = model(IDS, attention_mask=mask)[0]
    outputs: list[Tensor] = []
    handle = model.register_forward_hook(lambda module, args, output: outputs.append(output[0]))
    found = read(model, SITES[kind], IDS, attention_mask=mask)
    handle.remove()
    assert torch.equal(outputs[0], plain), "the model does not notice"
    assert list(found) == ["0", "1"]
    real = torch.ones_like(IDS, dtype=torch.bool) if mask is None else mask.bool()
    for call, weights in zip(found.values(), expected, strict=True):
        assert call.weights.dtype == torch.float32
        rows = real[:, None, :].expand(call.weights.shape[:3])
        torch.testing.assert_close(call.weights[rows], weights[rows], atol=1e-6, rtol=0)
        shown = call.visible.expand_as(call.weights)
        assert bool((call.weights[rows][~shown[rows]] == 0).all())
        keys = real[:, None, None, :].expand_as(shown)
        assert not bool((shown & ~keys)[rows].any()), "padding is not seen"
        if kind != "bert":
            assert not bool(shown.triu(1)[rows].any()), "nor is the future"


def test_the_largest_score_is_that_of_keys_that_are_seen() -> None:
    model = built("gpt2", "sdpa")
    found = read(model, SITES["gpt2"], IDS, attention_mask=RIGHT)
    call = found["0"]
    assert call.query is not None
    assert call.key is not None
    largest = [-float("inf")] * 4
    for sample in range(2):
        for head in range(4):
            for query in range(6):
                for key in range(query + 1):
                    if RIGHT[sample, key] and RIGHT[sample, query]:
                        score = float(call.query[sample, head, query] @ call.key[sample, head, key]) / 2.0
                        largest[head] = max(largest[head], score)
    assert call.largest_score(RIGHT.bool()).tolist() == pytest.approx(largest, rel=1e-5)  # type: ignore[union-attr]


def test_position_bias_and_cross_attention_of_t5() -> None:
    torch.manual_seed(0)
    config = transformers.T5Config(vocab_size=13, d_model=16, d_kv=4, d_ff=32, num_layers=2, num_heads=4)
    model = transformers.T5Model(config).eval()
    sites = {
        "encoder": "encoder.block.1.layer.0.SelfAttention",
        "decoder": "decoder.block.1.layer.0.SelfAttention",
        "cross": "decoder.block.1.layer.1.EncDecAttention",
    }
    found = read(model, sites, input_ids=IDS, attention_mask=RIGHT, decoder_input_ids=IDS[:, :4])
    model.set_attn_implementation("eager")
    with torch.no_grad():
        out = model(input_ids=IDS, attention_mask=RIGHT, decoder_input_ids=IDS[:, :4], output_attentions=True)
    rows = RIGHT.bool()[:, None].expand(2, 4, 6)
    torch.testing.assert_close(found["encoder"].weights[rows], out.encoder_attentions[1][rows], atol=1e-6, rtol=0)
    torch.testing.assert_close(found["decoder"].weights, out.decoder_attentions[1], atol=1e-6, rtol=0)
    torch.testing.assert_close(found["cross"].weights, out.cross_attentions[1], atol=1e-6, rtol=0)
    assert found["cross"].shape == (2, 4, 4, 6)


def test_images() -> None:
    model = built("vit", "sdpa")
    site = next(name for name, module in model.named_modules() if type(module).__name__ == "ViTAttention")
    found = read(model, {"0": site}, torch.randn(2, 3, 8, 8))
    assert found["0"].shape == (2, 4, 5, 5)
    torch.testing.assert_close(found["0"].weights.sum(-1), torch.ones(2, 4, 5))


def test_a_kernel_that_hides_weights_is_switched_and_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    model = built("llama", "sdpa")
    expected = read(model, SITES["llama"], IDS)["1"].weights
    model.set_attn_implementation("flex_attention")
    found = read(model, SITES["llama"], IDS)
    torch.testing.assert_close(found["1"].weights, expected)
    assert {module.config._attn_implementation for module in model.modules() if hasattr(module, "config")} == {
        "flex_attention"
    }
    tap = AttentionTap(model, {"0": "layers.0.self_attn"})
    monkeypatch.setattr(model, "set_attn_implementation", lambda kernel: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        tap.start()
    assert not _get_current_function_mode_stack()


# ------------------------------------------------- other attention


def by_hand(module: nn.MultiheadAttention, q: Tensor, k: Tensor, **kwargs: Any) -> Tensor:
    weights: Tensor = module(q, k, k, need_weights=True, average_attn_weights=False, **kwargs)[1]
    return weights


class Attends(nn.Module):
    def __init__(self, module: nn.MultiheadAttention, **kwargs: Any) -> None:
        super().__init__()
        self.attention, self.kwargs = module, kwargs

    def forward(self, q: Tensor, k: Tensor) -> Any:
        return self.attention(q, k, k, **self.kwargs)


@pytest.mark.parametrize("more", [{}, {"add_bias_kv": True}, {"add_zero_attn": True}, {"kdim": 6, "vdim": 6}])
@pytest.mark.parametrize("given", ["nothing", "padding", "boolean", "float", "causal", "by head", "both"])
def test_torch_multi_head_attention(more: dict[str, Any], given: str) -> None:
    torch.manual_seed(0)
    module = nn.MultiheadAttention(8, 2, batch_first=True, **more).eval()
    q, k = torch.randn(3, 5, 8), torch.randn(3, 5, more.get("kdim", 8))
    triangle = torch.ones(5, 5, dtype=torch.bool).triu(1)
    padding = torch.tensor([[0, 0, 0, 0, 0], [0, 0, 0, 1, 1], [0, 0, 1, 1, 1]]).bool()
    masks: dict[str, dict[str, Any]] = {
        "nothing": {},
        "padding": {"key_padding_mask": padding},
        "boolean": {"attn_mask": triangle},
        "float": {"attn_mask": torch.randn(5, 5)},
        "causal": {"attn_mask": triangle, "is_causal": True},
        "by head": {"attn_mask": torch.randn(6, 5, 5)},
        "both": {"attn_mask": triangle, "key_padding_mask": padding},
    }
    model = Attends(module, need_weights=False, **masks[given])
    with torch.no_grad():
        plain = model(q, k)[0]
        expected = by_hand(module, q, k, **masks[given])
    call = read(model, {"a": "attention"}, q, k)["a"]
    torch.testing.assert_close(call.weights, expected, atol=1e-6, rtol=0)
    with torch.no_grad():
        assert torch.equal(model(q, k)[0], plain)


class CallsTheFunction(nn.Module):
    """Multi-head attention by the function, whose masks may be boolean: the module makes numbers of them."""

    def __init__(self, **masks: Tensor) -> None:
        super().__init__()
        self.inner, self.masks = nn.MultiheadAttention(8, 2), masks

    def forward(self, q: Tensor, need_weights: bool = False) -> Any:
        one = self.inner
        projections = (one.in_proj_weight, one.in_proj_bias, None, None, False, 0.0)
        return functional.multi_head_attention_forward(
            *(q, q, q, 8, 2, *projections, one.out_proj.weight, one.out_proj.bias),
            training=False,
            need_weights=need_weights,
            average_attn_weights=False,
            **self.masks,
        )


@pytest.mark.parametrize("given", ["key_padding_mask", "attn_mask"])
def test_boolean_masks_of_the_function_hide_what_they_mark(given: str) -> None:
    torch.manual_seed(0)
    padding = torch.tensor([[0, 0, 0, 0, 0], [0, 0, 0, 1, 1], [0, 0, 1, 1, 1]]).bool()
    masks = {"key_padding_mask": padding, "attn_mask": torch.ones(5, 5, dtype=torch.bool).triu(1)}
    model, q = CallsTheFunction(**{given: masks[given]}).eval(), torch.randn(5, 3, 8)
    with torch.no_grad():
        expected = model(q, need_weights=True)[1]
    assert (expected == 0).any()
    torch.testing.assert_close(read(model, {"a": ""}, q)["a"].weights, expected, atol=1e-6, rtol=0)


def test_a_torch_encoder_on_its_fused_path() -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model = nn.TransformerEncoder(layer, 2).eval()
    x = torch.randn(2, 5, 8)
    with torch.no_grad():
        fused = model(x)
    seen: list[Tensor] = []
    tap = AttentionTap(model, resolve_sites(model, "layers.*.self_attn"))
    with torch.no_grad(), tap.reading(lambda site, call: seen.append(call.weights)):
        found = model(x)
    torch.testing.assert_close(found, fused, atol=1e-5, rtol=0)
    torch.testing.assert_close(seen[0], by_hand(model.layers[0].self_attn, x, x), atol=1e-6, rtol=0)


def test_a_softmax_over_the_other_dimension() -> None:
    torch.manual_seed(0)
    model = MultiheadAttention(8, 2, 0.0).eval()
    q, mask = torch.randn(2, 4, 8), torch.ones(2, 1, 4, 4).tril().bool()
    call = read(model, {"a": ""}, q, q, mask)["a"]
    torch.testing.assert_close(call.weights.sum(-1), torch.ones(2, 2, 4))
    assert torch.equal(call.visible, mask.expand(2, 2, 4, 4))
    assert not bool(call.weights.triu(1).any())


class Returning(nn.Module):
    """Hands its weights through an identity."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.Identity()
        self.other = nn.Identity()

    def forward(self, q: Tensor) -> Tensor:
        scores = (q @ q.transpose(-1, -2)).exp()
        return self.other(self.weights(scores / scores.sum(-1, keepdim=True)) @ q)


def test_a_module_that_weights_go_through() -> None:
    q = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    call = read(Returning(), {"w": "weights"}, q)["w"]
    torch.testing.assert_close(call.weights, (q @ q.transpose(-1, -2)).softmax(-1))
    assert call.scores is None
    assert call.largest_score(torch.ones(2, 4).bool()) is None
    with pytest.raises(CaptureError, match=r"no attention was seen at 'o' \(other, Identity\).*nn\.Identity"):
        read(Returning(), {"o": "other"}, q)


class Head(nn.Module):
    """Attention without heads, (B, T, d), with more keys than queries where it is told."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__()
        self.kwargs = kwargs

    def forward(self, q: Tensor, k: Tensor) -> Tensor:
        return functional.scaled_dot_product_attention(q, k, k, **self.kwargs)


def test_three_dimensions_and_a_triangle_that_is_no_square() -> None:
    q, k = torch.randn(2, 3, 4), torch.randn(2, 5, 4)
    call = read(Head(is_causal=True, scale=0.3), {"a": ""}, q, k)["a"]
    hidden = torch.ones(3, 5).triu(1).bool()
    expected = ((q @ k.transpose(-1, -2)) * 0.3).masked_fill(hidden, -torch.inf).softmax(-1)
    torch.testing.assert_close(call.weights[:, 0], expected)


def test_a_query_that_sees_nothing_has_no_weights() -> None:
    mask = torch.tensor([[True, False], [False, False]])
    call = read(Head(attn_mask=mask), {"a": ""}, torch.randn(1, 1, 2, 4), torch.randn(1, 1, 2, 4))["a"]
    assert call.weights[0, 0].tolist() == [[1, 0], [0, 0]]


# ------------------------------------------------- how it is read


def test_half_precision_and_autocast_are_read_in_float32() -> None:
    model = built("llama", "sdpa")
    exact = read(model, SITES["llama"], IDS)["0"].weights
    tap, found = AttentionTap(model, resolve_sites(model, SITES["llama"])), []
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16), tap.reading(lambda site, call: found.append(call)):
        model(IDS)
    assert found[0].weights.dtype == torch.float32
    torch.testing.assert_close(found[0].weights.sum(-1), torch.ones(2, 4, 6), atol=1e-6, rtol=0)
    torch.testing.assert_close(found[0].weights, exact, atol=2e-2, rtol=0)


def test_parts_are_parts_of_the_whole() -> None:
    call = read(built("llama", "sdpa"), SITES["llama"], IDS, attention_mask=LEFT)["1"]
    part = call.part(slice(1, 2), slice(2, 5))
    torch.testing.assert_close(part.weights, call.weights[1:2, :, 2:5])
    assert torch.equal(part.visible.expand(1, 4, 3, 6), call.visible.expand(2, 4, 6, 6)[1:2, :, 2:5])
    eager = read(built("llama", "eager"), SITES["llama"], IDS, attention_mask=LEFT)["1"].part(slice(0, 1), slice(0, 3))
    torch.testing.assert_close(eager.weights, call.weights[:1, :, :3], atol=1e-6, rtol=0)


def test_several_taps_that_begin_and_end_in_any_order() -> None:
    model = built("gpt2", "sdpa")
    seen: dict[str, int] = {}

    def count(name: str) -> Callable[[str, AttentionCall], None]:
        return lambda site, call: seen.__setitem__(f"{name}{site}", seen.get(f"{name}{site}", 0) + 1)

    first = AttentionTap(model, {"0": "h.0.attn"})
    second = AttentionTap(model, {"0": "h.0.attn", "1": "h.1.attn"})
    first.start(count("a"))
    second.start(count("b"))
    with torch.no_grad():
        model(IDS)
        first.finish()
        model(IDS)
        second.finish()
        model(IDS)
    assert seen == {"a0": 1, "b0": 2, "b1": 2}
    assert not _get_current_function_mode_stack()
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


class Other(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


def test_a_mode_of_the_users_own_between() -> None:
    model, seen = built("gpt2", "sdpa"), []
    tap = AttentionTap(model, {"0": "h.0.attn"})
    tap.start(lambda site, call: seen.append(site))
    other = Other()
    other.__enter__()
    with torch.no_grad():
        model(IDS)
        tap.finish()
        model(IDS)
        with tap.reading(lambda site, call: seen.append(site)):
            model(IDS)
        assert other in _get_current_function_mode_stack()
        other.__exit__(None, None, None)
        with tap.reading(lambda site, call: seen.append(site)):
            model(IDS)
    assert len(seen) == 3
    assert not _get_current_function_mode_stack()


def test_an_error_in_a_handler_does_not_reach_the_model() -> None:
    model = built("gpt2", "sdpa")
    with torch.no_grad():
        plain = model(IDS)[0]

    def fails(site: str, call: AttentionCall) -> None:
        raise KeyError("planted")

    tap = AttentionTap(model, {"0": "h.0.attn"})
    tap.start(fails)
    with torch.no_grad():
        assert torch.equal(model(IDS)[0], plain)
    with pytest.raises(KeyError, match="planted"):
        tap.finish()
    with pytest.raises(ZeroDivisionError), tap.reading():
        raise ZeroDivisionError
    assert not _get_current_function_mode_stack()


class Twice(nn.Module):
    def forward(self, q: Tensor) -> Tensor:
        return functional.scaled_dot_product_attention(q, q, functional.scaled_dot_product_attention(q, q, q))


def test_what_cannot_be_read_is_told() -> None:
    q = torch.randn(1, 2, 3, 4)
    with pytest.raises(CaptureError, match=r"'a' \(the model, Twice\) called attention 2 times in one forward pass"):
        read(Twice(), {"a": ""}, q)
    with pytest.raises(CaptureError, match=r"query of attention is \(1, 1, 2, 3, 4\)"):
        read(Head(), {"a": ""}, q[None], q[None])
    with pytest.raises(ValueError, match="missing"):
        AttentionTap(Head(), {"a": "missing"})


def test_a_site_that_runs_several_times_is_told_of_each() -> None:
    head = Head()
    tap, seen = AttentionTap(head, {"a": ""}), []
    q = torch.randn(1, 2, 3, 4)
    with tap.reading(lambda site, call: seen.append(call.shape)):
        head(q, q)
        head(q[:, :, :2], q)
    assert seen == [(1, 2, 3, 3), (1, 2, 2, 3)]


# ------------------------------------------------- other weights


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
def test_weights_that_are_replaced_are_what_the_model_goes_on_with(kernel: str) -> None:
    model = built("llama", kernel)
    tap = AttentionTap(model, resolve_sites(model, SITES["llama"]))
    with torch.no_grad():
        plain = model(IDS)[0]
        with tap.reading(replace=lambda site, call: call.weights):
            same = model(IDS)[0]
        with tap.reading(replace=lambda site, call: torch.eye(6).expand(2, 4, 6, 6)):
            alone = model(IDS)[0]
        single = torch.cat([model(IDS[:, at : at + 1])[0] for at in range(6)], 1)
    torch.testing.assert_close(same, plain, atol=1e-5, rtol=0)
    torch.testing.assert_close(alone, single, atol=1e-5, rtol=0)


def test_weights_of_torch_multi_head_attention_are_replaced() -> None:
    torch.manual_seed(0)
    model = Attends(nn.MultiheadAttention(8, 2, batch_first=True).eval(), need_weights=False)
    q = torch.randn(3, 5, 8)
    tap = AttentionTap(model, {"a": "attention"})
    with torch.no_grad():
        with tap.reading(replace=lambda site, call: call.weights):
            torch.testing.assert_close(model(q, q)[0], model(q, q)[0])
        with tap.reading(replace=lambda site, call: torch.zeros_like(call.weights)):
            nothing = model(q, q)[0]
    torch.testing.assert_close(nothing, model.attention.out_proj.bias.expand(3, 5, 8))


def test_gates_on_weights_give_weights_times_their_gradient() -> None:
    model = built("gpt2", "sdpa")
    model.requires_grad_(False)
    tap, gates = AttentionTap(model, resolve_sites(model, SITES["gpt2"])), {}

    def gated(site: str, call: AttentionCall) -> Tensor:
        gates[site] = torch.ones(call.shape, requires_grad=True)
        return call.live_weights() * gates[site]

    with tap.reading(replace=gated):
        loss = model(IDS)[0].square().sum()
    found = torch.autograd.grad(loss, list(gates.values()))
    eager = built("gpt2", "eager")
    out = eager(IDS, output_attentions=True)
    for weights in out.attentions:
        weights.retain_grad()
    out[0].square().sum().backward()
    for gate, weights in zip(found, out.attentions, strict=True):
        torch.testing.assert_close(gate, weights * weights.grad, atol=1e-5, rtol=1e-4)


# ------------------------------------------------- compiled, checkpointed, copied


@pytest.fixture
def fresh_dynamo() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("how", ["wrapped", "in place", "part"])
def test_compiled_models_are_read_without_another_graph(how: str, fresh_dynamo: None) -> None:
    graphs: list[Any] = []

    def backend(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    model = built("gpt2", "sdpa")
    expected = read(model, SITES["gpt2"], IDS)["1"].weights
    tap = AttentionTap(model, resolve_sites(model, SITES["gpt2"]))
    run: Any = model
    if how == "wrapped":
        run = torch.compile(model, backend=backend)
    else:
        (model if how == "in place" else model.h[0]).compile(backend=backend)
    with torch.no_grad():
        run(IDS)
        run(IDS)
        before = len(graphs)
        assert before
        for _ in range(2):
            found: dict[str, AttentionCall] = {}
            with tap.reading(found.__setitem__):
                run(IDS)
            torch.testing.assert_close(found["1"].weights, expected)
            run(IDS)
    assert len(graphs) == before


def test_a_model_that_is_first_compiled_while_it_is_read(fresh_dynamo: None) -> None:
    model = built("gpt2", "sdpa")
    run = torch.compile(model, backend="eager", fullgraph=False)
    tap, seen = AttentionTap(model, resolve_sites(model, SITES["gpt2"])), []
    with torch.no_grad():
        plain = model(IDS)[0]
        with tap.reading(lambda site, call: seen.append(site)):
            run(IDS)
        torch.testing.assert_close(run(IDS)[0], plain)
        run(IDS)
    assert seen == ["0", "1"]


class Checkpointed(nn.Module):
    def __init__(self, reentrant: bool) -> None:
        super().__init__()
        self.body, self.reentrant = Head(), reentrant

    def forward(self, q: Tensor) -> Tensor:
        return checkpoint(self.body, q, q, use_reentrant=self.reentrant)  # type: ignore[no-any-return]


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing(reentrant: bool) -> None:
    q, seen = torch.randn(1, 2, 3, 4, requires_grad=True), []
    model = Checkpointed(reentrant)
    with AttentionTap(model, {"a": "body"}).reading(lambda site, call: seen.append(call.shape)):
        loss = model(q).sum()
    loss.backward()
    assert seen == [(1, 2, 3, 3)]


def test_training_goes_on_as_without() -> None:
    def gradients(tapped: bool) -> list[Tensor]:
        model = built("gpt2", "sdpa").train()
        torch.manual_seed(1)
        if tapped:
            with AttentionTap(model, resolve_sites(model, SITES["gpt2"])).reading(lambda site, call: call.weights):
                loss = model(IDS)[0].square().sum()
        else:
            loss = model(IDS)[0].square().sum()
        return list(torch.autograd.grad(loss, list(model.parameters())))

    assert all(torch.equal(one, other) for one, other in zip(gradients(True), gradients(False), strict=True))


def test_copies_begin_without() -> None:
    model = built("gpt2", "sdpa")
    tap = AttentionTap(model, {"0": "h.0.attn"})
    tap.start(lambda site, call: None)
    twin = copy.deepcopy(tap)
    assert not twin._handles
    tap.stop()
    assert pickle.loads(pickle.dumps(tap)).sites == {"0": "h.0.attn"}
