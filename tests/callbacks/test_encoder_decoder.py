"""Sites of an encoder–decoder: each with the tokens that it reads."""

from __future__ import annotations

from pathlib import Path

from lightning_interp import RepresentationStructure
from lightning_interp.datasets import GrammarDataModule
from lightning_interp.models import Seq2SeqModule
from tests.toy import trainer


def test_decoder_positions_are_labelled_by_the_target(tmp_path: Path) -> None:
    data = GrammarDataModule(train_examples=64, val_examples=50, ood_examples=50)
    model = Seq2SeqModule(len(data.source_vocabulary), len(data.target_vocabulary), d_model=16, feedforward=32)
    callback = RepresentationStructure(
        sites={"encoder": "model.encoder", "layer": "model.encoder.layers.0", "decoder": "model.decoder"},
        labels=["token"],
        tokens={"decoder": "labels"},
        log="full",
        draw_figures=False,
    )
    run = trainer(tmp_path, [callback], max_steps=2, max_epochs=None, val_check_interval=1)
    run.fit(model, datamodule=data)
    source = [word for sentence, _ in data.val for word in sentence]
    target = [word for _, form in data.val for word in form]
    assert callback.reading["rows/encoder"] == callback.reading["rows/layer"] == len(source)
    assert callback.reading["rows/decoder"] == len(target) + len(data.val)  # with the end of each sequence
    kept = {word for word in set(source) if source.count(word) >= 5}
    assert callback.reading["num_labels/encoder/token"] == len(kept)
    assert {"information/encoder", "information/decoder"} <= run.callback_metrics.keys()
