"""Logits and targets side by side: every way that a batch and a model may hold them."""

from __future__ import annotations

import warnings
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tasks.test_scoring import bert, gpt2
from torch import Tensor, nn

from lightning_interp.batches import PredictionRecorder, Predictions
from lightning_interp.distributed import Selection
from lightning_interp.sites import CaptureError

NAN = float("nan")


def rows(one: Predictions, output: Any, batch: Any, selection: Selection | None = None) -> Any:
    return one.rows(output, *one.targets(batch), selection)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# ------------------------------------------------- shapes


def test_a_classifier() -> None:
    logits, targets = drawn(4, 3), torch.tensor([0, 2, -100, 1])
    found = rows(Predictions("head"), logits, (torch.zeros(4, 5), targets))
    assert found.targets.tolist() == [0, 2, 0, 1]
    assert found.counted.tolist() == [True, True, False, True]
    assert torch.equal(found.logits, logits)
    expected = logits.log_softmax(-1)
    assert found.log_probs()[found.counted].tolist() == pytest.approx(
        [float(expected[i, targets[i]]) for i in (0, 1, 3)]
    )
    assert found.spread(torch.tensor([5, 6, 7, 8])).tolist() == [5, 6, 7, 8]


@given(st.integers(0, 2), st.integers(1, 3), st.integers(3, 6), st.data())
def test_rows_are_those_of_a_loop_over_positions(shift: int, batch: int, length: int, data: st.DataObject) -> None:
    """Against the plain reading: the logits at t are held against the target at t + shift."""
    seed = data.draw(st.integers(0, 99))
    logits = drawn(batch, length, 4, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(-1, 4, (batch, length), generator=generator)
    mask = torch.randint(0, 2, (batch, length), generator=generator)
    labels = torch.randint(0, 9, (batch, length), generator=generator)
    chosen = torch.randperm(batch, generator=generator)[: max(1, batch - 1)].sort().values
    selection = Selection(chosen + 100, chosen, torch.arange(batch) + 100)
    one = Predictions("head", target="y", mask="m", ignore_index=-1, shift=shift)
    found = rows(one, logits, {"y": targets, "m": mask}, selection)
    expected = []
    for sample in chosen.tolist():
        for at in range(length - shift):
            to = at + shift
            counted = bool(mask[sample, at] and mask[sample, to] and targets[sample, to] != -1)
            hit = counted and int(logits[sample, at].argmax()) == int(targets[sample, to])
            label = int(labels[sample, to])
            expected.append((counted, hit, label, sample + 100, to, logits[sample, at].tolist()))
    own = found.spread(labels[chosen])
    got = zip(found.counted, found.hits(), own, found.samples, found.columns, found.logits, strict=True)
    assert [(bool(a), bool(b), int(c), int(d), int(e), f.tolist()) for a, b, c, d, e, f in got] == expected


def test_classes_may_be_second_as_cross_entropy_has_them() -> None:
    logits, targets = drawn(2, 3, 4, 5), torch.randint(0, 3, (2, 4, 5))
    found = rows(Predictions("head", class_dim=1), logits, (None, targets))
    loss = nn.functional.cross_entropy(logits, targets, reduction="none")
    torch.testing.assert_close(-found.log_probs(), loss.flatten())
    assert found.spread(torch.arange(2)).tolist() == [0] * 20 + [1] * 20


def test_what_counts() -> None:
    logits = torch.tensor([[0.0, 1.0], [NAN, 1.0], [0.0, -torch.inf], [torch.inf, 0.0], [1.0, 0.0]])
    found = rows(Predictions("head"), logits, {"labels": torch.tensor([1, 1, 0, 0, 7])})
    assert found.counted.tolist() == [True, False, True, False, False]
    assert int(found.nonfinite) == 2
    assert int(found.unknown) == 1
    # A row that does not count is not counted as broken either.
    found = rows(Predictions("head"), logits, {"labels": torch.full((5,), -100)})
    assert int(found.nonfinite) == int(found.unknown) == 0
    found = rows(Predictions("head", ignore_index=[1, 7]), logits, {"labels": torch.tensor([1, 1, 0, 0, 7])})
    assert found.counted.tolist() == [False, False, True, False, False]


def test_padding_on_either_side_is_never_predicted_nor_predicted_from() -> None:
    batch = {
        "input_ids": torch.tensor([[1, 2, 3, 0], [0, 1, 2, 3]]),
        "attention_mask": torch.tensor([[1, 1, 1, 0], [0, 1, 1, 1]]),
    }
    found = rows(Predictions("lm", target="input_ids", shift=1), drawn(2, 4, 5), batch)
    assert found.counted.tolist() == [True, True, False, False, True, True]
    assert found.targets[found.counted].tolist() == [2, 3, 2, 3]


def test_low_precision_is_summed_in_float32() -> None:
    logits = (10 * drawn(3, 50)).to(torch.bfloat16)
    found = rows(Predictions("head"), logits, (None, torch.tensor([1, 2, 3])))
    assert found.log_probs().dtype == torch.float32
    expected = logits.float().log_softmax(-1)[torch.arange(3), torch.tensor([1, 2, 3])]
    torch.testing.assert_close(found.log_probs(), expected)


@pytest.mark.parametrize("output", ["", "scores", 1, lambda out: out["scores"]])
def test_logits_from_what_the_step_returns(output: Any) -> None:
    logits = drawn(2, 3)
    step = {"": logits, "scores": {"loss": torch.zeros(()), "scores": logits}, 1: (torch.zeros(()), logits)}
    given_output = step["scores"] if callable(output) else step[output]
    found = rows(Predictions(output=output), given_output, {"label": torch.tensor([0, 1])})
    assert torch.equal(found.logits, logits)
    assert Predictions(output=output).short_name() == "output"


def test_model_outputs_have_logits() -> None:
    logits = drawn(2, 3)
    batch = {"target": torch.tensor([0, 1])}
    for output in (SimpleNamespace(logits=logits), {"loss": torch.zeros(()), "logits": logits}):
        assert torch.equal(rows(Predictions(""), output, batch).logits, logits)


def test_models_of_transformers() -> None:
    lm, (masked, tokenizer) = gpt2(12), bert()
    ids = torch.tensor([[1, 5, 6, 7, 0], [1, 5, 5, 8, 9]])
    batch = {"input_ids": ids, "attention_mask": (ids != 0).long()}
    recorder = PredictionRecorder(
        lm, {"next": Predictions("", target="input_ids", shift=1), "same": Predictions("", target="input_ids")}
    )
    recorder.attach()
    recorder.start(batch)
    lm.eval()
    labels = ids.masked_fill(ids == 0, -100)
    with torch.no_grad():
        output = lm(**batch, labels=labels)  # its first floating-point entry is the loss
    found = recorder.take()
    counted = found["next"].counted
    assert -float(found["next"].log_probs()[counted].mean()) == pytest.approx(float(output.loss), abs=1e-5)
    assert int(found["same"].counted.sum()) == 9
    recorder.detach()
    assert not any(module._forward_hooks for module in lm.modules())

    encoded = dict(tokenizer(["the king sleep ."], return_tensors="pt"))
    labels = torch.tensor([[-100, -100, 6, -100, -100, -100]])
    masked.eval()
    recorder = PredictionRecorder(masked, {"mask": Predictions("", target="labels")})
    recorder.attach()
    recorder.start({**encoded, "labels": labels})
    with torch.no_grad():
        output = masked(**encoded, labels=labels)
    found = recorder.take()
    assert -float(found["mask"].log_probs()[found["mask"].counted]) == pytest.approx(float(output.loss), abs=1e-5)
    recorder.detach()


# ------------------------------------------------- one logit, and probabilities


@pytest.mark.parametrize("kind", [torch.long, torch.bool, torch.float32, torch.float64, torch.int32])
@pytest.mark.parametrize(
    ("logits", "targets"),
    [((5,), (5,)), ((5, 1), (5,)), ((5, 1), (5, 1)), ((5, 3, 1), (5, 3)), ((5, 3, 1), (5, 3, 1))],
)
def test_one_logit_is_that_of_the_second_of_two_classes(logits: Any, targets: Any, kind: torch.dtype) -> None:
    scores, right = drawn(*logits), drawn(*targets, seed=1) > 0
    found = rows(Predictions("head"), scores, (None, right.to(kind)))
    assert bool(found.counted.all())
    assert int(found.unknown) == 0
    loss = nn.functional.binary_cross_entropy_with_logits(scores.flatten(), right.flatten().float(), reduction="none")
    torch.testing.assert_close(-found.log_probs(), loss)
    assert torch.equal(found.hits(), (scores.flatten() > 0) == right.flatten())
    # The same of a sigmoid, once it is said.
    chances = rows(Predictions("head", scores="probabilities"), scores.sigmoid(), (None, right.to(kind)))
    torch.testing.assert_close(-chances.log_probs(), loss)


def test_a_map_of_one_logit_with_classes_second() -> None:
    scores, right = drawn(2, 1, 4, 5), (drawn(2, 1, 4, 5, seed=1) > 0).float()
    found = rows(Predictions("head", class_dim=1), scores, (None, right))
    loss = nn.functional.binary_cross_entropy_with_logits(scores.flatten(), right.flatten(), reduction="none")
    torch.testing.assert_close(-found.log_probs(), loss)


def test_floats_that_are_neither_0_nor_1_are_no_class_but_may_be_ignored() -> None:
    targets = torch.tensor([0.0, 1.0, 0.3, -1.0, -100.0, NAN])
    found = rows(Predictions("head"), torch.zeros(6), (None, targets))
    assert found.counted.tolist() == [True, True, False, False, False, False]
    assert int(found.unknown) == 3
    assert int(rows(Predictions("head", ignore_index=[-1, -100]), torch.zeros(6), (None, targets)).unknown) == 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_probabilities_are_read_as_what_they_are_or_asked_about(dtype: torch.dtype) -> None:
    logits, targets = 3 * drawn(50, 7), torch.arange(50) % 7
    expected = logits.log_softmax(-1).gather(-1, targets[:, None]).squeeze(-1)
    chances = logits.softmax(-1).to(dtype)
    said = Predictions("head", scores="probabilities")
    found = rows(said, chances, (None, targets))
    torch.testing.assert_close(found.log_probs(), expected.to(found.log_norm.dtype), atol=0.02, rtol=0.01)
    said.check_scores("head", found.scored.tolist())
    unsaid = rows(Predictions("head"), chances, (None, targets))
    with pytest.raises(ValueError, match="all 50 rows of scores at 'head' have no negative one and sum to 1: they are"):
        Predictions("head").check_scores("head", unsaid.scored.tolist())
    Predictions("head", scores="logits").check_scores("head", unsaid.scored.tolist())
    # Log-probabilities are logits, whatever the model calls them.
    for one in (logits, logits.log_softmax(-1)):
        plain = rows(Predictions("head"), one, (None, targets))
        torch.testing.assert_close(plain.log_probs(), expected)
        Predictions("head").check_scores("head", plain.scored.tolist())
        with pytest.raises(ValueError, match=r"must have no negative one and sum to 1, but \d+ of 50 rows do not"):
            said.check_scores("head", rows(said, one, (None, targets)).scored.tolist())


def test_a_probability_of_0_is_one() -> None:
    one = Predictions("head", scores="probabilities")
    found = rows(one, torch.tensor([[1.0, 0.0], [0.0, 1.0]]), (None, torch.tensor([0, 0])))
    assert found.counted.all()
    assert found.log_probs().tolist() == [0.0, -torch.inf]
    one.check_scores("head", found.scored.tolist())


def test_single_scores_between_0_and_1_are_asked_about_once() -> None:
    one, targets = Predictions("head"), torch.tensor([0, 1])
    found = rows(one, torch.tensor([0.2, 0.9]), (None, targets)).scored.tolist()
    with pytest.warns(UserWarning, match="all 2 scores at 'head' lie between 0 and 1.*`scores='probabilities'`"):
        one.check_scores("head", found)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        one.check_scores("head", found)
        one.check_scores("head", rows(one, torch.tensor([-0.2, 0.9]), (None, targets)).scored.tolist())
        one.check_scores("head", [0, 0, 0])
    said = Predictions("head", scores="probabilities")
    with pytest.raises(ValueError, match="must lie between 0 and 1, but 1 of 2 rows do not"):
        said.check_scores("head", rows(said, torch.tensor([1.2, 0.9]), (None, targets)).scored.tolist())


@pytest.mark.parametrize("odd", [False, True])
def test_rows_between_0_and_1_that_are_no_distribution_are_asked_about_once(odd: bool) -> None:
    logits, targets = drawn(40, 5), torch.arange(40) % 5
    scores = logits.sigmoid()
    if odd:
        # A softmax but for one row, as of a sample that was skipped.
        scores = logits.softmax(-1)
        scores[7] = 0.0
    one = Predictions("head")
    found = rows(one, scores, (None, targets)).scored.tolist()
    with pytest.warns(UserWarning, match="all 40 rows of scores at 'head' lie between 0 and 1, and do not all sum to"):
        one.check_scores("head", found)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        one.check_scores("head", found)
        Predictions("head", scores="logits").check_scores("head", found)
        for plain in (logits, logits.relu(), logits.log_softmax(-1), logits / 10):
            other = Predictions("head")
            other.check_scores("head", rows(other, plain, (None, targets)).scored.tolist())


# ------------------------------------------------- recording


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x)


