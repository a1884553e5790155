"""A transformers language model while it is fine-tuned: what changes in which layer.

``CausalLM`` makes a LightningModule of the model, and the callbacks read every layer's output at log-spaced steps.
Without ``--model`` it is a small GPT-2, which first learns sentences whose words stand in any order: it knows the
words, and no grammar. Then it is tuned on the same sentences in order. With ``--model`` it is any causal model of
transformers, and ``--text`` says what it is tuned on.

    python examples/finetune.py
    python examples/finetune.py --model gpt2 --text lines.txt --steps 500 --lr 5e-5 --device gpu
"""

from __future__ import annotations

import argparse
import random
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import TensorBoardLogger
from torch import nn

from lightning_interp import (
    NoiseRobustness,
    Readings,
    RepresentationGeometry,
    RepresentationStructure,
    TrainingPhases,
    ValidationAnalysis,
    ValidationSchedule,
)
from lightning_interp.datasets import sentence_loader
from lightning_interp.models import CausalLM, small_gpt2
from lightning_interp.sites import blocks
from lightning_interp.tasks import WordTokenizer, generate_corpus, grammar_words, load_causal_lm

COLUMNS = {  # column of the table → key of the reading
    "information": "information/{}",
    "regularity by token": "regularity_above_chance/{}/token",
    "regularity by bigram": "regularity_above_chance/{}/bigram",
    "effective rank": "effective_rank/{}",
    "anisotropy": "anisotropy/{}",
}


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Command line → settings."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="folder or hub name of a causal model; default: a small GPT-2, trained here")
    parser.add_argument("--text", type=Path, help="a file with a sentence a line; default: generated sentences")
    parser.add_argument("--sentences", type=int, default=6000, help="at most so many lines; default: %(default)s")
    parser.add_argument("--held-out", type=int, default=200, help="of them for validation; default: %(default)s")
    parser.add_argument("--length", type=int, default=64, help="at most so many tokens of a line; default: %(default)s")
    parser.add_argument("--steps", type=int, default=400, help="optimizer steps; default: %(default)s")
    parser.add_argument("--pretrain", type=int, default=400, help="steps before, without --model; default: %(default)s")
    parser.add_argument("--batch-size", type=int, default=32, help="default: %(default)s")
    parser.add_argument("--lr", type=float, help="default: 0.001 for the small GPT-2, else 0.00005")
    parser.add_argument("--device", default="cpu", help="as the Trainer's accelerator; default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="of weights and batches; default: %(default)s")
    parser.add_argument("--logdir", type=Path, default=Path("logs/finetune"), help="default: %(default)s")
    args = parser.parse_args(argv)
    if args.text is not None and args.model is None:
        parser.error("--text needs --model: the small GPT-2 knows the words of the generated sentences only")
    args.lr = args.lr or (5e-5 if args.model else 1e-3)
    return args


def main(argv: Sequence[str] | None = None) -> dict[str, list[dict[str, float]]]:
    """Fine-tune, and print each layer before and after: site → the first and the last reading."""
    args = parse(argv)
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    pl.seed_everything(args.seed)
    lines = args.text.read_text(encoding="utf-8").splitlines() if args.text else generate_corpus(args.sentences)
    lines = [line for line in lines if line.strip()][: args.sentences]
    quiet = {"accelerator": args.device, "enable_checkpointing": False, "enable_model_summary": False}
    if args.model:
        lm, tokenizer = load_causal_lm(args.model)
        names = tokenizer.convert_ids_to_tokens
    else:
        torch.set_num_threads(1)  # a model this small gains nothing from a second thread
        tokenizer = WordTokenizer(grammar_words())
        names = tokenizer.vocabulary.words
        lm = small_gpt2(tokenizer, layers=4, dropout=0.1)
        if args.pretrain:  # what happened to the model before it came here; nobody watches
            before = [tokenizer.encode(scrambled(line, seed)) for seed, line in enumerate(lines[args.held_out :])]
            alone = pl.Trainer(max_steps=args.pretrain, logger=False, enable_progress_bar=False, **quiet)
            alone.fit(CausalLM(lm, lr=args.lr), sentence_loader(before, args.batch_size, shuffle=True))

    model = CausalLM(lm, tokenizer, args.lr)
    sites = blocks(model)
    readers = make_readers(sites, lm, names)
    trainer = pl.Trainer(
        max_steps=args.steps,
        callbacks=[ValidationSchedule(steps="log", per_decade=6), *readers, phases := TrainingPhases("val_loss")],
        logger=TensorBoardLogger(args.logdir, name=""),
        log_every_n_steps=10,
        **quiet,
    )
    encoded = [tokenizer.encode(line)[: args.length] for line in lines]
    tuned_on = sentence_loader(encoded[args.held_out :], args.batch_size, shuffle=True)
    trainer.fit(model, tuned_on, sentence_loader(encoded[: args.held_out], args.batch_size))

    readings = Readings.of(*readers)
    found = {
        site: [{name: row[of] for name, key in COLUMNS.items() if (of := key.format(site)) in row} for row in ends]
        for ends in [(readings.rows[0], readings.rows[-1])]
        for site in sites
    }
    print(f"{table(found, readings)}\n\n{phases.conclusion}\n\nreadings: {Path(trainer.log_dir) / 'readings.csv'}")
    return found


def make_readers(sites: dict[str, str], lm: nn.Module, names: Any) -> list[ValidationAnalysis]:
    """What is read: the output of every layer, and what noise on the embedding does to the loss."""
    embedding = next(name for name, module in lm.named_modules() if module is lm.get_input_embeddings())
    # The first token of a line is an attention sink in most models: its vector is unlike all others, whatever it is.
    return [
        RepresentationStructure(sites, labels=["token", "bigram"], skip_positions=1, projector=300, label_names=names),
        RepresentationGeometry(sites, skip_positions=1),
        NoiseRobustness(
            {"embedding": f"lm.{embedding}"}, scales=(0.1, 0.5), monitors={"val_loss": "loss"}, max_examples=128
        ),
    ]


def scrambled(line: str, seed: int) -> str:
    """The same words in any order."""
    words = line.split()
    random.Random(seed).shuffle(words)
    return " ".join(words)


def table(found: dict[str, list[dict[str, float]]], readings: Readings) -> str:
    """Each measure before → after, a line a layer."""
    ends = list(zip(*readings.series("val_loss"), strict=True))
    losses = (f"{loss:.3f} at step {step}" for step, loss in (ends[0], ends[-1]))
    lines = [
        f"\nvalidation loss {', '.join(losses)}",
        "  ".join(["layer", *(f"{column:>20}" for column in COLUMNS)]),
    ]
    for site, (before, after) in found.items():
        cells = (f"{before[name]:.3f} → {after[name]:.3f}" if name in before else "" for name in COLUMNS)
        lines.append("  ".join([f"{site:>5}", *(f"{cell:>20}" for cell in cells)]))
    return "\n".join(lines)


if __name__ == "__main__":
    main()
