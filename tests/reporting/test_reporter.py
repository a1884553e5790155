"""Figures that arrive in every kind of logger, and errors that end no training."""

from __future__ import annotations

import io
import json
import random
import re
import subprocess
import sys
import time
import urllib.request
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from google.protobuf import json_format, text_format
from matplotlib import pyplot
from matplotlib.figure import Figure
from PIL import Image
from pytorch_lightning.demos.boring_classes import BoringModel
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.context import RequestContext
from tensorboard.plugins.base_plugin import TBContext
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.custom_scalar.custom_scalars_plugin import CustomScalarsPlugin
from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig
from tensorboard.plugins.scalar.scalars_plugin import ScalarsPlugin

from lightning_interp.compat import pl
from lightning_interp.figures import measure_curves
from lightning_interp.reporting import Reporter, log_folder


def make_trainer(folder: Path, logger=False, callbacks=(), **arguments) -> pl.Trainer:
    quiet = {
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "accelerator": "cpu",
    }
    return pl.Trainer(logger=logger, callbacks=list(callbacks), default_root_dir=folder, **(quiet | arguments))


def draw(colour: str = "red") -> Figure:
    return Figure(figsize=(2, 1), dpi=50, facecolor=colour)


def colour_of(image: Image.Image) -> tuple[int, ...]:
    return image.convert("RGB").getpixel((5, 5))


class Silent(pl.loggers.logger.DummyLogger):
    """A logger that shows no pictures but says where it lives."""

    def __init__(self, save_dir=None, version="v3"):
        super().__init__()
        self._save_dir, self._version = save_dir, version

    @property
    def save_dir(self):
        if isinstance(self._save_dir, Exception):
            raise self._save_dir
        return self._save_dir

    @property
    def name(self):
        return "project"

    @property
    def version(self):
        return self._version


class TestLogFolder:
    @pytest.mark.parametrize("kind", [pl.loggers.TensorBoardLogger, pl.loggers.CSVLogger])
    def test_is_the_log_dir_of_lightning_s_file_loggers(self, tmp_path, kind):
        trainer = make_trainer(tmp_path, kind(tmp_path / "logs", name="run", version=3))
        assert log_folder(trainer) == tmp_path / "logs" / "run" / "version_3" == Path(trainer.log_dir)

    def test_is_the_first_logger_s(self, tmp_path):
        loggers = [pl.loggers.CSVLogger(tmp_path, name=name, version=0) for name in "ab"]
        assert log_folder(make_trainer(tmp_path, loggers)) == tmp_path / "a" / "version_0"

    @pytest.mark.parametrize(("version", "last"), [("v3", "v3"), (7, "version_7")])
    def test_is_one_run_s_folder_for_other_loggers(self, tmp_path, version, last):
        trainer = make_trainer(tmp_path, Silent(str(tmp_path), version))
        assert log_folder(trainer) == tmp_path / "project" / last

    def test_is_in_the_root_without_a_folder_of_the_logger(self, tmp_path):
        assert log_folder(make_trainer(tmp_path)) == tmp_path / "lightning_interp_logs"
        assert log_folder(make_trainer(tmp_path, Silent())) == tmp_path / "project" / "v3"

    def test_is_in_the_root_when_the_logger_fails(self, tmp_path):
        trainer = make_trainer(tmp_path, Silent(OSError("no disk")))
        with pytest.warns(UserWarning, match="Silent does not tell its folder.*OSError: no disk"):
            assert log_folder(trainer) == tmp_path / "lightning_interp_logs"

    def test_is_none_where_no_files_are_wanted_or_possible(self, tmp_path):
        assert log_folder(make_trainer(tmp_path, pl.loggers.CSVLogger(tmp_path), fast_dev_run=True)) is None
        assert log_folder(pl.Trainer(barebones=True, accelerator="cpu")) is None
        assert log_folder(make_trainer(tmp_path, Silent("s3://bucket"))) is None
        assert log_folder(make_trainer(tmp_path, Silent(f"file://{tmp_path}"))) == tmp_path / "project" / "v3"

    def test_is_rank_zero_s_on_every_rank(self, tmp_path, monkeypatch):
        trainer = make_trainer(tmp_path, Silent(OSError("asked on another rank")))
        monkeypatch.setattr(type(trainer), "is_global_zero", property(lambda self: False))
        monkeypatch.setattr(trainer.strategy, "broadcast", lambda mine: str(tmp_path / "of rank 0"))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert log_folder(trainer) == tmp_path / "of rank 0"


