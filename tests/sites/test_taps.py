"""What several readers of one model share: the flag they look at, the hook of a module, the copy of what it returns."""

from __future__ import annotations

import gc
import itertools
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from toy import Tagger, loader, trainer

from lightning_interp import (
    LayerProbe,
    RepresentationDrift,
    RepresentationGeometry,
    RepresentationStructure,
    ValidationAnalysis,
)
from lightning_interp.sites import BatchNoise, CaptureError, SiteNoise, SiteRecorder, taps
from lightning_interp.sites.taps import SWITCH, lasting

D = 4
LAYERS = 4


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mlp = nn.Linear(D, D)

    def forward(self, x: Tensor) -> Tensor:
        return self.mlp(x).relu() + x


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


class Several(nn.Module):
    """Returns more than one tensor."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x + 1, x + 2


class Around(nn.Module):
    """A module of one's own around another one: torch compiles none of its own at the root."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Any:
        return self.inner(x)


class Backend:
    """Runs graphs as they are, counts them, and watches what they return."""

    def __init__(self) -> None:
        self.graphs: list[torch.fx.GraphModule] = []
        self.returned: list[weakref.ref[Tensor]] = []

    def __call__(self, graph: torch.fx.GraphModule, example_inputs: list[Any]) -> Callable[..., Any]:
        self.graphs.append(graph)

        def run(*args: Any) -> Any:
            outputs = graph.forward(*args)
            self.returned += [weakref.ref(one) for one in outputs if isinstance(one, Tensor)]
            return outputs

        return run

    def alive(self) -> int:
        gc.collect()
        return sum(one() is not None for one in self.returned)


@pytest.fixture
def backend() -> Iterator[Backend]:
    torch._dynamo.reset()
    assert torch._dynamo.config.recompile_limit == 8
    yield Backend()
    torch._dynamo.reset()


@pytest.fixture(autouse=True)
def switched_off() -> Iterator[None]:
    yield
    assert (SWITCH.on, SWITCH.captures, SWITCH.wrote) == (False, 0, None)


@pytest.fixture
def x() -> Tensor:
    return torch.randn(3, D, generator=torch.Generator().manual_seed(0))


def attached(model: nn.Module, *sites: str, **kwargs: Any) -> SiteRecorder:
    recorder = SiteRecorder(model, {site or "model": site for site in sites}, **kwargs)
    recorder.attach()
    return recorder


def taken(recorder: SiteRecorder) -> Tensor:
    ((output,),) = recorder.take().values()
    return output


