"""What a callback is given as text, a function or the thing itself, and what is said where it is none of these."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lightning_interp.tasks.loading import all_of_kind, loaded


def numbers() -> list[int]:
    return [7]


def read(given: Any) -> Any:
    return loaded("numbers", given, lambda path: [len(path.read_text())], {"small": lambda: [1]}, "a file that exists")


def test_a_name_a_path_a_function_its_name_and_the_thing_itself(tmp_path: Path) -> None:
    file = tmp_path / "numbers.txt"
    file.write_text("abc")
    found = [read(given) for given in ("small", file, str(file), numbers, f"{__name__}.numbers", [5])]
    assert found == [[1], [3], [3], [7], [7], [5]]


@pytest.mark.parametrize("given", ["no.such.function", "nowhere", "os.sep", "os..path", Path("no.txt")])
def test_text_that_stands_for_nothing_is_told_with_what_it_could_be(given: str | Path) -> None:
    told = rf"`numbers` is '{given}'; it must be 'small', a file that exists, the dotted name of a function"
    with pytest.raises(ValueError, match=told):
        read(given)


def test_objects_of_another_class_are_told() -> None:
    assert all_of_kind("numbers", (n for n in (1, 2)), int) == [1, 2]
    with pytest.raises(ValueError, match="`numbers` must hold int objects, got str"):
        all_of_kind("numbers", [1, "2"], int)
