"""Truth planted in a layer is told at its analytic rate, negations catch plausibility, controls stay at chance."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import torch.distributed as dist
from callbacks.test_coordinate_probe import learner
from probing.planted import SITES, Planted, loader

from lightning_interp import TruthProbe, analyze
from lightning_interp.probing import Statement, fact_statements, planted_facts, true_sentences
from tests.toy import trainer

RATE = float(torch.distributions.Normal(0.0, 1.0).cdf(torch.tensor(1.5)))


def statements(number: int = 800, topics: int = 4) -> list[Statement]:
    """One word each: what is true of it is planted, not said."""
    kinds = [(label, negated) for label in (True, False) for negated in (False, True)]
    return [Statement(f"w{n}", kinds[n % 4][0], f"t{n // 4 % topics}", kinds[n % 4][1]) for n in range(number)]


def along(signal: list[bool], dim: int = 12, strength: float = 1.5, seed: int = 0) -> torch.Tensor:
    x = torch.randn(len(signal), dim, generator=torch.Generator().manual_seed(seed))
    x[:, 0] += strength * (torch.tensor(signal).float() * 2 - 1)
    return x


def model_of(given: list[Statement], planted: torch.Tensor, **kwargs: Any) -> Planted:
    return Planted([one.text for one in given], planted, **kwargs)


def probe(given: list[Statement], **kwargs: Any) -> TruthProbe:
    settings: dict[str, Any] = {"model": "lm", "likelihood": False, "batch_tokens": 400}
    return TruthProbe(given, SITES, **{**settings, **kwargs})


@pytest.mark.parametrize("heard", ["truth", "plausibility"])
def test_planted_truth_and_the_trap_of_negation(heard: str) -> None:
    given = statements()
    signal = [one.label if heard == "truth" else one.label != one.negated for one in given]
    names = ("mass_mean", "mass_mean_whitened", "logistic")
    found = analyze(model_of(given, along(signal)), loader(), probe(given, probes=names))
    for name in names:
        assert found[f"truth_accuracy/planted/{name}"] == pytest.approx(RATE, abs=0.04)
        expected = RATE if heard == "truth" else 1 - RATE
        assert found[f"truth_overall/planted/{name}"] == pytest.approx((RATE + expected) / 2, abs=0.03)
        assert found[f"truth_negated/planted/{name}"] == pytest.approx(expected, abs=0.04)
        assert (found[f"truth_negated_auroc/planted/{name}"] > 0.5) == (heard == "truth")
        # Four standard errors of a share of 400.
        for key in (
            f"truth_accuracy/noise/{name}",
            f"truth_negated/noise/{name}",
            f"truth_auroc/noise/{name}",
            f"truth_accuracy_control/planted/{name}",
            f"truth_accuracy_baseline/planted/{name}",
        ):
            assert found[key] == pytest.approx(0.5, abs=0.12), key
        difference = found[f"truth_accuracy/planted/{name}"] - found[f"truth_accuracy_baseline/planted/{name}"]
        assert found[f"truth_accuracy_above_baseline/planted/{name}"] == pytest.approx(difference)


def test_the_likelihood_is_that_of_the_statement() -> None:
    given = statements(80)
    words = [one.text for one in given]
    # The start token is followed by words that sound true with a probability e⁴ times that of the others.
    size = len(words) + 4
    logits = torch.zeros(size, size)
    tokenizer = model_of(given, along([True] * 80)).tokenizer
    for one in given:
        place = tokenizer.encode(one.text, add_special_tokens=False)[0]
        logits[tokenizer.bos_token_id, place] = 4.0 * (one.label != one.negated)
    model = model_of(given, along([one.label for one in given]), logits=logits)
    found = analyze(model, loader(), probe(given, likelihood=True, baseline=False))
    assert {key: value for key, value in found.items() if key.startswith("truth_likelihood")} == {
        "truth_likelihood/accuracy": 1.0,
        "truth_likelihood/auroc": 1.0,
        "truth_likelihood/negated": 0.0,
        "truth_likelihood/negated_auroc": 0.0,
        "truth_likelihood/overall": 0.5,
    }


def test_statements_without_negations_have_no_such_keys() -> None:
    given = [one for one in statements(80) if not one.negated]
    callback = probe(given, likelihood=True)
    assert not [key for key in callback.measures() if "negated" in key]
    found = analyze(model_of(given, along([one.label for one in given])), loader(), callback)
    assert set(found) == set(callback.measures(model_of(given, along([True] * 40))))


def eighty() -> list[Statement]:
    return statements(80)


def test_statements_may_be_a_table_or_a_function(tmp_path: Path) -> None:
    file = tmp_path / "statements.csv"
    rows = [f"w{n},{n % 2},t{n // 2 % 3}" for n in range(12)]
    file.write_text("\n".join(["statement,label,topic", *rows]))
    for given in (file, str(file), eighty, f"{__name__}.eighty"):
        assert TruthProbe(given, "lm").statements[0].text == "w0"
    with pytest.raises(ValueError, match=r"`statements` is 'no/such\.csv'; it must be the path of a table that exists"):
        TruthProbe("no/such.csv", "lm")


def test_statements_do_not_stand_in_every_row_of_the_readings() -> None:
    settings = probe(statements(80), pooling="last").settings()
    assert (settings["sentences"], settings["pooling"]) == (80, "last")
    assert max(len(str(value)) for value in settings.values()) < 100


def test_a_model_without_logits_is_told_how_to_go_on() -> None:
    given = statements(80)
    model = model_of(given, along([True] * 80))
    callback = TruthProbe(
        given,
        {"planted": "layers.1"},
        model="layers.1",
        tokenizer=model.tokenizer,
        forward=lambda m, ids, mask: m(ids)[0],
    )
    with pytest.raises(TypeError, match="no logits"):
        analyze(model.lm, loader(), callback, forward=lambda model, batch: model(batch))


@pytest.mark.parametrize(
    ("given", "changes", "told"),
    [
        (statements(80), {"probes": ["svm"]}, r"`probes` must be some of 'mass_mean', .* got \['svm'\]"),
        (statements(80), {"probes": "logistic"}, "`probes` must be some of"),
        (statements(80, topics=2), {}, r"at least 3 topics, .* got \['t0', 't1'\]"),
        (
            [one for one in statements(80) if one.label or one.topic != "t1"],
            {},
            "no affirmative false statement .* 't1'",
        ),
    ],
)
def test_refusals(given: list[Statement], changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        probe(given, **changes)


# ------------------------------------------------- in a Trainer


def fit(folder: str | Path, callback: TruthProbe | None, **kwargs: Any) -> tuple[Any, Planted]:
    given = statements(96)
    pl.seed_everything(0, verbose=False)
    model = model_of(given, along([one.label for one in given]))
    run = trainer(folder, [] if callback is None else [callback], **kwargs)
    run.fit(model, loader(), loader(5))
    return run, model


def over_ranks() -> dict[str, Any]:
    world = dist.get_world_size() if dist.is_initialized() else 1
    callback = probe(statements(96), draw_figures=False, log="full", likelihood=True, batch_tokens=40)
    with tempfile.TemporaryDirectory() as folder:
        kwargs = {"strategy": "ddp", "devices": world} if world > 1 else {}
        run, _ = fit(folder, callback, **kwargs)
    return {
        "reading": {key: value for key, value in callback.reading.items() if "seconds" not in key},
        "logged": {key: float(value) for key, value in run.callback_metrics.items() if "truth" in key},
    }


def test_ranks_log_what_one_process_logs(ranks: Any) -> None:
    alone = over_ranks()
    assert "truth_likelihood/negated_auroc" in alone["logged"]
    found = ranks.run(over_ranks)
    for one in found:
        assert one["reading"].keys() == alone["reading"].keys()
        for key, value in alone["reading"].items():
            # The head is trained on other batches by two ranks: what it says of statements is another thing.
            if not key.startswith("truth_likelihood"):
                assert one["reading"][key] == pytest.approx(value, abs=1e-6), key
        assert one == found[0]


def test_training_is_untouched_and_figures_are_drawn(tmp_path: Path) -> None:
    _, plain = fit(tmp_path, None)
    callback = probe(statements(96), likelihood=True)
    _, watched = fit(tmp_path, callback)
    assert all(torch.equal(*pair) for pair in zip(plain.parameters(), watched.parameters(), strict=True))
    drawn = {tag: draw() for tag, draw in callback.figures().items()}
    kinds = ("accuracy", "negated", "overall")
    assert set(drawn) == {f"truth/truth_{kind}/{name}" for kind in kinds for name in ("mass_mean", "logistic")}
    callback.prefix = "facts/"
    assert set(callback.figures()) == set(drawn), "the prefix is put before every tag where it is drawn"


def test_a_site_that_is_not_finite_does_not_hide_the_likelihood(tmp_path: Path) -> None:
    given = statements(96)
    planted = along([one.label for one in given])
    planted[5] = torch.nan
    sites = {"planted": SITES["planted"], "noise": SITES["noise"]}
    callback = TruthProbe(given, sites, model="lm", draw_figures=False)
    model = model_of(given, planted)
    with pytest.warns(UserWarning, match="cannot be told from this reading"):
        trainer(tmp_path, [callback]).fit(model, loader(), loader(5))
    assert "truth_accuracy/planted/logistic" not in callback.reading
    assert "truth_accuracy/noise/logistic" in callback.reading
    assert "truth_likelihood/accuracy" in callback.reading


def test_a_language_model_that_has_learnt_facts_by_heart_has_no_direction_of_truth(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    tables = planted_facts(topics=4, subjects=8, objects=4)
    sentences = true_sentences(tables, 4000, negated=0.15)
    pl.seed_everything(0, verbose=False)
    model, encoded = learner(sentences)
    data = torch.utils.data.DataLoader(encoded, batch_size=32, shuffle=True)
    held_out = torch.utils.data.DataLoader(encoded[:64], batch_size=64)
    callback = TruthProbe(fact_statements(tables), {"layer": "lm.transformer.h.1"}, model="lm")
    trainer(tmp_path, [callback], max_epochs=3).fit(model, data, held_out)
    (first, *_, last) = (reading.values for reading in callback.history.readings)
    assert first["truth_likelihood/accuracy"] < 0.7
    assert last["truth_likelihood/accuracy"] > 0.85
    assert last["truth_likelihood/auroc"] > 0.95
    # Known by heart, facts do not make denials more than a guess, nor anything that topics share.
    assert last["truth_likelihood/negated"] < 0.7
    assert last["truth_overall/layer/mass_mean"] < 0.65
