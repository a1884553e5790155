"""Edits: what sites return or are given, changed by a function, and nothing else."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence
from transformers import GPT2Config, GPT2LMHeadModel

from lightning_interp.sites import CaptureError, SiteEdit, SiteRecorder

D = 4


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(D, D)

    def forward(self, x: Tensor, scale: Tensor | None = None) -> Tensor:
        return x + self.linear(x) * (1 if scale is None else scale)


class Model(nn.Module):
    """Two blocks, of which the first runs twice."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, D)
        self.one = Block()
        self.two = Block()

    def forward(self, ids: Tensor) -> Tensor:
        x = self.one(x=self.embedding(ids))
        return self.two(self.one(x), scale=x.tanh())


IDS = torch.tensor([[1, 2, 3], [4, 5, 6]])


def edited(model: nn.Module, sites: dict[str, str], **kwargs: Any) -> SiteEdit:
    edit = SiteEdit(model, sites, **kwargs)
    edit.attach()
    return edit


@pytest.fixture
def model() -> Model:
    torch.manual_seed(0)
    return Model()


def by_hand(model: Model, ids: Tensor, **change: Any) -> Tensor:
    """The forward pass written out, with functions in the place of edits."""

    def at(name: str, x: Tensor) -> Tensor:
        return change[name](x) if name in change else x

    def run(name: str, block: Block, x: Tensor, scale: Tensor | None = None) -> Tensor:
        x = at(f"{name}_in", x)
        return at(f"{name}_out", x + block.linear(x) * (1 if scale is None else at(f"{name}_scale", scale)))

    x = run("first", model.one, at("embedding_out", model.embedding(at("ids", ids))))
    return run("two", model.two, run("second", model.one, x), x.tanh())


def double(x: Tensor) -> Tensor:
    return x * 2


@pytest.mark.parametrize(
    ("of", "site", "call", "output", "places"),
    [
        ("output", "embedding", None, None, ["embedding_out"]),
        ("output", "one", None, None, ["first_out", "second_out"]),
        ("output", "one", 0, None, ["first_out"]),
        ("output", "one", 1, None, ["second_out"]),
        ("output", "two", None, None, ["two_out"]),
        ("input", "one", None, None, ["first_in", "second_in"]),
        ("input", "one", 1, None, ["second_in"]),
        ("input", "two", None, None, ["two_in"]),
        ("input", "two", None, 0, ["two_in"]),
        ("input", "two", None, "scale", ["two_scale"]),
        ("input", "two", 0, lambda given: given["scale"], ["two_scale"]),
    ],
)
def test_an_edit_is_the_function_at_that_place_and_nowhere_else(
    model: Model, of: Any, site: str, call: int | None, output: Any, places: list[str]
) -> None:
    plain = model(IDS)
    edit = edited(model, {"site": site}, of=of, output=output)
    with edit.changing("site", double, call):
        found = model(IDS)
    assert torch.equal(found, by_hand(model, IDS, **dict.fromkeys(places, double)))
    assert not torch.equal(found, plain)
    assert torch.equal(model(IDS), plain)
    edit.detach()
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_token_ids_are_changed_before_the_embedding(model: Model) -> None:
    expected = model(IDS.flip(1))
    edit = edited(model, {"site": "embedding"}, of="ids")
    with edit.changing("site", lambda ids: ids.flip(1)):
        assert torch.equal(model(IDS), expected)
    edit = edited(model, {"two": "two"}, of="ids")
    with pytest.raises(CaptureError, match="given no integer tensor"), edit.changing("two", double):
        model(IDS)


def test_gradients_go_through_an_edit(model: Model) -> None:
    edit = edited(model, {"site": "one"})
    with edit.changing("site", double, 1):
        model(IDS).sum().backward()
    found = model.embedding.weight.grad
    model.embedding.weight.grad = None
    by_hand(model, IDS, second_out=double).sum().backward()
    assert torch.equal(found, model.embedding.weight.grad)


