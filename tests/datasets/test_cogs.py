from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from lightning_interp.datasets import CogsDataModule, CogsExample, read_cogs


def line(source: str, target: str, category: str) -> str:
    return f"{source}\t{target}\t{category}\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    ordinary = [line(f"Emma slept {i} .", f"sleep . agent ( x _ 1 , {i} )", "in_distribution") for i in range(20)]
    (tmp_path / "train.tsv").write_text("".join([*ordinary, line("shark", "LAMBDA a . shark ( a )", "primitive")]))
    (tmp_path / "dev.tsv").write_text("".join(ordinary[:5]))
    (tmp_path / "gen.tsv").write_text(
        "".join(line(f"A shark {i}", "word " * (i + 3), "abc"[i % 3]) for i in range(9))
        + line("A long one", "word " * 50, "c")
    )
    return tmp_path


def test_read(tmp_path: Path) -> None:
    path = tmp_path / "some.tsv"
    path.write_text("The moose wanted .\t* moose ( x _ 1 ) ; want . agent ( x _ 2 )\tin_distribution\r\n\n")
    assert read_cogs(path) == [
        CogsExample(
            source=("The", "moose", "wanted", "."),
            target=("*", "moose", "(", "x", "_", "1", ")", ";", "want", ".", "agent", "(", "x", "_", "2", ")"),
            category="in_distribution",
        )
    ]


@pytest.mark.parametrize("text", ["no tabs\n", "a\tb\n", "a\tb\tc\td\n", "\tb\tc\n"])
def test_malformed_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bad.tsv"
    path.write_text("fine\tfine\tfine\n" + text)
    with pytest.raises(ValueError, match=r"bad\.tsv, line 2: expected sentence, logical form and category"):
        read_cogs(path)


def test_everything_by_default(folder: Path) -> None:
    data = CogsDataModule(folder)
    assert (len(data.train), len(data.val), len(data.ood)) == (21, 5, 10)
    assert data.ood_categories == tuple("abcabcabcc")
    assert data.left_out == {"train": 0, "val": 0, "ood": 0}
    assert data.hparams["data_dir"] == str(folder)


def test_limits(folder: Path) -> None:
    data = CogsDataModule(folder, train_examples=4, val_examples=2, ood_examples=7)
    assert (len(data.train), len(data.val)) == (4, 2)
    assert (("shark",), ("LAMBDA", "a", ".", "shark", "(", "a", ")")) in data.train
    assert data.ood_categories is not None
    assert sorted(Counter(data.ood_categories).values()) == [2, 2, 3]
    # In the order of the file, so that no batch has one category alone.
    places = [CogsDataModule(folder).ood.index(pair) for pair in data.ood]
    assert places == sorted(places)
    # Ids do not depend on what is left out.
    assert data.source_vocabulary == CogsDataModule(folder).source_vocabulary


def test_small_categories_are_made_up_for(folder: Path) -> None:
    data = CogsDataModule(folder, ood_examples=1000)
    assert Counter(data.ood_categories or ()) == {"a": 3, "b": 3, "c": 4}


def test_long_logical_forms_are_counted(folder: Path) -> None:
    with pytest.warns(UserWarning, match=r"more than 11 words: \{'train': 0, 'val': 0, 'ood': 1\}"):
        data = CogsDataModule(folder, max_target_length=11)
    assert data.left_out == {"train": 0, "val": 0, "ood": 1}
    assert max(len(target) for _, target in data.ood) == 11


def test_reconstructed_generalisation_set(folder: Path) -> None:
    (folder / "gen.tsv").rename(folder / "gen.reconstructed.tsv")
    assert len(CogsDataModule(folder).ood) == 10


def test_errors(folder: Path) -> None:
    with pytest.raises(ValueError, match="`train_examples` is 0"):
        CogsDataModule(folder, train_examples=0)
    (folder / "train.tsv").write_text(line("shark", "x", "primitive") * 3)
    with pytest.raises(ValueError, match="`train_examples` is 2; the 3 examples that are not 'in_distribution'"):
        CogsDataModule(folder, train_examples=2)
    (folder / "gen.tsv").unlink()
    with pytest.raises(FileNotFoundError, match=r"no 'gen\.tsv' or 'gen\.reconstructed\.tsv'; it has dev\.tsv"):
        CogsDataModule(folder)


def test_published_files(unpacked: Callable[[str], Path]) -> None:
    folder = unpacked("cogs")
    with pytest.warns(UserWarning, match="left out"):
        data = CogsDataModule(folder, max_target_length=100, train_examples=1000, val_examples=100, ood_examples=210)
    assert (len(data.train), len(data.val), len(data.ood)) == (1000, 100, 210)
    assert set(Counter(data.ood_categories or ()).values()) == {10}
    assert data.left_out["ood"] > 0
    categories = Counter(example.category for example in read_cogs(folder / "train.tsv"))
    assert (categories.total(), categories["in_distribution"], categories["primitive"]) == (24155, 24000, 143)
    batch = next(iter(data.val_dataloader()[1]))
    assert tuple(data.target_vocabulary.decode(batch["labels"][0].tolist())) == data.ood[0][1]