def test_targets_are_read_before_a_step_may_take_them_away() -> None:
    model, batch = Net(), {"x": torch.zeros(2, 4), "labels": torch.tensor([0, 2])}
    recorder = PredictionRecorder(model, {"head": Predictions("head")})
    recorder.attach()
    recorder.start(batch)
    batch.pop("labels")
    model(batch["x"]).add_(5)  # in place: what was captured is a copy
    found = recorder.take()["head"]
    assert found.targets.tolist() == [0, 2]
    assert torch.equal(found.logits, model(batch["x"]))


def test_targets_are_read_before_a_step_writes_into_them() -> None:
    model, batch = Net(), {"x": torch.zeros(2, 4), "labels": torch.tensor([1, 2])}
    recorder = PredictionRecorder(model, {"head": Predictions("head")})
    recorder.attach()
    recorder.start(batch)
    model(batch["x"])
    batch["labels"].zero_()
    assert recorder.take()["head"].targets.tolist() == [1, 2]


def test_a_site_that_runs_twice_or_never() -> None:
    model, batch = Net(), (torch.zeros(2, 4), torch.tensor([0, 2]))
    for call, passes in (("only", 2), ("only", 0), ("last", 2)):
        recorder = PredictionRecorder(model, {"head": Predictions("head", call=call)})
        recorder.attach()
        recorder.start(batch)
        for _ in range(passes):
            model(batch[0])
        if call == "last":
            assert len(recorder.take()["head"].targets) == 2
        else:
            with pytest.raises(CaptureError):
                recorder.take()
        recorder.detach()


