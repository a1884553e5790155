"""What takes neurons back to the residual stream: found in models of several kinds, told where there is none."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from torch import nn

from lightning_interp.models import AttentionOnly
from lightning_interp.sites.down_projections import down_projections, enclosing

SIZES = {"vocab_size": 20, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    # With heads wider than the residual stream, so that attention narrows too.
    "Llama": ("model.layers.1.mlp.down_proj", {"head_dim": 16}),
    "GPTNeoX": ("gpt_neox.layers.1.mlp.dense_4h_to_h", {}),
    "OPT": ("model.decoder.layers.1.fc2", {"ffn_dim": 16, "word_embed_proj_dim": 8}),
    "Bert": ("bert.encoder.layer.1.output.dense", {}),
    "GPT2": ("transformer.h.1.mlp.c_proj", {"n_embd": 8, "n_layer": 2, "n_head": 2}),
}


def made(kind: str, **config: Any) -> nn.Module:
    given = getattr(transformers, f"{kind}Config")(**{**({} if kind == "GPT2" else SIZES), **config})
    names = (f"{kind}ForCausalLM", f"{kind}ForMaskedLM", f"{kind}LMHeadModel")
    found: nn.Module = next(getattr(transformers, name) for name in names if hasattr(transformers, name))(given)
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_models_of_transformers(kind: str) -> None:
    name, config = KINDS[kind]
    model = made(kind, **config)
    found = down_projections(model)
    assert found == {"0": name.replace(".1.", ".0."), "1": name}
    block = enclosing(model, name)
    assert block is not None
    assert name.startswith(f"{block}.")
    assert block.endswith(".1")


def test_a_model_without_is_told() -> None:
    with pytest.raises(ValueError, match=r"block 'layers.0' has no linear map to fewer .* it has 'layers.0.norm'"):
        down_projections(AttentionOnly(20, width=8))
    assert enclosing(AttentionOnly(20), "output") is None
    assert enclosing(nn.Linear(2, 2), "") is None
    with pytest.raises(ValueError, match="has no repeated blocks"):
        down_projections(torch.nn.Linear(2, 1))
