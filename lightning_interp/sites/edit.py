"""Edits: what a submodule returns, or what it is given, changed on the way by a function."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch._dynamo.exc import Unsupported
from torch.nn.utils.rnn import PackedSequence
from torch.utils.hooks import RemovableHandle

from lightning_interp.sites.layout import check_sites
from lightning_interp.sites.names import match_sites, modules_by_name
from lightning_interp.sites.output import OutputKey, SiteTensor, first_given, given, replaced, select
from lightning_interp.sites.recorder import CaptureError, by_site, hooked_modules

__all__ = ["Edited", "SiteEdit"]

Edited = Literal["output", "input", "ids"]
Change = Callable[[Any], Any]


class SiteEdit:
    """Changes a tensor that sites return, or are given, while it is told to.

    Hooks are attached once, before the first compiled call, and look at a flag only. Several on one module run in the
    order in which they were attached: a recorder that comes later sees what was changed. Under ``torch.compile`` a hook
    that is switched on breaks the graph at its site, so a site within ``fullgraph=True`` is refused.

    Args:
        model: The module that the names are relative to.
        sites: Short name → dotted name, from :func:`~lightning_interp.sites.resolve_sites`.
        of: ``"output"``: what the site returns. ``"input"``: what it is given, the first floating-point tensor of two
            dimensions or more among its arguments unless ``output`` says another. ``"ids"``: the token ids that it is
            given, the first integer tensor (B,) or (B, T). An argument that is given twice is changed in both places.
        output: Which tensor of several, for all sites or by site; see :class:`~lightning_interp.sites.SiteRecorder`. A
            callable must return the very tensor.
        what: What errors call it.

    Raises:
        ValueError: If an argument is unknown, a name matches no module, or a site lies in a module that is compiled
            with ``fullgraph=True``.

    Example:
        >>> model = nn.Sequential(nn.Identity(), nn.Identity())
        >>> edit = SiteEdit(model, {"hidden": "0"})
        >>> edit.attach()
        >>> with edit.changing("hidden", lambda z: z.mul_(2)):
        ...     model(torch.ones(2))
        tensor([2., 2.])
        >>> model(torch.ones(2))
        tensor([1., 1.])
        >>> edit.detach()

    """

    def __init__(
        self,
        model: nn.Module,
        sites: Mapping[str, str],
        of: Edited = "output",
        output: OutputKey | Mapping[str, OutputKey] | None = None,
        what: str = "an edit",
    ) -> None:
        if of not in get_args(Edited):
            raise ValueError(f"`of` must be one of {get_args(Edited)}, got {of!r}.")
        if of == "ids" and output is not None:
            raise ValueError(f"`output` has no meaning with of='ids', got {output!r}.")
        self.model = model
        self.sites = dict(sites)
        self.of: Edited = of
        self.what = what
        check_sites("output", output, self.sites if sites else None)
        self.output = by_site(output, self.sites)
        self.paths: dict[str, str] = {}
        """Where in what a site returned, or was given, the tensor stands that was changed last."""
        self._hooks: dict[str, _Hook] = {}
        self._handles: list[RemovableHandle] = []
        modules = modules_by_name(model)
        self.modules = {
            site: modules[match_sites(name, modules, type(model).__name__)[0]] for site, name in sites.items()
        }
        """The module of each site."""
        for site, module in self.modules.items():
            for name, other in model.named_modules():
                if _is_whole_graph(other, within=module):
                    raise ValueError(self._fullgraph(site, repr(name or type(other).__name__)))

    def attach(self) -> None:
        """Put the hooks on the model; without effect if they are there already."""
        if self._handles:
            return
        self._hooks = {site: _Hook(site, self) for site in self.sites}
        for module, site in hooked_modules(self.model, self.sites):
            hook = _Hook() if site is None else self._hooks[site]
            if self.of == "output":
                self._handles.append(module.register_forward_hook(hook.after))
            else:
                self._handles.append(module.register_forward_pre_hook(hook.before, with_kwargs=True))

    def detach(self) -> None:
        """Take the hooks off; without effect if they are off."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._hooks.clear()

    @contextlib.contextmanager
    def changing(self, site: str, function: Change, call: int | None = None) -> Iterator[None]:
        """Within, the site's tensor is what the function makes of it.

        Within one another, changes of several sites hold together; those of one site are made from the outer to the
        inner one.

        Args:
            site: Short name of the site.
            function: Is given a copy of the tensor, or a packed sequence, and returns one of the same shape; dtype and
                device become those of the tensor.
            call: Change one call of the site only, counted from 0; every one by default.

        Raises:
            CaptureError: If the hooks are not attached, the function returns another shape or no tensor, or, at the
                end, the site was not called.
            ValueError: If the site is unknown, or lies in what may not be broken, as under ``fullgraph=True``.

        """
        if site not in self.sites:
            raise ValueError(f"`site` {site!r} is unknown; there are {', '.join(map(repr, self.sites))}.")
        if not self._hooks:
            raise CaptureError("attach() comes before changing(): no hook is on the model")
        hook, change = self._hooks[site], _Change(function, call)
        hook.changes.append(change)
        hook.active = True
        try:
            yield
        except Unsupported as error:
            raise ValueError(self._fullgraph(site, "what is compiled so")) from error
        finally:
            hook.changes.remove(change)
            hook.active = bool(hook.changes)
        if not change.calls:
            raise CaptureError(
                f"site {site!r} ({self.sites[site]!r}) never ran, so {self.what} had no effect: this forward does not "
                "use the module, or takes a fused path past it"
            )
        if call is not None and call >= change.calls:
            raise CaptureError(
                f"site {site!r} ({self.sites[site]!r}) ran {change.calls} times, so there was no call {call}"
            )

    def _fullgraph(self, site: str, where: str) -> str:
        return (
            f"{self.what} at site {site!r} ({self.sites[site]!r}) breaks the graph of {where}, and fullgraph=True lets "
            f"nothing break it: compile with fullgraph=False, or put {self.what} on a site outside of it."
        )

    def __getstate__(self) -> dict[str, Any]:
        # Hooks belong to the process and the model they were put on: a copy starts without.
        return {**self.__dict__, "_hooks": {}, "_handles": []}


