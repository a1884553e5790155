r"""Linguistic task spaces: which rules a language model follows by the same means, and since when.

A small GPT-2 learns sentences of the built-in grammar. At log-spaced steps the ``TaskSpace`` callback reads the
gradients of 30 tasks, minimal pairs of 9 phenomena; in the middle of training and at its end the model is tuned on each
task in turn, and all are scored each time. Tables stand beside five findings of Weber et al. 2024 (arXiv 2406.06441),
with verdicts by stated rules: three seeds or more decide, three sizes or more for the first.

    python benchmarks/studies/task_space.py
    python benchmarks/studies/task_space.py --sizes 32 64 128 --seeds 5

The gradients of a pretrained model on BLiMP, or on any minimal pairs in its format:

    python benchmarks/studies/task_space.py --model gpt2 --pairs path/to/blimp.tar.gz --max-pairs 32
    python benchmarks/studies/task_space.py --model folder --gguf-file model.gguf --pairs path/to/blimp.tar.gz \
        --no-start-token
"""

from __future__ import annotations

import argparse
import math
import resource
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor, nn

from lightning_interp import Readings, TaskSpace, ValidationSchedule, task_space
from lightning_interp.datasets import sentence_loader
from lightning_interp.decisions import log_spaced_steps
from lightning_interp.functional import mean_interval, spearman
from lightning_interp.models import CausalLM, small_gpt2
from lightning_interp.tasks import (
    METHODS,
    Task,
    TaskSpaceResult,
    WordTokenizer,
    ftgd,
    generate_corpus,
    grammar_tasks,
    grammar_words,
    read_blimp,
    split_pairs,
)

WORDS = WordTokenizer(grammar_words())
FEWEST_SEEDS = 3

# What the callback reads within phenomena and between them, and how like the reading before it is.
RAW, CLEAN, ABOVE = "alignment", "alignment_disattenuated", "overlap_above_null"
STABILITY = "stability/previous"


class Tuned(NamedTuple):
    """What a method of tuning did, mean over tasks that the model did not know yet; NaN without any."""

    accuracy: float
    """Gain on held-out pairs."""
    margin: float
    """Gain in nats."""
    perplexity: float
    """Change on general text, as a share."""


class Run(NamedTuple):
    """What is left of a training."""

    size: int
    seed: int
    parameters: int
    rows: Readings
    """The readings, a row a validation."""
    middle: TaskSpaceResult
    end: TaskSpaceResult
    methods: dict[str, Tuned]


class Verdict(NamedTuple):
    """A finding, what was measured, and whether it holds by the rule."""

    finding: str
    rule: str
    verdict: str
    numbers: str


