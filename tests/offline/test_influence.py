"""Influence functions: beside explicit matrices and retraining, on every kind of model, and the model left alone."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from example_files import ROOT, load
from reference import influence as plain
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset

from lightning_interp import Influence, influence
from lightning_interp.models import small_gpt2
from lightning_interp.sites.linear_layers import linear_layers
from tests.toy import Tagger, loader

METHODS = ("ekfac", "exact", "gradient_dot", "cosine")


def small(dropout: float = 0.5) -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Dropout(dropout), nn.Linear(5, 3, bias=False)).double()


def examples(number: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(number, 4, dtype=torch.float64, generator=draw), torch.randint(3, (number,), generator=draw)


def in_batches(data: tuple[Tensor, ...], size: int) -> list[tuple[Tensor, ...]]:
    return list(zip(*(one.split(size) for one in data), strict=True))


def gradients(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Row by row, in the order of the parameters."""
    losses = [lambda i=i: nn.functional.cross_entropy(model(x[i : i + 1]), y[i : i + 1]) for i in range(len(x))]
    return plain.gradients(losses, list(model.parameters()))


def of(model: nn.Module, train: Any, queries: Any, method: Any, **how: Any) -> Influence:
    return influence(model, train, queries, method=method, progress=False, **how)


# ------------------------------------------------- the numbers


@pytest.mark.parametrize("method", ["exact", "gradient_dot", "cosine"])
def test_scores_are_those_of_explicit_matrices(method: str) -> None:
    model, train, queries = small().eval(), examples(9), examples(5, 1)
    damping = 0.03 if method == "exact" else None
    found = of(model, in_batches(train, 4), in_batches(queries, 2), method, damping=damping, query_batch=3)
    G, q = gradients(model, *train), gradients(model, *queries)
    if method == "cosine":
        expected = nn.functional.normalize(q) @ nn.functional.normalize(G).T
    elif method == "gradient_dot":
        expected = q @ G.T / 9
    else:
        F = plain.gauss_newton(lambda: model(train[0]), list(model.parameters())) / 9
        expected = q @ torch.linalg.solve(F + damping * torch.eye(len(F)), G.T) / 9
    assert torch.allclose(found.scores.double(), expected, atol=1e-6)
    losses = nn.functional.cross_entropy(model(train[0]), train[1], reduction="none")
    assert torch.allclose(found.losses.double(), losses, atol=1e-6)
    assert found.labels.equal(train[1])
    assert found.query_labels.equal(queries[1])


@pytest.mark.parametrize("method", METHODS)
def test_batches_of_another_size_give_the_same(method: str) -> None:
    model, train, queries = small(), examples(9), examples(5, 1)
    one = of(model, in_batches(train, 9), in_batches(queries, 5), method)
    other = of(model, in_batches(train, 2), in_batches(queries, 1), method, query_batch=2)
    assert torch.allclose(one.scores, other.scores, rtol=1e-5, atol=1e-9)
    assert torch.allclose(one.nearest, other.nearest)


def test_ekfac_of_independent_factors_is_exact() -> None:
    # Two classes that are as probable whatever the input is: δ is ± ½ by chance, independent of a.
    model = nn.Linear(3, 2, bias=False).double()
    nn.init.zeros_(model.weight)
    x = torch.randn(4000, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * torch.tensor(
        [1, 2, 0.5]
    )
    train, queries = (x, x[:, 0].gt(0).long()), (x[:20], x[:20, 1].gt(0).long())
    exact, approximate = (
        of(model, in_batches(train, 1000), [queries], method, damping=0.05, scores="logits")
        for method in ("exact", "ekfac")
    )
    assert correlation(exact.scores, approximate.scores) > 0.995
    slope = (exact.scores * approximate.scores).sum() / exact.scores.square().sum()
    assert float(slope) == pytest.approx(1, abs=0.05)


def correlation(one: Tensor, other: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([one.flatten(), other.flatten()]).double())[0, 1])


def test_more_draws_come_closer_to_the_exact_scores() -> None:
    torch.manual_seed(0)
    train, queries = examples(60), examples(20, 1)
    model = trained(small(0.0), *train)
    exact = of(model, [train], [queries], "exact").scores
    agrees = {
        draws: [
            correlation(of(model, [train], [queries], "ekfac", draws=draws, seed=seed).scores, exact) for seed in (0, 1)
        ]
        for draws in (1, 64)
    }
    assert min(agrees[64]) > max(agrees[1])


