"""The tap on attention: what any model attends to, told as it calls attention."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack
from torch.utils.hooks import RemovableHandle

from lightning_interp.sites.attention_call import (
    AttentionCall,
    of_multi_head,
    of_scaled_dot_product,
    of_softmax,
    of_weights,
)
from lightning_interp.sites.eager_stance import EagerStance
from lightning_interp.sites.names import listed, match_sites, modules_by_name
from lightning_interp.sites.recorder import CaptureError

__all__ = ["AttentionTap", "Handler", "Replace", "Rewrite"]

Handler = Callable[[str, AttentionCall], None]
"""Is told of a call of attention, and by which site."""
Replace = Callable[[str, AttentionCall], Tensor | None]
"""Gives the weights (B, H, T, S) that attention goes on with, or ``None`` to leave its own."""
Rewrite = Callable[[str, Tensor], Tensor]
"""Gives what the heads of a site put out in place of what they do, (B, H, T, d)."""

_SDPA = functional.scaled_dot_product_attention
_MULTI_HEAD = functional.multi_head_attention_forward
_SOFTMAX = (functional.softmax, torch.softmax, Tensor.softmax)


class AttentionTap:
    """Tells of every call of attention at sites of a model, while it is told to.

    It sees ``torch.nn.functional.scaled_dot_product_attention``, of which the weights are recomputed from queries and
    keys, and lets the call go on untouched: no implementation is switched, and what the model computes is what it
    computes without. Where a model takes a softmax of its own over scores (eager models of transformers), it reads
    that; of ``nn.MultiheadAttention`` it projects queries, keys and values anew; of a site that returns its weights,
    such as an ``nn.Identity`` that they go through, it takes these. A model of transformers whose kernel hides them
    (flash, flex) runs with that of torch while it reads.

    A call belongs to the innermost site that is running. Nothing is on the model while nobody reads; meanwhile compiled
    modules run without their graphs, so that nothing is compiled for it. ``nn.TransformerEncoder`` leaves its fused
    path while it is read, which changes its output by rounding.

    Args:
        model: The module that the names are relative to.
        sites: Short name → dotted name of modules that call attention once in a forward pass.

    Raises:
        ValueError: If a name matches no module.

    Example:
        >>> from lightning_interp.models import small_gpt2
        >>> model = small_gpt2(range(27), 12, heads=3)
        >>> tap = AttentionTap(model, {"0": "transformer.h.0.attn"})
        >>> with tap.reading(lambda site, call: print(site, tuple(call.weights.shape))):
        ...     output = model(torch.tensor([[1, 2, 3, 4]]))
        0 (1, 3, 4, 4)

    """

    def __init__(self, model: nn.Module, sites: Mapping[str, str]) -> None:
        self.model = model
        self.sites = dict(sites)
        modules = modules_by_name(model)
        self.modules = {
            site: modules[match_sites(name, modules, type(model).__name__)[0]] for site, name in self.sites.items()
        }
        """The module of each site."""
        self._handles: list[RemovableHandle] = []
        self._kernels: list[tuple[Any, str]] = []
        self._handler: Handler | None = None
        self._replace: Replace | None = None
        self._rewrite: Rewrite | None = None
        self._running: list[str] = []
        self._counts: dict[str, list[int]] = {}
        self._error: Exception | None = None

    def start(
        self, handler: Handler | None = None, replace: Replace | None = None, rewrite: Rewrite | None = None
    ) -> None:
        """Tell of every call from here on.

        What goes wrong within the model's forward pass, in the handler too, is an error of :meth:`finish` and does not
        disturb the model.

        Args:
            handler: Is told of it.
            replace: Gives other weights. Of several taps at one place the last that was begun has its way.
            rewrite: Changes what heads put out, before they are joined; not of models that take a softmax themselves.

        """
        self.stop()
        self._handler, self._replace, self._rewrite = handler, replace, rewrite
        self._counts = {site: [] for site in self.sites}
        self._error = None
        for site, module in self.modules.items():
            before, after = functools.partial(self._enter, site), functools.partial(self._leave, site)
            self._handles.append(module.register_forward_pre_hook(before))
            self._handles.append(module.register_forward_hook(after, always_call=True))
        try:
            self._switch_kernels()
        except BaseException:
            self.stop()
            raise
        _MODE.enter(self)

    def stop(self) -> None:
        """Tell of no more; without effect where nothing was begun."""
        _MODE.leave(self)
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        kernels, self._kernels = self._kernels, []
        for module, kernel in kernels:
            module.set_attn_implementation(kernel)
        self._running.clear()
        self._handler = self._replace = self._rewrite = None

    def finish(self) -> None:
        """Tell of no more, and see that all went well.

        Raises:
            CaptureError: If no attention was seen at a site, or several calls in one forward pass of it.
            Exception: What the handler failed with.

        """
        self.stop()
        if self._error is not None:
            raise self._error
        silent = [site for site, counts in self._counts.items() if not any(counts)]
        if silent:
            others = [site for site in self.sites if site not in silent]
            raise CaptureError(
                f"no attention was seen at {', '.join(f'{one!r} ({self._told(one)})' for one in silent)}; it was at "
                f"{listed(others)}. Seen are scaled_dot_product_attention, a softmax over (B, H, T, S), "
                "nn.MultiheadAttention, and what a site returns where that is weights (B, H, T, S): let weights go "
                "through an nn.Identity and name that as the site"
            )
        often = {site: max(counts) for site, counts in self._counts.items() if max(counts) > 1}
        if often:
            site, number = next(iter(often.items()))
            raise CaptureError(
                f"site {site!r} ({self._told(site)}) called attention {number} times in one forward pass: name the "
                "modules inside it that call it"
            )

    @contextlib.contextmanager
    def reading(
        self, handler: Handler | None = None, replace: Replace | None = None, rewrite: Rewrite | None = None
    ) -> Iterator[None]:
        """Within, it tells of every call; see :meth:`start` and :meth:`finish`."""
        self.start(handler, replace, rewrite)
        try:
            yield
        except BaseException:
            self.stop()
            raise
        self.finish()

    # ------------------------------------------------- while the model runs

    def _enter(self, site: str, module: nn.Module, args: Any) -> None:
        self._running.append(site)
        self._counts[site].append(0)

    def _leave(self, site: str, module: nn.Module, args: Any, output: Any) -> None:
        if self._counts[site] and not self._counts[site][-1] and _is_weights(output):
            self.tell(of_weights(output))
        if self._running and self._running[-1] == site:
            self._running.pop()

    @property
    def listens(self) -> bool:
        """Whether a site is running."""
        return bool(self._running)

    @property
    def rewrites(self) -> bool:
        """Whether it changes what heads put out."""
        return self._rewrite is not None

    def tell(self, call: AttentionCall) -> Tensor | None:
        """Tell of a call at the site that is running; gives other weights, where there are such."""
        site = self._running[-1]
        self._counts[site][-1] += 1
        try:
            if self._handler is not None:
                with torch.no_grad(), torch.autocast(call.device.type, enabled=False):
                    self._handler(site, call)
            return None if self._replace is None else self._replace(site, call)
        except Exception as error:
            self._error = self._error or error
            return None

    def rewritten(self, heads: Tensor | None) -> Tensor | None:
        """What the heads of the site that is running put out instead; ``None`` for no change.

        Args:
            heads: What they put out, (B, H, T, d); ``None`` where that is not seen.

        """
        if self._rewrite is None:
            return None
        if heads is None:
            self.fail(ValueError("takes its softmax itself, so what its heads put out is not seen: use 'sdpa'"))
            return None
        try:
            return self._rewrite(self._running[-1], heads)
        except Exception as error:
            self._error = self._error or error
            return None

    def fail(self, error: Exception) -> None:
        """What could not be read, for :meth:`finish`."""
        site = self._running[-1]
        self._error = self._error or CaptureError(f"site {site!r} ({self._told(site)}): {error}")

    def _told(self, site: str) -> str:
        module = self.modules[site]
        kernel = _kernel(module)
        return f"{self.sites[site] or 'the model'}, {type(module).__name__}{f', kernel {kernel!r}' if kernel else ''}"

    def _switch_kernels(self) -> None:
        """Let models whose kernel hides weights use torch's while somebody reads."""
        done: set[nn.Module] = set()
        for module in self.model.modules():
            change = getattr(module, "set_attn_implementation", None)
            kernel = _kernel(module)
            if module in done or change is None or kernel in (None, "sdpa", "eager"):
                continue
            self._kernels.append((module, str(kernel)))
            change("sdpa")
            done.update(module.modules())

    def __getstate__(self) -> dict[str, Any]:
        # Hooks belong to the process and the model they were put on: a copy starts without.
        return {
            **self.__dict__,
            "_handles": [],
            "_kernels": [],
            "_running": [],
            "_handler": None,
            "_replace": None,
            "_rewrite": None,
        }


