"""Sentences run through a language model: batches, sites, any tensor, one forward pass for all that read the same."""

from __future__ import annotations

import copy
import math
import pickle
import tempfile
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import torch.distributed as dist
from tasks.toy_lm import ToyLM
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_interp import CoordinateProbe, LanguageModel, analyze
from lightning_interp.callbacks import Probed, ProbedSite, SentenceProbe
from lightning_interp.distributed import over_ranks
from lightning_interp.parts.sentences import SentenceBatch, Sentences
from lightning_interp.probing import planted_places
from lightning_interp.reading.reading import Reading
from lightning_interp.sites import CaptureError
from tests.callbacks.test_sentence_probe import TEXTS, WORDS, letters
from tests.parts.counted import Counted
from tests.toy import trainer

DATA = DataLoader(TensorDataset(torch.zeros(2)))


def part(texts: Any = WORDS, sites: Any = ("embedding", "mix"), forward: Any = None, **kwargs: Any) -> Sentences:
    tokens = kwargs.pop("batch_tokens", 8)
    return Sentences(texts, list(sites), LanguageModel(letters, forward=forward, batch_tokens=tokens), **kwargs)


def attached(*args: Any, model: nn.Module | None = None, **kwargs: Any) -> Sentences:
    found = part(*args, **kwargs)
    found.attach(ToyLM() if model is None else model)
    return found


# ------------------------------------------------- a forward pass


def test_every_sentence_is_in_one_batch_with_what_the_sites_put_out() -> None:
    model = ToyLM()
    sentences = attached(model=model)
    model.train()
    seen_places: list[int] = []

    def look(seen: SentenceBatch) -> None:
        seen_places.extend(seen.places)
        assert not model.training
        assert not torch.is_grad_enabled()
        assert seen.ids.numel() <= 8 or len(seen.places) == 1
        for row, place in enumerate(seen.places):
            ids = letters(TEXTS[place])
            assert seen.ids[row, : len(ids)].tolist() == ids
            assert int(seen.mask[row].sum()) == len(ids)
            assert seen.units[row].tolist() == [*range(len(ids)), *[-1] * (seen.ids.shape[1] - len(ids))]
            torch.testing.assert_close(seen.at["embedding"][row, : len(ids)], model.embedding(torch.tensor(ids)))
        assert torch.equal(seen.output, model(seen.ids))

    assert sentences.run(look) == [None] * len(sentences.run(lambda seen: seen))
    assert sorted(seen_places[: len(WORDS)]) == list(range(len(WORDS)))
    assert model.training


@pytest.mark.parametrize("pooling", ["last", "first", "mean"])
def test_vectors_are_those_of_each_sentence_alone(pooling: Any) -> None:
    model = ToyLM()
    sentences = attached(TEXTS, ["mix"], model=model, pooling=pooling)
    found = over_ranks(sentences.vectors())["mix"]
    caught: list[Tensor] = []
    handle = model.mix.register_forward_hook(lambda module, args, output: caught.append(output[0].detach()))
    model.eval()
    for text in TEXTS:
        model(torch.tensor([letters(text)]))
    handle.remove()
    pool = {"last": lambda z: z[-1], "first": lambda z: z[0], "mean": lambda z: z.mean(0)}[pooling]
    torch.testing.assert_close(found, torch.stack([pool(z) for z in caught]))


def test_a_number_of_units_that_are_not_finite_leaves_a_site_unprobed() -> None:
    model = Two()
    with torch.no_grad():
        model.one.weight[1] = math.inf  # the letter a
    sentences = attached(WORDS, ["one", "other"], model=model)
    asked: list[str] = []

    def probe(site: str, vectors: Tensor) -> Probed:
        asked.append(site)
        return Probed({"norm": float(vectors.norm())}, torch.ones(len(site)))

    found, wrong = over_ranks(sentences.probed(sentences.run(sentences.pooled), probe, ["norm"]))
    assert wrong == {"one": sum("a" in word for words in WORDS for word in words), "other": 0}
    assert asked == ["other"]
    assert math.isnan(found["one"].values["norm"])
    assert (len(found["one"].kept), len(found["other"].kept)) == (0, len("other"))


