"""Whether rankings say what predictions need: an exact bag, a planted cue, random rankings, errors, ranks."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_interp import Faithfulness, analyze
from lightning_interp.functional.faithfulness import FRACTIONS
from lightning_interp.metrics.measures.ablation import FAITHFULNESS
from lightning_interp.parts.ablated_texts import Without
from tests.callbacks.attending import Letters, loader, padded, texts
from tests.callbacks.planted_cue import CUES, Classifier, cued, trained
from tests.toy import trainer, validated

NAMES = [one.name for one in FAITHFULNESS]


def faithfulness(rank: Any = "ablation", without: Any = "hide", **kwargs: Any) -> Faithfulness:
    given = {"mask_token_id": 2} if without == "replace" else {}
    return Faithfulness(rank, without, **{"draw_figures": False, **given, **kwargs})


def noise(seed: int) -> Any:
    """Scores that have nothing to do with the text."""
    generator = torch.Generator().manual_seed(seed)
    return lambda model, ids, mask: torch.rand(ids.shape, generator=generator)


def read(model: nn.Module, data: Any, callback: Faithfulness) -> dict[str, float]:
    """By measure."""
    return named(analyze(model, data, callback))


def named(values: dict[str, float]) -> dict[str, float]:
    return {key.split("/")[0]: value for key, value in values.items() if not key.startswith("seconds/")}


# ------------------------------------------------- exact


class Bag(nn.Module):
    """Two logits, (0, Σ v), of a bag of numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 1)
        with torch.no_grad():
            self.embedding.weight.copy_(torch.linspace(-1, 1.5, 20)[:, None])

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        total = (self.embedding(input_ids)[..., 0] * attention_mask).sum(1)
        return torch.stack([torch.zeros_like(total), total], 1)


ROWS = [[5, 9, 17, 3, 1, 19, 18], [4, 6, 19], [11, 12, 13, 14, 15], [6, 3]]


def by_hand(row: list[int], v: list[float]) -> dict[str, float]:
    """Of the words in the order of what they add to the class, by loops."""
    sign = 1 if math.fsum(v[one] for one in row) > 0 else -1

    def p(words: list[int]) -> float:
        return 1 / (1 + math.exp(-sign * math.fsum(v[one] for one in words)))

    order = sorted(row, key=lambda one: -sign * v[one])
    counts = [max(1, int(q * len(row) + 1e-9)) for q in FRACTIONS]
    flips = [k / len(row) for k in range(1, len(row)) if p(order[k:]) < 0.5]
    return {
        "comprehensiveness": math.fsum(p(row) - p(order[k:]) for k in counts) / len(counts),
        "sufficiency": math.fsum(p(row) - p(order[:k]) for k in counts) / len(counts),
        "decision_flip": float(p(order[1:]) < 0.5),
        "flip_fraction": min(flips, default=1.0),
        "rank_agreement": 1.0,
    }


@pytest.mark.parametrize("batch_tokens", [1, 4096])
@pytest.mark.parametrize("rank", ["ablation", "gradient", "own"])
def test_a_linear_bag_is_exact(rank: str, batch_tokens: int) -> None:
    model = Bag()

    def own(model: Bag, ids: Tensor, mask: Tensor) -> Tensor:
        v = model.embedding(ids)[..., 0]
        return v * v.sum().sign()

    given: Any = own if rank == "own" else rank
    found = read(model, [padded(ROWS)], faithfulness(given, batch_tokens=batch_tokens))
    expected = [by_hand(row, model.embedding.weight[:, 0].tolist()) for row in ROWS]
    assert found["faithfulness_texts"] == len(ROWS)
    for name in NAMES:
        if (name, rank) == ("rank_agreement", "ablation"):
            assert name not in found
            continue
        mean = math.fsum(one[name] for one in expected) / len(expected)
        assert found[name] == pytest.approx(mean, abs=1e-5), name
        assert found[f"{name}_above_random"] == pytest.approx(found[name] - found[f"{name}_random"], abs=1e-9), name


