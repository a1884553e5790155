"""Every reader of files, on files as other people have them: encodings, marks, archives cut off or too large."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lightning_interp.datasets import read_cogs, read_scan
from lightning_interp.datasets.text_files import unpacked_texts
from lightning_interp.offline.compare import compare
from lightning_interp.probing import read_conllu
from lightning_interp.reading.history import read_rows, read_settings
from lightning_interp.tasks import read_blimp, read_pairs
from lightning_interp.tasks.facts import read_facts
from lightning_interp.tasks.space import TaskRecord, TaskSpaceResult

PAIR = {"sentence_good": "Le café est là .", "sentence_bad": "Le café sont là ."}
LINE = json.dumps({**PAIR, "UID": "a", "linguistics_term": "agreement"}, ensure_ascii=False)
CONLLU = "1\tcafé\t_\tNOUN\t_\t_\t0\troot\t_\t_\n"
FACT = json.dumps({"prompt": "le café est ___ .", "answer": "là", "candidates": ["là", "ici"]}, ensure_ascii=False)
READERS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "a.jsonl": (read_blimp, f"{LINE}\n{LINE}\n"),
    "pairs.tsv": (read_pairs, "good\tbad\nle café est là\tle café sont là\n"),
    "pairs.csv": (read_pairs, "good,bad\nle café est là,le café sont là\n"),
    "facts.jsonl": (read_facts, f"{FACT}\n"),
    "tree.conllu": (read_conllu, f"# café\n{CONLLU}\n"),
    "cogs.tsv": (read_cogs, "café .\tcafé ( x )\tin_distribution\n"),
    "scan.txt": (read_scan, "IN: café OUT: CAFÉ\n"),
    "readings.csv": (read_rows, "step,setting/café\n1,là\n"),
    "settings.csv": (read_settings, "step,setting/café\n1,là\n"),
}


@pytest.mark.parametrize("name", READERS)
def test_text_is_utf8_with_or_without_a_mark_and_anything_else_is_told_with_its_line(name: str, tmp_path: Path) -> None:
    read, text = READERS[name]
    path = tmp_path / name
    path.write_bytes(text.encode("utf-8"))
    plain = read(path)
    assert plain
    path.write_bytes(text.encode("utf-8-sig"))
    assert read(path) == plain
    first = next(number for number, line in enumerate(text.split("\n"), 1) if "é" in line or "É" in line)
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=rf"{name}, line {first}: byte 0x[ce]9 is not UTF-8. Save the file in UTF-8"):
        read(path)
    path.write_bytes(text.encode("utf-16"))
    with pytest.raises(ValueError, match=rf"{name}, line 1: .* not UTF-8; it begins as UTF-16 does"):
        read(path)
    path.write_bytes(gzip.compress(text.encode("utf-8")))
    with pytest.raises(ValueError, match=rf"{name}, line 1: .* not UTF-8; it begins as a file packed by gzip does"):
        read(path)


def test_no_reader_and_no_writer_asks_the_locale(tmp_path: Path) -> None:
    """In another process, where the locale is not UTF-8: what is read and written is the same."""
    for name, (_, text) in READERS.items():
        (tmp_path / name).write_bytes(text.encode("utf-8"))
    script = f"""
import locale, pathlib, sys
sys.path[:0] = {[str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]!r}
from datasets.test_text_files import READERS
from lightning_interp.reading.history import CsvLog
assert locale.getpreferredencoding(False).lower() not in ("utf-8", "utf8"), locale.getpreferredencoding(False)
folder = pathlib.Path({str(tmp_path)!r})
for name, (read, _) in READERS.items():
    read(folder / name)
log, rows = CsvLog(folder / "written.csv"), []
for number, more in enumerate([{{}}, {{}}, {{"x": 1.0}}], 1):
    rows.append({{"step": number, "setting/\\u00e9": "l\\u00e0", **more}})
    log.write(lambda after: [row for row in rows if after is None or row["step"] > after])
