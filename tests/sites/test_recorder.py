"""Sites: names, recording in eager and compiled models, layouts."""

from __future__ import annotations

import copy
import dataclasses
import io
import pickle
import weakref
from collections import OrderedDict
from contextlib import contextmanager
from typing import NamedTuple

import pytest
import torch
import torch.distributed as dist
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.checkpoint import checkpoint

from lightning_interp.sites import (
    CaptureError,
    LayoutResolver,
    SiteRecorder,
    fit_mask,
    from_btd,
    infer_layout,
    resolve_sites,
    to_btd,
)
from lightning_interp.sites.names import _shortened

D = 4
LAYERS = ["encoder.layers.0", "encoder.layers.1", "encoder.layers.2"]


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.mlp = nn.Linear(D, D)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x):
        return self.act(self.mlp(x)) + x


class Encoder(nn.Module):
    def __init__(self, depth=3):
        super().__init__()
        self.embed = nn.Linear(D, D)
        self.layers = nn.ModuleList(Block() for _ in range(depth))

    def forward(self, x):
        x = self.embed(x)
        for layer in self.layers:
            x = layer(x)
        return x


class Model(nn.Module):
    def __init__(self, depth=3):
        super().__init__()
        self.encoder = Encoder(depth)
        self.decoder = Encoder(1)
        self.head = nn.Linear(D, 2)
        self.spare = nn.Linear(D, D)

    def forward(self, x):
        return self.head(self.decoder(self.encoder(x)))


class Wrapping(nn.Module):
    def __init__(self):
        super().__init__()
        self.model = Block()

    def forward(self, x):
        return self.model(x)


class Repeated(nn.Module):
    def __init__(self, times):
        super().__init__()
        self.block = Block()
        self.times = times

    def forward(self, x):
        for _ in range(self.times):
            x = self.block(x)
        return x


class Returning(nn.Module):
    """A model with one site, whose output is whatever `make` builds."""

    def __init__(self, make):
        super().__init__()
        self.site = nn.Module()
        self.site.forward = make

    def forward(self, x):
        return self.site(x)


class Counting:
    """A compiler backend that runs the graph as it is and counts graphs."""

    def __init__(self):
        self.graphs = []

    def __call__(self, graph, example_inputs):
        self.graphs.append(graph)
        return graph.forward


@pytest.fixture
def backend():
    torch._dynamo.reset()
    yield Counting()
    torch._dynamo.reset()


@pytest.fixture
def x():
    return torch.randn(3, D, generator=torch.Generator().manual_seed(0))


def record(model, sites, inputs, call="only"):
    recorder = SiteRecorder(model, sites, call)
    recorder.attach()
    with recorder.capturing():
        model(inputs)
    captured = recorder.take()
    recorder.detach()
    return captured


# --- names ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sites", "expected"),
    [
        ("encoder", {"encoder": "encoder"}),
        (["encoder", "decoder"], {"encoder": "encoder", "decoder": "decoder"}),
        ({"enc": "encoder.layers.1"}, {"enc": "encoder.layers.1"}),
        (
            ["encoder.layers.0.mlp", "decoder.layers.0.mlp", "head"],
            {"encoder": "encoder.layers.0.mlp", "decoder": "decoder.layers.0.mlp", "head": "head"},
        ),
        ("encoder.layers.*", {"0": "encoder.layers.0", "1": "encoder.layers.1", "2": "encoder.layers.2"}),
        ("encoder.*", {"embed": "encoder.embed"}),
        ("encoder.layers.[!0]", {"1": "encoder.layers.1", "2": "encoder.layers.2"}),
        ("encoder.layers.*.mlp", {"0": f"{LAYERS[0]}.mlp", "1": f"{LAYERS[1]}.mlp", "2": f"{LAYERS[2]}.mlp"}),
        (
            ["encoder.layers.[01].*", "head"],
            {f"{i}.{part}": f"{LAYERS[i]}.{part}" for i in (0, 1) for part in ("mlp", "act")} | {"head": "head"},
        ),
        # One of the names that would be left is another site's.
        (
            ["encoder.layers.2", "encoder.layers.*.mlp"],
            {"2": LAYERS[2]} | {f"{name}.mlp": f"{name}.mlp" for name in LAYERS},
        ),
        ("*.layers.?.mlp", {name: f"{name}.mlp" for name in (*LAYERS, "decoder.layers.0")}),
        ("?ecoder", {"decoder": "decoder"}),
        ("**.embed", {"encoder": "encoder.embed", "decoder": "decoder.embed"}),
        ("decoder.**.act", {"act": "decoder.layers.0.act"}),
        (
            "decoder.**",
            {
                "decoder": "decoder",
                "embed": "decoder.embed",
                "0": "decoder.layers.0",
                "mlp": "decoder.layers.0.mlp",
                "act": "decoder.layers.0.act",
            },
        ),
        ("", {"model": ""}),
        ({"all": ""}, {"all": ""}),
        ({"one": "enc*"}, {"one": "encoder"}),
    ],
)
def test_names(sites, expected):
    resolved = resolve_sites(Model(), sites)
    assert resolved == expected
    assert list(resolved) == list(expected)