def test_random_orders_are_those_of_a_loop() -> None:
    """Of two words one of two orders is drawn, so many of them that both come alike often."""
    row, v = [[6, 19]], Bag().embedding.weight[:, 0].tolist()
    found = read(Bag(), [padded(row)], faithfulness(orders=4000))
    p = [1 / (1 + math.exp(-x)) for x in (v[6] + v[19], v[6], v[19])]
    assert found["comprehensiveness_random"] == pytest.approx(p[0] - (p[1] + p[2]) / 2, abs=0.02)
    assert found["decision_flip_random"] == pytest.approx(0.5, abs=0.04)
    assert found["flip_fraction_random"] == pytest.approx(0.75, abs=0.02)


def test_equal_scores_are_random_orders() -> None:
    found = read(Bag(), [padded(ROWS)], faithfulness(lambda model, ids, mask: torch.ones(ids.shape)))
    for name in NAMES[:-1]:
        assert found[f"{name}_above_random"] == 0
    assert "rank_agreement" not in found, "there is no order"


def test_a_word_of_pieces_is_left_out_whole() -> None:
    """Pairs of tokens of a bag, and the same sums as single tokens."""
    row = [4, 9, 19, 18, 12, 13]
    batch = {**padded([row]), "pieces": torch.tensor([[0, 0, 1, 1, 2, 2]])}
    pairs = read(Bag(), [batch], faithfulness("gradient", words="pieces"))
    model, v = Bag(), Bag().embedding.weight[:, 0].tolist()
    with torch.no_grad():
        model.embedding.weight[:3, 0] = torch.tensor([v[a] + v[b] for a, b in zip(row[::2], row[1::2], strict=True)])
    single = [{"input_ids": torch.tensor([[0, 1, 2]]), "attention_mask": torch.ones(1, 3, dtype=torch.long)}]
    assert pairs == pytest.approx(read(model, single, faithfulness("gradient")), abs=1e-6)


# ------------------------------------------------- a planted cue


@pytest.mark.parametrize("rank", ["ablation", "gradient", "cue"])
def test_a_planted_cue_is_what_is_needed(tmp_path: Path, rank: str) -> None:
    def cue(model: nn.Module, ids: Tensor, mask: Tensor) -> Tensor:
        return torch.isin(ids, torch.tensor(CUES)).float()

    callback = faithfulness(cue if rank == "cue" else rank, max_examples=32)
    trained(tmp_path, [callback])
    last = named(callback.reading)
    assert last["comprehensiveness"] > 0.4
    assert last["comprehensiveness_above_random"] > 0.25
    assert abs(last["sufficiency"]) < 0.02
    assert last["sufficiency_above_random"] < -0.15
    assert last["decision_flip_above_random"] > 0.2, last
    assert last["flip_fraction_above_random"] < -0.2
    untrained = read(Classifier(), DataLoader(cued(32, 1), batch_size=8), faithfulness("gradient"))
    assert abs(untrained["comprehensiveness"]) < 0.05


def test_random_rankings_are_at_random_orders(tmp_path: Path) -> None:
    """Within four standard errors, told from rankings and orders of several seeds."""
    model = trained(tmp_path, [])
    data = DataLoader(cued(24, 1), batch_size=8)
    found = [read(model, data, faithfulness(noise(seed), seed=seed, max_examples=24)) for seed in range(12)]
    for name in NAMES:
        values = torch.tensor([one[f"{name}_above_random"] for one in found], dtype=torch.float64)
        error = float(values.std()) / math.sqrt(len(values))
        assert 0 < error < 0.04, name
        assert abs(float(values.mean())) < 4 * error, name


# ------------------------------------------------- attention rollout