class Shows(pl.Callback):
    """Reports a figure after each validation, as the library's callbacks do."""

    def __init__(self, draw, tag="structure/overview"):
        self.draw, self.tag = draw, tag

    def on_fit_start(self, trainer, pl_module):
        self.reporter = Reporter(log_folder(trainer))

    def on_validation_end(self, trainer, pl_module):
        if not trainer.sanity_checking:
            self.reporter.figure(trainer, self.tag, self.draw)


def fit(trainer: pl.Trainer) -> list[warnings.WarningMessage]:
    """Three validations, at steps 2, 4 and 6."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer.fit(BoringModel())
    assert trainer.global_step == 6
    return [warning for warning in caught if "said once" in str(warning.message)]


THREE = {"max_epochs": 3, "limit_train_batches": 2, "limit_val_batches": 1, "num_sanity_val_steps": 1}


def test_tensorboard_shows_every_step(tmp_path):
    logger = pl.loggers.TensorBoardLogger(tmp_path)
    colours = iter(["red", "lime", "blue"])
    assert fit(make_trainer(tmp_path, logger, [Shows(lambda: draw(next(colours)))], **THREE)) == []
    events = EventAccumulator(logger.log_dir, size_guidance={"images": 0}).Reload()
    assert events.Tags()["images"] == ["structure/overview"]
    shown = events.Images("structure/overview")
    assert [event.step for event in shown] == [2, 4, 6]
    images = [Image.open(io.BytesIO(event.encoded_image_string)) for event in shown]
    assert [image.size for image in images] == [(100, 50)] * 3
    assert [colour_of(image) for image in images] == [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    assert not list(tmp_path.rglob("*.png"))


@pytest.mark.parametrize("csv", [True, False], ids=["CSVLogger", "no logger"])
def test_else_a_file_holds_the_newest(tmp_path, csv):
    logger = pl.loggers.CSVLogger(tmp_path, name="run", version=0) if csv else False
    colours = iter(["red", "lime", "blue"])
    assert fit(make_trainer(tmp_path, logger, [Shows(lambda: draw(next(colours)))], **THREE)) == []
    folder = tmp_path / "run" / "version_0" if csv else tmp_path / "lightning_interp_logs"
    assert [path.name for path in (folder / "figures").iterdir()] == ["structure-overview.png"]
    assert colour_of(Image.open(folder / "figures" / "structure-overview.png")) == (0, 0, 255)


class FakeWandb(pl.loggers.WandbLogger):
    """Its real ``log_image`` needs the wandb package and an account."""

    def __init__(self, calls, error=None):
        self.calls, self.error = calls, error

    def log_image(self, key, images, step=None, **kwargs):
        if self.error:
            raise self.error
        self.calls.append((key, images, step))

    def log_text(self, key, columns=None, data=None, dataframe=None, step=None):
        self.log_table(key, columns, data, dataframe, step)

    def log_table(self, key, columns=None, data=None, dataframe=None, step=None):
        if self.error:
            raise self.error
        self.calls.append((key, columns, data, step))


class FakeMLFlow(pl.loggers.MLFlowLogger):
    def __init__(self, calls):
        self.calls = calls

    run_id = "run 7"

    @property
    def experiment(self):
        return self

    def log_image(self, run_id, image, artifact_file):
        self.calls.append((run_id, image, artifact_file))

    def log_text(self, run_id, text, artifact_file):
        self.calls.append((run_id, text, artifact_file))


def test_each_logger_gets_the_picture_in_its_own_way(tmp_path):
    wandb, mlflow, drawn = [], [], []
    trainer = make_trainer(tmp_path)
    trainer.loggers = [FakeWandb(wandb), Silent(), FakeMLFlow(mlflow)]

    def count_and_draw():
        drawn.append(1)
        return draw()

    Reporter(tmp_path).figure(trainer, "a/b", count_and_draw, step=12)
    [(key, [image], step)] = wandb
    assert (key, step, image.size, colour_of(image)) == ("a/b", 12, (100, 50), (255, 0, 0))
    [(run, pixels, name)] = mlflow
    assert (run, pixels.shape, pixels.dtype, name) == ("run 7", (50, 100, 3), np.uint8, "figures/a-b.png")
    assert len(drawn) == 1
    assert not list(tmp_path.rglob("*.png"))


def test_a_broken_drawing_is_said_once_and_training_goes_on(tmp_path):
    def broken():
        raise ZeroDivisionError("no readings")

    callbacks = [Shows(broken, "first"), Shows(lambda: "not a figure", "second")]
    said = fit(make_trainer(tmp_path, pl.loggers.CSVLogger(tmp_path), callbacks, **THREE))
    assert len(said) == 2
    assert "'first' could not be drawn: ZeroDivisionError: no readings" in str(said[0].message)
    assert "'second' could not be drawn: " in str(said[1].message)


def test_a_broken_logger_is_said_once_and_the_file_takes_its_place(tmp_path, monkeypatch):
    logger = pl.loggers.TensorBoardLogger(tmp_path)

    def refuse(*args, **kwargs):
        raise ConnectionError("server gone")

    monkeypatch.setattr(torch.utils.tensorboard.SummaryWriter, "add_image", refuse)
    said = fit(make_trainer(tmp_path, logger, [Shows(draw)], **THREE))
    assert len(said) == 1
    assert "TensorBoardLogger did not take the figure 'structure/overview': ConnectionError" in str(said[0].message)
    assert (Path(logger.log_dir) / "figures" / "structure-overview.png").exists()


def test_one_broken_logger_keeps_nothing_from_another(tmp_path):
    trainer, calls = make_trainer(tmp_path), []
    trainer.loggers = [FakeWandb([], RuntimeError("offline")), FakeMLFlow(calls)]
    with pytest.warns(RuntimeWarning, match="FakeWandb did not take.*RuntimeError: offline"):
        Reporter(tmp_path).figure(trainer, "a", draw)
    assert len(calls) == 1
    assert not list(tmp_path.rglob("*.png"))


def test_a_folder_that_cannot_be_written_is_said_once(tmp_path):
    (tmp_path / "lightning_interp_logs").write_text("in the way")
    said = fit(make_trainer(tmp_path, False, [Shows(draw)], **THREE))
    assert len(said) == 1
    assert "could not be written" in str(said[0].message)


@pytest.mark.parametrize("arguments", [{"fast_dev_run": 2}, {"barebones": True}], ids=str)
def test_nothing_is_drawn_where_nobody_would_see_it(tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    drawn = []
    callback = Shows(lambda: drawn.append(1))
    if "barebones" in arguments:
        trainer = pl.Trainer(callbacks=[callback], accelerator="cpu", max_steps=2, **arguments)
    else:
        trainer = make_trainer(tmp_path, pl.loggers.CSVLogger(tmp_path), [callback], **arguments)
    trainer.fit(BoringModel())
    assert trainer.global_step == 2
    assert isinstance(callback.reporter, Reporter)
    assert drawn == []
    assert not list(tmp_path.rglob("*.png"))


def test_only_rank_zero_draws(tmp_path, monkeypatch):
    trainer, drawn = make_trainer(tmp_path), []
    monkeypatch.setattr(type(trainer), "is_global_zero", property(lambda self: False))
    trainer.loggers = [FakeWandb([])]
    Reporter(tmp_path).figure(trainer, "a", lambda: drawn.append(1))
    Reporter(tmp_path).embedding(trainer, "a", lambda: drawn.append(1))
    assert drawn == []


def test_file_names_are_safe_and_differ(tmp_path):
    trainer, reporter = make_trainer(tmp_path), Reporter(tmp_path)
    long = "information/" + "x" * 300
    for tag in ["../../etc/passwd", "Ünïcode *?", "", long + "a", long + "b"]:
        reporter.figure(trainer, tag, draw)
    names = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.png"))
    assert len(names) == 5
    assert names[0] == "figures/etc-passwd.png"
    assert all(len(name) < 140 and name.startswith("figures/") and name.count("/") == 1 for name in names)


def test_random_streams_and_pyplot_are_left_alone(tmp_path):
    trainer = make_trainer(tmp_path, pl.loggers.TensorBoardLogger(tmp_path))
    figures = pyplot.get_fignums()
    torch.manual_seed(1), np.random.seed(1), random.seed(1)
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    lines = {"encoder": ([1, 10, 100], [0.3, 0.2, 0.1])}
    Reporter(tmp_path).figure(trainer, "a", lambda: measure_curves({"information": lines}), step=3)
    trainer.logger.experiment.flush()
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1].tolist(), random.getstate()) == states[1:]
    assert pyplot.get_fignums() == figures
    assert EventAccumulator(trainer.log_dir).Reload().Tags()["images"] == ["a"]


class Charts(pl.Callback):
    """Asks for a layout when the fit starts and again after each validation, as a callback may."""

    def __init__(self, layout):
        self.layout = layout

    def on_fit_start(self, trainer, pl_module):
        self.reporter = Reporter(log_folder(trainer))
        self.reporter.layout(trainer, self.layout)

    def on_validation_end(self, trainer, pl_module):
        self.reporter.layout(trainer, self.layout)


def layouts_in(folder) -> list[dict[str, dict[str, list[str]]]]:
    """Every layout that was written, in order."""
    events = EventAccumulator(str(folder), size_guidance={"tensors": 0}).Reload()
    if "custom_scalars__config__" not in events.Tags()["tensors"]:
        return []
    found = []
    for event in events.Tensors("custom_scalars__config__"):
        layout = layout_pb2.Layout.FromString(event.tensor_proto.string_val[0])
        found.append({c.title: {chart.title: list(chart.multiline.tag) for chart in c.chart} for c in layout.category})
    return found


def plugin_for(logdir) -> CustomScalarsPlugin:
    """TensorBoard's own reader of a folder of runs."""
    multiplexer = EventMultiplexer().AddRunsFromDirectory(str(logdir)).Reload()
    flags = SimpleNamespace(generic_data="true", samples_per_plugin={})
    provider = MultiplexerDataProvider(multiplexer, str(logdir))
    plugins = {}
    context = TBContext(data_provider=provider, logdir=str(logdir), flags=flags, plugin_name_to_instance=plugins)
    plugins["scalars"] = ScalarsPlugin(context)
    return CustomScalarsPlugin(context)


