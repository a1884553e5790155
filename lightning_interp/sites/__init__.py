"""Places in a model, read and written: their names, how their outputs are laid out, recorders, edits, noise."""

from lightning_interp.sites.blocks import blocks
from lightning_interp.sites.edit import SiteEdit
from lightning_interp.sites.layout import Layout, LayoutResolver, check_sites, fit_mask, from_btd, infer_layout, to_btd
from lightning_interp.sites.names import resolve_sites, short_names
from lightning_interp.sites.noise import BatchNoise, SiteNoise
from lightning_interp.sites.output import OutputKey
from lightning_interp.sites.recorder import CaptureError, Found, SiteRecorder, by_site, hooked_modules
from lightning_interp.sites.taps import Call

__all__ = [
    "blocks",
    "Layout",
    "LayoutResolver",
    "check_sites",
    "fit_mask",
    "from_btd",
    "infer_layout",
    "to_btd",
    "resolve_sites",
    "short_names",
    "BatchNoise",
    "SiteEdit",
    "SiteNoise",
    "OutputKey",
    "CaptureError",
    "Found",
    "SiteRecorder",
    "by_site",
    "hooked_modules",
    "Call",
]
