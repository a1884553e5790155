"""What predictions lose without words: exact bags, a planted cue, five ways, loops, errors, ranks, resuming."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import pytest
import pytorch_lightning as pl
import torch
from reference import ablation as plain
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_interp import InputAblation, analyze
from lightning_interp.distributed import over_ranks
from lightning_interp.parts.ablated_texts import Without
from tests.callbacks.attending import Letters, loader, padded, texts
from tests.callbacks.planted_cue import CUES, LENGTH, WORDS, Classifier, cued, trained
from tests.toy import timeless, trainer, validated

WAYS = get_args(Without)
START, MASK = 1, 2


def ablation(without: str = "hide", **kwargs: Any) -> InputAblation:
    given = {"mask_token_id": MASK} if without == "replace" else {}
    return InputAblation(without, **{"draw_figures": False, **given, **kwargs})  # type: ignore[arg-type]


def read(model: nn.Module, data: Any = None, **kwargs: Any) -> dict[str, float]:
    given = {"model": "lm", "baseline": False, **kwargs}
    return analyze(model, loader() if data is None else data, ablation(**given))


def read_weights(model: nn.Module, rows: list[list[int]], callback: InputAblation) -> list[list[float]]:
    """What the prediction of each text loses without each word."""
    positions = [torch.tensor([row, range(len(row))]).T for row in rows]
    callback.resolve(model)
    callback.texts._own = list(enumerate(positions))
    found = callback.texts.losses(over_ranks(callback.texts.texts()))
    callback.release()
    return [one.tolist() for one in found]


# ------------------------------------------------- exact


class Bag(pl.LightningModule):
    """Two logits, (0, Σ v), of a bag of numbers."""

    def __init__(self, words: int = 20) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, 1)
        with torch.no_grad():
            self.embedding.weight.copy_(torch.linspace(-1, 1.5, words)[:, None])
            self.embedding.weight[MASK] = 0

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        total = (self.embedding(input_ids)[..., 0] * attention_mask).sum(1)
        return torch.stack([torch.zeros_like(total), total], 1)


ROWS = [[5, 9, 17, 3], [4, 4, 19], [11, 12, 13, 14, 15], [6, 3]]


@pytest.mark.parametrize("without", WAYS)
def test_a_linear_bag_is_exact(without: str) -> None:
    """The log-odds of two classes are ± Σ v: without a word they lose ± v, less what stands in its place."""
    model = Bag()
    v = model.embedding.weight[:, 0].tolist()
    found = read_weights(model, ROWS, ablation(without, score="log_odds", draws=4000))
    mean = math.fsum(v[one] for row in ROWS for one in row) / sum(map(len, ROWS))
    instead = mean if without in ("embedding", "resample") else 0
    near = 0.1 if without == "resample" else 1e-5
    for row, weights in zip(ROWS, found, strict=True):
        total = math.fsum(v[one] for one in row)
        sign = 1 if total > 0 else -1
        assert weights == pytest.approx([sign * (v[one] - instead) for one in row], abs=near)
        if not instead:
            assert math.fsum(weights) == pytest.approx(abs(total), abs=1e-5), "f(x) − f(empty), which is 0"


def test_one_logit_is_that_of_class_one() -> None:
    class One(Bag):
        def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
            return super().forward(input_ids, attention_mask)[:, 1:]

    assert read_weights(One(), ROWS, ablation()) == read_weights(Bag(), ROWS, ablation())


# ------------------------------------------------- a planted cue


def test_a_planted_cue_comes_to_have_the_weight(tmp_path: Path) -> None:
    callback, control = (ablation(cues={"cue": CUES}, max_examples=32) for _ in range(2))
    trained(tmp_path, [callback])
    trained(tmp_path, [control], shuffled=True)
    chance = 1 / LENGTH
    _, shares = callback.history.series("cue_share/cue")
    _, first = callback.history.series("cue_first/cue")
    untrained = analyze(Classifier(), DataLoader(cued(32, 1), batch_size=8), ablation(cues={"cue": CUES}))
    assert untrained["cue_share/cue"] < chance + 0.05
    assert shares[:4] == sorted(shares[:4])
    assert shares[-1] > 0.8
    assert first[-1] > 0.95
    assert callback.reading["cue_share_chance/cue"] == callback.reading["cue_first_chance/cue"] == chance
    assert callback.reading["cue_share_above_chance/cue"] == shares[-1] - chance
    assert callback.reading["ablation_concentration_above_baseline"] > 0.4
    assert callback.history.series("ablation_stability")[0] == callback.history.steps[1:]
    _, at_chance = control.history.series("cue_share/cue")
    assert max(abs(share - chance) for share in at_chance) < 0.05


def test_all_ways_agree_in_sign_on_it(tmp_path: Path) -> None:
    model = trained(tmp_path, [])
    rows = [one["input_ids"].tolist() for one in cued(8, 2)]
    places = [next(at for at, one in enumerate(row) if one in CUES) for row in rows]
    for way in WAYS:
        weights = read_weights(model, rows, ablation(way))
        assert all(w[at] > 0.01 for w, at in zip(weights, places, strict=True)), way
        # What is drawn may be the other cue, in the place of any word.
        assert way == "resample" or all(w[at] == max(w) for w, at in zip(weights, places, strict=True)), way
        shares = [plain.share(w, [one in CUES for one in row]) for w, row in zip(weights, rows, strict=True)]
        assert math.fsum(shares) / len(shares) > 0.5, way


def test_cues_are_marked_by_ids_or_by_the_batch() -> None:
    data = DataLoader(cued(16, 1), batch_size=5)
    found = analyze(Classifier(), data, ablation(cues={"ids": CUES, "marked": "is_cue", "one": [3], "none": [WORDS]}))
    for key in ("cue_share", "cue_share_chance", "cue_share_above_chance", "cue_first", "cue_first_chance"):
        assert found[f"{key}/ids"] == found[f"{key}/marked"]
        assert f"{key}/none" not in found, "no text has it"
    assert found["cue_share_chance/one"] == 1 / LENGTH, "of the texts that have it"


def test_a_pattern_is_looked_for_in_each_word() -> None:
    decode = {one: f" w{one} " for one in range(WORDS)}
    decode |= {3: " Hospital A", 4: "hospital B"}
    patterns = {"named": re.compile("^hospital", re.I), "ids": CUES, "small": re.compile("^hospital"), "one": [4]}
    data = DataLoader(cued(16, 1), batch_size=5)
    found = analyze(Classifier(), data, ablation(cues=patterns, decode=lambda ids: "".join(decode[one] for one in ids)))
    for key in ("cue_share", "cue_share_chance", "cue_first"):
        assert found[f"{key}/named"] == found[f"{key}/ids"]
        assert found[f"{key}/small"] == found[f"{key}/one"]
    assert found["cue_share/small"] != found["cue_share/named"]


def test_a_word_of_pieces_is_read_as_one() -> None:
    rows = [[4, 5, 6, 7], [5, 6, 4, 7]]
    data = [{**padded(rows), "pieces": torch.tensor([[0, 1, 1, 2], [0, 0, 1, 2]])}]
    given = {"decode": lambda ids: "".join("abcdefghij"[one] for one in ids), "words": "pieces"}
    found = read(Letters(), data, cues={"fg": re.compile("^fg$"), "g": re.compile("g")}, **given)
    assert found["cue_share_chance/fg"] == 1 / 3
    assert found["cue_share/fg"] == found["cue_share/g"]


# ------------------------------------------------- a causal language model, by loops


def log_prob(lm: nn.Module, ids: list[int], target: int | None = None, hidden: Sequence[int] = ()) -> tuple[float, int]:
    """Of the next token, or of the one that is most probable, and which that is."""
    mask = torch.tensor([[int(place not in hidden) for place in range(len(ids))]])
    with torch.no_grad():
        logits = lm.eval()(input_ids=torch.tensor([ids]), attention_mask=mask).logits[0, -1].double()
    target = int(logits.argmax()) if target is None else target
    return plain.score(logits.tolist(), target, "log_prob"), target


def by_hand(lm: nn.Module, row: list[int], words: list[int], without: str) -> list[float]:
    full, target = log_prob(lm, row)
    found = []
    for places in plain.positions(words):
        ids, hidden = list(row), places if without == "hide" else ()
        if without == "replace":
            ids = [MASK if place in places else one for place, one in enumerate(row)]
        if without == "delete":
            ids = [one for place, one in enumerate(row) if place not in places]
        found.append(full - log_prob(lm, ids, target, hidden)[0])
    return found


@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("without", ["replace", "hide", "delete"])
def test_a_loop_gives_the_same(without: str, left: bool) -> None:
    rows, model = [row for row in texts(9, 5) if len(row) > 3], Letters()
    # Pairs of tokens are words, START is never left out.
    pieces = [[-1 if one == START else place // 2 for place, one in enumerate(row)] for row in rows]
    batch = padded(rows, left)
    longest = batch["input_ids"].shape[1]
    gaps = [[-1] * (longest - len(row)) for row in rows]
    batch["pieces"] = torch.tensor([g + w if left else w + g for g, w in zip(gaps, pieces, strict=True)])
    cue = {"cue": [3, 4, 5, 6]}
    given = {"words": "pieces", "ignore_tokens": [START], "cues": cue, "batch_tokens": 40}
    found = read(model, [batch], without=without, **given)
    weights = [by_hand(model.lm, row, words, without) for row, words in zip(rows, pieces, strict=True)]
    marked = [
        [any(row[at] in cue["cue"] for at in places) for places in plain.positions(words)]
        for row, words in zip(rows, pieces, strict=True)
    ]
    both = list(zip(weights, marked, strict=True))
    expected = {
        "ablation_total": [math.fsum(map(abs, w)) for w in weights],
        "ablation_concentration": [plain.concentration(w) for w in weights],
        "cue_share/cue": [plain.share(w, one) for w, one in both if any(one)],
        "cue_share_chance/cue": [sum(one) / len(one) for one in marked if any(one)],
        "cue_first/cue": [plain.first(w, one) for w, one in both if any(one)],
    }
    assert found["ablation_texts"] == len(rows)
    assert found["ablation_total"] > 0.01
    for key, values in expected.items():
        assert found[key] == pytest.approx(math.fsum(values) / len(values), abs=1e-5), key


@pytest.mark.parametrize("without", WAYS)
def test_neither_batches_nor_padding_change_what_is_read(without: str) -> None:
    rows, model = texts(14), Letters()
    whole = read(model, loader(rows, batch_size=20), without=without, cues={"few": [3, 4]})
    other = read(model, loader(rows, left=True, batch_size=3), without=without, cues={"few": [3, 4]}, batch_tokens=7)
    assert other == pytest.approx(whole, abs=1e-5)
    assert whole["ablation_total"] > 0.01
    again = read(model, loader(rows, batch_size=20), without=without, cues={"few": [3, 4]}, seed=1)
    assert (again == whole) == (without != "resample")


def test_texts_of_one_word_are_left_out() -> None:
    found = read(Letters(), loader([[5, 6, 7], [5], [START, 6], [8, 9]]), ignore_tokens=[START])
    assert found["ablation_texts"] == 2
    found = read(Letters(), loader([[5], [6]]))
    assert found == {"ablation_texts": 0}, "the others are undefined"


# ------------------------------------------------- errors


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"without": "drop"}, r"`without` must be one of \['replace', 'hide', .*'delete'\], got 'drop'"),
        ({"score": "loss"}, r"`score` must be one of \['log_prob', 'log_odds'\], got 'loss'"),
        ({"without": "replace"}, "`mask_token_id` must be the id that without='replace' puts in, got None"),
        ({"without": "replace", "mask_token_id": -1}, "puts in, got -1"),
        (
            {"mask_token_id": 3},
            "`mask_token_id` is of without='replace' or predicts='masked': it is 3, `without` is 'resample'",
        ),
        ({"embedding": "wte"}, "`embedding` is of without='embedding': it is 'wte', and `without` is 'resample'"),
        ({"predicts": "next"}, r"`predicts` must be one of \['last', 'masked'\], got 'next'"),
        ({"predicts": "masked"}, "`mask_token_id` must be the id at which predicts='masked' predicts, got None"),
        ({"draws": 0}, "`draws` must be at least 1, got 0"),
        ({"ignore_tokens": ["[CLS]"]}, r"`ignore_tokens` must be a list of token ids, got \['\[CLS\]'\]"),
        (
            {"cues": ["name"]},
            r"`cues` must map names to a batch key, a list of token ids or a compiled pattern, got \['name'\]",
        ),
        ({"cues": {"a/b": [3]}}, "`cues` names 'a/b'"),
        (
            {"cues": {"a": []}},
            r"`cues` of 'a' must be a batch key, a list .* pattern, got \[\]",
        ),
        (
            {"cues": {"a": ["x"]}},
            r"`cues` of 'a' must be a batch key, a list .* pattern, got \['x'\]",
        ),
        (
            {"cues": {"a": True}},
            "`cues` of 'a' must be a batch key, a list .* pattern, got True",
        ),
        ({"cues": {"a": 1.5}}, "`cues` of 'a' must be a batch key, a list of token ids or a compiled pattern, got 1.5"),
        ({"cues": {"a": re.compile(b"x")}, "decode": str}, "or a compiled pattern, got re.compile"),
        ({"cues": {"a": re.compile("x")}}, "`cues` of 'a' is a pattern, looked for in text: give `decode`"),
        ({"batch_tokens": 0}, "`batch_tokens` must be at least 1, got 0"),
        ({"max_examples": 0}, "`max_examples` must be at least 1"),
    ],
)
def test_arguments(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        InputAblation(**kwargs)


class Blind(nn.Module):
    """Takes no mask."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(27, 3)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.embedding(input_ids)