def test_the_function_may_write_into_what_it_is_given(model: Model) -> None:
    plain = model(IDS)
    recorder = SiteRecorder(model, {"site": "two"}, of="input")
    recorder.attach()  # before the edit, so that it reads what comes to it
    edit = edited(model, {"site": "two"}, of="input")
    with torch.no_grad(), edit.changing("site", lambda x: x.zero_()), recorder.capturing():
        model(IDS)
    assert bool((recorder.take()["site"][0] != 0).any())
    assert torch.equal(model(IDS), plain)


def test_hooks_run_in_the_order_in_which_they_were_attached(model: Model) -> None:
    sites = {"site": "one"}
    before = SiteRecorder(model, sites, call="last")
    before.attach()
    edit = edited(model, sites)
    after = SiteRecorder(model, sites, call="last")
    after.attach()
    with torch.no_grad(), edit.changing("site", torch.zeros_like), before.capturing(), after.capturing():
        model(IDS)
    assert bool((before.take()["site"][0] != 0).any())
    assert bool((after.take()["site"][0] == 0).all())


def test_edits_within_one_another_hold_together(model: Model) -> None:
    edit = edited(model, {"one": "one", "two": "two"})

    def more(x: Tensor) -> Tensor:
        return x + 1

    with edit.changing("one", double), edit.changing("two", more), edit.changing("two", double):
        found = model(IDS)
    twice = by_hand(model, IDS, first_out=double, second_out=double, two_out=lambda x: (x + 1) * 2)
    assert torch.equal(found, twice)


def test_restoring_what_was_recorded_restores_the_output(model: Model) -> None:
    # What causal tracing does: states of the clean run put back into a corrupted one.
    recorder = SiteRecorder(model, {"two": "two"})
    recorder.attach()
    with torch.no_grad(), recorder.capturing():
        clean = model(IDS)
    (state,) = recorder.take()["two"]
    ids, sites = edited(model, {"emb": "embedding"}, of="ids"), edited(model, {"two": "two"})
    with torch.no_grad(), ids.changing("emb", lambda ids: ids.flip(0)):
        assert not torch.equal(model(IDS), clean)
        with sites.changing("two", lambda _: state):
            assert torch.equal(model(IDS), clean)


@given(
    lengths=st.lists(st.integers(1, 5), min_size=1, max_size=4).map(lambda one: sorted(one, reverse=True)),
    factor=st.floats(-2, 2),
)
@settings(max_examples=20, deadline=None)
def test_packed_sequences_keep_their_lengths(lengths: list[int], factor: float) -> None:
    model = nn.Sequential(nn.GRU(3, D, batch_first=True))
    packed = pack_padded_sequence(torch.randn(len(lengths), max(lengths), 3), torch.tensor(lengths), batch_first=True)

    def scaled(one: PackedSequence) -> PackedSequence:
        return one._replace(data=one.data * factor)

    edit = edited(model, {"gru": "0"})
    with torch.no_grad():
        plain, _ = pad_packed_sequence(model(packed)[0])
        with edit.changing("gru", scaled):
            found, sizes = pad_packed_sequence(model(packed)[0])
    assert sizes.tolist() == lengths
    assert torch.equal(found, plain * factor)


def test_another_dtype_becomes_that_of_the_model(model: Model) -> None:
    edit = edited(model.bfloat16(), {"two": "two"})
    with edit.changing("two", lambda x: x.float() * 2):
        assert model(IDS).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: x[:1], r"returned \(1, 3, 4\) for \(2, 3, 4\)"),
        (lambda x: None, "returned a NoneType, not the changed tensor"),
        (lambda x: [x], "returned a list, not the changed tensor"),
    ],
)
def test_what_a_function_may_return(model: Model, function: Any, message: str) -> None:
    edit = edited(model, {"site": "two"})
    with pytest.raises(CaptureError, match=rf"the function at site 'site' {message}"), edit.changing("site", function):
        model(IDS)
    assert torch.equal(model(IDS), by_hand(model, IDS))