def test_globs_follow_the_order_of_the_model():
    names = list(resolve_sites(Model(depth=12), "encoder.layers.*").values())
    assert names == [f"encoder.layers.{i}" for i in range(12)]


def test_a_scripted_module_is_no_site() -> None:
    model = nn.Sequential(nn.Linear(2, 2), torch.jit.script(nn.Sequential(nn.Linear(2, 2))))
    for name in ("1", "1.0"):
        with pytest.raises(ValueError, match=rf"sites='{name}' is a ScriptModule of torch.jit, to which nothing can"):
            resolve_sites(model, name)
    assert resolve_sites(model, "*") == {"0": "0"}


def test_a_shared_module_is_one_site_of_a_glob():
    model = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)})
    model["c"] = model["a"]
    assert resolve_sites(model, "*") == {"a": "a", "b": "b"}
    assert resolve_sites(model, "c") == {"c": "c"}


@pytest.mark.parametrize(
    ("sites", "parts"),
    [
        (
            "encodr",
            ["sites='encodr'", "of Model", "nearest: 'encoder'", "inside the model: 'encoder', 'decoder', 'hea"],
        ),
        ("encoder.layers.7", ["inside encoder.layers: 'encoder.layers.0', 'encoder.layers.1', 'encoder.layers.2'"]),
        ("encoder.attn*", ["matches no module", "inside encoder: 'encoder.embed', 'encoder.layers'"]),
        ("encoder.layers", ["ModuleList", "no forward", "'encoder.layers.0'"]),
        ({"layer": "encoder.layers.*"}, ["'layer'", "matches 3 modules", "'encoder.layers.0', 'encoder.layers.1'"]),
        (["encoder", "enc*"], ["'encoder' twice"]),
        ({"a": "head", "b": "head"}, ["'head' twice"]),
        ({"a/b": "head"}, ["'a/b'", "'/'"]),
        ({"": "head"}, ["''", "empty"]),
        ([], ["empty"]),
        ({}, ["empty"]),
    ],
)
def test_names_that_do_not_resolve(sites, parts):
    with pytest.raises(ValueError, match="sites=") as error:
        resolve_sites(Model(), sites)
    for part in parts:
        assert part in str(error.value)


def shortened_plainly(names):
    lasts = [name.rpartition(".")[2] for name in names]
    before = {name: last if lasts.count(last) == 1 else name for name, last in zip(names, lasts, strict=True)}
    long = {
        name: name.split(".") for name in names if before[name] == name and lasts.count(name.rpartition(".")[2]) > 1
    }
    for end in (0, -1):
        while len(long) > 1 and min(map(len, long.values())) > 1 and len({part[end] for part in long.values()}) == 1:
            for part in long.values():
                part.pop(end)
    after = before | {name: ".".join(part) for name, part in long.items()}
    return before, after if len(set(after.values())) == len(names) else before


@given(st.lists(st.lists(st.sampled_from("abc"), min_size=1, max_size=4).map(".".join), min_size=1, unique=True))
def test_short_names_leave_out_what_all_share_where_the_last_part_does_not_tell(names):
    before, after = shortened_plainly(names)
    assert _shortened(names) == after
    assert list(after) == names
    assert all(before[name] == name for name in names if after[name] != before[name])
    assert all(after.values())


def test_short_names_that_clash():
    with pytest.raises(ValueError, match="short name 'model' is taken"):
        resolve_sites(Wrapping(), ["", "model"])
    assert resolve_sites(Wrapping(), {"whole": "", "model": "model"}) == {"whole": "", "model": "model"}


@pytest.mark.parametrize("sites", [[3], {"a": ["head"]}, {3: "head"}])
def test_names_are_strings(sites):
    with pytest.raises(TypeError, match="not a string"):
        resolve_sites(Model(), sites)


@pytest.mark.parametrize("compiled", ["nothing", "encoder", "encoder in place", "model", "model and encoder"])
def test_names_with_and_without_what_compile_inserts(compiled, backend, x):
    model = Model()
    expected = record(model, {"site": "encoder.layers.1"}, x)["site"][0]
    if compiled == "encoder in place":
        model.encoder.compile(backend=backend)
    elif "encoder" in compiled:
        model.encoder = torch.compile(model.encoder, backend=backend)
    if "model" in compiled:
        model = torch.compile(model, backend=backend)
    assert resolve_sites(model, "encoder.layers.*") == {str(i): f"encoder.layers.{i}" for i in range(3)}
    for name in ("encoder.layers.1", "encoder._orig_mod.layers.1", "_orig_mod.encoder.layers.1"):
        assert resolve_sites(model, name) == {"1": "encoder.layers.1"}
    torch.testing.assert_close(record(model, {"site": name}, x)["site"][0], expected)


def test_checkpoint_wrappers_do_not_show_in_names(x):
    wrapper = pytest.importorskip("torch.distributed.algorithms._checkpoint.checkpoint_wrapper")
    model = Model()
    expected = record(model, {"site": "encoder.layers.1.mlp"}, x)["site"][0]
    model.encoder.layers[1] = wrapper.checkpoint_wrapper(model.encoder.layers[1])
    sites = resolve_sites(model, "encoder.layers.1.mlp")
    assert sites == {"mlp": "encoder.layers.1.mlp"}
    torch.testing.assert_close(record(model, sites, x)["mlp"][0], expected)


