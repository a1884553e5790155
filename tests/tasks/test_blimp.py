from __future__ import annotations

import json
import tarfile
from collections import Counter
from pathlib import Path

import pytest

from lightning_interp.tasks import Task, read_blimp, remove_shared, split_pairs


def row(uid: str = "agreement_1", **changes: object) -> dict[str, object]:
    values = {"sentence_good": "The cats sleep.", "sentence_bad": "The cats sleeps.", "field": "morphology"}
    return {**values, "UID": uid, "linguistics_term": "subject_verb_agreement", "pairID": "0", **changes}


def write(file: Path, *rows: object) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_published_paradigms(published: tuple[Task, ...]) -> None:
    assert len({task.name for task in published}) == len(published) == 67
    assert [task.name for task in published] == sorted(task.name for task in published)
    assert Counter(task.phenomenon for task in published) == {
        "island_effects": 8,
        "determiner_noun_agreement": 8,
        "argument_structure": 7,
        "npi_licensing": 7,
        "binding": 7,
        "filler_gap_dependency": 7,
        "subject_verb_agreement": 6,
        "control_raising": 5,
        "quantifiers": 4,
        "anaphor_agreement": 2,
        "s_selection": 2,
        "ellipsis": 2,
        "irregular_forms": 2,
    }
    short = {task.name: len(task) for task in published if len(task) != 1000}
    assert short == {"passive_1": 998, "principle_A_case_2": 995}


def test_published_field_and_equal_sentences(blimp: Path, tmp_path: Path) -> None:
    with tarfile.open(blimp) as archive:
        archive.extract("blimp/principle_A_case_2.jsonl", tmp_path, filter="data")
    # The one file that writes it syntax/semantics.
    with pytest.warns(UserWarning, match=r"the same: 5 in principle_A_case_2 \(") as caught:
        (task,) = read_blimp(tmp_path, fields=["syntax_semantics"], limit=20)
    assert len(caught) == 1
    assert (task.phenomenon, len(task)) == ("binding", 20)


def test_published_pairs_can_be_split_and_share_little(published: tuple[Task, ...]) -> None:
    for task in published:
        tune, test = split_pairs(task)
        assert abs(len(tune) - len(test)) <= 1
        sentences = [{sentence for pair in half.pairs for sentence in pair} for half in (tune, test)]
        assert sentences[0].isdisjoint(sentences[1])
    kept, removed = remove_shared(published)
    assert removed == 2
    agreement = {task.name: len(task) for task in kept if "plural_subject_verb_agreement_2" in task.name}
    assert set(agreement.values()) == {999}


def test_file_folder_and_archive(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    (folder / "inner").mkdir(parents=True)
    one = write(folder / "one.jsonl", row("one"), row("one", sentence_good="  A  dog sleeps.\n"))
    write(folder / "inner" / "two.jsonl", row("two", linguistics_term="s-selection", field="syntax/semantics"))
    write(folder / "models_summary.jsonl", {"UID": "one", "linguistics_term": "x", "gpt2": 0.9})
    (folder / "notes.txt").write_text("not JSON")
    archive = tmp_path / "data.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, arcname="data")

    tasks = read_blimp(folder)
    assert [(task.name, task.phenomenon, len(task)) for task in tasks] == [
        ("one", "subject_verb_agreement", 2),
        ("two", "s_selection", 1),
    ]
    assert tasks[0].pairs[1].good == "A dog sleeps."
    assert read_blimp(archive) == tasks
    assert read_blimp(str(one)) == tasks[:1]
    assert read_blimp(folder, phenomena=["s-selection"]) == read_blimp(folder, fields=["syntax_semantics"]) == tasks[1:]
    assert read_blimp(folder, paradigms={"one"}, limit=1)[0].pairs == tasks[0].pairs[:1]
    assert read_blimp(folder, paradigms=[]) == []


def test_unknown_names(tmp_path: Path) -> None:
    file = write(tmp_path / "one.jsonl", row("one"))
    with pytest.raises(ValueError, match=r"`phenomena` has 'binding', which is not there; available: \['subject_verb"):
        read_blimp(file, phenomena=["binding"])
    with pytest.raises(ValueError, match=r"`paradigms` has 'two'.*available: \['one'\]"):
        read_blimp(file, paradigms=["two"])
    with pytest.raises(ValueError, match=r"`paradigms` is 'one'; it must be a list of names, as in \['one'\]"):
        read_blimp(file, paradigms="one")
    with pytest.raises(ValueError, match="`limit` is 0"):
        read_blimp(file, limit=0)


def test_broken_files(tmp_path: Path) -> None:
    file = tmp_path / "one.jsonl"
    write(file, row(), {"UID": "agreement_1"})
    with pytest.raises(ValueError, match=r"one\.jsonl, line 2: 'sentence_good' is None; the line has \['UID'\]"):
        read_blimp(file)
    write(file, row(sentence_bad=" "))
    with pytest.raises(ValueError, match=r"one\.jsonl, line 1: 'sentence_bad' is ' '"):
        read_blimp(file)
    write(file, row(), row(linguistics_term="binding"))
    with pytest.raises(ValueError, match="line 2: the phenomenon of 'agreement_1' is 'binding', before it was"):
        read_blimp(file)
    file.write_text(json.dumps(row()) + "\n{")
    with pytest.raises(ValueError, match=r"line 2: not JSON .*: '{'"):
        read_blimp(file)
    write(file, [1, 2])
    with pytest.raises(ValueError, match="line 1: expected a JSON object"):
        read_blimp(file)
    write(file, {"UID": "one", "gpt2": 0.9})
    with pytest.raises(ValueError, match="has no minimal pairs"):
        read_blimp(tmp_path)
    write(file, row())
    write(tmp_path / "other.jsonl", row())
    with pytest.raises(ValueError, match="the paradigm 'agreement_1' is in two files"):
        read_blimp(tmp_path)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no file and no folder"):
        read_blimp(tmp_path / "blimp")
    with pytest.raises(ValueError, match="has no minimal pairs"):
        read_blimp(tmp_path)
    (tmp_path / "blimp.rar").write_text("")
    with pytest.raises(ValueError, match=r"it must be a folder, a \.jsonl file"):
        read_blimp(tmp_path / "blimp.rar")


def test_only_equal_sentences(tmp_path: Path) -> None:
    file = write(tmp_path / "one.jsonl", row(sentence_bad="The cats sleep."))
    with pytest.raises(ValueError, match="task 'agreement_1' has no pairs"):
        read_blimp(file)
