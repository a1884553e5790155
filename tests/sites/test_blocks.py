"""The repeated blocks of models of several makes."""

from __future__ import annotations

import re
from collections import OrderedDict

import pytest
import torch
from torch import nn

from lightning_interp.sites import SiteRecorder, blocks, resolve_sites


class Block(nn.Module):
    """With a list of its own, as mixtures of experts have."""

    def __init__(self, experts: int = 5) -> None:
        super().__init__()
        self.experts = nn.ModuleList(nn.Linear(4, 4) for _ in range(experts))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([one(x) for one in self.experts]).mean(0)


def in_order(number: int, prefix: str) -> dict[str, str]:
    return {str(place): f"{prefix}.{place}" for place in range(number)}


def test_of_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    size = {"vocab_size": 11, "hidden_size": 8, "num_hidden_layers": 3, "num_attention_heads": 2}
    gpt2 = transformers.GPT2Config(vocab_size=11, n_embd=8, n_layer=3, n_head=2)
    bert = transformers.BertConfig(**size, intermediate_size=8)
    assert blocks(transformers.GPT2LMHeadModel(gpt2)) == in_order(3, "transformer.h")
    assert blocks(transformers.BertModel(bert)) == in_order(3, "encoder.layer")
    assert blocks(nn.ModuleDict({"lm": transformers.BertForMaskedLM(bert)})) == in_order(3, "lm.bert.encoder.layer")
    one = transformers.GPT2Config(vocab_size=11, n_embd=8, n_layer=1, n_head=2)
    assert blocks(transformers.GPT2LMHeadModel(one)) == in_order(1, "transformer.h")


def test_of_torch_and_what_wrappers_insert() -> None:
    model = nn.Transformer(8, 2, num_encoder_layers=2, num_decoder_layers=4, dim_feedforward=8)
    assert blocks(model) == in_order(4, "decoder.layers")
    assert blocks(model.encoder) == in_order(2, "layers")
    for place, layer in enumerate(model.decoder.layers):
        model.decoder.layers[place] = torch.compile(layer, backend="eager")
    assert blocks(torch.compile(model, backend="eager")) == in_order(4, "decoder.layers")


def test_of_a_sequence_with_names_in_a_sequence() -> None:
    layers = nn.Sequential(OrderedDict((f"layer_{place}", Block()) for place in range(3)))
    model = nn.Sequential(nn.Conv2d(3, 4, 4), layers, nn.Linear(4, 2))
    found = blocks(model)
    assert found == {f"layer_{place}": f"1.layer_{place}" for place in range(3)}
    assert resolve_sites(model, found) == found
    recorder = SiteRecorder(model, found)
    recorder.attach()
    with recorder.capturing():
        layers(torch.ones(2, 4))
    assert list(recorder.take()) == list(found)


def test_what_lies_within_blocks_does_not_count_and_one_module_is_one_block() -> None:
    assert blocks(nn.Sequential(Block(), Block())) == {"0": "0", "1": "1"}
    assert blocks(Block()) == in_order(5, "experts")
    # One module that is there seven times is one.
    shared = nn.ModuleDict({"a": nn.ModuleList([nn.ReLU()] * 7), "b": nn.ModuleList([Block(), Block()])})
    assert blocks(shared) == in_order(2, "b")
    assert blocks(nn.ModuleDict({"a": nn.ModuleList([nn.ReLU()] * 7)})) == {"0": "a.0"}
    # The first of two that are equally long.
    assert blocks(nn.ModuleDict({name: nn.Sequential(Block(), Block()) for name in "xy"})) == {"0": "x.0", "1": "x.1"}


def test_a_model_without_blocks_is_told_what_it_has() -> None:
    model = nn.Sequential(OrderedDict(body=nn.Sequential(nn.Linear(4, 4), nn.ReLU()), head=nn.Linear(4, 2)))
    text = (
        "Sequential has no repeated blocks, an nn.ModuleList or nn.Sequential of modules of one class; containers it "
        "has: 'the model (Sequential, Linear)', 'body (Linear, ReLU)'; modules: 'body', 'body.0', 'body.1', 'head'."
    )
    with pytest.raises(ValueError, match=re.escape(text)):
        blocks(model)
    # Containers are not called, so nothing can be read there.
    with pytest.raises(ValueError, match="no repeated blocks"):
        blocks(nn.ModuleList([nn.ModuleList([]), nn.ModuleList([])]))
