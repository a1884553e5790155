"""Attention on a budget: nothing left out, a circuit set by hand, random weights, loops, errors, ranks, resuming."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from models.circuit import InductionCircuit, repeated_copies
from reference import attention_budget as plain
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader

from lightning_interp import AttentionBudget, analyze
from lightning_interp.functional.attention_budget import POLICIES
from lightning_interp.models import AttentionOnly
from lightning_interp.sites import CaptureError
from lightning_interp.sites.attention_tap import AttentionTap
from tests.callbacks.attending import LAYERS, Letters, Wrapped, loader, padded, texts
from tests.toy import timeless, trainer, validated

HEADS = {"first": "lm.heads.0", "second": "lm.heads.1"}
LEAST = 4


def budget(policies: dict[str, Sequence[int]], **kwargs: Any) -> AttentionBudget:
    given = {"model": "lm", "min_length": LEAST, "draw_figures": False, **kwargs}
    return AttentionBudget(policies=policies, **given)


def read(model: nn.Module, policies: dict[str, Sequence[int]], data: Any = None, **kwargs: Any) -> dict[str, float]:
    return analyze(model, loader() if data is None else data, budget(policies, **kwargs))


def losses_of(lm: nn.Module, row: list[int]) -> list[float]:
    """Losses of one text, in nats, from its middle on."""
    ids = torch.tensor([row])
    with torch.no_grad():
        output = lm.eval()(ids)
        logits = getattr(output, "logits", output)[0, :-1].double()
    return functional.cross_entropy(logits, ids[0, 1:], reduction="none").tolist()[len(row) // 2 :]


def long_enough(rows: list[list[int]]) -> list[list[int]]:
    return [row for row in rows if len(row) >= LEAST]


# ------------------------------------------------- what is left out


class SharpEncoder(nn.Module):
    """A causal model of ``nn.MultiheadAttention``."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(27, 12)
        self.attention = nn.MultiheadAttention(12, 3, batch_first=True)
        nn.init.normal_(self.attention.in_proj_weight, std=1.0)
        self.head = nn.Linear(12, 27)

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.embedding(input_ids)
        hidden = torch.ones(2 * x.shape[1:2], dtype=torch.bool).triu(1)
        return self.head(x + self.attention(x, x, x, attn_mask=hidden, need_weights=False)[0])


MODELS = {
    "sdpa": Letters,
    "eager": partial(Letters, attn_implementation="eager"),
    "nn.MultiheadAttention": lambda: Wrapped(SharpEncoder()),
}


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("left", [False, True])
def test_keys_that_are_all_kept_cost_nothing(kind: str, left: bool) -> None:
    rows, model = texts(20), MODELS[kind]()
    policies = {policy: [30, 500] for policy in POLICIES}
    data = [{**padded(rows, left), "marked": padded(rows, left)["input_ids"] == 3}]
    run = (lambda model, batch: model.lm(batch["input_ids"])) if kind == "nn.MultiheadAttention" else None
    callback = budget(policies, anchors="marked")
    found = analyze(model, data, callback, forward=run)
    lost = [loss for row in long_enough(rows) for loss in losses_of(model.lm, row)]
    assert found["budget_loss_full"] == pytest.approx(math.fsum(lost) / len(lost), abs=1e-6)
    assert found["budget_texts"] == len(long_enough(rows))
    for policy in POLICIES:
        for k in (30, 500):
            assert found[f"budget_loss/{policy}/{k}"] == pytest.approx(0, abs=1e-6)
            assert found[f"kept_mass/{policy}/{k}"] == pytest.approx(1, abs=1e-6)
            assert found[f"kept_mass_chance/{policy}/{k}"] == 1


@pytest.mark.parametrize("kind", MODELS)
def test_something_is_left_out_whatever_calls_attention(kind: str) -> None:
    model = MODELS[kind]()
    run = (lambda model, batch: model.lm(batch["input_ids"])) if kind == "nn.MultiheadAttention" else None
    found = analyze(model, loader(), budget({"recent": [1], "top": [1, 3]}, baseline=False), forward=run)
    assert abs(found["budget_loss/recent/1"]) > 1e-3
    assert found["kept_mass/recent/1"] < found["kept_mass/top/1"] < found["kept_mass/top/3"] < 1