def by_layers(lm: Any, row: list[int]) -> Tensor:
    """Rollout (T, T) of what the model says itself that it attends to."""
    with torch.no_grad():
        layers = lm(torch.tensor([row]), output_attentions=True).attentions
    found = torch.eye(len(row), dtype=torch.float64)
    for layer in layers:
        found = (0.5 * layer[0].double().mean(0) + 0.5 * torch.eye(len(row))) @ found
    return found


def as_eager(lm: Any) -> Any:
    lm.set_attn_implementation("eager")
    return lm.eval()


def test_rollout_is_that_of_the_weights_that_the_model_gives() -> None:
    rows, model, eager = texts(6), Letters(), Letters()
    as_eager(eager.lm)

    def own(lm: Any, ids: Tensor, mask: Tensor) -> Tensor:
        return by_layers(lm, ids[0].tolist())[None, -1]

    expected = read(eager, loader(rows), faithfulness(own, model="lm"))
    for given in (model, eager):
        assert read(given, loader(rows), faithfulness("rollout", model="lm")) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("position", [None, 0, -1])
def test_rollout_of_a_classifier_is_of_the_position_that_is_asked_for(position: int | None) -> None:
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    sizes: dict[str, Any] = {"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3}
    bert = as_eager(BertForSequenceClassification(BertConfig(vocab_size=30, **sizes, initializer_range=1.0)))

    def own(model: Any, ids: Tensor, mask: Tensor) -> Tensor:
        found = by_layers(model, ids[0].tolist())
        return (found.mean(0) if position is None else found[position])[None]

    found = read(bert, loader(texts(6)), faithfulness("rollout", rollout_from=position))
    assert found == pytest.approx(read(bert, loader(texts(6)), faithfulness(own)), abs=1e-5)


def test_what_cannot_be_rolled_out_is_told() -> None:
    from transformers import T5Config, T5ForConditionalGeneration

    sizes: dict[str, Any] = {"d_model": 12, "d_kv": 4, "d_ff": 24, "num_layers": 1, "num_heads": 3}
    t5 = T5ForConditionalGeneration(T5Config(vocab_size=30, **sizes))
    with pytest.raises(ValueError, match="T5ForConditionalGeneration has an encoder and a decoder: give a function"):
        read(t5, loader(texts(3)), faithfulness("rollout"))
    with pytest.raises(ValueError, match="`rollout_from` is 40, and a text has"):
        read(Letters(), loader(texts(3)), faithfulness("rollout", model="lm", rollout_from=40))
    with pytest.raises(ValueError, match="no module of Bag is named after it: give a function"):
        read(Bag(), [padded(ROWS)], faithfulness("rollout"))


# ------------------------------------------------- what a model says of itself


def spelled(ids: list[int]) -> str:
    return " ".join(f"w{one}" for one in ids)


def said_of(words: list[str]) -> list[int]:
    return [int(one[1:]) for one in words]


def test_an_explanation_that_tells_the_truth_is_the_ranking_that_it_tells(tmp_path: Path) -> None:
    model = trained(tmp_path, [])
    data = DataLoader(cued(24, 1), batch_size=8)

    def scores(ids: Tensor) -> Tensor:
        return torch.isin(ids, torch.tensor(CUES)) + ids / 100

    def explain(model: nn.Module, words: list[str]) -> tuple[list[float], int]:
        assert not torch.is_grad_enabled()
        ids = torch.tensor(said_of(words))
        return scores(ids).tolist(), int((ids == CUES[1]).any())

    by_function = read(model, data, faithfulness(lambda model, ids, mask: scores(ids)))
    found = read(model, data, faithfulness("explanation", explain=explain, decode=spelled, target="label"))
    for name in NAMES:
        assert found[name] == pytest.approx(by_function[name], abs=1e-9), name
    assert found["explanation_unparsed"] == 0
    assert found["explanation_accuracy"] == 1
    assert found["explanation_cost"] == 0
    assert found["ranking_levels"] > 9  # of 12 words some come twice


def test_rounded_explanations_have_few_levels_and_are_averaged_over_orders(tmp_path: Path) -> None:
    model = trained(tmp_path, [])
    data = DataLoader(cued(24, 1), batch_size=8)

    def explain(model: nn.Module, words: list[str]) -> tuple[list[float], None]:
        return [0.8 if one % 2 or one in CUES else 0.2 for one in said_of(words)], None

    found, again = (
        read(model, data, faithfulness("explanation", explain=explain, decode=spelled, orders=orders, seed=seed))
        for orders, seed in ((200, 0), (200, 1))
    )
    assert found["ranking_levels"] == 2
    assert not {"explanation_accuracy", "explanation_cost"} & set(found)
    # The cue is one of half of the words, in an order that is drawn.
    assert found["comprehensiveness"] == pytest.approx(again["comprehensiveness"], abs=0.02)
    assert found["comprehensiveness_above_random"] > 0.02


def test_what_explaining_costs_and_what_cannot_be_read() -> None:
    batch = {**padded(ROWS), "label": torch.tensor([0, 1, 1, 0])}
    right = [int(sum(Bag().embedding.weight[row, 0].tolist()) > 0) for row in ROWS]
    own = sum(a == b for a, b in zip(right, batch["label"].tolist(), strict=True)) / 4
    place = {tuple(row): number for number, row in enumerate(ROWS)}

    def explain(model: nn.Module, words: list[str]) -> tuple[list[float] | None, int | None]:
        number = place[tuple(said_of(words))]
        return (None if number == 1 else [1.0] * len(words)), [1, 1, 1, 1][number]

    found = read(Bag(), [batch], faithfulness("explanation", explain=explain, decode=spelled, target="label"))
    assert found["explanation_unparsed"] == 0.25
    assert found["faithfulness_texts"] == 4
    assert found["ranking_levels"] == 1
    assert found["explanation_accuracy"] == 0.5
    assert found["explanation_cost"] == pytest.approx(own - 0.5)
    # Equal scores are random orders, of the texts that could be read.
    others = read(Bag(), [padded([row for row in ROWS if row != ROWS[1]])], faithfulness())
    for name in NAMES[:-1]:
        assert found[f"{name}_above_random"] == 0
        assert found[f"{name}_random"] == pytest.approx(others[f"{name}_random"], abs=0.3)
    with pytest.raises(
        ValueError, match=r"`target` must lead to the class of each text, whole numbers \(B,\) = \(4,\)"
    ):
        read(Bag(), [batch], faithfulness("explanation", explain=explain, decode=spelled, target="input_ids"))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (None, r"`explain` must return a pair \(scores, class\), and returned NoneType"),
        (([1.0], None), r"a finite score of each of \d words, or None .*, and returned \[1.0\]"),
        (("nan", None), r"a finite score of each of \d words"),
        ((None, "good"), "the number of a class or None, and returned 'good'"),
        ((None, True), "the number of a class or None, and returned True"),
    ],
)
def test_what_is_no_explanation_is_told(given: Any, message: str) -> None:
    def explain(model: nn.Module, words: list[str]) -> Any:
        return ([math.nan] * len(words), None) if given == ("nan", None) else given

    with pytest.raises(ValueError, match=message):
        read(Bag(), [padded(ROWS)], faithfulness("explanation", explain=explain, decode=spelled))