"""
    environment = {**os.environ, "LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    subprocess.run([sys.executable, "-c", script], check=True, env=environment, timeout=300)
    assert read_settings(tmp_path / "written.csv") == {"é": "là"}
    assert [row["step"] for row in read_rows(tmp_path / "written.csv")] == [1, 2, 3]


def test_json_that_python_does_not_read_is_told_with_its_number(tmp_path: Path) -> None:
    for name in ("a.jsonl", "facts.jsonl"):
        read, text = READERS[name]
        for bad in ("[" * 100_000, '{"number": ' + "9" * 5000 + "}"):
            (tmp_path / name).write_text(text + bad, encoding="utf-8")
            line = text.count("\n") + 1
            with pytest.raises(ValueError, match=rf"{name}, line {line}: not JSON"):
                read(tmp_path / name)


def test_a_folder_that_is_named_as_a_file_is_none(tmp_path: Path) -> None:
    read, text = READERS["a.jsonl"]
    (tmp_path / "b.jsonl").mkdir()
    (tmp_path / "b.jsonl" / "a.jsonl").write_text(text, encoding="utf-8")
    assert len(read(tmp_path)) == 1


def test_a_line_that_is_cut_off_is_told_with_its_number(tmp_path: Path) -> None:
    for name in ("a.jsonl", "facts.jsonl"):
        read, text = READERS[name]
        (tmp_path / name).write_bytes((text + text[: len(text) // 4]).encode())
        line = text.count("\n") + 1
        with pytest.raises(ValueError, match=rf"{name}, line {line}: not JSON"):
            read(tmp_path / name)
    table = tmp_path / "pairs.csv"
    table.write_text("good,bad\n" + "a" * (csv.field_size_limit() + 1) + ",b\n")
    with pytest.raises(ValueError, match=r"pairs.csv, line 2: field larger than field limit"):
        read_pairs(table)


# ------------------------------------------------- archives


def packed(path: Path, **texts: bytes) -> Path:
    """An archive of these texts, by the name of the file."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in texts.items():
                archive.writestr(f"data/{name}.jsonl", content)
        return path
    with tarfile.open(path, "w" if path.suffix == ".tar" else "w:gz") as archive:
        for name, content in texts.items():
            entry = tarfile.TarInfo(f"data/{name}.jsonl")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path


ARCHIVES = ("x.tar", "x.tar.gz", "x.tgz", "x.zip")


@pytest.mark.parametrize("name", ARCHIVES)
def test_an_archive_is_read_as_the_folder_is(name: str, tmp_path: Path) -> None:
    other = LINE.replace('"a"', '"b"')
    texts = {"b": other.encode("utf-8-sig"), "a": f"{LINE}\n{LINE}".encode(), "._a": b"\xff\x00"}
    found = read_blimp(packed(tmp_path / name, **texts))
    assert [(task.name, len(task)) for task in found] == [("a", 2), ("b", 1)]
    folder = tmp_path / "folder"
    folder.mkdir()
    for one, content in texts.items():
        (folder / f"{one}.jsonl").write_bytes(content)
    assert read_blimp(folder) == found


