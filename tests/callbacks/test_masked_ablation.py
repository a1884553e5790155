"""What predictions of masked words need: a planted neighbour, every way, loops over a BERT, rankings, errors, ranks."""

from __future__ import annotations

import math
from typing import Any, get_args

import pytest
import torch
from reference import ablation as plain
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_interp import Faithfulness, InputAblation, analyze
from lightning_interp.distributed import over_ranks
from lightning_interp.parts.ablated_texts import AblatedText, Without
from tests.callbacks.attending import Wrapped, loader, padded, texts
from tests.callbacks.planted_cue import Classifier, cued
from tests.toy import trainer, validated

WAYS = get_args(Without)
START, MASK = 1, 2
GIVEN: dict[str, Any] = {"predicts": "masked", "mask_token_id": MASK, "draw_figures": False}


def ablation(without: Any = "hide", **kwargs: Any) -> InputAblation:
    return InputAblation(without, **{**GIVEN, "baseline": False, **kwargs})


def faithfulness(rank: Any, without: Any = "hide", **kwargs: Any) -> Faithfulness:
    return Faithfulness(rank, without, **{**GIVEN, **kwargs})


def named(values: dict[str, float]) -> dict[str, float]:
    return {key.split("/")[0]: value for key, value in values.items() if not key.startswith("seconds/")}


def read_weights(model: nn.Module, batch: dict[str, Tensor], **kwargs: Any) -> tuple[list[AblatedText], list[Tensor]]:
    """The texts as they are read, and what the prediction of each loses without each word."""
    callback = ablation(**kwargs)
    callback.resolve(model)
    words = batch.get("pieces", torch.arange(batch["input_ids"].shape[1]).expand_as(batch["input_ids"]))
    for place, (ids, word, real) in enumerate(zip(batch["input_ids"], words, batch["attention_mask"], strict=True)):
        callback.texts._own.append((place, torch.stack([ids, word], 1)[real.bool()]))
    found = over_ranks(callback.texts.texts())
    losses = callback.texts.losses(found)
    callback.release()
    return found, losses


# ------------------------------------------------- planted


