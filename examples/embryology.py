"""The embryology of a language model: what becomes readable in it, where, and when.

A small GPT-2 learns sentences of the built-in grammar, facts about made-up people, and places that are named together
the nearer they are. At log-spaced steps callbacks read what it can do and what linear probes find in its layers. At the
end stands the order in which things were learned. More callbacks, pretrained models, and how far the orders of several
seeds agree: ``benchmarks/studies/embryology.py``.

    python examples/embryology.py
    python examples/embryology.py --steps 500
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Sequence
from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import TensorBoardLogger

from lightning_interp import (
    AcquisitionByClass,
    ClozeFacts,
    CoordinateProbe,
    MinimalPairs,
    StructuralProbe,
    ValidationAnalysis,
    ValidationSchedule,
    acquisition,
)
from lightning_interp.datasets import sentence_loader
from lightning_interp.models import CausalLM, small_gpt2
from lightning_interp.offline.acquisition_order import AcquisitionOrder
from lightning_interp.probing import cooccurrence_sentences, planted_places
from lightning_interp.probing.treebank import grammar_treebank
from lightning_interp.sites import blocks
from lightning_interp.tasks import WordTokenizer, fact_world, generate_corpus, grammar_tasks, grammar_words


def main(argv: Sequence[str] | None = None) -> AcquisitionOrder:
    """Train, and print what was learned when."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="of data, weights and batches; default: %(default)s")
    parser.add_argument("--steps", type=int, default=2000, help="optimizer steps; default: %(default)s")
    parser.add_argument("--width", type=int, default=128, help="of the GPT-2; default: %(default)s")
    parser.add_argument("--pairs", type=int, default=30, help="minimal pairs of each task; default: %(default)s")
    parser.add_argument("--sentences", type=int, default=240, help="with trees, to read; default: %(default)s")
    parser.add_argument("--logdir", type=Path, default=Path("logs/embryology"), help="default: %(default)s")
    args = parser.parse_args(argv)
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    torch.set_num_threads(1)  # a model this small gains nothing from a second thread
    pl.seed_everything(args.seed)

    # The text: half grammar, a quarter facts, a quarter places.
    number = 32 * args.steps
    people, places = fact_world(24, seed=2 * args.seed), planted_places(150, regions=4, seed=2 * args.seed + 1)
    treebank = grammar_treebank(args.sentences, seed=10_000 + args.seed)
    unseen = {str(sentence) for sentence in treebank}
    text = [line for line in generate_corpus(number // 2, args.seed) if line not in unseen and len(line.split()) <= 24]
    text += [people.sentences[place % len(people.sentences)] for place in range(number // 4)]
    text += cooccurrence_sentences(places, number // 4, seed=args.seed)
    words = WordTokenizer([*grammar_words(), *people.words, *places.names, *{w for line in text for w in line.split()}])

    lm = small_gpt2(words, args.width, layers=4, length=32)
    model = CausalLM(lm, words, lr=2e-3, warmup=50, steps=args.steps)
    sites = {f"layer_{place}": layer for place, layer in enumerate(blocks(model).values(), 1)}
    tasks = grammar_tasks(args.pairs, seed=args.seed)
    readers: list[ValidationAnalysis] = [
        AcquisitionByClass("lm", target="input_ids", shift=1, bands=4, mask="attention_mask"),
        MinimalPairs(tasks, max_pairs=None, model="lm"),
        ClozeFacts(people.facts, model="lm"),
        StructuralProbe(sites, treebank, model="lm", rank=32, max_steps=60, log="full"),
        CoordinateProbe(places, sites, model="lm", folds=4, log="full"),
    ]
    trainer = pl.Trainer(
        max_steps=args.steps,
        callbacks=[ValidationSchedule(steps="log", per_decade=6), *readers],
        logger=TensorBoardLogger(args.logdir, name=""),
        accelerator="cpu",
        enable_checkpointing=False,
        enable_model_summary=False,
        log_every_n_steps=10,
    )
    held_out = [words.encode(str(sentence)) for sentence in treebank]
    trainer.fit(
        model, sentence_loader([words.encode(line) for line in text], 32, shuffle=True), sentence_loader(held_out, 32)
    )

    order = acquisition(*readers)
    folder = Path(trainer.log_dir)
    print(f"\nwhen 90 % of the final rise was reached\n{order.table()}")
    order.plot("when 90 % of the final rise was reached").savefig(folder / "order.png", dpi=110)
    print(f"\npicture:  {folder / 'order.png'}\nreadings: {folder / 'readings.csv'}")
    print(f"curves:   tensorboard --logdir {args.logdir}")
    return order


if __name__ == "__main__":
    main()