class _Change:
    """One function at one site, and how often it was asked."""

    def __init__(self, function: Change, call: int | None) -> None:
        self.function = function
        self.call = call
        self.calls = 0

    def __call__(self, site: str, tensor: SiteTensor) -> SiteTensor:
        self.calls += 1
        if self.call is not None and self.calls != self.call + 1:
            return tensor
        new = self.function(_copy(tensor))
        old_data, new_data = (one.data if isinstance(one, PackedSequence) else one for one in (tensor, new))
        if type(new) is not type(tensor) and not (isinstance(new, Tensor) and isinstance(tensor, Tensor)):
            raise CaptureError(f"the function at site {site!r} returned a {type(new).__name__}, not the changed tensor")
        if new_data.shape != old_data.shape:
            raise CaptureError(
                f"the function at site {site!r} returned {tuple(new_data.shape)} for {tuple(old_data.shape)}"
            )
        return new if isinstance(new, PackedSequence) else new.to(old_data)


class _Hook:
    """The hook of one site."""

    def __init__(self, site: str = "", edit: SiteEdit | None = None) -> None:
        self.site = site
        self.edit = edit
        self.active = False
        """Whether anything is changed: all that compiled code looks at."""
        self.changes: list[_Change] = []

    def after(self, module: nn.Module, args: Any, output: Any) -> Any:
        """Forward hook: another output."""
        return _changed_output(self, module, output) if self.active else None

    def before(self, module: nn.Module, args: Any, kwargs: Any) -> Any:
        """Forward pre-hook: other arguments."""
        return _changed_input(self, module, args, kwargs) if self.active else None

    def changed(self, tensor: SiteTensor) -> SiteTensor:
        """The tensor after all changes."""
        for change in self.changes:
            tensor = change(self.site, tensor)
        return tensor

    def __reduce__(self) -> tuple[type[_Hook], tuple[()]]:
        # A copied or pickled model gets a hook that nobody switches on.
        return _Hook, ()


def _chosen(hook: _Hook, module: nn.Module, holder: Any, where: OutputKey | None, verb: str) -> SiteTensor:
    assert hook.edit is not None
    try:
        hook.edit.paths[hook.site], chosen = select(module, holder, where, f"site {hook.site!r}", verb=verb)
    except TypeError as error:
        raise CaptureError(f"{error}, so {hook.edit.what} cannot be put there") from error
    return chosen


def _replaced(hook: _Hook, holder: Any, chosen: SiteTensor, verb: str) -> Any:
    assert hook.edit is not None
    new = hook.changed(chosen)
    changed = replaced(holder, chosen, new)
    if changed is holder and new is not chosen:
        raise CaptureError(
            f"`output` gives a tensor that is not in what site {hook.site!r} {verb}, so {hook.edit.what} on it would "
            "change nothing: let it return one of the very tensors"
        )
    return changed


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _changed_output(hook: _Hook, module: nn.Module, output: Any) -> Any:
    assert hook.edit is not None
    chosen = _chosen(hook, module, output, hook.edit.output[hook.site], "returned")
    return _replaced(hook, output, chosen, "returned")


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _changed_input(hook: _Hook, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
    edit, arguments = hook.edit, given(args, kwargs)
    assert edit is not None
    if edit.of == "ids":
        chosen = next((one for one in arguments.values() if _is_ids(one)), None)
        if chosen is None:
            raise CaptureError(
                f"site {hook.site!r} was given no integer tensor (B, T): tokens can be replaced at an embedding only"
            )
    else:
        where = edit.output[hook.site]
        chosen = _chosen(hook, module, arguments, first_given(arguments) if where is None else where, "was given")
    new_args, new_kwargs = _replaced(hook, (args, kwargs), chosen, "was given")
    return new_args, new_kwargs


def _is_ids(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim in (1, 2) and value.dtype in (torch.long, torch.int)


def _copy(tensor: SiteTensor) -> SiteTensor:
    if isinstance(tensor, PackedSequence):
        return tensor._replace(data=tensor.data.clone())
    return tensor.clone()


def _is_whole_graph(module: nn.Module, within: nn.Module) -> bool:
    """Whether a module is compiled with ``fullgraph=True``, and another one lies in it."""
    # Told by no public name: what is not found here is told by the compiler, once something is changed.
    cells = getattr(vars(module).get("_compiled_call_impl"), "__closure__", None) or ()
    contexts = [vars(module).get("dynamo_ctx"), *(cell.cell_contents for cell in cells)]
    whole = any(getattr(context, "fullgraph", False) is True for context in contexts)
    return whole and any(one is within for one in module.modules())