LOSS = {"phases": {"loss": ["val_loss"]}}


def test_a_layout_is_written_once_with_exact_names(tmp_path):
    logger = pl.loggers.TensorBoardLogger(tmp_path)
    layout = {"robustness": {"encoder": ["val_acc", "robustness/layers.0/val_acc"], "none": []}, "empty": {}}
    assert fit(make_trainer(tmp_path, logger, [Charts(layout)], **THREE)) == []
    assert layouts_in(logger.log_dir) == [{"robustness": {"encoder": ["^val_acc$", r"^robustness/layers\.0/val_acc$"]}}]


def test_layouts_of_several_callbacks_merge(tmp_path):
    logger = pl.loggers.TensorBoardLogger(tmp_path)
    more = {
        "phases": {"loss": ["train_loss", "val_loss"], "information": ["information/encoder"]},
        "noise": {"a": ["b"]},
    }
    assert fit(make_trainer(tmp_path, logger, [Charts(LOSS), Charts(more)], **THREE)) == []
    first, last = layouts_in(logger.log_dir)
    assert first == {"phases": {"loss": ["^val_loss$"]}}
    assert last == {
        "phases": {"loss": ["^val_loss$", "^train_loss$"], "information": ["^information/encoder$"]},
        "noise": {"a": ["^b$"]},
    }
    assert list(LOSS["phases"]["loss"]) == ["val_loss"]


