"""The reader of task gradients, against whole gradients of a real small GPT-2."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import pytest
import torch
from tasks.toy_lm import ToyLM, random_pairs
from torch import Tensor, nn

from lightning_interp.functional import cosine_matrix, reliability
from lightning_interp.language.encoding import EncodedPair, encode_sentences
from lightning_interp.models import small_gpt2
from lightning_interp.tasks import WordTokenizer, grammar_tasks, grammar_words
from lightning_interp.tasks.differential import gradient_differential
from lightning_interp.tasks.gradients import GradientReader, TaskGradients, group_names
from lightning_interp.tasks.scoring import Scorer

TASKS = grammar_tasks(pairs=48)[::2]
WORDS = WordTokenizer(grammar_words())


def encoded(task: Sequence[tuple[str, str]]) -> list[EncodedPair]:
    ids = encode_sentences(WORDS, [sentence for pair in task for sentence in pair])
    return list(zip(ids[0::2], ids[1::2], strict=True))


@pytest.fixture(scope="module")
def gpt2() -> nn.Module:
    pytest.importorskip("transformers")
    torch.manual_seed(0)
    return small_gpt2(WORDS, heads=2, length=32, dropout=0.1)


def turns(*places: int) -> list[int]:
    """The halves of pairs at these places of a task, of which no two share a sentence."""
    return [place % 2 for place in range(*places)]


def flat(gradient: dict[str, Tensor]) -> Tensor:
    return torch.cat([value.flatten() for value in gradient.values()]).double()


def test_cosines_of_sketches_are_those_of_gradients(gpt2: nn.Module) -> None:
    reader = GradientReader(gpt2)
    pairs = [encoded(task.pairs[:8]) for task in TASKS]
    read = [reader.read(one, turns(len(one))) for one in pairs]
    exact = torch.stack([flat(gradient_differential(gpt2, one)) for one in pairs])
    sketched = cosine_matrix(torch.stack([one.sketches[0].sum(0) for one in read]))
    apart = ~torch.eye(len(TASKS), dtype=torch.bool)
    error = (sketched - cosine_matrix(exact))[apart]
    assert error.pow(2).mean().sqrt() < 0.005
    assert error.abs().max() < 0.02
    # So small a model is sampled whole; sums over pairs, not means.
    for one, whole in zip(read, exact, strict=True):
        assert one.sample.numel() == whole.numel()
        torch.testing.assert_close(one.sample, 8 * whole, rtol=1e-4, atol=1e-5)
    task = Scorer(gpt2, WORDS).score_task(TASKS[0].pairs[:8])
    torch.testing.assert_close(read[0].margins, task.double(), rtol=1e-5, atol=1e-4)


def test_parts_add_up_however_they_are_read(gpt2: nn.Module) -> None:
    reader, pairs = GradientReader(gpt2, buckets=4096, sample=20_000), encoded(TASKS[3].pairs[:9])
    whole = reader.read(pairs, turns(9))
    assert whole.counts.tolist() == [5, 4]
    small = GradientReader(gpt2, buckets=4096, sample=20_000, batch_tokens=30).read(pairs, turns(9))
    ranks = [reader.read(pairs[rank::3], turns(rank, 9, 3)) for rank in range(3)]
    merged = TaskGradients(*(sum(parts) for parts in zip(*ranks, strict=True)))
    for found in (small, merged):
        scale = float(whole.sketches.abs().max())
        assert (found.sketches - whole.sketches).abs().max() < 1e-5 * scale
        torch.testing.assert_close(found.sample, whole.sample, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(found.swapped, whole.swapped, rtol=1e-4, atol=1e-4)
        assert found.counts.tolist() == [5, 4]
    assert torch.equal(
        torch.stack([one.margins for one in ranks], 1).flatten().round(decimals=3), whole.margins.round(decimals=3)
    )
    halves = [reader.read(pairs[half::2], turns(half, 9, 2)) for half in (0, 1)]
    torch.testing.assert_close(halves[0].sample - halves[1].sample, whole.swapped)
    nothing = reader.read([], [])
    assert not nothing.sketches.any()
    assert nothing.counts.tolist() == [0, 0]


def test_groups_add_up_to_the_whole(gpt2: nn.Module) -> None:
    pairs = encoded(TASKS[0].pairs[:4])
    found = GradientReader(gpt2, buckets=1024).read(pairs, turns(4))
    assert GradientReader(gpt2).names == ("all", "embedding", "layers.0", "layers.1", "other")
    torch.testing.assert_close(found.sketches[1:].sum(0), found.sketches[0])
    assert all(bool(one.any()) for one in found.sketches)
    alone = GradientReader(gpt2, buckets=1024, groups=False).read(pairs, turns(4))
    assert alone.sketches.shape == (1, 2, 1024)
    torch.testing.assert_close(alone.sketches[0], found.sketches[0])
    own = GradientReader(gpt2, buckets=1024, groups=lambda name: "mlp" if ".mlp." in name else None)
    assert own.names == ("all", "mlp")
    some = own.read(pairs, turns(4)).sketches
    torch.testing.assert_close(some[0], found.sketches[0])
    assert 0 < some[1].norm() < some[0].norm()


def test_a_task_aligns_with_itself_as_far_as_its_reliability_goes(gpt2: nn.Module) -> None:
    # Only pairs in one direction, since over both an untrained model's gradients cancel.
    ends = {"anaphor_gender": "himself", "emphatic_gender": "herself", "anaphor_number": "themselves"}
    reader = GradientReader(gpt2, groups=False, buckets=16_384)
    generator = torch.Generator().manual_seed(0)
    for task in grammar_tasks(pairs=200, paradigms=list(ends)):
        pairs = encoded([pair for pair in task.pairs if ends[task.name] in pair.good][:16])
        each = torch.stack([reader.read([pair], [0]).sketches[0, 0] for pair in pairs])
        ceilings, found = [], []
        for _ in range(50):
            quarters = each[torch.randperm(16, generator=generator)].view(4, 4, -1).sum(1)
            ceilings.append(reliability(quarters[:2], quarters[2:]).prod().sqrt())
            found.append(torch.cosine_similarity(quarters[0] + quarters[2], quarters[1] + quarters[3], dim=0))
        ceiling, cosine = torch.stack(ceilings).mean(), torch.stack(found).mean()
        assert 0.3 < cosine < 0.97
        # Exact for many pairs; of a dozen each is a noticeable part of both halves' noise.
        assert abs(cosine / ceiling - 1) < 0.03


def test_offsets_do_not_move_when_parameters_are_frozen(gpt2: nn.Module) -> None:
    pairs, model = encoded(TASKS[0].pairs[:4]), copy.deepcopy(gpt2)
    reader = GradientReader(model, buckets=1024)
    whole = reader.read(pairs, turns(4))
    for parameter in model.transformer.h[0].parameters():
        parameter.requires_grad_(False)
    # The same reader, after the freezing.
    frozen = reader.read(pairs, turns(4))
    torch.testing.assert_close(frozen.sketches[3], whole.sketches[3])
    assert not frozen.sketches[reader.names.index("layers.0")].any()
    assert frozen.sample.numel() == sum(one.numel() for one in model.parameters() if one.requires_grad)


def test_the_model_is_left_as_it_was_and_dropout_is_off() -> None:
    model, pairs = ToyLM(), random_pairs(6, seed=1)
    before = copy.deepcopy(model.state_dict())
    model.embedding.weight.grad = torch.ones_like(model.embedding.weight)
    state = torch.get_rng_state()
    reader = GradientReader(model, buckets=64)
    first, second = reader.read(pairs, turns(6)), reader.read(pairs, turns(6))
    assert torch.equal(first.sketches, second.sketches)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(model.embedding.weight.grad, torch.ones(11, 8))
    assert model.mix.weight.grad is None
    assert all(module.training for module in model.modules())


def test_inference_mode_and_buffers() -> None:
    class WithBuffer(ToyLM):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("scale", torch.full((8,), 2.0))

        def forward(self, ids: Tensor) -> Tensor:
            self.seen = super().forward(ids) * self.scale.sum()
            return self.seen

    model, pairs = WithBuffer(), random_pairs(4, seed=2)
    reader = GradientReader(model, buckets=64)
    expected = reader.read(pairs, turns(4))
    with torch.inference_mode():
        # What was computed here cannot be used where gradients are, unless it is copied.
        model.scale.mul_(1.0)
        model(pairs[0][0][None])
        found = GradientReader(model, buckets=64).read(pairs, turns(4))
    assert torch.equal(found.sketches, expected.sketches)
    assert model.seen.is_inference()
    assert not found.sketches.is_inference()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_read_as_the_same_values_in_float32(gpt2: nn.Module, dtype: torch.dtype) -> None:
    half, pairs = copy.deepcopy(gpt2).to(dtype), encoded(TASKS[0].pairs[:4])
    expected = GradientReader(copy.deepcopy(half).float(), buckets=256).read(pairs, turns(4))
    found = GradientReader(half, buckets=256).read(pairs, turns(4))
    torch.testing.assert_close(found.sketches, expected.sketches)
    torch.testing.assert_close(found.margins, expected.margins)
    assert {one.dtype for one in half.parameters()} == {dtype}
    half.gradient_checkpointing_enable()
    half.train()
    again = GradientReader(half, buckets=256).read(pairs, turns(4))
    assert torch.equal(again.sketches, found.sketches)


def test_checkpointed_half_precision_runs_again_with_the_same_weights() -> None:
    class Checkpointed(ToyLM):
        def forward(self, ids: Tensor) -> Tensor:
            return torch.utils.checkpoint.checkpoint(super().forward, ids, use_reentrant=False)

    model, pairs = Checkpointed().bfloat16(), random_pairs(4, seed=3)
    expected = GradientReader(copy.deepcopy(model).float(), buckets=64).read(pairs, turns(4))
    torch.testing.assert_close(GradientReader(model, buckets=64).read(pairs, turns(4)).sketches, expected.sketches)


def test_text_has_the_gradient_of_its_log_probability() -> None:
    model, pairs = ToyLM(), random_pairs(3, seed=4)
    sentences = [pair[0] for pair in pairs]
    found = GradientReader(model, buckets=64).read_text(sentences)
    logits = [model.eval()(ids[None, :-1]).log_softmax(-1)[0] for ids in sentences]
    loss = -sum(row.gather(1, ids[1:, None]).sum() for row, ids in zip(logits, sentences, strict=True))
    gradient = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True, materialize_grads=True)
    torch.testing.assert_close(found, torch.cat([one.flatten() for one in gradient]).double(), rtol=1e-4, atol=1e-5)


class Sharded(nn.Parameter):
    """Looks like a parameter of FSDP 2."""

    def to_local(self) -> Tensor:
        return self.data


def test_what_cannot_be_read_is_named() -> None:
    model = ToyLM()
    model.head.weight = Sharded(model.head.weight.data)
    with pytest.raises(ValueError, match=r"'head.weight' is sharded over ranks.*such as 'ddp'"):
        GradientReader(model)
    with pytest.raises(ValueError, match="ToyLM has no parameter with `requires_grad`"):
        GradientReader(ToyLM().requires_grad_(False))
    for name in ("buckets", "sample", "batch_tokens"):
        with pytest.raises(ValueError, match=f"`{name}` must be at least 1, got 0"):
            GradientReader(ToyLM(), **{name: 0})
    with pytest.raises(ValueError, match="`halves` has 1 entries for 2 pairs"):
        GradientReader(ToyLM()).read(random_pairs(2, seed=0), [0])
    with pytest.raises(ValueError, match="`groups` gives 'all' for 'unused'"):
        group_names(ToyLM(), lambda name: "all")
    with pytest.raises(ValueError, match="no gradient reaches any"):
        GradientReader(ToyLM(), forward=lambda model, ids, mask: torch.zeros(*ids.shape, 11, requires_grad=True)).read(
            random_pairs(2, seed=0), [0, 1]
        )
    recurrent = nn.ModuleDict({"lstm": nn.LSTM(4, 4)}).bfloat16()
    with pytest.raises(ValueError, match="'lstm' is a recurrent module in half precision"):
        GradientReader(recurrent).read(random_pairs(1, seed=0), [0])