class _Mode(TorchFunctionMode):
    """Sees calls of attention for all taps that read: modes are left in the order of a stack, and taps are not."""

    def __init__(self) -> None:
        super().__init__()
        self.taps: list[AttentionTap] = []
        self._eager = EagerStance()

    def enter(self, tap: AttentionTap) -> None:
        """One tap more reads."""
        if not self.taps:
            if self not in _modes():
                self.__enter__()  # type: ignore[no-untyped-call]
            self._eager.begin()
        self.taps.append(tap)

    def leave(self, tap: AttentionTap) -> None:
        """One tap less reads."""
        if tap not in self.taps:
            return
        self.taps.remove(tap)
        if self.taps:
            return
        self._eager.end()
        # Beneath another one it stays, and hands everything on, until that one has been left.
        if _modes()[-1:] == [self]:
            self.__exit__(None, None, None)  # type: ignore[no-untyped-call]

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Let a function do as it does, and tell of it where it is attention."""
        kwargs = kwargs or {}
        if func is not _SDPA and func is not _MULTI_HEAD and func not in _SOFTMAX:
            return func(*args, **kwargs)
        taps = [tap for tap in self.taps if tap.listens]
        if not taps:
            return func(*args, **kwargs)
        if func is _SDPA:
            return _attended(taps, func(*args, **kwargs), args, kwargs)
        if func is _MULTI_HEAD:
            return _attended_by_many(taps, func(*args, **kwargs), args, kwargs)
        return _softened(taps, func(*args, **kwargs), args, kwargs)


_MODE = _Mode()


def _modes() -> list[TorchFunctionMode]:
    return _get_current_function_mode_stack()  # type: ignore[no-untyped-call, no-any-return]


def _told(taps: list[AttentionTap], make: Callable[[], AttentionCall]) -> tuple[AttentionCall | None, Tensor | None]:
    """The call, of which all taps were told, and other weights."""
    try:
        call = make()
    except Exception as error:
        for tap in taps:
            tap.fail(error)
        return None, None
    given = [tap.tell(call) for tap in taps]
    return call, next((one for one in reversed(given) if one is not None), None)


def _attended(taps: list[AttentionTap], result: Tensor, args: Any, kwargs: Any) -> Tensor:
    call, weights = _told(taps, lambda: of_scaled_dot_product(*map(_whole, args), **_whole_ones(kwargs)))
    if call is None:
        return result
    heads = _heads(taps, call, weights, lambda: result.reshape(*call.shape[:3], result.shape[-1]))
    return result if heads is None else heads.reshape(result.shape).to(result.dtype)


def _attended_by_many(taps: list[AttentionTap], result: Any, args: Any, kwargs: Any) -> Any:
    call, weights = _told(taps, lambda: of_multi_head(*map(_whole, args), **_whole_ones(kwargs)))
    if call is None:
        return result
    value = call.value
    assert value is not None
    heads = _heads(taps, call, weights, lambda: call.weights @ value.float())
    if heads is None:
        return result
    given = inspect.signature(_MULTI_HEAD).bind(*args, **kwargs).arguments
    joined = heads.permute(2, 0, 1, 3).flatten(2)
    out = functional.linear(joined, given["out_proj_weight"], given["out_proj_bias"])
    return out.reshape(result[0].shape).to(result[0].dtype), result[1]


def _heads(
    taps: list[AttentionTap], call: AttentionCall, weights: Tensor | None, own: Callable[[], Tensor]
) -> Tensor | None:
    """What heads put out with other weights, or rewritten; ``None`` where it stays as it is."""
    heads: Tensor | None = None
    if weights is not None:
        assert call.value is not None
        heads = weights.to(call.value.dtype) @ call.value
    for tap in taps:
        if tap.rewrites:
            heads = tap.rewritten(own() if heads is None else heads)
    return heads


def _softened(taps: list[AttentionTap], result: Tensor, args: Any, kwargs: Any) -> Tensor:
    scores = args[0] if args else kwargs.get("input")
    dim = kwargs.get("dim", args[1] if len(args) > 1 else None)
    if not isinstance(scores, Tensor) or scores.dim() != 4 or not isinstance(dim, int) or dim % 4 < 2:
        return result
    _, weights = _told(taps, lambda: of_softmax(_whole(scores), _whole(result), dim))
    for tap in taps:
        tap.rewritten(None)
    if weights is None:
        return result
    return (weights.transpose(-1, -2) if dim % 4 == 2 else weights).to(result.dtype)


def _whole(value: Any) -> Any:
    """A tensor that is whole on this rank."""
    if hasattr(value, "placements"):
        raise ValueError(f"attention of a DTensor with placements {tuple(value.placements)}, whose heads lie on ranks.")
    return value


def _whole_ones(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _whole(value) for name, value in kwargs.items()}


def _kernel(module: nn.Module) -> str | None:
    return getattr(getattr(module, "config", None), "_attn_implementation", None)


def _is_weights(output: Any) -> bool:
    """Whether what a module returned is attention weights."""
    if not isinstance(output, Tensor) or output.dim() != 4 or not output.is_floating_point():
        return False
    sums = output.detach().float().sum(-1)
    return bool(((sums - 1).abs() < 0.02).logical_or(sums == 0).all()) and bool((output >= 0).all())