def explained_over_ranks() -> dict[str, float]:
    def explain(model: nn.Module, words: list[str]) -> tuple[list[float] | None, int]:
        drawn = torch.rand(len(words))
        return (None if drawn[0] < 0.3 else drawn.tolist()), int(drawn[0] < 0.5)

    how: dict[str, Any] = {"explain": explain, "decode": spelled, "orders": 2, "max_examples": None}
    return validated(faithfulness("explanation", model="lm", **how), Letters(), loader(batch_size=2))


def test_ranks_explain_as_one_process_does(ranks: Any) -> None:
    alone = explained_over_ranks()
    assert 0 < alone["explanation_unparsed/explanation"] < 1
    for found in ranks.run(explained_over_ranks):
        assert found == pytest.approx(alone, abs=1e-12)


# ------------------------------------------------- any way, any batch, any number of ranks


@pytest.mark.parametrize("without", get_args(Without))
def test_neither_batches_nor_padding_change_what_is_read(without: str) -> None:
    rows, model = texts(9), Letters()
    given = {"model": "lm", "orders": 2}
    whole = read(model, loader(rows, batch_size=20), faithfulness("gradient", without, **given))
    other = faithfulness("gradient", without, batch_tokens=7, **given)
    assert read(model, loader(rows, left=True, batch_size=3), other) == pytest.approx(whole, abs=1e-5)
    assert set(NAMES) <= set(whole)