def test_each_run_has_its_own_layout(tmp_path):
    loggers = [pl.loggers.TensorBoardLogger(tmp_path, name=name) for name in "ab"]
    trainer, reporter = make_trainer(tmp_path, loggers), Reporter(tmp_path)
    reporter.layout(trainer, LOSS)
    other = make_trainer(tmp_path, pl.loggers.TensorBoardLogger(tmp_path, name="c"))
    reporter.layout(other, {"noise": {"a": ["b"]}})
    for logger in [*loggers, other.logger]:
        logger.experiment.close()
    assert [layouts_in(logger.log_dir) for logger in loggers] == [[{"phases": {"loss": ["^val_loss$"]}}]] * 2
    assert layouts_in(other.log_dir) == [{"noise": {"a": ["^b$"]}}]


@pytest.mark.parametrize("prefix", ["", "fold.1"])
def test_tensorboard_finds_the_metrics_of_a_chart_and_no_others(tmp_path, prefix):
    logger = pl.loggers.TensorBoardLogger(tmp_path, name="run", version=0, prefix=prefix)
    trainer, reporter = make_trainer(tmp_path, logger), Reporter(tmp_path)
    wanted = ["val_loss", "information/layers.0", "a+b [c]|d"]
    reporter.layout(trainer, LOSS)
    reporter.layout(trainer, {"phases": {"loss": wanted}, "noise": {"a": ["val_acc"]}})
    for step in range(3):
        others = ["val_loss_collected", "train/val_loss", "information/layersX0", "information/layers.01", "d"]
        logger.log_metrics(dict.fromkeys([*wanted, *others], 1.0 * step), step=step)
    logger.experiment.close()
    plugin = plugin_for(tmp_path)
    shown = plugin.layout_impl(RequestContext(), "")
    layout = json_format.Parse(shown, layout_pb2.Layout())
    assert {category.title: [chart.title for chart in category.chart] for category in layout.category} == {
        "phases": ["loss"],
        "noise": ["a"],
    }
    # As the page asks for them: one expression for all lines of a chart.
    expression = "|".join(f"({tag})" for tag in layout.category[0].chart[0].multiline.tag)
    found = plugin.scalars_impl(RequestContext(), "run/version_0", expression, "")
    assert found["regex_valid"]
    assert set(found["tag_to_events"]) == {f"{prefix}-{name}" if prefix else name for name in wanted}