# --- recording -----------------------------------------------------------------------------------------------------


def test_captured_outputs_are_the_modules_outputs(x):
    model = Model()
    captured = record(model, {"embed": "encoder.embed", "out": "", "encoder": "encoder"}, x)
    assert list(captured) == ["embed", "out", "encoder"]
    assert torch.equal(captured["embed"][0], model.encoder.embed(x))
    assert torch.equal(captured["encoder"][0], model.encoder(x))
    assert torch.equal(captured["out"][0], model(x))
    assert not any(tensor.requires_grad for tensors in captured.values() for tensor in tensors)


def test_a_later_in_place_operation_does_not_reach_what_was_captured(x):
    model = Model()
    captured = record(model, {"mlp": "encoder.layers.0.mlp"}, x)["mlp"][0]
    expected = model.encoder.layers[0].mlp(model.encoder.embed(x))
    assert (expected < 0).any()
    assert torch.equal(captured, expected)


def test_nothing_is_captured_while_idle(x):
    model = Model()
    recorder = SiteRecorder(model, {"encoder": "encoder"})
    recorder.attach()
    model(x)
    with recorder.capturing():
        model(x)
    model(x)
    assert torch.equal(recorder.take()["encoder"][0], model.encoder(x))
    with pytest.raises(CaptureError, match="never ran"):
        recorder.take()


def test_start_drops_what_was_left(x):
    model = Model()
    recorder = SiteRecorder(model, {"encoder": "encoder"})
    recorder.attach()
    with recorder.capturing():
        model(x)
    with recorder.capturing():
        model(2 * x)
    assert torch.equal(recorder.take()["encoder"][0], model.encoder(2 * x))


def test_capturing_stops_when_the_forward_fails(x):
    model = Model()
    recorder = SiteRecorder(model, {"encoder": "encoder"})
    recorder.attach()
    with pytest.raises(RuntimeError, match="shape"), recorder.capturing():
        model(x[:, :2])
    model(x)
    with pytest.raises(CaptureError, match="never ran"):
        recorder.take()


def test_attach_and_detach_twice_and_leave_nothing(x):
    model = Model()
    before = {name: len(module._forward_hooks) for name, module in model.named_modules()}
    keys = list(model.state_dict())
    recorder = SiteRecorder(model, {"encoder": "encoder", "head": "head"})
    with pytest.raises(CaptureError, match="attach"):
        recorder.start()
    for _ in range(2):
        recorder.attach()
    assert recorder.attached
    assert len(model.encoder._forward_hooks) == 1
    assert list(model.state_dict()) == keys
    for _ in range(2):
        recorder.detach()
    assert not recorder.attached
    assert {name: len(module._forward_hooks) for name, module in model.named_modules()} == before
    recorder.attach()
    with recorder.capturing():
        model(x)
    assert set(recorder.take()) == {"encoder", "head"}


def test_two_recorders_on_one_site_do_not_mix(x):
    model = Model()
    first, second = (SiteRecorder(model, {"encoder": "encoder"}) for _ in range(2))
    first.attach()
    second.attach()
    with first.capturing():
        model(x)
    assert len(first.take()["encoder"]) == 1
    with pytest.raises(CaptureError, match="never ran"):
        second.take()


def test_call_rules(x):
    model = Repeated(3)
    outputs = []
    handle = model.block.register_forward_hook(lambda module, args, output: outputs.append(output.detach().clone()))
    model(x)
    handle.remove()
    captured = record(model, {"block": "block"}, x, call="all")["block"]
    assert len(captured) == 3
    assert all(torch.equal(a, b) for a, b in zip(captured, outputs, strict=True))
    last = record(model, {"block": "block"}, x, call="last")["block"]
    assert len(last) == 1
    assert torch.equal(last[0], outputs[-1])
    with pytest.raises(CaptureError, match=r"'block' .* ran 3 times .* call='last' or call='all'"):
        record(model, {"block": "block"}, x)


@pytest.mark.parametrize(("call", "kept"), [("only", 1), ("last", 1), ("all", 50)])
def test_memory_while_capturing(call, kept, x):
    model = Repeated(50)
    recorder = SiteRecorder(model, {"block": "block"}, call)
    recorder.attach()
    alive = weakref.WeakSet()
    clone = torch.Tensor.clone

    def counted(tensor):
        copied = clone(tensor)
        alive.add(copied)
        return copied

    with pytest.MonkeyPatch.context() as patch, recorder.capturing():
        patch.setattr(torch.Tensor, "clone", counted)
        model(x)
    assert len(alive) == kept
    recorder.detach()
    assert len(alive) == 0


def test_a_site_that_never_ran_is_named_with_those_that_did(x):
    with pytest.raises(CaptureError) as error:
        record(Model(), {"unused": "spare", "encoder": "encoder", "head": "head"}, x)
    message = str(error.value)
    assert "never ran while capturing: 'unused'; sites that did: 'encoder', 'head'" in message
    for reason in ("another method", "fused path", "torch.compile"):
        assert reason in message


