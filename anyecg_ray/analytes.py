"""Lab analytes: what a laboratory measures, in one unit, under the names that each archive gives it.

The rows are in analyte_table.py; here is what can be asked of them. A component without a row still works,
under its own name and its own ranges (`slug`), only without unit conversion, LOINC and a fallback range.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from anyecg_ray.analyte_table import ANALYTES as ANALYTES
from anyecg_ray.analyte_table import Analyte as Analyte
from anyecg_ray.units import ucum

BY_KEY: Mapping[str, Analyte] = {a.key: a for a in ANALYTES}

DATASETS = ("mc-med", "mimic-iv-ecg", "ptb-xl", "eicu", "wfdb")
"""Archives, each with names of its own; `wfdb` is a user's table, which may use any of them, `ptb-xl` has no labs."""


@dataclass(frozen=True, slots=True)
class Indicator:
    """What a model predicts of an analyte: abnormally low or high, its value, or that a diagnosis is present.

    `present` is for labels whose flag `high` means stated and `normal` means not stated (ptb_xl.py).
    """

    analyte: str
    direction: Literal["low", "high", "value", "present"]

    @property
    def key(self) -> str:
        """`potassium_high`, `calcium_low`, `hemoglobin_value`; a diagnosis is its own key, `dx_mi`."""
        return self.analyte if self.direction == "present" else f"{self.analyte}_{self.direction}"

    @classmethod
    def parse(cls, key: str) -> "Indicator":
        """The indicator of a key."""
        analyte, _, direction = key.rpartition("_")
        if analyte and direction in ("low", "high", "value"):
            return cls(analyte, direction)  # type: ignore[arg-type]
        return cls(key, "present")


def find(dataset: str, name_or_itemid: str | int) -> Analyte | None:
    """The analyte that an archive's component measures, or None.

    Names match whatever their case, punctuation and point-of-care prefix. Raises ValueError for an unknown dataset.
    """
    return _index(dataset.replace("_", "-")).get(_spelt(str(name_or_itemid)))


def convert(analyte: Analyte, value: float, unit: str | None) -> float | None:
    """`value` in the analyte's unit, or None where `unit` is not one that this analyte comes in.

    No unit at all is taken for the analyte's own: tables leave it out where it goes without saying.
    """
    rule = conversion(analyte, unit)
    return None if rule is None else rule[0] * value + rule[1]


def conversion(analyte: Analyte, unit: str | None) -> tuple[float, float] | None:
    """(factor, offset) into the analyte's unit, or None where `unit` is not one that this analyte comes in."""
    code = ucum(unit)
    if code in ("", analyte.unit):
        return 1.0, 0.0
    rule = analyte.also.get(code) if code else None
    return (rule, 0.0) if isinstance(rule, float) else rule


def slug(component: str) -> str:
    """The key of a component that has no row: `CONTROL A` becomes `control_a`."""
    key = re.sub(r"[^a-z0-9]+", "_", component.lower().replace("%", " percent ")).strip("_") or "unnamed"
    return f"{key}_other" if key in BY_KEY else key  # never pass for an analyte whose rows are converted


def _spelt(name: str) -> str:
    """A name without case, punctuation and the marks of point-of-care devices."""
    words = re.sub(r"[^A-Z0-9%#/+]+", " ", name.upper()).split()
    if words[:1] == ["POC"] and len(words) > 1:
        words = words[1:]
    if words[-1:] == ["ISTAT"] and len(words) > 1:
        words = words[:-1]
    return " ".join(words)


@lru_cache
def _index(dataset: str) -> Mapping[str, Analyte]:
    if dataset not in DATASETS:
        raise ValueError(f"unknown dataset {dataset!r}; one of {', '.join(DATASETS)}")
    index: dict[str, Analyte] = {}
    for analyte in ANALYTES:
        for name in _names(dataset, analyte):
            index.setdefault(_spelt(name), analyte)
    return index


def _names(dataset: str, analyte: Analyte) -> Iterator[str]:
    if dataset == "mimic-iv-ecg":
        yield from map(str, analyte.mimic)
    elif dataset == "mc-med":
        yield from analyte.mc_med
    elif dataset == "eicu":
        yield from analyte.eicu
    elif dataset == "wfdb":
        yield from (analyte.key, analyte.name, *([analyte.loinc] if analyte.loinc else ()))
        yield from (*analyte.mc_med, *analyte.eicu)
