from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from lightning_interp.datasets import SCAN_SPLITS, ScanDataModule, read_scan, scan_commands, scan_split

PUBLISHED_SIZES = {
    "simple": (16728, 4182),
    "length": (16990, 3920),
    "addprim_jump": (14670, 7706),
    "addprim_turn_left": (21890, 1208),
    "template_around_right": (15225, 4476),
    "template_jump_around_right": (18528, 1173),
    "template_opposite_right": (15225, 4476),
    "template_right": (15225, 4476),
}


def test_commands_equal_the_published_ones(unpacked: Callable[[str], Path]) -> None:
    published = read_scan(unpacked("scan") / "tasks.txt")
    assert len(published) == 20910
    assert set(scan_commands()) == set(published)


@pytest.mark.parametrize("split", [split for split in SCAN_SPLITS if split != "simple"])
def test_splits_equal_the_published_ones(split: str, unpacked: Callable[[str], Path]) -> None:
    for part, generated in zip(("train", "test"), scan_split(split), strict=True):
        published = read_scan(unpacked("scan") / f"tasks_{part}_{split}.txt")
        assert Counter(generated) == Counter(published)


def test_number_of_commands() -> None:
    commands = scan_commands()
    assert len(commands) == len(set(commands)) == 20910
    assert {word for _, actions in commands for word in actions} == {
        *("I_WALK", "I_LOOK", "I_RUN", "I_JUMP", "I_TURN_LEFT", "I_TURN_RIGHT")
    }
    assert max(len(actions) for _, actions in commands) == 48


@pytest.mark.parametrize(
    ("command", "actions"),
    [
        ("turn opposite left", "I_TURN_LEFT I_TURN_LEFT"),
        ("turn around right", "I_TURN_RIGHT I_TURN_RIGHT I_TURN_RIGHT I_TURN_RIGHT"),
        ("look right thrice", "I_TURN_RIGHT I_LOOK I_TURN_RIGHT I_LOOK I_TURN_RIGHT I_LOOK"),
        ("run after walk opposite left twice", "I_TURN_LEFT I_TURN_LEFT I_WALK I_TURN_LEFT I_TURN_LEFT I_WALK I_RUN"),
    ],
)
def test_some_commands(command: str, actions: str) -> None:
    assert dict(scan_commands())[tuple(command.split())] == tuple(actions.split())


@pytest.mark.parametrize("split", SCAN_SPLITS)
def test_sizes(split: str) -> None:
    train, test = scan_split(split)
    assert (len(train), len(test)) == PUBLISHED_SIZES[split]
    assert not set(train) & set(test)


def test_simple_follows_from_the_seed() -> None:
    assert scan_split("simple", seed=1) == scan_split("simple", seed=1)
    assert scan_split("simple", seed=1) != scan_split("simple", seed=2)
    assert scan_split("length", seed=1) == scan_split("length", seed=2)


def test_unknown_split() -> None:
    with pytest.raises(ValueError, match=r"`split` is 'jump'; it must be one of \('simple', 'length'"):
        scan_split("jump")
    with pytest.raises(ValueError, match="`split` is 'jump'"):
        ScanDataModule("jump")


def test_data_module() -> None:
    data = ScanDataModule("addprim_jump", train_examples=3000, val_examples=300, ood_examples=200)
    assert (len(data.train), len(data.val), len(data.ood)) == (3000, 300, 200)
    assert not set(data.train) & set(data.val)
    assert len(set(data.val)) == 300
    # A tenth of the training data is the added primitive, none of the validation data.
    assert 200 < sum(source == ("jump",) for source, _ in data.train) < 400
    assert all("jump" not in source for source, _ in data.val)
    assert all("jump" in source for source, _ in data.ood)
    assert (len(data.source_vocabulary), len(data.target_vocabulary)) == (4 + 13, 4 + 6)
    assert ScanDataModule("addprim_jump", train_examples=3000, val_examples=300, ood_examples=200).val == data.val


def test_data_module_from_files(tmp_path: Path) -> None:
    folder = tmp_path / "simple_split"
    folder.mkdir()
    lines = ["IN: walk OUT: I_WALK", "IN: run twice OUT: I_RUN I_RUN", "IN: look OUT: I_LOOK"]
    (folder / "tasks_train_simple.txt").write_text("\n".join(lines) + "\n")
    (folder / "tasks_test_simple.txt").write_text("IN: jump OUT: I_JUMP\n")
    data = ScanDataModule("simple", data_dir=str(tmp_path), val_examples=1, ood_examples=None)
    assert sorted([*data.train, *data.val]) == [
        (("look",), ("I_LOOK",)),
        (("run", "twice"), ("I_RUN", "I_RUN")),
        (("walk",), ("I_WALK",)),
    ]
    assert data.ood == [(("jump",), ("I_JUMP",))]


def test_errors(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no 'tasks_train_length\.txt'.*it has nothing"):
        ScanDataModule("length", data_dir=str(tmp_path))
    with pytest.raises(ValueError, match="`ood_examples` is 0"):
        ScanDataModule("length", ood_examples=0)
    with pytest.raises(ValueError, match="`val_examples` is 16990; the split has 16990 distinct training commands"):
        ScanDataModule("length", val_examples=16990)
    (tmp_path / "broken.txt").write_text("IN: walk OUT: I_WALK\nwalk I_WALK\n")
    with pytest.raises(ValueError, match="line 2: 'walk I_WALK' is not of the form"):
        read_scan(tmp_path / "broken.txt")
