"""A classifier that takes a shortcut: what the example prints, leaves and says."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from example_files import load
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import EarlyStopping
from torch.utils.data import DataLoader

from lightning_interp import InputAblation


def test_what_it_prints_and_leaves(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    rows, said = load("shortcut").main(["--steps", "9", "--logdir", str(tmp_path)])
    assert rows.steps() == [2, 3, 4, 5, 6, 8, 9]
    assert said == "not stopped"
    printed = capsys.readouterr().out
    for key in ("cue_share/cue", "val_acc/dataloader_idx_1", "under_noise/words/val_acc"):
        assert f"{rows.last(key):.2f}" in printed.split("\n     9")[1].split("\n")[0], key
    assert {path.name for path in tmp_path.rglob("*.png")} >= {"shortcut.png"}
    assert (tmp_path / "seed_0" / "version_0" / "readings.csv").is_file()


def test_a_gate_that_needs_a_value_at_each_reading_is_refused(tmp_path: Path) -> None:
    example = load("shortcut")
    callbacks = [InputAblation("hide", cues={"cue": example.CUES}), EarlyStopping(example.SHARE, mode="min")]
    trainer = Trainer(
        default_root_dir=tmp_path, max_steps=2, callbacks=callbacks, logger=False, enable_checkpointing=False
    )
    with pytest.raises(ValueError, match=r"monitors 'cue_share/cue'.* With `strict=False` it goes"):
        trainer.fit(example.Classifier(), *(DataLoader(example.texts(8, seed), 4) for seed in range(2)))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_the_cue_takes_over_and_the_gate_stops(tmp_path: Path, seed: int) -> None:
    example = load("shortcut")
    rows, said = example.main(["--logdir", str(tmp_path), "--seed", str(seed)])
    steps, share = rows.series(example.SHARE)
    assert 10 < steps[-1] < 100
    assert said == f"stopped at step {steps[-1]}: cue_share/cue is {share[-1]:.2f}"
    assert share[-1] > 0.5 > max(share[:-1])
    assert max(one - later for one, later in pairwise(share)) < 0.02, "it rises"
    assert rows.last(example.CHANCE) == 1 / example.LENGTH
    assert rows.series(example.LOSS)[1][-1] < 0.7 * rows.series(example.LOSS)[1][0]
    assert rows.last(example.HOLDS) > 0.98
    assert rows.series(example.FAILS)[1][0] > 0.4
    assert rows.last(example.FAILS) < 0.05
    assert rows.last(example.ROBUST) > 0.9, "noise does not tell"