# ------------------------------------------------- errors


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Predictions(), "exactly one of `site` and `output`"),
        (lambda: Predictions("a", output="b"), "exactly one of `site` and `output`"),
        (lambda: Predictions("layers.*"), "name one module, not a pattern"),
        (lambda: Predictions("a", shift=-1), "`shift` must be at least 0, got -1"),
        (lambda: Predictions("a", class_dim=2), "`class_dim` must be -1 or 1, got 2"),
        (lambda: Predictions("a", call="all"), r"`call` must be one of \['only', 'first', 'last'\], got 'all'"),
        (lambda: Predictions("a").targets({"x": torch.zeros(2)}), "shows no targets by itself: it is a dict with 'x'"),
        (lambda: Predictions("a").targets((torch.zeros(2),)), "shows no targets by itself"),
        (lambda: Predictions("a").targets((0, torch.zeros(2) * 1j)), r"not to torch.complex64 \(2,\)"),
        (lambda: Predictions("a").targets((0, torch.zeros(()))), r"not to torch.float32 \(\)"),
        (lambda: Predictions("a", scores="odds"), "`scores` must be 'logits' or 'probabilities', got 'odds'"),
        (
            lambda: rows(Predictions("a"), torch.zeros(2, 3), (0, torch.zeros(2))),
            r"targets are torch.float32 \(2,\), and logits \(2, 3\) of 3 classes need integers",
        ),
        (
            lambda: rows(Predictions("a"), torch.zeros(2, 3), (0, torch.ones(2, 3))),
            r"logits \(2, 3\) do not fit targets \(2, 3\): they are as many.*\(multi-label\) are not read",
        ),
        (
            lambda: rows(Predictions("a"), torch.zeros(2, 3, 4, 5), (0, torch.zeros(2, 4, 5).long())),
            "classes stand in dimension 1, as `cross_entropy` has them; say `class_dim=1`",
        ),
        (lambda: Predictions("a", target="y").targets({"x": 0}), "`target` points to 'y', which is not in the batch"),
        (
            lambda: Predictions("a", mask="m").targets({"labels": torch.zeros(2, 3).long(), "m": torch.zeros(2, 4)}),
            r"`mask` has shape \(2, 4\), the targets \(2, 3\)",
        ),
        (
            lambda: rows(Predictions("a"), torch.zeros(2, 5, 3), (0, torch.zeros(2, 4).long())),
            r"logits \(2, 5, 3\) do not fit targets \(2, 4\)",
        ),
        (lambda: rows(Predictions("a"), torch.zeros(3), (0, torch.zeros(2).long())), "do not fit targets"),
        (lambda: rows(Predictions("a"), {"x": 1}, (0, torch.zeros(2).long())), "site 'a' gives no logits"),
        (
            lambda: rows(Predictions("a", shift=1), torch.zeros(2, 3), (0, torch.zeros(2).long())),
            r"`shift` is 1, but the targets have shape \(2,\)",
        ),
        (
            lambda: rows(Predictions("a"), torch.zeros(2, 3), (0, torch.zeros(2).long())).spread(torch.zeros(2, 2)),
            r"`labels` has shape \(2, 2\), which fits no targets of shape \(2,\)",
        ),
        (lambda: PredictionRecorder(Net(), {}), "`predictions` is empty"),
        (lambda: PredictionRecorder(Net(), {"a": Predictions("tail")}), "matches no module of Net"),
    ],
)
def test_what_does_not_fit_is_said(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_nothing_is_read_back_from_the_device() -> None:
    """Tensors without values: whatever asked for one would fail."""
    batch = {"y": torch.zeros(2, 3, dtype=torch.long, device="meta"), "m": torch.ones(2, 3, device="meta")}
    one = Predictions("head", target="y", mask="m", shift=1)
    found = rows(one, torch.zeros(2, 3, 4, device="meta"), batch)
    assert found.hits().shape == found.log_probs().shape == (4,)


def test_classes_are_where_the_module_has_them_though_shapes_fit() -> None:
    # As many positions as classes.
    model = torch.nn.Conv1d(6, 3, 1)
    batch = (torch.randn(4, 6, 3), torch.randint(0, 3, (4, 3)))
    for class_dim in (-1, 1):
        recorder = PredictionRecorder(model, {"it": Predictions("", class_dim=class_dim)})
        recorder.attach()
        recorder.start(batch)
        logits = model(batch[0])
        if class_dim == 1:
            found = recorder.take()["it"]
            assert torch.equal(found.hits().view(4, 3), logits.argmax(1) == batch[1])
        else:
            with pytest.raises(ValueError, match=r"`class_dim=-1` contradicts site '': its Conv1d has 3 features"):
                recorder.take()
        recorder.detach()
