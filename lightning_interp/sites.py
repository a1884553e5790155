"""Sites: the submodules whose outputs are read, found by name and recorded by forward hooks."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeVar, get_args

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lightning_interp._layout import Layout, LayoutResolver, check_sites, fit_mask, from_btd, infer_layout, to_btd
from lightning_interp._site_names import clean_name, listed, match_sites, modules_by_name, resolve_sites, short_names
from lightning_interp._site_output import WHICH, OutputKey, copied, copied_tensor, plain_choice, replicated, select

__all__ = [
    "resolve_sites",
    "short_names",
    "SiteRecorder",
    "CaptureError",
    "Found",
    "Call",
    "Layout",
    "LayoutResolver",
    "infer_layout",
    "to_btd",
    "fit_mask",
    "from_btd",
    "OutputKey",
    "by_site",
    "check_sites",
    "hooks_by_module",
]

H = TypeVar("H")

Call = Literal["only", "first", "last", "all"]


class CaptureError(RuntimeError):
    """A site did not give what a reading needs: it never ran, ran more often than expected, or is sharded."""


class SiteRecorder:
    """Keeps what submodules return, while it is told to.

    Forward hooks are attached once, before the first compiled call, and do nothing but look at a flag until
    :meth:`start`. What they keep is detached and copied, so later in-place operations do not reach it.

    Args:
        model: The module that the names are relative to.
        sites: Short name → dotted name, from :func:`resolve_sites`.
        call: What to keep of a site that runs several times between :meth:`start` and :meth:`take`: ``"only"`` makes
            that an error, ``"first"`` and ``"last"`` keep one output, ``"all"`` keeps all, in order.
        output: Which tensor of an output that holds several: a key, an index or an attribute of it, or a callable on
            it, for all sites or by site; see :func:`~lightning_interp._site_output.select`.
        whole: Sites of which the whole output is kept, whatever it is.
        offer: Which of ``"first"``, ``"last"`` and ``"all"`` an error may advise.
        advice: What an error about several tensors advises.

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

    def __init__(
        self,
        model: nn.Module,
        sites: Mapping[str, str],
        call: Call = "only",
        output: OutputKey | Mapping[str, OutputKey] | None = None,
        whole: Iterable[str] = (),
        offer: Sequence[Call] = ("first", "last", "all"),
        advice: str = WHICH,
    ) -> None:
        if call not in get_args(Call):
            raise ValueError(f"call={call!r} is unknown; use one of {', '.join(map(repr, get_args(Call)))}")
        if not sites:
            raise ValueError("sites={} is empty: name at least one module to read")
        self.model = model
        self.sites = dict(sites)
        self.call: Call = call
        check_sites("output", output, self.sites)
        self.output = by_site(output, self.sites)
        self.whole = frozenset(whole)
        self.offer = tuple(offer)
        self.advice = advice
        self.found: dict[str, Found] = {}
        """Of each site what was taken last."""
        self._taps: dict[str, _Tap] = {}
        self._handles: list[RemovableHandle] = []
        modules = modules_by_name(model)
        self.modules: dict[str, nn.Module] = {}
        """The module of each site."""
        for short, name in self.sites.items():
            self.modules[short] = modules[match_sites(name, modules, type(model).__name__)[0]]

    @property
    def attached(self) -> bool:
        """Whether the hooks are on the model."""
        return bool(self._handles)

    def attach(self) -> None:
        """Put the hooks on the model; without effect if they are there already."""
        if self.attached:
            return
        _keep_from_own_frames()
        self._taps = {short: _Tap(self.call, self.output[short], short in self.whole) for short in self.sites}
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

    def take(self) -> dict[str, list[Any]]:
        """What was captured, which is dropped here.

        Returns:
            Short name → outputs in the order in which they were made: one, or several for ``call="all"``. Each is a
            tensor or a packed sequence; of sites whose whole output is kept, that.

        Raises:
            CaptureError: If a site never ran, ran more than once under ``call="only"``, or returned a sharded tensor.
            TypeError: If a site returned no floating-point tensor.
            ValueError: If it returned several, and ``output`` does not say which.

        """
        counts = {short: tap.count() for short, tap in self._taps.items()}
        paths = {short: tap.path for short, tap in self._taps.items()}
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
        for short in captured:
            if self.call == "only" and counts[short] > 1:
                *some, last = (f"call={one!r}" for one in self.offer)
                raise CaptureError(
                    f"site {short!r} ({self.sites[short]!r}) ran {counts[short]} times while capturing: say which to "
                    f"read with {', '.join(some)}{' or ' if some else ''}{last}"
                )
        taken: dict[str, list[Any]] = {}
        for short, outputs in captured.items():
            found = [self._checked(short, output, paths[short]) for output in outputs]
            self.found[short] = Found(found[-1][0], counts[short])
            taken[short] = [one for _, one in found]
        return taken

    def described(self, short: str) -> str:
        """Dotted name and class of a site."""
        return f"{self.sites[short] or 'the model'}, {type(self.modules[short]).__name__}"

    def _checked(self, short: str, output: Any, path: str | None) -> tuple[str, Any]:
        site = f"site {short!r} ({self.sites[short]!r})"
        if short in self.whole:
            return "", output
        tensor: Any = output
        if path is None:
            path, tensor = select(self.modules[short], output, self.output[short], site, self.advice)
        if not hasattr(tensor, "placements"):
            return path, tensor
        if not replicated(tensor):
            raise CaptureError(
                f"{site} returned a DTensor with placements {tuple(tensor.placements)}: only fully replicated ones are "
                "read; choose a site whose output is replicated, such as the block around it"
            )
        return path, tensor.to_local()

    def __getstate__(self) -> dict[str, Any]:
        # Hooks belong to the process and the model they were put on: a copy starts without.
        return {**self.__dict__, "_taps": {}, "_handles": []}