def test_damping_by_default_is_a_tenth_of_the_mean_curvature_for_both() -> None:
    model, train = small(), examples(4000)
    exact, approximate = (of(model, in_batches(train, 1000), [examples(1, 1)], method) for method in ("exact", "ekfac"))
    F = plain.gauss_newton(lambda: model.eval()(train[0][:300]), list(model[3].parameters())) / 300
    assert exact.damping["3"] == pytest.approx(0.1 * float(F.diag().mean()), rel=0.1)
    for layer in ("0", "3"):
        assert approximate.damping[layer] == pytest.approx(exact.damping[layer], rel=0.1)
    assert of(model, [train], [train], "gradient_dot").damping == {}


def test_duplicates_share_their_influence() -> None:
    x, y = examples(8)
    x, y = torch.cat([x, x[:1]]), torch.cat([y, y[:1]])
    for method in METHODS:
        found = of(small(), [(x, y)], [examples(3, 1)], method)
        assert torch.allclose(found.scores[:, 0], found.scores[:, 8], rtol=1e-6), method


def test_a_query_that_is_a_training_example_is_helped_by_it() -> None:
    train = examples(9)
    for method in METHODS:
        scores = of(small(), [train], [train], method).scores
        assert bool((scores.diag() > 0).all()), method
    assert torch.allclose(of(small(), [train], [train], "cosine").scores.diag(), torch.ones(9))


@pytest.fixture(scope="module")
def study() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "benchmarks")
        return load("influence", ROOT / "benchmarks")


@pytest.mark.slow
def test_scores_are_what_a_retraining_without_the_example_gives(study: Any) -> None:
    for seed in (0, 1):
        data = study.digits(seed)
        truth = study.left_out(data)
        found = {name: study.agreement(scores, truth)[0] for name, scores in study.methods(data, seed).items()}
        nearest = found["nearest inputs of the same label"]
        assert found["`exact`, damping the weight decay"] > 0.98
        assert found["`ekfac`, damping the weight decay"] > 0.9
        assert found["`ekfac`, damping the weight decay"] > found["`ekfac`, damping by default"] > nearest + 0.3
        assert found["`gradient_dot`"] > nearest
        assert abs(found["random scores"]) < 0.05


def test_the_unit_is_the_rise_of_the_loss(study: Any) -> None:
    data = study.digits(0, number=40, queries=10)
    scores = study.methods(data, 0)["`exact`, damping the weight decay"].double()
    assert torch.allclose(scores, study.counted_less(data, 1e-4), rtol=1e-2, atol=1e-5)


