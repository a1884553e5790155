from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_interp.datasets import BOS_ID, EOS_ID, PAD_ID
from lightning_interp.models import Seq2SeqTransformer
from lightning_interp.models.transformer import sinusoidal_positions


@pytest.fixture
def model() -> Seq2SeqTransformer:
    torch.manual_seed(0)
    return Seq2SeqTransformer(source_vocab_size=20, target_vocab_size=15).eval()


def source(lengths: list[int], seed: int = 0) -> tuple[Tensor, Tensor]:
    mask = torch.arange(max(lengths)) < torch.tensor(lengths).unsqueeze(1)
    ids = torch.randint(4, 20, mask.shape, generator=torch.Generator().manual_seed(seed))
    return ids * mask, mask.long()


def test_parameter_count() -> None:
    layer = 4 * 64 * 64 + 4 * 64
    feedforward = 2 * 64 * 256 + 256 + 64
    encoder_layer = layer + feedforward + 2 * 2 * 64
    decoder_layer = 2 * layer + feedforward + 3 * 2 * 64
    final_norms = 2 * 2 * 64
    words = 77 * 64 + 76 * 64 + 76 * 64 + 76
    model = Seq2SeqTransformer(source_vocab_size=77, target_vocab_size=76)
    count = sum(parameter.numel() for parameter in model.parameters())
    assert count == 2 * encoder_layer + decoder_layer + final_norms + words == 181_708


def test_every_matrix_is_xavier_uniform(model: Seq2SeqTransformer) -> None:
    for name, matrix in model.named_parameters():
        if matrix.dim() == 2:
            bound = (6 / sum(matrix.shape)) ** 0.5
            assert 0.9 * bound < float(matrix.detach().abs().max()) <= bound, name


def test_positions() -> None:
    positions = sinusoidal_positions(50, 8)
    for t, i in [(0, 0), (3, 2), (49, 3)]:
        angle = torch.tensor(t / 10000 ** (2 * i / 8))
        assert torch.allclose(positions[t, 2 * i : 2 * i + 2], torch.stack([angle.sin(), angle.cos()]), atol=1e-5)


def test_equals_torch_with_the_same_weights(model: Seq2SeqTransformer) -> None:
    options: dict[str, Any] = {"dim_feedforward": 256, "dropout": 0.0, "batch_first": True}
    encoder = nn.TransformerEncoder(
        nn.TransformerEncoderLayer(64, 4, **options), 2, nn.LayerNorm(64), enable_nested_tensor=False
    )
    decoder = nn.TransformerDecoder(nn.TransformerDecoderLayer(64, 4, **options), 1, nn.LayerNorm(64))
    encoder.load_state_dict(model.encoder.state_dict())
    decoder.load_state_dict(model.decoder.state_dict())
    ids, mask = source([7, 3, 5])
    target = torch.tensor([[1, 4, 5, 6], [1, 7, 0, 0], [1, 8, 9, 0]])
    embedded = model.source_embedding(ids) + sinusoidal_positions(7, 64)
    # In training mode torch's encoder does not take its fused path; dropout is 0.
    memory = encoder.train()(embedded, src_key_padding_mask=mask == 0)
    decoded = decoder.train()(
        model.target_embedding(target) + sinusoidal_positions(4, 64),
        memory,
        tgt_mask=nn.Transformer.generate_square_subsequent_mask(4),
        memory_key_padding_mask=mask == 0,
    )
    kept = mask.bool()
    assert torch.allclose(model.encode(ids, mask)[kept], memory[kept], atol=1e-5)
    assert torch.allclose(model(ids, mask, target), model.output(decoded), atol=1e-5)