class Found(NamedTuple):
    """What a site gave."""

    path: str
    """Where in its output the tensor stands, ``""`` where it is the output."""
    calls: int
    """How many times it ran."""


class _Tap:
    """The hook of one site and what it has kept.

    Everything is a plain attribute of the hook itself: torch.compile guards on ``active``, which costs one more graph
    when it is first switched on and none after, and a graph that several modules share writes to each one's own tap.
    Nothing that a call leaves is looked at by the next one within a graph, only wrapped (``chain``): a list or a count
    would be guarded on and compiled anew for every call of a shared module.
    """

    def __init__(self, call: Call, output: OutputKey | None = None, whole: bool = False) -> None:
        self.active = False
        self.call = call
        self.output = output
        self.whole = whole
        self.clear()

    def clear(self) -> None:
        self.last: tuple[Any] | None = None
        self.chain: tuple[Any, Any] | None = None
        self.path: str | None = None
        self.in_graph = False

    def __call__(self, module: nn.Module, args: Any, output: Any) -> None:
        if not self.active:
            return
        chosen = None if self.whole else plain_choice(module, output, self.output)
        if chosen is not None:
            self.path = chosen[0]
            kept = copied_tensor(chosen[1])
        else:
            # Raising for want of a tensor would end the user's forward: the recorder does it later.
            self.path = None
            kept = output if torch.compiler.is_compiling() else copied(output)
        in_graph = torch.compiler.is_compiling()
        # Only the count is wanted of others than these, and a chain of constants would be guarded on: hence `self`.
        keeps = self.call == "all" or (self.call == "first" and (in_graph or self.chain is None))
        self.chain = (kept if keeps else self, self.chain)
        self.last = (kept,)
        self.in_graph = in_graph

    def count(self) -> int:
        """How many calls there were."""
        number, chain = 0, self.chain
        while chain is not None:
            number, chain = number + 1, chain[1]
        return number

    def take(self) -> list[Any]:
        """What is kept of the calls, in order; for all but ``"all"`` one of them."""
        last, chain, in_graph = self.last, self.chain, self.in_graph
        self.clear()
        if last is None:
            return []
        outputs = []
        while chain is not None:
            outputs.append(chain[0])
            chain = chain[1]
        if self.call != "all":
            outputs = [outputs[-1] if self.call == "first" else last[0]]
        # The next replay of a CUDA graph overwrites what this one returned.
        return [
            output.clone() if in_graph and isinstance(output, Tensor) and output.is_cuda else output
            for output in reversed(outputs)
        ]

    def __reduce__(self) -> tuple[type[_Tap], tuple[Call]]:
        # A copied or pickled model gets a tap that nobody switches on.
        return _Tap, (self.call,)


def by_site(given: Any, sites: Iterable[str]) -> dict[str, Any]:
    """An argument that is given for all sites or by site, for each of them; ``None`` where it is not given.

    Example:
        >>> by_site({"enc": 0}, ["enc", "dec"]), by_site(1, ["enc"])
        ({'enc': 0, 'dec': None}, {'enc': 1})

    """
    return {site: given.get(site) if isinstance(given, Mapping) else given for site in sites}


def _keep_from_own_frames() -> None:
    """Keep Dynamo from compiling the hook by itself, while it still traces the hook inside a compiled region.

    The hook at a region's root would be a frame of its own, compiled once for each shape of output and given up after
    eight: an error under ``fullgraph=True``.
    """
    skip = getattr(sys.modules.get("torch._dynamo.eval_frame"), "skip_code", None)
    if skip is not None:
        for function in (_Tap.__call__, plain_choice, copied_tensor):
            skip(function.__code__)


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
