from __future__ import annotations

from pathlib import Path

import pytest

from lightning_interp.tasks import MinimalPair, Task, read_pairs


def test_header_with_tasks(tmp_path: Path) -> None:
    file = tmp_path / "pairs.csv"
    file.write_text(
        "\ufeffphenomenon,task,bad,good\n"
        'agreement,simple,"well, he sleep","well, he sleeps"\n'
        "binding,gender,she saw himself, she saw herself\n"
        "\n"
        "agreement,simple,it are,it is\n"
    )
    assert read_pairs(file) == [
        Task("simple", "agreement", (MinimalPair("well, he sleeps", "well, he sleep"), MinimalPair("it is", "it are"))),
        Task("gender", "binding", (MinimalPair("she saw herself", "she saw himself"),)),
    ]


def test_two_named_columns(tmp_path: Path) -> None:
    file = tmp_path / "simple.tsv"
    file.write_text('id\tright\twrong\tset\n1\the "sleeps\the "sleep\ta\n2\tit is\tit are\tb\n')
    (task,) = read_pairs(file, good="right", bad="wrong")
    assert (task.name, task.phenomenon) == ("simple", "simple")
    # A quotation mark in a file separated by tabs encloses nothing.
    assert task.pairs == (MinimalPair('he "sleeps', 'he "sleep'), MinimalPair("it is", "it are"))
    by_task = read_pairs(file, good="right", bad="wrong", task="set")
    assert [(task.name, task.phenomenon) for task in by_task] == [("a", "a"), ("b", "b")]


def test_no_header(tmp_path: Path) -> None:
    file = tmp_path / "pairs.txt"
    file.write_text("it are;it is;agreement\r\nhe sleep;he sleeps;agreement\r\n")
    (task,) = read_pairs(file, good=1, bad=0, phenomenon=2, delimiter=";")
    assert (task.name, task.phenomenon, len(task)) == ("pairs", "agreement", 2)
    assert task.pairs[0] == MinimalPair("it is", "it are")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("good,wrong\na,b\n", r"pairs\.csv, line 1: `bad` is 'bad'; the header has \['good', 'wrong'\]"),
        ("good,bad,bad\na,b,c\n", "line 1: `bad` is 'bad'"),
        ("good,bad\na,b\nc\n", r"pairs\.csv, line 3: expected 2 columns or more, got \['c'\]"),
        ("good,bad\na, \n", r"pairs\.csv, line 2: `bad` is ' '"),
        ("good,bad\na,b\na, a\n", r"pairs\.csv, line 3: good and bad are both 'a'"),
        ("good,bad,task,phenomenon\na,b,t,x\nc,d,t,y\n", "line 3: the phenomenon of 't' is 'y', before it was 'x'"),
        ("good,bad\n", "has no rows"),
        ("", "line 1: `good` is 'good'; the header has"),
    ],
)
def test_broken_files(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "pairs.csv"
    file.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_pairs(file)


def test_arguments(tmp_path: Path) -> None:
    file = tmp_path / "pairs.csv"
    file.write_text("a,b\n")
    with pytest.raises(TypeError, match=r"all named or all counted, got \{'good': 0, 'bad': 'bad'\}"):
        read_pairs(file, good=0)
    with pytest.raises(ValueError, match="`bad` is -1; columns are counted from 0"):
        read_pairs(file, good=0, bad=-1)
    with pytest.raises(ValueError, match=r"line 1: expected 3 columns or more, got \['a', 'b'\]"):
        read_pairs(file, good=0, bad=2)
    with pytest.raises(ValueError, match=r"pairs\.txt'; give `delimiter`, or a file named \.csv, \.tsv, \.tab"):
        read_pairs(tmp_path / "pairs.txt")
