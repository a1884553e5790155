"""Sites: the submodules whose outputs are read, found by name and recorded by forward hooks."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal, TypeVar, get_args

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lightning_interp._layout import Layout, LayoutResolver, fit_mask, from_btd, infer_layout, to_btd
from lightning_interp._site_names import clean_name, listed, match_sites, modules_by_name, resolve_sites, short_names

__all__ = [
    "resolve_sites",
    "short_names",
    "SiteRecorder",
    "CaptureError",
    "Call",
    "Layout",
    "LayoutResolver",
    "infer_layout",
    "to_btd",
    "fit_mask",
    "from_btd",
    "first_floating",
    "hooks_by_module",
]

H = TypeVar("H")

Call = Literal["only", "last", "all"]


class CaptureError(RuntimeError):
    """A site did not give what a reading needs: it never ran, ran more often than expected, or is sharded."""


class SiteRecorder:
    """Keeps what submodules return, while it is told to.

    Forward hooks are attached once, before the first compiled call, and do nothing but look at a flag until
    :meth:`start`. What they keep is detached and copied, so later in-place operations do not reach it.

    Of an output that is not a tensor, the tensor kept is ``last_hidden_state`` or ``logits`` where a mapping has it,
    else the first floating-point one in the tuple, list or mapping.

    Args:
        model: The module that the names are relative to.
        sites: Short name → dotted name, from :func:`resolve_sites`.
        call: What to keep of a site that runs several times between :meth:`start` and :meth:`take`: ``"only"`` makes
            that an error, ``"last"`` keeps the last output, ``"all"`` keeps all, in order.

    Raises:
        ValueError: If ``call`` is unknown, ``sites`` is empty or a dotted name matches no module.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU())
        >>> recorder = SiteRecorder(model, {"hidden": "0"})
        >>> recorder.attach()
        >>> with recorder.capturing():
        ...     output = model(torch.zeros(3, 4))
        >>> [tensor.shape for tensor in recorder.take()["hidden"]]
        [torch.Size([3, 8])]
        >>> recorder.detach()

    """

    def __init__(self, model: nn.Module, sites: Mapping[str, str], call: Call = "only") -> None:
        if call not in get_args(Call):
            raise ValueError(f"call={call!r} is unknown; use one of {', '.join(map(repr, get_args(Call)))}")
        if not sites:
            raise ValueError("sites={} is empty: name at least one module to read")
        self.model = model
        self.sites = dict(sites)
        self.call: Call = call
        self._taps: dict[str, _Tap] = {}
        self._handles: list[RemovableHandle] = []
        modules = modules_by_name(model)
        for name in self.sites.values():
            match_sites(name, modules, type(model).__name__)

    @property
    def attached(self) -> bool:
        """Whether the hooks are on the model."""
        return bool(self._handles)

    def attach(self) -> None:
        """Put the hooks on the model; without effect if they are there already."""
        if self.attached:
            return
        _keep_from_own_frames()
        self._taps = {short: _Tap(self.call) for short in self.sites}
        for module, tap in hooks_by_module(self.model, self.sites, self._taps, lambda: _Tap(self.call)):
            self._handles.append(module.register_forward_hook(tap))

    def detach(self) -> None:
        """Take the hooks off and drop what was captured; without effect if they are off."""
        self.stop()
        for tap in self._taps.values():
            tap.clear()
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._taps.clear()

    def start(self) -> None:
        """Capture from here on; what an earlier capture left is dropped.

        Raises:
            CaptureError: If the hooks are not attached.

        """
        if not self.attached:
            raise CaptureError("attach() comes before start(): no hook is on the model")
        for tap in self._taps.values():
            tap.clear()
            tap.active = True

    def stop(self) -> None:
        """Stop capturing; what was captured stays until :meth:`take`."""
        for tap in self._taps.values():
            tap.active = False

    @contextlib.contextmanager
    def capturing(self) -> Iterator[SiteRecorder]:
        """Capture within a ``with`` block."""
        self.start()
        try:
            yield self
        finally:
            self.stop()

    def take(self) -> dict[str, list[Tensor]]:
        """What was captured, which is dropped here.

        Returns:
            Short name → outputs in the order in which they were made: one, or several for ``call="all"``.

        Raises:
            CaptureError: If a site never ran, ran more than once under ``call="only"``, or returned a sharded tensor.
            TypeError: If a site returned no floating-point tensor.

        """
        captured = {short: tap.take() for short, tap in self._taps.items()}
        silent = [short for short in self.sites if not captured.get(short)]
        if silent:
            raise CaptureError(
                f"sites that never ran while capturing: {listed(silent)}; sites that did: "
                f"{listed(short for short in self.sites if short not in silent)}. Usual reasons: this forward does "
                "not use the module, or calls another method of it than forward; its parent reads its weights or takes "
                "a fused path past it (out_proj in nn.MultiheadAttention, nn.TransformerEncoder's fast path); its hook "
                "was attached after torch.compile had compiled it (call torch.compiler.reset() then), or it shares a "
                "compiled graph with a module that has no hook (read the same place in all of them by a glob)"
            )
        for short, outputs in captured.items():
            if self.call == "only" and len(outputs) > 1:
                raise CaptureError(
                    f"site {short!r} ({self.sites[short]!r}) ran {len(outputs)} times while capturing: say which to "
                    "read with call='last' or call='all'"
                )
        return {short: [self._checked(short, output) for output in outputs] for short, outputs in captured.items()}

    def _checked(self, short: str, output: Any) -> Tensor:
        site = f"site {short!r} ({self.sites[short]!r})"
        tensor = first_floating(output)
        if tensor is None:
            raise TypeError(f"{site} returned {_described(output)}: no floating-point tensor to read")
        if not hasattr(tensor, "placements"):
            return tensor
        if not _replicated(tensor):
            raise CaptureError(
                f"{site} returned a DTensor with placements {tuple(tensor.placements)}: only fully replicated ones are "
                "read; choose a site whose output is replicated, such as the block around it"
            )
        local: Tensor = tensor.to_local()  # type: ignore[attr-defined]
        return local

    def __getstate__(self) -> dict[str, Any]:
        # Hooks belong to the process and the model they were put on: a copy starts without.
        return {**self.__dict__, "_taps": {}, "_handles": []}


class _Tap:
    """The hook of one site and what it has kept.

    Everything is a plain attribute of the hook itself: torch.compile guards on ``active``, which costs one more graph
    when it is first switched on and none after, and a graph that several modules share writes to each one's own tap.
    Nothing that a call leaves is looked at by the next one, only wrapped (``chain``): a list or a count would be
    guarded on and compiled anew for every call of a shared module.
    """

    def __init__(self, call: Call) -> None:
        self.active = False
        self.call = call
        self.clear()

    def clear(self) -> None:
        self.last: tuple[Any] | None = None
        self.chain: tuple[Any, Any] | None = None
        self.in_graph = False

    def __call__(self, module: nn.Module, args: Any, output: Any) -> None:
        if not self.active:
            return
        tensor = first_floating(output)
        # Raising for want of a tensor would end the user's forward: the recorder does it later.
        kept = output if tensor is None else _copied(tensor)
        self.last = (kept,)
        if self.call != "last":
            # Only the count is wanted of "only", and a chain of constants would be guarded on: hence `self`.
            self.chain = (kept if self.call == "all" else self, self.chain)
        self.in_graph = torch.compiler.is_compiling()

    def take(self) -> list[Any]:
        """What each call kept, in order; for ``"only"``, the last one as often as there were calls."""
        last, chain, in_graph = self.last, self.chain, self.in_graph
        self.clear()
        if last is None:
            return []
        outputs = [] if chain is not None else [last[0]]
        while chain is not None:
            outputs.append(chain[0] if self.call == "all" else last[0])
            chain = chain[1]
        # The next replay of a CUDA graph overwrites what this one returned.
        return [
            output.clone() if in_graph and isinstance(output, Tensor) and output.is_cuda else output
            for output in reversed(outputs)
        ]

    def __reduce__(self) -> tuple[type[_Tap], tuple[Call]]:
        # A copied or pickled model gets a tap that nobody switches on.
        return _Tap, (self.call,)


def first_floating(output: Any) -> Tensor | None:
    """The tensor that is read of what a site returned; see :class:`SiteRecorder`."""
    if isinstance(output, Tensor):
        return output if output.is_floating_point() else None
    if isinstance(output, Mapping):
        output = (output.get("last_hidden_state"), output.get("logits"), *output.values())
    if isinstance(output, (tuple, list)):
        for item in output:
            if isinstance(item, Tensor) and item.is_floating_point():
                return item
    return None


def _copied(tensor: Tensor) -> Tensor:
    if type(tensor) is not Tensor and not _replicated(tensor):
        # Copying a partial sum is a collective, which under any condition on ranks would hang: `take` refuses it.
        return tensor
    return tensor.detach().clone()


def _replicated(tensor: Tensor) -> bool:
    return all(placement.is_replicate() for placement in getattr(tensor, "placements", ()))


def _keep_from_own_frames() -> None:
    """Keep Dynamo from compiling the hook by itself, while it still traces the hook inside a compiled region.

    The hook at a region's root would be a frame of its own, compiled once for each shape of output and given up after
    eight: an error under ``fullgraph=True``.
    """
    skip = getattr(sys.modules.get("torch._dynamo.eval_frame"), "skip_code", None)
    if skip is not None:
        for function in (_Tap.__call__, first_floating, _copied):
            skip(function.__code__)


def _described(output: Any) -> str:
    def one(item: Any) -> str:
        return f"Tensor of {item.dtype}" if isinstance(item, Tensor) else type(item).__name__

    if isinstance(output, Mapping):
        return f"{type(output).__name__}({', '.join(f'{key}: {one(value)}' for key, value in output.items())})"
    if isinstance(output, (tuple, list)):
        return f"{type(output).__name__}({', '.join(map(one, output))})"
    return one(output)


def hooks_by_module(
    model: nn.Module, sites: Mapping[str, str], hooks: Mapping[str, H], idle: Callable[[], H]
) -> list[tuple[nn.Module, H]]:
    """Which module gets which hook: each site its own, and places that correspond to it one that stays idle.

    Args:
        model: The module that the names are relative to.
        sites: Short name → dotted name.
        hooks: Short name → the hook of this site.
        idle: Makes a hook that nobody switches on.

    """
    modules = modules_by_name(model)
    names = {short: clean_name(name) for short, name in sites.items()}
    found = [(modules[name], hooks[short]) for short, name in names.items()]
    return found + [(modules[name], idle()) for name in _twins(model, modules, names.values())]


def _twins(model: nn.Module, modules: Mapping[str, nn.Module], sites: Iterable[str]) -> list[str]:
    """The places that correspond to sites in other separately compiled modules of the same class.

    Such modules share compiled graphs, and no guard looks at whether a module has hooks: a graph made for a layer
    without a hook would be run for the layer that has one. An idle hook at the same place tells them apart.
    """
    roots = {
        clean_name(name): module
        for name, module in model.named_modules(remove_duplicate=False)
        if name.rpartition(".")[2] == "_orig_mod" or getattr(module, "_compiled_call_impl", None) is not None
    }
    hooked = {id(modules[site]) for site in sites}
    twins: dict[int, str] = {}
    for site in sites:
        for root in roots:
            inside = site.removeprefix(root)
            if site != root and (inside == site or not inside.startswith(".")):
                continue
            for other, module in roots.items():
                twin = modules.get(other + inside)
                if type(module) is type(roots[root]) and twin is not None and id(twin) not in hooked:
                    twins.setdefault(id(twin), other + inside)
    return list(twins.values())