def test_parts_of_attention_that_are_never_called():
    model = nn.MultiheadAttention(D, 2, batch_first=True)
    recorder = SiteRecorder(model, {"out": "out_proj"})
    recorder.attach()
    with recorder.capturing():
        model(*[torch.randn(2, 5, D)] * 3)
    with pytest.raises(CaptureError, match=r"'out'.*out_proj in nn\.MultiheadAttention"):
        recorder.take()


def test_arguments_are_checked():
    with pytest.raises(ValueError, match=r"call='second' is unknown; use one of 'only', 'first', 'last', 'all'"):
        SiteRecorder(Model(), {"encoder": "encoder"}, "second")
    with pytest.raises(ValueError, match=r"`output` names sites \['decoder'\], which are not among \['encoder'\]"):
        SiteRecorder(Model(), {"encoder": "encoder"}, output={"decoder": 0})
    with pytest.raises(ValueError, match=r"'encodr' matches no module"):
        SiteRecorder(Model(), {"encoder": "encodr"})
    with pytest.raises(ValueError, match="empty"):
        SiteRecorder(Model(), {})


INTEGERS = torch.arange(3)


@dataclasses.dataclass(frozen=True)
class Pair:
    one: object
    two: object


class Named(NamedTuple):
    one: object
    two: object


@pytest.mark.parametrize(
    "make",
    [
        lambda x: (x, INTEGERS),
        lambda x: [INTEGERS, x, x.sum()],
        lambda x: (None, x),
        lambda x: (INTEGERS, {"deep": [x, None]}),
        lambda x: Pair(x, INTEGERS),
        lambda x: Named(INTEGERS, x),
        lambda x: {"ids": INTEGERS, "logits": x},
        lambda x: {"logits": x + 1, "last_hidden_state": x},
        lambda x: OrderedDict(last_hidden_state=None, other=x),
        lambda x: nn.LSTM(D, D)(x)[0] * 0 + x,
        lambda x: x.double(),
        lambda x: x.bfloat16(),
    ],
)
def test_the_tensor_in_an_output(make, x):
    captured = record(Returning(make), {"site": "site"}, x)["site"][0]
    assert captured.is_floating_point()
    torch.testing.assert_close(captured.float(), x, atol=0.01, rtol=0.01)


@pytest.mark.parametrize(
    ("make", "holds"),
    [
        (lambda x: INTEGERS, "int64 (3,)"),
        (lambda x: (INTEGERS, None), "tuple([0] int64 (3,), [1] NoneType)"),
        (lambda x: {"ids": INTEGERS, "n": 3}, "dict(['ids'] int64 (3,), ['n'] int)"),
        (lambda x: (x.sum(), INTEGERS), "tuple([0] float32 (), [1] int64 (3,))"),
        (lambda x: None, "NoneType"),
        (lambda x: slice(3), "slice"),
    ],
)
@pytest.mark.parametrize("call", ["only", "last", "all"])
def test_an_output_without_a_floating_tensor(make, holds, call, x):
    with pytest.raises(TypeError) as error:
        record(Returning(make), {"name": "site"}, x, call)
    assert f"site 'name' ('site') returned {holds}: no floating-point tensor" in str(error.value)


def test_checkpointed_recomputation_is_not_captured(x):
    calls = []

    class Checkpointed(Wrapping):
        def forward(self, x):
            calls.append(torch.is_grad_enabled())
            return checkpoint(self.model, x, use_reentrant=False)

    model = Checkpointed()
    ran = []
    model.model.mlp.register_forward_hook(lambda *_: ran.append(1))
    recorder = SiteRecorder(model, {"mlp": "model.mlp"})
    recorder.attach()
    with recorder.capturing():
        loss = model(x).sum()
    loss.backward()
    assert len(ran) == 2
    assert len(recorder.take()["mlp"]) == 1
    with recorder.capturing():
        model(x).sum().backward()
    with pytest.raises(CaptureError, match="ran 2 times"):
        recorder.take()


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model)), None])
def test_a_model_with_hooks_can_be_copied_and_its_copy_is_inert(copied, x):
    def saved(model):
        file = io.BytesIO()
        torch.save(model, file)
        file.seek(0)
        return torch.load(file, weights_only=False)

    model = Model()
    recorder = SiteRecorder(model, {"encoder": "encoder"})
    recorder.attach()
    recorder.start()
    model(x)
    twin = (copied or saved)(model)
    copied_output = twin(2 * x)
    recorder.stop()
    assert torch.equal(copied_output, model(2 * x))
    (tap,) = twin.encoder._forward_hooks.values()
    assert tap.slots == ()
    assert torch.equal(recorder.take()["encoder"][0], model.encoder(x))


def test_a_copied_recorder_reads_the_copied_model(x):
    recorder = SiteRecorder(Model(), {"encoder": "encoder"})
    recorder.attach()
    twin = copy.deepcopy(recorder)
    assert not twin.attached
    twin.attach()
    with twin.capturing():
        recorder.model(x)
        twin.model(2 * x)
    assert torch.equal(twin.take()["encoder"][0], twin.model.encoder(2 * x))


