"""A model's parameters are put back where others stand, and named."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from lightning_interp.isolation.same_parameters import SameParameters
from tests.identity import same, standing


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(2, 2)
        self.tied = nn.Linear(2, 2)
        self.tied.weight = self.first.weight
        self.several = nn.ParameterList([nn.Parameter(torch.ones(1))])
        self.normed = nn.utils.parametrizations.weight_norm(nn.Linear(2, 2))
        self.lazy = nn.LazyLinear(1)
        self.empty = nn.Parameter(torch.zeros(0))
        self.scripted = torch.jit.script(nn.Linear(2, 2))
        self.none = None


def fresh(*size: int) -> nn.Parameter:
    return nn.Parameter(torch.zeros(*size))


OFFENCES: dict[str, tuple[Callable[[Net], object], list[str]]] = {
    "nothing": (lambda net: None, []),
    "other values": (lambda net: net.first.weight.data.zero_(), []),
    "a first forward pass": (lambda net: net.lazy(torch.zeros(1, 2)), []),
    "another object": (lambda net: setattr(net.first, "bias", fresh(2)), ["first.bias"]),
    "an untied weight": (lambda net: setattr(net.tied, "weight", fresh(2, 2)), ["tied.weight"]),
    "other data": (lambda net: setattr(net.first.weight, "data", torch.zeros(2, 2)), ["first.weight", "tied.weight"]),
    "another shape": (lambda net: setattr(net.first.bias, "data", torch.zeros(5)), ["first.bias"]),
    "one is gone": (lambda net: delattr(net.first, "bias"), ["first.bias"]),
    "one is None": (lambda net: setattr(net.first, "bias", None), ["first.bias"]),
    "one is new": (lambda net: setattr(net, "gain", fresh(1)), ["gain"]),
    "an entry of a list": (lambda net: net.several.__setitem__(0, fresh(1)), ["several.0"]),
    "a list has grown": (lambda net: net.several.append(fresh(1)), ["several.1"]),
    "a module is new": (lambda net: setattr(net, "head", nn.Linear(2, 2)), ["head.bias", "head.weight"]),
    "a module is another": (lambda net: setattr(net, "first", nn.Linear(2, 2)), ["first.bias", "first.weight"]),
    "a module is gone": (lambda net: delattr(net, "tied"), ["tied.bias", "tied.weight"]),
    "modules change places": (lambda net: swap(net), ["first.bias", "tied.bias"]),
    "a part of a parametrization": (
        lambda net: setattr(net.normed.parametrizations.weight, "original0", fresh(2, 1)),
        ["normed.parametrizations.weight.original0"],
    ),
}


def swap(net: Net) -> None:
    net.first, net.tied = net.tied, net.first


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("name", OFFENCES)
def test_what_differs_is_named_and_put_back(name: str, mode: Callable) -> None:
    offence, expected = OFFENCES[name]
    net = Net()
    before = [one for one in standing(net) if one[1] in ("_parameters", "_modules")]
    weight = net.first.weight.detach()
    pointers = [one.data_ptr() for one in net.parameters() if not isinstance(one, nn.UninitializedParameter)]
    with mode():
        watch = SameParameters(net)
        offence(net)
        assert sorted(watch.restore()) == expected
        assert watch.restore() == []
    assert same(before, [one for one in standing(net) if one[1] in ("_parameters", "_modules")])
    after = [one.data_ptr() for one in net.parameters() if one is not net.lazy.weight and one is not net.lazy.bias]
    assert after == pointers
    assert net.first.weight.data_ptr() == weight.data_ptr()


def test_an_optimizer_goes_on_training_what_was_put_back() -> None:
    net = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    watch = SameParameters(net)
    net.weight = fresh(2, 2)
    assert watch.restore() == ["weight"]
    before = net.weight.detach().clone()
    net(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    assert not torch.equal(net.weight, before)


def test_what_is_sharded_is_left_to_what_shards_it() -> None:
    class FSDPModule(nn.Linear):
        pass

    net = nn.ModuleDict({"whole": nn.Linear(1, 1), "sharded": nn.Sequential(FSDPModule(1, 1))})
    watch = SameParameters(net)
    other = net["sharded"][0].weight = fresh(1, 1)
    net["whole"].weight = fresh(1, 1)
    assert watch.restore() == ["whole.weight"]
    assert net["sharded"][0].weight is other
