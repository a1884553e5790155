"""The log-probability that a causal language model gives to a sentence."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lightning_interp.functional._numerics import as_float, full_precision
from lightning_interp.isolation import no_side_effects
from lightning_interp.language.id_range import told_ids

__all__ = [
    "FORWARD_TAKES",
    "Forward",
    "eval_mode",
    "logits_in",
    "model_device",
    "model_logits",
    "model_output",
    "sentence_log_probs",
    "takes_mask",
]

Forward = Callable[[nn.Module, Tensor, Tensor], Tensor]
"""(model, input ids (B, T), attention mask (B, T)) → logits (B, T, V)."""
FORWARD_TAKES = ("model", "input_ids", "attention_mask")


def sentence_log_probs(
    model: nn.Module,
    input_ids: Tensor,
    attention_mask: Tensor,
    forward: Forward | None = None,
    first: Tensor | None = None,
) -> Tensor:
    r"""Log-probability of each sentence under a causal language model.

    .. math:: \log p(x) = \sum_{t=2}^{T} \log p(x_t \mid x_{<t})

    a sum over all tokens but the first, not a mean (Warstadt et al. 2020). Differentiable; the mode of the model, of
    gradients and of autocast is the caller's.

    Args:
        model: Gives logits (B, T, V), as a tensor, in an output's ``logits``, under the key ``"logits"``, or as the
            first tensor of that shape in a tuple. It is called with ``input_ids`` and ``attention_mask`` where it
            takes them, else with the ids alone, which is enough for a causal model.
        input_ids: Ids, (B, T), padded on the right.
        attention_mask: Non-zero at tokens, (B, T).
        forward: Calls the model in its stead: ``forward(model, input_ids, attention_mask)`` → logits.
        first: The position from which on tokens count, at least 1, int64 (B,): of a text the probability of how it ends
            given how it begins.

    Returns:
        Nats, (B,), in the precision of the logits but at least float32. Memory: the logits, twice that in backward;
        their log-softmax is never kept.

    Raises:
        ValueError: If ids and mask are not both (B, T) with T ≥ 2, or the padding is not on the right.
        TypeError: If no logits are found in the model's output.

    Example:
        >>> model = nn.Embedding.from_pretrained(torch.zeros(4, 4))
        >>> ids, mask = torch.tensor([[1, 2, 3], [1, 2, 0]]), torch.tensor([[1, 1, 1], [1, 1, 0]])
        >>> sentence_log_probs(model, ids, mask)
        tensor([-2.7726, -1.3863])

    """
    if input_ids.dim() != 2 or input_ids.shape != attention_mask.shape or input_ids.shape[1] < 2:
        raise ValueError(
            "`input_ids` and `attention_mask` must both be (B, T) with T at least 2; "
            f"they are {tuple(input_ids.shape)} and {tuple(attention_mask.shape)}."
        )
    if bool((attention_mask[:, 1:] > attention_mask[:, :-1]).any()):
        raise ValueError("`attention_mask` has padding before a token; sentences must be padded on the right.")
    logits = as_float(model_logits(model, input_ids, attention_mask, forward)[:, :-1])
    chosen = logits.gather(-1, input_ids[:, 1:, None]).squeeze(-1) - logits.logsumexp(-1)
    # A target counts where it is a token.
    counts = attention_mask[:, 1:] != 0
    if first is not None:
        counts = counts & (torch.arange(1, input_ids.shape[1], device=first.device) >= first[:, None])
    return torch.where(counts, chosen, 0).sum(-1)


def model_logits(model: nn.Module, input_ids: Tensor, attention_mask: Tensor, forward: Forward | None) -> Tensor:
    """The model's logits (B, T, V), however it is called and wherever it puts them."""
    return logits_in(model_output(model, input_ids, attention_mask, forward), input_ids)


def model_output(model: nn.Module, input_ids: Tensor, attention_mask: Tensor, forward: Forward | None) -> Any:
    """What the model returns for ids (B, T), however it is called."""
    with told_ids(model, input_ids):
        if forward is not None:
            return forward(model, input_ids, attention_mask)
        if takes_mask(model):
            # A cache of keys and values is of no use here.
            cache = {"use_cache": False} if "use_cache" in _parameters(model) else {}
            return model(input_ids=input_ids, attention_mask=attention_mask, **cache)
        return model(input_ids)


def takes_mask(model: nn.Module) -> bool:
    """Whether the model's forward has a place for ``attention_mask``."""
    parameters = _parameters(model)
    wrapped = any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters.values())
    return "attention_mask" in parameters or ("input_ids" not in parameters and wrapped)


def model_device(model: nn.Module) -> torch.device:
    """Where the model's first parameter or buffer lives; the CPU where it has none."""
    first = next(itertools.chain(model.parameters(), model.buffers()), None)
    return torch.device("cpu") if first is None else first.device


@contextmanager
def eval_mode(model: nn.Module, gradients: bool = False) -> Iterator[None]:
    """Within, the model is in evaluation mode, without autocast or TF32; afterwards all is as before.

    Args:
        model: The model.
        gradients: Whether gradients can be computed, even where the caller has them off (inference mode included).
    """
    with (
        no_side_effects(model),
        torch.inference_mode(False),
        torch.set_grad_enabled(gradients),
        full_precision(model_device(model)),
    ):
        model.eval()
        yield


def _parameters(model: nn.Module) -> Mapping[str, inspect.Parameter]:
    # What `torch.compile` wraps around a module takes anything.
    return inspect.signature(getattr(model, "_orig_mod", model).forward).parameters


def logits_in(output: Any, input_ids: Tensor) -> Tensor:
    """The logits (B, T, V) in what a language model returned for ids (B, T).

    Raises:
        TypeError: If there are none.

    """
    if isinstance(output, Mapping) and "logits" in output:
        found: Any = output["logits"]
    elif hasattr(output, "logits"):
        found = output.logits
    elif isinstance(output, tuple | list):
        found = next((one for one in output if isinstance(one, Tensor) and _fits(one, input_ids)), None)
    else:
        found = output
    if not isinstance(found, Tensor) or not _fits(found, input_ids):
        batch, length = input_ids.shape
        raise TypeError(
            f"no logits ({batch}, {length}, V) in the model's output, which is {_described(output)}; "
            "give `forward=`, a function of (model, input_ids, attention_mask) that returns them."
        )
    return found


def _fits(tensor: Tensor, input_ids: Tensor) -> bool:
    return tensor.dim() == 3 and tensor.shape[:2] == input_ids.shape and tensor.is_floating_point()


def _described(output: Any) -> str:
    if isinstance(output, Tensor):
        return f"a tensor {tuple(output.shape)}"
    if isinstance(output, Mapping):
        return f"a mapping with the keys {sorted(map(str, output))}"
    if isinstance(output, tuple | list):
        return f"a {type(output).__name__} of {', '.join(_described(one) for one in output) or 'nothing'}"
    return f"a {type(output).__name__}"