@contextmanager
def one_process_group():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        yield dist.device_mesh.init_device_mesh("cpu", (1,))
    finally:
        dist.destroy_process_group()


@pytest.mark.skipif(not dist.is_available(), reason="torch without distributed")
def test_sharded_outputs_are_refused_and_replicated_ones_read(x):
    tensors = pytest.importorskip("torch.distributed.tensor")
    with one_process_group() as mesh:

        def output(placement):
            return Returning(lambda x: tensors.DTensor.from_local(x, mesh, [placement]))

        captured = record(output(tensors.Replicate()), {"site": "site"}, x)["site"][0]
        assert type(captured) is torch.Tensor
        assert torch.equal(captured, x)
        for placement in (tensors.Shard(0), tensors.Partial()):
            with pytest.raises(CaptureError, match=r"'site' .* DTensor with placements .*replicated"):
                record(output(placement), {"site": "site"}, x)


# --- compiled ------------------------------------------------------------------------------------------------------

COMPILED = ["model", "encoder in place", "layers", "layers in place"]
ALL_COMPILED = [*COMPILED, "model in place", "encoder", "function"]
ALSO_SLOW = [*COMPILED, *(pytest.param(how, marks=pytest.mark.slow) for how in ALL_COMPILED if how not in COMPILED)]


def compile_model(model, how, **options):
    """Compile a part of the model and return what to call."""
    if how == "model":
        return torch.compile(model, **options)
    if how == "function":
        return torch.compile(lambda inputs: model(inputs), **options)
    if how == "model in place":
        model.compile(**options)
    elif how == "encoder":
        model.encoder = torch.compile(model.encoder, **options)
    elif how == "encoder in place":
        model.encoder.compile(**options)
    else:
        for i, layer in enumerate(model.encoder.layers):
            if how == "layers":
                model.encoder.layers[i] = torch.compile(layer, **options)
            else:
                layer.compile(**options)
    return model


def switch_on_and_off(recorder, forward, backend, inputs):
    """Numbers of graphs after each forward, and the captured values of the last."""
    graphs = []
    captured = None
    for on in (False, False, True, True, False, True, False, True):
        if on:
            recorder.start()
        with torch.no_grad():
            forward(inputs)
        recorder.stop()
        captured = recorder.take() if on else captured
        graphs.append(len(backend.graphs))
    return graphs, captured


@pytest.mark.parametrize("how", ALSO_SLOW)
@pytest.mark.parametrize(
    "sites",
    [
        {"encoder": "encoder", "layer": "encoder.layers.1"},
        {"mlp": "encoder.layers.1.mlp"},
        {"first": "encoder.layers.0.mlp", "last": "encoder.layers.2.mlp", "all": ""},
    ],
    ids=lambda sites: "+".join(sites.values()),
)
def test_compiled_models_capture_what_eager_ones_do(how, sites, backend, x):
    model = Model()
    expected = record(model, sites, x)
    before = dict(torch._dynamo.utils.counters["graph_break"])
    forward = compile_model(model, how, backend=backend, fullgraph=True)
    recorder = SiteRecorder(model, sites)
    recorder.attach()
    graphs, captured = switch_on_and_off(recorder, forward, backend, x)
    for short, (tensor,) in captured.items():
        torch.testing.assert_close(tensor, expected[short][0])
    assert graphs[0] == graphs[1]
    assert graphs[2] - graphs[0] <= 1, "switching on costs one graph at most"
    assert graphs[2:] == [graphs[2]] * 6, "and none after"
    assert dict(torch._dynamo.utils.counters["graph_break"]) == before


@pytest.mark.parametrize("how", ["model", "layers"])
def test_idle_hooks_add_nothing_to_a_compiled_graph(how, x, backend):
    def code(attach):
        torch._dynamo.reset()
        counting = Counting()
        model = Model()
        forward = compile_model(model, how, backend=counting, fullgraph=True)
        if attach:
            SiteRecorder(model, {"layer": "encoder.layers.1", "mlp": "encoder.layers.1.mlp", "head": "head"}).attach()
        forward(x)
        return [
            [str(node.target) for node in graph.graph.nodes if node.op not in ("placeholder", "output")]
            + [len(node.all_input_nodes) for node in graph.graph.nodes if node.op == "output"]
            for graph in counting.graphs
        ]

    assert code(attach=True) == code(attach=False) != []


@pytest.mark.parametrize(("how", "site"), [("block", "block"), ("block", "block.mlp"), ("model", "block.mlp")])
def test_a_module_that_runs_often_costs_no_more_graphs(how, site, backend, x):
    times = torch._dynamo.config.cache_size_limit + 2
    model = Repeated(times)
    expected = record(model, {"site": site}, x, call="all")["site"]
    (model.block if how == "block" else model).compile(backend=backend, fullgraph=True)
    for call, values in (("all", expected), ("last", expected[-1:])):
        recorder = SiteRecorder(model, {"site": site}, call)
        recorder.attach()
        before = len(backend.graphs)
        graphs, captured = switch_on_and_off(recorder, model, backend, x)
        assert graphs[-1] - before <= 2
        torch.testing.assert_close(captured["site"], values)
        recorder.detach()
        torch._dynamo.reset()
    recorder = SiteRecorder(model, {"site": site})
    recorder.attach()
    with recorder.capturing():
        model(x)
    with pytest.raises(CaptureError, match=f"ran {times} times"):
        recorder.take()


