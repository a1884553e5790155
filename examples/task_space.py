"""Linguistic task spaces: which rules a language model follows by the same means, and since when.

A small GPT-2 learns sentences of the built-in grammar. At log-spaced steps ``TaskSpace`` reads the gradients of 30
tasks, minimal pairs of 9 phenomena, and how alike they are within a phenomenon and between phenomena. At the end the
model is tuned on each task in turn and all are scored each time. Verdicts over sizes and seeds, and pretrained models
on BLiMP: ``benchmarks/studies/task_space.py``.

    python examples/task_space.py
    python examples/task_space.py --steps 600 --paradigms npi_ever npi_any agreement_simple agreement_auxiliary
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Sequence
from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import TensorBoardLogger

from lightning_interp import Readings, TaskSpace, ValidationSchedule, task_space
from lightning_interp.datasets import sentence_loader
from lightning_interp.models import CausalLM, small_gpt2
from lightning_interp.tasks import TaskSpaceResult, WordTokenizer, generate_corpus, grammar_tasks, grammar_words

WORDS = WordTokenizer(grammar_words())
COLUMNS = {
    "accuracy": "task_accuracy/mean",
    "within phenomena": "alignment_disattenuated/within",
    "between": "alignment_disattenuated/between",
    "stability": "stability/previous",
}


def main(argv: Sequence[str] | None = None) -> tuple[Readings, TaskSpaceResult]:
    """Train, print the readings, and draw the space of transfer at the end."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="of data, weights and batches; default: %(default)s")
    parser.add_argument("--steps", type=int, default=2400, help="optimizer steps; default: %(default)s")
    parser.add_argument("--width", type=int, default=64, help="of the GPT-2; default: %(default)s")
    parser.add_argument("--sentences", type=int, default=20_000, help="to train on; default: %(default)s")
    parser.add_argument("--pairs", type=int, default=60, help="minimal pairs of each task; default: %(default)s")
    parser.add_argument("--paradigms", nargs="+", help="tasks of the grammar; default: all 30")
    parser.add_argument("--tuning-steps", type=int, default=20, help="on each task; default: %(default)s")
    parser.add_argument("--logdir", type=Path, default=Path("logs/task_space"), help="default: %(default)s")
    args = parser.parse_args(argv)
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    torch.set_num_threads(1)  # a model this small gains nothing from a second thread
    pl.seed_everything(args.seed)

    model = CausalLM(small_gpt2(WORDS, args.width), WORDS, lr=2e-3, warmup=50, steps=args.steps)
    tasks = grammar_tasks(args.pairs, seed=args.seed + 1, paradigms=args.paradigms)
    reader = TaskSpace(tasks, model="lm", max_pairs=max(2, args.pairs // 2))
    trainer = pl.Trainer(
        max_steps=args.steps,
        gradient_clip_val=1.0,
        callbacks=[ValidationSchedule(steps="log", per_decade=8, start=10), reader],
        logger=TensorBoardLogger(args.logdir, name=""),
        accelerator="cpu",
        enable_checkpointing=False,
        enable_model_summary=False,
        log_every_n_steps=10,
    )
    text, held_out = generate_corpus(args.sentences, args.seed), generate_corpus(500, args.seed + 10_000)
    encoded, apart = ([WORDS.encode(line) for line in part] for part in (text, held_out))
    trainer.fit(model, sentence_loader(encoded, 64, shuffle=True, drop_last=True), sentence_loader(apart, 64))
    readings = Readings.of(reader)
    print(readings.table(COLUMNS, digits=3))

    tuning = {"max_steps": args.tuning_steps}
    space = task_space(model.lm, tasks, WORDS, "both", tuning=tuning, text=held_out[:200], seed=args.seed)
    print(f"\n{space.summary()}")
    structure, words = space.test(control="lexical"), space.test("lexical", control="phenomenon")
    print(f"\ntransfer goes with phenomena, given words: {structure.statistic:+.3f} (p = {structure.p:.4f})")
    print(f"and with words, given phenomena:           {words.statistic:+.3f} (p = {words.p:.4f})")
    folder = Path(trainer.log_dir)
    for kind, figure in space.plot().items():
        figure.savefig(folder / f"{kind}.png", dpi=110)
        print(f"picture:  {folder / f'{kind}.png'}")
    print(f"readings: {folder / 'readings.csv'}\ncurves:   tensorboard --logdir {args.logdir}")
    return readings, space


if __name__ == "__main__":
    main()
