"""The analyses of the guide to analyses of one's own are run as they stand there."""

from __future__ import annotations

import re
import typing
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_interp import LanguageModel, analyze
from tests.toy import Tagger, loader, trainer

GUIDE = Path(__file__).parents[1] / "docs" / "own_analysis.md"
BLOCKS = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)


@pytest.fixture(scope="module")
def names() -> dict[str, Any]:
    """What the guide defines, block after block."""
    found: dict[str, Any] = {}
    for block in BLOCKS:
        exec(block, found)
    return found


WORDS = [["a", "b", "cat", "d"], ["eel", "fox"], ["gnu", "a", "a", "b", "cat", "hen"]]
LABELS = [["x", "y", "x", "z"], ["y", "z"], ["x", "x", "y", "z", "z", "y"]]


def ids_of(words: str) -> list[int]:
    return [ord(word[0]) - 96 for word in words.split()]


def reach(lm: Any) -> dict[str, float]:
    """One sentence, layer, head and word after the other."""
    found: dict[str, list[float]] = {}
    for words, labels in zip(WORDS, LABELS, strict=True):
        with torch.no_grad():
            layers = lm(torch.tensor([ids_of(" ".join(words))]), output_attentions=True).attentions
        for (layer, heads), head in product(enumerate(layers), range(3)):
            for place, label in enumerate(labels):
                weights = heads[0, head, place].double().tolist()
                distance = sum(weight * (place - key) for key, weight in enumerate(weights))
                found.setdefault(f"head_reach/{layer}/{label}/{head}", []).append(distance)
    return {key: sum(values) / len(values) for key, values in found.items()}


def test_how_far_heads_look_back_beside_random_weights(names: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    from tests.callbacks.test_own_analysis import Letters, data

    def probe(**kwargs: Any) -> Any:
        sites = {str(layer): f"lm.transformer.h.{layer}.attn" for layer in range(2)}
        lm = LanguageModel(ids_of, "lm", batch_tokens=8)
        return names["HeadReach"](sites, WORDS, LABELS, heads=3, lm=lm, **kwargs)

    other = Letters().lm.eval()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.5)
    callback, model = probe(baseline=lambda: other, log="full", draw_figures=False), Letters()
    trainer(tmp_path, [callback], max_epochs=2).fit(model, data(), data())
    assert not any(module._forward_hooks for module in model.modules())
    found = {key: value for key, value in callback.reading.items() if "seconds" not in key}
    trained, random = reach(model.lm.eval()), reach(other)
    assert len(trained) == 2 * 3 * 3
    expected = dict(trained)
    for key, value in trained.items():
        expected |= {
            key.replace("reach", "reach_baseline"): random[key],
            key.replace("reach", "reach_above_baseline"): value - random[key],
        }
    assert found == pytest.approx(expected, abs=1e-6)
    assert set(callback.logged_keys(model)) == {*found, "seconds/HeadReach"}
    assert set(callback.figures()) >= {f"head_reach/{site}/{label}" for site in "01" for label in "xyz"}
    assert {name: draw().axes[0].get_title() for name, draw in callback.figures().items()}["head_reach/0/x"]
    assert analyze(model, data(), probe(baseline=False), progress=False) == pytest.approx(trained, abs=1e-6)
    # A checkpoint has the baseline.
    again = probe(baseline=lambda: other)
    again.load_state_dict(callback.state_dict())
    assert not again.baseline.due


def test_the_analysis_is_forty_lines(names: dict[str, Any]) -> None:
    from tests.callbacks.test_own_analysis import code_lines

    imports = sum(line.startswith(("import", "from")) for line in BLOCKS[0].splitlines())
    assert "HeadReach" in names
    assert code_lines(BLOCKS[0]) - imports <= 40


def test_a_part_of_ones_own_reads_the_validation_run(names: dict[str, Any], tmp_path: Path) -> None:
    callback, model = names["PredictionEntropy"]("head", draw_figures=False), Tagger(lr=0.0)
    run = trainer(tmp_path, [callback])
    run.fit(model, loader(), loader(seed=1))
    with torch.no_grad():
        p = torch.cat([model.eval()(batch["input_ids"]).softmax(-1).flatten(0, 1) for batch in loader(seed=1)])
    expected = float(-(p * p.log()).sum(-1).mean())
    assert float(run.callback_metrics["prediction_entropy"]) == pytest.approx(expected, rel=1e-5)
    assert not any(module._forward_hooks for module in model.modules())


def test_the_hooks_that_are_listed_are_there(names: dict[str, Any]) -> None:
    table = GUIDE.read_text().split("| method |")[1].split("\n\n")[0]
    hooks = re.findall(r"`(\w+)(?:\(([\w=, ]*)\))?`", " ".join(row.split("|")[1] for row in table.splitlines()[2:]))
    assert len(hooks) > 12
    for name, arguments in hooks:
        method: Callable[..., Any] = getattr(names["ValidationAnalysis"], name)
        wanted = [one.split("=")[0] for one in arguments.split(", ")] if arguments else []
        hints = typing.get_type_hints(method) if callable(method) else {}
        assert not callable(method) or [one for one in hints if one != "return"] == wanted, name


def test_the_parts_that_are_listed_are_there() -> None:
    import importlib

    table = GUIDE.read_text().split("| part |")[1].split("\n\n")[0]
    listed = re.findall(r"^\| `(parts\.[\w.]+)` ", table, re.MULTILINE)
    assert len(listed) == 7
    for name in listed:
        module, _, kind = name.rpartition(".")
        assert isinstance(getattr(importlib.import_module(f"lightning_interp.{module}"), kind), type)
