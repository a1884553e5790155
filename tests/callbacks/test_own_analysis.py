"""An analysis of one's own on the parts: what each attention head looks at, in few lines and to the last digit."""

from __future__ import annotations

import ast
import inspect
import io
import math
import tempfile
import tokenize
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Unpack

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_interp import LanguageModel, ValidationAnalysis, analyze
from lightning_interp.distributed import Collective, Sum
from lightning_interp.models import CausalLM, small_gpt2
from lightning_interp.parts.sentences import SentenceBatch, Sentences
from lightning_interp.reading.arguments import AnalysisArgs
from lightning_interp.reading.reading import Reading
from tests.toy import trainer

transformers = pytest.importorskip("transformers")

# ------------------------------------------------- the analysis

NAMES = ("attention_entropy", "attention_distance", "attention_first", "attention_previous")


class AttentionStructure(ValidationAnalysis):
    """What each head looks at: entropy of its weights as a share of the highest, distance looked back, shares."""

    def __init__(self, sites: Any, sentences: Sequence[str], lm: LanguageModel, **kwargs: Unpack[AnalysisArgs]) -> None:
        super().__init__(max_examples=None, **kwargs)
        self.sentences = Sentences(sentences, sites, lm, output=1)
        self.heads = ["<head>"]

    def measures(self, model: nn.Module | None = None) -> dict[str, str]:
        if model is not None:
            config: Any = model.get_submodule(self.sentences.lm.model).config
            self.heads = [str(head) for head in range(config.num_attention_heads)]
        sites = self.sentences.short_names(model)
        return {f"{name}/{site}/{head}": "summary" for name in NAMES for site in sites for head in self.heads}

    def merge(self, reading: Reading) -> Collective[Mapping[str, float]]:
        none = torch.zeros(len(self.sentences.names), len(self.heads), len(NAMES) + 1, dtype=torch.float64)
        total: Tensor = yield Sum(sum(self.sentences.run(head_sums, reading.group), none))
        means = (total[..., :-1] / total[..., -1:]).permute(2, 0, 1).flatten().tolist()
        return dict(zip(self.measures(), means, strict=True))


def head_sums(seen: SentenceBatch) -> Tensor:
    """Sums over queries that see two tokens or more, and how many there are, (sites, heads, 5)."""
    w = torch.stack(list(seen.at.values())).double()  # (sites, B, heads, queries, keys)
    place = torch.arange(w.shape[-1], dtype=torch.float64)
    entropy = -torch.xlogy(w, w).sum(-1) / (place + 1).log().clamp_min(1e-12)
    distance = (w * (place[:, None] - place)).sum(-1)
    previous = torch.cat([torch.zeros_like(w[..., :1, 0]), w.diagonal(-1, -2, -1)], -1)
    each = torch.stack([entropy, distance, w[..., 0], previous, torch.ones_like(entropy)], -1)
    counted = seen.mask.bool() & (place >= 1)
    return (each * counted[None, :, None, :, None]).sum((1, 3))


# ------------------------------------------------- what it is compared with


def reference(lm: Any, sentences: Sequence[str]) -> dict[str, float]:
    """The same, one sentence, layer, head and query after the other."""
    sums: dict[str, list[float]] = {}
    for sentence in sentences:
        with torch.no_grad():
            layers = lm(torch.tensor([letters(sentence)]), output_attentions=True).attentions
        for layer, heads in enumerate(layers):
            for head, weights in enumerate(heads[0].double()):
                for query in range(1, len(weights)):
                    w = weights[query].tolist()
                    entropy = -math.fsum(p * math.log(p) for p in w if p > 0) / math.log(query + 1)
                    distance = math.fsum(p * (query - key) for key, p in enumerate(w))
                    for name, value in zip(NAMES, (entropy, distance, w[0], w[query - 1]), strict=True):
                        sums.setdefault(f"{name}/layer_{layer}/{head}", []).append(value)
    return {key: math.fsum(values) / len(values) for key, values in sums.items()}


def letters(sentence: str) -> list[int]:
    return [ord(letter) - 96 for letter in sentence]


