"""A transformers language model while it is fine-tuned: what changes in which layer.

The model is wrapped into a LightningModule of a dozen lines, and the callbacks read the output of every layer at
log-spaced steps. Without ``--model`` it is a small GPT-2, which first learns sentences whose words stand in any order:
it knows the words, and no grammar. Then it is tuned on the same sentences in order. With ``--model`` it is any causal
model of transformers, and ``--text`` says what it is tuned on.

    python examples/finetune.py
    python examples/finetune.py --model gpt2 --text lines.txt --steps 500 --lr 5e-5
    python examples/finetune.py --model path/to/folder --text lines.txt --device gpu
    tensorboard --logdir logs/finetune
"""

from __future__ import annotations

import argparse
import random
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import GPT2Config, GPT2LMHeadModel

from lightning_interp import (
    NoiseRobustness,
    RepresentationGeometry,
    RepresentationStructure,
    TrainingPhases,
    ValidationAnalysis,
    ValidationSchedule,
)
from lightning_interp.history import merge_rows
from lightning_interp.task_space import load_causal_lm
from lightning_interp.tasks import WordTokenizer, generate_corpus, grammar_words
from lightning_interp.tasks.batching import pad_right

Batch = dict[str, Tensor]

# Column of the table → key of the reading.
COLUMNS = {
    "information": "information/{}",
    "regularity by token": "regularity_above_chance/{}/token",
    "regularity by bigram": "regularity_above_chance/{}/bigram",
    "effective rank": "effective_rank/{}",
    "anisotropy": "anisotropy/{}",
}


class LanguageModel(pl.LightningModule):
    """A causal model of transformers."""

    def __init__(self, lm: nn.Module, lr: float) -> None:
        super().__init__()
        self.lm = lm.train()  # `from_pretrained` gives a model in eval mode, and Lightning leaves it there
        self.lr = lr

    def loss(self, batch: Batch) -> Tensor:
        """Cross-entropy of the next token, without padding."""
        labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
        return self.lm(**batch, labels=labels).loss

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """One step of fine-tuning."""
        loss = self.loss(batch)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """The same on held-out sentences."""
        self.log("val_loss", self.loss(batch), batch_size=len(batch["input_ids"]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW."""
        return torch.optim.AdamW(self.parameters(), lr=self.lr)


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
    held_out, tuned_on = lines[: args.held_out], lines[args.held_out :]
    if args.model:
        lm, tokenizer = load_causal_lm(args.model)
        encode, names = tokenizer.encode, tokenizer.convert_ids_to_tokens
    else:
        torch.set_num_threads(1)  # a model this small gains nothing from a second thread
        words = WordTokenizer(grammar_words())
        lm, encode, names = small_gpt2(words), words.encode, words.vocabulary.words
        pretrain(lm, loader([encode(scrambled(line, seed)) for seed, line in enumerate(tuned_on)], args, True), args)

    sites = layers_of(lm)
    readers = make_readers(sites, lm, names)
    trainer = pl.Trainer(
        max_steps=args.steps,
        callbacks=[ValidationSchedule(steps="log", per_decade=6), *readers, phases := TrainingPhases("val_loss")],
        logger=TensorBoardLogger(args.logdir, name=""),
        accelerator=args.device,
        enable_checkpointing=False,
        enable_model_summary=False,
        log_every_n_steps=10,
    )
    data = [
        loader([encode(line)[: args.length] for line in part], args, part is tuned_on) for part in (tuned_on, held_out)
    ]
    started = time.perf_counter()
    trainer.fit(LanguageModel(lm, args.lr), *data)

    rows = merge_rows(reader.history for reader in readers)
    found = {
        site: [
            {name: row[key.format(site)] for name, key in COLUMNS.items() if key.format(site) in row} for row in ends
        ]
        for ends in [(rows[0], rows[-1])]
        for site in readers[0].site_names(trainer.lightning_module)
    }
    print(table(found, rows))
    print(f"\n{phases.conclusion}")
    print(f"\n{trainer.global_step} steps with {len(rows)} readings in {time.perf_counter() - started:.0f} s")
    print(f"curves:   tensorboard --logdir {args.logdir}\nreadings: {Path(trainer.log_dir) / 'readings.csv'}")
    return found


def make_readers(sites: str, lm: nn.Module, names: Any) -> list[ValidationAnalysis]:
    """What is read: the output of every layer, and what noise on the embedding does to the loss."""
    embedding = next(name for name, module in lm.named_modules() if module is lm.get_input_embeddings())
    # The first token of a line is an attention sink in most models: its vector is unlike all others, whatever it is.
    return [
        RepresentationStructure(sites, labels=["token", "bigram"], skip_positions=1, projector=300, label_names=names),
        RepresentationGeometry(sites, skip_positions=1),
        NoiseRobustness(
            {"embedding": f"lm.{embedding}"}, scales=(0.1, 0.5), monitors={"val_loss": "loss"}, limit_examples=128
        ),
    ]


def layers_of(lm: nn.Module) -> str:
    """The glob that matches the layers: the first list of modules is that, in decoders of transformers."""
    return next(f"lm.{name}.*" for name, module in lm.named_modules() if isinstance(module, nn.ModuleList))


def small_gpt2(words: WordTokenizer) -> nn.Module:
    """Four layers of 64 dimensions."""
    special = {"bos_token_id": words.bos_token_id, "eos_token_id": words.eos_token_id}
    return GPT2LMHeadModel(GPT2Config(vocab_size=len(words), n_positions=64, n_embd=64, n_layer=4, n_head=4, **special))


def scrambled(line: str, seed: int) -> str:
    """The same words in any order."""
    words = line.split()
    random.Random(seed).shuffle(words)
    return " ".join(words)


def pretrain(lm: nn.Module, batches: DataLoader[Any], args: argparse.Namespace) -> None:
    """What happened to the model before it came here; nobody watches."""
    if args.pretrain:
        quiet = {"logger": False, "enable_checkpointing": False, "enable_model_summary": False}
        before = pl.Trainer(max_steps=args.pretrain, accelerator=args.device, enable_progress_bar=False, **quiet)
        before.fit(LanguageModel(lm, args.lr), batches)


def loader(encoded: Sequence[Sequence[int]], args: argparse.Namespace, shuffle: bool) -> DataLoader[Any]:
    """Padded batches with their masks."""

    def collate(some: Sequence[Sequence[int]]) -> Batch:
        ids, mask = pad_right([torch.tensor(one) for one in some])
        return {"input_ids": ids, "attention_mask": mask}

    return DataLoader([*encoded], batch_size=args.batch_size, shuffle=shuffle, collate_fn=collate)


def table(found: dict[str, list[dict[str, float]]], rows: Sequence[dict[str, float]]) -> str:
    """Each measure before → after, a line a layer."""
    losses = (f"{row['val_loss']:.3f} at step {row['step']:.0f}" for row in (rows[0], rows[-1]))
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