def test_a_circuit_that_was_set_by_hand() -> None:
    copies = repeated_copies(6, 12, 3, 60)
    data = [{"input_ids": copies, "attention_mask": torch.ones_like(copies)}]
    model = Wrapped(InductionCircuit(60, 37))
    policies = {"top": [1], "recent": [4], "recent_first": [4], "random": [4], "anchors": [1]}
    data[0]["marked"] = torch.ones_like(copies)
    found = read(model, policies, data, sites=HEADS, baseline=False, anchors="marked")
    assert found["budget_loss_full"] == pytest.approx(0, abs=1e-3)
    assert found["budget_loss/top/1"] == pytest.approx(0, abs=1e-3)
    # The second head of the 11 queries in the last copy looks at both others, that of the 7 before at the one there is.
    assert found["kept_mass/top/1"] == pytest.approx((1 + (7 + 11 / 2) / 18) / 2, abs=1e-4)
    assert found["budget_loss/recent/4"] > 3
    assert found["budget_loss/recent_first/4"] > 3
    assert found["budget_loss/random/4"] > 3
    assert found["budget_loss/anchors/1"] == pytest.approx(0, abs=1e-6)


def test_the_last_twelve_keys_are_enough_for_copies_of_twelve() -> None:
    copies = repeated_copies(6, 12, 3, 60)
    data = [{"input_ids": copies, "attention_mask": torch.ones_like(copies)}]
    found = read(Wrapped(InductionCircuit(60, 37)), {"recent": [11, 12]}, data, sites=HEADS, baseline=False)
    assert found["budget_loss/recent/12"] == pytest.approx(0, abs=1e-3)
    assert found["budget_loss/recent/11"] > 3


def test_with_random_weights_no_policy_matters() -> None:
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(0, 64, (8, 64), generator=generator)
    data = [{"input_ids": ids, "attention_mask": torch.ones_like(ids)}]
    policies = {policy: [4] for policy in ("top", "recent", "recent_first", "random")}
    found = read(Wrapped(AttentionOnly(64, layers=2)), policies, data)
    assert found["budget_loss_full"] == pytest.approx(math.log(64), abs=0.3)
    for policy in policies:
        assert abs(found[f"budget_loss/{policy}/4"]) < 0.05
        assert abs(found[f"budget_loss_baseline/{policy}/4"]) < 0.05
        above = found[f"budget_loss/{policy}/4"] - found[f"budget_loss_baseline/{policy}/4"]
        assert found[f"budget_loss_above_baseline/{policy}/4"] == above


# ------------------------------------------------- loops