def test_many_separately_compiled_modules_do_not_exhaust_recompilation(backend, x):
    def stage(i):
        namespace = {}
        exec(
            f"class Stage(nn.Linear):\n    def forward(self, x): return super().forward(x) * {i + 1}",
            {"nn": nn},
            namespace,
        )
        return namespace["Stage"](D + i, D + i + 1)

    count = torch._dynamo.config.cache_size_limit + 3
    model = nn.Sequential(*[stage(i) for i in range(count)])
    expected = record(model, resolve_sites(model, "*"), x)
    for module in model:
        module.compile(backend=backend, fullgraph=True)
    recorder = SiteRecorder(model, resolve_sites(model, "*"))
    recorder.attach()
    graphs, captured = switch_on_and_off(recorder, model, backend, x)
    assert set(graphs) == {count}
    torch.testing.assert_close(captured, expected)


def test_two_recorders_on_separately_compiled_twins(backend, x):
    model = Model()
    expected = record(model, {"one": "encoder.layers.1.mlp", "two": "encoder.layers.2.act"}, x)
    compile_model(model, "layers in place", backend=backend, fullgraph=True)
    one = SiteRecorder(model, {"one": "encoder.layers.1.mlp"})
    two = SiteRecorder(model, {"two": "encoder.layers.2.act"})
    one.attach()
    two.attach()
    for _ in range(2):
        model(x)
        with one.capturing(), two.capturing():
            model(x)
        torch.testing.assert_close({**one.take(), **two.take()}, expected)


def test_a_compiled_part_of_a_compiled_model(backend, x):
    model = Model()
    sites = {"encoder": "encoder", "layer": "encoder.layers.1"}
    expected = record(model, sites, x)
    model.encoder = torch.compile(model.encoder, backend=backend)
    forward = torch.compile(model, backend=backend, fullgraph=True)
    recorder = SiteRecorder(model, sites)
    recorder.attach()
    graphs, captured = switch_on_and_off(recorder, forward, backend, x)
    torch.testing.assert_close(captured, expected)
    assert graphs[-1] == 2


def test_hooks_that_come_after_the_first_compiled_call(backend, x):
    model = Model()
    model.compile(backend=backend)
    model(x)
    recorder = SiteRecorder(model, {"encoder": "encoder"})
    recorder.attach()
    with recorder.capturing():
        model(x)
    with pytest.raises(CaptureError, match=r"after torch\.compile had compiled it .call torch\.compiler\.reset"):
        recorder.take()
    torch.compiler.reset()
    with recorder.capturing():
        model(x)
    torch.testing.assert_close(recorder.take()["encoder"][0], model.encoder(x))


def test_a_compiled_model_runs_on_after_detach(backend, x):
    model = Model()
    model.compile(backend=backend, fullgraph=True)
    recorder = SiteRecorder(model, {"encoder": "encoder"})
    recorder.attach()
    with recorder.capturing():
        output = model(x)
    recorder.take()
    recorder.detach()
    torch.testing.assert_close(model(x), output)
    assert not model.encoder._forward_hooks


def test_training_under_compile_with_capture_on(backend, x):
    model = Model()
    model(x).sum().backward()
    expected = [parameter.grad for parameter in model.encoder.parameters()]
    model.zero_grad()
    model.compile(backend="aot_eager", fullgraph=True)
    recorder = SiteRecorder(model, {"mlp": "encoder.layers.0.mlp"})
    recorder.attach()
    with recorder.capturing():
        model(x).sum().backward()
    torch.testing.assert_close([parameter.grad for parameter in model.encoder.parameters()], expected)
    (captured,) = recorder.take()["mlp"]
    assert not captured.requires_grad
    torch.testing.assert_close(captured, model.encoder.layers[0].mlp(model.encoder.embed(x)))


@pytest.mark.slow
@pytest.mark.parametrize("how", ALL_COMPILED)
def test_inductor_captures_what_eager_does(how, x):
    torch._dynamo.reset()
    model = Model()
    sites = {"mlp": "encoder.layers.1.mlp", "encoder": "encoder", "out": ""}
    expected = record(model, sites, x)
    forward = compile_model(model, how)
    recorder = SiteRecorder(model, sites)
    recorder.attach()
    for _ in range(2):
        with torch.no_grad():
            forward(x)
            with recorder.capturing():
                forward(x).zero_()
        torch.testing.assert_close(recorder.take(), expected)
    torch._dynamo.reset()