def test_what_a_batch_or_a_model_lacks_is_told() -> None:
    with pytest.raises(TypeError, match="`decode` must be a function of a list of token ids, got 3"):
        InputAblation(decode=3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="has no padding mask"):
        read(Letters(), [{"input_ids": torch.ones(2, 5, dtype=torch.long)}])
    with pytest.raises(ValueError, match="`cues` points to 'marked', which is not in the batch"):
        read(Letters(), cues={"a": "marked"})
    with pytest.raises(
        ValueError, match=r"`cues\['a'\]` must lead to a mask, whole numbers \(B, T\) = .*got torch.int64 \(4,\)"
    ):
        read(Letters(), cues={"a": lambda batch: batch["input_ids"][:, 0]})
    with pytest.raises(ValueError, match=r"`words` must lead to the word of each position.*got torch.float32"):
        read(Letters(), words=lambda batch: batch["input_ids"].float())
    with pytest.raises(ValueError, match="`model` is 'nothing'"):
        analyze(Letters(), loader(), ablation(model="nothing"))
    with pytest.raises(ValueError, match="without='hide' hides words by the attention mask, and Blind takes none"):
        analyze(Blind(), loader(), ablation())
    with pytest.raises(ValueError, match="gives ids up to 99"):
        read(Letters(), without="replace", mask_token_id=99)
    with pytest.raises(ValueError, match="nothing"):
        read(Letters(), without="embedding", embedding="nothing")
    with pytest.raises(
        TypeError, match=r"no logits of classes .* or of tokens .* in the model's output, which is Tensor"
    ):
        read(Letters(), forward=lambda model, ids, mask: torch.zeros(len(ids)))
    assert analyze(Blind(), loader(), ablation("embedding"))["ablation_texts"] == 11