class Neighbour(nn.Module):
    """Predicts at each position the word before it, before the first the last: at a mask one word decides."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding.from_pretrained(5 * torch.eye(27))

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return (self.embedding(input_ids) * attention_mask[..., None]).roll(1, 1)


def different(number: int = 9, length: int = 8) -> list[list[int]]:
    """Texts in which no word comes twice."""
    generator = torch.Generator().manual_seed(0)
    return [(3 + torch.randperm(24, generator=generator))[: length + at % 3].tolist() for at in range(number)]


def masked_rows() -> tuple[list[list[int]], list[int]]:
    """With one mask each, and where that is."""
    rows = different()
    places = [at % len(row) for at, row in enumerate(rows)]
    return [
        [MASK if at == place else one for at, one in enumerate(row)] for row, place in zip(rows, places, strict=True)
    ], places


@pytest.mark.parametrize("without", WAYS)
def test_the_word_that_decides_has_all_the_weight(without: str) -> None:
    rows, places = masked_rows()
    batch = padded(rows)
    batch["decides"] = torch.zeros_like(batch["input_ids"])
    for row, ids, place in zip(batch["decides"], rows, places, strict=True):
        row[(place - 1) % len(ids)] = 1
    found = analyze(Neighbour(), [batch], ablation(without, cues={"it": "decides"}, draws=8))
    assert found["ablation_texts"] == len(rows)
    assert found["cue_share/it"] == found["cue_first/it"] == found["ablation_concentration"] == 1
    n = [len(row) - 1 for row in rows]
    assert found["cue_share_chance/it"] == pytest.approx(math.fsum(1 / one for one in n) / len(n))
    texts, weights = read_weights(Neighbour(), batch, without=without, draws=8)
    for text, losses, place in zip(texts, weights, places, strict=True):
        assert text.at == place
        assert not text.words[:, place].any()
        decides = text.words[:, (place - 1) % len(text.ids)]
        assert bool((losses[~decides] == 0).all())
        assert losses[decides].item() > 0.1


@pytest.mark.parametrize("without", WAYS)
def test_a_text_without_a_mask_has_one_word_masked(without: str) -> None:
    """Pairs of tokens are words, of which one goes whole; the first of its pieces is what is predicted."""
    rows = different(40)
    batch = padded(rows)
    batch["pieces"] = torch.arange(batch["input_ids"].shape[1]).expand_as(batch["input_ids"]) // 2
    found, weights = read_weights(Neighbour(), batch, without=without, draws=8)
    again, same = read_weights(Neighbour(), batch, without=without, draws=8, batch_tokens=9)
    assert [one.at for one in again] == [one.at for one in found]
    assert torch.equal(torch.cat(same), torch.cat(weights))
    for row, text, losses in zip(rows, found, weights, strict=True):
        assert text.at % 2 == 0
        masked = [at for at, one in enumerate(text.ids.tolist()) if one == MASK]
        assert masked == [at for at in (text.at, text.at + 1) if at < len(row)]
        assert not text.words[:, masked].any()
        assert len(text.words) == (len(row) + 1) // 2 - 1
        decides = text.words[:, (text.at - 1) % len(row)]
        assert bool((losses[~decides] == 0).all())
        assert losses[decides].item() > 0.1
    drawn = {one.at for one in found}
    assert drawn == set(range(0, 10, 2)), "any word"
    other, _ = read_weights(Neighbour(), batch, without=without, seed=1)
    assert [one.at for one in other] != [one.at for one in found]


def test_of_several_masked_words_one_is_drawn() -> None:
    row = [5, MASK, 7, MASK, MASK, 9, 10]
    batch = padded([row] * 60)
    batch["pieces"] = torch.tensor([[0, 1, 2, 3, 3, 3, -1]]).expand(60, -1)
    found, _ = read_weights(Neighbour(), batch)
    counts = {at: sum(one.at == at for one in found) for at in range(len(row))}
    assert counts[1] + counts[3] == 60
    assert min(counts[1], counts[3]) > 15
    # What is left of a word that is masked in part is a word.
    assert found[0].words.nonzero()[:, 1].tolist() == [0, 2, 5]


def test_neither_masks_are_drawn_nor_in_the_mean() -> None:
    row = [MASK] * 30 + [5, 6, 7]
    for way in ("resample", "embedding"):
        callback = ablation(way, draws=20)
        callback.resolve(Neighbour())
        callback.texts._own = [(0, torch.tensor([row, range(33)]).T)]
        (text,) = over_ranks(callback.texts.texts())

        def around(text: AblatedText, around: Any) -> Any:
            return around

        found = callback.texts.dealt([text], around)[0]
        assert found.read.tolist() == [5, 6, 7]
        if way == "embedding":
            assert found.mean.tolist() == pytest.approx([5 / 3 if one in (5, 6, 7) else 0 for one in range(27)])
        callback.release()


def test_texts_of_too_few_words_are_left_out() -> None:
    batch = padded([[5, 6], [5, 6, 7], [MASK, 6, 7], [MASK, 6], [MASK, MASK, MASK], [MASK]])
    found = analyze(Neighbour(), [batch], ablation())
    assert found["ablation_texts"] == 2, "of three words, or two and a mask"


# ------------------------------------------------- a BERT, by loops


def bert(seed: int = 0) -> Any:
    from transformers import BertConfig, BertForMaskedLM

    torch.manual_seed(seed)
    sizes: dict[str, Any] = {"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3}
    return BertForMaskedLM(BertConfig(vocab_size=30, intermediate_size=24, **sizes, initializer_range=1.0))


def log_prob(lm: Any, ids: list[int], at: int, target: int | None, hidden: list[int]) -> tuple[float, int]:
    mask = torch.tensor([[int(place not in hidden) for place in range(len(ids))]])
    with torch.no_grad():
        logits = lm.eval()(input_ids=torch.tensor([ids]), attention_mask=mask).logits[0, at].double()
    target = int(logits.argmax()) if target is None else target
    return plain.score(logits.tolist(), target, "log_prob"), target


def by_hand(lm: Any, text: AblatedText, without: str) -> list[float]:
    row, at = text.ids.tolist(), text.at
    full, target = log_prob(lm, row, at, None, [])
    found = []
    for word in text.words:
        places = word.nonzero().flatten().tolist()
        ids, hidden, moved = list(row), places if without == "hide" else [], at
        if without == "replace":
            ids = [MASK if place in places else one for place, one in enumerate(row)]
        if without == "delete":
            ids = [one for place, one in enumerate(row) if place not in places]
            moved = at - sum(place < at for place in places)
        found.append(full - log_prob(lm, ids, moved, target, hidden)[0])
    return found


def long_texts(number: int) -> list[list[int]]:
    return [row for row in texts(number, 5) if len(row) > 5]


@pytest.mark.parametrize("without", ["replace", "hide", "delete"])
def test_a_loop_over_a_bert_gives_the_same(without: str) -> None:
    batch = padded([[START, *row] for row in long_texts(9)])
    batch["pieces"] = torch.arange(batch["input_ids"].shape[1]).expand_as(batch["input_ids"]) // 2
    found, weights = read_weights(bert(), batch, without=without, ignore_tokens=[], batch_tokens=40)
    assert len({one.at for one in found}) > 2
    for text, losses in zip(found, weights, strict=True):
        assert losses.tolist() == pytest.approx(by_hand(bert(), text, without), abs=1e-4)
        assert losses.abs().max() > 0.01


@pytest.mark.parametrize("without", WAYS)
def test_neither_batches_nor_padding_change_what_is_read(without: str) -> None:
    rows, model = long_texts(12), bert()
    given: dict[str, Any] = {"cues": {"few": [3, 4]}, "ignore_tokens": [START]}
    whole = analyze(model, loader(rows, batch_size=20), ablation(without, **given))
    other = ablation(without, batch_tokens=7, **given)
    assert analyze(model, loader(rows, left=True, batch_size=3), other) == pytest.approx(whole, abs=1e-4)
    assert whole["ablation_texts"] == len(rows)
    assert whole["ablation_total"] > 0.01
    assert whole != analyze(model, loader(rows, batch_size=20), ablation(without, seed=1, **given))


# ------------------------------------------------- rankings


@pytest.mark.parametrize("without", WAYS)
@pytest.mark.parametrize("rank", ["ablation", "gradient"])
def test_rankings_find_the_word_that_decides(rank: str, without: str) -> None:
    def oracle(model: nn.Module, ids: Tensor, mask: Tensor) -> Tensor:
        return (ids == MASK).float().roll(-1, 1)

    batch = padded(masked_rows()[0])
    found, best = (named(analyze(Neighbour(), [batch], faithfulness(one, without, draws=8))) for one in (rank, oracle))
    assert found["comprehensiveness"] > 0.3
    assert found["comprehensiveness_above_random"] > 0.1
    assert found["sufficiency"] == pytest.approx(0, abs=1e-6), "one word is enough"
    assert {key: found[key] for key in ("comprehensiveness", "decision_flip")} == pytest.approx(
        {key: best[key] for key in ("comprehensiveness", "decision_flip")}, abs=1e-6
    )
    assert found["faithfulness_texts"] == 9


def test_rollout_is_of_the_masked_position() -> None:
    lm = bert()
    lm.set_attn_implementation("eager")

    def own(model: Any, ids: Tensor, mask: Tensor) -> Tensor:
        layers = model(ids, output_attentions=True).attentions
        found = torch.eye(ids.shape[1], dtype=torch.float64)
        for layer in layers:
            found = (0.5 * layer[0].double().mean(0) + 0.5 * torch.eye(ids.shape[1])) @ found
        (at,) = (ids[0] == MASK).nonzero().flatten().tolist()
        return found[at][None]

    rows = [[one if one != MASK else 9 for one in row] for row in long_texts(9)]
    expected = named(analyze(lm, loader(rows), faithfulness(own)))
    assert named(analyze(lm, loader(rows), faithfulness("rollout"))) == pytest.approx(expected, abs=1e-5)
    asked = named(analyze(lm, loader(rows), faithfulness("rollout", rollout_from=0)))
    assert asked != pytest.approx(expected, abs=1e-5)


# ------------------------------------------------- errors, a Trainer, ranks


def test_a_classifier_masks_nothing() -> None:
    data = DataLoader(cued(6, 1), batch_size=3)
    for callback in (ablation(), faithfulness("gradient")):
        with pytest.raises(ValueError, match=r"predicts='masked' is of a model that predicts tokens.*Classifier gives"):
            analyze(Classifier(), data, callback)


class Bert(Wrapped):
    """Validates a BERT, on texts that are masked anew each time where that is asked for."""

    def __init__(self, anew: bool = False) -> None:
        super().__init__(bert())
        self.anew = anew

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        return self.lm(**batch).logits.square().mean()  # type: ignore[no-any-return]

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self.log("val_loss", self.training_step(batch, batch_idx))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1e-4)

    def on_before_batch_transfer(self, batch: dict[str, Tensor], dataloader_idx: int) -> dict[str, Tensor]:
        if self.anew and self.trainer.validating | self.trainer.sanity_checking | self.trainer.evaluating:
            batch = {**batch, "input_ids": batch["input_ids"].clone()}
            batch["input_ids"][:, self.current_epoch % 2] = MASK
        return batch


@pytest.mark.filterwarnings("ignore:InputAblation. validation loader 0 gave other samples")
def test_a_text_that_is_masked_elsewhere_has_no_stability(tmp_path: Any) -> None:
    rows = [[one if one != MASK else 9 for one in row] for row in long_texts(12)]
    for anew in (False, True):
        callback = ablation("delete", model="lm", max_examples=3, draw_figures=True)
        trainer(tmp_path / str(anew), [callback]).fit(Bert(anew), loader(rows), loader(rows))
        assert ("ablation_stability" in callback.reading) != anew
        figure = callback.figures()["ablation/text_0"]()
        assert len(figure.axes[0].get_xticks()) == (1 if anew else 2)


def over_ranks_read() -> list[dict[str, float]]:
    rows = long_texts(11)
    return [
        validated(one, Bert(), loader(rows, batch_size=2))
        for one in (
            ablation("resample", model="lm", max_examples=6, draws=2, cues={"few": [3, 4, 5]}),
            ablation("delete", model="lm", max_examples=6),
            faithfulness("gradient", "resample", model="lm", max_examples=5, orders=2, draws=2),
            faithfulness("rollout", "delete", model="lm", max_examples=5, orders=2),
        )
    ]


def test_ranks_read_what_one_process_reads(ranks: Any) -> None:
    alone = over_ranks_read()
    first, *others = ranks.run(over_ranks_read)
    for got, expected in zip(first, alone, strict=True):
        assert got == pytest.approx(expected, abs=1e-12)
    assert alone[0]["ablation_texts"] >= 5
    assert all(other == first for other in others)
