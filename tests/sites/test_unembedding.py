"""The final norm and head of models: which are found, and what is said where they are not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from torch import nn

from lightning_interp.models import AttentionOnly, small_gpt2
from lightning_interp.sites import blocks
from lightning_interp.sites.unembedding import Unembedding

SMALL = {"vocab_size": 20, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 8}


def made(kind: str, **config: Any) -> nn.Module:
    torch.manual_seed(0)
    given = getattr(transformers, f"{kind}Config")(**{**SMALL, **config})
    names = (f"{kind}ForCausalLM", f"{kind}ForMaskedLM")
    model: nn.Module = next(getattr(transformers, name) for name in names if hasattr(transformers, name))(given)
    return model.eval()


MODELS = {
    "gpt2": (lambda: small_gpt2(range(20), 8, heads=2).eval(), "transformer.ln_f", "lm_head"),
    "llama": (lambda: made("Llama"), "model.norm", "lm_head"),
    "neox": (lambda: made("GPTNeoX"), "gpt_neox.final_layer_norm", "lm_head"),
    "opt": (
        lambda: made("OPT", ffn_dim=8, word_embed_proj_dim=8),
        "model.decoder.final_layer_norm",
        "lm_head",
    ),
    "own": (lambda: AttentionOnly(20, width=8).eval(), "norm", "output"),
}


@pytest.mark.parametrize("name", MODELS)
def test_what_is_found_gives_the_models_own_logits(name: str) -> None:
    make, norm, head = MODELS[name]
    model = make()
    layers = list(blocks(model).values())
    found = Unembedding.find(model, layers)
    # What GPT-NeoX calls it depends on the version of transformers.
    assert (found.norm, str(found.head).replace("embed_out", "lm_head")) == (norm, head)
    kept: list[torch.Tensor] = []
    model.get_submodule(layers[-1]).register_forward_hook(
        lambda module, args, output: kept.append(output[0] if isinstance(output, tuple) else output)
    )
    with torch.no_grad():
        logits = model(torch.arange(6)[None])
        logits = logits if isinstance(logits, torch.Tensor) else logits.logits
        assert torch.allclose(found(kept[0][0]), logits[0], atol=1e-6)


def test_hooks_of_norm_and_head_are_left_alone() -> None:
    model = AttentionOnly(20, width=8)
    calls: list[object] = []
    for name in ("norm", "output"):
        model.get_submodule(name).register_forward_hook(lambda module, args, output: calls.append(module))
    Unembedding.find(model, ["layers.0"])(torch.zeros(3, 8))
    assert not calls


def test_a_function_takes_the_place_of_both() -> None:
    found = Unembedding.find(nn.Linear(2, 2), [], head=lambda model, z: 2 * z)
    assert found(torch.ones(1, 3)).tolist() == [[2, 2, 2]]
    assert found.described == "the function `head`"


def test_what_is_not_there_is_told_with_what_is() -> None:
    model = AttentionOnly(20, width=8)
    layers = ["layers.0", "layers.1"]
    with pytest.raises(ValueError, match=r"`norm` is 'ln', and AttentionOnly has no such module; .*'norm', 'output'"):
        Unembedding.find(model, layers, norm="ln")
    with pytest.raises(ValueError, match=r"`head` is 'lm_head', and AttentionOnly has no such module"):
        Unembedding.find(model, layers, head="lm_head")
    with pytest.raises(ValueError, match=r"Sequential has no head outside of its layers.* there it has '1'"):
        Unembedding.find(nn.Sequential(nn.Linear(2, 2), nn.ReLU()), ["0"])
    with pytest.raises(ValueError, match="`norm` is 'norm' beside a function as `head`"):
        Unembedding.find(model, layers, "norm", lambda model, z: z)
