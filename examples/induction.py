"""Induction heads: how a transformer comes to predict what it has seen once, and how suddenly.

Models of nothing but attention learn sequences that repeat a random segment of random length. Whoever finds the present
token earlier in the sequence knows what follows; it takes two layers to do that, a head that marks each token with the
one before it and an induction head that looks for the mark. With two layers the best head goes from .1 to .9 within
sixty steps soon after step 100, and the validation loss bends with it. With one layer, on the same sequences, no head
forms. What the text alone tells, the in-context learning score, moves before any head has formed, and with one layer
too: it is no evidence of induction heads.

    python examples/induction.py
    python examples/induction.py --seeds 5 --layers 2
    python examples/induction.py --model gpt2   # the heads of a finished model, by name or folder; needs transformers
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import TensorBoardLogger
from torch.utils.data import DataLoader

from lightning_interp import AttentionStructure, InductionHeads, Readings, TrainingPhases, ValidationSchedule, analyze
from lightning_interp.datasets import RepeatedSegments
from lightning_interp.decisions import log_spaced_steps
from lightning_interp.functional import reached
from lightning_interp.models import AttentionOnly, CausalLM
from lightning_interp.tasks import load_causal_lm

IDS, BATCH = 64, 32


Run = tuple[InductionHeads, TrainingPhases]


def main(argv: Sequence[str] | None = None) -> dict[str, Run]:
    """Train each number of layers from each seed, one after the other, and print what was read beside each other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="of data and weights, the first; default: %(default)s")
    parser.add_argument("--seeds", type=int, default=1, help="how many, from there on; default: %(default)s")
    parser.add_argument("--steps", type=int, default=260, help="optimizer steps; default: %(default)s")
    parser.add_argument("--layers", type=int, nargs="+", default=[1, 2], help="of each model; default: 1 and 2")
    parser.add_argument("--logdir", type=Path, default=Path("logs/induction"), help="default: %(default)s")
    parser.add_argument("--model", help="read a finished causal model of transformers instead, by name or folder")
    args = parser.parse_args(argv)
    if args.model is not None:
        print(finished(args.model, args.seed))
        return {}
    for name in (".*does not have many workers.*", ".*smaller than the logging interval.*"):
        warnings.filterwarnings("ignore", name)
    torch.set_num_threads(1)  # a model this small gains nothing from a second thread
    runs = {}
    for seed in range(args.seed, args.seed + args.seeds):
        for layers in args.layers:
            name = f"{layers} layer{'s' * (layers > 1)}, seed {seed}"
            started = time.perf_counter()
            runs[name] = train(args, layers, seed, f"layers_{layers}_seed_{seed}")
            print(f"{name} ({time.perf_counter() - started:.0f} s): {told(*runs[name])}")
    keys = {"loss": "val_loss", "ICL score": "icl_score", "best head": "prefix_matching/max"}
    for name, (heads, _) in runs.items():
        print(f"\n{name}\n{Readings.of(heads).table(keys, digits=2)}")
    for title, draw in runs[name][0].figures().items():
        draw().savefig(args.logdir / f"{title.replace('/', '_')}.png")
    print(f"\npictures of {name}: {args.logdir}; curves: tensorboard --logdir {args.logdir}")
    return runs


def finished(name: str, seed: int = 0, best: int = 8) -> str:
    """The best induction heads of a finished model by layer and head, beside random weights."""
    model, _ = load_causal_lm(name)
    callback = InductionHeads(positions=None, sequences=4, seed=seed)
    found = analyze(model, [{"input_ids": torch.ones(1, 2, dtype=torch.long)}], callback, progress=False)
    heads = {key.split("/", 1)[1]: value for key, value in found.items() if key.startswith("prefix_matching/")}
    del heads["max"]
    first = sorted(heads, key=heads.__getitem__, reverse=True)[:best]
    told = {
        f"prefix matching, the best of {len(heads)} heads": ", ".join(f"{head} {heads[head]:.2f}" for head in first),
        "best head of random weights": found["prefix_matching_baseline/max"],
        "uniform attention": found["prefix_matching_chance/max"],
        "heads above .3": found["induction_heads"],
        "loss of tokens that come for the first time": found["repeat_loss/first"],
        "loss of the same again": found["repeat_loss/later"],
        "its rise without the four best heads": found["head_effect/best"],
        "without four random ones of their layers": found.get("head_effect_random/best"),
    }
    return "\n".join(f"{key}: {f'{one:.3f}' if isinstance(one, float) else one}" for key, one in told.items())


def callbacks(args: argparse.Namespace, layers: int) -> tuple[ValidationSchedule, InductionHeads, TrainingPhases]:
    """What watches a training."""
    # At equal distances on a logarithmic axis, closer from 50 on: there the heads form.
    early, late = log_spaced_steps(6, stop=45), log_spaced_steps(30, start=50, stop=args.steps)
    return (
        ValidationSchedule(steps=[*early, *late]),
        InductionHeads(model="lm", length=15, positions=(5, 55), ablate=2, padding_idx=-1),
        TrainingPhases(
            template="change",
            follow="prefix_matching/max",
            least=0.25,
            names=["no induction heads", "induction heads form", "induction heads are there"],
        ),
    )


def told(heads: InductionHeads, phases: TrainingPhases) -> str:
    """When heads formed, and where the loss bends, in a sentence."""
    fit = phases.fit("val_loss")
    bends = "; the loss bends at step " + " and ".join(f"{10**knee:.0f}" for knee in fit.knees) if fit else ""
    formed = heads.reading.get("formed_step/prefix_matching")
    if formed is None:
        return f"no induction head{bends}; {phases.conclusion}"
    steps, score = heads.history.series("icl_score")
    moved = reached(steps, [-one for one in score], 0.3).step
    return (
        f"the ICL score is at -.3 at step {moved:.0f}, the best head at half of its maximum at step {formed:.0f}"
        f"{bends}; {phases.conclusion}"
    )


def train(args: argparse.Namespace, layers: int, seed: int, name: str) -> Run:
    """One training, and what watched it."""
    pl.seed_everything(seed, verbose=False)
    model = CausalLM(AttentionOnly(IDS, layers=layers), lr=3e-3)
    sequences = RepeatedSegments(BATCH * args.steps, ids=IDS, seed=2 * seed)
    held_out = RepeatedSegments(256, ids=IDS, seed=2 * seed + 1)
    schedule, heads, phases = callbacks(args, layers)
    trainer = pl.Trainer(
        max_steps=args.steps,
        callbacks=[schedule, heads, AttentionStructure(padding_idx=-1), phases],
        logger=TensorBoardLogger(args.logdir, name=name, default_hp_metric=False),
        accelerator="cpu",
        devices=1,
        enable_checkpointing=False,
        enable_model_summary=False,
        log_every_n_steps=10,
    )
    trainer.fit(model, DataLoader(sequences, BATCH), DataLoader(held_out, 64))
    return heads, phases


if __name__ == "__main__":
    main()