@pytest.mark.parametrize("name", ARCHIVES)
def test_an_archive_that_is_cut_off_is_told_wherever_it_ends(name: str, tmp_path: Path) -> None:
    noise = json.dumps({"x": np.random.default_rng(0).integers(0, 256, 3000, dtype=np.uint8).tobytes().hex()})
    whole = packed(tmp_path / name, a=LINE.encode(), noise=noise.encode()).read_bytes()
    cut = tmp_path / f"cut.{name.partition('.')[2]}"
    # Of a tar, everything behind the first of two empty blocks says nothing.
    last = 3 * 512 + 6144 if name == "x.tar" else len(whole) - 9
    for size in sorted({1, 100, 511, 512, 700, 1024, 1500, len(whole) // 2, last}):
        cut.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"cut\..* cannot be unpacked, it is cut off or damaged"):
            read_blimp(cut)


@pytest.mark.parametrize("name", ARCHIVES)
def test_no_more_is_unpacked_than_the_limit(name: str, tmp_path: Path) -> None:
    path = packed(tmp_path / name, a=b" " * 3_000_000)
    with pytest.raises(ValueError, match=r"x\..* holds more than 1,000,000 bytes unpacked, which is the most"):
        list(unpacked_texts(path, ".jsonl", limit=1_000_000))
    ((_, lines),) = unpacked_texts(path, ".jsonl", limit=4_000_000)
    assert [len(line) for line in lines] == [3_000_000]


def test_what_is_no_text_of_an_archive_counts_too(tmp_path: Path) -> None:
    path = tmp_path / "x.tar.gz"
    header = tarfile.TarInfo("././@PaxHeader")
    header.type, header.size = tarfile.XHDTYPE, 2**31
    with gzip.open(path, "wb") as file:
        file.write(header.tobuf())
        file.write(b"0" * 2_000_000)
    with pytest.raises(ValueError, match="holds more than 1,000,000 bytes unpacked"):
        list(unpacked_texts(path, ".jsonl", limit=1_000_000))


def test_a_text_in_an_archive_of_another_encoding_is_told_with_its_line(tmp_path: Path) -> None:
    path = packed(tmp_path / "x.zip", a=f"\n{LINE}\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"data/a.jsonl in .*x.zip, line 2: byte 0xe9 is not UTF-8"):
        read_blimp(path)


def test_a_task_space_that_is_cut_off_or_lies_about_its_size_is_refused(tmp_path: Path) -> None:
    records = [TaskRecord(str(number), "p", 1, 1, 0.5, 0.0) for number in range(40)]
    result = TaskSpaceResult(records, {"cosine": torch.eye(40)}, {"seed": 0})
    path = result.save(tmp_path / "space.zip")
    whole = path.read_bytes()
    for size in (0, 10, len(whole) // 2, len(whole) - 5):
        path.write_bytes(whole[:size])
        with pytest.raises(
            ValueError, match=r"space.zip', which `TaskSpaceResult.save` did not write, or which is cut"
        ):
            TaskSpaceResult.load(path)
    content = io.BytesIO()
    np.lib.format.write_array_header_1_0(content, {"descr": "<f8", "fortran_order": False, "shape": (2**40, 2)})
    with zipfile.ZipFile(io.BytesIO(whole)) as archive, zipfile.ZipFile(path, "w") as forged:
        for entry in archive.namelist():
            forged.writestr(entry, content.getvalue() if entry.endswith(".npy") else archive.read(entry))
    with pytest.raises(ValueError, match="did not write, or which is cut off"):
        TaskSpaceResult.load(path)


# ------------------------------------------------- BabyLM


def test_a_file_without_paradigm_and_phenomenon_is_one_of_its_name(tmp_path: Path) -> None:
    """As the supplement of BabyLM has them, beside files that name both."""
    for folder, name, more in (
        ("blimp_filtered", "a", {"UID": "a", "linguistics_term": "agreement"}),
        ("supplement_filtered", "qa_congruence_easy", {}),
        ("supplement_filtered", "turn-taking", {"UID": "turn_taking"}),
    ):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / f"{name}.jsonl").write_text(json.dumps({**PAIR, **more}) + "\n", encoding="utf-8")
    found = [(task.name, task.phenomenon, len(task)) for task in read_blimp(tmp_path)]
    assert found == [
        ("a", "agreement", 1),
        ("qa_congruence_easy", "qa_congruence_easy", 1),
        ("turn_taking", "turn_taking", 1),
    ]
    archive = packed(tmp_path / "babylm.zip", hypernym=json.dumps(PAIR).encode())
    assert [task.name for task in read_blimp(archive)] == ["hypernym"]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([{"UID": "a", "linguistics_term": "t"}, {}], "line 2: 'UID' is None"),
        ([{}, {"UID": 3}], "line 2: 'UID' is 3"),
        ([{"UID": None}], "line 1: 'UID' is None"),
        ([{"UID": ""}], "line 1: 'UID' is ''"),
        ([{"sentence_bad": None}], "line 1: 'sentence_bad' is None"),
    ],
)
def test_names_that_only_some_lines_have_are_an_error(
    lines: list[dict[str, Any]], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({**PAIR, **line}) + "\n" for line in lines), encoding="utf-8")
    with pytest.raises(ValueError, match=rf"a.jsonl, {message}"):
        read_blimp(path)


def test_compare_reads_what_a_spreadsheet_saved(tmp_path: Path) -> None:
    for seed in (0, 1):
        (tmp_path / f"{seed}.csv").write_bytes(f"step,x\n1,{seed}.5\n2,{seed}.7\n".encode("utf-8-sig"))
    found = compare({"a": [tmp_path / "0.csv", tmp_path / "1.csv"]})
    assert "x" in found.keys