class Two(nn.Module):
    """Two places that put out a vector for each token."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Embedding(12, 4), nn.Embedding(12, 6)

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        return self.one(ids), self.other(ids)


class Attending(nn.Module):
    """Gives a second tensor, of another shape."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.attention = nn.Embedding(12, 4), nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, ids: Tensor) -> Tensor:
        z = self.embedding(ids)
        found: Tensor = self.attention(z, z, z, average_attn_weights=False)[0]
        return found


def test_any_tensor_of_an_output_is_read() -> None:
    model = Attending()

    def shapes(seen: SentenceBatch) -> tuple[int, ...]:
        return tuple(seen.at["attention"].shape)

    by_index = attached(WORDS, ["attention"], model=model, output=1).run(shapes)
    by_function = attached(WORDS, ["attention"], model=model, output=lambda output: output[1]).run(shapes)
    assert by_index == by_function
    assert all(shape[1] == 2 and shape[2] == shape[3] for shape in by_index)
    weights = attached(WORDS, ["attention"], model=model, output=1).run(lambda seen: seen.at["attention"])
    torch.testing.assert_close(weights[0].sum(-1), torch.ones(weights[0].shape[:3]))


def test_a_site_that_runs_several_times_is_read_by_its_calls() -> None:
    model = nn.Sequential(nn.Embedding(12, 4), *[nn.Linear(4, 4)] * 3)
    sentences = attached(WORDS, ["1"], model=model, call="all")
    assert sentences.run(lambda seen: len(seen.calls["1"]))[0] == 3
    with pytest.raises(ValueError, match="site '1' is read 3 times: see `calls`"):
        sentences.run(lambda seen: seen.at)
    with pytest.raises(CaptureError, match="ran 3 times"):
        attached(WORDS, ["1"], model=model).run(lambda seen: seen.at)


# ------------------------------------------------- shared