@pytest.mark.slow
@pytest.mark.parametrize("compiled", [False, True])
def test_outputs_of_transformers(compiled, backend):
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32
    )
    model = transformers.BertModel(config).eval()
    ids = torch.arange(14).reshape(2, 7)
    with torch.no_grad():
        expected = model(ids, output_hidden_states=True)
    if compiled:
        model.compile(backend=backend, fullgraph=True)
    sites = resolve_sites(model, ["", "encoder", "encoder.layer.*"])
    recorder = SiteRecorder(model, sites)
    recorder.attach()
    with torch.no_grad(), recorder.capturing():
        model(ids)
    captured = recorder.take()
    assert list(captured) == ["model", "encoder", "0", "1"]
    torch.testing.assert_close(captured["model"][0], expected.last_hidden_state)
    torch.testing.assert_close(captured["encoder"][0], expected.last_hidden_state)
    torch.testing.assert_close(captured["0"][0], expected.hidden_states[1])
    torch.testing.assert_close(captured["1"][0], expected.hidden_states[2])


# --- layouts -------------------------------------------------------------------------------------------------------

sizes = st.integers(1, 6)


@given(batch=sizes, length=sizes, dim=sizes)
def test_layouts_with_positions(batch, length, dim):
    z = torch.randn(batch, length, dim)
    assert torch.equal(to_btd(z, "BTD", batch, length), z)
    assert torch.equal(to_btd(z.transpose(0, 1), "TBD", batch, length), z)
    for layout, output in (("BTD", z), ("TBD", z.transpose(0, 1))):
        if batch == length:
            with pytest.raises(ValueError, match=r"layout='BTD'.* or layout='TBD'") as error:
                infer_layout(output, batch, "encoder")
            assert str((batch, length, dim)) in str(error.value)
            assert "'encoder'" in str(error.value)
        else:
            assert infer_layout(output, batch) == layout
            assert torch.equal(to_btd(output, None, batch), z)
            resolver = LayoutResolver()
            assert torch.equal(resolver("site", output, batch)[0], z)
            assert resolver.layouts == {"site": layout}


@given(batch=sizes, dim=sizes, height=sizes, width=sizes)
def test_layouts_without_positions(batch, dim, height, width):
    z = torch.randn(batch, dim)
    assert torch.equal(to_btd(z, None, batch), z[:, None])
    image = torch.randn(batch, dim, height, width)
    for layout, output in (("BCHW", image), ("BHWC", image.movedim(1, -1))):
        flat = to_btd(output, layout, batch)
        assert flat.shape == (batch, height * width, dim)
        for h in range(height):
            for w in range(width):
                assert torch.equal(flat[:, h * width + w], image[:, :, h, w])
        assert torch.equal(from_btd(flat, layout, output.shape), output)
    with pytest.raises(ValueError, match=r"cannot be told: say layout='BCHW' .* or layout='BHWC'"):
        infer_layout(image, batch)


@given(batch=sizes, dim=sizes, lengths=st.lists(sizes, min_size=1, max_size=3))
def test_channels_second_and_last_give_the_same_rows(batch, dim, lengths):
    last = torch.randn(batch, *lengths, dim)
    names = {1: ("BTD", "BCT"), 2: ("BHWC", "BCHW"), 3: ("BDHWC", "BCDHW")}[len(lengths)]
    rows = last.reshape(batch, -1, dim)
    for layout, output in zip(names, (last, last.movedim(-1, 1)), strict=True):
        assert torch.equal(to_btd(output, layout, batch), rows)
        assert torch.equal(from_btd(rows, layout, output.shape), output)


@given(shape=st.lists(st.integers(1, 5), min_size=1, max_size=5), batch=st.integers(1, 5))
def test_an_output_is_refused_or_keeps_its_examples(shape, batch):
    z = torch.randn(shape)
    axes = {2: [0], 3: [0, 1]}.get(len(shape), [])
    if [shape[axis] for axis in axes].count(batch) != 1:
        with pytest.raises(ValueError, match="site 'here'") as error:
            to_btd(z, None, batch, site="here")
        assert str(tuple(shape)) in str(error.value)
    else:
        representations = to_btd(z, None, batch, site="here")
        assert representations.shape[0] == batch
        for i in range(batch):
            values = z.select(shape.index(batch), i).flatten()
            assert representations[i].flatten().sort().values.tolist() == values.sort().values.tolist()


@pytest.mark.parametrize(
    ("shape", "layout"),
    [
        ((4, 9, 16), "TBD"),
        ((9, 4, 16), "BTD"),
        ((4, 16), "BTD"),
        ((4, 9, 16), "BD"),
        ((4, 9, 16), "BCHW"),
        ((9, 16), "BD"),
    ],
)
def test_an_output_that_does_not_fit_its_layout(shape, layout):
    with pytest.raises(ValueError, match="does not fit layout=") as error:
        to_btd(torch.zeros(shape), layout, 4, site="encoder")
    for part in (str(shape), f"layout={layout!r}", "'encoder'", "batch of 4"):
        assert part in str(error.value)


def test_masks_of_another_shape_give_both():
    message = r"mask \(4, 7\) does not fit representations \(4, 9, 16\) of site 'encoder'"
    with pytest.raises(ValueError, match=message):
        to_btd(torch.zeros(4, 9, 16), "BTD", 4, length=7, site="encoder")
    with pytest.raises(ValueError, match=message):
        fit_mask(torch.ones(4, 7), torch.zeros(4, 9, 16), site="encoder")
    with pytest.raises(ValueError, match=message):
        LayoutResolver()("encoder", torch.zeros(9, 4, 16), 4, torch.ones(4, 7))