def test_a_layout_that_a_logger_refuses_is_said_once_and_tried_again(tmp_path, monkeypatch):
    logger = pl.loggers.TensorBoardLogger(tmp_path)

    def refuse(*args, **kwargs):
        raise ConnectionError("server gone")

    with monkeypatch.context() as patched:
        patched.setattr(torch.utils.tensorboard.SummaryWriter, "add_custom_scalars", refuse)
        callback = Charts(LOSS)
        trainer = make_trainer(tmp_path, logger, [callback], **THREE)
        said = fit(trainer)
    assert len(said) == 1
    assert "TensorBoardLogger did not take the layout {'phases': {'loss': ['val_loss']}}: ConnectionError" in str(
        said[0].message
    )
    callback.reporter.layout(trainer, LOSS)
    logger.experiment.close()
    assert layouts_in(logger.log_dir) == [{"phases": {"loss": ["^val_loss$"]}}]


def test_a_layout_that_is_none_is_said_not_raised(tmp_path):
    logger = pl.loggers.TensorBoardLogger(tmp_path)
    for wrong in (None, {"phases": {"loss": [None]}}):
        with pytest.warns(RuntimeWarning, match="did not take the layout"):
            Reporter(None).layout(make_trainer(tmp_path, logger), wrong)


def test_a_layout_that_comes_first_stands_in_front_and_is_moved_there(tmp_path):
    logger = pl.loggers.TensorBoardLogger(tmp_path)
    trainer, reporter = make_trainer(tmp_path, logger), Reporter(tmp_path)
    reporter.layout(trainer, {"phases": {"loss": ["a"], "else": ["b"]}})
    for _ in range(2):
        reporter.layout(trainer, {"Overview": {"x": ["x"]}, "phases": {"else": ["c", "b"]}}, first=True)
    logger.experiment.close()
    _, last = layouts_in(logger.log_dir)
    assert [(title, list(charts.items())) for title, charts in last.items()] == [
        ("Overview", [("x", ["^x$"])]),
        ("phases", [("else", ["^c$", "^b$"]), ("loss", ["^a$"])]),
    ]


