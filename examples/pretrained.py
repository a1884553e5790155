"""A finished language model, layer by layer: ``analyze`` reads it without a Trainer.

The model is run once over the lines of a text file. For each of its layers it prints and draws the information in the
representations of tokens, how regular they are by token and by bigram beyond the token, above chance, and the shape of
the cloud they form. Without ``--model`` it reads a small GPT-2 with random weights, which nothing has to be downloaded
for and whose curves are what layers do to tokens before anything is learned.

    python examples/pretrained.py
    python examples/pretrained.py --model gpt2 --text lines.txt
    python examples/pretrained.py --model path/to/folder --gguf-file model.gguf --text lines.txt
    python examples/pretrained.py --model path/to/folder --sites "model.layers.*" "model.norm"
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor, nn

from lightning_interp import RepresentationGeometry, RepresentationStructure, analyze
from lightning_interp.datasets import sentence_loader
from lightning_interp.models import small_gpt2
from lightning_interp.sites import blocks, resolve_sites
from lightning_interp.tasks import generate_corpus, load_causal_lm

COLUMNS = {
    "information": "information/{}",
    "regularity by token": "regularity_above_chance/{}/token",
    "regularity by bigram": "regularity_above_chance/{}/bigram",
    "effective rank": "effective_rank/{}",
    "anisotropy": "anisotropy/{}",
    "curvature": "curvature/{}",
}


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Command line → settings."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="folder or hub name of a causal model; default: a random GPT-2")
    parser.add_argument("--gguf-file", help="the quantised file in that folder; needs the package gguf")
    parser.add_argument("--text", type=Path, help="a file with a sentence a line; default: generated sentences")
    parser.add_argument("--sentences", type=int, default=500, help="at most so many lines; default: %(default)s")
    parser.add_argument("--length", type=int, default=64, help="at most so many tokens of a line; default: %(default)s")
    parser.add_argument("--batch-size", type=int, default=16, help="default: %(default)s")
    parser.add_argument("--sites", nargs="+", help="names or globs of modules; default: its layers")
    parser.add_argument("--device", default="cpu", help="default: %(default)s")
    parser.add_argument("--output", type=Path, default=Path("logs/pretrained.png"), help="default: %(default)s")
    args = parser.parse_args(argv)
    if args.gguf_file and not args.model:
        parser.error("--gguf-file needs --model, the folder or hub name that the file is in")
    return args


def main(argv: Sequence[str] | None = None) -> dict[str, dict[str, float]]:
    """Read every layer; print and draw what was found: site → measure → value."""
    args = parse(argv)
    lines = args.text.read_text(encoding="utf-8").splitlines() if args.text else generate_corpus(args.sentences)
    lines = [line for line in lines if line.strip()][: args.sentences]
    if args.model:
        model, tokenizer = load_causal_lm(args.model, gguf_file=args.gguf_file)
        ids = [torch.tensor(tokenizer(line)["input_ids"][: args.length]) for line in lines]
    else:
        model, ids = random_gpt2(lines, args.length)
    model.to(args.device)

    sites = args.sites or blocks(model)
    names = list(resolve_sites(model, sites))
    # The first token of a line is an attention sink in most models: its vector is unlike all others, whatever it is.
    shared = {"sites": sites, "max_examples": None, "skip_positions": 1}
    readers = [RepresentationStructure(labels=["token", "bigram"], **shared), RepresentationGeometry(**shared)]
    values = analyze(model, sentence_loader(ids, args.batch_size), readers)

    found = {
        name: {column: values[key] for column, pattern in COLUMNS.items() if (key := pattern.format(name)) in values}
        for name in names
    }
    print(f"{args.model or 'GPT-2 with random weights'}: {len(lines)} lines, {sum(map(len, ids))} tokens\n")
    print(table(found))
    args.output.parent.mkdir(parents=True, exist_ok=True)
    curves(found, args.model or "GPT-2 with random weights").savefig(args.output, dpi=110)
    print(f"\npicture: {args.output}")
    return found


def random_gpt2(lines: Sequence[str], length: int) -> tuple[nn.Module, list[Tensor]]:
    """A small GPT-2 that has learned nothing, and the lines as ids of their words."""
    words = sorted({word for line in lines for word in line.split()})
    number = {word: place for place, word in enumerate(words)}
    torch.manual_seed(0)
    ids = [torch.tensor([number[word] for word in line.split()[:length]]) for line in lines]
    return small_gpt2(words, layers=6, length=length), ids


def table(found: dict[str, dict[str, float]]) -> str:
    """The measures as text, a line a site."""
    width = max(5, *map(len, found))
    lines = ["  ".join([f"{'layer':{width}}", *(f"{column:>20}" for column in COLUMNS)])]
    for name, row in found.items():
        cells = (f"{row[column]:20.4f}" if column in row else f"{'':>20}" for column in COLUMNS)
        lines.append("  ".join([f"{name:{width}}", *cells]))
    return "\n".join(lines)


def curves(found: dict[str, dict[str, float]], title: str) -> Figure:
    """A panel a measure, over layers."""
    figure = Figure(figsize=(10, 5), layout="constrained")
    figure.suptitle(title)
    axes = figure.subplots(2, 3, sharex=True)
    for panel, column in zip(axes.flat, COLUMNS, strict=True):
        places = [place for place, row in enumerate(found.values()) if column in row]
        panel.plot(places, [row[column] for row in found.values() if column in row], marker="o")
        panel.set_title(column)
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        panel.spines[["top", "right"]].set_visible(False)
    for panel in axes[-1]:
        panel.set_xlabel("layer")
    return figure


if __name__ == "__main__":
    main()