def test_kronfluence_agrees(study: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    analyzer = pytest.importorskip("kronfluence.analyzer")
    arguments = pytest.importorskip("kronfluence.arguments")
    task = pytest.importorskip("kronfluence.task").Task

    class Classify(task):
        def compute_train_loss(self, batch: Any, model: nn.Module, sample: bool = False) -> Tensor:
            logits = model(batch[0])
            y = torch.multinomial(logits.detach().softmax(1), 1).flatten() if sample else batch[1]
            return nn.functional.cross_entropy(logits, y, reduction="sum")

        def compute_measurement(self, batch: Any, model: nn.Module) -> Tensor:
            return self.compute_train_loss(batch, model)

    torch.manual_seed(0)
    monkeypatch.chdir(tmp_path)
    data = study.digits(0, number=400)
    x, y, query_x, query_y = data.x.float(), data.y, data.query_x.float(), data.query_y
    # Not to the end: of a model that is sure of everything, what is drawn decides.
    model = trained(nn.Sequential(nn.Linear(65, 16), nn.ReLU(), nn.Linear(16, 3)), x, y, steps=20)
    ours = of(model, [(x, y)], [(query_x, query_y)], "ekfac", damping=1e-2)
    own = Classify()
    other = analyzer.Analyzer(
        analysis_name="digits",
        model=analyzer.prepare_model(model, own),
        task=own,
        cpu=True,
        disable_tqdm=True,
        output_dir=str(tmp_path),
    )
    sets = TensorDataset(x, y), TensorDataset(query_x, query_y)
    how = arguments.FactorArguments(strategy="ekfac")
    other.fit_all_factors("factors", sets[0], per_device_batch_size=50, factor_args=how)
    given = {"query_dataset": sets[1], "train_dataset": sets[0], "per_device_query_batch_size": 50}
    settings = arguments.ScoreArguments(damping_factor=1e-2)
    other.compute_pairwise_scores("scores", "factors", **given, per_device_train_batch_size=50, score_args=settings)
    theirs = other.load_pairwise_scores("scores")["all_modules"] / len(x)
    assert correlation(ours.scores, theirs) > 0.95
    slope = float((ours.scores * theirs).sum() / ours.scores.square().sum())
    assert 0.8 < slope < 1.25


def trained(model: nn.Module, x: Tensor, y: Tensor, steps: int = 100) -> nn.Module:
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2, weight_decay=1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model.eval()


# ------------------------------------------------- kinds of models


class Words(nn.Module):
    """Words classified by what is nearby; padding is 0."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.mix, self.head = nn.Embedding(7, 6), nn.Linear(6, 6), nn.Linear(6, 4)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        hidden = self.embedding(input_ids)
        mean = (hidden * attention_mask[..., None]).sum(1, keepdim=True) / attention_mask.sum(1)[:, None, None]
        return {"logits": self.head(torch.tanh(self.mix(hidden) + mean))}


def tagged(number: int, length: int, seed: int) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, 7, (number, length), generator=draw)
    mask = (torch.arange(length) < torch.randint(2, length + 1, (number, 1), generator=draw)).long()
    return {
        "input_ids": ids * mask,
        "attention_mask": mask,
        "tags": torch.randint(4, ids.shape, generator=draw).masked_fill(mask == 0, -100),
    }


@pytest.mark.parametrize("method", ["exact", "gradient_dot"])
def test_sequences_with_padding_are_sums_over_their_targets(method: str) -> None:
    torch.manual_seed(0)
    model, train, queries = Words().double(), tagged(6, 5, 0), tagged(3, 4, 1)
    damping = 0.1 if method == "exact" else None
    found = of(model, [train], [queries], method, target="tags", damping=damping)
    names = ["mix.weight", "mix.bias", "head.weight", "head.bias"]
    parameters = plain.parameters_of(model, names)

    def loss(batch: dict[str, Tensor], row: int) -> Tensor:
        logits = model(batch["input_ids"][row : row + 1], batch["attention_mask"][row : row + 1])["logits"][0]
        return nn.functional.cross_entropy(logits, batch["tags"][row], reduction="sum", ignore_index=-100)

    G, q = (
        plain.gradients([lambda r=row, b=batch: loss(b, r) for row in range(len(batch["tags"]))], parameters)
        for batch in (train, queries)
    )
    expected = q @ G.T / 6
    if method == "exact":
        rows = train["tags"] != -100
        F = plain.gauss_newton(lambda: model(train["input_ids"], train["attention_mask"])["logits"][rows], parameters)
        expected = q @ torch.linalg.solve(F / 6 + 0.1 * torch.eye(len(F)), G.T) / 6
    assert torch.allclose(found.scores.double(), expected, atol=1e-6)
    assert found.left_out == {"embedding.weight": "Embedding is neither Linear, Conv2d nor Conv1D"}
    assert found.labels is None
    words = [set(row[row > 0].tolist()) for row in train["input_ids"]]
    asked = [set(row[row > 0].tolist()) for row in queries["input_ids"]]
    shared = torch.tensor([[bool(one & other) for other in words] for one in asked])
    assert torch.equal(found.nearest > 0, shared)


@pytest.mark.parametrize("method", ["ekfac", "gradient_dot"])
def test_more_padding_changes_nothing(method: str) -> None:
    torch.manual_seed(0)
    model, train, queries = Words(), tagged(6, 5, 0), tagged(3, 4, 1)
    wide = {name: nn.functional.pad(one, (0, 3), value=-100 if name == "tags" else 0) for name, one in train.items()}
    one, other = (of(model, [batch], [queries], method, target="tags") for batch in (train, wide))
    assert torch.allclose(one.scores, other.scores, rtol=1e-4, atol=1e-7)


def texts(number: int, seed: int) -> list[dict[str, Tensor]]:
    ids = torch.randint(0, 11, (number, 6), generator=torch.Generator().manual_seed(seed))
    return [{"input_ids": part, "attention_mask": torch.ones_like(part)} for part in ids.split(3)]


def test_gpt2_is_read_as_it_is_and_with_linear_layers() -> None:
    torch.manual_seed(0)
    model = small_gpt2(range(11), 8, layers=2, heads=2, length=6, dropout=0.2)
    how: dict[str, Any] = {"target": "input_ids", "shift": 1}
    found = of(model, texts(7, 0), texts(4, 1), "ekfac", **how)
    assert found.scores.shape == (4, 7)
    assert found.layers[0] == "transformer.h.0.attn.c_attn"
    assert len(found.layers) == 8
    assert found.left_out["lm_head.weight"] == "its weight is tied to 'transformer.wte.weight'"
    read, every = found.parameters
    assert read == sum(p.numel() for layer in found.layers for p in model.get_submodule(layer).parameters())
    assert every == sum(p.numel() for p in model.parameters())
    for name, module in list(model.named_modules()):
        if type(module).__name__ == "Conv1D":
            layer = nn.Linear(*module.weight.shape)
            layer.weight.data, layer.bias.data = module.weight.data.T.clone(), module.bias.data.clone()
            parent, _, own = name.rpartition(".")
            setattr(model.get_submodule(parent), own, layer)
    other = of(model, texts(7, 0), texts(4, 1), "ekfac", **how)
    assert torch.allclose(found.scores, other.scores, rtol=1e-3, atol=1e-6)
    only = of(model, texts(7, 0), texts(4, 1), "ekfac", layers="transformer.h.*.mlp.*", **how)
    assert [name.rpartition(".")[2] for name in only.layers] == ["c_fc", "c_proj"] * 2


def test_a_fact_is_known_from_the_texts_that_say_it() -> None:
    # 8 facts "a subject, a relation, an object", each said 3 times among other words; a query asks for the object.
    torch.manual_seed(0)
    facts = torch.tensor([[subject, 8 + subject % 2, 10 + (5 * subject) % 8] for subject in range(8)])
    said = torch.cat([torch.randint(18, 24, (24, 3)), facts.repeat(3, 1)], 1)
    model = small_gpt2(range(24), 32, layers=2, heads=2, length=6)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        model(said, labels=said).loss.backward()
        optimizer.step()
    words = torch.randint(18, 24, (8, 3))
    asked = torch.cat([words, facts], 1)
    queries = {"input_ids": asked, "labels": asked.masked_fill(torch.arange(6) < 5, -100)}
    train = [{"input_ids": part, "labels": part} for part in said.split(7)]
    how: dict[str, Any] = {"target": "labels", "shift": 1, "layers": "**.mlp.*"}
    found, without = (of(model, train, [queries], method, **how) for method in ("ekfac", "cosine"))
    shares = [
        sum(one.example % 8 == query for query in range(8) for one in scores.top(query, 3).proponents) / 24
        for scores in (found, without)
    ]
    assert shares[0] > 0.9  # by chance 1/8
    assert shares[0] > shares[1] > 0.3
    first = [found.by_source([i % 8 for i in range(24)], query)[0] for query in range(8)]
    assert [row["source"] for row in first] == list(range(8))
    assert all(row["deviations"] > 3 and row["mean"] > 0 for row in first)


def test_images_through_convolutions_and_batch_norm() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(True), nn.Flatten(), nn.Linear(3 * 16, 2))
    model[1].running_mean.normal_()
    x, y = torch.randn(8, 1, 6, 6), torch.randint(2, (8,))
    found = of(model, [(x, y)], [(x[:2], y[:2])], "gradient_dot", layers=["0", "4"])
    model.eval()
    losses = [lambda i=i: nn.functional.cross_entropy(model(x[i : i + 1]), y[i : i + 1]) for i in range(8)]
    G = plain.gradients(losses, [*model[0].parameters(), *model[4].parameters()])
    assert torch.allclose(found.scores, G[:2] @ G.T / 8, atol=1e-6)
    assert of(model, [(x, y)], [(x[:2], y[:2])], "ekfac").scores.isfinite().all()


def test_a_loss_of_ones_own_for_queries() -> None:
    model, train, queries = small(), examples(9), examples(3, 1)
    found = of(
        model, [train], [queries[0]], "gradient_dot", query_loss=lambda output, batch: output[:, 2] - output[:, 0]
    )
    model.eval()
    margins = [lambda i=i: (model(queries[0][i]) * torch.tensor([-1, 0, 1])).sum() for i in range(3)]
    expected = plain.gradients(margins, list(model.parameters())) @ gradients(model, *train).T / 9
    assert torch.allclose(found.scores.double(), expected, atol=1e-6)
    assert found.unit == "unit of `query_loss`"
    assert torch.allclose(found.nearest, (queries[0] @ train[0].T).float())
    with pytest.raises(ValueError, match=r"`query_loss` must return a number for each .*gave shape \(\)"):
        of(model, [train], [queries], "cosine", query_loss=lambda output, batch: output.sum())


def test_half_precision_is_read_as_a_float32_copy() -> None:
    model = small().bfloat16()
    same = small().bfloat16().float()
    train, queries = ((x.bfloat16().float(), y) for x, y in (examples(9), examples(3, 1)))
    one, other = (of(net, [train], [queries], "ekfac") for net in (model, same))
    assert torch.equal(one.scores, other.scores)
    assert all(parameter.dtype == torch.bfloat16 for parameter in model.parameters())


def test_one_logit_for_two_classes() -> None:
    torch.manual_seed(0)
    one = nn.Linear(4, 1).double()
    x, y = examples(8)[0], torch.tensor([0, 1, 1, 0, 1, 0, 0, 1])
    found = of(one, [(x, y)], [(x[:2], y[:2])], "gradient_dot")
    losses = [lambda i=i: nn.functional.binary_cross_entropy_with_logits(one(x[i])[0], y[i].double()) for i in range(8)]
    G = plain.gradients(losses, list(one.parameters()))
    assert torch.allclose(found.scores.double(), G[:2] @ G.T / 8, atol=1e-7)


# ------------------------------------------------- the model is left alone


@pytest.mark.parametrize("method", METHODS)
def test_the_model_is_left_as_it_was(method: str) -> None:
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Dropout(0.5), nn.Linear(5, 3)).double()
    model.train()
    model[2].eval()
    model[3].weight.grad = torch.ones(3, 5, dtype=torch.float64)
    model[0].register_forward_hook(lambda *given: None)
    before = {name: one.clone() for name, one in model.state_dict().items()}
    objects = dict(model.named_parameters())
    hooks, random = dict(model[0]._forward_hooks), torch.get_rng_state()
    with torch.inference_mode():
        inside = of(model, [examples(9)], [examples(3, 1)], method)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        again = of(model, in_batches(examples(9), 9), [examples(3, 1)], method)
    assert torch.equal(inside.scores, again.scores)
    assert torch.equal(random, torch.get_rng_state())
    assert all(torch.equal(one, before[name]) for name, one in model.state_dict().items())
    assert all(one is objects[name] for name, one in model.named_parameters())
    assert [module.training for module in model.modules()] == [True, True, True, False, True]
    assert torch.equal(model[3].weight.grad, torch.ones(3, 5, dtype=torch.float64))
    assert model[0].weight.grad is None
    assert dict(model[0]._forward_hooks) == hooks
    assert not any(module._forward_hooks for module in (model[1], model[2], model[3]))


def test_an_error_in_the_model_leaves_it_as_it_was() -> None:
    model = small().train()

    def broken(net: nn.Module, batch: Any) -> Tensor:
        net(batch[0])
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        of(model, [examples(4)], [examples(2)], "ekfac", forward=broken)
    assert model.training
    assert not any(module._forward_hooks for module in model.modules())


# ------------------------------------------------- what is refused


def test_data_that_change_between_passes_are_refused() -> None:
    x, y = examples(8)
    with pytest.raises(ValueError, match=r"`train` shuffles"):
        of(small(), DataLoader(TensorDataset(x, y), 4, shuffle=True), [(x, y)], "ekfac")
    with pytest.raises(ValueError, match=r"`queries` must be a DataLoader or another iterable .* got list_iterator"):
        of(small(), [(x, y)], iter([(x, y)]), "ekfac")

    class Augmented:
        def __init__(self, sizes: tuple[int, ...] = ()) -> None:
            self.passes, self.sizes = 0, sizes

        def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
            self.passes += 1
            number = self.sizes[self.passes - 1] if self.sizes else 8
            yield x[:number] * (1 if self.sizes else self.passes), y[:number]

    with pytest.raises(ValueError, match=r"`train` gave other losses from example 0 on: .* random augmentation"):
        of(small(), Augmented(), [(x, y)], "ekfac")
    with pytest.raises(ValueError, match=r"`train` gave .*(other losses|7 examples, where it gave 8)"):
        of(small(), Augmented((8, 7, 8)), [(x, y)], "ekfac")
    with pytest.raises(ValueError, match=r"`train` gave no batch"):
        of(small(), [], [(x, y)], "ekfac")


class Mixing(nn.Module):
    """A batch is normalised by its own mean, or has its examples in the second dimension."""

    def __init__(self, turned: bool) -> None:
        super().__init__()
        self.inner, self.turned = nn.Linear(4, 3), turned

    def forward(self, x: Tensor) -> Tensor:
        if not self.turned:
            return self.inner(x - x.mean(0))
        return self.inner(x[:, None].expand(-1, len(x), -1).transpose(0, 1)).mean(0)


@pytest.mark.parametrize("turned", [False, True])
def test_a_model_that_mixes_examples_is_refused(turned: bool) -> None:
    model = nn.Sequential(Mixing(turned), nn.Linear(3, 3)).double()
    if turned:
        with pytest.raises(ValueError, match=r"one example reaches others at layer '0.inner'"):
            of(model, [examples(6)], [examples(2)], "gradient_dot")
    else:
        # The mean is taken before the first layer: each example's loss reaches its own row alone.
        of(model, [examples(6)], [examples(2)], "gradient_dot")
        back = nn.Sequential(nn.Linear(4, 4), Mixing(False)).double()
        with pytest.raises(ValueError, match=r"one example reaches others at layer '0'"):
            of(back, [examples(6)], [examples(2)], "gradient_dot")


def test_layers_that_nothing_reaches_are_told_or_refused_by_name() -> None:
    class Unused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = nn.Linear(4, 3), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.used(x)

    model = Unused().double()
    for method in METHODS:
        found = of(model, [examples(6)], [examples(2)], method)
        assert found.layers == ("used",)
        why = "no gradient of the loss reaches it"
        assert found.left_out == {"unused.weight": why, "unused.bias": why}
        assert found.parameters == (15, 30)
        with pytest.raises(ValueError, match="no gradient of the loss reaches layer 'unused': the model does not"):
            of(model, [examples(6)], [examples(2)], method, layers=["used", "unused"])


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointed_blocks(reentrant: bool) -> None:
    class Block(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: Tensor) -> Tensor:
            return checkpoint(self.inner, x, use_reentrant=reentrant)

    model = small(0.0)
    plain_scores = of(model, [examples(6)], [examples(2)], "gradient_dot").scores
    block = nn.Sequential(Block(model[:3]), model[3])
    if not reentrant:
        assert torch.equal(of(block, [examples(6)], [examples(2)], "gradient_dot").scores, plain_scores)
        return
    found = of(block, [examples(6)], [examples(2)], "gradient_dot")
    assert found.left_out["0.inner.0.weight"] == "no gradient of the loss reaches it"
    assert found.layers == ("1",)
    with pytest.raises(ValueError, match=r"reaches layer '0.inner.0': .* a reentrant checkpoint"):
        of(block, [examples(6)], [examples(2)], "gradient_dot", layers=["0.inner.0", "1"])


def test_a_compiled_model_is_read_as_it_is_without() -> None:
    model, train, queries = small(), examples(6), examples(2, 1)
    compiled = torch.compile(model, backend="eager")
    compiled(train[0])
    expected = of(model, [train], [queries], "ekfac")
    for _ in range(2):
        found = of(compiled, [train], [queries], "ekfac")
        assert torch.equal(found.scores, expected.scores)
        assert found.layers == expected.layers


def test_a_forward_without_a_graph_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no gradient reaches any of the layers \['0', '3'\]: .*`torch.no_grad`"):
        of(small(), [examples(6)], [examples(2)], "cosine", forward=torch.no_grad()(lambda net, batch: net(batch[0])))


def test_transformers_of_torch_are_read_where_the_batch_comes_first() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), nn.Flatten(), nn.Linear(12, 3))
    x, y = torch.randn(6, 3, 4), torch.randint(3, (6,))
    found = of(model, [(x, y)], [(x[:2], y[:2])], "gradient_dot")
    assert found.layers == ("0.linear1", "0.linear2", "2")
    reason = "nn.MultiheadAttention uses its weight without calling it"
    assert found.left_out["0.self_attn.out_proj.weight"] == reason
    model.eval()
    losses = [lambda i=i: nn.functional.cross_entropy(model(x[i : i + 1]), y[i : i + 1]) for i in range(6)]
    read = plain.parameters_of(model, [f"{name}.{own}" for name in found.layers for own in ("weight", "bias")])
    G = plain.gradients(losses, read)
    assert torch.allclose(found.scores, G[:2] @ G.T / 6, atol=1e-5)


def test_a_lightning_module_and_a_loader() -> None:
    model, random = Tagger().eval(), torch.get_rng_state()
    found = influence(model, loader(seed=1), loader(seed=2), target="tags", layers=["head"], progress=False)
    assert found.layers == ("head",)
    assert found.scores.isfinite().all()
    assert torch.equal(random, torch.get_rng_state())


def test_sharded_models_are_refused() -> None:
    model = small()
    model[0].weight.to_local = lambda: None  # as DTensor has it
    with pytest.raises(ValueError, match=r"parameter '0.weight' is sharded over ranks, and gradients of single"):
        of(model, [examples(4)], [examples(2)], "ekfac")


def test_arguments() -> None:
    data = [examples(4)]
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"method": "kfac"}, r"`method` must be one of \['ekfac', 'exact', 'gradient_dot', 'cosine'\], got 'kfac'"),
        ({"method": "cosine", "damping": 0.1}, r"for 'ekfac' or 'exact'; got 0.1 for 'cosine'"),
        ({"method": "ekfac", "damping": -1.0}, r"`damping` must be at least 0"),
        ({"method": "ekfac", "damping": math.nan}, r"`damping` must be at least 0"),
        ({"method": "ekfac", "query_batch": 0}, r"`query_batch` must be at least 1, got 0"),
        ({"method": "ekfac", "draws": 0}, r"`draws` must be at least 1, got 0"),
        ({"method": "exact", "max_parameters": 39}, r"up to `max_parameters`=39 parameters, and 2 layers have 40"),
        ({"method": "exact", "damping": 0.0}, r"`damping` of 0 to 0 does not make the matrix positive"),
        ({"method": "ekfac", "target": "labels"}, r"`target` points to 'labels', which is not in the batch"),
        ({"method": "ekfac", "inputs": "pixels"}, r"`inputs` points to 'pixels'"),
        ({"method": "ekfac", "layers": "head"}, r"layers='head' matches no module"),
    ]
    for how, message in wrong:
        with pytest.raises(ValueError, match=message):
            influence(small(), data, data, progress=False, **how)
    with pytest.raises(ValueError, match=r"1 targets of `train` are no class of the logits"):
        of(small(), [(examples(2)[0], torch.tensor([0, 3]))], data, "ekfac")
    with pytest.raises(ValueError, match=r"2 predictions of `train` are not finite"):
        of(small(), [(examples(2)[0] * math.nan, torch.tensor([0, 1]))], data, "ekfac")
    with pytest.raises(TypeError, match=r"`forward` is called with \(model, batch\)"):
        of(small(), data, data, "ekfac", forward=lambda batch: batch)


# ------------------------------------------------- what is made of it


@pytest.fixture(scope="module")
def found() -> Influence:
    return of(small(), in_batches(examples(9), 4), [examples(3, 1)], "exact")


def test_proponents_and_opponents(found: Influence) -> None:
    top = found.top(1, k=3)
    scores = found.scores[1]
    assert [one.example for one in top.proponents] == scores.argsort(descending=True)[:3].tolist()
    assert [one.example for one in top.opponents] == scores.argsort()[:3].tolist()
    assert all(one.score == float(scores[one.example]) for one in (*top.proponents, *top.opponents))
    every = found.top(1, k=20)
    assert len(every.proponents) == int((scores > 0).sum())
    assert len(every.opponents) == int((scores < 0).sum())
    with pytest.raises(ValueError, match="`query` must be one of 3 queries, got 3"):
        found.top(3)
    with pytest.raises(ValueError, match="`k` must be at least 1, got 0"):
        found.top(0, 0)
    assert "3 queries, 9 training examples, method='exact', 2 layers, 40 of 40" in repr(found)


def test_a_table_of_texts(found: Influence) -> None:
    text = found.table(0, 2, examples=lambda i: f"a | text\nnumber {i}", queries=["one?", "two?", "three?"])
    lines = text.splitlines()
    assert re.match(r"Query 0 one\? \(loss [\d.]+, label \d\), exact", lines[0])
    assert lines[2] == "|  | example | label | loss (nats) | score (nats) | × typical | shown |"
    first = found.top(0).proponents[0]
    assert lines[4].startswith(f"| proponent 1 | {first.example} | {int(found.labels[first.example])} | ")
    assert f"{first.score:+.3g}" in lines[4]
    assert lines[4].endswith(f"a \\| text number {first.example} |")
    assert [line.split("|")[1].strip() for line in lines[4:]] == [
        "proponent 1", "proponent 2", "opponent 1", "opponent 2"
    ]  # fmt: skip
    typical = first.score / float(found.scores[0].square().mean().sqrt())
    assert f"| {typical:+.1f} |" in lines[4]
    assert "shown" not in found.table(0)


def test_influence_by_source_beside_permuted_sources() -> None:
    # Source "flipped" has wrong labels: what it teaches hurts the queries.
    torch.manual_seed(0)
    x = torch.randn(120, 4)
    right = (x[:, 0] > 0).long()
    sources = ["flipped" if i % 4 == 0 else ("a" if i % 2 else "b") for i in range(120)]
    y = torch.tensor(
        [1 - int(one) if source == "flipped" else int(one) for one, source in zip(right, sources, strict=True)]
    )
    model = trained(nn.Linear(4, 2), x, y)
    queries = torch.randn(50, 4)
    result = of(model, [(x, y)], [(queries, (queries[:, 0] > 0).long())], "exact", damping=0.01)
    rows = {row["source"]: row for row in result.by_source(sources)}
    assert rows["flipped"]["mean"] < 0 < rows["a"]["mean"]
    assert rows["flipped"]["deviations"] < -4
    assert rows["flipped"]["sum"] == pytest.approx(30 * rows["flipped"]["mean"])
    assert [row["examples"] for row in rows.values()] == [rows[name]["examples"] for name in rows]
    assert sum(row["sum"] for row in rows.values()) == pytest.approx(float(result.scores.mean(0).sum()), rel=1e-4)
    assert all(row["chance"] == pytest.approx(float(result.scores.mean()), abs=1e-8) for row in rows.values())
    order = torch.randperm(120, generator=torch.Generator().manual_seed(1)).tolist()
    permuted = result.by_source([sources[i] for i in order])
    assert all(abs(row["deviations"]) < 3.5 for row in permuted)
    assert result.by_source(sources, query=3) != result.by_source(sources)
    with pytest.raises(ValueError, match="`sources` must name one for each of 120 training examples, got 3"):
        result.by_source(["a", "b", "c"])
    assert math.isnan(result.by_source(["all"] * 120)[0]["deviations"])


def test_random_scores_are_the_same_each_time(found: Influence) -> None:
    assert found.random.shape == found.scores.shape
    assert torch.equal(found.random, found.random)
    assert len(found.random.unique()) == found.random.numel()


def test_nearest_inputs_need_inputs() -> None:
    class Objects(nn.Linear):
        def forward(self, pixels: Tensor) -> Tensor:
            return nn.functional.linear(pixels, self.weight, self.bias)

    x, y = examples(6)
    model = nn.Sequential(nn.Linear(4, 3)).double()
    batch = {"pixels": x, "labels": y}
    run = lambda net, given: net(given["pixels"])  # noqa: E731
    without = of(model, [batch], [batch], "gradient_dot", forward=run)
    given = of(model, [batch], [batch], "gradient_dot", forward=run, inputs="pixels")
    assert without.nearest is None
    same = y[:, None] == y
    assert torch.allclose(given.nearest, (x @ x.T * same).float())
    assert [layer.name for layer in linear_layers(model)[0]] == ["0"]