class Norms(SentenceProbe):
    """Mean norm of each site, and of the output."""

    extra_width = 1

    def probe_measures(self) -> dict[str, str]:
        return {"norm": "full"}

    def extra(self, output: Any, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return (output.float() * attention_mask[..., None]).flatten(1).norm(dim=1)

    def from_extra(self, extra: Tensor) -> dict[str, float]:
        return {"output": float(extra.mean())}

    def measures(self, model: nn.Module | None = None) -> dict[str, str]:
        return super().measures(model) | {"output": "full"}

    def evaluate(self, site: str, data: ProbedSite, kept: Tensor | None) -> Probed:
        return Probed({"norm": float(data.vectors.norm(dim=1).mean())})


class Trained(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.lm = ToyLM()

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        ids = torch.tensor([letters(TEXTS[2])])
        return nn.functional.cross_entropy(self.lm(ids)[0, :-1], ids[0, 1:])

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        pass

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def norms(forward: Any, site: str = "mix", texts: Any = WORDS, kind: type[SentenceProbe] = Norms, **kwargs: Any) -> Any:
    given = {"tokenizer": letters, "model": "lm", "batch_tokens": 8, "baseline": False, "log": "full", **kwargs}
    return kind(texts, {site: f"lm.{site}"}, forward=forward, draw_figures=False, **given)


def fitted(folder: Path, *callbacks: Any) -> list[list[dict[str, float]]]:
    """The readings of each, without the time they took, by keys without the prefix."""
    pl.seed_everything(3, verbose=False)
    trainer(folder, list(callbacks), max_epochs=3).fit(Trained(), DATA, DATA)
    return [
        [
            {key.removeprefix(one.prefix): value for key, value in row.values.items() if "seconds" not in key}
            for row in one.history.readings
        ]
        for one in callbacks
    ]


def test_the_same_sentences_go_through_the_model_once_a_validation_whatever_sites_are_read(tmp_path: Path) -> None:
    alone, other, both = Counted(), Counted(), Counted()
    (mix,) = fitted(tmp_path, norms(alone))
    (embedding,) = fitted(tmp_path, norms(other, "embedding", pooling="mean"))
    one, two = norms(both), norms(both, "embedding", pooling="mean", prefix="other/")
    assert fitted(tmp_path, one, two) == [mix, embedding]  # to the last bit
    assert alone.calls == other.calls == both.calls > 0
    assert len({row["norm/mix"] for row in mix}) == len(mix) == 3, "each validation has a forward pass of its own"


def test_random_weights_are_read_by_each_and_leave_nothing_to_others(tmp_path: Path) -> None:
    alone, both = Counted(), Counted()
    expected = [fitted(tmp_path, norms(alone, baseline=lambda seed=seed: ToyLM(seed=seed)))[0] for seed in (5, 6)]
    calls, batches = alone.calls // 2, len(attached().run(lambda seen: None))
    probes = [norms(both, baseline=lambda seed=seed: ToyLM(seed=seed), prefix=f"{seed}/") for seed in (5, 6)]
    assert fitted(tmp_path, *probes) == expected
    assert both.calls == calls + batches, "the second baseline, and nothing else"
    assert expected[0][0]["norm_baseline/mix"] != expected[1][0]["norm_baseline/mix"]


@pytest.mark.parametrize(
    "other",
    [{"texts": [*WORDS[1:], WORDS[0]]}, {"batch_tokens": 12}, {"bos_token_id": 10}],
    ids=["sentences", "batches", "start"],
)
def test_what_differs_is_run_by_itself(tmp_path: Path, other: dict[str, Any]) -> None:
    forward = Counted()
    expected = [*fitted(tmp_path, norms(forward)), *fitted(tmp_path, norms(forward, **other))]
    calls, forward.calls = forward.calls, 0
    assert fitted(tmp_path, norms(forward), norms(forward, **other, prefix="other/")) == expected
    assert forward.calls == calls > 0


def test_what_is_not_read_at_a_validation_is_not_run(tmp_path: Path) -> None:
    forward, often = Counted(), Counted()
    fitted(tmp_path, norms(often))
    rare = norms(forward, every_n_validations=2, prefix="rare/")
    found = fitted(tmp_path, rare, norms(forward))
    assert forward.calls == often.calls
    assert found[0] == [found[1][0], found[1][2]]


class Fails(Norms):
    """Cannot read the output of the second validation."""

    calls = 0

    def extra(self, output: Any, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        if len(self.history) == 1 and not self.failed:
            raise RuntimeError("planted")
        return super().extra(output, input_ids, attention_mask)


@pytest.mark.parametrize("first", [True, False])
def test_one_that_fails_costs_the_others_nothing(tmp_path: Path, first: bool) -> None:
    forward = Counted()
    (expected,) = fitted(tmp_path, norms(Counted()))
    fails, works = norms(forward, kind=Fails, prefix="fails/"), norms(forward)
    with pytest.warns(UserWarning, match="Fails dropped a reading and goes on: RuntimeError: planted"):
        found = fitted(tmp_path, *([fails, works] if first else [works, fails]))
    assert found[0 if not first else 1] == expected
    assert found[1 if not first else 0] == [expected[0], expected[2]]
    assert (fails.failed, works.failed) == (1, 0)


def test_analyze_runs_them_once_too() -> None:
    model, forward = Trained(), Counted()
    one = analyze(model, DATA, norms(forward), progress=False)
    calls, forward.calls = forward.calls, 0
    found = analyze(model, DATA, [norms(forward), norms(forward, prefix="again/")], progress=False)
    assert forward.calls == calls > 0
    assert found == one | {f"again/{key}": value for key, value in one.items()}


def ranked() -> list[dict[str, float]]:
    world = dist.get_world_size() if dist.is_initialized() else 1
    both = [norms(None), norms(None, "embedding", pooling="mean", prefix="other/")]
    with tempfile.TemporaryDirectory() as folder:
        strategy = "ddp" if world > 1 else "auto"
        run = trainer(Path(folder), both, devices=world, strategy=strategy, limit_train_batches=0)
        run.validate(Trained(), DATA, verbose=False)
    return [{key: value for key, value in one.reading.items() if "seconds" not in key} for one in both]


def test_ranks_share_what_one_process_shares(ranks: Any) -> None:
    alone = ranked()
    assert all(alone)
    assert all(found == alone for found in ranks.run(ranked))


def test_run_is_never_shared() -> None:
    forward = Counted()
    first, second = (attached(forward=forward, model=model) for model in [ToyLM()] * 2)
    reading = Reading(first.module)
    for one in (first, second):
        one.share(reading, lambda seen: seen.places)
    first.run(lambda seen: None)
    assert second._results is None
    calls = forward.calls
    assert first.shared() == second.shared()
    assert forward.calls == 2 * calls
    with pytest.raises(RuntimeError, match="`share` comes before `shared`"):
        first.shared()


def test_hooks_are_gone_when_it_is_detached_and_a_copy_has_no_model() -> None:
    model = ToyLM()
    sentences = attached(model=model)
    sentences.share(Reading(model), sentences.pooled)
    for other in (copy.copy(sentences), pickle.loads(pickle.dumps(sentences)), sentences.fresh()):
        with pytest.raises(RuntimeError, match="belong to no model yet"):
            other.run(lambda seen: None)
        with pytest.raises(RuntimeError, match="`share` comes before"):
            other.shared()
    assert any(module._forward_hooks for module in model.modules())
    sentences.detach()
    assert not any(module._forward_hooks for module in model.modules())


# ------------------------------------------------- how the model is said


@pytest.mark.parametrize("start", [{}, {"special_tokens": "none"}, {"bos_token_id": 10}])
def test_a_language_model_says_what_its_parts_would_say_one_by_one(start: dict[str, Any]) -> None:
    given = {"tokenizer": letters, "model": "lm", "batch_tokens": 64, **start}
    entities, model = planted_places(30), Trained()
    one = CoordinateProbe(entities, "lm.mix", **given, baseline=False)
    other = CoordinateProbe(entities, "lm.mix", lm=LanguageModel(**given), baseline=False)
    assert one.state_key == other.state_key
    assert one.settings() == other.settings()
    assert {"model": "lm", "batch_tokens": 64, "sentences": 30, "sites": "lm.mix"}.items() <= one.settings().items()
    assert analyze(model, DATA, one, progress=False) == analyze(model, DATA, other, progress=False)


@pytest.mark.parametrize("flat", [{"model": "lm"}, {"batch_tokens": 8}, {"special_tokens": "own"}])
def test_it_is_not_said_twice(flat: dict[str, Any]) -> None:
    (name,) = flat
    with pytest.raises(ValueError, match=f"`{name}=.*` is said beside `lm`"):
        CoordinateProbe(planted_places(30), "lm.mix", lm=LanguageModel(), **flat)


def test_a_checkpoint_of_before_is_read(tmp_path: Path) -> None:
    entities = planted_places(30)

    def probe() -> CoordinateProbe:
        given = {"tokenizer": letters, "model": "lm", "baseline": lambda: ToyLM(seed=5), "draw_figures": False}
        return CoordinateProbe(entities, {"mix": "lm.mix"}, **given)

    now = probe()
    fitted(tmp_path, now)
    state = now.state_dict()
    stored, baseline = state.pop("stored"), state.pop("baseline")
    maps = {**stored, "values": [{site: one.view(30, 2) for site, one in kept.items()} for kept in stored["values"]]}
    random = {name: baseline.pop(name) for name in ("missing", "shuffled")}
    before = {**state, "kept": now.kept, "maps": maps, "baseline": baseline["values"], "random": random}
    again = probe()
    again.load_state_dict(before)
    assert [step for step, _ in again.maps] == [step for step, _ in now.maps]
    assert torch.equal(again.maps[-1][1]["mix"], now.maps[-1][1]["mix"])
    assert again.baseline.values == now.baseline.values
    assert not again.baseline.due
    assert again.state_dict()["baseline"] == now.state_dict()["baseline"]
    plain = norms(None)
    plain.load_state_dict({**before, "kept": {"mix": torch.ones(3)}, "maps": None} | {"maps": before["maps"]})
    del before["maps"]
    plain.load_state_dict(before | {"kept": {"mix": torch.ones(3)}})
    assert torch.equal(plain.kept["mix"], torch.ones(3))
