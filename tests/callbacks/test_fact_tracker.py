"""Facts that are followed: a model that stands still, planted curves, a gate, learning, resuming, ranks, errors."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping
from reference.fact_tracking import followed, kl
from tasks.toy_lm import ToyLM
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_interp import FactTracker, analyze
from lightning_interp.language import encode_sentences, pad_right, sentence_log_probs
from lightning_interp.tasks import Fact, Scorer, WordTokenizer, fact_world
from tests.toy import timeless, trainer, validated

TOWNS = ("ulm", "rom", "york", "lima")
NAMES = [f"n{place}" for place in range(60)]
WORDS = WordTokenizer([*TOWNS, *NAMES, "it", "is", "of", "people", "say"])


def ids(*words: str) -> list[int]:
    return [WORDS.encode(word, add_special_tokens=False)[0] for word in words]


def facts(names: list[str], towns: tuple[str, ...] = TOWNS, wording: str = "{} is of ___ .") -> list[Fact]:
    return [Fact("home", wording.format(name), towns[place % len(towns)], TOWNS) for place, name in enumerate(names)]


class Clock(pl.LightningModule):
    """Counts steps; what it knows is in the script."""

    def __init__(self) -> None:
        super().__init__()
        self.number, self.tokenizer = nn.Parameter(torch.zeros(())), WORDS

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return self.number.square()

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        pass

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


KNOWN = {
    "n0": [0.1, 0.7, 0.9, 0.6, 0.5, 0.4],
    "n1": [0.2, 0.2, 0.5, 0.8, 0.8, 0.3],
    "n2": [0.3, 0.3, 0.2, 0.2, 0.3, 0.3],
}
"""Probability of the right town of three facts at steps 1 to 6; the other towns share what is left."""
TURNED = 5
"""From this step on one of four neighbours is answered otherwise."""


def scripted(model: Any, given: Tensor, mask: Tensor) -> Tensor:
    """Logits of the next word, by the name that stands in the text."""
    place = min(max(model.global_step, 1), 6) - 1
    p = torch.full((*given.shape, len(WORDS)), 1e-9)
    towns = torch.tensor(ids(*TOWNS))
    for at, name in enumerate(NAMES[:8]):
        here = (given == ids(name)[0]).any(1)
        right = KNOWN[name][place] if name in KNOWN else 0.7
        shares = torch.full((len(TOWNS),), (1 - right) / (len(TOWNS) - 1))
        shares[at % len(TOWNS) if not (name == "n4" and place + 1 >= TURNED) else 3] = right
        row = torch.full((len(WORDS),), 1e-9)
        row[towns] = shares
        p[here] = row
    return p.log()


def planted(**kwargs: Any) -> FactTracker:
    given = {"facts": facts(NAMES[:3]), "neighbours": facts(NAMES[4:8]), "texts": ["n4 is of", "n0 is of"]}
    return FactTracker(**{**given, "forward": scripted, "draw_figures": False, "log": "full", **kwargs})


def run_planted(folder: Path, *callbacks: pl.Callback, steps: int = 6, **kwargs: Any) -> pl.Trainer:
    data = DataLoader(TensorDataset(torch.zeros(steps)), batch_size=1)
    run = trainer(folder, [*callbacks], max_epochs=1, val_check_interval=1, **kwargs)
    run.fit(Clock(), data, DataLoader(TensorDataset(torch.zeros(1))))
    return run


# ------------------------------------------------- planted


def test_planted_curves_give_the_planted_numbers(tmp_path: Path) -> None:
    callback = planted(draw_figures=True)
    run_planted(tmp_path, callback)
    for step in range(1, 7):
        # A town is told where it has more than the others together, that is more than each of them.
        told = [KNOWN[name][step - 1] for name in KNOWN]
        values = {key: dict(zip(*callback.history.series(key), strict=True)) for key in callback.measures()}
        success = sum(p > 0.25 for p in told) / 3
        assert values["fact_success/facts"][step] == pytest.approx(success)
        curves = [[math.log(p) for p in KNOWN[name][:step]] for name in KNOWN]
        found = [followed(range(1, step + 1), curve) for curve in curves]
        gain, left, decay = ([one for one in column if not math.isnan(one)] for column in zip(*found, strict=True))
        assert values["fact_effectivity/facts"][step] == pytest.approx(sum(gain) / 3, abs=1e-6)
        assert values["fact_log_prob/facts"][step] == pytest.approx(sum(one[-1] for one in curves) / 3, abs=1e-6)
        for key, known in (("fact_retention/facts", left), ("fact_decay/facts", decay)):
            if known:
                assert values[key][step] == pytest.approx(sum(known) / len(known), abs=1e-5), key
            else:
                assert step not in values[key]
        locality = 1.0 if step < TURNED else 0.75
        assert values["fact_locality"][step] == locality
        assert values["fact_success_local"][step] == (pytest.approx(success) if locality > 0.9 else 0)
    assert callback.reading["fact_success_chance/facts"] == callback.reading["fact_locality_chance"] == 1 / 4
    # Both texts have changed, one of the four neighbours has.
    turned = kl([0.7, 0.1, 0.1, 0.1], [0.1, 0.1, 0.1, 0.7])
    known = [[p, *[(1 - p) / 3] * 3] for p in (KNOWN["n0"][0], KNOWN["n0"][-1])]
    assert callback.reading["fact_kl_to_start/neighbours"] == pytest.approx(turned / 4, abs=1e-5)
    assert callback.reading["fact_kl_to_start/texts"] == pytest.approx((turned + kl(*known)) / 2, abs=1e-5)
    callback.figures()["facts/followed"]().draw_without_rendering()
    assert planted().figures() == {}


def test_a_gate_stops_where_neighbours_change(tmp_path: Path) -> None:
    callback = planted(min_locality=0.9)
    stop = EarlyStopping("fact_success_local", mode="max", patience=3, check_on_train_epoch_end=False)
    run = run_planted(tmp_path, callback, stop)
    # The most is at step 1, of whole facts; step 5 has none left.
    best = max(range(1, 5), key=lambda step: (sum(KNOWN[name][step - 1] > 0.25 for name in KNOWN), -step))
    assert (best, run.global_step) == (2, 5)
    loose = planted(min_locality=0.5)
    run_planted(tmp_path, loose)
    assert loose.reading["fact_success_local"] == loose.reading["fact_success/facts"] > 0


def test_facts_of_several_tokens_are_compared_by_the_mean(tmp_path: Path) -> None:
    model = ToyLM(len(WORDS), length=12, seed=3).eval()

    class Held(Clock):
        def __init__(self) -> None:
            super().__init__()
            self.lm = model

    long = [Fact("r", f"{name} is ___ .", "of ulm", ("rom", "of it is", "lima say")) for name in NAMES[:20]]
    callback = FactTracker(long, model="lm", log="full", draw_figures=False)
    values = analyze(Held(), [torch.zeros(1)], callback)
    scorer = Scorer(model, WORDS)
    right, log_probs = [], []
    for fact in long:
        name = fact.prompt.split()[0]
        before = float(scorer.score_sentences([f"{name} is"])[0])
        sums = [float(scorer.score_sentences([f"{name} is {one}"])[0]) - before for one in fact.candidates]
        means = [total / len(one.split()) for total, one in zip(sums, fact.candidates, strict=True)]
        right.append(max(means) == means[0])
        log_probs.append(sums[0])
    assert values["fact_success/facts"] == pytest.approx(sum(right) / 20)
    assert values["fact_log_prob/facts"] == pytest.approx(sum(log_probs) / 20, abs=1e-4)


# ------------------------------------------------- a model that stands still, and one that learns


class Reader(pl.LightningModule):
    def __init__(self, words: WordTokenizer = WORDS, lr: float = 2e-2, seed: int = 0) -> None:
        super().__init__()
        self.lr, self.tokenizer = lr, words
        self.lm = ToyLM(len(words), width=16, length=12, seed=seed)
        self.lm.unused.requires_grad_(False)  # DDP waits for every gradient

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return -sentence_log_probs(self.lm, *batch).mean()

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        pass

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=self.lr)


def text(told: list[Fact], words: WordTokenizer = WORDS, **kwargs: Any) -> DataLoader:
    rows = encode_sentences(words, [one.filled(one.answer) for one in told])
    return DataLoader(rows, batch_size=4, collate_fn=pad_right, **kwargs)


def shuffled(seed: int = 0) -> list[Fact]:
    draw = random.Random(seed)
    return [Fact("home", f"{name} is of ___", draw.choice(TOWNS), TOWNS) for name in NAMES]


def test_a_model_that_stands_still(tmp_path: Path) -> None:
    told = shuffled()
    callback = FactTracker(
        told, None, None, told, facts(NAMES), ["it is of"], model="lm", log="full", draw_figures=False
    )
    run = trainer(tmp_path, [callback], max_epochs=3)
    run.fit(Reader(lr=0.0), text(told), text(told[:4]))
    for row in callback.history.readings:
        assert row.values["fact_locality"] == 1
        assert row.values["fact_kl_to_start/texts"] == row.values["fact_kl_to_start/neighbours"] == 0
        for name in ("facts", "never_shown"):
            # Four standard deviations of 60 facts.
            assert abs(row.values[f"fact_success/{name}"] - 0.25) < 4 * math.sqrt(0.25 * 0.75 / 60)
            assert row.values[f"fact_success_chance/{name}"] == 0.25
            assert row.values[f"fact_effectivity/{name}"] == 0
            assert f"fact_retention/{name}" not in row.values
        assert row.values["fact_success_local"] == row.values["fact_success/facts"]


def test_what_is_shown_is_learned_and_what_is_not_is_not(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    world = fact_world(people=16, relations=["pet"], answers=4)
    words = WordTokenizer(world.words)
    shown, never = world.facts[:8], world.facts[8:]
    callback = FactTracker(shown, never_shown=never, model="lm", log="full", draw_figures=False)
    pl.seed_everything(0, verbose=False)
    from lightning_interp.models import small_gpt2

    model = Reader(words, 4e-3)
    model.lm = small_gpt2(words, 32, heads=2, length=16)
    run = trainer(tmp_path, [callback], max_epochs=120, check_val_every_n_epoch=20)
    run.fit(model, text(shown, words, shuffle=True), text(shown[:4], words))
    found = callback.reading
    assert found["fact_success/facts"] == 1
    assert found["fact_success/never_shown"] < 0.75
    # What a pet is called is learned from either; whose it is from what is shown.
    assert found["fact_log_prob/facts"] > -0.3
    assert found["fact_log_prob/never_shown"] < -1
    assert 0.5 < found["fact_retention/facts"] <= 1
    assert callback.history.series("fact_success/facts")[1][0] < 1


def test_training_is_left_alone(tmp_path: Path) -> None:
    told = shuffled()[:12]

    def fitted(callbacks: list[Any]) -> dict[str, Tensor]:
        torch.manual_seed(1)
        model = Reader()
        trainer(tmp_path, callbacks).fit(model, text(told, shuffle=True), text(told[:4]))
        return model.state_dict()

    callback = FactTracker(told, neighbours=facts(NAMES[20:30]), texts=["it is"], model="lm", on_error="raise")
    found, plainly = fitted([callback]), fitted([])
    assert all(torch.equal(found[name], value) for name, value in plainly.items())
    assert len(callback.history) == 2


# ------------------------------------------------- resuming, ranks


def small() -> FactTracker:
    told = shuffled()
    return FactTracker(
        told[:9],
        told[9:12],
        told[12:15],
        told[15:30],
        told[30:40],
        ["it is of", "people say it", "n3"],
        model="lm",
        log="full",
        draw_figures=False,
        batch_tokens=64,
    )


def test_the_first_reading_survives_resuming(tmp_path: Path) -> None:
    whole, first, second = small(), small(), small()
    for callback, epochs, path in ((whole, 4, None), (first, 2, None), (second, 4, "a.ckpt")):
        torch.manual_seed(1)
        run = trainer(tmp_path, [callback], max_epochs=epochs)
        resumed = {} if path is None else {"ckpt_path": tmp_path / path, "weights_only": False}
        run.fit(Reader(lr=0.2), text(shuffled()[:12]), text(shuffled()[:4]), **resumed)
        if callback is first:
            run.save_checkpoint(tmp_path / "a.ckpt")
            assert isinstance(torch.load(tmp_path / "a.ckpt", weights_only=True), dict)
    alone, again = timeless(whole), timeless(second)
    assert [one[0] for one in again] == [one[0] for one in alone]
    # Dropout goes another way after the checkpoint, so values are those of another training: what is compared is not.
    assert again[:2] == alone[:2]
    assert torch.equal(second.memory._kept["before"], whole.memory._kept["before"])
    for name, start in whole.memory._kept["start"].items():
        assert torch.equal(second.memory._kept["start"][name], start), name
    assert second.reading["fact_locality"] < 1
    assert second.reading["fact_kl_to_start/texts"] > 0.01


def test_other_facts_begin_anew(tmp_path: Path) -> None:
    first, second = small(), small()
    trainer(tmp_path, [first]).fit(Reader(), text(shuffled()[:12]), text(shuffled()[:4]))
    second.facts["facts"][0] = Fact("home", "n0 is of ___", "lima", TOWNS[::-1])
    second.memory.load_state_dict(first.memory.state_dict())
    trainer(tmp_path, [second], max_epochs=1).validate(Reader(seed=5), text(shuffled()[:4]), verbose=False)
    assert second.reading["fact_locality"] == 1


def over_ranks_read() -> dict[str, float]:
    return validated(small(), Reader(), text(shuffled()[:8]))


def test_ranks_read_what_one_process_reads(ranks: Any) -> None:
    alone = over_ranks_read()
    first, *others = ranks.run(over_ranks_read)
    assert {"fact_success/facts", "fact_portability", "fact_locality", "fact_kl_to_start/texts"} <= set(alone)
    assert first == pytest.approx(alone, abs=1e-12)
    assert all(other == first for other in others)


# ------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"facts": []}, "`facts` must hold Fact objects, at least one, got none"),
        ({"neighbours": []}, "`neighbours` must hold Fact objects, at least one, got none"),
        ({"implied": "nowhere.csv"}, "`implied` is 'nowhere.csv'"),
        ({"texts": []}, r"`texts` must be a list of texts, at least one, got \[\]"),
        ({"texts": "it is"}, "`texts` must be a list of texts, at least one, got 'it is'"),
        ({"max_facts": 0}, "`max_facts` must be at least 1, or None for all, got 0"),
        ({"candidates": 1}, "`candidates` must be at least 2, or None for all, got 1"),
        ({"max_texts": 0}, "`max_texts` must be at least 1, got 0"),
        ({"min_locality": 1.5}, "`min_locality` must lie between 0 and 1, got 1.5"),
    ],
)
def test_arguments(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        planted(**kwargs)


def test_only_what_is_given_has_keys() -> None:
    callback = FactTracker(facts(NAMES[:3]), model="lm", log="full")
    names = {key.split("/")[0] for key in callback.measures()}
    assert (
        not {"fact_locality", "fact_success_local", "fact_kl_to_start", "fact_paraphrase", "fact_portability"} & names
    )
    assert callback.conditional_keys()["fact_retention/facts"] == "fact_success/facts"