@pytest.mark.parametrize("rank", ["gradient", "rollout", noise(0)])
def test_training_goes_on_as_without(tmp_path: Path, rank: Any) -> None:
    def fitted(callbacks: list[Any]) -> dict[str, Tensor]:
        model = Letters()
        torch.manual_seed(1)
        rows = DataLoader(texts(12, 3), batch_size=4, collate_fn=padded, shuffle=True)
        trainer(tmp_path, callbacks, max_epochs=2).fit(model, rows, loader())
        return model.state_dict()

    callback = faithfulness(rank, model="lm", max_examples=3, on_error="raise")
    found, plainly = fitted([callback]), fitted([])
    assert all(torch.equal(found[name], value) for name, value in plainly.items())
    assert len(callback.history) == 2
    assert list(callback.figures()) == ["ablation/faithfulness"]
    assert len(callback.figures()["ablation/faithfulness"]().axes) >= len(NAMES)


def over_ranks_read() -> dict[str, float]:
    callback = faithfulness("gradient", "resample", model="lm", max_examples=5, orders=2, draws=2)
    return validated(callback, Letters(), loader(batch_size=2))


def test_ranks_read_what_one_process_reads(ranks: Any) -> None:
    alone = over_ranks_read()
    first, *others = ranks.run(over_ranks_read)
    assert alone["faithfulness_texts/gradient"] >= 4
    assert first == pytest.approx(alone, abs=1e-12)
    assert all(other == first for other in others)


# ------------------------------------------------- errors


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (
            {"rank": "lime"},
            r"`rank` must be one of .*'explanation'\], or a function .*, got 'lime'",
        ),
        ({"rollout_from": 0}, "`rollout_from` is the position of rank='rollout': it is 0, and `rank` is 'ablation'"),
        ({"rank": "rollout", "rollout_from": 0.5}, "`rollout_from` is the position .* it is 0.5"),
        ({"orders": 0}, "`orders` must be at least 1, got 0"),
        ({"rank": "explanation"}, "`explain` is the function of rank='explanation' .* it is None"),
        ({"explain": len, "decode": str}, "`explain` is the function of rank='explanation' .* `rank` is 'ablation'"),
        ({"rank": "explanation", "explain": len}, "asks for words as text: give `decode`"),
        ({"without": "drop"}, "`without` must be one of"),
        ({"embedding": "wte"}, "`embedding` is of without='embedding'"),
    ],
)
def test_arguments(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Faithfulness(**kwargs)


def test_what_a_function_returns_is_checked() -> None:
    with pytest.raises(ValueError, match=r"`rank` must return scores \(B, T\) = \(1, 7\), and returned \(7,\)"):
        read(Bag(), [padded(ROWS)], faithfulness(lambda model, ids, mask: ids[0].float()))


def test_texts_whose_scores_are_no_numbers_are_left_out() -> None:
    def rank(model: nn.Module, ids: Tensor, mask: Tensor) -> Tensor:
        return ids.float() if ids.shape[1] > 3 else torch.full(ids.shape, torch.nan)

    found = read(Bag(), [padded(ROWS)], faithfulness(rank))
    alone = read(Bag(), [padded([ROWS[0], ROWS[2]])], faithfulness(rank))
    assert found["comprehensiveness"] == alone["comprehensiveness"]
