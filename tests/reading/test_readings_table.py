"""A table of readings is read whole, or refused with file, line and what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from lightning_interp.offline.compare import compare
from lightning_interp.reading.readings_table import columns_of, read_rows, read_settings, write_rows

ROWS = [
    {"step": 10, "epoch": 0, "val_loss": 0.6932, "a/x": 12.5, "setting/labels": '["tok,en"]\n', "setting/seed": 31},
    {"step": 20, "epoch": 1, "val_loss": 0.5, "a/x": 1e-17, "setting/labels": '{"é": "\r\n"}', "setting/seed": 31},
    {"step": 30, "epoch": 2, "val_loss": 0.25, "setting/labels": "[]", "setting/seed": 31},
]
NUMBERS = [{key: value for key, value in row.items() if not key.startswith("setting/")} for row in ROWS]


@pytest.mark.parametrize("end", ["\r\n", "\n"])
def test_a_file_that_ends_anywhere_is_never_read_as_other_numbers(tmp_path: Path, end: str) -> None:
    """Cut off at each byte: what can be read are whole rows of the file, and what cannot is told."""
    path = tmp_path / "readings.csv"
    write_rows(path, ROWS)
    content = path.read_bytes()
    if end == "\n":
        content = b"\n".join(content.removesuffix(b"\r\n").split(b"\r\n")) + b"\n"
    ends = set()
    for cut in range(1, len(content) + 1):
        path.write_bytes(content[:cut])
        try:
            found = read_rows(path)
        except ValueError:
            for read in (read_rows, read_settings):
                with pytest.raises(ValueError, match=r"readings.csv'?, line \d+: "):
                    read(path)
            continue
        assert found == NUMBERS[: len(found)]
        assert content[cut - 1 : cut] in (b"\r", b"\n")
        assert read_settings(path).get("seed") == ("31" if found else None)
        ends.add(len(found))
    assert ends == {0, 1, 2, 3}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("step,a\n1,2\n2,0.", r"readings.csv', line 3: the file ends in the middle of this line.* add the line end"),
        ("step,a,b\n1,2,3\n2,0.5\n3,4,5\n", r"readings.csv', line 3: it has 2 cells where the header has 3"),
        ("step,a\n1,2,3\n", r"readings.csv', line 2: it has 3 cells where the header has 2"),
        ("step,a\n\n1,x\n", r"readings.csv', line 3: could not convert string to float: 'x'"),
        ("step,a\n,2\n", r"readings.csv' has a line without a step, line 2"),
        ("stop,a\n1,2\n", r"readings.csv' has no column 'step'; it has \['stop', 'a'\]"),
        ("", r"readings.csv' has no column 'step'; it has \[\]"),
        ('step,a\n1,"2\n', r"readings.csv', line 2: unexpected end of data"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "readings.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_rows(path)
    with pytest.raises(ValueError, match=message):
        compare({"a": [path]})


def test_empty_lines_and_empty_cells_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "readings.csv"
    path.write_text("step,a,setting/x\n\n1,,y\n\n2,3,\n\n")
    assert read_rows(path) == [{"step": 1}, {"step": 2, "a": 3}]
    assert read_settings(path) == {}


def test_columns_of_settings_stand_last() -> None:
    rows = [{"step": 1, "setting/a": 1, "x": 2}, {"step": 2, "y": 3}]
    assert columns_of(rows) == ["step", "x", "y", "setting/a"]
    assert columns_of(rows, before=["step", "y", "setting/b"]) == ["step", "y", "x", "setting/b", "setting/a"]


def test_a_table_without_rows_is_one(tmp_path: Path) -> None:
    write_rows(tmp_path / "new" / "readings.csv", [])
    assert read_rows(tmp_path / "new" / "readings.csv") == []
    assert [one.name for one in (tmp_path / "new").iterdir()] == ["readings.csv"]


def test_a_name_that_is_no_text_is_written_readably(tmp_path: Path) -> None:
    """As the file system hands over names in another encoding."""
    write_rows(tmp_path / "readings.csv", [{"step": 1, "setting/path": b"cot\xe9".decode("utf-8", "surrogateescape")}])
    assert read_settings(tmp_path / "readings.csv") == {"path": "cot\\udce9"}