class KeepWeights(pl.Callback):
    """Remembers the weights after one step."""

    def __init__(self, step: int) -> None:
        self.step = step
        self.weights: dict[str, Tensor] = {}

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: object) -> None:
        """Copy them when the step has come."""
        if trainer.global_step == self.step and not self.weights:
            self.weights = {name: value.detach().clone() for name, value in pl_module.state_dict().items()}


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Command line → settings."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[64], help="widths; default: %(default)s")
    parser.add_argument("--layers", type=int, default=2, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="the first; default: %(default)s")
    parser.add_argument("--seeds", type=int, default=1, help="runs of each size; default: %(default)s")
    parser.add_argument("--steps", type=int, default=2400, help="optimizer steps; default: %(default)s")
    parser.add_argument("--middle", type=int, help="step of the first transfer probe; default: a twelfth of the steps")
    parser.add_argument("--sentences", type=int, default=20_000, help="to train on; default: %(default)s")
    parser.add_argument("--max-pairs", type=int, help="default: 60, of a pretrained model 16")
    parser.add_argument("--tuning-steps", type=int, default=20, help="of the transfer probe; default: %(default)s")
    parser.add_argument("--paradigms", nargs="+", help="tasks of the grammar; default: all 30")
    parser.add_argument("--model", help="name or folder of a pretrained causal model, instead of training one")
    parser.add_argument("--gguf-file", help="its quantised file")
    parser.add_argument("--no-start-token", action="store_true", help="put no start token in front of its sentences")
    parser.add_argument("--pairs", type=Path, help="minimal pairs in BLiMP's format: folder, .jsonl, .tar or .tar.gz")
    parser.add_argument("--phenomena", nargs="+", help="of these pairs; default: all")
    parser.add_argument("--buckets", type=int, default=65_536, help="of a gradient's sketch; default: %(default)s")
    parser.add_argument("--logdir", type=Path, default=Path("logs"), help="default: %(default)s")
    parser.add_argument("--no-progress", action="store_true", help="no progress bars")
    args = parser.parse_args(argv)
    if (args.model is None) != (args.pairs is None):
        parser.error("--model and --pairs belong together: a pretrained model and what it is tested on")
    args.middle = args.middle or max(1, args.steps // 12)
    if args.middle > args.steps:
        parser.error(f"--middle {args.middle} comes after the last of {args.steps} steps")
    args.max_pairs = args.max_pairs or (60 if args.model is None else 16)
    return args


def main(argv: Sequence[str] | None = None) -> list[Run] | TaskSpaceResult:
    """Train a model for each size and seed, or read a pretrained one."""
    args = parse(argv)
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    # A model this small gains nothing from a second thread, and loses much where the other core is busy.
    torch.set_num_threads(1)
    started = time.perf_counter()
    if args.model is not None:
        found = pretrained(args)
    else:
        seeds = range(args.seed, args.seed + args.seeds)
        found = [train(args, size, seed) for size in args.sizes for seed in seeds]
        print(report(found))
    # Kilobytes on Linux, bytes on macOS.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if torch.backends.mps.is_available() else 1e3)
    print(f"\n{time.perf_counter() - started:.0f} s, at most {peak:.0f} MB of memory")
    return found


def pretrained(args: argparse.Namespace) -> TaskSpaceResult:
    """Accuracies and the space of gradients of a pretrained model."""
    tasks = read_blimp(args.pairs, phenomena=args.phenomena)
    space = task_space(
        args.model,
        tasks,
        max_pairs=args.max_pairs,
        buckets=args.buckets,
        seed=args.seed,
        gguf_file=args.gguf_file,
        # None takes the tokenizer's own, if it has one.
        add_bos=False if args.no_start_token else None,
        progress=not args.no_progress,
    )
    print(space.summary())
    print("\nphenomenon                        tasks  accuracy")
    for name, places in grouped(space.phenomena).items():
        print(f"{name:32}  {len(places):5d}  {float(space.accuracies[places].mean()):8.3f}")
    print(f"{'all':32}  {len(space.names):5d}  {float(space.accuracies.mean()):8.3f}\n")
    print("\n".join(mantel_lines(space, ["alignment", "alignment_centred", "overlap_above"])))
    save(space, args.logdir / "task_space_pretrained", "space")
    return space


def train(args: argparse.Namespace, size: int, seed: int) -> Run:
    """One training with its readings, and what is probed in the middle and at the end of it."""
    pl.seed_everything(seed)
    held_out = generate_corpus(500, seed=seed + 10_000)
    lm = small_gpt2(WORDS, size, args.layers)
    module = CausalLM(lm, WORDS, lr=2e-3, warmup=50, steps=args.steps)
    tasks = grammar_tasks(args.max_pairs, seed=seed + 1, paradigms=args.paradigms)
    reader = TaskSpace(tasks, WORDS, model="lm", max_pairs=max(2, args.max_pairs // 2), buckets=args.buckets)
    middle = KeepWeights(args.middle)
    steps = [*log_spaced_steps(per_decade=8, start=min(10, args.steps), stop=args.steps)]
    trainer = pl.Trainer(
        max_steps=args.steps,
        gradient_clip_val=1.0,
        callbacks=[ValidationSchedule(steps=steps), reader, middle],
        logger=TensorBoardLogger(args.logdir, name=f"task_space_width_{size}", version=f"seed_{seed}"),
        accelerator="cpu",
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=not args.no_progress,
        log_every_n_steps=10,
    )
    started = time.perf_counter()
    corpus, apart = ([WORDS.encode(one) for one in part] for part in (generate_corpus(args.sentences, seed), held_out))
    trainer.fit(module, sentence_loader(corpus, 64, shuffle=True, drop_last=True), sentence_loader(apart, 64))
    seconds = time.perf_counter() - started
    folder = Path(trainer.logger.log_dir)
    parameters = sum(one.numel() for one in module.parameters())
    print(f"\nwidth {size}, seed {seed}: {parameters} parameters, {args.steps} steps with readings in {seconds:.0f} s")

    def probe(name: str) -> TaskSpaceResult:
        found = task_space(
            module.lm,
            tasks,
            WORDS,
            "both",
            tuning={"max_steps": args.tuning_steps},
            text=held_out[:200],
            buckets=args.buckets,
            seed=seed,
            progress=not args.no_progress,
        )
        print(f"\nprobe {name}")
        print(found.summary())
        save(found, folder, name)
        return found

    end = probe("end")
    module.load_state_dict(middle.weights)
    half = probe(f"step_{args.middle}")
    methods = compare_methods(module.lm, half, tasks, held_out[:200], seed)
    return Run(size, seed, parameters, Readings.of(reader), half, end, methods)


def compare_methods(
    model: nn.Module, space: TaskSpaceResult, tasks: Sequence[Task], text: Sequence[str], seed: int, most: int = 6
) -> dict[str, Tuned]:
    """Every method of tuning, until one of the usual rules ends it.

    On the tasks that the model knows least, of those whose gradient is more signal than noise: what no gradient shows
    cannot be tuned on by any method.
    """
    open_to = [one for one in space.records if one.accuracy < 0.95 and (one.reliability or 0.0) > 0.5]
    names = [one.name for one in sorted(open_to, key=lambda one: one.accuracy)][:most]
    print(f"\nmethods of tuning are compared on {', '.join(names) or 'no task: none is open to tuning'}")
    chosen = [split_pairs(task, seed=seed) for task in tasks if task.name in names]
    found: dict[str, Tuned] = {}
    for method in METHODS:
        each = []
        for tuned_on, tested in chosen:
            with ftgd(model, tuned_on, tested, WORDS, method=method, max_steps=60, text=text, seed=seed) as result:
                first, last = result.history[0], result.history[-1]
                change = last.perplexity / first.perplexity - 1
                each.append(Tuned(last.accuracy - first.accuracy, last.margin - first.margin, change))
        each = each or [Tuned(math.nan, math.nan, math.nan)]
        found[method] = Tuned(*(fmean(values) for values in zip(*each, strict=True)))
    return found


# What each finding is measured by. Larger is more in all of them.


def within_less_between(space: TaskSpaceResult, matrix: str) -> float:
    """Mean over pairs of tasks of one phenomenon, less that over others."""
    within, between = space.within_between(matrix)
    return within - between


def generalisation(space: TaskSpaceResult) -> float:
    """What of a task's own gain in margin goes to its phenomenon, beyond what goes to the other phenomena."""
    return within_less_between(space, "margin_transfer") / float(space.matrix("margin_transfer").diagonal().mean())


def excess(row: Mapping[str, float], name: str) -> float:
    """Of a reading, the mean within phenomena less that between them; NaN where it has none."""
    return row.get(f"{name}/within", math.nan) - row.get(f"{name}/between", math.nan)


def rise(run: Run, name: str) -> float:
    """Spearman's correlation of a reading with the (logarithm of the) training step; NaN without two readings."""
    read = [(row["step"], value) for row in run.rows if not math.isnan(value := excess(row, name))]
    if len(read) < 2:
        return math.nan
    steps, values = zip(*read, strict=True)
    return spearman(torch.tensor(steps, dtype=torch.float64), torch.tensor(values, dtype=torch.float64))


def stabilities(run: Run) -> list[float]:
    """Of successive readings in the later half of training on a logarithmic axis."""
    steps = [row["step"] for row in run.rows]
    late = [row for row in run.rows if row["step"] ** 2 >= steps[0] * steps[-1]]
    return [row[STABILITY] for row in late if not math.isnan(row.get(STABILITY, math.nan))]


def judged(values: Sequence[float], above: float) -> str:
    """Whether the 95 % interval of the mean over seeds lies above a number."""
    known = [value for value in values if not math.isnan(value)]
    if len(known) < FEWEST_SEEDS:
        return f"not decidable (seeds: {len(known)} of {FEWEST_SEEDS})"
    mean, half = mean_interval(known)
    return "confirmed" if mean - half > above else "not confirmed"


def all_of(*verdicts: str) -> str:
    """The weakest of several."""
    for wanted in ("not decidable", "not confirmed"):
        found = [verdict for verdict in verdicts if verdict.startswith(wanted)]
        if found:
            return found[0]
    return "confirmed"


def spread(values: Sequence[float]) -> str:
    """Mean ± half the 95 % interval over seeds."""
    known = [value for value in values if not math.isnan(value)]
    if len(known) < 2:
        return f"{known[0]:+.3f}" if known else "unknown"
    mean, half = mean_interval(known)
    return f"{mean:+.3f} ± {half:.3f}"


def verdicts(runs: Sequence[Run]) -> list[Verdict]:
    """The five findings. R2 to R5 are judged on the largest size."""
    sizes = sorted({run.size for run in runs})
    largest = [run for run in runs if run.size == sizes[-1]]

    def each(measure: Callable[[Run], float], of: Sequence[Run] = largest) -> list[float]:
        return [measure(run) for run in of]

    found = [larger_models(runs, sizes)]

    raw, clean, shared = (each(lambda run, key=key: rise(run, key)) for key in (RAW, CLEAN, ABOVE))
    found.append(
        Verdict(
            "R2 sharing and alignment of related tasks rise with training",
            "within less between phenomena, correlated with the step: above 0 for overlap above its null and for "
            "alignment without noise (raw alignment also rises where only noise falls)",
            all_of(judged(clean, 0), judged(shared, 0)),
            f"alignment {spread(clean)} (raw {spread(raw)}), overlap {spread(shared)}",
        )
    )

    typical = each(lambda run: fmean(stabilities(run) or [math.nan]))
    lowest = each(lambda run: min(stabilities(run), default=math.nan))
    found.append(
        Verdict(
            "R3 the pattern is stable, without abrupt stages",
            "correlation of the space with that of the reading before, in the later half of the log axis: the mean "
            "above .7, the smallest above .5",
            all_of(judged(typical, 0.7), judged(lowest, 0.5)),
            f"mean {spread(typical)}, smallest {spread(lowest)}",
        )
    )

    gain = each(lambda run: run.methods["ftgd"].accuracy - run.methods["fine_tuning"].accuracy)
    kept = each(lambda run: run.methods["fine_tuning"].perplexity - run.methods["ftgd"].perplexity)
    wrong = each(lambda run: run.methods["ftgd"].accuracy - run.methods["shuffled"].accuracy)
    found.append(
        Verdict(
            "R4 FTGD matches ordinary fine-tuning and limits the rise of perplexity",
            "gain in accuracy at most .05 below that of fine-tuning and above that on shuffled labels; smaller change "
            "of perplexity",
            all_of(judged(gain, -0.05), judged(wrong, 0), judged(kept, 0)),
            f"accuracy {spread(gain)}, against shuffled {spread(wrong)}, perplexity saved {spread(kept)}",
        )
    )

    structure = each(lambda run: run.end.test(control="lexical").statistic)
    words = each(lambda run: run.end.test("lexical", control="phenomenon").statistic)
    found.append(
        Verdict(
            "R5 the space clusters by linguistic structure, not by vocabulary",
            "transfers at the end of training: partial Mantel correlation with phenomena given words above 0, and "
            "above that with words given phenomena",
            all_of(judged(structure, 0), judged([a - b for a, b in zip(structure, words, strict=True)], 0)),
            f"phenomena {spread(structure)}, words {spread(words)}",
        )
    )
    return found


def larger_models(runs: Sequence[Run], sizes: Sequence[int]) -> Verdict:
    """The largest against the smallest size, seed by seed."""
    rule = "largest less smallest size, at the end: transfer within phenomena and alignment without noise both above 0"
    name = "R1 larger models generalise better and share more"
    if len(sizes) < 3:
        return Verdict(name, rule, f"not decidable (sizes: {len(sizes)} of 3)", "no comparison")
    ends = {(run.size, run.seed): run.end for run in runs}
    seeds = sorted({run.seed for run in runs})
    differences = []
    for measure in (generalisation, lambda space: within_less_between(space, "alignment_disattenuated")):
        differences.append([measure(ends[sizes[-1], seed]) - measure(ends[sizes[0], seed]) for seed in seeds])
    numbers = f"transfer {spread(differences[0])}, alignment {spread(differences[1])}"
    return Verdict(name, rule, all_of(*(judged(one, 0) for one in differences)), numbers)


# Tables.


def report(runs: Sequence[Run]) -> str:
    """The numbers behind the findings, then the findings."""
    lines = ["\nR1  by size, at the end (mean ± 95 % interval over seeds)"]
    lines.append(
        f"{'width':>5}  {'parameters':>10}  {'seeds':>5}  {'accuracy':>16}  {'transfer':>16}  {'alignment':>16}"
    )
    for size in sorted({run.size for run in runs}):
        same = [run for run in runs if run.size == size]
        cells = [
            [float(run.end.accuracies.mean()) for run in same],
            [generalisation(run.end) for run in same],
            [within_less_between(run.end, "alignment_disattenuated") for run in same],
        ]
        shown = "  ".join(f"{spread(values):>16}" for values in cells)
        lines.append(f"{size:5d}  {same[0].parameters:10d}  {len(same):5d}  {shown}")

    largest = [run for run in runs if run.size == max(run.size for run in runs)]
    lines += [
        "",
        f"R2, R3  width {largest[0].size}, within less between phenomena, and stability from reading to reading",
    ]
    plain = {"accuracy": "task_accuracy/mean", "reliability": "reliability/mean", "stability": STABILITY}
    differences = {"alignment": RAW, "without noise": CLEAN, "overlap": ABOVE}
    lines.append("  step  " + "  ".join(f"{name:>16}" for name in (*plain, *differences)))
    for same in zip(*(run.rows for run in largest), strict=True):
        cells = [spread([row.get(key, math.nan) for row in same]) for key in plain.values()]
        cells += [spread([excess(row, name) for row in same]) for name in differences.values()]
        lines.append(f"{same[0]['step']:6.0f}  " + "  ".join(f"{cell:>16}" for cell in cells))

    lines += ["", "R4  in the middle of training: gains until a rule ends the tuning, mean over tasks"]
    lines.append(f"{'method':20}  {'accuracy':>16}  {'margin, nats':>16}  {'perplexity':>16}")
    for method in largest[0].methods:
        cells = ([run.methods[method][place] for run in largest] for place in range(3))
        lines.append(f"{method:20}  " + "  ".join(f"{spread(values):>16}" for values in cells))

    for run in largest:
        for name, space in (("middle", run.middle), ("end", run.end)):
            link = space.link()
            lines += ["", f"R5  seed {run.seed}, {name}", *mantel_lines(space, ["margin_transfer", "alignment"])]
            lines.append(
                f"predicted and measured transfer: {link.across:+.3f} over all pairs, {link.within_rows:+.3f} by task, "
                f"alignment {link.alignment:+.3f}"
            )
    lines.append("")
    for one in verdicts(runs):
        lines += [f"{one.finding}: {one.verdict}", f"  {one.numbers}", f"  rule: {one.rule}"]
    return "\n".join(lines)


def mantel_lines(space: TaskSpaceResult, matrices: Sequence[str]) -> list[str]:
    """Mantel's test of each matrix, with phenomena and with words, each also given the other."""
    lines = [
        f"{'Mantel, rank correlation (p)':28}  {'phenomena':>15}  {'given words':>15}  {'words':>15}  given phenomena"
    ]
    for name in matrices:
        known = space.select(space.known(name))
        try:
            tests = [
                known.test("phenomenon", name),
                known.test("phenomenon", name, "lexical"),
                known.test("lexical", name),
                known.test("lexical", name, "phenomenon"),
            ]
        except ValueError as error:
            # One phenomenon, or each task its own: nothing to compare, and the rest of the report stands.
            lines.append(f"{name:28}  undefined for {len(known.names)} tasks: {error}")
            continue
        lines.append(f"{name:28}  " + "  ".join(f"{one.statistic:+.3f} ({one.p:.4f})" for one in tests))
    return lines


def grouped(names: Sequence[str]) -> dict[str, list[int]]:
    """The places of each name."""
    return {name: [place for place, other in enumerate(names) if other == name] for name in sorted(set(names))}


def save(space: TaskSpaceResult, folder: Path, name: str) -> None:
    """The result and its pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    print(f"\nresult:   {space.save(folder / f'{name}.npz')}")
    for kind, figure in space.plot().items():
        path = folder / f"{name}_{kind}.png"
        figure.savefig(path, dpi=110)
        print(f"picture:  {path}")


if __name__ == "__main__":
    main()