@given(batch=sizes, length=sizes, data=st.data())
def test_masks(batch, length, data):
    rows = data.draw(
        st.lists(st.lists(st.booleans(), min_size=length, max_size=length), min_size=batch, max_size=batch)
    )
    mask = torch.tensor(rows)
    z = torch.zeros(batch, length, 3)
    for dtype in (torch.bool, torch.int64, torch.float32):
        fitted = fit_mask(mask.to(dtype), z)
        assert fitted.dtype == torch.bool
        assert torch.equal(fitted, mask)
    assert fit_mask(None, z).all()
    pooled = fit_mask(mask, torch.zeros(batch, 1, 3), "BD")
    assert pooled.shape == (batch, 1)
    assert pooled[:, 0].tolist() == [any(row) for row in rows]


def test_masks_of_images():
    mask = torch.rand(2, 3, 4) > 0.5
    representations, fitted = LayoutResolver("BCHW")("cnn", torch.randn(2, 5, 3, 4), 2, mask)
    assert representations.shape == (2, 12, 5)
    assert torch.equal(fitted, mask.reshape(2, 12))
    with pytest.raises(ValueError, match=r"mask \(2, 4, 4\) does not fit representations \(2, 12, 5\)"):
        LayoutResolver("BCHW")("cnn", torch.randn(2, 5, 3, 4), 2, torch.ones(2, 4, 4))


@settings(max_examples=30)
@given(batches=st.lists(st.tuples(sizes, sizes), min_size=1, max_size=5), layout=st.sampled_from(["BTD", "TBD"]))
def test_the_first_unambiguous_batch_fixes_the_layout(batches, layout):
    assume(batches[0][0] != batches[0][1])
    resolver = LayoutResolver()
    for batch, length in batches:
        z = torch.randn(batch, length, 3)
        output = z.transpose(0, 1) if layout == "TBD" else z
        representations, mask = resolver("encoder", output, batch, torch.ones(batch, length))
        assert torch.equal(representations, z)
        assert mask.all()


def test_a_first_batch_that_is_ambiguous_fixes_nothing():
    resolver = LayoutResolver()
    with pytest.raises(ValueError, match="4 positions and 4 examples"):
        resolver("encoder", torch.zeros(4, 4, 16), 4)
    assert resolver.layouts == {}
    assert LayoutResolver("TBD")("encoder", torch.zeros(4, 4, 16), 4)[0].shape == (4, 4, 16)


def test_an_output_that_breaks_with_the_layout_fixed_before():
    resolver = LayoutResolver()
    resolver("encoder", torch.zeros(9, 4, 16), 4)
    resolver("decoder", torch.zeros(4, 9, 16), 4)
    with pytest.raises(ValueError, match=r"\(4, 9, 16\) of site 'encoder' .* fixed by an earlier output \(9, 4, 16\)"):
        resolver("encoder", torch.zeros(4, 9, 16), 4)
    assert resolver.layouts == {"encoder": "TBD", "decoder": "BTD"}


def test_layouts_by_site_and_unknown_ones():
    resolver = LayoutResolver({"encoder": "TBD"})
    z = torch.randn(4, 4, 2)
    assert torch.equal(resolver("encoder", z, 4)[0], z.transpose(0, 1))
    assert resolver("cnn", torch.zeros(4, 3, 2), 4)[0].shape == (4, 3, 2)
    for layout in ("BWHC", {"encoder": "BWHC"}):
        with pytest.raises(ValueError, match=r"layout='BWHC' is unknown; use one of 'BTD'"):
            LayoutResolver(layout)
    with pytest.raises(ValueError, match=r"`layout` names sites \['decoder'\], which are not among \['encoder'\]"):
        LayoutResolver({"decoder": "BTD"}, names={"encoder": "encoder"})


@pytest.mark.filterwarnings("ignore:.*nested tensors.*")
def test_nested_outputs_of_the_transformer_encoder():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model = nn.TransformerEncoder(layer, 2).eval()
    z = torch.randn(3, 6, 8)
    padding = torch.zeros(3, 6, dtype=torch.bool)
    padding[0, 4:] = padding[1, 2:] = padding[2, 5:] = True
    recorder = SiteRecorder(model, resolve_sites(model, ["layers.*"]))
    recorder.attach()
    with torch.no_grad(), recorder.capturing():
        output = model(z, src_key_padding_mask=padding)
    captured = recorder.take()["1"][0]
    assert captured.is_nested
    representations, mask = LayoutResolver()("1", captured, 3, ~padding)
    assert torch.equal(representations, output)
    assert torch.equal(mask, ~padding)
    assert to_btd(captured, None, 3).shape == (3, 5, 8)
    with pytest.raises(ValueError, match="longest example has 5 positions"):
        to_btd(captured, "BTD", 3, length=4)
    with pytest.raises(ValueError, match="does not fit layout='TBD'"):
        to_btd(captured, "TBD", 3)