SENTENCES = ["abcab", "zy", "hello", "aaaaaaa", "q", "lightning", "interpretation"]
LAYERS = {f"layer_{layer}": f"lm.transformer.h.{layer}.attn" for layer in range(2)}


class Letters(CausalLM):
    """A small GPT-2 that learns letters."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        more = {"attn_implementation": "eager", "bos_token_id": 0, "eos_token_id": 0}
        super().__init__(small_gpt2(range(27), 12, heads=3, length=16, dropout=0.1, **more), lr=1e-2)
        with torch.no_grad():  # sharper heads than those that a model starts with
            for block in self.lm.transformer.h:
                block.attn.c_attn.weight.mul_(20)


def data() -> DataLoader[Tensor]:
    return DataLoader([torch.tensor(letters("abcdefg")) for _ in range(4)], batch_size=2)


def attention(**kwargs: Any) -> AttentionStructure:
    lm = LanguageModel(letters, "lm", batch_tokens=16)
    return AttentionStructure(LAYERS, SENTENCES, lm, draw_figures=False, **kwargs)


def hooks(model: nn.Module) -> dict[str, list[Any]]:
    return {name: list(module._forward_hooks.values()) for name, module in model.named_modules()}


def test_each_head_is_read_as_the_formula_says_in_a_fit_and_offline(tmp_path: Path) -> None:
    callback, model = attention(), Letters()
    before = hooks(model)
    trainer(tmp_path, [callback], max_epochs=2).fit(model, data(), data())
    assert hooks(model) == before
    assert len(callback.history) == 2
    expected = reference(model.lm.eval(), SENTENCES)
    found = {key: value for key, value in callback.reading.items() if "seconds" not in key}
    assert found == pytest.approx(expected, abs=1e-6)
    assert set(found) == set(callback.logged_keys(model))
    before = hooks(model)
    assert analyze(model, data(), callback, progress=False) == pytest.approx(expected, abs=1e-6)
    assert hooks(model) == before
    # Heads differ, and training changes what they look at.
    assert len({round(value, 4) for key, value in found.items() if "distance" in key}) == 6
    first = callback.history.readings[0].values
    assert all(abs(first[key] - value) > 1e-5 for key, value in found.items())


def test_it_is_written_in_few_lines() -> None:
    own = [AttentionStructure, head_sums]
    assert 1 + sum(code_lines(inspect.getsource(one)) for one in own) <= 45


def code_lines(source: str) -> int:
    """Lines that hold code: no docstrings, comments, empty lines."""
    left_out = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)
    tokens = [one for one in tokenize.generate_tokens(io.StringIO(source).readline) if one.type not in left_out]
    code = {line for one in tokens for line in range(one.start[0], one.end[0] + 1)}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            code -= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return len(code)


def test_what_counts_as_a_line_of_code() -> None:
    source = 'def f():\n    """Words.\n\n    More.\n    """\n    # why\n\n    return [\n        1,\n    ]\n'
    assert code_lines(source) == 4


def test_a_model_that_gives_no_weights_is_told_in_the_sanity_check(tmp_path: Path) -> None:
    model = Letters()
    model.lm.set_attn_implementation("sdpa")
    with pytest.raises(TypeError, match=r"site 'layer_0' .* has no floating-point tensor at output=1"):
        trainer(tmp_path, [attention()]).fit(model, data(), data())


def over_ranks() -> dict[str, float]:
    world, callback = dist.get_world_size() if dist.is_initialized() else 1, attention()
    with tempfile.TemporaryDirectory() as folder:
        strategy = "ddp" if world > 1 else "auto"
        run = trainer(Path(folder), [callback], devices=world, strategy=strategy)
        run.validate(Letters(), data(), verbose=False)
    return {key: value for key, value in callback.reading.items() if "seconds" not in key}


def test_ranks_read_what_one_process_reads(ranks: Any) -> None:
    alone = over_ranks()
    first, *others = ranks.run(over_ranks)
    assert first == pytest.approx(alone, abs=1e-12)
    assert all(other == first for other in others)