def test_hooks_fire_in_evaluation(model: Seq2SeqTransformer) -> None:
    fired: dict[str, list[tuple[int, ...]]] = {}
    for name, module in model.named_modules():
        if name:
            module.register_forward_hook(
                lambda module, args, output, name=name: fired.setdefault(name, []).append(tuple(output.shape))
            )
    ids, mask = source([7, 3])
    with torch.inference_mode():
        model(ids, mask, torch.tensor([[1, 4, 5], [1, 6, 0]]))
    encoder_side = ("source_embedding", "source_input", "encoder.layers.0", "encoder.layers.1", "encoder")
    assert {name: fired[name] for name in encoder_side} == {name: [(2, 7, 64)] for name in encoder_side}
    decoder_side = ("target_embedding", "target_input", "decoder.layers.0", "decoder")
    assert {name: fired[name] for name in decoder_side} == {name: [(2, 3, 64)] for name in decoder_side}
    assert fired["output"] == [(2, 3, 15)]
    silent = {name for name, _ in model.named_modules()} - fired.keys() - {""}
    assert all(name.endswith("layers") for name in silent)


def test_padding_has_no_influence(model: Seq2SeqTransformer) -> None:
    ids, mask = source([9, 4, 6])
    together = model.encode(ids, mask)
    for row, length in enumerate([9, 4, 6]):
        alone = model.encode(ids[row : row + 1, :length], mask[row : row + 1, :length])
        assert torch.allclose(together[row, :length], alone[0], atol=1e-5)
    other = torch.where(mask.bool(), ids, 11)
    assert torch.equal(model.encode(other, mask)[mask.bool()], together[mask.bool()])
    target = torch.tensor([[1, 4, 5]]).expand(3, 3)
    assert torch.allclose(model(other, mask, target), model(ids, mask, target), atol=1e-6)


def test_decoder_sees_no_later_word(model: Seq2SeqTransformer) -> None:
    ids, mask = source([5])
    first = model(ids, mask, torch.tensor([[1, 4, 5, 6]]))
    second = model(ids, mask, torch.tensor([[1, 4, 9, PAD_ID]]))
    assert torch.allclose(first[:, :2], second[:, :2], atol=1e-6)
    assert not torch.allclose(first[:, 2], second[:, 2], atol=1e-3)


def test_greedy_decode_follows_the_argmax(model: Seq2SeqTransformer) -> None:
    ids, mask = source([5, 3])
    decoded = model.greedy_decode(ids, mask, max_length=6)
    prefix = torch.cat([torch.full((2, 1), BOS_ID), decoded[:, :-1]], dim=1)
    expected = model(ids, mask, prefix).argmax(-1)
    ended = torch.zeros(2, dtype=torch.bool)
    for step in range(decoded.shape[1]):
        assert torch.equal(decoded[:, step], expected[:, step].masked_fill(ended, PAD_ID))
        ended |= decoded[:, step] == EOS_ID


def test_greedy_decode_stops_when_all_have_ended(model: Seq2SeqTransformer) -> None:
    model.output.bias.data[EOS_ID] = 1000.0
    ids, mask = source([5, 3])
    assert model.greedy_decode(ids, mask, max_length=50).tolist() == [[EOS_ID], [EOS_ID]]


@pytest.mark.slow
def test_compiles_without_a_graph_break(model: Seq2SeqTransformer) -> None:
    ids, mask = source([5, 3])
    target = torch.tensor([[1, 4, 5], [1, 6, 0]])
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    assert torch.allclose(compiled(ids, mask, target), model(ids, mask, target), atol=1e-6)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"heads": 3}, "`d_model` is 64; it must be even and a multiple of `heads`, which is 3"),
        ({"d_model": 5, "heads": 5}, "`d_model` is 5"),
        ({"encoder_layers": 0}, "`encoder_layers` is 0"),
        ({"dropout": 1.0}, "`dropout` is 1.0"),
    ],
)
def test_errors(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Seq2SeqTransformer(source_vocab_size=20, target_vocab_size=15, **wrong)


def test_too_long() -> None:
    model = Seq2SeqTransformer(source_vocab_size=20, target_vocab_size=15, max_length=4)
    ids, mask = source([5])
    with pytest.raises(ValueError, match="a sequence has 5 tokens; `max_length` is 4"):
        model(ids, mask, ids)
    with pytest.raises(ValueError, match="`width` is 3"):
        sinusoidal_positions(4, 3)