def by_hand(lm: nn.Module, rows: list[list[int]], policy: str, k: int, marked: int = -1) -> tuple[float, float, float]:
    """Rise of the loss, share of attention and share of keys kept, one text, head and query after another."""
    sites = {str(layer): f"transformer.h.{layer}.attn" for layer in range(2)}
    tap, rise, mass, share = AttentionTap(lm, sites), [], [], []
    for row in rows:
        marks = [place for place, token in enumerate(row) if token == marked]

        def chosen(weights: Sequence[float], query: int, marks: list[int] = marks) -> set[int]:
            return plain.kept(weights, list(range(query + 1)), policy, k, first=[0], marked=marks)

        def weigh(site: str, call: Any, row: list[int] = row, chosen: Any = chosen) -> None:
            for head in call.weights[0].tolist():
                for query in range(len(row) // 2, len(row) - 1):
                    keys = chosen(head[query], query)
                    mass.append(plain.mass(head[query], range(query + 1), keys))
                    share.append(len(keys) / (query + 1))

        def replace(site: str, call: Any, chosen: Any = chosen) -> Tensor:
            return torch.tensor(
                [
                    [plain.shared_out(one, chosen(one, query)) for query, one in enumerate(head)]
                    for head in call.weights[0].tolist()
                ]
            )[None]

        with tap.reading(weigh):
            whole = losses_of(lm, row)
        with tap.reading(replace=replace):
            rise += [after - before for after, before in zip(losses_of(lm, row), whole, strict=True)]
    return tuple(math.fsum(one) / len(one) for one in (rise, mass, share))


@pytest.mark.parametrize("left", [False, True])
def test_a_loop_gives_the_same(left: bool) -> None:
    rows, model = texts(16, 5), Letters()
    cases = [("top", 2), ("recent", 2), ("recent_first", 1), ("anchors", 1)]
    data = [{**padded(some, left), "marked": padded(some, left)["input_ids"] == 3} for some in (rows[:7], rows[7:])]
    found = read(model, {policy: [k] for policy, k in cases}, data, anchors="marked", baseline=False)
    kept = long_enough(rows)
    for policy, k in cases:
        rise, mass, share = by_hand(model.lm, kept, policy, k, marked=3)
        assert found[f"budget_loss/{policy}/{k}"] == pytest.approx(rise, abs=1e-5)
        assert found[f"kept_mass/{policy}/{k}"] == pytest.approx(mass, abs=1e-6)
        assert found[f"kept_mass_chance/{policy}/{k}"] == pytest.approx(share, abs=1e-6)
        assert abs(rise) > 1e-4


def test_neither_batches_nor_padding_change_what_is_read() -> None:
    rows, model = texts(20), Letters()
    policies = {"top": [2], "recent_first": [2], "random": [2]}
    whole = read(model, policies, loader(rows, batch_size=20))
    for other in (
        read(model, policies, loader(rows, left=True, batch_size=3)),
        read(model, policies, loader(rows), batch_tokens=1),
    ):
        assert other == pytest.approx(whole, abs=1e-5)
    again = read(model, policies, loader(rows, batch_size=20), seed=1, baseline=False)
    assert again["budget_loss/random/2"] != whole["budget_loss/random/2"]
    assert again["budget_loss/top/2"] == whole["budget_loss/top/2"]


def test_texts_are_those_of_max_examples_that_are_long_enough() -> None:
    rows = [[1, 2, 3]] * 5 + [[1, 2, 3, 4, 5]] * 5
    assert read(Letters(), {"top": [1]}, loader(rows))["budget_texts"] == 5
    assert read(Letters(), {"top": [1]}, loader(rows), max_examples=4)["budget_texts"] == 2
    found = read(Letters(), {"top": [1]}, loader(rows), min_length=20)
    assert found == {"budget_texts": 0}, "the others are undefined"


# ------------------------------------------------- errors


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"policies": {"best": [3]}}, r"`policies` names 'best'; there are \['top', 'recent', .*'random'\]"),
        ({"policies": {}}, r"`policies` must map policies to numbers of keys, {'top': \[8\]}; got {}"),
        ({"policies": ["top"]}, r"`policies` must map policies to numbers of keys.*got \['top'\]"),
        ({"policies": {"top": 8}}, "`policies` must list numbers of keys from 1 on for 'top', got 8"),
        ({"policies": {"top": [0]}}, r"from 1 on for 'top', got \[0\]"),
        ({"policies": {"top": [True]}}, r"from 1 on for 'top', got \[True\]"),
        ({"policies": {"top": []}}, r"from 1 on for 'top', got \[\]"),
        ({"policies": {"anchors": [4]}}, r"both are given or none; got None and the policies \['anchors'\]"),
        ({"anchors": "marked"}, r"got 'marked' and the policies \['recent_first', 'top'\]"),
        ({"first": 0}, "`first` must be at least 1, got 0"),
        ({"min_length": 2}, "`min_length` must be at least 3, got 2"),
        ({"batch_tokens": 0}, "`batch_tokens` must be at least 1, got 0"),
        ({"baseline": 3}, "`baseline` must be True, False, None or a function"),
    ],
)
def test_arguments(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AttentionBudget(**kwargs)


def attends_to_others(lm: nn.Module, _: Any) -> None:
    lm.beside(torch.full((1, 1, 3, 5), 0.2))


class ToOthers(Letters):
    """A site beside the model's own attends to something else than the text."""

    def __init__(self) -> None:
        super().__init__()
        self.lm.beside = nn.Identity()
        self.lm.register_forward_pre_hook(attends_to_others)


def test_what_a_batch_or_a_model_lacks_is_told() -> None:
    with pytest.raises(ValueError, match="has no padding mask"):
        read(Letters(), {"top": [1]}, [{"input_ids": torch.ones(2, 5, dtype=torch.long)}])
    with pytest.raises(ValueError, match="`anchors` points to 'marked', which is not in the batch"):
        read(Letters(), {"anchors": [1]}, anchors="marked")
    with pytest.raises(ValueError, match=r"`anchors` must lead to a mask \(B, T\) = \(4, \d+\), got \(4,\)"):
        read(Letters(), {"anchors": [1]}, anchors=lambda batch: batch["input_ids"][:, 0])
    with pytest.raises(ValueError, match="`model` is 'nothing'"):
        analyze(Letters(), loader(), budget({"top": [1]}, model="nothing", sites=LAYERS))
    with pytest.raises(CaptureError, match="no attention was seen at 'a'"):
        read(Letters(), {"top": [1]}, sites={"a": "lm.transformer.h.0.mlp"}, baseline=False)
    with pytest.raises(ValueError, match=r"'a' attends with 3 queries of 1 texts to 5 keys.*leave it out of `sites`"):
        read(ToOthers(), {"top": [1]}, sites={"a": "lm.beside"}, baseline=False)

    class Classes(Letters):
        def __init__(self) -> None:
            super().__init__()
            self.lm.lm_head = nn.Linear(12, 3)

    with pytest.raises(ValueError, match=r"the text has the id \d+, and the logits of 'lm' are of 3 tokens"):
        analyze(Classes(), loader(), budget({"top": [1]}, baseline=False), forward=lambda model, batch: None)


# ------------------------------------------------- in a Trainer


def small(**kwargs: Any) -> AttentionBudget:
    return budget({"top": [2], "recent_first": [2], "random": [2]}, max_examples=12, **kwargs)


def test_the_baseline_is_read_once_and_resuming_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, first, second = small(draw_figures=True), small(), small()
    rows = DataLoader(texts(24, 3), batch_size=4, collate_fn=padded)
    for callback, epochs, path in ((whole, 2, None), (first, 1, None), (second, 2, "a.ckpt")):
        model = Letters(1 if path else 0)
        torch.manual_seed(1)
        run = trainer(tmp_path, [callback], max_epochs=epochs)
        resumed = {} if path is None else {"ckpt_path": tmp_path / path, "weights_only": False}
        run.fit(model, rows, loader(), **resumed)
        if callback is first:
            run.save_checkpoint(tmp_path / "a.ckpt")
    assert timeless(second)[0] == timeless(whole)[0]
    baseline = "budget_loss_baseline/top/2"
    assert second.reading[baseline] == whole.reading[baseline] == first.reading[baseline]
    assert whole.history.series("budget_loss/top/2")[1][0] != whole.reading["budget_loss/top/2"]
    pictures = whole.figures()
    assert set(pictures) == {"attention/budget"}
    assert len(pictures["attention/budget"]().axes) >= 3
    assert small().figures() == {}


def test_other_texts_have_another_baseline(tmp_path: Path) -> None:
    class Other(Letters):
        def val_dataloader(self) -> Any:
            return loader(texts(11, self.current_epoch))

    callback = small()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer(tmp_path, [callback], reload_dataloaders_every_n_epochs=1).fit(Other(), loader(texts(24, 3)))
    assert sum("budget_loss_baseline is of those" in str(one.message) for one in caught) == 1
    _, values = callback.history.series("budget_loss_baseline/top/2")
    assert len(values) == 2
    assert values[0] != values[1]


def over_ranks() -> dict[str, float]:
    callback = small()
    return validated(callback, Letters(), loader(batch_size=2))


def test_ranks_read_what_one_process_reads(ranks: Any) -> None:
    alone = over_ranks()
    first, *others = ranks.run(over_ranks)
    assert alone["budget_texts"] > 6
    assert first == pytest.approx(alone, abs=1e-6)
    assert all(other == first for other in others)
