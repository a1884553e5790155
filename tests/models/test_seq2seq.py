from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

from lightning_interp.compat import pl
from lightning_interp.datasets import EOS_ID, GrammarDataModule, Seq2SeqDataModule
from lightning_interp.models import ExactMatch, Seq2SeqModule
from tests.ranks import RankGroup


def data_module(**kwargs: Any) -> GrammarDataModule:
    return GrammarDataModule(**{"train_examples": 600, "val_examples": 60, "ood_examples": 40, **kwargs})


def module_for(data: Seq2SeqDataModule, **kwargs: Any) -> Seq2SeqModule:
    return Seq2SeqModule(len(data.source_vocabulary), len(data.target_vocabulary), **kwargs)


def trainer(root: Path, **kwargs: Any) -> pl.Trainer:
    return pl.Trainer(
        default_root_dir=root,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **kwargs,
    )


@pytest.fixture(scope="module")
def trained() -> tuple[Seq2SeqModule, Seq2SeqDataModule]:
    """A model that gets some sentences right and others wrong."""
    words = "abcd"
    pairs = [((x, y, z), (z, x, y)) for x in words for y in words for z in words]
    data = Seq2SeqDataModule(train=pairs[::2], val=pairs[::2], ood=pairs[1::2], batch_size=32)
    torch.manual_seed(0)
    module = module_for(data, d_model=32, feedforward=64, encoder_layers=1, lr=3e-3)
    optimizer = module.configure_optimizers()
    for _ in range(60):
        for batch in data.train_dataloader():
            loss = cross_entropy(module(batch).flatten(0, 1), batch["labels"].flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return module.eval(), data


def exact_match_by_greedy_decoding(module: Seq2SeqModule, loader: DataLoader[dict[str, Tensor]]) -> list[bool]:
    matches = []
    for batch in loader:
        rows = module.greedy_decode(batch, max_length=12).tolist()
        for decoded, labels in zip(rows, batch["labels"].tolist(), strict=True):
            expected = [token for token in labels if token != -100]
            end = decoded.index(EOS_ID) + 1 if EOS_ID in decoded else len(decoded)
            matches.append(decoded[:end] == expected)
    return matches


def test_teacher_forced_exact_match_is_that_of_greedy_decoding(
    trained: tuple[Seq2SeqModule, Seq2SeqDataModule],
) -> None:
    module, data = trained
    shares = []
    for loader in data.val_dataloader():
        metric = ExactMatch()
        for batch in loader:
            metric.update(module(batch).argmax(-1), batch["labels"])
        greedy = exact_match_by_greedy_decoding(module, loader)
        assert int(metric.correct) == sum(greedy)
        assert int(metric.total) == len(greedy)
        shares.append(float(metric.compute()))
    assert any(0 < share < 1 for share in shares)


def test_fit_logs_every_metric_per_loader(tmp_path: Path) -> None:
    data = data_module(val_batch_size=32)
    module = module_for(data)
    run = trainer(tmp_path, max_steps=5, val_check_interval=5, num_sanity_val_steps=1)
    run.fit(module, datamodule=data)
    expected = {"train_loss"} | {
        f"{name}/dataloader_idx_{index}" for name in ("val_loss", "val_acc", "val_token_acc") for index in (0, 1)
    }
    assert expected <= run.callback_metrics.keys()
    module.eval().requires_grad_(False)
    for index, loader in enumerate(data.val_dataloader()):
        losses, tokens, right, exact, sequences = 0.0, 0, 0, 0, 0
        for batch in loader:
            logits, labels = module(batch), batch["labels"]
            kept = labels != -100
            losses += float(cross_entropy(logits[kept], labels[kept], reduction="sum"))
            hits = (logits.argmax(-1) == labels) | ~kept
            tokens, right = tokens + int(kept.sum()), right + int((hits & kept).sum())
            exact, sequences = exact + int(hits.all(1).sum()), sequences + len(labels)
        metrics = run.callback_metrics
        assert float(metrics[f"val_loss/dataloader_idx_{index}"]) == pytest.approx(losses / tokens, rel=1e-5)
        assert float(metrics[f"val_token_acc/dataloader_idx_{index}"]) == pytest.approx(right / tokens)
        assert float(metrics[f"val_acc/dataloader_idx_{index}"]) == pytest.approx(exact / sequences)


def validated(folder: str, world: int) -> dict[str, float]:
    """What is logged for 60 and 40 sentences, which two ranks share without padding, in uneven batches."""
    data = data_module(val_batch_size=7)
    torch.manual_seed(1)
    module = module_for(data)
    with torch.no_grad():
        module.model.output.weight.mul_(20)
    run = trainer(Path(folder), devices=world, strategy="ddp" if world > 1 else "auto")
    run.validate(module, datamodule=data, verbose=False)
    return {key: float(value) for key, value in run.callback_metrics.items()}


def test_two_ranks_log_what_one_process_logs(two_ranks: RankGroup, tmp_path: Path) -> None:
    alone = validated(str(tmp_path), 1)
    assert 0 < alone["val_token_acc/dataloader_idx_0"] < 1
    for found in two_ranks.run(validated, str(tmp_path), 2):
        assert found == pytest.approx(alone, rel=1e-6)


def test_training_is_reproducible_and_does_not_depend_on_validation(tmp_path: Path) -> None:
    def weights(**kwargs: Any) -> dict[str, Tensor]:
        pl.seed_everything(1, verbose=False)
        data = data_module(seed=4)
        module = module_for(data)
        trainer(tmp_path, max_steps=6, **kwargs).fit(module, datamodule=data)
        return module.state_dict()

    first = weights(limit_val_batches=0)
    for other in (weights(limit_val_batches=0), weights(val_check_interval=2, num_sanity_val_steps=2)):
        assert all(torch.equal(first[name], other[name]) for name in first)


def test_loss_falls(tmp_path: Path) -> None:
    pl.seed_everything(0, verbose=False)
    data = data_module()
    module = module_for(data, d_model=16, feedforward=32, lr=1e-2)
    run = trainer(tmp_path, max_steps=40, check_val_every_n_epoch=None, val_check_interval=40, num_sanity_val_steps=0)
    run.fit(module, datamodule=data)
    assert float(run.callback_metrics["val_loss/dataloader_idx_0"]) < 2.8


def test_hyperparameters_are_plain_and_rebuild_the_model(tmp_path: Path) -> None:
    data = data_module()
    module = module_for(data, d_model=16, heads=2, weight_decay=0.5)
    assert all(isinstance(value, (int, float)) for value in module.hparams.values())
    assert {"source_vocab_size", "d_model", "lr", "weight_decay"} <= module.hparams.keys()
    run = trainer(tmp_path, max_steps=1, limit_val_batches=0)
    run.fit(module, datamodule=data)
    run.save_checkpoint(tmp_path / "model.ckpt")
    restored = Seq2SeqModule.load_from_checkpoint(tmp_path / "model.ckpt", weights_only=True)
    assert restored.hparams == module.hparams
    batch = next(iter(data.val_dataloader()[0]))
    assert torch.equal(restored.eval()(batch), module.eval()(batch))


def test_optimizer() -> None:
    assert type(Seq2SeqModule(9, 9).configure_optimizers()) is torch.optim.Adam
    optimizer = Seq2SeqModule(9, 9, lr=0.1, weight_decay=0.5).configure_optimizers()
    assert type(optimizer) is torch.optim.AdamW
    assert (optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["weight_decay"]) == (0.1, 0.5)


def test_sites() -> None:
    names = {name for name, _ in Seq2SeqModule(9, 9).named_modules()}
    assert names >= {
        "model.source_embedding",
        "model.source_input",
        "model.encoder.layers.0",
        "model.encoder.layers.1",
        "model.encoder",
        "model.decoder",
    }


def test_one_loader(tmp_path: Path) -> None:
    data = data_module()
    run = trainer(tmp_path)
    (values,) = run.validate(module_for(data), dataloaders=data.val_dataloader()[0], verbose=False)
    assert values.keys() == {"val_loss", "val_acc", "val_token_acc"}


def test_more_loaders_than_metrics(tmp_path: Path) -> None:
    data = data_module()
    module = module_for(data, validation_loaders=1)
    with pytest.raises(ValueError, match="`validation_loaders` is 1, but loader 1 has data"):
        trainer(tmp_path).validate(module, datamodule=data, verbose=False)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"lr": 0.0}, "`lr` is 0.0"),
        ({"weight_decay": -1.0}, "`weight_decay` is -1.0"),
        ({"validation_loaders": 0}, "`validation_loaders` is 0"),
        ({"heads": 5}, "`d_model` is 64"),
    ],
)
def test_errors(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Seq2SeqModule(9, 9, **wrong)