def test_errors_say_what_is_wrong(model: Model) -> None:
    with pytest.raises(ValueError, match=r"`of` must be one of .*'ids'.*, got 'inputs'"):
        SiteEdit(model, {"one": "one"}, of="inputs")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="`output` has no meaning with of='ids', got 1"):
        SiteEdit(model, {"one": "one"}, of="ids", output=1)
    edit = SiteEdit(model, {"one": "one", "two": "two"})
    with pytest.raises(CaptureError, match=r"attach\(\) comes before"), edit.changing("one", double):
        pass
    edit.attach()
    with pytest.raises(ValueError, match="`site` 'three' is unknown; there are 'one', 'two'"):  # noqa: SIM117
        with edit.changing("three", double):
            pass
    with (
        pytest.raises(CaptureError, match=r"'two' .* never ran, so an edit had no effect"),
        edit.changing("two", double),
    ):
        model.one(torch.zeros(1, D))
    with pytest.raises(CaptureError, match="ran 2 times, so there was no call 2"), edit.changing("one", double, 2):
        model(IDS)
    with pytest.raises(CaptureError, match=r"no floating-point tensor.*so an edit cannot be put there"):  # noqa: SIM117
        with edited(model, {"site": "embedding"}, of="input").changing("site", double):
            model(IDS)
    apart = edited(model, {"site": "two"}, of="input", output=lambda given: given["scale"] * 1)
    with pytest.raises(CaptureError, match="not in what site 'site' was given"), apart.changing("site", double):
        model(IDS)


def test_an_edit_ends_with_its_block_whatever_happens(model: Model) -> None:
    plain, edit = model(IDS), edited(model, {"two": "two"})
    with pytest.raises(KeyError), edit.changing("two", double):
        raise KeyError
    assert torch.equal(model(IDS), plain)


def test_a_copied_model_is_not_edited(model: Model) -> None:
    plain, edit = model(IDS), edited(model, {"two": "two"})
    with edit.changing("two", double):
        assert torch.equal(copy.deepcopy(model)(IDS), plain)
        model(IDS)
    twin = copy.deepcopy(edit)
    twin.attach()
    with twin.changing("two", double):
        assert torch.equal(twin.model(IDS), by_hand(model, IDS, two_out=double))


@pytest.fixture
def fresh_dynamo() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("of", ["output", "input"])
def test_compiled_models_are_edited_as_eager_ones(model: Model, of: Any, fresh_dynamo: None) -> None:
    graphs = []

    def backend(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    edit = edited(model, {"site": "two"}, of=of)
    compiled = torch.compile(model, backend=backend)
    with torch.no_grad():
        plain = compiled(IDS)
        idle = len(graphs)
        for factor in (2.0, 3.0, 4.0):
            with edit.changing("site", lambda x, factor=factor: x * factor):
                found = compiled(IDS)
            place = {f"two_{'out' if of == 'output' else 'in'}": lambda x, factor=factor: x * factor}
            torch.testing.assert_close(found, by_hand(model, IDS, **place))
            if factor == 2:
                active = len(graphs)
        assert torch.equal(compiled(IDS), plain)
    assert idle == 1
    assert len(graphs) == active, "another function is no reason to compile anew"


def test_a_block_of_gpt2_is_edited_by_input_and_output() -> None:
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=11, n_positions=8, n_embd=8, n_layer=2, n_head=2)).eval()
    ids = torch.tensor([[1, 2, 3, 4]])
    last, first = "transformer.h.1", "transformer.h.0"
    with torch.no_grad():
        with edited(model, {"b": last}, of="input").changing("b", torch.zeros_like):
            given_nothing = model(ids).logits
        with edited(model, {"b": first}).changing("b", torch.zeros_like):
            returned_nothing = model(ids).logits
    assert torch.equal(given_nothing, returned_nothing)
