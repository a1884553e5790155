"""Representations in TensorBoard's projector: the same ones each time, on any number of ranks, under their names."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from torch.utils.data import DataLoader

from lightning_interp import RepresentationGeometry, RepresentationMetrics, RepresentationStructure
from tests.toy import VOCABULARY, Norm, Sequences, Tagger, loader, timeless, trainer

WORDS = [f"word {index}" for index in range(VOCABULARY)]
Shown = dict[str, tuple[np.ndarray, list[str]]]


def fit(folder: str | Path, callbacks: Sequence[Any], **kwargs: Any) -> Shown:
    """What stands in the projector after a training, by tag."""
    batch_size = kwargs.pop("batch_size", 8)
    logger = kwargs.pop("logger", None) or TensorBoardLogger(folder, name="run", version=0)
    run = trainer(folder, list(callbacks), logger=logger, **kwargs)
    run.fit(Tagger(lr=kwargs.pop("lr", 0.0)), loader(16), DataLoader(Sequences(31, seed=1), batch_size=batch_size))
    return shown(Path(folder)) if run.is_global_zero else {}


def shown(folder: Path) -> Shown:
    found = {}
    for path in folder.rglob("tensors.tsv"):
        names = (path.parent / "metadata.tsv").read_text().splitlines()
        found[path.parent.name] = np.loadtxt(path, delimiter="\t", ndmin=2), names
    return found


def test_the_vectors_of_the_last_reading_stand_there_with_their_words(tmp_path: Path) -> None:
    callback = RepresentationStructure(
        {"emb": "embedding", "enc": "encoder"},
        ["bigram", "token"],
        projector=20,
        label_names=WORDS,
        draw_figures=False,
    )
    model = Tagger(lr=0.1)
    run = trainer(tmp_path, [callback], logger=TensorBoardLogger(tmp_path, name="run", version=0))
    run.fit(model, loader(16), DataLoader(Sequences(31, seed=1), batch_size=8))
    found = shown(tmp_path)
    assert len(found) == 2
    folder = tmp_path / "run" / "version_0"
    config = (folder / "projector_config.pbtxt").read_text()
    assert f'tensor_name: "representations/emb:{run.global_step:05d}"' in config
    (vectors, names), (_, same) = (found[tag] for tag in sorted(found))
    assert len(vectors) == len(names) == 20
    assert same == names
    weight = model.embedding.weight.detach().numpy()
    for vector, name in zip(vectors, names, strict=True):
        np.testing.assert_allclose(vector, weight[WORDS.index(name)], rtol=1e-6)


@pytest.mark.parametrize(
    ("names", "expected"), [(None, str), (dict(enumerate(WORDS)), WORDS.__getitem__), (WORDS.__getitem__,) * 2]
)
def test_names_come_as_list_mapping_or_callable_and_without_labels_from_token_ids(
    tmp_path: Path, names: Any, expected: Any
) -> None:
    callback = RepresentationGeometry("embedding", projector=9, label_names=names)
    [(_, found)] = fit(tmp_path, [callback]).values()
    assert len(found) == 9
    assert set(found) <= {expected(index) for index in range(1, VOCABULARY)}


def test_every_label_set_has_a_column_and_its_own_names(tmp_path: Path) -> None:
    tags = ["noun", "verb", "other"]
    callback = RepresentationStructure(
        {"emb": "embedding"},
        ["token", "bigram", "tags"],
        min_count=2,
        projector=20,
        label_names={"token": WORDS, "tags": tags.__getitem__},
        draw_figures=False,
    )
    data = Sequences(31, seed=1)
    model = Tagger(lr=0.0)
    run = trainer(tmp_path, [callback], logger=TensorBoardLogger(tmp_path, name="run", version=0))
    run.fit(model, loader(16), DataLoader(data, batch_size=8))
    [(vectors, [header, *lines])] = shown(tmp_path).values()
    assert header == "token\ttags"
    assert len(lines) == len(vectors) == 20
    weight = model.embedding.weight.detach().numpy()
    pairs = {
        (WORDS[word], tags[tag])
        for item in map(data.__getitem__, range(31))
        for word, tag in zip(item["input_ids"].tolist(), item["tags"].tolist(), strict=True)
    }
    for vector, line in zip(vectors, lines, strict=True):
        word, tag = line.split("\t")
        np.testing.assert_allclose(vector, weight[WORDS.index(word)], rtol=1e-6)
        assert (word, tag) in pairs


def test_a_label_of_one_s_own_comes_first_and_without_any_the_place_is_told(tmp_path: Path) -> None:
    own = RepresentationMetrics(Norm(), "encoder", labels={"kind": "sentence"}, projector=9)
    none = RepresentationMetrics(Norm(), "encoder", tokens=None, projector=9, prefix="b/", layout="BTD")
    [(_, [header, *lines])] = fit(tmp_path / "a", [own]).values()
    assert header == "kind\ttoken"
    assert {line.split("\t")[0] for line in lines} <= set("0123")

    class Wordless(Sequences):
        def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
            item = super().__getitem__(index)
            return {"ids": item.pop("input_ids"), **item}

    class WordlessTagger(Tagger):
        def _loss(self, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
            return super()._loss({**batch, "input_ids": batch["ids"]})

        def validation_step(self, batch: dict[str, torch.Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
            super().validation_step({**batch, "input_ids": batch["ids"]}, batch_idx)

    run = trainer(tmp_path / "b", [none], logger=TensorBoardLogger(tmp_path / "b"), max_epochs=1)
    run.fit(WordlessTagger(), DataLoader(Wordless(8), 4), DataLoader(Wordless(8), 4))
    [(_, places)] = shown(tmp_path / "b").values()
    mask = Sequences(8).mask
    for name in places:
        number, place = (int(part.split()[1]) for part in name.split(", "))
        assert mask[number, place]


def readings(strategy: str, batch_size: int) -> Shown:
    world = dist.get_world_size() if dist.is_initialized() else 1
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        callback = RepresentationGeometry({"enc": "encoder"}, projector=17, max_examples=25, draw_figures=False)
        return fit(folder, [callback], strategy=strategy, devices=world, batch_size=batch_size)


def test_ranks_show_what_one_process_shows(ranks: Any) -> None:
    [(vectors, names)] = readings("auto", 8).values()
    everywhere = ranks.run(readings, "ddp", 5)
    [(there, same)] = everywhere[0].values()
    assert same == names
    np.testing.assert_allclose(there, vectors, rtol=1e-6, atol=1e-7)
    assert not any(everywhere[1:])


def test_readings_and_training_stay_as_they_were(tmp_path: Path) -> None:
    def outcome(name: str, **kwargs: Any) -> tuple[list[Any], list[torch.Tensor], torch.Tensor]:
        torch.manual_seed(3)
        callback = RepresentationStructure({"enc": "encoder"}, ["token"], **kwargs)
        model = Tagger()
        run = trainer(tmp_path / name, [callback], logger=TensorBoardLogger(tmp_path / name))
        run.fit(model, loader(16), loader(31, seed=1))
        return timeless(callback), list(model.parameters()), torch.get_rng_state()

    plain, projected = outcome("a"), outcome("b", projector=8)
    assert plain[0] == projected[0]
    assert all(torch.equal(one, other) for one, other in zip(plain[1], projected[1], strict=True))
    assert torch.equal(plain[2], projected[2])


def test_a_trainer_that_cannot_show_it_is_told_at_the_start(tmp_path: Path) -> None:
    callback = RepresentationGeometry("encoder", projector=5)
    with pytest.warns(UserWarning, match=r"RepresentationGeometry: `projector` is shown by.*\['CSVLogger'\]"):
        assert fit(tmp_path, [callback], logger=CSVLogger(tmp_path)) == {}


def test_a_name_that_is_missing_ends_no_training(tmp_path: Path) -> None:
    callback = RepresentationGeometry("encoder", projector=5, label_names={})
    with pytest.warns(RuntimeWarning, match="the vectors 'representations/encoder' could not be had: KeyError"):
        assert fit(tmp_path, [callback]) == {}


def test_a_new_training_shows_nothing_of_the_last(tmp_path: Path) -> None:
    callback = RepresentationGeometry("encoder", projector=5)
    fit(tmp_path / "a", [callback])
    assert fit(tmp_path / "b", [callback], limit_val_batches=0) == {}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"projector": 0}, "`projector` must be at least 1"), ({"label_names": ["a"]}, "`label_names` names what")],
)
def test_arguments_are_checked(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RepresentationGeometry("encoder", **arguments)