# ------------------------------------------------- in a Trainer


def small(**kwargs: Any) -> InputAblation:
    return ablation("resample", model="lm", cues={"few": [3, 4, 5]}, max_examples=6, draws=2, **kwargs)


def test_stability_goes_on_where_a_run_is_resumed(tmp_path: Path) -> None:
    whole, first, second = small(draw_figures=True, decode=str), small(), small()
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
    assert "ablation_stability" not in first.reading
    assert abs(whole.reading["ablation_stability"]) < 1
    expected = []
    for old, new in zip(*(weights_of(whole, at) for at in (0, 1)), strict=True):
        x, y = (torch.tensor(one).argsort().argsort().double() for one in (old, new))
        expected.append(float(torch.corrcoef(torch.stack([x, y]))[0, 1]))
    assert whole.reading["ablation_stability"] == pytest.approx(sum(expected) / len(expected), abs=1e-9)
    pictures = whole.figures()
    assert set(pictures) == {f"ablation/text_{place}" for place in range(3)}
    assert len(pictures["ablation/text_0"]().axes) == 2
    assert small().figures() == {}


def weights_of(callback: InputAblation, reading: int) -> list[list[float]]:
    kept = callback.weights.values[reading]
    return [one.tolist() for one in torch.split(kept["weights"], kept["lengths"].tolist())]