# ------------------------------------------------- words


def test_each_logger_says_a_text_in_its_own_way(tmp_path):
    wandb, mlflow = [], []
    logger = pl.loggers.TensorBoardLogger(tmp_path)
    trainer = make_trainer(tmp_path)
    trainer.loggers = [logger, FakeWandb(wandb), Silent(), FakeMLFlow(mlflow)]
    for step in (4, 9):
        Reporter(tmp_path).text(trainer, "phase/why", f"**known** at {step}", step)
    logger.experiment.close()
    events = EventAccumulator(logger.log_dir, size_guidance={"tensors": 0}).Reload().Tensors("phase/why/text_summary")
    assert [(event.step, event.tensor_proto.string_val[0].decode()) for event in events] == [
        (4, "**known** at 4"),
        (9, "**known** at 9"),
    ]
    assert wandb[-1] == ("phase/why", ["step", "text"], [[9, "**known** at 9"]], 9)
    assert mlflow[-1] == ("run 7", "**known** at 9\n\nStep 9\n", "texts/phase-why.md")


def test_a_text_that_a_logger_refuses_is_said_once_and_other_ranks_say_none(tmp_path, monkeypatch):
    trainer, reporter, calls = make_trainer(tmp_path), Reporter(None), []
    trainer.loggers = [FakeWandb([], RuntimeError("offline")), FakeMLFlow(calls)]
    with pytest.warns(RuntimeWarning, match="FakeWandb did not take the text 'a': RuntimeError: offline") as said:
        reporter.text(trainer, "a", "b", 1)
    assert len(said) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        reporter.text(trainer, "a", "b", 1)
    assert len(calls) == 2
    monkeypatch.setattr(type(trainer), "is_global_zero", property(lambda self: False))
    reporter.text(trainer, "a", "b", 1)
    assert len(calls) == 2


def values_in(folder):
    """Every scalar as it stands in the file: tag, step, value, in order; and what is said of each tag."""
    values, said = [], {}
    for path in sorted(Path(folder).glob("*.tfevents.*")):
        for event in EventFileLoader(str(path)).Load():
            for value in event.summary.value:
                if value.metadata.plugin_data.plugin_name == "scalars":
                    values.append((value.tag, event.step, value.tensor.float_val[0]))
                    if value.metadata.summary_description:
                        said.setdefault(value.tag, []).append(value.metadata.summary_description)
    return values, said


