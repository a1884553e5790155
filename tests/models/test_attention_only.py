"""What a position of the attention-only model depends on."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from lightning_interp.isolation.random_weights import random_weights
from lightning_interp.models import AttentionOnly, CausalLM
from lightning_interp.sites import blocks

IDS = torch.randint(20, (3, 12), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def model() -> AttentionOnly:
    """With biases that tell distances apart, as after training."""
    torch.manual_seed(0)
    made = AttentionOnly(20, heads=2, width=16, head_width=6, max_length=40)
    for layer in made.layers:
        torch.nn.init.normal_(layer.attention.distance_bias)
    return made.requires_grad_(False)


class Calls(TorchFunctionMode):
    """Queries, keys, values and mask of each call of the kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[Tensor, ...]] = []

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is functional.scaled_dot_product_attention:
            self.found.append((*args, kwargs["attn_mask"]))
        return function(*args, **(kwargs or {}))


def test_parameter_count() -> None:
    layer = 4 * 64 * 4 * 32 + 4 * 512 + 2 * 64
    count = sum(one.numel() for one in AttentionOnly(64).parameters())
    assert count == 2 * layer + 2 * 64 * 64 + 2 * 64 == 78_208


def test_equals_a_loop_over_heads_and_positions(model: AttentionOnly) -> None:
    x = model.embedding(IDS)
    for layer in model.layers:
        attention, normed = layer.attention, layer.norm(x)
        projected = normed @ attention.in_proj.weight.T
        gathered = torch.zeros(*IDS.shape, 12)
        for head in range(2):
            q, k, v = (projected[..., 12 * part + 6 * head :][..., :6] for part in range(3))
            for i in range(12):
                scores = [
                    (q[:, i] * k[:, j]).sum(-1) / 6**0.5 + attention.distance_bias[head, i - j] for j in range(i + 1)
                ]
                weights = torch.stack(scores, -1).softmax(-1)
                gathered[:, i, 6 * head : 6 * head + 6] = (weights[..., None] * v[:, : i + 1]).sum(1)
        x = x + gathered @ attention.out_proj.weight.T
    assert torch.allclose(model(IDS), model.norm(x) @ model.output.weight.T, atol=1e-5)


def test_the_kernel_is_given_biases_and_the_future(model: AttentionOnly) -> None:
    with Calls() as calls:
        model(IDS)
    assert len(calls.found) == len(model.layers)
    for layer, (q, _, _, mask) in zip(model.layers, calls.found, strict=True):
        assert q.shape == (3, 2, 12, 6)
        mask = mask.expand(3, 2, 12, 12)
        for i in range(12):
            for j in range(12):
                bias = layer.attention.distance_bias[:, i - j] if j <= i else torch.full((2,), -torch.inf)
                assert torch.equal(mask[0, :, i, j], bias)


def test_no_position_sees_a_later_one(model: AttentionOnly) -> None:
    changed = IDS.clone()
    changed[:, 7] = (changed[:, 7] + 1) % 20
    before, after = model(IDS), model(changed)
    assert torch.allclose(before[:, :7], after[:, :7], atol=1e-6)
    assert bool(((before - after)[:, 7:].abs().amax(-1) > 1e-4).all())


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_no_token(model: AttentionOnly, side: str) -> None:
    lengths = [12, 5, 1]
    mask = (torch.arange(15) < torch.tensor(lengths)[:, None]).long()
    ids = torch.full((3, 15), 7)
    ids[:, :12] = IDS
    if side == "left":
        ids = torch.stack([one.roll(15 - length) for one, length in zip(ids, lengths, strict=True)])
        mask = mask.flip(1)
    logits = model(ids, mask)
    for place, length in enumerate(lengths):
        alone = model(IDS[place : place + 1, :length])
        assert torch.allclose(logits[place][mask[place] == 1], alone[0], atol=1e-5)
    assert bool(logits.isfinite().all())
    assert torch.equal(model(ids.masked_fill(mask == 0, 3), mask)[mask == 1], logits[mask == 1])


def test_only_distances_count(model: AttentionOnly) -> None:
    """Attention between two tokens is the same wherever they stand, so a periodic past is seen alike at each period."""
    shifted = functional.pad(IDS, (9, 0), value=5)
    with Calls() as here:
        model(IDS)
    with Calls() as there:
        model(shifted)
    scores = [q @ k.mT / 6**0.5 + mask for q, k, _, mask in (here.found[0], there.found[0])]
    assert torch.allclose(scores[1][..., 9:, 9:], scores[0], atol=1e-5)
    # A past of one token has no places at all.
    constant = model(torch.full((1, 12), 4))
    assert torch.allclose(constant, constant[:, :1].expand_as(constant), atol=1e-5)


def test_order_is_known_from_the_biases_alone() -> None:
    torch.manual_seed(0)
    model = AttentionOnly(20, layers=1, width=16).requires_grad_(False)
    ids, swapped = IDS[:1], IDS[:1].clone()
    swapped[0, [2, 3]] = swapped[0, [3, 2]]
    assert swapped[0, 2] != swapped[0, 3]
    assert torch.allclose(model(ids)[0, -1], model(swapped)[0, -1], atol=1e-5)
    torch.nn.init.normal_(model.layers[0].attention.distance_bias)
    assert not torch.allclose(model(ids)[0, -1], model(swapped)[0, -1], atol=1e-3)


def test_random_weights_are_drawn_as_at_first(model: AttentionOnly, recwarn: pytest.WarningsRecorder) -> None:
    own = model(IDS)
    with random_weights(model, seed=1) as shuffled:
        assert list(shuffled) == []
        assert not any(layer.attention.distance_bias.any() for layer in model.layers)
        assert not torch.allclose(model(IDS), own, atol=0.1)
    assert torch.equal(model(IDS), own)
    assert not list(recwarn)


def test_it_is_trained_by_causal_lm() -> None:
    torch.manual_seed(0)
    model = CausalLM(AttentionOnly(20, width=16, heads=2, head_width=8, max_length=12))
    mask = torch.ones_like(IDS)
    mask[0, 6:] = 0
    loss = model.loss({"input_ids": IDS, "attention_mask": mask})
    loss.backward()
    rows = [model.lm(IDS[:1, :6]), model.lm(IDS[1:2]), model.lm(IDS[2:])]
    terms = [
        functional.cross_entropy(logits[0, :-1], ids[1 : len(logits[0])], reduction="sum")
        for logits, ids in zip(rows, IDS, strict=True)
    ]
    assert loss.item() == pytest.approx(sum(one.item() for one in terms) / (5 + 11 + 11), rel=1e-5)
    assert all(one.grad is not None and one.grad.any() for one in model.parameters())
    assert list(blocks(model).values()) == ["lm.layers.0", "lm.layers.1"]


def test_sixteen_bits(model: AttentionOnly) -> None:
    exact = model(IDS)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = model(IDS)
    rounded = model.bfloat16()(IDS, torch.ones_like(IDS))
    assert mixed.dtype == rounded.dtype == torch.bfloat16
    assert torch.allclose(mixed.float(), exact, atol=0.05)
    assert torch.allclose(rounded.float(), exact, atol=0.05)


def test_errors() -> None:
    for name in ("vocabulary", "layers", "heads", "width", "head_width", "max_length"):
        with pytest.raises(ValueError, match=f"`{name}` is 0; it must be at least 1"):
            AttentionOnly(**{"vocabulary": 5, name: 0})
    with pytest.raises(ValueError, match="a sequence has 6 tokens; `max_length` is 5"):
        AttentionOnly(4, max_length=5)(torch.zeros(1, 6, dtype=torch.long))