@pytest.mark.parametrize("without", WAYS)
def test_no_way_changes_training(tmp_path: Path, without: str) -> None:
    def fitted(callbacks: list[Any]) -> dict[str, Tensor]:
        model = Letters()
        torch.manual_seed(1)
        rows = DataLoader(texts(12, 3), batch_size=4, collate_fn=padded, shuffle=True)
        trainer(tmp_path, callbacks, max_epochs=2).fit(model, rows, loader())
        return model.state_dict()

    callback = ablation(without, model="lm", max_examples=3, baseline=True, on_error="raise")
    found, plainly = fitted([callback]), fitted([])
    assert all(torch.equal(found[name], value) for name, value in plainly.items())
    assert len(callback.history) == 2
    assert math.isfinite(callback.reading["ablation_concentration_above_baseline"])


def test_a_model_that_stands_still_is_stable(tmp_path: Path) -> None:
    class Still(Letters):
        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.0)

    callback = small()
    trainer(tmp_path, [callback]).fit(Still(), DataLoader(texts(12, 3), batch_size=4, collate_fn=padded), loader())
    first, second = (weights_of(callback, at) for at in (0, 1))
    assert first == second, "the same draws at every reading"
    assert callback.reading["ablation_stability"] == pytest.approx(1, abs=1e-9)