@pytest.mark.parametrize("prefix", ["", "fold.1"])
def test_descriptions_come_with_the_first_value_and_values_stay_as_they_are(tmp_path, prefix):
    loggers = [pl.loggers.TensorBoardLogger(tmp_path, name=name, prefix=prefix) for name in ("plain", "described")]
    Reporter(None).describe(make_trainer(tmp_path, loggers[1]), {"rank/enc": "How **many**.", "never": "x", "loss": ""})
    Reporter(None).describe(make_trainer(tmp_path, loggers[1]), {"later": "Second."})
    for logger in loggers:
        for step in range(3):
            logger.log_metrics({"loss": 0.1 * step, "rank/enc": 1 / 3 + step, "later": float("nan")}, step=step)
        logger.experiment.add_text("rank/enc", "a text of the same name")
        logger.experiment.close()
    (plain, none), (described, said) = (values_in(logger.log_dir) for logger in loggers)
    assert str(described) == str(plain)
    assert none == {}
    name = f"{prefix}-" if prefix else ""
    assert said == {f"{name}rank/enc": ["How **many**."], f"{name}later": ["Second."]}
    # Both readers of TensorBoard take it for a curve.
    assert f"{name}rank/enc" in EventAccumulator(loggers[1].log_dir).Reload().Tags()["scalars"]


@pytest.mark.parametrize("fast", ["auto", "false"])
def test_tensorboard_serves_descriptions(tmp_path, fast):
    logger = pl.loggers.TensorBoardLogger(tmp_path, name="run", version=0)
    Reporter(None).describe(make_trainer(tmp_path, logger), {"rank/enc": "How **many**."})
    for step in range(3):
        logger.log_metrics({"rank/enc": 2.0 + step, "loss": 1.0}, step=step)
    logger.experiment.close()
    arguments = ["tensorboard.main", "--logdir", str(tmp_path), "--port", "0", "--load_fast", fast]
    server = subprocess.Popen([sys.executable, "-m", *arguments], stderr=subprocess.PIPE, text=True)
    try:
        address = next(found[0] for line in server.stderr if (found := re.findall(r"http://\S+", line)))
        deadline, tags = time.monotonic() + 60, {}
        while not tags and time.monotonic() < deadline:
            time.sleep(0.2)
            with urllib.request.urlopen(f"{address}data/plugin/scalars/tags") as answer:
                tags = json.load(answer)
        assert tags["run/version_0"]["rank/enc"]["description"] == "<p>How <strong>many</strong>.</p>"
        assert tags["run/version_0"]["loss"]["description"] == ""
        with urllib.request.urlopen(
            f"{address}data/plugin/scalars/scalars?run=run%2Fversion_0&tag=rank%2Fenc"
        ) as answer:
            assert [(step, value) for _, step, value in json.load(answer)] == [(0, 2.0), (1, 3.0), (2, 4.0)]
    finally:
        server.terminate()
        server.wait()


def test_descriptions_that_a_logger_refuses_end_nothing(tmp_path, monkeypatch):
    logger = pl.loggers.TensorBoardLogger(tmp_path)
    trainer, reporter = make_trainer(tmp_path, logger), Reporter(None)
    with monkeypatch.context() as patched:
        patched.setattr(torch.utils.tensorboard.SummaryWriter, "_get_file_writer", lambda self: 1 / 0)
        with pytest.warns(RuntimeWarning, match="TensorBoardLogger did not take descriptions of metrics: ZeroDivision"):
            reporter.describe(trainer, {"a": "b"})
    reporter.describe(trainer, {"a": 3})  # no text: the value is written all the same
    logger.log_metrics({"a": 1.0}, step=0)
    logger.experiment.close()
    assert values_in(logger.log_dir) == ([("a", 0, 1.0)], {})
    trainer.loggers = [Silent(), FakeWandb([])]
    reporter.describe(trainer, {"a": "b"})


def test_other_loggers_and_other_ranks_write_no_layout(tmp_path, monkeypatch):
    trainer = make_trainer(tmp_path, pl.loggers.CSVLogger(tmp_path / "csv"))
    trainer.loggers = [*trainer.loggers, Silent(), FakeWandb([])]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Reporter(tmp_path).layout(trainer, LOSS)
        trainer = make_trainer(tmp_path, pl.loggers.TensorBoardLogger(tmp_path / "tensorboard"))
        monkeypatch.setattr(type(trainer), "is_global_zero", property(lambda self: False))
        Reporter(tmp_path).layout(trainer, LOSS)
    assert not list(tmp_path.rglob("*.tfevents.*"))