def outputs(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """What every module returns, recorded one by one in a model that nobody else reads."""
    found = {}
    for name, _ in model.named_modules():
        if not isinstance(model.get_submodule(name), nn.ModuleList):
            recorder = attached(model, name)
            with recorder.capturing():
                model(x)
            found[name] = taken(recorder)
            recorder.detach()
    return found


# ------------------------------------------------- graphs


def together(number: int, round: int) -> list[int]:
    return list(range(number)) if round % 2 else []


def in_turns(number: int, round: int) -> list[int]:
    return [round % number] if round < 2 * number else []


def at_rhythms_of_their_own(number: int, round: int) -> list[int]:
    return [one for one in range(number) if round % (one + 1) == 0]


@pytest.mark.parametrize("rhythm", [together, in_turns, at_rhythms_of_their_own])
@pytest.mark.parametrize("number", [1, 2, 5, 10])
@pytest.mark.parametrize("same", [True, False], ids=["same site", "different sites"])
@pytest.mark.parametrize("how", ["model", "layers"])
def test_graphs_do_not_multiply_with_readers(
    how: str, same: bool, number: int, rhythm: Callable[[int, int], list[int]], backend: Backend, x: Tensor
) -> None:
    model = Model()
    expected = outputs(model, x)
    names = ["layers.1" if same else f"layers.{one % LAYERS}" for one in range(number)]
    for module in [model] if how == "model" else model.layers:
        module.compile(backend=backend, fullgraph=True)
    recorders = [attached(model, name) for name in names]
    torch._dynamo.utils.counters.clear()
    read = [0] * number
    for round in range(24):
        reading = rhythm(number, round)
        for one in reading:
            recorders[one].start()
        # A step of training: graphs with gradients and with capturing are among what is counted.
        output = model(x)
        output.sum().backward()
        assert torch.equal(output, expected[""])
        for one in reading:
            recorders[one].stop()
            assert torch.equal(taken(recorders[one]), expected[names[one]])
            read[one] += 1
    assert min(read) >= 2
    # Layers of one class share their code, and here all of them their graphs.
    assert len(backend.graphs) == torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 2
    assert not torch._dynamo.utils.counters["graph_break"]


def test_readers_who_choose_differently_share_the_graph(backend: Backend, x: Tensor) -> None:
    model = Around(Several())
    choices: list[dict[str, Any]] = [
        {"output": 0},
        {"output": 1},
        {"output": 1, "call": "all"},
        {"output": -2, "call": "first"},
        {"whole": ["inner"]},
        {"output": lambda output: output[1] * 2},
    ]
    model.compile(backend=backend, fullgraph=True)
    recorders = [attached(model, "inner", **choice) for choice in choices]
    for round in range(20):
        # Every set of readers that there is, in the end.
        reading = [recorder for place, recorder in enumerate(recorders) if (3 * round) >> place & 1]
        for recorder in reading:
            recorder.start()
        model(x)
        for recorder in reading:
            recorder.stop()
        found = [taken(recorder) if recorder in reading else None for recorder in recorders]
        wanted = [x + 1, x + 2, x + 2, x + 1, (x + 1, x + 2), (x + 2) * 2]
        for got, right in zip(found, wanted, strict=True):
            if got is not None:
                torch.testing.assert_close(got, right)
    assert len(backend.graphs) == 2
    copies = [node for node in backend.graphs[-1].graph.nodes if node.target == "clone"]
    assert len(copies) == 2, "one of each tensor"


@pytest.mark.parametrize("choice", [{"output": 0}, {"whole": [""]}, {"output": lambda output: output[0]}])
def test_what_is_copied_outside_of_graphs_is_not_compiled(choice: dict[str, Any], backend: Backend) -> None:
    model = Several()
    model.compile(backend=backend, fullgraph=True, dynamic=True)
    recorders = [SiteRecorder(model, {"": ""}, **choice) for _ in range(3)]
    for recorder in recorders:
        recorder.attach()
    for rows in range(2, 14):
        recorder = recorders[rows % 3]
        with recorder.capturing():
            one, two = model(torch.ones(rows, D))
        found = taken(recorder)
        torch.testing.assert_close(found, (one, two) if "whole" in choice else one)
    assert len(backend.graphs) <= 2


def test_a_reader_that_comes_late_is_served_by_the_graph_of_the_others(backend: Backend, x: Tensor) -> None:
    model = Model()
    expected = outputs(model, x)["layers.1"]
    model.compile(backend=backend, fullgraph=True)
    first = attached(model, "layers.1")
    with first.capturing():
        model(x)
    late = attached(model, "layers.1")
    with late.capturing():
        model(x)
    assert torch.equal(taken(late), expected)
    first.detach()
    with late.capturing():
        model(x)
    assert torch.equal(taken(late), expected)
    assert len(backend.graphs) == 1


def test_shapes_that_change_cost_no_more_graphs_with_more_readers(backend: Backend) -> None:
    model = Model()
    model.compile(backend=backend, fullgraph=True, dynamic=False)
    recorders = [attached(model, "layers.1"), attached(model, "layers.2"), attached(model, "")]
    for _ in range(2):
        for rows, recorder in itertools.product((2, 3), (None, *recorders)):
            if recorder is not None:
                recorder.start()
            model(torch.ones(rows, D))
            if recorder is not None:
                recorder.stop()
                assert taken(recorder).shape == (rows, D)
    assert len(backend.graphs) == 4


class Chain(nn.Module):
    """Calls one module after the other without a loop, so that a graph that breaks goes on after it."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.three = Layer(), Layer(), Layer()

    def forward(self, x: Tensor) -> Tensor:
        return self.three(self.two(self.one(x)))


def test_noise_breaks_graphs_no_oftener_for_more_readers(backend: Backend, x: Tensor) -> None:
    graphs = []
    for number in (1, 2, 5):
        torch._dynamo.reset()
        backend.graphs.clear()
        model = Chain()
        model.compile(backend=backend)
        readers = []
        for _ in range(number):
            noise = SiteNoise(model, {"one": "one", "two": "two"})
            noise.attach()
            readers.append((noise, attached(model, "one", "three")))
        with torch.no_grad():
            clean = model(x)
            for noise, recorder in [*readers, *readers]:
                with recorder.capturing():
                    model(x)
                assert torch.equal(recorder.take()["three"][0], clean)
                for site in noise.edit.sites:
                    with noise.adding(site, 0.5, BatchNoise(torch.arange(3))), recorder.capturing():
                        noisy = model(x)
                    assert not torch.equal(noisy, clean)
                    assert torch.equal(recorder.take()["three"][0], noisy)
        graphs.append(len(backend.graphs))
    assert graphs[0] == graphs[1] == graphs[2]


# ------------------------------------------------- copies


def counted(patch: pytest.MonkeyPatch) -> list[tuple[Tensor, Tensor]]:
    """Every copy that is made from here on, beside a copy of its own."""
    made: list[tuple[Tensor, Tensor]] = []
    own = taps.copied_tensor

    def copied(tensor: Tensor) -> Tensor:
        copy = own(tensor)
        made.append((copy, copy.clone()))
        return copy

    patch.setattr(taps, "copied_tensor", copied)
    return made


@pytest.mark.parametrize("number", [1, 2, 5])
def test_what_several_read_is_copied_once(number: int, x: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(Several())
    recorders = [
        attached(model, "0", output=1, call=call) for call in ("only", "first", "last", "all") for _ in range(number)
    ]
    recorders += [attached(model, "0", output=lambda output: output[1]) for _ in range(number)]
    whole = [attached(model, "0", whole=["0"]) for _ in range(number)]
    made = counted(monkeypatch)
    for recorder in recorders:
        recorder.start()
    model(x)
    for recorder in recorders:
        recorder.stop()
    # A callable is given the whole output, so the other tensor is copied as well.
    assert len(made) == 2
    found = [taken(recorder) for recorder in recorders]
    assert all(torch.equal(one, x + 2) for one in found)
    # A function of the user's own may change what it is given.
    shared, own = found[:-number], found[-number:]
    assert all(one is shared[0] for one in shared)
    assert len({id(one) for one in (shared[0], *own)}) == 1 + number
    made.clear()
    for recorder in (recorders[0], *whole):
        recorder.start()
    model(x)
    for recorder in (recorders[0], *whole):
        recorder.stop()
    assert len(made) == 2
    one = taken(recorders[0])
    given = [taken(recorder)[1] for recorder in whole]
    assert all(torch.equal(other, one) for other in given)
    assert len({id(other) for other in (one, *given)}) == 1 + number


def test_nothing_is_copied_for_those_who_do_not_read(x: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Model()
    reading, others = attached(model, "layers.1"), [attached(model, "layers.1", "layers.2", "") for _ in range(3)]
    other_model = Model()
    others.append(attached(other_model, "layers.1"))
    made = counted(monkeypatch)
    model(x)
    with reading.capturing():
        model(x)
        other_model(x)
    assert len(made) == 1
    for recorder in others:
        with pytest.raises(CaptureError, match="never ran"):
            recorder.take()


def test_a_hook_that_changes_the_output_stands_between_readers(x: Tensor) -> None:
    model = Model()
    before = [attached(model, "layers.1") for _ in range(2)]
    handle = model.layers[1].register_forward_hook(lambda module, args, output: output + 1)
    after = [attached(model, "layers.1") for _ in range(2)]
    assert len(model.layers[1]._forward_hooks) == 3
    for recorder in (*before, *after):
        recorder.start()
    model(x)
    found = []
    for recorder in (*before, *after):
        recorder.stop()
        found.append(taken(recorder))
    assert found[0] is found[1]
    assert found[2] is found[3]
    assert torch.equal(found[2], found[0] + 1)
    handle.remove()


CALLBACKS: list[Callable[[], ValidationAnalysis]] = [
    lambda: RepresentationStructure({"enc": "encoder"}, ["token"], draw_figures=False),
    lambda: RepresentationGeometry({"enc": "encoder"}, draw_figures=False),
    lambda: RepresentationDrift({"enc": "encoder"}, draw_figures=False),
    lambda: LayerProbe({"enc": "encoder"}, ["tags"], baseline=False, draw_figures=False),
]


@pytest.mark.parametrize("number", [1, 2, 4])
def test_callbacks_on_one_site_share_its_copies_and_leave_them_as_they_are(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = counted(monkeypatch)
    callbacks = [make() for make in CALLBACKS[:number]]
    run = trainer(tmp_path, list(callbacks), max_epochs=1, num_sanity_val_steps=0)
    run.fit(Tagger(), loader(), loader(seed=1))
    assert all(len(callback.history) == 1 for callback in callbacks)
    assert len(made) == 5, "one for each batch"
    for copy, original in made:
        assert torch.equal(copy, original)


# ------------------------------------------------- who reads what, and when


@pytest.mark.parametrize("compiled", [False, True])
def test_readers_that_overlap_get_the_calls_of_their_own(compiled: bool, backend: Backend) -> None:
    layer = nn.Linear(D, D, bias=False)
    nn.init.eye_(layer.weight)
    model = nn.Sequential(layer)
    if compiled:
        layer.compile(backend=backend, fullgraph=True)
    recorders = {
        (call, place): attached(model, "0", call=call)
        for call in ("only", "first", "last", "all")
        for place in ("outer", "late", "early", "idle")
    }
    spans = {"outer": (0, 5), "late": (2, 4), "early": (1, 3)}
    for moment in range(6):
        for (_, place), recorder in recorders.items():
            if moment == spans.get(place, (-1, -1))[0]:
                recorder.start()
        for (_, place), recorder in recorders.items():
            if moment == spans.get(place, (-1, -1))[1]:
                recorder.stop()
        layer(torch.full((1, D), float(moment)))
    for (call, place), recorder in recorders.items():
        if place == "idle":
            with pytest.raises(CaptureError, match="never ran"):
                recorder.take()
            continue
        start, stop = spans[place]
        if call == "only":
            with pytest.raises(CaptureError, match=f"ran {stop - start} times"):
                recorder.take()
            continue
        values = [int(output[0, 0]) for output in recorder.take()["0"]]
        assert values == {"first": [start], "last": [stop - 1], "all": list(range(start, stop))}[call]
        assert recorder.found["0"].calls == stop - start
    assert len(backend.graphs) <= 2


@pytest.mark.parametrize("compiled", [False, True])
def test_taking_does_not_end_a_capture(compiled: bool, backend: Backend, x: Tensor) -> None:
    model = Model()
    expected = outputs(model, x)["layers.1"]
    if compiled:
        model.compile(backend=backend, fullgraph=True)
    recorder = attached(model, "layers.1")
    recorder.start()
    for _ in range(3):
        model(x)
        assert torch.equal(taken(recorder), expected)
    recorder.detach()


@pytest.mark.parametrize("compiled", [False, True])
def test_an_error_in_one_capture_does_not_touch_another(compiled: bool, backend: Backend, x: Tensor) -> None:
    model = Model()
    expected = outputs(model, x)
    if compiled:
        model.compile(backend=backend)
    outer, inner = attached(model, "layers.1"), attached(model, "layers.1", "layers.3")
    with outer.capturing():
        with pytest.raises(RuntimeError, match=r"shape|dim"), inner.capturing():
            model(x[:, :2])
        assert SWITCH.on
        model(x)
        with pytest.raises(CaptureError, match="never ran"):
            inner.take()
    assert torch.equal(taken(outer), expected["layers.1"])
    with inner.capturing():
        model(x)
    assert torch.equal(inner.take()["layers.3"][0], expected["layers.3"])


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("compiled", [False, True])
def test_readers_leave_in_any_order(compiled: bool, order: tuple[int, ...], backend: Backend, x: Tensor) -> None:
    model = Model()
    expected = outputs(model, x)
    if compiled:
        model.compile(backend=backend, fullgraph=True)
    recorders = [attached(model, "layers.1", "layers.2", call=call) for call in ("only", "last", "all")]
    for recorder in recorders:
        recorder.start()
    for place, leaving in enumerate(order):
        recorders[leaving].detach()
        model(x)
        for one in order[place + 1 :]:
            assert torch.equal(recorders[one].take()["layers.1"][0], expected["layers.1"])
    assert not SWITCH.on
    assert not any(module._forward_hooks for module in model.modules())
    assert len(backend.graphs) <= 2


def test_a_reader_that_is_forgotten_switches_off(x: Tensor) -> None:
    model = Model()
    recorder = attached(model, "layers.1")
    recorder.start()
    model(x)
    (tap,) = model.layers[1]._forward_hooks.values()
    del recorder
    gc.collect()
    assert not SWITCH.on
    assert tap.slots[0].chain is None
    assert tap.slots[0].last is None


# ------------------------------------------------- memory


@pytest.fixture
def small_heap() -> Iterator[None]:
    """What was there before is not looked through by each collection."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.usefixtures("small_heap")
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("call", ["only", "first", "last", "all"])
def test_nothing_is_kept_for_longer_than_somebody_reads(
    call: str, compiled: bool, backend: Backend, x: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Model()
    if compiled:
        model.compile(backend=backend, fullgraph=True)
    else:
        clone = Tensor.clone

        def watched(tensor: Tensor) -> Tensor:
            copy = clone(tensor)
            backend.returned.append(weakref.ref(copy))
            return copy

        monkeypatch.setattr(Tensor, "clone", watched)
    gone = attached(model, "layers.1", call="all")
    idle = [attached(model, "layers.1", "layers.2", call=other) for other in ("only", "first", "last", "all")]
    first, second = (attached(model, "layers.1", call=call) for _ in range(2))
    with first.capturing(), torch.no_grad():
        model(x)
    # What is there for those who do not read is dropped at once, what is read is there until it is taken.
    assert backend.alive() == 1
    output = taken(first)
    assert backend.alive() == 1
    del output
    assert backend.alive() == 0
    gone.detach()
    first.start()
    second.start()
    with torch.no_grad():
        model(x)
        first.stop()
        model(x)
        assert len(first.take()) == 1
    assert backend.alive() <= 2 + 4 * compiled
    second.stop()
    assert backend.alive() <= 2
    second.start()
    second.stop()
    assert backend.alive() == 0
    # Captures that always overlap keep no more than the last of them needs.
    first.start()
    for _ in range(10):
        second.start()
        with torch.no_grad():
            model(x)
        first.stop()
        first.start()
        second.stop()
        second.take()
        assert backend.alive() == 0
    first.stop()
    for recorder in idle:
        recorder.detach()


def test_a_copy_that_outlasts_its_original_is_shared_while_that_lives() -> None:
    original = torch.ones(3)
    first, second = lasting(original), lasting(original)
    assert first is second
    assert first is not original
    original.zero_()
    assert torch.equal(first, torch.ones(3))
    watched = weakref.ref(first)
    del first, second, original
    gc.collect()
    assert watched() is None


# ------------------------------------------------- in a Trainer


def test_callbacks_with_rhythms_of_their_own_on_a_compiled_module(tmp_path: Path, backend: Backend) -> None:
    def callbacks() -> list[ValidationAnalysis]:
        return [make() for make in CALLBACKS[:2]] + [
            RepresentationStructure({"hidden": "encoder.0"}, ["token"], draw_figures=False, prefix="second/")
        ]

    def fit(model: Tagger) -> list[ValidationAnalysis]:
        readers = callbacks()
        for number, callback in enumerate(readers, start=1):
            callback.every_n_validations = number
        run = trainer(tmp_path, list(readers), max_epochs=6)
        torch.manual_seed(0)
        run.fit(model, loader(), loader(seed=1))
        return readers

    plain = fit(Tagger())
    twin = Tagger()
    twin.encoder.compile(backend=backend, fullgraph=True)
    compiled = fit(twin)
    assert [len(callback.history) for callback in compiled] == [6, 3, 2]
    for one, other in zip(plain, compiled, strict=True):
        assert [reading.step for reading in one.history.readings] == [
            reading.step for reading in other.history.readings
        ]
        for key, value in one.reading.items():
            if "seconds/" not in key:
                assert other.reading[key] == pytest.approx(value, abs=1e-5), key
    # Training, and validation without and with capturing.
    assert len(backend.graphs) <= 3