def test_how_words_were_left_out_stands_beside_readings(tmp_path: Path) -> None:
    callback = small(ignore_tokens=[START])
    trainer(tmp_path, [callback]).fit(Letters(), DataLoader(texts(12, 3), batch_size=4, collate_fn=padded), loader())
    (path,) = tmp_path.rglob("readings.csv")
    (row, *_) = csv.DictReader(path.read_text().splitlines())
    told = {
        name: row[f"setting/InputAblation/{name}"] for name in ("without", "score", "draws", "cues", "ignore_tokens")
    }
    assert told["without"] == "resample"
    assert told["score"] == "log_prob"
    assert told["draws"] == "2"
    assert told["cues"] == '{"few": [3, 4, 5]}'
    assert told["ignore_tokens"] == "[1]"


def test_other_texts_begin_anew(tmp_path: Path) -> None:
    class Other(Letters):
        def val_dataloader(self) -> Any:
            return loader(texts(11, self.current_epoch))

    callback = small()
    with pytest.warns(UserWarning, match="ablation_stability and the random weights are of those"):
        trainer(tmp_path, [callback], reload_dataloaders_every_n_epochs=1).fit(Other(), loader(texts(24, 3)))
    assert callback.history.series("ablation_stability")[0] == []
    before, after = callback.history.series("ablation_concentration_baseline")[1]
    assert before != after


def over_ranks_read() -> dict[str, float]:
    callback = small()
    return validated(callback, Letters(), loader(batch_size=2))


def test_ranks_read_what_one_process_reads(ranks: Any) -> None:
    alone = over_ranks_read()
    first, *others = ranks.run(over_ranks_read)
    assert alone["ablation_texts"] >= 5
    assert first == pytest.approx(alone, abs=1e-12)
    assert all(other == first for other in others)
