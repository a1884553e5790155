"""The structural probe on a small GPT-2 that learns the built-in grammar: what it finds, and how to start a fit.

python benchmarks/structural_probe.py                    # all of it, some four minutes on one core
python benchmarks/structural_probe.py --only starts
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import warnings
from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_interp import StructuralProbe
from lightning_interp.callbacks.sentence_probe import Probed, ProbedSite
from lightning_interp.functional import (
    fit_distance_probe,
    probe_distances,
    tree_distances,
    tree_scores,
)
from lightning_interp.language import encode_sentences, pad_right
from lightning_interp.models import CausalLM, small_gpt2
from lightning_interp.sites import blocks
from lightning_interp.tasks import WordTokenizer, generate_corpus, grammar_words

WORDS = WordTokenizer(grammar_words())


def trained(callback: StructuralProbe, model: CausalLM, readings: int, steps: int) -> None:
    """Fit, with evenly spread validations."""
    lines = [line for line in generate_corpus(40 * steps + 320) if len(line.split()) < 24]
    encoded = encode_sentences(WORDS, lines)
    trainer = pl.Trainer(
        max_epochs=1,
        accelerator="cpu",
        callbacks=[callback],
        val_check_interval=steps // readings,
        **dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary", "enable_checkpointing"), False),
        default_root_dir=tempfile.mkdtemp(),
        num_sanity_val_steps=0,
    )
    train = DataLoader(encoded[: 32 * steps], 32, shuffle=True, collate_fn=pad_right)
    trainer.fit(model, train, DataLoader(encoded[-160:], 100, collate_fn=pad_right))


def untrained() -> tuple[CausalLM, dict[str, str]]:
    """The language model, and where it is read."""
    pl.seed_everything(0, verbose=False)
    model = CausalLM(small_gpt2(WORDS, layers=4, length=32, dropout=0.1), WORDS, lr=3e-3)
    return model, {"embeddings": "lm.transformer.drop", **blocks(model)}


def probe(sites: dict[str, str], kind: type[StructuralProbe] = StructuralProbe, **kwargs: Any) -> StructuralProbe:
    """On 500 sentences of the grammar."""
    return kind(sites, tokenizer="grammar", model="lm", log="full", draw_figures=False, **kwargs)


def language_model() -> None:
    """What is found, by layer and step."""
    model, sites = untrained()
    callback = probe(sites)
    trained(callback, model, readings=6, steps=600)
    chain = callback.chain
    print(f"\nlinear chain: UUAS {chain.uuas:.2f}, DSpr {chain.dspr:.2f}, NSpr {chain.nspr:.2f}")
    print("| step | site | UUAS (random weights) | DSpr | root accuracy | NSpr |\n|---|---|---|---|---|---|")
    for reading in callback.history.readings[::2] + callback.history.readings[-1:]:
        for site in sites:
            cells = [
                f"{reading.values[f'{name}/{site}']:.2f} ({reading.values[f'{name}_baseline/{site}']:.2f})"
                for name in ("uuas", "dspr", "root_accuracy", "nspr")
            ]
            print(f"| {reading.step} | {site} | " + " | ".join(cells) + " |")


class _Kept(StructuralProbe):
    """Keeps what the sites put out."""

    seen: list[tuple[str, list[Tensor]]]

    def evaluate(self, site: str, data: ProbedSite, kept: Tensor | None) -> Probed:
        """Nothing else."""
        self.seen.append((site, data.by_sentence()))
        return Probed(dict.fromkeys(self.probe_measures(), 0.0))


def starts() -> None:
    """Fits from scratch with three seeds, and from the probe of the reading before."""
    model, sites = untrained()
    callback = probe(sites, _Kept, baseline=False)
    assert isinstance(callback, _Kept)
    callback.seen = []
    trained(callback, model, readings=4, steps=400)
    heads = [torch.tensor(one.heads) for one in callback.treebank]
    keep = [torch.tensor(one.is_word) for one in callback.treebank]
    distances = [tree_distances(one) for one in heads]
    train, dev, test = callback.parts

    def at(values: Sequence[Tensor], places: Sequence[int]) -> list[Tensor]:
        return [values[place] for place in places]

    gains, steps, apart, dips = [], [], [], []
    for site in list(sites)[1:4]:
        before: Tensor | None = None
        for words in [found for name, found in callback.seen if name == site]:
            data = at(words, train), at(distances, train), at(words, dev), at(distances, dev)
            fits = [fit_distance_probe(*data, seed=seed) for seed in range(3)]
            if before is not None:
                fits.append(fit_distance_probe(*data, start=before))
            before = fits[-1].matrix
            uuas = [
                tree_scores(
                    [probe_distances(fit.matrix, words[one]) for one in test],
                    [words[one][:, 0] for one in test],
                    at(heads, test),
                    at(keep, test),
                ).uuas
                for fit in fits
            ]
            apart.append(max(uuas[:3]) - min(uuas[:3]))
            if len(fits) > 3:
                gains.append(fits[3].loss / fits[0].loss - 1)
                dips.append(uuas[0] - uuas[3])
                steps.append((fits[0].steps, fits[3].steps))
    print(f"\nfresh starts of three seeds: UUAS apart by {fmean(apart):.4f} on average, {max(apart):.4f} at most")
    print(
        f"from the reading before: dev loss {100 * fmean(gains):+.1f} % on average, {100 * max(gains):+.1f} % at most; "
        f"UUAS {-fmean(dips):+.3f} on average, {-max(dips):+.3f} at worst; "
        f"steps {fmean(one for _, one in steps):.0f} instead of {fmean(one for one, _ in steps):.0f}"
    )


PARTS: dict[str, Callable[[], None]] = {"language_model": language_model, "starts": starts}


def main(argv: list[str] | None = None) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS))
    args = parser.parse_args(argv)
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    for part in args.only:
        PARTS[part]()


if __name__ == "__main__":
    main()