NAMES = ["cat", " ", "a\nb\tc", "Ünï", ""]


def test_vectors_stand_in_the_projector_with_one_line_a_name(tmp_path):
    logger = pl.loggers.TensorBoardLogger(tmp_path, name="run", version=0)
    trainer, reporter = make_trainer(tmp_path, logger), Reporter(None)
    vectors = torch.arange(10.0).view(5, 2).requires_grad_()
    for step in (3, 7, 7):
        reporter.embedding(trainer, "words/all", lambda step=step: (vectors * step, NAMES), step)
    logger.experiment.close()
    folder = Path(logger.log_dir)
    config = text_format.Parse((folder / "projector_config.pbtxt").read_text(), ProjectorConfig())
    assert [one.tensor_name for one in config.embeddings] == ["words/all:00003", "words/all:00007"]
    for step, one in zip((3, 7), config.embeddings, strict=True):
        assert np.loadtxt(folder / one.tensor_path).tolist() == (vectors.detach() * step).tolist()
        # Its page skips lines that hold nothing but blanks.
        lines = [line for line in (folder / one.metadata_path).read_text().split("\n") if line.strip()]
        assert lines == ["cat", "' '", "a\\nb\\tc", "Ünï", "''"]


def test_several_names_of_a_vector_stand_in_columns(tmp_path):
    logger, calls = pl.loggers.TensorBoardLogger(tmp_path, name="run", version=0), []
    trainer = make_trainer(tmp_path)
    trainer.loggers = [logger, FakeWandb(calls)]
    names = {"word": ["a\tb", "dog"], "part of speech": ["noun", ""]}
    Reporter(None).embedding(trainer, "words", lambda: (torch.eye(2), names), step=4)
    logger.experiment.close()
    (path,) = Path(logger.log_dir).rglob("metadata.tsv")
    assert path.read_text().splitlines() == ["word\tpart of speech", "a\\tb\tnoun", "dog\t''"]
    assert calls == [
        ("words", ["word", "part of speech", "d0", "d1"], [["a\tb", "noun", 1.0, 0.0], ["dog", "", 0.0, 1.0]], 4)
    ]
    with pytest.warns(RuntimeWarning, match=r"'odd' could not be had: ValueError.*\(2, 2\) and 2, 1"):
        Reporter(None).embedding(trainer, "odd", lambda: (torch.eye(2), {"a": ["x", "y"], "b": ["x"]}))


def test_wandb_gets_a_table_of_vectors_and_other_loggers_nothing(tmp_path):
    calls, drawn = [], []
    trainer = make_trainer(tmp_path)
    trainer.loggers = [FakeWandb(calls), Silent(), FakeMLFlow([])]
    Reporter(tmp_path).embedding(trainer, "words", lambda: (torch.eye(2), ["cat", "dog"]), step=4)
    assert calls == [("words", ["name", "d0", "d1"], [["cat", 1.0, 0.0], ["dog", 0.0, 1.0]], 4)]
    trainer.loggers = [Silent(), FakeMLFlow([])]
    Reporter(tmp_path).embedding(trainer, "words", lambda: drawn.append(1))
    assert drawn == []
    assert list(tmp_path.iterdir()) == []


def test_vectors_that_fail_are_said_once(tmp_path):
    trainer, reporter, calls = make_trainer(tmp_path), Reporter(tmp_path), []
    trainer.loggers = [FakeWandb([], RuntimeError("offline")), FakeWandb(calls)]
    with pytest.warns(RuntimeWarning, match="FakeWandb did not take the vectors 'a'.*RuntimeError: offline"):
        reporter.embedding(trainer, "a", lambda: (torch.eye(1), ["x"]))
    assert len(calls) == 1
    with pytest.warns(RuntimeWarning, match=r"'b' could not be had: ValueError.*\(2, 2\) and 1"):
        reporter.embedding(trainer, "b", lambda: (torch.eye(2), ["x"]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        reporter.embedding(trainer, "b", lambda: (torch.eye(2), ["x"]))
