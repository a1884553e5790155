"""Whether two commits read the same: every callback, the test battery's model, each value to the last bit.

    python benchmarks/same_readings.py 9882a96 HEAD

Both commits train that model with each callback as the battery of the first one makes it, resume from a checkpoint of
the first one, and read the finished model with ``analyze``. Compared are all values of all readings but the seconds
they took, and the keys that are logged. ``--working-tree`` takes the files as they are in place of a second commit,
``--own-recipes`` makes each one's callbacks as its own battery does: where an argument has another name since.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
_TIMES = ("seconds/", "failed/")


def collect(folder: Path, checkpoints: Path) -> None:
    """Train, resume and analyze with each callback; write what was read, and a checkpoint where there is none."""
    import pytorch_lightning as pl

    from lightning_interp import ValidationAnalysis, analyze
    from tests.callbacks import recipes
    from tests.toy import Tagger, loader, trainer

    warnings.simplefilter("ignore")

    def fit(name: str, epochs: int, checkpoint: Path | None) -> tuple[Any, list[Any]]:
        pl.seed_everything(3, verbose=False)
        model, callbacks = Tagger(), recipes.CALLBACKS[name](False)
        run = trainer(folder / "runs", callbacks, max_epochs=epochs)
        run.fit(model, loader(), loader(seed=1), ckpt_path=checkpoint, weights_only=False)
        if checkpoint is None and epochs == 2 and not (checkpoints / f"{name}.ckpt").exists():
            run.save_checkpoint(checkpoints / f"{name}.ckpt")
        return run, callbacks

    found: dict[str, dict[str, Any]] = {}
    for name in recipes.CALLBACKS:
        here: dict[str, Any] = {}
        for part, (epochs, checkpoint) in {
            "fit": (2, None),
            "resumed": (4, checkpoints / f"{name}.ckpt"),
        }.items():
            run, callbacks = fit(name, epochs, checkpoint)
            for one in callbacks:
                kind = type(one).__name__
                if isinstance(one, ValidationAnalysis):
                    here[f"{part}, {kind}, keys"] = sorted(one.logged_keys(run.lightning_module))
                    for reading in one.history.readings:
                        here |= {f"{part}, {kind}, step {reading.step}, {k}": v for k, v in reading.values.items()}
                elif hasattr(one, "columns"):
                    for step, row in one.columns().items():
                        here |= {f"{part}, {kind}, step {step}, {k}": v for k, v in row.items()}
        if name in recipes.ANALYSES:
            pl.seed_everything(4, verbose=False)
            values = analyze(Tagger(seed=2), loader(seed=1), recipes.offline(name), progress=False)
            here |= {f"analyze, {key}": value for key, value in values.items()}
        found[name] = here
    (folder / "found.json").write_text(json.dumps(found, indent=0))


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    """What is not the same, a line each, of the callbacks that there were before."""
    for name in before:
        one, other = before.get(name, {}), after.get(name, {})
        for key in sorted(one.keys() | other.keys()):
            if any(time in key for time in _TIMES):
                continue
            if key.endswith(", keys"):
                old, new = set(one.get(key, ())), set(other.get(key, ()))
                yield from (f"{name}: {key}: {what!r} in one only" for what in sorted(old ^ new))
            elif repr(one.get(key)) != repr(other.get(key)):  # NaN is NaN
                yield f"{name}: {key}: {one.get(key)!r}, then {other.get(key)!r}"


def run(package: Path, tests: Path, folder: Path, checkpoints: Path) -> dict[str, Any]:
    """Collect with the package of one place and the tests of another, in a process of its own."""
    folder.mkdir()
    (folder / "lightning_interp").symlink_to(package / "lightning_interp")
    (folder / "tests").symlink_to(tests / "tests")
    (folder / "reference").symlink_to(tests / "tests" / "reference")
    done = subprocess.run(
        [sys.executable, __file__, "--collect", str(folder), str(checkpoints)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1", "PYTHONSAFEPATH": "1"},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f"{package} with the tests of {tests} failed:\n{done.stderr[-5000:]}")
    result: dict[str, Any] = json.loads((folder / "found.json").read_text())
    return result


def main(argv: list[str] | None = None) -> int:
    """Compare, and say what differs; 1 where anything does."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", nargs="?", default="HEAD~1", help="commit")
    parser.add_argument("after", nargs="?", default="HEAD", help="commit")
    parser.add_argument("--working-tree", action="store_true", help="in place of the second commit")
    parser.add_argument("--own-recipes", action="store_true", help="of each commit, not of the first for both")
    parser.add_argument("--collect", nargs=2, type=Path, metavar=("FOLDER", "CHECKPOINTS"), help=argparse.SUPPRESS)
    given = parser.parse_args(argv)
    if given.collect:
        collect(*given.collect)
        return 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "checkpoints").mkdir()
        places = [folder / "before", folder / "after"]
        commits = [given.before] if given.working_tree else [given.before, given.after]
        for place, commit in zip(places, commits, strict=False):
            subprocess.run(["git", "worktree", "add", "-q", "--detach", place, commit], check=True, cwd=ROOT)
        try:
            if given.working_tree:
                places[1] = ROOT
            found = [
                run(place, place if given.own_recipes else places[0], folder / f"{which} run", folder / "checkpoints")
                for which, place in zip(("first", "second"), places, strict=True)
            ]
        finally:
            for place in places[: len(commits)]:
                subprocess.run(["git", "worktree", "remove", "--force", place], check=True, cwd=ROOT)
    wrong = list(differences(*found))
    number = sum(len(one) for one in found[0].values())
    print("\n".join(wrong[:50]))
    print(f"{number} values of {len(found[0])} callbacks, {len(wrong)} of them not the same.")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
