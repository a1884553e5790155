"""The readings of finished models."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from tqdm import tqdm

from lightning_interp import (
    ClozeFacts,
    LayerProbe,
    MinimalPairs,
    RepresentationGeometry,
    RepresentationStructure,
    StructuralProbe,
    TaskSpace,
    analyze,
)
from lightning_interp.tasks import Fact
from tests.toy import Sequences, Tagger, loader, trainer


def structure(sites: object = "encoder", **kwargs: object) -> RepresentationStructure:
    return RepresentationStructure(**{"sites": sites, "labels": ["token", "bigram"], "min_count": 2, **kwargs})


def test_same_as_trainer_validate_and_nothing_is_changed(tmp_path: object) -> None:
    model, callback = Tagger(), structure(log="full")
    model.train()
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    model.accuracy.update(torch.tensor(0.25))
    random = torch.get_rng_state()
    found = analyze(model, loader(seed=1), [callback, RepresentationGeometry(sites="encoder", prefix="g/")])
    assert torch.equal(random, torch.get_rng_state())
    assert model.training
    assert model.encoder.training
    assert float(model.accuracy.compute()) == 0.25
    assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())
    assert not model.encoder._forward_hooks
    assert len(callback.history) == 0
    assert "log" not in vars(model)
    (logged,) = trainer(tmp_path, [callback]).validate(model, loader(seed=1), verbose=False)
    for key, value in logged.items():
        if key in found:
            assert found[key] == pytest.approx(value, abs=1e-6), key
    assert {"information/encoder", "regularity/encoder/bigram", "g/rankme/encoder"} <= found.keys()


def test_plain_module_with_dict_and_tuple_batches() -> None:
    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(12, 8)

        def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
            return self.embedding(input_ids)

    model, data = Plain(), Sequences(40)
    by_dict = analyze(model, loader(), structure("embedding"))
    tuples = [(data.ids[i : i + 8], None) for i in range(0, 40, 8)]
    by_tuple = analyze(model, tuples, structure("embedding", padding_idx=0))
    by_hand = analyze(model, loader(), structure("embedding"), forward=lambda m, batch: m(batch["input_ids"]))
    assert by_dict == by_tuple == by_hand
    assert by_dict["rows/embedding"] == data.mask.sum()


def test_a_batch_that_the_model_does_not_take_names_the_way_out() -> None:
    class Plain(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    message = r"Plain, whose forward takes \['x'\], does not run on a batch, which is a dict with 'chars'.*`forward=lam"
    with pytest.raises(ValueError, match=message):
        analyze(Plain(), [{"chars": torch.zeros(2, 3)}], RepresentationGeometry({"all": ""}))
    with pytest.raises(TypeError, match="own"):  # what the user's own function raises stays what it is
        analyze(Plain(), [torch.zeros(2, 3)], RepresentationGeometry({"all": ""}), forward=refusing)


def refusing(model: nn.Module, batch: torch.Tensor) -> None:
    raise TypeError("own")


TWO, THREE = r"called with \(model, batch\)", r"called with \(model, input_ids, attention_mask\)"


@pytest.mark.parametrize(
    ("make", "takes"),
    [
        (lambda wrong: analyze(nn.Linear(3, 2), [torch.zeros(2, 3)], RepresentationGeometry({"all": ""}), wrong), TWO),
        (lambda wrong: RepresentationGeometry("encoder", data=loader(), forward=wrong), TWO),
        (lambda wrong: LayerProbe("encoder", ["tags"], forward=wrong), TWO),
        (lambda wrong: MinimalPairs("grammar", forward=wrong), THREE),
        (lambda wrong: TaskSpace("grammar", forward=wrong), THREE),
        (lambda wrong: ClozeFacts([Fact("r", "a is ___", "b", ("b", "c"))], forward=wrong), THREE),
        (lambda wrong: StructuralProbe("encoder", "grammar", model="lm", forward=wrong), THREE),
    ],
    ids=["analyze", "own data", "baseline", "pairs", "gradients", "facts", "sentences"],
)
def test_a_forward_with_other_arguments_is_told_what_to_write(make: Any, takes: str) -> None:
    names = "model, batch" if takes is TWO else "model, input_ids, attention_mask"
    with pytest.raises(TypeError, match=rf"{takes}, and takes \(a, b, c, d\). Write `forward=lambda {names}: ...`"):
        make(lambda a, b, c, d: None)
    with pytest.raises(TypeError, match=r"must be a function of .*, got 3\. Write"):
        make(3)


def test_a_forward_may_have_more_arguments_than_it_is_called_with() -> None:
    model, batches, geometry = nn.Linear(3, 2), [torch.randn(8, 3)], RepresentationGeometry({"all": ""})
    expected = analyze(model, batches, geometry)
    assert analyze(model, batches, geometry, lambda m, batch, scale=1.0: m(scale * batch)) == expected
    assert analyze(model, batches, geometry, lambda *given: given[0](given[1])) == expected
    assert analyze(model, batches, geometry, model.__class__.__call__) == expected


def test_a_progress_bar_goes_through_the_batches_and_costs_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lightning_interp.offline.analyze.tqdm", partial(tqdm, mininterval=0, miniters=1))
    model, geometry = Tagger(), RepresentationGeometry("encoder")

    def after(**kwargs: Any) -> tuple[dict[str, float], str]:
        torch.manual_seed(0)
        return analyze(model, Slow(), geometry, **kwargs), capsys.readouterr().err

    (with_bar, shown), (without, nothing) = after(), after(progress=False)
    assert with_bar == without
    assert re.search(r"analyze: +\d+%.* \d/4 ", shown)
    assert nothing == ""
    assert analyze(model, iter(list(loader())), geometry)["rows/encoder"]  # what has no length


class Slow:
    """Four batches, that take longer than a bar waits."""

    def __len__(self) -> int:
        return 4

    def __iter__(self) -> Iterator[Any]:
        for batch in list(loader())[:4]:
            time.sleep(0.4)
            yield batch


def test_a_transformers_model_layer_by_layer() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=12, hidden_size=16, intermediate_size=32, num_hidden_layers=3, num_attention_heads=2
    )
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(config)
    found = analyze(model, loader(), structure("model.layers.*", information_plane=["token", "next_token"], shuffles=0))
    for layer in ("0", "1", "2"):
        assert 0 < found[f"information/{layer}"] < 1
        assert f"optimality/{layer}" in found
    encoder = transformers.BertModel(
        transformers.BertConfig(
            vocab_size=12, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2
        )
    )
    # A ModelOutput, and the layers, whose outputs were tuples in older versions.
    found = analyze(encoder, loader(), structure({"all": "encoder", "first": "encoder.layer.0"}, shuffles=0))
    assert found["rows/all"] == found["rows/first"] == Sequences(40).mask.sum()


def test_errors() -> None:
    with pytest.raises(ValueError, match="got none"):
        analyze(Tagger(), loader(), [])
    with pytest.raises(ValueError, match="'ModelSummary'"):
        analyze(Tagger(), loader(), [pl.callbacks.ModelSummary()])
    model = Tagger()
    with pytest.raises(ValueError, match="encodr"):
        analyze(model, loader(), structure("encodr"))
    assert model.training
