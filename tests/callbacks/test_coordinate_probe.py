"""Coordinates planted in a layer are recovered to their analytic R², controls stay at chance, ranks agree."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import torch.distributed as dist
from probing.planted import SITES, Planted, loader

from lightning_interp import CoordinateProbe, analyze
from lightning_interp.functional import block_folds, random_folds
from lightning_interp.language import pad_right
from lightning_interp.models import CausalLM, small_gpt2
from lightning_interp.probing import Entities, cooccurrence_sentences, planted_places, planted_years
from lightning_interp.tasks import WordTokenizer
from tests.toy import trainer

DIM = 16


def with_noise(entities: Entities, noise: float, seed: int = 0, dim: int = DIM) -> torch.Tensor:
    """Standardised coordinates along orthonormal directions, and noise of this size in all dimensions."""
    generator = torch.Generator().manual_seed(seed)
    unit = (entities.targets - entities.targets.mean(0)) / entities.targets.std(0, correction=0)
    directions = torch.linalg.qr(torch.randn(dim, unit.shape[1], generator=generator, dtype=torch.float64)).Q
    return unit @ directions.T + noise * torch.randn(len(unit), dim, generator=generator, dtype=torch.float64)


def analytic_r2(entities: Entities, folds: torch.Tensor, noise: float) -> float:
    """Of the best linear map on other folds: a coordinate y + noise is drawn to their mean by their share of signal."""
    unit = (entities.targets - entities.targets.mean(0)) / entities.targets.std(0, correction=0)
    errors = torch.empty_like(unit)
    for fold in folds.unique():
        test, rest = unit[folds == fold], unit[folds != fold]
        share = rest.var(0) / (rest.var(0) + noise**2)
        errors[folds == fold] = (1 - share) ** 2 * (test - rest.mean(0)) ** 2 + share**2 * noise**2
    return float(1 - errors.mean())


def read(entities: Entities, planted: torch.Tensor, **kwargs: Any) -> dict[str, float]:
    model = Planted(list(entities.names), planted)
    probe = CoordinateProbe(entities, SITES, model="lm", **kwargs)
    return analyze(model, loader(), probe)


@pytest.mark.parametrize("noise", [0.3, 1.0])
@pytest.mark.parametrize("kind", ["places", "years"])
def test_planted_coordinates_are_recovered_to_their_analytic_r2(kind: str, noise: float) -> None:
    entities = planted_places(600, regions=4) if kind == "places" else planted_years(600)
    found = read(entities, with_noise(entities, noise))
    expected = 1 / (1 + noise**2)
    folds = {"coordinate_r2": random_folds(600), "coordinate_r2_blocked": block_folds(entities.blocks)}
    assert analytic_r2(entities, folds["coordinate_r2"], noise) == pytest.approx(expected, abs=0.02)
    for measure in ("coordinate_r2", "coordinate_r2_blocked"):
        assert found[f"{measure}/planted"] == pytest.approx(analytic_r2(entities, folds[measure], noise), abs=0.05)
        # A layer of noise, random weights, and coordinates dealt to other entities.
        assert found[f"{measure}/noise"] < 0.03
        assert found[f"{measure}_baseline/planted"] < 0.03
        above = found[f"{measure}/planted"] - found[f"{measure}_baseline/planted"]
        assert found[f"{measure}_above_baseline/planted"] == pytest.approx(above)
    assert found["coordinate_r2_control/planted"] == pytest.approx(0, abs=0.06)
    assert found["coordinate_spearman/planted"] == pytest.approx(math.sqrt(expected), abs=0.06)
    assert found["proximity_error/noise"] == pytest.approx(0.5, abs=0.06)
    assert found["proximity_error/planted"] < 0.32
    assert found["proximity_error_above_baseline/planted"] < -0.2


def test_a_code_of_regions_alone_fails_on_regions_held_out() -> None:
    entities = planted_places(400, regions=3)
    regions = sorted(set(entities.blocks))
    codes = torch.randn(len(regions), DIM, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    planted = codes[[regions.index(block) for block in entities.blocks]]
    found = read(entities, planted + 0.05 * with_noise(entities, 1.0))
    assert found["coordinate_r2/planted"] > 0.7
    assert found["coordinate_r2_blocked/planted"] < 0.3


def test_latitude_and_longitude_are_measured_on_the_sphere() -> None:
    names = tuple(f"w{n}" for n in range(60))
    generator = torch.Generator().manual_seed(0)
    targets = (torch.rand(60, 2, generator=generator) - 0.5) * torch.tensor([120.0, 360.0])
    entities = Entities(names, targets, ("latitude", "longitude"), tuple(str(n % 6) for n in range(60)))
    planted = with_noise(entities, 0.3)
    sphere, flat = read(entities, planted), read(entities, planted, distance="euclidean")
    assert sphere["proximity_error/planted"] != flat["proximity_error/planted"]
    assert sphere["coordinate_r2/planted"] == flat["coordinate_r2/planted"]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"folds": 2}, r"`folds` must be at least 3"),
        ({"distance": "miles"}, r"`distance` must be 'euclidean' or 'haversine', got 'miles'"),
        ({"distance": "haversine"}, r"the coordinates are \('north', 'east'\)"),
        ({"template": "the city"}, r"`template` must have one place for the name"),
    ],
)
def test_refusals(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        CoordinateProbe(planted_places(30), "lm", **changes)


def test_entities_may_be_a_table_or_a_function(tmp_path: Path) -> None:
    file = tmp_path / "cities.csv"
    rows = [f"c{n},{n}.0,{-n}.5,b{n % 3}" for n in range(9)]
    file.write_text("\n".join(["name,latitude,longitude,block", *rows]))
    by_table = CoordinateProbe(file, "lm", folds=3)
    assert (by_table.entities.names[2], by_table.distance) == ("c2", "haversine")
    for function in (planted_places, "lightning_interp.probing.planted_places"):
        by_function = CoordinateProbe(function, "lm")
        assert (len(by_function.entities), by_function.distance) == (200, "euclidean")
    with pytest.raises(ValueError, match=r"`entities` is 'no/such\.csv'; it must be the path of a table that exists"):
        CoordinateProbe("no/such.csv", "lm")
    with pytest.raises(ValueError, match="`entities` must be an Entities object, got list"):
        CoordinateProbe(lambda: ["Paris"], "lm")


# ------------------------------------------------- in a Trainer


def fit(folder: str | Path, callback: CoordinateProbe | None, epochs: int = 2, **kwargs: Any) -> tuple[Any, Planted]:
    entities = planted_places(45)
    pl.seed_everything(0, verbose=False)
    model = Planted(list(entities.names), with_noise(entities, 0.5))
    run = trainer(folder, [] if callback is None else [callback], max_epochs=epochs, **kwargs)
    run.fit(model, loader(), loader(5))
    return run, model


def probe(**kwargs: Any) -> CoordinateProbe:
    return CoordinateProbe(planted_places(45), SITES, model="lm", batch_tokens=40, **kwargs)


def test_maps_and_figures_of_a_fit(tmp_path: Path) -> None:
    callback = probe()
    fit(tmp_path, callback, epochs=3)
    steps = [step for step, _ in callback.maps]
    assert steps == [2, 4, 6]
    last = callback.maps[-1][1]["planted"]
    residual = (last - callback.entities.targets).square().sum(0)
    total = (callback.entities.targets - callback.entities.targets.mean(0)).square().sum(0)
    assert float((1 - residual / total).mean()) == pytest.approx(callback.reading["coordinate_r2/planted"], abs=1e-5)
    drawn = {tag: draw() for tag, draw in callback.figures().items()}
    assert set(drawn) == {
        "coordinates/r2",
        "coordinates/r2_blocked",
        "coordinates/map/noise",
        "coordinates/map/planted",
    }
    callback.prefix = "space/"
    assert set(callback.figures()) == set(drawn), "the prefix is put before every tag where it is drawn"
    callback.prefix = ""
    titles = [axes.get_title() for axes in drawn["coordinates/map/planted"].axes]
    assert titles[:4] == ["true", "step 2", "step 4", "step 6"]
    again = probe()
    again.load_state_dict(callback.state_dict())
    assert [step for step, _ in again.maps] == steps
    assert torch.equal(again.maps[-1][1]["planted"], last)


def test_a_site_that_is_not_finite_leaves_a_gap(tmp_path: Path) -> None:
    callback = probe(draw_figures=False)
    entities = planted_places(45)
    planted = with_noise(entities, 0.5)
    planted[3] = math.nan
    model = Planted(list(entities.names), planted)
    with pytest.warns(UserWarning, match="cannot be told from this reading"):
        trainer(tmp_path, [callback]).fit(model, loader(), loader(5))
    assert "coordinate_r2/planted" not in callback.reading
    assert callback.reading["nonfinite/planted/entities"] == 1
    assert "coordinate_r2/noise" in callback.reading
    assert bool(callback.maps[-1][1]["planted"].isnan().all())
    assert len(callback.figures()["coordinates/map/planted"]().axes) >= 2


def over_ranks() -> dict[str, Any]:
    world = dist.get_world_size() if dist.is_initialized() else 1
    callback = probe(draw_figures=False, log="full")
    with tempfile.TemporaryDirectory() as folder:
        kwargs = {"strategy": "ddp", "devices": world} if world > 1 else {}
        run, _ = fit(folder, callback, **kwargs)
    return {
        "reading": {key: value for key, value in callback.reading.items() if "seconds" not in key},
        "map": callback.maps[-1][1]["planted"].tolist(),
        "logged": {key: float(value) for key, value in run.callback_metrics.items() if "coordinate" in key},
    }


def test_ranks_log_what_one_process_logs(ranks: Any) -> None:
    alone = over_ranks()
    found = ranks.run(over_ranks)
    for one in found:
        assert one["reading"].keys() == alone["reading"].keys()
        for key, value in alone["reading"].items():
            assert one["reading"][key] == pytest.approx(value, abs=1e-6), key
        assert one == found[0]
        torch.testing.assert_close(torch.tensor(one["map"]), torch.tensor(alone["map"]))


def test_training_is_untouched(tmp_path: Path) -> None:
    _, plain = fit(tmp_path, None)
    _, watched = fit(tmp_path, probe())
    assert all(torch.equal(*pair) for pair in zip(plain.parameters(), watched.parameters(), strict=True))


# ------------------------------------------------- a model that learns


def learner(sentences: list[str]) -> tuple[CausalLM, torch.Tensor]:
    """A small GPT-2 of their words, and they as ids."""
    words = WordTokenizer.from_sentences(sentences)
    lm = small_gpt2(words, 32, heads=2, length=10, dropout=0.1)
    return CausalLM(lm, words, lr=5e-3), pad_right([torch.tensor(words.encode(one)) for one in sentences])[0]


def test_a_language_model_learns_places_from_the_company_names_keep(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    entities = planted_places(100)
    sentences = cooccurrence_sentences(entities, 8000)
    pl.seed_everything(0, verbose=False)
    model, encoded = learner(sentences)
    data = torch.utils.data.DataLoader(encoded, batch_size=64, shuffle=True)
    held_out = torch.utils.data.DataLoader(encoded[:64], batch_size=64)
    callback = CoordinateProbe(entities, {"layer": "lm.transformer.h.1"}, model="lm")
    trainer(tmp_path, [callback], max_epochs=4).fit(model, data, held_out)
    found = callback.reading
    assert found["coordinate_r2_baseline/layer"] < 0.1
    assert found["coordinate_r2/layer"] > 0.8
    assert found["coordinate_r2_blocked/layer"] > 0.5
    assert found["coordinate_r2_control/layer"] < 0.1
    assert found["proximity_error/layer"] < 0.2
