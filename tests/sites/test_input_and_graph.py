"""Recorders of what sites are given, and of tensors with their graph."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import GPT2Config, GPT2LMHeadModel

from lightning_interp.sites import CaptureError, SiteRecorder

D = 4


class Block(nn.Module):
    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.linear = nn.Linear(D, D)
        self.inplace = inplace

    def forward(self, x: Tensor, mask: Tensor | None = None, scale: float = 1.0) -> tuple[Tensor, Tensor]:
        y = self.linear(x) * scale
        if mask is not None:
            y = y * mask
        return (x.add_(y) if self.inplace else x + y), y


class Model(nn.Module):
    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, D)
        self.one = Block()
        self.two = Block(inplace)

    def forward(self, ids: Tensor) -> Tensor:
        x, _ = self.one(self.embedding(ids))
        x, y = self.two(x, mask=(ids > 2)[..., None].float(), scale=2.0)
        return x + y


IDS = torch.tensor([[1, 2, 3], [4, 5, 6]])


def read(model: nn.Module, sites: dict[str, str], **kwargs: Any) -> dict[str, list[Any]]:
    recorder = SiteRecorder(model, sites, **kwargs)
    recorder.attach()
    try:
        with recorder.capturing():
            model(IDS)
        return recorder.take()
    finally:
        recorder.detach()


@pytest.fixture
def model() -> Model:
    torch.manual_seed(0)
    return Model()


# ------------------------------------------------- input


def test_what_a_site_is_given_is_what_the_one_before_returned(model: Model) -> None:
    given = read(model, {"one": "one", "two": "two"}, of="input")
    returned = read(model, {"embedding": "embedding", "one": "one"}, output={"one": 0})
    assert torch.equal(given["one"][0], returned["embedding"][0])
    assert torch.equal(given["two"][0], returned["one"][0])
    assert not given["two"][0].requires_grad


@pytest.mark.parametrize(
    ("output", "path"),
    [(None, "[0]"), (0, "[0]"), ("mask", "['mask']"), (lambda given: given["mask"], "(…)")],
)
def test_which_argument_is_read(model: Model, output: Any, path: str) -> None:
    recorder = SiteRecorder(model, {"two": "two"}, of="input", output=output)
    recorder.attach()
    with recorder.capturing():
        model(IDS)
    (found,) = recorder.take()["two"]
    assert recorder.found["two"].path == path
    if path != "[0]":
        assert torch.equal(found, (IDS > 2)[..., None].float())


def test_whole_arguments(model: Model) -> None:
    (given,) = read(model, {"two": "two"}, of="input", whole=["two"])["two"]
    assert list(given) == [0, "mask", "scale"]
    assert given["scale"] == 2.0


@pytest.mark.parametrize(
    ("site", "output", "message"),
    [
        ("embedding", None, "was given .*int64.*: no floating-point tensor to read"),
        ("two", "missing", "no floating-point tensor at output='missing', but NoneType; it was given dict"),
    ],
)
def test_an_argument_that_is_not_there(model: Model, site: str, output: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        read(model, {"site": site}, of="input", output=output)


def test_an_input_is_kept_as_it_came_though_the_module_writes_into_it() -> None:
    torch.manual_seed(0)
    model = Model(inplace=True)
    with torch.no_grad():
        given = read(model, {"two": "two"}, of="input")["two"][0]
        assert torch.equal(given, read(model, {"one": "one"}, output=0, call="first")["one"][0])


def test_readers_of_inputs_and_outputs_of_one_site_do_not_mix(model: Model) -> None:
    both = [SiteRecorder(model, {"one": "one"}, of=of, output=0) for of in ("input", "output", "input")]
    for one in both:
        one.attach()
    with both[0].capturing(), both[1].capturing(), both[2].capturing():
        model(IDS)
    first, returned, second = (one.take()["one"][0] for one in both)
    assert first is second, "two readers of one place share a copy"
    assert torch.equal(first, model.embedding(IDS))
    assert torch.equal(returned, model.one(first)[0])
    for one in both:
        one.detach()
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_an_input_after_a_hook_that_changes_it(model: Model) -> None:
    before = SiteRecorder(model, {"two": "two"}, of="input")
    before.attach()
    handle = model.two.register_forward_pre_hook(lambda module, args: (args[0] * 0,))
    after = SiteRecorder(model, {"two": "two"}, of="input")
    after.attach()
    with before.capturing(), after.capturing():
        model(IDS)
    assert bool(before.take()["two"][0].any())
    assert not bool(after.take()["two"][0].any())
    handle.remove()


def test_inputs_of_a_compiled_model_in_two_graphs(model: Model) -> None:
    torch._dynamo.reset()
    graphs = []

    def backend(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    eager = read(model, {"two": "two"}, of="input")["two"][0]
    recorder = SiteRecorder(model, {"two": "two"}, of="input")
    recorder.attach()
    compiled = torch.compile(model, backend=backend)
    for _ in range(3):
        compiled(IDS)
        with recorder.capturing():
            compiled(IDS)
        assert torch.equal(recorder.take()["two"][0], eager)
    assert len(graphs) == 2
    torch._dynamo.reset()


# ------------------------------------------------- graph


def test_the_gradient_with_respect_to_a_site_is_that_of_the_chain_rule(model: Model) -> None:
    recorder = SiteRecorder(model, {"one": "one"}, output=0, graph=True)
    recorder.attach()
    with recorder.capturing():
        loss = model(IDS).square().sum()
    (state,) = recorder.take()["one"]
    (found,) = torch.autograd.grad(loss, state)
    own = state.detach().clone().requires_grad_()
    x, y = model.two(own, mask=(IDS > 2)[..., None].float(), scale=2.0)
    (expected,) = torch.autograd.grad((x + y).square().sum(), own)
    torch.testing.assert_close(found, expected)


def test_the_gradient_with_respect_to_an_input(model: Model) -> None:
    recorder = SiteRecorder(model, {"two": "two"}, of="input", graph=True)
    recorder.attach()
    with recorder.capturing():
        loss = model(IDS).sum()
    (found,) = torch.autograd.grad(loss, recorder.take()["two"][0])
    assert bool(found.any())


def test_a_forward_with_a_graph_trains_as_one_without(model: Model) -> None:
    plain = torch.autograd.grad(model(IDS).square().sum(), list(model.parameters()))
    recorder = SiteRecorder(model, {"one": "one", "two": "two"}, output=0, graph=True)
    recorder.attach()
    with recorder.capturing():
        loss = model(IDS).square().sum()
    held = recorder.take()
    found = torch.autograd.grad(loss, list(model.parameters()))
    assert all(torch.equal(one, other) for one, other in zip(plain, found, strict=True))
    assert all(bool(states[0].isfinite().all()) for states in held.values())


def test_readers_with_and_without_the_graph_do_not_mix(model: Model) -> None:
    with_graph, without = (SiteRecorder(model, {"one": "one"}, output=0, graph=graph) for graph in (True, False))
    with_graph.attach()
    without.attach()
    with with_graph.capturing(), without.capturing():
        model(IDS)
    one, other = with_graph.take()["one"][0], without.take()["one"][0]
    assert torch.equal(one, other)
    assert (one.requires_grad, other.requires_grad) == (True, False)
    assert one.data_ptr() != other.data_ptr()


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_no_graph_is_told(model: Model, context: Any) -> None:
    with context(), pytest.raises(CaptureError, match="without a graph: run the forward pass with gradients on"):
        read(model, {"one": "one"}, output=0, graph=True)


@pytest.mark.parametrize("output", [None, lambda given: given[0]])
def test_what_was_written_to_since_is_told(output: Any) -> None:
    torch.manual_seed(0)
    model = Model(inplace=True)
    with pytest.raises(CaptureError, match=r"'two' .* written to after it was kept"):
        read(model, {"two": "two"}, of="input", output=output, graph=True)
    with pytest.raises(CaptureError, match=r"'one' .* written to after it was kept"):
        read(model, {"one": "one"}, output=lambda out: out[0], graph=True)


def test_a_compiled_graph_is_refused(model: Model) -> None:
    torch._dynamo.reset()
    recorder = SiteRecorder(model, {"one": "one"}, output=0, graph=True)
    recorder.attach()
    compiled = torch.compile(model, backend="eager")
    with recorder.capturing():
        compiled(IDS)
    with pytest.raises(CaptureError, match=r"ran in a compiled graph.*force_eager"):
        recorder.take()
    with torch.compiler.set_stance("force_eager"), recorder.capturing():
        loss = compiled(IDS).sum()
    assert bool(torch.autograd.grad(loss, recorder.take()["one"][0])[0].any())
    torch._dynamo.reset()


class Checkpointed(nn.Module):
    def __init__(self, model: Model, reentrant: bool) -> None:
        super().__init__()
        self.model, self.reentrant = model, reentrant

    def forward(self, ids: Tensor) -> Tensor:
        x = self.model.embedding(ids)
        x, y = checkpoint(self.model.one, x, use_reentrant=self.reentrant)
        return x + y


@pytest.mark.parametrize("reentrant", [True, False])
def test_activation_checkpointing(model: Model, reentrant: bool) -> None:
    recorder = SiteRecorder(Checkpointed(model, reentrant), {"one": "model.one"}, output=0, graph=True)
    recorder.attach()
    with recorder.capturing():
        loss = recorder.model(IDS).sum()
    (state,) = recorder.take()["one"]
    assert torch.equal(torch.autograd.grad(loss, state, retain_graph=True)[0], torch.ones_like(state))


def test_what_is_inside_of_a_reentrant_checkpoint_has_no_graph_yet(model: Model) -> None:
    with pytest.raises(CaptureError, match="without a graph"):
        read(Checkpointed(model, True), {"linear": "model.one.linear"}, graph=True)


def test_attention_weights_of_gpt2_have_gradients() -> None:
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=11, n_positions=8, n_embd=8, n_layer=2, n_head=2, attn_implementation="eager")
    model = GPT2LMHeadModel(config).eval()
    recorder = SiteRecorder(model, {"attn": "transformer.h.0.attn"}, output=1, graph=True)
    recorder.attach()
    with recorder.capturing():
        loss = model(IDS, labels=IDS).loss
    (weights,) = recorder.take()["attn"]
    assert weights.shape == (2, 2, 3, 3)
    (gradient,) = torch.autograd.grad(loss, weights)
    assert bool(gradient.any())


def test_weights_that_a_kernel_hides_are_told_how_to_get() -> None:
    config = GPT2Config(vocab_size=11, n_positions=8, n_embd=8, n_layer=1, n_head=2, attn_implementation="sdpa")
    with pytest.raises(TypeError, match=r"attention is 'sdpa', which gives no weights.*attn_implementation='eager'"):
        read(GPT2LMHeadModel(config).eval(), {"attn": "transformer.h.0.attn"}, output=1)
