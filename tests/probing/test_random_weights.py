from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from lightning_interp.models import Seq2SeqModule
from lightning_interp.probing.random_weights import random_weights


class Scale(nn.Module):
    """A parameter that nothing draws anew."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor([7.0]))


def state(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def trained(model: nn.Module) -> nn.Module:
    """Any other weights than those at the start."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(3.0)
    return model


MODELS = {
    "transformer": lambda: nn.TransformerEncoderLayer(8, 2, 16),
    "batch norm": lambda: nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)),
    "seq2seq": lambda: Seq2SeqModule(11, 12, d_model=8, heads=2, feedforward=16),
    "llama": lambda: LlamaForCausalLM(
        LlamaConfig(vocab_size=20, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2)
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_the_weights_are_others_within_and_the_same_afterwards(name: str) -> None:
    model = trained(MODELS[name]())
    before, streams = state(model), torch.random.get_rng_state()
    with random_weights(model, seed=3):
        within = state(model)
        again_within = {name: tensor for name, tensor in within.items() if tensor.is_floating_point()}
        assert all(bool(tensor.isfinite().all()) for tensor in again_within.values())
        assert all(not torch.equal(within[key], before[key]) for key, _ in model.named_parameters())
    assert all(torch.equal(tensor, before[key]) for key, tensor in state(model).items())
    assert torch.equal(torch.random.get_rng_state(), streams)
    with random_weights(model, seed=3):
        assert all(torch.equal(tensor, within[key]) for key, tensor in state(model).items())
    with random_weights(model, seed=4):
        assert any(not torch.equal(tensor, within[key]) for key, tensor in state(model).items())


def test_a_linear_layer_is_drawn_as_its_class_draws_it() -> None:
    model = trained(nn.Linear(64, 64))
    torch.manual_seed(5)
    expected = nn.Linear(64, 64).weight
    with random_weights(model, seed=5):
        assert torch.equal(model.weight, expected)


def test_a_model_of_transformers_is_made_anew_by_its_class() -> None:
    model = trained(MODELS["llama"]())
    torch.manual_seed(5)
    expected = MODELS["llama"]()
    with random_weights(nn.ModuleDict({"lm": model}), seed=5):
        assert torch.equal(model.lm_head.weight, expected.lm_head.weight)


def test_weights_come_back_after_an_error() -> None:
    model = trained(nn.Linear(2, 2))
    before = model.weight.clone()
    with pytest.raises(RuntimeError, match="inside"), random_weights(model):
        raise RuntimeError("inside")
    assert torch.equal(model.weight, before)


def test_what_nothing_draws_is_named_and_the_weights_are_put_back() -> None:
    model = nn.Sequential(nn.Linear(2, 2), Scale())
    before = state(model)
    with pytest.raises(ValueError, match=r"'1\.gain'"), random_weights(model):
        pass
    assert all(torch.equal(tensor, before[key]) for key, tensor in state(model).items())
    with random_weights(model, fresh=lambda: nn.Sequential(nn.Linear(2, 2), Scale())):
        assert not torch.equal(model[0].weight, before["0.weight"])


def test_a_fresh_model_of_other_shapes_is_refused() -> None:
    model = nn.Linear(2, 2)
    wrong = {
        r"'weight' of shape \(2, 2\), but has one of shape \(2, 3\)": lambda: nn.Linear(3, 2),
        r"'bias' of shape \(2,\), but has none": lambda: {"weight": model.weight},
    }
    for message, fresh in wrong.items():
        with pytest.raises(ValueError, match=message), random_weights(model, fresh=fresh):
            pass
