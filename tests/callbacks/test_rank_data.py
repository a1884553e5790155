"""Data that ranks share in other ways, and models that they share: the number is the pooled one, or it is refused."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import torch.distributed as dist
from pytorch_lightning.strategies import ModelParallelStrategy
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.utils.data import DataLoader, IterableDataset, Sampler

from lightning_interp import (
    AcquisitionByClass,
    ConfidenceCalibration,
    LayerProbe,
    NoiseRobustness,
    RepresentationDrift,
    RepresentationGeometry,
    RepresentationMetrics,
    RepresentationStructure,
    ValidationAnalysis,
)
from lightning_interp.metrics import SpectralGeometry
from lightning_interp.sites import CaptureError
from tests.callbacks.recipes import everything, self_influence, source_influence
from tests.callbacks.test_every_callback import Busy
from tests.toy import Norm, Sequences, Tagger, loader, trainer


def world() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def score(model: nn.Module, batch: dict[str, torch.Tensor]) -> dict[str, Any]:
    logits, mask = model(batch["input_ids"]), batch["attention_mask"].bool()
    hits = (logits.argmax(-1) == batch["tags"]) & mask
    return {"hits": (hits.sum(1), mask.sum(1))}


def analyses(max_examples: int | None = None) -> list[ValidationAnalysis]:
    return [
        RepresentationStructure(
            {"enc": "encoder"},
            ["token", "bigram"],
            min_count=1,
            shuffles=0,
            max_examples=max_examples,
            draw_figures=False,
        ),
        RepresentationGeometry({"enc": "encoder"}, log="full", max_examples=max_examples, draw_figures=False),
        RepresentationMetrics(
            {"norm": Norm(), "own": SpectralGeometry(center=False)},
            {"enc": "encoder"},
            max_examples=max_examples,
            prefix="own/",
            draw_figures=False,
        ),
        NoiseRobustness(
            {"emb": "embedding"},
            scales=(0.5,),
            monitors={"hits": "score"},
            score=score,
            start={"hits": -10.0},  # far away, since how the noise of a monitor is estimated depends on the batches
            max_examples=max_examples,
            draw_figures=False,
        ),
    ]


def read(make: Any, strategy: str, max_examples: int | None = None) -> tuple[list[dict[str, float]], list[str]]:
    """One epoch with a learning rate of zero: how the data are split must not change what the model computes."""
    chosen = analyses(max_examples)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run = trainer(
            folder, chosen, strategy=strategy, devices=world(), max_epochs=1, use_distributed_sampler=make is padded
        )
        run.fit(Tagger(lr=0.0), loader(12), make())
    values = [{key: value for key, value in one.reading.items() if "seconds" not in key} for one in chosen]
    return values, [str(one.message) for one in caught]


def padded() -> DataLoader:
    return DataLoader(Sequences(31, seed=1), batch_size=4)


class Blocks(Sampler):
    """A sampler of the user's own, without padding: rank r reads one block, and the last one is shorter."""

    def __init__(self) -> None:
        size = -(-31 // world())
        self.indices = list(range(31))[rank() * size : (rank() + 1) * size]

    def __iter__(self) -> Iterator[int]:
        return iter(self.indices)

    def __len__(self) -> int:
        return len(self.indices)


def own_sampler() -> DataLoader:
    return DataLoader(Sequences(31, seed=1), batch_size=4, sampler=Blocks())


class Stream(IterableDataset):
    """Samples 0 to 30 in turn; the first rank gets those that are left over, and ends later."""

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        data = Sequences(31, seed=1)
        share = 31 // world()
        mine = range(rank() * share, (rank() + 1) * share)
        rest = range(share * world(), 31) if rank() == 0 else range(0)
        return iter([data[index] for index in (*mine, *rest)])


def streamed() -> DataLoader:
    return DataLoader(Stream(), batch_size=3)


def close(found: list[dict[str, float]], expected: list[dict[str, float]], skip: tuple[str, ...] = ()) -> None:
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys()
        for key, value in other.items():
            if not key.startswith(skip or ("-",)):
                assert one[key] == pytest.approx(value, abs=1e-6, rel=1e-6), key


@pytest.mark.parametrize("make", [padded, own_sampler, streamed])
def test_pooled_values_whatever_the_sampler(ranks: Any, make: Any) -> None:
    alone, _ = read(make, "auto")
    everywhere = ranks.run(read, make, "ddp")
    # Where samples are in the data set is unknown behind a sampler of one's own, so their noise is another one.
    noise = () if make is padded else ("noisy", "under_noise", "robustness", "retention", "half_scale")
    for found, told in everywhere:
        close(found, alone, noise)
        assert found == everywhere[0][0]
        assert all("rank" not in text and "failed" not in text for text in told)


class Lenient(Tagger):
    """Otherwise Lightning ends the empty rank itself, in words, before any callback is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.allow_zero_length_dataloader_with_multiple_devices = True


def no_sample() -> str:
    class Nothing(Sampler):
        def __iter__(self) -> Iterator[int]:
            return iter(() if rank() == 1 else range(8))

        def __len__(self) -> int:
            return 0 if rank() == 1 else 8

    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run = trainer(folder, analyses(), strategy="ddp", devices=2, max_epochs=1, use_distributed_sampler=False)
        try:
            run.fit(Lenient(), loader(8), DataLoader(Sequences(8), batch_size=4, sampler=Nothing()))
        except ValueError as error:
            return str(error)
    return "trained"


def test_a_rank_without_a_batch_is_refused_in_words(two_ranks: Any) -> None:
    for said in two_ranks.run(no_sample):
        assert "allow_zero_length_dataloader_with_multiple_devices is true: a rank without a batch" in said


def trained(watched: bool) -> dict[str, Any]:
    callbacks = everything() if watched else []
    pl.seed_everything(4, verbose=False)
    model = Busy()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run = trainer(folder, callbacks, strategy="ddp", devices=world(), max_epochs=3, gradient_clip_val=0.1)
        run.fit(model, loader(37), loader(22, seed=1))
    return {
        "weights": [value.tolist() for value in model.state_dict().values()],
        "optimizer": [
            {name: value.tolist() for name, value in one.items()}
            for one in run.optimizers[0].state_dict()["state"].values()
        ],
        "random": torch.get_rng_state().tolist(),
        "metrics": {k: float(v) for k, v in run.callback_metrics.items() if k.startswith(("train", "val"))},
    }


def test_training_on_ranks_is_bit_identical(ranks: Any) -> None:
    plain, watched = ranks.run(trained, False), ranks.run(trained, True)
    for one, other in zip(plain, watched, strict=True):
        for part in one:
            assert one[part] == other[part], part


# ------------------------------------------------- models that ranks share


class Sharded(Tagger):
    """Its linear layers are sharded over the data-parallel ranks."""

    def configure_model(self) -> None:
        if dist.is_initialized() and not hasattr(self, "sharded"):
            self.sharded = True
            mesh = self.device_mesh["data_parallel"]
            for module in (self.encoder[0], self.head):
                fully_shard(module, mesh=mesh)


def probes() -> list[ValidationAnalysis]:
    """What reads representations or logits at hooks, besides :func:`analyses`."""
    return [
        RepresentationDrift({"enc": "encoder"}, ["tags"], min_count=2, draw_figures=False),
        LayerProbe({"enc": "encoder"}, ["tags"], min_count=2, baseline=False, draw_figures=False),
        ConfidenceCalibration("head", target="tags", mask="attention_mask", draw_figures=False),
        AcquisitionByClass("head", "tags", labels="tags", names=3, mask="attention_mask", draw_figures=False),
    ]


def influences() -> list[ValidationAnalysis]:
    """What reads training examples at the last layer."""
    return [self_influence(draw_figures=False)]


def sharded(number: int, make: Callable[[], list[ValidationAnalysis]]) -> tuple[list[dict[str, float]], int]:
    chosen = make()
    if number > 1:
        strategy: Any = ModelParallelStrategy(data_parallel_size=number, tensor_parallel_size=1)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run = trainer(folder, chosen, strategy=strategy if number > 1 else "auto", devices=number, max_epochs=1)
        run.fit(Sharded(lr=1e-12), loader(12), padded())
    # Ranks make fewer steps of the same data, and a step of acquisition is one of these.
    readings = [
        {k: v for k, v in one.reading.items() if "seconds" not in k and "class_acquired" not in k} for one in chosen
    ]
    return readings, run.global_step


@pytest.mark.parametrize("make", [analyses, probes, influences])
def test_sharded_weights_read_as_whole_ones(make: Any, two_ranks: Any) -> None:
    alone, _ = sharded(1, make)
    assert all(len(found) > 4 for found in alone)
    for found, _ in two_ranks.run(sharded, 2, make):
        close(found, alone)


def refused(number: int) -> str:
    strategy: Any = ModelParallelStrategy(data_parallel_size=number, tensor_parallel_size=1)
    with tempfile.TemporaryDirectory() as folder:
        run = trainer(folder, [source_influence(draw_figures=False)], strategy=strategy, devices=number, max_epochs=1)
        with pytest.raises(ValueError, match="gradients of losses") as caught:
            run.fit(Sharded(), loader(12), padded())
    return str(caught.value)


def test_gradients_of_sharded_weights_are_refused_by_name(two_ranks: Any) -> None:
    for said in two_ranks.run(refused, 2):
        assert "'encoder.0.weight' is sharded over ranks" in said


class TensorParallel(Tagger):
    """Both ranks see all data, and each computes a part of the encoder."""

    def __init__(self, whole: bool, local: bool) -> None:
        super().__init__(lr=0.0)
        self.whole, self.local = whole, local
        self.encoder[1] = nn.ReLU()  # in place it would change what the parallel layer still needs

    def configure_model(self) -> None:
        if dist.is_initialized() and not isinstance(self.encoder[0].weight, DTensor):
            outputs = Replicate() if self.whole else Shard(-1)
            style = ColwiseParallel(output_layouts=outputs, use_local_output=self.local)
            parallelize_module(self.encoder[0], self.device_mesh["tensor_parallel"], style)
            if not self.whole:
                inputs = {"input_layouts": Shard(-1), "use_local_output": True}
                parallelize_module(self.head, self.device_mesh["tensor_parallel"], RowwiseParallel(**inputs))


def tensor_parallel(number: int, whole: bool, local: bool, noise: str | None = None) -> Any:
    chosen: list[ValidationAnalysis] = [RepresentationGeometry({"enc": "encoder.0"}, draw_figures=False)]
    if noise is not None:
        chosen = [
            NoiseRobustness(
                {"enc": noise},
                (0.5,),
                {"val_loss": "loss"},
                drift={"out": "head"},
                tokens="input_ids",
                draw_figures=False,
            )
        ]
    strategy: Any = ModelParallelStrategy(data_parallel_size=1, tensor_parallel_size=number) if number > 1 else "auto"
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run = trainer(folder, chosen, strategy=strategy, devices=number, max_epochs=1)
        try:
            run.fit(TensorParallel(whole, local), loader(12), padded())
        except (ValueError, CaptureError) as error:
            return str(error)
    return {key: value for key, value in chosen[0].reading.items() if "seconds" not in key}


def test_replicated_activations_of_tensor_parallel_ranks_are_read(two_ranks: Any) -> None:
    alone = tensor_parallel(1, True, True)
    for found in two_ranks.run(tensor_parallel, 2, True, True):
        assert found == pytest.approx(alone, rel=1e-5)


def test_noise_under_tensor_parallelism_is_that_of_one_process(two_ranks: Any) -> None:
    alone = tensor_parallel(1, True, True, "embedding")
    for whole in (True, False):
        for found in two_ranks.run(tensor_parallel, 2, whole, True, "embedding"):
            assert found == pytest.approx(alone, rel=1e-5)
    for found in two_ranks.run(tensor_parallel, 2, True, True, "encoder.0"):
        assert found == pytest.approx(tensor_parallel(1, True, True, "encoder.0"), rel=1e-5)


def test_noise_on_a_part_of_an_activation_is_refused(two_ranks: Any) -> None:
    for said in two_ranks.run(tensor_parallel, 2, False, True, "encoder.0"):
        assert isinstance(said, str)
        assert "Linear has its 8 on the last axis; or is it a part of them, on one rank of several?" in said


@pytest.mark.parametrize(("local", "text"), [(True, "a part of them, on one rank of several"), (False, "DTensor")])
def test_parts_of_an_activation_are_refused_by_name(two_ranks: Any, local: bool, text: str) -> None:
    for said in two_ranks.run(tensor_parallel, 2, False, local):
        assert isinstance(said, str)
        assert text in said
        assert "enc" in said
